"""The user's own file for all runs, `config.toml` in the state folder: what providers are told, and profiles.

[providers.replicate.trainers.my-flux]
owner = "me"

[profiles.secure.compute]
trust = "secure"
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError


def provider_section(file: Path, name: str) -> dict[str, Any]:
    """`[providers.NAME]`; empty without the file. Raises UsageError for a file that cannot be read."""
    found = _table(file, "providers").get(name, {})
    if not isinstance(found, dict):
        raise UsageError(f"{file}: providers.{name} is no table", f"[providers.{name}]")
    return found


def profile_overrides(file: Path, name: str) -> tuple[str, ...]:
    """`[profiles.NAME]` as `--set` values (`compute.trust="secure"`), in the order of the file.

    Raises UsageError for a profile that is not there or holds what no flag could, and for an unreadable file.
    """
    profiles = _table(file, "profiles")
    if name not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        raise UsageError(f"{file} has no profile `{name}`", f"write `[profiles.{name}]` there; it has: {known}")
    found = profiles[name]
    if not isinstance(found, dict):
        raise UsageError(f"{file}: profiles.{name} is no table", f"[profiles.{name}]")
    return tuple(_flattened(found, "", file))


def _flattened(table: dict[str, Any], prefix: str, file: Path) -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.", file)
        elif isinstance(value, (str, bool, int, float)) or _is_plain_list(value):
            yield f"{prefix}{key}={json.dumps(value, ensure_ascii=False)}"
        else:
            raise UsageError(f"{file}: {prefix}{key} cannot stand in a profile", "write it into the spec")


def _is_plain_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, (str, bool, int, float)) for item in value)


def _table(file: Path, name: str) -> dict[str, Any]:
    """Empty without the file, and where it has no such table."""
    try:
        config = tomllib.loads(file.read_text("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is no TOML: {error}", "docs/cli.md shows what it may hold") from None
    found = config.get(name, {})
    if not isinstance(found, dict):
        raise UsageError(f"{file}: {name} is no table", f"[{name}.NAME]")
    return found
