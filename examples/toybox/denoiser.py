"""The denoiser of the Toybox base, its noise schedule, and what it learns from: latents and texts encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import captions
import world
from autoencoder import LATENT_CHANNELS
from remote_trainer.objective import NoiseSchedule, add_noise, diffusion_schedule, latents_from_moments, target

BATCH = 32
PICTURES = 16_000
CAPTIONS_EACH = 2
_SEED = 73
_EMPTY_SHARE = 0.1
"""Of captions replaced by the empty one: what guidance needs."""
_MASK_WEIGHT = 3.0
"""Added to the weight of latents under the thing. Backgrounds are learned in minutes, shapes are not."""
_MIDDLE = (250, 850)
"""Half of the timesteps come from here: where a shape emerges from noise."""


def build() -> Any:
    """UNet2DConditionModel of 4.5 M parameters: latents (B, 4, 16, 16), timesteps (B,), texts (B, 77, 128) → v."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=world.SIDE // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(48, 96, 112),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=captions.WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def scheduler() -> Any:
    """v-prediction down to pure noise (Lin et al. 2023, arXiv 2305.08891): else night could never be dark enough."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=True,
    )


@dataclass(frozen=True)
class Encoded:
    """The training set. Pictures are rows; caption row 0 is the empty caption."""

    mean: Tensor
    """(N, 4, 16, 16), as std in float16."""
    std: Tensor
    mask: Tensor
    """(N, 1, 16, 16): the share of each latent's pixels that show the thing."""
    texts: Tensor
    """(M, 77, 128), float16: every distinct caption once."""
    caption_rows: Tensor
    """(N, 2): for each picture the rows of its captions in `texts`."""


@torch.no_grad()
def encode_world(vae: Any, text_encoder: Any, tokenizer: Any) -> Encoded:
    """Draws and encodes everything; takes minutes."""
    means, stds, masks, rows = [], [], [], []
    row_of: dict[str, int] = {"": 0}
    for first in range(0, PICTURES, 50):
        scenes = [world.scene_at(_SEED, index) for index in range(first, first + 50)]
        pictures = [world.draw(scene) for scene in scenes]
        pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures])).permute(0, 3, 1, 2)
        posterior = vae.encode((pixels.float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)).latent_dist
        means.append(posterior.mean.half())
        stds.append(posterior.std.half())
        shown = torch.from_numpy(np.stack([picture.mask for picture in pictures]))[:, None].float() / 255.0
        masks.append(nn.functional.avg_pool2d(shown, 4).half())
        for index, scene in enumerate(scenes, first):
            texts = [world.caption(scene, np.random.default_rng((_SEED, index, k))) for k in range(CAPTIONS_EACH)]
            rows.append([row_of.setdefault(text, len(row_of)) for text in texts])
    distinct = list(row_of)
    encoded = [
        captions.encode(text_encoder, tokenizer, distinct[k : k + 100]).half() for k in range(0, len(distinct), 100)
    ]
    return Encoded(torch.cat(means), torch.cat(stds), torch.cat(masks), torch.cat(encoded), torch.tensor(rows))


def noise_schedule() -> NoiseSchedule:
    return diffusion_schedule("v_prediction", scheduler().alphas_cumprod)


def loss_of_step(unet: Any, encoded: Encoded, schedule: NoiseSchedule, step: int) -> Tensor:
    """Squared error of v, weighted by what is under the thing; the weights of a picture average 1."""
    draw = torch.Generator().manual_seed(_SEED * 10_000_000 + step)
    rows = torch.randint(len(encoded.mean), (BATCH,), generator=draw)
    which = torch.randint(CAPTIONS_EACH, (BATCH,), generator=draw)
    emptied = torch.rand(BATCH, generator=draw) < _EMPTY_SHARE
    texts = encoded.texts[encoded.caption_rows[rows, which].masked_fill(emptied, 0)].float()
    mean, std = encoded.mean[rows].float(), encoded.std[rows].float()
    clean = latents_from_moments(mean, std, torch.randn(mean.shape, generator=draw))
    noise = torch.randn(clean.shape, generator=draw)
    anywhere = torch.randint(len(schedule), (BATCH,), generator=draw)
    in_the_middle = torch.randint(*_MIDDLE, (BATCH,), generator=draw)
    timesteps = torch.where(torch.arange(BATCH) % 2 == 0, anywhere, in_the_middle)
    noisy = add_noise(clean, noise, timesteps, schedule).contiguous(memory_format=torch.channels_last)
    wanted = target(clean, noise, timesteps, schedule)
    predicted = unet(noisy, timesteps, encoder_hidden_states=texts, return_dict=False)[0]
    weights = 1.0 + _MASK_WEIGHT * encoded.mask[rows].float()
    loss: Tensor = ((predicted - wanted).square() * weights / weights.mean((1, 2, 3), keepdim=True)).mean()
    return loss
