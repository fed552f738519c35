"""Bringing everything to the host and starting the supervisor there."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator.base_model import (
    FILE_PREFIX,
    FOLDER_PREFIX,
    LocalFolder,
    inspect_base,
    job_base,
    require_reading_token,
)
from orchestrator.boot_plan import GUARD_FILE
from orchestrator.budget import TimeLimits, reserve_s, time_limits, used_before_s
from orchestrator.captions_home import with_captions_at_home
from orchestrator.checksum import sha256_of
from orchestrator.courier import best_told_by, bring
from orchestrator.errors import RunConflict, UsageError
from orchestrator.keeping import held_as, paid_for_s
from orchestrator.lifecycle import Facts, Trouble, Wish
from orchestrator.phases.context import RunContext
from orchestrator.phases.loss import Loss, declare_lost
from orchestrator.phases.persistence import a_few_times
from orchestrator.phases.retrieve import newest_committed
from orchestrator.phases.storage import bring_newer_checkpoint, deposit, lend_uploads
from orchestrator.picture_run import model_files
from orchestrator.progress import Progress
from orchestrator.remote_run import RemoteRun
from orchestrator.reporter import Meter, Reporter
from orchestrator.single_file_base import LocalFile
from orchestrator.staging import read_staged_job, staged_files
from orchestrator.transfer.sending import upload
from orchestrator.whole_file import write_atomically
from providers.api import ThisMachine
from providers.secret import Secret
from remote_trainer import wire


def ship(context: RunContext, facts: Facts) -> Facts:
    """Sends what the host does not have, the job last, and makes sure that one supervisor runs. Twice is safe.

    Files are compared by hash before they are sent, so a second call costs one question. A host that lost the run's
    checkpoints (a new machine, a wiped disk) gets those that it needs of what came home. Raises HostError when the
    connection is lost again and again for a quarter of a minute. The wish to end, read once a second, ends an upload:
    `facts` comes back unchanged then.
    """
    try:
        return a_few_times(context, lambda: _ship_connected(context, facts))
    except _EndWished:
        return facts
    except _MoneySpent:
        why = "the money of the run was spent while its files were under way"
        return declare_lost(context, facts, Loss(Trouble.TOO_SLOW, why))


WISH_POLL_S = 1.0
MODEL_FOLDER = "model"
"""Of a run that makes pictures: what they are made with."""


class _MoneySpent(Exception):
    """What is left of the ceiling would not train any more."""


class _EndWished(Exception):
    """The user wants the run to end while files are under way to it."""


def _ship_connected(context: RunContext, facts: Facts) -> Facts:
    remote = context.open_remote()
    try:
        status = remote.status()
        if status.guard is None or not status.guard.alive:  # on a network volume lie the files of another machine's
            start_guard(context.home.machine_keys / context.held_machine().tag, remote, context.reporter)
        if status.ended == "stopped":
            # If nobody asked for it, the machine may be about to go, and with it the only copy.
            newest = newest_committed(remote, status)
            bring(context.delivery(), remote, Progress(checkpoints=newest))
        if status.supervisor_pid is None and status.ended != "done":
            bring_newer_checkpoint(context, max((c.step for c in status.checkpoints), default=0))
            _send_everything(context, remote, status)
            _lend_hub_token(context, remote)
            deposit(context)
        lend_uploads(context, remote, status.lent_s)
        return replace(facts, shipped=True, host=remote.start())
    finally:
        remote.host.close()


def start_guard(keys: Path, remote: RemoteRun, reporter: Reporter) -> None:
    """A rented machine that has not run its start command, or not yet, gets the guard that was meant for it.

    `keys`: the machine's folder on the laptop; without a guard in it (a machine that stands by itself, or cannot give
    itself back) nothing happens. Twice is safe. Raises HostError when the guard does not come up.
    """
    try:
        program = (keys / GUARD_FILE).read_text("utf-8")
    except FileNotFoundError:
        return
    remote.start_guard(program)
    reporter.note("the machine came up without its guard, which was started over SSH")


def _lend_hub_token(context: RunContext, remote: RemoteRun) -> None:
    """Only for a base that opens by nothing else, and over stdin; on this machine the trainer has the environment."""
    if not read_staged_job(context.home).closed_base or isinstance(context.access(), ThisMachine):
        return
    try:
        require_reading_token()  # anew: whoever resumes a run may have another token than whoever planned it
    except UsageError as error:
        context.reporter.note(f"{error.message}: the machine can download the base only with a token of its own")
        return
    remote.lend_token(Secret(os.environ["HF_TOKEN"], "HF_TOKEN"))


def _send_everything(context: RunContext, remote: RemoteRun, status: wire.HostStatus) -> None:
    job = with_captions_at_home(read_staged_job(context.home), context.home)
    travels = job.base.startswith((FOLDER_PREFIX, FILE_PREFIX))
    base = inspect_base(context.spec.model.base) if travels else None
    if isinstance(base, LocalFolder | LocalFile):
        if job_base(base) != job.base:
            raise RunConflict(
                f"{base.path} has changed since the run was planned",
                "put back what it was, or launch under another name",
            )
        job = replace(job, base_path=_bring_base(context, remote, base))
    if job.pictures is not None:
        job = replace(job, pictures=_bring_model(context, remote, job.pictures))
    _send(context, remote, "photos", remote.folder, context.home.staged, staged_files(context.home, job))
    _send_checkpoints(context, remote, status)
    _send_job(context, remote, _with_deadline(context, job))  # only now: what the journey took is spent


def _with_deadline(context: RunContext, job: wire.Job) -> wire.Job:
    """With the seconds that this machine may be at work, drawn once for it: a second shipping grants no more."""
    machine = context.held_machine()
    wait_s = context.spec.limits.wait_for_laptop_minutes * 60
    job = replace(job, machine=machine.tag, wait_for_laptop_s=wait_s)
    with suppress(FileNotFoundError, wire.WireError):  # what cannot be read was never sent
        before = wire.loads(wire.Job, context.home.sent_job.read_bytes())
        if before.machine == machine.tag:
            return replace(job, deadline_s=before.deadline_s, limit_s=before.limit_s, reserve_s=before.reserve_s)
    allowed = _allowed(context)
    return replace(job, deadline_s=allowed.hours_left_s, limit_s=allowed.limit_s, reserve_s=allowed.reserve_s)


def _allowed(context: RunContext) -> TimeLimits:
    machine = context.held_machine()
    machines, now = context.ledger.machines(context.run.name), context.clock.now()
    allowed = time_limits(
        context.spec.limits.max_cost_usd,
        machine.rate_usd,
        context.spec.limits.max_hours,
        machines,
        now,
        kept_back_usd=machine.rescue_usd,
        used_s=used_before_s(machine, machines, now),
    )
    on = context.spec.compute.machine
    if on is not None and (kept := held_as(context.ledger, context.run.provider, on)) is not None:
        left_s = paid_for_s(context.ledger, kept, now)
        allowed = replace(allowed, limit_s=left_s, reserve_s=reserve_s(left_s))
    return allowed


def _bring_base(context: RunContext, remote: RemoteRun, base: LocalFolder | LocalFile) -> str:
    """The folder or file on the host; on this machine it is used where it lies."""
    if isinstance(context.access(), ThisMachine):
        return str(base.path)
    if isinstance(base, LocalFile):
        root = f"{remote.workdir}/bases/{base.sha256[:12]}"
        entry = wire.FileEntry(base.path.name, base.bytes, base.sha256)
        _send(context, remote, "base model", root, base.path.parent, [entry])
        return f"{root}/{base.path.name}"
    root = f"{remote.workdir}/bases/{base.content_sha256[:12]}"
    entries = [wire.FileEntry(file.path, file.bytes, file.sha256) for file in base.files]
    _send(context, remote, "base model", root, base.path, entries)
    return root


def _bring_model(context: RunContext, remote: RemoteRun, wanted: wire.PictureJob) -> wire.PictureJob:
    """A trained model, for pictures: into the run's own folder, with which it goes again."""
    model = Path(wanted.model)
    files = model_files(model)
    if not files:
        message = f"the model of run `{wanted.name}` is not in {model} any more"
        raise RunConflict(message, f"put it back; `cloudbooth down {context.run.name}` gives the machine back")
    root = f"{remote.folder}/{MODEL_FOLDER}"
    _send(context, remote, "model", root, model.parent, [_entry(model.parent, path) for path in files])
    return replace(wanted, model=f"{root}/{model.name}")


