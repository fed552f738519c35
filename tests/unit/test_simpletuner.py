"""SimpleTuner's own files, verbatim: what they become, and what is said about it.

The two files in `fixtures/simpletuner` are the examples of its DreamBooth page, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from orchestrator.base_model import BuiltinBase
from orchestrator.cli.main import cli
from orchestrator.dataset.scan import Severity, require_usable
from orchestrator.dataset.selection import scan_sets
from orchestrator.dataset.simpletuner import translate_dataloader
from orchestrator.errors import UsageError
from orchestrator.plan import Plan, make_plan
from orchestrator.spec import spec_from_json, spec_to_json
from orchestrator.spec_expansion import translation_of
from orchestrator.spec_file import load_spec
from providers.api import Market, Offer

EXAMPLES = Path(__file__).parents[1] / "fixtures/simpletuner"
DATALOADER, ENV = EXAMPLES / "multidatabackend-dreambooth.json", EXAMPLES / "sdxl-env.sh"
OWN = Offer("local", "here", "", 0, 0.0, Market.ON_DEMAND, 0.0)
LOADER = Path("/cfg/dataloader.json")


def entry(**keys: Any) -> dict[str, Any]:
    return {"id": "dog", "type": "local", "instance_data_dir": "dog", "instance_prompt": "a sks dog", **keys}


def one_set(**keys: Any) -> dict[str, Any]:
    return translate_dataloader([entry(**keys)], LOADER).sets[0]


def refusal(*entries: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as error:
        translate_dataloader(entries, LOADER)
    return str(error.value)


# ---- the examples --------------------------------------------------------------------------------------------------


def test_the_dataloader_is_accepted_as_it_stands() -> None:
    subject, others = load_spec(DATALOADER).data.sets
    assert (subject.id, subject.role, subject.captions, subject.prompt) == (
        "subjectname-data", "instance", "prompt", "subjectname",
    )  # fmt: skip
    assert (subject.repeats, subject.probability, subject.ignores_epochs) == (1, 1.0, False)
    assert (others.id, others.role, others.prompt) == ("regularisation-data", "class", "a picture of a man")
    assert (others.repeats, others.is_endless, others.ignores_epochs) == (10, False, True)
    for each, least in ((subject, 0.25), (others, 0.5)):
        assert (each.resolution, each.resolution_type, each.min_size) == (0.5, "area", least)
        assert (each.square, each.crop) == (False, "center")


def test_the_env_file_is_accepted_as_it_stands_and_brings_the_dataloader_along() -> None:
    spec = load_spec(ENV)
    train = spec.train
    assert (train.steps, train.batch_size, train.learning_rate) == (1000, 1, 4e-6)
    assert (train.lr_schedule, train.lr_end, train.optimizer) == ("cosine", 4e-7, "adamw-bf16")
    assert (train.validate_every, train.validation_prompts) == (100, ("a photograph of subjectname",))
    assert [each.id for each in spec.data.sets] == ["subjectname-data", "regularisation-data"]
    assert (train.prior_sampling, train.prior_loss_weight, train.resolution) == ("mixed", 1.0, 768)


def test_the_prompts_of_the_datasets_stand_for_the_subject() -> None:
    subject = load_spec(DATALOADER).subject
    assert (subject.instance_prompt, subject.class_prompt) == ("subjectname", "a picture of a man")


def test_every_key_of_both_files_is_accounted_for() -> None:
    rows = translation_of(load_spec(ENV))
    told = {(row.where, row.key) for row in rows}
    for each in json.loads(DATALOADER.read_text()):
        kept = {"id", "type", "default", "cache_dir", "resolution_type"}
        missing = [key for key in each.keys() - kept if (each["id"], key) not in told]
        assert missing == []
    names = [line.partition("=")[0] for line in ENV.read_text().splitlines() if "=" in line]
    assert [name for name in names if ("sdxl-env.sh", name) not in told] == []
    assert all(row.became or row.why for row in rows)


def test_the_spec_s_own_keys_win_and_the_translation_says_so() -> None:
    spec = load_spec(ENV, ["train.steps=800"])
    assert spec.train.steps == 800
    (row,) = (row for row in translation_of(spec) if row.key == "MAX_NUM_STEPS")
    assert row.why == "exactly; epochs never end a run; but the spec's own key says 800"


def test_a_recorded_spec_needs_the_files_no_more() -> None:
    spec = load_spec(ENV)
    assert spec_from_json(spec_to_json(spec)) == spec


class TestPlan:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> Callable[..., Path]:
        def folders(**sizes: tuple[int, tuple[int, int]]) -> Path:
            for name, (count, size) in sizes.items():
                folder = tmp_path / "training/datasets" / name
                folder.mkdir(parents=True)
                for number in range(count):
                    Image.new("RGB", size, (number, 0, 0)).save(folder / f"{number}.png")
            return tmp_path

        return folders

    def planned(self, root: Path, *overrides: str) -> Plan:
        spec = load_spec(ENV, [f"data.root={root}", "model.base=builtin:tiny", *overrides])
        return make_plan(spec, scan_sets(spec), BuiltinBase("tiny"), [OWN], translation=translation_of(spec))

    def test_subject_and_class_mix_evenly_and_the_steps_are_exact(self, folders: Callable[..., Path]) -> None:
        made = self.planned(folders(subjectname=(10, (768, 1024)), regularisation=(30, (1024, 1024))))
        assert made.train.steps == 1000
        assert made.steps_per_epoch == 40
        assert [visits.share for visits in made.visits] == pytest.approx([0.5, 0.5])
        assert [visits.each for visits in made.visits] == pytest.approx([50, 500 / 30])

    def test_the_resolved_sizes_are_those_of_today_s_formula(self, folders: Callable[..., Path]) -> None:
        made = self.planned(folders(subjectname=(5, (768, 1024)), regularisation=(3, (1024, 1024))))
        assert [{str(placed.bucket) for placed in each.placements} for each in made.sets] == [{"640×832"}, {"768×768"}]

    def test_the_command_prints_what_became_of_each_key(
        self, folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = folders(subjectname=(5, (768, 1024)), regularisation=(3, (1024, 1024)))
        monkeypatch.setenv("CLOUDBOOTH_HOME", str(root / "state"))
        monkeypatch.setenv("COLUMNS", "200")
        settings = [f"data.root={root}", "model.base=builtin:tiny", f"output.folder={root / 'models'}"]
        argv = ["plan", str(ENV), *(word for setting in settings for word in ("--set", setting))]
        done = CliRunner().invoke(cli, argv, standalone_mode=False)
        assert done.exception is None, done.exception
        for line in ("Translation", "train.steps = 1000 (exactly", "NUM_EPOCHS", "ignored", "50, of about 20 steps"):
            assert line in done.stdout

    def test_class_images_of_512_pixels_are_refused_before_anything_starts(self, folders: Callable[..., Path]) -> None:
        """They pass the subject's 0.25 megapixels and not the 0.5 of their own dataset."""
        root = folders(subjectname=(5, (512, 512)), regularisation=(8, (512, 512)))
        with pytest.raises(UsageError) as error:
            self.planned(root)
        assert "all 8 pictures of set `regularisation-data`" in error.value.message
        assert "512×512, 0.26 megapixels" in error.value.message
        assert "--set data.keep_small=true" in (error.value.hint or "")
        assert self.planned(root, "data.keep_small=true").class_images is not None

    def test_the_old_floor_of_one_megapixel_can_be_had(self, folders: Callable[..., Path]) -> None:
        root = folders(subjectname=(5, (1200, 1200)), regularisation=(3, (1024, 1024)))
        made = self.planned(root, "data.min_area_mp=1")
        assert {str(placed.bucket) for placed in made.instance} == {"1024×1024"}
        assert made.train.resolution == 1024

    def test_folders_that_are_elsewhere_come_with_the_key_that_finds_them(self) -> None:
        scans = scan_sets(load_spec(DATALOADER))
        assert all(finding.severity is Severity.ERROR for scan in scans.values() for finding in scan.findings)
        with pytest.raises(UsageError, match=r"/training/datasets/subjectname does not exist: `--set data\.root="):
            require_usable(*scans.values())


