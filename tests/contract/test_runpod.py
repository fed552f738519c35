"""RunPod's adapter against a fake that holds every request and answer against the published contract."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.boot_script import GuardSettings, start_command
from providers.api import (
    BootPlan,
    GpuRequest,
    HasBilling,
    HasLogs,
    HasStop,
    MachineId,
    MachineProvider,
    MachineStatus,
    Market,
    Offer,
)
from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    QuotaExceeded,
    Transient,
    UnsupportedMarket,
)
from providers.registry import ProviderContext
from providers.runpod.boot import IMAGE
from providers.runpod.provider import RunPodProvider
from providers.testing.contract import MachineProviderContract
from tests.conftest import require_pods
from tests.e2e.command import wait_until
from tests.fakes.pod import Process
from tests.fakes.runpod import NO_CAPACITY, FakeRunPod, running_runpod
from tests.fakes.sshd import make_key

ACCOUNT_KEY = "rpa_ACCOUNTKEY"
BOOT = BootPlan(disk_gb=30, start_command="true", authorized_key="ssh-ed25519 AAAA run")


@pytest.fixture
def runpod(tmp_path: Path) -> Iterator[FakeRunPod]:
    """Its pods are entries only."""
    with running_runpod(tmp_path / "runpod", real_pods=False, account_key=ACCOUNT_KEY) as fake:
        yield fake


@pytest.fixture
def provider(runpod: FakeRunPod, tmp_path: Path) -> RunPodProvider:
    return built(runpod, tmp_path)


def built(runpod: FakeRunPod, tmp_path: Path, **environ: str) -> RunPodProvider:
    return RunPodProvider(ProviderContext(tmp_path, {**runpod.environ, **environ}))


def cheapest(provider: RunPodProvider, **want: Any) -> Offer:
    return provider.offers(GpuRequest(disk_gb=30, **want))[0]


def rented(provider: RunPodProvider, tag: str = "cb-i-run-1-1790000000") -> MachineId:
    return provider.create(cheapest(provider), BOOT, tag)


def needs_the_vendors_package() -> None:
    """Skips without it; CLOUDBOOTH_REQUIRE_RUNPOD=1 says that it must be there."""
    if os.environ.get("CLOUDBOOTH_REQUIRE_RUNPOD") != "1":
        pytest.importorskip("runpod", reason="the extra `runpod` is not installed")


class TestRunPod(MachineProviderContract):
    secrets = (ACCOUNT_KEY,)
    want = GpuRequest(disk_gb=10)  # as much as `boot` asks for

    @pytest.fixture
    def provider(self, runpod: FakeRunPod, tmp_path: Path) -> RunPodProvider:
        return built(runpod, tmp_path)

    def test_offers_are_of_this_provider_and_in_the_market_asked_for(self, provider: MachineProvider) -> None:
        needs_the_vendors_package()
        super().test_offers_are_of_this_provider_and_in_the_market_asked_for(provider)


class TestRunPodInPages(TestRunPod):
    """The same when the list comes one pod at a time, and ended pods are shown for a while."""

    @pytest.fixture
    def provider(self, runpod: FakeRunPod, tmp_path: Path) -> RunPodProvider:
        runpod.page_size, runpod.shown_after_end_s = 1, 3600.0
        return built(runpod, tmp_path)


# ---- the fake --------------------------------------------------------------------------------------------------------


def test_the_fake_refuses_what_the_published_contract_refuses(runpod: FakeRunPod) -> None:
    if runpod.contract is None:
        pytest.skip("the published contract is not at hand")
    headers = {"Authorization": f"Bearer {ACCOUNT_KEY}", "User-Agent": "test"}
    body = {"name": "x", "image": "y", "gpu": {"id": "NVIDIA A40"}, "imageName": "z"}
    answer = httpx.post(f"{runpod.url}/v2/pods", json=body, headers=headers)
    assert (answer.status_code, runpod.pods) == (422, {})
    assert "imageName" in runpod.problems.pop()


def test_a_pods_own_key_opens_no_other_pod(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    own, other = rented(provider, "cb-a"), rented(provider, "cb-b")
    headers = {"Authorization": f"Bearer {runpod.pods[own].key}", "User-Agent": "test"}
    assert httpx.delete(f"{runpod.url}/v2/pods/{other}", headers=headers).status_code == 403
    assert httpx.get(f"{runpod.url}/v2/pods", headers=headers).status_code == 403


# ---- credentials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "  ", "two words", "line\nbreak"])
def test_a_key_that_is_none_is_refused_before_any_exchange(runpod: FakeRunPod, tmp_path: Path, key: str) -> None:
    with pytest.raises(AuthRejected) as caught:
        built(runpod, tmp_path, RUNPOD_API_KEY=key)
    assert "export RUNPOD_API_KEY=" in caught.value.hint
    assert not runpod.requests


def test_a_wrong_key_is_refused_without_being_shown(runpod: FakeRunPod, tmp_path: Path) -> None:
    with pytest.raises(AuthRejected) as caught:
        built(runpod, tmp_path, RUNPOD_API_KEY="rpa_WRONG").list("")
    assert "rpa_WRONG" not in caught.value.message + caught.value.hint


def test_a_key_that_may_only_read_cannot_rent_and_the_hint_names_the_right(
    runpod: FakeRunPod, provider: RunPodProvider
) -> None:
    runpod.scopes = frozenset({"read"})
    with pytest.raises(AuthRejected) as caught:
        rented(provider)
    assert "read and write pods" in caught.value.hint


@pytest.mark.parametrize("url", ["http://api.example.com", "api.example.com", "ftp://api.example.com"])
def test_the_key_is_never_sent_in_the_clear(runpod: FakeRunPod, tmp_path: Path, url: str) -> None:
    with pytest.raises(CloudboothError, match="RUNPOD_API_URL is no https address"):
        built(runpod, tmp_path, RUNPOD_API_URL=url)


# ---- offers ----------------------------------------------------------------------------------------------------------


def test_offers_hold_both_clouds_and_neither_amd_nor_what_is_out_of_stock(provider: RunPodProvider) -> None:
    found = {(offer.gpu, offer.secure) for offer in provider.offers(GpuRequest())}
    assert found == {
        ("RTX 4090", True), ("RTX 4090", False), ("RTX A5000", True), ("RTX A5000", False), ("A40", True), ("L4", True),
    }  # fmt: skip


def test_only_secure_means_no_strangers_host(provider: RunPodProvider) -> None:
    assert all(offer.secure for offer in provider.offers(GpuRequest(secure_only=True)))


@pytest.mark.parametrize(
    ("asked", "found"),
    [("4090", {"RTX 4090"}), ("a5000", {"RTX A5000"}), ("NVIDIA A40", {"A40"}), ("L4", {"L4"}), ("L40", set())],
)
def test_a_gpu_is_asked_for_by_whole_words(provider: RunPodProvider, asked: str, found: set[str]) -> None:
    assert {offer.gpu for offer in provider.offers(GpuRequest(gpus=(asked,)))} == found


def test_the_price_of_an_offer_holds_its_disks(provider: RunPodProvider) -> None:
    offer = cheapest(provider)
    assert offer.price_per_hour_usd == pytest.approx(0.16 + (20 + 30) * 0.10 / 720)
    assert offer.stopped_disk_per_day_usd == pytest.approx(30 * 0.20 / 30)


def test_stock_and_place_are_shown(provider: RunPodProvider) -> None:
    [offer] = provider.offers(GpuRequest(gpus=("A40",)))
    assert (offer.stock, offer.region) == ("medium", "EU-SE-1")


def test_a_run_that_leaves_its_disk_open_gets_the_usual_one(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    provider.create(provider.offers(GpuRequest())[0], BootPlan(), "cb-x")
    assert creation(runpod)["mounts"]["persistent"]["size"] == 40


# ---- create ----------------------------------------------------------------------------------------------------------


def creation(runpod: FakeRunPod) -> Mapping[str, Any]:
    [pod] = runpod.pods.values()
    return pod.request


def test_a_pod_gets_this_runs_key_a_volume_and_no_key_of_the_account(
    runpod: FakeRunPod, provider: RunPodProvider
) -> None:
    provider.create(cheapest(provider), replace(BOOT, env={"A": "b"}), "cb-x")
    request = creation(runpod)
    assert request["env"] == {"A": "b", "PUBLIC_KEY": BOOT.authorized_key}
    assert request["mounts"] == {"persistent": {"size": 30, "path": "/workspace"}}
    assert (request["image"], request["ports"]) == (IMAGE, ["22/tcp"])
    assert "startSsh" not in request
    assert ACCOUNT_KEY not in str(request)


@pytest.mark.parametrize("command", ["echo 'it''s' \"$HOME\" `id` {{ secret }} &", "a\nb\n", "sleep 1 &"])
def test_a_start_command_of_any_characters_survives_and_the_images_start_follows(
    runpod: FakeRunPod, provider: RunPodProvider, command: str
) -> None:
    provider.create(cheapest(provider), replace(BOOT, start_command=command), "cb-x")
    shell, flag, script = shlex.split(creation(runpod)["args"])
    assert (shell, flag) == ("sh", "-c")
    assert script.endswith("; exec /start.sh")
    assert not set(script) & set("{}`'\n")


def test_without_a_start_command_the_images_own_runs(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    provider.create(cheapest(provider), BootPlan(), "cb-x")
    assert "args" not in creation(runpod)


@pytest.mark.parametrize("status", [400, 500])
def test_no_capacity_is_known_by_its_words_whatever_the_status(
    runpod: FakeRunPod, provider: RunPodProvider, status: int
) -> None:
    runpod.refuse_capacity, runpod.capacity_status = 1, status
    with pytest.raises(NoCapacity, match=NO_CAPACITY[:40]):
        rented(provider)
    assert not runpod.pods


def test_an_empty_balance_is_a_quota(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    runpod.balance_usd = 0
    with pytest.raises(QuotaExceeded, match="insufficient balance"):
        rented(provider)


@pytest.mark.parametrize("fault", ["lose_answers", "lose_requests", "server_errors"])
def test_a_lost_answer_is_indeterminate_and_asked_for_once(
    runpod: FakeRunPod, provider: RunPodProvider, fault: str
) -> None:
    offer = cheapest(provider)
    setattr(runpod, fault, 1)
    with pytest.raises(Indeterminate):
        provider.create(offer, BOOT, "cb-x")
    assert [method for method, _ in runpod.requests].count("POST") == 1
    assert len(provider.list("cb-x")) == (fault == "lose_answers")


def test_a_create_that_never_left_is_transient(provider: RunPodProvider, tmp_path: Path) -> None:
    offer = cheapest(provider)
    environ = {"RUNPOD_API_KEY": ACCOUNT_KEY, "RUNPOD_API_URL": "http://127.0.0.1:1"}
    with pytest.raises(Transient, match="cannot be reached"):
        RunPodProvider(ProviderContext(tmp_path, environ)).create(offer, BOOT, "cb-x")


def test_a_pod_that_is_listed_late_shows_in_the_end(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    runpod.listed_after_s = 3600.0
    machine = rented(provider)
    assert not provider.list("cb-")
    runpod.listed_after_s = 0.0
    assert [found.id for found in provider.list("cb-")] == [machine]


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_running_without_an_address_is_not_reachable_yet(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    runpod.never_boots = True
    machine = provider.describe(rented(provider))
    assert (machine.status, machine.access) == (MachineStatus.RUNNING, None)


def test_it_is_reached_at_its_public_port_and_never_through_the_proxy(provider: RunPodProvider) -> None:
    access = provider.describe(rented(provider)).access
    assert access is not None
    assert (access.host, access.port, access.user, access.workdir) == (
        "127.0.0.1", 22022, "root", "/workspace/cloudbooth",
    )  # fmt: skip


def test_an_unknown_status_is_a_value(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    machine = rented(provider)
    runpod.contract = None
    runpod.pods[machine].status = "HIBERNATING"
    described = provider.describe(machine)
    assert (described.status, described.status_text) == (MachineStatus.UNKNOWN, "HIBERNATING")


@pytest.mark.parametrize(("kind", "after_s"), [("json", 12), ("text", 30)])
def test_a_rate_limit_is_transient_for_as_long_as_it_says(
    runpod: FakeRunPod, provider: RunPodProvider, kind: str, after_s: int
) -> None:
    runpod.rate_limits = [(kind, after_s)]
    with pytest.raises(Transient) as caught:
        provider.list("")
    assert caught.value.retry_after_s == after_s


def test_a_list_that_leads_in_a_circle_ends(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    rented(provider)
    runpod.page_size = 0
    with pytest.raises(Transient, match="does not end"):
        provider.list("")


# ---- stop, start, logs, bill -----------------------------------------------------------------------------------------


def test_it_stops_and_starts_keeps_logs_and_a_bill(provider: RunPodProvider) -> None:
    assert isinstance(provider, HasStop)
    assert isinstance(provider, HasLogs)
    assert isinstance(provider, HasBilling)


def test_a_stopped_pod_costs_its_volume_whatever_the_service_says(provider: RunPodProvider) -> None:
    machine = rented(provider)
    provider.stop(machine)
    stopped = provider.describe(machine)
    assert (stopped.status, stopped.access) == (MachineStatus.STOPPED, None)
    assert stopped.price_per_hour_usd == pytest.approx(30 * 0.20 / 720)


def test_stopping_and_starting_twice_is_safe(provider: RunPodProvider) -> None:
    machine = rented(provider)
    provider.stop(machine)
    provider.stop(machine)
    provider.start(machine)
    provider.start(machine)
    assert provider.describe(machine).status is MachineStatus.RUNNING


def test_stopping_or_starting_what_is_gone_says_so(provider: RunPodProvider) -> None:
    for act in (provider.stop, provider.start):
        with pytest.raises(MachineGone):
            act(MachineId("never-was"))


def test_a_pod_that_may_not_be_stopped_is_an_error(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    machine = rented(provider)
    runpod.pods[machine].locked = True
    with pytest.raises(CloudboothError, match="locked"):
        provider.stop(machine)


def test_a_host_without_a_free_gpu_leaves_nothing_started(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    machine = rented(provider)
    provider.stop(machine)
    runpod.refuse_capacity = 1
    with pytest.raises(NoCapacity):
        provider.start(machine)
    assert runpod.pods[machine].status == "EXITED"


def test_a_pod_that_comes_back_without_a_gpu_is_stopped_again(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    machine = rented(provider)
    provider.stop(machine)
    runpod.start_without_gpu = 1
    with pytest.raises(NoCapacity, match="no free GPU"):
        provider.start(machine)
    assert runpod.pods[machine].status == "EXITED"


def test_the_log_says_what_the_host_did_though_the_stream_never_ends(provider: RunPodProvider) -> None:
    log = provider.logs(rented(provider))
    assert log.splitlines()[-1].endswith("system: start container")


def test_the_log_of_what_is_gone_says_so(provider: RunPodProvider) -> None:
    with pytest.raises(MachineGone):
        provider.logs(MachineId("never-was"))


def test_the_bill_adds_up_all_buckets_also_after_the_end(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    machine = rented(provider)
    provider.release(machine)
    assert provider.billed_usd(machine) == pytest.approx(runpod.pods[machine].meter.usd)
    assert provider.billed_usd(MachineId("never-was")) is None


# ---- spot ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def spot(provider: RunPodProvider) -> RunPodProvider:
    needs_the_vendors_package()
    return provider


def test_spot_offers_are_priced_at_the_lowest_bid(spot: RunPodProvider) -> None:
    offer = cheapest(spot, market=Market.SPOT, gpus=("4090",))
    assert (offer.market, offer.secure) == (Market.SPOT, True)
    assert offer.price_per_hour_usd == pytest.approx(0.21 + 50 * 0.10 / 720)


def test_a_spot_pod_is_bid_for_with_the_offers_price(runpod: FakeRunPod, spot: RunPodProvider) -> None:
    offer = cheapest(spot, market=Market.SPOT)
    tricky = replace(BOOT, env={"A": 'x"y\\z\nline'}, start_command='echo "it\'s" &')
    machine = spot.create(offer, tricky, "cb-spot")
    pod = runpod.pods[machine]
    assert (pod.name, pod.gpu_usd_per_hour, pod.spot) == ("cb-spot", 0.11, True)
    assert pod.request["env"] == {"A": 'x"y\\z\nline', "PUBLIC_KEY": BOOT.authorized_key}
    assert spot.describe(machine).price_per_hour_usd == pytest.approx(offer.price_per_hour_usd)
    assert [found.id for found in spot.list("cb-")] == [machine]


def test_spot_bids_above_the_highest_price_are_no_offers(spot: RunPodProvider) -> None:
    offers = spot.offers(GpuRequest(market=Market.SPOT, max_price_per_hour_usd=0.15))
    assert {offer.gpu for offer in offers} == {"RTX A5000"}


def test_an_outbid_spot_rental_is_no_capacity(runpod: FakeRunPod, spot: RunPodProvider) -> None:
    offer = cheapest(spot, market=Market.SPOT)
    runpod.refuse_capacity = 1
    with pytest.raises(NoCapacity) as caught:
        spot.create(offer, BOOT, "cb-spot")
    assert "--provider vast --spot" in caught.value.hint


def test_a_removed_spot_market_says_what_works_instead(runpod: FakeRunPod, spot: RunPodProvider) -> None:
    offer = cheapest(spot, market=Market.SPOT)
    runpod.spot_alive = False
    with pytest.raises(UnsupportedMarket) as caught:
        spot.create(offer, BOOT, "cb-spot")
    assert "--provider vast --spot" in caught.value.hint
    assert "--on-demand" in caught.value.hint
    assert not runpod.pods


def test_a_lost_answer_to_a_spot_rental_is_indeterminate(runpod: FakeRunPod, spot: RunPodProvider) -> None:
    offer = cheapest(spot, market=Market.SPOT)
    runpod.lose_answers = 1
    with pytest.raises(Indeterminate):
        spot.create(offer, BOOT, "cb-spot")
    assert len(runpod.pods) == 1


@pytest.mark.usefixtures("spot")
def test_a_wrong_key_is_refused_on_the_spot_market_too(runpod: FakeRunPod, tmp_path: Path) -> None:
    with pytest.raises(AuthRejected):
        built(runpod, tmp_path, RUNPOD_API_KEY="rpa_WRONG").offers(GpuRequest(market=Market.SPOT))


def test_the_vendors_package_says_nothing_of_its_own() -> None:
    needs_the_vendors_package()
    program = (
        "import logging, sys\n"
        "from providers.api import GpuRequest\n"
        "from providers.errors import Transient\n"
        "from providers.runpod.spot import SpotMarket\n"
        "from providers.secret import Secret\n"
        "before = logging.root.handlers[:], logging.root.level\n"
        "try:\n"
        "    SpotMarket(Secret('k', 'K'), 'http://127.0.0.1:1').gpus(GpuRequest())\n"
        "except Transient:\n"
        "    assert 'runpod' in sys.modules\n"
        "    assert (logging.root.handlers, logging.root.level) == before\n"
        "    print('silent')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("silent\n", "")


# ---- on a real pod ---------------------------------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[FakeRunPod, RunPodProvider]]:
    require_pods()
    with running_runpod(tmp_path / "real", account_key=ACCOUNT_KEY) as fake:
        yield fake, built(fake, tmp_path)


def call_itself(runpod: FakeRunPod, provider: RunPodProvider, which: str, pod_id: str) -> int:
    """What the guard does inside, with the pod's own variables filled in."""
    release = provider.self_release(cheapest(provider))
    call = {"terminate": release.terminate, "stop": release.stop, "probe": release.probe}[which]
    assert call is not None
    own = {"${RUNPOD_POD_ID}": pod_id, "${RUNPOD_API_KEY}": runpod.pods[pod_id].key}

    def filled(text: str) -> str:
        for name, value in own.items():
            text = text.replace(name, value)
        return text

    headers = {name: filled(value) for name, value in call.headers.items()}
    return httpx.request(call.method, filled(call.url), headers=headers, content=filled(call.body)).status_code


