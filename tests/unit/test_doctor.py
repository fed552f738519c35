"""What `doctor` finds, check by check, and how it says it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator import doctor
from orchestrator.cli.main import cli
from orchestrator.doctor import Finding, Verdict
from orchestrator.host import HostUnreachable
from orchestrator.plan import StandingMachine
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.open import require_writable
from providers.api import MachineProvider
from providers.errors import AuthRejected
from providers.installation import installing
from providers.local import LocalProvider
from providers.registry import ProviderContext
from providers.testing.simulated_cloud import SimulatedCloud
from providers.testing.virtual_clock import VirtualClock

Hub = Callable[[int, dict[str, object], float], str]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """`hub(status, answer, clock_error_s)` starts a server that answers everything so, and gives its address."""
    servers = []

    def start(status: int, answer: dict[str, object], clock_error_s: float = 0.0) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            do_HEAD = do_GET  # noqa: N815 - the base class looks methods up by these names

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(time.time() - clock_error_s, usegmt=True)

            def log_message(self, *message: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def only(findings: Iterator[Finding]) -> Finding:
    [finding] = findings
    return finding


def test_a_right_clock_is_good(hub: Hub) -> None:
    assert only(doctor.clock(hub(200, {}, 2.0), time.time())).verdict is Verdict.GOOD


def test_a_clock_that_is_ten_minutes_ahead_is_bad(hub: Hub) -> None:
    finding = only(doctor.clock(hub(200, {}, 600.0), time.time()))
    assert finding.verdict is Verdict.BAD
    assert finding.fact == "this machine's clock is 10 minutes ahead"
    assert finding.hint


def test_without_a_network_the_clock_is_unchecked() -> None:
    assert only(doctor.clock("http://127.0.0.1:9", time.time())).verdict is Verdict.UNCHECKED


@pytest.mark.parametrize(
    ("status", "role", "verdict"),
    [(200, "read", Verdict.GOOD), (200, "write", Verdict.DOUBTFUL), (401, "", Verdict.BAD)],
)
def test_a_hub_token_must_be_accepted_and_should_only_read(hub: Hub, status: int, role: str, verdict: Verdict) -> None:
    endpoint = hub(status, {"auth": {"accessToken": {"role": role}}}, 0.0)
    finding = only(doctor.hub_token(endpoint, "hf_secret"))
    assert finding.verdict is verdict
    assert "hf_secret" not in finding.fact + finding.hint


def test_no_hub_token_is_fine() -> None:
    assert only(doctor.hub_token("http://127.0.0.1:9", None)).verdict is Verdict.GOOD


def test_a_folder_that_cannot_be_written_is_bad(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = only(doctor.state_folder(tmp_path / "file" / "state"))
    assert finding.verdict is Verdict.BAD
    assert "CLOUDBOOTH_HOME" in finding.hint


def test_a_provider_that_answers_says_what_the_cheapest_costs() -> None:
    finding = only(doctor.provider("cloud", lambda: SimulatedCloud(VirtualClock())))
    assert finding.verdict is Verdict.GOOD
    assert "from $0." in finding.fact


def test_a_provider_without_credentials_is_not_set_up() -> None:
    def build() -> MachineProvider:
        raise AuthRejected("there is no key for cloud", "export CLOUD_KEY=…")

    finding = only(doctor.provider("cloud", build))
    assert finding.verdict is Verdict.UNCHECKED
    assert finding.hint == "export CLOUD_KEY=…"


def test_a_provider_that_refuses_the_key_is_bad() -> None:
    class Refusing(SimulatedCloud):
        def offers(self, want: object) -> list[object]:  # type: ignore[override]
            raise AuthRejected("the key is not accepted", "make a new one")

    assert only(doctor.provider("cloud", lambda: Refusing(VirtualClock()))).verdict is Verdict.BAD


def test_a_machine_that_stands_needs_no_account(tmp_path: Path) -> None:
    finding = only(doctor.provider("local", lambda: LocalProvider(ProviderContext(tmp_path, {}, {}))))
    assert finding.fact == "needs no account"


def test_the_verb_prints_every_finding_and_ends_well(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub(200, {}, 0.0))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1] == {"type": "summary", "bad": 0}
    assert {"version", "disk", "bills", "ssh", "clock", "hub"} <= {line.get("what") for line in lines}


def test_a_store_that_can_be_written_is_good_and_is_left_as_it_was(tmp_path: Path) -> None:
    folder = FolderStore(tmp_path)
    assert only(doctor.store("file:///models", lambda: require_writable(folder))).verdict is Verdict.GOOD
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_store_that_refuses_is_bad(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = FolderStore(tmp_path / "file")
    assert only(doctor.store("file:///models", lambda: require_writable(broken))).verdict is Verdict.BAD


def test_a_machine_that_stands_is_entered_and_what_it_lacks_is_said() -> None:
    seen = StandingMachine("me@gpu-box", "/home/me/cloudbooth", has_gpu=False, has_environment=False, free_gb=40.0)
    found = list(doctor.machine(lambda: seen))
    assert [finding.verdict for finding in found] == [Verdict.GOOD, Verdict.DOUBTFUL, Verdict.DOUBTFUL]
    assert found[0].fact == "me@gpu-box answers, 40 GB free in /home/me/cloudbooth"


def test_a_machine_that_lets_nobody_in_is_bad() -> None:
    def look() -> StandingMachine:
        raise HostUnreachable("me@gpu-box refuses the connection", "ssh me@gpu-box")

    [finding] = doctor.machine(look)
    assert (finding.verdict, finding.hint) == (Verdict.BAD, "ssh me@gpu-box")


@pytest.mark.parametrize(
    ("mark", "command"), [("uv-receipt.toml", "uv tool"), ("pipx_metadata.json", "pipx"), ("pyvenv.cfg", "-m pip")]
)
def test_an_extra_is_added_by_what_has_made_the_installation(tmp_path: Path, mark: str, command: str) -> None:
    (tmp_path / mark).touch()
    assert f"{command} install" in installing("train", tmp_path)
