"""The way to a hosted job: look everything up that is free, make the plan, and commit it once it is accepted."""

from __future__ import annotations

import json
import shutil

from orchestrator.dataset.prepare import prepare_photos
from orchestrator.dataset.scan import require_usable, scan_folder
from orchestrator.driver_lock import driver_lock
from orchestrator.errors import UsageError
from orchestrator.fetch import disk_full_explained
from orchestrator.hosted.dataset_zip import write_dataset_zip
from orchestrator.hosted.phases import DATASET_FILE, too_large
from orchestrator.hosted.plan import JobPlan, job_plan_to_data, job_wish, make_job_plan
from orchestrator.planning import LAUNCH_AGAIN, require_free_name
from orchestrator.spec import RunSpec, spec_to_json
from orchestrator.storage.api import Presigns
from orchestrator.storage.open import require_writable
from orchestrator.whole_file import sync_folder
from orchestrator.wiring import Wiring, store_of

_ONE_FOLDER = "`data.instance`, or rent a machine: --provider runpod"


def look_up_job(wiring: Wiring, spec: RunSpec) -> JobPlan:
    """Every free check of photos, token, trainer and store, then the plan. Writes nothing but a probe into the store.

    Raises UsageError for what is wrong with photos and settings, AuthRejected for the token, and CloudboothError for
    what no trainer of the service can do.
    """
    if spec.data.instance is None:
        raise UsageError("a hosted trainer takes one folder of photos, and the spec names several sets", _ONE_FOLDER)
    instance = scan_folder(spec.data.instance)
    require_usable(instance)
    store = store_of(spec)
    if store is not None:
        require_writable(store)
    return make_job_plan(spec, instance, wiring.job_provider(spec).quote(job_wish(spec)))


def accept_job(wiring: Wiring, spec: RunSpec, plan: JobPlan) -> None:
    """Makes the photos ready as one zip, then enters the run in the ledger: from there on any process can drive it.

    Raises UsageError for a data set that is too large for the service when no store can lend it.
    """
    home = wiring.home.run(spec.name)
    with driver_lock(home.driver_lock, spec.name), disk_full_explained(home.root, LAUNCH_AGAIN):
        require_free_name(wiring, spec.name)
        shutil.rmtree(home.root, ignore_errors=True)
        home.staged.mkdir(parents=True)
        images = prepare_photos([(placed.photo, placed.bucket) for placed in plan.instance], home.staged)
        size = write_dataset_zip(home.staged, images, plan.instance_prompt, home.root / DATASET_FILE)
        shutil.rmtree(home.staged)
        if size > plan.quote.upload_limit_bytes and not isinstance(store_of(spec), Presigns):
            raise UsageError(*too_large(size, plan.quote))
        sync_folder(home.root.parent)
        data = json.dumps(job_plan_to_data(plan))
        wiring.ledger.add_run(spec.name, spec.compute.provider, spec_to_json(spec), data)
