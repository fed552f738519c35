"""Latents and text embeddings, computed once. After that no step needs the autoencoder or the text encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .dataset.pictures import Framing, Picture, load_framed
from .errors import TrainingFailed
from .families.api import Family, TextEmbedding
from .stopping import ShouldStop, check
from .wire import Warned


@dataclass(frozen=True)
class EncodedPicture:
    """mean, std: (C, h, w), float32: the posterior and not a draw from it, so that every visit draws anew."""

    mean: Tensor
    std: Tensor
    caption: str
    framing: Framing

    @property
    def bucket(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)


@dataclass(frozen=True)
class Prompts:
    """Embeddings of one row by text, on the training device."""

    embeddings: dict[str, TextEmbedding]

    def batch(self, texts: Sequence[str]) -> TextEmbedding:
        """A row for each text."""
        return TextEmbedding.cat([self.embeddings[text] for text in texts])


def encode_prompts(
    family: Family, texts: Iterable[str], device: torch.device, warn: Callable[[Warned], None]
) -> Prompts:
    """Loads the text encoder, embeds each distinct text by itself and lets the encoder go.

    warn: told of every text whose end the model will not see.
    """
    encoder = family.load_text_encoder(device)
    texts = list(dict.fromkeys(texts))
    for text in texts:
        if surplus := encoder.cut_off(text):
            hint = "shorten the prompt or caption, or put what matters first"
            warn(Warned(f"the base does not see the last {surplus} tokens of {text!r}", hint))
    # One by one: the bits of an embedding must not depend on which other texts a run happens to need.
    return Prompts({text: encoder.encode([text]) for text in texts})


def encode_pictures(
    family: Family, pictures: Sequence[Picture], device: torch.device, should_stop: ShouldStop
) -> list[EncodedPicture]:
    """Loads the autoencoder, encodes every picture by itself and lets the autoencoder go.

    Raises TrainingFailed("bad-job") for a bucket that the autoencoder cannot halve often enough, "bad-image" as
    `load_pixels` does, and StopRequested.
    """
    multiple = family.pixels_per_latent
    for picture in pictures:
        if picture.width % multiple or picture.height % multiple:
            size = f"{picture.width}×{picture.height}"
            raise TrainingFailed("bad-job", f"bucket {size} is no multiple of {multiple} pixels", "change `resolution`")
    autoencoder = family.load_autoencoder(device)
    encoded = []
    for picture in pictures:
        check(should_stop)
        pixels, framing = load_framed(picture)
        mean, std = autoencoder.encode(pixels[None])
        encoded.append(EncodedPicture(mean[0], std[0], picture.caption, framing))
    return encoded
