"""What one training step minimizes, as pure functions of tensors.

Notation: ᾱ_t = `alphas_cumprod[t]`, x_0 clean latents, ε standard normal noise,
x_t = √ᾱ_t·x_0 + √(1-ᾱ_t)·ε (Ho et al. 2020, arXiv 2006.11239, eq. 4). Everything is computed in float32.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]
"""What the denoiser answers: the noise, or the velocity of Salimans & Ho 2022 (arXiv 2202.00512)."""


def latents_from_moments(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """A draw from the autoencoder's posterior (Kingma & Welling 2014).

    mean, std, noise and the result: (B, C, h, w), already in the denoiser's scale.
    """
    return mean + std * noise


def add_noise(clean: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t. clean, noise: (B, C, h, w); timesteps: (B,) integers; alphas_cumprod: (T,). Returns (B, C, h, w)."""
    signal, sigma = _scales(timesteps, alphas_cumprod)
    return signal * clean + sigma * noise


def target(prediction: Prediction, clean: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """What the denoiser should answer for x_t: ε, or v = √ᾱ_t·ε - √(1-ᾱ_t)·x_0. Shapes as in `add_noise`."""
    if prediction == "epsilon":
        return noise
    if prediction == "v_prediction":
        signal, sigma = _scales(timesteps, alphas_cumprod)
        return signal * noise - sigma * clean
    assert_never(prediction)


def signal_to_noise(timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """SNR(t) = ᾱ_t / (1-ᾱ_t), shape (B,); zero at the last step of a zero-terminal-SNR schedule."""
    alphas = alphas_cumprod[timesteps].float()
    return alphas / (1.0 - alphas)


def min_snr_weights(prediction: Prediction, snr: Tensor, gamma: float) -> Tensor:
    """Weights (B,) that make the loss on x_0 be weighted by min(SNR, γ) (Hang et al. 2023, arXiv 2303.09556, §3.4).

    min(SNR, γ)/SNR for ε, min(SNR, γ)/(SNR+1) for v. The first is written min(1, γ/SNR), which holds at SNR = 0.
    """
    if prediction == "epsilon":
        return (gamma / snr).clamp(max=1.0)
    if prediction == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1.0)
    assert_never(prediction)


def sample_losses(predicted: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample, times its weight. predicted, wanted: (B, C, h, w); result: (B,)."""
    losses = (predicted.float() - wanted.float()).square().flatten(1).mean(1)
    return losses if weights is None else losses * weights


def batch_loss(instance: Tensor, class_: Tensor | None, prior_loss_weight: float) -> Tensor:
    """L = mean(instance) + λ·mean(class), a scalar (Ruiz et al. 2023, arXiv 2208.12242, eq. 2).

    instance: (B,) and class_: (B',) losses of single samples; class_ is None without class images. Both means are
    taken over their own samples, so that λ does not depend on the batch sizes.
    """
    if class_ is None:
        return instance.mean()
    return instance.mean() + prior_loss_weight * class_.mean()


def _scales(timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """(√ᾱ_t, √(1-ᾱ_t)), each (B, 1, 1, 1)."""
    alphas = alphas_cumprod[timesteps].float().view(-1, 1, 1, 1)
    return torch.sqrt(alphas), torch.sqrt(1.0 - alphas)
