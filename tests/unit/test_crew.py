"""Streams that end, are refused and leave work behind."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from orchestrator.code_bundle import trainer_code
from orchestrator.host import HostUnreachable, LoginRefused
from orchestrator.remote_run import OnBytes, RemoteRun
from orchestrator.this_machine import LocalHost
from orchestrator.transfer.chunks import Shares, chunks_of
from orchestrator.transfer.crew import work_together
from providers.api import ThisMachine
from remote_trainer import wire

MIB = 1 << 20


class HostWithTwins(LocalHost):
    """This machine, to which as many connections can be made as anybody asks for."""

    def twin(self) -> HostWithTwins:
        return HostWithTwins()

    def round_trip_s(self) -> float:
        return 0.001

    def abort(self) -> None:
        pass


class Streams:
    """Claims chunks as the real streams do; the second learns that it may not, after the first has found no more."""

    def __init__(self, refusal: Exception) -> None:
        self.chunks = chunks_of(wire.FileEntry("weights", 4 * MIB, "0" * 64), MIB)
        self.shares = Shares(self.chunks, 2)
        self.refusal = refusal
        self.done: list[int] = []
        self._second_has_its_share, self._first_found_no_more = threading.Event(), threading.Event()

    def __call__(self, _remote: RemoteRun, stream: int, on_bytes: OnBytes) -> None:
        try:
            if stream == 1:
                assert self.shares.run_for(1, 2)
                self._second_has_its_share.set()
                assert self._first_found_no_more.wait(10)
                raise self.refusal
            assert self._second_has_its_share.wait(10)
            while run := self.shares.run_for(stream, 2):
                for chunk in run:
                    if self.shares.claim(stream, chunk):
                        self.done.append(chunk.offset)
                        on_bytes(chunk.length)
            self._first_found_no_more.set()
        finally:
            self.shares.leave(stream)


@pytest.mark.parametrize("refusal", [LoginRefused("no more of you"), HostUnreachable("hung up", "true")])
def test_the_first_stream_comes_back_for_what_a_refused_one_had_taken(refusal: Exception, tmp_path: Path) -> None:
    remote = RemoteRun(
        HostWithTwins(),
        ThisMachine(python="python3", workdir=str(tmp_path)),
        str(tmp_path),
        trainer_code().id,
        "a",
        "a",
        1,
    )
    work, told = Streams(refusal), list[int]()
    work_together(remote, work, 2, lambda: work.shares.left_bytes, told.append)
    assert sorted(work.done) == [chunk.offset for chunk in work.chunks]
    assert sum(told) == 4 * MIB
