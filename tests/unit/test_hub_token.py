"""A token of the hub on a host: lent over stdin, in memory, for its user alone, gone with the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from remote_trainer import agent, wire
from remote_trainer.hub_token import drop_token, hold_token, token_file
from remote_trainer.supervisor import stage_environment

TOKEN = "hf_READ_ONLY_0123456789"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "runs" / "dog"
    folder.mkdir(parents=True)
    return folder


def test_a_token_lies_outside_of_the_runs_folder_and_only_its_user_reads_it(run_folder: Path) -> None:
    hold_token(run_folder, TOKEN.encode() + b"\n")
    path = token_file(run_folder)
    assert path is not None
    assert path.read_text() == TOKEN
    assert path.stat().st_mode & 0o077 == 0
    assert not [file for file in run_folder.rglob("*") if file.is_file() and TOKEN in file.read_text()]
    drop_token(run_folder)
    drop_token(run_folder)
    assert token_file(run_folder) is None


def test_the_trainer_is_told_where_it_lies_and_not_what_it_is(run_folder: Path) -> None:
    job = wire.Job("run", "dog", "gated/base", wire.TrainSpec(), (), ())
    assert "HF_TOKEN_PATH" not in stage_environment(job, run_folder)
    hold_token(run_folder, TOKEN.encode())
    environment = stage_environment(job, run_folder)
    assert Path(environment["HF_TOKEN_PATH"]).read_text() == TOKEN
    assert TOKEN not in environment.values()
    drop_token(run_folder)


def test_it_comes_over_stdin_from_the_living_driver_alone(run_folder: Path) -> None:
    def lend(epoch: str) -> int:
        argv = [sys.executable, "-m", "remote_trainer", "token", "--run-folder", str(run_folder), "--epoch", epoch]
        return subprocess.run(argv, input=TOKEN.encode(), env=dict(os.environ), check=False).returncode

    assert lend("2") == 0
    assert token_file(run_folder) is not None
    drop_token(run_folder)
    assert lend("1") == 75
    assert token_file(run_folder) is None


def test_it_is_forgotten_with_the_run(run_folder: Path) -> None:
    hold_token(run_folder, TOKEN.encode())
    agent.forget(run_folder, 1)
    assert token_file(run_folder) is None
