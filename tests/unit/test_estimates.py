from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import UsageError
from orchestrator.estimates import DEFAULT_CHECKPOINT_EVERY, quote, seconds_per_step
from orchestrator.families import family_of, require_ways
from orchestrator.gpu_speed import UNKNOWN_GPU, gpu_speed
from orchestrator.workload import Workload, workload
from providers.api import Market, Offer
from remote_trainer.wire import ExportFormat, Method, TrainSpec

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
ON_DEMAND = Offer("cloud", "1", "NVIDIA GeForce RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.5)
SPOT = dataclasses.replace(ON_DEMAND, market=Market.SPOT, price_per_hour_usd=0.25)


def work(method: str = "lora", base: str = BASE, **train: Any) -> Workload:
    return workload(base, TrainSpec(method=method, **train), ())  # type: ignore[arg-type]


# ---- GPUs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("RTX_4090", "RTX 4090"),
        ("RTX 6000Ada", "NVIDIA RTX 6000 Ada Generation"),
        ("A100 SXM4", "A100 SXM"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("Tesla T4", "T4"),
    ],
)
def test_a_gpu_is_known_by_the_names_that_providers_use(name: str, same_as: str) -> None:
    assert gpu_speed(name) == gpu_speed(same_as) != UNKNOWN_GPU


def test_a_longer_name_is_another_gpu() -> None:
    assert len({gpu_speed(name) for name in ("RTX 4070", "RTX 4070 Ti", "RTX 4070 Ti Super", "L4", "L40", "L40S")}) == 6


def test_an_unknown_gpu_has_the_widest_range() -> None:
    known, _ = seconds_per_step(work(), "RTX 4090", {})
    unknown, _ = seconds_per_step(work(), "Ascend 910", {})
    assert unknown.high / unknown.low > known.high / known.low


# ---- what a run needs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "family"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-xl"),
        ("owner/sdxl-turbo@main", "stable-diffusion-xl"),
        ("SG161222/RealVisXL_V4.0", "stable-diffusion-xl"),
        ("./bases/dreamshaper-xl/", "stable-diffusion-xl"),
        (BASE, "stable-diffusion"),
        ("owner/pixlr", "stable-diffusion"),
        ("sdxl-fans/v1-5", "stable-diffusion"),
        ("builtin:tiny", "builtin"),
        ("stabilityai/stable-diffusion-3.5-medium", "stable-diffusion-3"),
        ("stabilityai/stable-diffusion-3-medium-diffusers", "stable-diffusion-3"),
        ("stabilityai/stable-diffusion-3.5-large@main", "stable-diffusion-3-large"),
        ("black-forest-labs/FLUX.1-dev", "flux-1"),
        ("black-forest-labs/FLUX.2-klein-base-4B", "flux-2-klein-4b"),
        ("black-forest-labs/FLUX.2-klein-base-9B", "flux-2-klein-9b"),
        ("owner/fluxus-sd-15", "flux-1"),
        ("owner/not-sd-30", "stable-diffusion"),
        ("builtin:toybox", "toybox"),
    ],
)
def test_a_family_is_guessed_by_the_name_of_the_base(base: str, family: str) -> None:
    assert family_of(base).name == family


@pytest.mark.parametrize(
    ("base", "least_gb", "most_gb"),
    [
        ("stabilityai/stable-diffusion-3.5-medium", 12, 16),  # T5 and both CLIPs, which come before it, are larger
        ("stabilityai/stable-diffusion-3.5-large", 19, 24),
        ("black-forest-labs/FLUX.1-dev", 28, 32),
        ("black-forest-labs/FLUX.2-klein-base-4B", 10, 16),
        ("black-forest-labs/FLUX.2-klein-base-9B", 20, 24),
    ],
)
def test_adapters_of_large_families_at_1024_pixels_fit_into_the_usual_cards(
    base: str, least_gb: float, most_gb: float
) -> None:
    assert least_gb <= work("lora", base, resolution=1024).needed_vram_gb <= most_gb


