"""How long a run may last, counted over suspends, restarts and boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from remote_trainer.deadline import Allowance, Elapsed


def test_time_counts_on_the_clock_of_one_boot() -> None:
    assert Elapsed("m", 10.0, 100.0, "boot").at(130.0, "boot").elapsed_s == 40.0


def test_another_boot_starts_its_clock_anew_and_the_count_goes_on() -> None:
    after = Elapsed("m", 10.0, 5000.0, "old").at(3.0, "new")
    assert (after.elapsed_s, after.at(8.0, "new").elapsed_s) == (10.0, 15.0)


def test_a_clock_that_ran_backwards_counts_nothing() -> None:
    assert Elapsed("m", 10.0, 100.0, "boot").at(90.0, "boot").elapsed_s == 10.0


def test_a_restarted_supervisor_gets_no_new_allowance(tmp_path: Path) -> None:
    first = Allowance(tmp_path, machine="one", deadline_s=100.0)
    elapsed_s = first.tick()
    again = Allowance(tmp_path, machine="one", deadline_s=100.0)
    assert again.left_s <= 100.0 - elapsed_s


def test_another_machine_gets_the_whole_allowance(tmp_path: Path) -> None:
    (tmp_path / "elapsed.json").write_text('{"machine": "one", "elapsed_s": 90.0, "clock_s": 0.0, "boot": "gone"}')
    assert Allowance(tmp_path, machine="one", deadline_s=100.0).left_s <= 10.0
    assert Allowance(tmp_path, machine="two", deadline_s=100.0).left_s == pytest.approx(100.0, abs=1.0)


def test_without_a_deadline_there_is_always_time(tmp_path: Path) -> None:
    assert Allowance(tmp_path, machine="one", deadline_s=None).left_s == float("inf")
