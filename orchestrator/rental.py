"""What renting means for a run: the offers side by side, the ceiling, and what happens when things end. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.budget import rescue_usd, reserve_s, seconds_left
from orchestrator.estimates import Measured, Quote
from orchestrator.offers import Choice, OfferHistory, best_quote, fitting_offers, machine_disk_gb
from orchestrator.picture_work import PictureWork
from orchestrator.spec import Limits, RunSpec
from orchestrator.workload import Workload
from providers.api import HasStop, MachineProvider, Market, Offer, Volume
from providers.combined import CombinedProvider
from providers.errors import NoCapacity
from remote_trainer.wire import Decision


@dataclass(frozen=True)
class ProviderTerms:
    """What machines of an offer can do to themselves, as their provider says; whether it works is proven on them."""

    ends_itself: bool = False
    """The machine may give itself back with a key of its own."""
    stops_itself: bool = False
    """It may also stop and keep its disk."""
    proven_at: float | None = None
    """Unix seconds of the last fire drill, if a machine of this provider gave itself back in it."""
    can_be_stopped: bool = False
    """The laptop may stop and start it."""
    stopped_disk_may_vanish: bool = False


TermsOf = Callable[[Offer], ProviderTerms]


def terms_of(provider: MachineProvider, offer: Offer, proven_at: float | None = None) -> ProviderTerms:
    """No exchange with anybody."""
    calls = provider.self_release(offer)
    keeper = provider.member_for(offer) if isinstance(provider, CombinedProvider) else provider
    return ProviderTerms(
        ends_itself=calls is not None,
        stops_itself=calls is not None and calls.stop is not None,
        proven_at=proven_at,
        can_be_stopped=isinstance(provider, HasStop),
        stopped_disk_may_vanish=isinstance(keeper, HasStop) and keeper.stopped_disk_may_vanish,
    )


@dataclass(frozen=True)
class Rental:
    """A rented machine in the plan."""

    quote: Quote
    """Of the offer that was chosen."""
    alternatives: tuple[Quote, ...]
    """The best offer of every other market that was answered for, whether or not the spec allows it."""
    why: str
    """Why this one."""
    disk_gb: float
    needed_vram_gb: float
    """An estimate, whatever the spec asks for."""
    terms: ProviderTerms
    ceiling_usd: float
    """Nothing is rented beyond it, all attempts together."""
    reserve_s: float
    """Kept back from the time that the ceiling pays for, so that the result can come home."""
    rescue_usd: float
    """What a stopped disk costs for `limits.rescue_hours`, and one more start: kept back within the ceiling."""
    afterwards: tuple[tuple[str, str], ...]
    """(when, what happens), as sentences without a final period."""
    volume: Volume | None = None
    """The network volume that the work folder lies on; None: the machine's own disk."""

    @property
    def quotes(self) -> tuple[Quote, ...]:
        return (self.quote, *self.alternatives)


def plan_rental(
    spec: RunSpec,
    offers: Sequence[Offer],
    choice: Choice,
    work: Workload | PictureWork,
    terms: ProviderTerms,
    history: OfferHistory,
    measured: Measured | None = None,
    volume: Volume | None = None,
    disk_gb: float | None = None,
) -> Rental:
    """`offers` may hold some of markets that the spec rules out: they are compared with, and nothing else.

    `disk_gb`: as of `offers.gpu_requests`.
    """
    offer, limits = choice.offer, spec.limits
    kept_back_usd = 0.0
    if terms.can_be_stopped:
        kept_back_usd = rescue_usd(offer.price_per_hour_usd, offer.stopped_disk_per_day_usd, limits.rescue_hours)
    others = []
    for market in Market:
        offered = [other for other in offers if other.market is market is not offer.market]
        with contextlib.suppress(NoCapacity):
            others.append(best_quote(spec, fitting_offers(spec, offered, (market,)), work, history, measured))
    return Rental(
        quote=choice.quote,
        alternatives=tuple(others),
        why=choice.why,
        disk_gb=disk_gb or machine_disk_gb(spec),
        needed_vram_gb=work.needed_vram_gb,
        terms=terms,
        ceiling_usd=limits.max_cost_usd,
        reserve_s=reserve_s(seconds_left(limits.max_cost_usd, offer.price_per_hour_usd, [], 0.0, kept_back_usd)),
        rescue_usd=kept_back_usd,
        afterwards=what_happens_afterwards(offer, limits, terms, spec.storage.filled_by_machine, volume),
        volume=volume,
    )