@pytest.mark.parametrize(
    ("base", "pipeline", "method", "formats", "bucket", "problem"),
    [
        ("owner/pixels", "PixArtAlphaPipeline", "lora", (), (512, 512), "is a PixArtAlphaPipeline, which cannot"),
        ("owner/flux", "FluxPipeline", "full", (), (512, 512), "cannot be trained by the method full"),
        (
            "stabilityai/stable-diffusion-3.5-large", "StableDiffusion3Pipeline", "lora", ("single-file",), (512, 512),
            "cannot be exported as single-file",
        ),
        ("owner/flux", "FluxPipeline", "lora", (), (520, 512), "multiples of 16, not 520"),
        ("a/stable-diffusion-3.5-large", "", "lora", (), (1024, 3136), "places for 3072 pixels .* 1024×3136"),
        ("a/stable-diffusion-3.5-medium", "", "lora", (), (6208, 1024), "places for 6144 pixels"),
    ],
)  # fmt: skip
def test_what_a_family_has_no_way_to_do_is_refused_before_anything_is_rented(
    base: str, pipeline: str, method: Method, formats: tuple[ExportFormat, ...], bucket: tuple[int, int], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        require_ways(base, pipeline, TrainSpec(method=method), formats, [bucket])


def test_text_encoders_that_train_are_counted_where_they_can_and_refused_where_they_cannot() -> None:
    alone, both = work("full"), work("full", text_encoder_learning_rate=1e-6)
    assert both.trained_parameters - alone.trained_parameters == pytest.approx(123.1e6)
    assert both.needed_vram_gb > alone.needed_vram_gb
    with pytest.raises(UsageError, match="text encoders of the family flux-1 cannot be trained"):
        require_ways("owner/flux", "FluxPipeline", TrainSpec(text_encoder_learning_rate=1e-6), (), [])


def test_what_the_index_of_a_base_says_overrules_its_name() -> None:
    assert family_of("owner/photos", "StableDiffusionXLPipeline").name == "stable-diffusion-xl"
    assert family_of("owner/not-xl", "StableDiffusionPipeline").name == "stable-diffusion"


def test_an_adapter_of_sdxl_at_its_own_resolution_fits_into_24_gb() -> None:
    xl = work("lora", "stabilityai/stable-diffusion-xl-base-1.0", resolution=1024)
    assert 16 < xl.needed_vram_gb < 24
    assert xl.step_tflop == pytest.approx(14.19, rel=0.01)


def test_shards_need_less_of_every_gpu_the_more_there_are() -> None:
    xl, spec = "stabilityai/stable-diffusion-xl-base-1.0", TrainSpec(method="full", resolution=1024, fsdp=True)
    alone, two, four = (workload(xl, spec, (), processes=processes).needed_vram_gb for processes in (1, 2, 4))
    assert alone > 48 > two > 24 > four


def test_a_full_run_needs_more_memory_and_disk_than_an_adapter() -> None:
    lora, full = work("lora"), work("full")
    assert (lora.needed_vram_gb, full.needed_vram_gb) == (8.0, 18.5)
    assert (lora.needed_disk_gb, full.needed_disk_gb) == (20.0, 65.0)


def test_a_checkpoint_holds_trained_weights_and_both_adam_states() -> None:
    assert work("full").checkpoint_gb == pytest.approx(859.5e6 * 12 / 1e9)
    assert work("lora", lora_rank=4).checkpoint_gb == pytest.approx(797_184 * 12 / 1e9)


@pytest.mark.parametrize(
    ("settings", "bytes_each"),
    [
        ({"ema_decay": 0.999}, 16),
        ({"optimizer": "adamw-bf16"}, 6),
        ({"optimizer": "adamw-bf16", "ema_decay": 0.999}, 10),
        ({"optimizer": "adamw-8bit"}, 6),
        ({"optimizer": "adamw-offload"}, 12),
        ({"optimizer": "adafactor"}, 4),
    ],
    ids=str,
)
def test_an_average_and_the_optimizer_are_part_of_a_checkpoint(settings: dict[str, Any], bytes_each: int) -> None:
    full = work("full", **settings)
    assert full.checkpoint_gb == pytest.approx(full.trained_parameters * bytes_each / 1e9)


def test_an_average_asks_for_memory_and_disk_and_a_thrifty_optimizer_for_less() -> None:
    usual, averaged, thrifty = work("full"), work("full", ema_decay=0.999), work("full", optimizer="adamw-bf16")
    assert thrifty.needed_vram_gb < usual.needed_vram_gb < averaged.needed_vram_gb
    away = work("full", optimizer="adamw-offload")
    assert thrifty.needed_vram_gb < away.needed_vram_gb == work("full", optimizer="adafactor").needed_vram_gb
    assert thrifty.needed_disk_gb < usual.needed_disk_gb < averaged.needed_disk_gb


@pytest.mark.parametrize(
    ("base", "side", "pictures", "spilled_gb"),
    [
        (BASE, 512, 4096, 0.0),
        (BASE, 512, 8192, 0.54),
        ("stabilityai/stable-diffusion-3.5-medium", 1024, 2000, 3.66),
        ("black-forest-labs/FLUX.1-dev", 1024, 2000, 3.66),
        ("black-forest-labs/FLUX.2-klein-4B", 1024, 2000, 7.85),
    ],
)
def test_encoded_pictures_that_memory_does_not_hold_lie_on_the_disk(
    base: str, side: int, pictures: int, spilled_gb: float
) -> None:
    run = workload(base, TrainSpec(resolution=side), (), encoded_pixels=pictures * side**2)
    assert run.spilled_latents_gb == pytest.approx(spilled_gb, abs=0.01)
    assert ("encoded pictures" in run.disk_reason()) == (spilled_gb > 0)


def test_every_process_has_a_file_of_its_own_for_encoded_pictures() -> None:
    one, two = (
        workload("stabilityai/stable-diffusion-3.5-medium", TrainSpec(), (), processes=number, encoded_pixels=4e9)
        for number in (1, 2)
    )
    assert two.spilled_latents_gb == 2 * one.spilled_latents_gb
    assert two.needed_disk_gb == one.needed_disk_gb + 5 * ((one.spilled_latents_gb + 2.5) // 5)


def test_a_builtin_base_needs_next_to_nothing() -> None:
    assert work(base="builtin:tiny").needed_vram_gb <= 2.0


# ---- time and money ------------------------------------------------------------------------------------------------


def test_ranges_hold_their_expectation() -> None:
    for offer in (ON_DEMAND, SPOT):
        for method in ("lora", "full"):
            priced = quote(work(method), offer)
            for estimate in (priced.duration_s, priced.cost_usd, priced.seconds_per_step):
                assert 0 < estimate.low < estimate.expected < estimate.high


@given(st.floats(0.05, 10), st.floats(1.01, 10))
def test_cost_grows_with_the_price_and_time_does_not(price: float, factor: float) -> None:
    cheap, dear = (
        quote(work(), dataclasses.replace(SPOT, price_per_hour_usd=each)) for each in (price, price * factor)
    )
    assert cheap.cost_usd.expected < dear.cost_usd.expected
    assert cheap.duration_s == dear.duration_s


@given(st.integers(100, 20_000), st.integers(1, 5_000))
def test_more_steps_take_longer(steps: int, more: int) -> None:
    fewer, many = (quote(work(steps=each, checkpoint_every=100), SPOT) for each in (steps, steps + more))
    assert fewer.duration_s.expected < many.duration_s.expected


def test_a_stated_bandwidth_replaces_the_assumed_one() -> None:
    slow, fast = (quote(work(), dataclasses.replace(ON_DEMAND, download_mbps=each)) for each in (50.0, 5000.0))
    assert slow.duration_s.expected - fast.duration_s.expected == pytest.approx(4.3 * 8000 * (1 / 25 - 1 / 2500))


def test_traffic_is_paid_for() -> None:
    free, metered = quote(work(), ON_DEMAND), quote(work(), dataclasses.replace(ON_DEMAND, download_usd_per_gb=0.02))
    assert metered.cost_usd.expected - free.cost_usd.expected == pytest.approx(0.02 * (8.0 + 4.3))


def test_a_speed_that_was_measured_replaces_the_estimate() -> None:
    measured = {ON_DEMAND.gpu: 4.0}
    priced = quote(work(batch_size=2), ON_DEMAND, measured)
    assert priced.is_measured
    assert priced.seconds_per_step.expected == pytest.approx(0.5)
    assert priced.seconds_per_step.high < quote(work(batch_size=2), ON_DEMAND).seconds_per_step.high * 10
    assert not quote(work(), dataclasses.replace(ON_DEMAND, gpu="RTX 3090"), measured).is_measured


# ---- checkpoints ---------------------------------------------------------------------------------------------------


def test_a_machine_that_stays_is_checkpointed_as_ever() -> None:
    assert quote(work(), ON_DEMAND).checkpoint_every == DEFAULT_CHECKPOINT_EVERY


def test_the_user_s_interval_holds() -> None:
    assert quote(work(checkpoint_every=30), SPOT).checkpoint_every == 30


def test_on_spot_the_interval_follows_from_risk_and_cost_and_says_so() -> None:
    priced = quote(work(steps=20_000), dataclasses.replace(SPOT, provider="vast"))
    assert priced.checkpoint_every == 1700
    assert priced.interval_reason == (
        "one interruption in 3 h 0 min is assumed, a checkpoint takes 2 s (Young 1974, Daly 2006)"
    )


def test_a_short_run_on_spot_still_has_a_few_checkpoints() -> None:
    priced = quote(work(steps=1000), SPOT)
    assert priced.checkpoint_every == 250
    assert priced.interval_reason.startswith("a few in every run; the risk alone would allow 2000: one interruption")


def test_object_storage_lets_checkpoints_leave_sooner_and_so_more_often() -> None:
    home, stored = (
        quote(workload(BASE, TrainSpec(method="full", steps=200_000), (), stored=each), SPOT) for each in (False, True)
    )
    assert stored.checkpoint_every < home.checkpoint_every
    assert stored.restart_s < home.restart_s


def test_a_checkpoint_has_the_time_to_leave_before_the_next() -> None:
    priced = quote(work("full", steps=200_000), SPOT)
    way_home_s = 10.314 * 8000 / 40
    assert priced.interval_reason == "a checkpoint of 10 GB takes 34 min to leave the machine"
    assert priced.checkpoint_every * priced.seconds_per_step.expected >= 0.95 * way_home_s


def test_a_base_in_few_bits_needs_less_and_only_where_it_is_large() -> None:
    flux = "black-forest-labs/FLUX.1-dev"
    plain, eight, four = (
        workload(flux, TrainSpec(resolution=1024, base_precision=kept), ()).needed_vram_gb  # type: ignore[arg-type]
        for kept in ("auto", "int8", "nf4")
    )
    assert four < 16 < eight < 20 < plain
    with pytest.raises(UsageError, match="small enough"):
        require_ways(BASE, "StableDiffusionPipeline", TrainSpec(base_precision="nf4"), (), [])
