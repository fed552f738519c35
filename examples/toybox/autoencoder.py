"""The autoencoder of the Toybox base, and the colors it is taught to keep."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import world

LATENT_CHANNELS = 4
BATCH = 8
_REPAINTED = (1, 3)
"""Places in the batch."""
_SEED = 71
_KL_WEIGHT = 1e-3
"""On the mean over latent values. It keeps the posterior's deviation near 0.05: the decoder learns to bear about as
much error as the denoiser makes."""


def build() -> Any:
    """AutoencoderKL of 0.68 M parameters: (B, 3, H, W) in [-1, 1] ↔ (B, 4, H/4, W/4)."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=world.SIDE,
        scaling_factor=1.0,
    )


def loss_of_step(vae: Any, step: int) -> Tensor:
    """Squared error with a little absolute error, for edges, and the KL term."""
    pixels = batch(step)
    posterior = vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step))
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    error = decoded - pixels
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
    loss: Tensor = error.square().mean() + 0.1 * error.abs().mean() + _KL_WEIGHT * divergence
    return loss


def batch(step: int) -> Tensor:
    """(8, 3, 64, 64) in [-1, 1]: pictures of the world, most of them in colors that the world does not have.

    Two have stripes or dots of any color on any other, as nothing in the world. One is no picture of the world at all
    but smooth noise, so that photos of something else survive too.
    """
    pictures = []
    for index in range(BATCH):
        rng = np.random.default_rng((_SEED, step, index))
        if index == 0:
            pictures.append(_smooth_noise(rng))
            continue
        scene = world.random_scene(rng)
        if index in _REPAINTED:
            body, marks = ((red, green, blue) for red, green, blue in rng.integers(0, 256, (2, 3)).tolist())
            scene = replace(scene, pattern=("striped", "dotted")[rng.integers(2)], look=world.Look(body, marks))
        picture = world.draw(scene)
        pixels = picture.pixels.astype(np.float32) / 255.0
        if index % 2 == 0:
            where = picture.mask[..., None].astype(np.float32) / 255.0 if rng.random() < 0.5 else np.float32(1.0)
            pixels = pixels + where * (_recolored(pixels, rng) - pixels)
        pictures.append(pixels)
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) * 2.0 - 1.0
    return stacked.contiguous(memory_format=torch.channels_last)


def _recolored(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Channels permuted, hues turned by a random angle, a gamma for each channel. (H, W, 3) in [0, 1]."""
    permuted = pixels[..., rng.permutation(3)]
    angle = rng.uniform(0, 2 * math.pi)
    # A rotation about the gray axis (Rodrigues' formula); gray stays gray.
    cosine, sine = math.cos(angle), math.sin(angle) / math.sqrt(3)
    rotation = cosine * np.eye(3) + (1 - cosine) / 3 + sine * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    turned = np.clip(permuted @ rotation.T, 0.0, 1.0)
    return (turned ** np.exp(rng.uniform(-0.4, 0.4, 3))).astype(np.float32)


def _smooth_noise(rng: np.random.Generator) -> NDArray[np.float32]:
    """Random colors on grids of 2×2 to 16×16, each spread over the picture."""
    cells = int(2 ** rng.integers(1, 5))
    grid = torch.from_numpy(rng.random((1, 3, cells, cells), dtype=np.float32))
    spread = torch.nn.functional.interpolate(grid, size=(world.SIDE, world.SIDE), mode="bicubic").clamp(0, 1)
    return spread[0].permute(1, 2, 0).numpy()


@torch.no_grad()
def normalize_latents(vae: Any, pixels: Tensor) -> None:
    """Folds an affine map into the 1×1 convolutions around the latents: zero mean and unit deviation per channel.

    So `scaling_factor` is 1 and the denoiser sees what its noise schedule assumes. Decoded pictures stay as they were.
    pixels: (B, 3, H, W), the sample over which mean and deviation are taken.
    """
    latents = vae.encode(pixels).latent_dist.mean
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    halves = vae.quant_conv.weight.view(2, LATENT_CHANNELS, -1), vae.quant_conv.bias.view(2, LATENT_CHANNELS)
    halves[0][0] /= deviation[:, None]
    halves[1][0] = (halves[1][0] - mean) / deviation
    halves[1][1] -= 2.0 * deviation.log()  # the log variance shrinks with the square
    into = vae.post_quant_conv
    into.bias += torch.einsum("oi,i->o", into.weight[..., 0, 0], mean)
    into.weight *= deviation[None, :, None, None]


def peak_signal_to_noise_db(original: Tensor, decoded: Tensor) -> Tensor:
    """Of each picture: 10·log10(1/mse) for pixels in [0, 1]. original, decoded: (B, 3, H, W) in [-1, 1] → (B,)."""
    error = (original - decoded.clamp(-1.0, 1.0)) / 2.0
    return -10.0 * torch.log10(error.square().flatten(1).mean(1))
