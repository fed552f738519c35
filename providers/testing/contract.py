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

A service that takes time overrides `settle`, which is called after `create` and `release` (advance the fake's clock
there; do not sleep). For readable assertion messages, put this into conftest.py before importing the suite:
`pytest.register_assert_rewrite("providers.testing.contract")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest

from providers.api import BootPlan, GpuRequest, MachineId, MachineProvider, Market, Offer, SshAccess
from providers.errors import MachineGone, UnsupportedMarket


class MachineProviderContract:
    secrets: ClassVar[Sequence[str]] = ()
    """Credentials the provider was built with: none may show in a repr or a message."""
    want: ClassVar[GpuRequest] = GpuRequest()
    """Something the provider (or its fake) can satisfy."""
    boot: ClassVar[BootPlan] = BootPlan(image="ubuntu:24.04", disk_gb=10)
    tag: ClassVar[str] = "cb-contract-run-1-1790000000"

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
                assert (offer.provider, offer.market) == (provider.name, market)

    def test_offers_stay_below_the_highest_price(self, provider: MachineProvider) -> None:
        limit = provider.offers(self.want)[0].price_per_hour_usd
        want = GpuRequest(max_price_per_hour_usd=limit, market=self.want.market)
        offers = provider.offers(want)
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

    # ---- building blocks -------------------------------------------------------------------------------------------

    def _offer(self, provider: MachineProvider) -> Offer:
        offers = provider.offers(self.want)
        assert offers, "`want` must be something that the provider can satisfy"
        return offers[0]

    def _create(self, provider: MachineProvider, tag: str) -> MachineId:
        machine = provider.create(self._offer(provider), self.boot, tag)
        self.settle(provider)
        return machine


def _in_market(request: GpuRequest, market: Market) -> GpuRequest:
    return GpuRequest(request.gpus, request.min_vram_gb, request.disk_gb, market, request.max_price_per_hour_usd)
