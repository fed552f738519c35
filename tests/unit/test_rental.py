"""Renting and waiting, by the real phases and ledger, at a simulated cloud."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.budget import BOOT_DEADLINE_S, FIRST_LEASE_LIMITS_S, cost_usd, spent_usd, unseen_usd
from orchestrator.home import RunHome
from orchestrator.lifecycle import Facts, Keeps, Standing, Trouble, Wish
from orchestrator.phases import provision, release
from orchestrator.spec import Compute, Limits, RunSpec
from orchestrator.ssh.machine_keys import read_machine_keys
from providers.api import BootPlan, GpuRequest, Machine, MachineId, MachineStatus, Market, Offer, SshAccess
from providers.errors import UnsupportedMarket
from providers.testing.faults import CloudFault, Mishap
from providers.testing.simulated_cloud import SimulatedCloud
from remote_trainer import wire
from tests.unit.rented_world import World, made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits())


def test_a_machine_comes_up_with_keys_and_a_guard_and_they_go_with_it(world: World) -> None:
    machine = world.rented()
    keys = read_machine_keys(world.context.home.machine_keys, machine.tag)
    assert keys is not None
    boot = world.cloud.rentals[MachineId("m1")].boot
    assert boot.authorized_key == keys.authorized_key
    assert "PRIVATE" not in boot.start_command, "packed, and never in a log by accident"
    assert boot.start_command
    access = world.context.access()
    assert isinstance(access, SshAccess)
    assert (access.identity_file, access.host_key) == (str(keys.identity_file), keys.host_key)
    release.release(world.context, Facts())
    assert world.machine().standing is Standing.ABSENT
    assert not world.cloud.living()
    assert read_machine_keys(world.context.home.machine_keys, machine.tag) is None


def test_a_machine_gets_the_disk_that_the_plan_has_counted_for_its_pictures(world: World) -> None:
    context = world.context
    planned = json.dumps({"rental": {"disk_gb": 70.0}})
    world.context = replace(context, run=replace(context.run, plan_json=planned))
    world.rented()
    assert world.cloud.rentals[MachineId("m1")].boot.disk_gb == 70.0


def test_what_a_rescue_would_cost_is_recorded_with_the_intent(world: World) -> None:
    machine = world.rented()
    disk_usd = machine.disk_per_day_usd * 72 / 24
    assert disk_usd > 0
    assert machine.rescue_usd == pytest.approx(disk_usd + machine.price_per_hour_usd / 6)


class _BillsBytes(SimulatedCloud):
    """As hosts do that ask more for a gigabyte than for an hour."""

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        return [replace(offer, download_usd_per_gb=0.1, upload_usd_per_gb=0.1) for offer in super().offers(want)]


def test_what_bytes_cost_is_kept_free_within_the_ceiling_and_counts_as_spent(tmp_path: Path) -> None:
    for world in made(tmp_path, Limits(), cloud_of=_BillsBytes):
        machine = world.rented()
        assert machine.traffic_usd > 0.3, "the environment alone is several gigabytes"
        assert spent_usd([machine], world.clock.now()) == pytest.approx(machine.traffic_usd, abs=0.01)
    (tmp_path / "poor").mkdir()
    for world in made(tmp_path / "poor", Limits(max_cost_usd=machine.traffic_usd), cloud_of=_BillsBytes):
        assert "leaves too little" in provision.create(world.context, Facts()).no_machine


def test_a_machine_that_the_ceiling_does_not_pay_for_is_not_rented(tmp_path: Path) -> None:
    for world in made(tmp_path, Limits(max_cost_usd=0.3)):
        facts = provision.create(world.context, Facts())
        assert "$0.00 of limits.max_cost_usd = 0.3 are spent" in facts.no_machine
        assert not world.cloud.rentals


def test_an_offer_that_is_gone_is_followed_by_the_next_best_at_once(world: World) -> None:
    world.cloud.arm(Mishap(CloudFault.NO_CAPACITY))
    facts = provision.create(world.context, Facts())
    assert facts.refused == {"RTX A5000/on-demand"}
    assert world.ledger.machines("dog")[0].standing is Standing.ABSENT
    provision.create(world.context, facts)
    assert world.machine().offer_id == "RTX 4090/on-demand"
    assert world.clock.monotonic() == 0.0


class _LostItsSpotMarket(SimulatedCloud):
    """It still lists spot prices, and refuses to rent at them."""

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        if offer.market is Market.SPOT:
            raise UnsupportedMarket("spot is gone", "`--on-demand`")
        return super().create(offer, boot, tag)


def test_a_market_that_is_no_more_leaves_nothing_that_might_bill(tmp_path: Path) -> None:
    for world in made(tmp_path, Limits(), "spot"):
        world.context = replace(world.context, provider=_LostItsSpotMarket(world.clock))
        with pytest.raises(UnsupportedMarket):
            provision.create(world.context, Facts())
        assert world.ledger.open_machines() == []


def test_a_market_that_is_no_more_is_left_for_the_other_that_the_spec_allows(tmp_path: Path) -> None:
    for world in made(tmp_path, Limits(), "spot-then-on-demand"):
        world.context = replace(world.context, provider=_LostItsSpotMarket(world.clock))
        facts = Facts()
        for _ in range(3):
            facts = provision.create(world.context, facts)
            if world.ledger.open_machines():
                break
        assert [machine.market for machine in world.ledger.open_machines()] == [Market.ON_DEMAND]


def test_with_nothing_to_rent_it_waits_and_asks_again_but_not_forever(world: World) -> None:
    nothing = RunSpec.model_copy(world.context.spec, update={"compute": Compute(provider="simulated", gpu=("H900",))})
    context, facts = replace(world.context, spec=nothing), Facts()
    while not facts.no_machine:
        facts = provision.create(context, facts)
    assert 3600 <= world.clock.monotonic() <= 3900
    assert "nothing could be rented" in facts.no_machine
    assert not world.cloud.rentals


def test_a_gpu_that_another_run_found_slow_is_passed_over(world: World) -> None:
    assert world.rented().offer_id == "RTX A5000/on-demand"
    release.release(world.context, Facts())
    spec = world.context.spec
    plan = {"offer": {"gpu": "RTX A5000"}, "base_for_job": spec.model.base, "train": vars(spec.train)}
    world.ledger.add_run("cat", "simulated", "{}", json.dumps(plan, default=str))
    home = RunHome(world.context.home.root.with_name("cat"))
    home.root.mkdir()
    steps = [wire.StepDone(step, 9, 0.1, 1e-4, 0.01) for step in range(1, 10)]
    home.events("1").write_bytes(b"".join(wire.encode_event(step, seq, 0.0) for seq, step in enumerate(steps)))
    assert world.rented().offer_id == "RTX 4090/on-demand"


def test_nobody_waits_for_a_machine_that_is_no_longer_wanted(world: World) -> None:
    nothing = RunSpec.model_copy(world.context.spec, update={"compute": Compute(provider="simulated", gpu=("H900",))})
    world.ledger.set_wish("dog", Wish.STOP)
    provision.create(replace(world.context, spec=nothing), Facts(waited_s=1000.0))
    assert world.clock.monotonic() == 0.0


def test_a_machine_that_bills_more_than_offered_is_lost_at_once(world: World) -> None:
    world.cloud.arm(Mishap(CloudFault.DEARER, amount=1.5))
    machine = world.rented()
    facts = provision.await_ready(world.context, Facts())
    assert "bills $0.54/h, and $0.36/h was offered" in facts.machine_lost
    assert world.machine().trouble is Trouble.TOO_DEAR
    now = world.clock.now()
    assert spent_usd([world.machine()], now) == pytest.approx(world.cloud.spent_usd(), abs=0.54 / 3600)
    assert not world.asked, "nothing was sent to it"
    assert machine.rates == ()


def test_another_host_key_is_waited_out_while_booting_and_then_the_machine_is_lost(world: World) -> None:
    world.rented()
    before = world.clock.monotonic()
    facts = provision.await_ready(world.context, Facts())
    assert BOOT_DEADLINE_S <= world.clock.monotonic() - before <= BOOT_DEADLINE_S + 60
    assert facts.machine_lost == "the machine did not answer within 10 min: it shows another host key"
    assert world.machine().trouble is Trouble.BROKEN
    assert world.machine().keeps is Keeps.NOTHING
    assert all(access.host_key for access in world.asked)


def test_an_answer_that_was_lost_counts_for_as_long_as_its_machine_may_run_unseen(world: World) -> None:
    world.cloud.arm(Mishap(CloudFault.LOST_ANSWER))
    world.cloud.arm(Mishap(CloudFault.LISTED_LATE, amount=3000.0))
    provision.create(world.context, Facts())
    provision.settle(world.context, Facts())
    assert world.ledger.open_machines() == []
    unseen = world.ledger.machines("dog")
    counted = spent_usd(unseen, world.clock.now())
    assert counted == unseen_usd(unseen, world.clock.now()) == pytest.approx(2100 / 3600 * 0.36)
    assert cost_usd(unseen, world.clock.now()) == 0.0, "people are told what was seen"
    assert spent_usd(unseen, world.clock.now() + 24 * 3600) == 0.0, "by then it would have shown up"


def test_a_refusal_is_known_to_have_cost_nothing(world: World) -> None:
    world.cloud.arm(Mishap(CloudFault.NO_CAPACITY))
    provision.create(world.context, Facts())
    (refused,) = world.ledger.machines("dog")
    assert refused.refused
    assert spent_usd([refused], world.clock.now()) == 0.0


def test_the_first_lease_is_no_longer_than_the_ceiling_pays_for(tmp_path: Path) -> None:
    for world in made(tmp_path, Limits(max_cost_usd=0.2, rescue_hours=0.0)):
        machine = world.rented()
        left_s = (0.2 - machine.rescue_usd) / 0.36 * 3600
        assert machine.first_lease_s == pytest.approx(left_s - BOOT_DEADLINE_S)
        assert machine.first_lease_s < FIRST_LEASE_LIMITS_S[1]


class _GivesUpAtBoot(SimulatedCloud):
    """The host cannot start the container, and says why; its log comes some seconds after it was asked for."""

    looks = 0

    def describe(self, machine: MachineId) -> Machine:
        return replace(super().describe(machine), status=MachineStatus.FAILED, status_text="manifest unknown")

    def logs(self, machine: MachineId) -> str:
        self.looks += 1
        return "no such image\n" if self.looks > 2 else ""


def test_a_boot_that_the_provider_says_has_failed_is_not_waited_for(world: World) -> None:
    cloud = _GivesUpAtBoot(world.clock)
    context = replace(world.context, provider=cloud)
    provision.create(context, Facts())
    facts = provision.await_ready(context, Facts())
    assert facts.machine_lost == "the machine will never come up: manifest unknown"
    assert world.machine().trouble is Trouble.BROKEN
    assert world.clock.monotonic() < 20
    (log,) = world.context.home.root.glob("boot-*.log")
    assert log.read_text() == "no such image\n"
