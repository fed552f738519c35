"""What a run asks of a machine: operations, bytes, memory, disk. Pure arithmetic over the spec.

Every number is an estimate unless its docstring says "counted": with PyTorch's FLOP counter and the parameters of the
published architecture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from remote_trainer.wire import ADAPTER_FORMATS, ExportFormat, TrainSpec

GB = 1e9
FLOAT32, BFLOAT16 = 4, 2
ADAM_STATES = 2
CUDA_CONTEXT_GB = 1.5
"""Context, cuDNN workspaces and fragmentation: an estimate."""
SPARE_DISK_GB = 5.0
ENVIRONMENT_GB = 8.0
"""torch with its CUDA libraries (about 6 GB installed) and the rest of requirements.lock, if the image has neither."""
EVALUATION_FORWARDS_EACH, EVALUATED_PHOTOS = 4, 16
"""As in `remote_trainer.evaluation`: before every checkpoint, so many passes for each of so many photos."""


SDXL_PIPELINE = "StableDiffusionXLPipeline"
_XL = re.compile(r"XL(?![a-z])|(?<![a-z])(sd)?xl(?![a-z])")


@dataclass(frozen=True)
class Family:
    """A kind of base. All TFLOP are for one picture of 512×512 pixels and grow with its area.

    Those of SDXL are a quarter of what was counted at its own 1024×1024.
    """

    name: str
    parameters: float
    """Of the denoiser, counted."""
    base_gb: float
    """Of all weights the trainer downloads, in float32."""
    forward_tflop: float
    """Counted: one pass of the denoiser, a multiplication and an addition being two operations."""
    lora_step_tflop: float
    """Counted: forward, and backward without the gradients of frozen weights."""
    full_step_tflop: float
    """Counted: forward and the whole backward pass."""
    lora_parameters_per_rank: float
    """Counted, for the attention projections."""
    encode_tflop: float
    """Counted: one picture through the VAE's encoder."""
    activations_gb: float
    """Of one picture with gradient checkpointing: an estimate."""


STABLE_DIFFUSION = Family("stable-diffusion", 859.5e6, 4.3, 0.803, 1.726, 2.407, 199_296, 1.117, 1.2)
"""Versions 1.x and 2.x, which differ by less than the estimates' doubt."""
STABLE_DIFFUSION_XL = Family("stable-diffusion-xl", 2567.5e6, 13.9, 1.690, 3.547, 5.058, 1_451_520, 1.220, 1.0)
BUILTIN = Family("builtin", 1e6, 0.0, 0.03, 0.06, 0.09, 2_000, 0.01, 0.1)
"""The small bases that come with the trainer."""


def family_of(base: str, pipeline: str = "") -> Family:
    """By the diffusers class that the base's index names, where somebody has looked; else by `model.base` of a spec.

    A name with a syllable "XL" means SDXL (`…-xl-base-1.0`, `RealVisXL_V4.0`); whatever else can be trained and is not
    built in is Stable Diffusion 1.x or 2.x.
    """
    if base.startswith("builtin:"):
        return BUILTIN
    if pipeline:
        return STABLE_DIFFUSION_XL if pipeline == SDXL_PIPELINE else STABLE_DIFFUSION
    name = base.partition("@")[0].rstrip("/").rpartition("/")[2]
    return STABLE_DIFFUSION_XL if _XL.search(name) else STABLE_DIFFUSION


