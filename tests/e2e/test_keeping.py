"""Asking for a machine that stays warm, or for one that did, in words that cannot be followed.

That a kept machine serves the next run is shown where one is rented: `test_runpod`.
"""

from __future__ import annotations

from tests.e2e.command import Cloudbooth


def test_a_run_that_keeps_nothing_is_no_machine(cloudbooth: Cloudbooth) -> None:
    done = cloudbooth.run(*cloudbooth.launch_argv("dog", "--on", "nobody"), check=None)
    assert done.exit_code == 2
    assert "there is no run named `nobody`" in done.stderr


def test_a_time_that_is_none_is_explained(cloudbooth: Cloudbooth) -> None:
    done = cloudbooth.run(*cloudbooth.launch_argv("dog", "--keep", "soon"), check=2)
    assert "--keep takes a time" in done.stderr
    assert "--keep 30m" in done.stderr
