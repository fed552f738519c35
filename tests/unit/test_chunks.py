"""How a transfer is cut, shared and spread over connections."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.transfer.chunks import WORTH_TAKING_OVER_BYTES, Chunk, Queue, Range, Shares, chunks_of, ranges_of
from orchestrator.transfer.streams import MOST_STREAMS, Observed, first_streams, next_streams
from remote_trainer import wire

MIB, GIB = 1 << 20, 1 << 30


def file(path: str, size: int) -> wire.FileEntry:
    return wire.FileEntry(path, size, "0" * 64)


@given(st.integers(0, 1000), st.integers(1, 300))
def test_chunks_cover_a_file_without_gap_or_overlap(size: int, chunk_bytes: int) -> None:
    chunks = chunks_of(file("a", size), chunk_bytes)
    assert [chunk.offset for chunk in chunks] == [n * chunk_bytes for n in range(len(chunks))]
    assert sum(chunk.length for chunk in chunks) == size
    assert all(0 < chunk.length <= chunk_bytes for chunk in chunks) or size == 0


def test_an_empty_file_is_one_empty_chunk() -> None:
    assert chunks_of(file("a", 0)) == [Chunk(file("a", 0), 0, 0)]


def test_neighbors_are_asked_for_as_one_range() -> None:
    a, b = chunks_of(file("a", 25), 10), chunks_of(file("b", 5), 10)
    assert ranges_of([*a, *b]) == [Range("a", 0, 25), Range("b", 0, 5)]
    assert ranges_of([a[0], a[2]]) == [Range("a", 0, 10), Range("a", 20, 5)]


TEN = WORTH_TAKING_OVER_BYTES // 10
"""Ten chunks of it are just worth taking over."""


def claimed(shares: Shares, stream: int) -> list[Chunk]:
    """All that a stream gets when nobody else is at work."""
    got = []
    while run := shares.run_for(stream, 3):
        got += [chunk for chunk in run if shares.claim(stream, chunk)]
    return got


@given(st.integers(0, 40), st.integers(1, 6), st.data())
def test_every_chunk_is_claimed_once_whatever_the_streams_do(count: int, streams: int, data: st.DataObject) -> None:
    chunks = chunks_of(file("a", count * TEN), TEN) if count else []
    shares = Shares(chunks, streams)
    runs: dict[int, Sequence[Chunk]] = {}
    got: list[Chunk] = []
    for stream in data.draw(st.lists(st.integers(0, streams + 2), max_size=120)):
        if not runs.get(stream):
            runs[stream] = shares.run_for(stream, 5)
            continue
        chunk, *rest = runs[stream]
        if shares.claim(stream, chunk):
            runs[stream] = rest
            if data.draw(st.integers(0, 9)) == 0:
                shares.give_back(stream)
                shares.leave(stream)
                runs[stream] = []
            else:
                got.append(chunk)
        else:
            runs[stream] = []
    for stream in runs:
        shares.leave(stream)
    got += claimed(shares, 99)
    assert sorted(chunk.offset for chunk in got) == [chunk.offset for chunk in chunks]


def test_a_stream_without_work_takes_the_second_half_of_the_longest_run() -> None:
    chunks = chunks_of(file("a", 40 * TEN), TEN)
    shares = Shares(chunks, 2)
    for chunk in shares.run_for(0, 99):
        shares.claim(0, chunk)
    assert shares.run_for(1, 99) == chunks[20:]
    assert shares.run_for(0, 99) == chunks[30:]
    assert shares.claim(1, chunks[20])
    for chunk in chunks[21:30]:
        assert shares.claim(1, chunk)
    assert not shares.claim(1, chunks[30]), "it belongs to another now"


def test_the_last_bytes_of_a_stream_at_work_are_left_to_it() -> None:
    chunks = chunks_of(file("a", 9 * TEN), TEN)
    shares = Shares(chunks, 1)
    assert shares.run_for(0, 99) == chunks
    assert shares.run_for(1, 99) == []
    shares.leave(0)
    assert sorted(chunk.offset for chunk in claimed(shares, 1)) == [chunk.offset for chunk in chunks]


def test_what_a_stream_that_ended_left_is_taken_over_to_the_last_chunk() -> None:
    chunks = chunks_of(file("a", 7 * TEN), TEN)
    shares = Shares(chunks, 3)
    shares.claim(0, shares.run_for(0, 99)[0])
    shares.give_back(0)
    shares.leave(0)
    assert sorted(chunk.offset for chunk in claimed(shares, 1)) == [chunk.offset for chunk in chunks]
    assert shares.left_bytes == 0


def test_empty_files_that_a_stream_left_are_taken_over_too() -> None:
    empty = [chunk for name in "abcd" for chunk in chunks_of(file(name, 0))]
    shares = Shares(empty, 2)
    assert sorted(chunk.entry.path for chunk in claimed(shares, 0)) == ["a", "b", "c", "d"]


def test_a_queue_hands_out_each_chunk_once_to_many_threads() -> None:
    queue = Queue(chunks_of(file("a", 5000), 1))
    got: list[list[Chunk]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(queue)) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(chunk.offset for mine in got for chunk in mine) == list(range(5000))
    assert queue.is_empty


# ---- how many streams ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total_bytes", "round_trip_s", "streams"),
    [
        (GIB, 0.0005, 1),
        (GIB, 0.08, 4),
        (GIB, float("inf"), 4),
        (20 * MIB, 0.08, 2),
        (15 * MIB, 0.08, 1),
        (0, 0.08, 1),
    ],
)
def test_a_transfer_begins_with(total_bytes: int, round_trip_s: float, streams: int) -> None:
    assert first_streams(total_bytes, round_trip_s) == streams


def test_a_near_host_gets_no_further_streams() -> None:
    assert next_streams([Observed(1, 200e6)], 0.0005, 7 * GIB) == 1


def test_a_far_host_gets_more_streams_while_they_bring_more() -> None:
    assert next_streams([Observed(4, 10e6)], 0.08, GIB) == 6
    assert next_streams([Observed(4, 10e6), Observed(6, 14e6)], 0.08, GIB) == 8
    assert next_streams([Observed(4, 10e6), Observed(6, 10.5e6)], 0.08, GIB) == 6


def test_no_stream_is_added_for_the_last_seconds() -> None:
    assert next_streams([Observed(4, 10e6)], 0.08, 30_000_000) == 4


@given(
    st.lists(st.builds(Observed, st.integers(1, 8), st.floats(0, 1e9)), min_size=1),
    st.floats(0, 2),
    st.integers(0, 10 * GIB),
)
def test_streams_are_never_taken_away_and_never_too_many(
    observed: list[Observed], round_trip_s: float, left: int
) -> None:
    assert observed[-1].streams <= next_streams(observed, round_trip_s, left) <= MOST_STREAMS
