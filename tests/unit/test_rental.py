"""Renting, waiting, rescuing and giving back, by the real phases and ledger, at a simulated cloud."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.at_stake import lost_by_down
from orchestrator.budget import BOOT_DEADLINE_S, FIRST_LEASE_LIMITS_S, cost_usd, spent_usd, unseen_usd
from orchestrator.errors import StaleDriver
from orchestrator.home import Home, RunHome
from orchestrator.host import Host, HostKeyRejected, HostUnreachable
from orchestrator.latecomers import (
    SETTLE_AGE_S,
    expired_rescues,
    give_back_latecomers,
    give_back_strays,
    latecomers,
    strays,
)
from orchestrator.ledger import Ledger, MachineRecord
from orchestrator.lifecycle import Facts, Keeps, Move, Standing, State, Trouble, Wish, next_step
from orchestrator.phases import provision, release, rescue
from orchestrator.phases.context import RunContext
from orchestrator.phases.loss import Loss, declare_lost
from orchestrator.spec import Compute, Limits, RunSpec, Subject, spec_to_json
from orchestrator.spec_data import Data
from orchestrator.ssh.machine_keys import read_machine_keys
from orchestrator.wiring import Wiring
from providers.api import (
    Access,
    BootPlan,
    GpuRequest,
    Machine,
    MachineId,
    MachineStatus,
    Market,
    Offer,
    SshAccess,
    Volume,
)
from providers.errors import MachineGone, NoCapacity, UnsupportedMarket
from providers.registry import ProviderContext, load_provider
from providers.testing.faults import CloudFault, Mishap
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import VirtualClock
from remote_trainer import wire
from tests.fakes.told import Told


@dataclass
class World:
    clock: VirtualClock
    cloud: SimulatedCloud
    ledger: Ledger
    told: Told
    context: RunContext
    asked: list[SshAccess] = field(default_factory=list)
    """Every address that somebody wanted to connect to."""

    def connect(self, access: Access) -> Host:
        """Nobody is ever let in."""
        assert isinstance(access, SshAccess)
        self.asked.append(access)
        raise HostKeyRejected("it shows another host key")

    def machine(self) -> MachineRecord:
        return self.context.held_machine()

    def rented(self) -> MachineRecord:
        provision.create(self.context, Facts())
        self.clock.sleep(60)
        return self.machine()

    def shipped_and_done(self) -> None:
        """The laptop has heard that the model is finished, and has not fetched it."""
        home = self.context.home
        home.sent_job.parent.mkdir()
        job = wire.Job("dog", "dog", "builtin:tiny", wire.TrainSpec(), (), ("diffusers",), machine=self.machine().tag)
        home.sent_job.write_bytes(wire.dumps(job))
        home.events("1").write_bytes(wire.encode_event(wire.Done(10, "sha"), 1, 0.0))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits())


class WithVolume(SimulatedCloud):
    """Its account has one network volume, which every machine has that was rented with it."""

    def volumes(self) -> Sequence[Volume]:
        mounted_by = tuple(rental.tag for rental in self.living() if rental.boot.volume == "vol")
        return [Volume("vol", "cache", "here", 100, 7.0, mounted_by)]


def made(
    tmp_path: Path,
    limits: Limits,
    market: str = "on-demand",
    cloud_of: Callable[[VirtualClock], SimulatedCloud] = SimulatedCloud,
    volume: str = "",
) -> Iterator[World]:
    clock, told = VirtualClock(), Told()
    cloud = cloud_of(clock)
    ledger = Ledger(tmp_path / "ledger.sqlite3", clock)
    spec = RunSpec(
        name="dog",
        subject=Subject(instance_prompt="a dog"),
        data=Data(instance=Path("photos")),
        compute=Compute(provider="simulated", market=market, volume=volume),  # type: ignore[arg-type]
        limits=limits,
    )
    ledger.add_run("dog", "simulated", spec_to_json(spec), "{}")
    home = RunHome(tmp_path / "dog")
    home.root.mkdir()
    world = World(clock, cloud, ledger, told, None)  # type: ignore[arg-type]  # each needs the other
    world.context = RunContext(
        ledger.run("dog"), ledger.become_driver("dog"), ledger, cloud, world.connect, clock, told, home, spec
    )
    yield world
    ledger.close()


# ---- renting -------------------------------------------------------------------------------------------------------


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


# ---- rescue --------------------------------------------------------------------------------------------------------


def stopped(world: World, prepare: Callable[[], None] = lambda: None) -> Facts:
    machine = world.rented()
    prepare()
    assert machine.machine_id is not None
    world.cloud.stop(machine.machine_id)
    return declare_lost(world.context, Facts(), Loss(Trouble.LOST, "the machine has been stopped", stopped=True))


def test_a_stopped_machine_with_the_model_is_started_again(world: World) -> None:
    facts = stopped(world, world.shipped_and_done)
    assert facts.keeps is Keeps.MODEL
    assert world.machine().stopped
    assert rescue.revive(world.context, facts).revived
    assert not world.machine().stopped
    assert not world.cloud.rentals[MachineId("m1")].stopped


def test_a_stopped_machine_that_nothing_was_sent_to_holds_nothing(world: World) -> None:
    assert stopped(world).keeps is Keeps.NOTHING


def test_a_model_on_a_machine_that_cannot_be_started_is_kept_and_its_price_told(world: World) -> None:
    facts = stopped(world, world.shipped_and_done)
    for _ in range(200):
        world.cloud.arm(Mishap(CloudFault.NO_RESTART))
    with pytest.raises(NoCapacity) as caught:
        rescue.revive(world.context, facts)
    day = f"${world.machine().disk_per_day_usd:.2f} a day"
    assert "holds the finished model alone" in caught.value.message
    assert day in caught.value.message
    assert "`cloudbooth down dog` gives the disk up" in caught.value.hint
    assert [rental.stopped for rental in world.cloud.living()] == [True]


def test_what_a_stopped_disk_cost_is_what_the_cloud_has_metered(world: World) -> None:
    stopped(world, world.shipped_and_done)
    world.clock.sleep(86400)
    mine = spent_usd([world.machine()], world.clock.now())
    assert mine == pytest.approx(world.cloud.spent_usd(), abs=0.001)
    assert mine < world.machine().price_per_hour_usd


def test_a_mere_checkpoint_is_given_up_when_the_machine_does_not_start(world: World) -> None:
    facts = stopped(world)
    world.ledger.record_trouble(
        "dog", world.context.epoch, world.machine().tag, Trouble.LOST, "", Keeps.CHECKPOINT, stopped=True
    )
    for _ in range(200):
        world.cloud.arm(Mishap(CloudFault.NO_RESTART))
    facts = rescue.revive(world.context, facts)
    assert "has no free GPU; the run goes on from the newest checkpoint" in facts.not_revived
    assert world.clock.monotonic() < 600


# ---- on a network volume -------------------------------------------------------------------------------------------


@pytest.fixture
def on_volume(tmp_path: Path) -> Iterator[World]:
    yield from made(tmp_path, Limits(), cloud_of=WithVolume, volume="vol")


def test_a_machine_is_rented_with_the_volume_of_the_spec(on_volume: World) -> None:
    on_volume.rented()
    assert on_volume.cloud.rentals[MachineId("m1")].boot.volume == "vol"


def test_a_lost_machine_holds_nothing_alone_whose_volume_outlives_it(on_volume: World) -> None:
    facts = stopped(on_volume, on_volume.shipped_and_done)
    assert facts.keeps is Keeps.NOTHING, "the next machine finds the model"
    step = next_step(State.TRAINING, Wish.RUN, None, Standing.HELD, facts)
    assert isinstance(step, Move)
    assert step.to is State.RECOVERING


def test_who_comes_second_waits_for_the_volume_and_rents_nothing_meanwhile(on_volume: World) -> None:
    [offer] = list(on_volume.cloud.offers(GpuRequest()))[:1]
    other = on_volume.cloud.create(offer, BootPlan(volume="vol"), "cb-other-cat-1-1790000000")
    facts = provision.create(on_volume.context, Facts())
    assert "the volume vol is in use by the machine cb-other-cat-1-1790000000" in "\n".join(on_volume.told.notes)
    assert on_volume.context.machine() is None
    on_volume.cloud.release(other)
    on_volume.clock.sleep(600)
    provision.create(on_volume.context, facts)
    assert on_volume.machine().machine_id is not None


def test_a_machine_of_ones_own_keeps_nobody_from_the_volume(on_volume: World) -> None:
    [offer] = list(on_volume.cloud.offers(GpuRequest()))[:1]
    on_volume.cloud.create(offer, BootPlan(volume="vol"), "my-notebook")
    on_volume.rented()


def test_down_loses_no_checkpoint_that_lies_on_a_volume(on_volume: World, tmp_path: Path) -> None:
    wiring = Wiring(Home(tmp_path), on_volume.clock, on_volume.ledger, on_volume.connect)
    run = on_volume.ledger.run("dog")
    on_volume.rented()
    log = wiring.home.run("dog").events("1")
    log.parent.mkdir(parents=True)
    committed = wire.encode_event(wire.CheckpointCommitted(40, wire.checkpoint_folder(40), "sha", 1), 1, 0.0)
    log.write_bytes(committed)
    assert lost_by_down(wiring, run) is None
    log.write_bytes(committed + wire.encode_event(wire.StepDone(60, 100, 0.1, 1e-4, 1.0), 2, 0.0))
    loss = lost_by_down(wiring, run)
    assert loss is not None
    assert loss.words == "run `dog` is at step 60 of 100, and the newest checkpoint on its volume is of step 40"


# ---- what comes late -----------------------------------------------------------------------------------------------


class _Overtakes(SimulatedCloud):
    """While `create` is on its way another driver takes the run over, and believes that nothing came of it."""

    ledger: Ledger
    believes_absent: bool

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        made = super().create(offer, boot, tag)
        epoch = self.ledger.become_driver("dog")
        if self.believes_absent:
            self.ledger.record_absent("dog", epoch, tag)
        return made


@pytest.mark.parametrize("believes_absent", [True, False])
def test_a_driver_overtaken_in_create_leaves_no_machine_to_nobody(world: World, believes_absent: bool) -> None:
    cloud = _Overtakes(world.clock)
    cloud.ledger, cloud.believes_absent = world.ledger, believes_absent
    with pytest.raises(StaleDriver):
        provision.create(replace(world.context, provider=cloud), Facts())
    world.clock.sleep(60)
    assert len(cloud.living()) == (0 if believes_absent else 1)
    expected = Standing.HELD if believes_absent else Standing.UNSETTLED
    assert [machine.standing for machine in world.ledger.machines("dog")] == [expected]


def test_a_machine_that_shows_up_after_it_was_given_up_is_given_back_and_billed_until_then(world: World) -> None:
    world.cloud.arm(Mishap(CloudFault.LOST_ANSWER))
    world.cloud.arm(Mishap(CloudFault.LISTED_LATE, amount=1000.0))
    provision.create(world.context, Facts())
    provision.settle(world.context, Facts())
    assert world.ledger.open_machines() == [], "two empty lists were believed"
    world.clock.sleep(1200)
    due = latecomers(world.ledger.machines("dog"), world.clock.now())
    give_back_latecomers(world.cloud, world.ledger, due, world.told.note)
    assert [machine.machine_id for machine in world.ledger.open_machines()] == ["m1"]
    world.clock.sleep(60)
    newer = world.rented()
    left = strays(world.ledger.machines("dog"), [world.ledger.run("dog")])
    assert [machine.machine_id for machine in left] == ["m1"]
    give_back_strays(world.cloud, world.ledger, left, world.clock, world.told.note)
    assert world.ledger.open_machines() == [newer]


def test_after_a_day_nobody_looks_any_more(world: World) -> None:
    world.cloud.arm(Mishap(CloudFault.NO_CAPACITY))
    provision.create(world.context, Facts())
    machines = world.ledger.machines("dog")
    assert latecomers(machines, world.clock.now() + 86000)
    assert not latecomers(machines, world.clock.now() + 87000)


def test_a_stopped_disk_is_given_up_when_its_hours_are_over_even_if_nobody_drives_its_run(world: World) -> None:
    stopped(world, world.shipped_and_done)
    machine = world.machine()
    assert machine.keeps_since is not None

    def expired(hours_later: float, *, driven: bool = False) -> list[MachineRecord]:
        now = (machine.keeps_since or 0.0) + hours_later * 3600
        return expired_rescues([machine], lambda _: 72.0, lambda _: driven, now)

    assert expired(71.9) == []
    assert expired(72.1) == [machine]
    assert expired(72.1, driven=True) == [], "its driver gives it up by itself"
    give_back_strays(world.cloud, world.ledger, expired(72.1), world.clock, world.told.note)
    world.clock.sleep(60)
    give_back_strays(world.cloud, world.ledger, expired(72.1), world.clock, world.told.note)
    assert world.machine().standing is Standing.ABSENT
    assert not world.cloud.living()


class _ShowsLate(SimulatedCloud):
    """Its machines can be neither seen nor released before `shows_from_s`, though they are there and bill."""

    shows_from_s = 100.0

    def describe(self, machine: MachineId) -> Machine:
        if self._clock.monotonic() < self.shows_from_s:
            raise MachineGone(f"there is no machine {machine}")
        return super().describe(machine)

    def release(self, machine: MachineId) -> None:
        if self._clock.monotonic() >= self.shows_from_s:
            super().release(machine)


def rented_late(world: World) -> _ShowsLate:
    cloud = _ShowsLate(world.clock)
    world.context = replace(world.context, provider=cloud)
    provision.create(world.context, Facts())
    return cloud


def test_a_machine_that_shows_only_after_it_was_given_back_is_given_back_again(world: World) -> None:
    cloud = rented_late(world)
    release.release(world.context, Facts())
    assert not cloud.living()
    assert world.machine().standing is Standing.ABSENT
    assert world.clock.monotonic() > 100


def test_a_machine_that_never_shows_is_believed_absent_when_it_is_three_minutes_old(world: World) -> None:
    rented_late(world).shows_from_s = 1e6
    release.release(world.context, Facts())
    assert SETTLE_AGE_S <= world.clock.monotonic() < SETTLE_AGE_S + 20
    assert any("does not show yet" in note for note in world.told.notes)


def test_a_machine_that_shows_is_given_back_in_seconds(world: World) -> None:
    provision.create(world.context, Facts())
    release.release(world.context, Facts())
    assert world.clock.monotonic() < 30


def test_a_machine_that_has_answered_and_ended_by_itself_is_believed_absent_at_once(world: World) -> None:
    machine = world.rented()
    before = world.clock.monotonic()
    for leaving, to in ((State.PLANNED, State.PROVISIONING), (State.PROVISIONING, State.SHIPPING)):
        world.ledger.move("dog", world.context.epoch, leaving, to, "")
    assert machine.machine_id is not None
    world.cloud.release(machine.machine_id)
    world.clock.sleep(15)
    release.release(world.context, Facts())
    assert world.clock.monotonic() - before < 30


# ---- down ----------------------------------------------------------------------------------------------------------


def test_a_machine_of_ones_own_that_is_gone_for_good_can_be_given_up_but_only_by_a_person(
    world: World, tmp_path: Path
) -> None:
    options: dict[str, str | int | None] = {"host": "gpu-box"}
    box = load_provider("ssh", ProviderContext(tmp_path / "ssh", options=options))

    def unreachable(_access: Access) -> Host:
        raise HostUnreachable("gpu-box does not answer", "ssh gpu-box true")

    context = replace(world.context, provider=box, machine_stands=True, connect=unreachable)
    provision.create(context, Facts())
    world.ledger.set_wish("dog", Wish.DOWN)
    with pytest.raises(HostUnreachable) as caught:
        release.release(context, Facts())
    assert "`cloudbooth down dog --force`" in caught.value.hint
    assert world.machine().standing is Standing.HELD
    world.ledger.set_wish("dog", Wish.ABANDON)
    release.release(context, Facts())
    assert world.machine().standing is Standing.ABSENT
    assert any("what still runs there goes on" in note for note in world.told.notes)


def test_down_names_what_a_rented_machine_holds_alone(world: World, tmp_path: Path) -> None:
    wiring = Wiring(Home(tmp_path), world.clock, world.ledger, world.connect)
    run = world.ledger.run("dog")
    assert lost_by_down(wiring, run) is None, "nothing is rented"
    world.rented()
    assert lost_by_down(wiring, run) is None, "nothing has been trained"
    log = wiring.home.run("dog").events("1")
    log.parent.mkdir(parents=True)
    log.write_bytes(wire.encode_event(wire.StepDone(40, 100, 0.1, 1e-4, 1.0), 1, 0.0))
    loss = lost_by_down(wiring, run)
    assert loss is not None
    assert loss.words == "run `dog` is at step 40 of 100, and no checkpoint is here"
    log.write_bytes(wire.encode_event(wire.Done(100, "sha"), 2, 0.0))
    loss = lost_by_down(wiring, run)
    assert loss is not None
    assert (loss.keeps, "holds the finished model alone" in loss.words) == (Keeps.MODEL, True)
    world.ledger.record_artifact("dog", "output", 100, tmp_path, "sha")
    assert lost_by_down(wiring, run) is None, "it is here"


def test_down_names_a_run_that_uses_the_kept_machine(world: World, tmp_path: Path) -> None:
    wiring = Wiring(Home(tmp_path), world.clock, world.ledger, world.connect)
    machine = world.rented()
    way = (State.PLANNED, State.PROVISIONING, State.SHIPPING, State.TRAINING, State.RETRIEVING, State.KEEPING)
    for leaving, to in pairwise(way):
        if world.ledger.run("dog").state is leaving:
            world.ledger.move("dog", world.context.epoch, leaving, to, "as a run goes")
    assert lost_by_down(wiring, world.ledger.run("dog")) is None, "nobody uses it"
    compute = Compute(provider="simulated", machine=str(machine.machine_id))
    spec = RunSpec(name="cat", subject=Subject(instance_prompt="a cat"), data=Data(instance=tmp_path), compute=compute)
    world.ledger.add_run("cat", "simulated", spec_to_json(spec), "{}")
    loss = lost_by_down(wiring, world.ledger.run("dog"))
    assert loss is not None
    assert loss.words == "run `cat` uses the machine that run `dog` keeps"
