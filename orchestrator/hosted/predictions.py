"""Pictures that a service bills: on record before they are asked for, and until what became of them is known.

A prediction ends by itself within minutes. What is left of one, when a command is killed or an answer lost, is a line
in the ledger that may bill; the next command asks the service and settles it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict

from orchestrator.absence import AGREEMENT_S
from orchestrator.clock import Clock
from orchestrator.latecomers import SETTLE_AGE_S
from orchestrator.ledger import Ledger, PredictionRecord
from orchestrator.orphans import tag_prefix
from orchestrator.ranges import usd
from providers.errors import CloudboothError, Indeterminate, MachineGone
from providers.jobs import HasPredictions, Prediction, PredictionWish

SHOWS_WISH_S = 3600.0
"""How long the service shows what was asked of it: it clears inputs and outputs after an hour."""
ABSENT = "absent"
"""Outcome of one that the service has never had."""


def ask(
    ledger: Ledger, clock: Clock, provider: HasPredictions, run: str, model: str, base: str, wish: PredictionWish
) -> str:
    """Asks once for a picture and returns the tag of its record. An answer that was lost is looked for, and nothing is
    asked for twice.

    Raises CloudboothError when nothing was asked for, certainly, or when that cannot be said yet: the record stays
    open then.
    """
    tag = f"{tag_prefix(ledger.installation)}{run}-picture-{uuid.uuid4().hex[:8]}"
    ledger.record_prediction_intent(
        tag, run, provider.name, model, json.dumps(asdict(wish)), provider.prediction_usd_per_s(base)
    )
    try:
        ledger.record_predicted(tag, provider.predict(model, wish))
    except Indeterminate as error:
        clock.sleep(AGREEMENT_S)
        if not _find(ledger, provider, record_of(ledger, run, tag)):
            error.hint = error.hint or "the same command again, once nothing is said to bill any more"
            raise
    except CloudboothError:
        ledger.record_prediction_over(tag, ABSENT, 0.0)
        raise
    return tag


def look(ledger: Ledger, provider: HasPredictions, record: PredictionRecord) -> Prediction:
    """One look, whose end is written down with what it has cost. Raises MachineGone, and what the provider raises."""
    assert record.prediction is not None
    seen = provider.prediction(record.prediction)
    if seen.status.is_over:
        cost = None if seen.computed_s is None or record.usd_per_s is None else seen.computed_s * record.usd_per_s
        ledger.record_prediction_over(record.tag, seen.status_text, cost)
    return seen


def settle(
    ledger: Ledger,
    clock: Clock,
    provider: HasPredictions,
    open_: Sequence[PredictionRecord],
    told: Callable[[str], None],
) -> None:
    """Finds out what became of predictions that nobody may be watching, and writes it down; one that goes on is left to
    the next call. Twice is safe. Raises what the provider raises.
    """
    for record in open_:
        age_s = clock.now() - record.intent_at
        if record.prediction is None:
            if not _find(ledger, provider, record):
                if age_s >= SHOWS_WISH_S:
                    ledger.record_prediction_over(record.tag, ABSENT, None)
                    told(f"{record.tag} at {record.provider} is over, if it was ever made: what it cost is not known")
                elif age_s >= SETTLE_AGE_S:
                    ledger.record_prediction_over(record.tag, ABSENT, 0.0)
                    told(f"{record.tag} was never made at {record.provider}")
                continue
            record = record_of(ledger, record.run, record.tag)
        try:
            look(ledger, provider, record)
        except MachineGone:
            if age_s < SETTLE_AGE_S:  # it may not show yet
                continue
            ledger.record_prediction_over(record.tag, ABSENT, None)
        after = record_of(ledger, record.run, record.tag)
        if after.over_at is not None:
            cost = "" if after.usd is None else f", cost about {usd(after.usd)}"
            told(f"{after.tag} at {after.provider} is over: {after.outcome}{cost}")


def cost_of(records: Sequence[PredictionRecord]) -> float | None:
    """Of all of them, in dollars; None when one is not known."""
    known = [record.usd for record in records if record.usd is not None]
    return sum(known) if len(known) == len(records) else None


def record_of(ledger: Ledger, run: str, tag: str) -> PredictionRecord:
    return next(record for record in ledger.predictions(run) if record.tag == tag)


def _find(ledger: Ledger, provider: HasPredictions, record: PredictionRecord) -> bool:
    """Whether the service shows one without an answer, whose id is then on record."""
    known = {other.prediction for other in ledger.predictions(record.run) if other.prediction is not None}
    wish = PredictionWish(**json.loads(record.wish_json))
    found = provider.find_prediction(record.model, wish, record.intent_at, known)
    if found is not None:
        ledger.record_predicted(record.tag, found.id)
    return found is not None
