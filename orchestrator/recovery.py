"""What is learned from machines that failed, and how long one waits for the next. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from orchestrator.budget import reserve_s, spent_usd
from orchestrator.estimates import Quote
from orchestrator.interruptions import Seen
from orchestrator.ledger import ArtifactRecord, MachineRecord
from orchestrator.lifecycle import Keeps, Trouble
from orchestrator.offers import OfferHistory
from orchestrator.progress import Progress
from providers.api import Market

CAPACITY_FIRST_PAUSE_S = 15.0
CAPACITY_LAST_PAUSE_S = 300.0
CAPACITY_PATIENCE_S = 3600.0
"""For so long in all a driver looks for a machine when none that fits is offered; nothing is billed meanwhile."""
PRICE_TOLERANCE = 0.1
"""How far a machine's price may lie above its offer: disk and rounding, not another price."""
MEASURED_STEPS = 20
"""So many show the pace of a machine; the first few alone are those of warming up."""
RESCUE_PATIENCE_S = {Keeps.MODEL: 1800.0, Keeps.UNKNOWN: 1800.0, Keeps.CHECKPOINT: 300.0, Keeps.NOTHING: 0.0}
IN_CONTACT_S = 120.0
"""A host that was heard this recently has told everything that matters."""


def history_of(machines: Sequence[MachineRecord], max_cost_usd: float, now: float) -> OfferHistory:
    """What choosing the next offer has to know, from the machines of all attempts."""
    return OfferHistory(
        interruptions=sum(machine.trouble is Trouble.PREEMPTED for machine in machines),
        quarantined=frozenset(m.offer_id for m in machines if m.trouble is not None and is_the_hosts_fault(m.trouble)),
        remaining_usd=max_cost_usd - spent_usd(machines, now) if machines else None,
        seen=spot_record(machines, now),
    )


def spot_record(machines: Iterable[MachineRecord], now: float) -> dict[str, Seen]:
    """How often spot machines were taken away, and how long they lived, by provider."""
    record: dict[str, Seen] = {}
    for machine in machines:
        if machine.market is Market.SPOT and machine.machine_id is not None:
            before = record.get(machine.provider, Seen(0, 0.0))
            until = now if machine.absent_at is None else machine.absent_at
            hours = max(0.0, until - machine.bills_since) / 3600
            taken = machine.trouble is Trouble.PREEMPTED
            record[machine.provider] = Seen(before.interruptions + taken, before.hours + hours)
    return record


def is_the_hosts_fault(trouble: Trouble) -> bool:
    """Whether the same offer would be likely to fail again."""
    match trouble:
        case Trouble.PREEMPTED:
            return False
        case Trouble.LOST | Trouble.BROKEN | Trouble.TOO_DEAR | Trouble.TOO_SLOW:
            return True
    assert_never(trouble)


def taken_away(market: Market) -> Trouble:
    """What it is called when a machine is gone or stopped and nobody of us asked for it."""
    return Trouble.PREEMPTED if market is Market.SPOT else Trouble.LOST


def capacity_pause_s(waited_s: float) -> float | None:
    """How long to wait before offers are asked for again, as long as all pauses so far; None: no longer."""
    if waited_s >= CAPACITY_PATIENCE_S:
        return None
    return min(CAPACITY_LAST_PAUSE_S, max(CAPACITY_FIRST_PAUSE_S, waited_s))


def too_dear(offered_usd: float | None, billed_usd: float, max_price_usd: float | None) -> str:
    """Why a machine is given back for its price per hour; empty when it may stay.

    `offered_usd`: None for one that was started again, perhaps by a higher bid: that has its cap at the provider.
    """
    if max_price_usd is not None and billed_usd > max_price_usd + 0.005:
        return f"the machine bills ${billed_usd:.2f}/h, above the limit of ${max_price_usd:.2f}/h"
    if offered_usd is not None and billed_usd > offered_usd * (1 + PRICE_TOLERANCE) + 0.005:
        return f"the machine bills ${billed_usd:.2f}/h, and ${offered_usd:.2f}/h was offered"
    return ""


def rest_usd(progress: Progress, usd_per_hour: float) -> float | None:
    """What the rest of the run costs on its machine, by its own pace; None before `MEASURED_STEPS` have shown that, and
    where nobody pays.

    The end of the run (export, the way home) is counted as `budget.reserve_s` of the time that training takes.
    """
    if usd_per_hour <= 0 or len(progress.step_times) < 2 or progress.eta_s is None:
        return None
    if progress.step_times[-1][0] - progress.step_times[0][0] < MEASURED_STEPS:
        return None
    return (progress.eta_s + reserve_s(progress.eta_s)) / 3600 * usd_per_hour


