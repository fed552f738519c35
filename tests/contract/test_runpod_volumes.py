"""RunPod's network volumes: a disk that no pod owns, in one data center of the secure cloud."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.boot_script import GuardSettings, guard_program, start_command
from orchestrator.code_bundle import trainer_code
from orchestrator.remote_run import RemoteRun, probe, unpack_code
from orchestrator.ssh.host import SshHost
from providers.api import BootPlan, GpuRequest, HasVolumes, MachineId, Market, Offer, SshAccess
from providers.combined import CombinedProvider
from providers.errors import NoCapacity
from providers.registry import ProviderContext
from providers.retrying import RetryingProvider
from providers.runpod.disks import network_usd_per_month
from providers.runpod.provider import RunPodProvider
from remote_trainer import wire
from remote_trainer.commit import commit_folder, file_entry, preparing
from tests.conftest import require_pods
from tests.fakes.runpod import SHELVES, FakeRunPod, NetworkVolume, running_runpod
from tests.fakes.sshd import make_key

HERE, THERE = "EU-RO-1", "US-KS-2"
CACHE = NetworkVolume("vol_cache", "cache", 60, HERE)
FAST = NetworkVolume("vol_fast", "fast", 20, THERE, "HIGH_PERFORMANCE")
WANT = GpuRequest(disk_gb=30, volume=CACHE.id)
BOOT = BootPlan(disk_gb=30, volume=CACHE.id, authorized_key="ssh-ed25519 AAAA run")
SHELVES_APART = tuple(
    replace(shelf, data_centers=(HERE, THERE) if shelf.name == "A40" else (THERE,)) for shelf in SHELVES
)
"""Of those in stock only the A40 is to be had where the cache lies."""


@pytest.fixture
def runpod(tmp_path: Path) -> Iterator[FakeRunPod]:
    with running_runpod(tmp_path / "runpod", real_pods=False, shelves=SHELVES_APART, volumes=(CACHE, FAST)) as fake:
        yield fake


@pytest.fixture
def provider(runpod: FakeRunPod, tmp_path: Path) -> RunPodProvider:
    return RunPodProvider(ProviderContext(tmp_path, runpod.environ))


def offered(provider: RunPodProvider) -> Offer:
    return provider.offers(WANT)[0]


def test_the_volumes_of_the_account_are_listed_with_place_and_price(provider: RunPodProvider) -> None:
    assert isinstance(RetryingProvider(provider, lambda _s: None), HasVolumes)
    cache, fast = provider.volumes()
    assert (cache.id, cache.name, cache.region, cache.size_gb) == ("vol_cache", "cache", HERE, 60)
    assert cache.usd_per_month == pytest.approx(4.20)
    assert fast.usd_per_month is None, "what its tier costs is not published"


def test_a_terabyte_costs_seven_cents_a_gb_and_the_rest_five() -> None:
    assert network_usd_per_month(1000) == pytest.approx(70.0)
    assert network_usd_per_month(1100) == pytest.approx(75.0)


def test_offers_are_those_of_its_data_center_in_the_secure_cloud(provider: RunPodProvider) -> None:
    [offer] = provider.offers(WANT)
    assert (offer.gpu, offer.region, offer.secure) == ("A40", HERE, True)


def test_the_pods_price_holds_no_disk_that_it_does_not_rent(provider: RunPodProvider) -> None:
    own = min(offer.price_per_hour_usd for offer in provider.offers(GpuRequest(gpus=("A40",), disk_gb=30)))
    assert offered(provider).price_per_hour_usd == pytest.approx(own - 30 * 0.10 / 720)
    assert offered(provider).stopped_disk_per_day_usd == 0


def test_there_is_no_spot_pod_with_a_volume(provider: RunPodProvider) -> None:
    assert provider.offers(replace(WANT, market=Market.SPOT)) == []


def test_a_volume_that_the_account_does_not_have_leaves_nothing_to_rent(provider: RunPodProvider) -> None:
    with pytest.raises(NoCapacity, match="no network volume vol_none"):
        provider.offers(replace(WANT, volume="vol_none"))


def test_the_pod_has_it_in_place_of_a_volume_of_its_own(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    provider.create(offered(provider), BOOT, "cb-x")
    [pod] = runpod.pods.values()
    assert pod.request["mounts"] == {"network": [{"volumeId": CACHE.id, "path": "/workspace"}]}
    assert pod.request["dataCenterIds"] == [HERE]
    assert provider.list("cb-x")[0].price_per_hour_usd == pytest.approx(offered(provider).price_per_hour_usd)


@pytest.mark.parametrize("with_volume", [True, False])
def test_an_offer_made_for_a_volume_is_rented_with_one_and_no_other(
    runpod: FakeRunPod, provider: RunPodProvider, with_volume: bool
) -> None:
    offer = offered(provider) if with_volume else provider.offers(GpuRequest(disk_gb=30))[0]
    with pytest.raises(NoCapacity, match="network volume"):
        provider.create(offer, replace(BOOT, volume="" if with_volume else CACHE.id), "cb-x")
    assert not runpod.pods


def test_who_has_it_is_known_by_their_tags_until_they_are_gone(provider: RunPodProvider) -> None:
    pod = provider.create(offered(provider), BOOT, "cb-x")
    assert [volume.mounted_by for volume in provider.volumes()] == [("cb-x",), ()]
    provider.release(pod)
    assert [volume.mounted_by for volume in provider.volumes()] == [(), ()]


def test_from_inside_such_a_pod_stops_by_its_end_for_its_disk_outlives_it(provider: RunPodProvider) -> None:
    calls = provider.self_release(offered(provider))
    assert calls.stop == calls.terminate
    own = provider.self_release(provider.offers(GpuRequest(disk_gb=30))[0])
    assert own.stop != own.terminate


def test_among_several_providers_a_volume_is_its_owners_alone(
    runpod: FakeRunPod, provider: RunPodProvider, tmp_path: Path
) -> None:
    everybody = CombinedProvider({"runpod": provider, "elsewhere": provider}, tmp_path / "any")
    assert isinstance(everybody, HasVolumes)
    assert {volume.id for volume in everybody.volumes()} >= {"runpod:vol_cache", "elsewhere:vol_cache"}
    [offer] = everybody.offers(replace(WANT, volume="runpod:vol_cache"))
    assert offer.id.startswith("runpod:")
    with pytest.raises(NoCapacity, match="not one of runpod"):
        everybody.create(offer, replace(BOOT, volume="elsewhere:vol_cache"), "cb-x")
    everybody.create(offer, replace(BOOT, volume="runpod:vol_cache"), "cb-x")
    [pod] = runpod.pods.values()
    assert pod.network_volumes == ["vol_cache"]


@dataclass
class Login:
    """A pod with the volume, and a run's agent on it."""

    provider: RunPodProvider
    runpod: FakeRunPod
    machine: MachineId
    host: SshHost
    had_code: bool
    remote: RemoteRun

    def end(self) -> None:
        self.host.close()
        self.provider.release(self.machine)


