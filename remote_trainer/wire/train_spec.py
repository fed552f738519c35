"""The recipe: every setting of `[train]`, and what a method can be exported to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Optional

from .codec import Bounds, Count, Positive

Method = Literal["full", "lora", "dora"]
LrSchedule = Literal["constant", "linear", "cosine", "polynomial", "sine"]
OptimizerName = Literal["adamw", "adamw-8bit", "adamw-bf16", "adamw-offload", "adafactor"]
Precision = Literal["auto", "fp32", "bf16"]
PriorSampling = Literal["paired", "mixed"]
Crop = Literal["center", "corner", "random"]
Weights = Literal["fp32", "bf16", "int8", "nf4"]
"""How a denoiser's weights that do not train are kept in memory."""
BasePrecision = Literal["auto", "fp32", "bf16", "int8", "nf4"]
ExportStep = Literal["last", "best"]
FlowDensity = Literal["uniform", "logit-normal", "mode", "cosmap"]
ExportFormat = Literal["diffusers", "lora", "single-file", "ckpt", "kohya-lora"]
ADAPTER_FORMATS: tuple[ExportFormat, ...] = ("lora", "kohya-lora")
"""Those that hold an adapter alone; the others hold a whole model."""
EVERY_FORMAT: dict[Method, tuple[ExportFormat, ...]] = {
    "full": ("diffusers", "single-file", "ckpt"),
    "lora": ("lora", "kohya-lora", "diffusers", "single-file", "ckpt"),
    "dora": ("lora", "diffusers", "single-file", "ckpt"),
}
"""What each method can be exported to, the default first; the diffusers folder of a LoRA has it fused in. Readers of
kohya's files disagree on DoRA, so nobody could check one."""
ADAPTERS_ALONE: dict[Method, tuple[ExportFormat, ...]] = {"lora": ("lora",), "dora": ("lora",)}
"""Of families with billions of parameters: diffusers and ComfyUI open the one file."""
ADAPTERS_AND_KOHYA: dict[Method, tuple[ExportFormat, ...]] = {"lora": ("lora", "kohya-lora"), "dora": ("lora",)}
"""Of such families that kohya's trainers have names for."""


@dataclass(frozen=True)
class TrainSpec:
    """The `[train]` section: how to train. None means "decided by the plan", which then prints its reason."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    method: Method = "lora"
    steps: Positive = 1000
    """Optimizer steps, not micro-batches."""
    resolution: Annotated[int, Bounds(ge=64, le=2048, multiple_of=8)] = 512
    """Side in pixels of the square whose area every aspect bucket shares."""
    aspect_buckets: bool = True
    """False crops every picture to a square."""
    batch_size: Positive = 1
    gradient_accumulation: Positive = 1
    learning_rate: Optional[Annotated[float, Bounds(gt=0)]] = None
    lr_schedule: LrSchedule = "constant"
    lr_end: Annotated[float, Bounds(ge=0)] = 0.0
    """Learning rate at the last step of a falling schedule, and at the lowest points of a sine."""
    lr_power: Annotated[float, Bounds(gt=0)] = 1.0
    """Exponent of the polynomial schedule; 1 is linear, 2 falls early and ends flat."""
    lr_warmup_steps: Count = 0
    optimizer: OptimizerName = "adamw"
    """`adamw-8bit` keeps its moments in 8 bits (needs bitsandbytes), `adamw-bf16` keeps weights and moments in bf16 and
    rounds at random, `adamw-offload` keeps its moments in the host's memory, `adafactor` keeps rows and columns of the
    second moment alone."""
    weight_decay: Annotated[float, Bounds(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Bounds(gt=0)] = 1.0
    min_snr_gamma: Optional[Annotated[float, Bounds(gt=0)]] = None
    """Weight losses by min(SNR, gamma)/SNR (arXiv 2303.09556); None leaves every timestep alike."""
    debiased_estimation: bool = False
    """Weight losses by 1/sqrt(SNR) (arXiv 2310.08442)."""
    noise_offset: Annotated[float, Bounds(ge=0, le=1)] = 0.0
    """Share of noise that is equal over a whole channel: very dark and very bright pictures become possible."""
    caption_dropout: Annotated[float, Bounds(ge=0, le=1)] = 0.0
    """How often a picture is shown with an empty caption."""
    ema_decay: Optional[Annotated[float, Bounds(gt=0, le=0.99999)]] = None
    """Keeps a moving average of the weights, which is what is evaluated, shown and exported; None keeps none."""
    flow_density: FlowDensity = "logit-normal"
    """How often each noise level of a flow is trained: `logit-normal` and `mode` favor the middle, `cosmap` does as a
    cosine schedule (arXiv 2403.03206)."""
    flow_shift: Optional[Annotated[float, Bounds(gt=0)]] = None
    """Moves the noise levels of a flow towards noise; None: as the base's own scheduler does."""
    prior_loss_weight: Annotated[float, Bounds(ge=0)] = 1.0
    """The lambda in front of the loss on class images; used only when the job has class images."""
    prior_sampling: PriorSampling = "paired"
    """`paired` puts as many class images beside the subject's into every batch; `mixed` gives a batch to one set of
    pictures, drawn by probability, so that the batch does not double. What counts is probability times lambda."""
    text_encoder_learning_rate: Optional[Annotated[float, Bounds(gt=0)]] = None
    """Trains the text encoders too, by the same method, at this peak of the same schedule; None leaves them alone."""
    fsdp: bool = False
    """Each of several GPUs keeps its part of weights, gradients and optimizer state instead of a copy of all: for full
    training that does not fit one."""
    seed: Count = 42
    precision: Precision = "auto"
    lora_rank: Positive = 16
    lora_targets: tuple[str, ...] = ()
    """Ends of the names of the denoiser's linear layers that get an adapter; empty: what is usual for the base."""
    base_precision: BasePrecision = "auto"
    """How frozen weights are kept in memory beside an adapter; int8 and nf4 for families of billions of parameters."""
    lora_alpha: Optional[Annotated[float, Bounds(gt=0)]] = None
    """None: equal to the rank, so that the update is not rescaled."""
    checkpoint_every: Optional[Positive] = None
    keep_checkpoints: Positive = 2
    """How many of the newest checkpoints stay on the host's disk, beside the one with the lowest evaluation loss."""
    export_step: ExportStep = "last"
    """Whose weights become the model: those of the last step, or of the checkpoint with the lowest evaluation loss."""
    validate_every: Count = 200
    """Steps between validation pictures; 0 makes them only before the first and after the last step."""
    validation_prompts: tuple[str, ...] = ()
    validation_inference_steps: Positive = 25
    validation_guidance_scale: Optional[Annotated[float, Bounds(ge=0)]] = None
    """Of a second pass without prompt, where the base is guided by one, or what a base is told (Flux.1)."""
    cpu_threads: Optional[Positive] = None
    """Threads of one trainer on a CPU. Results are bit-identical only for an equal count."""
