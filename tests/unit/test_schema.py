"""What verbs print with --json is what `schema` says."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator, ValidationError

from orchestrator.cli.main import cli, run
from orchestrator.cli.render.live import JsonReporter
from orchestrator.cli.render.summary import Summary
from orchestrator.cli.schema import NAMES, schema_of
from orchestrator.doctor import Finding, Verdict
from orchestrator.lifecycle import State
from orchestrator.progress import Progress
from remote_trainer import wire
from tests.fakes.photos import photo_folder
from tests.unit.recorded_run import RecordedRun


def require(name: str, line: dict[str, Any]) -> None:
    Draft202012Validator(schema_of(name)).validate(line)


@pytest.mark.parametrize("name", NAMES)
def test_every_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(schema_of(name))
    with pytest.raises(ValidationError):
        require(name, {"type": "nothing"})


def test_the_verb_prints_one_or_all() -> None:
    one = json.loads(CliRunner().invoke(cli, ["schema", "run"], standalone_mode=False).stdout)
    assert one == schema_of("run")
    every = json.loads(CliRunner().invoke(cli, ["schema", "--json"], standalone_mode=False).stdout)
    assert tuple(every) == NAMES


def test_lines_of_a_driver(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    reporter = JsonReporter(out)
    reporter.moved(State.TRAINING, "the host has everything")
    reporter.event(wire.Envelope(0, 0.0, wire.Stopped(1)), Progress())
    reporter.transfer("model", 1, 2)
    reporter.arrived("model", "/m")
    reporter.note("reconnecting")
    for line in map(json.loads, out.getvalue().splitlines()):
        require(line["type"], line)
    ended = Summary("dog", "done", 0, 4, 4, 0.1, "/m", None, (wire.Evaluated(0, 0.9),))
    require("end", json.loads(json.dumps(ended.to_data())))
    run(["status", "nobody", "--json"])
    require("error", json.loads(capsys.readouterr().out))


def test_runs_their_status_and_report(isolated_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RecordedRun(isolated_home / "cloudbooth").begin()
    for name, argv in (("run", ["ps"]), ("status", ["status", "dog"]), ("report", ["report", "dog"])):
        run([*argv, "--json"])
        require(name, json.loads(capsys.readouterr().out.splitlines()[0]))


def test_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = photo_folder(tmp_path / "photos")
    run(["plan", str(photos), "--subject", "sks dog", "--set", "model.base=builtin:tiny", "--json"])
    require("plan", json.loads(capsys.readouterr().out.splitlines()[0]))


def test_findings_and_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Finding("disk", Verdict.GOOD, "40 GB free")
    require("finding", {"type": "finding", **asdict(found), "verdict": found.verdict.value})
    run(["dataset", "check", str(photo_folder(tmp_path / "photos")), "--json"])
    for line in capsys.readouterr().out.splitlines()[:-1]:
        require("photo", json.loads(line))
