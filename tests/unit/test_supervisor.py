"""What a supervisor begins with and what it leaves behind, as far as that can be seen without training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from remote_trainer import commit, wire
from remote_trainer.deadline import Clocks
from remote_trainer.hub_token import hold_token, token_file
from remote_trainer.supervisor import PICTURES_STAGE, STAGES, STORAGE_STAGE, stages_of
from remote_trainer.upload_grant import drop_grant, held_grant, hold_grant

URL = "https://store.example/x"
GRANT = wire.UploadGrant(
    "grant", 1 << 20, (URL,), (wire.LentObject(URL, URL),), wire.LentObject(URL, URL), lifetime_s=3600.0
)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "runs" / "dog"
    folder.mkdir(parents=True)
    return folder


def lend(run_folder: Path, clocks: Clocks) -> None:
    hold_grant(run_folder, wire.dumps(GRANT), clocks)


def at(now_s: float) -> Clocks:
    return Clocks(boot_clock=lambda: now_s, boot_id=lambda: "this boot")


def test_a_store_that_was_lent_is_tried_before_anything_else(run_folder: Path) -> None:
    assert stages_of(run_folder, at(0.0)) == STAGES
    lend(run_folder, at(0.0))
    assert stages_of(run_folder, at(10.0)) == (STORAGE_STAGE, *STAGES)
    drop_grant(run_folder)


def test_pictures_are_made_in_place_of_training(run_folder: Path) -> None:
    assert stages_of(run_folder, at(0.0), work=PICTURES_STAGE) == ("prepare", "pictures")


def test_what_was_lent_and_has_expired_is_not_tried(run_folder: Path) -> None:
    lend(run_folder, at(0.0))
    assert stages_of(run_folder, at(3601.0)) == STAGES
    drop_grant(run_folder)


def test_after_the_first_checkpoint_a_store_out_of_reach_ends_no_run(run_folder: Path) -> None:
    lend(run_folder, at(0.0))
    target = run_folder / wire.checkpoint_folder(100)
    with commit.preparing(target) as prepared:
        (prepared / "weights").write_bytes(b"w")
        commit.commit_folder(prepared, target, 100)
    assert stages_of(run_folder, at(10.0)) == STAGES
    drop_grant(run_folder)


def test_one_that_has_ended_leaves_nothing_that_was_lent_to_it(run_folder: Path) -> None:
    hold_token(run_folder, b"hf_READ_ONLY_0123456789")
    hold_grant(run_folder, wire.dumps(GRANT))
    argv = [sys.executable, "-m", "remote_trainer", "supervise", "--run-folder", str(run_folder), "--epoch", "1"]
    subprocess.run(argv, env=dict(os.environ), check=True)
    assert b"bad-job" in (run_folder / wire.EVENTS_FILE).read_bytes(), "without a job it ends at once"
    assert token_file(run_folder) is None
    assert held_grant(run_folder) is None
