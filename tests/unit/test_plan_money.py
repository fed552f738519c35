"""What a plan says of machines: time, cost, limits, and what may go wrong with those that are rented."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest

from orchestrator.base_model import BuiltinBase, HubModel
from orchestrator.plan import make_plan
from orchestrator.plan_data import encoded_pixels
from orchestrator.plan_json import plan_to_data, planned_disk_gb
from orchestrator.rental import ProviderTerms
from providers.api import Market, Offer
from providers.errors import NoCapacity
from remote_trainer import wire
from remote_trainer.dataset.views import views_of
from tests.unit.plans import BARE, HUB, OWN, RENTED, photo, plan, reasons, rendered, rented, scan, scans, spec, warned


def test_an_own_machine_costs_nothing_and_has_no_deadline() -> None:
    made = plan()
    assert (made.cost_usd, made.deadline_s) == (0.0, None)


def test_the_cost_of_a_rented_machine_is_a_range_and_bounded() -> None:
    made = plan("limits.max_cost_usd=2", offer=RENTED)
    assert made.rental is not None
    assert made.time_s is not None
    cost = made.rental.quote.cost_usd
    assert 0 < cost.low < made.cost_usd == cost.expected < cost.high
    assert made.time_s == made.rental.quote.duration_s
    assert made.deadline_s == 4 * 3600 - made.rental.reserve_s
    assert made.rental.ceiling_usd == 2


def test_nothing_measured_means_no_time_on_a_machine_of_one_s_own() -> None:
    assert plan(machine=BARE).time_s is None
    [decision] = [reason for what, reason in reasons(plan(machine=BARE)).items() if "checkpoint_every" in what]
    assert decision == "so many steps at most are lost with a machine that breaks"


def test_an_earlier_run_on_a_machine_of_one_s_own_tells_the_time() -> None:
    made = make_plan(spec("train.steps=600"), scans(), HUB, [OWN], BARE, measured={BARE.label: 2.0})
    assert made.time_s is not None
    assert made.time_s.expected == 300.0
    assert "5 min (4 min to 6 min) for the steps, as measured" in rendered(made)


def test_the_interval_of_checkpoints_on_spot_comes_with_its_reason() -> None:
    spot = dataclasses.replace(RENTED, market=Market.SPOT, provider="vast")
    made = plan("compute.market=spot", "train.steps=20000", "limits.max_cost_usd=50", offer=spot)
    assert made.train.checkpoint_every == 1400
    assert reasons(made)["train.checkpoint_every = 1400"].startswith("one interruption in 3 h 0 min is assumed")


def test_what_a_run_needs_of_a_machine_is_a_decision() -> None:
    told = reasons(plan("train.method=full", offer=RENTED))
    assert told["compute.min_vram_gb = 18.5"] == "estimate for method full at 512 pixels, batch 1"
    assert told["compute.disk_gb = 65"].startswith("base 4.3 GB, environment 8, 4 checkpoints of 10")
    assert "compute.disk_gb = 65" not in reasons(plan("train.method=full", "compute.disk_gb=80", offer=RENTED))


def test_the_disk_of_a_rented_machine_has_room_for_the_encoded_pictures() -> None:
    wanted = ("model.base=stabilityai/stable-diffusion-3.5-medium", "train.resolution=1024")
    few = plan(*wanted, offer=RENTED)
    many = plan(*wanted, offer=RENTED, instance=scan(*(photo(f"{number}.jpg") for number in range(5000))))
    assert few.rental is not None
    assert many.rental is not None
    assert many.rental.disk_gb == few.rental.disk_gb + 10
    assert "encoded pictures 9.9" in reasons(many)[f"compute.disk_gb = {many.rental.disk_gb:g}"]


def test_every_view_of_a_picture_is_encoded_and_what_the_machine_makes_is_square() -> None:
    [photos] = plan().sets
    views = dataclasses.replace(photos, crop="random", mirror=True)
    made = dataclasses.replace(photos, placements=(), generate=10)
    assert encoded_pixels([photos], 512) == 5 * 512**2
    assert encoded_pixels([views], 512) == 8 * 5 * 512**2
    assert encoded_pixels([photos, made], 512) == 15 * 512**2
    assert views.views == len(views_of(wire.DatasetSpec("a", "instance", "a", "a", crop="random", mirror=True), 0, 1))


def test_a_stored_plan_tells_the_disk_that_its_next_machines_get() -> None:
    made = plan(offer=RENTED)
    assert made.rental is not None
    assert planned_disk_gb(json.dumps(plan_to_data(made))) == made.rental.disk_gb
    assert planned_disk_gb(json.dumps(plan_to_data(plan()))) is None
    assert planned_disk_gb("of another version") is None


def test_a_machine_that_cannot_end_itself_is_warned_about_with_the_worst_case() -> None:
    made = plan(offer=RENTED)
    assert "cannot give itself back" in warned(made)
    assert made.rental is not None
    assert dict(made.rental.afterwards)["at worst"] == "no ceiling holds while this laptop is away: $12.00 a day"


def test_a_machine_that_stops_itself_keeps_the_only_copy_at_a_stated_price() -> None:
    made = rented(ProviderTerms(ends_itself=True, stops_itself=True, can_be_stopped=True))
    assert made.rental is not None
    assert made.rental.rescue_usd == pytest.approx(0.12 * 3 + 0.5 / 6), "three days of the disk, and one more start"
    assert made.deadline_s == pytest.approx((5 - made.rental.rescue_usd) / 0.5 * 3600 - 900)
    assert "stops and keeps the only copy on its disk for $0.12 a day" in dict(made.rental.afterwards)["laptop away"]
    assert "cannot give itself back" not in warned(made)


def test_what_a_fire_drill_has_proven_is_no_if() -> None:
    unproven, proven = (rented(ProviderTerms(ends_itself=True, proven_at=at)).rental for at in (None, 1_790_000_000.0))
    assert unproven is not None
    assert proven is not None
    assert "`cloudbooth doctor --fire-drill runpod` proves it" in dict(unproven.afterwards)["at worst"]
    assert dict(proven.afterwards)["at worst"] == "$5.00: a machine of runpod was seen to end itself on 2026-09-21"


def test_a_stopped_disk_that_may_vanish_is_warned_about() -> None:
    assert "a stopped disk of runpod may be lost" in warned(rented(ProviderTerms(stopped_disk_may_vanish=True)))
    assert "may be lost" not in warned(rented(ProviderTerms()))


def test_object_storage_changes_what_an_absent_laptop_risks() -> None:
    made = make_plan(
        spec("storage.url=s3://bucket/dog"), scans(), HUB, [RENTED],
        terms_of=lambda _offer: ProviderTerms(ends_itself=True),
    )  # fmt: skip
    assert made.rental is not None
    told = dict(made.rental.afterwards)
    assert told["laptop away"] == "trains on, puts the model into s3://bucket/dog, and the machine ends itself"
    assert told["at risk then"] == "what was trained since the last checkpoint that reached s3://bucket/dog"


def test_a_run_above_its_ceiling_or_beyond_its_time_says_so_before_it_starts() -> None:
    assert "above the ceiling of $0.01" in warned(plan("limits.max_cost_usd=0.01", offer=RENTED))
    assert "the run ends after 0.1 h" in warned(plan("limits.max_hours=0.1", offer=RENTED))


def test_a_gpu_the_user_named_is_taken_and_its_lack_of_memory_told() -> None:
    small = dataclasses.replace(RENTED, gpu="RTX 3060", vram_gb=12.0)
    made = plan('compute.gpu=["3060"]', "train.method=full", offer=small)
    assert "RTX 3060 has 12 GB, and the run is estimated to need 18.5 GB" in warned(made)


def test_a_base_that_the_machine_may_keep_in_few_bits_is_said_so_where_memory_is_short() -> None:
    small = dataclasses.replace(RENTED, vram_gb=16.0)
    sizes = ['compute.gpu=["4090"]', "model.base=black-forest-labs/FLUX.1-dev", "train.resolution=512"]
    hints = [
        "\n".join(warning.hint for warning in plan(*sizes, *chosen, offer=small).warnings)
        for chosen in ([], ["train.base_precision=bf16"])
    ]
    assert ["keep the base in 8 or 4 bits" in hint for hint in hints] == [True, False]


def test_the_market_that_was_not_asked_for_is_compared_with_and_not_rented() -> None:
    spot = dataclasses.replace(RENTED, id="2", market=Market.SPOT, price_per_hour_usd=0.1)
    made = make_plan(spec(), scans(), HUB, [RENTED, spot])
    assert made.rental is not None
    assert [each.offer for each in made.rental.quotes] == [RENTED, spot]


def test_wishes_that_a_standing_machine_cannot_hear_are_named() -> None:
    [warning] = plan("compute.min_vram_gb=80", 'compute.gpu=["H100"]').warnings
    assert warning.message.startswith("compute.gpu, compute.min_vram_gb: no choice on local")


def test_a_full_base_on_a_machine_without_a_gpu_is_warned_about() -> None:
    assert "no NVIDIA GPU" in warned(plan(machine=BARE))
    assert "GPU" not in warned(plan(machine=dataclasses.replace(BARE, has_gpu=True))) + warned(plan(machine=None))
    assert "GPU" not in warned(plan(base=BuiltinBase("tiny"), machine=BARE)), "a builtin base is made for this"


def test_a_machine_without_the_trainers_packages_is_said_to_build_an_environment_first() -> None:
    new = dataclasses.replace(BARE, has_environment=False, free_gb=300.0)
    assert "environment  not there yet" in rendered(plan(machine=new))
    assert "environment  " not in rendered(plan(machine=BARE))
    assert "environment that this run builds" not in warned(plan(machine=new))
    assert "3.0 GB are free there" in warned(plan(machine=dataclasses.replace(new, free_gb=3.0)))


def test_a_plan_without_a_gpu_names_renting_one() -> None:
    [hint] = [each.hint for each in plan(machine=BARE).warnings if "no NVIDIA GPU" in each.message]
    assert "`--provider runpod`" in hint


def test_sdxl_far_below_its_resolution_is_warned_about_however_it_is_known() -> None:
    large = dataclasses.replace(HUB, pipeline="StableDiffusionXLPipeline")
    assert "SDXL draws at 1024 pixels: trained at 512" in warned(plan(base=large))
    assert "SDXL draws" in warned(plan("model.base=owner/some-xl-base"))
    assert "SDXL" not in warned(plan("train.resolution=768", base=large)) + warned(plan())


@pytest.mark.parametrize(
    ("base", "is_distilled"),
    [
        ("black-forest-labs/FLUX.1-schnell", True),
        ("black-forest-labs/FLUX.2-klein-4B", True),
        ("stabilityai/sdxl-turbo", True),
        ("black-forest-labs/FLUX.1-dev", False),
        ("black-forest-labs/FLUX.2-klein-base-4B", False),
    ],
)
def test_a_base_distilled_to_few_steps_is_warned_about(base: str, is_distilled: bool) -> None:
    assert (
        "was distilled" in warned(plan(f"model.base={base}", base=HubModel(base, None, pinned=False)))
    ) is is_distilled


def test_a_large_family_is_drawn_with_the_guidance_that_is_usual_for_it() -> None:
    base = "black-forest-labs/FLUX.1-dev"
    made = plan(f"model.base={base}", base=HubModel(base, None, pinned=False, pipeline="FluxPipeline"))
    assert made.train.validation_guidance_scale == 3.5
    assert any("usual for flux-1" in decision.why for decision in made.decisions)
    assert plan().train.validation_guidance_scale == 7.5


def test_a_machine_asked_for_by_a_name_that_does_not_tell_the_family_is_warned_about() -> None:
    large = dataclasses.replace(HUB, pipeline="StableDiffusionXLPipeline")
    [hint] = [each.hint for each in plan(base=large, offer=RENTED).warnings if "does not tell" in each.message]
    assert hint == "`--set compute.min_vram_gb=18.5` `--set compute.disk_gb=30`"
    told = plan("model.base=owner/some-xl-base", base=large, offer=RENTED)
    assert "does not tell" not in warned(told) + warned(plan(base=large)) + warned(plan(offer=RENTED))


def test_a_plan_counts_on_the_family_that_the_hub_tells() -> None:
    large = dataclasses.replace(HUB, pipeline="StableDiffusionXLPipeline")
    plain, xl = plan(offer=RENTED).rental, plan(base=large, offer=RENTED).rental
    assert plain is not None
    assert xl is not None
    assert xl.needed_vram_gb > plain.needed_vram_gb


def test_the_tighter_of_hours_and_dollars_is_the_deadline() -> None:
    assert plan("limits.max_cost_usd=2", "limits.max_hours=3", offer=RENTED).deadline_s == 3 * 3600
    assert plan("limits.max_hours=3").deadline_s == 3 * 3600


@pytest.mark.parametrize(
    ("name", "overrides", "offers"),
    [
        ("no_offers", ['compute.gpu=["RTX 4090"]', "compute.provider=runpod"], []),
        ("too_dear", ["compute.max_price_per_hour=0.3", "compute.provider=runpod"], [RENTED]),
    ],
)
def test_nothing_to_rent_has_a_hint(
    snapshot: Callable[[str, str], None], name: str, overrides: list[str], offers: list[Offer]
) -> None:
    with pytest.raises(NoCapacity) as caught:
        make_plan(spec(*overrides), scans(), HUB, offers)
    snapshot(name, f"{caught.value.message}\n\nhint: {caught.value.hint}\n")
