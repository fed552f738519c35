"""What is said of errors that come from the system and not from us."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from orchestrator.cli.failure import explain
from orchestrator.errors import ExitCode
from orchestrator.home import Home


def test_a_name_that_no_disk_takes_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        Path("x" * 5000).stat()
    assert explain(caught.value, as_json=False) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "no name as long as xxx" in said
    assert "5000 characters\n\nhint: give a shorter one" in said
    assert len(said) < 200


def test_a_ledger_that_is_none_comes_with_the_way_to_what_may_bill(capsys: pytest.CaptureFixture[str]) -> None:
    file = Home.of_environment().ledger_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("junk" * 200)
    database = sqlite3.connect(file)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        database.execute("PRAGMA journal_mode=WAL")
    database.close()
    assert explain(caught.value, as_json=False) == ExitCode.CONFLICT
    said = capsys.readouterr().err
    assert f"the ledger {file} is damaged" in said
    assert "machines named `cb-…`" in said
    assert not list(file.parent.glob("crash-*")), "no bug of ours"


def test_a_ledger_with_one_damaged_index_is_damaged_too(capsys: pytest.CaptureFixture[str]) -> None:
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT_INDEX
    assert explain(error, as_json=False) == ExitCode.CONFLICT
    assert "is damaged" in capsys.readouterr().err
