"""Pictures on request come from a host that may be a stranger's: what it names is looked at before it is written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.host import HostError
from orchestrator.sampling_call import Studio
from orchestrator.this_machine import LocalHost
from remote_trainer import wire


@pytest.mark.parametrize("path", ["../planted", "/tmp/planted", "a/../../planted", "a//b"])
def test_a_host_cannot_have_a_file_written_outside_the_folder_of_pictures(tmp_path: Path, path: str) -> None:
    studio = Studio(LocalHost(), sys.executable, str(tmp_path), "no-code")
    with pytest.raises(HostError, match="outside its folder"):
        studio.fetch(str(tmp_path), [wire.FileEntry(path, 7, "0" * 64)], tmp_path / "pictures")
    assert list(tmp_path.iterdir()) == []
