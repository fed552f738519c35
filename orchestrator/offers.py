"""Which offer to rent: a pure choice over what providers answer, with its reason as a sentence.

spec + offers + what became of earlier machines of the run  ->  Choice(offer, why)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.dataset.git_pictures import unpinned
from orchestrator.estimates import Measured, Quote, quote
from orchestrator.interruptions import Seen, rate_of
from orchestrator.picture_work import PictureWork
from orchestrator.ranges import usd
from orchestrator.single_file_base import is_single_file
from orchestrator.spec import RunSpec
from orchestrator.spec_data import GeneratedClassImages, PictureFolder
from orchestrator.workload import Workload, workload
from providers.api import GpuRequest, Market, Offer
from providers.errors import NoCapacity

MAX_SPOT_INTERRUPTIONS = 3
"""After so many spot machines taken away, `spot-then-on-demand` pays for one that stays."""

SAME_VRAM = 0.95
"""A card of 24 GB may be offered with 23.9, and estimates of need are no sharper than this."""

_TERMS = re.compile(r"(/\d+(\.\d+)?)+$")
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
    steps_done: int = 0
    """Up to the newest checkpoint that can be resumed from."""
    seen: Mapping[str, Seen] = field(default_factory=dict)
    """What spot machines have done, by provider: of this run, or of all that are remembered."""


NOTHING_RENTED = OfferHistory()


@dataclass(frozen=True)
class Choice:
    offer: Offer
    why: str
    """One sentence without a final period, for the plan and for the log of a recovery."""
    quote: Quote


def gpu_requests(
    spec: RunSpec, markets: Sequence[Market] = (), *, capped: bool = True, disk_gb: float | None = None
) -> tuple[GpuRequest, ...]:
    """What to ask the provider for, in order of preference: two for `spot-then-on-demand`, else one.

    Memory and disk are what the spec says, else what the run is estimated to need; who names GPUs is not second-guessed
    about their memory. The highest price goes along for spot alone, where a provider bids up to it; elsewhere an offer
    that is too dear makes a better error than none at all, as it does without `capped`. `markets` replace those of the
    spec, to compare with. `disk_gb`: of the run's pictures, where somebody has looked at them: see `machine_disk_gb`.
    """
    compute = spec.compute
    return tuple(
        GpuRequest(
            gpus=compute.gpu,
            min_vram_gb=least_vram_gb(spec),
            disk_gb=disk_gb or machine_disk_gb(spec),
            market=market,
            max_price_per_hour_usd=compute.max_price_per_hour if capped and market is Market.SPOT else None,
            secure_only=compute.trust == "secure",
            gpu_count=compute.gpu_count,
            volume=compute.volume,
        )
        for market in markets or markets_of(spec)
    )


def markets_of(spec: RunSpec) -> tuple[Market, ...]:
    """Where the spec allows to rent, in order of preference."""
    return _MARKETS[spec.compute.market]


def least_vram_gb(spec: RunSpec) -> float:
    return spec.compute.min_vram_gb or (0.0 if spec.compute.gpu else work_of(spec).needed_vram_gb)


def machine_disk_gb(spec: RunSpec, encoded_pixels: float = 0.0) -> float:
    """What to ask for: `compute.disk_gb`, else base, environment, checkpoints, exports, and what `encoded_pixels` of
    pictures in all their views become.
    """
    return spec.compute.disk_gb or work_of(spec, encoded_pixels=encoded_pixels).needed_disk_gb


def work_of(spec: RunSpec, steps_done: int = 0, encoded_pixels: float = 0.0) -> Workload:
    """The work of a spec as far as it can be told without looking at photos, or at their pixels alone."""
    train = replace(spec.train, steps=max(1, spec.train.steps - steps_done))
    sources = [pictures.source for pictures in spec.picture_sets if pictures.role == "class"]
    generate = sum(source.count for source in sources if isinstance(source, GeneratedClassImages))
    fetched = sum(wanted.count for wanted in unpinned(spec).values())
    class_images = generate + fetched + 20 * sum(isinstance(source, PictureFolder) for source in sources)
    return workload(
        spec.model.base,
        train,
        spec.output.formats,
        class_images=class_images,
        generate=generate,
        unpacked=is_single_file(spec.model.base),
        stored=spec.storage.url is not None,
        processes=spec.compute.gpu_count,
        encoded_pixels=encoded_pixels,
    )


def choose(
    spec: RunSpec,
    offers: Sequence[Offer],
    history: OfferHistory = NOTHING_RENTED,
    work: Workload | PictureWork | None = None,
    measured: Measured | None = None,
) -> Choice:
    """The best offer that fits: markets, then GPUs in the spec's order of preference, then the expected cost of the
    finished model.

    Pure. `work` is what is still to be done, by default what the spec tells of it. A quarantined offer is taken only
    when nothing else fits, because with some providers an offer names a kind of machine and not one host. Raises
    NoCapacity, with the nearest thing that could be had as its hint.
    """
    fitting = fitting_offers(spec, offers)
    failed = {without_terms(offer_id) for offer_id in history.quarantined}
    sound = [offer for offer in fitting if without_terms(offer.id) not in failed]
    left = sound or fitting
    again = "" if sound else "; every offer that fits has failed in this run, this one is tried again"
    work = work or work_of(spec, history.steps_done)
    best = {
        market: best_quote(spec, [offer for offer in left if offer.market is market], work, history, measured)
        for market in {offer.market for offer in left}
    }
    chosen, why = _market(spec, best, history)
    return Choice(chosen.offer, why + again, chosen)


def best_quote(
    spec: RunSpec,
    offers: Sequence[Offer],
    work: Workload | PictureWork,
    history: OfferHistory = NOTHING_RENTED,
    measured: Measured | None = None,
) -> Quote:
    """The best of offers of one market, of which there is at least one."""

    def quoted(offer: Offer) -> Quote:
        return quote(work, offer, measured, rate_of(offer, history.seen))

    def rank(priced: Quote) -> tuple[int, float, float]:
        offer = priced.offer
        return _preference(spec.compute.gpu, offer.gpu), priced.cost_usd.expected, offer.price_per_hour_usd

    return min((quoted(offer) for offer in offers), key=rank)


def fitting_offers(spec: RunSpec, offers: Sequence[Offer], markets: Sequence[Market] = ()) -> list[Offer]:
    """Those that trust, memory, market and price allow; one that costs nothing is what there is, and fits.

    `markets` replace those of the spec. Raises NoCapacity when there are none.
    """
    compute = spec.compute
    provider = "no configured provider" if compute.provider == "any" else compute.provider
    has_no = "has a" if compute.provider == "any" else "has no"
    need_gb = least_vram_gb(spec)
    wanted = " or ".join(compute.gpu) or (f"GPU with {need_gb:g} GB" if need_gb else "machine")
    markets = markets or markets_of(spec)
    known = [
        offer
        for offer in offers
        if offer.price_per_hour_usd == 0
        or (
            (offer.secure or compute.trust == "any")
            and offer.market in markets
            and (offer.vram_gb == 0 or offer.vram_gb >= SAME_VRAM * need_gb)
        )
    ]
    if not known:
        elsewhere = min(
            (offer for offer in offers if offer.market not in markets),
            key=lambda offer: offer.price_per_hour_usd,
            default=None,
        )
        hint = "ask for less with `--set compute.gpu=[]` and a smaller compute.min_vram_gb, or try another provider"
        if elsewhere is not None:
            market = elsewhere.market.value
            hint = f"{market} there is {elsewhere.gpu} at ${elsewhere.price_per_hour_usd:.2f}/h: `--{market}`"
        of_market = f"{markets[0].value} " if len(markets) == 1 and elsewhere is not None else ""
        raise NoCapacity(f"{provider} {has_no} {of_market}{wanted} to offer right now", hint)
    limit = compute.max_price_per_hour
    fitting = [offer for offer in known if limit is None or offer.price_per_hour_usd <= limit]
    if not fitting:
        cheapest = min(known, key=lambda offer: offer.price_per_hour_usd)
        raise NoCapacity(
            f"{provider} {has_no} {wanted} at or below ${limit:.2f}/h right now",
            f"the cheapest is {cheapest.gpu} at ${cheapest.price_per_hour_usd:.2f}/h: "
            f"`--set compute.max_price_per_hour={cheapest.price_per_hour_usd:g}`",
        )
    return fitting


# ---- steps ---------------------------------------------------------------------------------------------------------


def _market(spec: RunSpec, best: Mapping[Market, Quote], history: OfferHistory) -> tuple[Quote, str]:
    """The best offer of the market to rent in, and why that market."""
    spot, on_demand = best.get(Market.SPOT), best.get(Market.ON_DEMAND)
    only = on_demand or spot
    assert only is not None
    if spot is None or on_demand is None:
        if only.offer.price_per_hour_usd == 0:
            return only, "it costs nothing"
        if len(markets_of(spec)) == 1:
            return only, f"{only.offer.market.value}, as the spec says"
        return only, f"only {only.offer.market.value} is offered now"
    if history.interruptions >= MAX_SPOT_INTERRUPTIONS:
        return on_demand, f"{history.interruptions} spot machines were taken away, so on-demand from here on"
    spot_usd, on_demand_usd = spot.cost_usd.expected, on_demand.cost_usd.expected
    if on_demand_usd <= spot_usd:
        return on_demand, f"on-demand is expected to cost {usd(on_demand_usd)}, spot {usd(spot_usd)}"
    remaining = history.remaining_usd
    if remaining is not None and on_demand_usd <= remaining:
        step_s = spot.seconds_per_step.expected
        at_risk_s = spot.restart_s + spot.checkpoint_every * step_s + spot.checkpoint_s
        at_risk_usd = at_risk_s / 3600 * spot.offer.price_per_hour_usd
        if remaining - at_risk_usd < on_demand_usd:
            return on_demand, (
                f"{usd(remaining)} are left: after one more interruption (about {usd(at_risk_usd)}) they would "
                f"no longer pay the rest on demand (about {usd(on_demand_usd)})"
            )
    return spot, f"spot is expected to cost {usd(spot_usd)}, interruptions included, on-demand {usd(on_demand_usd)}"


def without_terms(offer_id: str) -> str:
    """Of the same host, or kind of machine, at any price: see `Offer.id`."""
    return _TERMS.sub("", offer_id)


def _preference(wanted: Sequence[str], gpu: str) -> int:
    for place, name in enumerate(wanted):
        if name.casefold() in gpu.casefold():
            return place
    return len(wanted)
