"""Settings under a name in the user's own file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import cli
from orchestrator.errors import UsageError
from orchestrator.user_config import profile_overrides
from tests.fakes.photos import photo_folder


@pytest.fixture
def config(isolated_home: Path) -> Path:
    file = isolated_home / "cloudbooth" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        '[profiles.short]\ntrain.steps = 30\nmodel.base = "builtin:tiny"\n'
        '[profiles.secure.compute]\ntrust = "secure"\ngpu = ["A5000", "4090"]\n'
        "[profiles.odd]\nsets = [{ id = 1 }]\n"
    )
    return file


def planned(tmp_path: Path, *options: str, environ: dict[str, str] | None = None) -> int:
    photos = photo_folder(tmp_path / "photos")
    argv = ["plan", str(photos), "--subject", "sks dog", *options, "--json"]
    done = CliRunner().invoke(cli, argv, standalone_mode=False, env=environ)
    assert done.exception is None, done.exception
    return int(json.loads(done.stdout.splitlines()[0])["train"]["steps"])


def test_a_profile_is_a_set_of_flags(config: Path) -> None:
    assert profile_overrides(config, "secure") == ('compute.trust="secure"', 'compute.gpu=["A5000", "4090"]')


@pytest.mark.usefixtures("config")
def test_a_flag_wins_over_the_profile(tmp_path: Path) -> None:
    assert planned(tmp_path, "--profile", "short") == 30
    assert planned(tmp_path, "--profile", "short", "--steps", "40") == 40
    assert planned(tmp_path, environ={"CLOUDBOOTH_PROFILE": "short"}) == 30


@pytest.mark.parametrize(
    ("name", "message"),
    [("unknown", "has no profile `unknown`"), ("odd", "sets cannot stand in a profile")],
)
def test_what_is_no_profile_is_named(config: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        profile_overrides(config, name)
    assert caught.value.hint


def test_without_the_file_there_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no profile"):
        profile_overrides(tmp_path / "config.toml", "short")
