"""Proves on a real machine what no fake can: that it lets us in, knows itself, gives itself back, and is then gone.

A drill is a run of its own, in the ledger like any other, so that whatever goes wrong is shown, driven to its end by
`attach` and found by `gc`. It never trains: as soon as the machine answers, its guard is told that its time is over.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.absence import is_absent
from orchestrator.budget import spent_usd
from orchestrator.driver import drive, drive_until
from orchestrator.host import Host
from orchestrator.lifecycle import State, Wish
from orchestrator.phases.context import RunContext
from orchestrator.spec import Compute, Limits, Model, RunSpec, Subject
from orchestrator.spec_data import Data
from orchestrator.whole_file import write_atomically
from providers.api import HasBilling
from providers.errors import CloudboothError
from remote_trainer.wire import TrainSpec

PROOF_TIMEOUT_S = 180.0
"""The guard probes at once, and eight times with pauses when it is not answered well."""
SELF_RELEASE_TIMEOUT_S = 300.0
POLL_S = 5.0
PROOF_FILE = "fire-drill.json"


@dataclass(frozen=True)
class Drill:
    """What a drill has shown; kept beside the provider's state."""

    provider: str
    at: float
    """Unix seconds."""
    let_in: bool
    """Over SSH, with the key made for it, by a machine that showed the host key made for it."""
    proven: bool
    """The machine's own key was accepted for the harmless request."""
    gave_itself_back: bool
    seconds_to_boot: float
    seconds_to_vanish: float | None
    cost_usd: float
    """By our clock and the offer's price; the provider's own figure where it tells one."""

    @property
    def passed(self) -> bool:
        return self.let_in and self.proven and self.gave_itself_back


def drill_spec(provider: str, name: str, folder: Path, max_cost_usd: float) -> RunSpec:
    """A run that rents the cheapest machine there is. Its photos are never looked at."""
    return RunSpec(
        name=name,
        subject=Subject(instance_prompt="a photo of a fire drill"),
        data=Data(instance=folder),
        model=Model(base="builtin:tiny"),  # the cheapest model: here nothing but booting takes time
        train=TrainSpec(steps=1),
        compute=Compute(provider=provider, allow_cpu=True, disk_gb=10.0),
        limits=Limits(max_cost_usd=max_cost_usd, rescue_hours=0.0),
    )


def conduct(context: RunContext, say: Callable[[str], None]) -> Drill:
    """Rents, looks, lets the machine end itself, and makes sure that nothing is left. Blocks for minutes.

    Whatever happens in between, the machine is given back before this returns or raises. Raises what renting raises.
    """
    began_at = context.clock.monotonic()
    let_in = proven = gave_itself_back = False
    booted_at = began_at
    vanished_after: float | None = None
    try:
        let_in = drive_until(context, State.SHIPPING)
        booted_at = context.clock.monotonic()
        if let_in:
            say(f"it let us in after {booted_at - began_at:.0f} s, and showed the host key that was made for it")
            proven = _await_proof(context, say)
            vanished_after = _let_it_end_itself(context, say)
            gave_itself_back = vanished_after is not None
    finally:
        context.ledger.set_wish(context.run.name, Wish.DOWN)
        drive(context)
    say("its absence is confirmed")
    return Drill(
        provider=context.run.provider,
        at=context.clock.now(),
        let_in=let_in,
        proven=proven,
        gave_itself_back=gave_itself_back,
        seconds_to_boot=round(booted_at - began_at, 1),
        seconds_to_vanish=vanished_after,
        cost_usd=_cost_usd(context),
    )


def _await_proof(context: RunContext, say: Callable[[str], None]) -> bool:
    """Whether the guard's harmless request was answered well. False where there is no guard."""
    give_up_at = context.clock.monotonic() + PROOF_TIMEOUT_S
    while True:
        remote = context.open_remote()
        try:
            guard = remote.status().guard
        finally:
            remote.host.close()
        if guard is None:
            say("this provider's machines have no way to give themselves back: no guard was started")
            return False
        if guard.proven:
            say("its own key was accepted: it may end itself")
            return True
        if context.clock.monotonic() >= give_up_at:
            say("its own key was not accepted: a machine of this provider may be unable to end itself")
            return False
        context.clock.sleep(POLL_S)


def _let_it_end_itself(context: RunContext, say: Callable[[str], None]) -> float | None:
    """Ends the guard's lease and then says nothing more to the machine. Seconds until it was gone; None: it stays."""
    machine = context.held_machine().machine_id
    assert machine is not None
    remote = context.open_remote()
    try:
        _end_lease(remote.host, remote.workdir)
    finally:
        remote.host.close()
    told_at = context.clock.monotonic()
    while context.clock.monotonic() - told_at < SELF_RELEASE_TIMEOUT_S:
        if is_absent(context.provider, machine, context.clock.sleep):
            seconds = round(context.clock.monotonic() - told_at, 1)
            say(f"it gave itself back within {seconds:.0f} s")
            return seconds
        context.clock.sleep(POLL_S)
    say(f"it still runs {SELF_RELEASE_TIMEOUT_S:.0f} s after its lease ended; it is given back from here")
    return None


def _end_lease(host: Host, workdir: str) -> None:
    """By hand: every call of the agent would renew it. Without a guard there is nothing to end."""
    guard = shlex.quote(f"{workdir}/guard/memory")
    host.run(["sh", "-c", f'm=$(cat {guard}) && echo 1 >"$m/lease.new" && mv -f "$m/lease.new" "$m/lease"'])


def _cost_usd(context: RunContext) -> float:
    machines = context.ledger.machines(context.run.name)
    ours = spent_usd(machines, context.clock.now())
    newest = machines[-1].machine_id if machines else None
    if newest is None or not isinstance(context.provider, HasBilling):
        return ours
    try:
        billed = context.provider.billed_usd(newest)
    except CloudboothError:
        return ours
    return ours if billed is None else max(ours, billed)


def keep(drill: Drill, folder: Path) -> None:
    """Beside the provider's state, for `read_drill`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PROOF_FILE, (json.dumps(asdict(drill), indent=1) + "\n").encode())


def read_drill(folder: Path) -> Drill | None:
    """The newest drill of a provider; None when there was none that this version can read."""
    try:
        return Drill(**json.loads((folder / PROOF_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
