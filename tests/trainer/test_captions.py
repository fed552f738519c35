"""Captions that the host writes before it trains."""

from __future__ import annotations

import gc
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from orchestrator.captioner import KINDS
from remote_trainer import captions, wire
from remote_trainer.captioner import ASKED, Captioner, tidy
from remote_trainer.errors import TrainingFailed
from remote_trainer.identity import identity_of
from remote_trainer.stopping import StopRequested
from remote_trainer.wire import Captioned, PhaseStarted
from tests.trainer.tiny_captioner import build_blip, build_florence
from tests.trainer.tiny_runs import CLASS_PROMPT, PROMPT, Watched, photo_set, tiny_job

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_florence(tmp_path_factory.mktemp("captioners") / "florence")


def job_of(run_folder: Path, captioner: Path | str, **settings: Any) -> wire.Job:
    """Three photos, of which the second has a caption of its own, and a class image."""
    shown = photo_set(run_folder, "instance", 3)
    first, second, third = shown.images
    shown = replace(shown, images=(first, replace(second, caption="sks dog asleep"), third), captioned=True)
    return replace(tiny_job(shown, photo_set(run_folder, "class", 1), **settings), captioner=str(captioner))


def described(job: wire.Job, run_folder: Path, watched: Watched) -> wire.Job:
    texts = captions.write_captions(job, run_folder, {}, CPU, watched.emit, watched.should_stop)
    return captions.with_captions(job, texts, watched.emit)


def captions_of(job: wire.Job) -> list[str | None]:
    return [image.caption for each in job.datasets for image in each.images]


def test_the_prompt_stands_first_in_every_caption(run_folder: Path, florence: Path) -> None:
    watched = Watched()
    first, own, third, of_class = captions_of(described(job_of(run_folder, florence), run_folder, watched))
    assert own == "sks dog asleep", "a caption of its own is left as it is"
    assert of_class is None, "a set that does not ask for captions has none"
    assert first != third
    for text in (first, third):
        assert (text or "").startswith(f"{PROMPT}, ")
    told = [(event.dataset, event.file, event.caption) for event in watched.of(Captioned)]
    assert told == [("instance", "0.png", first), ("instance", "2.png", third)]


def test_a_picture_of_which_nothing_is_said_has_the_prompt() -> None:
    assert captions.caption(CLASS_PROMPT, "") == CLASS_PROMPT


def test_an_interrupted_run_goes_on_with_what_was_written(run_folder: Path, florence: Path) -> None:
    job, polls = job_of(run_folder, florence), iter([False, True])
    with pytest.raises(StopRequested):
        captions.write_captions(job, run_folder, {}, CPU, lambda _: None, lambda: next(polls))
    (kept,) = (run_folder / captions.FOLDER).iterdir()
    kept.write_text("a sign that it was not described again", "utf-8")
    watched = Watched()
    first, _, third, _ = captions_of(described(job, run_folder, watched))
    assert first == f"{PROMPT}, a sign that it was not described again"
    assert (third or "").startswith(f"{PROMPT}, ")
    assert [event.detail[:17] for event in watched.of(PhaseStarted)] == ["1 of 2 pictures, "]


def test_equal_pictures_are_described_once(run_folder: Path, florence: Path) -> None:
    job = job_of(run_folder, florence)
    shown = job.datasets[0]
    twin = replace(shown, id="twin", prompt="zkv cat", images=shown.images[:1])
    watched = Watched()
    first, *_, of_twin = captions_of(described(replace(job, datasets=(shown, twin)), run_folder, watched))
    assert of_twin == (first or "").replace(PROMPT, "zkv cat")
    assert len(list((run_folder / captions.FOLDER).iterdir())) == 2


