"""How long a machine stays after its run, and who may use it."""

from __future__ import annotations

import pytest

from orchestrator.keeping import keep_left_s
from orchestrator.lifecycle import Do, EndReason, Facts, Move, Phase, Standing, State, Wish, next_step

DONE = EndReason.DONE


def step(state: State, wish: Wish = Wish.RUN, standing: Standing = Standing.HELD, **facts: object) -> Do | Move:
    found = next_step(state, wish, DONE, standing, Facts(**facts))  # type: ignore[arg-type]
    assert isinstance(found, Do | Move)
    return found


@pytest.mark.parametrize(
    ("keep_s", "kept_for_s", "money_left_s", "in_use", "left_s"),
    [
        (0, 0, 9000, False, 0),  # nobody asked for it
        (1800, 600, 9000, False, 1200),
        (1800, 1800, 9000, False, 0),
        (1800, 600, 300, False, 300),  # never beyond the ceiling
        (1800, 7200, 900, True, 900),  # a run that uses it is not thrown out
        (1800, 600, -5, True, 0),
    ],
)
def test_a_machine_stays_as_long_as_asked_used_or_paid_for(
    keep_s: float, kept_for_s: float, money_left_s: float, in_use: bool, left_s: float
) -> None:
    assert keep_left_s(keep_s, kept_for_s, money_left_s, in_use=in_use) == left_s


def test_a_model_that_is_home_leads_to_keeping_only_where_that_was_asked_for() -> None:
    kept = step(State.RETRIEVING, retrieved=True, keep_left_s=60.0)
    plain = step(State.RETRIEVING, retrieved=True)
    assert (kept, plain) == (
        Move(State.KEEPING, "all files are here and verified; the machine stays for the next run"),
        Move(State.RELEASING, "all files are here and verified"),
    )


def test_it_is_kept_while_time_is_left() -> None:
    assert step(State.KEEPING, keep_left_s=60.0) == Do(Phase.KEEP)


@pytest.mark.parametrize(
    ("wish", "standing", "facts"),
    [
        (Wish.RUN, Standing.HELD, {"keep_left_s": 0.0}),
        (Wish.STOP, Standing.HELD, {"keep_left_s": 60.0}),
        (Wish.DOWN, Standing.HELD, {"keep_left_s": 60.0}),
        (Wish.RUN, Standing.HELD, {"keep_left_s": 60.0, "machine_lost": "it is gone"}),
        (Wish.RUN, Standing.ABSENT, {"keep_left_s": 60.0}),
    ],
)
def test_whatever_ends_the_keeping_the_run_stays_done(wish: Wish, standing: Standing, facts: dict[str, object]) -> None:
    ended = step(State.KEEPING, wish, standing, **facts)
    assert isinstance(ended, Move)
    assert (ended.to, ended.reason) == (State.RELEASING, DONE)
