"""What `ps` lists, and what it loads and reads for that."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from orchestrator.cli.main import cli
from orchestrator.cli.render.run_list import render_runs, view_runs
from orchestrator.cli.together import carry
from orchestrator.errors import ExitCode, UsageError
from orchestrator.home import Home
from orchestrator.ledger import Ledger
from orchestrator.lifecycle import EndReason, State
from orchestrator.newest_step import TAILS_BYTES, newest_step
from providers.api import MachineId, Market, Offer
from remote_trainer import wire
from tests.unit.fake_clock import FakeClock

OFFER = Offer("runpod", "1", "RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.5)


@pytest.fixture
def home(isolated_home: Path) -> Home:
    return Home(isolated_home / "cloudbooth")


def recorded(home: Home, clock: FakeClock, name: str, *, ended: bool = True, bills: bool = False) -> None:
    ledger = Ledger(home.ledger_file, clock)
    ledger.add_run(name, "runpod", "{}", "{}")
    epoch = ledger.become_driver(name)
    if bills:
        ledger.record_intent(ledger.run(name), epoch, f"cb-{name}", OFFER)
        ledger.record_created(name, epoch, f"cb-{name}", MachineId("x"))
    if ended:
        ledger.move(name, epoch, State.PLANNED, State.RELEASING, "over", EndReason.CANCELED)
        ledger.move(name, epoch, State.RELEASING, State.ENDED, "over")
    ledger.close()


def step_line(step: int) -> bytes:
    return wire.encode_event(wire.StepDone(step, 1000, 0.5 / step, 1e-4, 1.0), step, float(step))


def test_old_runs_that_have_ended_are_counted_and_what_goes_on_or_bills_is_always_there(home: Home) -> None:
    clock = FakeClock()
    recorded(home, clock, "old-and-billing", bills=True)
    recorded(home, clock, "old-and-going-on", ended=False)
    for number in range(6):
        clock.sleep(10)
        recorded(home, clock, f"run-{number}")
    ledger = Ledger(home.ledger_file, clock)
    shown, hidden = view_runs(ledger, home, clock.now(), ended_at_most=3)
    assert [view.run for view in shown] == ["old-and-billing", "run-5", "run-4", "run-3", "old-and-going-on"]
    assert hidden == 3
    console = Console(file=io.StringIO(), width=80)
    render_runs(shown, hidden, console)
    assert isinstance(console.file, io.StringIO)
    assert "and 3 more that ended before: `cloudbooth ps --all`" in console.file.getvalue()


def test_scripts_get_all(home: Home) -> None:
    for number in range(60):
        recorded(home, FakeClock(), f"run-{number}")
    done = CliRunner().invoke(cli, ["ps", "--json"], standalone_mode=False)
    assert json.loads(done.stdout.splitlines()[-1]) == {"type": "summary", "runs": 60}
    for argv, lines in ((["ps"], 1 + 50 + 1), (["ps", "--all"], 1 + 60)):
        done = CliRunner().invoke(cli, argv, standalone_mode=False)
        assert len(done.stdout.splitlines()) == lines


@pytest.mark.parametrize("noise", [0, *TAILS_BYTES], ids=["at the end of the log", "near it", "far from it"])
def test_the_newest_step_is_read_from_the_end_of_the_newest_log(home: Home, noise: int) -> None:
    folder = home.run("dog").root
    folder.mkdir(parents=True)
    assert newest_step(home.run("dog")) is None
    heartbeat = wire.encode_event(wire.Heartbeat(1.0, True), 0, 0.0)
    log = step_line(10) + step_line(20) + heartbeat * (noise // len(heartbeat) + 1) + b'{"type": "step", torn'
    (folder / "events-a.jsonl").write_bytes(log)
    (folder / "events-b.jsonl").write_bytes(heartbeat)
    assert newest_step(home.run("dog")) == (20, 1000, 0.025)


def test_the_list_loads_neither_pydantic_nor_what_drives_runs() -> None:
    program = (
        "import sys\nfrom orchestrator.cli.main import run\nrun(['ps'])\n"
        "heavy = 'pydantic paramiko httpx orchestrator.driver orchestrator.wiring remote_trainer.wire'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---- after a reboot --------------------------------------------------------------------------------------------------


def test_every_run_that_goes_on_and_has_no_process_is_given_one(home: Home) -> None:
    recorded(home, FakeClock(), "over")
    recorded(home, FakeClock(), "going-on", ended=False)  # its spec says nothing: the process ends soon, seen or not
    done = CliRunner().invoke(cli, ["attach", "--all", "--json"], standalone_mode=False)
    told = json.loads(done.stdout.splitlines()[-1])
    assert sorted(told["taken_up"] + told["failed"]) == ["going-on"]
    assert done.return_value == (ExitCode.CONFLICT if told["failed"] else ExitCode.OK)


def test_what_goes_wrong_with_one_of_many_is_in_its_own_log(home: Home) -> None:
    recorded(home, FakeClock(), "going-on", ended=False)
    thread = threading.Thread(target=carry, args=("going-on",))
    thread.start()
    thread.join(30)
    log = home.run("going-on").driver_log.read_text()
    assert log.startswith("error: the recorded spec")
    assert "hint: " in log


def test_nothing_to_take_up_is_said(home: Home) -> None:
    recorded(home, FakeClock(), "over")
    done = CliRunner().invoke(cli, ["attach", "--all"], standalone_mode=False)
    assert (done.return_value, done.stdout) == (0, "every run that goes on has its process\n")


@pytest.mark.parametrize("argv", [["attach"], ["attach", "dog", "--all"]])
def test_attach_takes_a_run_or_all(argv: list[str]) -> None:
    done = CliRunner().invoke(cli, argv, standalone_mode=False)
    assert isinstance(done.exception, UsageError)
