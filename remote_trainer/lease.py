"""What the guard of a rented machine reads and writes, and the arithmetic of its lease. Standard library only, 3.9.

The guard (`guard.sh`) alone ends the machine from inside. Everybody else says by these files until when it may run and
what is to happen then; docs/adr/0010 has the table. Times are seconds on the boot clock (`deadline.boot_clock`, which
is `/proc/uptime`), in files as whole numbers. Reading never fails: what is missing or torn counts as not there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Optional

from . import run_folder as folders
from . import wire

LEASE_S = 600.0
"""What one renewal is good for, unless the guard was told otherwise: how long a machine outlives a supervisor and a
laptop that are both gone."""
BEAT_STALE_S = 120.0
"""A guard that looked at its files longer ago than this is dead: a call of its own may hold it up for 30 s."""
ONLY_COPY_GRACE_S = 86400
"""How long a machine that cannot be stopped keeps an only copy where no limit is known."""

GUARD_FOLDER = "guard"
"""Below the work folder, on the volume."""
SCRIPT = "guard.sh"


class GuardAction(Enum):
    WAIT = "wait"
    TERMINATE = "terminate"
    STOP = "stop"


def guard_action(
    now_s: float, lease_s: float, limit_s: Optional[float], on_lapse: wire.LapseAction, has_stop: bool
) -> GuardAction:
    """What the guard does at `now_s`; `guard.sh` decides the same.

    Terminating a machine with an only copy is left for one that cannot be stopped, once its limit has passed as well.
    """
    if now_s < (lease_s if limit_s is None else min(lease_s, limit_s)):
        return GuardAction.WAIT
    if on_lapse == "terminate":
        return GuardAction.TERMINATE
    if has_stop:
        return GuardAction.STOP
    return GuardAction.TERMINATE if now_s >= _end_s(lease_s, limit_s) else GuardAction.WAIT


def acts_at_s(lease_s: float, limit_s: Optional[float], on_lapse: wire.LapseAction, has_stop: bool) -> float:
    """The second of the boot clock at which the guard acts if nothing is renewed."""
    lapse_s = lease_s if limit_s is None else min(lease_s, limit_s)
    return max(lapse_s, _end_s(lease_s, limit_s)) if on_lapse == "stop" and not has_stop else lapse_s


def _end_s(lease_s: float, limit_s: Optional[float]) -> float:
    return lease_s + ONLY_COPY_GRACE_S if limit_s is None else limit_s


def renewed_s(now_s: float, for_s: float, limit_s: Optional[float], lease_s: Optional[float]) -> float:
    """The lease after a renewal: never shorter than it was, never beyond the limit."""
    wanted = max(now_s + for_s, now_s if lease_s is None else lease_s)
    return wanted if limit_s is None else min(wanted, limit_s)


class GuardFiles:
    """The guard's two folders: one on the volume, one in memory. Writing is safe to repeat and to do at once."""

    def __init__(self, state: Path, memory: Path) -> None:
        self._state, self._memory = state, memory

    @classmethod
    def above(cls, folder: Path) -> Optional[GuardFiles]:
        """Those of the work folder that `folder` lies in; None where no guard was ever started."""
        for candidate in (folder, *folder.parents):
            with contextlib.suppress(OSError):
                memory = (candidate / GUARD_FOLDER / "memory").read_text().strip()
                if memory:
                    return cls(candidate / GUARD_FOLDER, Path(memory))
        return None

    # ---- what is there ---------------------------------------------------------------------------------------------

    @property
    def workdir(self) -> Path:
        return self._state.parent

    @property
    def lease_s(self) -> Optional[float]:
        return _number(self._memory / "lease")

    @property
    def limit_s(self) -> Optional[float]:
        return _number(self._memory / "limit")

    @property
    def on_lapse(self) -> wire.LapseAction:
        """Anything but a clear `terminate` protects the disk; no file at all means that nothing is worth it yet."""
        try:
            word = (self._state / "on-lapse").read_text().strip()
        except FileNotFoundError:
            return "terminate"
        except (OSError, ValueError):
            return "stop"
        return "terminate" if word == "terminate" else "stop"

    @property
    def can_stop(self) -> bool:
        return _text(self._memory / "can-stop") == "yes"

    @property
    def answer(self) -> str:
        """The HTTP status that the probe was last answered with, `000` for no answer; empty before there was one."""
        return _text(self._memory / "proof")

    @property
    def proven(self) -> Optional[bool]:
        return self.answer.startswith("2") if self.answer else None

    def contact_ago_s(self, now_s: float) -> Optional[float]:
        """Since a laptop last called; None when none has on this boot."""
        contact_s = _number(self._memory / "contact")
        return None if contact_s is None or contact_s > now_s + 1 else max(0.0, now_s - contact_s)

    def is_alive(self, now_s: float) -> bool:
        beat_s = _number(self._memory / "beat")
        return beat_s is not None and -1.0 <= now_s - beat_s <= BEAT_STALE_S

    def status(self, now_s: float) -> wire.GuardStatus:
        lease_s, limit_s = self.lease_s, self.limit_s
        return wire.GuardStatus(
            alive=self.is_alive(now_s),
            proven=self.proven,
            lease_left_s=None if lease_s is None else lease_s - now_s,
            limit_left_s=None if limit_s is None else limit_s - now_s,
            on_lapse=self.on_lapse,
        )

    # ---- what it shall do ------------------------------------------------------------------------------------------

    def renew(self, now_s: float, for_s: Optional[float] = None) -> None:
        """Whoever is alive says so. A lease that is longer already stays as it is. None: as long as is usual here."""
        with self._writing():
            usual_s = _number(self._memory / "lease-for") or LEASE_S
            self._put("lease", renewed_s(now_s, usual_s if for_s is None else for_s, self.limit_s, self.lease_s))
        with contextlib.suppress(OSError):
            (self._state / "graces").unlink()

    def note_contact(self, now_s: float) -> None:
        """A laptop has called, or still listens."""
        with self._writing():
            self._put("contact", now_s)

    def end_lease(self, at_s: float) -> None:
        """The last word of a run: also shortens. Never beyond the limit."""
        with self._writing():
            limit_s = self.limit_s
            self._put("lease", at_s if limit_s is None else min(at_s, limit_s))

    def set_limit(self, now_s: float, left_s: float) -> None:
        """No renewal goes beyond `left_s` from now. What is left is noted on the volume too, for another boot, and
        when that is over, for another container on this one.
        """
        with self._writing():
            self._put("limit", now_s + left_s)
        with contextlib.suppress(OSError):
            _replace(self._state / "limit-left", str(max(0, int(left_s))))
            _replace(self._state / "limit-at", str(max(1, int(now_s + left_s))))

    def set_on_lapse(self, action: wire.LapseAction) -> None:
        """On the disk itself when it returns; raises OSError when that cannot be. Nothing is written without need.

        A full disk has room for `stop` all the same: over the longer word that the guard put there. Half of
        it says as much.
        """
        path = self._state / "on-lapse"
        if self.on_lapse == action and path.exists():
            return
        try:
            folders.write_atomically(path, f"{action}\n".encode())
        except OSError:
            if action == "terminate":
                raise
            with open(path, "r+b", buffering=0) as handle:
                handle.write(b"stop     \n")
                os.fsync(handle.fileno())

    @contextlib.contextmanager
    def deciding(self) -> Iterator[None]:
        """Held while somebody looks at what is saved and writes `on-lapse`: an older look must not win."""
        lock = folders.acquire(self._state / "on-lapse.lock", wait_s=10)
        try:
            yield
        finally:
            if lock is not None:
                lock.close()

    def start(self, program: Optional[str] = None) -> None:
        """Starts the guard, detached, from the script in memory: again when it has died, or for the first time with
        `program`. One that lives keeps the second one out. Raises OSError without a script.
        """
        script = self._memory / SCRIPT
        environment = dict(os.environ)
        if program is None:
            environment["CLOUDBOOTH_GUARD_AGAIN"] = "yes"
            script.stat()
        else:
            for folder in (self._state, self._memory):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            environment["CLOUDBOOTH_GUARD_STATE"] = str(self._state)
            _replace(script, program)
        subprocess.Popen(
            ["sh", str(script)], env=environment, cwd="/", start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Memory that is gone or full: the guard goes on with what it knows, and a later renewal tries again."""
        with contextlib.suppress(OSError):
            yield

    def _put(self, name: str, at_s: float) -> None:
        _replace(self._memory / name, str(max(1, int(at_s))))


def memory_folder() -> Path:
    """Where a guard that is started over SSH keeps what ends with the boot."""
    named = os.environ.get("CLOUDBOOTH_GUARD_MEMORY")
    if named:
        return Path(named)
    shared = Path("/dev/shm")
    return (shared if os.access(shared, os.W_OK) else Path("/tmp")) / "cloudbooth-guard"


def _replace(path: Path, text: str) -> None:
    """For its owner alone. Not flushed: all but `limit-left` is memory, and that is written again in seconds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text + ("" if text.endswith("\n") else "\n"))
    os.replace(temporary, path)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> Optional[float]:
    text = _text(path)
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None
