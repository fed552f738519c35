"""Kinds of bases as the laptop knows them: how large, how costly, trained and exported how. A table, and no more.

Numbers are counted unless said to be estimates: operations with PyTorch's FLOP counter and parameters, both on the
published architecture without its weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import UsageError
from remote_trainer.wire import (
    ADAPTERS_ALONE,
    ADAPTERS_AND_KOHYA,
    EVERY_FORMAT,
    BasePrecision,
    ExportFormat,
    Method,
    TrainSpec,
)

FLOAT32, BFLOAT16 = 4, 2
_OF_16_CHANNELS, _OF_32_CHANNELS = 16 / 8**2, 32 / 8**2
USUAL_GUIDANCE = 7.5
"""Of Stable Diffusion."""


@dataclass(frozen=True)
class Family:
    """A kind of base. All TFLOP are for one picture of 512×512 pixels and taken to grow with its area; but for
    Stable Diffusion 1.x and 2.x they are a quarter of what was counted at 1024×1024.
    """

    name: str
    parameters: float
    """Of the denoiser."""
    base_gb: float
    """Of all weights the trainer downloads, as published."""
    forward_tflop: float
    """One pass of the denoiser, a multiplication and an addition being two operations."""
    lora_step_tflop: float
    """Forward, and backward without the gradients of frozen weights."""
    full_step_tflop: float
    """Forward and the whole backward pass; 0 where there is no method for it."""
    lora_parameters_per_rank: float
    """Of the layers that are adapted when a job names none."""
    encode_tflop: float
    """One picture through the autoencoder."""
    activations_gb: float
    """Of one picture with gradient checkpointing: an estimate."""
    adapters_alone: bool = False
    """Too large to be trained whole."""
    has_kohya_names: bool = False
    """Beside those that are not too large, which all have."""
    bytes_each: int = FLOAT32 + BFLOAT16
    """In memory, for each weight of the denoiser: itself, and its copy of lower precision while it is computed with."""
    text_encoders_gb: float = 0.0
    """In memory on a GPU, where that may be more than what comes after them."""
    text_parameters: float = 0.0
    """Of the text encoders that can be trained, all together; 0 where none can."""
    text_lora_parameters_per_rank: float = 0.0
    pixel_multiple: int = 8
    """What sides of buckets must be multiples of."""
    guidance: float = USUAL_GUIDANCE
    """Of its pipeline, or what is usual."""
    passes_each: int = 2
    """Of the denoiser for one denoising step of a picture; guidance by a second pass makes them two."""
    latents_per_pixel: float = 4 / 8**2
    """Numbers that the autoencoder makes of one pixel: its channels, over the pixels behind each latent."""

    @property
    def reads_sentences(self) -> bool:
        """Prompts go through a language model (T5, Qwen3), and were sentences when the base was made."""
        return self.text_encoders_gb > 0

    @property
    def formats(self) -> Mapping[Method, tuple[ExportFormat, ...]]:
        """The methods it is trained by, and what each can be exported to, the default first."""
        if not self.adapters_alone:
            return EVERY_FORMAT
        return ADAPTERS_AND_KOHYA if self.has_kohya_names else ADAPTERS_ALONE


STABLE_DIFFUSION = Family(
    "stable-diffusion", 859.5e6, 4.3, 0.803, 1.726, 2.407, 199_296, 1.117, 1.2,
    text_parameters=123.1e6, text_lora_parameters_per_rank=73_728,
)  # fmt: skip
"""Versions 1.x and 2.x, which differ by less than the estimates' doubt."""
STABLE_DIFFUSION_XL = Family(
    "stable-diffusion-xl", 2567.5e6, 13.9, 1.690, 3.547, 5.058, 1_451_520, 1.220, 1.0,
    text_parameters=817.7e6, text_lora_parameters_per_rank=401_408,
)  # fmt: skip
STABLE_DIFFUSION_3_MEDIUM = Family(
    "stable-diffusion-3", 2243.2e6, 16.4, 2.812, 6.597, 0.0, 586_752, 1.22, 0.4, adapters_alone=True,
    bytes_each=BFLOAT16, text_encoders_gb=11.2, pixel_multiple=16, guidance=7.0, latents_per_pixel=_OF_16_CHANNELS,
)  # fmt: skip
"""3.5 medium; 3 medium has 2,028 million parameters and takes a fifth less."""
STABLE_DIFFUSION_3_LARGE = Family(
    "stable-diffusion-3-large", 8056.6e6, 27.6, 7.780, 17.336, 0.0, 1_473_792, 1.22, 0.6, adapters_alone=True,
    bytes_each=BFLOAT16, text_encoders_gb=11.2, pixel_multiple=16, guidance=7.0, latents_per_pixel=_OF_16_CHANNELS,
)  # fmt: skip
FLUX_1 = Family(
    "flux-1", 11_901.4e6, 33.7, 18.596, 40.852, 0.0, 2_801_664, 1.22, 0.9, adapters_alone=True, has_kohya_names=True,
    bytes_each=BFLOAT16, text_encoders_gb=9.8, pixel_multiple=16, guidance=3.5, passes_each=1,
    latents_per_pixel=_OF_16_CHANNELS,
)  # fmt: skip
FLUX_2_KLEIN_4B = Family(
    "flux-2-klein-4b", 3875.5e6, 16.0, 8.705, 18.976, 0.0, 1_044_480, 1.22, 0.6, adapters_alone=True,
    bytes_each=BFLOAT16, text_encoders_gb=8.1, pixel_multiple=16, guidance=4.0, latents_per_pixel=_OF_32_CHANNELS,
)  # fmt: skip
FLUX_2_KLEIN_9B = Family(
    "flux-2-klein-9b", 9078.6e6, 34.9, 18.879, 40.422, 0.0, 1_736_704, 1.22, 0.8, adapters_alone=True,
    bytes_each=BFLOAT16, text_encoders_gb=16.4, pixel_multiple=16, guidance=4.0, latents_per_pixel=_OF_32_CHANNELS,
)  # fmt: skip
BUILTIN = Family(
    "builtin", 1e6, 0.0, 0.03, 0.06, 0.09, 2_000, 0.01, 0.1, text_parameters=0.1e6, text_lora_parameters_per_rank=1_024,
    latents_per_pixel=3 / 4**2,
)  # fmt: skip
"""The small base that the trainer writes by itself."""
TOYBOX = Family(
    "toybox", 4.52e6, 0.012, 0.0271, 0.0501, 0.0793, 12_096, 0.0125, 0.1, text_parameters=0.49e6,
    text_lora_parameters_per_rank=2_048, guidance=3.0, latents_per_pixel=4 / 4**2,
)  # fmt: skip
"""The small base that comes with this program, counted at its 64 pixels."""

