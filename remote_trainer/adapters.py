"""What of the models trains; LoRA (Hu et al. 2021, arXiv 2106.09685) on their projections, by peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .draws import generator
from .errors import TrainingFailed
from .families.api import Family
from .wire import TrainSpec

NAME = "default"
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Ends of the names of the attention projections in a CLIP text model."""


@dataclass(frozen=True)
class Trained:
    """The models of which something trains."""

    denoiser: nn.Module
    texts: Mapping[str, nn.Module]
    """Text encoders by component; empty where they stay as the base has them."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """What trains, by name, in the order of the models; a text encoder's begin with its component."""
        named = dict(trainable(self.denoiser))
        for component, model in self.texts.items():
            named |= {f"{component}.{name}": parameter for name, parameter in trainable(model).items()}
        return named

    def let_go(self) -> None:
        """Frees what the models hold, whoever else refers to them."""
        for model in (self.denoiser, *self.texts.values()):
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def make_trainable(spec: TrainSpec, family: Family, trained: Trained) -> None:
    """Lets train what the job's method trains: every weight, or an adapter that is added here."""
    targets = _checked_targets(spec.lora_targets, trained.denoiser) or family.lora_targets
    for label, model in {"": trained.denoiser, **trained.texts}.items():
        if spec.method == "full":
            model.requires_grad_(True)
            continue
        alpha, decomposed = spec.lora_alpha or spec.lora_rank, spec.method == "dora"
        layers = TEXT_TARGETS if label else targets
        add_lora(model, spec.lora_rank, alpha, layers, spec.seed, decomposed=decomposed, label=label)


def _checked_targets(targets: tuple[str, ...], denoiser: nn.Module) -> tuple[str, ...]:
    """Raises TrainingFailed("bad-job") for one that no linear layer's name ends in, or that means another kind too."""
    layers = [(name, layer) for name, layer in denoiser.named_modules() if name]
    for target in targets:
        meant = [layer for name, layer in layers if name == target or name.endswith(f".{target}")]
        if not meant or not all(isinstance(layer, nn.Linear) for layer in meant):
            ends = sorted(
                {name.rpartition(".")[2] for name, layer in layers if isinstance(layer, nn.Linear)} - {"0", "2"}
            )
            what = "other layers than linear ones" if meant else "no layer of the denoiser"
            message = f'train.lora_targets: "{target}" means {what}'
            raise TrainingFailed("bad-job", message, f"linear layers end in: {', '.join(ends[:20])}")
    return targets


def add_lora(
    denoiser: nn.Module,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    seed: int,
    *,
    decomposed: bool = False,
    label: str = "",
) -> None:
    """Wraps each target layer W into W' = W + (alpha/rank)·B·A, A: (rank, in), B: (out, rank); only A and B train.

    `decomposed` is DoRA (Liu et al. 2024, arXiv 2402.09353): each output row of W' is rescaled to a length of its own,
    m: (out,), which trains too and begins as the length of W's row.

    A is uniform in ±1/√in, as in peft, but drawn per layer from (seed, label, layer name); B is zero, so the wrapped
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
                key = (label, text_layer(name)) if label else (name,)
                unit = torch.rand(parameter.shape, generator=generator("lora", seed, *key))
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


def text_lora_tensors(
    texts: Mapping[str, nn.Module], scale: float, adapter: str = NAME
) -> dict[str, dict[str, Tensor]]:
    """As `lora_tensors`, by component, under the names that files have (`text_layer`)."""
    return {
        component: {text_layer(name): tensor for name, tensor in lora_tensors(model, scale, adapter).items()}
        for component, model in texts.items()
    }


def text_layer(name: str) -> str:
    """A name in a CLIP text model as files have it; in memory, transformers from 5.6 on leaves the wrapper's out."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def fuse(trained: Trained) -> None:
    """Adds the adapters to the weights and takes them off: what remains are plain models. Not reversible."""
    model = _diffusers_model(trained.denoiser)
    model.fuse_lora(adapter_names=[NAME])
    model.unload_lora()
    for text in trained.texts.values():
        _fuse_text(text)


def _fuse_text(model: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(adapter_names=[NAME])
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
    model._hf_peft_config_loaded = False


def _diffusers_model(denoiser: nn.Module) -> Any:
    return denoiser
