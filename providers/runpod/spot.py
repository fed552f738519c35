"""Spot pods: RunPod's legacy GraphQL mutation, sent through the vendor's package `runpod` (the extra of that name).

REST v2 has no spot field, and the mutation was announced to go. So everything here expects to be refused, and says then
what works instead. The package is imported at the first use (it takes seconds). It pastes values into a query as they
are; ours are escaped here. What it does not tell is the HTTP status: an answer that is no JSON may be anything.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from providers.api import BootPlan, GpuRequest, MachineId
from providers.errors import AuthRejected, CloudboothError, Indeterminate, NoCapacity, Transient, UnsupportedMarket
from providers.installation import installing
from providers.runpod import boot as booting
from providers.runpod.disks import CONTAINER_DISK_GB, volume_gb
from providers.runpod.refusals import Effect, Refusal, error_of
from providers.secret import Secret

BASE_URL = "https://api.runpod.io"
MUTATION = "podRentInterruptable"
INSTEAD = "`--provider vast --spot`, or `--on-demand` with this provider"

_environment_lock = threading.Lock()


class LowestPrice(BaseModel):
    bid_usd: float | None = Field(alias="minimumBidPrice", default=None)
    """For one GPU and hour: what a bid must reach now. None where there is no spot pod of the kind."""
    stock: str | None = Field(alias="stockStatus", default=None)


class SpotGpu(BaseModel):
    id: str
    name: str = Field(alias="displayName")
    manufacturer: str = "NVIDIA"
    memory: float = Field(alias="memoryInGb")
    secure: LowestPrice | None = None
    community: LowestPrice | None = None


class _GpuTypes(BaseModel):
    gpus: list[SpotGpu] = Field(alias="gpuTypes")


class _Rented(BaseModel):
    id: str


class _Rental(BaseModel):
    pod: _Rented | None = Field(alias="podRentInterruptable")


@dataclass(frozen=True)
class Bid:
    """What is to be rented, and the most that is paid for it."""

    gpu: str
    cloud: str
    gpu_count: int
    usd_per_gpu_hour: float


class SpotMarket:
    """Each method is one exchange. Raises CloudboothError, with what to install, where the package is missing."""

    def __init__(self, key: Secret, base_url: str = BASE_URL) -> None:
        """`base_url` is without `/graphql`. No exchange, and no import."""
        self._key = key
        self._base_url = base_url

    def __repr__(self) -> str:
        return f"SpotMarket({self._base_url})"

    def gpus(self, want: GpuRequest) -> Sequence[SpotGpu]:
        """Every kind of GPU with the lowest bid that wins `want.gpu_count` of them now, for each cloud."""
        answer = self._query(prices_query(want.gpu_count), "reading the lowest bids", Effect.NONE_OR_REPEATABLE)
        try:
            return _GpuTypes.model_validate(answer).gpus
        except ValidationError as error:
            raise Transient("RunPod's list of lowest bids cannot be read") from error

    def rent(self, bid: Bid, boot: BootPlan, tag: str) -> MachineId:
        """Exactly one request. Raises NoCapacity, UnsupportedMarket and, when unsure, Indeterminate."""
        answer = self._query(rent_mutation(bid, boot, tag), "renting a spot pod", Effect.RENTS)
        try:
            pod = _Rental.model_validate(answer).pod
        except ValidationError as error:
            raise Indeterminate("RunPod's answer to a spot rental cannot be read") from error
        if pod is None:
            raise Indeterminate("RunPod names no pod in its answer to a spot rental")
        return MachineId(pod.id)

    def _query(self, query: str, what: str, effect: Effect) -> Any:
        """`data` of the answer."""
        run_query, sdk_errors = _vendor_package()
        lost: type[CloudboothError] = Indeterminate if effect is Effect.RENTS else Transient
        try:
            with _base_url_in_environment(self._base_url):
                answer = run_query(query, api_key=self._key.reveal())
        except sdk_errors.AuthenticationError as error:
            raise error_of(Refusal(401, ""), what, effect) from error
        except sdk_errors.QueryError as error:
            raise refused(str(error.message).replace(self._key.reveal(), "[key]"), what, effect) from None
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
        ) as error:  # requests' are OSErrors; the others: no such JSON
            raise lost(f"RunPod's answer was lost ({what}): {type(error).__name__}") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
            raise lost(f"RunPod's answer holds no data ({what})")
        return answer["data"]


def refused(message: str, what: str, effect: Effect) -> CloudboothError:
    """The error behind a message inside a GraphQL answer. Pure."""
    if "cannot query field" in message.casefold() or "unknown type" in message.casefold():
        return UnsupportedMarket(f"RunPod does not rent spot pods any more: {message}", INSTEAD)
    if "unauthorized" in message.casefold() or "not authenticated" in message.casefold():
        return AuthRejected(f"RunPod, {what}: {message}", "spot needs a key with full access to GraphQL")
    lowered = message.casefold()
    if "no instances available" in lowered or "no longer any instances available" in lowered:
        return NoCapacity(f"RunPod has no such spot pod: {message}", f"raise `--max-price`, or {INSTEAD}")
    return error_of(Refusal(400, message), what, effect)


def prices_query(gpu_count: int) -> str:
    fields = "minimumBidPrice stockStatus"
    return (
        "query { gpuTypes { id displayName manufacturer memoryInGb"
        f" secure: lowestPrice(input: {{gpuCount: {gpu_count}, secureCloud: true}}) {{ {fields} }}"
        f" community: lowestPrice(input: {{gpuCount: {gpu_count}, secureCloud: false}}) {{ {fields} }} }} }}"
    )


def rent_mutation(bid: Bid, boot: BootPlan, tag: str) -> str:
    """Pure. Every text in it is escaped; the names of enums come from `Bid.cloud`, which is checked."""
    assert bid.cloud in ("SECURE", "COMMUNITY"), bid.cloud
    env = ", ".join(
        f"{{key: {quoted(key)}, value: {quoted(value)}}}" for key, value in booting.environment(boot).items()
    )
    fields: Mapping[str, str] = {
        "name": quoted(tag),
        "imageName": quoted(booting.image(boot)),
        "bidPerGpu": f"{bid.usd_per_gpu_hour:.4f}",
        "cloudType": bid.cloud,
        "gpuTypeId": quoted(bid.gpu),
        "gpuCount": str(bid.gpu_count),
        "volumeInGb": str(volume_gb(boot.disk_gb)),
        "containerDiskInGb": str(CONTAINER_DISK_GB),
        "volumeMountPath": quoted(booting.VOLUME_PATH),
        "minVcpuCount": "2",
        "minMemoryInGb": "8",
        "dockerArgs": quoted(booting.arguments(boot)),
        "ports": quoted(booting.SSH_PORT),
        "supportPublicIp": "true",
        "env": f"[{env}]",
        **({} if boot.image else {"allowedCudaVersions": f"[{', '.join(map(quoted, booting.CUDA_VERSIONS))}]"}),
    }
    given = ", ".join(f"{name}: {value}" for name, value in fields.items())
    return f"mutation {{ {MUTATION}(input: {{{given}}}) {{ id }} }}"


def quoted(text: str) -> str:
    """A GraphQL string: its escapes are JSON's (GraphQL specification, October 2021, 2.9.4)."""
    return json.dumps(text)


def _vendor_package() -> tuple[Any, Any]:
    try:
        with _logging_as_it_was():
            import runpod.error
            from runpod.api.graphql import run_graphql_query
    except ImportError as error:
        raise CloudboothError(
            "spot on RunPod goes through RunPod's own package, which is not installed",
            f"in the checkout: {installing('runpod')}; or {INSTEAD}",
        ) from error
    return run_graphql_query, runpod.error


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """The package sets up the process's logging while it is imported, and every request would be shown from then on."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {logger: logger.level for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger)}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for logger, before in levels.items():
            logger.setLevel(before)


@contextmanager
def _base_url_in_environment(url: str) -> Iterator[None]:
    """The package reads its base URL from the process's environment, at every call, and from nowhere else."""
    with _environment_lock:
        before = os.environ.get("RUNPOD_API_BASE_URL")
        os.environ["RUNPOD_API_BASE_URL"] = url
        try:
            yield
        finally:
            if before is None:
                del os.environ["RUNPOD_API_BASE_URL"]
            else:
                os.environ["RUNPOD_API_BASE_URL"] = before
