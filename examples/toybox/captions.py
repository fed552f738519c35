"""The text encoder of the Toybox base: taught by words alone what a caption says, then frozen.

A text encoder that starts from random weights together with the denoiser collapses: it learns what lowers the loss
most (the background), and "robot" and "duck" end up in one place. So it learns first, from captions without pictures,
to put what the caption says into fixed directions that are at right angles to each other: one for each kind, color,
pattern and background and for the absence of each. Words that the world does not have add a code made from their
letters, so that every such word stays distinct and can become a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import world
from remote_trainer.bases import tiny

WIDTH = 128
POSITIONS = 77
BATCH = 32
_NAME_DIMENSIONS = 20
_SEED = 72
_TOPICS: tuple[tuple[str, ...], ...] = (world.KINDS, world.COLORS, world.PATTERNS[1:], world.BACKGROUNDS)


def build(tokenizer: Any) -> Any:
    """CLIPTextModel of 0.5 M parameters: (B, 77) tokens → (B, 77, 128)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=POSITIONS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_tokenizer(folder: Path) -> Any:
    """Writes CLIPTokenizer files to `folder` and opens them. Each word of the world is one token."""
    from transformers import CLIPTokenizer

    tiny.write_tokenizer(folder, world.words())
    return CLIPTokenizer.from_pretrained(folder)


def tokens_of(tokenizer: Any, captions: list[str]) -> Tensor:
    """(B, 77) token ids."""
    batch = tokenizer(captions, padding="max_length", truncation=True, max_length=POSITIONS, return_tensors="pt")
    ids: Tensor = batch.input_ids
    return ids


@dataclass(frozen=True)
class Meaning:
    """What the encoder shall say from the end of a caption on."""

    tokenizer: Any

    def of(self, captions: list[str]) -> Tensor:
        """(B, 128). Of constant length √128, and its elements sum up to 0: what a final layer norm can yield."""
        return torch.stack([self._of(caption) for caption in captions])

    def _of(self, caption: str) -> Tensor:
        said = set(caption.split())
        parts, first = [], 0
        for topic in _TOPICS:
            spoken = [index for index, word in enumerate(topic) if word in said]  # only a background is called "plain"
            parts.append(self._directions[first + (spoken[0] + 1 if spoken else 0)])
            first += len(topic) + 1
        letters = [token for word in caption.split() if word not in world.words() for token in self._tokens(word)]
        if letters:
            code = torch.stack([self._letter_codes[token] for token in letters]).sum(0)
            parts.append(code / code.norm() @ self._directions[first + 1 : first + 1 + _NAME_DIMENSIONS])
        else:
            parts.append(self._directions[first])
        scale: float = (WIDTH / len(parts)) ** 0.5
        return torch.stack(parts).sum(0) * scale

    def _tokens(self, word: str) -> list[int]:
        ids: list[int] = self.tokenizer(word, add_special_tokens=False).input_ids
        return ids

    @cached_property
    def _directions(self) -> Tensor:
        """Orthonormal rows, each at right angles to the vector of ones."""
        count = sum(len(topic) + 1 for topic in _TOPICS) + 1 + _NAME_DIMENSIONS
        random = torch.from_numpy(np.random.default_rng(_SEED).standard_normal((WIDTH, count + 1)))
        random[:, 0] = 1.0
        directions: Tensor = torch.linalg.qr(random).Q.T[1:].float()
        return directions

    @cached_property
    def _letter_codes(self) -> Tensor:
        rng = np.random.default_rng(_SEED + 1)
        return torch.from_numpy(rng.standard_normal((len(self.tokenizer), _NAME_DIMENSIONS))).float()


def loss_of_step(encoder: nn.Module, meaning: Meaning, step: int) -> Tensor:
    """Mean squared distance from the meaning, over all positions from the end of the caption on."""
    captions = [_caption(np.random.default_rng((_SEED, step, index))) for index in range(BATCH)]
    tokens = tokens_of(meaning.tokenizer, captions)
    ended = (tokens == meaning.tokenizer.eos_token_id).float()[..., None]
    error = (encoder(tokens)[0] - meaning.of(captions)[:, None]).square() * ended
    loss: Tensor = error.sum() / (ended.sum() * WIDTH)
    return loss


def _caption(rng: np.random.Generator) -> str:
    """As the denoiser will read them; a few empty, without opening, or with the words in another order."""
    text = world.caption(world.random_scene(rng), rng)
    turn = rng.random()
    if turn < 0.05:
        return ""
    if turn < 0.2:
        return " ".join(text.split()[3:])
    if turn < 0.3:
        return f"{text} {world.meaningless_word(rng)}"
    return text


@torch.no_grad()
def encode(encoder: Any, tokenizer: Any, captions: list[str]) -> Tensor:
    """(B, 77, 128)."""
    hidden: Tensor = encoder(tokens_of(tokenizer, captions))[0]
    return hidden