def test_a_pod_proves_that_it_may_end_itself_and_does(runpod: FakeRunPod, provider: RunPodProvider) -> None:
    machine = rented(provider)
    assert [call_itself(runpod, provider, "probe", machine) for _ in range(2)] == [200, 200]
    assert runpod.pods[machine].boots == 1
    assert call_itself(runpod, provider, "stop", machine) == 200
    assert runpod.pods[machine].status == "EXITED"
    assert call_itself(runpod, provider, "terminate", machine) == 204
    assert not provider.list("")


def test_the_start_command_runs_before_any_login_and_the_images_sshd_follows(
    real: tuple[FakeRunPod, RunPodProvider], tmp_path: Path
) -> None:
    runpod, provider = real
    key = make_key(tmp_path / "key")
    command = "printf '%s' \"it's $RUNPOD_POD_ID\" > /workspace/started\nsleep 4711 &"
    boot = BootPlan(start_command=command, authorized_key=key)
    machine = provider.create(cheapest(provider), boot, "cb-x")
    pod = runpod.pods[machine].machine
    pod.await_ssh()
    assert (pod.volume / "started").read_text() == f"it's {machine}"
    assert any(process.argv == ("sleep", "4711") for process in pod.processes())
    access = provider.describe(machine).access
    assert access is not None
    assert access.port == pod.port


