"""A hosted trainer's log, which comes as one text that grows: what is new in it, and what that says. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from remote_trainer import wire

_BAR = re.compile(
    r"(?P<done>\d+)/(?P<of>\d+)\s*\[(?P<spent>[\d:]+)<(?P<left>[\d:?]+)(?:,\s*(?P<pace>[\d.]+)\s*(?P<unit>it/s|s/it))?"
)
"""What tqdm prints: `12%|█▏        | 120/1000 [01:32<11:08,  1.32it/s, loss: 0.41]`."""
_LOSS = re.compile(r"\bloss[=:]\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", re.IGNORECASE)
_RATE = re.compile(r"\blr[=:]\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", re.IGNORECASE)
OVERLAP_CHARACTERS = 400
"""Of a log whose beginning the service has dropped: by so much of what is left it is joined to ours again."""


def fresh_part(known: str, whole: str) -> str:
    """What `whole` has beyond `known`. Services drop the beginning of long logs, and show none for a moment."""
    if not whole or whole == known:
        return ""
    if whole.startswith(known):
        return whole[len(known) :]
    if whole in known:
        return ""
    at = known.find(whole[:OVERLAP_CHARACTERS])
    while at >= 0 and not whole.startswith(known[at:]):
        at = known.find(whole[:OVERLAP_CHARACTERS], at + 1)
    if at < 0:  # the overlap is shorter than that
        overlaps = range(min(len(known), len(whole), OVERLAP_CHARACTERS), 0, -1)
        at = len(known) - next((length for length in overlaps if known.endswith(whole[:length])), 0)
    return whole[len(known) - at :]


def steps_in(text: str, of: int, after: int) -> Iterator[wire.StepDone]:
    """The progress bars of the training itself (those that count to `of`), beyond step `after`, each step once.

    Trainers print further bars (downloads, encoding): they count to something else.
    """
    newest = after
    for line in re.split(r"[\r\n]+", text):
        for bar in _BAR.finditer(line):
            step, end = int(bar["done"]), int(bar["of"])
            if end != of or not newest < step <= of:
                continue
            newest = step
            rest = line[bar.end() :]
            loss, rate = _LOSS.search(rest), _RATE.search(rest)
            yield wire.StepDone(
                step=step,
                of=of,
                loss=float(loss[1]) if loss else None,
                lr=float(rate[1]) if rate else None,
                images_per_s=_per_second(bar["pace"], bar["unit"]),
            )


def _per_second(pace: str | None, unit: str | None) -> float | None:
    """Steps a second: the trainer does not say of how many pictures."""
    if not pace or float(pace) == 0:
        return None
    return float(pace) if unit == "it/s" else 1 / float(pace)
