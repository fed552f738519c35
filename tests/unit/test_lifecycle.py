"""What a driver does next, and which moves a run can make."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from orchestrator.lifecycle import (
    EXIT_CODES,
    MAX_RESTARTS,
    MOVES,
    Do,
    EndReason,
    Facts,
    Finished,
    Keeps,
    Move,
    Phase,
    Standing,
    State,
    Wish,
    facts_after,
    next_step,
)
from remote_trainer.wire import HostStatus

ALIVE = HostStatus("log", 17, True, 1, 100, True, None, (), None, 0)


def ended(how: str | None) -> HostStatus:
    return HostStatus("log", None, False, 1, 100, True, how, (), None, 0)  # type: ignore[arg-type]


EVERY_FACTS = [
    Facts(
        no_machine=no_machine,
        reachable=yes,
        shipped=yes,
        host=host,
        retrieved=yes,
        machine_lost=machine_lost,
        keeps=keeps,
        rescue_over=rescue_over,
        revived=revived,
        not_revived=not_revived,
        may_rent_again=yes,
        restarts=restarts,
    )
    for yes in (False, True)
    for host in (None, ALIVE, ended("done"), ended("failed"), ended("stopped"), ended(None))
    for no_machine, machine_lost in (("", ""), ("none left", ""), ("", "pre-empted"))
    for keeps, rescue_over, revived, not_revived in (
        (Keeps.NOTHING, False, False, ""),
        (Keeps.CHECKPOINT, False, False, "none left"),
        (Keeps.UNKNOWN, False, False, ""),
        (Keeps.MODEL, False, True, ""),
        (Keeps.MODEL, True, False, ""),
    )
    for restarts in (0, MAX_RESTARTS)
]
EVERYTHING = list(itertools.product(State, Wish, (None, EndReason.DONE, EndReason.STOPPED), Standing, EVERY_FACTS))


def test_every_situation_has_an_answer_and_every_move_is_legal() -> None:
    for state, wish, reason, standing, facts in EVERYTHING:
        step = next_step(state, wish, reason, standing, facts)
        if isinstance(step, Move):
            assert step.to in MOVES[state], (state, step)


def test_a_run_is_finished_only_when_it_has_ended() -> None:
    for state, wish, reason, standing, facts in EVERYTHING:
        assert isinstance(next_step(state, wish, reason, standing, facts), Finished) == (state is State.ENDED)


def test_no_run_ends_while_a_machine_may_exist() -> None:
    for state, wish, reason, standing, facts in EVERYTHING:
        step = next_step(state, wish, reason, standing, facts)
        if isinstance(step, Move) and step.to is State.ENDED:
            assert standing in (Standing.NONE, Standing.ABSENT)


def test_a_machine_is_created_only_while_none_may_exist() -> None:
    for state, wish, reason, standing, facts in EVERYTHING:
        if next_step(state, wish, reason, standing, facts) == Do(Phase.CREATE):
            assert standing in (Standing.NONE, Standing.ABSENT)
            assert wish is Wish.RUN


def test_whatever_begins_the_end_carries_its_reason() -> None:
    for state, wish, reason, standing, facts in EVERYTHING:
        step = next_step(state, wish, reason, standing, facts)
        ending = isinstance(step, Move) and step.to in (State.RETRIEVING, State.RELEASING)
        if isinstance(step, Move) and ending and state is not State.RETRIEVING:
            assert step.reason is not None, (state, step)


def test_a_lost_machine_is_given_back_before_another_is_taken() -> None:
    lost = Facts(shipped=True, host=ALIVE, machine_lost="pre-empted", may_rent_again=True)
    step = next_step(State.TRAINING, Wish.RUN, None, Standing.HELD, lost)
    assert step == Move(State.RECOVERING, "pre-empted")
    asked = replace(lost, looked_again=True)
    assert next_step(State.RECOVERING, Wish.RUN, None, Standing.HELD, asked) == Do(Phase.RELEASE)
    assert next_step(State.RECOVERING, Wish.RUN, None, Standing.UNSETTLED, lost) == Do(Phase.SETTLE)
    again = next_step(State.RECOVERING, Wish.RUN, None, Standing.ABSENT, lost)
    assert isinstance(again, Move)
    assert again.to is State.PROVISIONING
    assert facts_after(again, State.RECOVERING, lost) == Facts(), "nothing is known about the next machine"


def test_without_money_for_another_machine_the_run_ends_with_what_came_home() -> None:
    step = next_step(State.RECOVERING, Wish.RUN, None, Standing.ABSENT, Facts(machine_lost="gone"))
    assert isinstance(step, Move)
    assert (step.to, step.reason) == (State.RELEASING, EndReason.MACHINE_LOST)


def test_a_run_that_was_ending_badly_is_not_started_again_elsewhere() -> None:
    lost = Facts(machine_lost="gone", may_rent_again=True)
    for reason in (EndReason.STOPPED, EndReason.TRAINING_FAILED):
        step = next_step(State.RETRIEVING, Wish.RUN, reason, Standing.HELD, lost)
        assert step == Move(State.RELEASING, "gone", reason)


def test_a_model_lost_before_it_came_home_is_trained_again() -> None:
    lost = Facts(machine_lost="gone", may_rent_again=True)
    step = next_step(State.RETRIEVING, Wish.RUN, EndReason.DONE, Standing.HELD, lost)
    assert step == Move(State.RECOVERING, "gone")


def test_down_is_obeyed_in_every_state_before_the_release() -> None:
    for state, standing, facts in itertools.product(State, Standing, EVERY_FACTS):
        for wish in (Wish.DOWN, Wish.ABANDON) if state not in (State.RELEASING, State.ENDED) else ():
            step = next_step(state, wish, None, standing, facts)
            assert isinstance(step, Move)
            assert step.to is State.RELEASING
            assert step.reason is (EndReason.DONE if state is State.KEEPING else EndReason.CANCELED)


def test_a_lost_answer_is_settled_before_anything_else() -> None:
    for state in (State.PROVISIONING, State.RELEASING):
        assert next_step(state, Wish.RUN, None, Standing.UNSETTLED, Facts()) == Do(Phase.SETTLE)


@pytest.mark.parametrize(
    ("word", "reason"),
    [("done", EndReason.DONE), ("stopped", EndReason.STOPPED), ("failed", EndReason.TRAINING_FAILED)],
)
def test_the_supervisors_last_word_decides_the_reason(word: str, reason: EndReason) -> None:
    wish = Wish.STOP if word == "stopped" else Wish.RUN
    step = next_step(State.TRAINING, wish, None, Standing.HELD, Facts(host=ended(word)))
    assert isinstance(step, Move)
    assert (step.to, step.reason) == (State.RETRIEVING, reason)


def test_a_training_that_nobody_asked_to_stop_goes_on_but_not_forever() -> None:
    step = next_step(State.TRAINING, Wish.RUN, None, Standing.HELD, Facts(host=ended("stopped")))
    assert isinstance(step, Move)
    assert step.to is State.SHIPPING
    often = Facts(host=ended("stopped"), restarts=MAX_RESTARTS)
    step = next_step(State.TRAINING, Wish.RUN, None, Standing.HELD, often)
    assert isinstance(step, Move)
    assert (step.to, step.reason) == (State.RETRIEVING, EndReason.STOPPED)


def test_a_supervisor_gone_without_a_word_is_started_again_but_not_forever() -> None:
    facts = Facts(shipped=True, host=ended(None))
    for restart in range(MAX_RESTARTS):
        step = next_step(State.TRAINING, Wish.RUN, None, Standing.HELD, facts)
        assert isinstance(step, Move)
        assert step.to is State.SHIPPING
        facts = facts_after(step, State.TRAINING, facts)
        assert facts == Facts(restarts=restart + 1), "what is known about the host is void"
        facts = Facts(shipped=True, host=ended(None), restarts=facts.restarts)
    step = next_step(State.TRAINING, Wish.RUN, None, Standing.HELD, facts)
    assert isinstance(step, Move)
    assert step.reason is EndReason.TRAINING_FAILED


def test_stop_before_anything_was_shipped_needs_no_retrieval() -> None:
    for state in (State.PLANNED, State.PROVISIONING):
        step = next_step(state, Wish.STOP, None, Standing.HELD, Facts())
        assert isinstance(step, Move)
        assert (step.to, step.reason) == (State.RELEASING, EndReason.STOPPED)


def test_stop_while_shipping_asks_the_host_first_whether_something_trains() -> None:
    assert next_step(State.SHIPPING, Wish.STOP, None, Standing.HELD, Facts()) == Do(Phase.LOOK)
    begun = next_step(State.SHIPPING, Wish.STOP, None, Standing.HELD, Facts(host=ALIVE))
    assert isinstance(begun, Move)
    assert begun.to is State.TRAINING
    untouched = HostStatus("", None, False, 0, 0, False, None, (), None, 0)
    step = next_step(State.SHIPPING, Wish.STOP, None, Standing.HELD, Facts(host=untouched))
    assert isinstance(step, Move)
    assert (step.to, step.reason) == (State.RELEASING, EndReason.STOPPED)


def test_stop_during_training_follows_until_the_checkpoint() -> None:
    assert next_step(State.TRAINING, Wish.STOP, None, Standing.HELD, Facts(host=ALIVE)) == Do(Phase.FOLLOW)


def test_every_reason_has_an_exit_code_of_its_own() -> None:
    assert set(EXIT_CODES) == set(EndReason)
    assert len(set(EXIT_CODES.values())) == len(EndReason)


def test_a_stopped_machine_that_holds_something_alone_is_rescued_and_not_given_back() -> None:
    lost = Facts(machine_lost="stopped", keeps=Keeps.MODEL, may_rent_again=True)
    for state in (State.PROVISIONING, State.SHIPPING, State.TRAINING, State.RETRIEVING):
        for reason in (None, EndReason.DONE, EndReason.TRAINING_FAILED, EndReason.STOPPED):
            step = next_step(state, Wish.RUN, reason, Standing.HELD, lost)
            assert step == Move(State.RESCUING, "stopped; its disk holds the finished model alone")
            assert facts_after(step, state, lost) == Facts()


def test_only_down_or_the_end_of_its_time_gives_the_only_copy_of_a_model_back() -> None:
    for wish, reason, facts in itertools.product((Wish.RUN, Wish.STOP), (None, *EndReason), EVERY_FACTS):
        gives_up = facts.rescue_over or facts.not_revived or facts.machine_lost or facts.revived
        if facts.keeps.may_be_the_model and not gives_up:
            assert next_step(State.RESCUING, wish, reason, Standing.HELD, facts) == Do(Phase.REVIVE)


def test_a_rescued_machine_is_provisioned_like_any_other_also_for_a_stop() -> None:
    back = Facts(revived=True, keeps=Keeps.CHECKPOINT)
    for wish in (Wish.RUN, Wish.STOP):
        step = next_step(State.RESCUING, wish, None, Standing.HELD, back)
        assert isinstance(step, Move)
        assert step.to is State.PROVISIONING
        assert next_step(State.PROVISIONING, wish, None, Standing.HELD, replace(back, revived=False)) == Do(Phase.AWAIT)


def test_a_checkpoint_that_cannot_be_had_back_costs_no_more_than_its_steps() -> None:
    facts = Facts(keeps=Keeps.CHECKPOINT, not_revived="its host has no free GPU")
    step = next_step(State.RESCUING, Wish.RUN, None, Standing.HELD, facts)
    assert step == Move(State.RECOVERING, "its host has no free GPU")


def test_what_a_disk_holds_is_said_in_words_that_tell_it_apart() -> None:
    assert Keeps.NOTHING.words == "nothing of its own"
    assert len({keeps.words for keeps in Keeps}) == len(Keeps)
