"""Pictures as a run on a rented machine, decided without one: where, on what, for how much, and what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import RunConflict, UsageError
from orchestrator.estimates import quote
from orchestrator.families import FLUX_1, STABLE_DIFFUSION
from orchestrator.finished_model import FinishedModel
from orchestrator.offers import NOTHING_RENTED, choose, gpu_requests
from orchestrator.picture_place import Circumstances, Place, place_for
from orchestrator.picture_planning import require_worth_it
from orchestrator.picture_run import (
    PictureRecord,
    RentalWish,
    picture_record,
    picture_run_name,
    picture_spec,
    renting_provider,
)
from orchestrator.picture_work import picture_work
from orchestrator.preflight import require_new_folder
from orchestrator.rental import ProviderTerms, Rental, plan_rental
from orchestrator.spec import RunSpec, spec_from_json, spec_to_json
from orchestrator.spec_file import spec_from_photos
from providers.api import Market, Offer
from remote_trainer.wire import PictureJob
from tests.e2e.command import PHOTOS

SD, FLUX = "stable-diffusion-v1-5/stable-diffusion-v1-5", "black-forest-labs/FLUX.1-dev"
WANTED = PictureJob("dog", SD, "/models/dog/dog.safetensors", "lora", "a photo of sks dog", count=4)
GONE = Circumstances("dog", kept=False, hosted=False, trained_on_rental=True, able_here=False, asks=True)
NOTHING_SAID = RentalWish()
RTX_4090 = Offer("runpod", "4090", "RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.60)


def model(base: str = SD) -> FinishedModel:
    path = Path("/models/dog/dog.safetensors")
    return FinishedModel(
        "dog", path.parent, base, None, "lora", path, None, (), None, "a photo of sks dog", 512, "lora", ""
    )


def trained(*sets: str) -> RunSpec:
    return spec_from_photos(PHOTOS, "sks dog", sets)


def spec_for(wanted: PictureJob = WANTED, wish: RentalWish = NOTHING_SAID, *sets: str) -> RunSpec:
    work = picture_work(wanted, model_bytes=50_000_000)
    return picture_spec(trained(*sets), model(), work, wish, "runpod", "dog-pictures-1", Path("/home/me/pictures"))


def rental_for(offer: Offer, max_cost_usd: float, wanted: PictureJob = WANTED) -> Rental:
    spec = spec_for(wanted, RentalWish(max_cost_usd=max_cost_usd))
    work = picture_work(wanted, model_bytes=50_000_000)
    choice = choose(spec, [offer], NOTHING_RENTED, work)
    return plan_rental(spec, [offer], choice, work, ProviderTerms(ends_itself=True), NOTHING_RENTED)


# ---- where ---------------------------------------------------------------------------------------------------------


def test_a_model_that_lies_somewhere_already_is_used_there() -> None:
    assert place_for(None, replace(GONE, kept=True)) is Place.MACHINE
    assert place_for(None, replace(GONE, hosted=True)) is Place.REPLICATE


def test_a_machine_is_rented_only_where_training_rented_one_this_computer_cannot_and_somebody_agrees() -> None:
    assert place_for(None, GONE) is Place.RENTED
    for lacking in ({"trained_on_rental": False}, {"able_here": True}, {"asks": False}):
        assert place_for(None, replace(GONE, **lacking)) is Place.HERE


def test_whoever_names_a_place_gets_it_or_hears_why_not() -> None:
    assert place_for(Place.RENTED, replace(GONE, asks=False, able_here=True)) is Place.RENTED
    with pytest.raises(RunConflict, match="keeps no machine") as refused:
        place_for(Place.MACHINE, GONE)
    assert "--where rented" in refused.value.hint
    with pytest.raises(RunConflict, match="not trained at Replicate"):
        place_for(Place.REPLICATE, GONE)


def test_the_provider_that_trained_is_asked_first_and_all_of_them_where_none_did() -> None:
    def asked(provider: str, wish: RentalWish = NOTHING_SAID) -> str:
        spec = trained(f"compute.provider={provider}")
        return renting_provider(spec, wish, lambda name: name == "replicate")

    assert (asked("vast"), asked("local"), asked("replicate")) == ("vast", "any", "any")
    assert asked("vast", RentalWish("runpod")) == "runpod"


def test_runs_are_numbered_and_their_names_name_files() -> None:
    taken = {"dog-pictures-1", "dog-pictures-2"}
    assert picture_run_name("dog", taken.__contains__) == "dog-pictures-3"
    assert len(picture_run_name("d" * 64, taken.__contains__)) <= 64


# ---- on what -------------------------------------------------------------------------------------------------------


def test_its_spec_takes_trust_from_the_run_that_trained_and_size_from_the_pictures() -> None:
    spec = spec_for(WANTED, NOTHING_SAID, 'compute.trust="secure"', "compute.gpu_count=2", 'compute.gpu=["A100"]')
    assert (spec.compute.trust, spec.compute.gpu_count, spec.compute.gpu) == ("secure", 1, ())
    [request] = gpu_requests(spec)
    assert request.min_vram_gb == picture_work(WANTED, 50_000_000).needed_vram_gb
    assert spec_from_json(spec_to_json(spec)) == spec, "any process can drive it"


def test_a_limit_on_the_price_holds_for_pictures_at_the_same_provider_alone() -> None:
    limited = ('compute.provider="runpod"', "compute.max_price_per_hour=0.5")
    assert spec_for(WANTED, NOTHING_SAID, *limited).compute.max_price_per_hour == 0.5
    assert spec_for(WANTED, NOTHING_SAID, 'compute.provider="vast"', limited[1]).compute.max_price_per_hour is None
    assert spec_for(WANTED, RentalWish(max_price_per_hour_usd=0.9), *limited).compute.max_price_per_hour == 0.9


def test_nothing_is_kept_back_for_a_stopped_disk() -> None:
    limits = spec_for().limits
    assert (limits.rescue_hours, limits.wait_for_laptop_minutes, limits.max_cost_usd) == (0.0, 10.0, 1.0)


def test_memory_holds_denoiser_and_text_encoders_at_once_in_16_bits() -> None:
    small, large = picture_work(WANTED, 0), picture_work(replace(WANTED, base=FLUX), 0)
    assert (small.family, large.family) == (STABLE_DIFFUSION, FLUX_1)
    assert small.needed_vram_gb == 5.0
    assert 2 * FLUX_1.parameters / 1e9 + FLUX_1.text_encoders_gb < large.needed_vram_gb < 48


def test_a_whole_model_needs_no_base_on_the_disk_unless_it_is_compared_with() -> None:
    whole = replace(WANTED, kind="diffusers")
    assert picture_work(whole, 4_000_000_000).base_gb == 0
    assert picture_work(replace(whole, compare=True), 4_000_000_000).base_gb == STABLE_DIFFUSION.base_gb


# ---- for how much --------------------------------------------------------------------------------------------------


def test_the_quote_is_boot_software_base_model_pictures_and_the_way_home() -> None:
    priced = quote(picture_work(WANTED, 50_000_000), RTX_4090)
    names = [phase.name for phase in priced.phases]
    assert names == ["boot", "environment", "base", "model", "load", "pictures", "bring home"]
    assert priced.duration_s.expected == pytest.approx(sum(phase.seconds.expected for phase in priced.phases))
    assert priced.cost_usd.expected == pytest.approx(priced.duration_s.expected / 3600 * 0.60)


def test_more_pictures_larger_ones_and_those_of_the_base_take_longer() -> None:
    def drawing_s(**changed: object) -> float:
        work = picture_work(replace(WANTED, **changed), 50_000_000)  # type: ignore[arg-type]
        return next(p.seconds.expected for p in quote(work, RTX_4090).phases if p.name == "pictures")

    assert drawing_s(count=8) == pytest.approx(2 * drawing_s())
    assert drawing_s(compare=True) == pytest.approx(2 * drawing_s())
    assert drawing_s(width=1024, height=1024) > 1.5 * drawing_s()


def test_an_interruption_on_the_spot_market_costs_all_pictures() -> None:
    spot = replace(RTX_4090, market=Market.SPOT)
    work = picture_work(replace(WANTED, count=64), 50_000_000)
    assert quote(work, spot).duration_s.expected > quote(work, RTX_4090).duration_s.expected


def test_a_ceiling_that_does_not_pay_for_a_slow_boot_is_refused_with_one_that_does() -> None:
    require_worth_it(rental_for(RTX_4090, 1.0))
    with pytest.raises(UsageError, match="too low for RTX 4090") as refused:
        require_worth_it(rental_for(RTX_4090, 0.05))
    enough = float(refused.value.hint.split()[1].rstrip(","))
    require_worth_it(rental_for(RTX_4090, enough))


def test_a_ceiling_below_what_the_pictures_should_take_is_refused() -> None:
    with pytest.raises(UsageError, match="boot, pictures and the way home"):
        require_worth_it(rental_for(RTX_4090, 0.2, replace(WANTED, count=64, width=1024, height=1024, steps=200)))


# ---- what is kept of them ------------------------------------------------------------------------------------------


def test_the_record_beside_the_run_tells_it_from_one_that_trains() -> None:
    record = PictureRecord("dog", "/home/me/pictures", 50_000_000, 0, "StableDiffusionPipeline")
    assert picture_record(json.dumps({"pictures": record.to_data(), "rental": {}})) == record
    for other in ("{}", "no json", '{"pictures": {"of": "dog", "from": "a later version"}}'):
        assert picture_record(other) is None
    assert record.work(WANTED) == picture_work(WANTED, 50_000_000, 0, "StableDiffusionPipeline")


def test_a_folder_for_pictures_that_could_not_be_made_is_found_before_anything_is_rented(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file is a file") as refused:
        require_new_folder(tmp_path / "file" / "pictures")
    assert refused.value.hint == "another folder: `--to FOLDER`"
    with pytest.raises(UsageError, match="exists already"):
        require_new_folder(tmp_path)
    require_new_folder(tmp_path / "new" / "pictures")
