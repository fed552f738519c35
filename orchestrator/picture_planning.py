"""The way to pictures on a rented machine: what is free is looked up, a quote is made, and the run is entered."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.base_model import HubModel, inspect_base, job_base, pipeline_name, require_reading_token, upload_bytes
from orchestrator.budget import WORTH_RENTING_S, seconds_left
from orchestrator.driver_lock import driver_lock
from orchestrator.errors import UsageError
from orchestrator.finished_model import FinishedModel
from orchestrator.offers import OfferHistory, choose, gpu_requests
from orchestrator.picture_run import (
    WAIT_FOR_LAPTOP_MINUTES,
    PictureRecord,
    RentalWish,
    model_files,
    picture_run_name,
    picture_spec,
    renting_provider,
)
from orchestrator.plan_json import plain
from orchestrator.planning import proven_at, require_free_name
from orchestrator.preflight import require_new_folder
from orchestrator.ranges import duration_range, usd, usd_range
from orchestrator.recovery import spot_record
from orchestrator.rental import Rental, plan_rental, terms_of
from orchestrator.spec import RunSpec, spec_to_json
from orchestrator.staging import stage_job
from orchestrator.wiring import Wiring
from providers.api import HasStandingMachine
from providers.registry import takes_jobs
from remote_trainer import wire


@dataclass(frozen=True)
class PicturePlan:
    """What would be rented for which pictures, and for how much."""

    spec: RunSpec
    job: wire.Job
    record: PictureRecord
    rental: Rental

    def lines(self) -> list[str]:
        """The quote, for people."""
        assert self.job.pictures is not None
        offer, priced, after = self.rental.quote.offer, self.rental.quote, dict(self.rental.afterwards)
        made = self.job.pictures.count * (2 if self.job.pictures.compare else 1)
        return [
            f"{made} picture{'s' if made > 1 else ''} on a machine rented for them: {offer.gpu} of {offer.provider}, "
            f"{offer.market.value}, ${offer.price_per_hour_usd:.2f}/h",
            f"time      {duration_range(priced.duration_s)}",
            f"cost      {usd_range(priced.cost_usd)}, {usd(self.rental.ceiling_usd)} at most",
            *(f"{when:<9} {what}" for when, what in after.items()),
        ]


def plan_pictures(
    wiring: Wiring, trained: RunSpec, model: FinishedModel, wanted: wire.PictureJob, folder: Path, wish: RentalWish
) -> PicturePlan:
    """Every free check, then the quote. Rents and writes nothing.

    Raises UsageError for a folder that holds something, for a provider that rents nothing, for a base that cannot be
    had, and for a ceiling that the pictures are expected to exceed; NoCapacity when nothing fits.
    """
    require_new_folder(folder.absolute())
    provider_name = renting_provider(trained, wish, takes_jobs)
    if takes_jobs(provider_name):
        raise UsageError(f"{provider_name} rents no machines", "--where replicate, or another --provider")
    base = inspect_base(model.base) if wanted.needs_base else None
    closed = isinstance(base, HubModel) and base.closed
    if closed:
        require_reading_token()
    record = PictureRecord(
        of=model.name,
        folder=str(folder.absolute()),
        model_bytes=sum(file.stat().st_size for file in model_files(model.path)),
        carried_bytes=0 if base is None else upload_bytes(base, provider_name) or 0,
        pipeline="" if base is None else pipeline_name(base),
    )
    work = record.work(wanted)
    name = picture_run_name(model.name, wiring.ledger.has_run)
    spec = picture_spec(trained, model, work, wish, provider_name, name, folder.absolute())
    provider = wiring.provider(spec)
    if isinstance(provider, HasStandingMachine):
        raise UsageError(f"{provider_name} rents nothing", "--where here, or a --provider that rents")
    offers = [offer for request in gpu_requests(spec) for offer in provider.offers(request)]
    history = OfferHistory(seen=spot_record(wiring.ledger.every_machine(), wiring.clock.now()))
    choice = choose(spec, offers, history, work)
    terms = terms_of(provider, choice.offer, proven_at(wiring, choice.offer))
    rental = plan_rental(spec, offers, choice, work, terms, history)
    rental = replace(rental, afterwards=_afterwards(rental))
    require_worth_it(rental)
    job = wire.Job(
        run=name,
        name=model.name,
        base=wanted.base if base is None else job_base(base),
        train=spec.train,
        datasets=(),
        formats=(),
        allow_cpu=spec.compute.allow_cpu,
        base_config=wanted.base_config,
        closed_base=closed,
        pictures=wanted,
    )
    return PicturePlan(spec, job, record, rental)


def require_worth_it(rental: Rental) -> None:
    """Raises UsageError when the ceiling pays for no machine of this offer, or not for the pictures as expected."""
    price, ceiling_usd = rental.quote.offer.price_per_hour_usd, rental.ceiling_usd
    kept_back_usd = rental.rescue_usd + rental.quote.traffic_usd
    least_usd = max(price * WORTH_RENTING_S / 3600, rental.quote.cost_usd.expected) + kept_back_usd
    bought_s = seconds_left(ceiling_usd, price, [], 0.0, kept_back_usd)
    if bought_s < WORTH_RENTING_S or ceiling_usd < least_usd:
        raise UsageError(
            f"a ceiling of {usd(ceiling_usd)} is too low for {rental.quote.offer.gpu} at ${price:.2f}/h: "
            f"{usd(least_usd)} must be allowed for boot, pictures and the way home",
            f"--max-cost {least_usd * 1.2 + 0.01:.2f}, or a smaller card with --gpu",
        )


def accept_pictures(wiring: Wiring, plan: PicturePlan) -> None:
    """Enters the run: from there on any process can drive it. Raises RunConflict when its name was taken meanwhile."""
    name = plan.spec.name
    home = wiring.home.run(name)
    with driver_lock(home.driver_lock, name):
        require_free_name(wiring, name)
        stage_job(home, plan.job)
        plan_json = json.dumps({"pictures": plan.record.to_data(), "rental": plain(plan.rental)})
        wiring.ledger.add_run(name, plan.spec.compute.provider, spec_to_json(plan.spec), plan_json)


def _afterwards(rental: Rental) -> tuple[tuple[str, str], ...]:
    """As `rental.what_happens_afterwards`, of pictures: nothing of them is worth a disk."""
    offer, told = rental.quote.offer, dict(rental.afterwards)
    away = f"the machine makes them, waits {WAIT_FOR_LAPTOP_MINUTES:g} min for this laptop, and ends itself"
    if not rental.terms.ends_itself:
        per_day = f"${offer.price_per_hour_usd * 24:.2f} a day"
        away = f"nothing on the machine can end it: it bills {per_day} until this laptop is back"
    return (
        ("then", "the pictures come home and are verified, and the machine is given back"),
        ("away", away),
        ("at worst", told["at worst"]),
    )
