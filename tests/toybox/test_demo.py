from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import draw_photos
from orchestrator.spec_file import load_spec

EXAMPLE = Path(__file__).parents[2] / "examples" / "toybox"


def test_its_photos_are_those_that_the_script_draws(tmp_path: Path) -> None:
    drawn = draw_photos.draw_all(tmp_path)
    assert [path.name for path in drawn] == sorted(path.name for path in (EXAMPLE / "photos").glob("*.png"))
    for path in drawn:
        shipped = EXAMPLE / "photos" / path.name
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(shipped)))
        assert path.with_suffix(".txt").read_text() == shipped.with_suffix(".txt").read_text()


def test_its_pictures_show_the_subject_where_no_photo_does() -> None:
    prompts = load_spec(EXAMPLE / "robot.toml").train.validation_prompts
    seen = {path.stem.rpartition("-")[2] for path in (EXAMPLE / "photos").glob("*.png")}
    assert not {"snow", "night"} & seen
    assert {"a photo of sks robot in the snow", "a photo of sks robot at night"} <= set(prompts)
