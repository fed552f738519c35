"""What a driver does about a hosted job: one effectful function for each phase, safe to run twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from orchestrator.absence import AGREEMENT_S
from orchestrator.budget import BOOT_DEADLINE_S, spent_usd
from orchestrator.fetch import disk_full_explained
from orchestrator.fetch_lock import fetching_alone
from orchestrator.hosted.billing import note_billing, settle_over
from orchestrator.hosted.context import JobContext
from orchestrator.hosted.lifecycle import JobFacts, JobPhase
from orchestrator.hosted.output import write_output
from orchestrator.hosted.plan import limit_seconds
from orchestrator.hosted.telling import JobTeller
from orchestrator.latecomers import SETTLE_AGE_S
from orchestrator.lifecycle import EndReason, Wish
from orchestrator.orphans import tag_prefix
from orchestrator.ranges import duration, usd
from orchestrator.recovery import capacity_pause_s
from orchestrator.storage.api import Presigns
from providers.api import MachineId, Market, Offer
from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    QuotaExceeded,
    Transient,
)
from providers.jobs import Job, JobId, JobQuote, JobStatus

POLL_S = 1.0
WISH_POLL_S = 0.5
DATASET_FILE = "dataset.zip"
LENT_S = 24 * 3600.0
"""How long a data set in the user's own store can be read: it is fetched after the queue."""
CANCEL_AGAIN_S, CANCEL_DEADLINE_S = 60.0, 1800.0


# ---- submit and settle ---------------------------------------------------------------------------------------------


def submit(context: JobContext, facts: JobFacts) -> JobFacts:
    """Lends the photos, makes sure of the destination, writes the intent, then submits once.

    A lost answer leaves the intent unsettled: it may have made a job. What the service refuses ends the run. Where it
    asks for patience, it is asked again after longer and longer pauses.
    """
    quote, waited_s = context.quote, 0.0
    while True:
        intents = context.ledger.machines(context.run.name)
        spent = spent_usd(intents, context.clock.now())
        if quote.expected_usd > context.spec.limits.max_cost_usd - spent:
            refused = (
                f"{usd(spent)} of limits.max_cost_usd = {context.spec.limits.max_cost_usd:g} are spent, and another "
                f"job is expected to cost {usd(quote.expected_usd)}; `cloudbooth resume {context.run.name} --max-cost "
                "…` allows more"
            )
            context.reporter.note(refused)
            return replace(facts, refused=refused)
        try:
            return _submit_once(context, facts, quote, len(intents) + 1)
        except NoCapacity as error:
            pause_s = capacity_pause_s(waited_s)
            if pause_s is None:
                return replace(facts, refused=f"nothing could be submitted: {error.message}")
            context.reporter.note(f"{error.message}; submitting again in {pause_s:.0f} s")
            if not _wait(context, pause_s):
                return facts
            waited_s += pause_s


def _submit_once(context: JobContext, facts: JobFacts, quote: JobQuote, number: int) -> JobFacts:
    """Raises NoCapacity when certainly nothing was submitted and it is worth another try."""
    run, epoch = context.run.name, context.epoch
    tag = f"{tag_prefix(context.ledger.installation)}{run}-{number}-{int(context.clock.now())}"
    if context.jobs.make_destination(quote):
        context.reporter.note(f"made the private model {quote.destination}")
    dataset_url = _lend(context, quote, tag)
    hourly = quote.usd_per_s * 3600
    offer = Offer(
        quote.provider, f"{quote.trainer}:{quote.version[:12]}", quote.hardware, 1, 0.0, Market.ON_DEMAND, hourly
    )
    unseen_s = max(0.0, quote.seconds[2] - BOOT_DEADLINE_S)
    context.ledger.record_intent(context.run, epoch, tag, offer, first_lease_s=unseen_s)
    try:
        job_id = context.jobs.submit(quote, dataset_url, tag)
    except (NoCapacity, AuthRejected, QuotaExceeded):
        _record_nothing(context, tag, refused=True)
        raise
    except (Indeterminate, Transient) as error:
        context.reporter.note(f"{error.message}; looking whether a job came of it")
        return facts
    except CloudboothError as error:
        _record_nothing(context, tag, refused=True)
        context.reporter.note(f"{error.message}{f' ({error.hint})' if error.hint else ''}")
        return replace(facts, refused=error.message)
    context.ledger.record_created(run, epoch, tag, MachineId(job_id))
    context.ledger.record_rate(run, epoch, tag, 0.0, context.clock.now())
    return facts


