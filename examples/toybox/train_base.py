"""Trains the Toybox base from nothing: autoencoder and text encoder, then the denoiser on what they encode.

    python train_base.py WORK_FOLDER

About an hour and a quarter on one CPU core. SIGTERM or Ctrl-C stops it at the next step; the same command goes on
from there.
`WORK_FOLDER/base` is then a diffusers folder in float16, as `builtin:toybox` ships it.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import autoencoder
import captions
import denoiser
import resumable
import world
from remote_trainer.bases import shipped

STAGES = ("autoencoder", "text-encoder", "denoiser", "base")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="states of the stages, latents, and at the end the base itself")
    parser.add_argument("--only", choices=STAGES, help="this stage alone; the first two do not need each other")
    parser.add_argument("--autoencoder-steps", type=int, default=6000)
    parser.add_argument("--text-encoder-steps", type=int, default=600)
    parser.add_argument("--denoiser-steps", type=int, default=3500)
    parser.add_argument(
        "--release", action="store_true", help="at the end, make it the `builtin:toybox` of this package"
    )
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    wanted = (arguments.only,) if arguments.only else STAGES
    try:
        if "autoencoder" in wanted:
            train_autoencoder(folder, arguments.autoencoder_steps)
        if "text-encoder" in wanted:
            train_text_encoder(folder, arguments.text_encoder_steps)
        if "denoiser" in wanted:
            train_denoiser(folder, arguments.denoiser_steps)
        if "base" in wanted:
            write_base(folder)
        if arguments.release:
            release(folder)
    except resumable.Stopped as stopped:
        sys.exit(str(stopped))


def train_autoencoder(folder: Path, steps: int) -> None:
    torch.manual_seed(0)
    vae = autoencoder.build().to(memory_format=torch.channels_last)
    resumable.train(
        vae,
        lambda step: autoencoder.loss_of_step(vae, step),
        resumable.Schedule(steps, peak=2e-3),
        folder / "autoencoder.pt",
    )


def train_text_encoder(folder: Path, steps: int) -> None:
    torch.manual_seed(0)
    tokenizer = captions.make_tokenizer(folder / "tokenizer")
    encoder, meaning = captions.build(tokenizer), captions.Meaning(tokenizer)
    resumable.train(
        encoder,
        lambda step: captions.loss_of_step(encoder, meaning, step),
        resumable.Schedule(steps, peak=2e-3),
        folder / "text-encoder.pt",
    )


def train_denoiser(folder: Path, steps: int) -> None:
    encoded = _encoded_world(folder)
    schedule = denoiser.noise_schedule()
    torch.manual_seed(0)
    unet = denoiser.build().to(memory_format=torch.channels_last)
    resumable.train(
        unet,
        lambda step: denoiser.loss_of_step(unet, encoded, schedule, step),
        resumable.Schedule(steps, peak=1.5e-3, warmup_steps=300),
        folder / "denoiser.pt",
        average=copy.deepcopy(unet).requires_grad_(False),
    )


def _encoded_world(folder: Path) -> denoiser.Encoded:
    """From `folder/encoded.pt`, which is made when it is not there. It belongs to the first two stages as they were."""
    file = folder / "encoded.pt"
    if not file.exists():
        encoded = denoiser.encode_world(trained_autoencoder(folder), *trained_text_encoder(folder))
        torch.save(dataclasses.asdict(encoded), file.with_suffix(".part"))
        os.replace(file.with_suffix(".part"), file)
    return denoiser.Encoded(**torch.load(file, weights_only=True))


def trained_autoencoder(folder: Path) -> Any:
    """With normalized latents. Loads the state of the stage, finished or not."""
    vae = autoencoder.build()
    vae.load_state_dict(torch.load(folder / "autoencoder.pt", weights_only=True)["model"])
    vae.requires_grad_(False).eval()
    autoencoder.normalize_latents(vae, _pixels(range(500)))
    return vae


def trained_text_encoder(folder: Path) -> tuple[Any, Any]:
    """The encoder and its tokenizer."""
    tokenizer = captions.make_tokenizer(folder / "tokenizer")
    encoder = captions.build(tokenizer)
    encoder.load_state_dict(torch.load(folder / "text-encoder.pt", weights_only=True)["model"])
    return encoder.requires_grad_(False).eval(), tokenizer


def write_base(folder: Path) -> None:
    """`folder/base`, from the moving average of the denoiser's weights."""
    from diffusers import StableDiffusionPipeline

    encoder, tokenizer = trained_text_encoder(folder)
    unet = denoiser.build()
    unet.load_state_dict(torch.load(folder / "denoiser.pt", weights_only=True)["average"])
    StableDiffusionPipeline(
        vae=trained_autoencoder(folder),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=denoiser.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16).save_pretrained(folder / "base")
    _name_as_everybody_does(folder / "base" / "text_encoder" / "model.safetensors")
    captions.make_tokenizer(folder / "base" / "tokenizer")  # vocab.json and merges.txt, which newer versions leave out
    shutil.copyfile(Path(__file__).with_name("model-card.md"), folder / "base" / "README.md")


def _name_as_everybody_does(text_encoder: Path) -> None:
    """transformers 5.6 and later leave out the outermost name, which older versions and other programs expect."""
    from safetensors.torch import load_file, save_file

    tensors = {
        f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(text_encoder).items()
    }
    save_file(tensors, text_encoder, metadata={"format": "pt"})


def release(folder: Path) -> None:
    """Puts `folder/base` into the package, in place of what is there, and pins its hash."""
    target = shipped.WEIGHTS / "toybox"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / "base", target)
    (shipped.WEIGHTS / "toybox.sha256").write_text(shipped.content_sha256(target) + "\n")


def _pixels(indices: range) -> Tensor:
    """(N, 3, 64, 64) in [-1, 1]."""
    drawn = np.stack([world.draw(world.scene_at(0, index)).pixels for index in indices])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1.0


if __name__ == "__main__":
    main()
