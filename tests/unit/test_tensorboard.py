"""Curves as TensorBoard reads them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import cli
from orchestrator.curves import points
from orchestrator.tensorboard import beginning, masked_crc, record, records, scalars
from remote_trainer import wire
from tests.unit.recorded_run import RecordedRun


def payloads(content: bytes) -> Iterator[bytes]:
    """Of the records of a file, each checked."""
    while content:
        length_bytes, (length_crc,) = content[:8], struct.unpack("<I", content[8:12])
        assert masked_crc(length_bytes) == length_crc
        (length,) = struct.unpack("<Q", length_bytes)
        data, (data_crc,) = content[12 : 12 + length], struct.unpack("<I", content[12 + length : 16 + length])
        assert masked_crc(data) == data_crc
        yield data
        content = content[16 + length :]


def test_the_checksum_is_castagnolis() -> None:
    crc = 0xE3069283  # of "123456789": RFC 3720
    assert masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_scalar_is_what_tensorboards_own_writer_makes_of_it() -> None:
    # Event(wall_time=1.5, step=300, summary=Summary(value=[Summary.Value(tag="a", simple_value=0.25)])), serialized.
    assert list(payloads(scalars(1.5, 300, {"a": 0.25}))) == [
        bytes.fromhex("09 000000000000f83f 10ac02 2a0a 0a08 0a0161 15 0000803e")
    ]


def test_a_file_begins_with_its_version() -> None:
    [first] = payloads(beginning(1.5))
    assert first.endswith(b"brain.Event:2")


def test_what_a_hosted_trainer_does_not_say_is_left_out() -> None:
    silent = wire.Envelope(0, 1.0, wire.StepDone(1, 4, None, None, None))
    looked = wire.Envelope(1, 2.0, wire.Evaluated(1, 0.5))
    other = wire.Envelope(2, 3.0, wire.Stopped(1))
    told = b"".join(records(points([silent, looked, other])))
    assert b"train/" not in told
    assert told.count(b"fixed_set/loss") == 1


def test_a_record_is_as_long_as_it_says() -> None:
    assert list(payloads(record(b"") + record(b"x" * 300))) == [b"", b"x" * 300]


def test_a_runs_curves_are_written_and_written_anew(
    isolated_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RecordedRun(isolated_home / "cloudbooth").begin()
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        done = CliRunner().invoke(cli, ["logs", "dog", "--tensorboard", "curves", "--json"], standalone_mode=False)
        assert done.exception is None, done.exception
    [file] = (tmp_path / "curves" / "dog").iterdir()
    assert "tfevents" in file.name
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "curves" / "dog")
    assert next(payloads(file.read_bytes())).endswith(b"brain.Event:2")
