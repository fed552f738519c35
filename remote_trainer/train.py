"""The recipe: load → class images → encode → loop → export. Read it top to bottom.

Everything random is keyed by (seed, step, …) and every picture's turn is a function of the step, so the only state is
what `checkpoint` stores; a resumed run repeats the bits of an undisturbed one on the same device and software.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import adapters, checkpoint, class_images, decisions, validate, wire
from .adapters import Trained
from .checkpoint import Checkpoint, Frozen, RunState
from .dataset.pictures import training_set
from .denoising import Denoising
from .descent import optimizer_step
from .ema import Ema
from .encoded import PromptSource, encode_prompts, encode_sets, live_prompts, subject_pictures
from .errors import TrainingFailed
from .evaluation import evaluate
from .export.output import finished, rehearse, write_output
from .failures import named_failures
from .families.api import Family
from .families.detect import open_base, require_ways
from .micro_batch import MicroBatches
from .optimizers import build_optimizer, groups, learning_rate
from .progress import Progress
from .stopping import ShouldStop, StopRequested
from .wire import Decision, Job, PhaseStarted, TrainSpec

Emit = Callable[[wire.Event], None]


@dataclass(frozen=True)
class Outcome:
    step: int
    manifest_sha256: str | None
    """Of `output/manifest.json`; None when training was asked to stop. Then the checkpoint of `step` is committed,
    unless `step` is 0: before the first step there is nothing to keep."""


def train(
    job: Job, run_folder: Path, base_folder: str, emit: Emit, should_stop: ShouldStop, shelf: Path | None = None
) -> Outcome:
    """Trains to the end, or until `should_stop`; blocks for all that time. Calling it again continues or confirms.

    base_folder: a diffusers folder, or a hub id with optional `@revision`. shelf: folder for class images that later
    runs may use again. Raises TrainingFailed for everything that
    is not a bug. Sets process-wide torch settings (threads, determinism): one run in a process.
    """
    with named_failures(job.train):
        whole = finished(job, run_folder)
        if whole is not None:
            return Outcome(whole.step, whole.sha256)
        resumed = _own_checkpoint(job, run_folder, emit)
        try:
            return _train(job, run_folder, base_folder, resumed, emit, should_stop, shelf)
        except StopRequested:
            return Outcome(resumed.state.step if resumed else 0, None)


def _train(
    job: Job,
    run_folder: Path,
    base_folder: str,
    resumed: Checkpoint | None,
    emit: Emit,
    should_stop: ShouldStop,
    shelf: Path | None,
) -> Outcome:
    spec = job.train

    emit(PhaseStarted("load", job.base))
    _repeat_bits()
    training_set(job, run_folder)  # refuses a job without a picture of the subject before anything is loaded
    family = open_base(base_folder)
    require_ways(family, job)
    device = decisions.choose_device(job.allow_cpu, emit)
    frozen = _frozen(spec, family, device, resumed, emit)

    class_images.fetch_all(job, run_folder, emit, should_stop)
    settings = validate.sampler_settings(spec)
    kept = class_images.Shelf(shelf, job, settings, device.type, frozen.precision)
    kept.take(run_folder, emit)
    absent = class_images.missing(job, run_folder)
    if absent:
        emit(PhaseStarted("class-images", f"{absent} to be made by the base"))
        class_prompts = class_images.prompts_of(job, family, device)
        base = Denoising(family, family.load_denoiser(device, frozen.weights), device, frozen.precision)
        class_images.generate(job, run_folder, base, class_prompts, settings, kept, should_stop)
        del base
    class_images.show(job, run_folder, emit)
    pictures = training_set(job, run_folder)

    emit(PhaseStarted("encode", f"{len(pictures.instance)} of the subject, {len(pictures.class_)} of the class"))
    if spec.text_encoder_learning_rate is None:
        emit(Decision("encode pictures and prompts once", "no crop or caption changes between steps"))
    else:
        emit(Decision("encode pictures once, prompts at every step", "the text encoders train"))
    sets = encode_sets(family, pictures.sets, spec.seed, device, should_stop)
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
    denoising = Denoising(family, family.load_denoiser(device, frozen.weights), device, frozen.precision)
    trained = Trained(denoising.model, texts)
    adapters.make_trainable(spec, family, trained)
    parameters = trained.parameters()
    optimizer = build_optimizer(groups(parameters, texts, spec), spec)
    batches = MicroBatches(spec, denoising, sets, prompts)
    if resumed is None:
        rehearse(job, family, trained)
        frozen = _fit_memory(frozen, denoising, batches, parameters, emit)
    _apply_gradient_checkpointing(frozen, denoising.model)
    ema = None if spec.ema_decay is None else Ema(parameters, spec.ema_decay)
    averaged = nullcontext if ema is None else ema.in_place

    def make_pictures(step: int) -> None:
        """A stop leaves the rest of them to the resumed run."""
        emit(PhaseStarted("validate", f"step {step}"))
        try:
            with averaged():
                validate.make_pictures(run_folder, step, spec, denoising, prompts, emit, should_stop)
        except StopRequested:
            return

    # Outside the phase "train", in which a silence of minutes is taken for a hang: on a CPU these may last longer.
    def evaluated(state: RunState) -> RunState:
        emit(PhaseStarted("evaluate", f"step {state.step}"))
        with averaged():
            evaluation = evaluate(denoising, instance, prompts, spec.seed, state.step)
        emit(evaluation)
        return replace(state, evaluations=(*state.evaluations, evaluation))

    def commit(state: RunState) -> None:
        emit(PhaseStarted("checkpoint", f"step {state.step}"))
        emit(checkpoint.save(run_folder, state, parameters, optimizer, spec.keep_checkpoints, ema))

    # The denoiser still answers as the base does, resumed or not: the only moment for the pictures of "before".
    if validate.is_due(0, spec) and not all(path.exists() for path in validate.picture_files(run_folder, 0, spec)):
        make_pictures(0)
    if resumed is None:
        state = evaluated(RunState(0, _identity(job), frozen, ()))
    else:
        resumed.restore(parameters, optimizer, ema)
        state = resumed.state
        if state.step > 0 and validate.is_due(state.step, spec):
            make_pictures(state.step)

    emit(PhaseStarted("train", f"step {state.step} of {spec.steps}"))
    committed_step = state.step
    checkpoint_every = decisions.planned_checkpoint_interval(spec)
    progress = Progress(spec.steps, batches.pictures_each * spec.gradient_accumulation, device, emit)
    while state.step < spec.steps and not should_stop():
        step = state.step + 1
        rate = learning_rate(step, spec, frozen.learning_rate)
        loss, gradient_norm = optimizer_step(spec, batches, step, rate, parameters, optimizer)
        if ema is not None:
            ema.update(step)
        progress.step_done(step, loss, gradient_norm, rate)
        state = replace(state, step=step)
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

    if should_stop():
        if committed_step < state.step:
            progress.require_finite(state.step, learning_rate(state.step, spec, frozen.learning_rate))
            commit(state)
        return Outcome(state.step, None)

    optimizer.state.clear()
    optimizer.zero_grad(set_to_none=True)
    if spec.optimizer == "adamw-bf16":
        for model in (denoising.model, *texts.values()):
            model.float()
    if ema is not None:
        ema.adopt()
    manifest = write_output(job, run_folder, family, trained, state, emit)
    return Outcome(state.step, manifest.sha256)


def _own_checkpoint(job: Job, run_folder: Path, emit: Emit) -> Checkpoint | None:
    """The newest whole checkpoint. Raises TrainingFailed("bad-job") when it belongs to another kind of run."""
    found = checkpoint.newest(run_folder)
    if found is None:
        return None
    if found.state.identity != _identity(job) or found.state.step > job.train.steps:
        message = f"{found.folder.name} was made by a run with other settings ({found.state.identity})"
        raise TrainingFailed("bad-job", message, "start a run of another name, or give these settings")
    emit(Decision(f"resume from step {found.state.step}", f"{found.folder.name} is the newest whole checkpoint"))
    return found


def _identity(job: Job) -> str:
    """The settings under which weights of a checkpoint mean something."""
    spec = job.train
    adapter = "" if spec.method == "full" else f" rank={spec.lora_rank} alpha={spec.lora_alpha or spec.lora_rank:g}"
    kept = "" if spec.optimizer == "adamw" else f" optimizer={spec.optimizer}"
    kept += "" if spec.ema_decay is None else f" ema={spec.ema_decay:g}"
    targets = f" targets={','.join(spec.lora_targets)}" if spec.lora_targets else ""
    texts = "" if spec.text_encoder_learning_rate is None else " text-encoders"
    return f"base={job.base} method={spec.method}{adapter}{targets}{texts} seed={spec.seed}{kept}"


def _frozen(spec: TrainSpec, family: Family, device: torch.device, resumed: Checkpoint | None, emit: Emit) -> Frozen:
    """What the first machine decided; and the decisions put to effect that are settings of the whole process."""
    threads = resumed.state.frozen.cpu_threads if resumed else 0
    if device.type == "cpu":
        threads = threads or decisions.choose_cpu_threads(spec, device, family.denoiser_parameters(), emit)
        torch.set_num_threads(threads)
    if resumed:
        return replace(resumed.state.frozen, cpu_threads=threads)
    precision = decisions.choose_precision(spec, device, emit)
    pure = spec.optimizer == "adamw-bf16"
    return Frozen(
        precision=precision,
        cpu_threads=threads,
        gradient_checkpointing=False,
        learning_rate=decisions.planned_learning_rate(spec),
        weights="bf16"
        if pure
        else decisions.choose_weights(spec.base_precision, precision, "full" not in family.formats, emit),
    )


def _fit_memory(
    frozen: Frozen, denoising: Denoising, batches: MicroBatches, parameters: Mapping[str, nn.Parameter], emit: Emit
) -> Frozen:
    def one_pass() -> None:
        try:
            torch.autograd.backward(batches.loss(1, batches.largest()))
        finally:
            for parameter in parameters.values():
                parameter.grad = None

    return replace(
        frozen, gradient_checkpointing=decisions.choose_gradient_checkpointing(denoising.device, one_pass, emit)
    )


def _apply_gradient_checkpointing(frozen: Frozen, denoiser: Any) -> None:
    if frozen.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()


def _repeat_bits() -> None:
    """Asks torch for kernels whose sums do not depend on the order of threads, where it has them."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory with NaN finds bugs in kernels, not in trainers, and costs a pass over every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
