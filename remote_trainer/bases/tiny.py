"""`builtin:tiny`: a Stable Diffusion pipeline of 1.5 M parameters that is written, not downloaded.

It is real in shape and random in content: every file of the diffusers layout is there, the autoencoder is exact,
and the denoiser has learned nothing yet. Half a minute on one CPU core teaches it a handful of bold pictures at
64×64, which is what demos and end-to-end tests need. It has no prior to be preserved, and prompts steer it little.

What was chosen, and why:

- Autoencoder: latents are the 4×4 block means of the pixels, (B, 3, H/4, W/4), by weights set by hand. So a test
  may compute the right latents with a pen. With 2×2 blocks the same time of training left mostly noise (distance
  to the nearest photo 0.38 instead of 0.18, pixels in [-1, 1]): there are four times as many values to learn.
- v-prediction with zero terminal SNR: a model this small otherwise learns colors late, because the first sampling
  step still carries the mean of the training pictures.
- Uniform initial weights keyed by parameter name: the same bits on every machine, whatever the vector unit.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONTENT_VERSION = "tiny-2"
"""Changes whenever any weight does: names the folder in caches."""

_LATENT_CHANNELS = 3
_TEXT_WIDTH = 64
_CONSTANT = 256.0
"""Height of the constant channels that keep the autoencoder's last normalization linear; a power of two is exact
in bf16 and fp16 too. The relative error is about 3/2·(1/256)² = 2e-5."""

_WORDS = (  # noqa: SIM905
    "a an the of on in at with and photo picture painting drawing sks person dog cat robot man woman toy car "
    "beach forest city room table sky grass snow red green blue teal orange white black close up"
).split()


def build(folder: Path) -> None:
    """Writes the pipeline to `folder`, which appears complete or not at all.

    Returns at once when `folder` exists. Safe under concurrent callers: the first rename wins, and all would
    have written the same bytes. Imports torch, diffusers and transformers.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_pipeline(unfinished)
        unfinished.chmod(0o755)
        os.rename(unfinished, folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_pipeline(folder: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,  # the pipeline insists
        steps_offset=1,
        set_alpha_to_one=True,
    )
    write_tokenizer(folder / "tokenizer")
    StableDiffusionPipeline(
        vae=build_vae(),
        text_encoder=build_text_encoder(),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=build_unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def build_unet() -> Any:
    """The denoiser: (B, 3, h, w) latents, timesteps (B,), text (B, 77, 64) → v (B, 3, h, w)."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=_LATENT_CHANNELS,
        out_channels=_LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    _set_uniform_weights(unet, gain=0.7)
    return unet


def build_text_encoder() -> Any:
    """A CLIP text model with random weights: (B, 77) tokens → (B, 77, 64), distinct for distinct prompts."""
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary, _ = _byte_pair_encoding(_WORDS)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=2 * _TEXT_WIDTH,
            projection_dim=_TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
            pad_token_id=vocabulary["<|endoftext|>"],
        )
    )
    _set_uniform_weights(encoder, gain=1.0)
    return encoder


def _set_uniform_weights(model: Any, gain: float) -> None:
    """Within ±gain/√fan_in for matrices and kernels, 1 for norms, 0 for biases, ±√3 for embeddings.

    A gain of 1 is torch's own default. √3 keeps the variance from layer to layer, and learned far slower here: the
    loss after 200 steps was 0.55 instead of 0.27.
    Nothing is zero at the start, unlike ADM's last layers: behind a frozen zero a LoRA would have no gradient.
    Uniform, not normal: a uniform draw is an integer scaled by a power of two, equal on every CPU, while normal
    draws go through vectorized logarithms that differ in the last bit.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                continue
            looked_up = name.endswith(("token_embedding.weight", "position_embedding.weight"))
            bound = math.sqrt(3.0) if looked_up else gain / math.sqrt(parameter[0].numel())
            # transformers ≥ 5.6 dropped this wrapper from the names.
            key = hashlib.sha256(name.removeprefix("text_model.").encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(key[:6], "big"))
            parameter.copy_((torch.rand(parameter.shape, generator=generator) - 0.5) * (2.0 * bound))


# ---- the autoencoder ----------------------------------------------------------------------------------------


def build_vae() -> Any:
    """An AutoencoderKL whose latents are the 4×4 means of the pixels in [-1, 1]: (B, 3, H, W) → (B, 3, H/4, W/4).

    Every residual branch ends in zeros, so blocks pass their input through. Eight channels carry (r, -r, g, -g, b,
    -b, K, -K). Before the last convolution stand a group norm over all eight and a SiLU, and both become linear:
    the mean is 0 by symmetry and the deviation is K/2·√(1 + (r² + g² + b²)/K²) ≈ K/2, whatever the picture; and
    silu(u) - silu(-u) = u holds exactly. Decoding repeats each latent over its block, so encoding what was decoded
    gives the same latents again.
    """
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=_LATENT_CHANNELS,
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=1,
        sample_size=64,
        scaling_factor=1.0,
    )
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
        for half in (vae.encoder, vae.decoder):
            for color in range(3):
                half.conv_in.weight[2 * color, color, 1, 1] = 1.0
                half.conv_in.weight[2 * color + 1, color, 1, 1] = -1.0
                half.conv_out.weight[color, 2 * color, 1, 1] = 1.0
                half.conv_out.weight[color, 2 * color + 1, 1, 1] = -1.0
            half.conv_in.bias[6], half.conv_in.bias[7] = _CONSTANT, -_CONSTANT
            half.conv_norm_out.weight.fill_(_CONSTANT / 2)
        for level, channel in itertools.product(range(2), range(8)):
            # The downsampler pads right and below, so taps 0 and 1 of each axis are the block itself.
            vae.encoder.down_blocks[level].downsamplers[0].conv.weight[channel, channel, :2, :2] = 0.25
            vae.decoder.up_blocks[level].upsamplers[0].conv.weight[channel, channel, 1, 1] = 1.0
        for channel in range(2 * _LATENT_CHANNELS):
            vae.quant_conv.weight[channel, channel] = 1.0
        for channel in range(_LATENT_CHANNELS):
            vae.post_quant_conv.weight[channel, channel] = 1.0
        vae.encoder.conv_out.bias[_LATENT_CHANNELS:] = -30.0  # log variance: diffusers clamps there
    return vae


# ---- the tokenizer ------------------------------------------------------------------------------------------


def write_tokenizer(folder: Path, words: Sequence[str] = _WORDS) -> None:
    """CLIP's `vocab.json` and `merges.txt` with all 256 bytes, each of `words` one token."""
    vocabulary, merges = _byte_pair_encoding(words)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _byte_pair_encoding(words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in CLIP's order: bytes, bytes that end a word, merged pairs, the two special tokens.

    Each word of the list is merged from the left until it is one token; pairs that exist already are reused.
    """
    alphabet = _byte_characters()
    merges: list[tuple[str, str]] = []
    for word in words:
        symbols = [*word[:-1], word[-1] + "</w>"]
        for pair in merges:
            symbols = _merge(symbols, pair)
        while len(symbols) > 1:
            pair = (symbols[0], symbols[1])
            merges.append(pair)
            symbols = _merge(symbols, pair)
    tokens = [
        *alphabet,
        *(character + "</w>" for character in alphabet),
        *(left + right for left, right in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return {token: index for index, token in enumerate(tokens)}, merges


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def _byte_characters() -> list[str]:
    """One printable character per byte, GPT-2's way: printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + offset) for offset in range(len(others))]
