"""What a person should know before agreeing to a plan. Pure; every warning carries what can be done about it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.base_model import BaseSource, HubModel, is_builtin
from orchestrator.dataset.placement import Placement
from orchestrator.dataset.translation import Translated
from orchestrator.families import STABLE_DIFFUSION_XL, Family, family_of
from orchestrator.rental import Rental
from orchestrator.single_file_base import LinkedFile
from orchestrator.spec import BUILTIN_RESOLUTION, RunSpec
from orchestrator.workload import ENVIRONMENT_GB, Workload
from providers.api import Offer
from remote_trainer.wire import TrainSpec, Warned

_DISTILLED = re.compile(
    r"schnell|turbo|lightning|hyper-?sd|(?<![a-z])lcm(?![a-z])|flux[._-]?2-klein-(?!base)", re.IGNORECASE
)
LEAST_XL_RESOLUTION = 768
"""Pixels: below it SDXL is far from the 1024 it was made for."""
NOTABLE_ENLARGEMENT = 2.0
"""A photo below half of its bucket is warned about: the model learns the blur."""
NOTABLE_CROP = 0.15


def machine_warnings(spec: RunSpec, base: BaseSource, offer: Offer, has_gpu: bool | None) -> list[Warned]:
    """About where it is trained; `has_gpu` is None when nobody has looked."""
    warnings = []
    compute = spec.compute
    wishes = {"gpu": compute.gpu, "min_vram_gb": compute.min_vram_gb, "max_price_per_hour": compute.max_price_per_hour}
    unheard = [f"compute.{key}" for key, wish in wishes.items() if wish]
    if offer.price_per_hour_usd == 0 and unheard:
        warnings.append(
            Warned(f"{', '.join(unheard)}: no choice on {offer.provider}, the machine is what it is", "leave them out")
        )
    if has_gpu is False and not is_builtin(base):
        warnings.append(
            Warned(
                "the machine shows no NVIDIA GPU: training a base of full size takes hours or days on a CPU",
                "train on a machine that has one: `--host me@gpu-box`, or rent one: `--provider runpod`, "
                "`--provider vast`",
            )
        )
    return warnings


def caption_warnings(work: Workload, has_gpu: bool | None) -> list[Warned]:
    """About a captioner without a GPU; on a rented machine, which has one, it takes seconds."""
    if not work.captions or has_gpu is not False:
        return []
    return [
        Warned(
            f"{work.captions} pictures are described on a CPU, in some 10 seconds each",
            "rent a GPU, write captions beside the photos, or leave data.captions out",
        )
    ]


def environment_warnings(free_gb: float | None) -> list[Warned]:
    """About a machine that stands and has none of the trainer's packages, with `free_gb` on its disk if known."""
    warnings = []
    if free_gb is not None and free_gb < ENVIRONMENT_GB:
        warnings.append(
            Warned(
                f"{free_gb:.1f} GB are free there, and the environment that this run builds takes up to "
                f"{ENVIRONMENT_GB:g} GB",
                "free some space there, or choose another disk: `--set compute.ssh.workdir=/mnt/big/cloudbooth`, on "
                "this machine CLOUDBOOTH_HOME",
            )
        )
    return warnings


def size_warnings(spec: RunSpec, work: Workload) -> list[Warned]:
    """About a machine that is asked for before anybody has looked at the base: by the name of the base, that is."""
    if work.family == family_of(spec.model.base):
        return []
    wanted = {"min_vram_gb": work.needed_vram_gb, "disk_gb": work.needed_disk_gb}
    unsaid = {key: value for key, value in wanted.items() if not getattr(spec.compute, key)}
    if not unsaid:
        return []
    return [
        Warned(
            f"{spec.model.base} is of the family {work.family.name}, which its name does not tell: the machine is "
            "asked for by its name, and may turn out too small or too large",
            " ".join(f"`--set compute.{key}={value:g}`" for key, value in unsaid.items()),
        )
    ]


