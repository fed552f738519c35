"""Pictures on request come from a host that may be a stranger's: what it names is looked at before it is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import pytest

from orchestrator.host import HostError
from orchestrator.sampling_call import MAX_PICTURE_BYTES, Studio
from orchestrator.this_machine import LocalHost
from remote_trainer import wire


@pytest.mark.parametrize("path", ["../planted", "/tmp/planted", "a/../../planted", "a//b"])
def test_a_host_cannot_have_a_file_written_outside_the_folder_of_pictures(tmp_path: Path, path: str) -> None:
    studio = Studio(LocalHost(), sys.executable, str(tmp_path), "no-code")
    with pytest.raises(HostError, match="outside its folder"):
        studio.fetch(str(tmp_path), [wire.FileEntry(path, 7, "0" * 64)], tmp_path / "pictures")
    assert list(tmp_path.iterdir()) == []


class SendsWithoutEnd(LocalHost):
    @contextmanager
    def receive(self, argv: Sequence[str], *, idle_timeout_s: float = 60.0) -> Iterator[Iterator[bytes]]:
        yield repeat(bytes(1000))


def test_a_host_that_sends_without_end_is_left_at_the_size_it_announced(tmp_path: Path) -> None:
    studio = Studio(SendsWithoutEnd(), sys.executable, str(tmp_path), "no-code")
    with pytest.raises(HostError, match="than it announced") as caught:
        studio.fetch(str(tmp_path), [wire.FileEntry("a.png", 2500, "0" * 64)], tmp_path / "pictures")
    assert caught.value.hint.startswith("the same command again")
    assert list((tmp_path / "pictures").iterdir()) == []


def test_a_picture_that_is_announced_too_large_is_not_asked_for(tmp_path: Path) -> None:
    studio = Studio(SendsWithoutEnd(), sys.executable, str(tmp_path), "no-code")
    with pytest.raises(HostError, match="no picture is so large"):
        studio.fetch(str(tmp_path), [wire.FileEntry("a.png", MAX_PICTURE_BYTES + 1, "0" * 64)], tmp_path / "pictures")
    assert not (tmp_path / "pictures").exists()
