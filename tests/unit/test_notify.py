"""Telling a person that a run has ended or needs them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from orchestrator.cli.notifying import TellingOfTrouble, ended_notice, error_notice
from orchestrator.cli.options import notify_option
from orchestrator.cli.render.summary import Summary
from orchestrator.errors import UsageError
from orchestrator.lifecycle import State
from orchestrator.notify import VARIABLE, Notice, Notifier, desktop_command, targets_of
from providers.errors import CloudboothError
from tests.fakes.told import Told

NOTICE = Notice("dog", "ended", "done", "dog: done", "step 4 of 4", 0.12)


@pytest.fixture
def posted() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address, and what was posted there."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if "broken" in self.path else 204)
            self.end_headers()

        def log_message(self, *message: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()


def tell(*targets: str) -> list[str]:
    """What was complained of."""
    complaints: list[str] = []
    notifier = Notifier(targets, complaints.append)
    notifier.tell(NOTICE)
    notifier.close()
    return complaints


def test_a_web_address_gets_the_facts_and_the_words(posted: tuple[str, list[dict[str, Any]]]) -> None:
    url, bodies = posted
    assert tell(url) == []
    [body] = bodies
    assert body["text"] == body["content"] == "dog: done: step 4 of 4"
    assert {key: body[key] for key in ("run", "event", "reason", "cost_usd")} == {
        "run": "dog", "event": "ended", "reason": "done", "cost_usd": 0.12,
    }  # fmt: skip


def test_what_cannot_be_told_is_said_without_the_secret_part_of_the_address(
    posted: tuple[str, list[dict[str, Any]]],
) -> None:
    url, _ = posted
    [refused] = tell(f"{url}/broken/SECRET")
    assert refused == "could not notify: 127.0.0.1 answered 500"
    [gone] = tell("http://127.0.0.1:9/SECRET")
    assert gone == "could not notify: 127.0.0.1: ConnectError"


def test_the_desktop_is_told_by_its_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "notify-send"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/said\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert tell("desktop") == []
    assert (tmp_path / "said").read_text().splitlines() == ["--app-name=cloudbooth", "--", "dog: done", "step 4 of 4"]


def test_a_desktop_that_shows_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tell("desktop") == ["could not notify: there is no notify-send here"]


def test_words_reach_apples_program_as_arguments_and_not_as_script() -> None:
    command = desktop_command("Darwin", '" & (do shell script "x")', "body")
    assert command is not None
    assert command[-2:] == ['" & (do shell script "x")', "body"]
    assert not any("do shell script" in part for part in command[:-2])
    assert desktop_command("Plan 9", "a", "b") is None


def test_targets_are_the_desktop_and_web_addresses() -> None:
    assert targets_of("desktop, https://example.com/hook") == ("desktop", "https://example.com/hook")
    assert targets_of("") == ()
    for nonsense in ("mail", "ftp://example.com", "https://"):
        with pytest.raises(UsageError):
            targets_of(nonsense)


def test_the_flag_is_inherited_by_what_goes_on_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")

    @click.command()
    @notify_option
    def verb() -> None: ...

    CliRunner().invoke(verb, ["--notify", "desktop"])
    assert os.environ[VARIABLE] == "desktop"
    assert isinstance(CliRunner().invoke(verb, ["--notify", "mail"]).exception, UsageError)


def test_losing_a_machine_is_trouble_and_training_is_not(posted: tuple[str, list[dict[str, Any]]]) -> None:
    url, bodies = posted
    told, notifier = Told(), Notifier((url,), print)
    reporter = TellingOfTrouble(told, notifier, "dog", lambda: 0.5)
    for state in (State.TRAINING, State.RECOVERING, State.RELEASING):
        reporter.moved(state, "because")
    notifier.close()
    assert [(body["event"], body["reason"], body["message"]) for body in bodies] == [
        ("trouble", "recovering", "because")
    ]


def test_the_end_says_what_it_cost_and_where_the_model_is() -> None:
    summary = Summary("dog", "done", 0, 4, 4, 0.12, "/m/dog", None, ())
    assert ended_notice(summary).message == "step 4 of 4, $0.12; /m/dog"
    failed = Summary("dog", "training-failed", 3, 2, 4, 0.1, None, "/c/2", (), message="out of memory")
    assert (ended_notice(failed).title, ended_notice(failed).message) == (
        "dog: training failed", "step 2 of 4, $0.10; out of memory; /c/2",
    )  # fmt: skip


def test_a_driver_that_gives_up_asks_for_a_person() -> None:
    notice = error_notice("dog", CloudboothError("the key is refused", "export RUNPOD_API_KEY=…"), 0.0)
    assert (notice.event, notice.title) == ("trouble", "dog needs you")
    assert notice.message == "the key is refused; export RUNPOD_API_KEY=…"
