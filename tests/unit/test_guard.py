"""The guard's shell script, run as it is, against a service that a machine may call about itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.boot_script import GuardSettings, guard_program
from remote_trainer.deadline import boot_clock
from remote_trainer.lease import LEASE_S, GuardAction, GuardFiles, guard_action
from tests.fakes.self_release import KEY_VARIABLE, SelfReleaseService

KEY = "secret-of-the-machine"
POLL_S = 0.05


class Machine:
    """One that a guard may run on: work folder, memory, environment."""

    def __init__(self, root: Path, service: SelfReleaseService, *, stop: bool = True, first_lease_s: int = 600) -> None:
        self.root, self.service = root, service
        self.state, self.memory = root / "work" / "guard", root / "memory"
        for folder in (self.state, self.memory):
            folder.mkdir(parents=True, exist_ok=True)
        settings = GuardSettings(str(root / "work"), first_lease_s, poll_s=POLL_S, retry_s=1)
        self.script = self.memory / "guard.sh"
        self.script.write_text(guard_program(service.calls(stop=stop), settings))
        (self.state / "memory").write_text(str(self.memory))
        self.files = GuardFiles(self.state, self.memory)
        self.environment = {"PATH": os.environ["PATH"], KEY_VARIABLE: KEY, "MACHINE_NAME": "m"}

    def remember(self, **seconds_from_now: float) -> None:
        for name, left_s in seconds_from_now.items():
            (self.memory / name).write_text(f"{int(boot_clock() + left_s)}\n")

    @contextlib.contextmanager
    def guard(self, *, again: bool = False, shell: tuple[str, ...] = ("sh",)) -> Iterator[subprocess.Popen[bytes]]:
        environment = {**self.environment, **({"CLOUDBOOTH_GUARD_AGAIN": "yes"} if again else {})}
        with subprocess.Popen([*shell, str(self.script)], env=environment, cwd="/", start_new_session=True) as process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def log(self) -> str:
        path = self.state / "log"
        return path.read_text() if path.exists() else ""


def eventually(claim: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.02)


@pytest.fixture
def service() -> Iterator[SelfReleaseService]:
    with SelfReleaseService() as running:
        yield running


# ---- what it does when the lease has lapsed --------------------------------------------------------------------------

TABLE = [
    # lease, limit (seconds from now), on-lapse, can be stopped
    (60, None, None, True), (60, 60, "stop", True), (60, 60, "terminate", False),
    (-5, None, None, True), (-5, 60, "terminate", True), (-5, -5, "terminate", False),
    (-5, 60, "stop", True), (-5, -5, "stop", True), (-5, None, "stop", True),
    (-5, 60, "stop", False), (-5, -5, "stop", False), (-5, None, "stop", False),
    (60, -5, "terminate", True), (60, -5, "stop", False),
]  # fmt: skip


@pytest.mark.parametrize(("lease", "limit", "on_lapse", "can_stop"), TABLE)
def test_the_script_does_what_the_function_decides(
    tmp_path: Path, service: SelfReleaseService, lease: int, limit: int | None, on_lapse: str | None, can_stop: bool
) -> None:
    machine = Machine(tmp_path, service, stop=can_stop)
    machine.remember(lease=lease, **({} if limit is None else {"limit": limit}))
    if on_lapse is not None:
        (machine.state / "on-lapse").write_text(on_lapse)
    expected = guard_action(0, lease, limit, machine.files.on_lapse, can_stop)  # any origin of the clock will do
    with machine.guard(again=True):
        if expected is GuardAction.WAIT:
            service.wait_for("probe")  # which comes after the first look
        else:
            service.wait_for(expected.value)
    assert service.acts() == ([] if expected is GuardAction.WAIT else [expected.value])


def test_a_machine_that_nobody_logs_in_to_gives_itself_back(tmp_path: Path, service: SelfReleaseService) -> None:
    with Machine(tmp_path, service, first_lease_s=1).guard():
        [asked] = service.wait_for("terminate")
    assert (asked.method, asked.path, asked.authorization) == ("DELETE", "/machines/m/terminate", f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("left_s", "lease_s"),
    [(1200, 600), (400, 400), (-50, 300)],
    ids=["plenty is left", "less than a first lease is left", "nothing is left but the time to log in"],
)
def test_a_restarted_container_on_the_same_host_has_no_more_than_was_left(
    tmp_path: Path, service: SelfReleaseService, left_s: int, lease_s: int
) -> None:
    machine = Machine(tmp_path, service)
    with machine.guard():
        service.wait_for("probe")
    machine.files.set_limit(boot_clock(), left_s)
    for forgotten in ("lease", "limit", "proof", "beat", "pid"):
        (machine.memory / forgotten).unlink(missing_ok=True)
    with machine.guard():
        eventually(lambda: machine.files.lease_s is not None, "a first lease")
        lease = machine.files.lease_s
    assert lease is not None
    assert lease - boot_clock() == pytest.approx(lease_s, abs=5)


class RestartedContainer:
    """On one host: each `begin` has lost what lay in memory."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def begin(self) -> float:
        """Seconds of its first lease."""
        for forgotten in ("lease", "limit", "proof", "beat", "pid"):
            (self.machine.memory / forgotten).unlink(missing_ok=True)
        with self.machine.guard():
            eventually(lambda: self.machine.files.is_alive(boot_clock()), "it does not look")
            lease = self.machine.files.lease_s
        assert lease is not None
        return lease - boot_clock()


