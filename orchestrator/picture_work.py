"""What making pictures asks of a machine: operations, bytes, memory, disk. As `workload`, where nothing trains.

Every number is an estimate: counted operations of the family's published architecture, and the weights in 16 bits, all
of them on the GPU at once, as `remote_trainer.generate` has them.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.families import BFLOAT16, Family, family_of
from orchestrator.workload import CUDA_CONTEXT_GB, ENVIRONMENT_GB, GB, SPARE_DISK_GB
from remote_trainer.wire import PictureJob

UNSTATED_STEPS = 50
"""Denoising steps where nobody says how many: what diffusers' pipelines take at most by themselves."""
UNSTATED_SIDE = 512
PICTURE_GB = 0.001
"""A PNG of 512×512 pixels takes less than half of it."""


@dataclass(frozen=True)
class PictureWork:
    """Pictures from one model on one machine, as far as they cost time."""

    family: Family
    pictures: int
    """Those of the base included."""
    steps: int
    """Denoising steps of each."""
    area: float
    """Of one picture, in 512×512 pixels."""
    model_gb: float
    """What travels of the trained model."""
    base_gb: float
    """What the machine downloads, or is sent: 0 for a model that opens without its base."""
    carried_gb: float = 0.0
    """The part of `base_gb` that travels from the laptop."""

    @property
    def draw_tflop(self) -> float:
        """Of all pictures, guided as the family is."""
        return self.pictures * self.family.passes_each * self.steps * self.family.forward_tflop * self.area

    @property
    def result_gb(self) -> float:
        return PICTURE_GB * self.area * (self.pictures + 1)

    @property
    def needed_vram_gb(self) -> float:
        """Denoiser, text encoders and one picture's activations; rounded up to half a GB."""
        texts = max(self.family.text_encoders_gb, self.family.text_parameters * BFLOAT16 / GB)
        weights = self.family.parameters * BFLOAT16 / GB + texts
        return -(-2 * (weights + self.family.activations_gb * self.area + CUDA_CONTEXT_GB) // 1) / 2

    @property
    def needed_disk_gb(self) -> float:
        """Base, model and environment, and some room; rounded up to 5 GB."""
        return -(-(self.base_gb + self.model_gb + ENVIRONMENT_GB + SPARE_DISK_GB) // 5) * 5.0


def picture_work(job: PictureJob, model_bytes: int, carried_bytes: int = 0, pipeline: str = "") -> PictureWork:
    """`carried_bytes` of a base that lies on this computer; `pipeline`: its diffusers class, where it is known."""
    family = family_of(job.base, pipeline)
    width, height = job.width or UNSTATED_SIDE, job.height or UNSTATED_SIDE
    carried_gb = carried_bytes / GB
    return PictureWork(
        family=family,
        pictures=job.count * (2 if job.compare else 1),
        steps=job.steps or UNSTATED_STEPS,
        area=width * height / 512**2,
        model_gb=model_bytes / GB,
        base_gb=max(family.base_gb, carried_gb) if job.needs_base else 0.0,
        carried_gb=carried_gb,
    )
