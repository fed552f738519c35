"""Hints carry the run's name, so that they can be pasted."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from orchestrator.cli.options import run_argument
from orchestrator.cli.watch import logs, status
from orchestrator.hints import hint_for
from orchestrator.host import HostError
from orchestrator.wiring import wire_up
from remote_trainer import wire


@pytest.mark.parametrize(
    ("hint", "named"),
    [
        ("`cloudbooth resume RUN` continues", "`cloudbooth resume my-dog` continues"),
        ("`cloudbooth logs RUN --trainer` shows more", "`cloudbooth logs my-dog --trainer` shows more"),
        (
            "`cloudbooth logs RUN`, then `cloudbooth resume RUN`",
            "`cloudbooth logs my-dog`, then `cloudbooth resume my-dog`",
        ),
    ],
)
def test_a_command_without_a_name_gets_the_name_of_the_run(hint: str, named: str) -> None:
    assert hint_for("my-dog", hint) == named


@pytest.mark.parametrize("hint", ["mv /photos/RUN /photos/RUN-before", "see /RUN/train.log", "`rm -r '/a RUN '`", ""])
def test_a_path_that_holds_the_word_is_left_alone(hint: str) -> None:
    assert hint_for("my-dog", hint) == hint


def test_an_error_of_any_verb_about_a_run_names_that_run() -> None:
    @click.command()
    @run_argument
    def verb(run: str) -> None:
        raise HostError(f"{run} is elsewhere", "`cloudbooth down RUN` gives the machine back")

    error = CliRunner().invoke(verb, ["my-dog"]).exception
    assert isinstance(error, HostError)
    assert error.hint == "`cloudbooth down my-dog` gives the machine back"


@pytest.mark.parametrize("verb", [status, logs])
def test_a_failure_is_shown_with_its_hint(verb: click.Command) -> None:
    wiring = wire_up()
    wiring.ledger.add_run("my-dog", "local", "{}", "{}")
    home = wiring.home.run("my-dog")
    home.root.mkdir(parents=True)
    failed = wire.Failed("stalled", "no sign of life", "`cloudbooth resume RUN` continues")
    home.events("one").write_bytes(wire.encode_event(failed, 0, 1.0))
    said = CliRunner().invoke(verb, ["my-dog"], catch_exceptions=False).output
    assert "no sign of life" in said
    assert "`cloudbooth resume my-dog` continues" in said
