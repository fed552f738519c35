"""What a run will take on an offer: time and money as ranges, phase by phase, interruptions included. Pure.

Nothing here is measured unless a `Measured` is given: expected values come from counted operations and published GPU
figures, and every range says how far reality has been seen to be off. docs/costs.md explains each number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.gpu_speed import GpuSpeed, gpu_speed
from orchestrator.interruptions import (
    ASSUMED_DOUBT,
    InterruptionRate,
    assumed_rate,
    best_interval_s,
    expected_time_s,
)
from orchestrator.picture_work import PictureWork
from orchestrator.ranges import Range, duration
from orchestrator.workload import ENVIRONMENT_GB, GB, Workload
from providers.api import Offer

DEFAULT_CHECKPOINT_EVERY = 100
"""Steps, where nothing interrupts a machine on purpose."""
NO_INTERRUPTIONS = "so many steps at most are lost with a machine that breaks"
"""The reason for the default."""
LEAST_CHECKPOINTS = 4
"""Of a run that may be interrupted: the best interval of a short run may be longer than the run, but `stop`, a crash
and the choice among stages of the model want checkpoints as well."""


ZERO = Range(0.0, 0.0, 0.0)
BOOT_S = Range(30, 150, 900)
"""Scheduling and pulling the image: minutes on a good host, 15 on a bad one."""
ENVIRONMENT_S = Range(20, 90, 600)
"""The image's torch reused and the rest of the lock installed; high: torch as well."""
UNKNOWN_MBPS = Range(2000, 400, 100)
"""Into a machine whose provider states no figure; low time first."""
STATED_MBPS_SHARE = Range(1.0, 0.5, 0.15)
"""Of a stated bandwidth, what a download from the hub gets."""
LAPTOP_MBPS = Range(200, 40, 8)
"""Between machine and laptop, either way."""
STORE_MBPS = 200.0
"""From a machine into object storage."""
LOAD_S = Range(8, 20, 60)
"""Imports and weights from disk into memory, once per machine."""
DISK_GB_PER_S = Range(2.0, 0.7, 0.15)
CAPTION_S = Range(0.05, 0.3, 1.5)
"""Of one picture by the captioner on a GPU, eight at a time: a guess."""
CHECKPOINT_FIXED_S = 1.0
"""Hashing, fsync and renaming of a small checkpoint."""
VERIFY_S = Range(10, 30, 120)
"""Loading every export back and comparing it."""
STEP_OVERHEAD_S = 0.06
"""Of one forward and backward pass, whatever its size: kernels are launched one by one from Python."""
COMPUTE_SHARE = 0.35
"""Of the published TFLOPS, what eager PyTorch gets from convolutions and attention."""
TRAFFIC_GB = 30.0
"""Moved between GPU memory and its cores by forward and backward of one picture of 512×512 pixels."""
STEP_DOUBT = Range(0.6, 1.0, 2.2)
"""Published step times of other trainers on the same GPUs lie within these factors."""
UNKNOWN_GPU_DOUBT = Range(0.2, 1.0, 4.0)
MEASURED_DOUBT = Range(0.85, 1.0, 1.2)

Measured = Mapping[str, float]
"""Pictures a second of training on a GPU, by `Offer.gpu`: seen in earlier runs of the same kind."""


@dataclass(frozen=True)
class Phase:
    name: str
    seconds: Range


@dataclass(frozen=True)
class Quote:
    """An offer with what the run is expected to take on it."""

    offer: Offer
    seconds_per_step: Range
    phases: tuple[Phase, ...]
    """Undisturbed, in order, for one machine."""
    checkpoint_every: int
    """Steps."""
    interval_reason: str
    checkpoint_s: float
    """Training pauses for so long at each."""
    restart_s: float
    """From the loss of a machine until another has caught up with the newest checkpoint that had come home."""
    interruption_rate: InterruptionRate
    interruptions: float
    """How many to expect."""
    duration_s: Range
    """With interruptions, from `create` to the machine's release."""
    cost_usd: Range
    """Time at the offer's price, and its traffic."""
    traffic_usd: float
    """The part of `cost_usd` that is billed for bytes."""
    is_measured: bool
    """The speed was seen in an earlier run; otherwise it is an estimate."""


