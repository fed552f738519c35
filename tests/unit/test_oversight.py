"""What a running stage is due, and what its end is called."""

from __future__ import annotations

import pytest

from remote_trainer import wire
from remote_trainer.oversight import (
    DEADLINE_REACHED,
    MAX_FRUITLESS_STARTS,
    STACKS_GRACE_S,
    STALL_S,
    STALLED,
    STOP_GRACE_S,
    Silence,
    StageView,
    Urge,
    ending_without_word,
    urge,
    worth_starting_again,
)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (StageView(False, 10.0, None), Urge.NOTHING),
        (StageView(True, 10.0, None), Urge.ASK_TO_STOP),
        (StageView(False, 0.0, None), Urge.ASK_TO_STOP),
        (StageView(True, -5.0, 1.0), Urge.NOTHING),
        (StageView(True, -5.0, STOP_GRACE_S + 1), Urge.KILL),
    ],
)
def test_a_stage_is_asked_once_and_killed_only_after_the_grace(view: StageView, expected: Urge) -> None:
    assert urge(view) is expected


def test_a_trainer_that_hangs_shows_its_stacks_before_it_is_killed() -> None:
    def at(quiet_s: float, stacks_shown: bool) -> Urge:
        return urge(StageView(False, 1e9, None, quiet_s, stacks_shown))

    assert at(STALL_S, False) is Urge.NOTHING
    assert at(STALL_S + 1, False) is Urge.SHOW_STACKS
    assert at(STALL_S + 2, True) is Urge.NOTHING
    assert at(STALL_S + STACKS_GRACE_S + 1, True) is Urge.KILL
    assert ending_without_word(-9, False, None, 3, stalled=True) == STALLED


def test_an_ending_without_a_word_is_named_for_its_cause() -> None:
    assert ending_without_word(0, stop_requested=False, by_the_clock=DEADLINE_REACHED, last_step=3) == DEADLINE_REACHED
    assert ending_without_word(-15, stop_requested=True, by_the_clock=None, last_step=3) == wire.Stopped(3)
    killed = ending_without_word(-9, stop_requested=False, by_the_clock=None, last_step=3)
    assert isinstance(killed, wire.Failed)
    assert (killed.code, "SIGKILL" in killed.message) == ("trainer-killed", True)
    broken = ending_without_word(1, stop_requested=False, by_the_clock=None, last_step=3)
    assert isinstance(broken, wire.Failed)
    assert broken.code == "internal"


def test_a_killed_trainer_starts_again_unless_it_was_to_end_or_gets_nowhere() -> None:
    assert worth_starting_again(-9, ending_was_asked_for=False, fruitless_starts=0)
    assert worth_starting_again(-11, ending_was_asked_for=False, fruitless_starts=MAX_FRUITLESS_STARTS - 1)
    assert not worth_starting_again(-9, ending_was_asked_for=False, fruitless_starts=MAX_FRUITLESS_STARTS)
    assert not worth_starting_again(-9, ending_was_asked_for=True, fruitless_starts=0)
    assert not worth_starting_again(1, ending_was_asked_for=False, fruitless_starts=0)
    assert not worth_starting_again(0, ending_was_asked_for=False, fruitless_starts=0)


def test_only_silence_in_the_training_loop_counts() -> None:
    silence = Silence(0.0)
    assert silence.quiet_in_loop_s(5000.0) == 0.0
    silence.entered("train")
    assert silence.quiet_in_loop_s(5000.0) == 5000.0
    silence.entered("evaluate")
    assert silence.quiet_in_loop_s(9000.0) == 0.0


def test_a_sign_of_life_takes_a_false_alarm_back() -> None:
    silence = Silence(0.0)
    silence.entered("train")
    silence.asked_for_stacks(STALL_S + 1)
    silence.heard(STALL_S + 2)
    assert (silence.stacks_shown, silence.quiet_in_loop_s(STALL_S + 5)) == (False, 3.0)


def test_the_grace_counts_from_the_request_for_stacks_however_late_it_came() -> None:
    silence = Silence(0.0)
    silence.entered("train")
    late = 10 * STALL_S

    def at(now_s: float) -> Urge:
        return urge(StageView(False, 1e9, None, silence.quiet_in_loop_s(now_s), silence.stacks_shown))

    assert at(late) is Urge.SHOW_STACKS
    silence.asked_for_stacks(late)
    assert at(late + 1) is Urge.NOTHING
    assert at(late + STACKS_GRACE_S + 1) is Urge.KILL
