"""Logging to Weights & Biases and trackio: what goes over, and that it does once, whoever drives the run."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import cli
from orchestrator.cli.tracking import remember_targets, start_logging
from orchestrator.curves import Point
from orchestrator.errors import RunConflict, UsageError
from orchestrator.home import RunHome
from orchestrator.reporter import Silent
from orchestrator.spec import spec_to_json
from orchestrator.spec_file import spec_from_photos
from orchestrator.trackers.api import Kind, Target, targets_of
from orchestrator.trackers.cursor import Cursor, read_cursor, write_cursor
from orchestrator.trackers.feeding import Feeder, alone, tracked
from tests.fakes.photos import photo_folder
from tests.unit.recorded_run import RecordedRun

WANDB = Target(Kind.WANDB, "dogs")


class Notebook:
    """A tracker that writes down what it is given."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.pictures: list[tuple[int, str, str]] = []

    def log(self, point: Point) -> None:
        self.points.append(point)

    def show(self, step: int, name: str, picture: Path, caption: str) -> None:
        assert picture.exists()
        self.pictures.append((step, name, caption))

    def close(self) -> None: ...

    def steps(self, name: str) -> list[int]:
        return [point.step for point in self.points if name in point.values]


@pytest.fixture
def dog(isolated_home: Path, tmp_path: Path) -> RecordedRun:
    """At step 200, with a spec of its own."""
    run = RecordedRun(isolated_home / "cloudbooth")
    spec = spec_from_photos(photo_folder(tmp_path / "photos"), "sks dog", ("name=dog",))
    run.ledger.change_spec("dog", run.epoch, spec_to_json(spec))
    run.begin()
    return run


def fed(home: RunHome) -> Notebook:
    """By a process that has just begun."""
    notebook = Notebook()
    Feeder(home, WANDB, notebook).feed()
    return notebook


# ---- what goes over --------------------------------------------------------------------------------------------------


def test_every_step_and_picture_goes_over_once_whoever_drives(dog: RecordedRun) -> None:
    first = fed(dog.run_home)
    assert first.steps("train/loss") == list(range(10, 201, 10))
    assert first.steps("fixed_set/loss") == [0]
    assert [(step, name) for step, name, _ in first.pictures] == [
        (0, "validation/00"), (0, "validation/01"), (200, "validation/00"),
    ]  # fmt: skip
    assert fed(dog.run_home).points == []
    dog.interrupt()  # the second machine goes back to step 190
    second = fed(dog.run_home)
    assert second.steps("train/loss") == list(range(210, 401, 10))
    assert [step for step, _, _ in second.pictures] == [400, 400]


def test_a_picture_goes_over_when_it_has_come_home(dog: RecordedRun) -> None:
    picture = dog.run_home.root / "validation/step-000200/00.png"
    content = picture.read_bytes()
    picture.unlink()
    notebook = Notebook()
    feeder = Feeder(dog.run_home, WANDB, notebook)
    feeder.feed()
    assert [step for step, _, _ in notebook.pictures] == [0, 0]
    picture.write_bytes(content)
    assert feeder.feed() == 1
    assert notebook.pictures[-1][0] == 200


def test_two_projects_are_logged_apart(dog: RecordedRun) -> None:
    fed(dog.run_home)
    other = Notebook()
    assert Feeder(dog.run_home, Target(Kind.WANDB, "others"), other).feed() > 0


def test_a_cursor_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "cursor"
    kept = Cursor((("train/loss", 3),), ("a.png",))
    write_cursor(file, kept)
    assert read_cursor(file) == kept
    for broken in (b"", b"{}", b"[1]", b'{"steps": 1, "pictures": []}'):
        file.write_bytes(broken)
        assert read_cursor(file) == Cursor()


def test_one_process_logs_a_run_to_one_place(dog: RecordedRun) -> None:
    other = Target(Kind.TRACKIO, "dogs")
    with alone(dog.run_home, WANDB), alone(dog.run_home, other), pytest.raises(RunConflict), alone(dog.run_home, WANDB):
        pass
    with alone(dog.run_home, WANDB):
        pass


def test_a_run_whose_folder_was_tidied_away_can_be_logged_anew(tmp_path: Path) -> None:
    home = RunHome(tmp_path / "runs" / "dog")
    with alone(home, WANDB):
        assert home.root.is_dir()


def test_settings_go_along_and_folders_of_this_laptop_do_not(dog: RecordedRun, tmp_path: Path) -> None:
    photos = photo_folder(tmp_path / "others")
    spec = spec_from_photos(photos, "sks dog", ("model.base=builtin:tiny", "train.steps=70"))
    told = tracked(dog.run_home, "dog-1", spec).settings
    assert (told["base"], told["steps"]) == ("builtin:tiny", 70)
    local = spec.model_copy(update={"model": spec.model.model_copy(update={"base": "/home/me/secret/base"})})
    assert tracked(dog.run_home, "dog-1", local).settings["base"] == "base"
    assert str(photos) not in str(told)


# ---- where to --------------------------------------------------------------------------------------------------------


def test_places_are_named_by_program_and_project() -> None:
    assert targets_of("wandb, trackio:dogs,wandb") == (Target(Kind.WANDB, "cloudbooth"), Target(Kind.TRACKIO, "dogs"))
    assert targets_of("wandb:team/dogs")[0].stem == "wandb-team+dogs"
    assert targets_of("") == ()


