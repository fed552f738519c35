"""The recipe: load → captions → class images → encode → loop → export. Read it top to bottom.

Everything random is keyed by (seed, step, …) and every picture's turn is a function of the step, so the only state is
what `checkpoint` stores; a resumed run repeats the bits of an undisturbed one on the same device and software.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from . import checkpoint, class_images, decisions, validate, wire
from .assembly import Assembly, assemble
from .base_weights import choices, fitted, that_load
from .captions import with_captions, write_captions
from .checkpoint import Checkpoint, Frozen, RunState
from .dataset.pictures import training_set
from .denoising import Denoising
from .encoded import PromptSource, encode_prompts, encode_sets, live_prompts, subject_pictures
from .errors import TrainingFailed
from .evaluation import evaluate
from .export.output import finished, rehearse, write_output
from .export.rebuilt import rebuilt
from .failures import memory_hint, named_failures
from .families.api import Family
from .families.detect import open_base, require_ways
from .gpu_memory import DeviceMemory, Memory
from .identity import difference, identity_of
from .optimizers import learning_rate
from .progress import Progress
from .sharding import attended, is_sharded
from .stopping import ShouldStop, StopRequested
from .thrift import Thrift, choose_thrift, thrift_of_shards, twice
from .wire import Decision, Job, PhaseStarted, TrainSpec, Warned
from .world import World, join

Emit = Callable[[wire.Event], None]
_EXPORT_HINT = (
    "ask for fewer `output.formats`, or rent a machine with more memory, and resume: only the export is missing"
)


@dataclass(frozen=True)
class Outcome:
    step: int
    manifest_sha256: str | None
    """Of `output/manifest.json`; None when training was asked to stop. Then the checkpoint of `step` is committed,
    unless `step` is 0: before the first step there is nothing to keep."""


def train(
    job: Job,
    run_folder: Path,
    base_folder: str,
    emit: Emit,
    should_stop: ShouldStop,
    shelf: Path | None = None,
    open_family: Callable[[str], Family] = open_base,
    memory_of: Callable[[torch.device], Memory] = DeviceMemory,
) -> Outcome:
    """Trains to the end, or until `should_stop`; blocks for all that time. Calling it again continues or confirms.

    base_folder: a diffusers folder, or a hub id with optional `@revision`, as `open_family` takes it. shelf: folder for
    class images that later runs may use again. Raises TrainingFailed for everything that is not a bug. Sets
    process-wide torch settings (threads, determinism): one run in a process. Where the job wants several processes, all
    call this alike; only the first reports and returns a manifest.
    """
    with named_failures(job.train):
        world = join(job.processes, torch.cuda.device_count() if torch.cuda.is_available() else 0)
        if not world.leads:
            emit = _unheard
        whole = finished(job, run_folder) if world.leads else None
        if world.any(whole is not None):  # what is committed is seen by the first alone: others may have another disk
            return Outcome(job.train.steps, None if whole is None else whole.sha256)
        resumed = _own_checkpoint(job, run_folder, world, emit)
        try:
            family = open_family(base_folder)
            return _train(job, run_folder, family, world, resumed, emit, should_stop, shelf, memory_of)
        except StopRequested:
            return Outcome(resumed.state.step if resumed else 0, None)


def _train(
    job: Job,
    run_folder: Path,
    family: Family,
    world: World,
    resumed: Checkpoint | None,
    emit: Emit,
    should_stop: ShouldStop,
    shelf: Path | None,
    memory_of: Callable[[torch.device], Memory],
) -> Outcome:
    spec = job.train

    emit(PhaseStarted("load", job.base))
    _repeat_bits()
    training_set(job, run_folder)  # refuses a job without a picture of the subject before anything is loaded
    require_ways(family, job)
    device = decisions.choose_device(job.allow_cpu, emit)
    memory = memory_of(device)
    frozen = _frozen(spec, family, device, resumed, memory, world, emit)

    # Of several machines, the first one's captioner speaks for all: others might put it in other words.
    said = write_captions(job, run_folder, frozen.captions, device, emit, should_stop) if world.leads else {}
    said = json.loads(world.from_first(json.dumps(said).encode()))
    described = with_captions(job, said, emit)
    frozen = replace(frozen, captions=said)
    if not world.prepares:
        world.wait_for_all()  # the first of each machine makes and fetches class images
    pins = class_images.fetch_all(job, run_folder, emit, should_stop, resumed.state.pins if resumed else ())
    settings = validate.sampler_settings(spec)
    kept = class_images.Shelf(shelf, job, settings, device.type, frozen.precision)
    kept.take(run_folder, emit)
    absent = class_images.missing(job, run_folder)
    if absent:
        emit(PhaseStarted("class-images", f"{absent} to be made by the base"))
        class_prompts = class_images.prompts_of(job, family, device)
        base = Denoising(family, family.load_denoiser(device, frozen.weights), device, frozen.precision)
        class_images.generate(job, run_folder, base, class_prompts, settings, kept, emit, should_stop)
        del base
    if world.prepares:
        class_images.show(job, run_folder, emit)
        world.wait_for_all()
    pictures = training_set(described, run_folder)

    emit(PhaseStarted("encode", f"{len(pictures.instance)} of the subject, {len(pictures.class_)} of the class"))
    if spec.text_encoder_learning_rate is None:
        emit(Decision("encode pictures and prompts once", "no crop or caption changes between steps"))
    else:
        emit(Decision("encode pictures once, prompts at every step", "the text encoders train"))
    sets = encode_sets(family, pictures.sets, spec.seed, device, should_stop, run_folder)
    instance = subject_pictures(sets)
    captions = [picture.caption for picture in (*pictures.instance, *pictures.class_)]
    seen = [*captions, *spec.validation_prompts, ""]
    prompts: PromptSource
    texts: Mapping[str, nn.Module] = {}
    if spec.text_encoder_learning_rate is None:
        prompts = encode_prompts(family, seen, device, emit)
    else:
        prompts = live_prompts(family, seen, device, frozen.precision, emit)
        texts = prompts.encoder.models

    emit(PhaseStarted("load", family.denoiser_folder))
    sharded = is_sharded(spec, world)
    if sharded:
        emit(Decision(f"each of {world.size} processes keeps its part of the denoiser", "train.fsdp"))

    def loaded(weights: wire.Weights) -> Assembly:
        return assemble(spec, family, weights, frozen.precision, device, sets, prompts, texts, world)

    def settled(made: Assembly) -> Thrift:
        rehearse(job, family, made.trained)
        if sharded:
            return thrift_of_shards(emit)
        return choose_thrift(memory.free_bytes() is not None, spec, made.descent.probe, emit, world.largest)

    if resumed is None:
        order = choices(spec, frozen.weights, "full" not in family.formats)
        made, weights, thrift = fitted(
            spec, order, family.denoiser_parameters(), memory, loaded, settled, emit, world.largest
        )
        frozen = _with_thrift(replace(frozen, weights=weights), thrift)
    else:
        made = loaded(frozen.weights)
    denoising, trained, descent = made.denoising, made.trained, made.descent
    parameters, optimizer, ema = made.parameters, made.optimizer, made.ema
    averaged = nullcontext if ema is None else ema.in_place
    descent.economize(Thrift(frozen.gradient_checkpointing, frozen.parts, frozen.offload))

    def make_pictures(step: int) -> None:
        """A stop leaves the rest of them to the resumed run."""
        with attended(denoising, world, sharded=sharded) as shown:
            if shown is None:
                return
            emit(PhaseStarted("validate", f"step {step}"))
            with suppress(StopRequested), averaged():
                validate.make_pictures(run_folder, step, spec, shown, prompts, emit, should_stop)

    def say_thrift(what: str, why: str) -> None:
        emit(Decision(what, f"memory ran out: {why}"))

    # Outside the phase "train", in which a silence of minutes is taken for a hang: on a CPU these may last longer.
    def evaluated(state: RunState) -> RunState:
        with attended(denoising, world, sharded=sharded) as shown, averaged():
            if shown is None:
                return state
            emit(PhaseStarted("evaluate", f"step {state.step}"))
            evaluation = twice(
                lambda thrifty: evaluate(shown, instance, prompts, spec.seed, state.step, one_by_one=thrifty),
                "evaluating", memory_hint(spec), lambda why: say_thrift("samples are evaluated one by one", why),
            )  # fmt: skip
        emit(evaluation)
        return replace(state, evaluations=(*state.evaluations, evaluation))

    def commit(state: RunState) -> None:
        if not world.leads:
            checkpoint.give(parameters, optimizer)
            return
        emit(PhaseStarted("checkpoint", f"step {state.step}"))
        emit(checkpoint.save(run_folder, state, parameters, optimizer, spec.keep_checkpoints, ema))

    # The denoiser still answers as the base does, resumed or not: the only moment for the pictures of "before".
    if world.any(world.leads and not validate.are_made(run_folder, 0, spec)):
        make_pictures(0)
    if resumed is None:
        state = evaluated(RunState(0, identity_of(job), frozen, (), pins))
    else:
        resumed.restore(parameters, optimizer, ema, world)
        state = resumed.state
        if state.step > 0 and validate.is_due(state.step, spec):
            make_pictures(state.step)

    emit(PhaseStarted("train", f"step {state.step} of {spec.steps}"))
    committed_step = state.step
    checkpoint_every = decisions.planned_checkpoint_interval(spec)
    progress = Progress(spec.steps, made.batches.pictures_each * spec.gradient_accumulation, device, emit)
    stopping = False
    while state.step < spec.steps:
        stopping = world.any(should_stop())
        if stopping:
            break
        step = state.step + 1
        rate = learning_rate(step, spec, frozen.learning_rate)
        loss, gradient_norm = descent.step(step, rate, emit)
        progress.step_done(step, loss, gradient_norm, rate)
        state = replace(state, step=step, frozen=_with_thrift(state.frozen, descent.thrift))
        paused = False

        if step % checkpoint_every == 0 or step == spec.steps:
            progress.require_finite(step, rate)
            state = evaluated(state)
            commit(state)
            committed_step = step
            paused = True
        if validate.is_due(step, spec):
            make_pictures(step)
            paused = True
        if paused:
            if step < spec.steps:
                emit(PhaseStarted("train", f"step {step} of {spec.steps}"))
            progress.restart_clock()

    if stopping or should_stop():
        if committed_step < state.step:
            progress.require_finite(state.step, learning_rate(state.step, spec, frozen.learning_rate))
            commit(state)
        return Outcome(state.step, None)

    if not world.leads:
        return Outcome(state.step, None)
    best = wire.best_step(state.evaluations)
    emit(Decision(f"the best checkpoint is that of step {best}", "the lowest loss over the fixed set of samples"))
    optimizer.state.clear()
    optimizer.zero_grad(set_to_none=True)
    if spec.optimizer == "adamw-bf16":
        for model in (denoising.model, *texts.values()):
            model.float()
    better = None
    if spec.export_step == "best":
        better = _better(wire.best_checkpoint(state.evaluations), state.step, run_folder, emit)
    exported = state.step if better is None else better.state.step
    if better is not None and not sharded:
        better.restore_result(parameters)
    elif ema is not None:
        ema.adopt()

    def export(thrifty: bool) -> wire.Manifest:
        if thrifty and not sharded:
            trained.let_go()
        anew = thrifty or sharded
        models = rebuilt(spec, family, frozen.weights, run_folder, exported) if anew else trained
        return write_output(job, run_folder, family, models, state, exported, emit)

    manifest = twice(export, "exporting", _EXPORT_HINT, lambda why: say_thrift("export from the host's memory", why))
    return Outcome(state.step, manifest.sha256)


def _unheard(_: wire.Event) -> None:
    """What every process would say alike, the first says."""


def _better(best: int, last: int, run_folder: Path, emit: Emit) -> Checkpoint | None:
    """The checkpoint to be handed over in place of the last weights, if it is another one and here."""
    if best in (0, last):
        return None
    found = checkpoint.of_step(run_folder, best)
    if found is None:
        emit(
            Warned(
                f"the checkpoint of step {best}, the best, is not on this machine: the model is that of step {last}",
                "it travels to another machine only if it had come home, or into the store, before the first was lost",
            )
        )
        return None
    emit(Decision(f"the model is that of step {best}", "train.export_step = best"))
    return found


def _own_checkpoint(job: Job, run_folder: Path, world: World, emit: Emit) -> Checkpoint | None:
    """The newest whole checkpoint of the first process. Raises TrainingFailed("bad-job") when it belongs to another
    kind of run.
    """
    found = checkpoint.newest(run_folder) if world.leads else None
    told = world.from_first(b"" if found is None else wire.dumps(found.state))
    if told and not world.leads:
        found = Checkpoint(run_folder / wire.checkpoint_folder(0), wire.loads(RunState, told))
    if found is None:
        return None
    other = difference(found.state.identity, job)
    if not other and found.state.step > job.train.steps:
        other = f"it has {found.state.step} steps, asked for are {job.train.steps}"
    if other:
        message = f"{found.folder.name} was made by a run with other settings: {other}"
        raise TrainingFailed("bad-job", message, "start a run of another name, or give these settings and pictures")
    emit(Decision(f"resume from step {found.state.step}", f"{found.folder.name} is the newest whole checkpoint"))
    return found


def _frozen(
    spec: TrainSpec,
    family: Family,
    device: torch.device,
    resumed: Checkpoint | None,
    memory: Memory,
    world: World,
    emit: Emit,
) -> Frozen:
    """What the first machine decided; and the decisions put to effect that are settings of the whole process."""
    threads = resumed.state.frozen.cpu_threads if resumed else 0
    if device.type == "cpu":
        threads = threads or decisions.choose_cpu_threads(spec, device, family.denoiser_parameters(), emit)
        torch.set_num_threads(threads)
    adapters_alone = "full" not in family.formats
    if resumed:
        kept = resumed.state.frozen.weights
        if spec.base_precision == "auto" and kept in ("int8", "nf4"):
            emit(Decision(f"frozen weights in {kept}", "as the run began: its adapter has learned beside them"))
        return replace(resumed.state.frozen, cpu_threads=threads)
    precision = decisions.choose_precision(spec, device, emit)
    weights: wire.Weights = "bf16"
    if spec.optimizer != "adamw-bf16":
        weights = decisions.choose_weights(spec.base_precision, precision, adapters_alone, emit)
        order = choices(spec, weights, adapters_alone)
        weights = that_load(order, family.denoiser_parameters(), memory, emit, world.largest)
    return Frozen(
        precision=precision,
        cpu_threads=threads,
        gradient_checkpointing=False,
        learning_rate=decisions.planned_learning_rate(spec),
        weights=weights,
    )


def _with_thrift(frozen: Frozen, thrift: Thrift) -> Frozen:
    parts, offload = thrift.parts, thrift.offload
    return replace(frozen, gradient_checkpointing=thrift.gradient_checkpointing, parts=parts, offload=offload)


def _repeat_bits() -> None:
    """Asks torch for kernels whose sums do not depend on the order of threads, where it has them."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory with NaN finds bugs in kernels, not in trainers, and costs a pass over every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
