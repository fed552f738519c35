from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import judge
import world

HELD_OUT = 500
"""A seed that the judge was not trained on."""


def drawn(scenes: list[world.Scene]) -> NDArray[np.uint8]:
    return np.stack([world.draw(scene).pixels for scene in scenes])


@pytest.fixture(scope="module")
def scenes() -> list[world.Scene]:
    return [world.scene_at(HELD_OUT, index) for index in range(200)]


@pytest.fixture(scope="module")
def verdicts(scenes: list[world.Scene]) -> list[judge.Verdict]:
    return judge.judged(drawn(scenes))


@pytest.mark.parametrize("topic", ["kind", "color", "pattern", "background"])
def test_it_names_what_is_on_a_drawing(scenes: list[world.Scene], verdicts: list[judge.Verdict], topic: str) -> None:
    right = [getattr(one, topic) == getattr(other, topic) for one, other in zip(scenes, verdicts, strict=True)]
    assert judge.share(right).value >= 0.95


def test_it_knows_the_personal_subject() -> None:
    subjects = [
        world.subject_scene(np.random.default_rng((HELD_OUT, index)), world.BACKGROUNDS[index % 6])
        for index in range(60)
    ]
    assert judge.share([verdict.is_subject for verdict in judge.judged(drawn(subjects))]).value >= 0.95


def test_it_refuses_those_that_differ_from_the_subject_in_one_thing() -> None:
    wrong = [world.wrong_subject_scene(np.random.default_rng((HELD_OUT, index))) for index in range(100)]
    assert judge.share([verdict.is_subject for verdict in judge.judged(drawn(wrong))]).value <= 0.1


def test_it_takes_no_other_thing_for_the_subject(verdicts: list[judge.Verdict]) -> None:
    assert judge.share([verdict.is_subject for verdict in verdicts]).value <= 0.1


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = judge.Share(8, 10).interval
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)


def test_none_of_a_few_leaves_room_above_zero() -> None:
    assert judge.Share(0, 12).interval == (0.0, pytest.approx(0.2425, abs=1e-4))


def test_pictures_that_are_all_the_same_have_no_diversity(scenes: list[world.Scene]) -> None:
    assert judge.diversity(drawn([scenes[0]] * 4))[0] == pytest.approx(0.0, abs=1e-3)


def test_independent_drawings_have_a_diversity_of_about_one(scenes: list[world.Scene]) -> None:
    value, error = judge.diversity(drawn(scenes[:60]))
    assert 0.8 < value < 1.2
    assert error < 0.1