def why_leave(here_usd: float, left_usd: float, elsewhere: Quote, machines: Iterable[MachineRecord]) -> str:
    """Why a machine is left for another: with it the run breaks its ceiling, there even a bad guess does not.

    `here_usd` and `elsewhere` are what the rest of the run costs, `left_usd` what may still be spent, `machines` those
    of the attempt: it moves for this reason once. Empty: the machine is kept.
    """
    if here_usd <= left_usd or elsewhere.cost_usd.high > left_usd:
        return ""
    if any(machine.trouble is Trouble.TOO_SLOW for machine in machines):
        return ""
    return (
        f"with this machine the run would break its ceiling (${here_usd:.2f} of the ${left_usd:.2f} left), on "
        f"{elsewhere.offer.gpu} the rest is expected to cost ${elsewhere.cost_usd.expected:.2f}"
    )


def renewed_quote(progress: Progress, spent_usd: float, usd_per_hour: float, ceiling_usd: float) -> str:
    """What is said once a machine has shown its pace (`rest_usd`); empty before, and where nobody pays."""
    rest = rest_usd(progress, usd_per_hour)
    if rest is None:
        return ""
    (first, begin_s), (last, end_s) = progress.step_times[0], progress.step_times[-1]
    total_usd = spent_usd + rest
    pace = f"{(end_s - begin_s) / (last - first):.2g} s a step: the run is going to cost about ${total_usd:.2f}"
    if total_usd <= ceiling_usd:
        return f"{pace}, of ${ceiling_usd:g} that it may"
    step_s = (end_s - begin_s) / (last - first)
    payable_s = max(0.0, ceiling_usd - spent_usd) / usd_per_hour * 3600
    reached = min(progress.of, last + int(max(0.0, payable_s - reserve_s(payable_s)) / step_s))
    return (
        f"{pace}, above limits.max_cost_usd = {ceiling_usd:g}: it will end with a checkpoint near step {reached} "
        f"of {progress.of}; `cloudbooth resume` with a higher --max-cost goes on from there"
    )


def kept_alone(progress: Progress, artifacts: Sequence[ArtifactRecord], silence_s: float) -> Keeps:
    """What the disk of a machine holds that came home nowhere, judged by its events and by what is on record.

    `progress` is that of the machine's own log as far as it came home; it has been silent for `silence_s` since, in
    which training may have gone on.
    """
    if progress.done is not None:
        home = any(a.kind == "output" and a.manifest_sha256 == progress.done.manifest_sha256 for a in artifacts)
        return Keeps.NOTHING if home else Keeps.MODEL
    over = progress.failed is not None or progress.stopped is not None
    if not over and _may_have_finished(progress, silence_s):
        return Keeps.UNKNOWN
    step_at_home = max((a.step for a in artifacts if a.kind == "checkpoint"), default=0)
    newest = max((checkpoint.step for checkpoint in progress.checkpoints), default=0)
    return Keeps.CHECKPOINT if newest > step_at_home else Keeps.NOTHING


def to_do_again_s(progress: Progress, artifacts: Sequence[ArtifactRecord]) -> float | None:
    """What giving up a machine's newest checkpoint costs, in seconds of training; None where no pace is known."""
    if len(progress.step_times) < 2:
        return None
    (first, begin_s), (last, end_s) = progress.step_times[0], progress.step_times[-1]
    step_at_home = max((a.step for a in artifacts if a.kind == "checkpoint"), default=0)
    newest = max((checkpoint.step for checkpoint in progress.checkpoints), default=0)
    return max(0, newest - step_at_home) * (end_s - begin_s) / max(1, last - first)


def rescue_patience_s(keeps: Keeps, again_s: float | None) -> float:
    """For how long a driver asks a stopped machine's host for its GPU. It is asked once in any case.

    A mere checkpoint is not waited for longer than training it again takes, `again_s`: another machine, which boots
    meanwhile, is then as far.
    """
    if keeps is Keeps.CHECKPOINT and again_s is not None:
        return min(RESCUE_PATIENCE_S[keeps], again_s)
    return RESCUE_PATIENCE_S[keeps]


def _may_have_finished(progress: Progress, silence_s: float) -> bool:
    if progress.eta_s is None:
        return silence_s > IN_CONTACT_S
    return progress.eta_s <= silence_s
