"""Getting a machine: the intent, the one `create`, settling a lost answer, waiting until it can be used."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.absence import AGREEMENT_S
from orchestrator.boot_plan import GUARD_FILE, boot_plan, guard_for
from orchestrator.budget import (
    BOOT_DEADLINE_S,
    MAX_MACHINES,
    WORTH_RENTING_S,
    first_lease_s,
    rescue_usd,
    seconds_left,
    spent_usd,
    unseen_usd,
)
from orchestrator.errors import StaleDriver
from orchestrator.home import RunHome
from orchestrator.host import ConnectionLost, HostError, HostUnreachable
from orchestrator.latecomers import SETTLE_AGE_S
from orchestrator.ledger import MachineRecord
from orchestrator.lifecycle import Facts, Keeps, Trouble, Wish
from orchestrator.measured import measured_speeds
from orchestrator.offers import Choice, choose, gpu_requests, machine_disk_gb, markets_of
from orchestrator.orphans import tag_prefix
from orchestrator.phases.context import RunContext
from orchestrator.phases.loss import Loss, declare_lost, loss_of_machine
from orchestrator.phases.persistence import wait_while_wanted
from orchestrator.phases.storage import after_a_loss
from orchestrator.picture_run import picture_record
from orchestrator.picture_work import PictureWork
from orchestrator.plan_json import planned_disk_gb, planned_pipeline
from orchestrator.recovery import capacity_pause_s, history_of, too_dear
from orchestrator.ssh.machine_keys import make_machine_keys
from orchestrator.staging import read_staged_job
from orchestrator.volumes import require_free
from orchestrator.whole_file import write_atomically
from providers.api import BootPlan, HasLogs, HasStop, Machine, MachineId, MachineStatus, Offer
from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    QuotaExceeded,
    Transient,
    UnsupportedMarket,
)

STANDING_TIMEOUT_S = 120.0
READY_POLL_S = 2.0
OVER = (MachineStatus.STOPPED, MachineStatus.FAILED)
"""Nothing is to be waited for."""
LOG_LOOKS, LOG_PAUSE_S = 4, 3.0
"""Services upload a machine's log some seconds after they were asked for it."""


def create(context: RunContext, facts: Facts) -> Facts:
    """Picks the best offer that fits now, writes the intent, then calls `create` once.

    A lost answer leaves the intent unsettled: it may have made a machine. Where nothing is to be had, offers are asked
    for again after longer and longer pauses, for `recovery.CAPACITY_PATIENCE_S` in all. An attempt rents a bounded
    number of machines, and none that the ceiling does not pay for. After a loss the store is asked first: raises
    StorageError when it cannot be, and nothing bills then.
    """
    intents = context.ledger.machines(context.run.name)
    of_attempt = [intent for intent in intents if intent.attempt == context.run.attempt]
    if any(intent.trouble is not None for intent in of_attempt) and context.home.sent_job.exists():
        facts = after_a_loss(context, facts)
        if facts.model_home:
            return facts
    if sum(intent.machine_id is not None for intent in of_attempt) >= MAX_MACHINES:
        return replace(facts, no_machine=f"{MAX_MACHINES} machines were rented in vain")
    try:
        choice = choose_next(context, intents, facts.refused)
    except NoCapacity as error:
        return _wait_for_capacity(context, facts, error)
    if choice.offer.id in facts.refused:
        return _wait_for_capacity(context, facts, NoCapacity(f"no {choice.offer.gpu} is left"))
    left_s = _seconds_left(context, choice, intents)
    if left_s < WORTH_RENTING_S:
        unaffordable = _unaffordable(context, choice.offer, intents)
        context.reporter.note(unaffordable)
        return replace(facts, no_machine=unaffordable)
    return _rent(context, facts, choice, len(intents) + 1, first_lease_s(left_s))


