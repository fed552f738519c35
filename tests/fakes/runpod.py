"""RunPod on loopback: REST v2 and the legacy GraphQL of spot, pods that are containers, and a meter.

Every request and answer is held against the published OpenAPI file where it is at hand. What that file does not say was
seen by others and is imitated: RUNNING long before SSH answers, `cost` that stays at its running figure while a pod is
stopped, capacity refused in words with 400 or 500, 429 as JSON and as text, answers that are lost, pods that are listed
late. The bill is counted here, disks included, whatever the product believes.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import graphql

from tests.fakes.openapi import OpenApi
from tests.fakes.pod import START, Meter, Pod

NO_CAPACITY = (
    "There are no longer any instances available with the requested specifications. Please refresh and try again."
)
NO_SPOT_CAPACITY = "There are no instances available with the request specifications. Please try again later."
DATA_CENTER = "EU-SE-1"
NOT_ENOUGH_GPUS = "There are not enough free GPUs on the host machine to start this pod."
LATER_PARAMETERS = frozenset({"cursor", "limit"})
MAX_BODY_BYTES = 102_400
RESTART_PAUSE_S = 0.1

# USD a GB and hour, of what docs.runpod.io says a month costs
CONTAINER_DISK = 0.10 / 720
VOLUME_DISK = 0.10 / 720
STOPPED_VOLUME_DISK = 0.20 / 720

_SPOT_SCHEMA = """
type Query { gpuTypes: [GpuType] }
type GpuType {
  id: String  displayName: String  manufacturer: String  memoryInGb: Int
  lowestPrice(input: GpuLowestPriceInput): LowestPrice
}
input GpuLowestPriceInput { gpuCount: Int  secureCloud: Boolean }
type LowestPrice { minimumBidPrice: Float  uninterruptablePrice: Float  stockStatus: String }
type Pod { id: String }
enum CloudTypeEnum { SECURE COMMUNITY ALL }
input EnvironmentVariableInput { key: String  value: String }
type Mutation { podTerminate(input: PodTerminateInput): Boolean  MUTATION }
input PodTerminateInput { podId: String! }
input PodRentInterruptableInput {
  name: String  imageName: String  bidPerGpu: Float!  cloudType: CloudTypeEnum  gpuTypeId: String  gpuCount: Int
  volumeInGb: Int  containerDiskInGb: Int  volumeMountPath: String  minVcpuCount: Int  minMemoryInGb: Int
  dockerArgs: String  ports: String  supportPublicIp: Boolean  env: [EnvironmentVariableInput]
  allowedCudaVersions: [String]
}
"""


@dataclass(frozen=True)
class Shelf:
    """One line of the catalog. USD an hour and GPU; None: not in that cloud."""

    id: str
    name: str
    memory: int
    secure: float | None
    community: float | None = None
    stock: str = "HIGH"
    bid: float | None = None
    """The lowest that wins."""
    manufacturer: str = "NVIDIA"
    most: int = 8
    data_centers: tuple[str, ...] = (DATA_CENTER,)
    """Of the secure cloud's stock."""


@dataclass(frozen=True)
class NetworkVolume:
    """Its content lies in a folder of the fake, whichever pod has it."""

    id: str
    name: str = "cache"
    size: int = 100
    data_center: str = DATA_CENTER
    tier: str = "STANDARD"

    def as_json(self) -> dict[str, Any]:
        place = {"dataCenter": self.data_center, "type": self.tier}
        return {"id": self.id, "name": self.name, "size": self.size, **place}


SHELVES = (
    Shelf("NVIDIA GeForce RTX 4090", "RTX 4090", 24, 0.69, 0.34, bid=0.21),
    Shelf("NVIDIA RTX A5000", "RTX A5000", 24, 0.27, 0.16, "LOW", bid=0.11),
    Shelf("NVIDIA A40", "A40", 48, 0.44, None, "MEDIUM"),
    Shelf("NVIDIA L40S", "L40S", 48, 0.86, 0.79, "NONE"),
    Shelf("NVIDIA L4", "L4", 24, 0.43, None),
    Shelf("AMD Instinct MI300X OAM", "MI300X", 192, 2.49, None, manufacturer="AMD"),
)