# ---- keys of the dataloader ----------------------------------------------------------------------------------------


def test_repeats_are_extra_passes() -> None:
    assert one_set(repeats=3)["repeats"] == 3
    (row,) = (row for row in translate_dataloader([entry(repeats=3)], LOADER).rows if row.key == "repeats")
    assert row.became == "repeats = 3: 4 passes in an epoch, the first included"


def test_file_names_are_captions_unless_the_file_says_otherwise() -> None:
    assert one_set()["captions"] == "filename"
    assert one_set(caption_strategy="textfile")["captions"] == "textfile"


def test_a_prompt_can_stand_before_captions() -> None:
    assert one_set(caption_strategy="textfile", prepend_instance_prompt=True)["prepend_prompt"] is True


def test_captions_from_parquet_name_file_and_columns() -> None:
    table = {"path": "captions.parquet", "filename_column": "id", "caption_column": "text", "width_column": "w"}
    found = one_set(caption_strategy="parquet", parquet=table)
    assert (found["parquet"], found["parquet_file_column"], found["parquet_caption_column"]) == (
        "/cfg/captions.parquet", "id", "text",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "square", "crop"),
    [
        ({}, False, "center"), ({"crop": False}, False, "center"), ({"crop": True}, True, "random"),
        ({"crop": True, "crop_style": "corner"}, True, "corner"),
        ({"crop": True, "crop_aspect": "preserve", "crop_style": "centre"}, False, "center"),
    ],
)  # fmt: skip
def test_crops_have_an_aspect_and_a_style(keys: dict[str, Any], square: bool, crop: str) -> None:
    found = one_set(**keys)
    assert (found["square"], found["crop"]) == (square, crop)


