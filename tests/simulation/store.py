"""An object store on the virtual clock, for everybody in a simulated world: laptops with credentials, machines with
presigned URLs.

It is as strict as S3 where the contract says so, keeps objects in memory, and fails as it is told: out of reach,
URLs that died before their time, a `PUT` that is cut or arrives altered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from orchestrator.storage.api import (
    MAX_PRESIGN_S,
    NoSuchObject,
    ObjectChanged,
    ObjectExists,
    PresignLimit,
    StorageUnreachable,
    StoredObject,
    checked_key,
    require_composable,
)
from providers.testing.virtual_clock import VirtualClock
from tests.simulation.kinds import WorldFault


class UploaderKilled(Exception):
    """SIGKILL, as far as its threads can have it: nothing in the product catches this one."""


BASE = "https://simulated.store/"
NO_ANSWER = 0
PIECE_BYTES = 1 << 20


class SimulatedStore:
    """Implements `ObjectStore` and `Presigns`."""

    url = "s3://simulated/prefix"

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._objects: dict[str, bytes] = {}
        self._unreachable_until_s = 0.0
        self._told_unreachable = self._told_dead = True
        self._urls_die_before_s = 0.0
        self._cut_next = self._alter_next = self._dying = False
        self._kill_in, self._kill_after = 0, False
        self.refusals = 0
        """Calls of somebody with credentials that found the store out of reach."""
        self.on_fault: Callable[[WorldFault], None] = lambda _kind: None
        """Told when a fault takes effect."""
        self.written: dict[str, bytes] = {}
        """The newest content that somebody meant to put under each key, whatever arrived."""

    # ---- faults ----------------------------------------------------------------------------------------------------

    def be_unreachable(self, length_s: float) -> None:
        self._unreachable_until_s = self._clock.monotonic() + length_s
        self._told_unreachable = False

    def let_urls_die(self) -> None:
        """Those signed before the next of them is used: the credentials behind them have ended by then."""
        self._dying = True

    def cut_next_put(self) -> None:
        self._cut_next = True

    def alter_next_put(self) -> None:
        self._alter_next = True

    def kill_uploader(self, requests: int, *, after: bool) -> None:
        """At its request of that number from now on, 1 or more: before it takes effect, or `after`."""
        self._kill_in, self._kill_after = requests, after

    # ---- ObjectStore -----------------------------------------------------------------------------------------------

    def put(self, key: str, content: bytes, *, if_absent: bool = False) -> StoredObject:
        checked_key(key)
        self._require_reach()
        if if_absent and key in self._objects:
            raise ObjectExists(f"{key} exists already in {self.url}")
        self._objects[key] = self.written[key] = bytes(content)
        return self._stored(key)

    def put_file(self, key: str, file: Path) -> StoredObject:
        return self.put(key, file.read_bytes())

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        self._require_reach()
        if checked_key(key) not in self._objects:
            raise NoSuchObject(f"there is no {key} in {self.url}")
        return self._objects[key][offset : None if length is None else offset + length]

    def pieces(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        content = self.get(key, offset, length)
        yield from (content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES))

    def head(self, key: str) -> StoredObject | None:
        self._require_reach()
        return self._stored(key) if checked_key(key) in self._objects else None

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        self._require_reach()
        yield from [self._stored(key) for key in sorted(self._objects) if key.startswith(prefix)]

    def delete(self, keys: Sequence[str]) -> None:
        self._require_reach()
        for key in keys:
            self._objects.pop(checked_key(key), None)

    def compose(self, key: str, sources: Sequence[StoredObject]) -> StoredObject:
        checked_key(key)
        require_composable(sources)
        self._require_reach()
        for source in sources:
            if source.key not in self._objects:
                raise NoSuchObject(f"there is no {source.key} in {self.url}")
            if self._stored(source.key) != source:
                raise ObjectChanged(f"{source.key} in {self.url} is no longer what it was")
        return self.put(key, b"".join(self._objects[source.key] for source in sources))

    def abort_stale(self, prefix: str, older_than_s: float) -> int:
        self._require_reach()
        return 0  # a `put` is one write here

    # ---- Presigns --------------------------------------------------------------------------------------------------

    def presign_put(self, key: str, lifetime_s: float) -> str:
        return self._signed("PUT", key, lifetime_s)

    def presign_get(self, key: str, lifetime_s: float) -> str:
        return self._signed("GET", key, lifetime_s)

    def presign_limit(self) -> PresignLimit:
        return PresignLimit(MAX_PRESIGN_S, "presigned URLs live for seven days at most")

    # ---- what somebody without credentials sends -------------------------------------------------------------------

    def answer(self, method: str, url: str, content: bytes = b"") -> tuple[int, bytes]:
        """HTTP status (`NO_ANSWER`: the connection broke) and body of a request to a presigned URL.

        Raises UploaderKilled out of whoever sends it, when that is due.
        """
        self._kill_in -= 1
        dies = self._kill_in == 0
        if dies and not self._kill_after:
            self._die()
        answer = self._answered(method, url, content)
        if dies:
            self._die()
        return answer

    def _die(self) -> None:
        self.on_fault(WorldFault.UPLOADER_KILLED)
        raise UploaderKilled

    def _answered(self, method: str, url: str, content: bytes) -> tuple[int, bytes]:
        if self._is_out_of_reach():
            return NO_ANSWER, b""
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        key = unquote(parts.path.lstrip("/"))
        signed_s, expires_s = float(query["signed"]), float(query["expires"])
        if query["method"] != method or query["key"] != key:
            return 403, b""
        now = self._clock.monotonic()
        if self._dying and signed_s < now:
            self._dying, self._told_dead, self._urls_die_before_s = False, False, now
        if now >= expires_s or signed_s < self._urls_die_before_s:
            if not self._told_dead:
                self._told_dead = True
                self.on_fault(WorldFault.URLS_DEAD)
            return 403, b""
        if method == "GET":
            return (200, self._objects[key]) if key in self._objects else (404, b"")
        return self._put_by_stranger(key, content), b""

    def etag(self, url: str) -> str:
        """Of what lies at a URL now, as the answer to a `PUT` tells it."""
        return self._stored(unquote(urlsplit(url).path.lstrip("/"))).etag

    def _put_by_stranger(self, key: str, content: bytes) -> int:
        self.written[key] = content
        if self._cut_next:
            self._cut_next = False
            self.on_fault(WorldFault.UPLOAD_CUT)
            return NO_ANSWER
        if self._alter_next and content:
            self._alter_next = False
            self.on_fault(WorldFault.UPLOAD_ALTERED)
            content = bytes([content[0] ^ 1]) + content[1:]
        self._objects[key] = content
        return 200

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _signed(self, method: str, key: str, lifetime_s: float) -> str:
        now = self._clock.monotonic()
        expires_s = now + min(lifetime_s, MAX_PRESIGN_S)
        name = quote(checked_key(key))
        return f"{BASE}{name}?method={method}&key={quote(key, safe='')}&signed={now}&expires={expires_s}"

    def _stored(self, key: str) -> StoredObject:
        content = self._objects[key]
        return StoredObject(key, len(content), hashlib.md5(content).hexdigest())

    def _is_out_of_reach(self) -> bool:
        out = self._clock.monotonic() < self._unreachable_until_s
        if out and not self._told_unreachable:
            self._told_unreachable = True
            self.on_fault(WorldFault.STORE_UNREACHABLE)
        return out

    def _require_reach(self) -> None:
        if self._is_out_of_reach():
            self.refusals += 1
            raise StorageUnreachable("the store does not answer", "try again later")
