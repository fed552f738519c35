"""What is learned from machines that failed, and how long one waits for the next."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from orchestrator.estimates import Quote, quote
from orchestrator.ledger import ArtifactRecord, MachineRecord, Rate
from orchestrator.lifecycle import Keeps, Trouble
from orchestrator.progress import Progress
from orchestrator.ranges import Range
from orchestrator.recovery import (
    CAPACITY_LAST_PAUSE_S,
    CAPACITY_PATIENCE_S,
    capacity_pause_s,
    history_of,
    kept_alone,
    renewed_quote,
    rescue_patience_s,
    rest_usd,
    taken_away,
    to_do_again_s,
    too_dear,
    why_leave,
)
from orchestrator.workload import workload
from providers.api import MachineId, Market, Offer
from remote_trainer import wire

HOUR_S = 3600.0


def machine(offer: str, trouble: Trouble | None, hours: float = 1.0) -> MachineRecord:
    return MachineRecord(
        "tag", "dog", 1, "cloud", offer, 0.5, 0.0, MachineId("m"), 0.0, hours * HOUR_S, Market.SPOT, trouble=trouble
    )


def test_interruptions_are_counted_and_failed_offers_avoided() -> None:
    machines = [
        machine("a", Trouble.PREEMPTED),
        machine("b", Trouble.PREEMPTED),
        machine("c", Trouble.BROKEN),
        machine("d", Trouble.TOO_DEAR),
        machine("e", None),
    ]
    history = history_of(machines, max_cost_usd=5.0, now=99 * HOUR_S)
    assert history.interruptions == 2
    assert history.quarantined == {"c", "d"}, "a host that was outbid is as good as before"
    assert history.remaining_usd == pytest.approx(2.5)


def test_before_the_first_machine_nothing_is_known() -> None:
    assert history_of([], 5.0, 0.0).remaining_usd is None


def test_only_a_spot_machine_is_expected_to_be_taken_away() -> None:
    assert taken_away(Market.SPOT) is Trouble.PREEMPTED
    assert taken_away(Market.ON_DEMAND) is Trouble.LOST


def test_pauses_for_capacity_grow_up_to_a_bound_and_end() -> None:
    waited, pauses = 0.0, []
    while (pause := capacity_pause_s(waited)) is not None:
        pauses.append(pause)
        waited += pause
    assert all(before <= after for before, after in itertools.pairwise(pauses))
    assert pauses[0] == 15.0
    assert pauses[-1] == CAPACITY_LAST_PAUSE_S
    assert CAPACITY_PATIENCE_S <= waited < CAPACITY_PATIENCE_S + CAPACITY_LAST_PAUSE_S


@pytest.mark.parametrize(
    ("offered", "billed", "limit", "stays"),
    [(0.50, 0.50, 0.50, True), (0.50, 0.54, None, True), (0.50, 0.60, None, False), (0.50, 0.54, 0.50, False)],
)
def test_a_machine_stays_only_at_about_its_offered_price(
    offered: float, billed: float, limit: float | None, stays: bool
) -> None:
    assert (too_dear(offered, billed, limit) == "") is stays


CHECKPOINT = wire.CheckpointCommitted(300, "checkpoints/checkpoint-000300", "c3", 1)
TRAINING = Progress(step=350, of=1000, step_times=((300, 0.0), (350, 50.0)), checkpoints=(CHECKPOINT,))
HERE = ArtifactRecord("checkpoint", 300, "/x", "c3")


@pytest.mark.parametrize(
    ("progress", "here", "silence_s", "keeps"),
    [
        (TRAINING, [HERE], 5.0, Keeps.NOTHING),
        (TRAINING, [], 5.0, Keeps.CHECKPOINT),
        (TRAINING, [HERE], 649.0, Keeps.NOTHING),
        (TRAINING, [HERE], 651.0, Keeps.UNKNOWN),
        (TRAINING, [HERE], math.inf, Keeps.UNKNOWN),
        (Progress(), [], 5.0, Keeps.NOTHING),
        (Progress(), [], 500.0, Keeps.UNKNOWN),
        (Progress(done=wire.Done(1000, "out")), [], 5.0, Keeps.MODEL),
        (Progress(done=wire.Done(1000, "out")), [ArtifactRecord("output", 1000, "/x", "out")], 5.0, Keeps.NOTHING),
        (Progress(failed=wire.Failed("deadline", "over"), checkpoints=(CHECKPOINT,)), [], math.inf, Keeps.CHECKPOINT),
    ],
    ids=[
        "its newest checkpoint is here", "a newer checkpoint", "it could not have finished", "it could have finished",
        "nobody has listened", "nothing yet", "it never said how fast it is", "it was done", "the model is here",
        "it had given up",
    ],
)  # fmt: skip
def test_what_a_disk_holds_alone(
    progress: Progress, here: list[ArtifactRecord], silence_s: float, keeps: Keeps
) -> None:
    assert kept_alone(progress, here, silence_s) is keeps


def test_a_checkpoint_is_waited_for_no_longer_than_training_it_again_takes() -> None:
    again_s = to_do_again_s(TRAINING, [ArtifactRecord("checkpoint", 280, "/x", "c2")])
    assert again_s == 20.0, "steps 281 to 300, a second each"
    assert rescue_patience_s(Keeps.CHECKPOINT, again_s) == 20.0
    assert rescue_patience_s(Keeps.CHECKPOINT, 9000.0) == rescue_patience_s(Keeps.CHECKPOINT, None) == 300.0
    assert rescue_patience_s(Keeps.MODEL, again_s) == 1800.0, "it is what everything was for"
    assert to_do_again_s(Progress(checkpoints=(CHECKPOINT,)), []) is None, "nobody knows how long it took"


PACED = Progress(step=130, of=1000, step_times=((100, 0.0), (130, 60.0)))


def test_a_quote_is_renewed_by_what_was_measured() -> None:
    assert "2 s a step: the run is going to cost about $0.37" in renewed_quote(PACED, 0.1, 0.5, 5.0)
    assert renewed_quote(replace(PACED, step_times=((100, 0.0), (119, 38.0))), 0.1, 0.5, 5.0) == "", "too early to say"
    assert renewed_quote(PACED, 0.0, 0.0, 5.0) == "", "nobody pays"


def test_a_run_that_would_break_its_ceiling_says_so_and_where_it_will_end() -> None:
    told = renewed_quote(PACED, 0.1, 0.5, 0.2)
    assert "above limits.max_cost_usd = 0.2" in told
    assert "near step 454 of 1000" in told, "720 s are paid for, 72 of them for the way home"


def test_a_restarted_machine_is_counted_as_such() -> None:
    record = machine("a", None)
    assert record.starts == 0
    rates = (Rate(1.0, 0.005, True), Rate(2.0, 0.5, False), Rate(3.0, 0.005, True))
    record = MachineRecord("t", "dog", 1, "cloud", "a", 0.5, 0.0, MachineId("m"), 0.0, None, rates=rates)
    assert (record.starts, record.stopped, record.rate_usd) == (1, True, 0.005)


def elsewhere(high_usd: float) -> Quote:
    work = workload("stable-diffusion-v1-5/stable-diffusion-v1-5", wire.TrainSpec(), ("lora",))
    found = quote(work, Offer("cloud", "fast", "RTX 4090", 1, 24, Market.ON_DEMAND, 0.7))
    return replace(found, cost_usd=Range(high_usd / 4, high_usd / 2, high_usd))


@pytest.mark.parametrize(
    ("here_usd", "left_usd", "high_usd", "moved_before", "leaves"),
    [
        (0.9, 1.0, 0.2, False, False),  # it can be paid for here
        (1.5, 1.0, 0.8, False, True),
        (1.5, 1.0, 1.1, False, False),  # a bad guess would not do there either
        (1.5, 1.0, 0.8, True, False),  # once is enough
    ],
)
def test_a_slow_machine_is_left_when_the_ceiling_holds_elsewhere_and_not_here(
    here_usd: float, left_usd: float, high_usd: float, moved_before: bool, leaves: bool
) -> None:
    machines = [machine("a", Trouble.TOO_SLOW if moved_before else Trouble.PREEMPTED)]
    assert bool(why_leave(here_usd, left_usd, elsewhere(high_usd), machines)) is leaves


def test_the_rest_of_a_run_is_priced_by_its_own_pace() -> None:
    assert rest_usd(PACED, 0.5) == pytest.approx(0.27, abs=0.01), "870 steps of 2 s, and the way home"
    assert rest_usd(replace(PACED, step_times=((100, 0.0), (119, 38.0))), 0.5) is None
