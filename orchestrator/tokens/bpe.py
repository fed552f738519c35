"""Byte-pair tokenizers as their files tell them: CLIP's (`vocab.json`, `merges.txt`) and its relatives. Pure Python.

Follows Sennrich et al. 2016 (arXiv 1508.07909) with the byte alphabet of CLIP and GPT-2: a word is cut into bytes, and
the neighbors that were merged first when the tokenizer was made are merged first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

from orchestrator.errors import UsageError

Boundary = Literal["</w>", "Ġ"]
"""How whole words are marked: CLIP ends them with `</w>`, GPT-2 and its kin begin them with a `Ġ` for the space."""


def _byte_alphabet() -> dict[int, str]:
    """Printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in set(printable))
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()
_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|[^\s\w]+|_+")
"""Contractions, words, single digits, runs of marks: what merges never reach across."""


@dataclass(frozen=True)
class Tokenizer:
    vocabulary: Mapping[str, int]
    """Token as it stands in the file → its id."""
    merges: tuple[tuple[str, str], ...]
    """In the order in which they were learned: a late one was seen seldom."""

    @cached_property
    def boundary(self) -> Boundary:
        return "</w>" if any(token.endswith("</w>") for token in self.vocabulary) else "Ġ"

    @cached_property
    def ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def merge_ranks(self) -> dict[str, int]:
        """Token → rank of the merge that made it; single bytes have none."""
        return {left + right: rank for (left, right), rank in self.ranks.items()}

    def whole_words(self) -> dict[str, str]:
        """Word → token, for every token that is a whole word by itself."""
        marked = self.boundary
        if marked == "</w>":
            return {token[:-4]: token for token in self.vocabulary if token.endswith(marked) and len(token) > 4}
        return {token[1:]: token for token in self.vocabulary if token.startswith(marked) and len(token) > 1}

    def encode(self, text: str) -> list[str]:
        """The tokens of a prompt, in lower case, without the marks of beginning and end."""
        return [token for piece in _PIECES.findall(text.lower()) for token in self._merged(piece)]

    def _merged(self, word: str) -> list[str]:
        parts = [_ALPHABET[byte] for byte in word.encode()]
        parts = [*parts[:-1], parts[-1] + "</w>"] if self.boundary == "</w>" else ["Ġ", *parts]
        while len(parts) > 1:
            pairs = [(self.ranks.get(pair), place) for place, pair in enumerate(pairwise(parts))]
            known = [(rank, place) for rank, place in pairs if rank is not None]
            if not known:
                break
            place = min(known)[1]
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return parts


def read_tokenizer(folder: Path) -> Tokenizer:
    """From `vocab.json` and `merges.txt`, or from `tokenizer.json`. Raises UsageError for a folder without either."""
    try:
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocabulary = json.loads((folder / "vocab.json").read_bytes())
            return Tokenizer(vocabulary, _merges((folder / "merges.txt").read_text("utf-8").splitlines()))
        if (folder / "tokenizer.json").is_file():
            model = json.loads((folder / "tokenizer.json").read_bytes())["model"]
            if isinstance(model["vocab"], dict) and "merges" in model:
                lines = [line if isinstance(line, str) else " ".join(line) for line in model["merges"]]
                return Tokenizer(model["vocab"], _merges(lines))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(f"the tokenizer in {folder} cannot be read: {error}") from None
    raise UsageError(
        f"{folder} holds no byte-pair tokenizer",
        "give a diffusers folder with `tokenizer/`, or the folder that holds vocab.json and merges.txt",
    )


def _merges(lines: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = (tuple(line.split(" ")) for line in lines if line and not line.startswith("#version"))
    return tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2)
