"""Which objects of a lent pool an upload takes: newest first, and the newest whole one is never touched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage.lending import MAX_CHUNKS, SMALL_FILES, pool_size
from remote_trainer.upload_ring import Placement, Ring, place, with_committed

POOL = 10


def put(ring: Ring, step: int, needed: int, kind: str = "checkpoint", indexes: int = 4) -> Placement | None:
    return place(ring, kind, step, f"sha-{step}", needed, POOL, indexes)


def committed(*sizes: int) -> Ring:
    ring = Ring()
    for step, needed in enumerate(sizes, 1):
        placement = put(ring, step, needed)
        assert placement is not None
        ring = with_committed(placement.ring, placement.slot)
    return ring


def test_an_upload_takes_free_chunks_only() -> None:
    placement = put(committed(3), 2, 4)
    assert placement is not None
    assert (placement.slot.chunks, placement.slot.index, placement.retired) == ((3, 4, 5, 6), 1, ())


def test_older_artifacts_make_room_and_are_retired_first() -> None:
    placement = put(committed(3, 3, 3), 4, 6)
    assert placement is not None
    assert placement.retired == (0, 1)
    assert [slot.step for slot in placement.ring.slots] == [3, 4]


def test_the_best_checkpoint_makes_room_last() -> None:
    ring = committed(2, 2, 2)
    for needed, staying in ((4, [1, 2, 3, 4]), (6, [1, 3, 4]), (8, [3, 4])):
        placement = place(ring, "checkpoint", 4, "sha-4", needed, POOL, 4, best=1)
        assert placement is not None
        assert [slot.step for slot in placement.ring.slots] == staying


def test_the_newest_whole_one_is_never_overwritten() -> None:
    assert put(committed(6), 2, 5) is None


def test_twice_the_estimate_fits_beside_the_newest() -> None:
    size = pool_size(checkpoint_bytes=1 << 30, export_bytes=100 << 20)
    twice = (2 << 30) // size.chunk_bytes + 5
    first = place(Ring(), "checkpoint", 1, "a", twice, size.chunks, 8)
    assert first is not None
    second = place(with_committed(first.ring, first.slot), "checkpoint", 2, "b", twice, size.chunks, 8)
    assert second is not None
    assert second.retired == ()


def test_an_interrupted_upload_goes_on_in_the_same_chunks() -> None:
    first = put(Ring(), 1, 4)
    assert first is not None
    again = put(first.ring, 1, 4)
    assert again is not None
    assert (again.slot, again.ring) == (first.slot, first.ring)


def test_what_was_never_finished_goes_before_anything_whole() -> None:
    unfinished = put(committed(3, 3), 3, 2)
    assert unfinished is not None
    placement = put(unfinished.ring, 4, 4)
    assert placement is not None
    assert [slot.step for slot in placement.ring.slots] == [1, 2, 4]


def test_what_looks_unfinished_is_retired_too_since_its_index_may_have_been_written() -> None:
    unfinished = put(committed(3, 3), 3, 2)
    assert unfinished is not None
    placement = put(unfinished.ring, 4, 4)
    assert placement is not None
    assert placement.retired == (unfinished.slot.index,)


def test_a_model_is_never_overwritten_by_a_checkpoint() -> None:
    model = put(Ring(), 1, 4, "output")
    assert model is not None
    checkpoint = put(with_committed(model.ring, model.slot), 2, 3)
    assert checkpoint is not None
    assert put(with_committed(checkpoint.ring, checkpoint.slot), 3, 4) is None


def test_indexes_run_out_as_chunks_do() -> None:
    placement = put(committed(1, 1), 3, 1, indexes=2)
    assert placement is not None
    assert placement.retired == (0,)


@given(st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=30))
def test_no_two_artifacts_ever_share_an_object(uploads: list[tuple[int, bool]]) -> None:
    ring = Ring()
    for step, (needed, finishes) in enumerate(uploads):
        newest = [slot for slot in ring.slots if slot.committed][-1:]
        placement = put(ring, step, needed)
        if placement is None:
            continue
        used = [number for slot in placement.ring.slots for number in slot.chunks]
        indexes = [slot.index for slot in placement.ring.slots]
        assert len(used) == len(set(used))
        assert len(indexes) == len(set(indexes))
        assert all(slot in placement.ring.slots for slot in newest)
        ring = with_committed(placement.ring, placement.slot) if finishes else placement.ring


@given(st.integers(0, 10**13), st.integers(0, 10**12))
def test_a_pool_holds_four_checkpoints_and_two_exports_in_a_bounded_number_of_chunks(size: int, export: int) -> None:
    pool = pool_size(size, export)
    assert pool.chunks * pool.chunk_bytes >= 4 * size + 2 * export
    assert pool.chunks <= MAX_CHUNKS + SMALL_FILES
