"""A run's part of a store: uploads become files, the newest stay, and everything comes home verified."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from orchestrator.storage.api import ObjectStore, StorageError, StorageUnreachable, StoredObject
from orchestrator.storage.bring_home import NEAR_RANGE_BYTES, bring_home
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.lending import PoolSize, lend
from orchestrator.storage.run_store import RunStore, StoredFolder, retained, run_address
from providers.errors import CloudboothError
from remote_trainer import upload, wire
from remote_trainer.commit import commit_folder, preparing, read_committed
from remote_trainer.upload_grant import drop_grant, hold_grant

CHUNK = 5 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """A run's folder on a machine."""
    folder = tmp_path / "machine" / "runs" / "dog"
    folder.mkdir(parents=True)
    yield folder
    drop_grant(folder)


@pytest.fixture
def run(s3_store: ObjectStore) -> RunStore:
    return RunStore(s3_store, "dog-1a2b-3")


def lend_to(machine: Path, run: RunStore, chunks: int = 24) -> None:
    hold_grant(machine, wire.dumps(lend(run.store, run.prefix, PoolSize(CHUNK, chunks))))


def commit(
    machine: Path, step: int, size: int = 1000, folder: str | None = None, evaluations: Sequence[object] = ()
) -> wire.Manifest:
    target = machine / (folder or wire.checkpoint_folder(step))
    with preparing(target) as prepared:
        if evaluations:
            (prepared / "state.json").write_text(json.dumps({"evaluations": evaluations}))
        (prepared / "inner").mkdir()
        (prepared / "inner" / "weights").write_bytes(os.urandom(size))
        (prepared / "a.json").write_text(str(step))
        (prepared / "empty").write_bytes(b"")
        return commit_folder(prepared, target, step)


def uploaded(
    machine: Path, step: int, size: int = 1000, folder: str | None = None, evaluations: Sequence[object] = ()
) -> wire.Manifest:
    manifest = commit(machine, step, size, folder, evaluations)
    assert upload.bring_up_to_date(machine, lambda _event: None)
    return manifest


def test_what_a_machine_uploaded_becomes_files_and_comes_home_verified(
    machine: Path, run: RunStore, tmp_path: Path
) -> None:
    lend_to(machine, run)
    manifest = uploaded(machine, 100, size=2 * CHUNK + 1)
    [checkpoint] = run.settle(keep_last=2, keep_every=0)
    assert (checkpoint.step, checkpoint.manifest) == (100, manifest)
    bring_home(run, checkpoint, tmp_path / "home" / "checkpoint-000100", "again")
    assert read_committed(tmp_path / "home" / "checkpoint-000100") == manifest


def test_settling_twice_is_safe_and_tells_only_what_is_new(machine: Path, run: RunStore) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    assert len(run.settle(2, 0)) == 1
    assert run.settle(2, 0) == []
    assert [found.step for found in run.checkpoints()] == [100]


def test_the_model_is_put_together_beside_the_checkpoints(machine: Path, run: RunStore) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    model = uploaded(machine, 120, folder=wire.OUTPUT_FOLDER)
    assert [found.kind for found in run.settle(2, 0)] == ["checkpoint", "output"]
    output = run.output()
    assert output is not None
    assert output.manifest == model


def test_only_the_newest_checkpoints_stay_and_those_of_every_so_many_steps(machine: Path, run: RunStore) -> None:
    lend_to(machine, run)
    for step in (100, 200, 300, 400, 500):
        uploaded(machine, step)
        run.settle(keep_last=2, keep_every=200)
    assert [found.step for found in run.checkpoints()] == [200, 400, 500]


def test_the_best_checkpoint_stays_besides_as_the_newest_one_tells(machine: Path, run: RunStore) -> None:
    lend_to(machine, run)
    told = []
    for step, loss in ((100, 0.5), (200, 0.2), (300, 0.4), (400, 0.3)):
        told.append({"step": step, "mean_loss": loss})
        uploaded(machine, step, evaluations=told)
        run.settle(keep_last=1, keep_every=0)
    assert [found.step for found in run.checkpoints()] == [200, 400]


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [(1, 0, {50}), (2, 0, {40, 50}), (1, 20, {20, 40, 50}), (9, 0, {10, 20, 30, 40, 50})],
)
def test_retention(keep_last: int, keep_every: int, kept: set[int]) -> None:
    assert retained({10, 20, 30, 40, 50}, keep_last, keep_every) == kept


