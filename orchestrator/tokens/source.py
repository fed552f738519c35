"""Where a base's tokenizer and token embeddings are: in a folder, or on the hub, which hands out only these parts."""

from __future__ import annotations

import json
import os
import re
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.base_model import DEFAULT_ENDPOINT, shipped_folder
from orchestrator.errors import UsageError
from orchestrator.tokens.bpe import Tokenizer, read_tokenizer
from orchestrator.tokens.embeddings import EmbeddingTable, find_embeddings
from orchestrator.whole_file import write_atomically

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
_FILES = ("tokenizer/vocab.json", "tokenizer/merges.txt")
_WEIGHTS = "text_encoder/model.safetensors"
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class TokenSource:
    tokenizer: Tokenizer
    table: EmbeddingTable | None
    """None where no embeddings are at hand."""


def open_source(base: str, cache: Path, *, wants_embeddings: bool, tell: Callable[[str], None]) -> TokenSource:
    """base: a diffusers folder, a tokenizer's folder, `builtin:toybox`, or a hub id. What is fetched stays in `cache`.

    wants_embeddings: fetch them from the hub, too; those in a folder are always used. Raises UsageError for a base
    without a tokenizer of this kind, and when the hub does not hand it out.
    """
    shipped = shipped_folder(base)
    path = shipped.path if shipped is not None else Path(base).expanduser()
    if path.is_dir():
        inside = path / "tokenizer"
        weights = _weights_in(path / "text_encoder" if inside.is_dir() else path.parent / "text_encoder")
        return TokenSource(read_tokenizer(inside if inside.is_dir() else path), weights)
    found = _HUB_ID.fullmatch(base)
    if found is None or base.startswith((".", "/", "~")):
        hint = "give a folder that holds `tokenizer/`, or a hub id, `owner/name`"
        if base == "builtin:tiny":  # written where it is trained: its one rare word is no secret
            hint = f'its rare token is "sks"; for another base {hint}'
        raise UsageError(f"{base} is neither a folder nor a hub id", hint)
    repo, revision = found[1], found[2] or "main"
    address = f"{(os.environ.get('HF_ENDPOINT') or DEFAULT_ENDPOINT).rstrip('/')}/{repo}/resolve/{revision}"
    folder = cache / re.sub(r"[^\w.-]+", "--", f"{repo}@{revision}")
    for name in _FILES:
        if not (folder / name).exists():
            tell(f"fetching {name} of {repo}")
            _write(folder / name, _get(f"{address}/{name}", base))
    table = None
    if wants_embeddings or (folder / _WEIGHTS).exists():
        table = _fetched_embeddings(f"{address}/{_WEIGHTS}", folder / _WEIGHTS, base, tell)
    return TokenSource(read_tokenizer(folder / "tokenizer"), table)


def _weights_in(folder: Path) -> EmbeddingTable | None:
    for path in sorted(folder.glob("*.safetensors")):
        if table := find_embeddings(path):
            return table
    return None


def _fetched_embeddings(url: str, path: Path, base: str, tell: Callable[[str], None]) -> EmbeddingTable | None:
    """Of the whole file only the embedding: it is written as a small safetensors file of its own."""
    if not path.exists():
        (length,) = struct.unpack("<Q", _get(url, base, (0, 7)))
        header = json.loads(_get(url, base, (8, 7 + length)))
        name = next((name for name in header if name.endswith("token_embedding.weight")), None)
        if name is None:
            return None
        about = header[name]
        first, end = about["data_offsets"]
        tell(f"fetching {(end - first) / 1e6:.0f} MB of token embeddings")
        rows = _get(url, base, (8 + length + first, 7 + length + end))
        own = json.dumps({name: {**about, "data_offsets": [0, len(rows)]}}).encode()
        _write(path, struct.pack("<Q", len(own)) + own + rows)
    return find_embeddings(path)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def _get(url: str, base: str, span: tuple[int, int] | None = None) -> bytes:
    """The file, or its bytes from … to, both included."""
    request = urllib.request.Request(url)
    if token := os.environ.get("HF_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if span is not None:
        request.add_header("Range", f"bytes={span[0]}-{span[1]}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            content: bytes = response.read()
    except urllib.error.HTTPError as error:
        with error:
            hint = "check the name; a gated base needs HF_TOKEN" if error.code in (401, 403, 404) else "try again"
            raise UsageError(f"{base} does not hand out {url.rpartition('/')[2]} (HTTP {error.code})", hint) from None
    except OSError as error:
        raise UsageError(f"{base} cannot be reached: {error}", "give a folder that holds its `tokenizer/`") from None
    if span is not None and len(content) != span[1] - span[0] + 1:
        raise UsageError(f"{base} does not hand out parts of files", "leave out --embeddings")
    return content
