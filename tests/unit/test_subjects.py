"""Several `[[subject]]`s in one spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.spec import RunSpec
from orchestrator.spec_file import load_spec

ANN_AND_REX = """
[[subject]]
instance_prompt = "a photo of zkv woman"
class_prompt = "a photo of a woman"
instance = "photos/ann"
regularization = "generate:50"

[[subject]]
instance_prompt = "a photo of xlt dog"
instance = "photos/rex"
repeats = 1
"""


def spec_of(tmp_path: Path, text: str) -> RunSpec:
    (tmp_path / "both.toml").write_text(text, "utf-8")
    return load_spec(tmp_path / "both.toml")


def test_each_subject_becomes_a_set_with_its_class_images_beside_it(tmp_path: Path) -> None:
    ann, women, rex = spec_of(tmp_path, ANN_AND_REX).picture_sets
    assert (ann.id, ann.role, ann.prompt, ann.pictures) == (
        "ann", "instance", "a photo of zkv woman", str(tmp_path / "photos/ann"),
    )  # fmt: skip
    assert (women.id, women.role, women.prompt, women.pictures) == (
        "ann-class", "class", "a photo of a woman", "generate:50",
    )  # fmt: skip
    assert (rex.id, rex.prompt, rex.repeats) == ("rex", "a photo of xlt dog", 1)


def test_the_first_gives_the_prompts_of_the_run(tmp_path: Path) -> None:
    subject = spec_of(tmp_path, ANN_AND_REX).subject
    assert (subject.instance_prompt, subject.class_prompt) == ("a photo of zkv woman", "a photo of a woman")


def test_folders_of_one_name_get_ids_of_their_own(tmp_path: Path) -> None:
    text = ANN_AND_REX.replace("photos/ann", "ann/photos").replace("photos/rex", "rex/photos")
    assert [each.id for each in spec_of(tmp_path, text).picture_sets] == ["photos", "photos-class", "photos-2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('instance = "photos/rex"\n', ""), "subject[1].instance: missing"),
        (("repeats = 1", "repeat = 1"), "subject[1].repeat: unknown key"),
        (("repeats = 1", "probability = -1"), "subject[1].probability: must be greater than 0"),
        (("repeats = 1", '[data]\ninstance = "x"'), "several [[subject]]s name their photos themselves"),
    ],
)
def test_problems_are_named_where_they_were_written(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        spec_of(tmp_path, ANN_AND_REX.replace(*change))
    assert message in str(error.value)
