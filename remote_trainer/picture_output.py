"""Pictures as the output of a run: made in one go, committed under a manifest, told as a run's events are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from . import wire
from .commit import commit_folder, preparing, read_committed
from .errors import TrainingFailed
from .failures import is_out_of_memory
from .generate import generate
from .stage import Emit

Draw = Callable[[wire.PictureJob, Path, Path, Emit], None]


def make_pictures(job: wire.Job, run_folder: Path, workdir: Path, emit: Emit, draw: Draw = generate) -> wire.Manifest:
    """Makes `job.pictures` and commits them as `output`; one that is committed already is confirmed. Blocks.

    Raises TrainingFailed as `generate` does, and with "out-of-memory" where the machine is too small.
    """
    assert job.pictures is not None
    folder = run_folder / wire.OUTPUT_FOLDER
    if (made := read_committed(folder)) is not None:
        return made
    wanted = replace(job.pictures, base=job.base_path or job.base, base_config=job.base_config, allow_cpu=job.allow_cpu)

    def tell(event: wire.Event) -> None:
        """Paths of a run's events are relative to its folder."""
        if isinstance(event, wire.SampleMade):
            event = replace(event, file=replace(event.file, path=f"{wire.OUTPUT_FOLDER}/{event.file.path}"))
        emit(event)

    with preparing(folder) as prepared:
        try:
            draw(wanted, workdir, prepared, tell)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            hint = "ask for fewer pixels with --size, or for a larger card with --gpu"
            raise TrainingFailed("out-of-memory", f"the pictures do not fit into memory: {error}", hint) from None
        return commit_folder(prepared, folder, wanted.count)
