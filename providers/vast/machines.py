"""From an instance's record to a `Machine`. Pure.

Four words describe one instance: `actual_status` (the container), `intended_status` (what somebody asked for),
`cur_state` and `next_state` (the contract). An outbid instance is one whose contract was stopped while nobody of ours
asked for it; its container lives for another 10 to 30 s, its disk stays and bills.
"""

from __future__ import annotations

from providers.api import Machine, MachineId, MachineStatus, SshAccess
from providers.vast.asks import WORKDIR
from providers.vast.records import Instance

USER = "root"

_COMING = frozenset({"created", "loading", "rebooting"})
_GOING = frozenset({"running", "frozen"})
"""Frozen: paused by its host, the GPU billed as ever."""


_NOT_UP_YET = frozenset({None, "created", "loading"})
_BOOT_FAILURES = (
    "error response from daemon", "failed to pull image", "manifest unknown", "unauthorized",
    "no space left on device", "unexpected eof", "oci runtime create failed",
)  # fmt: skip
"""In `status_msg`, in any case: the host has given up, though the status words may go on for as long as one waits."""


def as_machine(record: Instance) -> Machine:
    status = machine_status(record)
    return Machine(
        id=MachineId(str(record.id)),
        tag=record.label or "",
        status=status,
        status_text=status_text(record),
        price_per_hour_usd=round(price_per_hour_usd(record), 6),  # as offers are
        access=None if status is MachineStatus.STOPPED else access(record),
    )


def machine_status(record: Instance) -> MachineStatus:
    """STOPPED as soon as the contract says so: nothing that the container still does will be kept."""
    if _gave_up_at_boot(record):
        return MachineStatus.FAILED
    if _is_stopped(record):
        return MachineStatus.STOPPED
    if record.actual_status is None or record.actual_status in _COMING:
        return MachineStatus.STARTING
    if record.actual_status in _GOING:
        return MachineStatus.RUNNING
    if record.actual_status in ("exited", "stopped"):
        return MachineStatus.STARTING  # a start reads so for minutes; a crashed container does, too
    return MachineStatus.UNKNOWN


def _is_stopped(record: Instance) -> bool:
    return "stopped" in (record.intended_status, record.cur_state)


def _gave_up_at_boot(record: Instance) -> bool:
    said = (record.status_msg or "").casefold()
    return record.actual_status in _NOT_UP_YET and any(text in said for text in _BOOT_FAILURES)


def status_text(record: Instance) -> str:
    """The service's words, the message included where it says what the word does not."""
    word = record.actual_status or "provisioning"
    if record.intended_status == "stopped":
        word = f"{word}, outbid or stopped" if record.is_bid else f"{word}, stopped"
    elif record.cur_state == "stopped":
        word = f"{word}, start queued"
    message = " ".join((record.status_msg or "").split())
    return word if not message or message.startswith("success") else f"{word}: {message[:200]}"


def price_per_hour_usd(record: Instance) -> float:
    """Of a stopped instance its disk alone, which some hosts charge more for than while it runs."""
    disk = record.storage_total_cost or 0.0
    if _is_stopped(record):
        stated = record.instance
        if stated is not None and stated.diskHour is not None and not stated.gpuCostPerHour:
            return stated.diskHour
        return disk
    return record.dph_total if record.dph_total is not None else (record.dph_base or 0.0) + disk


def access(record: Instance) -> SshAccess | None:
    """Direct, not through the service's proxy. None until address and port are both published."""
    host = (record.public_ipaddr or "").strip()
    port = ssh_port(record.ports)
    if not host or port is None:
        return None
    return SshAccess(host=host, port=port, user=USER, workdir=WORKDIR)


def ssh_port(ports: object) -> int | None:
    """The host's side of port 22, given as docker gives it: a list with an entry for each address family."""
    bindings = ports.get("22/tcp") if isinstance(ports, dict) else None
    for binding in bindings if isinstance(bindings, list) else []:
        text = str(binding.get("HostPort", "")) if isinstance(binding, dict) else ""
        if text.isdecimal() and 0 < int(text) < 65536:
            return int(text)
    return None
