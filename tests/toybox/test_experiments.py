"""What the tables of docs/experiments.md say is what was found. Nothing here trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import judge
import tables
from remote_trainer.bases import shipped
from variants import EXPERIMENTS, GROWING, Variant, key_of


@pytest.fixture(scope="module")
def base() -> Path:
    return shipped.folder_of("toybox")


def result(hits: int, *, diversity: float = 0.5, photo_loss: float | None = None) -> tables.Result:
    counted = judge.Share(hits, 24)
    return tables.Result(*[counted] * 7, diversity=diversity, train_s=60.0, weights_sha256="00", photo_loss=photo_loss)


def row_of(lines: list[str], label: str) -> str:
    return next(line for line in lines if line.startswith(f"| {label} |"))


def test_the_page_shows_the_results_that_lie_beside_the_script(base: Path) -> None:
    page = tables.PAGE.read_text("utf-8")
    assert tables.with_tables(page, tables.released(), base) == page
    assert all(f"<!-- table: {name} -->" in page for name in EXPERIMENTS)


def test_every_result_that_is_shown_belongs_to_an_experiment_as_it_is_now(base: Path) -> None:
    known = {key_of(variant, base) for variants in EXPERIMENTS.values() for variant in variants}
    assert {key for key, _ in tables.released()} <= known


def test_equal_ways_to_train_are_one_run_in_all_experiments(base: Path) -> None:
    assert key_of(Variant("λ = 1"), base) == key_of(Variant("all weights"), base)
    assert key_of(Variant("λ = 1"), base) != key_of(Variant("λ = 1", {"steps": 5}), base)


@pytest.mark.parametrize("name", GROWING)
def test_variants_that_grow_out_of_each_other_differ_in_their_steps_alone(name: str) -> None:
    variants = EXPERIMENTS[name]
    steps = [variant.steps for variant in variants]
    assert steps == sorted(set(steps))
    otherwise = [replace(each, label="", settings={**each.settings, "steps": 0}) for each in variants]
    assert all(each == otherwise[0] for each in otherwise)


def test_a_table_adds_up_the_seeds(base: Path, tmp_path: Path) -> None:
    for seed, hits in enumerate((20, 22, 21)):
        tables.store(result(hits), Variant("λ = 1"), base, seed, tmp_path)
    row = row_of(tables.tables_of("prior", tables.of_folder(tmp_path), base), "λ = 1")
    assert row.startswith("| λ = 1 | 0.88 (0.77–0.98) |")
    assert row.endswith("| 0.88 (0.77–0.98) | 0.88 (0.77–0.98) | 0.88 (0.77–0.98) | 0.50 (0.50–0.50) | 3 |")


def test_seeds_that_agree_leave_the_interval_over_pictures() -> None:
    assert tables.share_told([judge.Share(24, 24)] * 3) == f"1.00 ({judge.Share(72, 72).interval[0]:.2f}–1.00)"


def test_seeds_that_differ_widen_the_interval() -> None:
    """Student, two degrees of freedom: 0.5 ± 4.303 · 0.25 / √3, cut off where shares end."""
    assert tables.share_told([judge.Share(hits, 24) for hits in (6, 12, 18)]) == "0.50 (0.00–1.00)"
    assert tables.mean_told([0.25, 0.5, 0.75]) == "0.50 (0.00–1.12)"


def test_of_each_seed_the_checkpoint_with_the_lowest_score_is_taken(base: Path) -> None:
    fewer, more = EXPERIMENTS["best"][:2]
    results = {
        (key_of(variant, base), seed): result(hits, photo_loss=loss)
        for variant, hits, losses in ((fewer, 24, (0.3, 0.1)), (more, 0, (0.2, 0.2)))
        for seed, loss in enumerate(losses)
    }
    lines = tables.tables_of("best", results, base)
    assert row_of(lines, "the last one").startswith(f"| the last one | {more.steps}, {more.steps} | 0.00 ")
    chosen = row_of(lines, "the lowest loss on the photos")
    assert chosen.startswith(f"| the lowest loss on the photos | {more.steps}, {fewer.steps} | 0.50 ")
