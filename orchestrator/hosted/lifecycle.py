"""What to do next about a run that trains as a hosted job. Pure, as `orchestrator.lifecycle` is for machines.

The states are those of every run, so that `ps`, `attach`, `stop`, `down` and `resume` need not know the difference; the
steps between them are fewer. In the ledger the job stands where a machine would: what may bill is found there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from orchestrator.lifecycle import EndReason, Finished, Move, Standing, State, Wish
from providers.jobs import Job, JobStatus


class JobPhase(Enum):
    SUBMIT = "submit"
    SETTLE = "settle"
    FOLLOW = "follow"
    FETCH = "fetch"
    CANCEL = "cancel"


@dataclass(frozen=True)
class JobFacts:
    """What this driver has learned since it started."""

    refused: str = ""
    """Why nothing can be submitted; empty while it is still tried."""
    job: Job | None = None
    """As it was last seen, once it is over."""
    over_limit: str = ""
    """Which limit it has reached; empty while it may go on."""
    gone: str = ""
    """Set when the service does not know the job any more."""
    fetched: bool = False

    @property
    def succeeded(self) -> bool:
        return self.job is not None and self.job.status is JobStatus.SUCCEEDED


@dataclass(frozen=True)
class DoJob:
    phase: JobPhase


JobStep = DoJob | Move | Finished
NO_CHECKPOINT = "a hosted job keeps no checkpoint, so nothing of it comes home"


def next_job_step(state: State, wish: Wish, standing: Standing, facts: JobFacts) -> JobStep:
    """What a driver does now. Equal arguments, equal answer."""
    if state not in (State.RELEASING, State.ENDED):
        if wish.ends_now:
            return Move(State.RELEASING, "`down` was asked for", EndReason.CANCELED)
        if wish is Wish.STOP and state is not State.RETRIEVING and not facts.succeeded:
            return Move(State.RELEASING, f"`stop` was asked for; {NO_CHECKPOINT}", EndReason.STOPPED)
    match state:
        case State.PLANNED:
            return Move(State.PROVISIONING, "the plan was accepted")
        case State.PROVISIONING:
            return _provisioning(standing, facts)
        case State.TRAINING:
            return _training(facts)
        case State.RETRIEVING:
            if facts.fetched:
                return Move(State.RELEASING, "all files are here and verified")
            return DoJob(JobPhase.FETCH)
        case State.RELEASING:
            match standing:
                case Standing.NONE | Standing.ABSENT:
                    return Move(State.ENDED, "no job goes on")
                case Standing.UNSETTLED:
                    return DoJob(JobPhase.SETTLE)
                case Standing.HELD:
                    return DoJob(JobPhase.CANCEL)
            assert_never(standing)
        case State.ENDED:
            return Finished()
        case State.SHIPPING | State.RESCUING | State.RECOVERING | State.KEEPING:
            return Move(State.RELEASING, "a hosted job has no such state", EndReason.CANCELED)
    assert_never(state)


def _provisioning(standing: Standing, facts: JobFacts) -> JobStep:
    match standing:
        case Standing.NONE | Standing.ABSENT:
            if facts.refused:
                return Move(State.RELEASING, facts.refused, EndReason.NO_MACHINE)
            return DoJob(JobPhase.SUBMIT)
        case Standing.UNSETTLED:
            return DoJob(JobPhase.SETTLE)
        case Standing.HELD:
            return Move(State.TRAINING, "the job was accepted")
    assert_never(standing)


def _training(facts: JobFacts) -> JobStep:
    if facts.over_limit:
        return Move(State.RELEASING, f"{facts.over_limit}; {NO_CHECKPOINT}", EndReason.STOPPED)
    if facts.gone:
        return Move(State.RELEASING, facts.gone, EndReason.MACHINE_LOST)
    if facts.job is None:
        return DoJob(JobPhase.FOLLOW)
    match facts.job.status:
        case JobStatus.SUCCEEDED:
            return Move(State.RETRIEVING, "training is done", EndReason.DONE)
        case JobStatus.FAILED:
            return Move(State.RELEASING, "the trainer gave up", EndReason.TRAINING_FAILED)
        case JobStatus.CANCELED if facts.job.started_at is None:
            return Move(State.RELEASING, "the service gave the job up before it began", EndReason.TRAINING_FAILED)
        case JobStatus.CANCELED:
            return Move(State.RELEASING, "the job was canceled at the service", EndReason.CANCELED)
        case JobStatus.QUEUED | JobStatus.RUNNING | JobStatus.UNKNOWN:
            return DoJob(JobPhase.FOLLOW)
    assert_never(facts.job.status)
