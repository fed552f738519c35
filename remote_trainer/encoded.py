"""Latents and text embeddings, computed once. After that no step needs the autoencoder or the text encoder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .dataset.pictures import Framing, Picture, PictureSet, load_views
from .dataset.views import View, views_of
from .families.api import Family, TextEmbedding, TextEncoder
from .posteriors import Posterior, Posteriors
from .stopping import ShouldStop, check
from .wire import DatasetSpec, Warned


@dataclass(frozen=True)
class EncodedPicture:
    """The posterior and not a draw from it, so that every visit draws anew."""

    posterior: Posterior
    caption: str
    framing: Framing
    mask: Tensor | None = None
    """(1, h, w), float32 in 0…1: how much each latent counts; None when all do."""

    @property
    def bucket(self) -> tuple[int, ...]:
        """(C, h, w)"""
        return self.posterior.shape


@dataclass(frozen=True)
class EncodedSet:
    """A dataset's pictures, each in all its views: equal in bucket and caption."""

    spec: DatasetSpec
    pictures: tuple[tuple[EncodedPicture, ...], ...]


def subject_pictures(sets: Sequence[EncodedSet]) -> list[EncodedPicture]:
    """Every picture of the subject in its first view, the sets taking turns: the first few show all of several."""
    shown = [[views[0] for views in each.pictures] for each in sets if each.spec.role == "instance"]
    return [picture for turn in itertools.zip_longest(*shown) for picture in turn if picture is not None]


@dataclass(frozen=True)
class Prompts:
    """Embeddings of one row by text, on the training device."""

    embeddings: dict[str, TextEmbedding]

    def batch(self, texts: Sequence[str]) -> TextEmbedding:
        """A row for each text."""
        return TextEmbedding.cat([self.embeddings[text] for text in texts])


@dataclass(frozen=True)
class LivePrompts:
    """Prompts embedded at every use, by encoders that train."""

    encoder: TextEncoder
    device: torch.device
    precision: str
    """As in `Denoising`."""

    def batch(self, texts: Sequence[str]) -> TextEmbedding:
        """A row for each text, with gradient."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.encoder.encode(texts)


PromptSource = Prompts | LivePrompts


def encode_prompts(
    family: Family, texts: Iterable[str], device: torch.device, warn: Callable[[Warned], None]
) -> Prompts:
    """Loads the text encoder, embeds each distinct text by itself and lets the encoder go.

    warn: told of every text whose end the model will not see.
    """
    encoder = family.load_text_encoder(device)
    texts = list(dict.fromkeys(texts))
    _warn_of_cuts(encoder, texts, warn)
    with torch.no_grad():
        # One by one: the bits of an embedding must not depend on which other texts a run happens to need.
        return Prompts({text: encoder.encode([text]) for text in texts})


def live_prompts(
    family: Family, texts: Iterable[str], device: torch.device, precision: str, warn: Callable[[Warned], None]
) -> LivePrompts:
    """Loads the text encoder, to be asked anew at every step. warn: as for `encode_prompts`, of `texts`."""
    encoder = family.load_text_encoder(device)
    _warn_of_cuts(encoder, texts, warn)
    return LivePrompts(encoder, device, precision)


def _warn_of_cuts(encoder: TextEncoder, texts: Iterable[str], warn: Callable[[Warned], None]) -> None:
    for text in dict.fromkeys(texts):
        if surplus := encoder.cut_off(text):
            hint = "shorten the prompt or caption, or put what matters first"
            warn(Warned(f"the base does not see the last {surplus} tokens of {text!r}", hint))


def encode_sets(
    family: Family,
    sets: Sequence[PictureSet],
    seed: int,
    device: torch.device,
    should_stop: ShouldStop,
    folder: Path | None = None,
) -> list[EncodedSet]:
    """Loads the autoencoder, encodes every view of every picture by itself and lets the autoencoder go.

    folder: for what memory is not to hold, as of `Posteriors`. Raises TrainingFailed("bad-image") as `load_views` does,
    and StopRequested.
    """
    autoencoder = family.load_autoencoder(device)
    posteriors = Posteriors(device, folder)

    def encode(picture: Picture, views: Sequence[View]) -> tuple[EncodedPicture, ...]:
        check(should_stop)
        encoded = []
        for seen in load_views(picture, views):
            mean, std = autoencoder.encode(seen.pixels[None])
            mask = None if seen.mask is None else _shrunk(seen.mask, family.pixels_per_latent).to(device)
            encoded.append(EncodedPicture(posteriors.keep(mean[0], std[0]), picture.caption, seen.framing, mask))
        return tuple(encoded)

    return [
        EncodedSet(
            each.spec,
            tuple(encode(picture, views_of(each.spec, k, seed)) for k, picture in enumerate(each.pictures)),
        )
        for each in sets
    ]


def _shrunk(mask: Tensor, factor: int) -> Tensor:
    """(1, H, W) → (1, H/factor, W/factor): the mean over the pixels behind each latent."""
    return torch.nn.functional.avg_pool2d(mask, factor)
