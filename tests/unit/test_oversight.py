"""What a running stage is due, and what its end is called."""

from __future__ import annotations

import pytest

from remote_trainer import wire
from remote_trainer.oversight import (
    CONTACT_S,
    DEADLINE_REACHED,
    MAX_FRUITLESS_STARTS,
    MONEY_SPENT,
    RESERVE_MARGIN_S,
    STACKS_GRACE_S,
    STALL_S,
    STALLED,
    STOP_GRACE_S,
    SeenTimes,
    Silence,
    StageView,
    Urge,
    differs_materially,
    ending_without_word,
    last_lease_s,
    last_word,
    on_lapse,
    out_of_time,
    proof_of,
    reserve_s,
    time_left_s,
    urge,
    worth_keeping,
    worth_starting_again,
)  # fmt: skip


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


# ---- the end of a rented machine -------------------------------------------------------------------------------------


def folder(step: int, sha256: str) -> wire.CommittedFolder:
    return wire.CommittedFolder(step, "somewhere", sha256)


def test_until_everything_was_seen_once_the_planned_reserve_counts() -> None:
    assert reserve_s(300.0, SeenTimes(), uploads=False) == 300.0
    assert reserve_s(300.0, SeenTimes(commit_s=5.0), uploads=True) == 300.0


@pytest.mark.parametrize("planned", [0.0, 300.0, 3000.0])
def test_then_twice_what_was_seen_is_kept_free(planned: float) -> None:
    assert reserve_s(planned, SeenTimes(commit_s=5.0), uploads=False) == RESERVE_MARGIN_S + 10.0
    assert reserve_s(planned, SeenTimes(commit_s=5.0, upload_s=40.0), uploads=True) == RESERVE_MARGIN_S + 90.0


def test_the_step_at_work_is_kept_free_on_top() -> None:
    assert reserve_s(300.0, SeenTimes(step_s=150.0), uploads=False) == 450.0
    assert reserve_s(300.0, SeenTimes(commit_s=5.0, step_s=150.0), uploads=False) == RESERVE_MARGIN_S + 160.0


@pytest.mark.parametrize(
    ("before", "after", "material"),
    [(300, 320, False), (300, 380, True), (300, 70, True), (60, 85, False), (10, 41, True)],
)
def test_a_small_change_of_the_reserve_is_not_worth_a_word(before: float, after: float, material: bool) -> None:
    assert differs_materially(before, after) is material


def test_the_sooner_of_deadline_and_limit_less_reserve_ends_training() -> None:
    assert time_left_s(50.0, 1000.0, 100.0) == 50.0
    assert time_left_s(5000.0, 1000.0, 100.0) == 900.0
    assert time_left_s(float("inf"), float("inf"), 100.0) == float("inf")


def test_a_run_that_the_clock_has_ended_is_told_by_which_limit() -> None:
    assert out_of_time(1.0, 101.0, 100.0) is None
    assert out_of_time(0.0, 50.0, 100.0) == DEADLINE_REACHED
    assert out_of_time(1.0, 100.0, 100.0) == MONEY_SPENT


def test_a_model_is_worth_more_than_its_last_checkpoint_and_the_newest_checkpoint_more_than_an_older_model() -> None:
    ten, twenty = folder(10, "a"), folder(20, "b")
    assert worth_keeping([], None) is None
    assert worth_keeping([ten, twenty], None) == twenty
    assert worth_keeping([ten, twenty], folder(20, "model")) == folder(20, "model")
    assert worth_keeping([ten, twenty], folder(10, "model")) == twenty


def test_the_disk_is_kept_until_the_newest_of_every_run_is_saved() -> None:
    assert on_lapse([], ()) == "terminate"
    assert on_lapse([folder(20, "b")], {"a"}) == "stop"
    assert on_lapse([folder(20, "b")], {"a", "b"}) == "terminate"
    assert on_lapse([folder(20, "b"), folder(5, "other run")], {"b"}) == "stop"


@pytest.mark.parametrize(
    ("ended", "safe", "contact_ago_s", "expected"),
    [
        (wire.Done(9, "m"), True, None, 0.0),
        (wire.Stopped(9), True, None, 0.0),
        (DEADLINE_REACHED, True, 4000.0, 0.0),
        (MONEY_SPENT, True, None, 0.0),
        (wire.Done(9, "m"), True, 100.0, CONTACT_S - 100.0),  # it is about to give the machine back itself
        (wire.Done(9, "m"), False, None, 3600.0),
        (DEADLINE_REACHED, False, 10.0, 3600.0),
        (wire.Failed("diverged", "NaN"), True, None, 3600.0),  # a laptop has to learn why
    ],
)
def test_an_ended_run_waits_only_for_somebody_who_has_to_come(
    ended: wire.Event, safe: bool, contact_ago_s: float | None, expected: float
) -> None:
    assert last_lease_s(ended, safe, 3600.0, contact_ago_s) == expected


def test_the_last_word_says_what_happens_when() -> None:
    stops = last_word("stop", 3600.0)
    assert (stops.outcome, stops.action) == (
        "it stops and keeps its disk in 60 min unless a laptop calls before",
        "stop",
    )
    assert last_word("terminate", 0.0).outcome == "it is given back now"


@pytest.mark.parametrize(
    ("proven", "answer", "expected"),
    [
        (None, "", "not known yet"),
        (True, "204", "HTTP 204"),
        (False, "403", "may be unable"),
        (False, "000", "no answer"),
    ],
)
def test_what_the_probe_has_shown_is_said_in_words(proven: bool | None, answer: str, expected: str) -> None:
    said = proof_of(proven, answer)
    assert said.proven is proven
    assert expected in said.outcome
