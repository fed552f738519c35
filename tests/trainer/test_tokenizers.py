"""The laptop's tokenizer against the one that trains."""

from __future__ import annotations

import json

from orchestrator.tokens.bpe import read_tokenizer
from tests.trainer.tiny_runs import write_tokenizer


def test_prompts_become_the_same_tokens(tmp_path):
    """The vocabulary knows letters; merges are added, so that order and boundaries of merging count."""
    from transformers import CLIPTokenizer

    write_tokenizer(tmp_path / "tokenizer")
    merges = [("h", "o"), ("p", "ho"), ("o", "t"), ("d", "o"), ("do", "g</w>"), ("t", "o</w>"), ("pho", "to</w>")]
    vocabulary = read_tokenizer(tmp_path / "tokenizer").vocabulary
    known = {**vocabulary, **{left + right: len(vocabulary) + n for n, (left, right) in enumerate(merges)}}

    (tmp_path / "tokenizer/vocab.json").write_text(json.dumps(known))
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    (tmp_path / "tokenizer/merges.txt").write_text("#version: 0.2\n" + lines)
    ours, theirs = read_tokenizer(tmp_path / "tokenizer"), CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    for prompt in ("a photo of sks dog", "Photo, dogphoto. 2 dogs", "hot hotdog  to dog"):
        assert ours.encode(prompt) == theirs.tokenize(prompt)
