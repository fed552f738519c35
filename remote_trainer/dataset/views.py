"""The ways in which a picture is cut to its bucket. Each is encoded once, and a visit draws one of them."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import assert_never

from ..wire import DatasetSpec

RANDOM_CROPS = 4
"""Latents are computed once, so that crops cannot differ at every visit: so many places have to do."""


@dataclass(frozen=True)
class View:
    """Where the crop is taken, as shares of what is left over: 0 is left or top, 1 right or bottom."""

    across: float = 0.5
    down: float = 0.5
    mirrored: bool = False
    """Left to right, before the crop."""


CENTER = View()


def views_of(spec: DatasetSpec, index: int, seed: int) -> tuple[View, ...]:
    """Those of the set's picture `index`; equal arguments give equal views, on every machine."""
    crop = spec.crop
    if crop == "center":
        cuts: tuple[View, ...] = (CENTER,)
    elif crop == "corner":
        cuts = (View(0.0, 0.0),)
    elif crop == "random":
        source = random.Random(f"{spec.id}/{seed}/crops/{index}")
        cuts = tuple(View(source.random(), source.random()) for _ in range(RANDOM_CROPS))
    else:
        assert_never(crop)
    return (*cuts, *(replace(cut, mirrored=True) for cut in cuts)) if spec.mirror else cuts


def drawn_view(views: int, seed: int, step: int, micro_step: int, index: int) -> int:
    """Which of its `views` sample `index` of a micro-batch shows: a function of the key alone."""
    return 0 if views == 1 else random.Random(f"view/{seed}/{step}/{micro_step}/{index}").randrange(views)
