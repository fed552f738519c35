"""Installations to try things out with, on this machine and on a real SSH server."""

from __future__ import annotations

from pathlib import Path

import pytest

from providers.api import SshAccess
from tests.e2e.command import Cloudbooth
from tests.fakes.sshd import Sshd


@pytest.fixture
def cloudbooth(tmp_path: Path) -> Cloudbooth:
    """Trains on this machine."""
    root = tmp_path / "installation"
    root.mkdir()
    return Cloudbooth(root)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Cloudbooth:
    """With a run `bot` of the tiny base, done, in every format; its model is here alone. To be read, not changed."""
    cloudbooth = Cloudbooth(tmp_path_factory.mktemp("installation"))
    formats = 'output.formats=["lora", "kohya-lora", "diffusers", "single-file"]'
    settings = ("train.validate_every=0", "compute.allow_cpu=true", formats)
    sets = [part for setting in settings for part in ("--set", setting)]
    done = cloudbooth.run(*cloudbooth.launch_argv("bot", "--steps", "2", *sets), timeout_s=400)
    assert done.summary["reason"] == "done"
    return cloudbooth


@pytest.fixture
def cloudbooth_over_ssh(cloudbooth: Cloudbooth, sshd: Sshd, ssh_access: SshAccess) -> Cloudbooth:
    """Trains on a host that is reached by SSH only; its home folder is the server's own."""
    import sys

    cloudbooth.machine = (
        "--host", f"{ssh_access.user}@{ssh_access.host}",
        "--set", f"compute.ssh.port={ssh_access.port}",
        "--set", f"compute.ssh.python={sys.executable}",
        "--set", f"compute.ssh.workdir={sshd.home}/work",
    )  # fmt: skip
    return cloudbooth
