"""Keeping a machine warm after its run: showing the guard that somebody is there, until that is no longer wanted."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.lifecycle import Facts
from orchestrator.phases.context import RunContext
from orchestrator.phases.persistence import wait_while_wanted

BEAT_S = 60.0
"""Between two signs of life: the guard's lease, which each of them renews, is several times as long."""


def keep(context: RunContext, facts: Facts) -> Facts:
    """One sign of life, then a pause, cut short by any wish to end. Raises as the connection does."""
    remote = context.open_remote()
    try:
        status = remote.status()
    finally:
        remote.host.close()
    context.require_driver()
    wait_while_wanted(context, min(BEAT_S, facts.keep_left_s))
    return replace(facts, host=status)
