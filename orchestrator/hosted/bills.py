"""Hosted jobs as what may bill: so that lost answers, forgotten jobs and orphans are settled like those of machines."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.latecomers import Ended
from providers.api import Machine, MachineId, MachineStatus
from providers.errors import MachineGone
from providers.jobs import Job, JobId, JobProvider, JobStatus

_STATUS = {
    JobStatus.QUEUED: MachineStatus.STARTING,
    JobStatus.RUNNING: MachineStatus.RUNNING,
    JobStatus.UNKNOWN: MachineStatus.UNKNOWN,
}


class JobsAsBills:
    """A job that goes on is there; one that is over is gone, and shows what it has billed."""

    def __init__(self, jobs: JobProvider) -> None:
        self.name, self._jobs = jobs.name, jobs

    def describe(self, machine: MachineId) -> Machine:
        job = self._jobs.poll(JobId(machine))
        if job.status.is_over:
            raise MachineGone(f"the job {machine} is over")
        return _as_machine(job)

    def list(self, prefix: str) -> Sequence[Machine]:
        return [_as_machine(job) for job in self._jobs.list(prefix) if not job.status.is_over]

    def ended(self, prefix: str) -> Sequence[Ended]:
        return [
            Ended(job.tag, MachineId(job.id), job.started_at or job.created_at, job.computed_s or 0.0)
            for job in self._jobs.list(prefix)
            if job.status.is_over
        ]

    def release(self, machine: MachineId) -> None:
        self._jobs.cancel(JobId(machine))


def _as_machine(job: Job) -> Machine:
    return Machine(MachineId(job.id), job.tag, _STATUS[job.status], job.status_text, 0.0, None)
