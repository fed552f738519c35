from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.base_model import BaseFile, BaseSource, BuiltinBase, HubModel, LocalFolder
from orchestrator.cli.render.plan import render_plan
from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.scan import Finding, Photo, Scan, Severity
from orchestrator.errors import UsageError
from orchestrator.plan import BucketCount, Plan, StandingMachine, build_job, make_plan
from orchestrator.plan_json import plan_to_data
from orchestrator.rental import ProviderTerms
from orchestrator.spec import RunSpec
from orchestrator.spec_file import spec_from_photos
from providers.api import Market, Offer
from providers.errors import NoCapacity
from remote_trainer.wire import Decision, ImageSpec, decode, encode
from remote_trainer.wire import Job as WireJob

COMMIT = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
HUB = HubModel("owner/base", COMMIT, pinned=True)
SHIPPED = LocalFolder(Path("/base"), (BaseFile("a", 10, "00"),), builtin="toybox")
OWN = Offer("local", "here", "", 0, 0.0, Market.ON_DEMAND, 0.0)
BARE = StandingMachine("me@gpu-box", "/home/me/cloudbooth", has_gpu=False)
RENTED = Offer("runpod", "1", "NVIDIA GeForce RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.5, "EU-RO-1")


def spec(*overrides: str) -> RunSpec:
    return spec_from_photos(Path("/photos"), "sks dog", ["output.folder=/models", *overrides])


def photo(name: str, width: int = 1000, height: int = 1000, caption: str | None = None) -> Photo:
    return Photo(Path("/photos") / name, width, height, "RGB", 1000, "0" * 64, caption)


def scan(*photos: Photo, findings: tuple[Finding, ...] = ()) -> Scan:
    return Scan(Path("/photos"), photos or tuple(photo(f"{n}.jpg") for n in range(5)), findings)


def scans(instance: Scan | None = None, class_images: Scan | None = None) -> dict[str, Scan]:
    """By the ids that a spec with one folder of photos gives its sets."""
    return {"instance": instance or scan()} | ({} if class_images is None else {"class": class_images})


def plan(
    *overrides: str,
    instance: Scan | None = None,
    class_images: Scan | None = None,
    base: BaseSource = HUB,
    offer: Offer = OWN,
    machine: StandingMachine | None = None,
) -> Plan:
    return make_plan(spec(*overrides), scans(instance, class_images), base, [offer], machine)


def rented(terms: ProviderTerms) -> Plan:
    offer = dataclasses.replace(RENTED, stopped_disk_per_day_usd=0.12)
    return make_plan(spec(), scans(), HUB, [offer], terms_of=lambda _offer: terms)


def reasons(made: Plan) -> dict[str, str]:
    return {decision.what: decision.why for decision in made.decisions}


def warned(made: Plan) -> str:
    return "\n".join(warning.message for warning in made.warnings)


# ---- training ------------------------------------------------------------------------------------------------------


def test_epochs_count_how_often_a_photo_is_seen() -> None:
    made = plan("train.steps=100", "train.batch_size=2", "train.gradient_accumulation=3")
    assert made.epochs == 100 * 2 * 3 / 5


@pytest.mark.parametrize(
    ("method", "base", "rate"),
    [
        ("full", HUB, 2e-6),
        ("lora", HUB, 1e-4),
        ("full", BuiltinBase("tiny"), 4e-3),
        ("lora", BuiltinBase("tiny"), 2e-2),
        ("full", SHIPPED, 2e-4),
        ("lora", SHIPPED, 2e-3),
    ],
)
def test_the_learning_rate_follows_method_and_base(method: str, base: BaseSource, rate: float) -> None:
    made = plan(f"train.method={method}", base=base)
    assert made.train.learning_rate == rate
    assert reasons(made)[f"train.learning_rate = {rate:g}"]


def test_what_the_user_chose_is_no_decision() -> None:
    made = plan(
        "train.learning_rate=5e-5", "train.lora_alpha=8", 'train.validation_prompts=["a"]', 'output.formats=["lora"]',
        "train.checkpoint_every=50",
    )  # fmt: skip
    assert (made.train.learning_rate, made.train.lora_alpha, made.train.validation_prompts) == (5e-5, 8.0, ("a",))
    assert made.decisions == ()


def test_lora_alpha_is_the_rank_and_only_for_lora() -> None:
    assert plan("train.lora_rank=4").train.lora_alpha == 4.0
    assert plan("train.method=full").train.lora_alpha is None


def test_validation_shows_the_subject_and_its_kind() -> None:
    assert plan().train.validation_prompts == ("a photo of sks dog", "a photo of a dog")


def test_a_run_shorter_than_the_checkpoint_interval_still_has_one() -> None:
    assert plan("train.steps=30").train.checkpoint_every == 30
    assert plan("train.steps=300").train.checkpoint_every == 100


@pytest.mark.parametrize(("method", "formats"), [("full", ("diffusers",)), ("lora", ("lora",))])
def test_formats_follow_the_method(method: str, formats: tuple[str, ...]) -> None:
    assert plan(f"train.method={method}").formats == formats


# ---- photos --------------------------------------------------------------------------------------------------------


def test_several_machines_are_refused_with_what_can_be_had_instead() -> None:
    with pytest.raises(UsageError, match=r"compute\.nodes = 2") as refusal:
        plan("compute.nodes=2", "compute.gpu_count=2")
    assert "compute.gpu_count=4" in (refusal.value.hint or "")


def test_photos_are_counted_by_bucket_largest_group_first() -> None:
    made = plan(instance=scan(photo("a", 3000, 4000), photo("b"), photo("c"), photo("d", 4000, 3000)))
    assert made.buckets == (
        BucketCount(Bucket(512, 512), 2), BucketCount(Bucket(448, 576), 1), BucketCount(Bucket(576, 448), 1),
    )  # fmt: skip
    assert [placed.bucket for placed in made.instance][:2] == [Bucket(448, 576), Bucket(512, 512)]


def test_a_photo_below_half_of_its_bucket_is_warned_about() -> None:
    assert "small.jpg must be enlarged up to 2.6 times" in warned(plan(instance=scan(photo("small.jpg", 200, 200))))
    assert warned(plan(instance=scan(photo("half.jpg", 256, 256)))) == ""


def test_a_photo_that_loses_much_at_the_edges_is_warned_about() -> None:
    long = scan(photo("long.jpg", 3000, 1000))
    assert "at the edges of long.jpg" in warned(plan(instance=long))
    assert "up to 67% is cropped away at the edges of long.jpg" in warned(
        plan("train.aspect_buckets=false", instance=long)
    )


def test_photos_without_captions_among_captioned_ones_are_mentioned() -> None:
    made = plan(instance=scan(photo("a", caption="sks dog asleep"), photo("b"), photo("c")))
    assert "2 of 3 photos use the instance prompt" in reasons(made)


def test_unusable_photos_stop_the_plan() -> None:
    bad = scan(findings=(Finding(Severity.ERROR, Path("/photos/x.jpg"), "is empty (0 bytes)"),))
    with pytest.raises(UsageError, match=r"/photos/x\.jpg is empty"):
        plan(instance=bad)


def test_unusable_class_images_stop_the_plan_too() -> None:
    bad = scan(findings=(Finding(Severity.ERROR, Path("/class/x.jpg"), "is empty (0 bytes)"),))
    with pytest.raises(UsageError, match=r"/class/x\.jpg is empty"):
        plan("data.regularization=/class", class_images=bad)


def test_findings_of_the_scan_stay_in_the_plan() -> None:
    note = Finding(Severity.NOTE, Path("/photos/0.jpg"), "is black and white")
    assert plan(instance=scan(findings=(note,))).findings == (note,)


# ---- class images --------------------------------------------------------------------------------------------------


def test_class_images_come_from_a_folder_or_the_base_or_not_at_all() -> None:
    assert plan().class_images is None
    generated = plan("data.regularization=generate:200").class_images
    assert generated is not None
    assert (generated.generate, generated.count) == (200, 200)
    folder = plan("data.regularization=/class", class_images=scan(photo("a"), photo("b"))).class_images
    assert folder is not None
    assert (folder.generate, folder.count) == (0, 2)


def test_class_images_without_weight_or_with_the_subject_s_prompt_are_warned_about() -> None:
    assert "no effect" in warned(plan("data.regularization=generate:2", "train.prior_loss_weight=0"))
    same = plan("data.regularization=generate:2", "subject.class_prompt=a photo of sks dog")
    assert "work against the photos" in warned(same)


# ---- base ----------------------------------------------------------------------------------------------------------


def test_a_base_that_could_not_be_checked_is_a_warning() -> None:
    assert "not be checked" in warned(plan(base=HubModel("a/b", None, False, "the base could not be checked")))


def test_a_builtin_base_at_a_large_resolution_is_a_warning() -> None:
    assert "made for 64 pixels" in warned(plan(base=BuiltinBase("tiny")))
    assert "made for 64 pixels" in warned(plan(base=SHIPPED))
    assert warned(plan("train.resolution=64", base=BuiltinBase("tiny"))) == ""


def test_a_base_from_the_laptop_is_counted_as_upload_where_it_travels() -> None:
    base = LocalFolder(Path("/base"), (BaseFile("a", 10, "00"), BaseFile("b", 5, "11")))
    assert plan("compute.provider=ssh", "compute.ssh.host=box", base=base).upload_bytes == 15
    assert plan("compute.provider=local", base=base).upload_bytes is None
    assert plan().upload_bytes is None


def test_a_picture_longer_than_the_base_has_places_for_is_refused_in_the_plan() -> None:
    base = LocalFolder(Path("/base"), (), pipeline="StableDiffusion3Pipeline", longest_side=640)
    assert plan("train.aspect_buckets=false", base=base).buckets[0].bucket == Bucket(512, 512)
    with pytest.raises(UsageError, match="has places for 640 pixels a side") as refusal:
        plan(instance=scan(photo("wide.jpg", 2000, 1000)), base=base)
    assert "aspect_buckets = false" in refusal.value.hint


# ---- money ---------------------------------------------------------------------------------------------------------


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


# ---- the job -------------------------------------------------------------------------------------------------------


def test_the_job_carries_the_plan_and_survives_the_wire() -> None:
    image = ImageSpec("000-a.png", "0" * 64, 512, 512, "sks dog asleep")
    class_image = ImageSpec("000-b.png", "1" * 64, 512, 512)
    made = plan("data.regularization=/class", class_images=scan(photo("b")), offer=RENTED)
    job = build_job(made, "run-1", {"instance": (image,), "class": (class_image,)})
    assert decode(WireJob, json.loads(json.dumps(encode(job)))) == job
    assert (job.run, job.name, job.base) == ("run-1", "sks-dog", f"owner/base@{COMMIT}")
    assert (job.train, job.formats, job.deadline_s) == (made.train, made.formats, made.deadline_s)
    instance, classes = job.datasets
    assert (instance.role, instance.folder, instance.prompt) == ("instance", "data/instance", "a photo of sks dog")
    assert (classes.role, classes.folder, classes.prompt) == ("class", "data/class", "a photo of a dog")
    assert (instance.images, classes.images, classes.generate) == ((image,), (class_image,), 0)


def test_class_images_to_generate_are_the_host_s_work() -> None:
    job = build_job(plan("data.regularization=generate:7"), "run-1", {})
    assert [dataset.generate for dataset in job.datasets] == [0, 7]


def test_without_class_images_there_is_one_dataset() -> None:
    assert [dataset.role for dataset in build_job(plan(), "run-1", {}).datasets] == ["instance"]


# ---- for people and for programs -----------------------------------------------------------------------------------


def test_a_plan_is_json(snapshot: Callable[[str, str], None]) -> None:
    made = plan(instance=scan(photo("a.jpg", caption="sks dog asleep")), offer=RENTED)
    snapshot("plan_json", json.dumps(plan_to_data(made), indent=1, allow_nan=False))


def rendered(made: Plan) -> str:
    console = Console(width=80, file=io.StringIO(), no_color=True)
    render_plan(made, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_plan_on_this_machine_reads_well(snapshot: Callable[[str, str], None]) -> None:
    made = plan("train.resolution=64", "train.steps=60", base=BuiltinBase("tiny"))
    snapshot("rendered_local", rendered(made))


def test_a_plan_with_everything_reads_well(snapshot: Callable[[str, str], None]) -> None:
    findings = (
        Finding(Severity.WARNING, Path("/photos/d.jpg"), "is the same file as b.jpg", "remove one of the two"),
        Finding(Severity.NOTE, Path("/photos/b.jpg"), "is black and white"),
    )
    photos = scan(
        photo("a [bold] photograph whose name is far too long for a narrow terminal.jpg", 12000, 9000),
        photo("b.jpg", 3000, 1000),
        photo("c.jpg", 200, 300, caption="sks dog asleep"),
        findings=findings,
    )
    made = plan(
        "data.regularization=generate:200",
        "train.method=full",
        "train.batch_size=2",
        "train.gradient_accumulation=4",
        "limits.max_hours=1.5",
        instance=photos,
        offer=RENTED,
        base=HubModel("owner/base", None, False, "the base owner/base could not be checked"),
    )
    snapshot("rendered_rented", rendered(made))


def test_spot_and_on_demand_stand_side_by_side(snapshot: Callable[[str, str], None]) -> None:
    on_demand = dataclasses.replace(RENTED, provider="vast", stopped_disk_per_day_usd=0.12)
    spot = dataclasses.replace(on_demand, id="2", market=Market.SPOT, price_per_hour_usd=0.21)
    made = make_plan(
        spec("compute.market=spot-then-on-demand", "train.steps=3000"), scans(), HUB, [spot, on_demand],
        terms_of=lambda _offer: ProviderTerms(True, True, None, True, True),
    )  # fmt: skip
    snapshot("rendered_spot", rendered(made))


def test_photos_with_the_same_finding_share_a_line() -> None:
    notes = tuple(Finding(Severity.NOTE, Path(f"/photos/{n}.jpg"), "is black and white") for n in range(5))
    assert "note: 0.jpg, 1.jpg, 2.jpg and 2 more: each is black and white\n" in rendered(
        plan(instance=scan(findings=notes))
    )


@pytest.mark.parametrize("width", [80, 60])
def test_no_line_of_a_plan_is_wider_than_the_terminal(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), no_color=True)
    render_plan(plan("data.regularization=generate:2", offer=RENTED), console)
    assert isinstance(console.file, io.StringIO)
    assert max(map(len, console.file.getvalue().splitlines())) <= width


def test_a_base_that_lies_on_the_machine_that_trains_is_not_to_upload() -> None:
    assert "to upload" not in rendered(plan(base=SHIPPED))
    assert "to upload" in rendered(plan(base=SHIPPED, offer=RENTED))


def test_the_size_of_a_builtin_base_comes_with_its_reason() -> None:
    made = plan("model.base=builtin:toybox", base=SHIPPED)
    assert Decision("train.resolution = 64", "the size that builtin bases draw at") in made.decisions


def test_many_photos_are_summed_up() -> None:
    text = rendered(plan(instance=scan(*(photo(f"{number:02}.jpg") for number in range(30)))))
    assert "and 10 more" in text
    assert "25.jpg" not in text