def test_an_upload_that_cannot_be_put_together_displaces_no_checkpoint(machine: Path, run: RunStore) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    run.settle(keep_last=1, keep_every=0)
    before = {found.key for found in run.store.objects()}
    uploaded(machine, 200)
    chunks = [found.key for found in run.store.objects() if found.key not in before and "/index-" not in found.key]
    run.store.delete(chunks[:1])
    assert run.settle(keep_last=1, keep_every=0) == []
    assert [folder.step for folder in run.checkpoints()] == [100]


def altered_index(run: RunStore, old: bytes, new: bytes) -> StoredObject:
    [index] = [
        found
        for found in run.store.objects(f"{run.prefix}/incoming/")
        if "/index-" in found.key and run.store.get(found.key) != wire.RETIRED
    ]
    content = run.store.get(index.key)
    assert old in content
    return run.store.put(index.key, content.replace(old, new, 1))


@pytest.mark.parametrize(("old", "new"), [(b"{", b"z"), (b'"kind"', b'"kinc"'), (b'"manifest": "{', b'"manifest": "z')])
def test_an_index_that_arrived_altered_is_an_upload_that_is_not_finished(
    machine: Path, run: RunStore, old: bytes, new: bytes
) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    altered_index(run, old, new)
    assert run.settle(keep_last=2, keep_every=0) == []


def test_an_index_of_a_later_version_is_told_and_not_passed_over(machine: Path, run: RunStore) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    altered_index(run, b'"protocol": 1', b'"protocol": 9')
    with pytest.raises(CloudboothError, match="written by protocol 9") as raised:
        run.settle(keep_last=2, keep_every=0)
    assert "upgrade cloudbooth" in (raised.value.hint or "")


def test_uploads_of_an_earlier_grant_are_found_too(machine: Path, run: RunStore) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    lend_to(machine, run)
    uploaded(machine, 200)
    assert [found.step for found in run.settle(2, 0)] == [100, 200]


def test_a_checkpoint_that_is_overwritten_meanwhile_is_not_put_together(machine: Path, run: RunStore) -> None:
    lend_to(machine, run, chunks=5)
    uploaded(machine, 100)

    class Overtaken:
        """The machine goes on while chunks are copied."""

        def __getattr__(self, name: str) -> object:
            return getattr(run.store, name)

        def compose(self, key: str, sources: list[StoredObject]) -> StoredObject:
            made = run.store.compose(key, sources)
            for step in (200, 300):
                if not (machine / wire.checkpoint_folder(step)).exists():
                    uploaded(machine, step)
            return made

    overtaken = RunStore(Overtaken(), run.name)  # type: ignore[arg-type]  # the rest is the store's
    assert overtaken.settle(2, 0) == []
    assert run.checkpoints() == []
    assert [found.step for found in run.settle(2, 0)] == [200, 300]


def test_the_same_step_of_another_machine_replaces_the_first(machine: Path, run: RunStore) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    run.settle(2, 0)
    run.clear_incoming()
    lend_to(machine, run)
    again = uploaded(machine, 100, size=500)
    assert [found.manifest for found in run.settle(2, 0)] == [again]


def test_of_two_machines_at_one_step_the_first_to_be_put_together_stays(machine: Path, run: RunStore) -> None:
    lend_to(machine, run)
    first = uploaded(machine, 100)
    run.settle(2, 0)
    lend_to(machine, run)
    uploaded(machine, 100, size=500)
    for _ in range(3):
        assert run.settle(2, 0) == []
    assert [found.manifest for found in run.checkpoints()] == [first]


def test_clearing_leaves_only_what_was_put_together(machine: Path, run: RunStore) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    run.settle(2, 0)
    run.clear_incoming()
    assert {found.key.split("/")[2] for found in run.store.objects(f"{run.prefix}/")} == {"checkpoints"}


