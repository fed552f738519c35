"""Whether a short string of letters is a word that somebody uses.

A list of some 23,000 words of at most five letters comes along (`words.txt`); with the extra `words`, the frequencies
of some forty languages are asked as well, which know names and abbreviations, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

_ENDINGS = ("s", "es", "ed", "d", "er", "y", "n")
"""A word with one of them behind it is taken for a word: lists have `swap` and not `swaps`."""


_NEED_MORE_PACKAGES = {"ja", "ko", "zh"}
"""Of wordfreq's languages: those whose texts it cannot cut into words by itself. None writes in a-z."""


@cache
def shipped_words() -> frozenset[str]:
    lines = (Path(__file__).parent / "words.txt").read_text("utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def is_listed(token: str) -> bool:
    """token: lower-case letters."""
    words = shipped_words()
    return token in words or any(
        token.endswith(ending) and len(token) - len(ending) >= 3 and token[: -len(ending)] in words
        for ending in _ENDINGS
    )


def word_test() -> tuple[Callable[[str], bool], str]:
    """The best test there is on this computer, and what it knows, in words."""
    try:
        import wordfreq
    except ImportError:
        return is_listed, f"{len(shipped_words())} short words of many languages"
    languages = sorted(set(wordfreq.available_languages("small")) - _NEED_MORE_PACKAGES)

    def is_used(token: str) -> bool:
        return is_listed(token) or any(wordfreq.word_frequency(token, language) > 0 for language in languages)

    return is_used, f"{len(shipped_words())} short words, and word frequencies of {len(languages)} languages"