def _send(
    context: RunContext, remote: RemoteRun, what: str, root: str, source: Path, entries: list[wire.FileEntry]
) -> None:
    missing = remote.missing(root, entries)
    if missing:
        total = sum(entry.bytes for entry in missing)
        context.reporter.transfer(what, 0, total)
        meter = Meter(context.reporter, what, total)
        wish_read_at = context.clock.monotonic()

        def on_bytes(count: int) -> None:
            nonlocal wish_read_at
            meter(count)
            if context.clock.monotonic() - wish_read_at >= WISH_POLL_S:
                wish_read_at = context.clock.monotonic()
                if context.wish() is not Wish.RUN:
                    raise _EndWished
                if not context.machine_stands:  # who stands on another's machine has nowhere else to go
                    _require_money(context)

        upload(remote, root, source, missing, on_bytes, meter.found)


def _require_money(context: RunContext) -> None:
    """Raises _MoneySpent when what is left of the ceiling would not train any more."""
    allowed = _allowed(context)
    if allowed.limit_s is not None and allowed.limit_s <= allowed.reserve_s:
        raise _MoneySpent


def _send_checkpoints(context: RunContext, remote: RemoteRun, status: wire.HostStatus) -> None:
    """Only when the laptop's newest is newer than the host's: the host's own need no journey. Where the model is to be
    that of the best one, it goes first, so that a host with the newest has both.
    """
    at_home = [
        artifact
        for artifact in context.ledger.artifacts(context.run.name)
        if artifact.kind == "checkpoint" and (Path(artifact.folder) / wire.MANIFEST_NAME).exists()
    ]
    newest_there = max((checkpoint.step for checkpoint in status.checkpoints), default=0)
    if not at_home or at_home[-1].step <= newest_there:
        return
    wanted_best = context.spec.train.export_step == "best"
    best = best_told_by(Path(at_home[-1].folder)) if wanted_best else 0
    for artifact in [*(older for older in at_home[:-1] if older.step == best), at_home[-1]]:
        folder = Path(artifact.folder)
        manifest = wire.Manifest.from_bytes((folder / wire.MANIFEST_NAME).read_bytes())
        root = f"{remote.folder}/{wire.checkpoint_folder(artifact.step)}"
        _send(context, remote, f"checkpoint {artifact.step}", root, folder, list(manifest.files))
        mark = _entry(folder, folder / wire.MANIFEST_NAME)
        _send(context, remote, "its manifest", root, folder, [mark])
        remote.saved([mark.sha256])


def _send_job(context: RunContext, remote: RemoteRun, job: wire.Job) -> None:
    """As this host needs it: a base that traveled has its path there."""
    folder = context.home.sent_job.parent
    folder.mkdir(exist_ok=True)
    write_atomically(context.home.sent_job, wire.dumps(job))
    _send(context, remote, "job", remote.folder, folder, [_entry(folder, folder / wire.JOB_FILE)])


def _entry(folder: Path, path: Path) -> wire.FileEntry:
    return wire.FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_of(path))
