"""`provider = "any"`: every configured provider that rents, as one.

Offers are the union of the members', create goes to the member whose offer it is. Ids carry the member's name
(`vast:4711`), so that machines and offers of different services cannot be taken for each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

from providers.api import (
    BootPlan,
    GpuRequest,
    HasBilling,
    HasLogs,
    HasStop,
    HasVolumes,
    Machine,
    MachineId,
    MachineProvider,
    Market,
    Offer,
    SelfRelease,
    Volume,
)
from providers.errors import AuthRejected, CloudboothError, MachineGone, NoCapacity, Transient, UnsupportedMarket
from providers.registry import ProviderContext, installed_providers, load_provider

NAME = "any"
NOT_RENTED = frozenset({"local", "ssh", NAME})
"""Machines of one's own are not for rent, and `any` does not hold itself."""


def configured_providers(
    context_of: Callable[[str], ProviderContext],
) -> tuple[dict[str, MachineProvider], dict[str, CloudboothError]]:
    """Every installed provider that rents and can be built with the credentials at hand, and why others cannot."""
    able: dict[str, MachineProvider] = {}
    unable: dict[str, CloudboothError] = {}
    for name in installed_providers():
        if name not in NOT_RENTED:
            try:
                able[name] = load_provider(name, context_of(name))
            except CloudboothError as error:
                unable[name] = error
    return able, unable


def any_provider(context: ProviderContext) -> MachineProvider:
    """The factory behind the entry point `any`. Raises AuthRejected when no provider is configured."""
    folder = context.state_folder

    def context_of(name: str) -> ProviderContext:
        return ProviderContext(folder.with_name(name), context.environ)

    able, unable = configured_providers(context_of)
    if not able:
        reasons = "; ".join(f"{name}: {error.message}" for name, error in unable.items())
        hint = next((error.hint for error in unable.values() if error.hint), "install one with `uv tool install`")
        raise AuthRejected(f"no provider that rents machines is configured{f' ({reasons})' if reasons else ''}", hint)
    return CombinedProvider(able, folder, unable)


