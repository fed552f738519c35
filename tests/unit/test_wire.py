"""The messages between laptop and host."""

from __future__ import annotations

import dataclasses
import json

import pytest
from pydantic import TypeAdapter, ValidationError

from remote_trainer import wire

ENTRY = wire.FileEntry("a/b.png", 3, "00")
EVENTS: list[wire.Event] = [
    wire.Hello(1, "host", "3.11.7", 12, 3),
    wire.PhaseStarted("encode", "6 pictures"),
    wire.Decision("fp32", "a CPU gains nothing from bfloat16"),
    wire.StepDone(3, 10, 0.5, 1e-4, 2.5, None),
    wire.Evaluated(0, 0.25),
    wire.SampleMade(0, "a photo", ENTRY),
    wire.Captioned("instance", "000-rex.png", "a photo of sks dog, on a sofa"),
    wire.CheckpointCommitted(3, "checkpoints/checkpoint-000003", "ab", 100),
    wire.Uploaded(3, "ab"),
    wire.Warned("slow", "wait"),
    wire.Heartbeat(15.0, True),
    wire.SelfReleased("stops in 60 min", None, "stop", 3600.0),
    wire.Failed("diverged", "the loss is NaN", "lower the learning rate"),
    wire.Stopped(3),
    wire.Done(10, "cd"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.TYPE)
def test_every_event_survives_the_wire(event: wire.Event) -> None:
    assert wire.decode_event(wire.encode_event(event, 7, 1.5)) == wire.Envelope(7, 1.5, event)


def test_every_type_of_event_is_tried_here() -> None:
    assert {type(event) for event in EVENTS} | {wire.Unknown} == set(wire.Event.__args__)  # type: ignore[attr-defined]


def test_an_unknown_type_is_kept_and_survives() -> None:
    line = b'{"v":1,"seq":2,"t":3.0,"type":"comet","tail":9}\n'
    envelope = wire.decode_event(line)
    assert envelope.event == wire.Unknown("comet", {"tail": 9})
    assert wire.decode_event(wire.encode_event(envelope.event, 2, 3.0)) == envelope


def test_an_unknown_field_of_an_event_is_ignored() -> None:
    line = b'{"v":1,"seq":2,"t":3.0,"type":"stopped","step":4,"mood":"good"}\n'
    assert wire.decode_event(line).event == wire.Stopped(4)


def test_a_terminal_has_nothing_to_obey_in_what_a_host_says() -> None:
    said = wire.Warned("\x1b]0;owned\x07two\nlines\x9b2J", "\tpaste\x7f this")
    heard = wire.decode_event(wire.encode_event(said, 1, 0.0)).event
    assert heard == wire.Warned("\ufffd]0;owned\ufffdtwo\nlines\ufffd2J", "\tpaste\ufffd this")


@pytest.mark.parametrize("frame", ['"seq":1e999,"t":1', '"seq":1,"t":1e300', '"seq":1,"t":NaN', '"seq":1,"t":-1'])
def test_an_event_of_no_place_or_time_is_refused(frame: str) -> None:
    with pytest.raises(wire.WireError, match="lacks its frame"):
        wire.decode_event(f'{{"v":1,{frame},"type":"stopped","step":4}}'.encode())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"v":2,"seq":1,"t":1,"type":"stopped","step":4}', "event version 2"),
        (b'{"v":1,"t":1,"type":"stopped","step":4}', "lacks its frame"),
        (b'{"v":1,"seq":1,"t":1,"type":"stopped"}', "step is missing"),
        (b'{"v":1,"seq":1,"t":1,"type":"stopped","step":"4"}', "must be int"),
        (b'{"v":1,"seq":1,"t":1,"type":"stopped","step":true}', "must be int"),
    ],
)
def test_a_broken_event_is_refused_with_its_reason(line: bytes, reason: str) -> None:
    with pytest.raises(wire.WireError, match=reason):
        wire.decode_event(line)


JOB = wire.Job(
    "dog", "dog", "builtin:tiny", wire.TrainSpec(steps=3),
    (wire.DatasetSpec("i", "instance", "data/instance", "a dog", (wire.ImageSpec("0.png", "ff", 64, 64),)),), ("lora",),
)  # fmt: skip


def test_a_job_survives_the_wire() -> None:
    assert wire.loads(wire.Job, wire.dumps(JOB)) == JOB


def test_a_job_without_limits_of_its_machine_has_none_and_waits_an_hour() -> None:
    older = {key: value for key, value in wire.encode(JOB).items() if key not in ("limit_s", "wait_for_laptop_s")}
    job = wire.decode(wire.Job, older)
    assert (job.limit_s, job.wait_for_laptop_s) == (None, 3600.0)


def test_a_status_carries_the_guard_of_a_rented_machine() -> None:
    guard = wire.GuardStatus(True, None, 12.5, None, "stop")
    told = wire.HostStatus("log", None, False, 1, 0, True, None, (), None, 0, guard)
    assert wire.loads(wire.HostStatus, wire.dumps(told)) == told


def test_a_job_of_a_newer_protocol_is_refused_before_its_fields_are_read() -> None:
    newer = {**wire.encode(JOB), "protocol": 2, "train": "something new"}
    with pytest.raises(wire.WireError, match="protocol 2"):
        wire.loads(wire.Job, json.dumps(newer).encode())


OUT_OF_RANGE = [
    ("steps", 0), ("steps", -5), ("resolution", 65), ("resolution", 32), ("learning_rate", 0.0), ("batch_size", 0),
    ("prior_loss_weight", -1.0), ("cpu_threads", 0), ("method", "magic"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE)
def test_the_laptop_and_the_host_refuse_the_same_values(key: str, value: object) -> None:
    data = {key: value}
    with pytest.raises(wire.WireError, match=key):
        wire.decode(wire.TrainSpec, data)
    with pytest.raises(ValidationError, match=key):
        TypeAdapter(wire.TrainSpec).validate_python(data)


def test_a_misspelled_setting_is_refused_by_both_sides() -> None:
    with pytest.raises(wire.WireError, match="unknown field 'stepz'"):
        wire.decode(wire.TrainSpec, {"stepz": 3})
    with pytest.raises(ValidationError, match="stepz"):
        TypeAdapter(wire.TrainSpec).validate_python({"stepz": 3})


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", "a\\b", "a\x1b[2Jb", "a\x9bb"])
def test_a_manifest_cannot_name_a_path_outside_its_folder(path: str) -> None:
    manifest = wire.Manifest(1, (wire.FileEntry(path, 1, "00"),))
    with pytest.raises(wire.WireError, match="outside its folder"):
        wire.Manifest.from_bytes(manifest.to_bytes())


def test_equal_manifests_have_equal_hashes() -> None:
    one, two = (wire.Manifest(1, (ENTRY,)) for _ in range(2))
    assert one.sha256 == two.sha256 == wire.Manifest.from_bytes(one.to_bytes()).sha256
    assert dataclasses.replace(one, step=2).sha256 != one.sha256
