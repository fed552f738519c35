"""From a request to a search, and from what was found to offers. Pure.

The service does not always apply numeric filters, so everything that a search asks for is looked at again here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from providers.api import GpuRequest, Market, Offer
from providers.errors import NoCapacity
from providers.vast.records import Ask

PAGE = 64
"""More offers than this are never in one answer, whatever the limit says."""
WORKDIR = "/workspace/cloudbooth"
"""On the container's disk, which a stop keeps and a destruction does not."""
MIN_DISK_GB = 8
USUAL_DISK_GB = 40
"""Where the request leaves it open: a base model, the environment, and a few checkpoints."""
MIN_RELIABILITY = 0.95
MIN_DOWNLOAD_MBPS = 100.0
MIN_CUDA = 12.4
"""A driver that runs the CUDA of the images we start with and of the torch builds the environment would install."""
MIN_COMPUTE_CAP = 750
"""Turing. Present torch builds leave older GPUs out."""
MIN_DURATION_S = 86_400.0
"""A machine whose owner takes it away sooner would end a run."""
HOURS_A_MONTH = 720
BID_MARGIN = 1.1
"""Over the lowest bid that runs now: at that bid itself the next bidder of a cent more would interrupt the run."""
BID_STEP_USD = 0.0001
GPU_NAMES = (
    "RTX 3060", "RTX 3060 Ti", "RTX 3070", "RTX 3080", "RTX 3080 Ti", "RTX 3090", "RTX 3090 Ti", "RTX 4060 Ti",
    "RTX 4070", "RTX 4070 Ti", "RTX 4070S", "RTX 4070S Ti", "RTX 4080", "RTX 4080S", "RTX 4090", "RTX 4090D",
    "RTX 5060 Ti", "RTX 5070", "RTX 5070 Ti", "RTX 5080", "RTX 5090", "RTX A4000", "RTX A5000", "RTX A6000",
    "RTX 4000Ada", "RTX 5000Ada", "RTX 6000Ada", "RTX PRO 6000 S", "RTX PRO 6000 WS", "A10", "A40", "A100 PCIE",
    "A100 SXM4", "A100X", "H100 NVL", "H100 PCIE", "H100 SXM", "H200", "H200 NVL", "B200", "L4", "L40", "L40S",
    "Tesla T4", "Tesla V100", "Q RTX 6000", "Q RTX 8000",
)  # fmt: skip
"""As Vast.ai spells them. Only to narrow a search: a word that fits none of them is looked for among all offers."""


@dataclass(frozen=True)
class Ticket:
    """What renting needs to know, carried by `Offer.id`."""

    ask_id: int
    hourly_usd: float
    """The bid, or the price on demand; without disk."""
    cap_usd: float | None = None
    """What a bid may be raised to later; None: not at all."""

    def __str__(self) -> str:
        cap = "" if self.cap_usd is None else f"/{self.cap_usd:.6g}"
        return f"{self.ask_id}/{self.hourly_usd:.6g}{cap}"

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Raises NoCapacity for what `str` has not written: nothing can be rented by it."""
        try:
            ask, hourly, *cap = text.split("/")
            if len(cap) > 1:
                raise ValueError(text)
            return cls(int(ask), float(hourly), float(cap[0]) if cap else None)
        except ValueError:
            raise NoCapacity(f"{text!r} is no offer of Vast.ai", "cloudbooth gpus") from None


def disk_gb(wanted_gb: float) -> int:
    """What is rented for it: whole gigabytes, at least as many as the service lets."""
    return max(MIN_DISK_GB, math.ceil(wanted_gb or USUAL_DISK_GB))


def search(want: GpuRequest, at_least_usd: float | None = None) -> Mapping[str, object]:
    """The body of `POST /bundles/`; `at_least_usd` an hour turns the page."""
    body: dict[str, object] = {
        "type": "bid" if want.market is Market.SPOT else "ondemand",
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "num_gpus": {"eq": want.gpu_count},
        "reliability": {"gte": MIN_RELIABILITY},
        "direct_port_count": {"gte": 1},
        "inet_down": {"gte": MIN_DOWNLOAD_MBPS},
        "cuda_max_good": {"gte": MIN_CUDA},
        "compute_cap": {"gte": MIN_COMPUTE_CAP},
        "disk_space": {"gte": disk_gb(want.disk_gb)},
        "duration": {"gte": MIN_DURATION_S},
        "allocated_storage": disk_gb(want.disk_gb),
        "order": [["dph_total", "asc"], ["reliability", "desc"]],
        "limit": PAGE,
    }
    if want.min_vram_gb > 0:
        body["gpu_ram"] = {"gte": (want.min_vram_gb - 0.5) * 1024}  # a card of 24 GB has 24564 MB
    if names := _service_names(want.gpus):
        body["gpu_name"] = {"in": names}
    price: dict[str, float] = {}
    if want.max_price_per_hour_usd is not None:
        price["lte"] = want.max_price_per_hour_usd
    if at_least_usd is not None:
        price["gte"] = at_least_usd
    if price:
        body["dph_total"] = price
    if want.secure_only:
        body["datacenter"] = {"eq": True}
    return body


def search_of_machine(machine_id: int) -> Mapping[str, object]:
    """What bids one machine takes now."""
    return {
        "type": "bid",
        "machine_id": {"eq": machine_id},
        "rentable": {"eq": True},
        "order": [["dph_total", "asc"], ["reliability", "desc"]],
        "limit": PAGE,
    }


def next_page_from_usd(page: Iterable[Ask], want: GpuRequest) -> float:
    """The price at which a full page ended, in the service's own figures: ours, rounded, could skip an offer."""
    return max(_sorted_by_usd(ask, want) for ask in page)


