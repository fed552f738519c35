"""What the events of a run add up to: a pure fold, so that any process can rebuild it from the mirror."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from remote_trainer import wire


@dataclass(frozen=True)
class Progress:
    """The picture after some prefix of the event log."""

    phase: str = ""
    phase_detail: str = ""
    step: int = 0
    of: int = 0
    loss: float | None = None
    lr: float | None = None
    images_per_s: float | None = None
    step_times: tuple[tuple[int, float], ...] = ()
    """The last few (step, host seconds) of this supervisor's life, from which the ETA is drawn."""
    evaluations: tuple[wire.Evaluated, ...] = ()
    samples: tuple[wire.SampleMade, ...] = ()
    captions: tuple[wire.Captioned, ...] = ()
    checkpoints: tuple[wire.CheckpointCommitted, ...] = ()
    decisions: tuple[wire.Decision, ...] = ()
    warnings: tuple[wire.Warned, ...] = ()
    failed: wire.Failed | None = None
    stopped: wire.Stopped | None = None
    done: wire.Done | None = field(default=None)

    @property
    def eta_s(self) -> float | None:
        """Seconds to the last step at the recent pace; None before there is a pace."""
        if len(self.step_times) < 2:
            return None
        (first, start), (last, end) = self.step_times[0], self.step_times[-1]
        return (self.of - last) * (end - start) / (last - first) if last > first else None


PACE_WINDOW = 50


def advance(progress: Progress, envelope: wire.Envelope) -> Progress:
    """The picture after one more event."""
    match envelope.event:
        case wire.Hello():
            return replace(progress, step_times=(), failed=None, stopped=None, done=None)
        case wire.PhaseStarted(name, detail):
            return replace(progress, phase=name, phase_detail=detail)
        case wire.StepDone() as step:
            return replace(
                progress, step=step.step, of=step.of, loss=step.loss, lr=step.lr, images_per_s=step.images_per_s,
                step_times=(*progress.step_times, (step.step, envelope.t))[-PACE_WINDOW:],
            )  # fmt: skip
        case wire.Evaluated() as evaluation:
            return replace(progress, evaluations=(*progress.evaluations, evaluation))
        case wire.SampleMade() as sample:
            return replace(progress, samples=(*progress.samples, sample))
        case wire.Captioned() as caption:
            return replace(progress, captions=(*progress.captions, caption))
        case wire.CheckpointCommitted() as checkpoint:
            return replace(progress, checkpoints=(*progress.checkpoints, checkpoint))
        case wire.Decision() as decision:
            return replace(progress, decisions=(*progress.decisions, decision))
        case wire.Warned() as warning:
            return replace(progress, warnings=(*progress.warnings, warning))
        case wire.Failed() as failed:
            return replace(progress, failed=failed)
        case wire.Stopped() as stopped:
            return replace(progress, stopped=stopped)
        case wire.Done() as done:
            return replace(progress, done=done)
        case wire.Heartbeat() | wire.Uploaded() | wire.SelfReleased() | wire.Unknown():
            return progress
