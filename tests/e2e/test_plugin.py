"""A provider from another package, installed the way a user installs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.command import Cloudbooth

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_provider"


def test_an_installed_plug_in_is_found_by_its_name(cloudbooth: Cloudbooth, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target",
         str(tmp_path / "plug-in"), str(EXAMPLE)],
        check=True,
    )  # fmt: skip
    cloudbooth.environ["PYTHONPATH"] = str(tmp_path / "plug-in")
    refused = cloudbooth.run(*cloudbooth.launch_argv("dog", "--provider", "lambda", "--dry-run"), check=None)
    assert "there is no key for Lambda Cloud" in refused.stderr + refused.stdout
    assert "LAMBDA_API_KEY" in refused.stderr + refused.stdout


def test_the_example_stays_small() -> None:
    assert len((EXAMPLE / "cloudbooth_lambda.py").read_text().splitlines()) <= 120