def logged_in(
    provider: RunPodProvider, runpod: FakeRunPod, folder: Path, epoch: int, *, with_guard: bool = True
) -> Login:
    key, host_key = make_key(folder / "key"), make_key(folder / "host_key")
    offer = offered(provider)
    command = start_command(
        provider.self_release(offer) if with_guard else None, GuardSettings(offer.workdir, 600, poll_s=0.1),
        authorized_key=key, host_key_private=(folder / "host_key").read_text(),
    )  # fmt: skip
    machine = provider.create(offer, replace(BOOT, start_command=command, authorized_key=key), "cb-x")
    runpod.pods[machine].machine.await_ssh()
    access = provider.describe(machine).access
    assert isinstance(access, SshAccess)
    own = replace(access, identity_file=str(folder / "key"), host_key=" ".join(host_key.split()[:2]))
    host, code = SshHost(own), trainer_code()
    facts = probe(host, own, code)
    if not facts.has_code:
        unpack_code(host, own, facts, code)
    remote = RemoteRun(host, own, facts.workdir, code.id, "dog", "dog-installation-1790000000", epoch)
    return Login(provider, runpod, machine, host, facts.has_code, remote)


def test_what_a_run_leaves_on_it_the_next_pod_finds(tmp_path: Path) -> None:
    require_pods()
    with running_runpod(tmp_path / "real", shelves=SHELVES_APART, volumes=(CACHE,)) as runpod:
        provider = RunPodProvider(ProviderContext(tmp_path, runpod.environ))
        first = logged_in(provider, runpod, tmp_path / "first", epoch=1)
        work = runpod.folder / "volumes" / CACHE.id / "cloudbooth"
        checkpoint = work / "runs" / "dog-installation-1790000000" / wire.checkpoint_folder(40)
        with preparing(checkpoint) as prepared:
            (prepared / "unet.safetensors").write_bytes(b"weights")
            manifest = commit_folder(prepared, checkpoint, 40)
        base = work / "bases" / "abc" / "unet.safetensors"
        base.parent.mkdir(parents=True)
        base.write_bytes(b"base")
        first.end()

        second = logged_in(provider, runpod, tmp_path / "second", epoch=2, with_guard=False)
        status = second.remote.status()
        assert [(found.step, found.manifest_sha256) for found in status.checkpoints] == [(40, manifest.sha256)]
        assert status.supervisor_pid is None, "what lived on the first pod lives no more"
        assert status.guard is not None
        assert not status.guard.alive, "the first pod's files are no guard"
        calls = provider.self_release(offered(provider))
        program = guard_program(calls, GuardSettings("/workspace/cloudbooth", 600, poll_s=0.1))
        assert second.remote.start_guard(program).alive
        assert (first.had_code, second.had_code) == (False, True)
        assert second.remote.missing("/workspace/cloudbooth/bases/abc", [file_entry(base, base.parent)]) == []
        second.end()
