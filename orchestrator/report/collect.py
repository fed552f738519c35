"""Reads what is known of a run on this laptop into one `Report`: ledger, event mirror, folders. Asks no host.

What hosts have written is foreign text: a picture or photo counts only where it lies in the run's own folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.driver_lock import is_driven
from orchestrator.hints import hint_for
from orchestrator.home import RunHome
from orchestrator.ledger import Ledger, RunRecord
from orchestrator.lifecycle import State
from orchestrator.progress import Progress, advance
from orchestrator.report.contents import (
    LossPoint,
    Notice,
    Photo,
    Place,
    Report,
    Sample,
    SampleSeries,
    Setting,
    StepPoint,
)
from orchestrator.report.history import host_phases, machine_entries, money_of, state_spans
from orchestrator.report.recorded_plan import RecordedPlan, stated_guidance
from orchestrator.report.scores import read_judgement
from orchestrator.report.usage import model_files
from orchestrator.understanding import understood
from remote_trainer import wire

T = TypeVar("T")


def collect(ledger: Ledger, home: RunHome, run_name: str, now: float) -> Report:
    """The run as it stands at `now` (Unix seconds). Raises UsageError for an unknown run and HostError for a mirror of
    a newer version; what is missing or was removed is left out.
    """
    run = ledger.run(run_name)
    moves, machines = ledger.moves(run_name), ledger.machines(run_name)
    plan = RecordedPlan.of_json(run.plan_json)
    logs = [_events(file) for file in home.event_logs()]
    events = [envelope for log in logs for envelope in log]
    progress = Progress()
    for envelope in events:
        progress = advance(progress, envelope)
    spans = state_spans(run, moves, now)
    output = _output_folder(ledger, run_name)
    record = _json_object(output / "training.json") if output else {}
    guidance = stated_guidance(run.spec_json)
    return Report(
        run=run.name,
        at=now,
        state=run.state.value,
        reason=run.reason.value if run.reason and run.state is State.ENDED else None,
        attempt=run.attempt,
        base=plan.base,
        method=plan.method,
        instance_prompt=plan.instance_prompt,
        created_at=run.created_at,
        ended_at=run.ended_at,
        step=progress.step,
        of=progress.of or plan.steps,
        eta_s=progress.eta_s if run.state is State.TRAINING else None,
        active_s=sum(span.seconds for span in spans),
        steps=_steps(events),
        losses=_losses(progress),
        samples=_samples(progress, home),
        judgement=read_judgement(home.root / wire.VALIDATION_FOLDER),
        photos=_photos(home),
        spans=spans,
        host_phases=host_phases(logs),
        machines=machine_entries(run, machines, now),
        money=money_of(machines, spans, now, plan.quote_usd, plan.ceiling_usd if plan.quote_usd else None),
        notices=_notices(run, plan, events, progress, is_unattended=_is_unattended(run, home)),
        settings=plan.settings,
        decisions=_once([*plan.decisions, *progress.decisions]),
        environment=_environment(record, events),
        model_files=model_files(output, plan.instance_prompt, plan.base, guidance) if output else (),
        places=_places(ledger, home, run_name, output),
    )


def _events(file: Path) -> list[wire.Envelope]:
    content = file.read_bytes()
    with understood(str(file)):
        return [wire.decode_event(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def _steps(events: Iterable[wire.Envelope]) -> tuple[StepPoint, ...]:
    """A step that was made anew after an interruption counts as the last one made it."""
    made = {e.event.step: e.event for e in events if isinstance(e.event, wire.StepDone)}
    told = ((step, event.loss, event.lr) for step, event in sorted(made.items()))
    return tuple(StepPoint(step, loss, lr) for step, loss, lr in told if loss is not None and lr is not None)


def _losses(progress: Progress) -> tuple[LossPoint, ...]:
    looks = {look.step: look.mean_loss for look in progress.evaluations}
    return tuple(LossPoint(step, loss) for step, loss in sorted(looks.items()))


def _samples(progress: Progress, home: RunHome) -> tuple[SampleSeries, ...]:
    """Prompts in the order in which their pictures were first made."""
    series: dict[str, dict[int, str]] = {}
    for sample in progress.samples:
        path = _within(home.root / wire.VALIDATION_FOLDER, home.root / sample.file.path)
        if path is not None:
            series.setdefault(sample.prompt, {})[sample.step] = str(path)
    return tuple(
        SampleSeries(prompt, tuple(Sample(step, path) for step, path in sorted(by_step.items())))
        for prompt, by_step in series.items()
    )


def _photos(home: RunHome) -> tuple[Photo, ...]:
    """Of the subject, from the job and the folder that is shipped; none before the run was staged."""
    try:
        job = wire.loads(wire.Job, home.job_file.read_bytes())
    except (OSError, wire.WireError):
        return ()
    photos = []
    for dataset in job.datasets:
        for image in dataset.images if dataset.role == "instance" else ():
            path = _within(home.staged, home.staged / dataset.folder / image.file)
            if path is not None:
                photos.append(Photo(Path(image.file).name, str(path), image.caption or ""))
    return tuple(photos)


def _within(folder: Path, path: Path) -> Path | None:
    """`path` when it is a file below `folder`, links and `..` resolved."""
    real = path.resolve()
    return real if real.is_relative_to(folder.resolve()) and real.is_file() else None


def _notices(
    run: RunRecord, plan: RecordedPlan, events: Sequence[wire.Envelope], progress: Progress, *, is_unattended: bool
) -> tuple[Notice, ...]:
    """Failures first; what was said twice is told once."""
    failures = [e.event for e in events if isinstance(e.event, wire.Failed)]
    notices = [Notice(True, failure.message, hint_for(run.name, failure.hint)) for failure in reversed(failures)]
    if is_unattended:
        hint = f"`cloudbooth attach {run.name}` takes it up where it is"
        notices.append(Notice(True, "no process of this machine follows the run", hint))
    warnings = [*plan.warnings, *progress.warnings]
    notices += [Notice(False, warning.message, hint_for(run.name, warning.hint)) for warning in warnings]
    return _once(notices)


def _is_unattended(run: RunRecord, home: RunHome) -> bool:
    return run.state is not State.ENDED and not is_driven(home.driver_lock)


def _once(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))


def _environment(record: dict[str, Any], events: Sequence[wire.Envelope]) -> tuple[Setting, ...]:
    """The versions that `training.json` states, and what Python the supervisors ran."""
    versions = record.get("versions")
    stated = versions.items() if isinstance(versions, dict) else ()
    hellos = [e.event for e in events if isinstance(e.event, wire.Hello)]
    told = [Setting(str(name), str(version)) for name, version in stated]
    told += [Setting("supervisor's Python", python) for python in _once(hello.python for hello in hellos)]
    return tuple(told)


def _output_folder(ledger: Ledger, run_name: str) -> Path | None:
    outputs = [Path(a.folder) for a in ledger.artifacts(run_name) if a.kind == "output" and Path(a.folder).is_dir()]
    return outputs[-1] if outputs else None


def _places(ledger: Ledger, home: RunHome, run_name: str, output: Path | None) -> tuple[Place, ...]:
    checkpoints = [a for a in ledger.artifacts(run_name) if a.kind == "checkpoint" and Path(a.folder).is_dir()]
    candidates = [
        ("model", output),
        ("newest checkpoint", Path(checkpoints[-1].folder) if checkpoints else None),
        ("validation pictures", home.root / wire.VALIDATION_FOLDER),
        ("photos as trained", home.staged),
        ("trainer's log", home.trainer_log),
        ("everything of the run", home.root),
    ]
    return tuple(Place(what, str(path)) for what, path in candidates if path is not None and path.exists())


def _json_object(file: Path) -> dict[str, Any]:
    """Empty for a file that is missing, broken or no object."""
    try:
        data = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