def _record_nothing(context: JobContext, tag: str, *, refused: bool = False) -> None:
    """There is no such job (any more), so nobody reads the photos that were lent for it."""
    context.ledger.record_absent(context.run.name, context.epoch, tag, refused=refused)
    _forget_dataset(context, tag)


def _lend(context: JobContext, quote: JobQuote, tag: str) -> str:
    """An URL that no other job is given."""
    dataset = context.home.root / DATASET_FILE
    if dataset.stat().st_size <= quote.upload_limit_bytes:
        context.reporter.note(f"sending {dataset.stat().st_size / 1e6:.1f} MB of photos to {quote.provider}")
        return context.jobs.upload(dataset, f"{tag}.zip")
    key, store = _dataset_key(tag), context.store
    if store is None or not isinstance(store, Presigns):
        raise CloudboothError(*too_large(dataset.stat().st_size, quote))
    store.put_file(key, dataset)
    return store.presign_get(key, min(LENT_S, store.presign_limit().seconds))


def too_large(size: int, quote: JobQuote) -> tuple[str, str]:
    """Fact and hint about a data set that the service does not take and nobody else lends."""
    return (
        f"the photos make {size / 1e6:.0f} MB, and {quote.provider} takes {quote.upload_limit_bytes / 1e6:.0f} MB",
        "a bucket lends larger ones: `--set storage.url=s3://bucket/prefix`",
    )


def _dataset_key(tag: str) -> str:
    return f"jobs/{tag}.zip"


def settle(context: JobContext, facts: JobFacts) -> JobFacts:
    """Finds out what became of an intent without an answer: adopts its job, over or not, or records that there is none.

    A list may lag behind: absence is believed when two agree and the intent is `SETTLE_AGE_S` old.
    """
    record = context.record()
    assert record is not None
    looks = 0
    while looks < 2 or context.clock.now() - record.intent_at < SETTLE_AGE_S:
        found = [job for job in context.jobs.list(record.tag) if job.tag == record.tag]
        if found:
            run, epoch = context.run.name, context.epoch
            context.ledger.record_created(run, epoch, record.tag, MachineId(found[0].id), adopted=True)
            context.ledger.record_rate(run, epoch, record.tag, 0.0, record.intent_at)
            context.reporter.note("the service has the job: its answer alone was lost")
            return facts
        looks += 1
        context.clock.sleep(AGREEMENT_S)
        context.require_driver()
    _record_nothing(context, record.tag)
    return facts


# ---- follow --------------------------------------------------------------------------------------------------------


def follow(context: JobContext, facts: JobFacts) -> JobFacts:
    """Looks again and again until the job is over, has reached a limit, or the user wants something else.

    A service that does not answer is asked for as long as it takes: the job goes on without us.
    """
    record, job_id = context.job_record()
    others = [other for other in context.ledger.machines(context.run.name) if other.tag != record.tag]
    limit_s = limit_seconds(context.spec, context.quote, spent_usd(others, context.clock.now()))
    teller = JobTeller(context, job_id)
    try:
        while True:
            try:
                job = context.jobs.poll(job_id)
            except Transient as error:
                context.reporter.note(f"{error.message}; the job goes on without us")
                if not _wait(context, POLL_S):
                    return facts
                continue
            except MachineGone as error:
                if _is_gone(context, job_id):
                    _record_nothing(context, record.tag)
                    return replace(facts, gone=error.message)
                continue
            teller.tell(job)
            computing_s = note_billing(context, record.tag, job)
            if job.status.is_over:
                settle_over(context, record.tag, job)
                _forget_dataset(context, record.tag)
                return replace(facts, job=job)
            if computing_s >= limit_s:
                limit = f"the job has computed for {duration(computing_s)}, which is its limit"
                return replace(facts, over_limit=limit)
            if not _wait(context, POLL_S):
                return facts
    finally:
        teller.close()


def _is_gone(context: JobContext, job_id: JobId) -> bool:
    """One answer may be wrong."""
    context.clock.sleep(AGREEMENT_S)
    try:
        context.jobs.poll(job_id)
    except MachineGone:
        return True
    return False


