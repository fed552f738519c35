"""The user's own file for all runs, `config.toml` in the state folder: so far, what providers are told.

[providers.replicate.trainers.my-flux]
owner = "me"
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError


def provider_section(file: Path, name: str) -> dict[str, Any]:
    """`[providers.NAME]`; empty without the file. Raises UsageError for a file that cannot be read."""
    try:
        config = tomllib.loads(file.read_text("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is no TOML: {error}", "docs/replicate.md shows what it may hold") from None
    section = config.get("providers", {})
    found = section.get(name, {}) if isinstance(section, dict) else None
    if not isinstance(found, dict):
        raise UsageError(f"{file}: providers.{name} is no table", f"[providers.{name}]")
    return found
