"""The guard's shell script, run as it is, against a service that a machine may call about itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote_trainer.deadline import boot_clock
from remote_trainer.lease import LEASE_S, GuardAction, guard_action
from tests.fakes.self_release import SelfReleaseService
from tests.unit.guarded_machine import KEY, Machine, eventually


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
