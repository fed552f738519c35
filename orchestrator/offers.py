"""Which offer to rent: a pure choice over what providers answer, with its reason as a sentence.

spec + offers + what became of earlier machines of the run  ->  Choice(offer, why)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.spec import Compute, RunSpec
from providers.api import GpuRequest, Market, Offer
from providers.errors import NoCapacity

MAX_SPOT_INTERRUPTIONS = 3
"""After so many spot machines taken away, `spot-then-on-demand` pays for one that stays."""

_MARKETS = {
    "on-demand": (Market.ON_DEMAND,),
    "spot": (Market.SPOT,),
    "spot-then-on-demand": (Market.SPOT, Market.ON_DEMAND),
}


@dataclass(frozen=True)
class OfferHistory:
    """What became of the machines of this run so far, all attempts counted."""

    interruptions: int = 0
    """Spot machines that were taken away."""
    quarantined: frozenset[str] = frozenset()
    """`Offer.id`s whose machine failed in this run: never answered, broken, too slow."""
    remaining_usd: float | None = None
    """What may still be spent on the run; None: nothing was spent yet."""


@dataclass(frozen=True)
class Choice:
    offer: Offer
    why: str
    """One sentence without a final period, for the plan and for the log of a recovery."""


def gpu_requests(spec: RunSpec) -> tuple[GpuRequest, ...]:
    """What to ask the provider for, in order of preference: two for `spot-then-on-demand`, else one."""
    compute = spec.compute
    return tuple(
        GpuRequest(
            gpus=compute.gpu,
            min_vram_gb=compute.min_vram_gb,
            disk_gb=compute.disk_gb or 0.0,
            market=market,
            max_price_per_hour_usd=None,  # an offer that is too dear makes a better error than none at all
            secure_only=compute.trust == "secure",
        )
        for market in _MARKETS[compute.market]
    )


def choose(spec: RunSpec, offers: Sequence[Offer], history: OfferHistory = OfferHistory()) -> Choice:
    """The best offer that fits: markets, then GPUs in the spec's order of preference, then price.

    Pure. A quarantined offer is taken only when nothing else fits, because with some providers an offer names a kind of
    machine and not one host. Raises NoCapacity, with the nearest thing that could be had as its hint.
    """
    fitting = _fitting(spec.compute, offers)
    sound = [offer for offer in fitting if offer.id not in history.quarantined]
    left = sound or fitting
    market, why_market = _market(spec.compute, left, history)
    in_market = [offer for offer in left if offer.market is market] if market is not None else left

    def rank(offer: Offer) -> tuple[int, float]:
        return _preference(spec.compute.gpu, offer.gpu), offer.price_per_hour_usd

    best = min(in_market, key=rank)
    again = "" if sound else "; every offer that fits has failed in this run, this one is tried again"
    return Choice(best, why_market + again)


# ---- steps ---------------------------------------------------------------------------------------------------------


def _fitting(compute: Compute, offers: Sequence[Offer]) -> list[Offer]:
    wanted = " or ".join(compute.gpu) or (f"GPU with {compute.min_vram_gb:g} GB" if compute.min_vram_gb else "machine")
    known = [offer for offer in offers if offer.secure or compute.trust == "any"]
    if not known:
        raise NoCapacity(
            f"{compute.provider} has no {wanted} to offer right now",
            "ask for less with `--set compute.gpu=[]` and a smaller compute.min_vram_gb, or try another provider",
        )
    limit = compute.max_price_per_hour
    fitting = [offer for offer in known if limit is None or offer.price_per_hour_usd <= limit]
    if not fitting:
        cheapest = min(known, key=lambda offer: offer.price_per_hour_usd)
        raise NoCapacity(
            f"{compute.provider} has no {wanted} at or below ${limit:.2f}/h right now",
            f"the cheapest is {cheapest.gpu} at ${cheapest.price_per_hour_usd:.2f}/h: "
            f"`--set compute.max_price_per_hour={cheapest.price_per_hour_usd:g}`",
        )
    return fitting


def _market(compute: Compute, offers: Sequence[Offer], history: OfferHistory) -> tuple[Market | None, str]:
    """The market to rent in, None when it makes no difference, and why."""
    offered = {offer.market for offer in offers}
    asked = [market for market in _MARKETS[compute.market] if market in offered]
    if not asked:
        return None, f"what {compute.provider} offers"
    if len(asked) == 1:
        only = asked[0]
        return only, "as the spec says" if len(_MARKETS[compute.market]) == 1 else f"only {only.value} is offered now"
    if history.interruptions >= MAX_SPOT_INTERRUPTIONS:
        return Market.ON_DEMAND, f"{history.interruptions} spot machines were taken away, so on-demand from here on"
    return Market.SPOT, "spot first, as the spec says"


def _preference(wanted: Sequence[str], gpu: str) -> int:
    for place, name in enumerate(wanted):
        if name.casefold() in gpu.casefold():
            return place
    return len(wanted)
