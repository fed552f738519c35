"""What is lost with a rented machine that is given back now, by all that the laptop knows. Asks no host."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.keeping import users_of
from orchestrator.ledger import RunRecord
from orchestrator.lifecycle import Keeps, State
from orchestrator.mirror import progress_of_run
from orchestrator.recovery import kept_alone
from orchestrator.spec import spec_from_json
from orchestrator.wiring import Wiring


@dataclass(frozen=True)
class LostByDown:
    keeps: Keeps
    words: str
    """For people, as a fact."""


def lost_by_down(wiring: Wiring, run: RunRecord) -> LostByDown | None:
    """None when there is nothing to lose: no machine, one that stays with its files, or all that counts is here."""
    machine = wiring.ledger.machine(run.name, run.attempt)
    if machine is None or machine.absent_at is not None or machine.machine_id is None:
        return None
    if machine.price_per_hour_usd == 0:
        return None  # a machine of one's own keeps the run's folder
    if run.state is State.KEEPING and (users := users_of(wiring.ledger, machine)):
        return LostByDown(Keeps.NOTHING, f"run `{users[0]}` uses the machine that run `{run.name}` keeps")
    artifacts = wiring.ledger.artifacts(run.name)
    progress = progress_of_run(wiring.home.run(run.name))
    keeps = machine.keeps if machine.keeps is not Keeps.NOTHING else kept_alone(progress, artifacts, silence_s=0.0)
    at_home = max((artifact.step for artifact in artifacts if artifact.kind == "checkpoint"), default=0)
    if spec_from_json(run.spec_json).compute.volume:
        on_volume = max((checkpoint.step for checkpoint in progress.checkpoints), default=0)
        if progress.done is not None or progress.step <= max(at_home, on_volume):
            return None
        newest = f"the newest checkpoint on its volume is of step {on_volume}" if on_volume else "its volume has none"
        return LostByDown(Keeps.NOTHING, f"run `{run.name}` is at step {progress.step} of {progress.of}, and {newest}")
    if keeps is Keeps.NOTHING and progress.step <= at_home:
        return None
    if any(artifact.kind == "output" for artifact in artifacts) and keeps is Keeps.NOTHING:
        return None
    here = f"the newest checkpoint here is of step {at_home}" if at_home else "no checkpoint is here"
    if keeps is Keeps.NOTHING:
        return LostByDown(keeps, f"run `{run.name}` is at step {progress.step} of {progress.of}, and {here}")
    return LostByDown(keeps, f"the machine of run `{run.name}` holds {keeps.words}, and {here}")
