"""A base that is one file, as model sites hand it out: what it is, read from its names of tensors and not its weights.

Names lie at a known place: in a `.safetensors` file in a header of JSON, in a `.ckpt` in the pickle of a zip archive,
which is searched for names and never unpickled.
"""

from __future__ import annotations

import http.client
import json
import re
import struct
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.checksum import sha256_of
from orchestrator.errors import UsageError

SUFFIXES = (".safetensors", ".ckpt")
HEADER_LIMIT_BYTES = 100_000_000
"""As the format's own reader has it."""

_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")
_NAME_IN_PICKLE = re.compile(rb"[A-Za-z_][\w.]{7,200}")
_PICKLE_LIMIT_BYTES = 50_000_000
_USER_AGENT = "cloudbooth"


@dataclass(frozen=True)
class LocalFile:
    """A single file on the laptop, which travels to the host."""

    path: Path
    bytes: int
    sha256: str
    pipeline: str = ""
    """The diffusers class that can hold it; empty when its names could not be read."""

    @property
    def total_bytes(self) -> int:
        return self.bytes


@dataclass(frozen=True)
class LinkedFile:
    """A single file at an address; the host fetches it from there and checks its hash."""

    url: str
    """Without the fragment."""
    sha256: str
    bytes: int | None = None
    pipeline: str = ""
    warning: str = ""
    """Why nobody could look at it from here."""


def is_link(base: str) -> bool:
    return base.startswith(("https://", "http://"))


def is_single_file(base: str) -> bool:
    """By the looks of `model.base` alone."""
    return is_link(base) or base.endswith(SUFFIXES)


def local_file(path: Path) -> LocalFile:
    """Hashes the file: a few seconds a gigabyte. Raises UsageError for what cannot be read or is no base."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} is no model file", f"a single file ends in {' or '.join(SUFFIXES)}")
    try:
        with path.open("rb") as file:
            names = _names_in_pickle(path) if path.suffix == ".ckpt" else _names_in_header(file.read, str(path))
        return LocalFile(path, path.stat().st_size, sha256_of(path), pipeline_of(names, str(path)))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None


def linked_file(base: str, timeout_s: float) -> LinkedFile:
    """base: `https://…/model.safetensors#sha256=…`. Asks for the size and the header, never for weights; blocks for at
    most three requests of `timeout_s`.

    Raises UsageError for an address without hash, one with a password or key in it, one that the server does not
    have, and a file that is no base. A server that cannot be reached from here gives a warning.
    """
    parts = urlsplit(base)
    found = _SHA256.fullmatch(parts.fragment)
    if found is None:
        raise UsageError(
            f"{base} does not say which file is meant: an address may hold another one tomorrow",
            "append its hash, which model sites show beside the file: `#sha256=<64 hex digits>`",
        )
    if parts.username or parts.password or re.search(r"(token|key|secret|signature)=", parts.query, re.IGNORECASE):
        raise UsageError(
            "the address of the base carries a key, and it would be stored with the run and travel to the machine",
            "download the file, and name its path: `--set model.base=./model.safetensors`",
        )
    url, sha256 = parts._replace(fragment="").geturl(), found[1].lower()
    if not parts.path.endswith(SUFFIXES):
        raise UsageError(f"{url} is no model file", f"the path of an address ends in {' or '.join(SUFFIXES)}")
    try:
        size = _size_at(url, timeout_s)
        names: tuple[str, ...] = ()
        if parts.path.endswith(".safetensors"):
            names = _names_in_header(_Ranges(url, timeout_s).read, url)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403, 404, 410):
                raise UsageError(
                    f"{url} cannot be downloaded (HTTP {error.code})",
                    "open it in a browser without logging in; what needs a login is downloaded and named by its path",
                ) from None
            return LinkedFile(url, sha256, warning=f"{url} could not be looked at (HTTP {error.code})")
    except (OSError, http.client.HTTPException) as error:
        return LinkedFile(url, sha256, warning=f"{url} could not be looked at ({error})")
    return LinkedFile(url, sha256, size, pipeline_of(names, url))


def pipeline_of(names: Iterable[str], called: str) -> str:
    """The diffusers class for a file with tensors of these names; empty for no names at all.

    Raises UsageError for a file that is something else: a LoRA, one component alone, a family that comes as a folder.
    """
    known = set(names)
    if not known:
        return ""

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in known)

    if has("lora_unet_", "lora_te", "unet.down_blocks", "base_model.model.") and not has("model.diffusion_model."):
        raise UsageError(f"{called} is a LoRA, not a base", "name the base that it was trained on, as `model.base`")
    if has("double_blocks.", "joint_blocks.", "model.diffusion_model.double_blocks.", "model.diffusion_model.joint_"):
        raise UsageError(
            f"{called} is of a family whose single files lack parts of the model",
            "name its repository on the hub, `owner/name`, or a diffusers folder",
        )
    parts = {
        "the denoiser": has("model.diffusion_model."),
        "the autoencoder": has("first_stage_model."),
        "a text encoder": has("cond_stage_model.", "conditioner.embedders."),
    }
    absent = [part for part, there in parts.items() if not there]
    if absent:
        raise UsageError(
            f"{called} is no whole Stable Diffusion model: it lacks {', '.join(absent)}",
            "name the file that programs such as AUTOMATIC1111 list as a checkpoint",
        )
    if has("conditioner.embedders."):
        if not has("conditioner.embedders.1.model."):
            raise UsageError(
                f"{called} is the refiner of Stable Diffusion XL", "train the base model, which has two text encoders"
            )
        return "StableDiffusionXLPipeline"
    return "StableDiffusionPipeline"


# ---- names without weights -----------------------------------------------------------------------------------------


def _names_in_header(read: Callable[[int], bytes], called: str) -> tuple[str, ...]:
    """`read(n)` hands out the file from its begin. The format: 8 bytes of length, little-endian, then so much JSON."""
    try:
        (length,) = struct.unpack("<Q", read(8))
        if length > HEADER_LIMIT_BYTES:
            raise ValueError("no such header")
        header = json.loads(read(length))
        return tuple(str(name) for name in header if name != "__metadata__")
    except (struct.error, ValueError, TypeError):
        raise UsageError(f"{called} is no safetensors file", "was the download cut off? Fetch it again") from None


def _names_in_pickle(path: Path) -> tuple[str, ...]:
    """Empty for the format that torch wrote before 1.6, which only loading could read."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if pickled is None:
                raise UsageError(f"{path} is an archive, but not one that torch wrote", "unpack it first")
            with archive.open(pickled) as file:
                text = file.read(_PICKLE_LIMIT_BYTES)
    except zipfile.BadZipFile:
        return ()
    return tuple(found.decode() for found in _NAME_IN_PICKLE.findall(text) if b"." in found)


class _Ranges:
    """A file at an address, read from its begin in ranges."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s, self._offset = url, timeout_s, 0

    def read(self, count: int) -> bytes:
        asked = {"Range": f"bytes={self._offset}-{self._offset + count - 1}", "User-Agent": _USER_AGENT}
        with urllib.request.urlopen(
            urllib.request.Request(self._url, headers=asked), timeout=self._timeout_s
        ) as answer:
            if answer.status == 200 and self._offset:  # a server without ranges begins anew each time
                answer.read(self._offset)
            data: bytes = answer.read(count)
        self._offset += len(data)
        return data


def _size_at(url: str, timeout_s: float) -> int | None:
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": _USER_AGENT})
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        length = answer.headers.get("Content-Length")
    return int(length) if length and length.isdigit() else None
