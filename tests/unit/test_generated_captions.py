"""Captions that the machine writes, as far as the laptop goes: asked for, planned, brought home, used again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.base_model import HubModel
from orchestrator.captioner import look_up_captioner
from orchestrator.captions_home import LONGEST, bring_captions, with_captions_at_home
from orchestrator.dataset.selection import scan_sets
from orchestrator.errors import UsageError
from orchestrator.home import RunHome
from orchestrator.plan import Plan, StandingMachine, make_plan
from orchestrator.spec import RunSpec
from orchestrator.spec_data import CAPTIONER
from orchestrator.spec_file import spec_from_photos
from orchestrator.staging import read_staged_job, stage
from providers.api import Market, Offer
from remote_trainer.wire import Captioned
from tests.fakes.hosted_run import HostedRun
from tests.fakes.hub import COMMIT, FakeHub, running_hub
from tests.fakes.photos import photo_folder
from tests.fakes.replicate import running_replicate
from tests.fakes.told import Told

HUB = HubModel("owner/base", "4" * 40, pinned=True)
OWN = Offer("local", "here", "", 0, 0.0, Market.ON_DEMAND, 0.0)
RENTED = Offer("runpod", "1", "NVIDIA GeForce RTX 4090", 1, 24.0, Market.ON_DEMAND, 0.5, "EU-RO-1")
GENERATED = "data.captions=generated"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three, of which the last has a caption of the user's."""
    folder = photo_folder(tmp_path / "photos", 3)
    (folder / "2.txt").write_text("sks dog asleep\n")
    return folder


def spec_of(photos: Path, *overrides: str) -> RunSpec:
    return spec_from_photos(photos, "sks dog", [f"output.folder={photos.parent / 'models'}", *overrides])


def plan_of(photos: Path, *overrides: str, offer: Offer = OWN, machine: StandingMachine | None = None) -> Plan:
    spec = spec_of(photos, *overrides)
    return make_plan(spec, scan_sets(spec), HUB, [offer], machine)


def decided(plan: Plan) -> str:
    return "\n".join(f"{decision.what}: {decision.why}" for decision in plan.decisions)


# ---- asked for and planned -----------------------------------------------------------------------------------------


def test_only_photos_without_a_text_file_are_described(photos: Path) -> None:
    plan = plan_of(photos, GENERATED)
    assert [each.to_caption for each in plan.sets] == [2]
    assert plan.captioner == CAPTIONER


def test_the_plan_says_who_writes_them_how_much_comes_and_under_which_license(photos: Path) -> None:
    told = decided(plan_of(photos, GENERATED))
    assert "2 captions written on the machine by florence-community/Florence-2-base-ft at 0b03b6f15a4a (MIT" in told
    assert "1.1 GB to download" in told


def test_nothing_is_loaded_when_every_photo_has_its_text(photos: Path) -> None:
    for name in ("0", "1"):
        (photos / f"{name}.txt").write_text("sks dog\n")
    plan = plan_of(photos, GENERATED)
    assert plan.captioner is None
    assert "captions written" not in decided(plan)


def test_a_rented_machine_is_quoted_with_download_and_time(photos: Path) -> None:
    without, planned = plan_of(photos, offer=RENTED).rental, plan_of(photos, GENERATED, offer=RENTED).rental
    assert without is not None
    assert planned is not None
    (phase,) = [phase for phase in planned.quote.phases if phase.name == "captions"]
    assert phase.seconds.expected > 20
    longer = planned.quote.duration_s.expected - without.quote.duration_s.expected
    assert longer == pytest.approx(phase.seconds.expected, rel=0.1)
    assert planned.quote.restart_s == without.quote.restart_s, "the next machine gets the captions of the first"


def test_the_plan_of_a_rented_machine_says_how_long_they_take(photos: Path) -> None:
    told = decided(plan_of(photos, GENERATED, offer=RENTED))
    assert re.search(r"1.1 GB to download at most, [^;]+ to [^;]+\) in all", told), told


def test_a_machine_without_a_gpu_is_warned_about(photos: Path) -> None:
    bare = StandingMachine("me@box", "/work", has_gpu=False)
    assert "described on a CPU" in " ".join(w.message for w in plan_of(photos, GENERATED, machine=bare).warnings)


def test_a_base_that_reads_sentences_is_told_of_captions_and_others_are_not(tmp_path: Path) -> None:
    photos = photo_folder(tmp_path / "bare", 3)
    flux = ("model.base=black-forest-labs/FLUX.1-dev", "train.resolution=512")
    assert "--set data.captions=generated" in decided(plan_of(photos, *flux))
    assert "--set data.captions=generated" not in decided(plan_of(photos))


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with running_hub() as running:
        yield running


def test_a_captioner_that_the_hub_has_is_let_pass(hub: FakeHub) -> None:
    assert look_up_captioner(f"open/florence2@{COMMIT}", endpoint=hub.endpoint) is None


