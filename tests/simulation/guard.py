"""The simulated guard: `guard.sh` as an appointment of the clock, with the settings of the real start command.

It reads and writes the guard's real files, decides by the real `guard_action`, and makes the calls that the boot plan
carries, to a cloud that asks for the machine's own key.
"""

from __future__ import annotations

import base64
import gzip
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from providers.testing.virtual_clock import Appointment
from remote_trainer.lease import GUARD_FOLDER, ONLY_COPY_GRACE_S, GuardAction, GuardFiles, acts_at_s, guard_action

if TYPE_CHECKING:
    from tests.simulation.computer import Computer

LOOK_S = 40.0
"""The longest pause between two looks: the real one looks every five seconds, and its beat is stale after 120."""
FORGOTTEN_S = 300.0
"""What a restarted container gets in any case, `GRACES` times in a row without a renewal."""
GRACES = 3
PROBES = 8
PROBE_EVERY_S = 15.0
ANSWERED_WELL_S = 600.0
LONGEST_PAUSE_S = 300.0

Call = Callable[[str, str, str], int]
"""Method, URL and authorization → HTTP status."""


@dataclass(frozen=True)
class Program:
    """What the boot plan's start command starts."""

    first_s: float
    retry_s: float
    terminate: str
    stop: str
    probe: str

    @classmethod
    def of(cls, start_command: str) -> Program | None:
        """None when the command starts no guard."""
        packed = re.match(r"echo (\S+)\|base64 -d\|gzip -dc\|sh$", start_command)
        if packed is None:
            return None
        script = gzip.decompress(base64.b64decode(packed[1])).decode()
        found = dict(re.findall(r"^CLOUDBOOTH_GUARD_([A-Z_]+)=('[^']*'|\S*)$", script, re.MULTILINE))
        if "TERMINATE" not in found:
            return None
        told = {name: "".join(shlex.split(value)) for name, value in found.items() if name != "STATE"}
        return cls(float(told["FIRST_S"]), float(told["RETRY_S"]), told["TERMINATE"], told["STOP"], told["PROBE"])


class Guard:
    """One boot's guard. `again`: of a boot whose guard has died; lease, limit and proof stay."""

    def __init__(
        self, computer: Computer, program: Program, workdir: Path, environment: Mapping[str, str], call: Call
    ) -> None:
        self._computer, self._program, self._environment, self._call = computer, program, environment, call
        self._state = workdir / GUARD_FOLDER
        self._memory = computer.disk.with_name(f"{computer.disk.name}-memory")
        self.files = GuardFiles(self._state, self._memory)
        self._next: Appointment | None = None
        self.dead_since_s = 0.0

    @property
    def alive(self) -> bool:
        return self._next is not None

    def begin(self, *, again: bool = False) -> None:
        if self.alive:
            return
        now_s = self._computer.boot_clock_s
        self._end_s: float | None = None
        self._before, self._act_next_s, self._pause_s = GuardAction.WAIT, 0.0, self._program.retry_s
        self._probes, self._probe_at_s = PROBES, 0.0
        first_s = self._program.first_s
        if again:
            self._probes = 0 if self.files.proven else PROBES
        else:
            shutil.rmtree(self._memory, ignore_errors=True)
            self._memory.mkdir(parents=True)
            left = self._state / "limit-left"
            self._end_s = now_s + float(left.read_text()) if left.exists() else None
            first_s = self._first_s(now_s)
        if self.files.lease_s is None:
            self._put("lease", now_s + first_s)
        self._put("can-stop", "yes" if self._program.stop else "")
        self._state.mkdir(parents=True, exist_ok=True)
        (self._state / "memory").write_text(str(self._memory))
        self._look()

    def _first_s(self, now_s: float) -> float:
        """As `shorten_first` of the script."""
        boot, end, now = self._state / "boot", self._state / "limit-at", self._computer.clocks.boot_id()
        same = boot.exists() and boot.read_text() == now
        self._state.mkdir(parents=True, exist_ok=True)
        boot.write_text(now)
        if not same or not end.exists():
            end.write_text(str(int(now_s + self._program.first_s)))
            return self._program.first_s
        left_s = float(end.read_text()) - now_s
        if left_s < FORGOTTEN_S:
            graces = self._state / "graces"
            left = int(graces.read_text()) if graces.exists() else GRACES
            graces.write_text(str(left - 1 if left else GRACES))
            left_s = FORGOTTEN_S if left else 0.0
        return min(self._program.first_s, left_s)

    def kill(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
            self.dead_since_s = self._computer.clock.monotonic()

    # ---- its loop --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        now_s = self._computer.boot_clock_s
        self._next = self._computer.clock.after(LOOK_S, self._look)
        files = self.files
        lease_s, limit_s = files.lease_s, files.limit_s
        if lease_s is None:
            lease_s = now_s + self._program.first_s
        action = self._decided(now_s, lease_s, limit_s)
        self._act(now_s, action)
        if not self.alive:
            return  # the call ended us
        self._put("beat", now_s)
        self._probe(now_s)
        acts_in_s = acts_at_s(lease_s, limit_s, files.on_lapse, bool(self._program.stop)) - now_s
        due_s = [LOOK_S, acts_in_s if acts_in_s > 0 else self._act_next_s - now_s]
        if self._probes:
            due_s.append(PROBE_EVERY_S)
        self.kill()
        self._next = self._computer.clock.after(max(1.0, min(due_s)), self._look)

    def _decided(self, now_s: float, lease_s: float, limit_s: float | None) -> GuardAction:
        on_lapse, can_stop = self.files.on_lapse, bool(self._program.stop)
        if limit_s is None and self._end_s is not None and on_lapse == "stop" and not can_stop:
            # What an earlier boot had left of its limit ends the grace, without shortening the lease.
            end_s = min(self._end_s, lease_s + ONLY_COPY_GRACE_S)
            return GuardAction.TERMINATE if now_s >= max(lease_s, end_s) else GuardAction.WAIT
        return guard_action(now_s, lease_s, limit_s, on_lapse, can_stop)

    def _act(self, now_s: float, action: GuardAction) -> None:
        if action is not self._before:
            self._before, self._act_next_s, self._pause_s = action, now_s, self._program.retry_s
        if action is GuardAction.WAIT or now_s < self._act_next_s:
            return
        code = self._calls(self._program.stop if action is GuardAction.STOP else self._program.terminate)
        if 200 <= code < 300 or code in (404, 410):
            self._act_next_s = now_s + ANSWERED_WELL_S
        else:
            self._act_next_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _probe(self, now_s: float) -> None:
        if self._probes <= 0 or now_s < self._probe_at_s:
            return
        code = self._calls(self._program.probe)
        self._put("proof", f"{code:03d}")
        self._probes = 0 if 200 <= code < 300 else self._probes - 1
        self._probe_at_s = now_s + PROBE_EVERY_S

    def _calls(self, text: str) -> int:
        head, *lines = Template(text).substitute(self._environment).split("\n")
        method, url = head.split(" ", 1)
        headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        return self._call(method, url, headers.get("Authorization", ""))

    def _put(self, name: str, value: float | str) -> None:
        (self._memory / name).write_text(value if isinstance(value, str) else str(max(1, int(value))))