def choose_next(context: RunContext, intents: list[MachineRecord], avoided: frozenset[str]) -> Choice:
    """The best offer for what is still to be done; `avoided` are ids of offers besides those that failed the run.

    Raises NoCapacity, RunConflict for a volume in use, and what the provider raises.
    """
    if context.spec.compute.volume:
        require_free(context.provider, context.spec.compute.volume)
    wants = gpu_requests(context.spec, disk_gb=_disk_gb(context))
    offers = [offer for request in wants for offer in context.provider.offers(request)]
    history = history_of(intents, context.spec.limits.max_cost_usd, context.clock.now())
    steps_done = max((artifact.step for artifact in context.ledger.artifacts(context.run.name)), default=0)
    history = replace(history, quarantined=history.quarantined | avoided, steps_done=steps_done)
    return choose(context.spec, offers, history, _pictures_to_make(context), _measured_by_others(context))


def _disk_gb(context: RunContext) -> float:
    """As the plan said, which knew the pictures: the spec alone does not."""
    stated = context.spec.compute.disk_gb or planned_disk_gb(context.run.plan_json)
    return stated or machine_disk_gb(context.spec)


def _pictures_to_make(context: RunContext) -> PictureWork | None:
    """None for a run that trains."""
    record = picture_record(context.run.plan_json)
    wanted = read_staged_job(context.home).pictures if record is not None else None
    return None if record is None or wanted is None else record.work(wanted)


def _measured_by_others(context: RunContext) -> dict[str, float]:
    """As the plan was made with; not by this run, whose newest log may be of another GPU than was planned."""
    others = [run for run in context.ledger.runs() if run.name != context.run.name]
    pipeline = planned_pipeline(context.run.plan_json)
    return measured_speeds(context.spec, others, lambda name: RunHome(context.home.root.with_name(name)), pipeline)


def _wait_for_capacity(context: RunContext, facts: Facts, error: NoCapacity) -> Facts:
    pause_s = capacity_pause_s(facts.waited_s)
    if pause_s is None:
        context.reporter.note(error.message)
        return replace(facts, no_machine=f"nothing could be rented: {error.message}")
    context.reporter.note(f"{error.message}; asking again in {pause_s:.0f} s")
    wait_while_wanted(context, pause_s)
    return replace(facts, refused=frozenset(), waited_s=facts.waited_s + pause_s)


def _seconds_left(context: RunContext, choice: Choice, intents: list[MachineRecord]) -> float:
    offer, ceiling = choice.offer, context.spec.limits.max_cost_usd
    kept_back_usd = _kept_back_usd(context, offer) + choice.quote.traffic_usd
    return seconds_left(ceiling, offer.price_per_hour_usd, intents, context.clock.now(), kept_back_usd)


def _unaffordable(context: RunContext, offer: Offer, intents: list[MachineRecord]) -> str:
    """Said when the ceiling does not pay for a machine of this offer."""
    ceiling, now = context.spec.limits.max_cost_usd, context.clock.now()
    spent, unseen = spent_usd(intents, now), unseen_usd(intents, now)
    kept = f", ${unseen:.2f} of them for a machine whose creation was never answered" if unseen else ""
    return (
        f"${spent:.2f} of limits.max_cost_usd = {ceiling:g} are spent{kept}, which leaves too little for a machine "
        f"at ${offer.price_per_hour_usd:.2f}/h; `cloudbooth resume {context.run.name} --max-cost …` allows more"
    )


def _kept_back_usd(context: RunContext, offer: Offer) -> float:
    if not isinstance(context.provider, HasStop):
        return 0.0
    hours = context.spec.limits.rescue_hours
    return rescue_usd(offer.price_per_hour_usd, offer.stopped_disk_per_day_usd, hours)


