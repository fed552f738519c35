"""What has made this installation, and so the command that adds an extra to it or brings a newer version."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def installing(extra: str, prefix: Path | None = None) -> str:
    """The command, to be given in a checkout, that adds an extra to this installation, or to one at `prefix`."""
    return _command(f"'.[{extra}]'", prefix)


def adding(package: str, prefix: Path | None = None) -> str:
    """The command that puts a plug-in beside this installation, or beside one at `prefix`; uv's wants the checkout."""
    there = prefix or Path(sys.prefix)
    if (there / "uv-receipt.toml").exists():
        return f"uv tool install --force . --with {package}"
    if (there / "pipx_metadata.json").exists():
        return f"pipx inject cloudbooth {package}"
    return _command(package, prefix)


def upgrading() -> str:
    """What brings this installation up to a checkout that is newer."""
    return f"in the checkout: git pull, then {_command('.', None)}"


def _command(what: str, prefix: Path | None) -> str:
    python = Path(sys.executable) if prefix is None else prefix / "bin" / "python"
    prefix = prefix or Path(sys.prefix)
    if (prefix / "uv-receipt.toml").exists():
        return f"uv tool install --force {what}"
    if (prefix / "pipx_metadata.json").exists():
        return f"pipx install --force {what}"
    return f"{shlex.quote(str(python))} -m pip install {what}"
