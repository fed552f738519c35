"""RunPod as a `MachineProvider`: what its pods, prices and words mean to us.

A pod is rented for a kind of GPU in one of two clouds: SECURE (RunPod's data centers) or COMMUNITY (strangers' hosts).
Its volume at /workspace lives as long as the pod, unless it is a network volume of the account, which outlives pods;
the rest of its disk ends with the container. RunPod's own proxy for SSH carries no files, so a pod is reached at its
public port only, which may change whenever the container starts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import assert_never
from urllib.parse import urlsplit

from providers.api import (
    BootPlan,
    GpuRequest,
    Machine,
    MachineCall,
    MachineId,
    MachineStatus,
    Market,
    Offer,
    SelfRelease,
    SshAccess,
    Volume,
)
from providers.errors import AuthRejected, CloudboothError, MachineGone, NoCapacity
from providers.registry import ProviderContext
from providers.runpod import boot as booting
from providers.runpod import client, disks, spot
from providers.runpod.records import Pod
from providers.runpod.refusals import KEYS_PAGE, NotInThisStatus
from providers.runpod.wares import PROVIDER, Ware, clouds, on_demand_offer, spot_offer
from providers.secret import Secret

KEY_NAME = "RUNPOD_API_KEY"

_STATUS = {
    "PROVISIONING": MachineStatus.STARTING,
    "STARTING": MachineStatus.STARTING,
    "RUNNING": MachineStatus.RUNNING,
    "EXITED": MachineStatus.STOPPED,
    "ERROR": MachineStatus.STOPPED,
}
_TERMINATED = "TERMINATED"
"""A pod that is no more and is shown for a while."""


class RunPodProvider:
    """Options: none. Credentials and base URLs come from the context's environment.

    Raises AuthRejected for a key that is missing or malformed, before any exchange.
    """

    name = PROVIDER
    markets = frozenset({Market.ON_DEMAND, Market.SPOT})
    stopped_disk_may_vanish = False
    """The volume of a stopped pod is kept. Its host's GPUs are not: `start` may find none free for a while."""

    def __init__(self, context: ProviderContext) -> None:
        key = _key(context.environ.get(KEY_NAME, ""))
        self._base_url = _base_url(context.environ.get("RUNPOD_API_URL", ""), "RUNPOD_API_URL") or client.BASE_URL
        graphql_url = _base_url(context.environ.get("RUNPOD_API_BASE_URL", ""), "RUNPOD_API_BASE_URL") or spot.BASE_URL
        self._client = client.RunPodClient(key, self._base_url)
        self._spot = spot.SpotMarket(key, graphql_url)

    # ---- offers ------------------------------------------------------------------------------------------------------

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        """One offer for each kind of GPU and cloud with stock. On the spot market its price is the lowest bid now.

        None on the spot market for a request with a network volume: the legacy interface is not used for that. Raises
        NoCapacity when the account has no such volume.
        """
        match want.market:
            case Market.SPOT if want.volume:
                return []
            case Market.ON_DEMAND:
                place = self._data_center(want.volume) if want.volume else ""
                found = [
                    offer
                    for cloud in clouds(want)
                    for gpu in self._client.gpu_types(cloud, want.gpu_count, booting.MIN_CUDA)
                    if (offer := on_demand_offer(gpu, cloud, want, place)) is not None
                ]
            case Market.SPOT:
                found = [
                    offer
                    for gpu in self._spot.gpus(want)
                    for cloud in clouds(want)
                    if (offer := spot_offer(gpu, cloud, want)) is not None
                ]
            case _:
                assert_never(want.market)
        limit = want.max_price_per_hour_usd
        affordable = [offer for offer in found if limit is None or offer.price_per_hour_usd <= limit]
        return sorted(affordable, key=lambda offer: offer.price_per_hour_usd)

    # ---- one machine's life ------------------------------------------------------------------------------------------

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        """The tag is the pod's name. A spot pod is bid for with the offer's price, never with more."""
        if offer.provider != self.name:
            raise NoCapacity(f"the offer {offer.id} is one of {offer.provider}, not of {self.name}")
        ware = Ware.from_id(offer.id)
        if bool(ware.data_center) is not bool(boot.volume):
            raise NoCapacity(f"the offer {offer.id} was made for {'a' if ware.data_center else 'no'} network volume")
        if ware.bid_usd is None:
            return MachineId(self._client.create(_creation(ware, boot, tag)).id)
        return self._spot.rent(spot.Bid(ware.gpu, ware.cloud, ware.gpu_count, ware.bid_usd), boot, tag)

    def describe(self, machine: MachineId) -> Machine:
        pod = self._client.pod(machine)
        if pod.status == _TERMINATED:
            raise MachineGone(f"RunPod has terminated the pod {machine}")
        return _machine(pod)

    def list(self, prefix: str) -> Sequence[Machine]:
        return [_machine(pod) for pod in self._living() if pod.name.startswith(prefix)]

    def release(self, machine: MachineId) -> None:
        try:
            self._client.delete(machine)
        except MachineGone:
            return

    def self_release(self, offer: Offer) -> SelfRelease:
        """With the key that RunPod gives each pod for itself.

        The probe unlocks a pod that is not locked: a write that changes nothing. Neither that key's rights on REST v2
        nor that the probe leaves the container alone have been seen on the real service. A pod with a network volume
        stops by its end, which costs nothing but the container; whether it can be stopped otherwise is not documented.
        """
        pod = f"{self._base_url}/v2/pods/${{RUNPOD_POD_ID}}"
        # a user agent of our own, since Cloudflare has been seen to refuse those of well-known libraries
        headers = {"Authorization": "Bearer ${RUNPOD_API_KEY}", "User-Agent": client.user_agent()}
        with_body = {**headers, "Content-Type": "application/json"}
        terminate = MachineCall("DELETE", pod, headers)
        stop = MachineCall("POST", f"{pod}/action", with_body, '{"action": "stop"}')
        return SelfRelease(
            terminate=terminate,
            probe=MachineCall("PATCH", pod, with_body, '{"locked": false}'),
            stop=terminate if Ware.from_id(offer.id).data_center else stop,
        )

    # ---- optional abilities ------------------------------------------------------------------------------------------

    def stop(self, machine: MachineId) -> None:
        try:
            self._client.act(machine, "stop")
        except NotInThisStatus:
            if self.describe(machine).status is not MachineStatus.STOPPED:
                raise

    def start(self, machine: MachineId) -> None:
        """A pod that comes back without a GPU, as RunPod's may, is stopped again."""
        try:
            pod = self._client.act(machine, "start")
        except NotInThisStatus:
            pod = self._client.pod(machine)
            if _STATUS.get(pod.status) not in (MachineStatus.STARTING, MachineStatus.RUNNING):
                raise
        if pod.gpu is not None and pod.gpu.count == 0:
            self.stop(machine)
            raise NoCapacity("the pod's host has no free GPU now", "wait a while, or go on with another machine")

    def volumes(self) -> Sequence[Volume]:
        mounted = [(mount.volume_id, pod.name) for pod in self._living() for mount in pod.mounts.network]
        return [
            Volume(
                id=volume.id,
                name=volume.name,
                region=volume.data_center,
                size_gb=volume.size,
                usd_per_month=disks.network_usd_per_month(volume.size) if volume.tier == "STANDARD" else None,
                mounted_by=tuple(name for volume_id, name in mounted if volume_id == volume.id),
            )
            for volume in self._client.network_volumes()
        ]

    def logs(self, machine: MachineId) -> str:
        lines = sorted(self._client.logs(machine), key=lambda line: line.ts)
        return "".join(f"{line.ts} {line.source}: {line.line}\n" for line in lines)

    def billed_usd(self, machine: MachineId) -> float | None:
        """Of the last thirty days. How far the service's bill lags behind is not known."""
        records = self._client.billing(machine).records
        return sum(record.total_usd for record in records) if records else None

    # ---- steps -------------------------------------------------------------------------------------------------------

    def _living(self) -> Sequence[Pod]:
        return [pod for pod in self._client.pods() if pod.status != _TERMINATED]

    def _data_center(self, volume_id: str) -> str:
        for volume in self._client.network_volumes():
            if volume.id == volume_id:
                return volume.data_center
        raise NoCapacity(f"RunPod has no network volume {volume_id} in this account", "leave compute.volume out")


