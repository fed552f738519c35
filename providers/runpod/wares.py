"""From what the service has to what we offer, and what an offer's id says. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from providers.api import GpuRequest, Offer
from providers.errors import NoCapacity
from providers.runpod import disks
from providers.runpod.boot import WORKDIR
from providers.runpod.records import GpuType
from providers.runpod.spot import SpotGpu

Cloud = Literal["SECURE", "COMMUNITY"]

PROVIDER = "runpod"
DATA_CENTERS_SHOWN = 3


@dataclass(frozen=True)
class Ware:
    """What an offer's id says."""

    gpu: str
    cloud: Cloud
    gpu_count: int
    bid_usd: float | None = None
    """For one GPU and hour; None: on demand."""
    data_center: str = ""
    """Where the network volume lies that the pod is to have; empty: a volume of its own, anywhere."""

    @property
    def id(self) -> str:
        bid = "" if self.bid_usd is None else f"/{self.bid_usd:.4f}"
        place = f"@{self.data_center}" if self.data_center else ""
        return f"{self.gpu}/{self.cloud}{place}/{self.gpu_count}{bid}"

    @classmethod
    def from_id(cls, text: str) -> Ware:
        """Raises NoCapacity for anything that `id` has not made."""
        parsed = re.fullmatch(r"(.+)/(SECURE|COMMUNITY)(?:@([^/@]+))?/(\d+)(?:/(\d+\.\d{4}))?", text)
        if parsed is None:
            raise NoCapacity(f"{text!r} is no offer of RunPod", "cloudbooth gpus")
        gpu, cloud, place, count, bid = parsed.groups()
        bid_usd = None if bid is None else float(bid)
        return cls(gpu, "SECURE" if cloud == "SECURE" else "COMMUNITY", int(count), bid_usd, place or "")


def clouds(want: GpuRequest) -> tuple[Cloud, ...]:
    """Where to look for `want`. Network volumes are there for the secure cloud alone."""
    return ("SECURE",) if want.secure_only or want.volume else ("SECURE", "COMMUNITY")


def on_demand_offer(gpu: GpuType, cloud: Cloud, want: GpuRequest, data_center: str = "") -> Offer | None:
    """None when it does not fit `want`, whatever it costs, or has no stock.

    `data_center` is that of the network volume of `want`, which no pod elsewhere can have.
    """
    secure = cloud == "SECURE"
    offered, price, most = (
        (gpu.secure, gpu.price.secure, gpu.max_count.secure)
        if secure
        else (gpu.community, gpu.price.community, gpu.max_count.community)
    )
    has_stock = offered and price > 0 and gpu.availability != "NONE" and most >= want.gpu_count
    if not has_stock or not _is_wanted(want, gpu):
        return None
    centers = [center.id for center in gpu.data_centers if center.availability != "NONE"]
    if data_center:
        centers = [center for center in centers if center == data_center]
        if not centers:
            return None
    more = ", …" if len(centers) > DATA_CENTERS_SHOWN else ""
    return _offer(
        Ware(gpu.id, cloud, want.gpu_count, data_center=data_center), gpu.name, gpu.memory, price, want,
        region=", ".join(centers[:DATA_CENTERS_SHOWN]) + more, stock=gpu.availability.lower(),
    )  # fmt: skip


def spot_offer(gpu: SpotGpu, cloud: Cloud, want: GpuRequest) -> Offer | None:
    """At the lowest bid that wins now; None when it does not fit `want` or there is none."""
    lowest = gpu.secure if cloud == "SECURE" else gpu.community
    if lowest is None or not lowest.bid_usd or not _is_wanted(want, gpu):
        return None
    bid_usd = math.ceil(round(lowest.bid_usd * 10_000, 3)) / 10_000  # as many places as an id keeps
    ware = Ware(gpu.id, cloud, want.gpu_count, bid_usd)
    return _offer(ware, gpu.name, gpu.memory, bid_usd, want, region="", stock=(lowest.stock or "").lower())


def _offer(ware: Ware, gpu: str, vram_gb: float, usd: float, want: GpuRequest, *, region: str, stock: str) -> Offer:
    """`usd` is for one GPU and hour."""
    volume_gb = 0 if ware.data_center else disks.volume_gb(want.disk_gb)
    return Offer(
        provider=PROVIDER,
        id=ware.id,
        gpu=gpu,
        gpu_count=ware.gpu_count,
        vram_gb=vram_gb,
        market=want.market,
        price_per_hour_usd=usd * ware.gpu_count + disks.running_usd_per_hour(disks.CONTAINER_DISK_GB, volume_gb),
        region=region or ware.cloud.lower(),
        stock=stock,
        secure=ware.cloud == "SECURE",
        workdir=WORKDIR,
        stopped_disk_per_day_usd=24 * disks.stopped_usd_per_hour(volume_gb),
    )


def _is_wanted(want: GpuRequest, gpu: GpuType | SpotGpu) -> bool:
    """NVIDIA's only: torch's CUDA builds run on no others. Whole words decide: `L4` is no L40S, `H100` is each."""
    if gpu.manufacturer.casefold() != "nvidia" or gpu.memory < want.min_vram_gb:
        return False
    names = [f" {' '.join(_words(name))} " for name in (gpu.name, gpu.id)]
    return not want.gpus or any(f" {' '.join(_words(wanted))} " in name for wanted in want.gpus for name in names)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.casefold())
