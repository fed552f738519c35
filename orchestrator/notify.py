"""Telling a person who looks elsewhere that a run has ended, or needs them: on the desktop, or by a web address.

`CLOUDBOOTH_NOTIFY` (and `--notify`, which sets it for the command and the processes it leaves behind) holds `desktop`,
web addresses, or both, with commas between. Nothing here ever fails a run: what could not be told is said in its log.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from orchestrator.errors import UsageError

VARIABLE = "CLOUDBOOTH_NOTIFY"
DESKTOP = "desktop"
TIMEOUT_S = 8.0
_APPLESCRIPT = ("on run {heading, body}", "display notification body with title heading", "end run")


@dataclass(frozen=True)
class Notice:
    """The keys of what is posted to a web address, besides `text` and `content`."""

    run: str
    event: str
    """`ended` or `trouble`."""
    reason: str
    """Why it ended, in the word of `ps`; else what is the matter: `recovering`, `rescuing`, `error`."""
    title: str
    message: str
    cost_usd: float


def targets_of(text: str) -> tuple[str, ...]:
    """The parts of `CLOUDBOOTH_NOTIFY`. Raises UsageError for one that is neither `desktop` nor a web address."""
    targets = tuple(part.strip() for part in text.split(",") if part.strip())
    for target in targets:
        if target != DESKTOP and not (urlsplit(target).scheme in ("http", "https") and urlsplit(target).hostname):
            raise UsageError(
                f'--notify and {VARIABLE} take `desktop` and web addresses, not "{target}"', "`--notify desktop`"
            )
    return targets


def desktop_command(system: str, title: str, message: str) -> list[str] | None:
    """What shows a notice on this kind of desktop; None where nothing is known that does. No shell sees the words."""
    if system == "Darwin":
        lines = [part for line in _APPLESCRIPT for part in ("-e", line)]
        return ["osascript", *lines, title, message]
    if system == "Linux":
        return ["notify-send", "--app-name=cloudbooth", "--", title, message]
    return None


class Notifier:
    """Tells every target in a thread of its own. `close` waits for them; both may be called without any target."""

    def __init__(self, targets: Sequence[str], complain: Callable[[str], None]) -> None:
        self._targets, self._complain = targets, complain
        self._threads: list[threading.Thread] = []

    def tell(self, notice: Notice) -> None:
        """Returns at once."""
        for target in self._targets:
            thread = threading.Thread(target=self._tell, args=(target, notice), name="notify", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Blocks for `TIMEOUT_S` at most."""
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        self._threads.clear()

    def _tell(self, target: str, notice: Notice) -> None:
        problem = _on_desktop(notice) if target == DESKTOP else _by_web(target, notice)
        if problem:
            self._complain(f"could not notify: {problem}")


def _on_desktop(notice: Notice) -> str:
    command = desktop_command(platform.system(), notice.title, notice.message)
    if command is None or shutil.which(command[0]) is None:
        return f"there is no {command[0]} here" if command else f"{platform.system()} is not known to show any"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S - 1, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {type(error).__name__}"
    return "" if done.returncode == 0 else f"{command[0]}: {done.stderr.strip() or done.returncode}"


def _by_web(url: str, notice: Notice) -> str:
    """The address is as good as a password with many services: only its host is ever named."""
    import httpx

    words = f"{notice.title}: {notice.message}"
    body = {**asdict(notice), "text": words, "content": words}
    host = urlsplit(url).hostname
    try:
        answer = httpx.post(url, json=body, timeout=TIMEOUT_S - 1, follow_redirects=False)
    except httpx.HTTPError as error:
        return f"{host}: {type(error).__name__}"
    return "" if answer.is_success else f"{host} answered {answer.status_code}"