_SIZES: Mapping[str, tuple[Family, ...]] = {
    "StableDiffusionPipeline": (STABLE_DIFFUSION,),
    "StableDiffusionXLPipeline": (STABLE_DIFFUSION_XL,),
    "StableDiffusion3Pipeline": (STABLE_DIFFUSION_3_MEDIUM, STABLE_DIFFUSION_3_LARGE),
    "FluxPipeline": (FLUX_1,),
    "Flux2KleinPipeline": (FLUX_2_KLEIN_4B, FLUX_2_KLEIN_9B),
}
"""By diffusers class; where there are two, the second is the one whose base is named `…large…` or `…9b…`."""
_FIRST_3_MEDIUM = re.compile(r"3-medium", re.IGNORECASE)
_LARGER = re.compile(r"large|9b", re.IGNORECASE)
_NAMES = (
    (re.compile(r"flux[._-]?2.*klein", re.IGNORECASE), "Flux2KleinPipeline"),
    (re.compile(r"flux(?![._-]?2)", re.IGNORECASE), "FluxPipeline"),
    (re.compile(r"(stable-diffusion-|(?<![a-z])sd)-?3(?![0-9])", re.IGNORECASE), "StableDiffusion3Pipeline"),
    (re.compile(r"XL(?![a-z])|(?<![a-z])(sd)?xl(?![a-z])"), "StableDiffusionXLPipeline"),
)
"""A name with a syllable "XL" means SDXL (`…-xl-base-1.0`, `RealVisXL_V4.0`)."""


