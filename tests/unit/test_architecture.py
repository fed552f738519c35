"""The arrows between the rooms, as far as import-linter's contracts must be kept complete by hand."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_orchestrator_is_kept_from_every_module_of_the_trainer_but_wire() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [forbidden] = [c["forbidden_modules"] for c in contracts if c["name"].startswith("orchestrator sees only")]
    here = {
        f"remote_trainer.{path.stem}"
        for path in (ROOT / "remote_trainer").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem not in ("__init__", "wire")
    }
    assert set(forbidden) == here


def test_grab_bags_have_no_room() -> None:
    names = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    packages = ("orchestrator", "providers", "remote_trainer", "tests")
    assert [path for package in packages for path in (ROOT / package).rglob("*.py") if path.stem in names] == []
