"""The objective, checked against diffusers' schedulers and training functions."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_snr

from remote_trainer import objective, wire
from remote_trainer.draws import draw, generator, is_dropped
from remote_trainer.wire import best_checkpoint, best_step

TIMESTEPS = torch.tensor([0, 1, 250, 999])


@pytest.fixture
def scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


@pytest.fixture
def clean_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return torch.randn(4, 4, 8, 8, generator=source), torch.randn(4, 4, 8, 8, generator=source)


@pytest.fixture
def epsilon(scheduler) -> objective.NoiseSchedule:
    return objective.diffusion_schedule("epsilon", scheduler.alphas_cumprod)


@pytest.fixture
def velocity(scheduler) -> objective.NoiseSchedule:
    return objective.diffusion_schedule("v_prediction", scheduler.alphas_cumprod)


def test_noised_latents_are_those_of_the_scheduler(scheduler, epsilon, clean_and_noise):
    ours = objective.add_noise(*clean_and_noise, TIMESTEPS, epsilon)
    assert torch.equal(ours, scheduler.add_noise(*clean_and_noise, TIMESTEPS))


def test_velocity_targets_are_those_of_the_scheduler(scheduler, velocity, clean_and_noise):
    ours = objective.target(*clean_and_noise, TIMESTEPS, velocity)
    assert torch.equal(ours, scheduler.get_velocity(*clean_and_noise, TIMESTEPS))


def test_epsilon_targets_are_the_noise(epsilon, clean_and_noise):
    clean, noise = clean_and_noise
    assert objective.target(clean, noise, TIMESTEPS, epsilon) is noise


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_is_noised_as_by_the_scheduler_of_diffusers(shift, clean_and_noise):
    scheduler, flow = FlowMatchEulerDiscreteScheduler(shift=shift), objective.flow_schedule(1000, shift)
    ours = objective.add_noise(*clean_and_noise, TIMESTEPS, flow)
    clean, noise = clean_and_noise
    # The scheduler counts from the most noise to the least.
    torch.testing.assert_close(flow.told[TIMESTEPS], scheduler.timesteps[999 - TIMESTEPS])
    theirs = scheduler.scale_noise(clean, scheduler.timesteps[999 - TIMESTEPS], noise)
    torch.testing.assert_close(ours, theirs)


def test_a_flow_s_target_leads_from_the_picture_to_the_noise(clean_and_noise):
    clean, noise = clean_and_noise
    wanted = objective.target(clean, noise, TIMESTEPS, objective.flow_schedule(1000, 3.0))
    assert torch.equal(wanted, noise - clean)


@pytest.mark.parametrize(
    ("density", "middle"),
    [
        ("uniform", 0.5),
        ("logit-normal", 0.728),  # P(|z| < ln 3) of a standard normal
        ("mode", 0.733),  # f(0.1336) = 0.75, and f(1 - u) = 1 - f(u)
        ("cosmap", 0.590),  # 2/π · (arctan 3 - arctan 1/3)
    ],
)
def test_so_many_noise_levels_of_a_flow_are_of_the_middle(density, middle):
    chosen = torch.stack([objective.chosen_timestep(density, 1000, generator("t", n)) for n in range(2000)])
    assert chosen.min() >= 0
    assert chosen.max() <= 999
    assert ((chosen >= 250) & (chosen < 750)).float().mean().item() == pytest.approx(middle, abs=0.04)


def test_the_mode_density_is_that_of_diffusers():
    ours = torch.stack([objective.chosen_timestep("mode", 1000, generator("t", n)) for n in range(2000)]) / 1000
    torch.manual_seed(0)
    theirs = compute_density_for_timestep_sampling("mode", 20_000, mode_scale=1.29)
    levels = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(ours.quantile(levels), theirs.quantile(levels), atol=0.04, rtol=0)


def test_signal_to_noise_is_that_of_diffusers(scheduler, epsilon):
    ours = objective.signal_to_noise(TIMESTEPS, epsilon)
    torch.testing.assert_close(ours, compute_snr(scheduler, TIMESTEPS))


def test_min_snr_weights_for_epsilon_divide_by_the_ratio():
    weights = objective.min_snr_weights("epsilon", torch.tensor([0.5, 5.0, 50.0]), gamma=5.0)
    assert weights.tolist() == pytest.approx([1.0, 1.0, 0.1])


def test_min_snr_weights_for_velocity_divide_by_the_ratio_plus_one():
    weights = objective.min_snr_weights("v_prediction", torch.tensor([0.5, 5.0, 50.0]), gamma=5.0)
    assert weights.tolist() == pytest.approx([0.5 / 1.5, 5 / 6, 5 / 51])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_min_snr_weights_are_finite_where_there_is_no_signal(prediction):
    assert objective.min_snr_weights(prediction, torch.tensor([0.0]), gamma=5.0).isfinite().all()


def test_min_snr_weighs_the_same_error_of_clean_latents_alike(epsilon, velocity, clean_and_noise):
    """One wrong guess of x_0, in the terms of each prediction, costs min(SNR, γ) times its square (§3.4 there)."""
    clean, noise = clean_and_noise
    timesteps = torch.tensor([100, 300, 600, 900])
    for schedule in (epsilon, velocity, objective.flow_schedule(1000, 1.0)):
        snr = objective.signal_to_noise(timesteps, schedule)
        noisy = objective.add_noise(clean, noise, timesteps, schedule)
        guess = clean + 0.1
        signal, sigma = (each[timesteps].view(-1, 1, 1, 1) for each in (schedule.signal, schedule.sigma))
        guessed = objective.target(guess, (noisy - signal * guess) / sigma, timesteps, schedule)
        wanted = objective.target(clean, noise, timesteps, schedule)
        weights = objective.min_snr_weights(schedule.prediction, snr, gamma=5.0)
        losses = objective.sample_losses(guessed, wanted, weights)
        torch.testing.assert_close(losses, 0.01 * snr.clamp(max=5.0), rtol=1e-3, atol=1e-6)


def test_prior_preservation_adds_the_weighted_mean_of_the_class_losses():
    loss = objective.batch_loss(torch.tensor([1.0, 3.0]), torch.tensor([10.0, 20.0, 30.0]), prior_loss_weight=0.5)
    assert loss.item() == pytest.approx(2.0 + 0.5 * 20.0)


def test_latents_follow_the_posterior():
    mean, std, noise = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([-2.0])
    assert objective.latents_from_moments(mean, std, noise).item() == 0.0


def test_draws_of_a_sample_do_not_depend_on_the_batch_it_is_in():
    alone = draw(42, step=3, micro_step=1, first_index=2, batch_size=1, shape=(4, 8, 8), timesteps=1000)
    among = draw(42, step=3, micro_step=1, first_index=0, batch_size=4, shape=(4, 8, 8), timesteps=1000)
    assert torch.equal(alone.noise[0], among.noise[2])
    assert torch.equal(alone.posterior_noise[0], among.posterior_noise[2])
    assert alone.timesteps[0] == among.timesteps[2]


@pytest.mark.parametrize("other", [{"seed": 43}, {"step": 4}, {"micro_step": 2}, {"first_index": 3}])
def test_draws_differ_when_any_part_of_their_key_differs(other):
    key = {"seed": 42, "step": 3, "micro_step": 1, "first_index": 2}
    one, two = (draw(**k, batch_size=1, shape=(4, 8, 8), timesteps=1000) for k in (key, {**key, **other}))
    assert not torch.equal(one.noise, two.noise)
    assert not torch.equal(one.noise, one.posterior_noise)


@pytest.mark.parametrize("prediction", ["v_prediction", "flow"])
def test_debiased_weights_cost_an_error_of_clean_latents_the_same_however_it_is_told(prediction):
    """An error of x_0 is √SNR times as large in ε, and 1/σ times in v (signal² + σ² = 1) and in a flow (signal + σ)."""
    snr = torch.tensor([0.02, 0.5, 3.0, 40.0])
    sigma_squared = 1 / (snr + 1) if prediction == "v_prediction" else (1 / (1 + snr.sqrt())).square()
    as_epsilon = objective.debiased_weights("epsilon", snr) * snr
    torch.testing.assert_close(objective.debiased_weights(prediction, snr) / sigma_squared, as_epsilon)


def test_debiased_weights_of_epsilon_are_the_paper_s():
    assert objective.debiased_weights("epsilon", torch.tensor([4.0, 0.25, 0.0])).tolist() == [0.5, 2.0, 1000.0]


def test_offset_noise_moves_whole_channels_and_nothing_else():
    key = {"seed": 1, "step": 1, "micro_step": 0, "first_index": 0, "batch_size": 2, "shape": (4, 8, 8)}
    plain, moved = draw(**key, timesteps=1000), draw(**key, timesteps=1000, noise_offset=0.1)
    offsets = moved.noise - plain.noise
    torch.testing.assert_close(offsets, offsets[:, :, :1, :1].expand_as(offsets), atol=1e-6, rtol=0)
    assert len({round(float(value), 6) for value in offsets[:, :, 0, 0].flatten()}) == 8
    assert torch.equal(moved.timesteps, plain.timesteps)
    assert torch.equal(moved.posterior_noise, plain.posterior_noise)


def test_captions_are_dropped_for_their_share_of_samples():
    dropped = [is_dropped(0.25, 7, step, 0, index) for step in range(100) for index in range(4)]
    assert 70 < sum(dropped) < 130
    assert not any(is_dropped(0.0, 7, step, 0, 0) for step in range(50))
    assert all(is_dropped(1.0, 7, step, 0, 0) for step in range(50))


def test_the_best_step_has_the_lowest_loss_and_of_equals_is_the_earliest():
    losses = {0: 0.9, 100: 0.4, 200: 0.4, 300: 0.5}
    assert best_step([wire.Evaluated(step, loss) for step, loss in losses.items()]) == 100
    assert best_step([]) == 0


def test_the_best_checkpoint_was_trained_even_where_the_base_was_better():
    losses = {0: 0.1, 100: 0.5, 200: 0.4}
    assert best_checkpoint([wire.Evaluated(step, loss) for step, loss in losses.items()]) == 200
    assert best_checkpoint([wire.Evaluated(0, 0.1)]) == 0
