"""What Vast.ai answers, as far as we read it. Unknown fields are ignored; nearly every known one may be null."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Ask(BaseModel):
    """One offer of a search. Memory in MB, traffic in megabits a second, money in dollars."""

    model_config = ConfigDict(frozen=True)

    id: int
    ask_contract_id: int | None = None
    """The number to rent by; `id` where it is missing."""
    machine_id: int | None = None
    gpu_name: str
    num_gpus: int
    gpu_ram: float
    dph_base: float
    """An hour on demand, without disk."""
    dph_total: float | None = None
    """What the service sorts by: on demand or lowest bid, with the disk that was asked for."""
    min_bid: float | None = None
    """The lowest bid that would run now. A figure for the whole machine; seen for single GPUs only."""
    storage_cost: float | None = None
    """A GB for a month of 30 days."""
    inet_up_cost: float | None = None
    inet_down_cost: float | None = None
    """A GB."""
    inet_down: float | None = None
    reliability: float | None = None
    reliability2: float | None = None
    verification: str | None = None
    hosting_type: int | None = None
    """0 for somebody's own machine, above it for a data center."""
    rentable: bool | None = None
    rented: bool | None = None
    external: bool | None = None
    direct_port_count: int | None = None
    cuda_max_good: float | None = None
    compute_cap: int | None = None
    """Times 100: 890 is 8.9."""
    disk_space: float | None = None
    """GB free to be rented."""
    duration: float | None = None
    """Seconds until the machine leaves the market."""
    geolocation: str | None = None

    @property
    def ask_id(self) -> int:
        return self.id if self.ask_contract_id is None else self.ask_contract_id


class InstancePrice(BaseModel):
    """What an instance bills in its present state, per hour."""

    model_config = ConfigDict(frozen=True)

    gpuCostPerHour: float | None = None  # noqa: N815  # the service's spelling
    diskHour: float | None = None  # noqa: N815


class Instance(BaseModel):
    """A rented container."""

    model_config = ConfigDict(frozen=True)

    id: int
    label: str | None = None
    machine_id: int | None = None
    is_bid: bool | None = None
    dph_base: float | None = None
    """The bid of an interruptible instance, else the price on demand; without disk."""
    dph_total: float | None = None
    storage_total_cost: float | None = None
    """An hour of its disk."""
    instance: InstancePrice | None = None
    actual_status: str | None = None
    intended_status: str | None = None
    cur_state: str | None = None
    next_state: str | None = None
    status_msg: str | None = None
    public_ipaddr: str | None = None
    ports: Any = None
    """As docker shows them, from some time after the start; the look at a single instance may leave them out."""


class Charge(BaseModel):
    """What one contract has cost within the days that were asked for."""

    model_config = ConfigDict(frozen=True)

    source: str | None = None
    """`instance-<id>`"""
    amount: float