KEPT_BYTES: Mapping[BasePrecision, float] = {"fp32": FLOAT32, "bf16": BFLOAT16, "int8": 1.05, "nf4": 0.62}
"""For each weight of a frozen denoiser, the scales of quantized ones and the layers that stay in bfloat16 included."""


def family_of(base: str, pipeline: str = "") -> Family:
    """By the diffusers class that the base's index names, where somebody has looked; else by `model.base` of a spec.

    Whatever no name tells apart, and is not built in, is Stable Diffusion 1.x or 2.x.
    """
    if base.startswith("builtin:"):
        return TOYBOX if base == "builtin:toybox" else BUILTIN
    name = base.partition("@")[0].rstrip("/").rpartition("/")[2]
    told = pipeline or next((kind for pattern, kind in _NAMES if pattern.search(name)), "StableDiffusionPipeline")
    sizes = _SIZES.get(told, (STABLE_DIFFUSION,))
    return sizes[-1] if _LARGER.search(name) else sizes[0]


def longest_side(base: str, pipeline: str) -> int | None:
    """Of a picture, in pixels, as far as a base is known by its name; None where nothing limits it.

    The transformer of Stable Diffusion 3 has learned 192×192 places of 16 pixels, that of 3.5 medium 384×384. What no
    name tells apart is taken for the larger: the machine looks again.
    """
    family = family_of(base, pipeline)
    if family not in (STABLE_DIFFUSION_3_MEDIUM, STABLE_DIFFUSION_3_LARGE):
        return None
    return 3072 if family == STABLE_DIFFUSION_3_LARGE or _FIRST_3_MEDIUM.search(base) else 6144


def require_ways(
    base: str,
    pipeline: str,
    train: TrainSpec,
    formats: Sequence[ExportFormat],
    buckets: Collection[tuple[int, int]],
    most_pixels: int | None = None,
) -> None:
    """Raises UsageError for what the trainer would refuse on a machine that is paid for: a kind of base it does not
    know, a method or format that the family lacks, text encoders that do not train, sides of buckets (pixels) that its
    latents cannot have. `most_pixels`: the longest side that a look at the base has shown, see `longest_side`.
    """
    method = train.method
    if pipeline and pipeline not in _SIZES and not base.startswith("builtin:"):
        known = ", ".join(sorted(_SIZES))
        raise UsageError(f"{base} is a {pipeline}, which cannot be trained yet", f"kinds that can: {known}")
    family = family_of(base, pipeline)
    if method not in family.formats:
        known = " or ".join(f"`--set train.method={name}`" for name in family.formats)
        raise UsageError(f"a base of the family {family.name} cannot be trained by the method {method}", known)
    for chosen in formats:
        if chosen not in family.formats[method]:
            known = ", ".join(family.formats[method])
            message = f"a {method} on a base of the family {family.name} cannot be exported as {chosen}"
            raise UsageError(message, f"set output.formats to what it can: {known}")
    if train.text_encoder_learning_rate is not None and not family.text_parameters:
        message = f"the text encoders of the family {family.name} cannot be trained"
        raise UsageError(message, "leave train.text_encoder_learning_rate out")
    if train.base_precision not in ("auto", "fp32") and not family.adapters_alone:
        message = (
            f"a base of the family {family.name} is small enough to be kept as it is, not in {train.base_precision}"
        )
        raise UsageError(message, "leave train.base_precision out")
    uneven = [side for bucket in buckets for side in bucket if side % family.pixel_multiple]
    if uneven:
        message = f"buckets of a base of the family {family.name} have sides that are multiples of "
        raise UsageError(f"{message}{family.pixel_multiple}, not {uneven[0]}", "make train.resolution a multiple of 64")
    limit = most_pixels or longest_side(base, pipeline)
    if limit is not None and any(max(bucket) > limit for bucket in buckets):
        width, height = max(buckets, key=max)
        raise UsageError(
            f"{base} has places for {limit} pixels a side, and pictures would be trained at {width}×{height}",
            f"choose a resolution below {limit}, or crop long pictures: `train.aspect_buckets = false`",
        )
