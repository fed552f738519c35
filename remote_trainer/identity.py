"""What the weights of a checkpoint belong to: a run with other settings or other pictures must not go on from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from . import wire
from .wire import DatasetSpec, Job


def identity_of(job: Job) -> str:
    """Words of the form `what=value`, one space between; two jobs have the same where one can go on as the other.

    Of each set of pictures eight digits stand for all that is in it: pictures, captions, sizes, masks, share, and where
    class images come from. Where its files lie does not count.
    """
    return " ".join(_words(job))


def difference(found: str, job: Job) -> str:
    """What the identity `found` says otherwise than the job's, in words for a person; empty when nothing."""
    theirs, ours = found.split(" "), identity_of(job).split(" ")
    made_with = [word for word in theirs if word not in ours]
    asked_for = [word for word in ours if word not in theirs]
    if not made_with and not asked_for:
        return ""
    return f"made with {', '.join(made_with) or 'nothing'}, asked for {', '.join(asked_for) or 'nothing'} instead"


def _words(job: Job) -> Iterator[str]:
    spec = job.train
    yield f"base={job.base}"
    yield f"method={spec.method}"
    if spec.method != "full":
        yield f"rank={spec.lora_rank}"
        yield f"alpha={spec.lora_alpha or spec.lora_rank:g}"
    if spec.lora_targets:
        yield f"targets={','.join(spec.lora_targets)}"
    if spec.text_encoder_learning_rate is not None:
        yield "text-encoders"
    yield f"seed={spec.seed}"
    if spec.optimizer != "adamw":
        yield f"optimizer={spec.optimizer}"
    if spec.ema_decay is not None:
        yield f"ema={spec.ema_decay:g}"
    for dataset in job.datasets:
        yield f"pictures[{dataset.id}]={_digest(dataset)}"


def _digest(dataset: DatasetSpec) -> str:
    images = tuple(replace(image, file="", described=None) for image in dataset.images)
    return hashlib.sha256(wire.dumps(replace(dataset, folder="", images=images))).hexdigest()[:8]