@pytest.mark.parametrize(
    ("captioner", "told"),
    [
        (f"open/clip@{COMMIT}", "of the kind clip"),
        (f"gated/base@{COMMIT}", "is gated"),
        (f"no/such@{COMMIT}", "shows no captioner"),
        (f"open/florence2@{'0' * 40}", "shows no captioner"),
    ],
)
def test_one_that_could_not_be_used_is_refused_before_anything_is_rented(
    hub: FakeHub, captioner: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        look_up_captioner(captioner, endpoint=hub.endpoint)
    assert "data.captioner" in refused.value.hint


def test_a_hub_that_says_nothing_is_a_warning_and_a_folder_is_not_asked_for() -> None:
    unsure = look_up_captioner(CAPTIONER, endpoint="http://127.0.0.1:9", timeout_s=5.0)
    assert unsure is not None
    assert "could not be checked" in unsure.message
    assert look_up_captioner("/models/florence", endpoint="http://127.0.0.1:9") is None


@pytest.mark.parametrize("captioner", ["microsoft/Florence-2-base", "a/b@main", "models/here", "../up"])
def test_a_captioner_is_pinned_to_a_commit(photos: Path, captioner: str) -> None:
    with pytest.raises(UsageError, match="40 hex digits"):
        spec_of(photos, GENERATED, f"data.captioner={captioner}")


def test_a_hosted_job_refuses_what_its_trainer_would_not_hear_of(tmp_path: Path) -> None:
    with running_replicate() as fake, pytest.raises(UsageError, match="has no captioner of ours") as refused:
        HostedRun(tmp_path, fake, overrides=(GENERATED,)).plan()
    assert "beside the photos" in refused.value.hint


def test_class_images_of_the_base_have_their_prompt() -> None:
    from orchestrator.spec_data import PictureSet

    with pytest.raises(ValueError, match="for a folder of pictures"):
        PictureSet(id="dogs", role="class", pictures="generate:5", prompt="a dog", captions="generated")


# ---- brought home and used again -----------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, photos: Path) -> RunHome:
    """Of a run that is staged."""
    home = RunHome(tmp_path / "home" / "dog")
    stage(home, plan_of(photos, GENERATED))
    return home


def said(home: RunHome, text: str = "a photo of sks dog, on a  sofa\n") -> list[Captioned]:
    """What the machine says of every picture that it is to describe."""
    (shown,) = read_staged_job(home).datasets
    assert shown.captioned
    return [Captioned(shown.id, image.file, text) for image in shown.images if image.caption is None]


def test_captions_land_beside_the_photos_and_never_over_a_file(home: RunHome, photos: Path) -> None:
    (photos / "1.txt").write_text("written meanwhile")
    told = Told()
    bring_captions(home, said(home), told)
    texts = {path.name: path.read_text() for path in photos.glob("*.txt")}
    assert texts == {
        "0.txt": "a photo of sks dog, on a sofa\n", "1.txt": "written meanwhile", "2.txt": "sks dog asleep\n",
    }  # fmt: skip
    assert [note for note in told.notes if "1 captions stand beside the photos" in note]


def test_a_caption_that_the_user_removed_stays_removed(home: RunHome, photos: Path) -> None:
    bring_captions(home, said(home), Told())
    (photos / "0.txt").unlink()
    bring_captions(home, said(home), Told())
    assert not (photos / "0.txt").exists()


def test_the_next_machine_of_the_run_gets_what_the_first_wrote(home: RunHome) -> None:
    job = read_staged_job(home)
    assert with_captions_at_home(job, home) == job
    bring_captions(home, said(home, "a photo of sks dog, on a sofa"), Told())
    (shown,) = with_captions_at_home(job, home).datasets
    assert [image.described for image in shown.images] == [*["a photo of sks dog, on a sofa"] * 2, None]


def test_a_run_launched_anew_takes_the_text_files_as_they_are_then(home: RunHome, photos: Path) -> None:
    bring_captions(home, said(home), Told())
    (photos / "0.txt").write_text("a photo of sks dog, corrected")
    plan = plan_of(photos, GENERATED)
    assert plan.captioner is None
    assert plan.instance[0].photo.caption == "a photo of sks dog, corrected"


def test_a_machine_cannot_choose_where_its_words_go_nor_how_many_they_are(home: RunHome, photos: Path) -> None:
    first, *_ = said(home)
    strange = [Captioned("instance", "../../../x.png", "x"), Captioned("other", first.file, "x")]
    bring_captions(home, [*strange, replace(first, caption="y" * 9999)], Told())
    assert json.loads(home.captions.read_text()) == {f"instance/{first.file}": "y" * LONGEST}
    assert sorted(path.name for path in photos.glob("*.txt")) == ["0.txt", "2.txt"]


def test_a_folder_that_cannot_be_written_is_told_of_and_loses_nothing(home: RunHome, photos: Path) -> None:
    photos.rename(photos.with_name("elsewhere"))
    photos.write_text("no folder any more")
    told = Told()
    bring_captions(home, said(home), told)
    assert len(json.loads(home.captions.read_text())) == 2
    assert "cannot be written" in told.notes[0]