@dataclass
class Counting(Watched):
    """Counts the captioners in memory when the pictures are encoded."""

    captioners: list[int] = field(default_factory=list)

    def emit(self, event: wire.Event) -> None:
        super().emit(event)
        if isinstance(event, PhaseStarted) and event.name == "encode":
            kinds = [type(each).__name__ for each in gc.get_objects()]
            self.captioners.append(kinds.count("Florence2ForConditionalGeneration"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, florence: Path, epsilon_base: Path) -> tuple[str, Counting]:
    """The manifest of a run's model, and what was seen of the run."""
    run_folder, watched = tmp_path_factory.mktemp("undisturbed"), Counting()
    outcome = watched.train(lora_job(run_folder, florence), run_folder, epsilon_base)
    assert outcome.manifest_sha256
    return outcome.manifest_sha256, watched


def lora_job(run_folder: Path, captioner: Path) -> wire.Job:
    return job_of(run_folder, captioner, steps=2, method="lora", formats=("lora",))


def test_the_captioner_has_left_memory_when_training_begins(undisturbed: tuple[str, Counting]) -> None:
    _, watched = undisturbed
    assert len(watched.of(Captioned)) == 2
    assert watched.captioners == [0]


def test_another_machine_goes_on_with_the_captions_of_the_first(
    run_folder: Path, florence: Path, epsilon_base: Path, undisturbed: tuple[str, Counting]
) -> None:
    manifest, whole = undisturbed
    job = lora_job(run_folder, florence)
    Watched(stop_after=1).train(job, run_folder, epsilon_base)
    shutil.rmtree(run_folder / captions.FOLDER)  # a new machine gets checkpoints, not the run's folder
    resumed = Watched()
    outcome = resumed.train(replace(job, captioner="/gone/from/the/hub"), run_folder, epsilon_base)
    assert resumed.of(Captioned) == whole.of(Captioned)
    assert outcome.manifest_sha256 == manifest


def test_what_the_laptop_has_of_an_earlier_machine_is_not_described_again(run_folder: Path, florence: Path) -> None:
    job = job_of(run_folder, florence)
    once = Watched()
    first = described(job, run_folder, once)
    shutil.rmtree(run_folder / captions.FOLDER)
    at_home = {event.file: event.caption for event in once.of(Captioned)}
    shown = job.datasets[0]
    sent = replace(shown, images=tuple(replace(image, described=at_home.get(image.file)) for image in shown.images))
    again = replace(job, captioner="/gone", datasets=(sent, *job.datasets[1:]))
    assert captions_of(described(again, run_folder, Watched())) == captions_of(first)
    assert identity_of(again) == identity_of(job), "so that checkpoints are taken over"


@pytest.mark.parametrize("captioner", ["/no/such/folder", "nobody/knows-this@" + "0" * 40])
def test_a_captioner_that_cannot_be_had_ends_the_run_with_a_way_out(run_folder: Path, captioner: str) -> None:
    with pytest.raises(TrainingFailed, match="captioner") as failure:
        described(job_of(run_folder, captioner), run_folder, Watched())
    assert failure.value.code == "captions"
    assert "data.captioner" in failure.value.hint


def test_a_model_that_is_no_captioner_is_refused_before_its_weights(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(TrainingFailed, match="of the kind clip") as failure:
        described(job_of(run_folder, tmp_path / "clip"), run_folder, Watched())
    assert "florence2" in failure.value.hint


def test_blip_describes_too(tmp_path: Path) -> None:
    with Captioner(str(build_blip(tmp_path / "blip")), CPU) as captioner:
        said = captioner.describe([Image.new("RGB", (40, 30), "red"), Image.effect_noise((30, 40), 90).convert("RGB")])
    assert len([text for text in said if text]) == 2


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("The image shows a dog sitting on the grass.", "a dog sitting on the grass"),
        ("In this image we can see a dog. It is", "In this image we can see a dog"),
        ("there is a  dog\nlying on a sofa", "a dog lying on a sofa"),
        ("a photo of a backpack.", "a backpack"),
        ("This picture depicts two dogs! They play. And th", "two dogs! They play"),
        (" ... ", ""),
        ("", ""),
    ],
)
def test_descriptions_are_made_to_stand_behind_a_prompt(said: str, left: str) -> None:
    assert tidy(said) == left


def test_the_laptop_lets_pass_what_the_host_can_ask() -> None:
    assert set(KINDS) == set(ASKED)
