"""Twenty steps by a plain loop over diffusers' own parts, which encodes anew at every step, and ours: equal losses.

What the reference scripts themselves say is compared in tests/benchmarks/test_reference.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import mse_loss

from remote_trainer import adapters, wire
from remote_trainer.dataset.order import BatchOrder
from remote_trainer.dataset.pictures import Picture, load_pixels, training_set
from remote_trainer.draws import draw
from tests.trainer.tiny_runs import our_losses, photo_set, tiny_job

STEPS, RATE, BATCH = 20, 1e-3, 2


@pytest.mark.parametrize(
    ("base_name", "method", "with_class"),
    [
        ("epsilon_base", "full", False),
        ("velocity_base", "full", True),
        ("velocity_base", "lora", False),
        ("epsilon_base", "lora", True),
    ],
)
def test_losses_equal_those_of_a_loop_that_caches_nothing(base_name, method, with_class, request, run_folder):
    sets = [photo_set(run_folder, "instance", 4)] + [photo_set(run_folder, "class", 3)] * with_class
    job = tiny_job(*sets, method=method, steps=STEPS, batch_size=BATCH, learning_rate=RATE, prior_loss_weight=0.7)
    base = request.getfixturevalue(base_name)
    ours = our_losses(job, run_folder, base)
    assert ours == pytest.approx(plain_losses(job, run_folder, base), abs=1e-5)
    assert len(set(ours)) == STEPS


def plain_losses(job: wire.Job, run_folder: Path, base: Path) -> list[float]:
    """As in diffusers' examples/dreambooth, from components loaded as there."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    spec, pictures = job.train, training_set(job, run_folder)
    scheduler = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae").eval()
    text_encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    unet: Any = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    unet.train()
    if spec.method == "lora":
        unet.requires_grad_(False)
        adapters.add_lora(unet, spec.lora_rank, spec.lora_rank, ("to_k", "to_q", "to_v", "to_out.0"), spec.seed)
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=1e-2, foreach=False)
    orders = [BatchOrder([(0,)] * len(role), BATCH, spec.seed, label)
              for role, label in ((pictures.instance, "instance"), (pictures.class_, "class")) if role]  # fmt: skip
    losses = []
    for step in range(1, STEPS + 1):
        roles: list[tuple[tuple[Picture, ...], BatchOrder]] = list(
            zip((pictures.instance, pictures.class_), orders, strict=False)
        )
        batch = [role[index] for role, order in roles for index in order.batch(step - 1)]
        drawn = draw(spec.seed, step, 0, 0, len(batch), (4, 16, 16), scheduler.config.num_train_timesteps)
        with torch.no_grad():
            posterior = vae.encode(torch.stack([load_pixels(picture) for picture in batch])).latent_dist
            latents = (posterior.mean + posterior.std * drawn.posterior_noise) * vae.config.scaling_factor
            tokens = tokenizer(
                [picture.caption for picture in batch], padding="max_length", truncation=True, return_tensors="pt"
            )
            states = text_encoder(tokens.input_ids)[0]
        noisy = scheduler.add_noise(latents, drawn.noise, drawn.timesteps)
        predicted = unet(noisy, drawn.timesteps, states, return_dict=False)[0]
        velocity = scheduler.config.prediction_type == "v_prediction"
        wanted = scheduler.get_velocity(latents, drawn.noise, drawn.timesteps) if velocity else drawn.noise
        loss = mse_loss(predicted[:BATCH], wanted[:BATCH])
        if pictures.class_:
            loss = loss + spec.prior_loss_weight * mse_loss(predicted[BATCH:], wanted[BATCH:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses
