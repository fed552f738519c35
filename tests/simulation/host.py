"""A `Host` whose other end is a simulated computer. It understands the commands that `orchestrator.remote_run` builds.

The arguments are parsed by the real `python -m remote_trainer` parser, and every verb that only touches the disk is
answered by the real agent. Connections break as computers and laptops do; what a broken call did stays done.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

from orchestrator import remote_run
from orchestrator.host import Completed, ConnectionLost, HostError, HostUnreachable
from remote_trainer import __main__ as trainer_main
from remote_trainer import agent, contact, files, only_copy, wire
from remote_trainer.hub_token import hold_token
from remote_trainer.upload_grant import hold_grant
from tests.simulation.computer import Computer

LATENCY_S = 0.2
CHUNK_S = 0.05
SIGN_OF_LIFE_S = 4.0
"""The real agent shows one every second: four times as many draws of the same."""
CHUNK = 150
"""Bytes of one piece of a stream: small, so that every file has a middle to be cut in."""
PROBE = remote_run._PROBE
UNPACK = remote_run._UNPACK


class Passages(Protocol):
    """What stands between a driver and a computer: may raise anything, let time pass, or run another driver."""

    streams: int
    """Streams of events that are open now."""

    def enter(self, point: str) -> None: ...

    def leave(self, point: str) -> None: ...

    def arrives(self, chunk: bytes) -> bytes:
        """A piece of what a laptop writes down. Raises OSError when its disk is full."""
        ...

    def acted(self, computer: Computer, run_folder: str, verb: str) -> None:
        """A call that changes something on the computer has taken effect."""
        ...


@cache
def _parser() -> argparse.ArgumentParser:
    return trainer_main._parser()


@cache
def _parsed(argv: tuple[str, ...]) -> argparse.Namespace:
    """As the host's Python would. Shared: nobody writes into it."""
    return _parser().parse_args(argv)


