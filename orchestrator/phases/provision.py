"""Getting a machine: the intent, the one `create`, settling a lost answer, waiting until it can be used."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.budget import MAX_MACHINES
from orchestrator.host import ConnectionLost, HostUnreachable
from orchestrator.lifecycle import Facts, Wish
from orchestrator.offers import choose, gpu_requests
from orchestrator.orphans import tag_prefix
from orchestrator.phases.context import RunContext
from orchestrator.phases.loss import AGREEMENT_S
from providers.api import BootPlan
from providers.errors import AuthRejected, Indeterminate, NoCapacity, QuotaExceeded, Transient

STANDING_TIMEOUT_S = 120.0
BOOT_TIMEOUT_S = 600.0
READY_POLL_S = 2.0
SETTLE_AGE_S = 180.0
"""Providers have been seen to list a machine only minutes after it was made."""


def create(context: RunContext, facts: Facts) -> Facts:
    """Picks the best offer that fits now, writes the intent, then calls `create` once.

    A lost answer leaves the intent unsettled: it may have made a machine. An attempt makes a bounded number of intents.
    """
    intents = context.ledger.machines(context.run.name)
    if sum(intent.attempt == context.run.attempt for intent in intents) >= MAX_MACHINES:
        context.reporter.note(f"{MAX_MACHINES} machines were asked for in vain")
        return replace(facts, no_capacity=True)
    offers = [offer for request in gpu_requests(context.spec) for offer in context.provider.offers(request)]
    try:
        offer = choose(context.spec, offers).offer
    except NoCapacity as error:
        context.reporter.note(error.message)
        return replace(facts, no_capacity=True)
    birth = int(context.clock.now())
    tag = f"{tag_prefix(context.ledger.installation)}{context.run.name}-{len(intents) + 1}-{birth}"
    context.ledger.record_intent(context.run, context.epoch, tag, offer.id, offer.price_per_hour_usd)
    try:
        machine_id = context.provider.create(offer, BootPlan(), tag)
    except NoCapacity as error:
        context.reporter.note(error.message)
        context.ledger.record_absent(context.run.name, context.epoch, tag)
        return replace(facts, no_capacity=True)
    except (AuthRejected, QuotaExceeded):
        context.ledger.record_absent(context.run.name, context.epoch, tag)
        raise
    except (Indeterminate, Transient) as error:
        context.reporter.note(f"{error.message}; looking whether a machine came of it")
        return facts
    context.ledger.record_created(context.run.name, context.epoch, tag, machine_id)
    return facts


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
    context.ledger.record_absent(context.run.name, context.epoch, machine.tag)
    return facts


def await_ready(context: RunContext, facts: Facts) -> Facts:
    """Waits until the machine answers and our code runs there, or until the user wants something else.

    A rented machine that does not within ten minutes is lost; for one that stands on its own HostUnreachable is
    raised after two, and a refused key or login at once.
    """
    deadline = context.clock.monotonic() + (STANDING_TIMEOUT_S if context.machine_stands else BOOT_TIMEOUT_S)
    while context.wish() is Wish.RUN:
        try:
            if context.access() is not None:
                context.open_remote().host.close()
                return replace(facts, reachable=True)
        except (HostUnreachable, ConnectionLost) as error:
            if context.machine_stands and context.clock.monotonic() >= deadline:
                raise
            context.reporter.note(f"waiting for the machine: {error.message}")
        if context.clock.monotonic() >= deadline:
            return replace(facts, machine_lost=f"the machine did not answer within {BOOT_TIMEOUT_S / 60:.0f} min")
        context.require_driver()
        context.clock.sleep(READY_POLL_S)
    return facts


def look(context: RunContext, facts: Facts) -> Facts:
    """What stands on the host now. Raises HostError when it cannot be asked."""
    remote = context.open_remote()
    try:
        return replace(facts, host=remote.status())
    finally:
        remote.host.close()
