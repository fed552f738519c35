"""What hosts answer and what crosses to them, on this machine."""

from __future__ import annotations

import base64
import gzip
import sys
from pathlib import Path

import pytest

from orchestrator.boot_plan import GUARD_FILE, boot_plan, guard_for
from orchestrator.boot_script import GuardSettings, guard_program
from orchestrator.code_bundle import trainer_code
from orchestrator.host import HostError
from orchestrator.phases.ship import start_guard
from orchestrator.remote_run import RemoteRun, probe, unpack_code
from orchestrator.ssh.machine_keys import make_machine_keys
from orchestrator.this_machine import LocalHost
from providers.api import Market, Offer, ThisMachine
from tests.fakes.self_release import SelfReleaseService, end_guard
from tests.fakes.told import Told


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
    assert "upgrade cloudbooth" in caught.value.hint


def test_a_refusal_of_the_agent_has_a_hint_with_the_name_of_the_run(remote: RemoteRun, tmp_path: Path) -> None:
    broken = tmp_path / "work" / "code" / trainer_code().id / "remote_trainer" / "__main__.py"
    broken.write_text("raise SystemExit('it broke')")
    with pytest.raises(HostError, match="`status` failed: it broke") as caught:
        remote.status()
    assert caught.value.hint == "`cloudbooth logs robot --trainer` shows what was said there"


# ---- the guard -------------------------------------------------------------------------------------------------------


def test_a_machine_that_came_up_without_its_guard_gets_it_and_one_that_lives_stays(
    remote: RemoteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, keys, told = tmp_path / "memory", tmp_path / "keys", Told()
    monkeypatch.setenv("CLOUDBOOTH_GUARD_MEMORY", str(memory))
    assert remote.status().guard is None
    start_guard(keys, remote, told)
    assert (remote.status().guard, told.notes) == (None, []), "nothing was meant for it"
    with SelfReleaseService() as service:
        keys.mkdir()
        settings = GuardSettings(remote.workdir, first_lease_s=300, poll_s=0.1)
        (keys / GUARD_FILE).write_text(guard_program(service.calls(), settings))
        try:
            start_guard(keys, remote, told)
            service.wait_for("probe")
            process = (memory / "pid").read_text()
            start_guard(keys, remote, told)
        finally:
            end_guard(memory)
    guard = remote.status().guard
    assert guard is not None
    assert (guard.alive, guard.on_lapse) == (True, "terminate")
    assert (memory / "pid").read_text() == process
    assert told.notes[0] == "the machine came up without its guard, which was started over SSH"


def test_what_the_laptop_keeps_of_the_guard_is_what_the_boot_plan_carries(tmp_path: Path) -> None:
    with SelfReleaseService() as service:
        calls = service.calls()
    offer = Offer("p", "1", "A40", 1, 48.0, Market.ON_DEMAND, 0.4)
    command = boot_plan(offer, make_machine_keys(tmp_path, "cb-1"), calls, None, 1500.0).start_command
    carried = gzip.decompress(base64.b64decode(command.split("|")[0].removeprefix("echo "))).decode()
    program = guard_for(offer, calls, 1500.0)
    assert program is not None
    assert program in carried
    assert guard_for(offer, None, 1500.0) is None