def rental_warnings(rental: Rental, deadline_s: float | None, work: Workload) -> list[Warned]:
    """About what renting this offer may lead to; `deadline_s` is when the machine ends the run by itself."""
    warnings = []
    offer, priced = rental.quote.offer, rental.quote
    if 0 < offer.vram_gb < rental.needed_vram_gb:
        smaller = "`--set train.batch_size=1` and a smaller train.resolution"
        if work.base_may_be_quantized:
            smaller = "let the machine keep the base in 8 or 4 bits, as it does where no step fits otherwise"
        warnings.append(
            Warned(
                f"{offer.gpu} has {offer.vram_gb:g} GB, and the run is estimated to need {rental.needed_vram_gb:g} GB",
                f"choose a larger one with `--gpu`, or {smaller}",
            )
        )
    if priced.cost_usd.expected > rental.ceiling_usd:
        warnings.append(
            Warned(
                f"about ${priced.cost_usd.expected:.2f} are expected, above the ceiling of ${rental.ceiling_usd:.2f}: "
                "the run would end early, with a checkpoint",
                f"`--max-cost {priced.cost_usd.high:.2f}`, or fewer `--steps`",
            )
        )
    elif deadline_s is not None and priced.duration_s.expected > deadline_s:
        warnings.append(
            Warned(
                f"about {priced.duration_s.expected / 3600:.1f} h are expected, and the run ends after "
                f"{deadline_s / 3600:.1f} h at the latest, with a checkpoint",
                "raise `--max-hours` or `--max-cost`, or train fewer `--steps`",
            )
        )
    if not rental.terms.ends_itself:
        warnings.append(
            Warned(
                f"a machine of {offer.provider} cannot give itself back: while this laptop is away it bills on",
                "stay connected until the run has ended, or choose another `--provider`",
            )
        )
    if rental.volume is not None and rental.volume.size_gb < rental.disk_gb:
        warnings.append(
            Warned(
                f"the volume {rental.volume.id} has {rental.volume.size_gb:g} GB, and the run is estimated to need "
                f"{rental.disk_gb:g} GB, besides what lies there already",
                "make it larger in the provider's console; it cannot be made smaller again",
            )
        )
    if rental.terms.stopped_disk_may_vanish and rental.volume is None:
        warnings.append(
            Warned(
                f"a stopped disk of {offer.provider} may be lost: its host may be given away meanwhile",
                "stay connected until the run has ended, so that the model never has a stopped disk as its only place",
            )
        )
    return warnings


def training_warnings(
    spec: RunSpec,
    train: TrainSpec,
    placements: Sequence[Placement],
    base: BaseSource,
    family: Family,
    *,
    has_class_images: bool,
) -> list[Warned]:
    """About base, photos and settings, in the order of how much they matter."""
    warnings = []
    if isinstance(base, HubModel) and base.warning:
        warnings.append(Warned(base.warning, "check the network and HF_ENDPOINT, then run the command again"))
    if isinstance(base, LinkedFile) and base.warning:
        warnings.append(
            Warned(f"{base.warning}: whether it is there shows only on the machine", "check the network and try again")
        )
    if is_builtin(base) and train.resolution > 2 * BUILTIN_RESOLUTION:
        warnings.append(
            Warned(
                f"{spec.model.base} is made for {BUILTIN_RESOLUTION} pixels, not for {train.resolution}: "
                "training is slow and learns little",
                f"`--set train.resolution={BUILTIN_RESOLUTION}`",
            )
        )
    if family == STABLE_DIFFUSION_XL and train.resolution < LEAST_XL_RESOLUTION:
        warnings.append(
            Warned(
                f"SDXL draws at 1024 pixels: trained at {train.resolution}, it forgets how, and the subject comes out "
                "small or cut off",
                "`--set train.resolution=1024`",
            )
        )
    if _DISTILLED.search(spec.model.base):
        warnings.append(
            Warned(
                f"{spec.model.base} was distilled to draw in few steps, which training undoes little by little",
                "train the base that it was distilled from, and draw with either; its name often ends in `-dev` or has "
                "`-base-`",
            )
        )
    small = [placed for placed in placements if placed.enlargement > NOTABLE_ENLARGEMENT]
    if small:
        names = _names(small)
        least = max(placed.enlargement for placed in small)
        warnings.append(
            Warned(
                f"{names} must be enlarged up to {least:.1f} times for resolution {train.resolution}: "
                "the model learns the blur",
                "use the original photos, or a smaller `--set train.resolution=…`",
            )
        )
    cut = [placed for placed in placements if placed.cropped_share > NOTABLE_CROP]
    if cut:
        most = max(placed.cropped_share for placed in cut)
        hint = "crop them yourself around the subject" + (
            "" if train.aspect_buckets else ", or set aspect_buckets = true"
        )
        warnings.append(Warned(f"up to {most:.0%} is cropped away at the edges of {_names(cut)}", hint))
    if train.lr_warmup_steps >= train.steps:
        warnings.append(
            Warned(
                f"the warm-up of {train.lr_warmup_steps} steps never ends in {train.steps}",
                "`--set train.lr_warmup_steps=0`",
            )
        )
    if has_class_images and train.prior_loss_weight == 0:
        warnings.append(
            Warned("class images have no effect: train.prior_loss_weight is 0", "`--set data.regularization=none`")
        )
    class_prompt = spec.subject.class_prompt
    if has_class_images and class_prompt == spec.subject.instance_prompt:
        warnings.append(
            Warned(
                "subject.class_prompt equals the instance prompt: the class images work against the photos",
                "leave the rare word out of class_prompt",
            )
        )
    return warnings


def translation_warnings(translation: Sequence[Translated]) -> list[Warned]:
    """About keys of SimpleTuner's files that were meant to change the model and do not."""
    lost = [f"{row.key} of {row.where}" for row in translation if row.is_warned]
    if not lost:
        return []
    return [Warned(f"without effect: {', '.join(lost)}", "the reasons stand under Translation")]


def _names(placements: Sequence[Placement]) -> str:
    names = [placed.photo.path.name for placed in placements]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
