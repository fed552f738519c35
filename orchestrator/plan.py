"""The plan: what will be trained, at which sizes, where, for how much. A pure function of what was looked up before.

    spec + photos + class images + base + offers  ->  Plan  ->  wire.Job

What the user left open is decided here, once, and every decision carries its reason. Time and cost are ranges that say
where they come from; on a machine of one's own that has not trained before, time is None, never a guess.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from orchestrator.base_model import (
    BaseSource,
    BuiltinBase,
    HubModel,
    LocalFolder,
    is_builtin,
    job_base,
    pipeline_name,
    upload_bytes,
)
from orchestrator.budget import training_deadline_s
from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.placement import Placement
from orchestrator.dataset.scan import Finding, Scan, Severity, require_usable
from orchestrator.dataset.translation import Translated
from orchestrator.errors import UsageError
from orchestrator.estimates import (
    DEFAULT_CHECKPOINT_EVERY,
    NO_INTERRUPTIONS,
    Measured,
    Quote,
    seconds_per_step,
)
from orchestrator.families import USUAL_GUIDANCE, Family, require_ways
from orchestrator.offers import NOTHING_RENTED, OfferHistory, choose, machine_disk_gb
from orchestrator.plan_data import (
    ClassImages,
    PlannedSet,
    Visits,
    class_images_of,
    data_decisions,
    dataset_specs,
    encoded_pixels,
    expected_visits,
    instance_placements,
    plan_sets,
    sizes_of,
    steps_per_epoch,
)
from orchestrator.plan_warnings import (
    caption_warnings,
    environment_warnings,
    machine_warnings,
    rental_warnings,
    size_warnings,
    training_warnings,
    translation_warnings,
)
from orchestrator.ranges import Range
from orchestrator.rental import ProviderTerms, Rental, TermsOf, plan_rental, rental_decisions
from orchestrator.single_file_base import LinkedFile, LocalFile
from orchestrator.spec import RunSpec
from orchestrator.storage.planned import StoragePlan
from orchestrator.workload import Workload, workload
from providers.api import Offer, Volume
from remote_trainer.wire import Decision, ExportFormat, GitPictures, ImageSpec, Job, Method, TrainSpec, Warned

LEARNING_RATES: dict[Method, tuple[float, str]] = {
    "full": (2e-6, "all weights of a large network move; diffusers' study trains objects at this rate"),
    "lora": (1e-4, "only small added matrices move, which takes a larger rate; diffusers' scripts use it"),
    "dora": (1e-4, "as for a LoRA: DoRA's authors keep its rate or take half of it"),
}
BUILTIN_LEARNING_RATES: dict[Method, tuple[float, str]] = {
    "full": (4e-3, "a builtin base begins with random weights, which bear a thousand times the usual rate"),
    "lora": (2e-2, "a builtin base begins with random weights, which bear far more than the usual rate"),
    "dora": (2e-2, "as for a LoRA: a builtin base begins with random weights"),
}
SHIPPED_LEARNING_RATES: dict[Method, tuple[float, str]] = {
    "full": (2e-4, "a denoiser of 4.5 M weights bears a hundred times the usual rate, see docs/experiments.md"),
    "lora": (2e-3, "a denoiser of 4.5 M weights bears twenty times the usual rate, see docs/experiments.md"),
    "dora": (2e-3, "as for a LoRA on this base"),
}


MOST_PROMPTS_SHOWN = 4
"""Of several subjects, unless the spec says which: validation pictures take time."""


@dataclass(frozen=True)
class StandingMachine:
    """What a look at a machine that is there before the run has told."""

    label: str
    workdir: str
    has_gpu: bool
    has_environment: bool = True
    """Whether the trainer's packages are there, or the first run has to bring them (`workload.ENVIRONMENT_GB`)."""
    free_gb: float | None = None
    """On the disk of the work folder; None when nobody has looked."""


@dataclass(frozen=True)
class BucketCount:
    bucket: Bucket
    photos: int


