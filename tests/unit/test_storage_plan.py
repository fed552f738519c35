"""What a plan says about the store, and warns of."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.lifecycle import EndReason, Facts, Move, Standing, State, Wish, next_step
from orchestrator.storage.api import ObjectStore
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.open import address_problem, endpoint_problem, open_store
from orchestrator.storage.planned import StoragePlan, is_local, plan_storage, storage_warnings
from orchestrator.storage.run_store import RunStore
from remote_trainer.commit import commit_folder, preparing

DAY_S = 24 * 3600.0


def lent(for_s: float) -> StoragePlan:
    return StoragePlan("s3://bucket/x", for_s, "the temporary credentials end then", hands_over_keys=False)


def test_keys_of_ones_own_lend_for_seven_days(s3_store: ObjectStore) -> None:
    planned = plan_storage(s3_store, pod_credentials=False)
    assert (planned.lent_for_s, planned.lent_for_why) == (7 * DAY_S, "the longest that S3 allows")


def test_a_loan_shorter_than_the_run_is_warned_about() -> None:
    [warned] = storage_warnings(lent(3600), deadline_s=5 * 3600, rented=True)
    assert "1.0 h (the temporary credentials end then)" in warned.message
    assert "5.0 h" in warned.message
    assert storage_warnings(lent(7 * DAY_S), deadline_s=5 * 3600, rented=True) == []


def test_keys_that_go_to_the_machine_are_warned_about() -> None:
    planned = StoragePlan("s3://bucket/x", 7 * DAY_S, "", hands_over_keys=True)
    [warned] = storage_warnings(planned, deadline_s=3600, rented=True)
    assert "whoever owns it can read them" in warned.message


def test_a_folder_is_no_protection_from_a_lost_machine(tmp_path: Path) -> None:
    planned = plan_storage(FolderStore(tmp_path), pod_credentials=False)
    assert planned.lent_for_s is None
    assert len(storage_warnings(planned, None, rented=True)) == 1
    assert storage_warnings(planned, None, rented=False) == []


def test_a_folder_gets_what_came_home(tmp_path: Path) -> None:
    with preparing(tmp_path / "home") as prepared:
        (prepared / "weights").write_bytes(b"weights")
        manifest = commit_folder(prepared, tmp_path / "home", 100)
    run = RunStore(FolderStore(tmp_path / "store"), "dog-1")
    for _ in range(2):
        run.add("checkpoint", tmp_path / "home")
    assert [found.manifest for found in run.checkpoints()] == [manifest]


@pytest.mark.parametrize(
    "url",
    ["http://x", "s3://", "s3://B", "s3://key:secret@bucket", "s3://bucket/../x", "file://host/x", "file:///", "dog"],
)
def test_an_address_that_is_none_is_told_apart(url: str) -> None:
    assert address_problem(url) is not None


@pytest.mark.parametrize("url", ["s3://bucket", "s3://my-bucket/a/b", "file:///mnt/nas"])
def test_an_address_is_an_address(url: str) -> None:
    assert address_problem(url) is None


@pytest.mark.parametrize(
    ("endpoint", "instead"),
    [
        ("s3.example.com", "https://s3.example.com"),
        ("ftp://s3.example.com/", "https://s3.example.com"),
        ("https:/s3.example.com", "https://s3.example.com"),
        ("https://", "https://s3.example.com"),
        ("https://key:secret@s3.example.com", "https://s3.example.com"),
        ("https://account.r2.cloudflarestorage.com/my-bucket", "https://account.r2.cloudflarestorage.com"),
        ("https://my-bucket.s3.eu-central-1.wasabisys.com", "https://s3.eu-central-1.wasabisys.com"),
    ],
)
def test_an_endpoint_that_is_none_or_names_the_bucket_is_told_with_the_one_that_is_meant(
    endpoint: str, instead: str
) -> None:
    problem = endpoint_problem(endpoint, "s3://my-bucket/x")
    assert problem is not None
    assert problem.instead == instead
    assert endpoint_problem(instead, "s3://my-bucket/x") is None
    with pytest.raises(UsageError) as refused:
        open_store("s3://my-bucket/x", endpoint)
    assert refused.value.hint == f"`--endpoint-url {instead}`"


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9000", "https://minio.example.com/s3", "https://my-buckets.org"]
)
def test_an_endpoint_is_an_endpoint(endpoint: str) -> None:
    assert endpoint_problem(endpoint, "s3://my-bucket/x") is None


def test_a_store_in_this_network_is_warned_about_before_a_machine_is_rented(s3_store: ObjectStore) -> None:
    planned = plan_storage(s3_store, pod_credentials=False)
    [warned] = storage_warnings(planned, deadline_s=3600, rented=True)
    assert "127.0.0.1 is an address of this laptop" in warned.message
    assert "storage.endpoint_url" in warned.hint
    assert storage_warnings(planned, deadline_s=3600, rented=False) == []


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("::1", True), ("192.168.1.7", True), ("10.0.0.2", True), ("nas.local", True),
        ("s3.amazonaws.com", False), ("9.9.9.9", False), ("localhost.example.com", False), ("", False),
    ],
)  # fmt: skip
def test_what_only_this_network_knows(host: str, local: bool) -> None:
    assert is_local(host) == local


@pytest.mark.parametrize("state", [State.TRAINING, State.RETRIEVING, State.SHIPPING, State.PROVISIONING])
def test_a_lost_machine_whose_model_is_in_the_store_ends_the_run_well(state: State) -> None:
    facts = Facts(machine_lost="the provider no longer knows the machine", model_home=True, may_rent_again=True)
    step = next_step(state, Wish.RUN, None, Standing.HELD, facts)
    assert isinstance(step, Move)
    assert (step.to, step.reason) == (State.RELEASING, EndReason.DONE)
