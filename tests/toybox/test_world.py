from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import world


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def mean_color(scene: world.Scene) -> np.ndarray:
    picture = world.draw(scene)
    return np.asarray(picture.pixels[picture.mask == 255].mean(0))


def test_equal_seeds_draw_equal_pixels() -> None:
    one, two = world.draw(world.scene_at(3, 14)), world.draw(world.scene_at(3, 14))
    assert np.array_equal(one.pixels, two.pixels)
    assert np.array_equal(one.mask, two.mask)


def test_scenes_of_a_sequence_differ() -> None:
    assert len({world.scene_at(3, index) for index in range(50)}) == 50


@pytest.mark.parametrize("kind", world.KINDS)
def test_a_thing_fills_a_good_part_of_the_picture_and_lies_within_it(kind: world.Kind) -> None:
    masks = [world.draw(world.random_scene(rng(index), kind=kind)).mask for index in range(10)]
    assert all(0.1 < (mask > 127).mean() < 0.7 for mask in masks)
    assert all(not mask[0].any() for mask in masks), "it is cut off above"


@pytest.mark.parametrize("color", world.COLORS)
def test_the_color_is_that_of_the_thing(color: world.Color) -> None:
    scene = replace(world.random_scene(rng(1), kind="star"), color=color, pattern="plain")
    distances = {
        other: np.abs(mean_color(scene) - mean_color(replace(scene, color=other, detail_seed=5))).sum()
        for other in world.COLORS
    }
    assert min(distances, key=distances.__getitem__) == color


def test_the_mask_covers_all_that_differs_from_the_bare_background() -> None:
    scene = world.random_scene(rng(2), kind="fish")
    one = world.draw(replace(scene, color="red"))
    other = world.draw(replace(scene, color="blue"))
    differing = (one.pixels != other.pixels).any(-1)
    assert differing.any()
    assert (one.mask[differing] > 0).all()


def test_a_caption_names_the_kind_and_says_nothing_untrue() -> None:
    for index in range(300):
        scene = world.scene_at(4, index)
        said = set(world.caption(scene, rng(index)).split())
        assert scene.kind in said
        assert not (said & set(world.KINDS)) - {scene.kind}
        assert not (said & set(world.COLORS)) - {scene.color}
        assert not (said & {"striped", "dotted"}) - {scene.pattern}


def test_captions_leave_out_colors_and_places_at_random() -> None:
    scenes = [world.scene_at(5, index) for index in range(300)]
    captions = [world.caption(scene, rng(index)) for index, scene in enumerate(scenes)]
    colored = sum(scene.color in caption.split() for scene, caption in zip(scenes, captions, strict=True))
    assert 0.7 < colored / 300 < 0.9


def test_the_world_has_no_personal_subject() -> None:
    assert all(world.scene_at(6, index).look is None for index in range(500))


def test_the_personal_subject_is_teal_with_orange_stripes() -> None:
    scene = replace(world.subject_scene(rng(7), "plain"), tilt_deg=0.0)
    pixels = world.draw(scene).pixels.reshape(-1, 3).astype(int)
    assert (np.abs(pixels - world.TEAL).max(1) < 24).mean() > 0.1
    assert (np.abs(pixels - world.ORANGE).max(1) < 24).mean() > 0.03


def test_a_wrong_subject_differs_from_the_personal_one_in_what_the_judge_shall_see() -> None:
    wrong = [world.wrong_subject_scene(rng(index)) for index in range(200)]
    assert all((scene.look, scene.pattern) != (world.SUBJECT, "striped") for scene in wrong)


def test_meaningless_words_are_no_words_of_the_world() -> None:
    assert not {world.meaningless_word(rng(index)) for index in range(300)} & set(world.words())