def test_a_container_that_restarts_before_anybody_logged_in_has_one_first_lease_in_all(
    tmp_path: Path, service: SelfReleaseService
) -> None:
    machine = Machine(tmp_path, service)
    (machine.state / "boot").write_text("of another host\n")
    (machine.state / "limit-at").write_text("5\n")
    container = RestartedContainer(machine)
    assert container.begin() == pytest.approx(600, abs=5)
    ends_at = int((machine.state / "limit-at").read_text())
    assert ends_at == pytest.approx(boot_clock() + 600, abs=5)
    (machine.state / "limit-at").write_text(f"{ends_at - 200}\n")  # so much later
    assert container.begin() == pytest.approx(400, abs=5)


def test_a_container_that_crashes_again_and_again_is_given_back_the_fourth_time(
    tmp_path: Path, service: SelfReleaseService
) -> None:
    machine = Machine(tmp_path, service)
    container = RestartedContainer(machine)
    container.begin()
    machine.files.set_limit(boot_clock(), -50)
    assert [container.begin() for _ in range(2)] == pytest.approx([300, 300], abs=5)
    machine.files.renew(boot_clock())  # somebody was here: it begins to count anew
    assert [container.begin() for _ in range(3)] == pytest.approx([300, 300, 300], abs=5)
    assert service.acts() == []
    assert container.begin() == pytest.approx(0, abs=5)
    service.wait_for("terminate")
    assert container.begin() == pytest.approx(300, abs=5), "who was stopped so can be rescued"


def test_another_machine_of_the_same_host_begins_with_a_whole_first_lease(
    tmp_path: Path, service: SelfReleaseService
) -> None:
    """It finds the files of one that had the network volume before."""
    machine = Machine(tmp_path, service)
    container = RestartedContainer(machine)
    container.begin()
    assert (machine.state / "boot").read_text().endswith("/machines/m/terminate\n"), "and nothing of its headers"
    machine.files.set_limit(boot_clock(), -50)
    assert container.begin() == pytest.approx(300, abs=5)
    machine.environment["MACHINE_NAME"] = "another"
    assert container.begin() == pytest.approx(600, abs=5)


def test_what_another_machine_left_on_a_network_volume_shortens_nothing(
    tmp_path: Path, service: SelfReleaseService
) -> None:
    machine = Machine(tmp_path, service)
    machine.files.set_limit(boot_clock(), 0)
    (machine.memory / "limit").unlink()
    (machine.state / "boot").write_text("of another host\n")
    with machine.guard():
        eventually(lambda: machine.files.lease_s is not None, "a first lease")
        lease = machine.files.lease_s
    assert lease is not None
    assert lease - boot_clock() == pytest.approx(600, abs=5)


