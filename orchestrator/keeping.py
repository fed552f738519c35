"""A machine that stays warm after its run: for how long, who uses it, and how the next run gets to it.

It stays with the run that rented it: that run's driver keeps it alive, pays for it within its ceiling, and gives it
back. Another run uses it as a machine that stands (`providers.adopted`).
"""

from __future__ import annotations

from orchestrator.budget import seconds_left
from orchestrator.errors import RunConflict
from orchestrator.ledger import Ledger, MachineRecord
from orchestrator.lifecycle import State
from orchestrator.spec import spec_from_json


def keep_left_s(keep_s: float, kept_for_s: float, money_left_s: float, *, in_use: bool) -> float:
    """Seconds that a kept machine still stays. One that a run uses stays for as long as the money lasts. Pure."""
    wanted_s = money_left_s if in_use else keep_s - kept_for_s
    return max(0.0, min(wanted_s, money_left_s)) if keep_s > 0 else 0.0


def users_of(ledger: Ledger, machine: MachineRecord) -> list[str]:
    """The runs that train on a kept machine now, or are about to."""
    return [
        run.name
        for run in ledger.runs()
        if run.name != machine.run and run.state is not State.ENDED and run.provider == machine.provider
        and machine.machine_id is not None and spec_from_json(run.spec_json).compute.machine == machine.machine_id
    ]  # fmt: skip


def kept_by(ledger: Ledger, run_name: str) -> MachineRecord:
    """The machine that a run keeps. Raises UsageError for an unknown run, and RunConflict when it keeps none."""
    run = ledger.run(run_name)
    machine = ledger.machine(run.name, run.attempt)
    if run.state is not State.KEEPING or machine is None or machine.machine_id is None:
        raise RunConflict(
            f"run `{run_name}` keeps no machine: it is {run.state.value}",
            "`cloudbooth ps` shows which runs do; `launch --keep 30m` makes one do so",
        )
    return machine


def paid_for_s(ledger: Ledger, machine: MachineRecord, now: float) -> float:
    """For how long the run that rented a machine still pays for it, what a rescue would cost kept back.

    Whoever else uses the machine has no more time than this: its guard knows the ceiling of the first run alone.
    """
    ceiling_usd = spec_from_json(ledger.run(machine.run).spec_json).limits.max_cost_usd
    machines = ledger.machines(machine.run)
    return max(0.0, seconds_left(ceiling_usd, machine.rate_usd, machines, now, machine.rescue_usd))


def held_as(ledger: Ledger, provider: str, machine_id: str) -> MachineRecord | None:
    """The record of a machine that a run of this installation holds, by its id at the provider."""
    return next((m for m in ledger.open_machines() if (m.provider, m.machine_id) == (provider, machine_id)), None)
