"""The end of a provider's service that a machine itself may call: it answers as told and remembers what was asked."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from providers.api import MachineCall, SelfRelease

KEY_VARIABLE = "MACHINE_KEY"


def end_guard(memory: Path) -> None:
    """Kills the guard whose script lies there, and what it has started. One that is gone is fine."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{memory}/guard.sh".encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                os.killpg(int(entry.name), signal.SIGKILL)


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    authorization: str
    body: str

    @property
    def verb(self) -> str:
        """terminate, stop or probe."""
        return self.path.rsplit("/", 1)[-1]


class SelfReleaseService:
    """A context manager. `answers` are given in order to terminate and stop, the last one again and again."""

    def __init__(self, *answers: int, probe: int = 200) -> None:
        self._answers, self._probe = list(answers) or [200], probe
        self._changed = threading.Condition()
        self.asked: list[Asked] = []

    def __enter__(self) -> SelfReleaseService:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                self.send_response(
                    service._heard(Asked(self.command, self.path, self.headers.get("Authorization", ""), body))
                )
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the library asks for these names

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def calls(self, *, stop: bool = True) -> SelfRelease:
        """With the machine's key in a header and its name in URL and body."""
        base = f"http://127.0.0.1:{self._server.server_address[1]}/machines/${{MACHINE_NAME}}"
        headers = {"Authorization": f"Bearer ${{{KEY_VARIABLE}}}", "Content-Type": "application/json"}
        return SelfRelease(
            terminate=MachineCall("DELETE", f"{base}/terminate", headers),
            probe=MachineCall("PUT", f"{base}/probe", headers, '{"label": "${MACHINE_NAME}"}'),
            stop=MachineCall("POST", f"{base}/stop", headers, '{\n"state": "stopped"\n}') if stop else None,
        )

    def acts(self) -> list[str]:
        """The verbs of all calls but probes."""
        with self._changed:
            return [asked.verb for asked in self.asked if asked.verb != "probe"]

    def wait_for(self, verb: str, times: int = 1, timeout_s: float = 120.0) -> list[Asked]:
        """Blocks until `verb` was called so often; all its calls. Fails naming what came instead."""
        give_up_at = time.monotonic() + timeout_s
        with self._changed:
            while True:
                found = [asked for asked in self.asked if asked.verb == verb]
                if len(found) >= times:
                    return found
                left_s = give_up_at - time.monotonic()
                assert left_s > 0, f"{times} × {verb} did not come within {timeout_s:.0f} s; came: {self.asked}"
                self._changed.wait(left_s)

    def _heard(self, asked: Asked) -> int:
        with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()
            if asked.verb == "probe":
                return self._probe
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
