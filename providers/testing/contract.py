"""The suite that every `MachineProvider` passes, built-in or plug-in.

In the plug-in's tests, against a fake of the service that is as strict as the service:

    import pytest
    from cloudbooth_acme import AcmeProvider
    from providers.testing.contract import MachineProviderContract

    class TestAcme(MachineProviderContract):
        secrets = ("the-key-that-the-fake-accepts",)

        @pytest.fixture
        def provider(self, fake_acme):
            return AcmeProvider(...)

A service that takes time overrides `settle`, which is called after `create`, `release`, `stop` and `start` (advance the
fake's clock there; do not sleep). Optional abilities are tried where the provider has them, by type, and skipped where
it has not. For readable assertion messages, put this into conftest.py before importing the suite:
`pytest.register_assert_rewrite("providers.testing.contract")`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import pytest

from providers.api import (
    BootPlan,
    GpuRequest,
    HasBilling,
    HasLogs,
    HasStop,
    MachineCall,
    MachineId,
    MachineProvider,
    MachineStatus,
    Market,
    Offer,
    SshAccess,
)
from providers.errors import MachineGone, UnsupportedMarket


class MachineProviderContract:
    secrets: ClassVar[Sequence[str]] = ()
    """Credentials the provider was built with: none may show in a repr or a message."""
    want: ClassVar[GpuRequest] = GpuRequest()
    """Something the provider (or its fake) can satisfy."""
    boot: ClassVar[BootPlan] = BootPlan(image="ubuntu:24.04", disk_gb=10)
    tag: ClassVar[str] = "cb-contract-run-1-1790000000"
    sellers: ClassVar[frozenset[str]] = frozenset()
    """Whose names offers may carry, for a provider that passes on those of others; empty: its own alone."""

    @pytest.fixture
    def provider(self) -> MachineProvider:
        raise NotImplementedError("a subclass provides the provider")

    def settle(self, provider: MachineProvider) -> None:
        """Lets the service finish what it has been told."""

    # ---- shape -----------------------------------------------------------------------------------------------------

    def test_it_has_the_methods_of_the_protocol(self, provider: MachineProvider) -> None:
        assert isinstance(provider, MachineProvider)

    def test_it_names_itself_and_at_least_one_market(self, provider: MachineProvider) -> None:
        assert provider.name
        assert provider.markets
        assert provider.markets <= frozenset(Market)

    def test_its_repr_shows_no_secret(self, provider: MachineProvider) -> None:
        assert not [secret for secret in self.secrets if secret in repr(provider) + repr(vars(provider))]

    # ---- offers ----------------------------------------------------------------------------------------------------

    def test_something_is_offered_for_the_request(self, provider: MachineProvider) -> None:
        assert provider.offers(self.want)

    def test_offers_come_cheapest_first(self, provider: MachineProvider) -> None:
        prices = [offer.price_per_hour_usd for offer in provider.offers(self.want)]
        assert prices == sorted(prices)
        assert all(price >= 0 for price in prices)

    def test_offers_are_of_this_provider_and_in_the_market_asked_for(self, provider: MachineProvider) -> None:
        for market in provider.markets:
            for offer in provider.offers(_in_market(self.want, market)):
                assert offer.provider in (self.sellers or {provider.name})
                assert offer.market is market

    def test_offers_stay_below_the_highest_price(self, provider: MachineProvider) -> None:
        limit = provider.offers(self.want)[0].price_per_hour_usd
        offers = provider.offers(replace(self.want, max_price_per_hour_usd=limit))
        assert offers
        assert all(offer.price_per_hour_usd <= limit for offer in offers)

    def test_offers_have_the_memory_asked_for_unless_it_is_unknown(self, provider: MachineProvider) -> None:
        for offer in provider.offers(GpuRequest(min_vram_gb=16, market=self.want.market)):
            assert offer.vram_gb == 0 or offer.vram_gb >= 16

    def test_a_market_it_does_not_rent_in_is_an_error_with_a_hint(self, provider: MachineProvider) -> None:
        for market in frozenset(Market) - provider.markets:
            with pytest.raises(UnsupportedMarket) as caught:
                provider.offers(_in_market(self.want, market))
            assert any(other.value in caught.value.hint for other in provider.markets)

    # ---- one machine's life ----------------------------------------------------------------------------------------

    def test_a_created_machine_is_listed_under_its_tag(self, provider: MachineProvider) -> None:
        machine = self._create(provider, self.tag)
        assert [(found.id, found.tag) for found in provider.list(self.tag)] == [(machine, self.tag)]

    def test_a_created_machine_is_described_with_tag_and_price(self, provider: MachineProvider) -> None:
        offer = self._offer(provider)
        machine = provider.create(offer, self.boot, self.tag)
        self.settle(provider)
        described = provider.describe(machine)
        assert (described.id, described.tag) == (machine, self.tag)
        assert described.price_per_hour_usd >= offer.price_per_hour_usd

    def test_the_guard_is_told_the_work_folder_that_the_machine_will_have(self, provider: MachineProvider) -> None:
        offer = self._offer(provider)
        machine = provider.create(offer, self.boot, self.tag)
        self.settle(provider)
        access = provider.describe(machine).access
        if provider.self_release(offer) is not None and isinstance(access, SshAccess):
            assert access.workdir == offer.workdir

    def test_looking_changes_nothing(self, provider: MachineProvider) -> None:
        machine = self._create(provider, self.tag)
        assert provider.describe(machine) == provider.describe(machine)
        assert list(provider.list(self.tag)) == list(provider.list(self.tag))

    def test_a_released_machine_is_gone(self, provider: MachineProvider) -> None:
        machine = self._create(provider, self.tag)
        provider.release(machine)
        self.settle(provider)
        with pytest.raises(MachineGone):
            provider.describe(machine)
        assert not provider.list(self.tag)

    def test_releasing_twice_is_safe(self, provider: MachineProvider) -> None:
        machine = self._create(provider, self.tag)
        provider.release(machine)
        self.settle(provider)
        provider.release(machine)

    def test_releasing_one_machine_leaves_the_others(self, provider: MachineProvider) -> None:
        first = self._create(provider, f"{self.tag}-a")
        second = self._create(provider, f"{self.tag}-b")
        provider.release(first)
        self.settle(provider)
        assert [machine.id for machine in provider.list(self.tag)] == [second]

    # ---- looking for machines --------------------------------------------------------------------------------------

    def test_a_machine_that_never_was_is_gone(self, provider: MachineProvider) -> None:
        with pytest.raises(MachineGone):
            provider.describe(MachineId("never-was"))

    def test_releasing_a_machine_that_never_was_is_safe(self, provider: MachineProvider) -> None:
        provider.release(MachineId("never-was"))

    def test_the_list_is_empty_before_anything_was_created(self, provider: MachineProvider) -> None:
        assert not provider.list("")

    def test_the_list_holds_every_machine_with_the_prefix_and_no_other(self, provider: MachineProvider) -> None:
        tags = ["cb-one-run-1-5", "cb-one-run-2-5", "cb-two-run-1-5"]
        for tag in tags:
            self._create(provider, tag)
        assert sorted(machine.tag for machine in provider.list("cb-one-")) == tags[:2]
        assert sorted(machine.tag for machine in provider.list("")) == tags
        assert not provider.list("one")

    def test_an_id_can_be_stored_and_used_again(self, provider: MachineProvider) -> None:
        machine = self._create(provider, self.tag)
        assert provider.describe(MachineId(str(machine))).tag == self.tag

    # ---- what a machine says about itself --------------------------------------------------------------------------

    def test_what_a_machine_calls_to_end_itself_holds_no_secret_of_the_account(self, provider: MachineProvider) -> None:
        for call in self._own_calls(provider):
            said = f"{call.url} {call.headers} {call.body}"
            assert not [secret for secret in self.secrets if secret in said]

    def test_what_a_machine_calls_to_end_itself_is_one_http_request(self, provider: MachineProvider) -> None:
        for call in self._own_calls(provider):
            assert re.fullmatch(r"[A-Z]+", call.method)
            assert re.match(r"https?://\S+$", call.url)
            assert not re.search(r"[\r\n]", "".join([*call.headers, *call.headers.values()]))

    def test_what_is_left_blank_in_such_a_call_names_variables_of_the_machine(self, provider: MachineProvider) -> None:
        for call in self._own_calls(provider):
            filled = re.sub(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", "", f"{call.url} {call.headers} {call.body}")
            assert "${" not in filled

    # ---- HasStop ---------------------------------------------------------------------------------------------------

    def test_a_stopped_machine_is_described_and_listed_as_stopped(self, provider: MachineProvider) -> None:
        machine = self._stopped(provider)
        assert provider.describe(machine).status is MachineStatus.STOPPED
        assert [found.id for found in provider.list(self.tag)] == [machine]

    def test_a_stopped_machine_costs_less(self, provider: MachineProvider) -> None:
        running = self._offer(provider).price_per_hour_usd
        assert provider.describe(self._stopped(provider)).price_per_hour_usd < running

    def test_stopping_twice_is_safe(self, provider: MachineProvider) -> None:
        machine = self._stopped(provider)
        self._stopping(provider).stop(machine)
        self.settle(provider)
        assert provider.describe(machine).status is MachineStatus.STOPPED

    def test_a_stopped_machine_runs_again_under_its_name(self, provider: MachineProvider) -> None:
        machine = self._stopped(provider)
        self._stopping(provider).start(machine)
        self.settle(provider)
        found = provider.describe(machine)
        assert found.status in (MachineStatus.STARTING, MachineStatus.RUNNING)
        assert found.tag == self.tag

    def test_starting_a_machine_that_runs_changes_nothing(self, provider: MachineProvider) -> None:
        stopping = self._stopping(provider)
        machine = self._create(provider, self.tag)
        before = provider.describe(machine)
        stopping.start(machine)
        assert provider.describe(machine) == before

    def test_a_stopped_machine_can_be_released(self, provider: MachineProvider) -> None:
        machine = self._stopped(provider)
        provider.release(machine)
        self.settle(provider)
        with pytest.raises(MachineGone):
            provider.describe(machine)

    def test_a_machine_that_never_was_can_be_neither_stopped_nor_started(self, provider: MachineProvider) -> None:
        stopping = self._stopping(provider)
        for act in (stopping.stop, stopping.start):
            with pytest.raises(MachineGone):
                act(MachineId("never-was"))

    # ---- HasLogs, HasBilling ---------------------------------------------------------------------------------------

    def test_logs_are_text_and_those_of_a_machine_that_never_was_are_an_error(self, provider: MachineProvider) -> None:
        if not isinstance(provider, HasLogs):
            pytest.skip("this provider shows no logs")
        assert isinstance(provider.logs(self._create(provider, self.tag)), str)
        with pytest.raises(MachineGone):
            provider.logs(MachineId("never-was"))

    def test_a_bill_is_known_or_not_yet_and_outlives_the_machine(self, provider: MachineProvider) -> None:
        if not isinstance(provider, HasBilling):
            pytest.skip("this provider shows no bill")
        machine = self._create(provider, self.tag)
        first = provider.billed_usd(machine)
        provider.release(machine)
        self.settle(provider)
        last = provider.billed_usd(machine)
        assert all(billed is None or billed >= 0 for billed in (first, last))
        assert first is None or last is None or last >= first

    # ---- building blocks -------------------------------------------------------------------------------------------

    def _offer(self, provider: MachineProvider) -> Offer:
        offers = provider.offers(self.want)
        assert offers, "`want` must be something that the provider can satisfy"
        return offers[0]

    def _own_calls(self, provider: MachineProvider) -> list[MachineCall]:
        release = provider.self_release(self._offer(provider))
        if release is None:
            pytest.skip("a machine of this provider cannot give itself back")
        return [call for call in (release.terminate, release.probe, release.stop) if call is not None]

    def _stopping(self, provider: MachineProvider) -> HasStop:
        if not isinstance(provider, HasStop):
            pytest.skip("this provider stops no machines")
        return provider

    def _stopped(self, provider: MachineProvider) -> MachineId:
        stopping = self._stopping(provider)
        machine = self._create(provider, self.tag)
        stopping.stop(machine)
        self.settle(provider)
        return machine

    def _create(self, provider: MachineProvider, tag: str) -> MachineId:
        machine = provider.create(self._offer(provider), self.boot, tag)
        self.settle(provider)
        return machine


def _in_market(request: GpuRequest, market: Market) -> GpuRequest:
    return GpuRequest(request.gpus, request.min_vram_gb, request.disk_gb, market, request.max_price_per_hour_usd)
