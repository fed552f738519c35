"""What can be checked for free before a run exists: the machine, if it stands already, and the place of the result."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

from orchestrator.code_bundle import trainer_code
from orchestrator.errors import UsageError
from orchestrator.host import HostError
from orchestrator.phases.context import Connect
from orchestrator.plan import StandingMachine
from orchestrator.remote_run import probe
from providers.api import HasStandingMachine, MachineProvider

MIN_FREE_BYTES = 200 * 2**20
"""Below this not even the smallest run fits: code, photos, one checkpoint of a tiny model."""


def look_at_machine(provider: MachineProvider, connect: Connect, needed_bytes: int) -> StandingMachine | None:
    """None when the machine is yet to be rented. Raises HostError when it cannot be used as it is."""
    if not isinstance(provider, HasStandingMachine):
        return None
    access = provider.access()
    host = connect(access)
    try:
        facts = probe(host, access, trainer_code())
        label = host.label
    finally:
        host.close()
    needed = max(needed_bytes, MIN_FREE_BYTES)
    if facts.free_bytes < needed:
        raise HostError(
            f"{label} has {facts.free_bytes / 1e9:.1f} GB free in {facts.workdir}, the run needs {needed / 1e9:.1f} GB",
            "free some space there, or choose another disk: `--set compute.ssh.workdir=/mnt/big/cloudbooth`",
        )
    return StandingMachine(label, facts.workdir, facts.has_gpu, facts.has_environment, facts.free_bytes / 1e9)


def check_output_folder(folder: Path, name: str) -> None:
    """Raises UsageError when the model could not be put there, or something is there already."""
    target = folder / name
    if target.exists():
        raise UsageError(
            f"{target} exists already", f"choose another name: `--name {name}-2`, or another `--set output.folder=…`"
        )
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UsageError(f"{nearest} is a file, the model needs a folder", "`--set output.folder=models`")
    try:
        tempfile.TemporaryDirectory(dir=nearest, prefix=".cloudbooth-").cleanup()  # os.access knows permissions only
    except OSError as error:
        raise UsageError(
            f"{nearest} cannot be written: {(error.strerror or str(error)).lower()}",
            "choose another folder: `--set output.folder=…`",
        ) from None


def require_new_folder(folder: Path) -> None:
    """Of a verb that takes `--to`. Raises UsageError when something is there, or nothing could be."""
    if folder.exists():
        raise UsageError(f"{folder} exists already", f"another folder: `--to {shlex.quote(f'{folder}-2')}`")
    try:
        check_output_folder(folder.parent, folder.name)
    except UsageError as error:
        raise UsageError(error.message, "another folder: `--to FOLDER`") from None
