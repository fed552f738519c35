"""The trainer's code as one deterministic tar, built from the installed package.

Content-addressed, so that a host unpacks each version once; plain files, so that a traceback on the host names
something that can be opened there. The weights of builtin bases stay here: few runs need them, and those bring them as
they bring any base that lies on the laptop.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

_LEFT_HERE = "remote_trainer/bases/weights"


@dataclass(frozen=True)
class CodeBundle:
    id: str
    """First twelve hex digits of the sha256 of `tar`."""
    tar: bytes


@cache
def trainer_code() -> CodeBundle:
    """Equal bytes for equal sources, whatever their time stamps."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in sorted(_files(resources.files("remote_trainer"), "remote_trainer")):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(content))
    tar = buffer.getvalue()
    return CodeBundle(hashlib.sha256(tar).hexdigest()[:12], tar)


def _files(folder: Traversable, path: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        if entry.name == "__pycache__" or entry.name.endswith(".pyc"):
            continue
        name = f"{path}/{entry.name}"
        if name == _LEFT_HERE:
            continue
        found += _files(entry, name) if entry.is_dir() else [(name, entry.read_bytes())]
    return found