def _rent(context: RunContext, facts: Facts, choice: Choice, number: int, lease_s: float) -> Facts:
    offer, run, epoch = choice.offer, context.run.name, context.epoch
    birth = int(context.clock.now())
    tag = f"{tag_prefix(context.ledger.installation)}{run}-{number}-{birth}"
    boot = BootPlan()
    if not context.machine_stands:
        what = f"{offer.gpu}, {offer.market.value}, ${offer.price_per_hour_usd:.2f}/h"
        context.reporter.note(f"renting {what}: {choice.why}")
        keys = make_machine_keys(context.home.machine_keys, tag)
        calls = context.provider.self_release(offer)
        boot = boot_plan(offer, keys, calls, _disk_gb(context), lease_s, context.spec.compute.volume)
        guard = guard_for(offer, calls, lease_s)
        if guard is not None:
            write_atomically(context.home.machine_keys / tag / GUARD_FILE, guard.encode())
    kept_back_usd, traffic_usd = _kept_back_usd(context, offer), choice.quote.traffic_usd
    context.ledger.record_intent(context.run, epoch, tag, offer, kept_back_usd, lease_s, traffic_usd)
    try:
        machine_id = context.provider.create(offer, boot, tag)
    except NoCapacity as error:
        context.reporter.note(error.message)
        context.settle_absent(tag, refused=True)
        return replace(facts, refused=facts.refused | {offer.id})
    except UnsupportedMarket as error:
        context.settle_absent(tag)
        if len(markets_of(context.spec)) == 1:
            raise
        context.reporter.note(error.message)
        return replace(facts, refused=facts.refused | {offer.id})
    except (AuthRejected, QuotaExceeded):
        context.settle_absent(tag, refused=True)
        raise
    except (Indeterminate, Transient) as error:
        context.reporter.note(f"{error.message}; looking whether a machine came of it")
        return facts
    try:
        context.ledger.record_created(run, epoch, tag, machine_id)
    except StaleDriver:
        _leave_to_the_living_driver(context, tag, machine_id)
        raise
    return facts


def _leave_to_the_living_driver(context: RunContext, tag: str, machine_id: MachineId) -> None:
    """It finds the machine by its tag, unless it has stopped looking: then nobody else would give it back."""
    record = next(machine for machine in context.ledger.machines(context.run.name) if machine.tag == tag)
    if record.absent_at is not None:
        context.ledger.reopen(tag, machine_id)
        context.provider.release(machine_id)
        context.reporter.note(f"{tag} was created too late for the run and is given back")


def settle(context: RunContext, facts: Facts) -> Facts:
    """Finds out what became of an intent without an answer: adopts its machine, or records that there is none.

    A list may lag behind: absence is believed when two empty lists agree and the intent is `SETTLE_AGE_S` old.
    """
    machine = context.machine()
    assert machine is not None
    looks = 0
    while looks < 2 or context.clock.now() - machine.intent_at < SETTLE_AGE_S:
        found = [listed for listed in context.provider.list(machine.tag) if listed.tag == machine.tag]
        if found:
            context.ledger.record_created(context.run.name, context.epoch, machine.tag, found[0].id, adopted=True)
            return facts
        looks += 1
        if context.machine_stands and looks == 2:
            break  # its list is a folder on this machine
        context.clock.sleep(AGREEMENT_S)
        context.require_driver()
    context.settle_absent(machine.tag)
    return facts


