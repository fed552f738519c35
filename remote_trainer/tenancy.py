"""A supervisor's dealings with the guard of its rented machine. Standard library only, Python 3.9 or later.

It decides nothing (`oversight` and `lease` do): it reads clocks and files, and writes down what follows. Where no
guard was ever started there is nothing to write, and only the run's own time is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Optional

from . import only_copy, oversight, wire
from . import run_folder as folders
from .deadline import Allowance
from .lease import GuardFiles, acts_at_s
from .uploads import Uploads

LAST_CALL_S = 30.0
"""Kept of the limit for the guard's own call."""


class Tenancy:
    """From `begin` to `end`, with a `beat` every few seconds between; `heard` is told everything the log is told."""

    def __init__(
        self,
        run_folder: Path,
        job: wire.Job,
        allowance: Allowance,
        uploads: Uploads,
        say: Callable[[wire.Event], None],
        start_guard: Callable[[GuardFiles], None] = GuardFiles.start,
    ) -> None:
        self._clocks, self._start_guard = allowance.clocks, start_guard
        self._folder, self._job, self._allowance, self._uploads, self._say = run_folder, job, allowance, uploads, say
        self._guard = GuardFiles.above(run_folder)
        self._seen = oversight.SeenTimes()
        self._reserve_s = self._told_reserve_s = job.reserve_s
        self._commit_began_at: Optional[float] = None
        self._last_step: Optional[tuple[int, float]] = None
        """Its number and when it was told, in this stretch of training."""
        self._said: set[str] = set()

    # ---- time ------------------------------------------------------------------------------------------------------

    @property
    def time_left_s(self) -> float:
        """Until training is asked to stop."""
        return oversight.time_left_s(self._allowance.left_s, self._allowance.limit_left_s, self._reserve_s)

    @property
    def out_of_time(self) -> Optional[wire.Failed]:
        return oversight.out_of_time(self._allowance.left_s, self._allowance.limit_left_s, self._reserve_s)

    @property
    def may_wait(self) -> bool:
        """Whether the machine is paid for a little longer."""
        return self._allowance.limit_left_s > LAST_CALL_S

    # ---- acts ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        for checkpoint in folders.committed_checkpoints(self._folder)[-1:]:
            self._uploads.begin(checkpoint)
        self.beat()

    def beat(self) -> float:
        """Renews the lease and sees to the guard. The seconds of the allowance that are used."""
        elapsed_s = self._allowance.tick()
        if self._guard is None:
            return elapsed_s
        now_s = self._clocks.boot_clock()
        if self._job.limit_s is not None:
            self._guard.set_limit(now_s, self._allowance.limit_left_s)
        self._guard.renew(now_s)
        if not self._guard.is_alive(now_s):
            self._start_guard_again(self._guard)
        if self._guard.proven is not None:
            self.say_what_is_proven()
        self._uploads_told()
        self._review(self._guard)
        return elapsed_s

    def say_what_is_proven(self) -> None:
        """Once, and again only when an answer has come since."""
        if self._guard is None:
            return
        proof = oversight.proof_of(self._guard.proven, self._guard.answer)
        if self._first_time(proof.outcome):
            self._say(proof)
            if proof.proven is False:
                self._say(oversight.UNPROVEN)

    def heard(self, event: wire.Event) -> None:
        """Learns how long things take, and protects what was just committed."""
        if isinstance(event, wire.StepDone):
            self._learn_pace(event.step)
        elif isinstance(event, wire.PhaseStarted):
            self._last_step = None
            if event.name in ("evaluate", "checkpoint"):
                self._commit_began_at = self._commit_began_at or self._clocks.monotonic()
            else:
                self._commit_began_at = None
        elif isinstance(event, wire.CheckpointCommitted):
            if self._commit_began_at is not None:
                took_s = self._clocks.monotonic() - self._commit_began_at
                self._seen = replace(self._seen, commit_s=max(took_s, self._seen.commit_s or 0.0))
                self._commit_began_at = None
            self._uploads.begin(wire.CommittedFolder(event.step, event.folder, event.manifest_sha256))
            self._protect()
            self._estimate_again()
        elif isinstance(event, wire.Done):
            self._uploads.begin(wire.CommittedFolder(event.step, wire.OUTPUT_FOLDER, event.manifest_sha256))
            self._protect()

    def end(self, ended: wire.Event) -> None:
        """The last renewal: the guard does the rest. The last run at work on the machine decides for all."""
        if self._guard is None:
            return
        self._uploads_told()
        # Pictures are no reason to keep a disk, and one to wait a little for whoever asked for them.
        safe = self._review(self._guard) == "terminate" and self._job.pictures is None
        if only_copy.others_at_work(self._guard, self._folder):
            return
        now_s = self._clocks.boot_clock()
        lease_s = oversight.last_lease_s(ended, safe, self._job.wait_for_laptop_s, self._guard.contact_ago_s(now_s))
        acts_s = acts_at_s(now_s + lease_s, self._guard.limit_s, self._guard.on_lapse, self._guard.can_stop)
        action = self._guard.on_lapse if self._guard.can_stop else "terminate"
        self._say(oversight.last_word(action, max(0.0, acts_s - now_s)))  # while there is still a machine to say it
        self._guard.end_lease(now_s + lease_s)

    def _learn_pace(self, step: int) -> None:
        now_s = self._clocks.monotonic()
        if self._last_step is not None and step > self._last_step[0]:
            before, told_s = self._last_step
            self._seen = replace(self._seen, step_s=(now_s - told_s) / (step - before))
            self._estimate_again()
        self._last_step = (step, now_s)

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _protect(self) -> None:
        if self._guard is not None:
            self._review(self._guard)

    def _review(self, guard: GuardFiles) -> wire.LapseAction:
        """A disk that takes no word: it is tried again at the next beat, and what was said before holds until then."""
        try:
            return only_copy.review(guard)
        except OSError as error:
            if self._first_time("review"):
                self._say(wire.Warned(f"the guard cannot be told what to keep: {error}"))
            return "stop"

    def _uploads_told(self) -> None:
        """What the store holds is a fact about the run, for the agent too."""
        with folders.full_disk_forgiven():
            only_copy.note_saved(self._folder, self._uploads.saved())
        if self._uploads.longest_s != self._seen.upload_s:
            self._seen = replace(self._seen, upload_s=self._uploads.longest_s)
            self._estimate_again()

    def _estimate_again(self) -> None:
        if self._job.limit_s is None:
            return
        self._reserve_s = oversight.reserve_s(self._job.reserve_s, self._seen, self._uploads.active)
        if oversight.differs_materially(self._told_reserve_s, self._reserve_s):
            self._told_reserve_s = self._reserve_s
            what = f"stop {self._reserve_s:.0f} s before the money is gone"
            self._say(wire.Decision(what, f"a step takes {self._seen.step_s or 0:.1f} s here, a checkpoint took "
                                          f"{self._seen.commit_s or 0:.1f} s, its upload "
                                          f"{self._seen.upload_s or 0:.0f} s"))  # fmt: skip

    def _start_guard_again(self, guard: GuardFiles) -> None:
        try:
            self._start_guard(guard)
        except OSError as error:
            if self._first_time("guard gone"):
                self._say(wire.Warned(f"the guard of this machine is gone and cannot be started: {error}",
                                      "only the laptop gives the machine back now: `cloudbooth down RUN`"))  # fmt: skip
            return
        self._say(wire.Warned("the guard of this machine was dead; it was started again"))

    def _first_time(self, what: str) -> bool:
        if what in self._said:
            return False
        self._said.add(what)
        return True
