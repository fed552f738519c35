"""Settings to begin with, by what the photos show: for people who do not want to look them up. Pure.

They are starting points, not findings of ours: people who train LoRAs of Stable Diffusion settled on about 100 steps a
photo, on class images for what has many others of its kind (people first, as the first DreamBooth users did with about
200), and on a larger rank for faces and styles. Each value carries its reason into the spec.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from orchestrator.dataset.framing import PERSON_WORDS
from orchestrator.subject_words import ANIMAL_WORDS, STYLE_WORDS, with_article


class Kind(Enum):
    PERSON = "person"
    ANIMAL = "animal"
    OBJECT = "object"
    STYLE = "style"


_WORDS: Mapping[Kind, frozenset[str]] = {
    Kind.PERSON: PERSON_WORDS, Kind.ANIMAL: ANIMAL_WORDS, Kind.STYLE: STYLE_WORDS
}  # fmt: skip
_STEPS_EACH: Mapping[Kind, int] = {Kind.PERSON: 120, Kind.ANIMAL: 100, Kind.OBJECT: 80, Kind.STYLE: 100}
LEAST_STEPS, MOST_STEPS = 600, 2000
_SCENES: Mapping[Kind, tuple[str, ...]] = {
    Kind.PERSON: ("{subject}", "{subject} as an astronaut, portrait", "{subject} walking through Rome, full body"),
    Kind.ANIMAL: ("{subject}", "{subject} on a beach", "{subject} in the snow"),
    Kind.OBJECT: ("{subject}", "{subject} on a wooden table", "{subject} in the snow"),
    Kind.STYLE: ("a lighthouse in {style}", "a cat on a sofa in {style}", "a city at night in {style}"),
}


@dataclass(frozen=True)
class Recipe:
    instance_prompt: str
    class_prompt: str | None
    regularization: str
    why_regularization: str
    steps: int
    why_steps: str
    lora_rank: int
    why_rank: str
    validation_prompts: tuple[str, ...]


def known_kind(words: str) -> Kind | None:
    """By the words for what the photos show, the last of them first: "sks dog" is an animal; None for all else."""
    for word in reversed(re.findall(r"[a-z]+", words.lower())):
        for kind, known in _WORDS.items():
            if word in known or word.removesuffix("s") in known:
                return kind
    return None


def kind_of(words: str) -> Kind:
    """As `known_kind`; what nothing is known of is an object."""
    return known_kind(words) or Kind.OBJECT


def recipe_for(kind: Kind, subject: str, photos: int) -> Recipe:
    """`subject`: a rare word and a kind of thing, "sks dog". `photos`: how many there are, at least 1."""
    word, _, thing = " ".join(subject.split()).partition(" ")
    each = _STEPS_EACH[kind]
    wanted = round(photos * each, -2)
    steps = max(LEAST_STEPS, min(MOST_STEPS, wanted))
    bound = "" if steps == wanted else f", at least {steps}" if steps > wanted else f", at most {steps}"
    style = f"{word} {thing}"
    if kind is Kind.STYLE:
        instance, other = f"a picture in {style}", None
    else:
        instance = f"a photo of {word} {thing}"
        other = f"a photo of {with_article(thing)}"
    count = {Kind.PERSON: 200, Kind.ANIMAL: 100}.get(kind, 0)
    return Recipe(
        instance_prompt=instance,
        class_prompt=other,
        regularization=f"generate:{count}" if count else "none",
        why_regularization=(
            f"{count} pictures of the kind, made by the base, so that not every {thing} becomes this one"
            if count
            else "no class images: there is little of the kind to forget"
        ),
        steps=steps,
        why_steps=f"about {each} a photo{bound}",
        lora_rank=32 if kind in (Kind.PERSON, Kind.STYLE) else 16,
        why_rank={
            Kind.PERSON: "faces need more room than things",
            Kind.STYLE: "a style touches everything in a picture",
        }.get(kind, "enough for one subject; the file stays small"),
        validation_prompts=tuple(text.format(subject=instance, style=style) for text in _SCENES[kind]),
    )
