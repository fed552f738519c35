"""One process of several that train together, as `ranks.py` or `torchrun` starts it.

`torchrun --nproc-per-node 2 -m remote_trainer rank --run-folder FOLDER` trains the job in FOLDER on any number of
machines, without a supervisor. The first process then says what happens, as events on stdout.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from pathlib import Path

from . import ranks, sampling_process, stage, wire
from .errors import TrainingFailed
from .stage import Emit


def run(run_folder: Path) -> int:
    """Blocks until the job is done, stopped or has failed. Returns the exit code."""
    stop = threading.Event()
    # Whoever hears it, all stop: that is agreed on at every step. Those of `ranks.py` never do.
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if stat.S_ISFIFO(os.fstat(0).st_mode):  # otherwise nobody holds us, and `torchrun` looks after its own
        stage.hold_leash()
    stage.show_stacks_when_asked()
    first = os.environ.get("RANK") == "0"

    def work(emit: Emit) -> None:
        job = wire.loads(wire.Job, (run_folder / wire.JOB_FILE).read_bytes())
        from . import quick_imports
        from .bases.resolve import resolve_base

        workdir = run_folder.parent.parent
        base = resolve_base(job.base_path or job.base, workdir / "bases", job.base_config, lambda _: None)
        with quick_imports.uncollected():
            from .train import train

            quick_imports.import_models()
        outcome = train(job, run_folder, base, emit, stop.is_set, workdir / "class-images")
        if outcome.manifest_sha256 is None:
            emit(wire.Stopped(outcome.step))
        else:
            emit(wire.Done(outcome.step, outcome.manifest_sha256))

    if first:
        return sampling_process.tell(work)
    try:
        work(lambda _: None)
    except TrainingFailed as failure:
        print(f"{failure.message}\n\nhint: {failure.hint}", file=sys.stderr)
        ranks.tell(run_folder, failure)
        return 1
    return 0
