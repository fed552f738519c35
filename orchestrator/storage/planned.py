"""What a plan says about the store: who fills it, for how long what is lent is good, and what that leaves open."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.storage.api import ObjectStore, Presigns
from remote_trainer.wire import Warned

HOUR_S = 3600.0


@dataclass(frozen=True)
class StoragePlan:
    url: str
    lent_for_s: float | None
    """How long the uploads that are lent to the machine are good; None when it is this laptop that fills the store."""
    lent_for_why: str
    hands_over_keys: bool
    host: str = ""
    """In what is lent: the name or address at which the machine will look for the store."""


def plan_storage(store: ObjectStore, *, pod_credentials: bool) -> StoragePlan:
    """Raises StorageRefused without credentials. No exchange with the store."""
    if not isinstance(store, Presigns):
        return StoragePlan(store.url, None, "", hands_over_keys=False)
    limit = store.presign_limit()
    host = urlsplit(store.presign_put("probe", HOUR_S)).hostname or ""
    return StoragePlan(store.url, limit.seconds, limit.why, pod_credentials, host)


def storage_warnings(planned: StoragePlan, deadline_s: float | None, *, rented: bool) -> list[Warned]:
    """`deadline_s`: after which the machine ends the run by itself."""
    warnings = []
    if planned.hands_over_keys:
        warnings.append(
            Warned(
                f"the keys of {planned.url} go to the machine: whoever owns it can read them",
                "leave out `--pod-credentials` where the store can presign, or use keys that may only write there",
            )
        )
    if planned.lent_for_s is None and rented:
        warnings.append(
            Warned(
                f"{planned.url} is filled by this laptop: a lost machine takes along what has not come home",
                "s3://… is filled by the machine itself, also while this laptop is away",
            )
        )
    if rented and is_local(planned.host):
        warnings.append(
            Warned(
                f"{planned.host} is an address of this laptop or its network: a rented machine will not reach it, and "
                "ends the run before it trains",
                "`--set storage.endpoint_url=https://…` with a name that the internet knows",
            )
        )
    longest_s = deadline_s if deadline_s is not None else 24 * HOUR_S
    if planned.lent_for_s is not None and planned.lent_for_s < longest_s:
        warnings.append(
            Warned(
                f"what the machine may upload with is good for {planned.lent_for_s / HOUR_S:.1f} h "
                f"({planned.lent_for_why}), and the run may take {longest_s / HOUR_S:.1f} h: "
                "a laptop that is away so long finds later checkpoints on the machine only",
                "use keys of your own instead of temporary ones, or come back in time: `cloudbooth attach` renews it",
            )
        )
    return warnings


def is_local(host: str) -> bool:
    """Whether a name or address means something on one machine or in one network only, as far as it shows."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".lan", ".internal"))
