"""One host, two laptops, one name: neither run touches the other."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.command import Cloudbooth


def test_two_laptops_may_give_their_runs_the_same_name(cloudbooth_over_ssh: Cloudbooth, tmp_path: Path) -> None:
    first = cloudbooth_over_ssh
    second = Cloudbooth(tmp_path / "other", first.machine, first.environ)
    second.root.mkdir()
    first.run(*first.launch_argv("robot", "--steps", "80", "--detach"))
    done = second.run(*second.launch_argv("robot", "--steps", "10"))
    assert (done.summary["reason"], done.summary["step"]) == ("done", 10)
    done = first.run("attach", "robot", "--json")
    assert (done.summary["reason"], done.summary["step"]) == ("done", 80)
