"""The program without extras stays small: what is added to the dependencies is weighed here."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

BUDGET_MB = 150
WITHOUT = frozenset({"torch", "numpy", "diffusers", "transformers"})


def closure(distribution: str) -> dict[str, metadata.Distribution]:
    """Everything that an installation without extras brings, by normalized name, as it is installed here."""
    found: dict[str, metadata.Distribution] = {}
    wanted = [distribution]
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name == distribution:
                raise
            continue  # for another platform, as its marker says
        for requirement in found[name].requires or ():
            if "extra ==" not in requirement:
                wanted.append(re.match(r"[A-Za-z0-9._-]+", requirement)[0])  # type: ignore[index]
    return found


def size_mb(distribution: metadata.Distribution) -> float:
    """Of its files as its record lists them, compiled ones left out: who installs may compile or not."""
    files = (Path(str(distribution.locate_file(file))) for file in distribution.files or () if file.suffix != ".pyc")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def test_the_base_installation_stays_within_its_budget() -> None:
    if metadata.distribution("cloudbooth").requires is None:
        pytest.skip("the project is not installed here")
    parts = closure("cloudbooth")
    assert {"click", "pillow", "paramiko", "boto3"} <= set(parts), "the closure is followed"
    sizes = {name: size_mb(part) for name, part in parts.items() if name != "cloudbooth"}
    largest = ", ".join(f"{name} {size:.0f}" for name, size in sorted(sizes.items(), key=lambda s: -s[1])[:6])
    assert sum(sizes.values()) < BUDGET_MB, f"MB: {largest}"


def test_nothing_heavy_comes_along() -> None:
    assert not WITHOUT & set(closure("cloudbooth"))
