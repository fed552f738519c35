"""The simulated store, under the suite of the real ones and in what it adds."""

from __future__ import annotations

import pytest

from orchestrator.storage.api import ObjectStore, Presigns, StorageUnreachable
from providers.testing.virtual_clock import VirtualClock
from tests.contract.store_contract import StoreContract
from tests.simulation.store import NO_ANSWER, SimulatedStore


class TestSimulatedStore(StoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return SimulatedStore(VirtualClock())


def test_a_presigned_url_is_good_for_one_object_and_one_way_until_it_expires() -> None:
    clock = VirtualClock()
    store = SimulatedStore(clock)
    assert isinstance(store, Presigns)
    url = store.presign_put("lent/a b", 60)
    assert store.answer("PUT", url, b"x") == (200, b"")
    assert store.get("lent/a b") == b"x"
    assert store.answer("GET", url)[0] == 403
    assert store.answer("PUT", url.replace("lent/a%20b", "lent/other", 1), b"y")[0] == 403
    assert store.answer("GET", store.presign_get("lent/a b", 60)) == (200, b"x")
    clock.sleep(60)
    assert store.answer("PUT", url, b"late")[0] == 403


def test_urls_die_with_the_credentials_that_signed_them() -> None:
    clock = VirtualClock()
    store = SimulatedStore(clock)
    old = store.presign_put("a", 600)
    clock.sleep(1)
    store.let_urls_die()
    assert store.answer("PUT", old, b"x")[0] == 403
    assert store.answer("PUT", store.presign_put("a", 600), b"x")[0] == 200


def test_a_store_out_of_reach_fails_everybody_for_its_time() -> None:
    clock = VirtualClock()
    store = SimulatedStore(clock)
    url = store.presign_put("a", 600)
    store.be_unreachable(10)
    assert store.answer("PUT", url, b"x")[0] == NO_ANSWER
    with pytest.raises(StorageUnreachable):
        store.head("a")
    clock.sleep(10)
    assert store.head("a") is None


def test_a_put_that_is_cut_leaves_nothing_and_an_altered_one_other_bytes() -> None:
    store = SimulatedStore(VirtualClock())
    url = store.presign_put("a", 600)
    store.cut_next_put()
    assert store.answer("PUT", url, b"content")[0] == NO_ANSWER
    assert store.head("a") is None
    store.alter_next_put()
    assert store.answer("PUT", url, b"content")[0] == 200
    assert store.get("a") != b"content"
