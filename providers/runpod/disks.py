"""What RunPod's disks cost. Pure; USD and gigabytes.

Rates as published on docs.runpod.io (pods, storage) in 2026: a container disk costs $0.10 a GB and month while the pod
runs and nothing while it is stopped, when it is wiped; a volume disk $0.10 while it runs and $0.20 while it is stopped.
A month is taken as 30 days, the dearest reading. A network volume of the standard tier costs $0.07 up to a terabyte and
$0.05 for what lies beyond, whether or not a pod has it; what the other tier costs is not published with them.
"""

from __future__ import annotations

import math

CONTAINER_DISK_GB = 20
"""For what the image's layers do not hold: packages, caches. All that matters lies on the volume."""
MIN_VOLUME_GB = 10
"""The service rents no smaller one."""
USUAL_VOLUME_GB = 40
"""Where the run leaves it open: a base of the SD kind, checkpoints of all its weights and their exports."""

_RUNNING_USD_PER_GB_MONTH = 0.10
_STOPPED_USD_PER_GB_MONTH = 0.20
_NETWORK_USD_PER_GB_MONTH = 0.07
_NETWORK_BEYOND_USD_PER_GB_MONTH = 0.05
_NETWORK_TIER_GB = 1000
_HOURS_A_MONTH = 30 * 24


def volume_gb(wanted_gb: float) -> int:
    """What is rented for it: whole gigabytes, and not fewer than the service lets. Zero: the usual."""
    if wanted_gb <= 0:
        return USUAL_VOLUME_GB
    return max(MIN_VOLUME_GB, math.ceil(wanted_gb))


def running_usd_per_hour(container_gb: float, volume_gb: float) -> float:
    return (container_gb + volume_gb) * _RUNNING_USD_PER_GB_MONTH / _HOURS_A_MONTH


def stopped_usd_per_hour(volume_gb: float) -> float:
    return volume_gb * _STOPPED_USD_PER_GB_MONTH / _HOURS_A_MONTH


def network_usd_per_month(size_gb: float) -> float:
    """Of the standard tier."""
    beyond_gb = max(0.0, size_gb - _NETWORK_TIER_GB)
    return (size_gb - beyond_gb) * _NETWORK_USD_PER_GB_MONTH + beyond_gb * _NETWORK_BEYOND_USD_PER_GB_MONTH
