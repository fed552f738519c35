"""Where pictures are made when nobody says where: what is free first, and never money without a question. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from orchestrator.errors import RunConflict


class Place(Enum):
    HERE = "here"
    MACHINE = "machine"
    """The one that the run keeps."""
    RENTED = "rented"
    """One rented for the pictures."""
    REPLICATE = "replicate"


@dataclass(frozen=True)
class Circumstances:
    """All that `place_for` may look at."""

    run: str
    kept: bool
    """The run keeps its machine."""
    hosted: bool
    """A service has the model, for it trained there."""
    trained_on_rental: bool
    """By a provider that can be asked for a machine again."""
    able_here: bool
    """This computer has a GPU, or the base is small enough for its CPU."""
    asks: bool
    """A quote can be put to somebody, or was agreed to beforehand."""


def place_for(asked: Place | None, seen: Circumstances) -> Place:
    """`asked` if it can be, else the nearest; raises RunConflict for a place that has no such model.

    A machine is rented by itself only where training rented one, this computer would take minutes for a picture, and
    there is somebody to agree to the quote.
    """
    if asked is Place.MACHINE and not seen.kept:
        raise RunConflict(
            f"run `{seen.run}` keeps no machine",
            "`--where rented` rents one for the pictures, `--where here` asks this computer; "
            "`launch --keep 30m` makes a run keep its own",
        )
    if asked is Place.REPLICATE and not seen.hosted:
        raise RunConflict(
            f"run `{seen.run}` was not trained at Replicate, so the model is not there",
            f"`cloudbooth publish {seen.run} replicate` says how to bring it there; --where here",
        )
    if asked is not None:
        return asked
    if seen.kept:
        return Place.MACHINE
    if seen.hosted:
        return Place.REPLICATE
    return Place.RENTED if seen.trained_on_rental and not seen.able_here and seen.asks else Place.HERE
