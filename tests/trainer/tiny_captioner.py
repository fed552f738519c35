"""Captioners of the true architectures with random weights, in folders as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIDE = 32
_WORDS = ("a", "dog", "cat", "sits", "on", "the", "grass", "Describe", "in", "detail", "what", "is", "shown", "image")


def build_florence(folder: Path, seed: int = 0) -> Path:
    """Florence-2: its vision tower of two stages, BART of one layer; (SIDE/8)² + 1 tokens a picture."""
    from transformers import (
        BartConfig,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    tokenizer = _tokenizer()
    vision: dict[str, Any] = {
        "depths": [1, 1], "embed_dim": [16, 32], "num_heads": [2, 2], "num_groups": [2, 2], "patch_size": [7, 3],
        "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True], "window_size": 4,
        "projection_dim": 32, "max_position_embeddings": 8, "drop_path_rate": 0.0,
    }  # fmt: skip
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=128,
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=tokenizer.image_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Florence2ForConditionalGeneration(config)
    _speak(model)
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    pictures.image_seq_length = (SIDE // 8) ** 2 + 1
    Florence2Processor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def build_blip(folder: Path) -> Path:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    tokenizer = _tokenizer()
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = shape | {
        "vocab_size": len(tokenizer), "encoder_hidden_size": 16, "max_position_embeddings": 96, "bos_token_id": 0,
        "pad_token_id": 1, "eos_token_id": 2, "sep_token_id": 2,
    }  # fmt: skip
    config = BlipConfig(text_config=text, vision_config=shape | {"image_size": SIDE, "patch_size": 16})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BlipForConditionalGeneration(config)
    _speak(model)
    model.save_pretrained(folder)
    pictures = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    BlipProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@torch.no_grad()
def _speak(model: Any) -> None:
    """Weights as small as they begin say the same of every picture, or nothing."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(12.0)
    model.generation_config.min_new_tokens = 8


def _tokenizer() -> Any:
    """Whole words, and letters for the rest."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    vocab: dict[str, int] = {}
    for token in ["<s>", "<pad>", "</s>", "<unk>", "<image>", *(f"Ġ{word}" for word in _WORDS), *letters, "Ġ"]:
        vocab.setdefault(token, len(vocab))
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        sep_token="</s>", cls_token="<s>", extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
