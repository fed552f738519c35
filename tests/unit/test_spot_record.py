from __future__ import annotations

import dataclasses

from orchestrator.interruptions import Seen
from orchestrator.ledger import MachineRecord
from orchestrator.lifecycle import Trouble
from orchestrator.recovery import history_of, spot_record
from providers.api import MachineId, Market

HOUR_S = 3600.0
SPOT = MachineRecord("t", "dog", 1, "vast", "4711/0.2", 0.2, 0.0, MachineId("m"), 0.0, 2 * HOUR_S, market=Market.SPOT)
TAKEN = dataclasses.replace(SPOT, absent_at=HOUR_S, trouble=Trouble.PREEMPTED)


def test_interruptions_and_hours_add_up_by_provider() -> None:
    elsewhere = dataclasses.replace(TAKEN, provider="runpod")
    record = spot_record([SPOT, TAKEN, elsewhere], now=0.0)
    assert record == {"vast": Seen(1, 3.0), "runpod": Seen(1, 1.0)}


def test_a_machine_that_lives_counts_until_now() -> None:
    assert spot_record([dataclasses.replace(SPOT, absent_at=None)], now=5 * HOUR_S) == {"vast": Seen(0, 5.0)}


def test_only_spot_machines_that_existed_count() -> None:
    on_demand = dataclasses.replace(SPOT, market=Market.ON_DEMAND)
    never_made = dataclasses.replace(SPOT, machine_id=None)
    assert spot_record([on_demand, never_made], now=0.0) == {}


def test_the_history_of_a_run_holds_its_record() -> None:
    history = history_of([SPOT, TAKEN], max_cost_usd=5.0, now=3 * HOUR_S)
    assert (history.interruptions, history.seen) == (1, {"vast": Seen(1, 3.0)})
