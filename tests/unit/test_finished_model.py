"""A run's model as `generate` and `publish` find it, and what they say where it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import RunConflict, UsageError
from orchestrator.finished_model import finished_model
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import EndReason, State
from orchestrator.spec import spec_to_json
from orchestrator.spec_file import spec_from_photos
from remote_trainer import wire
from remote_trainer.commit import file_entry
from tests.e2e.command import PHOTOS
from tests.unit.fake_clock import FakeClock


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "ledger.sqlite3", FakeClock())
    ledger.add_run("bot", "local", spec_to_json(spec_from_photos(PHOTOS, "sks robot", ("name=bot",))), "{}")
    return ledger


@pytest.fixture
def folder(ledger: Ledger, tmp_path: Path) -> Path:
    """Of a model that is whole."""
    folder = tmp_path / "bot"
    folder.mkdir()
    for name in ("bot.safetensors", "README.md"):
        (folder / name).write_bytes(b"as it came home")
    manifest = wire.Manifest(4, tuple(file_entry(folder / name, folder) for name in ("bot.safetensors", "README.md")))
    (folder / wire.MANIFEST_NAME).write_bytes(manifest.to_bytes())
    ledger.record_artifact("bot", "output", 4, folder, manifest.sha256)
    return folder


def test_a_run_that_goes_on_is_attached_to_and_one_that_ended_is_resumed(ledger: Ledger) -> None:
    with pytest.raises(RunConflict, match="it is planned") as caught:
        finished_model(ledger, "bot")
    assert caught.value.hint == "cloudbooth attach bot"
    epoch = ledger.become_driver("bot")
    ledger.move("bot", epoch, State.PLANNED, State.RELEASING, "", EndReason.STOPPED)
    ledger.move("bot", epoch, State.RELEASING, State.ENDED, "")
    with pytest.raises(RunConflict, match="it is stopped") as caught:
        finished_model(ledger, "bot")
    assert caught.value.hint == "cloudbooth resume bot"


def test_notes_may_be_changed_by_their_owner(ledger: Ledger, folder: Path) -> None:
    (folder / "README.md").write_text("of my dog")
    assert finished_model(ledger, "bot").lora == folder / "bot.safetensors"


def test_weights_that_are_missing_or_cut_are_no_model(ledger: Ledger, folder: Path) -> None:
    weights = folder / "bot.safetensors"
    weights.write_bytes(b"as it")
    with pytest.raises(UsageError, match=r"bot\.safetensors has 5 bytes, and had 15"):
        finished_model(ledger, "bot")
    weights.unlink()
    with pytest.raises(UsageError, match=r"bot\.safetensors is missing"):
        finished_model(ledger, "bot")


@pytest.mark.parametrize(
    ("settings", "guidance"),
    [('{"validation_guidance_scale": 3.5}', 3.5), ("{}", 3.0)],
    ids=["the run's", "its base's"],
)
def test_guidance_is_that_of_the_runs_own_pictures_or_usual_for_its_base(
    ledger: Ledger, folder: Path, settings: str, guidance: float
) -> None:
    (folder / "training.json").write_text(f'{{"base": "builtin:toybox", "settings": {settings}}}')
    assert finished_model(ledger, "bot").guidance == guidance
