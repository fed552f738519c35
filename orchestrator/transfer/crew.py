"""Several streams at one piece of work, each on a connection and a thread of its own, told about in one thread.

Progress is reported where the work was asked for: `on_bytes` may touch what belongs to that thread, and what it raises
ends everything. A host without further connections gets one stream, and then no thread is started at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol

from orchestrator.host import ConnectionLost, HasTwins, Host, HostUnreachable, LoginRefused
from orchestrator.remote_run import OnBytes, RemoteRun
from orchestrator.transfer.streams import WORTH_A_STREAM_BYTES, Observed, first_streams, next_streams

TICK_S = 0.5
TOLD_BYTES, TOLD_EVERY_S = 1 << 20, 0.1
"""How much a stream moves, or how long it works, before it says so: telling wakes the thread that waits."""
MEASURE_S = 2.0
"""How long a number of streams carries bytes before it is judged; as long again is left for its windows to open."""
ATTEMPTS_WITHOUT_A_BYTE = 3
"""A connection that was lost or silent is made again at once, until this many in a row have brought nothing: what
takes longer than that is for the phase to wait for."""


class Worker(Protocol):
    def __call__(self, remote: RemoteRun, stream: int, on_bytes: OnBytes) -> None:
        """Works until nothing is left. Raises ConnectionLost with everything unfinished free for the others."""
        ...


class _Ended(Exception):
    """The transfer is over, for whatever reason: in the threads, instead of the next progress."""


def planned_streams(host: Host, total_bytes: int) -> int:
    """How many streams `work_together` begins with. May connect, and raises HostError then."""
    return first_streams(total_bytes, host.round_trip_s()) if isinstance(host, HasTwins) else 1


def work_together(
    remote: RemoteRun, worker: Worker, streams: int, left_bytes: Callable[[], int], on_bytes: OnBytes
) -> None:
    """Blocks until the work is done, over as many connections as pay, `streams` at first. `left_bytes` is what no
    stream has taken yet.

    Raises what `on_bytes` raises, HostError at the first refusal of the host, and ConnectionLost or HostUnreachable
    when no connection is left that brings anything.
    """
    host = remote.host
    if not isinstance(host, HasTwins) or (streams == 1 and left_bytes() < WORTH_A_STREAM_BYTES):
        _persistently(remote, worker, 0, on_bytes)
    else:
        _Crew(remote, host, worker, on_bytes, left_bytes, host.round_trip_s()).work(streams)


def _persistently(remote: RemoteRun, worker: Worker, stream: int, on_bytes: OnBytes) -> None:
    fruitless = 0

    def counted(count: int) -> None:
        nonlocal fruitless
        if count > 0:
            fruitless = 0
        on_bytes(count)

    while True:
        try:
            return worker(remote, stream, counted)
        except ConnectionLost:
            fruitless += 1
            if fruitless >= ATTEMPTS_WITHOUT_A_BYTE:
                raise
            on_bytes(0)  # may end it


@dataclass(frozen=True)
class _Over:
    """A stream has ended: because nothing is left, or with an error."""

    stream: int
    error: BaseException | None


@dataclass
class _Crew:
    remote: RemoteRun
    first: HasTwins
    worker: Worker
    on_bytes: OnBytes
    left_bytes: Callable[[], int]
    round_trip_s: float
    _told: SimpleQueue[int | _Over] = field(default_factory=SimpleQueue)
    _ended: threading.Event = field(default_factory=threading.Event)
    _hosts: list[HasTwins] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _living: int = 0

    def work(self, streams: int) -> None:
        try:
            self._grow_to(streams)
            self._listen()
        finally:
            self._ended.set()
            if self._living:
                for host in self._hosts:
                    host.abort()
            for thread in self._threads:
                thread.join()
            for host in self._hosts[1:]:
                host.close()

    def _listen(self) -> None:
        lost: BaseException | None = None
        first_is_well = True
        pace = _Pace(time.monotonic(), len(self._hosts))
        while self._living:
            try:
                told = self._told.get(timeout=TICK_S)
            except Empty:
                told = 0
            if isinstance(told, _Over):
                self._living -= 1
                if isinstance(told.error, (ConnectionLost, HostUnreachable)) or _a_twin_too_many(told):
                    lost = told.error  # the others take over what it leaves
                elif told.error is not None:
                    raise told.error
                if told.stream == 0:
                    first_is_well = told.error is None
                if self._living == 0 and first_is_well and self.left_bytes():
                    self._start(0)  # the first had ended before a twin gave back its share
                continue
            self.on_bytes(told)
            pace.moved(told)
            if pace.measured(time.monotonic()):
                self._grow_to(next_streams(pace.observed, self.round_trip_s, self.left_bytes()))
                pace.begin(time.monotonic(), len(self._hosts))
        while not self._told.empty():
            rest = self._told.get()
            assert isinstance(rest, int)
            self.on_bytes(rest)
        if lost is not None and self.left_bytes():
            raise lost

    def _grow_to(self, streams: int) -> None:
        for number in range(len(self._hosts), streams):
            self._hosts.append(self.first if number == 0 else self.first.twin())
            self._start(number)

    def _start(self, number: int) -> None:
        remote = self.remote if number == 0 else self.remote.over(self._hosts[number])
        thread = threading.Thread(target=self._work, args=(remote, number), name=f"transfer-{number}", daemon=True)
        self._threads.append(thread)
        self._living += 1
        thread.start()

    def _work(self, remote: RemoteRun, stream: int) -> None:
        untold, told_at = 0, time.monotonic()

        def tell(count: int) -> None:
            nonlocal untold, told_at
            if self._ended.is_set():
                raise _Ended
            untold += count
            if not 0 < untold < TOLD_BYTES or time.monotonic() - told_at > TOLD_EVERY_S:
                self._told.put(untold)
                untold, told_at = 0, time.monotonic()

        over = _Over(stream, None)
        try:
            _persistently(remote, self.worker, stream, tell)
        except _Ended:
            pass
        except BaseException as error:  # told in the thread that waits, whatever it is
            over = _Over(stream, error)
        self._told.put(untold)
        self._told.put(over)


def _a_twin_too_many(told: _Over) -> bool:
    """A server may let one login in and refuse further ones; so may the agent that signs for them."""
    return told.stream > 0 and isinstance(told.error, LoginRefused)


class _Pace:
    """What each number of streams has carried, each judged after its windows have opened."""

    def __init__(self, now_s: float, streams: int) -> None:
        self.observed: list[Observed] = []
        self.begin(now_s, streams)

    def begin(self, now_s: float, streams: int) -> None:
        if self.observed and self.observed[-1].streams == streams:
            self.observed.pop()  # still the same number: only its newest measurement counts
        self._streams, self._since_s, self._bytes, self._warm = streams, now_s, 0, False

    def moved(self, count: int) -> None:
        self._bytes += count

    def measured(self, now_s: float) -> bool:
        """Whether `observed` has just gained its entry for the number of now."""
        if now_s - self._since_s < MEASURE_S:
            return False
        if not self._warm:
            self._warm, self._since_s, self._bytes = True, now_s, 0
            return False
        self.observed.append(Observed(self._streams, self._bytes / (now_s - self._since_s)))
        return True
