"""What the trainer needs: ranges that satisfy, and the pins that are installed where nothing does.

Standard library only, Python 3.9 or later. The two files beside this module are the data: `requirements.in` with
the ranges, and `requirements.lock`, resolved from it with hashes and without torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOCK_FILE = Path(__file__).with_name("requirements.lock")
RANGES_FILE = Path(__file__).with_name("requirements.in")


@dataclass(frozen=True)
class Pin:
    """One line of the lock, which is resolved for a single platform and so has no markers."""

    name: str
    version: str


def parse_lock(text: str) -> list[Pin]:
    """The pins in file order. Raises ValueError for a requirement that is no plain pin, a marker included."""
    pins = []
    for line in text.splitlines():
        if not line.strip() or line.startswith((" ", "#")):  # hashes are indented
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;]+) *\\?", line)
        if match is None:
            raise ValueError(f"the lock has something that is no pin: {line!r}")
        pins.append(Pin(match.group(1), match.group(2)))
    return pins


def parse_ranges(text: str) -> dict[str, str]:
    """`requirements.in` as name → specifiers (`>=2.6,<3`)."""
    ranges = {}
    for line in text.splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)\s*([<>=!].*)?$", line.split("#")[0].strip())
        if match is not None:
            ranges[match.group(1)] = match.group(2) or ""
    return ranges


def trainer_ranges() -> dict[str, str]:
    """The ranges that ship with the trainer, torch's included."""
    return parse_ranges(RANGES_FILE.read_text(encoding="utf-8"))


def lock_hash() -> str:
    """Names the environment: 12 hexadecimal digits of the lock and the ranges."""
    return hashlib.sha256(LOCK_FILE.read_bytes() + RANGES_FILE.read_bytes()).hexdigest()[:12]


def satisfies(version: str, specifiers: str) -> bool:
    """Whether `2.13.0+cu128` is within `>=2.6,<3`. Release numbers only: a pre-release counts as its release."""
    have = _release(version)
    for specifier in filter(None, (each.strip() for each in specifiers.split(","))):
        match = re.fullmatch(r"(>=|<=|==|!=|<|>)\s*(\S+)", specifier)
        if match is None:
            raise ValueError(f"cannot read the version range {specifier!r}")
        want = _release(match.group(2))
        holds = {
            ">=": have >= want,
            "<=": have <= want,
            "==": have == want,
            "!=": have != want,
            "<": have < want,
            ">": have > want,
        }
        if not holds[match.group(1)]:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match.group().split(".")] if match else [0]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def missing_requirements(
    installed: Mapping[str, str], ranges: Mapping[str, str], *, needs_cuda: bool = False
) -> list[str]:
    """What keeps an interpreter from being used, for people: "torch 2.4.1 is not >=2.6,<3". Empty: nothing does.

    With `needs_cuda`, a torch that says in its version that it was built for the CPU does not do.
    """
    missing = []
    for name, specifiers in ranges.items():
        version = installed.get(name)
        if version is None:
            missing.append(f"{name} is not installed")
        elif not satisfies(version, specifiers):
            missing.append(f"{name} {version} is not {specifiers}")
        elif name == "torch" and needs_cuda and version.endswith("+cpu"):
            missing.append(f"torch {version} is built without CUDA")
    return missing
