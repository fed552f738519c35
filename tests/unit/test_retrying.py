"""The one retry loop around providers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from providers.api import (
    BootPlan,
    GpuRequest,
    HasBilling,
    HasLogs,
    HasStandingMachine,
    HasStop,
    Machine,
    MachineId,
    MachineProvider,
    Market,
    Offer,
    SelfRelease,
)
from providers.errors import AuthRejected, CloudboothError, Transient
from providers.registry import ProviderContext, load_provider
from providers.retrying import LAST_PAUSE_S, PATIENCE_S, RetryingProvider

ABILITIES = (HasStop, HasLogs, HasBilling, HasStandingMachine)
OFFER = Offer("flaky", "o", "gpu", 1, 24.0, Market.ON_DEMAND, 0.5)


class Flaky:
    """Fails with the given errors, one a call, then answers."""

    name = "flaky"
    markets = frozenset({Market.ON_DEMAND})

    def __init__(self, *errors: CloudboothError) -> None:
        self.errors = list(errors)
        self.calls = 0

    def _answer(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        self._answer()
        return [OFFER]

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        self._answer()
        return MachineId(tag)

    def describe(self, machine: MachineId) -> Machine:
        raise NotADirectoryError

    def list(self, prefix: str) -> Sequence[Machine]:
        self._answer()
        return []

    def release(self, machine: MachineId) -> None:
        self._answer()

    def self_release(self, offer: Offer) -> SelfRelease | None:
        return None


def test_a_passing_failure_is_waited_out_with_longer_and_longer_pauses() -> None:
    slept: list[float] = []
    provider = RetryingProvider(Flaky(Transient("503"), Transient("503"), Transient("503")), slept.append)
    assert provider.offers(GpuRequest()) == [OFFER]
    assert slept == [1.0, 2.0, 4.0]


def test_the_services_own_pause_is_respected() -> None:
    slept: list[float] = []
    RetryingProvider(Flaky(Transient("429", retry_after_s=17.0)), slept.append).release(MachineId("m"))
    assert slept == [17.0]


def test_patience_ends() -> None:
    slept: list[float] = []
    endless = Flaky(*[Transient("down")] * 1000)
    with pytest.raises(Transient, match="down"):
        RetryingProvider(endless, slept.append).list("cb-")
    assert PATIENCE_S - LAST_PAUSE_S <= sum(slept) <= PATIENCE_S


def test_create_is_never_repeated() -> None:
    flaky = Flaky(Transient("503"))
    with pytest.raises(Transient):
        RetryingProvider(flaky, lambda _s: None).create(OFFER, BootPlan(), "tag")
    assert flaky.calls == 1


def test_a_refusal_is_not_waited_out() -> None:
    flaky = Flaky(AuthRejected("wrong key"))
    with pytest.raises(AuthRejected):
        RetryingProvider(flaky, lambda _s: None).offers(GpuRequest())
    assert flaky.calls == 1


class Stoppable(Flaky):
    """Can be stopped and shows its logs; cannot be asked for a bill, and stands nowhere."""

    stopped_disk_may_vanish = True

    def stop(self, machine: MachineId) -> None:
        self._answer()

    def start(self, machine: MachineId) -> None:
        self._answer()

    def logs(self, machine: MachineId) -> str:
        self._answer()
        return "booted"


def test_the_wrapper_has_exactly_the_abilities_of_what_it_wraps() -> None:
    plain, able = (RetryingProvider(inner, lambda _s: None) for inner in (Flaky(), Stoppable()))
    assert [isinstance(able, kind) for kind in ABILITIES] == [True, True, False, False]
    assert not any(isinstance(plain, kind) for kind in ABILITIES)
    assert isinstance(able, MachineProvider)
    assert isinstance(able, RetryingProvider)


def test_an_optional_ability_is_as_patient_as_the_rest() -> None:
    slept: list[float] = []
    flaky = Stoppable(Transient("503"), Transient("503"))
    provider = RetryingProvider(flaky, slept.append)
    assert isinstance(provider, HasStop)
    provider.start(MachineId("m"))
    assert (slept, flaky.calls, provider.stopped_disk_may_vanish) == ([1.0, 2.0], 3, True)


def test_a_machine_that_stands_still_does_behind_the_wrapper(tmp_path: Path) -> None:
    local = load_provider("local", ProviderContext(tmp_path))
    provider = RetryingProvider(local, lambda _s: None)
    assert isinstance(provider, HasStandingMachine)
    assert isinstance(local, HasStandingMachine)
    assert provider.access() == local.access()
