"""Where the machines of one run meet, and which of them this is. Standard library only, Python 3.9 or later.

The boot plan states it in the machine's environment by the names under which `torchrun` takes its own flags
(PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT), so that it and the supervisor read the same. Services
that rent whole clusters state it by names of theirs (RunPod: NUM_NODES, NODE_RANK, MASTER_ADDR, MASTER_PORT). A login
over SSH sees neither: the start command notes them in a file in memory, from which the supervisor hands them to its
stages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

NOTE_VARIABLE = "CLOUDBOOTH_RENDEZVOUS"
"""Names another file than `NOTE`."""
NOTE = "/dev/shm/cloudbooth-rendezvous"
"""A line `NAME=value` for each variable, of this boot."""
_NAMES = (
    ("PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"),
    ("NUM_NODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
)
DEFAULT_PORT = 29500
"""That of `torchrun`."""


@dataclass(frozen=True)
class Rendezvous:
    nodes: int = 1
    node_rank: int = 0
    """0 … nodes - 1; the first is where the others meet, reports, saves and exports."""
    address: str = "127.0.0.1"
    """Of the first, as all of them reach it."""
    port: Optional[int] = None
    """A free one of the first; None: any, for a machine that is alone."""


ALONE = Rendezvous()


def rendezvous_of(environment: Mapping[str, str]) -> Rendezvous:
    """`ALONE` where nothing is said. Raises ValueError, as words, for what cannot be."""
    names = next((names for names in _NAMES if names[0] in environment), None)
    if names is None:
        return ALONE
    nodes, node_rank, address, port = names
    try:
        found = Rendezvous(
            int(environment[nodes]),
            int(environment.get(node_rank, "0")),
            environment.get(address, ""),
            int(environment.get(port, str(DEFAULT_PORT))),
        )
    except ValueError as error:
        raise ValueError(f"{nodes}, {node_rank} and {port} must be whole numbers: {error}") from None
    if found.nodes == 1:
        return ALONE
    if not 0 <= found.node_rank < found.nodes:
        raise ValueError(f"{node_rank} is {found.node_rank}, and there are {found.nodes} machines")
    if not found.address:
        raise ValueError(f"{nodes} is {found.nodes}, and {address} does not say where they meet")
    return found


def noted() -> dict[str, str]:
    """The variables that the start command noted at this boot; empty where it noted none.

    Anybody may write where the note lies: on a machine with several accounts one of another user is none of ours, and
    no note brings other variables, which a loader or an interpreter would obey.
    """
    note = Path(os.environ.get(NOTE_VARIABLE, NOTE))
    try:
        lines = note.read_text().splitlines() if note.stat().st_uid in (0, os.getuid()) else []
    except (OSError, ValueError):
        return {}
    known = {name for names in _NAMES for name in names}
    return {name: value for name, _, value in (line.partition("=") for line in lines) if name in known}
