"""What people answer to "what do the photos show", as a rare word and a kind of thing. Pure.

"a brown dog", "a photo of sks dog" and "The sks dog" all are answers;
prompts are made of "sks brown dog" and "sks dog".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.dataset.framing import PERSON_WORDS
from orchestrator.errors import UsageError
from orchestrator.tokens.words import is_listed

RARE_WORD = "sks"
"""What the subject is called where nobody says otherwise: it means nothing to the base."""
USUAL_RARE_WORDS = frozenset({RARE_WORD, "tok", "ohwx", "zwx"})
"""Names from other people's guides; `tok` is a word of some language, and still means the subject."""
ANIMAL_WORDS = frozenset(
    {"animal", "pet", "dog", "puppy", "cat", "kitten", "horse", "pony", "foal", "donkey", "bird", "parrot", "parakeet",
     "budgie", "canary", "owl", "chicken", "hen", "rooster", "duck", "goose", "rabbit", "bunny", "hamster", "guinea",
     "gerbil", "ferret", "hedgehog", "squirrel", "mouse", "rat", "fish", "goldfish", "cow", "calf", "sheep", "lamb",
     "goat",
     "pig", "lizard", "gecko", "iguana", "snake", "turtle", "tortoise", "frog", "fox", "wolf", "bear", "lion", "tiger",
     "elephant", "monkey", "retriever", "labrador", "terrier", "poodle", "labradoodle", "shepherd", "collie", "spaniel",
     "beagle", "bulldog", "dachshund", "corgi", "husky", "pug", "chihuahua", "rottweiler", "dalmatian", "greyhound",
     "hound", "mastiff", "schnauzer", "doberman", "boxer", "pointer", "setter", "malamute", "pomeranian", "maltese",
     "shiba", "akita", "whippet", "siamese", "persian", "ragdoll", "tabby", "shorthair", "sphynx", "coon"}
)  # fmt: skip
STYLE_WORDS = frozenset({"style", "painting", "drawing", "art"})
MOST_LETTERS = 200
"""Of what is said: text encoders read some 70 tokens of a prompt."""
MOST_WORDS = 5
"""Of a kind of thing without a rare word before it: more are a sentence, and no prompt."""

_LEAD = re.compile(
    r"^((it is|it's|this is|that is|they are|these are)\s+)?((an?|the|my|our|some)\s+)?"
    r"((photo|picture|image|drawing)s?\s+of(\s+|$))?"
)
_DETERMINERS = frozenset(
    {"a", "an", "the", "some", "this", "that", "these", "those", "my", "our", "your", "his", "her", "its", "their"}
)
_LONGEST_LISTED = 5
"""Letters of the longest words of the list; it says nothing about longer ones."""


@dataclass(frozen=True)
class SubjectWords:
    rare: str
    thing: str
    """At least one word, lower-case."""
    decided: str | None
    """What the answer did not say itself, in words; None where it said everything."""

    def __str__(self) -> str:
        return f"{self.rare} {self.thing}"


def subject_words(said: str) -> SubjectWords:
    """`said`: as a person says it, with or without a rare word.

    Raises UsageError with a `--subject` to paste where no kind of thing is found, or where what follows it may be
    a name.
    """
    if len(said) > MOST_LETTERS:
        raise UsageError(
            f"a subject of {len(said)} letters is more than a base reads of a prompt", f'`--subject "{RARE_WORD} dog"`'
        )
    plain = re.sub(r"[\"“”„.,;:!?()]", " ", said.lower().replace("’", "'"))
    words = _without_determiners(_LEAD.sub("", " ".join(plain.split())).split())
    usual = next((word for word in words if word in USUAL_RARE_WORDS), None)
    rare = usual or (words[0] if words and is_rare(words[0]) else None)
    if rare is not None:
        words.remove(rare)
        words = _without_determiners(words)
    if not words:
        raise UsageError(
            f'"{said}" does not say which kind of thing the photos show', f'`--subject "{rare or RARE_WORD} dog"`'
        )
    thing = " ".join(words)
    if rare is not None:
        return SubjectWords(rare, thing, None if rare == usual else f'"{rare}" is taken for the rare word')
    kinds = [number for number, word in enumerate(words) if is_kind(word)]
    if len(words) > MOST_WORDS or (kinds and kinds[-1] != len(words) - 1):
        kind = " ".join(words[: kinds[-1] + 1][-MOST_WORDS:]) if kinds else words[-1]
        raise UsageError(
            f'"{said}" is not a kind of thing alone: a name or a sentence is nothing that a base knows',
            f'`--subject "{RARE_WORD} {kind}"`; what stands behind a rare word is taken as it is',
        )
    return SubjectWords(RARE_WORD, thing, f'"{RARE_WORD}" is its rare word, which no answer named')


def is_rare(word: str) -> bool:
    """Whether somebody has made the word up: no kind of thing, and no short word of any language at hand.

    Of longer words, on which there is no list, only those that nobody could speak, or with a digit in them.
    """
    if not re.fullmatch(r"[a-z0-9]{3,}", word) or word.isdigit() or is_kind(word):
        return False
    if not word.isalpha() or not re.search(r"[aeiouy]", word):
        return True
    return len(word) <= _LONGEST_LISTED and not is_listed(word)


def is_kind(word: str) -> bool:
    """A person, an animal or a style; of objects there are too many to list."""
    known = PERSON_WORDS | ANIMAL_WORDS | STYLE_WORDS
    return word in known or word.removesuffix("s") in known


def with_article(thing: str) -> str:
    return f"{'an' if thing[:1].lower() in 'aeiou' else 'a'} {thing}"


def _without_determiners(words: list[str]) -> list[str]:
    while words and (words[0] in _DETERMINERS or (words[0].endswith("'s") and len(words) > 1)):
        words = words[1:]
    return words
