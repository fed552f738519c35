"""What `ps`, `status` and the end of a run say."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.cli.render.run_list import RunView, render_runs
from orchestrator.cli.render.runs import StatusView, losses_over_steps, render_status
from orchestrator.cli.render.summary import Summary, loss_fell
from orchestrator.ledger import ArtifactRecord
from remote_trainer import wire

LONG_FOLDER = "/home/somebody/a folder:dog: with a long name/" + "deep/" * 20 + "[1]/checkpoint-000100"


def run(*, state: str = "training", driven: bool = False, name: str = "int-dog") -> RunView:
    return RunView(
        run=name, state=state, reason="done" if state == "ended" else None, driven=driven, step=120, steps=1000,
        loss=0.0831, provider="local", attempt=1, created_at=0.0, ended_at=None, machines_held=(), may_bill=(),
        bills_per_hour_usd=0.0, stopped=False, cost_usd=0.0,
    )  # fmt: skip


def status(**more: object) -> StatusView:
    facts: dict[str, object] = {
        "phase": "", "eta_s": None, "images_per_s": None, "evaluations": (), "warnings": (), "failure": None,
        "failure_hint": None, "moves": (), "artifacts": (), "pictures": None, "folder": LONG_FOLDER,
    }  # fmt: skip
    return StatusView(**{**facts, **more})  # type: ignore[arg-type]


def losses(*values: float) -> tuple[wire.Evaluated, ...]:
    return tuple(wire.Evaluated(100 * index, value) for index, value in enumerate(values))


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ---- ps --------------------------------------------------------------------------------------------------------------


def test_a_stopped_disk_is_shown_by_the_day(console: Console) -> None:
    disk = replace(
        run(name="cat"), may_bill=("cb-cat",), machines_held=("cb-cat",), bills_per_hour_usd=0.005, stopped=True
    )
    render_runs([disk, run(name="dog")], 0, console)
    told = shown(console)
    assert "BILLS" in told
    assert "$0.12/day" in told


def test_an_unattended_run_comes_with_the_command_that_takes_it_up_on_a_line_of_its_own(console: Console) -> None:
    render_runs([run()], 0, console)
    assert "training, unattended" in shown(console)
    assert "  cloudbooth attach int-dog\n" in shown(console)


@pytest.mark.parametrize("view", [run(driven=True), run(state="ended")], ids=["driven", "ended"])
def test_no_command_is_offered_for_a_run_that_needs_none(view: RunView, console: Console) -> None:
    render_runs([view], 0, console)
    assert "unattended" not in shown(console)
    assert "cloudbooth attach" not in shown(console)


def test_the_list_fits_eighty_columns_and_shows_every_letter_of_a_long_name(console: Console) -> None:
    name = "".join(chr(ord("a") + index % 26) for index in range(64))
    render_runs([run(name=name)], 0, console)
    table = shown(console).partition("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert "".join(line.split(" ")[0] for line in table[1:]) == name
    assert f"  cloudbooth attach {name}\n" in shown(console)


# ---- status ----------------------------------------------------------------------------------------------------------


def test_paths_in_the_status_can_be_copied_however_long_they_are(console: Console) -> None:
    artifact = ArtifactRecord("checkpoint", 100, LONG_FOLDER, "")
    render_status(run(), status(artifacts=(artifact,), pictures=LONG_FOLDER), console)
    for label in ("checkpoint", "pictures", "files"):
        [line] = [line for line in shown(console).splitlines() if line.startswith(label)]
        assert line.endswith(f" {LONG_FOLDER}")


def test_the_status_of_an_unattended_run_names_the_command(console: Console) -> None:
    render_status(run(), status(), console)
    assert "training, unattended: `cloudbooth attach int-dog` takes it up\n" in shown(console)


def test_a_failure_comes_with_its_hint(console: Console) -> None:
    render_status(run(), status(failure="out of memory", failure_hint="train.batch_size=1"), console)
    assert "failure  out of memory\nhint     train.batch_size=1\n" in shown(console)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ((0.9,), "0.9000 (step 0)"),
        ((0.9, 0.5), "0.9000 (step 0) → 0.5000 (100)"),
        ((0.9, 0.5, 0.4, 0.3), "0.9000 (step 0) → 0.5000 (100) → 0.4000 (200) → 0.3000 (300)"),
        ((0.9, 0.7, 0.5, 0.4, 0.3), "0.9000 (step 0) … 0.5000 (200) → 0.4000 (300) → 0.3000 (400)"),
    ],
)
def test_losses_are_told_from_the_first_to_the_last(values: tuple[float, ...], line: str) -> None:
    assert losses_over_steps(losses(*values)) == line


# ---- the end of a run ------------------------------------------------------------------------------------------------


def summary(reason: str, *values: float) -> Summary:
    looks = losses(*values)
    return Summary("int-dog", reason, 0, 400, 400, 0.0, None, None, looks, loss_fell(looks))


@pytest.mark.parametrize(
    ("values", "fell"),
    [((), None), ((0.9,), None), ((0.9, 0.5), True), ((0.9, 0.5, 0.9), False), ((0.9, 1.2), False)],
)
def test_a_run_has_learned_when_the_loss_on_the_fixed_set_fell(values: tuple[float, ...], fell: bool | None) -> None:
    assert loss_fell(losses(*values)) is fell


def test_a_finished_run_that_has_learned_nothing_says_so_and_what_to_try() -> None:
    [warning] = [line for line in summary("done", 0.9, 1.2).lines() if line.startswith("warning: ")]
    assert "did not fall" in warning
    assert "--set train.learning_rate=" in warning


@pytest.mark.parametrize(("reason", "values"), [("done", (0.9, 0.5)), ("done", (0.9,)), ("stopped", (0.9, 1.2))])
def test_no_warning_for_a_run_that_has_learned_or_was_ended_early(reason: str, values: tuple[float, ...]) -> None:
    assert [line for line in summary(reason, *values).lines() if "warning" in line] == []


def test_the_end_names_the_picture_of_before_and_after() -> None:
    ended = replace(summary("done", 0.9, 0.5), output="/m/dog", before_after="/m/dog/before-after.png")
    assert ended.lines()[-1] == "before and after: /m/dog/before-after.png"
