"""What a run asks of a machine: operations, bytes, memory, disk. Pure arithmetic over the spec.

Every number is an estimate unless its docstring says "counted": with PyTorch's FLOP counter and the parameters of the
published architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.families import BFLOAT16, FLOAT32, KEPT_BYTES, Family, family_of
from remote_trainer.wire import ADAPTER_FORMATS, EVERY_FORMAT, ExportFormat, OptimizerName, TrainSpec

GB = 1e9
STATE_BYTES: Mapping[OptimizerName, int] = {
    "adamw": 2 * FLOAT32, "adamw-8bit": 2, "adamw-bf16": 2 * BFLOAT16, "adamw-offload": 2 * FLOAT32,
    "adafactor": 0,
}  # fmt: skip
"""What an optimizer remembers of each weight that trains; adafactor's rows and columns are next to nothing."""
CUDA_CONTEXT_GB = 1.5
"""Context, cuDNN workspaces and fragmentation: an estimate."""
GATHERED_SHARE = 0.1
"""Of a sharded denoiser's weights, those of the blocks at work: an estimate."""
SPARE_DISK_GB = 5.0
ENVIRONMENT_GB = 8.0
"""torch with its CUDA libraries (about 6 GB installed) and the rest of requirements.lock, if the image has neither."""
CAPTIONER_GB = 1.1
"""Of the captioner's 0.23 billion parameters in float32: they may be published in less."""
HELD_LATENTS_GB = (512 << 20) / GB
"""As in `remote_trainer.posteriors`: what each process keeps in memory of the pictures that it has encoded."""
EVALUATION_FORWARDS_EACH, EVALUATED_PHOTOS = 4, 16
"""As in `remote_trainer.evaluation`: before every checkpoint, so many passes for each of so many photos."""


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
    captions: int = 0
    """Pictures that the machine describes before it trains."""
    processes: int = 1
    """That train together, each on a GPU of its own."""
    encoded_pixels: float = 0.0
    """Of all pictures in all their views; 0 where nobody has looked at them."""

    @property
    def captioner_gb(self) -> float:
        return CAPTIONER_GB if self.captions else 0.0

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
        family, texts = self.family, self.train.text_encoder_learning_rate is not None
        if self.train.method == "full":
            return family.parameters + texts * family.text_parameters
        per_rank = family.lora_parameters_per_rank + texts * family.text_lora_parameters_per_rank
        return per_rank * self.train.lora_rank

    @property
    def step_tflop(self) -> float:
        each = self.family.full_step_tflop if self.train.method == "full" else self.family.lora_step_tflop
        return each * self.area * self.pictures_per_step

    @property
    def picture_tflop(self) -> float:
        """One picture made by the denoiser, guided as the family is."""
        return self.family.passes_each * self.train.validation_inference_steps * self.family.forward_tflop * self.area

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
        """Weights that train, what the optimizer remembers of them, and their average where the run keeps one."""
        return self.trained_parameters * (self._trained_bytes + self._remembered_bytes) / GB

    @property
    def _trained_bytes(self) -> int:
        """Of each weight that trains, and of its gradient."""
        return BFLOAT16 if self.train.optimizer == "adamw-bf16" and self.train.method == "full" else FLOAT32

    @property
    def _remembered_bytes(self) -> int:
        """Beside each weight that trains."""
        return STATE_BYTES[self.train.optimizer] + (0 if self.train.ema_decay is None else FLOAT32)

    @property
    def export_gb(self) -> float:
        """Adapters alone, or whole models in float32."""
        adapter_gb = self.trained_parameters * FLOAT32 / GB
        return sum(adapter_gb if name in ADAPTER_FORMATS else self.family.base_gb for name in self.formats)

    @property
    def base_may_be_quantized(self) -> bool:
        """By the machine, where no step fits otherwise: see docs/training.md on memory."""
        return self.family.adapters_alone and self.train.base_precision == "auto" and self.train.method != "full"

    @property
    def needed_vram_gb(self) -> float:
        """Estimate of the least that works, with gradient checkpointing; rounded up to half a GB.

        What trains has a gradient, what the optimizer remembers, and perhaps an average beside it. The text encoders
        have gone before the denoiser comes, so the larger of both counts.
        """
        texts = 0.0 if self.train.text_encoder_learning_rate is None else self.family.text_parameters
        each = KEPT_BYTES.get(self.train.base_precision, self.family.bytes_each)
        if self.train.optimizer == "adamw-bf16":
            each = min(each, BFLOAT16)
        weights = (self.family.parameters + texts) * each / GB
        on_host = STATE_BYTES[self.train.optimizer] if self.train.optimizer == "adamw-offload" else 0
        training = self.trained_parameters * (self._trained_bytes + self._remembered_bytes - on_host) / GB
        activations = self.family.activations_gb * self.area * self.pictures_per_batch
        kept = weights + training
        if self.train.fsdp:
            kept = kept / self.processes + GATHERED_SHARE * weights
        most = max(kept + activations, self.family.text_encoders_gb)
        return -(-2 * (most + CUDA_CONTEXT_GB) // 1) / 2

    @property
    def needed_disk_gb(self) -> float:
        """Base + environment + checkpoints + exports + latents + some room, rounded up to 5 GB."""
        base = self._base_disk_gb
        checkpoints = self._most_checkpoints * self.checkpoint_gb
        needed = base + self.captioner_gb + ENVIRONMENT_GB + checkpoints + self.export_gb + self.spilled_latents_gb
        return -(-(needed + SPARE_DISK_GB) // 5) * 5.0

    @property
    def spilled_latents_gb(self) -> float:
        """Means and deviations of latents, float32, that memory does not hold: every process encodes every view, and
        has a file of its own for as long as it trains.
        """
        encoded_gb = self.encoded_pixels * self.family.latents_per_pixel * 2 * FLOAT32 / GB
        return self.processes * max(0.0, encoded_gb - HELD_LATENTS_GB)

    @property
    def _base_disk_gb(self) -> float:
        return max(self.family.base_gb, self.carried_gb) * (2 if self.unpacked else 1)

    @property
    def _most_checkpoints(self) -> int:
        """At once on the machine: the newest, the best, and the one being written."""
        return self.train.keep_checkpoints + 2

    def disk_reason(self) -> str:
        base = self._base_disk_gb
        kept = self._most_checkpoints
        captioner = f"captioner {self.captioner_gb:.1f}, " if self.captions else ""
        latents = f"encoded pictures {self.spilled_latents_gb:.2g}, " if self.spilled_latents_gb else ""
        return (
            f"base {base:.1f} GB, {captioner}environment {ENVIRONMENT_GB:.0f}, {kept} checkpoints of "
            f"{self.checkpoint_gb:.2g}, exports {self.export_gb:.2g}, {latents}{SPARE_DISK_GB:.0f} to spare"
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
    captions: int = 0,
    processes: int = 1,
    encoded_pixels: float = 0.0,
) -> Workload:
    """`base` as in the spec, `pipeline` its diffusers class where it is known.

    Empty `formats`: the first that the method yields.
    """
    chosen: tuple[ExportFormat, ...] = tuple(formats) or EVERY_FORMAT[train.method][:1]
    family = family_of(base, pipeline)
    return Workload(
        family, train, chosen, photos, class_images, generate, carried_gb, unpacked, stored, captions, processes,
        encoded_pixels,
    )  # fmt: skip
