"""What the pages say is what the program does."""

from __future__ import annotations

import io
import json
import re
import shlex
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from docs.generate_cli import MEANINGS, pages, refreshed, spec_keys
from orchestrator.cli.main import VERBS, cli
from orchestrator.cli.render.live import JsonReporter
from orchestrator.errors import ExitCode, UsageError
from orchestrator.lifecycle import EndReason, State
from orchestrator.progress import Progress
from orchestrator.spec_file import load_spec
from providers.registry import GROUP
from remote_trainer import wire

ROOT = Path(__file__).parents[2]
WRITTEN = [
    path
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
    if path.name != "CHANGELOG.md"
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PLACEHOLDERS = {"VERB", "…"}


def _fences(language: str) -> Iterator[tuple[Path, str]]:
    for path in WRITTEN:
        for kind, body in FENCE.findall(path.read_text("utf-8")):
            if kind == language:
                yield path, body


def _command_lines() -> Iterator[tuple[Path, str]]:
    """Of shell blocks, of inline code, and of the examples in the help."""
    for path, body in _fences("sh"):
        lines = (line.strip() for line in body.replace("\\\n", " ").splitlines())
        yield from ((path, line) for line in lines if line.startswith("cloudbooth"))
    for path in WRITTEN:
        text = path.read_text("utf-8")
        yield from ((path, line) for line in re.findall(r"`(cloudbooth [^`\n]+)`", FENCE.sub("", text)))
        yield from ((path, line.strip()) for line in re.findall(r"^ *Example: (cloudbooth .*)$", text, re.MULTILINE))


def _arguments(line: str) -> list[str]:
    """Up to a pipe or a redirection; comments are left out."""
    words = shlex.split(line, comments=True)
    ends = [words.index(sign) for sign in ("|", ">", ">>", "&&") if sign in words]
    return words[1 : min(ends, default=len(words))]


def _cases(found: Iterator[tuple[Path, str]]) -> list[object]:
    return [pytest.param(text, id=f"{path.name}: {text[:60]}") for path, text in found]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_generated_parts_are_as_the_code_says_now(page: Path) -> None:
    assert refreshed(page) == page.read_text("utf-8"), "`make docs` writes it anew"


@pytest.mark.parametrize("code", list(ExitCode), ids=lambda code: code.name)
def test_every_exit_code_is_on_the_page(code: ExitCode) -> None:
    assert f"| {code.value} | `{code.name}` |" in (ROOT / "docs/cli.md").read_text("utf-8")


@pytest.mark.parametrize("reason", list(EndReason), ids=lambda reason: reason.name)
def test_every_reason_for_an_end_is_on_the_page(reason: EndReason) -> None:
    assert f"| `{reason.value}` |" in (ROOT / "docs/cli.md").read_text("utf-8")


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)
def test_every_state_is_explained(state: State) -> None:
    assert f"\n| `{state.value}` |" in (ROOT / "docs/architecture.md").read_text("utf-8")


@pytest.mark.parametrize("code", typing.get_args(wire.FailureCode))
def test_every_failure_code_comes_with_what_to_do(code: str) -> None:
    [row] = [line for line in _troubles() if line.startswith(f"| `{code}` |")]
    assert all(cell.strip() for cell in row.split("|")[1:4])


@pytest.mark.parametrize("code", [code for code in ExitCode if code], ids=lambda code: code.name)
def test_every_exit_code_comes_with_what_to_do(code: ExitCode) -> None:
    assert any(str(code.value) in line.split("|")[1].replace(",", " ").split() for line in _troubles())


