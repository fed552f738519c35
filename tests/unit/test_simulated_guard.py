"""The guard of the simulated machines: the start command of the product, on a virtual clock, with a machine's key."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.boot_script import GuardSettings, start_command
from providers.api import BootPlan, GpuRequest, MachineStatus
from providers.testing.faults import CloudFault, Mishap
from providers.testing.machine_calls import environment
from providers.testing.rentals import Rental
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import VirtualClock
from remote_trainer import wire
from tests.simulation.computer import Computer
from tests.simulation.guard import Guard, Program
from tests.simulation.schedule import Occasion, Training

FIRST_S = 900


class Nobody:
    """Observes nothing."""

    def trainer_started(self, computer: Computer, step: int) -> None: ...

    def said(self, computer: Computer, event: wire.Event) -> None: ...

    def happened(self, computer: Computer, occasion: Occasion) -> None: ...


class Rented:
    """A machine whose boot plan the product has written."""

    def __init__(self, folder: Path, *mishaps: Mishap) -> None:
        self.clock = VirtualClock()
        self.cloud = SimulatedCloud(self.clock, mishaps, boot_s=10, release_s=5)
        offer = self.cloud.offers(GpuRequest())[0]
        command = start_command(
            self.cloud.self_release(offer), GuardSettings("~/cloudbooth", FIRST_S), authorized_key="ssh-ed25519 AAAA me"
        )
        self.cloud.hooks.on_boot = lambda rental: self._boot(rental, folder)
        self.machine = self.cloud.create(offer, BootPlan(start_command=command), "cb-1")
        self.clock.sleep(11)

    def _boot(self, rental: Rental, folder: Path) -> None:
        self.computer = Computer("m1", folder / "m1", self.clock, Training(1, 1, 1, None), Nobody())
        program = Program.of(rental.boot.start_command)
        assert program is not None
        self.guard = Guard(
            self.computer, program, self.computer.disk / "cloudbooth", environment(rental), self.cloud.answer_to_machine
        )
        self.guard.begin()

    def is_gone(self) -> bool:
        return not self.cloud.living()


@pytest.fixture
def rented(tmp_path: Path) -> Rented:
    return Rented(tmp_path)


def test_a_machine_that_nobody_logs_into_gives_itself_back_when_its_first_lease_ends(rented: Rented) -> None:
    rented.clock.sleep(FIRST_S - 10)
    assert not rented.is_gone()
    rented.clock.sleep(20)
    assert rented.is_gone()


def test_a_renewal_keeps_it_for_as_long(rented: Rented) -> None:
    rented.clock.sleep(800)
    rented.guard.files.renew(rented.computer.boot_clock_s)
    rented.clock.sleep(590)
    assert not rented.is_gone()
    rented.clock.sleep(60)
    assert rented.is_gone()


def test_it_stops_with_an_only_copy(rented: Rented) -> None:
    rented.guard.files.set_on_lapse("stop")
    rented.clock.sleep(FIRST_S + 60)
    assert rented.cloud.describe(rented.machine).status is MachineStatus.STOPPED


def test_what_the_probe_proves_is_on_record(rented: Rented) -> None:
    assert rented.guard.files.proven is True


def test_a_key_that_is_refused_proves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    rented = Rented(tmp_path, Mishap(CloudFault.KEY_REFUSED))
    assert rented.guard.files.proven is False
    rented.clock.sleep(FIRST_S + 3600)
    assert not rented.is_gone()


def test_an_outage_delays_the_end_and_does_not_prevent_it(rented: Rented) -> None:
    rented.clock.sleep(FIRST_S - 60)
    rented.cloud.arm(Mishap(CloudFault.OUTAGE, amount=1000))
    assert rented.cloud.rentals  # the outage begins with the next call
    with pytest.raises(Exception, match="does not answer"):
        rented.cloud.list("cb-")
    rented.clock.sleep(500)
    assert not rented.is_gone()
    rented.clock.sleep(1000)
    assert rented.is_gone()


def test_a_killed_guard_ends_nothing_and_goes_on_where_it_was(rented: Rented) -> None:
    rented.guard.kill()
    rented.clock.sleep(2 * FIRST_S)
    assert not rented.is_gone()
    assert not rented.guard.files.is_alive(rented.computer.boot_clock_s)
    rented.guard.begin(again=True)
    rented.clock.sleep(60)
    assert rented.is_gone()
