"""The loop that drives a hosted job: load, ask `next_job_step`, do it, repeat. Any process can resume any run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from orchestrator.errors import WishChanged
from orchestrator.hosted.bills import JobsAsBills
from orchestrator.hosted.context import JobContext
from orchestrator.hosted.lifecycle import DoJob, JobFacts, next_job_step
from orchestrator.hosted.phases import PHASES
from orchestrator.latecomers import give_back_what_came_late
from orchestrator.lifecycle import EndReason, Finished, Move, Standing, State


def drive_job(context: JobContext) -> EndReason:
    """Drives the run to its end and returns why it ended. Errors as `orchestrator.driver.drive`."""
    facts = JobFacts()
    while True:
        run = context.ledger.run(context.run.name)
        context = replace(context, run=run)
        record = context.record()
        standing = record.standing if record else Standing.NONE
        match next_job_step(run.state, run.wish, standing, facts):
            case Finished():
                assert run.reason is not None
                return run.reason
            case Move() as move:
                if move.to in (State.PROVISIONING, State.ENDED):
                    bills, clock = JobsAsBills(context.jobs), context.clock
                    give_back_what_came_late(bills, context.ledger, run, clock, context.reporter.note)
                context.ledger.move(run.name, context.epoch, run.state, move.to, move.why, move.reason)
                context.reporter.moved(move.to, move.why)
            case DoJob(phase):
                with suppress(WishChanged):  # while the service was waited for: the next step knows the new wish
                    facts = PHASES[phase](context, facts)
