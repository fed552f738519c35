"""The guard's shell script: what it tells nobody, and what restarts and damage do to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote_trainer.deadline import boot_clock
from tests.fakes.self_release import KEY_VARIABLE, SelfReleaseService
from tests.unit.guarded_machine import Machine, eventually


@pytest.fixture
def service() -> Iterator[SelfReleaseService]:
    with SelfReleaseService() as running:
        yield running


# ---- secrets ---------------------------------------------------------------------------------------------------------


def _command_lines() -> bytes:
    found = b""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += entry.read_bytes()
    return found


@pytest.mark.parametrize("with_curl", [True, False], ids=["curl", "python"])
def test_the_key_stands_in_no_argument_and_in_no_file(tmp_path: Path, with_curl: bool) -> None:
    seen: list[bytes] = []

    class Watched(SelfReleaseService):
        def _heard(self, asked: object) -> int:
            seen.append(_command_lines())  # the caller waits for its answer: it is among them
            return super()._heard(asked)  # type: ignore[arg-type]

    with Watched() as service:
        machine = Machine(tmp_path, service, first_lease_s=0)
        machine.environment[KEY_VARIABLE] = 'a"key\\with$(touch x)`signs`'
        if not with_curl:
            machine.environment["PATH"] = str(_path_without_curl(tmp_path / "bin"))
        with machine.guard():
            [asked] = service.wait_for("terminate")
            service.wait_for("probe")
            eventually(lambda: machine.files.answer == "200", "no proof was written")
    assert asked.authorization == f"Bearer {machine.environment[KEY_VARIABLE]}"
    assert any((b"curl" if with_curl else b"python3") in lines for lines in seen)
    assert not any(b'a"key' in lines for lines in seen)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "bin" not in path.parts]
    assert written
    assert not any(b'a"key' in content for content in written)


def _path_without_curl(folder: Path) -> Path:
    folder.mkdir()
    (folder / "python3").symlink_to(os.path.realpath(sys.executable))
    for name in ("sh", "sed", "tr", "date", "mv", "rm", "mkdir", "sleep", "grep"):
        found = shutil.which(name)
        assert found is not None, name
        (folder / name).symlink_to(found)
    return folder


# ---- restarts and damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "junk", [b"", b"tomorrow\n", b"-7\n", b"99999999999999999999\n", b"\xff\x00\xfe", b"$(id)\n", b"0x9\n"]
)
def test_junk_in_the_lease_leaves_the_last_good_one(tmp_path: Path, service: SelfReleaseService, junk: bytes) -> None:
    machine = Machine(tmp_path, service)
    with machine.guard() as process:
        service.wait_for("probe")
        (machine.memory / "lease").write_bytes(junk)
        (machine.memory / "limit").write_bytes(junk)
        later = int(boot_clock()) + 1
        eventually(lambda: int((machine.memory / "beat").read_text() or 0) >= later, "it looks no more")
        assert process.poll() is None
        assert service.acts() == []
        machine.files.end_lease(boot_clock())
        service.wait_for("terminate")


def test_a_restarted_container_gets_a_fresh_first_lease_and_keeps_what_the_volume_says(
    tmp_path: Path, service: SelfReleaseService
) -> None:
    machine = Machine(tmp_path, service, first_lease_s=1)
    machine.files.set_on_lapse("stop")
    machine.remember(lease=-100, limit=-50)  # memory that outlived its boot
    with machine.guard():
        eventually(lambda: machine.files.is_alive(boot_clock()), "it does not look")
        assert (machine.files.lease_s or 0) > boot_clock() - 1
        assert machine.files.limit_s is None
        service.wait_for("stop")
    assert service.acts() == ["stop"]


def test_a_machine_without_a_stop_keeps_the_limit_of_its_earlier_boot(
    tmp_path: Path, service: SelfReleaseService
) -> None:
    machine = Machine(tmp_path, service, stop=False, first_lease_s=0)
    machine.files.set_on_lapse("stop")
    machine.files.set_limit(boot_clock(), 2.0)
    (machine.memory / "limit").unlink()
    began = time.monotonic()
    with machine.guard():
        service.wait_for("terminate")
    assert time.monotonic() - began >= 1.0


def test_a_second_guard_leaves_at_once_and_a_dead_one_is_replaced_at_once(
    tmp_path: Path, service: SelfReleaseService
) -> None:
    machine = Machine(tmp_path, service)
    with machine.guard() as first:
        service.wait_for("probe")
        lease_s = machine.files.lease_s
        with machine.guard() as second:
            assert second.wait(10) == 0
        assert machine.files.lease_s == lease_s
        first.kill()  # alone: what it started may outlive it
        first.wait(10)
        with machine.guard(again=True) as third, pytest.raises(subprocess.TimeoutExpired):
            third.wait(0.5)


def test_of_two_guards_that_begin_at_once_one_stays(tmp_path: Path, service: SelfReleaseService) -> None:
    machine = Machine(tmp_path, service)
    with machine.guard() as one:
        service.wait_for("probe")
        (machine.memory / "pid").unlink()  # the other looked before this one was written
        with machine.guard() as other:
            assert one.wait(10) == 0
            assert other.poll() is None


def test_a_guard_started_again_keeps_lease_and_proof(tmp_path: Path, service: SelfReleaseService) -> None:
    machine = Machine(tmp_path, service)
    machine.remember(lease=77)
    (machine.memory / "proof").write_text("204\n")
    with machine.guard(again=True):
        eventually(lambda: machine.files.is_alive(boot_clock()), "it does not look")
    assert (machine.files.proven, service.asked) == (True, [])
    assert (machine.files.lease_s or 0) - boot_clock() == pytest.approx(77, abs=3)


def test_a_volume_that_cannot_be_read_any_more_has_not_forgotten_its_only_copy(
    tmp_path: Path, service: SelfReleaseService
) -> None:
    machine = Machine(tmp_path, service, first_lease_s=3)
    machine.files.set_on_lapse("stop")
    with machine.guard():
        service.wait_for("probe")  # by then it has looked
        (machine.state / "on-lapse").unlink()
        service.wait_for("stop")
    assert service.acts() == ["stop"]


def test_a_volume_that_takes_no_word_is_kept(tmp_path: Path, service: SelfReleaseService) -> None:
    machine = Machine(tmp_path, service, first_lease_s=0)
    (machine.state / "on-lapse").mkdir(parents=True)  # neither to be read nor to be written
    with machine.guard():
        service.wait_for("stop")
    assert service.acts() == ["stop"]


def test_a_pid_that_comes_back_after_a_restart_is_no_rival(tmp_path: Path, service: SelfReleaseService) -> None:
    machine = Machine(tmp_path, service, first_lease_s=60)
    same_number = ("sh", "-c", 'echo $$ >"${0%/*}/pid"; exec sh "$0"')
    with machine.guard(shell=same_number):
        service.wait_for("probe")
    assert machine.files.lease_s is not None
