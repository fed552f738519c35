"""What a hosted job says, written down as the events of any run: so `logs`, `attach`, `status` and `report` read them.

The raw log stands in `train.log` as far as it has been read; together with the newest step that makes a driver that was
killed in between go on without losing or doubling a line.
"""

from __future__ import annotations

from orchestrator.hosted.context import JobContext
from orchestrator.hosted.log import fresh_part, steps_in
from orchestrator.mirror import Mirror
from providers.jobs import Job, JobId, JobStatus
from remote_trainer import wire

QUEUED = wire.PhaseStarted("queue", "waiting for a machine of the service; nothing is billed yet")
TRAINING = wire.PhaseStarted("train")


class JobTeller:
    """One writer at a time: the run's driver."""

    def __init__(self, context: JobContext, job_id: JobId) -> None:
        self._context, self._job_id = context, job_id
        file = context.home.events(job_id)
        is_new = not file.exists()
        self._mirror = Mirror(file)
        self._seq = len(file.read_bytes().splitlines())
        if is_new:
            context.home.trainer_log.unlink(missing_ok=True)  # of an earlier job
            self._emit(wire.Hello(wire.PROTOCOL, context.quote.provider, "", 0, context.epoch))

    def tell(self, job: Job) -> None:
        """What is new since the last look."""
        phase, of = self._mirror.progress.phase, self._context.quote.steps
        if job.status is JobStatus.QUEUED and not phase:
            self._emit(QUEUED)
        if job.started_at is not None and phase != TRAINING.name:
            self._emit(TRAINING)
        log = self._context.home.trainer_log
        known = log.read_text("utf-8", errors="replace") if log.exists() else ""
        fresh = fresh_part(known, job.logs)
        for step in steps_in(fresh, of, self._mirror.progress.step):
            self._emit(step)
        if fresh:
            with log.open("a", encoding="utf-8", newline="") as file:
                file.write(fresh)
        if job.status is JobStatus.FAILED or (job.status is JobStatus.CANCELED and job.started_at is None):
            self._failed(job)

    def done(self, step: int, manifest_sha256: str) -> None:
        if self._mirror.progress.done is None:
            self._emit(wire.Done(step, manifest_sha256))

    def close(self) -> None:
        self._mirror.close()

    def _failed(self, job: Job) -> None:
        if self._mirror.progress.failed is None:
            message = job.error or f"the service says {job.status_text} and no reason"
            hint = f"`cloudbooth logs RUN --trainer` shows the trainer's own words; {job.web_url}"
            self._emit(wire.Failed("internal", message, hint))

    def _emit(self, event: wire.Event) -> None:
        self._seq += 1
        line = wire.encode_event(event, self._seq, self._context.clock.now())
        for envelope in self._mirror.feed(line):
            self._context.reporter.event(envelope, self._mirror.progress)
