"""Tokens that a base hardly knows, best first: names for a subject that bring little meaning of their own.

The idea is DreamBooth's (Ruiz et al. 2023, arXiv 2208.12242, section 3.2): a short token that was seen seldom. Three
signs tell, each as a place among the candidates from 0 to 1: the token was merged late, its embedding is short, since
training hardly moved it, and it lies far from every common word. Without embeddings the first has to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.tokens.bpe import Tokenizer
from orchestrator.tokens.embeddings import EmbeddingTable, Vector, dot, norm, unit

COMMON_WORDS = 200
"""The words merged first: those that the tokenizer's texts had most of."""
COMPARED = 200
"""Candidates that are left when distances are computed, the costliest of the three."""


@dataclass(frozen=True)
class RareToken:
    word: str
    id: int
    merge_rank: int
    """Of all merges: a late one was seen seldom."""
    score: float
    """0…1, the mean of the three places."""
    norm: float | None
    """Length of its embedding; None without embeddings."""
    nearest: str | None
    """The common word that it is nearest to."""
    distance: float | None
    """1 − cosine to it: 0 the same direction, 1 nothing in common."""


def rare_tokens(
    tokenizer: Tokenizer,
    is_word: Callable[[str], bool],
    prompt: str,
    *,
    letters: tuple[int, int] = (3, 4),
    table: EmbeddingTable | None = None,
    count: int = 20,
) -> list[RareToken]:
    """The best `count`. prompt: with `{}` where the token stands; whoever is not one token there is no candidate.

    letters: fewest and most. Pure but for reading `table`. Equal arguments give equal answers.
    """
    ranks = tokenizer.merge_ranks
    candidates = [
        (word, token)
        for word, token in tokenizer.whole_words().items()
        if letters[0] <= len(word) <= letters[1]
        and re.fullmatch("[a-z]+", word)
        and token in ranks
        and not is_word(word)
        and _is_single(tokenizer, word, token, prompt)
    ]
    late = _places([ranks[token] for _, token in candidates])
    scores = dict(zip(candidates, late, strict=True))
    norms: dict[str, float] = {}
    distances: dict[str, tuple[float, str]] = {}
    if table is not None and candidates:
        vectors = table.rows(tokenizer.vocabulary[token] for _, token in candidates)
        candidates = [(word, token) for word, token in candidates if tokenizer.vocabulary[token] in vectors]
        norms = {token: norm(vectors[tokenizer.vocabulary[token]]) for _, token in candidates}
        short = _places([-norms[token] for _, token in candidates])
        two = {pair: (scores[pair] + place) / 2 for pair, place in zip(candidates, short, strict=True)}
        candidates = sorted(candidates, key=lambda pair: (-two[pair], pair))[:COMPARED]
        distances = _distances(tokenizer, is_word, table, [token for _, token in candidates], vectors)
        far = _places([distances[token][0] for _, token in candidates])
        scores = {pair: (2 * two[pair] + place) / 3 for pair, place in zip(candidates, far, strict=True)}
    best = sorted(candidates, key=lambda pair: (-scores[pair], pair))[:count]
    return [
        RareToken(
            word,
            tokenizer.vocabulary[token],
            ranks[token],
            round(scores[(word, token)], 4),
            norms.get(token),
            distances[token][1] if token in distances else None,
            distances[token][0] if token in distances else None,
        )
        for word, token in best
    ]


def common_words(
    tokenizer: Tokenizer, is_word: Callable[[str], bool], count: int = COMMON_WORDS
) -> list[tuple[str, str]]:
    """(word, token) of the words of three letters or more that were merged first; ends of words are none."""
    ranks = tokenizer.merge_ranks
    known = [(word, token) for word, token in tokenizer.whole_words().items() if token in ranks]
    words = [(word, token) for word, token in known if re.fullmatch("[a-z]{3,}", word) and is_word(word)]
    return sorted(words, key=lambda pair: ranks[pair[1]])[:count]


def _is_single(tokenizer: Tokenizer, word: str, token: str, prompt: str) -> bool:
    rest = tokenizer.encode(prompt.replace("{}", " "))
    whole = tokenizer.encode(prompt.replace("{}", word))
    return len(whole) == len(rest) + 1 and token in whole


def _distances(
    tokenizer: Tokenizer,
    is_word: Callable[[str], bool],
    table: EmbeddingTable,
    tokens: Sequence[str],
    vectors: dict[int, Vector],
) -> dict[str, tuple[float, str]]:
    ids = {tokenizer.vocabulary[token]: word for word, token in common_words(tokenizer, is_word)}
    common = [(word, unit(row)) for id_, row in table.rows(ids).items() for word in [ids[id_]]]
    found = {}
    for token in tokens:
        own = unit(vectors[tokenizer.vocabulary[token]])
        nearness, word = max((dot(own, other), word) for word, other in common) if common else (0.0, "")
        found[token] = (1.0 - nearness, word)
    return found


def _places(values: Sequence[float]) -> list[float]:
    """For each value its place among all, 0 the smallest and 1 the largest; equal values share one."""
    ordered = sorted(set(values))
    last = max(1, len(ordered) - 1)
    place = {value: index / last for index, value in enumerate(ordered)}
    return [place[value] for value in values]
