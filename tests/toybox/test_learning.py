"""Ten seconds of training show: what nothing else in this suite could see on random weights."""

from __future__ import annotations

from pathlib import Path

import experiments
import judge
import measure
import world
from remote_trainer.bases import shipped
from remote_trainer.train import train
from variants import Variant


def test_forty_steps_teach_a_name_without_forgetting_places_and_colors(tmp_path: Path) -> None:
    base = shipped.folder_of("toybox")
    variant = Variant("", {"steps": 40, "lr_schedule": "constant"}, class_images=0)
    job = experiments.job_of(variant, seed=0, folder=tmp_path)
    assert train(job, tmp_path, str(base), lambda _: None, lambda: False).manifest_sha256 is not None

    named = [world.prompt("sks robot", place) for place in ("night", "snow")]
    before = judge.judged(measure.pictures(base, named))
    after = judge.judged(measure.pictures(tmp_path / "output/diffusers", [*named, world.prompt("a yellow duck")]))
    losses = [experiments.held_out_loss(model, "sks robot", 0) for model in (base, tmp_path / "output/diffusers")]
    assert losses[1] < losses[0]
    assert not any(seen.is_subject for seen in before)
    assert all(seen.is_subject for seen in after[:2])
    assert [seen.background for seen in after[:2]] == ["night", "snow"]
    assert (after[2].kind, after[2].color) == ("duck", "yellow")