@dataclass(frozen=True)
class Plan:
    name: str
    instance_prompt: str
    class_prompt: str | None
    base: BaseSource
    train: TrainSpec
    """Resolved: no None is left but where None means off (`min_snr_gamma`) or the host's choice (`cpu_threads`)."""
    formats: tuple[ExportFormat, ...]
    output_folder: Path
    sets: tuple[PlannedSet, ...]
    visits: tuple[Visits, ...]
    """Of each set, in their order."""
    steps_per_epoch: float | None
    """On average where sets are drawn at random; None where nothing ends an epoch."""
    buckets: tuple[BucketCount, ...]
    """Of the photos, largest group first."""
    epochs: float
    """How often each photo of the subject is seen, on average: what the batches hold of them / photos."""
    offer: Offer
    machine: StandingMachine | None
    """None when it is yet to be rented."""
    rental: Rental | None
    """None when nothing is rented."""
    time_s: Range | None
    """Of the whole run when it rents, of its steps otherwise; None on a machine that was never measured."""
    cost_usd: float
    """Expected; 0.0 on machines of one's own."""
    max_cost_usd: float
    deadline_s: float | None
    """Seconds after which the machine ends the run by itself; None without any limit."""
    upload_bytes: int | None
    """Of a base that travels from the laptop; None when nothing but photos travels."""
    allow_cpu: bool
    decisions: tuple[Decision, ...]
    findings: tuple[Finding, ...]
    """About the photos: warnings and notes of the scan."""
    warnings: tuple[Warned, ...]
    storage: StoragePlan | None = None
    """None when everything comes over SSH."""
    ship_originals: bool = False
    """Photos travel with their own pixels, and the machine scales them."""
    base_config: str | None = None
    """Whose configuration a base that is a single file has."""
    translation: tuple[Translated, ...] = ()
    """What became of each key of SimpleTuner's files."""
    gpu_count: int = 1
    """How many train together."""
    captioner: str | None = None
    """Describes pictures without a caption on the machine; None when none is to be described."""

    @property
    def instance(self) -> tuple[Placement, ...]:
        """Photos of the subject, of all sets."""
        return instance_placements(self.sets)

    @property
    def class_images(self) -> ClassImages | None:
        return class_images_of(self.sets)


