"""Runs go on after a reboot: what the system is told, and what it then starts."""

from __future__ import annotations

import json
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import cli
from orchestrator.login_hook import environment_file, hook_for

EXECUTABLE = Path(sys.executable).with_name("cloudbooth")
ODD = 'a 50% "odd" $place'


def test_systemd_accepts_the_unit_whatever_the_paths_are_called(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd on this machine")
    program = tmp_path / ODD / "cloudbooth"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    hook = hook_for("Linux", tmp_path, program, tmp_path / ODD)
    assert hook is not None
    file = tmp_path / hook.file.name
    file.write_bytes(hook.content)
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    verify = ["systemd-analyze", "--user", "verify", str(file)]

    def complaints() -> list[str]:
        """About ours: it looks at the units that ours stands beside as well."""
        done = subprocess.run(verify, capture_output=True, text=True, env=environ, timeout=60, check=False)
        return [line for line in done.stderr.splitlines() if file.name in line]

    assert complaints() == []
    file.write_bytes(hook.content.replace(b"Type=oneshot", b"Type=once"))
    assert complaints() != [], "and it would say so"


def test_what_launchd_starts_at_login_takes_runs_up_with_the_keys_of_a_file(tmp_path: Path) -> None:
    """As launchd starts it: with no environment but what the agent names. The file's variables reach the command."""
    state, told = tmp_path / ODD / "state", tmp_path / "told"
    program = tmp_path / ODD / "cloudbooth"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@ $RUNPOD_API_KEY $CLOUDBOOTH_HOME" > "{told}"\n')
    program.chmod(0o755)
    keys = environment_file(tmp_path)
    for content, expected in (("", ""), ("RUNPOD_API_KEY=rpa_1\n", "rpa_1")):
        keys.parent.mkdir(parents=True, exist_ok=True)
        keys.write_text(content)
        hook = hook_for("Darwin", tmp_path, program, state)
        assert hook is not None
        agent = plistlib.loads(hook.content)
        assert (agent["RunAtLoad"], agent["AbandonProcessGroup"]) == (True, True)
        subprocess.run(agent["ProgramArguments"], env=agent["EnvironmentVariables"], check=True, timeout=60)
        assert told.read_text() == f"attach --all {expected} {state}\n"
        keys.unlink()
    subprocess.run(agent["ProgramArguments"], env=agent["EnvironmentVariables"], check=True, timeout=60)
    assert told.read_text().startswith("attach --all "), "the file need not exist"


def test_the_command_starts_without_any_environment_of_a_shell(tmp_path: Path) -> None:
    environ = {"CLOUDBOOTH_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}
    done = subprocess.run([EXECUTABLE, "attach", "--all"], env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "every run that goes on has its process\n", "")


def test_the_verb_writes_one_file_and_takes_it_back(monkeypatch: pytest.MonkeyPatch, isolated_home: Path) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")

    def said(*argv: str) -> dict[str, object]:
        done = CliRunner().invoke(cli, ["at-login", *argv, "--json"], standalone_mode=False)
        assert done.exception is None, done.exception
        told: dict[str, object] = json.loads(done.stdout)
        return told

    file = isolated_home / ".config/systemd/user/cloudbooth.service"
    assert said()["file"] == str(file)
    assert f'ExecStart=/usr/bin/env "{EXECUTABLE}" attach --all' in file.read_text()
    assert said("--remove")["next"] == "systemctl --user disable cloudbooth.service"
    assert not file.exists()


def test_elsewhere_there_is_none(tmp_path: Path) -> None:
    assert hook_for("Windows", tmp_path, EXECUTABLE, tmp_path) is None
