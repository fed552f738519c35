"""LoRA (Hu et al. 2021, arXiv 2106.09685) on the attention projections of a denoiser, by peft."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .draws import generator
from .families.api import Family
from .wire import TrainSpec

NAME = "default"


def make_trainable(spec: TrainSpec, family: Family, denoiser: nn.Module) -> None:
    """Lets train what the job's method trains: every weight, or an adapter that is added here."""
    if spec.method == "full":
        denoiser.requires_grad_(True)
        return
    alpha = spec.lora_alpha or spec.lora_rank
    add_lora(denoiser, spec.lora_rank, alpha, family.lora_targets, spec.seed, decomposed=spec.method == "dora")


def add_lora(
    denoiser: nn.Module, rank: int, alpha: float, targets: tuple[str, ...], seed: int, *, decomposed: bool = False
) -> None:
    """Wraps each target layer W into W' = W + (alpha/rank)·B·A, A: (rank, in), B: (out, rank); only A and B train.

    `decomposed` is DoRA (Liu et al. 2024, arXiv 2402.09353): each output row of W' is rescaled to a length of its own,
    m: (out,), which trains too and begins as the length of W's row.

    A is uniform in ±1/√in, as in peft, but drawn per layer from (seed, layer name); B is zero, so the wrapped
    denoiser answers exactly as the bare one does until the first step.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=False, use_dora=decomposed
    )
    _diffusers_model(denoiser).add_adapter(config, adapter_name=NAME)
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if ".lora_" not in name:
                continue
            # peft takes over the precision of the frozen weights, in which small steps would be lost.
            parameter.data = parameter.data.float()
            if ".lora_A." in name:
                bound = parameter.shape[1] ** -0.5
                unit = torch.rand(parameter.shape, generator=generator("lora", seed, name))
                parameter.copy_((2.0 * unit - 1.0) * bound)
            elif ".lora_B." in name:
                parameter.zero_()
            elif ".lora_magnitude_vector." in name:
                layer: Any = denoiser.get_submodule(name.partition(".lora_magnitude_vector.")[0])
                parameter.copy_(torch.linalg.norm(layer.base_layer.weight.float(), dim=1))


def trainable(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """What trains, by name, in the order of the model."""
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def lora_tensors(denoiser: nn.Module, scale: float, adapter: str = NAME) -> dict[str, Tensor]:
    """The adapter under peft's names (`….lora_A.weight`, `….lora_B.weight`), on the CPU, with B multiplied by `scale`.

    With scale = alpha/rank the result means the same with alpha = rank, which is what every reader assumes of a file
    that states no alpha.
    """
    from peft.utils import get_peft_model_state_dict

    tensors: dict[str, Tensor] = get_peft_model_state_dict(denoiser, adapter_name=adapter)
    return {
        name: (value.detach().cpu() * scale if ".lora_B." in name else value.detach().cpu()).contiguous()
        for name, value in tensors.items()
    }


def fuse(denoiser: nn.Module) -> None:
    """Adds the adapter to the weights and takes it off: what remains is a plain denoiser. Not reversible."""
    model = _diffusers_model(denoiser)
    model.fuse_lora(adapter_names=[NAME])
    model.unload_lora()


def _diffusers_model(denoiser: nn.Module) -> Any:
    return denoiser
