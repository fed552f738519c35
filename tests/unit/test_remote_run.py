"""What hosts answer and what crosses to them, on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.code_bundle import trainer_code
from orchestrator.host import HostError
from orchestrator.remote_run import RemoteRun, probe, unpack_code
from orchestrator.this_machine import LocalHost
from providers.api import ThisMachine


def python_behind(folder: Path, before: str) -> str:
    """A Python whose login says something first."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\n{before}\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def remote(tmp_path: Path) -> RemoteRun:
    host, access = LocalHost(), ThisMachine(python=sys.executable, workdir=str(tmp_path / "work"))
    facts = probe(host, access, trainer_code())
    unpack_code(host, access, facts, trainer_code())
    return RemoteRun(host, access, facts.workdir, trainer_code().id, "robot", "robot", epoch=1)


@pytest.mark.parametrize("greeting", ["echo Welcome to gpu-box", "printf 'Welcome to gpu-box'"])
def test_a_login_that_prints_text_is_named_with_its_text(tmp_path: Path, greeting: str) -> None:
    access = ThisMachine(python=python_behind(tmp_path, greeting), workdir=str(tmp_path / "work"))
    with pytest.raises(HostError, match="prints text at login: 'Welcome to gpu-box'") as caught:
        probe(LocalHost(), access, trainer_code())
    assert caught.value.hint.endswith("case $- in *i*) ;; *) return;; esac")


def test_a_host_that_answers_anything_else_is_an_error_of_the_host(tmp_path: Path) -> None:
    access = ThisMachine(python=python_behind(tmp_path, "echo hi; exit"), workdir=str(tmp_path / "work"))
    with pytest.raises(HostError, match="does not answer as a shell does: 'hi'"):
        probe(LocalHost(), access, trainer_code())


def test_an_answer_that_cannot_be_understood_says_what_to_do(remote: RemoteRun, tmp_path: Path) -> None:
    newer = tmp_path / "work" / "code" / trainer_code().id / "remote_trainer" / "__main__.py"
    newer.write_text("print('{\"phase\": 1}')")
    with pytest.raises(HostError, match="the answer of this machine cannot be understood") as caught:
        remote.status()
    assert "pip install --upgrade cloudbooth" in caught.value.hint


def test_a_refusal_of_the_agent_has_a_hint_with_the_name_of_the_run(remote: RemoteRun, tmp_path: Path) -> None:
    broken = tmp_path / "work" / "code" / trainer_code().id / "remote_trainer" / "__main__.py"
    broken.write_text("raise SystemExit('it broke')")
    with pytest.raises(HostError, match="`status` failed: it broke") as caught:
        remote.status()
    assert caught.value.hint == "`cloudbooth logs robot --trainer` shows what was said there"