def make_plan(
    spec: RunSpec,
    scans: Mapping[str, Scan],
    base: BaseSource,
    offers: Sequence[Offer],
    machine: StandingMachine | None = None,
    terms_of: TermsOf = lambda _offer: ProviderTerms(),
    measured: Measured | None = None,
    history: OfferHistory = NOTHING_RENTED,
    volume: Volume | None = None,
    translation: tuple[Translated, ...] = (),
    fetches: Mapping[str, GitPictures] = MappingProxyType({}),
) -> Plan:
    """Decides everything that is still open. Pure: equal arguments give equal plans.

    `scans` are those of the spec's folders, by the id of the set that they are for. `offers` answer
    `offers.gpu_requests` for spec and pictures; those of other markets are only compared with. `machine` is what a look
    at one that stands has told, `terms_of` what the provider says of an offer, `measured` the speeds of earlier runs,
    `history` how their spot machines fared, `volume` is what `compute.volume` names,
    `translation` what became of SimpleTuner's files, `fetches` the pinned repositories by the id of their set.
    Raises UsageError for unusable photos, for several machines and for what the base's family has no way to do,
    NoCapacity when no offer fits.
    """
    require_one_machine(spec)
    require_usable(*scans.values())
    sets = plan_sets(spec, scans, fetches)
    placements, planned_class = instance_placements(sets), class_images_of(sets)
    work = workload(
        spec.model.base,
        spec.train,
        spec.output.formats,
        photos=len(placements),
        class_images=planned_class.count if planned_class else 0,
        generate=planned_class.generate if planned_class else 0,
        carried_gb=(upload_bytes(base, spec.compute.provider) or 0) / 1e9,
        unpacked=isinstance(base, LocalFile | LinkedFile),
        stored=spec.storage.filled_by_machine is not None,
        pipeline=pipeline_name(base),
        captions=sum(each.to_caption for each in sets),
        processes=spec.compute.gpu_count,
        encoded_pixels=encoded_pixels(sets, spec.train.resolution),
    )
    buckets = Counter(placement.bucket for placement in placements)
    require_ways(
        spec.model.base, pipeline_name(base), spec.train, spec.output.formats, sizes_of(sets, spec.train.resolution),
        base.longest_side if isinstance(base, LocalFolder) else None,
    )  # fmt: skip
    choice = choose(spec, offers, history, work, measured)
    offer = choice.offer
    rental = None
    if offer.price_per_hour_usd > 0:
        disk_gb = machine_disk_gb(spec, work.encoded_pixels)
        rental = plan_rental(spec, offers, choice, work, terms_of(offer), history, measured, volume, disk_gb)
    train, decisions = _resolve_training(spec, base, work.family, None if rental is None else rental.quote)
    if "train.resolution" in spec.filled_in:
        decisions.insert(0, Decision(f"train.resolution = {train.resolution}", "the size that builtin bases draw at"))
    formats = spec.output.formats
    if not formats:
        formats = work.family.formats[train.method][:1]
        decisions.append(
            Decision(f"output.formats = {', '.join(formats)}", f"what method {train.method} yields by itself")
        )
    if isinstance(base, HubModel) and base.closed and spec.compute.provider != "local":
        decisions.append(
            Decision("lend HF_TOKEN to the machine, in its memory", f"{base.repo} opens only with a token")
        )
    priced = () if rental is None else rental.quote.phases
    captions_s = next((phase.seconds for phase in priced if phase.name == "captions"), None)
    decisions += data_decisions(spec, sets, work.family, captions_s)
    if rental is not None:
        decisions += rental_decisions(spec, rental, work)
    findings = [
        finding for scan in scans.values() for finding in scan.findings if finding.severity is not Severity.ERROR
    ]
    deadline_s = training_deadline_s(
        spec.limits.max_cost_usd,
        offer.price_per_hour_usd,
        spec.limits.max_hours,
        machines=[],
        now=0.0,
        kept_back_usd=0.0 if rental is None else rental.rescue_usd,
    )
    together = dataclasses.replace(train, batch_size=train.batch_size * spec.compute.gpu_count)
    visits = expected_visits(sets, together)
    seen = sum(visit.each * each.count for visit, each in zip(visits, sets, strict=True) if each.role == "instance")
    return Plan(
        name=spec.name,
        instance_prompt=spec.subject.instance_prompt,
        class_prompt=spec.subject.class_prompt,
        base=base,
        train=train,
        formats=formats,
        output_folder=spec.output.folder,
        sets=sets,
        visits=visits,
        steps_per_epoch=steps_per_epoch(sets, together),
        buckets=tuple(
            BucketCount(bucket, count) for bucket, count in sorted(buckets.items(), key=lambda b: (-b[1], b[0]))
        ),
        epochs=seen / len(placements),
        offer=offer,
        machine=machine,
        rental=rental,
        time_s=_time_on_own_machine(work, machine, measured) if rental is None else rental.quote.duration_s,
        cost_usd=0.0 if rental is None else rental.quote.cost_usd.expected,
        max_cost_usd=spec.limits.max_cost_usd,
        deadline_s=deadline_s,
        upload_bytes=upload_bytes(base, spec.compute.provider),
        allow_cpu=spec.compute.allow_cpu or offer.price_per_hour_usd == 0,  # nobody pays for a GPU that is not there
        decisions=tuple(decisions),
        findings=tuple(findings),
        warnings=(
            *translation_warnings(translation),
            *training_warnings(spec, train, placements, base, work.family, has_class_images=planned_class is not None),
            *machine_warnings(spec, base, offer, None if machine is None else machine.has_gpu),
            *caption_warnings(work, None if machine is None else machine.has_gpu),
            *(() if machine is None or machine.has_environment else environment_warnings(machine.free_gb)),
            *(() if rental is None else (*size_warnings(spec, work), *rental_warnings(rental, deadline_s, work))),
        ),
        ship_originals=spec.data.ship_originals,
        base_config=spec.model.config,
        translation=translation,
        gpu_count=spec.compute.gpu_count,
        captioner=spec.data.captioner if work.captions else None,
    )


