"""Lambda Cloud (https://docs.lambda.ai/api/cloud) as a provider: the whole of what a plug-in has to write.

Written from the published API and tried on a fake of it only. The service has no key that can end just one machine, so
`self_release` is None: cloudbooth then says in its plan what a laptop that never comes back could cost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx

from providers.api import BootPlan, GpuRequest, Machine, MachineId, MachineStatus, Market, Offer, SelfRelease, SshAccess
from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    QuotaExceeded,
    Transient,
    UnsupportedMarket,
)
from providers.registry import ProviderContext
from providers.secret import Secret

STATUS = {"booting": MachineStatus.STARTING, "active": MachineStatus.RUNNING, "terminating": MachineStatus.RELEASING}
GONE = ("terminated", "preempted")
KEY_HINT = "export LAMBDA_API_KEY=… (https://cloud.lambda.ai/api-keys)"


class LambdaProvider:
    name = "lambda"
    markets = frozenset({Market.ON_DEMAND})

    def __init__(self, context: ProviderContext) -> None:
        if not (key := context.environ.get("LAMBDA_API_KEY")):
            raise AuthRejected("there is no key for Lambda Cloud", KEY_HINT)
        self._key = Secret(key, "LAMBDA_API_KEY")
        self._url = context.environ.get("LAMBDA_API_URL", "https://cloud.lambda.ai/api/v1").rstrip("/")
        self._registered_key = context.environ.get("LAMBDA_SSH_KEY_NAME", "cloudbooth")

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        if want.market not in self.markets:
            raise UnsupportedMarket("Lambda rents on demand only", 'market = "on-demand"')
        found = []
        for kind in self._call("GET", "/instance-types").values():
            about, usd = kind["instance_type"], kind["instance_type"]["price_cents_per_hour"] / 100
            gpu, _, memory = about["gpu_description"].partition(" (")  # for example "A10 (24 GB PCIe)"
            vram_gb, count = float(memory.partition(" ")[0] or 0), about["specs"]["gpus"]
            too_dear = want.max_price_per_hour_usd is not None and usd > want.max_price_per_hour_usd
            unwanted = want.gpus and not any(name.casefold() in gpu.casefold() for name in want.gpus)
            if too_dear or unwanted or vram_gb < want.min_vram_gb or count != want.gpu_count:
                continue
            for region in (place["name"] for place in kind["regions_with_capacity_available"]):
                offer = f"{region}/{about['name']}"
                found.append(Offer(self.name, offer, gpu, count, vram_gb, Market.ON_DEMAND, usd, region, "available"))
        return sorted(found, key=lambda offer: offer.price_per_hour_usd)

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        region, _, kind = offer.id.partition("/")
        cloud_init = {"ssh_authorized_keys": [boot.authorized_key], "runcmd": [["sh", "-c", boot.start_command]]}
        body = {
            "region_name": region, "instance_type_name": kind, "name": tag, "ssh_key_names": [self._registered_key],
            "user_data": "#cloud-config\n" + json.dumps(cloud_init),
        }  # fmt: skip
        try:
            return MachineId(self._call("POST", "/instance-operations/launch", body)["instance_ids"][0])
        except Transient as error:
            raise Indeterminate(error.message) from error

    def describe(self, machine: MachineId) -> Machine:
        body = self._call("GET", f"/instances/{machine}")
        if body["status"] in GONE:
            raise MachineGone(f"Lambda has ended the machine {machine}")
        return self._machine(body)

    def list(self, prefix: str) -> Sequence[Machine]:
        living = (body for body in self._call("GET", "/instances") if body["status"] not in GONE)
        return [self._machine(body) for body in living if (body.get("name") or "").startswith(prefix)]

    def release(self, machine: MachineId) -> None:
        try:
            self._call("POST", "/instance-operations/terminate", {"instance_ids": [machine]})
        except MachineGone:
            return

    def self_release(self, offer: Offer) -> SelfRelease | None:
        return None

    def _machine(self, body: dict[str, Any]) -> Machine:
        status, ip = body["status"], body.get("ip")
        access = SshAccess(ip, 22, "ubuntu") if ip and status == "active" else None
        price = body["instance_type"]["price_cents_per_hour"] / 100
        known = STATUS.get(status, MachineStatus.UNKNOWN)
        return Machine(MachineId(body["id"]), body.get("name") or "", known, status, price, access)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self._key.reveal()}", "User-Agent": "cloudbooth-lambda/0.1"}
        try:
            answer = httpx.request(method, self._url + path, json=body, headers=headers, timeout=30)
        except httpx.TransportError as error:
            raise Transient(f"Lambda Cloud does not answer: {error}") from error
        if answer.is_success:
            return answer.json()["data"]
        if answer.status_code in (429, *range(500, 600)):
            wait_s = answer.headers.get("Retry-After", "")
            raise Transient(
                f"Lambda Cloud answers {answer.status_code}", "", float(wait_s) if wait_s.isdigit() else None
            )
        problem = answer.json()["error"]
        kinds = {"insufficient-capacity": NoCapacity, "quota-exceeded": QuotaExceeded, "invalid-api-key": AuthRejected,
                 "object-does-not-exist": MachineGone}  # fmt: skip
        kind = kinds.get(problem["code"].rpartition("/")[2], CloudboothError)
        raise kind(f"Lambda Cloud: {problem['message'].rstrip('.')}", problem.get("suggestion") or KEY_HINT)