def await_ready(context: RunContext, facts: Facts) -> Facts:
    """Waits until the machine answers and our code runs there, or until the user wants something else.

    A rented machine is looked at first: one that bills more than it should is lost, and so is one that does not let
    us in until `BOOT_DEADLINE_S`, for whatever reason. Until then another host key or a refused login may be those of
    an image that has not finished its start; nothing is sent to such a host. One that nobody has seen yet is not gone
    before it is `SETTLE_AGE_S` old: giving back what does not show would leave it standing. For a machine that stands
    on its own HostUnreachable is raised after two minutes, and a refused key or login at once.
    """
    if context.machine_stands:
        return _await_standing(context, facts)
    deadline = context.clock.monotonic() + BOOT_DEADLINE_S
    record = context.held_machine()
    assert record.machine_id is not None
    said, seen = "", False
    while _is_wanted(context, record):
        try:
            machine, seen = context.provider.describe(record.machine_id), True
        except MachineGone:
            if seen or context.clock.now() - record.bills_since >= SETTLE_AGE_S:
                raise
            context.require_driver()
            context.clock.sleep(READY_POLL_S)
            continue
        dear = _check_price(context, record, machine)
        if dear:
            return declare_lost(context, facts, Loss(Trouble.TOO_DEAR, dear))
        if machine.status in OVER and isinstance(loss := loss_of_machine(context), Loss):
            if loss.trouble is Trouble.BROKEN:
                _keep_boot_log(context, record)
            return declare_lost(context, facts, loss)
        try:
            if machine.access is not None:
                context.open_remote().host.close()
                return replace(facts, reachable=True, heard_at_s=context.clock.monotonic())
        except HostError as error:
            if error.message != said:
                context.reporter.note(f"waiting for the machine: {error.message}")
            said = error.message
        if context.clock.monotonic() >= deadline:
            _keep_boot_log(context, record)
            last = f": {said}" if said else ""
            why = f"the machine did not answer within {BOOT_DEADLINE_S / 60:.0f} min{last}"
            return declare_lost(context, facts, Loss(Trouble.BROKEN, why))
        context.require_driver()
        context.clock.sleep(READY_POLL_S)
    return facts


def _await_standing(context: RunContext, facts: Facts) -> Facts:
    deadline = context.clock.monotonic() + STANDING_TIMEOUT_S
    while context.wish() is Wish.RUN:
        try:
            context.open_remote().host.close()
            return replace(facts, reachable=True)
        except (HostUnreachable, ConnectionLost) as error:
            if context.clock.monotonic() >= deadline:
                raise
            context.reporter.note(f"waiting for the machine: {error.message}")
        context.require_driver()
        context.clock.sleep(READY_POLL_S)
    return facts


def _is_wanted(context: RunContext, record: MachineRecord) -> bool:
    """One with something of its own is waited for by those, too, who only want to have that."""
    wish = context.wish()
    return wish is Wish.RUN or (wish is Wish.STOP and record.keeps is not Keeps.NOTHING)


def _check_price(context: RunContext, record: MachineRecord, machine: Machine) -> str:
    """Writes down what it bills, if that is not what was offered, and says what is wrong with it."""
    billed = machine.price_per_hour_usd
    if machine.status is MachineStatus.STOPPED or billed <= 0:
        return ""
    if billed > record.rate_usd:
        since = None if record.rates else record.bills_since
        context.ledger.record_rate(context.run.name, context.epoch, record.tag, billed, since)
    offered = None if record.starts else record.price_per_hour_usd
    return too_dear(offered, billed, context.spec.compute.max_price_per_hour)


def _keep_boot_log(context: RunContext, record: MachineRecord) -> None:
    """What the provider can show of a boot that failed; the machine is about to be given back."""
    if not isinstance(context.provider, HasLogs):
        return
    assert record.machine_id is not None
    try:
        text = context.provider.logs(record.machine_id)
        for _ in range(LOG_LOOKS - 1):
            if text:
                break
            context.clock.sleep(LOG_PAUSE_S)
            text = context.provider.logs(record.machine_id)
    except CloudboothError as error:
        context.reporter.note(f"its boot log cannot be read: {error.message}")
        return
    if text:
        file = context.home.root / f"boot-{record.tag}.log"
        file.write_text(text, "utf-8")
        context.reporter.note(f"its boot log is in {file}")


def look(context: RunContext, facts: Facts) -> Facts:
    """What stands on the host now. Raises HostError when it cannot be asked."""
    remote = context.open_remote()
    try:
        return replace(facts, host=remote.status())
    finally:
        remote.host.close()
