"""Optional extras of this installation: how what is missing is added to it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def installing(extra: str, prefix: Path | None = None) -> str:
    """The command that adds an extra to this installation, or to one at `prefix`: by what has made it."""
    python = Path(sys.executable) if prefix is None else prefix / "bin" / "python"
    prefix = prefix or Path(sys.prefix)
    if (prefix / "uv-receipt.toml").exists():
        return f"uv tool install --force '.[{extra}]'"
    if (prefix / "pipx_metadata.json").exists():
        return f"pipx install --force '.[{extra}]'"
    return f"{shlex.quote(str(python))} -m pip install '.[{extra}]'"
