"""What every test stands on: a home folder of its own, and a real SSH server for those that ask."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from orchestrator.storage.api import ObjectStore
from providers.api import SshAccess
from tests.fakes.pod import why_no_pods
from tests.fakes.s3_servers import S3Server, running_s3
from tests.fakes.sshd import Sshd, make_key, running_sshd, sshd_binary

SNAPSHOTS = Path(__file__).parent / "snapshots"

Snapshot = Callable[[str, str], None]

pytest.register_assert_rewrite(
    "tests.contract.host_contract", "tests.contract.store_contract", "providers.testing.contract"
)

hypothesis.settings.register_profile("any-machine", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("any-machine")


@pytest.fixture(autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's files, keys or agent; child processes inherit the same."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CLOUDBOOTH_HOME", str(home / "cloudbooth"))
    for kind in ("CONFIG", "DATA", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(home / f".{kind.lower()}"))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "no-agent"))
    monkeypatch.delenv("CLOUDBOOTH_SSH_CONFIG", raising=False)
    monkeypatch.setenv("CLOUDBOOTH_NOTIFY", "")  # `--notify` sets it for its process, which later tests share
    return home


@pytest.fixture
def snapshot(tmp_path: Path, request: pytest.FixtureRequest) -> Snapshot:
    """`snapshot(name, text)`: equals `tests/snapshots/<test file>/<name>.txt`, temporary paths shown as FOLDER.

    CLOUDBOOTH_UPDATE_SNAPSHOTS=1 writes the files instead; read the diff before you commit it.
    """

    def compare(name: str, text: str) -> None:
        shown = "\n".join(line.rstrip() for line in text.replace(str(tmp_path), "FOLDER").splitlines()) + "\n"
        path = SNAPSHOTS / request.path.stem / f"{name}.txt"
        if os.environ.get("CLOUDBOOTH_UPDATE_SNAPSHOTS") == "1":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(shown, "utf-8")
        assert path.exists(), f"no snapshot {path}; CLOUDBOOTH_UPDATE_SNAPSHOTS=1 writes it:\n{shown}"
        assert shown == path.read_text("utf-8")

    return compare


def require_sshd() -> None:
    """Skips where OpenSSH's server is missing, and fails where CLOUDBOOTH_REQUIRE_SSHD=1 says that it must not be."""
    if sshd_binary() is None:
        reason = "OpenSSH's server is missing: apt-get install openssh-server"
        if os.environ.get("CLOUDBOOTH_REQUIRE_SSHD") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def require_pods() -> None:
    """Skips where containers cannot be made, and fails where CLOUDBOOTH_REQUIRE_PODS=1 says that they must be."""
    if reason := why_no_pods():
        if os.environ.get("CLOUDBOOTH_REQUIRE_PODS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def sshd(isolated_home: Path, tmp_path: Path) -> Iterator[Sshd]:
    """A server that lets in `~/.ssh/id_ed25519`, which is made for it."""
    require_sshd()
    public = make_key(isolated_home / ".ssh" / "id_ed25519")
    with running_sshd(tmp_path / "sshd", [public]) as server:
        yield server


@pytest.fixture
def ssh_access(sshd: Sshd, isolated_home: Path) -> SshAccess:
    """The server of `sshd`, known to `~/.ssh/known_hosts`."""
    sshd.write_known_hosts(isolated_home / ".ssh" / "known_hosts")
    return sshd.access()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One that checks signatures, with a bucket `bucket`."""
    with running_s3("nanio", tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_store(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Its bucket, below a prefix of this test's own, with credentials in the environment."""
    from orchestrator.storage.open import open_store

    for key, value in s3_server.environ.items():
        monkeypatch.setenv(key, value)
    return open_store(f"s3://bucket/{uuid.uuid4().hex[:12]}", s3_server.endpoint_url)


LONGEST_FIRST = (
    "e2e/test_connection.py",
    "e2e/test_environment_build.py",
    "e2e/test_interruptions.py",
    "e2e/test_verbs.py",
    "e2e/test_main_job.py",
    "e2e/test_vast.py",
    "e2e/test_runpod.py",
    "e2e/test_disk_filling.py",
    "unit/test_simulat",
    "e2e/",
    "toybox/",
    "trainer/",
)
"""Files that take minutes begin at once, so that several processes end together; the many short ones fill the rest."""


def _place(item: pytest.Item) -> int:
    path = item.path.as_posix()
    return next((place for place, part in enumerate(LONGEST_FIRST) if f"tests/{part}" in path), len(LONGEST_FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
    for item in items:
        if "sshd" in getattr(item, "fixturenames", ()):
            item.add_marker("sshd")
