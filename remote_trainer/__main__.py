"""What can be asked of the trainer package on a host: `python -m remote_trainer VERB …`. A few calls each.

The agent's verbs (start, status, stop, forget, follow, saved, guard) and those of `files` (read, digest, have, accept,
finish) answer the laptop and print JSON or bytes; `supervise` and the stages `prepare`, `train` and `pictures` are
started by them.
`sample` makes pictures from a finished model: it starts `draw` in the right environment. `export` writes one in other
formats by `convert`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

# Not the supervisor: `read` and `accept` are started for every stream, and are there a third sooner without it.
from . import agent, contact, files, stage, wire
from .errors import TrainingFailed
from .run_folder import write_atomically


def main(argv: list[str]) -> int:
    call = _parser().parse_args(argv)
    try:
        if call.verb in FROM_THE_LAPTOP:
            contact.contact(getattr(call, "root", None) or getattr(call, "run_folder", None) or call.workdir)
        return int(VERBS[call.verb](call) or 0)
    except agent.StaleEpoch as error:
        print(error, file=sys.stderr)
        return agent.STALE_EPOCH_EXIT
    except (agent.AgentError, files.Refused, wire.WireError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 1


def _status(call: argparse.Namespace) -> None:
    _reply(agent.status(call.run_folder))


def _start(call: argparse.Namespace) -> None:
    _reply(agent.start(call.run_folder, call.epoch))


def _stop(call: argparse.Namespace) -> None:
    _reply(agent.stop(call.run_folder, call.epoch, now=call.now))


def _forget(call: argparse.Namespace) -> None:
    agent.forget(call.run_folder, call.epoch)


def _follow(call: argparse.Namespace) -> None:
    agent.follow(call.run_folder, call.offset, sys.stdout.buffer, leash=sys.stdin.fileno())


def _read(call: argparse.Namespace) -> None:
    files.read(call.root, files.ranges_from_json(call.files), sys.stdout.buffer)


def _digest(call: argparse.Namespace) -> None:
    files.digest(call.root, files.ranges_from_json(call.files), call.chunk, sys.stdout.buffer)


def _have(call: argparse.Namespace) -> None:
    wanted = files.wanted_from_json(sys.stdin.buffer.read())
    sys.stdout.write(json.dumps(files.have(call.root, wanted)) + "\n")


def _accept(call: argparse.Namespace) -> None:
    agent.claim(call.run_folder, call.epoch)

    def require_newest() -> None:
        agent.require_newest(call.run_folder, call.epoch)

    accepted = files.accept(
        call.root, sys.stdin.buffer, call.needed_bytes, before_naming=require_newest, out=sys.stdout.buffer
    )
    require_newest()
    sys.stdout.write(json.dumps(accepted) + "\n")


def _finish(call: argparse.Namespace) -> None:
    files.finish(call.root, files.wanted_from_json(call.entries.encode()), sys.stdout.buffer)


def _grant(call: argparse.Namespace) -> None:
    from .upload_grant import hold_grant

    agent.claim(call.run_folder, call.epoch)
    hold_grant(call.run_folder, sys.stdin.buffer.read())


def _token(call: argparse.Namespace) -> None:
    from .hub_token import hold_token

    agent.claim(call.run_folder, call.epoch)
    hold_token(call.run_folder, sys.stdin.buffer.read())


def _saved(call: argparse.Namespace) -> None:
    contact.saved(call.run_folder, [str(sha256) for sha256 in json.loads(call.manifests)])


def _guard(call: argparse.Namespace) -> None:
    _reply(contact.start_guard(call.workdir, sys.stdin.read()))


def _supervise(call: argparse.Namespace) -> int:
    from . import supervisor

    return supervisor.supervise(call.run_folder, call.epoch, call.start_fd)


def _prepare(call: argparse.Namespace) -> int:
    from . import environment, interpreter, supervisor

    def work(emit: stage.Emit, _should_stop: stage.ShouldStop) -> None:
        emit(wire.PhaseStarted("environment"))
        job = wire.loads(wire.Job, (call.run_folder / wire.JOB_FILE).read_bytes())
        envs = _workdir(call.run_folder) / "envs"

        def report(line: str) -> None:
            emit(wire.PhaseStarted("environment", line))

        python = environment.ensure_environment(envs, report, allow_cpu=job.allow_cpu)
        if not job.allow_cpu:
            verb = "train" if job.pictures is None else "draw"
            emit(wire.Decision(f"{verb} on {interpreter.require_cuda(str(python))}", "a matrix product there is right"))
        write_atomically(call.run_folder / supervisor.PREPARED_FILE, wire.dumps({"python": str(python)}))

    return stage.run(call.events_fd, call.lock_fd, work, ends_itself=False)


def _train(call: argparse.Namespace) -> int:
    def work(emit: stage.Emit, should_stop: stage.ShouldStop) -> None:
        emit(wire.PhaseStarted("load"))
        from . import quick_imports, ranks
        from .bases.resolve import resolve_base

        with quick_imports.uncollected():
            from .train import train

            quick_imports.import_models()
        job = wire.loads(wire.Job, (call.run_folder / wire.JOB_FILE).read_bytes())

        def say(line: str) -> None:
            emit(wire.PhaseStarted("load", line))

        base = resolve_base(job.base_path or job.base, _workdir(call.run_folder) / "bases", job.base_config, say)
        shelf = _workdir(call.run_folder) / "class-images"

        def died(failure: TrainingFailed) -> None:
            emit(wire.Failed(failure.code, failure.message, failure.hint))

        with ranks.others(job.processes, call.run_folder, died, job.nodes):
            outcome = train(job, call.run_folder, base, emit, should_stop, shelf)
        if outcome.manifest_sha256 is None:
            emit(wire.Stopped(outcome.step))
        else:
            emit(wire.Done(outcome.step, outcome.manifest_sha256))

    return stage.run(call.events_fd, call.lock_fd, work, ends_itself=True)


def _pictures(call: argparse.Namespace) -> int:
    """In place of training: SIGTERM kills it, for half a picture is nothing to save."""

    def work(emit: stage.Emit, _should_stop: stage.ShouldStop) -> None:
        emit(wire.PhaseStarted("load"))
        from .picture_output import make_pictures

        job = wire.loads(wire.Job, (call.run_folder / wire.JOB_FILE).read_bytes())
        manifest = make_pictures(job, call.run_folder, _workdir(call.run_folder), emit)
        emit(wire.Done(manifest.step, manifest.sha256))

    return stage.run(call.events_fd, call.lock_fd, work, ends_itself=False)


def _sample(call: argparse.Namespace) -> int:
    """Finds or builds the environment, then runs itself there: what it prints are events."""
    from . import sampling_process

    job = wire.loads(wire.PictureJob, call.request.encode())
    return sampling_process.run("draw", call.workdir, call.request, call.out, allow_cpu=job.allow_cpu)


def _draw(call: argparse.Namespace) -> int:
    from . import sampling_process

    def work(emit: stage.Emit) -> None:
        from .generate import generate

        generate(wire.loads(wire.PictureJob, call.request.encode()), call.workdir, call.out, emit)

    return sampling_process.tell(work)


def _export(call: argparse.Namespace) -> int:
    """As `_sample`, for a model in other formats."""
    from . import sampling_process

    return sampling_process.run("convert", call.workdir, call.request, call.out, allow_cpu=True)


def _convert(call: argparse.Namespace) -> int:
    from . import sampling_process

    def work(emit: stage.Emit) -> None:
        from .export.convert import convert

        manifest = convert(wire.loads(wire.Conversion, call.request.encode()), call.workdir, call.out, emit)
        emit(wire.Done(manifest.step, manifest.sha256))

    return sampling_process.tell(work)


def _rank(call: argparse.Namespace) -> int:
    """One process of several: the others of `train`, or all that `torchrun` starts."""
    from . import rank

    return rank.run(call.run_folder)


def _storage(call: argparse.Namespace) -> int:
    def work(emit: stage.Emit, _should_stop: stage.ShouldStop) -> None:
        from . import upload

        emit(wire.PhaseStarted("storage"))
        upload.require_reachable_store(call.run_folder)

    return stage.run(call.events_fd, call.lock_fd, work, ends_itself=False)


def _upload(call: argparse.Namespace) -> int:
    from . import upload

    brought = False

    def work(emit: stage.Emit, _should_stop: stage.ShouldStop) -> None:
        nonlocal brought
        brought = upload.bring_up_to_date(call.run_folder, emit)

    exit_code = stage.run(call.events_fd, call.lock_fd, work, ends_itself=False)
    return exit_code or (0 if brought else upload.NOT_ALL_EXIT)


def _workdir(run_folder: Path) -> Path:
    """`<workdir>/runs/<run>` is where the laptop puts a run; environments and bases are shared beside `runs`."""
    return run_folder.parent.parent


def _reply(value: object) -> None:
    sys.stdout.write(json.dumps(wire.encode(value)) + "\n")


VERBS = {
    "status": _status, "start": _start, "stop": _stop, "forget": _forget, "follow": _follow, "read": _read,
    "digest": _digest, "have": _have, "accept": _accept, "finish": _finish, "saved": _saved, "guard": _guard,
    "grant": _grant, "token": _token,
    "supervise": _supervise, "prepare": _prepare, "train": _train, "rank": _rank, "pictures": _pictures,
    "storage": _storage, "upload": _upload, "sample": _sample, "draw": _draw,
    "export": _export, "convert": _convert,
}  # fmt: skip
FROM_THE_LAPTOP = frozenset(VERBS) - {
    "supervise", "prepare", "train", "rank", "pictures", "storage", "upload",
}  # fmt: skip

_TAKES: dict[str, list[str]] = {
    "status": ["run"], "start": ["run", "epoch"], "stop": ["run", "epoch", "now"], "forget": ["run", "epoch"],
    "follow": ["run", "offset"], "read": ["root", "files"], "digest": ["root", "files", "chunk"], "have": ["root"],
    "accept": ["root", "run", "epoch", "needed"], "finish": ["root", "entries"],
    "saved": ["run", "manifests"], "guard": ["workdir"],
    "supervise": ["run", "epoch", "start"], "prepare": ["run", "fd"], "train": ["run", "fd"],
    "pictures": ["run", "fd"],
    "grant": ["run", "epoch"], "token": ["run", "epoch"], "rank": ["run"],
    "storage": ["run", "fd"], "upload": ["run", "fd"],
    "sample": ["workdir", "request"], "draw": ["workdir", "request"],
    "export": ["workdir", "request"], "convert": ["workdir", "request"],
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m remote_trainer")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, takes in _TAKES.items():
        verb = verbs.add_parser(name)
        if "run" in takes:
            verb.add_argument("--run-folder", type=_absolute, required=True)
        if "root" in takes:
            verb.add_argument("--root", type=_absolute, required=True)
        if "epoch" in takes:
            verb.add_argument("--epoch", type=int, required=True)
        if "offset" in takes:
            verb.add_argument("--offset", type=int, default=0)
        if "files" in takes:
            verb.add_argument("--files", required=True, help='JSON: [["path", offset, length or null], …]')
        if "chunk" in takes:
            verb.add_argument("--chunk", type=int, required=True)
        if "needed" in takes:
            verb.add_argument("--needed-bytes", type=int, default=0)
        if "entries" in takes:
            verb.add_argument("--entries", required=True, help="JSON: [{path, bytes, sha256}, …]")
        if "manifests" in takes:
            verb.add_argument("--manifests", required=True, help="JSON: sha256 of each manifest")
        if "workdir" in takes:
            verb.add_argument("--workdir", type=_absolute, required=True)
        if "request" in takes:
            verb.add_argument("--request", required=True, help="a PictureJob or a Conversion as JSON")
            verb.add_argument("--out", type=_absolute, required=True, help="folder for what is made")
        if "fd" in takes:
            verb.add_argument("--events-fd", type=int, required=True)
            verb.add_argument("--lock-fd", type=int, required=True)
        if "start" in takes:
            verb.add_argument("--start-fd", type=int)
        if "now" in takes:
            verb.add_argument("--now", action="store_true")
    return parser


def _absolute(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(text)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