@dataclass
class RentedPod:
    """A pod from its creation on; kept when it is gone."""

    id: str
    name: str
    request: Mapping[str, Any]
    """As REST takes it, for spot pods too."""
    gpu_usd_per_hour: float
    key: str
    """What it may use for itself only."""
    machine: Pod
    meter: Meter
    created_at: float
    status: str = "RUNNING"
    spot: bool = False
    gpus: int = 1
    address: bool = False
    boots: int = 0
    gone_at: float | None = None
    locked: bool = False
    system_log: list[str] = field(default_factory=list)

    @property
    def data_center(self) -> str:
        return str((self.request.get("dataCenterIds") or [DATA_CENTER])[0])

    @property
    def network_volumes(self) -> list[str]:
        return [mount["volumeId"] for mount in self.request.get("mounts", {}).get("network", ())]

    @property
    def volume_gb(self) -> int:
        return int(self.request.get("mounts", {}).get("persistent", {}).get("size", 0))

    def rate_usd_per_hour(self) -> float:
        if self.gone_at is not None:
            return 0.0
        if self.status == "EXITED":
            return self.volume_gb * STOPPED_VOLUME_DISK
        disks = self.request.get("disk", 10) * CONTAINER_DISK + self.volume_gb * VOLUME_DISK
        return self.gpu_usd_per_hour * self.request["gpu"].get("count", 1) + disks


