"""A real Chromium without a screen, spoken to in its own protocol over a pipe: no driver, no port, no network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def require_chromium() -> str:
    """Its path. Skips where it is missing, and fails where CLOUDBOOTH_REQUIRE_CHROMIUM=1 says that it must not be."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        reason = "Chromium is missing: apt-get install chromium"
        if os.environ.get("CLOUDBOOTH_REQUIRE_CHROMIUM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return binary


class Page:
    """One tab. Every call waits for its answer; `complaints` and `asked_for` keep what the page does meanwhile."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._unread = to_browser, from_browser, b""
        self._count, self._session = 0, ""
        self._events: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        """Errors and warnings on the console, of scripts, of the policy; and exceptions."""
        self.asked_for: list[str] = []
        """Every address that was requested."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Raises AssertionError for what the browser refuses."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def open(self, file: Path) -> None:
        """Returns when it has loaded, scripts and pictures included."""
        self._events.clear()
        self.call("Page.navigate", url=file.as_uri())
        self.await_load()

    def await_load(self) -> None:
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._note(self._read())
        self._events.clear()

    def show_as(self, width: int, height: int = 900, *, scheme: str = "light", mobile: bool = False) -> None:
        """`scheme`: light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Enter": 13}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, file: Path, *, whole: bool = True) -> bytes:
        """PNG, of the whole page or of what is in view."""
        raw = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(raw))
        return file.read_bytes()

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            arrived = os.read(self._from, 1 << 20)
            assert arrived, "Chromium is gone"
            self._unread += arrived
        line, self._unread = self._unread.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        self._events.append(message)
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked_for.append(params["request"]["url"])


@contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """A browser of its own that resolves no name, with one empty page."""
    binary = require_chromium()
    read_commands, to_browser = os.pipe()
    from_browser, write_answers = os.pipe()
    command = [
        binary, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-sandbox",
        "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND", "about:blank",
    ]  # fmt: skip
    plumbing = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'  # the protocol wants descriptors 3 and 4
    browser = subprocess.Popen(
        ["bash", "-c", plumbing, "chromium", *command],
        pass_fds=(read_commands, write_answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Page(to_browser, from_browser)
    finally:
        os.close(to_browser)
        browser.terminate()
        browser.wait(20)
        os.close(from_browser)