def _troubles() -> list[str]:
    return [
        line for line in (ROOT / "docs/troubleshooting.md").read_text("utf-8").splitlines() if line.startswith("| ")
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example_in_its_help(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert f"Example: cloudbooth {verb}" in (command.epilog or "")


def test_meanings_are_given_to_keys_that_exist() -> None:
    assert set(MEANINGS) <= {key.path for key in spec_keys()}


@pytest.mark.parametrize("text", _cases((path, text) for path, text in _fences("toml") if "[project." not in text))
def test_every_spec_in_the_docs_is_accepted(text: str, tmp_path: Path) -> None:
    spec = tmp_path / "my-dog.toml"
    spec.write_text(text, "utf-8")
    assert load_spec(spec).name


def test_the_plug_in_examples_register_where_providers_are_looked_for() -> None:
    examples = [tomllib.loads(text) for _, text in _fences("toml") if "[project." in text]
    assert examples
    assert all(list(example["project"]["entry-points"]) == [GROUP] for example in examples)


@pytest.mark.parametrize("line", _cases(_command_lines()))
def test_every_command_in_the_docs_can_be_parsed(line: str) -> None:
    arguments = _arguments(line)
    if PLACEHOLDERS & set(arguments):
        assert arguments[0] in (*VERBS, *PLACEHOLDERS)
        return
    name, *rest = arguments
    if name.startswith("-"):
        assert name in {option for parameter in cli.get_params(click.Context(cli)) for option in parameter.opts}
        return
    context = click.Context(cli, info_name="cloudbooth", **cli.context_settings)
    command = cli.get_command(context, name)
    assert command is not None, f"there is no verb {name}"
    if "--help" in rest:
        return
    try:
        with command.make_context(name, rest, parent=context) as made:
            if isinstance(command, click.Group) and rest:
                inner = command.get_command(made, rest[0])
                assert inner is not None, f"{name} has no verb {rest[0]}"
                inner.make_context(rest[0], rest[1:], parent=made)
    except UsageError as error:
        if "needs the package" not in error.message:  # an extra, which need not be installed where tests run
            raise


def test_what_a_driver_prints_as_json_has_the_keys_on_the_page() -> None:
    out = io.StringIO()
    reporter = JsonReporter(out)
    reporter.moved(State.TRAINING, "")
    reporter.event(wire.Envelope(0, 0.0, wire.Stopped(1)), Progress())
    reporter.transfer("", 0, 0)
    reporter.arrived("", "")
    reporter.note("")
    page = (ROOT / "docs/cli.md").read_text("utf-8")
    for line in out.getvalue().splitlines():
        kind, *keys = json.loads(line)
        row = next(row for row in page.splitlines() if row.startswith(f"| `{json.loads(line)[kind]}` |"))
        named = re.findall(r"`(\w+)`", row.split("|")[3])
        assert named[: len(keys)] == keys


def test_every_event_in_the_docs_can_be_read() -> None:
    lines = [line for path, body in _fences("json") if path.name == "events.md" for line in body.splitlines()]
    assert lines
    for line in lines:
        event = wire.decode_event(line.encode()).event
        assert not isinstance(event, wire.Unknown)
        assert json.loads(line)["type"] == event.TYPE


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", path.read_text("utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_page_on_training_names_every_setting():
    page = (ROOT / "docs/training.md").read_text("utf-8")
    settings = set(typing.get_type_hints(wire.TrainSpec)) - {"__pydantic_config__"}
    assert sorted(setting for setting in settings if f"`{setting}`" not in page) == []


STATED = {"on": "True", "off": "False"}


@pytest.mark.parametrize(
    ("section", "defaults"),
    [("## Options", wire.TrainSpec()), ("**What it is trained on**", wire.DatasetSpec("", "instance", "", ""))],
    ids=["train", "data"],
)
def test_the_page_on_training_states_the_defaults(section: str, defaults: wire.TrainSpec | wire.DatasetSpec):
    page = (ROOT / "docs/training.md").read_text("utf-8").partition(section)[2].partition("\n## ")[0]
    stated = {
        key: STATED.get(word.strip("` "), word.strip("` "))
        for keys, words in re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", page, re.MULTILINE)
        for key, word in zip(re.findall(r"`(\w+)`", keys), words.split(", "), strict=False)
    }
    known = {key: getattr(defaults, key) for key in stated if getattr(defaults, key, None) not in (None, ())}
    assert len(known) > 3
    for key, value in known.items():
        said = stated[key]
        same = float(said) == value if type(value) in (int, float) else said == str(value)
        assert same, f"{key} is {value}, not {said}"