def build_job(plan: Plan, run_id: str, images: Mapping[str, tuple[ImageSpec, ...]]) -> Job:
    """The job of a plan, with its photos as prepared: `images` of each set by its id, in the order of the plan's
    placements, lie in the set's folder. For a base that travels, see `base_model.job_base`.
    """
    return Job(
        run=run_id,
        name=plan.name,
        base=job_base(plan.base),
        train=plan.train,
        datasets=dataset_specs(plan.sets, images),
        formats=plan.formats,
        deadline_s=plan.deadline_s,
        allow_cpu=plan.allow_cpu,
        closed_base=isinstance(plan.base, HubModel) and plan.base.closed,
        base_config=plan.base_config,
        processes=plan.gpu_count,
        captioner=plan.captioner,
    )


def require_one_machine(spec: RunSpec) -> None:
    """Raises UsageError for several: the trainer could, and nobody rents them together yet."""
    nodes, gpus = spec.compute.nodes, spec.compute.gpu_count
    if nodes > 1:
        raise UsageError(
            f"compute.nodes = {nodes}: {spec.compute.provider} gives one machine to a run, not several that reach each "
            "other",
            f"take more GPUs of one machine: `--set compute.nodes=1 --set compute.gpu_count={min(8, nodes * gpus)}`",
        )


# ---- steps ---------------------------------------------------------------------------------------------------------


def _time_on_own_machine(work: Workload, machine: StandingMachine | None, measured: Measured | None) -> Range | None:
    """Of the steps alone, and only from what earlier runs have shown there."""
    if machine is None or not measured or machine.label not in measured:
        return None
    per_step, _ = seconds_per_step(work, machine.label, measured)
    return per_step * work.train.steps


def _resolve_training(
    spec: RunSpec, base: BaseSource, family: Family, rented: Quote | None
) -> tuple[TrainSpec, list[Decision]]:
    train, decisions = spec.train, list[Decision]()

    def decide(why: str, **value: object) -> None:
        nonlocal train
        train = dataclasses.replace(train, **value)  # type: ignore[arg-type]  # keys and types stand at the calls
        shown = ", ".join(f"train.{key} = {_shown(item)}" for key, item in value.items())
        decisions.append(Decision(shown, why))

    if train.learning_rate is None:
        shipped = SHIPPED_LEARNING_RATES if is_builtin(base) else LEARNING_RATES
        rates = BUILTIN_LEARNING_RATES if isinstance(base, BuiltinBase) else shipped
        rate, why = rates[train.method]
        decide(why, learning_rate=rate)
    if train.method != "full" and train.lora_alpha is None:
        decide("equal to the rank, so that the update is not rescaled", lora_alpha=float(train.lora_rank))
    if not train.validation_prompts:
        shown = [each.prompt for each in spec.picture_sets if each.role == "instance" and each.prompt is not None]
        prompts = list(dict.fromkeys([spec.subject.instance_prompt, *shown]))[:MOST_PROMPTS_SHOWN]
        why = "the prompt of the photos: shows whether the subject is learned"
        if len(prompts) > 1:
            why = "the prompts of the photos: show whether each subject is learned"
        elif spec.subject.class_prompt and spec.subject.class_prompt != prompts[0]:
            prompts.append(spec.subject.class_prompt)
            why = "the first shows whether the subject is learned, the second whether its kind is forgotten"
        decide(why, validation_prompts=tuple(prompts))
    if train.validation_guidance_scale is None and family.guidance != USUAL_GUIDANCE:
        decide(f"usual for {family.name}", validation_guidance_scale=family.guidance)
    elif train.validation_guidance_scale is None:
        train = dataclasses.replace(train, validation_guidance_scale=USUAL_GUIDANCE)
    default = DEFAULT_CHECKPOINT_EVERY if rented is None else rented.checkpoint_every
    if (train.checkpoint_every or default) > train.steps:
        decide("the run has no more steps", checkpoint_every=train.steps)
    elif train.checkpoint_every is None:
        why = NO_INTERRUPTIONS if rented is None else rented.interval_reason
        decide(why, checkpoint_every=default)
    return train, decisions


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
