"""Pictures as a run's output: committed once, told by their paths in the run's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from remote_trainer import wire
from remote_trainer.commit import file_entry, read_committed
from remote_trainer.errors import TrainingFailed
from remote_trainer.picture_output import make_pictures
from remote_trainer.stage import Emit

WANTED = wire.PictureJob("dog", "builtin:tiny", "/runs/dog/model/dog.safetensors", "lora", "a dog", count=2)
JOB = wire.Job(
    "dog-pictures-1", "dog", "folder:0123456789ab", wire.TrainSpec(steps=1), (), (), base_path="/work/bases/0123",
    pictures=WANTED,
)  # fmt: skip


class Drawing:
    """Stands for `generate`, which has tests of its own: writes a file for each seed."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.asked: list[wire.PictureJob] = []
        self._fails = fails

    def __call__(self, job: wire.PictureJob, workdir: Path, out: Path, emit: Emit) -> None:
        self.asked.append(job)
        for index in range(job.count):
            picture = out / f"{job.seed + index}.png"
            picture.write_bytes(b"PNG")
            emit(wire.SampleMade(index, job.prompt, file_entry(picture, out)))
            if self._fails is not None:
                raise self._fails


def test_pictures_are_committed_as_the_output_and_told_by_their_place_in_the_run(tmp_path: Path) -> None:
    drawing, told = Drawing(), list[wire.Event]()
    manifest = make_pictures(JOB, tmp_path, tmp_path, told.append, drawing)
    assert read_committed(tmp_path / "output") == manifest
    assert [entry.path for entry in manifest.files] == ["42.png", "43.png"]
    assert [event.file.path for event in told if isinstance(event, wire.SampleMade)] == [
        "output/42.png",
        "output/43.png",
    ]


def test_the_base_is_where_the_job_says_it_lies_on_this_host(tmp_path: Path) -> None:
    drawing = Drawing()
    make_pictures(replace(JOB, allow_cpu=True), tmp_path, tmp_path, lambda _: None, drawing)
    [asked] = drawing.asked
    assert (asked.base, asked.allow_cpu) == ("/work/bases/0123", True)


def test_a_second_call_confirms_what_is_there(tmp_path: Path) -> None:
    again = Drawing()
    first = make_pictures(JOB, tmp_path, tmp_path, lambda _: None, Drawing())
    assert make_pictures(JOB, tmp_path, tmp_path, lambda _: None, again) == first
    assert again.asked == []


def test_half_of_the_pictures_are_none(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="do not fit into memory") as failed:
        make_pictures(JOB, tmp_path, tmp_path, lambda _: None, Drawing(MemoryError("CUDA out of memory")))
    assert failed.value.code == "out-of-memory"
    assert list(tmp_path.iterdir()) == []
