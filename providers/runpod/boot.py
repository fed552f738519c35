"""How a pod comes up: its image, its disks, its command line. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from providers.api import BootPlan

IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
"""An official image: sshd, Python 3.12 and a CUDA 12.8 build of torch; present on many hosts already."""
MIN_CUDA = "12.8"
"""What the host's driver must be able to run for it."""
CUDA_VERSIONS = ("12.8", "12.9", "13.0", "13.1", "13.2")
"""The same for GraphQL, which knows exact versions only."""
IMAGE_START = "/start.sh"
"""The official images' own start: it puts `PUBLIC_KEY` in place, starts sshd, and stays."""
VOLUME_PATH = "/workspace"
WORKDIR = f"{VOLUME_PATH}/cloudbooth"
SSH_PORT = "22/tcp"


def image(boot: BootPlan) -> str:
    return boot.image or IMAGE


def environment(boot: BootPlan) -> Mapping[str, str]:
    """With this run's own key, and never with the keys of the account (`startSsh`), which open other machines."""
    return {**boot.env, "PUBLIC_KEY": boot.authorized_key} if boot.authorized_key else dict(boot.env)


def arguments(boot: BootPlan) -> str:
    """The container's command, empty for the image's own.

    A command of ours replaces the image's, so that no sshd would run: hence the `exec` at its end, which is reached
    whatever the start command comes to. The command travels in base64, since what the service and its hosts do with
    quotes, line ends and `{{ }}` inside of `args` is not documented. It is given to sh as an argument and not through
    a pipe, for it to have a stdin that does not hold the next command.
    """
    if not boot.start_command:
        return ""
    encoded = base64.b64encode(boot.start_command.encode()).decode("ascii")
    return f"sh -c 'sh -c \"$(echo {encoded} | base64 -d)\"; exec {IMAGE_START}'"