def rental_decisions(spec: RunSpec, rental: Rental, work: Workload) -> list[Decision]:
    """What the spec left open about the machine, with the reasons."""
    offer = rental.quote.offer
    decisions = [Decision(f"rent {offer.gpu} of {offer.provider} ({offer.market.value})", rental.why)]
    if rental.volume is not None:
        why = (
            "they outlive the machine: what is found there is used, and the next run downloads and builds neither again"
        )
        decisions.append(Decision(f"base and environment lie on the volume {rental.volume.id}", why))
    elif spec.compute.disk_gb is None:
        decisions.append(Decision(f"compute.disk_gb = {rental.disk_gb:g}", work.disk_reason()))
    if not spec.compute.min_vram_gb and not spec.compute.gpu:
        what = f"method {work.train.method} at {work.train.resolution} pixels, batch {work.train.batch_size}"
        decisions.append(Decision(f"compute.min_vram_gb = {rental.needed_vram_gb:g}", f"estimate for {what}"))
    return decisions


def what_happens_afterwards(
    offer: Offer, limits: Limits, terms: ProviderTerms, store: str | None, volume: Volume | None = None
) -> tuple[tuple[str, str], ...]:
    """On finish, on error, and while the laptop is away; `store` is the address of the object storage, if any.

    With a `volume` nothing that is committed ends with the machine.
    """
    per_day = f"${offer.price_per_hour_usd * 24:.2f} a day"
    disk = f"${offer.stopped_disk_per_day_usd:.2f} a day"
    wait = f"waits {limits.wait_for_laptop_minutes:g} min for this laptop"
    left = "what was trained since the last checkpoint that came home: none leaves while it is away"
    if store is not None:
        left = f"what was trained since the last checkpoint that reached {store}"
    elif volume is not None:
        left = f"what was trained since the last checkpoint, each of which lies on {volume.id}"
    if store is not None and terms.ends_itself:
        away = f"trains on, puts the model into {store}, and the machine ends itself"
    elif volume is not None and terms.ends_itself:
        away = f"trains on; at its end the machine {wait} and ends itself: the next one finds the model on {volume.id}"
    elif terms.stops_itself:
        away = f"trains on; at its end the machine {wait}, then stops and keeps the only copy on its disk for {disk}"
    elif terms.ends_itself:
        away = f"trains on; at its end the machine {wait}, and ends itself at the latest when the ceiling is reached"
    else:
        away = f"trains on, but nothing on the machine can end it: it bills {per_day} until this laptop is back"
    afterwards = (
        ("finished", "the model comes home and is verified, then the machine is given back"),
        ("failed", "the newest checkpoint comes home, then the machine is given back"),
        ("detached", "the same, by a process in the background, while this laptop is awake"),
        ("laptop away", away),
        ("at risk then", left),
        ("at worst", _at_worst(offer, limits, terms, per_day)),
    )
    if volume is None:
        return afterwards
    bill = "at a price not known here" if volume.usd_per_month is None else f"for ${volume.usd_per_month:.2f} a month"
    return (*afterwards, ("later", f"the volume {volume.id} stays and bills on, {bill}, until you delete it"))


def _at_worst(offer: Offer, limits: Limits, terms: ProviderTerms, per_day: str) -> str:
    if not terms.ends_itself:
        return f"no ceiling holds while this laptop is away: {per_day}"
    if terms.proven_at is not None:
        day = datetime.fromtimestamp(terms.proven_at, UTC).date()
        return f"${limits.max_cost_usd:.2f}: a machine of {offer.provider} was seen to end itself on {day}"
    return (
        f"${limits.max_cost_usd:.2f}, if the machine may end itself: it tries that key before it trains, and says so; "
        f"one that may not costs up to {per_day} while this laptop is away; "
        f"`cloudbooth doctor --fire-drill {offer.provider}` proves it for cents"
    )
