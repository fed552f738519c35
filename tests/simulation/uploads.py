"""What sends committed folders of a simulated machine away: the real decisions, over a store on the virtual clock."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

from providers.testing.virtual_clock import Appointment
from remote_trainer import run_folder as folders
from remote_trainer import wire
from remote_trainer.lent_object import Content, LentObjects, Refused
from remote_trainer.store_uploads import StoreUploads
from remote_trainer.upload import LOCK_FILE, NOT_ALL_EXIT, bring_up_to_date, require_reachable_store
from remote_trainer.uploads import Uploads
from tests.simulation.store import NO_ANSWER, SimulatedStore, UploaderKilled

if TYPE_CHECKING:
    from tests.simulation.computer import Computer

UPLOAD_S = 1.5


class NoUploads:
    """A run without object storage. Implements `remote_trainer.uploads.Uploads`."""

    active = False
    longest_s: float | None = None

    def begin(self, folder: wire.CommittedFolder) -> None: ...

    def saved(self) -> frozenset[str]:
        return frozenset()

    def busy(self) -> bool:
        return False

    def news(self) -> list[wire.Event]:
        return []

    def close(self) -> None: ...


def uploads_of(computer: Computer, run_folder: Path) -> Uploads:
    store = computer.store
    if store is None:
        return NoUploads()

    def begin(folder: Path) -> SimulatedUploader | None:
        lock = folders.acquire(folder / LOCK_FILE, wait_s=0)
        return None if lock is None else SimulatedUploader(computer, folder, store, lock)

    return StoreUploads(run_folder, computer.clocks, begin=begin)


def try_store(computer: Computer, run_folder: Path) -> None:
    """As the stage `storage`. Raises TrainingFailed, and UploaderKilled for a trial that is killed."""
    store = computer.store
    assert store is not None
    require_reachable_store(run_folder, 1, lambda keys, _attempts: _LentObjects(store, keys), computer.clocks)


class SimulatedUploader:
    """Everything it sends is sent at one moment, some time after its beginning. Implements `Uploader`."""

    def __init__(self, computer: Computer, run_folder: Path, store: SimulatedStore, lock: IO[str]) -> None:
        self._computer, self._folder, self._store, self._lock = computer, run_folder, store, lock
        self._said: list[wire.Event] = []
        self._exit_code: int | None = None
        self._due: Appointment = computer.clock.after(UPLOAD_S, self._work)

    def events(self) -> list[wire.Event]:
        said, self._said = self._said, []
        return said

    def exit_code(self) -> int | None:
        return self._exit_code

    def end(self) -> None:
        self._due.cancel()
        self._lock.close()
        if self._exit_code is None:
            self._exit_code = -9

    def _work(self) -> None:
        try:
            whole = bring_up_to_date(
                self._folder,
                self._said.append,
                lambda keys: _LentObjects(self._store, keys),
                clocks=self._computer.clocks,
                threads=1,
            )
            self._exit_code = 0 if whole else NOT_ALL_EXIT
        except OSError:
            self._exit_code = 1
        except UploaderKilled:
            self._exit_code = -9
        self._lock.close()


class _LentObjects(LentObjects):
    """The real one, which checks what the store confirms; one attempt, since the next uploader is another."""

    def __init__(self, store: SimulatedStore, keys: wire.StoreKeys | None) -> None:
        super().__init__(keys, attempts=1)
        self._store = store

    def _exchange(self, method: str, url: str, headers: dict[str, str], body: Content | None) -> tuple[str, bytes]:
        status, content = self._store.answer(method, url, b"".join(body.pieces()) if body is not None else b"")
        if status == NO_ANSWER:
            raise ConnectionResetError("the connection broke")
        if status != 200:
            raise Refused(f"answered {status}")
        return self._store.etag(url) if method == "PUT" else "", content
