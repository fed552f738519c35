"""The laptop's copy of the event log: nothing lost, nothing doubled."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.home import RunHome
from orchestrator.host import HostError
from orchestrator.mirror import EventReader, Mirror, forget_what_the_host_lost, progress_of, progress_of_run
from orchestrator.progress import Progress
from remote_trainer import wire

LOG = b"".join(
    wire.encode_event(event, seq, 100.0 + seq)
    for seq, event in enumerate(
        [
            wire.Hello(1, "host", "3.11", 1, 1),
            wire.Evaluated(0, 0.5),
            *(wire.StepDone(step, 10, 1.0 / step, 1e-4, 2.0) for step in range(1, 11)),
            wire.CheckpointCommitted(10, "checkpoints/checkpoint-000010", "ab", 7),
            wire.Done(10, "cd"),
        ]
    )
)


@given(st.lists(st.integers(0, len(LOG)), max_size=8))
def test_however_the_stream_is_cut_the_mirror_equals_the_log(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    file = tmp_path_factory.mktemp("mirror") / "events.jsonl"
    mirror = Mirror(file)
    edges = [0, *sorted(cuts), len(LOG)]
    seen = [e for a, b in itertools.pairwise(edges) for e in mirror.feed(LOG[a:b])]
    assert file.read_bytes() == LOG
    assert [envelope.seq for envelope in seen] == list(range(14))


@given(st.lists(st.integers(0, len(LOG)), min_size=1, max_size=5))
def test_a_connection_that_breaks_anywhere_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int]
) -> None:
    file = tmp_path_factory.mktemp("mirror") / "events.jsonl"
    seen: list[int] = []
    for length in [*lengths, len(LOG)]:
        mirror = Mirror(file)
        seen += [e.seq for e in mirror.feed(LOG[mirror.offset :][:length])]
        mirror.close()
    assert file.read_bytes() == LOG
    assert seen == list(range(14))


def test_a_torn_last_line_is_fetched_again(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    whole = LOG[: LOG.index(b"\n") + 1]
    file.write_bytes(whole + b'{"v":1,"se')
    mirror = Mirror(file)
    assert mirror.offset == len(whole)
    list(mirror.feed(LOG[mirror.offset :]))
    assert file.read_bytes() == LOG


def test_signs_of_life_are_no_part_of_the_log(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "events.jsonl")
    first, rest = LOG[:40], LOG[40:]
    list(mirror.feed(b"\n\n" + first))
    list(mirror.feed(rest + b"\n"))
    assert (tmp_path / "events.jsonl").read_bytes() == LOG


def test_whoever_watches_reads_whole_lines_only(tmp_path: Path) -> None:
    home = RunHome(tmp_path)
    reader = EventReader(home)
    assert list(reader.fresh()) == []
    home.events("one").write_bytes(LOG[:-5])
    assert [e.seq for e in reader.fresh()] == list(range(13))
    home.events("one").write_bytes(LOG)
    assert [e.seq for e in reader.fresh()] == [13]
    assert reader.progress == progress_of(LOG)


def test_whoever_watches_goes_on_with_the_log_of_the_next_machine(tmp_path: Path) -> None:
    home = RunHome(tmp_path)
    reader = EventReader(home)
    home.events("one").write_bytes(LOG)
    os.utime(home.events("one"), (1, 1))
    assert len(list(reader.fresh())) == 14
    short = wire.encode_event(wire.Evaluated(10, 0.1), 0, 1.0)
    home.events("two").write_bytes(short)
    assert [e.event for e in reader.fresh()] == [wire.Evaluated(10, 0.1)]
    assert [e.mean_loss for e in progress_of_run(home).evaluations] == [0.5, 0.1]


def test_the_picture_is_the_same_whether_folded_live_or_from_the_file(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "events.jsonl")
    list(mirror.feed(LOG))
    assert mirror.progress == progress_of(LOG)
    assert (mirror.progress.step, mirror.progress.of, mirror.progress.done) == (10, 10, wire.Done(10, "cd"))


def test_the_time_left_follows_the_recent_pace() -> None:
    steps = [wire.encode_event(wire.StepDone(s, 100, 0.1, 1e-4, 1.0), s, 1000.0 + 2 * s) for s in (10, 20)]
    assert progress_of(b"".join(steps)).eta_s == pytest.approx(160.0)
    assert Progress().eta_s is None


def test_a_new_supervisor_clears_the_failure_of_the_last() -> None:
    failed = wire.encode_event(wire.Failed("diverged", "NaN"), 0, 1.0)
    hello = wire.encode_event(wire.Hello(1, "host", "3.11", 2, 2), 1, 2.0)
    assert progress_of(failed).failed is not None
    assert progress_of(failed + hello).failed is None


NEWER = LOG.splitlines(keepends=True)[0].replace(b'"v":1', b'"v":99').replace(b'"v": 1', b'"v": 99')


def test_an_event_of_a_newer_version_is_an_error_with_a_way_out_and_is_not_written_down(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "events.jsonl")
    with pytest.raises(HostError, match="speaks event version 99") as caught:
        list(mirror.feed(NEWER))
    assert "upgrade cloudbooth" in caught.value.hint
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_whoever_watches_a_newer_version_is_told_the_same(tmp_path: Path) -> None:
    home = RunHome(tmp_path)
    home.events("one").write_bytes(NEWER)
    with pytest.raises(HostError, match="speaks event version 99"):
        progress_of_run(home)


def test_a_log_whose_end_the_host_lost_is_followed_from_its_beginning(tmp_path: Path) -> None:
    home = RunHome(tmp_path)
    home.events("one").write_bytes(LOG)
    reader = EventReader(home)
    assert len(list(reader.fresh())) == 14
    forget_what_the_host_lost(home.events("one"), len(LOG))
    assert home.events("one").exists()
    shorter = LOG[: LOG.index(b"\n") + 1]
    forget_what_the_host_lost(home.events("one"), len(shorter))
    mirror = Mirror(home.events("one"))
    assert mirror.offset == 0
    list(mirror.feed(shorter))
    assert [event.seq for event in reader.fresh()] == [0]
    assert (tmp_path / "lost-events-one.jsonl").read_bytes() == LOG