class CombinedProvider:
    """A MachineProvider over `members`. `unable` are those that are installed and cannot be used now.

    A member that fails to offer is left out, and `told` hears of it. A list is only as good as its weakest member:
    when one that ever rented here does not answer, the whole list is an error, for absence must not be believed from
    half an answer. `state_folder` keeps the names of members that have rented.

    HasStop when every member has it; HasLogs, HasBilling and HasVolumes when one has, the others answer that nothing is
    known. A volume belongs to one member, as its id says.
    """

    name = NAME

    def __new__(cls, members: Mapping[str, MachineProvider], *_: object, **__: object) -> CombinedProvider:
        found = members.values()
        able = (
            *((_Stopping,) if all(isinstance(member, HasStop) for member in found) else ()),
            *((_WithVolumes,) if any(isinstance(member, HasVolumes) for member in found) else ()),
            *((_Logging,) if any(isinstance(member, HasLogs) for member in found) else ()),
            *((_Billing,) if any(isinstance(member, HasBilling) for member in found) else ()),
        )
        return super().__new__(_with_abilities(able) if cls is CombinedProvider else cls)

    def __init__(
        self,
        members: Mapping[str, MachineProvider],
        state_folder: Path,
        unable: Mapping[str, CloudboothError] | None = None,
        told: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.markets: frozenset[Market] = frozenset().union(*(member.markets for member in members.values()))
        self.told = told
        self._members, self._unable, self._rented_from = dict(members), dict(unable or {}), state_folder / "rented-from"

    def __repr__(self) -> str:
        return f"CombinedProvider({', '.join(self._members)})"

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        """Raises the members' own error when all of them fail, Transient before any other."""
        if want.market not in self.markets:
            others = " or ".join(sorted(market.value for market in self.markets))
            message = f"no configured provider rents {want.market.value} machines"
            raise UnsupportedMarket(message, f'compute.market = "{others}"')
        found, errors = list[Offer](), list[CloudboothError]()
        owner, _, volume = want.volume.partition(":")
        asked = [
            name
            for name, member in self._members.items()
            if want.market in member.markets and (not want.volume or name == owner)
        ]
        own_want = replace(want, volume=volume)
        for name in asked:
            try:
                found += [replace(offer, id=f"{name}:{offer.id}") for offer in self._members[name].offers(own_want)]
            except CloudboothError as error:
                errors.append(error)
                self.told(f"{name} is left out: {error.message}")
        if errors and len(errors) == len(asked):
            raise next((error for error in errors if isinstance(error, Transient)), errors[0])
        return sorted(found, key=lambda offer: offer.price_per_hour_usd)

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        name, member, own = self._own_offer(offer)
        owner, _, volume = boot.volume.partition(":")
        if boot.volume and owner != name:
            raise NoCapacity(f"the volume {boot.volume} is not one of {name}")
        self._remember(name)
        return MachineId(f"{name}:{member.create(own, replace(boot, volume=volume), tag)}")

    def describe(self, machine: MachineId) -> Machine:
        member, own = self._member_of(machine)
        return replace(member.describe(own), id=machine)

    def list(self, prefix: str) -> Sequence[Machine]:
        """Raises Transient when a member does not answer, and its own error when one that has rented cannot be used."""
        for name in self._have_rented():
            if name not in self._members:
                raise self._unable.get(name) or self._unknown(name)
        found: list[Machine] = []
        for name, member in self._members.items():
            try:
                listed = member.list(prefix)
            except Transient as error:
                message = f"{name} does not say which machines there are: {error.message}"
                raise Transient(message, error.hint, error.retry_after_s) from error
            found += [replace(machine, id=MachineId(f"{name}:{machine.id}")) for machine in listed]
        return found

    def release(self, machine: MachineId) -> None:
        try:
            member, own = self._member_of(machine)
        except MachineGone:
            return
        member.release(own)

    def self_release(self, offer: Offer) -> SelfRelease | None:
        _, member, own = self._own_offer(offer)
        return member.self_release(own)

    def member_for(self, offer: Offer) -> MachineProvider:
        """Whose offer it is. Raises CloudboothError when that provider cannot be used."""
        return self._own_offer(offer)[1]

    def _own_offer(self, offer: Offer) -> tuple[str, MachineProvider, Offer]:
        name, _, own_id = offer.id.partition(":")
        return name, self._member(name), replace(offer, id=own_id)

    def _member_of(self, machine: MachineId) -> tuple[MachineProvider, MachineId]:
        name, colon, own_id = machine.partition(":")
        if not colon or (name not in self._members and name not in self._unable and name not in self._have_rented()):
            raise MachineGone(f"no configured provider knows a machine {machine}")
        return self._member(name), MachineId(own_id)

    def _member(self, name: str) -> MachineProvider:
        if name not in self._members:
            raise self._unable.get(name) or self._unknown(name)
        return self._members[name]

    def _unknown(self, name: str) -> CloudboothError:
        hint = f"install the package that provides {name}, or look at its machines in its own console"
        return CloudboothError(f"a machine was rented from {name}, which is not installed any more", hint)

    def _remember(self, name: str) -> None:
        """On disk before the machine exists; twice is safe."""
        self._rented_from.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._rented_from / name, os.O_CREAT | os.O_WRONLY, 0o600)
        os.fsync(descriptor)
        os.close(descriptor)

    def _have_rented(self) -> Sequence[str]:
        return sorted(path.name for path in self._rented_from.iterdir()) if self._rented_from.is_dir() else []


class _Stopping(CombinedProvider):
    @property
    def stopped_disk_may_vanish(self) -> bool:
        """Of any member: which one a machine will be of is not known yet."""
        return any(cast(HasStop, member).stopped_disk_may_vanish for member in self._members.values())

    def stop(self, machine: MachineId) -> None:
        member, own = self._member_of(machine)
        cast(HasStop, member).stop(own)

    def start(self, machine: MachineId) -> None:
        member, own = self._member_of(machine)
        cast(HasStop, member).start(own)


class _WithVolumes(CombinedProvider):
    def volumes(self) -> Sequence[Volume]:
        """Ids carry the member's name, as those of machines do."""
        return [
            replace(volume, id=f"{name}:{volume.id}")
            for name, member in self._members.items()
            if isinstance(member, HasVolumes)
            for volume in member.volumes()
        ]


class _Logging(CombinedProvider):
    def logs(self, machine: MachineId) -> str:
        member, own = self._member_of(machine)
        return member.logs(own) if isinstance(member, HasLogs) else ""


class _Billing(CombinedProvider):
    def billed_usd(self, machine: MachineId) -> float | None:
        member, own = self._member_of(machine)
        return member.billed_usd(own) if isinstance(member, HasBilling) else None


@cache
def _with_abilities(able: tuple[type[CombinedProvider], ...]) -> type[CombinedProvider]:
    return type("CombinedProvider", (*able, CombinedProvider), {}) if able else CombinedProvider