def _creation(ware: Ware, boot: BootPlan, tag: str) -> dict[str, object]:
    """The body of `POST /v2/pods`."""
    gpu: dict[str, object] = {"id": ware.gpu, "count": ware.gpu_count}
    if not boot.image:
        gpu["minCudaVersion"] = booting.MIN_CUDA
    body: dict[str, object] = {
        "name": tag,
        "image": booting.image(boot),
        "gpu": gpu,
        "cloud": ware.cloud,
        "disk": disks.CONTAINER_DISK_GB,
        "mounts": _mounts(boot),
        "ports": [booting.SSH_PORT],
        "env": dict(booting.environment(boot)),
    }
    if ware.data_center:
        body["dataCenterIds"] = [ware.data_center]
    arguments = booting.arguments(boot)
    return {**body, "args": arguments} if arguments else body


def _mounts(boot: BootPlan) -> dict[str, object]:
    if boot.volume:
        return {"network": [{"volumeId": boot.volume, "path": booting.VOLUME_PATH}]}
    return {"persistent": {"size": disks.volume_gb(boot.disk_gb), "path": booting.VOLUME_PATH}}


def _machine(pod: Pod) -> Machine:
    status = _STATUS.get(pod.status, MachineStatus.UNKNOWN)
    direct = pod.ssh.direct
    return Machine(
        id=MachineId(pod.id),
        tag=pod.name,
        status=status,
        status_text=pod.status,
        price_per_hour_usd=_price_usd_per_hour(pod, status),
        access=None
        if direct is None
        else SshAccess(host=direct.host, port=direct.port, user=direct.username, workdir=booting.WORKDIR),
    )


def _price_usd_per_hour(pod: Pod, status: MachineStatus) -> float:
    """`cost` is taken to leave the disks out, which nobody has confirmed; if it holds them, this is a cent too high."""
    volume_gb = pod.mounts.persistent.size if pod.mounts.persistent is not None else 0.0
    if status is MachineStatus.STOPPED:
        return disks.stopped_usd_per_hour(volume_gb)
    return pod.cost + disks.running_usd_per_hour(pod.disk, volume_gb)


def _key(value: str) -> Secret:
    key = value.strip()
    hint = f"make a key at {KEYS_PAGE} and `export {KEY_NAME}=...`"
    if not key:
        raise AuthRejected(f"RunPod needs a key: {KEY_NAME} is not set", hint)
    if not re.fullmatch(r"[!-~]+", key):
        raise AuthRejected(f"{KEY_NAME} holds a space, a line break or a letter that no key has", hint)
    return Secret(key, KEY_NAME)


def _base_url(value: str, name: str) -> str:
    """Without the parts that we add; empty stays empty. Raises CloudboothError rather than send a key in the clear."""
    url = value.strip().rstrip("/").removesuffix("/v2").removesuffix("/graphql")
    parts = urlsplit(url)
    is_own = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if url and not (parts.scheme == "https" or (parts.scheme == "http" and is_own)):
        raise CloudboothError(f"{name} is no https address: {value}", f"unset {name}, or `export {name}=https://...`")
    return url