@pytest.mark.parametrize(
    ("keys", "resolution", "unit"),
    [
        ({"resolution": 0.5, "resolution_type": "area"}, 0.5, "area"),
        ({"resolution": 512, "resolution_type": "pixel"}, 512, "short-edge"),
        ({"resolution": 512}, 512, "short-edge"),
        ({"resolution": 1024, "resolution_type": "pixel_area"}, 1.048576, "area"),
    ],
)
def test_a_resolution_is_an_area_or_a_short_edge(keys: dict[str, Any], resolution: float, unit: str) -> None:
    found = one_set(**keys)
    assert (found["resolution"], found["resolution_type"]) == (resolution, unit)


def test_datasets_without_a_resolution_take_that_of_the_env_file() -> None:
    found = translate_dataloader([entry()], LOADER, default_size=(1.0, "area")).sets[0]
    assert (found["resolution"], found["resolution_type"]) == (1.0, "area")


@pytest.mark.parametrize("off", [{"disabled": True}, {"disable": True}, {"probability": 0}])
def test_what_is_switched_off_is_left_out_and_named(off: dict[str, Any]) -> None:
    translated = translate_dataloader([entry(), entry(id="old", **off)], LOADER)
    assert [each["id"] for each in translated.sets] == ["dog"]
    assert any(row.where == "old" and "left out" in row.why for row in translated.rows)


@pytest.mark.parametrize("key", ["is_regularisation_data", "is_regularization_data"])
def test_regularization_data_may_be_marked_as_such(key: str) -> None:
    translated = translate_dataloader([entry(), entry(id="men", **{key: True})], LOADER)
    assert [each["role"] for each in translated.sets] == ["instance", "class"]


def test_datasets_that_all_ignore_epochs_all_show_the_subject() -> None:
    translated = translate_dataloader([entry(ignore_epochs=True), entry(id="b", ignore_epochs=True)], LOADER)
    assert [each["role"] for each in translated.sets] == ["instance", "instance"]


def test_unknown_keys_are_warned_of() -> None:
    (row,) = (row for row in translate_dataloader([entry(reapeats=3)], LOADER).rows if row.is_warned)
    assert (row.key, row.value, row.became) == ("reapeats", "3", "")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"type": "local"}], "without an id"),
        ([entry(type="aws")], "lies in `aws`, which is not read"),
        ([entry(dataset_type="conditioning")], "is of the type conditioning"),
        ([{"id": "dog"}], "names no folder"),
        ([entry(caption_strategy="csv")], 'has the caption_strategy "csv"'),
        ([{**entry(caption_strategy="instanceprompt"), "instance_prompt": ""}], "has none"),
        ([entry(repeats="many")], 'has repeats = "many"'),
        ([entry(repeats=-1)], "has repeats = -1"),
        ([entry(maximum_image_size=2)], "maximum_image_size and target_downsample_size go together"),
        ([entry(resolution=1, resolution_type="acres")], 'has the resolution_type "acres"'),
        ([entry(disabled=True)], "no dataset that shows a subject"),
    ],
)
def test_what_cannot_be_trained_from_is_named(entries: list[dict[str, Any]], message: str) -> None:
    assert message in refusal(*entries)


@pytest.mark.parametrize(
    ("text", "message"), [("[{]", "line 1: expecting property name"), ('{"id": 1}', "is not a list of datasets")]
)
def test_broken_files_are_named_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(UsageError) as error:
        load_spec(tmp_path / "data.json")
    assert message in error.value.message


def test_photos_are_named_in_one_way(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names the photos already"):
        load_spec(DATALOADER, [f"data.instance={tmp_path}"])
