"""From a `BootPlan` to the body of `PUT /asks/`. Pure."""

from __future__ import annotations

import base64
import gzip
import shlex
from collections.abc import Mapping

from providers.api import BootPlan
from providers.errors import CloudboothError
from providers.vast.asks import disk_gb

IMAGE = "vastai/pytorch:@vastai-automatic-tag"
"""sshd, Python and a CUDA build of torch; the service resolves the tag to one that the host's driver runs."""
TAG_VARIABLE = "CLOUDBOOTH_TAG"
"""The label, in the container's environment: the probe of self-release writes it back."""
MAX_ONSTART = 4048
MAX_LABEL = 256
MAX_VARIABLE = 256
"""Characters of `NAME=value`."""
MAX_PIECES = 64
PIECE = "CLOUDBOOTH_BOOT_"


def create_body(boot: BootPlan, tag: str, bid_usd: float | None) -> Mapping[str, object]:
    """Without `price` the service rents on demand and does not say so: it is there exactly when a bid is meant.

    Raises CloudboothError for what the service would cut off or refuse.
    """
    if len(tag) > MAX_LABEL:
        raise CloudboothError(f"the tag is longer than the {MAX_LABEL} characters of a label: {tag[:40]}...")
    commands, pieces = onstart(boot.start_command, tag)
    body: dict[str, object] = {
        "client_id": "me",
        "image": boot.image or IMAGE,
        "runtype": "ssh_direct",
        "env": {**boot.env, **pieces, TAG_VARIABLE: tag, "-p 22:22": "1"},
        "onstart": commands,
        "disk": disk_gb(boot.disk_gb),
        "label": tag,
        # Otherwise a bid that cannot start leaves a stopped instance, whose disk bills.
        "cancel_unavail": True,
    }
    if bid_usd is not None:
        body["price"] = bid_usd
    return body


def onstart(start_command: str, tag: str) -> tuple[str, Mapping[str, str]]:
    """The commands of every boot, and variables of the container that hold what the field has no room for.

    A long start command is packed; what is over goes into variables in pieces. It is handed to `sh -c` and not to a
    shell's input, which its children would read from. Raises CloudboothError for one that is far too long.
    """
    # A login would land in tmux. The tag is exported here as well: an empty one in a probe would empty the label.
    before = f"touch ~/.no_auto_tmux\nexport {TAG_VARIABLE}={shlex.quote(tag)}\n"
    if len(before) + len(start_command) <= MAX_ONSTART:
        return before + start_command, {}
    packed = base64.b64encode(gzip.compress(start_command.encode(), mtime=0)).decode()
    names = [f"{PIECE}{number:02}" for number in range(MAX_PIECES)]
    size = MAX_VARIABLE - len(f"{names[0]}=")
    frame = f'{before}sh -c "$(printf %s {{}} | base64 -d | gzip -dc)"'
    used = 0
    while True:
        room = MAX_ONSTART - len(frame.format("".join(f"${name}" for name in names[:used])))
        if len(packed) <= room + used * size:
            break
        used += 1
        if used > MAX_PIECES:
            raise CloudboothError(f"the start command is too long for Vast.ai: {len(start_command)} characters")
    head, rest = packed[:room], packed[room:]
    pieces = {name: rest[start : start + size] for name, start in zip(names, range(0, len(rest), size), strict=False)}
    return frame.format(head + "".join(f"${name}" for name in pieces)), pieces
