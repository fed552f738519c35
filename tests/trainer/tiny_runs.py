"""Runs small enough for a unit test: a random Stable Diffusion of 0.1 M parameters, drawn photographs, a few steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from remote_trainer import wire
from remote_trainer.draws import generator
from remote_trainer.thrift import Thrift
from remote_trainer.train import Outcome, train

SIDE = 32
PROMPT, CLASS_PROMPT = "a photo of sks dog", "a photo of a dog"


def build_base(folder: Path, prediction: str) -> Path:
    """A diffusers folder with 4-channel latents at half the size, and random weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_tokenizer(folder / "tokenizer")
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=16)
        text = CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, projection_dim=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        StableDiffusionPipeline(
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
                sample_size=SIDE,
            ),
            text_encoder=CLIPTextModel(text),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=SIDE // 2, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4,
                block_out_channels=(16, 32), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=2,
            ),
            scheduler=DDIMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction,
                clip_sample=False, set_alpha_to_one=False, steps_offset=1,
            ),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).save_pretrained(folder)  # fmt: skip
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-pair vocabulary in CLIP's file format that knows letters and nothing more."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,."
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def write_photo(path: Path, number: int, width: int = SIDE, height: int = SIDE) -> None:
    """A gradient and a disc, different for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = torch.rand((6,), generator=generator("photo", number))
    ys, xs = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    disc = ((xs - noise[0]) ** 2 + (ys - noise[1]) ** 2 < 0.08).float()
    channels = torch.stack([xs * noise[2], ys * noise[3], disc * noise[4]], dim=-1)
    Image.fromarray((channels * 255).to(torch.uint8).numpy()).save(path)


def photo_set(
    run_folder: Path, role: Any, count: int, sizes: tuple[tuple[int, int], ...] = ((SIDE, SIDE),), generate: int = 0
) -> wire.DatasetSpec:
    """`count` photographs under `<run>/<role>`, taking the sizes in turn."""
    images = []
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        path = run_folder / role / f"{number}.png"
        write_photo(path, number + (100 if role == "class" else 0), width, height)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        images.append(wire.ImageSpec(path.name, digest, width, height))
    prompt = PROMPT if role == "instance" else CLASS_PROMPT
    return wire.DatasetSpec(role, role, role, prompt, tuple(images), generate)


def tiny_job(
    *datasets: wire.DatasetSpec, formats: tuple[wire.ExportFormat, ...] = ("diffusers",), **settings: Any
) -> wire.Job:
    """Without checkpoints before the end and without pictures, unless `settings` say otherwise."""
    defaults: dict[str, Any] = {
        "method": "full", "steps": 7, "resolution": 64, "learning_rate": 1e-3, "checkpoint_every": 1000, "lora_rank": 4,
        "validation_inference_steps": 2, "validation_guidance_scale": 1.0, "cpu_threads": 1,
    }  # fmt: skip
    spec = wire.TrainSpec(**{**defaults, **settings})
    return wire.Job("run-1", "my-dog", "builtin:test", spec, datasets, formats, allow_cpu=True)


@dataclass
class Watched:
    """Collects events; asks for a stop after `stop_after` steps of this process, or when told to."""

    stop_after: int | None = None
    stop_when: Callable[[wire.Event], bool] = lambda _: False
    events: list[wire.Event] = field(default_factory=list)
    _polls_in_loop: int = -1
    _told: bool = False

    def emit(self, event: wire.Event) -> None:
        self.events.append(event)
        self._told = self._told or self.stop_when(event)
        if isinstance(event, wire.PhaseStarted) and event.name == "train" and self._polls_in_loop < 0:
            self._polls_in_loop = 0

    def should_stop(self) -> bool:
        """The loop polls once before each step."""
        if self._told:
            return True
        if self.stop_after is None or self._polls_in_loop < 0:
            return False
        self._polls_in_loop += 1
        self._told = self._polls_in_loop > self.stop_after
        return self._told

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def train(self, job: wire.Job, run_folder: Path, base: Path) -> Outcome:
        return train(job, run_folder, str(base), self.emit, self.should_stop)


def final_weights(run_folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run_folder / "output/diffusers/unet/diffusion_pytorch_model.safetensors")


def our_losses(job: wire.Job, run_folder: Path, base: Path, thrift: Thrift | None = None) -> list[float]:
    """The loss of every step, by the recipe's own parts: a run reports only some of them."""
    from remote_trainer import adapters
    from remote_trainer.dataset.pictures import training_set
    from remote_trainer.denoising import Denoising
    from remote_trainer.descent import Descent
    from remote_trainer.encoded import encode_prompts, encode_sets
    from remote_trainer.families.detect import open_base
    from remote_trainer.micro_batch import MicroBatches
    from remote_trainer.optimizers import build_optimizer, learning_rate

    spec, family, cpu = job.train, open_base(str(base)), torch.device("cpu")
    sets = training_set(job, run_folder).sets
    captions = [picture.caption for each in sets for picture in each.pictures]
    prompts = encode_prompts(family, [*captions, ""], cpu, lambda _: None)
    denoising = Denoising(family, family.load_denoiser(cpu), cpu, "fp32")
    trained = adapters.Trained(denoising.model, {})
    adapters.make_trainable(spec, family, trained)
    parameters = trained.parameters()
    optimizer = build_optimizer(parameters.values(), spec)
    encoded = encode_sets(family, sets, spec.seed, cpu, lambda: False)
    batches = MicroBatches(spec, denoising, encoded, prompts)
    descent = Descent(spec, denoising, batches, parameters, optimizer)
    descent.economize(thrift or Thrift())
    rate = spec.learning_rate or 1e-3
    return [descent.step(step, learning_rate(step, spec, rate))[0].item() for step in range(1, spec.steps + 1)]
