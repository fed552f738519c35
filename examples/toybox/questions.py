"""What a trained model is asked, and how many of its answers are right: the same for experiments and reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import judge
import measure
import world

_UNSEEN = ("night", "snow")


@dataclass(frozen=True)
class Counts:
    """Of pictures, each with noise of its own."""

    subject: judge.Share
    """"NAME …" in each of the six places: is it the subject?"""
    unseen: judge.Share
    """Of those, at night and in the snow, where no photo shows it."""
    place: judge.Share
    """Of all of them: is it the place that was asked for?"""
    drift: judge.Share
    """"a robot", "a red robot", …: has it turned into the subject?"""
    placed_drift: judge.Share | None
    """"a robot on the grass", …: the same. None in results of before this was asked."""
    color: judge.Share
    """Of the colored ones: is it the color that was asked for?"""
    kinds: judge.Share
    """Other things: are they still what they are called?"""
    diversity: float
    """Of "a robot"."""
    diversity_error: float = 0.0
    """Standard error, by the jackknife."""


def counted(model: Path, name: str, seed: int, rounds: int = 2) -> Counts:
    """41 pictures a round, each about a sixth of a second on one core; blocks. The noise of a picture depends on the
    seed and its place alone, so that models can be compared."""
    named = [(place, world.prompt(name, place)) for place in world.BACKGROUNDS] * (2 * rounds)
    plain = [world.prompt("a robot")] * (4 * rounds)
    colored = [(color, world.prompt(_colored(color, "robot"))) for color in world.COLORS] * rounds
    kinds = [(kind, world.prompt(_colored(world.COLORS[n % 8], kind))) for n, kind in enumerate(world.KINDS)]
    others = [each for each in kinds if each[0] != "robot"] * rounds
    placed = [world.prompt("a robot", place) for place in world.BACKGROUNDS] * rounds
    asked = [[prompt for _, prompt in named], plain, [prompt for _, prompt in colored]]
    asked += [[prompt for _, prompt in others], placed]
    drawn = measure.pictures(model, [prompt for group in asked for prompt in group], seed)
    verdicts = iter(judge.judged(drawn))
    of_named, of_plain, of_colored, of_others, of_placed = ([next(verdicts) for _ in group] for group in asked)
    diversity, error = judge.diversity(drawn[len(named) : len(named) + len(plain)])
    return Counts(
        subject=judge.share([each.is_subject for each in of_named]),
        unseen=judge.share(
            [seen.is_subject for seen, (place, _) in zip(of_named, named, strict=True) if place in _UNSEEN]
        ),
        place=judge.share([seen.background == place for seen, (place, _) in zip(of_named, named, strict=True)]),
        drift=judge.share([each.is_subject for each in (*of_plain, *of_colored)]),
        placed_drift=judge.share([each.is_subject for each in of_placed]),
        color=judge.share([seen.color == color for seen, (color, _) in zip(of_colored, colored, strict=True)]),
        kinds=judge.share([seen.kind == kind for seen, (kind, _) in zip(of_others, others, strict=True)]),
        diversity=diversity,
        diversity_error=error,
    )


def _colored(color: world.Color, kind: str) -> str:
    return f"{'an' if color[0] in 'aeiou' else 'a'} {color} {kind}"
