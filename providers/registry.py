"""Finds providers by name among the installed ones; built-ins register exactly like plug-ins.

A plug-in declares, in its own pyproject.toml:

    [project.entry-points."cloudbooth.providers"]
    acme = "cloudbooth_acme:AcmeProvider"

where the value is a callable that takes a `ProviderContext` and returns a `MachineProvider`. A service that takes
hosted jobs and rents nothing stands in the group `cloudbooth.job_providers` and returns a `JobProvider`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from providers.api import MachineProvider
from providers.errors import CloudboothError
from providers.installation import adding
from providers.jobs import JobProvider

GROUP = "cloudbooth.providers"
JOB_GROUP = "cloudbooth.job_providers"


@dataclass(frozen=True)
class ProviderContext:
    """What a provider may know of its surroundings."""

    state_folder: Path
    """Where it may keep records; made when needed, shared by all runs of this installation."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    """Credentials and base URLs are read from here, never from `os.environ`; kept out of the repr for that reason."""
    options: Mapping[str, str | int | None] = field(default_factory=dict)
    """The provider's own section of the spec, `[compute.NAME]`. None and absent mean the same."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The provider's section of the user's config file, `[providers.NAME]`, as TOML has it."""


def installed_providers() -> list[str]:
    """The names, sorted; a broken plug-in is among them, for nothing is imported."""
    return sorted(entry_points(group=GROUP).names)


def takes_jobs(name: str) -> bool:
    """Whether the provider of this name takes hosted jobs, and rents no machines. Nothing is imported."""
    return name in installed_job_providers()


def installed_job_providers() -> list[str]:
    """As `installed_providers`, of those that take hosted jobs."""
    return sorted(entry_points(group=JOB_GROUP).names)


def known_providers() -> list[str]:
    """The names that `compute.provider` may have, sorted: those that rent, and those that take hosted jobs."""
    return sorted({*installed_providers(), *installed_job_providers()})


def nearest_provider(name: str) -> str | None:
    """The known one that a misspelled name was meant to be."""
    near = difflib.get_close_matches(name.strip().lower(), known_providers(), n=1, cutoff=0.5)
    return near[0] if near else None


def unknown_provider(name: str) -> CloudboothError:
    """What to say of a name that no installed package provides."""
    near = nearest_provider(name)
    meant = "" if near is None else f", did you mean {near}"
    hint = f"choose one of them, or add the package that brings it, in the checkout: `{adding('PACKAGE')}`"
    return CloudboothError(
        f'there is no provider "{name}"{meant}; installed are {", ".join(known_providers()) or "none"}',
        hint if near is None else f"`--provider {near}`",
    )


def load_provider(name: str, context: ProviderContext) -> MachineProvider:
    """Imports and builds one provider; the others are not touched, so that a broken plug-in harms no one else.

    Raises CloudboothError for an unknown name and for a plug-in that cannot be imported or is no provider, and
    whatever the provider itself says about its options and credentials.
    """
    entry, provider = _load(name, GROUP, context)
    if not isinstance(provider, MachineProvider):
        raise _broken(entry, f"{entry.value} does not return a MachineProvider")
    return provider


def load_job_provider(name: str, context: ProviderContext) -> JobProvider:
    """As `load_provider`, for one that takes hosted jobs."""
    entry, provider = _load(name, JOB_GROUP, context)
    if not isinstance(provider, JobProvider):
        raise _broken(entry, f"{entry.value} does not return a JobProvider")
    return provider


def _load(name: str, group: str, context: ProviderContext) -> tuple[EntryPoint, object]:
    found = [entry for entry in entry_points(group=group) if entry.name == name]
    if not found and group == GROUP and takes_jobs(name):
        raise CloudboothError(
            f"{name} takes hosted jobs and rents no machines", f"`cloudbooth launch … --provider {name}` trains there"
        )
    if not found:
        raise unknown_provider(name)
    if len({(entry.value, _package(entry)) for entry in found}) > 1:
        owners = ", ".join(sorted(_package(entry) for entry in found))
        raise CloudboothError(f"several packages provide {name!r}: {owners}", "uninstall all but one of these packages")
    entry = found[0]
    try:
        factory = entry.load()
    except Exception as error:  # a foreign module may fail in any way while it is imported
        raise _broken(entry, f"{type(error).__name__}: {error}") from error
    if not callable(factory):
        raise _broken(entry, f"{entry.value} is not callable")
    return entry, factory(context)


def _broken(entry: EntryPoint, reason: str) -> CloudboothError:
    package = _package(entry)
    return CloudboothError(
        f"the provider {entry.name!r} of the package {package} cannot be used: {reason}",
        f"reinstall or remove {package}; other providers are not affected",
    )


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module.partition(".")[0]