def quote(
    work: Workload | PictureWork, offer: Offer, measured: Measured | None = None, rate: InterruptionRate | None = None
) -> Quote:
    """What `work` takes on `offer`. `rate` replaces the assumption about its market.

    `work.train.checkpoint_every` holds when it is set; None is decided here, by `best_interval_s`.
    """
    rate = rate or assumed_rate(offer)
    speed = gpu_speed(offer.gpu)
    if isinstance(work, PictureWork):
        return _quote_pictures(work, offer, speed, rate)
    per_step, is_measured = seconds_per_step(work, offer.gpu, measured or {})
    checkpoint_s = _checkpoint_s(work, speed)
    lag_s = work.checkpoint_gb * 8000 / (STORE_MBPS if work.stored else LAPTOP_MBPS.expected)
    best, reason = _interval(work, per_step.expected, checkpoint_s, lag_s, rate)
    every = min(work.train.checkpoint_every or best, work.train.steps)
    before = _before_training(work, offer, speed)
    captions = _captions(work, offer)
    training = [
        Phase("train", per_step * work.train.steps),
        Phase("checkpoints", _spread(checkpoint_s * math.ceil(work.train.steps / every), 0.5, 3)),
        Phase("pictures", _gpu_s(work.picture_tflop * work.pictures_made, speed)),
    ]
    after = [
        Phase("export", VERIFY_S + _at(work.export_gb, DISK_GB_PER_S)),
        Phase("bring home", _mbps(work.export_gb, LAPTOP_MBPS)),
    ]
    phases = (*before, *captions, *training, *after)
    undisturbed = _sum(phases)
    restart = _sum(before)
    repeated = _interrupted(per_step * work.train.steps, per_step.expected * every, checkpoint_s, restart, lag_s, rate)
    duration = undisturbed + repeated
    down_gb = ENVIRONMENT_GB + work.family.base_gb + work.carried_gb + work.captioner_gb
    traffic_usd = (
        down_gb * offer.download_usd_per_gb
        + (work.export_gb + work.checkpoint_gb * math.ceil(work.train.steps / every)) * offer.upload_usd_per_gb
    )
    per_second = offer.price_per_hour_usd / 3600
    return Quote(
        offer=offer,
        seconds_per_step=per_step,
        phases=phases,
        checkpoint_every=every,
        interval_reason=reason,
        checkpoint_s=checkpoint_s,
        restart_s=restart.expected + lag_s,
        interruption_rate=rate,
        interruptions=rate.per_hour * duration.expected / 3600,
        duration_s=duration,
        cost_usd=duration * per_second + Range(traffic_usd, traffic_usd, traffic_usd),
        traffic_usd=traffic_usd,
        is_measured=is_measured,
    )


def _quote_pictures(work: PictureWork, offer: Offer, speed: GpuSpeed, rate: InterruptionRate) -> Quote:
    """Nothing is kept of pictures that an interruption has met: all are made again."""
    before = [*_until_software(), _base_phase(work.base_gb, work.carried_gb, offer)]
    before += [Phase("model", _mbps(work.model_gb, LAPTOP_MBPS)), Phase("load", LOAD_S)]
    drawing = _gpu_s(work.draw_tflop, speed) + _spread(STEP_OVERHEAD_S * work.pictures * work.steps, 0.5, 2)
    phases = (*before, Phase("pictures", drawing), Phase("bring home", _mbps(work.result_gb, LAPTOP_MBPS)))
    restart = _sum(before)
    duration = _sum(phases) + _interrupted(drawing, drawing.expected, 0.0, restart, 0.0, rate)
    received_gb = ENVIRONMENT_GB + work.base_gb + work.model_gb
    traffic_usd = received_gb * offer.download_usd_per_gb + work.result_gb * offer.upload_usd_per_gb
    return Quote(
        offer=offer,
        seconds_per_step=drawing * (1 / (work.pictures * work.steps)),
        phases=phases,
        checkpoint_every=1,
        interval_reason="pictures have no checkpoints",
        checkpoint_s=0.0,
        restart_s=restart.expected,
        interruption_rate=rate,
        interruptions=rate.per_hour * duration.expected / 3600,
        duration_s=duration,
        cost_usd=duration * (offer.price_per_hour_usd / 3600) + Range(traffic_usd, traffic_usd, traffic_usd),
        traffic_usd=traffic_usd,
        is_measured=False,
    )


def seconds_per_step(work: Workload, gpu: str, measured: Measured) -> tuple[Range, bool]:
    """And whether it rests on a measurement.

    Estimate: launch overhead + operations / usable TFLOPS + memory traffic / bandwidth, added because eager PyTorch
    overlaps little of them; a full run also reads and writes all weights, gradients and optimizer states.
    """
    seen = measured.get(gpu)
    if seen:
        return MEASURED_DOUBT * (work.pictures_per_step / seen), True
    speed = gpu_speed(gpu)
    passes = work.train.gradient_accumulation
    moved_gb = TRAFFIC_GB * work.area * work.pictures_per_step
    moved_gb += work.trained_parameters * 28 / GB  # AdamW reads weight, gradient and two states, and writes three
    seconds = (
        STEP_OVERHEAD_S * passes + work.step_tflop / (COMPUTE_SHARE * speed.tflops) + moved_gb / speed.memory_gb_per_s
    )
    return (STEP_DOUBT if speed.known else UNKNOWN_GPU_DOUBT) * seconds, False


# ---- steps ---------------------------------------------------------------------------------------------------------


