"""Stable Diffusion pipelines of a chosen size, with random weights and parts in the proportions of the real one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tests.trainer.tiny_runs import write_tokenizer


@dataclass(frozen=True)
class Size:
    resolution: int
    """Pixels at which it is trained here."""
    unet: tuple[int, ...]
    """Channels by level."""
    attention_at: tuple[bool, ...]
    """By level."""
    autoencoder: tuple[int, ...]
    text_width: int
    text_layers: int


TINY = Size(64, (32, 64), (False, True), (32, 64), 32, 5)
"""The shape of the tiny Stable Diffusion that libraries test with. Encoding a picture costs 0.85 of its UNet's forward
pass, in multiplications; Stable Diffusion 1.5's at 512 pixels, 1.39."""
MID = Size(128, (128, 256, 512), (True, True, False), (64, 128, 256, 256), 256, 4)
"""71 M parameters in the UNet, beside which encoding costs about what Stable Diffusion 1.5's does: 1.44."""
MID_LEAN = replace(MID, autoencoder=(32, 64, 128, 128))
"""The same with an autoencoder of a quarter of that price, 0.36: how far does it go without?"""


def build(folder: Path, size: Size) -> Path:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    write_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=77)
    factor = 2 ** (len(size.autoencoder) - 1)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=size.text_width, intermediate_size=4 * size.text_width,
        projection_dim=size.text_width, num_hidden_layers=size.text_layers, num_attention_heads=4,
        max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(size.autoencoder),
            up_block_types=("UpDecoderBlock2D",) * len(size.autoencoder),
            block_out_channels=size.autoencoder, layers_per_block=1, latent_channels=4, sample_size=size.resolution,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=size.resolution // factor, in_channels=4, out_channels=4, layers_per_block=2,
            block_out_channels=size.unet,
            down_block_types=tuple("CrossAttnDownBlock2D" if at else "DownBlock2D" for at in size.attention_at),
            up_block_types=tuple("CrossAttnUpBlock2D" if at else "UpBlock2D" for at in reversed(size.attention_at)),
            cross_attention_dim=size.text_width,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder
