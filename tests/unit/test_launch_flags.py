"""Flags of `plan` and `launch` that stand for keys of the spec."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.driving import NewLimits, take_up
from orchestrator.cli.main import cli, run
from orchestrator.errors import ExitCode, UsageError
from orchestrator.home import RunHome
from orchestrator.lifecycle import EndReason, State
from orchestrator.planning import look_up
from orchestrator.spec import spec_from_json, spec_to_json
from orchestrator.spec_file import load_spec, spec_from_photos
from orchestrator.staging import stage
from orchestrator.wiring import wire_up
from tests.fakes.photos import photo_folder


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For this machine, with a ceiling and a time of its own."""
    monkeypatch.chdir(tmp_path)
    photo_folder(tmp_path / "photos")
    file = tmp_path / "dog.toml"
    file.write_text(
        '[subject]\ninstance_prompt = "a photo of sks dog"\n[data]\ninstance = "photos"\n'
        '[model]\nbase = "builtin:tiny"\n[train]\nresolution = 64\n[limits]\nmax_cost_usd = 9\nmax_hours = 9\n'
    )
    return file


def test_limits_given_as_flags_win_over_the_spec(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(spec), "--max-cost", "2.5", "--max-hours", "1.5", "--max-price", "0.4", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (plan["max_cost_usd"], plan["deadline_s"]) == (2.5, 1.5 * 3600)
    assert any("compute.max_price_per_hour" in warning["message"] for warning in plan["warnings"])


def test_photos_keep_their_own_pixels_only_when_asked(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, kept in (([], False), (["--ship-originals"], True)):
        assert run(["plan", str(spec), *flags, "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[0])["ship_originals"] is kept


@pytest.mark.parametrize(("kept", "suffix"), [(False, ".png"), (True, ".jpg")])
def test_what_the_plan_says_of_photos_is_staged(spec: Path, tmp_path: Path, kept: bool, suffix: str) -> None:
    planned = look_up(wire_up(), load_spec(spec, [f"data.ship_originals={str(kept).lower()}"]))
    images = stage(RunHome(tmp_path / "run"), planned).datasets[0].images
    assert {Path(image.file).suffix for image in images} == {suffix}
    assert {image.original for image in images} == {kept}


def test_spot_is_asked_of_the_provider(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(spec), "--spot"]) == ExitCode.USAGE
    assert "local does not rent on the spot market" in capsys.readouterr().err
    assert run(["plan", str(spec), "--spot", "--on-demand"]) == 0, "the last one counts"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--on", "runpod:"], "--on takes a run, or a provider and an id"),
        (["--on", "abc123"], "there is no run named `abc123`"),
        (["--on", "runpod:abc123", "--host", "me@box"], "--on names provider and machine by itself"),
        (["--on", "local:abc123"], "compute.machine is an id at a provider that rents"),
    ],
)
def test_a_machine_of_ones_own_is_named_by_provider_and_id(
    spec: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert run(["plan", str(spec), *flags]) == ExitCode.USAGE
    told = capsys.readouterr().err
    assert said in told
    assert "hint:" in told


def test_a_run_is_granted_more_when_it_is_resumed(spec: Path) -> None:
    wiring = wire_up()
    wiring.ledger.add_run("dog", "local", spec_to_json(load_spec(spec, [])), "{}")
    epoch = wiring.ledger.become_driver("dog")
    wiring.ledger.move("dog", epoch, State.PLANNED, State.RELEASING, "", EndReason.STOPPED)
    wiring.ledger.move("dog", epoch, State.RELEASING, State.ENDED, "")
    take_up(wiring, "dog", epoch, NewLimits(max_cost_usd=12.0))
    resumed = wiring.ledger.run("dog")
    limits = spec_from_json(resumed.spec_json).limits
    assert (resumed.attempt, limits.max_cost_usd, limits.max_hours) == (2, 12.0, 9.0)


def test_an_endpoint_without_its_scheme_comes_with_the_address_it_meant() -> None:
    with pytest.raises(UsageError) as caught:
        spec_from_photos(
            Path("/photos"), "sks dog", ["storage.url=s3://bucket/p", "storage.endpoint_url=s3.example.com"]
        )
    assert "storage.endpoint_url" in caught.value.message
    assert "--set storage.endpoint_url=https://s3.example.com" in caught.value.message + caught.value.hint


def test_every_option_has_a_variable(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDBOOTH_PLAN_STEPS", "33")
    done = CliRunner().invoke(cli, ["plan", str(spec), "--json"], standalone_mode=False)
    assert done.exception is None, done.exception
    assert json.loads(done.stdout.splitlines()[0])["train"]["steps"] == 33