@dataclass
class FakeRunPod:
    """One account. What a test changes at any time stands first; numbers of faults count down as they happen."""

    folder: Path
    shelves: tuple[Shelf, ...] = SHELVES
    volumes: tuple[NetworkVolume, ...] = ()
    """Of the account. Their bill is none of a pod's."""
    real_pods: bool = True
    """False: pods are entries only, for tests that never log in."""
    boot_after_s: float = 0.0
    address_after_s: float = 0.0
    """After the boot."""
    ssh_port: int | None = None
    """Shown as that of every pod, whoever answers there."""
    never_boots: bool = False
    listed_after_s: float = 0.0
    """Since its creation, in no list and no look."""
    shown_after_end_s: float = 0.0
    """As TERMINATED."""
    page_size: int | None = None
    spot_alive: bool = True
    balance_usd: float = 100.0
    refuse_capacity: int = 0
    """Creates and starts to come that find nothing left."""
    capacity_status: int = 400
    start_without_gpu: int = 0
    lose_answers: int = 0
    """Creates to come that rent a pod and break the connection."""
    lose_requests: int = 0
    """Creates to come that rent nothing and break the connection."""
    rate_limits: list[tuple[str, int]] = field(default_factory=list)
    """("json" or "text", Retry-After) of requests to come."""
    server_errors: int = 0
    scopes: frozenset[str] = frozenset({"read", "write"})
    """Of the account's key."""

    account_key: str = field(default_factory=lambda: f"rpa_{secrets.token_hex(20).upper()}")
    url: str = ""
    pods: dict[str, RentedPod] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(method, path with query)."""
    queries: list[str] = field(default_factory=list)
    """GraphQL."""
    problems: list[str] = field(default_factory=list)
    """Where product or fake broke the contract; `running_runpod` fails on any that is left."""
    contract: OpenApi | None = field(default_factory=lambda: OpenApi.read("runpod-v2.openapi.json", LATER_PARAMETERS))
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    closing: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def environ(self) -> dict[str, str]:
        return {"RUNPOD_API_KEY": self.account_key, "RUNPOD_API_URL": self.url, "RUNPOD_API_BASE_URL": self.url}

    def living(self) -> list[RentedPod]:
        return [pod for pod in self.pods.values() if pod.gone_at is None]

    def billed_usd(self) -> float:
        return sum(pod.meter.usd for pod in self.pods.values())

    def preempt(self, pod_id: str) -> None:
        """Without a word: EXITED, as RunPod's spot pods ended. The volume stays."""
        with self.lock:
            self._stop(self.pods[pod_id], "pre-empted")

    # ---- REST --------------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any, key: str) -> Answer:
        """The handler has checked the shape; here is what the service does."""
        parts = path.strip("/").split("/")[1:]
        pod = self.pods.get(unquote(parts[1])) if parts[0] == "pods" and len(parts) > 1 else None
        own = next((pod for pod in self.pods.values() if pod.key == key), None)
        if own is not None and (pod is not own or own.gone_at is not None):
            return problem(403, "access denied")
        if own is None and ("read" if method == "GET" else "write") not in self.scopes:
            return problem(403, "access denied")
        match method, parts:
            case "GET", ["catalog", "gpus"]:
                return Answer(200, {"gpus": self._catalog(query)})
            case "GET", ["billing", "pods"]:
                return Answer(200, self._bill(query))
            case "GET", ["network-volumes"]:
                return Answer(200, {"networkVolumes": [volume.as_json() for volume in self.volumes]})
            case "GET", ["network-volumes", volume_id]:
                found = next((volume for volume in self.volumes if volume.id == volume_id), None)
                return problem(404, "network volume not found") if found is None else Answer(200, found.as_json())
            case "GET", ["pods"]:
                return self._page(query)
            case "POST", ["pods"]:
                return self._create(body)
        if pod is None or not self._is_shown(pod):
            return problem(404, "pod not found")
        if pod.gone_at is not None and method != "GET":
            return problem(404, "pod not found")
        match method, parts[2:]:
            case "GET", []:
                return Answer(200, self._as_json(pod))
            case "PATCH", []:
                return self._patch(pod, body)
            case "DELETE", []:
                self._terminate(pod)
                return Answer(204)
            case "POST", ["action"]:
                return self._act(pod, body["action"])
        return problem(404, "resource not found")

    def log_lines(self, pod_id: str, source: str | None, tail: int) -> list[dict[str, str]] | None:
        """None for a pod that is not there."""
        pod = self.pods.get(pod_id)
        if pod is None or pod.gone_at is not None:
            return None
        stamp = _instant(pod.created_at)
        lines = [{"ts": stamp, "source": "system", "line": line} for line in pod.system_log]
        lines += [{"ts": stamp, "source": "container", "line": line} for line in pod.machine.log.splitlines()]
        return [line for line in lines if source in (None, line["source"])][-tail:] if tail else []

    def _catalog(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        cloud, count = query.get("cloud", "SECURE").lower(), int(query.get("count", "1"))
        found = []
        for shelf in self.shelves:
            line: dict[str, Any] = {
                "id": shelf.id, "name": shelf.name, "pool": None, "manufacturer": shelf.manufacturer,
                "memory": shelf.memory, "secure": shelf.secure is not None, "community": shelf.community is not None,
                "price": {"secure": shelf.secure or 0, "community": shelf.community or 0},
                "maxCount": {"secure": shelf.most, "community": shelf.most},
            }  # fmt: skip
            if "include" in query:
                has_stock = getattr(shelf, cloud) is not None and count <= shelf.most and shelf.stock != "NONE"
                line["availability"] = shelf.stock if has_stock else "NONE"
                if has_stock:
                    line["dataCenters"] = [
                        {"id": place, "name": place, "availability": shelf.stock} for place in shelf.data_centers
                    ]
            found.append(line)
        return found

    def _create(self, body: Mapping[str, Any]) -> Answer:
        if ("gpu" in body) == ("cpu" in body):
            return problem(400, "exactly one of gpu or cpu must be set")
        if len(body.get("mounts", {})) > 1:
            return problem(400, "mounts.persistent and mounts.network are mutually exclusive")
        gpu, cloud = body["gpu"], body.get("cloud", "SECURE").lower()
        shelf = next((shelf for shelf in self.shelves if shelf.id == gpu["id"]), None)
        price = getattr(shelf, cloud) if shelf is not None else None
        refusal = self._volume_refusal(body)
        if refusal:
            return problem(400, refusal)
        if self.balance_usd <= 0:
            return problem(402, "insufficient balance")
        if self.lose_requests:
            self.lose_requests -= 1
            return Answer(0)
        wanted = set(body.get("dataCenterIds") or ())
        somewhere_else = shelf is not None and wanted and not wanted & set(shelf.data_centers)
        if self.refuse_capacity or shelf is None or price is None or shelf.stock == "NONE" or somewhere_else:
            self.refuse_capacity = max(0, self.refuse_capacity - 1)
            return problem(self.capacity_status, NO_CAPACITY)
        pod = self._rent(body, price)
        if self.lose_answers:
            self.lose_answers -= 1
            return Answer(0)
        return Answer(201, self._as_json(pod))

    def _volume_refusal(self, body: Mapping[str, Any]) -> str:
        """A network volume is had in its own data center, in the secure cloud, and nowhere else."""
        for mount in body.get("mounts", {}).get("network", ()):
            volume = next((volume for volume in self.volumes if volume.id == mount["volumeId"]), None)
            if volume is None:
                return f"network volume {mount['volumeId']} not found"
            if body.get("cloud", "SECURE") != "SECURE":
                return "network volumes are available in the secure cloud only"
            if body.get("dataCenterIds") != [volume.data_center]:
                return "the network volume is in another data center"
        return ""

    def _patch(self, pod: RentedPod, body: Mapping[str, Any]) -> Answer:
        pod.locked = body.get("locked", pod.locked)
        pod.name = body.get("name", pod.name)
        if set(body) - {"locked", "name"}:  # an edited pod is reset
            pod.request = {**pod.request, **body}
            self._restart(pod)
        return Answer(200, self._as_json(pod))

    def _act(self, pod: RentedPod, action: str) -> Answer:
        if action not in _actions(pod):
            return problem(409, f"cannot {action} a pod that is {pod.status}")
        match action:
            case "terminate":
                self._terminate(pod)
                return Answer(204)
            case "stop" if pod.locked:
                return problem(400, "pod is locked")
            case "stop":
                self._stop(pod, "stopped by request")
            case "restart":
                self._restart(pod)
            case "start":
                if self.refuse_capacity:
                    self.refuse_capacity -= 1
                    return problem(self.capacity_status, NOT_ENOUGH_GPUS)
                pod.gpus = 0 if self.start_without_gpu else 1
                self.start_without_gpu = max(0, self.start_without_gpu - 1)
                pod.status = "RUNNING"
                self._meter(pod)
                self._boot_later(pod)
        return Answer(200, self._as_json(pod))

    def _page(self, query: Mapping[str, str]) -> Answer:
        shown = [self._as_json(pod) for pod in self.pods.values() if self._is_shown(pod)]
        if self.page_size is None:
            return Answer(200, {"pods": shown})
        try:
            start = int(query.get("cursor", "c0").removeprefix("c"))
        except ValueError:
            return problem(422, "Request validation failed.")
        end = start + self.page_size
        more = end < len(shown)
        pagination = {"nextCursor": f"c{end}" if more else None, "hasNextPage": more}
        return Answer(200, {"pods": shown[start:end], "pagination": pagination})

    def _bill(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Two buckets for each pod, to be added up."""
        window = {"startTime": "2026-10-23T00:00:00Z", "endTime": "2026-11-23T00:00:00Z"}
        records, total = [], 0.0
        for pod in self.pods.values():
            if query.get("podId", pod.id) == pod.id:
                usd = pod.meter.usd
                total += usd
                for part in (0.25 * usd, 0.75 * usd):
                    amounts = {"totalAmount": part, "gpuAmount": part, "cpuAmount": 0, "diskAmount": 0}
                    records.append({**window, "podId": pod.id, **amounts})
        amounts = {"totalAmount": total, "gpuAmount": total, "cpuAmount": 0, "diskAmount": 0}
        metadata = {
            "query": {**window, "bucketSize": "day", "podId": query.get("podId")}, "recordCount": len(records),
            "uniquePodCount": len({record["podId"] for record in records}), "totals": amounts,
        }  # fmt: skip
        return {"records": records, "metadata": metadata}

    def _as_json(self, pod: RentedPod) -> dict[str, Any]:
        request, running = pod.request, pod.status == "RUNNING"
        reachable = running and pod.address and "22/tcp" in request.get("ports", [])
        port = self.ssh_port or pod.machine.port or 22022
        direct = {"host": "127.0.0.1", "port": port, "username": "root", "command": f"ssh root@127.0.0.1 -p {port}"}
        user = f"{pod.id}-64410065"
        proxy = {"host": "ssh.runpod.io", "port": 22, "username": user, "command": f"ssh {user}@ssh.runpod.io"}
        public = {"private": 22, "public": port, "type": "tcp", "ip": "127.0.0.1"}
        internal = {"private": 19123, "public": None, "type": "http", "ip": "100.65.12.3"}
        ports = [internal, public] if reachable else [internal]
        runtime = {"uptime": 3, "gpus": [{"util": 0, "memoryUtil": 0}] * pod.gpus, "ports": ports}
        return {
            "id": pod.id, "name": pod.name, "status": pod.status, "actions": _actions(pod), "image": request["image"],
            "args": request.get("args", ""), "disk": request.get("disk", 10), "mounts": request.get("mounts", {}),
            "ports": request.get("ports", []), "env": dict(request.get("env", {})), "registry": None,
            "gpu": {"id": request["gpu"]["id"], "count": pod.gpus and request["gpu"].get("count", 1)},
            "cloud": request.get("cloud", "SECURE"), "dataCenterId": pod.data_center, "cudaVersion": "12.8",
            "ssh": {"proxy": proxy, "direct": direct if reachable else None}, "template": None,
            "cost": pod.gpu_usd_per_hour * request["gpu"].get("count", 1), "locked": pod.locked,
            "globalNetworking": {"enabled": False}, "runtime": runtime if running and pod.boots else None,
            "createdAt": _instant(pod.created_at), "startedAt": _instant(pod.created_at) if pod.boots else None,
        }  # fmt: skip

    def _is_shown(self, pod: RentedPod) -> bool:
        now = time.time()
        if pod.gone_at is not None:
            return now < pod.gone_at + self.shown_after_end_s
        return now >= pod.created_at + self.listed_after_s

    # ---- a pod's life ------------------------------------------------------------------------------------------------

    def _rent(self, request: Mapping[str, Any], gpu_usd_per_hour: float, *, spot: bool = False) -> RentedPod:
        pod_id = secrets.token_hex(7)
        mounts = request.get("mounts", {})
        network = next(iter(mounts.get("network", ())), None)
        path = (network or mounts.get("persistent", {})).get("path", "/workspace")
        shared = None if network is None else self.folder / "volumes" / network["volumeId"]
        pod = RentedPod(
            pod_id, request["name"], request, gpu_usd_per_hour, f"rpa_{secrets.token_hex(20).upper()}",
            Pod(self.folder / pod_id, path, shared), Meter(), time.time(), spot=spot,
        )  # fmt: skip
        self.pods[pod_id] = pod
        self._meter(pod)
        pod.system_log.append(f"create container {request['image']}")
        if not self.never_boots:
            self._boot_later(pod)
        return pod

    def _boot_later(self, pod: RentedPod, after_s: float | None = None) -> None:
        self._later(self.boot_after_s if after_s is None else after_s, lambda: self._boot(pod))

    def _boot(self, pod: RentedPod) -> None:
        if pod.status != "RUNNING" or pod.machine.runs:
            return
        pod.boots += 1
        pod.system_log.append("start container")
        if self.real_pods:
            pod.machine.exited = lambda: self._container_ended(pod)
            pod.machine.boot(_command(pod.request.get("args", "")), self._environment(pod))
        self._later(self.address_after_s, lambda: setattr(pod, "address", True))

    def _environment(self, pod: RentedPod) -> dict[str, str]:
        own = {
            "RUNPOD_POD_ID": pod.id, "RUNPOD_API_KEY": pod.key, "RUNPOD_DC_ID": pod.data_center,
            "RUNPOD_GPU_COUNT": "1", "RUNPOD_POD_HOSTNAME": f"{pod.id}-64410065", "RUNPOD_PUBLIC_IP": "127.0.0.1",
            "CUDA_VERSION": "12.8.1",
        }  # fmt: skip
        return {**own, **pod.request.get("env", {})}

    def _container_ended(self, pod: RentedPod) -> None:
        """RunPod starts it again, with a new container disk."""
        with self.lock:
            if pod.status == "RUNNING":
                pod.address = False
                pod.system_log.append("container ended")
                self._boot_later(pod, RESTART_PAUSE_S)

    def _restart(self, pod: RentedPod) -> None:
        pod.address = False
        pod.machine.kill()
        self._boot_later(pod)

    def _stop(self, pod: RentedPod, why: str) -> None:
        pod.status, pod.address = "EXITED", False
        pod.system_log.append(why)
        pod.machine.kill()
        self._meter(pod)

    def _terminate(self, pod: RentedPod) -> None:
        pod.status, pod.address, pod.gone_at = "TERMINATED", False, time.time()
        pod.machine.kill()
        self._meter(pod)

    def _meter(self, pod: RentedPod) -> None:
        pod.meter.run_at(pod.rate_usd_per_hour())

    def _later(self, after_s: float, act: Callable[[], None]) -> None:
        def locked() -> None:
            with self.lock:
                if not self.closing.is_set():
                    act()

        if after_s <= 0:
            return locked()
        timer = threading.Timer(after_s, locked)
        timer.daemon = True
        timer.start()
        return None

    # ---- GraphQL -----------------------------------------------------------------------------------------------------

    def graphql(self, query: str) -> dict[str, Any]:
        self.queries.append(query)
        mutation = "podRentInterruptable(input: PodRentInterruptableInput!): Pod" if self.spot_alive else ""
        schema = graphql.build_schema(_SPOT_SCHEMA.replace("MUTATION", mutation))
        result = graphql.graphql_sync(
            schema, query, {"gpuTypes": self._spot_gpus, "podRentInterruptable": self._rent_spot}
        )
        if any(isinstance(error.original_error, ConnectionAbortedError) for error in result.errors or []):
            raise ConnectionAbortedError
        errors = [{"message": error.message} for error in result.errors or []]
        return {"errors": errors, "data": result.data} if errors else {"data": result.data}

    def _spot_gpus(self, _info: object) -> list[dict[str, Any]]:
        def lowest(shelf: Shelf) -> Callable[..., dict[str, Any] | None]:
            def of(_info: object, **arguments: Any) -> dict[str, Any]:
                price = shelf.secure if arguments["input"]["secureCloud"] else shelf.community
                bid = shelf.bid if price is not None and shelf.stock != "NONE" else None
                return {"minimumBidPrice": bid, "stockStatus": shelf.stock.capitalize() if bid else None}

            return of

        return [
            {"id": shelf.id, "displayName": shelf.name, "manufacturer": shelf.manufacturer.capitalize(),
             "memoryInGb": shelf.memory, "lowestPrice": lowest(shelf)}
            for shelf in self.shelves
        ]  # fmt: skip

    def _rent_spot(self, _info: object, **arguments: Any) -> dict[str, Any]:
        given = arguments["input"]
        shelf = next((shelf for shelf in self.shelves if shelf.id == given["gpuTypeId"]), None)
        if self.refuse_capacity or shelf is None or shelf.bid is None or given["bidPerGpu"] < shelf.bid:
            self.refuse_capacity = max(0, self.refuse_capacity - 1)
            raise ValueError(NO_SPOT_CAPACITY)
        request = {
            "name": given["name"], "image": given["imageName"], "cloud": given["cloudType"],
            "gpu": {"id": given["gpuTypeId"], "count": given["gpuCount"]}, "args": given["dockerArgs"],
            "disk": given["containerDiskInGb"], "ports": given["ports"].split(","),
            "mounts": {"persistent": {"size": given["volumeInGb"], "path": given["volumeMountPath"]}},
            "env": {entry["key"]: entry["value"] for entry in given["env"]},
        }  # fmt: skip
        pod = self._rent(request, given["bidPerGpu"], spot=True)
        if self.lose_answers:
            self.lose_answers -= 1
            raise ConnectionAbortedError
        return {"id": pod.id}


@dataclass(frozen=True)
class Answer:
    status: int
    """0: the connection breaks instead."""
    body: Any = None
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def problem(status: int, detail: str, *errors: str, **headers: str) -> Answer:
    titles = {400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
              409: "Conflict", 422: "Unprocessable Entity", 429: "Too Many Requests"}  # fmt: skip
    body: dict[str, Any] = {"title": titles.get(status, "Internal Server Error"), "status": status, "detail": detail}
    if errors:
        body["errors"] = list(errors)
    return Answer(status, body, "application/problem+json", {k.replace("_", "-"): v for k, v in headers.items()})


@contextlib.contextmanager
def running_runpod(folder: Path, **knobs: Any) -> Iterator[FakeRunPod]:
    """Ends every pod when it is left, and fails when anybody broke the contract."""
    fake = FakeRunPod(folder, **knobs)

    class Handler(_Handler):
        runpod = fake

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.closing.set()
        with fake.lock:
            for pod in fake.pods.values():
                pod.machine.kill()
        server.shutdown()
        server.server_close()
        thread.join()
    assert not fake.problems, fake.problems


class _Handler(BaseHTTPRequestHandler):
    runpod: FakeRunPod
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms between its head and its body

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):  # a pod that ends itself does not wait for the answer
            self._serve()

    def _serve(self) -> None:
        fake = self.runpod
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        with fake.lock:
            fake.requests.append((self.command, self.path))
            if url.path == "/graphql":
                return self._graphql(raw, key)
            answer, body, log = self._refusal(raw, key), None, None
            if answer is None:
                body, answer = self._checked(url.path, query, raw)
            if answer is None and url.path.endswith("/logs"):
                log = fake.log_lines(url.path.split("/")[3], query.get("source"), int(query.get("tail", "100")))
            if answer is None and log is None:
                answer = fake.answer(self.command, url.path, query, body, key)
            if answer is not None:
                self._hold_against_contract(url.path, answer)
        return self._stream(log or []) if answer is None else self._send(answer)

    do_POST = do_PATCH = do_DELETE = do_PUT = do_GET  # noqa: N815

    def _refusal(self, raw: bytes, key: str) -> Answer | None:
        """What comes before the request is read."""
        fake = self.runpod
        if self.headers.get("User-Agent", "").startswith(("Python-urllib", "python-httpx")):
            return Answer(403, "error code: 1010", "text/plain")
        if not key:
            return problem(401, "missing bearer token")
        if key != fake.account_key and key not in {pod.key for pod in fake.pods.values()}:
            return problem(401, "invalid api key")
        if fake.rate_limits:
            kind, after_s = fake.rate_limits.pop(0)
            if kind == "text":
                return Answer(429, "error code: 1015", "text/plain", {"Retry-After": str(after_s)})
            return problem(429, "rate limit exceeded for the minute window", Retry_After=str(after_s))
        if fake.server_errors:
            fake.server_errors -= 1
            return Answer(502, "<html><h1>502 Bad Gateway</h1></html>", "text/html")
        return problem(413, "request body too large") if len(raw) > MAX_BODY_BYTES else None

    def _checked(self, path: str, query: Mapping[str, str], raw: bytes) -> tuple[Any, Answer | None]:
        """(the body, None), or what the service says of a request that is not in its contract."""
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            return None, problem(422, "request body is no JSON")
        contract = self.runpod.contract
        found = contract.request_problems(self.command, path, query, body) if contract is not None else []
        if not found:
            return body, None
        self.runpod.problems += [f"{self.command} {path}: {text}" for text in found]
        return body, problem(422, "Request validation failed.", *found)

    def _hold_against_contract(self, path: str, answer: Answer) -> None:
        """Texts from the network before the service, and a pod without a GPU, are not in the contract but were seen."""
        contract = self.runpod.contract
        if contract is None or answer.status == 0 or answer.kind.startswith("text/"):
            return
        found = contract.answer_problems(self.command, path, answer.status, answer.kind, answer.body)
        self.runpod.problems += [
            f"answer {answer.status} to {self.command} {path}: {text}" for text in found if "0 is less than" not in text
        ]

    def _graphql(self, raw: bytes, key: str) -> None:
        if key != self.runpod.account_key:
            return self._send(Answer(401, "Unauthorized", "text/plain"))
        try:
            answered = self.runpod.graphql(json.loads(raw)["query"])
        except ConnectionAbortedError:
            return self._send(Answer(0))
        return self._send(Answer(200, answered))

    def _stream(self, lines: list[dict[str, str]]) -> None:
        """The backlog, and then an open connection, as the service leaves it."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        for number, line in enumerate(lines):
            self.wfile.write(f"id: {line['ts']}/{number:012}\ndata: {json.dumps(line)}\n\n".encode())
        self.wfile.flush()
        self.close_connection = True
        self.runpod.closing.wait(30)

    def _send(self, answer: Answer) -> None:
        if answer.status == 0:
            self.close_connection = True
            return
        payload = b""
        if answer.body is not None:
            payload = (answer.body if isinstance(answer.body, str) else json.dumps(answer.body)).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if payload:
            self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass


def _actions(pod: RentedPod) -> list[str]:
    match pod.status:
        case "RUNNING":
            return ["stop", "restart", "terminate"]
        case "EXITED" | "ERROR":
            return ["start", "terminate"]
        case "TERMINATED":
            return []
    return ["stop", "terminate"]


def _command(args: str) -> list[str]:
    """What the container runs: the image's own, a shell string, or JSON."""
    if not args:
        return [START]
    if args.startswith("{"):
        parsed = json.loads(args)
        return [*parsed.get("entrypoint", []), *parsed.get("cmd", [])]
    return shlex.split(args)


def _instant(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