@dataclass(frozen=True)
class Workload:
    """One run, as far as it costs time."""

    family: Family
    train: TrainSpec
    formats: tuple[ExportFormat, ...]
    photos: int = 20
    class_images: int = 0
    """Including those that the base makes."""
    generate: int = 0
    """Class images that the base makes."""
    carried_gb: float = 0.0
    """A base that travels from the laptop, once per machine."""
    unpacked: bool = False
    """The base is a single file: it lies on the disk beside the folder that is made of it."""
    stored: bool = False
    """The machine uploads checkpoints to object storage by itself."""

    @property
    def area(self) -> float:
        """Of one picture, in 512×512 pixels."""
        return (self.train.resolution / 512) ** 2

    @property
    def pictures_per_step(self) -> int:
        return self.pictures_per_batch * self.train.gradient_accumulation

    @property
    def pictures_per_batch(self) -> int:
        """Class images double a batch where they are paired: they are trained beside those of the subject."""
        doubled = self.class_images and self.train.prior_sampling == "paired"
        return self.train.batch_size * (2 if doubled else 1)

    @property
    def trained_parameters(self) -> float:
        if self.train.method == "full":
            return self.family.parameters
        return self.family.lora_parameters_per_rank * self.train.lora_rank

    @property
    def step_tflop(self) -> float:
        each = self.family.full_step_tflop if self.train.method == "full" else self.family.lora_step_tflop
        return each * self.area * self.pictures_per_step

    @property
    def picture_tflop(self) -> float:
        """One picture made by the denoiser: guidance takes two passes a denoising step."""
        return 2 * self.train.validation_inference_steps * self.family.forward_tflop * self.area

    @property
    def evaluation_tflop(self) -> float:
        passes = EVALUATION_FORWARDS_EACH * min(self.photos, EVALUATED_PHOTOS)
        return passes * self.family.forward_tflop * self.area

    @property
    def pictures_made(self) -> int:
        """Class images and validation pictures, those before the first and after the last step included."""
        train = self.train
        between = (train.steps - 1) // train.validate_every if train.validate_every else 0
        return self.generate + (between + 2) * len(train.validation_prompts or ("",))

    @property
    def checkpoint_gb(self) -> float:
        """Weights that train and both states of Adam, in float32."""
        return self.trained_parameters * FLOAT32 * (1 + ADAM_STATES) / GB

    @property
    def export_gb(self) -> float:
        """Adapters alone, or whole models in float32."""
        adapter_gb = self.trained_parameters * FLOAT32 / GB
        return sum(adapter_gb if name in ADAPTER_FORMATS else self.family.base_gb for name in self.formats)

    @property
    def needed_vram_gb(self) -> float:
        """Estimate of the least that works, with gradient checkpointing and bfloat16 copies of the weights.

        Weights stay in float32; a full run keeps a gradient and two Adam states for each. Rounded up to half a GB.
        """
        weights = self.family.parameters * (FLOAT32 + BFLOAT16) / GB
        training = self.trained_parameters * FLOAT32 * (1 + ADAM_STATES) / GB
        activations = self.family.activations_gb * self.area * self.pictures_per_batch
        return -(-2 * (weights + training + activations + CUDA_CONTEXT_GB) // 1) / 2

    @property
    def needed_disk_gb(self) -> float:
        """Base + environment + kept checkpoints and the one being written + exports + some room, rounded up to 5 GB."""
        base = self._base_disk_gb
        checkpoints = (self.train.keep_checkpoints + 1) * self.checkpoint_gb
        return -(-(base + ENVIRONMENT_GB + checkpoints + self.export_gb + SPARE_DISK_GB) // 5) * 5.0

    @property
    def _base_disk_gb(self) -> float:
        return max(self.family.base_gb, self.carried_gb) * (2 if self.unpacked else 1)

    def disk_reason(self) -> str:
        base = self._base_disk_gb
        kept = self.train.keep_checkpoints + 1
        return (
            f"base {base:.1f} GB, environment {ENVIRONMENT_GB:.0f}, {kept} checkpoints of {self.checkpoint_gb:.2g}, "
            f"exports {self.export_gb:.2g}, {SPARE_DISK_GB:.0f} to spare"
        )


def workload(
    base: str,
    train: TrainSpec,
    formats: Sequence[ExportFormat],
    *,
    photos: int = 20,
    class_images: int = 0,
    generate: int = 0,
    carried_gb: float = 0.0,
    stored: bool = False,
    pipeline: str = "",
    unpacked: bool = False,
) -> Workload:
    """`base` as in the spec, `pipeline` its diffusers class where it is known.

    Empty `formats`: the first that the method yields.
    """
    chosen: tuple[ExportFormat, ...] = tuple(formats) or (("diffusers",) if train.method == "full" else ("lora",))
    family = family_of(base, pipeline)
    return Workload(family, train, chosen, photos, class_images, generate, carried_gb, unpacked, stored)