@pytest.mark.parametrize("text", ["tensorboard", "wandb:a b", "wandb:../up", "wandb:a/b/c"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        targets_of(text)


@pytest.mark.usefixtures("dog")
def test_a_missing_package_is_named_with_the_command_that_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    for argv in (["logs", "dog", "--wandb", "dogs"], ["resume", "dog", "--log-to", "wandb"]):
        done = CliRunner().invoke(cli, argv, standalone_mode=False)
        assert isinstance(done.exception, UsageError)
        assert "needs the package `wandb`" in done.exception.message
        assert "install" in done.exception.hint
        assert "'.[wandb]'" in done.exception.hint


def test_what_a_verb_is_told_holds_for_every_later_driver(
    dog: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio.py").write_text("raise ImportError('never loaded')")
    monkeypatch.syspath_prepend(tmp_path)
    dog.interrupt()
    dog.finish()
    dogs, cats = "trackio:dogs", "trackio:cats"
    for argv, environ, recorded in ((["--log-to", dogs], "", dogs), ([], cats, cats), ([], "", cats)):
        monkeypatch.setenv("CLOUDBOOTH_LOG_TO", environ)
        done = CliRunner().invoke(cli, ["attach", "dog", *argv], standalone_mode=False)
        assert done.exception is None, done.exception
        assert dog.run_home.log_to.read_text() == recorded


# ---- the programs themselves -----------------------------------------------------------------------------------------


def logged(*argv: str, **environ: str) -> int:
    """By the command, in a process of its own: both packages leave threads and processes behind."""
    command = [sys.executable, "-c", "from orchestrator.cli.main import main; main()", "logs", "dog", *argv, "--json"]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told: int = json.loads(done.stdout.splitlines()[-1])["logged"]
    return told


def test_wandb_keeps_curves_and_pictures_offline_and_a_second_time_nothing(dog: RecordedRun) -> None:
    pytest.importorskip("wandb")
    assert logged("--wandb", "dogs", WANDB_MODE="offline") == 20 + 1 + 3
    [written] = dog.run_home.root.glob("wandb/offline-run-*/run-dog-*.wandb")
    content = written.read_bytes()
    assert all(name in content for name in (b"train/loss", b"fixed_set/loss", b"validation/00", b"learning_rate"))
    assert len(list(written.parent.glob("files/media/images/validation/*.png"))) == 3
    assert logged("--wandb", "dogs", WANDB_MODE="offline") == 0


def test_trackio_keeps_curves_and_pictures_here_and_a_second_time_nothing(dog: RecordedRun, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    folder = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    assert logged("--trackio", "dogs", **folder) == 20 + 1 + 3
    assert logged("--trackio", "dogs", **folder) == 0
    dog.interrupt()
    assert logged("--trackio", "dogs", **folder) == 20 + 1 + 2
    asked = "from trackio.sqlite_storage import SQLiteStorage as s; import json; [run] = s.get_runs('dogs')\n"
    asked += "print(json.dumps([row['step'] for row in s.get_logs('dogs', run) if 'train/loss' in row]))"
    command = [sys.executable, "-c", asked]
    told = subprocess.run(
        command, env={**os.environ, **folder}, capture_output=True, text=True, check=True, timeout=120
    )
    steps = json.loads(told.stdout.splitlines()[-1])
    assert sorted(steps) == list(range(10, 401, 10))
    assert len(list((tmp_path / "trackio/media").rglob("*.png"))) == 5


# ---- beside a run ----------------------------------------------------------------------------------------------------


class Overheard(Silent):
    def __init__(self) -> None:
        self.told: queue.Queue[str] = queue.Queue()

    def note(self, text: str) -> None:
        self.told.put(text)


def test_a_driver_says_when_its_run_is_not_logged_and_goes_on(dog: RecordedRun, tmp_path: Path) -> None:
    (tmp_path / "wandb.py").write_text("raise ImportError('broken')")
    remember_targets(dog.run_home, (WANDB,))
    reporter = Overheard()
    start_logging(dog.run_home, reporter, {**os.environ, "PYTHONPATH": str(tmp_path)})
    assert reporter.told.get(timeout=120).startswith("wandb:dogs gets no more of this run: see ")
    assert "broken" in (dog.run_home.root / "logging-wandb-dogs.log").read_text()


def test_a_run_is_logged_beside_its_driver_until_it_ends(dog: RecordedRun, tmp_path: Path) -> None:
    """By a package of that name which writes down what it is given."""
    package = "class Image:\n    def __init__(self, path, caption): pass\n"
    package += "class Run:\n    def log(self, values, step): print('step', step, flush=True)\n"
    package += "def init(**_): return Run()\ndef finish(): print('over', flush=True)\n"
    (tmp_path / "trackio.py").write_text(package)
    remember_targets(dog.run_home, (Target(Kind.TRACKIO, "dogs"),))
    dog.interrupt()
    dog.finish()
    watching = start_logging(dog.run_home, Overheard(), {**os.environ, "PYTHONPATH": str(tmp_path)})
    assert watching is not None
    watching.join(timeout=120)
    told = (dog.run_home.root / "logging-trackio-dogs.log").read_text().splitlines()
    assert told[0] == "step 0"
    assert told[-1] == "over"
    assert "step 400" in told


def test_a_run_that_nobody_wants_logged_leaves_no_process(dog: RecordedRun) -> None:
    assert start_logging(dog.run_home, Overheard()) is None
