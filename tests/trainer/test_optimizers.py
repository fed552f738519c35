"""Optimizers learn, repeat their bits when resumed, and say what they lack; learning rates follow their schedule."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from remote_trainer import checkpoint, wire
from remote_trainer.checkpoint import Frozen, RunState
from remote_trainer.ema import Ema
from remote_trainer.errors import TrainingFailed
from remote_trainer.optimizers import build_optimizer, learning_rate, set_learning_rate
from remote_trainer.stochastic_adamw import stochastically_rounded

OWN = ["adamw", "adamw-bf16", "adamw-offload", "adafactor"]


class Regression:
    """A layer that shall copy its input; every step's data follow from its number."""

    def __init__(self, name: str) -> None:
        source = torch.Generator().manual_seed(0)
        dtype = torch.bfloat16 if name == "adamw-bf16" else torch.float32
        self.layer = nn.Linear(8, 8).to(dtype)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.3)
        self.parameters = dict(self.layer.named_parameters())
        self.optimizer = build_optimizer(self.parameters.values(), wire.TrainSpec(optimizer=name))
        self.ema = Ema(self.parameters, 0.9)

    def run(self, steps: range) -> float:
        loss = torch.tensor(0.0)
        for step in steps:
            inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(step)).to(self.layer.weight.dtype)
            self.optimizer.zero_grad(set_to_none=True)
            loss = (self.layer(inputs) - inputs).float().square().mean()
            loss.backward()
            set_learning_rate(self.optimizer, 1e-2)
            self.optimizer.step()
            self.ema.update(step)
        return loss.item()


@pytest.mark.parametrize("name", OWN)
def test_it_learns(name):
    run = Regression(name)
    assert run.run(range(1, 200)) < 0.2 * Regression(name).run(range(1, 2))


@pytest.mark.parametrize("name", OWN)
def test_a_resumed_optimizer_and_average_repeat_the_bits(name, tmp_path):
    straight, broken, resumed = (Regression(name) for _ in range(3))
    straight.run(range(1, 9))
    broken.run(range(1, 5))
    state = RunState(4, "b", Frozen("fp32", 1, False, 1e-2), ())
    checkpoint.save(tmp_path, state, broken.parameters, broken.optimizer, 1, broken.ema)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    found.restore(resumed.parameters, resumed.optimizer, resumed.ema)
    resumed.run(range(5, 9))
    for parameter, value in straight.parameters.items():
        assert torch.equal(resumed.parameters[parameter], value)
        assert torch.equal(resumed.ema.averages[parameter], straight.ema.averages[parameter])


def test_moments_that_wait_on_the_host_change_no_bit():
    """On a GPU it is the same kernel too, but that cannot be tried everywhere."""
    usual, offloaded = Regression("adamw"), Regression("adamw-offload")
    for run in (usual, offloaded):
        run.run(range(1, 9))
    for name, parameter in usual.parameters.items():
        assert torch.equal(offloaded.parameters[name], parameter)
        state = offloaded.optimizer.state[offloaded.parameters[name]]
        assert torch.equal(state["exp_avg_sq"], usual.optimizer.state[parameter]["exp_avg_sq"])


@pytest.mark.parametrize("name", ["adamw-bf16", "adafactor"])
def test_what_a_resumed_optimizer_counts_is_never_asked_of_the_device(name, tmp_path):
    """Parameters without storage stand in for those on a GPU: nothing can be read back from them."""
    trained = Regression(name)
    trained.run(range(1, 4))
    checkpoint.save(
        tmp_path, RunState(3, "b", Frozen("fp32", 1, False, 1e-2), ()), trained.parameters, trained.optimizer, 1
    )
    found = checkpoint.newest(tmp_path)
    assert found is not None
    layer = trained.layer.to("meta")
    optimizer = build_optimizer(layer.parameters(), wire.TrainSpec(optimizer=name))
    found.restore(dict(layer.named_parameters()), optimizer)
    for kept in optimizer.state.values():
        assert int(kept["step"]) == 3
        moments = [value for entry, value in kept.items() if entry != "step"]
        assert {value.device.type for value in moments} == {"meta"}


def test_rounding_at_random_picks_one_of_the_two_neighbors_and_is_right_on_average():
    exact = torch.tensor([1.0 + 2**-10, -(1.0 + 2**-10), 3.1415926, -1e-20, 0.0])
    source = torch.Generator().manual_seed(3)
    rounded = torch.stack([stochastically_rounded(exact, source) for _ in range(20_000)]).double()
    gap = (exact.abs() * 2**-7).double()  # at most: the spacing of bfloat16 at a number is 2**-7 to 2**-8 of it
    assert ((rounded - exact).abs() <= gap).all()
    assert ((rounded.mean(0) - exact).abs() <= 0.02 * gap).all()
    assert all(len(column.unique()) == 2 for column in rounded.T[:4])


def test_updates_too_small_for_bfloat16_arrive_all_the_same():
    weight = nn.Parameter(torch.full((4096,), 1.0, dtype=torch.bfloat16))
    optimizer = build_optimizer([weight], wire.TrainSpec(optimizer="adamw-bf16", weight_decay=0.0))
    set_learning_rate(optimizer, 1e-4)  # 1/39 of the distance to the next number below 1
    for _ in range(20):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weight.float().mean().item() == pytest.approx(1.0 - 20e-4, abs=3e-4)


def test_eight_bits_without_their_library_are_named_with_a_way_out():
    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed here")
    with pytest.raises(TrainingFailed) as failure:
        build_optimizer([nn.Parameter(torch.zeros(1))], wire.TrainSpec(optimizer="adamw-8bit"))
    assert failure.value.code == "environment"
    assert "adamw-bf16" in failure.value.hint


class TestEma:
    def weights(self) -> dict[str, nn.Parameter]:
        return {"w": nn.Parameter(torch.tensor([1.0]))}

    def test_it_follows_early_and_settles_at_its_decay(self):
        weights = self.weights()
        ema = Ema(weights, 0.5)
        weights["w"].data.fill_(2.0)
        ema.update(1)
        assert ema.averages["w"].item() == pytest.approx(1.0 + 9 / 11)  # d = 2/11
        ema.update(1000)
        assert ema.averages["w"].item() == pytest.approx(2.0 - 0.5 * (2 / 11))

    def test_the_model_answers_by_it_only_where_asked(self):
        weights = self.weights()
        ema = Ema(weights, 0.9)
        weights["w"].data.fill_(5.0)
        with ema.in_place():
            assert weights["w"].item() == 1.0
        assert weights["w"].item() == 5.0
        ema.adopt()
        assert weights["w"].item() == 1.0


class TestLearningRate:
    def rates(self, **settings):
        spec = wire.TrainSpec(steps=11, **settings)
        return [learning_rate(step, spec, 1.0) for step in range(1, 12)]

    def test_a_polynomial_of_power_two_has_a_quarter_left_in_the_middle(self):
        rates = self.rates(lr_schedule="polynomial", lr_power=2.0, lr_end=0.2)
        assert (rates[0], rates[5]) == (1.0, pytest.approx(0.2 + 0.8 / 4))
        assert rates[-1] == pytest.approx(0.2)

    def test_a_sine_swings_between_its_end_and_its_peak(self):
        rates = self.rates(lr_schedule="sine", lr_end=0.2, lr_warmup_steps=4)
        assert rates[:9] == pytest.approx([0.6, 0.882843, 1.0, 0.882843, 0.6, 0.317157, 0.2, 0.317157, 0.6], abs=1e-5)
