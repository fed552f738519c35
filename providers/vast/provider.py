"""Vast.ai as a `MachineProvider`: which requests a call comes to, and in which order.

What is asked and what the answers mean is decided in `asks`, `boot`, `machines`, `bids` and `refusals`, all pure.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from typing import NoReturn

from providers.api import (
    BootPlan,
    GpuRequest,
    Machine,
    MachineCall,
    MachineId,
    MachineStatus,
    Market,
    Offer,
    SelfRelease,
)
from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    Transient,
    UnsupportedMarket,
)
from providers.registry import ProviderContext
from providers.secret import Secret
from providers.vast import asks
from providers.vast.asks import Ticket
from providers.vast.bids import BidCaps, market_usd, raised_bid_usd
from providers.vast.boot import TAG_VARIABLE, create_body
from providers.vast.client import BASE_URL, USER_AGENT, VastClient
from providers.vast.machines import as_machine, machine_status, ssh_port
from providers.vast.records import Ask, Instance
from providers.vast.refusals import KEY_HINT, Leaked, Rented, outcome_of_create

MAX_SEARCHES = 4
"""Of one call: ten a minute are allowed, and what lies beyond 256 offers, cheapest first, is not worth one."""
PRICE_TOLERANCE = 1.01
LOG_LINES = 1000
BILLING_DAYS = 60


class VastProvider:
    name = "vast"
    markets: frozenset[Market] = frozenset(Market)
    stopped_disk_may_vanish = True

    def __init__(self, context: ProviderContext) -> None:
        """Reads VAST_API_KEY, and VAST_URL where the service is elsewhere. Raises AuthRejected without a key."""
        key = context.environ.get("VAST_API_KEY", "").strip()
        if not key:
            raise AuthRejected("Vast.ai needs an API key, and VAST_API_KEY is not set", KEY_HINT)
        self._base_url = (context.environ.get("VAST_URL") or BASE_URL).rstrip("/")
        self._client = VastClient(Secret(key, "VAST_API_KEY"), self._base_url)
        self._caps = BidCaps(context.state_folder / "bids")
        self._log_urls: dict[int, str] = {}

    # ---- looking around --------------------------------------------------------------------------------------------

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        """One search for each 64 offers, four at most. A refusal after the first page ends the list there."""
        if want.market is Market.SPOT and want.gpu_count != 1:
            raise UnsupportedMarket(
                "Vast.ai's bids are supported for one GPU: whether a bid counts for each GPU or for all is not settled",
                'market = "on-demand"',
            )
        return asks.offers(self._asks(want), want, self.name)

    def _asks(self, want: GpuRequest) -> list[Ask]:
        found: dict[int, Ask] = {}
        at_least_usd: float | None = None
        for _ in range(MAX_SEARCHES):
            try:
                page = self._client.search(asks.search(want, at_least_usd))
            except Transient:
                if not found:
                    raise
                break
            fresh = {ask.ask_id: ask for ask in page if ask.ask_id not in found}
            found |= fresh
            if len(page) < asks.PAGE or not fresh:
                break
            at_least_usd = asks.next_page_from_usd(page, want)
        return list(found.values())

    # ---- one machine's life ----------------------------------------------------------------------------------------

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        """One PUT, one look at what came of it, and the key attached.

        An instance on terms other than the offer's is destroyed at once, and so is one that a failed request has made:
        NoCapacity when its absence is seen, else Indeterminate.
        """
        if offer.provider != self.name:
            raise NoCapacity(f"the offer {offer.id} is one of {offer.provider}, not of {self.name}")
        ticket = Ticket.parse(offer.id)
        is_bid = offer.market is Market.SPOT
        answer = self._client.create(ticket.ask_id, create_body(boot, tag, ticket.hourly_usd if is_bid else None))
        outcome = outcome_of_create(answer)
        match outcome:
            case Leaked(instance, why):
                self._undo(instance, f"the offer does not start: {why}")
            case Rented(instance):
                if broken := self._broken_terms(instance, is_bid, ticket):
                    self._undo(instance, broken)
        if is_bid and ticket.cap_usd is not None:
            self._caps.remember(instance, ticket.cap_usd)
        if boot.authorized_key:
            # The start command brings the key as well; this one is there when the container comes up.
            with contextlib.suppress(CloudboothError):
                self._client.attach_key(instance, boot.authorized_key)
        return MachineId(str(instance))

    def _broken_terms(self, instance: int, is_bid: bool, ticket: Ticket) -> str:
        """Empty also while the instance cannot be looked at: later looks show its price."""
        try:
            return broken_terms(self._client.instance(instance), is_bid, ticket)
        except CloudboothError:
            return ""

    def _undo(self, instance: int, why: str) -> NoReturn:
        self._log_urls.pop(instance, None)
        try:
            self.release(MachineId(str(instance)))
            self._client.instance(instance)
        except MachineGone:
            raise NoCapacity(why, "cloudbooth gpus") from None
        except CloudboothError as error:
            raise Indeterminate(f"{why}; whether instance {instance} is gone is not known: {error.message}") from error
        raise Indeterminate(f"{why}; instance {instance} was destroyed and still shows")

    def describe(self, machine: MachineId) -> Machine:
        """Asks the list as well when the look at one instance leaves out the ports of a running one."""
        instance = _number(machine)
        if instance is None:
            raise MachineGone(f"Vast.ai knows no instance {machine}")
        record = self._client.instance(instance)
        if machine_status(record) is MachineStatus.RUNNING and ssh_port(record.ports) is None:
            record = next((found for found in self._client.instances(only=instance) if found.id == instance), record)
        return as_machine(record)

    def list(self, prefix: str) -> Sequence[Machine]:
        """The service cannot search for the beginning of a label: all are asked for and looked at here."""
        return [as_machine(record) for record in self._client.instances() if (record.label or "").startswith(prefix)]

    def release(self, machine: MachineId) -> None:
        """Destroys the instance and its disk."""
        instance = _number(machine)
        if instance is None:
            return
        with contextlib.suppress(MachineGone):
            self._client.destroy(instance)
        self._caps.forget(instance)

    def self_release(self, offer: Offer) -> SelfRelease | None:
        """With the key that the platform puts into every container, which may touch its own instance only."""
        url = f"{self._base_url}/api/v0/instances/${{CONTAINER_ID}}/"
        headers = {
            "Authorization": "Bearer ${CONTAINER_API_KEY}",
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,  # a guard without curl would name Python's library, which gateways like to refuse
        }
        return SelfRelease(
            terminate=MachineCall("DELETE", url, headers, "{}"),
            # The same right as a stop; writes the label that the instance has.
            probe=MachineCall("PUT", url, headers, json.dumps({"label": f"${{{TAG_VARIABLE}}}"})),
            stop=MachineCall("PUT", url, headers, json.dumps({"state": "stopped"})),
        )

    # ---- HasStop ---------------------------------------------------------------------------------------------------

    def stop(self, machine: MachineId) -> None:
        instance = _existing(machine)
        answer = self._client.set_state(instance, "stopped")
        if not answer.is_success:
            raise Transient(f"Vast.ai does not stop instance {instance}: {answer.shown}")

    def start(self, machine: MachineId) -> None:
        """Raises the bid first when the market has moved above it, up to the cap of the offer it was rented by.

        A start that finds its GPU taken is queued by the service and would bill some day: it is taken back. Raises
        Indeterminate when that fails.
        """
        instance = _existing(machine)
        record = self._client.instance(instance)
        if machine_status(record) is not MachineStatus.STOPPED:
            return
        if record.is_bid:
            self._follow_the_market(record)
        answer = self._client.set_state(instance, "running")
        if answer.is_success:
            return
        try:
            self.stop(machine)
        except MachineGone:
            raise
        except CloudboothError as error:
            raise Indeterminate(
                f"instance {instance} may start later and bill: its queued start could not be taken back",
                "cloudbooth ps",
            ) from error
        raise NoCapacity(f"the host of instance {instance} has no free GPU: {answer.shown}", "cloudbooth gpus")

    def _follow_the_market(self, record: Instance) -> None:
        cap_usd = self._caps.cap_usd(record.id)
        if cap_usd is None or record.machine_id is None or record.dph_base is None:
            return
        found = self._client.search(asks.search_of_machine(record.machine_id))
        bid = raised_bid_usd(record.dph_base, market_usd(record, found), cap_usd)
        if bid is not None:
            self._client.change_bid(record.id, bid)

    # ---- HasLogs, HasBilling ---------------------------------------------------------------------------------------

    def logs(self, machine: MachineId) -> str:
        """The container's last 1000 lines. The service puts them up some seconds after they were asked for: a first
        call may find nothing, and a later one gets what the earlier asked for.
        """
        instance = _existing(machine)
        text = None
        if url := self._log_urls.pop(instance, ""):
            text = self._client.text_at(url)
        if text is None and (url := self._client.request_logs(instance, LOG_LINES)):
            text = self._client.text_at(url)
            if text is None:
                self._log_urls[instance] = url
        return text or ""

    def billed_usd(self, machine: MachineId) -> float | None:
        """The sum of its rows, each rounded by the service to a tenth of a cent."""
        instance = _number(machine)
        now = int(time.time())
        rows = self._client.charges(now - BILLING_DAYS * 86_400, now + 86_400)
        own = [charge.amount for charge in rows if charge.source == f"instance-{instance}"]
        return round(sum(own), 6) if own else None


def broken_terms(record: Instance, is_bid: bool, ticket: Ticket) -> str:
    """How an instance differs from what was agreed on; empty when it does not, or does not say."""
    if is_bid and record.is_bid is False:
        return "a bid was placed and the machine came on demand"
    if not is_bid and record.is_bid is True:
        return "the machine was asked for on demand and came interruptible"
    if record.dph_base is not None and record.dph_base > ticket.hourly_usd * PRICE_TOLERANCE:
        return f"the machine came at ${record.dph_base:.4f}/h instead of ${ticket.hourly_usd:.4f}/h"
    return ""


def _number(machine: MachineId) -> int | None:
    return int(machine) if machine.isdecimal() and machine.isascii() else None


def _existing(machine: MachineId) -> int:
    instance = _number(machine)
    if instance is None:
        raise MachineGone(f"Vast.ai knows no instance {machine}")
    return instance
