"""Random Flux.1 and Flux.2 klein of 0.1 M parameters: the true architectures at small widths."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.trainer.tiny_runs import SIDE, write_tokenizer
from tests.trainer.tiny_sd3 import build_t5, write_t5_tokenizer

TEXT_WIDTH = 16
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_flux_base(folder: Path, *, told_guidance: bool = True) -> Path:
    """A diffusers folder with 4-channel latents at half the size, and random weights."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5TokenizerFast

    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_tokenizer(folder / "tokenizer")
        write_t5_tokenizer(folder / "tokenizer_2")
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=16)
        clip = CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=12, intermediate_size=32, projection_dim=12, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        FluxPipeline(
            transformer=FluxTransformer2DModel(
                in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=TEXT_WIDTH, pooled_projection_dim=12, guidance_embeds=told_guidance,
                axes_dims_rope=(4, 6, 6),
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
                sample_size=SIDE, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=CLIPTextModel(clip),
            text_encoder_2=build_t5(TEXT_WIDTH),
            tokenizer=tokenizer,
            tokenizer_2=T5TokenizerFast.from_pretrained(folder / "tokenizer_2"),
        ).save_pretrained(folder)  # fmt: skip
    return folder


def write_qwen_tokenizer(folder: Path) -> None:
    """A vocabulary in Qwen's format that knows printable bytes and nothing more, and how to ask a question."""
    from transformers import Qwen2TokenizerFast

    tokens = [*(chr(code) for code in range(33, 127)), "Ġ", "Ċ", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2TokenizerFast(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], unk_token="<|endoftext|>",
        pad_token="<|endoftext|>", eos_token="<|im_end|>", model_max_length=512,
    )  # fmt: skip
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


def build_flux2_base(folder: Path, *, distilled: bool = False) -> Path:
    """A diffusers folder with 4-channel latents at half the size, and random weights."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_qwen_tokenizer(folder / "tokenizer")
        tokenizer = Qwen2TokenizerFast.from_pretrained(folder / "tokenizer")
        vae = AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=SIDE,
        )  # fmt: skip
        vae.bn.running_mean.normal_(std=0.1)
        vae.bn.running_var.uniform_(0.5, 1.5)
        Flux2KleinPipeline(
            transformer=Flux2Transformer2DModel(
                in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=3 * TEXT_WIDTH, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
                guidance_embeds=False,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=vae,
            text_encoder=Qwen3ForCausalLM(
                Qwen3Config(
                    vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=16, num_hidden_layers=28,
                    num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=512,
                )
            ),
            tokenizer=tokenizer,
            is_distilled=distilled,
        ).save_pretrained(folder)  # fmt: skip
    return folder
