"""What a plan decides about photos, class images, base and training."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.base_model import BaseFile, BaseSource, BuiltinBase, HubModel, LocalFolder
from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.scan import Finding, Severity
from orchestrator.errors import UsageError
from orchestrator.plan import BucketCount
from tests.unit.plans import HUB, SHIPPED, photo, plan, reasons, scan, warned

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
