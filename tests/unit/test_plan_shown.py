"""What a plan becomes: a job, data for programs, a page for people."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.base_model import BuiltinBase, HubModel
from orchestrator.cli.render.plan import render_plan
from orchestrator.dataset.scan import Finding, Severity
from orchestrator.plan import StandingMachine, build_job, make_plan
from orchestrator.plan_json import plan_to_data
from orchestrator.rental import ProviderTerms
from providers.api import Market
from remote_trainer.wire import Decision, ImageSpec, decode, encode
from remote_trainer.wire import Job as WireJob
from tests.unit.plans import BARE, COMMIT, HUB, RENTED, SHIPPED, photo, plan, rendered, scan, scans, spec

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


def test_what_a_look_at_a_standing_machine_found_is_shown() -> None:
    box = StandingMachine("me@gpu-box", "/work", has_gpu=True, free_gb=412.3)
    text = rendered(plan("model.base=builtin:toybox", base=SHIPPED, machine=box))
    assert re.search("GPU +NVIDIA", text)
    assert re.search("disk +412 GB free", text)
    assert "none: no nvidia-smi" in rendered(plan(machine=BARE))


def test_the_size_of_a_builtin_base_comes_with_its_reason() -> None:
    made = plan("model.base=builtin:toybox", base=SHIPPED)
    assert Decision("train.resolution = 64", "the size that builtin bases draw at") in made.decisions


def test_a_size_that_the_spec_states_is_not_told_as_decided() -> None:
    made = plan("model.base=builtin:toybox", "train.resolution=64", base=SHIPPED)
    assert made.train.resolution == 64
    assert not any(decision.what.startswith("train.resolution") for decision in made.decisions)


def test_many_photos_are_summed_up() -> None:
    text = rendered(plan(instance=scan(*(photo(f"{number:02}.jpg") for number in range(30)))))
    assert "and 10 more" in text
    assert "25.jpg" not in text
