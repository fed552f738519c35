"""The only retry loop around providers: a provider that wraps one and waits out what is `Transient`.

Adapters classify errors and never retry; nobody else retries either. `create` is passed through untouched, since
repeating it could rent twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from providers.api import (
    Access,
    BootPlan,
    GpuRequest,
    HasBilling,
    HasLogs,
    HasStandingMachine,
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
from providers.errors import Transient
from providers.jobs import Job, JobId, JobProvider, JobQuote, JobWish

T = TypeVar("T")

FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 60.0
PATIENCE_S = 900.0


class RetryingProvider:
    """Passes every call on; waits and repeats after Transient, by the service's own `retry_after_s` where it gave one.

    Raises the last Transient when a call would have to wait for longer than `patience_s` in all. `told` hears about
    every wait. The wrapper has exactly the optional abilities of what it wraps, so that `isinstance(wrapper, HasStop)`
    is right.
    """

    def __new__(cls, inner: MachineProvider, *_: object, **__: object) -> RetryingProvider:
        able = tuple(passing for ability, passing in _ABILITIES if isinstance(inner, ability))
        return super().__new__(_with_abilities(able) if cls is RetryingProvider else cls)

    def __init__(
        self,
        inner: MachineProvider,
        sleep: Callable[[float], None],
        told: Callable[[str], None] = lambda _text: None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.name = inner.name
        self.markets: frozenset[Market] = inner.markets
        self._inner, self._sleep, self._told, self._patience_s = inner, sleep, told, patience_s

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        return self._patiently(lambda: self._inner.offers(want))

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        """Once, whatever comes of it."""
        return self._inner.create(offer, boot, tag)

    def describe(self, machine: MachineId) -> Machine:
        return self._patiently(lambda: self._inner.describe(machine))

    def list(self, prefix: str) -> Sequence[Machine]:
        return self._patiently(lambda: self._inner.list(prefix))

    def release(self, machine: MachineId) -> None:
        self._patiently(lambda: self._inner.release(machine))

    def self_release(self, offer: Offer) -> SelfRelease | None:
        return self._inner.self_release(offer)

    def _patiently(self, call: Callable[[], T]) -> T:
        return _patiently(call, self.name, self._sleep, self._told, self._patience_s)


class RetryingJobProvider:
    """The same for hosted jobs. `submit` is passed through untouched."""

    def __init__(
        self,
        inner: JobProvider,
        sleep: Callable[[float], None],
        told: Callable[[str], None] = lambda _text: None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.name = inner.name
        self._inner, self._sleep, self._told, self._patience_s = inner, sleep, told, patience_s

    def quote(self, wish: JobWish) -> JobQuote:
        return self._patiently(lambda: self._inner.quote(wish))

    def upload(self, file: Path, name: str) -> str:
        return self._patiently(lambda: self._inner.upload(file, name))

    def forget_upload(self, tag: str) -> None:
        """Once: nothing waits for it."""
        self._inner.forget_upload(tag)

    def make_destination(self, quote: JobQuote) -> bool:
        return self._patiently(lambda: self._inner.make_destination(quote))

    def submit(self, quote: JobQuote, dataset_url: str, tag: str) -> JobId:
        """Once, whatever comes of it."""
        return self._inner.submit(quote, dataset_url, tag)

    def poll(self, job: JobId) -> Job:
        return self._patiently(lambda: self._inner.poll(job))

    def list(self, prefix: str) -> Sequence[Job]:
        return self._patiently(lambda: self._inner.list(prefix))

    def cancel(self, job: JobId) -> None:
        self._patiently(lambda: self._inner.cancel(job))

    def fetch(self, job: Job, archive: Path, received: Callable[[int, int | None], None]) -> None:
        self._patiently(lambda: self._inner.fetch(job, archive, received))

    def _patiently(self, call: Callable[[], T]) -> T:
        return _patiently(call, self.name, self._sleep, self._told, self._patience_s)


def _patiently(
    call: Callable[[], T], name: str, sleep: Callable[[float], None], told: Callable[[str], None], left_s: float
) -> T:
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return call()
        except Transient as error:
            wait_s = max(pause_s, error.retry_after_s or 0.0)
            if wait_s > left_s:
                raise
            told(f"{error.message}; asking {name} again in {wait_s:.0f} s")
            sleep(wait_s)
            left_s -= wait_s
            pause_s = min(2 * pause_s, LAST_PAUSE_S)


class _Stopping(RetryingProvider):
    @property
    def stopped_disk_may_vanish(self) -> bool:
        return _able(self._inner, HasStop).stopped_disk_may_vanish

    def stop(self, machine: MachineId) -> None:
        self._patiently(lambda: _able(self._inner, HasStop).stop(machine))

    def start(self, machine: MachineId) -> None:
        """Repeated after Transient: a machine that runs already is no error."""
        self._patiently(lambda: _able(self._inner, HasStop).start(machine))


class _WithVolumes(RetryingProvider):
    def volumes(self) -> Sequence[Volume]:
        return self._patiently(lambda: _able(self._inner, HasVolumes).volumes())


class _Logging(RetryingProvider):
    def logs(self, machine: MachineId) -> str:
        return self._patiently(lambda: _able(self._inner, HasLogs).logs(machine))


class _Billing(RetryingProvider):
    def billed_usd(self, machine: MachineId) -> float | None:
        return self._patiently(lambda: _able(self._inner, HasBilling).billed_usd(machine))


class _Standing(RetryingProvider):
    def access(self) -> Access:
        return _able(self._inner, HasStandingMachine).access()


_ABILITIES: tuple[tuple[Any, type[RetryingProvider]], ...] = (
    (HasStop, _Stopping),
    (HasVolumes, _WithVolumes),
    (HasLogs, _Logging),
    (HasBilling, _Billing),
    (HasStandingMachine, _Standing),
)
"""Each optional Protocol and the class that passes it on with patience."""


@cache
def _with_abilities(able: tuple[type[RetryingProvider], ...]) -> type[RetryingProvider]:
    """The wrapper's class for one set of abilities."""
    return type("RetryingProvider", (*able, RetryingProvider), {}) if able else RetryingProvider


def _able(provider: MachineProvider, _ability: Callable[..., T]) -> T:
    """The same provider with the type that `__new__` has found it to have."""
    return cast(T, provider)
