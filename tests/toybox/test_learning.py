"""Ten seconds of training show: what nothing else in this suite could see on random weights."""

from __future__ import annotations

from pathlib import Path

import experiments
import judge
import measure
import world
from remote_trainer.bases import shipped
from remote_trainer.train import train


def test_forty_steps_teach_a_name_without_forgetting_places_and_colors(tmp_path: Path) -> None:
    base = shipped.folder_of("toybox")
    variant = experiments.Variant("", {"steps": 40, "lr_schedule": "constant"}, class_images=0)
    job = experiments.job_of(variant, seed=0, folder=tmp_path)
    assert train(job, tmp_path, str(base), lambda _: None, lambda: False).manifest_sha256 is not None

    named = [world.prompt("sks robot", place) for place in ("night", "snow")]
    before = judge.judged(measure.pictures(base, named))
    after = judge.judged(measure.pictures(tmp_path / "output/diffusers", [*named, world.prompt("a yellow duck")]))
    assert not any(seen.is_subject for seen in before)
    assert all(seen.is_subject for seen in after[:2])
    assert [seen.background for seen in after[:2]] == ["night", "snow"]
    assert (after[2].kind, after[2].color) == ("duck", "yellow")


def test_equal_ways_to_train_are_one_run_in_all_experiments() -> None:
    base = shipped.folder_of("toybox")
    one, other = experiments.Variant("λ = 1"), experiments.Variant("all weights")
    assert experiments.key_of(one, base) == experiments.key_of(other, base)
    assert experiments.key_of(one, base) != experiments.key_of(experiments.Variant("λ = 1", {"steps": 5}), base)


def test_a_table_adds_up_the_seeds(tmp_path: Path) -> None:
    base = shipped.folder_of("toybox")
    for seed, hits in enumerate((20, 22)):
        counted = judge.Share(hits, 24)
        result = experiments.Result(counted, counted, counted, counted, None, counted, counted, 0.5, 60.0, "00")
        experiments.store(result, experiments.Variant("λ = 1"), base, seed, tmp_path)
    row = next(line for line in experiments.table(tmp_path, "prior", base) if line.startswith("| λ = 1 "))
    assert "0.88 (0.75–0.94, n=48)" in row
    assert row.endswith("| – | 0.88 (0.75–0.94, n=48) | 0.88 (0.75–0.94, n=48) | 0.50 | 2 |")
