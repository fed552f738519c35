"""What one training step minimizes, as pure functions of tensors.

Notation: x_0 clean latents, ε standard normal noise, x_t = signal_t·x_0 + σ_t·ε. Diffusion has signal = √ᾱ_t and
σ = √(1-ᾱ_t) (Ho et al. 2020, arXiv 2006.11239, eq. 4), rectified flow signal = 1-σ_t (Esser et al. 2024, arXiv
2403.03206, eq. 13). Everything is computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, assert_never

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "flow"]
"""What the denoiser answers: the noise, the velocity of Salimans & Ho 2022 (arXiv 2202.00512), or that of a flow."""
Density = Literal["uniform", "logit-normal", "mode", "cosmap"]
_MODE_SCALE = 1.29
"""s of the mode density: the best of those that the paper tried (arXiv 2403.03206, table 1)."""


@dataclass(frozen=True)
class NoiseSchedule:
    """The process a base was trained with, at places t = 0 … T-1 from little noise to much."""

    prediction: Prediction
    signal: Tensor
    """(T,), float32."""
    sigma: Tensor
    """(T,), float32."""
    told: Tensor
    """(T,): the timestep as the denoiser is told it: t itself, or 1000·σ_t of a flow."""

    def __len__(self) -> int:
        return len(self.sigma)

    def to(self, device: torch.device) -> NoiseSchedule:
        return replace(self, signal=self.signal.to(device), sigma=self.sigma.to(device), told=self.told.to(device))


def diffusion_schedule(prediction: Literal["epsilon", "v_prediction"], alphas_cumprod: Tensor) -> NoiseSchedule:
    """alphas_cumprod: ᾱ, (T,)."""
    alphas = alphas_cumprod.float()
    return NoiseSchedule(prediction, torch.sqrt(alphas), torch.sqrt(1.0 - alphas), torch.arange(len(alphas)))


def flow_schedule(timesteps: int, shift: float) -> NoiseSchedule:
    """σ evenly spaced in (0, 1], then moved towards noise: s·σ/(1 + (s-1)·σ) (arXiv 2403.03206, eq. 23).

    timesteps: T; shift: s, 1 moves nothing. Pictures of n times as many pixels need about √n times the shift.
    """
    even = torch.arange(1, timesteps + 1, dtype=torch.float32) / timesteps
    sigma = shift * even / (1.0 + (shift - 1.0) * even)
    return NoiseSchedule("flow", 1.0 - sigma, sigma, sigma * timesteps)


def chosen_timestep(density: Density, timesteps: int, source: torch.Generator) -> Tensor:
    """One place t in 0 … T-1, a scalar int64: uniform, or by a density of arXiv 2403.03206, section 3.1; u uniform, z
    standard normal. logit-normal favors the middle, t/T = 1/(1 + e^-z); mode does and leaves more at both ends,
    t/T = 1 - u - s·(cos²(πu/2) - 1 + u); cosmap gives each level of log-SNR what a cosine schedule gives it,
    t/T = 1 - 1/(tan(πu/2) + 1).
    """
    if density == "uniform":
        return torch.randint(timesteps, (), generator=source)
    if density == "logit-normal":
        place = torch.sigmoid(torch.randn((), generator=source))
    elif density == "mode":
        u = torch.rand((), generator=source)
        place = 1.0 - u - _MODE_SCALE * (torch.cos(u * (torch.pi / 2)).square() - 1.0 + u)
    elif density == "cosmap":
        place = 1.0 - 1.0 / (torch.tan(torch.rand((), generator=source) * (torch.pi / 2)) + 1.0)
    else:
        assert_never(density)
    return (place * timesteps).long().clamp(0, timesteps - 1)


def latents_from_moments(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """A draw from the autoencoder's posterior (Kingma & Welling 2014).

    mean, std, noise and the result: (B, C, h, w), already in the denoiser's scale.
    """
    return mean + std * noise


def add_noise(clean: Tensor, noise: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """x_t. clean, noise: (B, C, h, w); timesteps: (B,) places in the schedule. Returns (B, C, h, w)."""
    signal, sigma = _scales(timesteps, schedule)
    return signal * clean + sigma * noise


def target(clean: Tensor, noise: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """What the denoiser should answer for x_t: ε, v = √ᾱ_t·ε - √(1-ᾱ_t)·x_0, or a flow's dx_t/dσ = ε - x_0.

    Shapes as in `add_noise`.
    """
    if schedule.prediction == "epsilon":
        return noise
    if schedule.prediction == "v_prediction":
        signal, sigma = _scales(timesteps, schedule)
        return signal * noise - sigma * clean
    if schedule.prediction == "flow":
        return noise - clean
    assert_never(schedule.prediction)


def signal_to_noise(timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """SNR(t) = (signal_t/σ_t)², shape (B,); zero at the last step of a zero-terminal-SNR schedule and of a flow."""
    return (schedule.signal[timesteps] / schedule.sigma[timesteps]).square()


def min_snr_weights(prediction: Prediction, snr: Tensor, gamma: float) -> Tensor:
    """Weights (B,) that make the loss on x_0 be weighted by min(SNR, γ) (Hang et al. 2023, arXiv 2303.09556, §3.4).

    min(SNR, γ)/SNR for ε, min(SNR, γ)/(SNR+1) for v. The first is written min(1, γ/SNR), which holds at SNR = 0. A
    flow's error is that of x_0 over σ = 1/(1+√SNR), hence min(SNR, γ)/(1+√SNR)².
    """
    if prediction == "epsilon":
        return (gamma / snr).clamp(max=1.0)
    if prediction == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1.0)
    if prediction == "flow":
        return snr.clamp(max=gamma) / (1.0 + snr.sqrt()).square()
    assert_never(prediction)


def debiased_weights(prediction: Prediction, snr: Tensor) -> Tensor:
    """Weights (B,) that make an error of ε cost 1/√SNR (Yu et al. 2023, arXiv 2310.08442, eq. 11), however it is told.

    An error of x_0 is √SNR times as large in ε, √(SNR+1) times in v and 1+√SNR times in a flow's answer; hence 1/√SNR,
    √SNR/(SNR+1) and √SNR/(1+√SNR)². The first grows without bound towards SNR = 0, and is kept below 1000.
    """
    if prediction == "epsilon":
        return snr.rsqrt().clamp(max=1000.0)
    if prediction == "v_prediction":
        return snr.sqrt() / (snr + 1.0)
    if prediction == "flow":
        return snr.sqrt() / (1.0 + snr.sqrt()).square()
    assert_never(prediction)


def sample_losses(
    predicted: Tensor, wanted: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Mean squared error of each sample, times its weight. predicted, wanted: (B, C, h, w); result: (B,).

    mask: (B, 1, h, w) in 0…1, the weight of each place in the mean; a small subject thus counts as much as one that
    fills its picture. A sample whose mask is empty has the loss 0.
    """
    squares = (predicted.float() - wanted.float()).square()
    if mask is None:
        losses = squares.flatten(1).mean(1)
    else:
        counts = mask.expand_as(squares).flatten(1).sum(1).clamp(min=1e-6)
        losses = (squares * mask).flatten(1).sum(1) / counts
    return losses if weights is None else losses * weights


def batch_loss(instance: Tensor, class_: Tensor | None, prior_loss_weight: float) -> Tensor:
    """L = mean(instance) + λ·mean(class), a scalar (Ruiz et al. 2023, arXiv 2208.12242, eq. 2).

    instance: (B,) and class_: (B',) losses of single samples; class_ is None without class images. Both means are
    taken over their own samples, so that λ does not depend on the batch sizes.
    """
    if class_ is None:
        return instance.mean()
    return instance.mean() + prior_loss_weight * class_.mean()


def _scales(timesteps: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """(signal_t, σ_t), each (B, 1, 1, 1)."""
    return schedule.signal[timesteps].view(-1, 1, 1, 1), schedule.sigma[timesteps].view(-1, 1, 1, 1)
