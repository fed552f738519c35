"""Where time and money of a run went: spans of states out of moves, and costs laid over them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from orchestrator.budget import cost_usd, rate_spans
from orchestrator.ledger import MachineRecord, MoveRecord, RunRecord
from orchestrator.lifecycle import EndReason, State
from orchestrator.ranges import Range
from orchestrator.report.contents import HostPhase, MachineEntry, Money, Share, StateSpan
from remote_trainer import wire

AFTERWARDS = "after the end"
"""The share of a machine whose absence was confirmed, or is not yet, when its run had ended."""


def state_spans(run: RunRecord, moves: Sequence[MoveRecord], now: float) -> tuple[StateSpan, ...]:
    """In order. Between the end of an attempt and its resumption there is none; the last one lasts until `now`."""
    spans, attempt = [], 1
    state, since, why, interrupted = State.PLANNED, run.created_at, "the run was asked for", False
    for move in moves:
        if state is not State.ENDED:
            spans.append(StateSpan(state.value, attempt, since, move.at, why, interrupted))
        elif move.to_state is State.PLANNED:
            attempt += 1
        interrupted = _is_interruption(move)
        state, since, why = move.to_state, move.at, move.why
    if state is not State.ENDED:
        spans.append(StateSpan(state.value, attempt, since, max(now, since), why, interrupted))
    return tuple(spans)


def _is_interruption(move: MoveRecord) -> bool:
    if move.to_state in (State.RECOVERING, State.RESCUING):
        return True
    return (move.from_state, move.to_state) == (State.TRAINING, State.SHIPPING)


def money_of(
    machines: Sequence[MachineRecord],
    spans: Sequence[StateSpan],
    now: float,
    quote: Range | None,
    ceiling_usd: float | None,
) -> Money:
    """By state and attempt. What a provider has billed is shared out as our own count of that machine is."""
    by_state, by_attempt = defaultdict[str, float](float), defaultdict[str, float](float)
    for machine in machines:
        cost = cost_usd([machine], now)
        counted = _counted_by_state(machine, spans, now)
        whole = sum(counted.values())
        for state, usd in counted.items():
            by_state[state] += usd * cost / whole if whole else 0.0
        by_attempt[f"attempt {machine.attempt}"] += cost
    return Money(
        spent_usd=cost_usd(machines, now),
        quote=quote,
        ceiling_usd=ceiling_usd,
        by_phase=tuple(Share(label, usd) for label, usd in _largest_first(by_state) if usd > 0),
        by_attempt=tuple(Share(label, usd) for label, usd in sorted(by_attempt.items()) if usd > 0),
    )


def _counted_by_state(machine: MachineRecord, spans: Sequence[StateSpan], now: float) -> dict[str, float]:
    shares = defaultdict[str, float](float)
    for rate in rate_spans(machine, now):
        inside_s = 0.0
        for span in spans:
            seconds = max(0.0, min(rate.end, span.end) - max(rate.start, span.start))
            shares[span.state] += seconds / 3600 * rate.usd_per_hour
            inside_s += seconds
        shares[AFTERWARDS] += max(0.0, rate.seconds - inside_s) / 3600 * rate.usd_per_hour
    return shares


def machine_entries(run: RunRecord, machines: Sequence[MachineRecord], now: float) -> tuple[MachineEntry, ...]:
    """In the order of their intents."""
    last = {machine.attempt: machine.tag for machine in machines}
    return tuple(
        MachineEntry(
            tag=machine.tag,
            attempt=machine.attempt,
            provider=machine.provider,
            gpu=machine.gpu,
            market=machine.market.value,
            price_per_hour_usd=machine.price_per_hour_usd,
            since=machine.bills_since,
            until=machine.absent_at,
            ended_why=_why_ended(machine, run, is_last=last[machine.attempt] == machine.tag),
            cost_usd=cost_usd([machine], now),
            is_billed=machine.billed_usd is not None and machine.billed_usd == cost_usd([machine], now) > 0,
        )
        for machine in machines
    )


def _why_ended(machine: MachineRecord, run: RunRecord, *, is_last: bool) -> str:
    if machine.trouble is not None:
        return machine.trouble.value + (f": {machine.trouble_why}" if machine.trouble_why else "")
    if machine.absent_at is None:
        return "" if not machine.stopped else f"stopped; its disk holds {machine.keeps.words}"
    if machine.machine_id is None:
        return "never came to be"
    if is_last and machine.attempt == run.attempt and run.reason is not None:
        return "given back: the run was done" if run.reason is EndReason.DONE else f"given back: {run.reason.value}"
    return "given back"


def host_phases(logs: Sequence[Sequence[wire.Envelope]]) -> tuple[HostPhase, ...]:
    """Longest first. `logs`: one list of events for each machine's log; times are subtracted within one log only.

    A phase ends with the next one, with a terminal event, or with the last word of a supervisor that another followed.
    """
    seconds = defaultdict[str, float](float)
    for log in logs:
        name, since, last = "", 0.0, 0.0
        for envelope in log:
            match envelope.event:
                case wire.Hello():
                    seconds[name] += max(0.0, last - since)
                    name = ""
                case wire.PhaseStarted(started, _):
                    seconds[name] += max(0.0, envelope.t - since)
                    name, since = started, envelope.t
                case wire.Done() | wire.Failed() | wire.Stopped():
                    seconds[name] += max(0.0, envelope.t - since)
                    name = ""
            last = envelope.t
        seconds[name] += max(0.0, last - since)
    return tuple(HostPhase(name, took) for name, took in _largest_first(seconds) if name and took > 0)


def _largest_first(amounts: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(amounts.items(), key=lambda item: -item[1])