def _wait(context: JobContext, pause_s: float) -> bool:
    """False as soon as the user wants the run to end. Raises StaleDriver."""
    until = context.clock.monotonic() + pause_s
    while (left := until - context.clock.monotonic()) > 0:
        context.require_driver()
        if context.wish() is not Wish.RUN:
            return False
        context.clock.sleep(min(WISH_POLL_S, left))
    return True


# ---- fetch and cancel ----------------------------------------------------------------------------------------------


def fetch(context: JobContext, facts: JobFacts) -> JobFacts:
    """Downloads the weights, verifies and converts them, and puts them where the run's model belongs.

    Raises CloudboothError when the service does not have them or they cannot be trusted: the run can be driven again.
    """
    _, job_id = context.job_record()
    _bring(context, context.jobs.poll(job_id))
    return replace(facts, fetched=True)


def _bring(context: JobContext, job: Job) -> None:
    home, folder = context.home, context.output_folder
    again = f"`cloudbooth attach {context.run.name}` continues; the service still has the model"
    with disk_full_explained(home.root, again), fetching_alone(home.fetch_lock):
        part = context.archive.with_name(f"{context.archive.name}.part")
        context.jobs.fetch(job, part, _meter(context))
        part.replace(context.archive)
        prompt = context.spec.subject.instance_prompt
        manifest = write_output(context.archive, context.quote, job, context.run.name, prompt, folder)
        context.archive.unlink()
    context.ledger.record_artifact(context.run.name, "output", manifest.step, folder, manifest.sha256)
    teller = JobTeller(context, job.id)
    teller.done(manifest.step, manifest.sha256)
    teller.close()
    context.reporter.arrived("model", str(folder))


def _meter(context: JobContext) -> Callable[[int, int | None], None]:
    def received(done_bytes: int, total_bytes: int | None) -> None:
        context.reporter.transfer("model", done_bytes, total_bytes or done_bytes)

    return received


def _forget_dataset(context: JobContext, tag: str) -> None:
    """The photos, at the service or in the user's own store: a job that is over needs none. Failures are told."""
    try:
        context.jobs.forget_upload(tag)
        if context.store is not None and isinstance(context.store, Presigns):
            context.store.delete([_dataset_key(tag)])
    except CloudboothError as error:
        context.reporter.note(f"the photos that were lent for {tag} were not removed: {error.message}")


def cancel(context: JobContext, facts: JobFacts) -> JobFacts:
    """Ends the job and waits until it is over, for half an hour at most; then a person has to look.

    One that was done before the call reached it is brought home after a mere `stop`: it is paid for.
    """
    record, job_id = context.job_record()
    context.jobs.cancel(job_id)
    began_s = asked_at_s = context.clock.monotonic()
    while True:
        try:
            job = context.jobs.poll(job_id)
        except MachineGone:
            if _is_gone(context, job_id):
                _record_nothing(context, record.tag)
                return facts
            continue
        note_billing(context, record.tag, job)
        if job.status.is_over:
            break
        now_s = context.clock.monotonic()
        if now_s - began_s >= CANCEL_DEADLINE_S:
            raise CloudboothError(
                f"the job {job_id} goes on {(now_s - began_s) / 60:.0f} min after it was canceled and may still bill",
                f"cancel it at {job.web_url}; then `cloudbooth attach {context.run.name}`",
            )
        if now_s - asked_at_s >= CANCEL_AGAIN_S:
            context.jobs.cancel(job_id)
            asked_at_s = now_s
        context.require_driver()
        context.clock.sleep(POLL_S)
    settle_over(context, record.tag, job)
    _forget_dataset(context, record.tag)
    if job.status is JobStatus.SUCCEEDED and context.run.reason is EndReason.STOPPED:
        context.reporter.note("the job was done before it could be canceled: its model comes home")
        _bring(context, job)
    return facts


PHASES: dict[JobPhase, Callable[[JobContext, JobFacts], JobFacts]] = {
    JobPhase.SUBMIT: submit,
    JobPhase.SETTLE: settle,
    JobPhase.FOLLOW: follow,
    JobPhase.FETCH: fetch,
    JobPhase.CANCEL: cancel,
}