def guarded(provider: RunPodProvider, tmp_path: Path, first_lease_s: int) -> tuple[BootPlan, Path, str]:
    """(the boot plan of a run with a guard, its login key, the public half of its host key)."""
    offer = cheapest(provider)
    key, host_key = make_key(tmp_path / "key"), make_key(tmp_path / "host_key")
    command = start_command(
        provider.self_release(offer), GuardSettings(offer.workdir, first_lease_s, poll_s=0.1),
        authorized_key=key, host_key_private=(tmp_path / "host_key").read_text(),
    )  # fmt: skip
    return BootPlan(disk_gb=30, start_command=command, authorized_key=key), tmp_path / "key", host_key


def test_a_run_logs_in_with_its_key_at_a_pod_that_shows_the_host_key_made_for_it(
    real: tuple[FakeRunPod, RunPodProvider], tmp_path: Path
) -> None:
    runpod, provider = real
    boot, key, host_key = guarded(provider, tmp_path, first_lease_s=600)
    machine = provider.create(cheapest(provider), boot, "cb-x")
    pod = runpod.pods[machine].machine
    pod.await_ssh()
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{pod.port} {host_key}\n")
    options = ["-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known}", "-i", str(key)]
    argv = ["ssh", *options, "-p", str(pod.port), "root@127.0.0.1", "echo in"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr


def test_the_guard_proves_that_it_may_end_the_pod(real: tuple[FakeRunPod, RunPodProvider], tmp_path: Path) -> None:
    runpod, provider = real
    boot, _, _ = guarded(provider, tmp_path, first_lease_s=600)
    machine = provider.create(cheapest(provider), boot, "cb-x")
    log = runpod.pods[machine].machine.volume / "cloudbooth" / "guard" / "log"
    wait_until(lambda: log.exists() and "probe: 200" in log.read_text(), "the probe is answered")


def test_a_pod_that_nobody_ever_logs_in_to_deletes_itself(
    real: tuple[FakeRunPod, RunPodProvider], tmp_path: Path
) -> None:
    runpod, provider = real
    boot, _, _ = guarded(provider, tmp_path, first_lease_s=1)
    machine = provider.create(cheapest(provider), boot, "cb-x")
    wait_until(lambda: runpod.pods[machine].gone_at is not None, "the guard has ended the pod")
    assert not provider.list("")


def test_the_accounts_key_is_nowhere_on_a_pod(real: tuple[FakeRunPod, RunPodProvider]) -> None:
    runpod, provider = real
    machine = rented(provider)
    pod = runpod.pods[machine].machine
    pod.await_ssh()
    processes: list[Process] = pod.processes()
    assert processes
    assert not [process for process in processes if ACCOUNT_KEY in str(process)]
    files = [file for root in (pod.disk, pod.volume) for file in root.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if ACCOUNT_KEY.encode() in file.read_bytes()]
    assert ACCOUNT_KEY not in pod.log + provider.logs(machine)


def test_a_container_that_ends_comes_back_at_another_port(real: tuple[FakeRunPod, RunPodProvider]) -> None:
    runpod, provider = real
    machine = rented(provider)
    pod = runpod.pods[machine].machine
    pod.await_ssh()
    before = pod.port
    pod.end_main_process()
    wait_until(lambda: runpod.pods[machine].boots == 2 and pod.runs, "the container runs again")
    pod.await_ssh()
    access = provider.describe(machine).access
    assert access is not None
    assert access.port == pod.port != before
