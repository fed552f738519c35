"""The services that adapters are tried against: records behind a real HTTP server, with no container behind a machine.

A file whose service is another one (with pods, with volumes) has a fixture of its own with the same name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.runpod_account import ACCOUNT_KEY
from tests.fakes.hosted_run import HostedRun
from tests.fakes.replicate import FakeReplicate, running_replicate
from tests.fakes.runpod import FakeRunPod, running_runpod
from tests.fakes.vast import FakeVast, running_vast


@pytest.fixture
def runpod(tmp_path: Path) -> Iterator[FakeRunPod]:
    with running_runpod(tmp_path / "runpod", real_pods=False, account_key=ACCOUNT_KEY) as fake:
        yield fake


@pytest.fixture
def vast() -> Iterator[FakeVast]:
    """Nothing may be asked of it that its published contract does not allow."""
    with running_vast() as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
def replicate() -> Iterator[FakeReplicate]:
    with running_replicate() as fake:
        yield fake


@pytest.fixture
def accepted(tmp_path: Path, replicate: FakeReplicate) -> HostedRun:
    """A run at Replicate with nothing submitted yet."""
    run = HostedRun(tmp_path, replicate)
    run.accept()
    return run
