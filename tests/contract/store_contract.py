"""What every `ObjectStore` must do. A subclass provides the fixture `store`, empty for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.storage.api import (
    MIN_PART_BYTES,
    NoSuchObject,
    ObjectChanged,
    ObjectExists,
    ObjectStore,
    StoredObject,
)


class StoreContract:
    @pytest.fixture
    def store(self) -> ObjectStore:
        raise NotImplementedError("a subclass provides the store")

    def test_what_was_put_can_be_read(self, store: ObjectStore) -> None:
        put = store.put("runs/dog/run.json", b"hello")
        assert (put.key, put.bytes) == ("runs/dog/run.json", 5)
        assert store.get("runs/dog/run.json") == b"hello"

    def test_an_object_may_be_empty(self, store: ObjectStore) -> None:
        store.put("empty", b"")
        assert store.get("empty") == b""

    def test_the_last_put_wins(self, store: ObjectStore) -> None:
        store.put("a", b"old")
        store.put("a", b"new")
        assert store.get("a") == b"new"

    def test_put_if_absent_never_replaces(self, store: ObjectStore) -> None:
        store.put("a", b"first", if_absent=True)
        with pytest.raises(ObjectExists):
            store.put("a", b"second", if_absent=True)
        assert store.get("a") == b"first"

    @pytest.mark.parametrize(
        ("offset", "length", "expected"),
        [(0, 3, b"012"), (4, 3, b"456"), (7, None, b"789"), (3, 0, b"")],
    )
    def test_a_range_is_read(self, store: ObjectStore, offset: int, length: int | None, expected: bytes) -> None:
        store.put("digits", b"0123456789")
        assert store.get("digits", offset, length) == expected
        assert b"".join(store.pieces("digits", offset, length)) == expected

    def test_a_large_object_comes_in_pieces(self, store: ObjectStore) -> None:
        content = bytes(range(256)) * (10 << 10)
        store.put("weights", content)
        pieces = [*store.pieces("weights")]
        assert max(map(len, pieces)) <= 1 << 20
        assert b"".join(pieces) == content

    def test_reading_what_is_not_there_says_so(self, store: ObjectStore) -> None:
        with pytest.raises(NoSuchObject):
            store.get("runs/nobody")
        with pytest.raises(NoSuchObject):
            next(iter(store.pieces("runs/nobody")))

    def test_head_tells_size_and_absence(self, store: ObjectStore) -> None:
        store.put("a/b", b"12345")
        found = store.head("a/b")
        assert found is not None
        assert found.bytes == 5
        assert store.head("a/c") is None
        assert store.head("a") is None

    def test_the_etag_changes_with_the_content(self, store: ObjectStore) -> None:
        first = store.put("a", b"one")
        assert store.head("a") == first
        assert store.put("a", b"two").etag != first.etag

    def test_listing_gives_every_object_below_a_prefix_in_order(self, store: ObjectStore) -> None:
        for key in ("runs/b", "runs/a/2", "runs/a/1", "other"):
            store.put(key, key.encode())
        listed = list(store.objects("runs/"))
        assert [found.key for found in listed] == ["runs/a/1", "runs/a/2", "runs/b"]
        assert listed[0] == store.head("runs/a/1")

    def test_listing_nothing_is_empty(self, store: ObjectStore) -> None:
        assert list(store.objects("nothing/")) == []

    def test_a_prefix_that_is_part_of_a_name_matches(self, store: ObjectStore) -> None:
        store.put("runs/dog-1", b"")
        assert [found.key for found in store.objects("runs/do")] == ["runs/dog-1"]

    def test_deleted_objects_are_gone_and_deleting_twice_is_safe(self, store: ObjectStore) -> None:
        store.put("a/b", b"1")
        store.put("a/c", b"1")
        store.delete(["a/b", "a/never"])
        store.delete(["a/b"])
        assert [found.key for found in store.objects()] == ["a/c"]

    def test_a_file_is_put_whole(self, store: ObjectStore, tmp_path: Path) -> None:
        file = tmp_path / "weights"
        file.write_bytes(bytes(range(256)) * 4096)
        assert store.put_file("weights", file).bytes == 1 << 20
        assert store.get("weights") == file.read_bytes()

    def test_compose_concatenates(self, store: ObjectStore) -> None:
        parts = [store.put("in/0", b"a" * MIN_PART_BYTES), store.put("in/1", b"b" * MIN_PART_BYTES)]
        parts.append(store.put("in/2", b"tail"))
        made = store.compose("out/whole", parts)
        assert made.bytes == 2 * MIN_PART_BYTES + 4
        assert store.get("out/whole", MIN_PART_BYTES - 1, 2) == b"ab"
        assert store.get("out/whole", 2 * MIN_PART_BYTES) == b"tail"

    def test_compose_of_one_object_copies_it_however_small(self, store: ObjectStore) -> None:
        store.compose("copy", [store.put("in/0", b"x")])
        assert store.get("copy") == b"x"

    def test_compose_replaces_what_was_there(self, store: ObjectStore) -> None:
        store.put("out", b"old")
        store.compose("out", [store.put("in/0", b"new")])
        assert store.get("out") == b"new"

    def test_compose_refuses_a_small_part_in_the_middle(self, store: ObjectStore) -> None:
        small = store.put("in/0", b"small")
        with pytest.raises(ValueError, match="less than a part"):
            store.compose("out", [small, small])
        with pytest.raises(ValueError, match="sources"):
            store.compose("out", [])

    def test_compose_notices_a_source_that_changed(self, store: ObjectStore) -> None:
        seen = store.put("in/0", b"seen")
        store.put("in/0", b"else")
        with pytest.raises(ObjectChanged):
            store.compose("out", [seen])
        assert store.head("out") is None

    def test_compose_of_what_is_not_there_leaves_nothing(self, store: ObjectStore) -> None:
        with pytest.raises((NoSuchObject, ObjectChanged)):
            store.compose("out", [StoredObject("in/never", 4, "00000000000000000000000000000000")])
        assert store.head("out") is None

    def test_a_key_that_leaves_the_store_is_refused(self, store: ObjectStore) -> None:
        for key in ("", "/a", "a//b", "../a", "a/../b", "a\\b", "."):
            with pytest.raises(ValueError, match="not a key"):
                store.put(key, b"")

    def test_keys_may_hold_spaces_and_letters_of_any_kind(self, store: ObjectStore) -> None:
        key = "runs/my dog+ü 狗/a=b&c.txt"
        store.compose("copy", [store.put(key, b"x")])
        assert store.get(key) == b"x"
        assert [found.key for found in store.objects("runs/")] == [key]

    def test_nothing_stale_is_nothing_to_abort(self, store: ObjectStore) -> None:
        assert store.abort_stale("", 0.0) == 0