class SimulatedHost:
    """One driver's connection."""

    def __init__(self, computer: Computer, passages: Passages) -> None:
        self._computer, self._passages = computer, passages
        self._connection: int | None = None

    @property
    def label(self) -> str:
        return self._computer.name

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Completed:
        return self._call("run", argv, [stdin])

    def send(self, argv: Sequence[str], chunks: Iterable[bytes], *, idle_timeout_s: float = 60.0) -> Completed:
        return self._call("send", argv, chunks)

    def receive(self, argv: Sequence[str], *, idle_timeout_s: float = 60.0) -> AbstractContextManager[Iterator[bytes]]:
        return self._receive(argv)

    def close(self) -> None:
        self._connection = None

    # ---- calls -----------------------------------------------------------------------------------------------------

    def _call(self, way: str, argv: Sequence[str], chunks: Iterable[bytes]) -> Completed:
        verb = _verb(argv)
        point = f"{way} {verb}"
        self._passages.enter(point)
        self._connect()
        self._wait(LATENCY_S)
        done = self._answer(verb, argv, chunks)
        self._passages.leave(point)
        self._require_connection()
        return done

    def _answer(self, verb: str, argv: Sequence[str], chunks: Iterable[bytes]) -> Completed:
        try:
            return Completed(0, self._do(verb, argv, chunks), b"")
        except agent.StaleEpoch as error:
            return Completed(agent.STALE_EPOCH_EXIT, b"", str(error).encode())
        except (agent.AgentError, files.Refused, wire.WireError, OSError) as error:
            return Completed(1, b"", str(error).encode())

    def _do(self, verb: str, argv: Sequence[str], chunks: Iterable[bytes]) -> bytes:
        if verb == "probe":
            return self._probe(argv)
        if verb == "unpack":
            b"".join(chunks)
            self._computer.write_or_fail()
            Path(argv[3]).mkdir(parents=True, exist_ok=True)
            return b""
        call = _parsed(tuple(argv[5:]))
        if verb == "guard":
            return self._start_guard()
        self._contact(call)
        if verb in ("have", "accept"):
            if verb == "have":
                return json.dumps(files.have(call.root, files.wanted_from_json(b"".join(chunks)))).encode()
            agent.claim(call.run_folder, call.epoch)

            def require_newest() -> None:
                agent.require_newest(call.run_folder, call.epoch)

            incoming = self._incoming(chunks)
            accepted = files.accept(call.root, incoming, call.needed_bytes, self._computer.clocks, require_newest)
            require_newest()
            self._passages.acted(self._computer, str(call.run_folder), verb)
            return json.dumps(accepted).encode()
        folder: Path = call.run_folder
        match verb:
            case "start":
                self._start(folder, call.epoch)
            case "stop":
                self._stop(folder, call.epoch, now=call.now)
            case "forget":
                self._computer.keep_log(folder)
                existed = folder.exists()
                agent.forget(folder, call.epoch)
                if existed:
                    self._passages.acted(self._computer, str(folder), verb)
                return b""
            case "grant":
                agent.claim(folder, call.epoch)
                hold_grant(folder, b"".join(chunks), self._computer.clocks)
                self._computer.lent.add(folder)
                return b""
            case "token":
                agent.claim(folder, call.epoch)
                hold_token(folder, b"".join(chunks))
                return b""
            case "saved":
                contact.saved(folder, json.loads(call.manifests))
                return b""
            case "status":
                pass
            case _:
                raise AssertionError(f"no such verb: {verb}")
        self._computer.name_incarnation(folder)
        return json.dumps(wire.encode(agent.status(folder, self._computer.clocks))).encode()

    def _probe(self, argv: Sequence[str]) -> bytes:
        root = self._computer.disk / argv[3].removeprefix("~/")
        root.mkdir(parents=True, exist_ok=True)
        has_code = (root / "code" / argv[4]).is_dir()
        told = {
            "python": [3, 11, 0],
            "workdir": str(root),
            "free_bytes": 1 << 40,
            "has_code": has_code,
            "has_gpu": self._computer.has_gpu,
            "has_environment": True,
        }
        return json.dumps(told).encode()

    def _incoming(self, chunks: Iterable[bytes]) -> io.BufferedReader:
        """A tar stream that a connection may cut anywhere and a full disk may refuse."""

        def pieces() -> Iterator[bytes]:
            for chunk in chunks:
                for begin in range(0, len(chunk), 512):
                    self._passages.enter("chunk accept")
                    self._wait(self._computer.chunk_s)
                    self._computer.write_or_fail()
                    yield chunk[begin : begin + 512]

        return io.BufferedReader(_Stream(pieces()))

    def _start(self, folder: Path, epoch: int) -> None:
        agent.claim(folder, epoch)
        self._computer.name_incarnation(folder)
        current = agent.status(folder)
        if current.supervisor_pid is None and current.ended != "done":
            self._computer.write_or_fail()
            self._computer.start(folder, epoch)
        self._passages.acted(self._computer, str(folder), "start")

    def _start_guard(self) -> bytes:
        """As `contact.start_guard`: one that lives stays."""
        self._computer.cared_for_s = self._computer.clock.monotonic()
        guard = self._computer.guard
        if guard is None:
            raise AssertionError("a laptop starts a guard only where its boot plan had one")
        guard.begin(again=True)
        only_copy.review(guard.files)
        return json.dumps(wire.encode(guard.files.status(self._computer.boot_clock_s))).encode()

    def _stop(self, folder: Path, epoch: int, *, now: bool) -> None:
        agent.claim(folder, epoch)
        process = self._computer.supervisor_of(folder)
        if now:
            if process is not None:
                process.kill(leash_s=0.0)
            for stage in self._computer.stages():
                stage.end(-9)
        elif process is not None:
            process.terminate()
        self._passages.acted(self._computer, str(folder), "stop")

    # ---- streams ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _receive(self, argv: Sequence[str]) -> Iterator[Iterator[bytes]]:
        call = _parsed(tuple(argv[5:]))
        self._passages.enter(f"receive {call.verb}")
        self._connect()
        self._wait(LATENCY_S)
        self._contact(call)
        if call.verb == "read":
            yield self._read(call)
        else:
            self._passages.streams += 1
            try:
                yield self._follow(call.run_folder, call.offset)
            finally:
                self._passages.streams -= 1
        self._passages.leave(f"receive {call.verb}")

    def _read(self, call: argparse.Namespace) -> Iterator[bytes]:
        out = io.BytesIO()
        failure: Exception | None = None
        try:
            files.read(call.root, files.ranges_from_json(call.files), out, self._computer.clocks)
        except (files.Refused, OSError) as error:
            failure = error
        content = out.getvalue()
        for begin in range(0, len(content), CHUNK):
            yield self._passages.arrives(self._through("read", CHUNK_S, content[begin : begin + CHUNK]))
        if failure is not None:
            raise HostError(f"{self.label}: {failure}")

    def _follow(self, folder: Path, offset: int) -> Iterator[bytes]:
        """`agent.follow`, waiting on the virtual clock."""
        clock = self._computer.clock
        life_shown_s = noted_s = clock.monotonic()
        while True:
            lives = self._computer.supervisor_of(folder) is not None
            whole = agent._whole_lines(folder / wire.EVENTS_FILE, offset)
            offset += len(whole)
            if whole:
                half = offset % max(1, len(whole))
                for piece in filter(None, (whole[:half], whole[half:])):
                    yield self._through("follow", 0.0, piece)
                life_shown_s = clock.monotonic()
            elif clock.monotonic() - life_shown_s >= SIGN_OF_LIFE_S:
                yield self._through("follow", 0.0, b"\n")
                life_shown_s = clock.monotonic()
            if clock.monotonic() - noted_s >= contact.CONTACT_EVERY_S:
                noted_s = clock.monotonic()
                contact.contact(folder, self._computer.clocks, renew=False)
            if not lives:
                return
            due = clock.next_due_s()
            sign_due = life_shown_s + SIGN_OF_LIFE_S
            self._wait(max(agent.FOLLOW_POLL_S, min(sign_due, due or sign_due) - clock.monotonic()))

    def _contact(self, call: argparse.Namespace) -> None:
        """As `python -m remote_trainer` does before it answers a laptop."""
        self._computer.cared_for_s = self._computer.clock.monotonic()
        contact.contact(getattr(call, "root", None) or call.run_folder, self._computer.clocks)

    def _through(self, verb: str, wait_s: float, chunk: bytes) -> bytes:
        self._passages.enter(f"chunk {verb}")
        self._wait(wait_s)
        return chunk

    # ---- the connection --------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._connection is None:
            if not self._computer.reachable:
                self._computer.clock.sleep(LATENCY_S)
                raise HostUnreachable(f"{self.label} does not answer")
            self._connection = self._computer.connections
        self._require_connection()

    def _require_connection(self) -> None:
        if not self._computer.reachable or self._connection != self._computer.connections:
            self._connection = None
            raise ConnectionLost(f"the connection to {self.label} broke")

    def _wait(self, seconds: float) -> None:
        self._computer.clock.sleep(seconds)
        self._require_connection()


class _Stream(io.RawIOBase):
    """Chunks as a readable file; what the chunks raise comes out of `read`."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed wants any writable buffer
        self._rest = self._rest or next(self._chunks, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def _verb(argv: Sequence[str]) -> str:
    """Of a command that `remote_run` builds; anything else is a change there that this file has to learn."""
    if len(argv) > 2 and argv[1] == "-c":
        if argv[2] == PROBE:
            return "probe"
        if argv[2].endswith(UNPACK):
            return "unpack"
    if argv[0] == "env" and argv[3:5] == ["-m", "remote_trainer"]:
        return argv[5]
    raise AssertionError(f"a command that no simulated host knows: {list(argv)}")