def test_a_file_damaged_in_the_store_never_gets_its_name(machine: Path, run: RunStore, tmp_path: Path) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    [checkpoint] = run.settle(2, 0)
    run.store.put(f"{checkpoint.prefix}/inner/weights", bytes(1000))
    with pytest.raises(StorageError, match="damaged") as caught:
        bring_home(run, checkpoint, tmp_path / "home" / "c", "again")
    assert caught.value.hint.startswith("the same command once more"), "nothing is removed on one look"
    assert not (tmp_path / "home" / "c").exists()


def test_files_that_arrived_are_not_fetched_again(machine: Path, run: RunStore, tmp_path: Path) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    [checkpoint] = run.settle(2, 0)
    content = run.store.get(f"{checkpoint.prefix}/inner/weights")
    run.store.put(f"{checkpoint.prefix}/inner/weights", b"broken")
    with pytest.raises(StorageError):
        bring_home(run, checkpoint, tmp_path / "home" / "c", "again")
    run.store.put(f"{checkpoint.prefix}/inner/weights", content)
    run.store.delete([f"{checkpoint.prefix}/a.json"])  # it is here already
    bring_home(run, checkpoint, tmp_path / "home" / "c", "again")
    assert read_committed(tmp_path / "home" / "c") == checkpoint.manifest


class BreaksOff(FolderStore):
    """Ends each answer after so many bytes, as a connection does."""

    def __init__(self, root: Path, after_bytes: int) -> None:
        super().__init__(root)
        self._after_bytes = after_bytes

    def pieces(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        content = b"".join(super().pieces(key, offset, length))
        if content[: self._after_bytes]:
            yield content[: self._after_bytes]
        if len(content) > self._after_bytes:
            raise StorageUnreachable("it broke off", "run the command again")


@pytest.mark.parametrize(("after_bytes", "arrives"), [(100, True), (0, False)])
def test_a_file_that_breaks_off_goes_on_while_that_brings_anything(
    machine: Path, run: RunStore, tmp_path: Path, after_bytes: int, arrives: bool
) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    [checkpoint] = run.settle(2, 0)
    store = BreaksOff(tmp_path / "store", after_bytes)
    for found in run.store.objects(f"{checkpoint.prefix}/"):
        store.put(found.key, run.store.get(found.key))
    breaking = RunStore(store, run.name)
    with nullcontext() if arrives else pytest.raises(StorageUnreachable):
        bring_home(breaking, checkpoint, tmp_path / "home" / "c", "again")
    assert (tmp_path / "home" / "c").exists() == arrives


class Enough(Exception):
    """Of whoever wanted the files."""


class SendsWithoutEnd(FolderStore):
    """After the first range, of which it has next to nothing."""

    def pieces(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        yield b"x"
        while offset:
            yield b"x"


def test_what_is_under_way_is_given_up_with_the_whole(tmp_path: Path) -> None:
    """Would hang where it is not."""
    manifest = wire.Manifest(100, (wire.FileEntry("weights", NEAR_RANGE_BYTES + 1, "0" * 64),))
    run = RunStore(SendsWithoutEnd(tmp_path), "dog")
    folder = StoredFolder("checkpoint", 100, f"{run.prefix}/checkpoints/checkpoint-000100", manifest)

    def end(_count: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        bring_home(run, folder, tmp_path / "home" / "c", "again", end)
    assert not (tmp_path / "home" / "c").exists()


def test_what_a_user_has_put_at_the_target_is_never_removed(machine: Path, run: RunStore, tmp_path: Path) -> None:
    lend_to(machine, run)
    uploaded(machine, 100)
    [checkpoint] = run.settle(2, 0)
    (tmp_path / "mine").mkdir()
    with pytest.raises(CloudboothError, match="holds something else"):
        bring_home(run, checkpoint, tmp_path / "mine", "again")


def test_the_address_of_a_run_is_the_stores_and_its_name() -> None:
    assert run_address("s3://bucket/a/b/runs/dog-1") == ("s3://bucket/a/b", "dog-1")
    assert run_address("file:///mnt/x/runs/dog-1/") == ("file:///mnt/x", "dog-1")
    for wrong in ("s3://bucket/dog", "s3://bucket/runs/", "s3://bucket/runs/a/b"):
        with pytest.raises(StorageError, match="not the address of a run"):
            run_address(wrong)
