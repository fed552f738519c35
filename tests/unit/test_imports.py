"""What is asked at every keystroke loads nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "boto3", "paramiko", "httpx", "pydantic", "PIL", "numpy", "diffusers", "jinja2"}

PROBE = """
import sys
from orchestrator.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("LOADED", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def loaded_by(*argv: str, **environ: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *argv], env={**os.environ, **environ}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 1, "the command said nothing"
    return set(done.stdout.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--version"]])
def test_help_loads_nothing_heavy(argv: list[str]) -> None:
    assert loaded_by(*argv) & HEAVY == set()


def test_completing_a_verb_loads_nothing_heavy() -> None:
    loaded = loaded_by(_CLOUDBOOTH_COMPLETE="bash_complete", COMP_WORDS="cloudbooth la", COMP_CWORD="1")
    assert loaded & HEAVY == set()


def test_the_probe_sees_what_is_loaded() -> None:
    assert "rich" in loaded_by("ps")
