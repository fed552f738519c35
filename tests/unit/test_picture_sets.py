"""Several sets of pictures: what the spec says, what is looked at, and what the plan makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.base_model import BuiltinBase
from orchestrator.dataset.scan import Severity
from orchestrator.dataset.selection import scan_sets
from orchestrator.errors import UsageError
from orchestrator.plan import Plan, build_job, make_plan
from orchestrator.spec import RunSpec
from orchestrator.spec_file import load_spec
from providers.api import Market, Offer

OWN = Offer("local", "here", "", 0, 0.0, Market.ON_DEMAND, 0.0)
TWO_SUBJECTS = """
[[data.sets]]
id = "ann"
pictures = "ann"
prompt = "a photo of zkv woman"

[[data.sets]]
id = "rex"
pictures = "rex"
prompt = "a photo of xlt dog"
repeats = 2
mirror = true

[[data.sets]]
id = "people"
role = "class"
pictures = "people"
prompt = "a photo of a woman"
"""


def pictures(folder: Path, count: int, size: tuple[int, int] = (64, 64)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", size, (number, 10, 10)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def spec_of(tmp_path: Path) -> Callable[[str], RunSpec]:
    def spec_of(text: str, *overrides: str) -> RunSpec:
        (tmp_path / "run.toml").write_text(text, "utf-8")
        return load_spec(tmp_path / "run.toml", overrides)

    return spec_of


@pytest.fixture
def plan_of(tmp_path: Path, spec_of: Callable[..., RunSpec]) -> Callable[..., Plan]:
    def plan_of(text: str, *overrides: str, **counts: int) -> Plan:
        for name, count in counts.items():
            pictures(tmp_path / name, count)
        spec = spec_of(text, "train.resolution=64", "train.steps=120", *overrides)
        return make_plan(spec, scan_sets(spec), BuiltinBase("tiny"), [OWN])

    return plan_of


def test_sets_with_prompts_need_no_subject_section(spec_of: Callable[..., RunSpec]) -> None:
    spec = spec_of(TWO_SUBJECTS)
    assert spec.subject.instance_prompt == "a photo of zkv woman"
    assert spec.subject.class_prompt == "a photo of a woman"


def test_folders_of_sets_belong_to_the_spec_s_folder(spec_of: Callable[..., RunSpec], tmp_path: Path) -> None:
    assert [each.pictures for each in spec_of(TWO_SUBJECTS).data.sets] == [
        str(tmp_path / name) for name in ("ann", "rex", "people")
    ]


def test_one_folder_is_a_set_by_itself(spec_of: Callable[..., RunSpec], tmp_path: Path) -> None:
    text = '[subject]\ninstance_prompt = "a sks dog"\nclass_prompt = "a dog"\n[data]\ninstance = "dog"\n'
    instance, class_ = spec_of(text, "data.regularization=generate:20").picture_sets
    assert (instance.id, instance.role, instance.pictures) == ("instance", "instance", str(tmp_path / "dog"))
    assert (class_.id, class_.role, class_.is_endless, class_.ignores_epochs) == ("class", "class", True, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ann", "rex"), 'two of data.sets have the id "rex"'),
        (('pictures = "rex"', 'pictures = "generate:9"'), "no folder of photos of the subject"),
        (("repeats = 2", "repeat = 2"), "data.sets[1].repeat: unknown key"),
        (("repeats = 2", "probability = 0"), "data.sets[1].probability: must be greater than 0"),
        (("repeats = 2", 'captions = "parquet"'), "the key parquet, its file, go together"),
        (("repeats = 2", 'resolution_type = "area"'), "resolution_type without resolution"),
        (("repeats = 2", "resolution = 500"), "a multiple of 8 pixels from 64 to 2048, is 500"),
        (("repeats = 2", 'resolution = 512\nresolution_type = "area"'), "at most 4 megapixels, is 512"),
    ],
)
def test_what_makes_no_sense_is_refused(spec_of: Callable[..., RunSpec], change: tuple[str, str], message: str) -> None:
    text = TWO_SUBJECTS.replace('id = "ann"', f'id = "{change[1]}"') if change[0] == "ann" else (
        TWO_SUBJECTS.replace(*change)
    )  # fmt: skip
    with pytest.raises(UsageError) as error:
        spec_of(text)
    assert message in str(error.value)


def test_a_class_needs_a_set_of_the_subject_beside_it(spec_of: Callable[..., RunSpec]) -> None:
    with pytest.raises(UsageError, match="shows the subject"):
        spec_of('[[data.sets]]\nid = "a"\npictures = "a"\nrole = "class"\nprompt = "x"\n')


def test_two_subjects_of_different_size_are_seen_in_their_proportion(plan_of: Callable[..., Plan]) -> None:
    made = plan_of(TWO_SUBJECTS, ann=4, rex=2, people=50)
    seen = {visits.id: visits for visits in made.visits}
    assert made.steps_per_epoch == pytest.approx(4 + 2 * 3)
    assert seen["ann"].each == pytest.approx(120 / 10)
    assert seen["rex"].each == pytest.approx(120 / 10 * 3)
    assert seen["people"].share == pytest.approx(0.5)


def test_mixed_gives_each_set_its_turn_of_the_same_batches(plan_of: Callable[..., Plan]) -> None:
    made = plan_of(TWO_SUBJECTS, "train.prior_sampling=mixed", ann=10, rex=10, people=10)
    assert sum(visits.each * each.count for visits, each in zip(made.visits, made.sets, strict=True)) == 120
    assert {visits.id: visits.share for visits in made.visits}["people"] == pytest.approx(50 / 120)


def test_the_job_carries_every_set_with_its_share(plan_of: Callable[..., Plan]) -> None:
    job = build_job(plan_of(TWO_SUBJECTS, ann=4, rex=2, people=5), "run", {})
    assert [(each.id, each.role, each.folder, each.prompt) for each in job.datasets] == [
        ("ann", "instance", "data/ann", "a photo of zkv woman"),
        ("rex", "instance", "data/rex", "a photo of xlt dog"),
        ("people", "class", "data/people", "a photo of a woman"),
    ]
    assert [(each.repeats, each.ignore_epochs, each.mirror) for each in job.datasets] == [
        (0, False, False), (2, False, True), (None, True, False),
    ]  # fmt: skip


class TestSelection:
    """512×512 is 0.26 megapixels."""

    text = (
        '[[data.sets]]\nid = "dog"\nprompt = "sks dog"\npictures = "dog"\nresolution = 0.5\nresolution_type = "area"\n'
    )

    def scanned(self, spec: RunSpec) -> tuple[int, list[tuple[Severity, str]]]:
        scan = scan_sets(spec)["dog"]
        return len(scan.photos), [(finding.severity, finding.message) for finding in scan.findings]

    def test_a_set_that_would_vanish_is_an_error(self, spec_of: Callable[..., RunSpec], tmp_path: Path) -> None:
        pictures(tmp_path / "dog", 6, (512, 512))
        left, findings = self.scanned(spec_of(self.text + "min_size = 0.5\n"))
        assert left == 0
        assert findings[-1][0] is Severity.ERROR
        assert "all 6 pictures of set `dog` below its least size of 0.5 megapixels" in findings[-1][1]
        assert "512×512, 0.26 megapixels" in findings[-1][1]

    def test_what_is_left_out_is_said(self, spec_of: Callable[..., RunSpec], tmp_path: Path) -> None:
        pictures(tmp_path / "dog", 6, (512, 512))
        Image.new("RGB", (800, 800)).save(tmp_path / "dog/large.png")
        left, findings = self.scanned(spec_of(self.text + "min_size = 0.5\n"))
        assert left == 1
        assert any(severity is Severity.WARNING and "6 of 7 pictures" in message for severity, message in findings)

    def test_small_ones_are_kept_on_the_user_s_word(self, spec_of: Callable[..., RunSpec], tmp_path: Path) -> None:
        pictures(tmp_path / "dog", 6, (512, 512))
        assert self.scanned(spec_of(self.text + "min_size = 0.5\n", "data.keep_small=true"))[0] == 6

    def test_the_area_counts_and_not_the_side(self, spec_of: Callable[..., RunSpec], tmp_path: Path) -> None:
        pictures(tmp_path / "dog", 6, (512, 512))
        assert self.scanned(spec_of(self.text + "min_size = 0.25\n"))[0] == 6


def test_the_first_set_with_a_size_gives_it_to_the_run(spec_of: Callable[..., RunSpec]) -> None:
    text = TWO_SUBJECTS.replace("repeats = 2", "resolution = 1024").replace(
        'prompt = "a photo of zkv woman"', 'prompt = "a photo of zkv woman"\nresolution = 0.5\nresolution_type = "area"'
    )
    assert spec_of(text).train.resolution == 768
    assert spec_of(text, "train.resolution=512").train.resolution == 512


def test_pictures_in_between_show_every_subject(plan_of: Callable[..., Plan]) -> None:
    assert plan_of(TWO_SUBJECTS, ann=2, rex=2, people=2).train.validation_prompts == (
        "a photo of zkv woman", "a photo of xlt dog",
    )  # fmt: skip


def test_folders_within_the_folder_count_where_the_set_says_so(spec_of: Callable[..., RunSpec], tmp_path: Path) -> None:
    text = '[[data.sets]]\nid = "dog"\nprompt = "sks dog"\npictures = "dog"\n'
    for name in ("dog/a", "dog/b/c", "dog/.hidden"):
        pictures(tmp_path / name, 3)
    assert scan_sets(spec_of(text))["dog"].photos == ()
    scan = scan_sets(spec_of(text + "subfolders = true\n"))["dog"]
    assert [photo.path.parent.name for photo in scan.photos] == ["a"] * 3 + ["c"] * 3
    assert scan.errors == ()
