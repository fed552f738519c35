"""What people say of their photos, as a rare word and a kind of thing."""

from __future__ import annotations

import pytest

from orchestrator.errors import UsageError
from orchestrator.recipes import Kind, kind_of
from orchestrator.subject_words import is_rare, subject_words


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("dog", "sks dog"),
        ("a brown dog", "sks brown dog"),
        ("brown dog", "sks brown dog"),
        ("a photo of sks dog", "sks dog"),
        ("A photo of a sks dog.", "sks dog"),
        ("The sks dog", "sks dog"),
        ("it's my dog", "sks dog"),
        ("my mother's old vase", "sks old vase"),
        ("golden retriever", "sks golden retriever"),
        ("sks golden retriever", "sks golden retriever"),
        ("dog sks", "sks dog"),
        ("TOK man", "tok man"),
        ("qwx the dog", "qwx dog"),
        ("sks dog named Rex", "sks dog named rex"),
        ("watercolor style", "sks watercolor style"),
        ("backpack", "sks backpack"),
    ],
)
def test_what_people_say_becomes_a_rare_word_and_a_kind(said: str, words: str) -> None:
    assert str(subject_words(said)) == words


@pytest.mark.parametrize(
    ("said", "pasted"),
    [
        ("my dog Rex", '--subject "sks dog"'),
        ("a dog called Rex", '--subject "sks dog"'),
        ("sks", '--subject "sks dog"'),
        ("zwx", '--subject "zwx dog"'),
        ("", '--subject "sks dog"'),
        ("a photo of", '--subject "sks dog"'),
        ("what I found in the kitchen drawer today", '--subject "sks today"'),
    ],
)
def test_what_stays_unclear_is_refused_with_words_to_paste(said: str, pasted: str) -> None:
    with pytest.raises(UsageError) as refused:
        subject_words(said)
    assert pasted in refused.value.hint


def test_only_what_was_not_said_is_told_as_decided() -> None:
    assert subject_words("a sks dog").decided is None
    assert subject_words("dog").decided is not None
    assert subject_words("qwx dog").decided == '"qwx" is taken for the rare word'


@pytest.mark.parametrize("word", ["brown", "golden", "rex", "corgi", "dog", "old", "2024", "tv"])
def test_words_that_somebody_uses_are_not_rare(word: str) -> None:
    assert not is_rare(word)


@pytest.mark.parametrize("word", ["sks", "ohwx", "zwx", "bxzqtr", "mydog7"])
def test_made_up_words_are_rare(word: str) -> None:
    assert is_rare(word)


@pytest.mark.parametrize(
    ("words", "kind"),
    [("golden retriever", Kind.ANIMAL), ("terriers", Kind.ANIMAL), ("woman", Kind.PERSON), ("mug", Kind.OBJECT),
     ("dog painting", Kind.STYLE)],
)  # fmt: skip
def test_the_last_known_word_tells_the_kind(words: str, kind: Kind) -> None:
    assert kind_of(words) is kind
