"""RunPod's adapter against a fake that holds every request and answer against the published contract."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.api import BootPlan, GpuRequest, MachineProvider, MachineStatus
from providers.errors import AuthRejected, CloudboothError, Indeterminate, NoCapacity, QuotaExceeded, Transient
from providers.registry import ProviderContext
from providers.runpod.boot import IMAGE
from providers.runpod.provider import RunPodProvider
from providers.testing.contract import MachineProviderContract
from tests.contract.runpod_account import ACCOUNT_KEY, BOOT, built, cheapest, needs_the_vendors_package, rented
from tests.fakes.runpod import NO_CAPACITY, FakeRunPod


@pytest.fixture
def provider(runpod: FakeRunPod, tmp_path: Path) -> RunPodProvider:
    return built(runpod, tmp_path)


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
