"""An event as one line of text, in rich markup."""

from __future__ import annotations

from typing import assert_never

from rich.markup import escape

from orchestrator.cli.render.spans import span
from orchestrator.progress import Progress
from remote_trainer import wire


def describe(event: wire.Event, progress: Progress) -> str | None:
    """None for events that say nothing to a person (heartbeats, the supervisor's greeting)."""
    match event:
        case wire.Hello() | wire.Heartbeat():
            return None
        case wire.PhaseStarted(name, detail):
            return f"{escape(name)}{': ' + escape(detail) if detail else ''}"
        case wire.Decision(what, why):
            return f"decided: {escape(what)} [dim]({escape(why)})[/]"
        case wire.StepDone():
            return _step(event, progress)
        case wire.Evaluated(step, mean_loss):
            return f"mean loss on the fixed set at step {step}: {mean_loss:.4f}"
        case wire.SampleMade(step, prompt, file):
            return f"picture at step {step}: {escape(file.path)} [dim]“{escape(prompt)}”[/]"
        case wire.Captioned(_, file, caption):
            return f"caption of {escape(file)}: [dim]“{escape(caption)}”[/]"
        case wire.CheckpointCommitted(step):
            return f"checkpoint at step {step} committed ({volume(event.bytes)})"
        case wire.Uploaded(step):
            return f"step {step} is in the store"
        case wire.SelfReleased(outcome):
            return f"the machine: {escape(outcome)}"
        case wire.Warned(message, hint):
            return f"[yellow]warning:[/] {escape(message)}" + (f" [dim]({escape(hint)})[/]" if hint else "")
        case wire.Failed(code, message):
            return f"[red]failed[/] ({escape(code)}): {escape(message)}"
        case wire.Stopped(step):
            return f"stopped at step {step}"
        case wire.Done(step):
            return f"[green]done[/] at step {step}"
        case wire.Unknown(type=kind):
            return f"[dim]{escape(kind)}[/]"
    assert_never(event)


STEP_LINES = 25
"""Of a run from its first step to its last, for people who read all of it at once."""


def tells_enough_anew(step: wire.StepDone, last: wire.StepDone | None) -> bool:
    """Whether a step deserves a line when `last` was the last that got one: 25 a run, its first and its last. Pure."""
    if last is None or step.step == step.of or step.step <= last.step:  # from a checkpoint, on another machine
        return True
    every = max(1, step.of // STEP_LINES)
    return step.step // every > last.step // every


def _step(step: wire.StepDone, progress: Progress) -> str:
    parts = [f"step {step.step}/{step.of}"]
    if step.loss is not None:
        parts.append(f"loss {step.loss:.4f}")
    if step.images_per_s is not None:
        parts.append(f"{step.images_per_s:.1f} images/s")
    if step.vram_gb is not None:
        parts.append(f"{step.vram_gb:.1f} GB")
    if progress.eta_s is not None and step.step < step.of:
        parts.append(f"{span(progress.eta_s)} left")
    return ", ".join(parts)


def volume(count: int) -> str:
    """`812 B`, `14 kB`, `1.2 MB`, `3.4 GB`, in powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{count} B"
