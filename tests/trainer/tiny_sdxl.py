"""A random Stable Diffusion XL of 0.3 M parameters: the true architecture at small widths."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.trainer.tiny_runs import SIDE, write_tokenizer

WIDTHS = (16, 24)
"""Of the two text encoders; readers of single files tell them apart by these."""
PROJECTED = 20


def build_sdxl_base(folder: Path, prediction: str = "epsilon", *, zeros_for_empty: bool = True) -> Path:
    """A diffusers folder with 4-channel latents at half the size, three levels as in SDXL, and random weights."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_tokenizer(folder / "tokenizer")
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=16)

        def text(width: int, activation: str) -> CLIPTextConfig:
            return CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, projection_dim=PROJECTED,
                num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16, hidden_act=activation,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip

        StableDiffusionXLPipeline(
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
                sample_size=SIDE, scaling_factor=0.13025,
            ),
            text_encoder=CLIPTextModel(text(WIDTHS[0], "quick_gelu")),
            text_encoder_2=CLIPTextModelWithProjection(text(WIDTHS[1], "gelu")),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=SIDE // 2, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4,
                block_out_channels=(8, 16, 24), transformer_layers_per_block=(1, 1, 2), attention_head_dim=(1, 2, 4),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=sum(WIDTHS), use_linear_projection=True, addition_embed_type="text_time",
                addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + PROJECTED,
            ),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction,
                timestep_spacing="leading", steps_offset=1,
            ),
            force_zeros_for_empty_prompt=zeros_for_empty,
        ).save_pretrained(folder)  # fmt: skip
    return folder
