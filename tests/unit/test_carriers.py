"""Runs in the background: which process carries them, and that it is one for all that may share it."""

from __future__ import annotations

import math
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.cli.carriers import (
    CarrierFolder,
    HandedOver,
    Next,
    as_told,
    code_mark,
    environment_mark,
    hand_over,
    what_became,
    what_next,
)
from orchestrator.driver_lock import driver_lock, is_driven
from orchestrator.home import Home
from orchestrator.wiring import wire_up
from providers.api import SshAccess
from tests.e2e.command import wait_until
from tests.fakes.followed_runs import record_training
from tests.fakes.photos import photo_folder

SHELL = {"HOME": "/home/me", "RUNPOD_API_KEY": "k", "TERM": "xterm", "PWD": "/home/me"}


@pytest.mark.parametrize("changed", [{"RUNPOD_API_KEY": "l"}, {"CLOUDBOOTH_NOTIFY": "desktop"}, {"HOME": "/root"}])
def test_another_key_or_address_wants_another_process(changed: dict[str, str]) -> None:
    assert environment_mark(SHELL | changed, "1") != environment_mark(SHELL, "1")


@pytest.mark.parametrize("changed", [{"PWD": "/"}, {"TERM": "dumb"}, {"KITTY_PID": "7"}, {"SSH_TTY": "/dev/pts/1"}])
def test_another_terminal_wants_none(changed: dict[str, str]) -> None:
    assert environment_mark(SHELL | changed, "1") == environment_mark(SHELL, "1")


def test_other_code_wants_another_process() -> None:
    assert environment_mark(SHELL, "1") != environment_mark(SHELL, "2")
    assert code_mark() == code_mark()


def test_a_mark_shows_nothing_of_the_environment() -> None:
    mark = environment_mark({"RUNPOD_API_KEY": "rpa_secret"}, "1")
    assert (len(mark), "rpa" in mark) == (16, False)


def test_a_request_that_comes_while_a_carrier_ends_is_kept_for_the_next(tmp_path: Path) -> None:
    folder = CarrierFolder(tmp_path / "carriers" / "a")
    folder.ask_for("dog")
    with driver_lock(folder.lock, "carrier"):
        folder.pid_file.write_text("7")
        folder.clear()
    assert folder.wanted() == ["dog"]
    assert not is_driven(folder.lock)
    folder.settle("dog")
    folder.lock.touch()
    folder.pid_file.touch()
    folder.clear()
    assert not folder.root.exists()


def decided(*, lives: bool = False, crashes: int = 0, waited_s: float = 9.0, since_start_s: float = math.inf) -> Next:
    patience_s = 60.0
    return what_next(
        lives=lives, crashes=crashes, waited_s=waited_s, patience_s=patience_s, since_start_s=since_start_s
    )


@pytest.mark.parametrize("waited_s", [0.0, 59.0])
def test_a_process_that_lives_is_waited_for_and_no_second_one_is_started(waited_s: float) -> None:
    assert decided(lives=True, waited_s=waited_s) is Next.WAIT


@pytest.mark.parametrize("crashes", [0, 9])
def test_a_process_that_lives_is_never_given_up_on_for_it_may_still_rent(crashes: int) -> None:
    assert decided(lives=True, crashes=crashes, waited_s=61.0) is Next.LEAVE


def test_one_that_has_ended_is_followed_by_another_after_a_moment() -> None:
    assert decided(since_start_s=0.5) is Next.WAIT
    assert decided(since_start_s=2.0) is Next.START


def test_what_crashes_again_is_given_up() -> None:
    assert decided(crashes=1) is Next.START
    assert decided(crashes=2) is Next.GIVE_UP
    assert decided(waited_s=61.0) is Next.GIVE_UP


def test_a_run_whose_driver_died_has_failed_also_while_another_has_not_begun() -> None:
    told = what_became(7, ["dog", "cat", "cow"], asked={"dog"}, not_taken={"dog", "cat"})
    assert told == HandedOver(7, failed=("cat",), starting=("dog",))
    assert what_became(7, ["dog"], asked=set(), not_taken=set()) == HandedOver(7)


def test_a_run_that_has_not_begun_comes_with_the_way_to_look_and_to_end_it() -> None:
    told = as_told("dog", HandedOver(7, starting=("dog",)))
    assert "process 7, which lives and has not begun" in told
    assert "`cloudbooth ps`" in told
    assert "`cloudbooth down dog`" in told
    assert as_told("dog", HandedOver(7)) == "dog runs in the background (process 7)"


def test_runs_share_one_process_and_after_its_death_the_next_takes_them_up(tmp_path: Path) -> None:
    photos, home = photo_folder(tmp_path / "photos"), Home.of_environment()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and never says a word
        access = SshAccess("127.0.0.1", silent.getsockname()[1], "me", None)
        for name in ("dog", "cat"):
            record_training(home, name, access, photos)
        wiring = wire_up()
        first = hand_over(wiring, ["dog"])
        with killed(first.pid):
            assert hand_over(wiring, ["cat"]) == first == HandedOver(first.pid)
        # As after a reboot: process ids, locks and requests are on the disk, and nobody holds them.
        [folder] = [CarrierFolder(root) for root in (home.root / "carriers").iterdir()]
        assert folder.carrier_pid() == first.pid
        folder.ask_for("dog")
        for name in ("dog", "cat"):
            wait_until(lambda name=name: not is_driven(home.run(name).driver_lock), "its lock is free")
        again = hand_over(wiring, ["dog", "cat"])
        with killed(again.pid):
            assert again == HandedOver(again.pid)
            assert again.pid not in (0, first.pid)


def test_whoever_carries_a_run_has_it_logged_where_it_was_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    photos, home = photo_folder(tmp_path / "photos"), Home.of_environment()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        record_training(home, "dog", SshAccess("127.0.0.1", silent.getsockname()[1], "me", None), photos)
        home.run("dog").log_to.write_text("trackio:dogs")
        with killed(hand_over(wire_up(), ["dog"]).pid):
            log = home.run("dog").driver_log
            wait_until(lambda: "trackio:dogs gets no more of this run" in log.read_text(), "it says so")


def test_a_process_with_nothing_to_carry_ends_and_leaves_nothing() -> None:
    wiring = wire_up()
    wiring.ledger.add_run("dog", "ssh", "{}", "{}")  # a spec that says nothing: its driver ends at once
    hand_over(wiring, ["dog"])
    wait_until(lambda: not list((wiring.home.root / "carriers").glob("*")), "the carrier is gone")
    assert "hint: " in wiring.home.run("dog").driver_log.read_text()


@contextmanager
def killed(pid: int) -> Iterator[None]:
    """At the end, whatever happens."""
    assert pid > 0, "zero would be all of us"
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)  # raises when there is no such process
