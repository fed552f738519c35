"""What a hosted job bills, in the terms of the ledger: nothing in the queue, its price while it computes, then nothing.

The service's own count (`Job.computed_s`) times the price is the bill; our count in between is what ceilings are held
by.
"""

from __future__ import annotations

from orchestrator.hosted.context import JobContext
from orchestrator.ledger import MachineRecord
from providers.jobs import Job


def note_billing(context: JobContext, tag: str, job: Job) -> float:
    """Writes down when it began to compute, once that is seen. Returns how long it has computed, in seconds."""
    record = _record(context, tag)
    now = context.clock.now()
    began = _began(record)
    if began is None and job.started_at is not None:
        began = min(now, max(record.bills_since, job.started_at))
        context.ledger.record_rate(context.run.name, context.epoch, tag, record.price_per_hour_usd, began)
    if job.computed_s is not None:
        return job.computed_s
    return 0.0 if began is None else now - began


def settle_over(context: JobContext, tag: str, job: Job) -> None:
    """A job that is over bills no more; what it has billed is the service's word. Twice is safe."""
    record = _record(context, tag)
    began, computed_s = _began(record), job.computed_s or 0.0
    if record.absent_at is None:
        if began is not None:
            until = min(context.clock.now(), began + computed_s)
            context.ledger.record_rate(context.run.name, context.epoch, tag, 0.0, until)
        context.ledger.record_absent(context.run.name, context.epoch, tag)
    context.ledger.record_bill(tag, computed_s * record.price_per_hour_usd / 3600)


def _record(context: JobContext, tag: str) -> MachineRecord:
    return next(machine for machine in context.ledger.machines(context.run.name) if machine.tag == tag)


def _began(record: MachineRecord) -> float | None:
    return next((rate.at for rate in record.rates if rate.usd_per_hour > 0), None)
