"""How a picture is cut to its bucket, and what a mask takes out of the loss."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from remote_trainer import objective
from remote_trainer.dataset.pictures import Picture, load_views
from remote_trainer.dataset.views import CENTER, RANDOM_CROPS, View, drawn_view, views_of
from remote_trainer.wire import DatasetSpec

SET = DatasetSpec("dog", "instance", "data/dog", "a dog")


def test_without_wishes_a_picture_has_one_view():
    assert views_of(SET, 0, 42) == (CENTER,)


def test_random_crops_are_a_function_of_set_picture_and_seed():
    spec = dataclasses.replace(SET, crop="random")
    assert views_of(spec, 3, 42) == views_of(spec, 3, 42)
    assert len({views_of(spec, index, seed) for index in (0, 1) for seed in (42, 43)}) == 4
    assert len(views_of(spec, 0, 42)) == RANDOM_CROPS


def test_mirroring_doubles_the_views():
    assert views_of(dataclasses.replace(SET, mirror=True), 0, 42) == (CENTER, View(mirrored=True))


def test_every_view_is_drawn_sooner_or_later():
    assert {drawn_view(4, 42, step, 0, 0) for step in range(50)} == {0, 1, 2, 3}


class TestSeen:
    """A picture of 8×4 pixels, its columns numbered from the left; buckets are 4×4."""

    @pytest.fixture
    def picture(self, tmp_path):
        image = Image.new("RGBA", (8, 4))
        for column in range(8):
            image.paste((10 * column, 0, 0, 255 if column < 4 else 0), (column, 0, column + 1, 4))
        image.save(tmp_path / "0.png")
        return Picture(tmp_path / "0.png", 4, 4, "a dog", None, masked=True)

    def columns(self, picture, view):
        (seen,) = load_views(picture, (view,))
        return [round((float(value) + 1) * 12.75) for value in seen.pixels[0, 0]]

    @pytest.mark.parametrize(
        ("view", "columns"),
        [
            (CENTER, [2, 3, 4, 5]), (View(0.0, 0.0), [0, 1, 2, 3]), (View(1.0, 1.0), [4, 5, 6, 7]),
            (View(0.0, 0.0, mirrored=True), [7, 6, 5, 4]),
        ],
    )  # fmt: skip
    def test_the_crop_is_where_the_view_says(self, picture, view, columns):
        assert self.columns(picture, view) == columns

    def test_what_is_transparent_is_masked_and_its_color_stays(self, picture):
        (seen,) = load_views(picture, (CENTER,))
        assert seen.mask[0, 0].tolist() == [1.0, 1.0, 0.0, 0.0]

    def test_a_picture_without_a_mask_has_none(self, picture):
        (seen,) = load_views(dataclasses.replace(picture, masked=False), (CENTER,))
        assert seen.mask is None


class TestMaskedLoss:
    predicted, wanted = torch.zeros(1, 2, 1, 4), torch.tensor([1.0, 1.0, 5.0, 7.0]).expand(1, 2, 1, 4)

    def loss(self, *mask: float) -> float:
        return float(objective.sample_losses(self.predicted, self.wanted, mask=torch.tensor([[[mask]]])))

    def test_only_what_is_opaque_counts(self):
        assert self.loss(1.0, 1.0, 0.0, 0.0) == 1.0

    def test_a_whole_mask_changes_nothing(self):
        assert self.loss(1.0, 1.0, 1.0, 1.0) == float(objective.sample_losses(self.predicted, self.wanted))

    def test_an_empty_mask_is_no_division_by_zero(self):
        assert self.loss(0.0, 0.0, 0.0, 0.0) == 0.0