SHELLS = [shell for shell in (("dash",), ("bash", "--posix"), ("busybox", "ash")) if shutil.which(shell[0])]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_whatever_the_image_calls_sh_will_do(
    tmp_path: Path, service: SelfReleaseService, shell: tuple[str, ...]
) -> None:
    machine = Machine(tmp_path, service, first_lease_s=0)
    machine.files.set_on_lapse("stop")
    with machine.guard(shell=shell):
        [asked] = service.wait_for("stop")
        service.wait_for("probe")
    assert (asked.authorization, asked.body) == (f"Bearer {KEY}", '{"state": "stopped"}')


def test_a_call_answered_well_is_made_once(tmp_path: Path, service: SelfReleaseService) -> None:
    machine = Machine(tmp_path, service, first_lease_s=0)
    with machine.guard():
        service.wait_for("terminate")
        beat = machine.files.is_alive
        eventually(lambda: beat(boot_clock()), "it looks no more")
        looks_later = int(boot_clock()) + 2
        eventually(lambda: int((machine.memory / "beat").read_text() or 0) >= looks_later, "it looks no more")
    assert service.acts() == ["terminate"]


@pytest.mark.parametrize("good", [200, 204, 404, 410])
def test_a_call_is_made_again_until_it_is_answered_well(tmp_path: Path, good: int) -> None:
    with SelfReleaseService(503, good) as service:
        machine = Machine(tmp_path, service, first_lease_s=0)
        with machine.guard():
            service.wait_for("terminate", times=2)
            eventually(lambda: f"terminate: {good}" in machine.log(), "the answer is not in the log")
    assert "terminate: 503" in machine.log()


def test_a_service_that_does_not_answer_at_all_is_asked_again(tmp_path: Path) -> None:
    with SelfReleaseService() as service:
        machine = Machine(tmp_path, service, first_lease_s=0)
    with machine.guard():  # nothing listens there any more
        eventually(lambda: machine.log().count("terminate: 000") >= 2, "it gave up")


def test_a_renewed_lease_is_waited_for(tmp_path: Path, service: SelfReleaseService) -> None:
    machine = Machine(tmp_path, service, first_lease_s=0)
    machine.script.write_text(machine.script.read_text().replace("FIRST_S=0", "FIRST_S=60"))
    with machine.guard():
        service.wait_for("probe")
        machine.files.renew(boot_clock())
        assert machine.files.lease_s == pytest.approx(boot_clock() + LEASE_S, abs=2)
        machine.files.end_lease(boot_clock())
        service.wait_for("terminate")


def test_the_only_copy_is_stopped_with_body_and_key(tmp_path: Path, service: SelfReleaseService) -> None:
    machine = Machine(tmp_path, service, first_lease_s=0)
    machine.files.set_on_lapse("stop")
    with machine.guard():
        [asked] = service.wait_for("stop")
    assert (asked.method, asked.authorization, asked.body) == ("POST", f"Bearer {KEY}", '{"state": "stopped"}')
    assert service.acts() == ["stop"]


# ---- the probe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "proven"), [(200, True), (403, False)])
def test_the_probe_is_sent_at_boot_and_its_answer_kept(tmp_path: Path, answer: int, proven: bool) -> None:
    with SelfReleaseService(probe=answer) as service:
        machine = Machine(tmp_path, service)
        assert machine.files.proven is None
        with machine.guard():
            [asked] = service.wait_for("probe")
            eventually(lambda: machine.files.proven is not None, "no proof was written")
    assert (asked.method, asked.body, asked.authorization) == ("PUT", '{"label": "m"}', f"Bearer {KEY}")
    assert (machine.files.proven, machine.files.answer) == (proven, str(answer))


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
