"""Memory that runs out makes a run thriftier once, and otherwise ends it with the setting to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from remote_trainer import wire
from remote_trainer.errors import TrainingFailed
from remote_trainer.families.detect import open_base
from remote_trainer.thrift import Thrift, choose_thrift, ladder, next_rung, twice
from remote_trainer.train import train
from tests.trainer.tiny_runs import PROMPT, Watched, our_losses, photo_set, tiny_job


def needing(least: Thrift) -> Any:
    """A probe that fits from that rung on."""

    def probe(thrift: Thrift) -> None:
        if ladder(4).index(thrift) < ladder(4).index(least):
            raise torch.OutOfMemoryError("CUDA out of memory")

    return probe


def test_the_ladder_gives_up_the_cheapest_first():
    assert [str(rung) for rung in ladder(4)] == [
        "gradient checkpointing off",
        "gradient checkpointing on",
        "gradient checkpointing on, each batch in 2 parts",
        "gradient checkpointing on, each batch in 4 parts",
        "gradient checkpointing on, each batch in 4 parts, saved activations in the host's memory",
    ]


@pytest.mark.parametrize("least", ladder(4))
def test_the_probe_finds_the_least_thrift_and_says_why(least):
    said: list[wire.Decision] = []
    assert choose_thrift(True, wire.TrainSpec(batch_size=4), needing(least), said.append) == least
    assert [decision.what for decision in said] == [str(least)]


def test_when_nothing_fits_the_setting_that_helps_is_named():
    def probe(_: Thrift) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TrainingFailed) as failure:
        choose_thrift(True, wire.TrainSpec(batch_size=4), probe, lambda _: None)
    assert (failure.value.code, "train.batch_size = 1" in failure.value.hint) == ("out-of-memory", True)


def test_what_one_process_needs_all_do():
    chosen = choose_thrift(True, wire.TrainSpec(), lambda _: None, lambda _: None, agreed=lambda rung: max(rung, 1))
    assert chosen == ladder(1)[1]


def test_an_error_that_is_not_about_memory_passes_the_probe():
    def probe(_: Thrift) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        choose_thrift(True, wire.TrainSpec(), probe, lambda _: None)


def test_there_is_nothing_beyond_the_last_rung():
    assert next_rung(ladder(2)[-1], 2) is None
    assert next_rung(ladder(2)[0], 2) == ladder(2)[1]


def test_work_is_done_the_thrifty_way_after_the_memory_ran_out():
    told: list[str] = []

    def work(thrifty: bool) -> str:
        if not thrifty:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert twice(work, "drawing", "rent more", told.append) == "done"
    assert told == ["CUDA out of memory"]


# ---- whole runs ----------------------------------------------------------------------------------------------------


class ShortOfMemory:
    """A family whose denoiser refuses passes of more rows than fit, as a GPU would."""

    def __init__(self, base: Path, rows_that_train: int, rows_that_draw: int = 99, after_passes: int = 0) -> None:
        self._family: Any = open_base(str(base))
        self._rows_that_train, self._rows_that_draw, self._after = rows_that_train, rows_that_draw, after_passes
        self._passes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def predict(self, denoiser: Any, noisy: torch.Tensor, *others: Any) -> torch.Tensor:
        self._passes += torch.is_grad_enabled()
        room = self._rows_that_train if torch.is_grad_enabled() else self._rows_that_draw
        if len(noisy) > room and (self._passes > self._after or not torch.is_grad_enabled()):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        predicted: torch.Tensor = self._family.predict(denoiser, noisy, *others)
        return predicted


def run(job: wire.Job, run_folder: Path, family: Any) -> Watched:
    watched = Watched()
    train(job, run_folder, "unused", watched.emit, watched.should_stop, open_family=lambda _: family)
    return watched


def test_a_step_that_does_not_fit_the_thriftier_way_either_ends_the_run_with_the_setting_that_helps(
    epsilon_base, run_folder
):
    """On a CPU nothing is probed: what a larger picture does to a GPU in mid-run happens here at the third step."""
    job = tiny_job(photo_set(run_folder, "instance", 2), steps=4, batch_size=2)
    with pytest.raises(TrainingFailed) as failure:
        run(job, run_folder, ShortOfMemory(epsilon_base, rows_that_train=1, after_passes=2))
    assert failure.value.code == "out-of-memory"  # gradient checkpointing alone leaves the rows as they are
    assert "train.batch_size = 1" in failure.value.hint


def test_a_failed_step_leaves_the_last_checkpoint_whole_and_the_run_can_go_on(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 2), steps=4, batch_size=2, checkpoint_every=2)
    with pytest.raises(TrainingFailed):
        run(job, run_folder, ShortOfMemory(epsilon_base, rows_that_train=1, after_passes=2))
    again = Watched()
    assert again.train(job, run_folder, epsilon_base).manifest_sha256 is not None
    assert any(decision.what == "resume from step 2" for decision in again.of(wire.Decision))


class OnceShort(ShortOfMemory):
    """Has room again after one refusal."""

    def predict(self, denoiser: Any, noisy: torch.Tensor, *others: Any) -> torch.Tensor:
        try:
            return super().predict(denoiser, noisy, *others)
        except torch.OutOfMemoryError:
            self._rows_that_train = 99
            raise


def test_what_was_given_up_is_said_and_kept_by_a_resumed_run(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 2), steps=4, batch_size=2)
    watched = run(job, run_folder, OnceShort(epsilon_base, rows_that_train=1, after_passes=2))
    said = [decision for decision in watched.of(wire.Decision) if "checkpointing on" in decision.what]
    assert [decision.why for decision in said] == ["memory ran out at step 3, which is done again this way"]
    state = (run_folder / wire.checkpoint_folder(4) / "state.json").read_text()
    assert '"gradient_checkpointing": true' in state


def test_pictures_and_evaluations_that_do_not_fit_are_made_row_by_row(epsilon_base, run_folder):
    job = tiny_job(
        photo_set(run_folder, "instance", 1), steps=1, validation_prompts=(PROMPT,), validation_guidance_scale=4.0
    )
    watched = run(job, run_folder, ShortOfMemory(epsilon_base, rows_that_train=99, rows_that_draw=1))
    said = {decision.what for decision in watched.of(wire.Decision)}
    assert {"validation pictures are made row by row", "samples are evaluated one by one"} <= said
    assert len(watched.of(wire.SampleMade)) == 2
    assert (run_folder / "validation/strip.png").exists()


def test_class_images_that_do_not_fit_together_are_made_one_by_one(epsilon_base, run_folder):
    sets = photo_set(run_folder, "instance", 1), photo_set(run_folder, "class", 0, generate=1)
    job = tiny_job(*sets, steps=1, resolution=32, validation_guidance_scale=4.0)
    watched = run(job, run_folder, ShortOfMemory(epsilon_base, rows_that_train=99, rows_that_draw=1))
    assert "class images are made one by one" in {decision.what for decision in watched.of(wire.Decision)}
    assert watched.of(wire.StepDone)


def test_pictures_that_do_not_fit_at_all_end_the_run_with_a_setting(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 1), steps=1, validation_prompts=(PROMPT,))
    with pytest.raises(TrainingFailed) as failure:
        run(job, run_folder, ShortOfMemory(epsilon_base, rows_that_train=99, rows_that_draw=0))
    assert failure.value.code == "out-of-memory"
    assert "train.resolution" in failure.value.hint


@pytest.mark.parametrize("thrift", [Thrift(True, 2), Thrift(True, 4, offload=True)])
def test_thrift_changes_nothing_that_is_learned(thrift, epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 4), photo_set(run_folder, "class", 4), steps=4, batch_size=4)
    assert our_losses(job, run_folder, epsilon_base, thrift) == pytest.approx(
        our_losses(job, run_folder, epsilon_base), abs=1e-5
    )


# ---- export ----------------------------------------------------------------------------------------------------------


class ShortAtVerifying(ShortOfMemory):
    """Has no room for pipelines that are loaded back, so many times: by then adapters are fused and models let go."""

    def __init__(self, base: Path, times: int) -> None:
        super().__init__(base, rows_that_train=99)
        self._times = times

    def load_pipeline(self, folder: Path) -> Any:
        self._times -= 1
        if self._times >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._family.load_pipeline(folder)


@pytest.mark.parametrize(
    "settings",
    [{"method": "lora"}, {"method": "full", "ema_decay": 0.9, "optimizer": "adamw-bf16"}],
    ids=["adapter", "average over bf16"],
)
def test_an_export_that_ran_out_of_memory_is_made_anew_from_the_last_checkpoint_to_the_bit(
    settings, epsilon_base, tmp_path
):
    outcomes = []
    for times in (0, 1):
        folder = tmp_path / str(times)
        job = tiny_job(photo_set(folder, "instance", 1), steps=2, **settings)
        watched = Watched()
        short = ShortAtVerifying(epsilon_base, times)
        made = train(job, folder, "unused", watched.emit, watched.should_stop, open_family=lambda _, it=short: it)
        outcomes.append(made)
        said = [decision.what for decision in watched.of(wire.Decision) if "export from" in decision.what]
        assert said == ["export from the host's memory"] * times
    assert outcomes[0] == outcomes[1]


def test_an_export_that_never_fits_names_what_to_change_and_the_run_can_be_resumed(epsilon_base, run_folder):
    job = tiny_job(photo_set(run_folder, "instance", 1), steps=2)
    with pytest.raises(TrainingFailed) as failure:
        run(job, run_folder, ShortAtVerifying(epsilon_base, times=2))
    assert failure.value.code == "out-of-memory"
    assert "output.formats" in failure.value.hint
    again = Watched()
    assert again.train(job, run_folder, epsilon_base).manifest_sha256 is not None
    assert not again.of(wire.StepDone), "only the export was missing"
