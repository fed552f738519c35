"""`init`: from photos and three questions to a spec that can be planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from orchestrator.cli.init import asked_until_clear, place_of
from orchestrator.cli.main import cli
from orchestrator.recipes import LEAST_STEPS, MOST_STEPS, Kind, kind_of, recipe_for
from orchestrator.spec_file import load_spec
from tests.fakes.photos import photo_folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("RUNPOD_API_KEY", "VAST_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    photo_folder(tmp_path / "photos")
    return tmp_path


def initialized(*options: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["init", "photos", *options, "--json"], standalone_mode=False)
    assert done.exception is None, done.exception
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
@pytest.mark.parametrize("where", ["local", "me@gpu-box", "runpod", "vast", "any"])
def test_what_is_written_is_a_spec(kind: Kind, where: str) -> None:
    said = initialized("--subject", "zwx thing", "--kind", kind.value, "--where", where)
    spec = load_spec(Path(said["spec"]))
    assert spec.subject.instance_prompt.endswith("zwx thing")
    assert spec.compute.provider == ("ssh" if "@" in where else where)
    assert said["kind"] == kind.value
    assert (said["cost_usd"] is None) == (where in ("local", "me@gpu-box"))


def test_a_plan_can_be_made_of_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDBOOTH_HOME", str(here / "state"))
    said = initialized("--subject", "sks dog", "--where", "local")
    argv = ["plan", said["spec"], "--set", "model.base=builtin:tiny", "--json"]
    done = CliRunner().invoke(cli, argv, standalone_mode=False)
    assert done.exception is None, done.exception
    planned = json.loads(done.stdout.splitlines()[0])
    assert [each["generate"] for each in planned["sets"]] == [0, 100]
    assert planned["train"]["steps"] == said["steps"] == LEAST_STEPS


def test_every_line_that_decides_something_says_why() -> None:
    text = Path(initialized("--subject", "sks woman", "--where", "runpod", "--budget", "3")["spec"]).read_text()
    for key in ("instance_prompt", "regularization", "steps", "lora_rank", "trust", "max_cost_usd"):
        [line] = [line for line in text.splitlines() if line.startswith(f"{key} =")]
        assert "   # " in line
    assert "max_cost_usd = 3.00" in text
    assert "# expected: " in text
    assert 'instance = "photos"' in text


def test_asked_for_nothing_it_answers_by_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert initialized("--out", "a.toml")["provider"] == "local"
    monkeypatch.setenv("VAST_API_KEY", "x")
    assert initialized("--out", "b.toml")["provider"] == "vast"
    assert load_spec(here / "b.toml").subject.instance_prompt == "a photo of sks object"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--where", "moon"), '"moon" is no provider and no host'),
        (("--where", "runpood"), "did you mean runpod"),
        (("--subject", "a" * 300), "a subject of 300 letters"),
        (("--where", "ssh"), "a machine over SSH wants its address"),
        (("--out", "spec.yaml"), "a spec is a .toml file"),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(options: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(cli, ["init", "photos", "--yes", *options], standalone_mode=False)
    assert message in str(done.exception)
    assert getattr(done.exception, "hint", "")


def test_without_a_terminal_it_says_what_it_decided() -> None:
    done = CliRunner().invoke(cli, ["init", "photos", "--subject", "a brown dog"], standalone_mode=False)
    assert 'decided: it is called "sks brown dog" (--subject)' in done.stderr
    assert "decided: trained on: local (--where)" in done.stderr
    assert "recipe" not in done.stderr, "the words tell which"


def test_without_a_terminal_and_a_word_it_says_which_recipe_it_took() -> None:
    done = CliRunner().invoke(cli, ["init", "photos"], standalone_mode=False)
    assert "decided: the recipe is that for an object (--kind person, animal or style takes another)\n" in done.stderr


def test_an_unclear_answer_is_asked_again_with_the_reason() -> None:
    @click.command()
    def ask() -> None:
        click.echo(f"trains on {asked_until_clear('Train on', 'local', place_of)}")

    done = CliRunner().invoke(ask, input="moon\nme@gpu-box\n")
    assert '"moon" is no provider and no host' in done.output
    assert "host='me@gpu-box'" in done.output


def test_a_spec_that_is_there_is_not_written_over() -> None:
    initialized("--subject", "sks dog")
    done = CliRunner().invoke(cli, ["init", "photos", "--subject", "sks dog", "--yes"], standalone_mode=False)
    assert "exists already" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "kind"),
    [("sks dog", Kind.ANIMAL), ("sks old man", Kind.PERSON), ("sks backpack", Kind.OBJECT),
     ("sks watercolor style", Kind.STYLE)],
)  # fmt: skip
def test_the_words_tell_the_kind(words: str, kind: Kind) -> None:
    assert kind_of(words) is kind


@pytest.mark.parametrize(("photos", "steps"), [(1, LEAST_STEPS), (10, 1200), (500, MOST_STEPS)])
def test_steps_follow_the_photos_within_bounds(photos: int, steps: int) -> None:
    assert recipe_for(Kind.PERSON, "sks woman", photos).steps == steps


def test_a_style_has_no_class_of_its_own() -> None:
    recipe = recipe_for(Kind.STYLE, "sks watercolor style", 10)
    assert recipe.class_prompt is None
    assert recipe.regularization == "none"
    assert "in sks watercolor style" in recipe.validation_prompts[0]
