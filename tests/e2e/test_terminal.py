"""The live view on a real terminal: a pseudo-terminal, read as a person's would be."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time

from tests.e2e.command import EXECUTABLE, PATIENCE_S, Cloudbooth

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def on_a_terminal(installation: Cloudbooth, argv: list[str], answers: dict[str, str]) -> tuple[int, str]:
    """Runs the command on a terminal of 80 columns, typing each answer when its question stands there."""
    master, slave = pty.openpty()
    environ = {**os.environ, "CLOUDBOOTH_HOME": str(installation.root / "state"), "TERM": "xterm", "COLUMNS": "80"}
    child = subprocess.Popen(
        [EXECUTABLE, *argv], env=environ, cwd=installation.root, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    shown = b""
    asked = dict(answers)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.5)[0]:
            try:
                shown += os.read(master, 1 << 16)
            except OSError:  # the last writer has closed the terminal
                break
        for question in [question for question in asked if question.encode() in shown]:
            os.write(master, f"{asked.pop(question)}\n".encode())
    os.close(master)
    return child.wait(timeout=PATIENCE_S), CONTROL.sub("", shown.decode(errors="replace"))


def test_the_live_view_shows_progress_and_money_and_ends_with_the_model(cloudbooth: Cloudbooth) -> None:
    argv = [part for part in cloudbooth.launch_argv("robot", "--steps", "10") if part != "--json"]
    code, shown = on_a_terminal(cloudbooth, argv, {"Start?": "y"})
    assert code == 0, shown[-3000:]
    assert "Traceback" not in shown
    assert re.search(r"steps\s.*step \d+/10", shown)
    assert "$0.00 so far" in shown
    assert f"model: {cloudbooth.models / 'robot'}" in shown.replace("\n", "")


def test_no_starts_nothing(cloudbooth: Cloudbooth) -> None:
    argv = [part for part in cloudbooth.launch_argv("robot") if part != "--json"]
    code, shown = on_a_terminal(cloudbooth, argv, {"Start?": "n"})
    assert code == 0, shown[-3000:]
    assert cloudbooth.run("ps", "--json").summary["runs"] == 0


def test_a_reader_that_has_seen_enough_does_not_end_the_run(cloudbooth: Cloudbooth) -> None:
    argv = [part for part in cloudbooth.launch_argv("robot", "--steps", "10") if part != "--json"]
    with cloudbooth.started(*argv) as driver:
        assert driver.stdout is not None
        assert any("provisioning" in line for line in driver.stdout)
        driver.stdout.close()
        assert driver.wait(timeout=PATIENCE_S) == 0
        assert driver.stderr is not None
        assert driver.stderr.read() == ""
    [run, _] = cloudbooth.run("ps", "--json").lines
    assert run["reason"] == "done"