def _before_training(work: Workload, offer: Offer, speed: GpuSpeed) -> list[Phase]:
    """Everything that every machine of the run has to do before its first step."""
    return [
        *_until_software(),
        _base_phase(work.family.base_gb, work.carried_gb, offer),
        Phase("load and encode", LOAD_S + _gpu_s(work.family.encode_tflop * work.area * work.photos, speed)),
    ]


def _until_software() -> list[Phase]:
    return [Phase("boot", BOOT_S), Phase("environment", ENVIRONMENT_S)]


def _base_phase(base_gb: float, carried_gb: float, offer: Offer) -> Phase:
    time = _mbps(carried_gb, LAPTOP_MBPS) if carried_gb else _mbps(base_gb, _download_mbps(offer))
    return Phase("base", time)


def _captions(work: Workload, offer: Offer) -> list[Phase]:
    """Once in a run: a machine that takes over gets the captions of the first."""
    if not work.captions:
        return []
    return [Phase("captions", _mbps(work.captioner_gb, _download_mbps(offer)) + LOAD_S + CAPTION_S * work.captions)]


def _download_mbps(offer: Offer) -> Range:
    """From the hub."""
    stated = offer.download_mbps
    return STATED_MBPS_SHARE * stated if stated else UNKNOWN_MBPS


def _checkpoint_s(work: Workload, speed: GpuSpeed) -> float:
    """The evaluation before it, and the write."""
    evaluation = _gpu_s(work.evaluation_tflop, speed).expected
    return CHECKPOINT_FIXED_S + evaluation + work.checkpoint_gb / DISK_GB_PER_S.expected


def _interval(
    work: Workload, step_s: float, checkpoint_s: float, lag_s: float, rate: InterruptionRate
) -> tuple[int, str]:
    """The best interval in round steps, and why: no shorter than a checkpoint takes to leave the machine, since only
    then it counts, and no longer than leaves a run LEAST_CHECKPOINTS.
    """
    steps = work.train.steps
    if rate.per_hour <= 0:
        return min(DEFAULT_CHECKPOINT_EVERY, steps), NO_INTERRUPTIONS
    seen = "is assumed" if rate.source == "assumed" else f"({rate.source})"
    reason = (
        f"one interruption in {duration(rate.mean_hours * 3600)} {seen}, a checkpoint takes {duration(checkpoint_s)} "
        "(Young 1974, Daly 2006)"
    )
    best_s = best_interval_s(checkpoint_s, rate.per_hour)
    if lag_s > best_s:
        best_s, reason = (
            lag_s,
            f"a checkpoint of {work.checkpoint_gb:.2g} GB takes {duration(lag_s)} to leave the machine",
        )
    best, longest = best_s / step_s, max(DEFAULT_CHECKPOINT_EVERY, steps // LEAST_CHECKPOINTS)
    if best > longest:
        best, reason = longest, f"a few in every run; the risk alone would allow {_round(best)}: {reason}"
    return max(1, min(_round(best), steps)), reason


def _round(steps: float) -> int:
    """To two digits."""
    return int(round(steps, 1 - math.floor(math.log10(steps)))) if steps >= 10 else round(steps)


def _interrupted(
    work_s: Range, interval_s: float, checkpoint_s: float, restart: Range, lag_s: float, rate: InterruptionRate
) -> Range:
    """What interruptions add to undisturbed work; the rate is doubted by ASSUMED_DOUBT unless it was seen."""
    doubt = ASSUMED_DOUBT if rate.source == "assumed" else 1.5

    def added(work: float, restart_s: float, per_hour: float) -> float:
        undisturbed = expected_time_s(work, interval_s, checkpoint_s, 0, 0)
        return expected_time_s(work, interval_s, checkpoint_s, restart_s + lag_s, per_hour) - undisturbed

    return Range(
        added(work_s.low, restart.low, rate.per_hour / doubt),
        added(work_s.expected, restart.expected, rate.per_hour),
        added(work_s.high, restart.high, rate.per_hour * doubt),
    )


def _gpu_s(tflop: float, speed: GpuSpeed) -> Range:
    doubt = STEP_DOUBT if speed.known else UNKNOWN_GPU_DOUBT
    return doubt * (tflop / (COMPUTE_SHARE * speed.tflops))


def _mbps(gb: float, mbps: Range) -> Range:
    return Range(gb * 8000 / mbps.low, gb * 8000 / mbps.expected, gb * 8000 / mbps.high)


def _at(gb: float, gb_per_s: Range) -> Range:
    return Range(gb / gb_per_s.low, gb / gb_per_s.expected, gb / gb_per_s.high)


def _spread(seconds: float, low: float, high: float) -> Range:
    return Range(seconds * low, seconds, seconds * high)


def _sum(phases: tuple[Phase, ...] | list[Phase]) -> Range:
    return sum((phase.seconds for phase in phases), ZERO)
