"""Frozen linear layers in 8 or 4 bits: how a base of billions of parameters fits beside its adapter.

Weights are unpacked where they are used and let go again, in the backward pass once more, so no pass holds them all. In
plain PyTorch: no library to install, and the same arithmetic on every device.
"""

from __future__ import annotations

from typing import Any, Literal, assert_never

import torch
from torch import Tensor, nn

Bits = Literal["int8", "nf4"]

BLOCK = 64
"""Weights that share a scale in nf4, as in QLoRA; in int8 a row does."""
_NF4 = (
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution (Dettmers et al. 2023, arXiv 2305.14314, appendix E)."""


def quantize_blocks(model: nn.Module, bits: Bits, device: torch.device) -> int:
    """Replaces the linear layers of the transformer's blocks, one after the other, each on `device`; all else stays.

    Returns how many. Layers whose size is no multiple of BLOCK stay too.
    """
    found = [
        (name, layer)
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and "blocks." in name and layer.weight.numel() % BLOCK == 0
    ]
    for name, layer in found:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, QuantizedLinear(layer, bits, device))
    return len(found)


class QuantizedLinear(nn.Linear):
    """x·Wᵀ + b with W unpacked on the way. Its gradient reaches x, and never W."""

    def __init__(self, layer: nn.Linear, bits: Bits, device: torch.device) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self._bits = layer.in_features, layer.out_features, bits
        self._dtype = layer.weight.dtype
        codes, scales = pack(layer.weight.detach().to(device), bits)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().to(device), requires_grad=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # peft asks it for device, precision and, for DoRA, lengths
        """(out, in), unpacked anew."""
        codes, scales = self.get_buffer("codes"), self.get_buffer("scales")
        return unpack(codes, scales, self._bits, (self.out_features, self.in_features)).to(self._dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch gives it
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        product: Tensor = _Product.apply(input.to(dtype), self)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias.to(dtype)


class _Product(torch.autograd.Function):
    """The linear product of autograd would keep the unpacked weight for its backward pass; this unpacks it again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return x @ layer.weight.to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.weight.to(gradient.dtype), None


def pack(weight: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """weight: (out, in). int8: codes (out, in) and scales (out, 1). nf4: two codes in a byte, (out·in/2,), and scales
    (out·in/BLOCK, 1). Scales are float32.
    """
    if bits == "int8":
        rows = weight.float()
        scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127.0
        return (rows / scales).round().to(torch.int8), scales
    if bits == "nf4":
        blocks = weight.float().reshape(-1, BLOCK)
        scales = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
        levels = torch.tensor(_NF4, device=weight.device)
        middles = (levels[1:] + levels[:-1]) / 2
        codes = torch.bucketize(blocks / scales, middles).to(torch.uint8).reshape(-1, 2)
        return codes[:, 0] * 16 + codes[:, 1], scales
    assert_never(bits)


def unpack(codes: Tensor, scales: Tensor, bits: Bits, shape: tuple[int, int]) -> Tensor:
    """The inverse of `pack`, as far as there is one; float32, of `shape`."""
    if bits == "int8":
        return codes.float() * scales
    if bits == "nf4":
        levels = torch.tensor(_NF4, device=codes.device)
        pairs = torch.stack([codes >> 4, codes & 15], dim=1)
        return (levels[pairs.int()].reshape(-1, BLOCK) * scales).reshape(shape)
    assert_never(bits)