def offers(asks: Iterable[Ask], want: GpuRequest, provider: str) -> list[Offer]:
    """Those that fit, cheapest first."""
    found = [offer for ask in asks if _fits(ask, want) and (offer := _offer(ask, want, provider)) is not None]
    return sorted(found, key=lambda offer: (offer.price_per_hour_usd, offer.id))


def bid_usd(min_bid_usd: float, cap_usd: float | None) -> float | None:
    """With a margin over the market, below the cap; None when the market itself is above it."""
    bid = math.ceil(min_bid_usd * BID_MARGIN / BID_STEP_USD) * BID_STEP_USD
    if cap_usd is not None and bid > cap_usd:
        bid = math.floor(cap_usd / BID_STEP_USD) * BID_STEP_USD
    bid = round(bid, 4)
    return bid if bid >= min_bid_usd and bid >= 0.001 else None


def _sorted_by_usd(ask: Ask, want: GpuRequest) -> float:
    if ask.dph_total is not None:
        return ask.dph_total
    base = ask.min_bid if want.market is Market.SPOT and ask.min_bid is not None else ask.dph_base
    return base + _disk_hour_usd(ask, want)


def _offer(ask: Ask, want: GpuRequest, provider: str) -> Offer | None:
    disk_hour = _disk_hour_usd(ask, want)
    limit = want.max_price_per_hour_usd
    if want.market is Market.SPOT:
        cap = None if limit is None else limit - disk_hour
        hourly = None if ask.min_bid is None else bid_usd(ask.min_bid, cap)
        if hourly is None:
            return None
        ticket = Ticket(ask.ask_id, hourly, cap)
    else:
        ticket = Ticket(ask.ask_id, ask.dph_base)
    price = round(ticket.hourly_usd + disk_hour, 6)
    if limit is not None and price > limit:
        return None
    return Offer(
        provider=provider,
        id=str(ticket),
        gpu=ask.gpu_name,
        gpu_count=ask.num_gpus,
        vram_gb=_vram_gb(ask),
        market=want.market,
        price_per_hour_usd=price,
        region=ask.geolocation or "",
        stock="1",
        secure=_is_secure(ask),
        stopped_disk_per_day_usd=disk_hour * 24,
        upload_usd_per_gb=ask.inet_up_cost or 0.0,
        download_usd_per_gb=ask.inet_down_cost or 0.0,
        download_mbps=ask.inet_down,
        reliability=_reliability(ask),
        workdir=WORKDIR,
    )


def _fits(ask: Ask, want: GpuRequest) -> bool:
    reliability = _reliability(ask)
    return (
        ask.rentable is not False
        and ask.rented is not True
        and ask.external is not True
        and ask.verification in (None, "verified")
        and ask.num_gpus == want.gpu_count
        and _vram_gb(ask) >= want.min_vram_gb
        and (not want.gpus or any(_plain(word) in _plain(ask.gpu_name) for word in want.gpus))
        and (reliability is None or reliability >= MIN_RELIABILITY)
        and (ask.direct_port_count or 0) >= 1
        and (ask.inet_down or 0.0) >= MIN_DOWNLOAD_MBPS
        and (ask.cuda_max_good or 0.0) >= MIN_CUDA
        and (ask.compute_cap or 0) >= MIN_COMPUTE_CAP
        and (ask.disk_space or 0.0) >= disk_gb(want.disk_gb)
        and (ask.duration is None or ask.duration >= MIN_DURATION_S)
        and (not want.secure_only or _is_secure(ask))
    )


def _is_secure(ask: Ask) -> bool:
    """In a verified data center. What is not stated is not assumed."""
    return ask.verification == "verified" and (ask.hosting_type or 0) > 0


def _vram_gb(ask: Ask) -> float:
    """The figure on the box: 24 for 24564 MB."""
    return float(round(ask.gpu_ram / 1024))


def _reliability(ask: Ask) -> float | None:
    return ask.reliability2 if ask.reliability is None else ask.reliability


def _disk_hour_usd(ask: Ask, want: GpuRequest) -> float:
    return disk_gb(want.disk_gb) * (ask.storage_cost or 0.0) / HOURS_A_MONTH


def _service_names(words: Iterable[str]) -> list[str]:
    """Empty when a word fits no known name: then the search must not be narrowed."""
    found: set[str] = set()
    for word in words:
        fitting = {name for name in GPU_NAMES if _plain(word) in _plain(name)}
        if not fitting:
            return []
        found |= fitting
    return sorted(found)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
