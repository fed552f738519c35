"""The way to a run: look everything up that is free, make the plan, and commit it once it is accepted."""

from __future__ import annotations

import json
from dataclasses import replace

from orchestrator.base_model import HubModel, inspect_base, pipeline_name, require_reading_token, upload_bytes
from orchestrator.budget import reserve_s
from orchestrator.captioner import look_up_captioner
from orchestrator.dataset.git_pictures import fetches_of
from orchestrator.dataset.scan import require_usable
from orchestrator.dataset.selection import scan_sets
from orchestrator.driver_lock import driver_lock
from orchestrator.errors import RunConflict
from orchestrator.fetch import disk_full_explained
from orchestrator.fire_drill import read_drill
from orchestrator.keeping import held_as, paid_for_s
from orchestrator.measured import measured_speeds
from orchestrator.offers import OfferHistory, gpu_requests, machine_disk_gb, markets_of
from orchestrator.plan import Plan, make_plan
from orchestrator.plan_data import encoded_pixels, plan_sets
from orchestrator.plan_json import plan_to_data
from orchestrator.preflight import check_output_folder, look_at_machine
from orchestrator.ranges import duration
from orchestrator.recovery import spot_record
from orchestrator.rental import terms_of
from orchestrator.spec import RunSpec, spec_to_json
from orchestrator.spec_expansion import translation_of
from orchestrator.staging import stage
from orchestrator.storage.open import require_writable
from orchestrator.storage.planned import plan_storage, storage_warnings
from orchestrator.volumes import planned_volume
from orchestrator.wiring import Wiring, store_of
from providers.api import HasStandingMachine, MachineProvider, Market, Offer
from providers.combined import CombinedProvider
from providers.errors import CloudboothError
from remote_trainer.wire import Decision, Warned


def look_up(wiring: Wiring, spec: RunSpec) -> Plan:
    """Every free check of photos, base and machine, then the plan. Writes nothing but the machine's work
    folder, and a probe into the store that is removed again.

    Raises UsageError for what is wrong with photos, base or volume, StorageError for a store that cannot be written,
    HostError for a machine that cannot be used, RunConflict while another run has the volume, NoCapacity when nothing
    fits. Whether there is room for the result is `require_room`'s to say.
    """
    scans = scan_sets(spec)
    require_usable(*scans.values())  # before the hub is asked, which may take its time
    fetches = fetches_of(spec)
    store = store_of(spec)
    if store is not None:
        require_writable(store)
    base = inspect_base(spec.model.base)
    if isinstance(base, HubModel) and base.closed and spec.compute.provider != "local":
        require_reading_token()
    provider = wiring.provider(spec)
    left_out: list[str] = []
    if isinstance(provider, CombinedProvider):
        provider.told = left_out.append
    volume = planned_volume(provider, spec)
    disk_gb = machine_disk_gb(spec, encoded_pixels(plan_sets(spec, scans, fetches), spec.train.resolution))
    offers = [offer for request in gpu_requests(spec, disk_gb=disk_gb) for offer in provider.offers(request)]
    if not offers:  # what is too dear makes a better error than nothing
        anyway = gpu_requests(spec, capped=False, disk_gb=disk_gb)
        offers = [offer for request in anyway for offer in provider.offers(request)]
    offers += _offers_to_compare(spec, provider, disk_gb)
    needed_bytes = upload_bytes(base, spec.compute.provider) or 0
    machine = look_at_machine(provider, wiring.connect, needed_bytes)
    plan = make_plan(
        spec,
        scans,
        base,
        offers,
        machine,
        lambda offer: terms_of(provider, offer, proven_at(wiring, offer)),
        measured_speeds(spec, wiring.ledger.runs(), wiring.home.run, pipeline_name(base)),
        OfferHistory(seen=spot_record(wiring.ledger.every_machine(), wiring.clock.now())),
        volume,
        translation_of(spec),
        fetches,
    )
    told = tuple(
        Warned(text, "`cloudbooth gpus` shows what every provider answers") for text in dict.fromkeys(left_out)
    )
    if plan.captioner is not None and (unsure := look_up_captioner(plan.captioner)) is not None:
        told = (*told, unsure)
    plan = replace(plan, warnings=(*plan.warnings, *told))
    plan = _within_what_its_keeper_pays(wiring, spec, plan)
    if store is None:
        return plan
    storage = plan_storage(store, pod_credentials=spec.storage.pod_credentials)
    warned = storage_warnings(storage, plan.deadline_s, rented=plan.rental is not None)
    return replace(plan, storage=storage, warnings=(*plan.warnings, *warned))


def _within_what_its_keeper_pays(wiring: Wiring, spec: RunSpec, plan: Plan) -> Plan:
    """A machine that another run keeps lasts as long as that run's ceiling."""
    on = spec.compute.machine
    kept = held_as(wiring.ledger, spec.compute.provider, on) if on is not None else None
    if kept is None:
        return plan
    left_s = paid_for_s(wiring.ledger, kept, wiring.clock.now())
    ends_s = max(0.0, left_s - reserve_s(left_s))
    decided = Decision(
        f"train for {duration(ends_s)} at most, then end with a checkpoint",
        f"the machine is paid for by run `{kept.run}`, within its ceiling",
    )
    deadline_s = ends_s if plan.deadline_s is None else min(plan.deadline_s, ends_s)
    return replace(plan, deadline_s=deadline_s, decisions=(*plan.decisions, decided))


def proven_at(wiring: Wiring, offer: Offer) -> float | None:
    """When a machine of the offer's provider last gave itself back in a fire drill; None when the last one failed."""
    drill = read_drill(wiring.home.providers_folder / offer.provider)
    return drill.at if drill is not None and drill.gave_itself_back else None


def _offers_to_compare(spec: RunSpec, provider: MachineProvider, disk_gb: float) -> list[Offer]:
    """Of the market that the spec rules out: nothing is rented there, so a failure is no reason to stop."""
    if isinstance(provider, HasStandingMachine):
        return []
    others = tuple(market for market in Market if market in provider.markets and market not in markets_of(spec))
    wants = gpu_requests(spec, others, disk_gb=disk_gb) if others else ()
    try:
        return [offer for request in wants for offer in provider.offers(request)]
    except CloudboothError:
        return []


def require_room(wiring: Wiring, spec: RunSpec) -> None:
    """Raises RunConflict for a name that is taken and UsageError for an output folder that cannot be used."""
    require_free_name(wiring, spec.name)
    check_output_folder(spec.output.folder, spec.name)


LAUNCH_AGAIN = "launch again; nothing was started"


def accept(wiring: Wiring, spec: RunSpec, plan: Plan) -> None:
    """Stages the photos, then enters the run in the ledger: from there on any process can drive it.

    Holds the run's driver lock, so that of two launches of one name the second finds it taken.
    """
    home = wiring.home.run(spec.name)
    with driver_lock(home.driver_lock, spec.name), disk_full_explained(home.root, LAUNCH_AGAIN):
        require_free_name(wiring, spec.name)
        stage(home, plan)
        wiring.ledger.add_run(spec.name, spec.compute.provider, spec_to_json(spec), json.dumps(plan_to_data(plan)))


def require_free_name(wiring: Wiring, name: str) -> None:
    """Raises RunConflict."""
    if wiring.ledger.has_run(name):
        raise RunConflict(
            f"a run named `{name}` exists",
            f"choose another with `--name {name}-2`; `cloudbooth forget {name}` frees it when that run is over",
        )
