"""A random Stable Diffusion 3.5 of 0.1 M parameters: the true architecture at small widths."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.trainer.tiny_runs import SIDE, write_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,."
WIDTH = 40
"""Of the text that the transformer attends to: T5's, and more than both CLIPs' together."""


def write_t5_tokenizer(folder: Path) -> None:
    """A vocabulary in T5's format that knows letters and nothing more."""
    from transformers import T5TokenizerFast

    ends = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary = [*ends, *((letter, -3.0) for letter in LETTERS)]
    T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512).save_pretrained(folder)


def build_t5(width: int) -> object:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, is_gated_act=True)
    )


def build_sd3_base(folder: Path, *, with_t5: bool = True, shift: float = 3.0) -> Path:
    """A diffusers folder with 4-channel latents at half the size, and random weights."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, T5TokenizerFast

    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_tokenizer(folder / "tokenizer")
        write_t5_tokenizer(folder / "tokenizer_3")
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=16)

        def clip(width: int) -> CLIPTextModelWithProjection:
            return CLIPTextModelWithProjection(
                CLIPTextConfig(
                    vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, projection_dim=width,
                    num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16,
                    bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
            )  # fmt: skip

        StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=SIDE // 2, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8,
                num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16,
                pooled_projection_dim=16 + 12, out_channels=4, pos_embed_max_size=32, dual_attention_layers=(0,),
                qk_norm="rms_norm",
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
                sample_size=SIDE, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=clip(16),
            text_encoder_2=clip(12),
            text_encoder_3=build_t5(WIDTH) if with_t5 else None,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            tokenizer_3=T5TokenizerFast.from_pretrained(folder / "tokenizer_3") if with_t5 else None,
        ).save_pretrained(folder)  # fmt: skip
    return folder
