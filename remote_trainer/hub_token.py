"""A read token of the model hub, lent for the one gated base of a run. Standard library only, Python 3.9."""

from __future__ import annotations

from pathlib import Path

from .private_memory import drop, private_file, put_privately

_KIND = "hub-token"


def hold_token(run_folder: Path, raw: bytes) -> None:
    """Takes the token over, in place of an earlier one. Raises OSError; nothing of it reaches a log."""
    put_privately(private_file(run_folder, _KIND), raw.strip())


def token_file(run_folder: Path) -> Path | None:
    """For the hub's own variable `HF_TOKEN_PATH`, so that the token stands in no environment. None: there is none."""
    path = private_file(run_folder, _KIND)
    return path if path.exists() else None


def drop_token(run_folder: Path) -> None:
    """Twice is safe."""
    drop(private_file(run_folder, _KIND))
