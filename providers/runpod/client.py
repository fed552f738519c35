"""HTTP to RunPod's REST v2 and nothing else: each method one bounded exchange, never repeated, never redirected.

The key travels in a header only, and is cut out of whatever the service says back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from providers.errors import CloudboothError, Indeterminate, Transient
from providers.installation import upgrading
from providers.runpod.records import (
    Catalog,
    GpuType,
    LogLine,
    NetworkVolume,
    NetworkVolumes,
    Pod,
    PodBilling,
    PodPage,
)
from providers.runpod.refusals import Effect, Refusal, error_of, reason_of, retry_after_s
from providers.secret import Secret

Record = TypeVar("Record", bound=BaseModel)

BASE_URL = "https://api.runpod.io"
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
CREATE_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
MAX_PAGES = 100
"""Of a list: a cursor that leads in a circle must not hold us forever."""
LOG_LINES = 500
LOGS_IDLE_S = 1.5
"""A log stream never ends by itself; after the backlog there is silence."""
LOGS_DEADLINE_S = 10.0
TEXT_CHARACTERS = 400
"""Of an answer that is shown."""

# Nothing of the request has left this machine when these are raised.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class RunPodClient:
    """Its methods raise what `refusals.error_of` makes of an answer, and Transient when there is none."""

    def __init__(self, key: Secret, base_url: str = BASE_URL) -> None:
        """`base_url` is without `/v2`. No exchange."""
        self._key = key
        self._base_url = base_url
        # Cloudflare has been seen to refuse the user agents of well-known libraries.
        self._http = httpx.Client(timeout=TIMEOUT, headers={"User-Agent": user_agent()}, follow_redirects=False)

    def __repr__(self) -> str:
        return f"RunPodClient({self._base_url})"

    def gpu_types(self, cloud: str, count: int, min_cuda: str) -> list[GpuType]:
        """Every kind of GPU, with its stock for pods of `count` of them in this cloud."""
        query = {"include": "AVAILABILITY", "product": "POD", "minCudaVersion": min_cuda}
        query |= {"cloud": cloud, "count": str(count)}
        return self._ask(Catalog, "reading the catalog", "GET", "/catalog/gpus", query=query).gpus

    def create(self, body: Mapping[str, object]) -> Pod:
        """Exactly one request. Raises Transient when certainly nothing was sent, Indeterminate when that is unsure."""
        return self._ask(Pod, "creating a pod", "POST", "/pods", body=body, effect=Effect.RENTS)

    def pod(self, pod_id: str) -> Pod:
        return self._ask(Pod, "looking at a pod", "GET", f"/pods/{_segment(pod_id)}", machine=pod_id)

    def pods(self) -> list[Pod]:
        """All of the account, over all pages."""
        found: list[Pod] = []
        cursors: list[str] = []
        while len(cursors) < MAX_PAGES:
            query = {"cursor": cursors[-1]} if cursors else {}
            page = self._ask(PodPage, "listing pods", "GET", "/pods", query=query)
            found += page.pods
            cursor = page.pagination.next_cursor
            if not cursor:
                return found
            if cursor in cursors:
                break
            cursors.append(cursor)
        raise Transient("RunPod's list of pods does not end")

    def network_volumes(self) -> list[NetworkVolume]:
        """All of the account; the service knows no pages of them."""
        return self._ask(NetworkVolumes, "listing network volumes", "GET", "/network-volumes").volumes

    def act(self, pod_id: str, action: str) -> Pod:
        """`start` or `stop`. Raises NotInThisStatus when the pod's status forbids it."""
        path, what = f"/pods/{_segment(pod_id)}/action", f"asking a pod to {action}"
        return self._ask(Pod, what, "POST", path, body={"action": action}, machine=pod_id)

    def delete(self, pod_id: str) -> None:
        """Raises MachineGone when there is none."""
        self._exchange("deleting a pod", "DELETE", f"/pods/{_segment(pod_id)}", machine=pod_id)

    def billing(self, pod_id: str) -> PodBilling:
        """Of the last thirty days."""
        return self._ask(PodBilling, "reading the bill", "GET", "/billing/pods", query={"podId": pod_id})

    def logs(self, pod_id: str) -> list[LogLine]:
        """The newest lines of container and system, in their order; bounded by `LOGS_DEADLINE_S`."""
        path, lines = f"/pods/{_segment(pod_id)}/logs", list[LogLine]()
        timeout = httpx.Timeout(LOGS_IDLE_S, connect=TIMEOUT.connect)
        deadline = time.monotonic() + LOGS_DEADLINE_S
        try:
            with self._http.stream(
                "GET", self._url(path), params={"tail": str(LOG_LINES)}, headers=self._headers(), timeout=timeout
            ) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._refused(response, "reading a pod's logs", Effect.NONE_OR_REPEATABLE, pod_id)
                for line in _events(response.iter_lines()):
                    lines.append(line)
                    if time.monotonic() >= deadline:
                        break
        except httpx.ReadTimeout:
            pass
        except httpx.HTTPError as error:
            if not lines:
                raise Transient(f"RunPod does not answer (reading a pod's logs): {_told(error)}") from error
        return lines

    # ---- one exchange ------------------------------------------------------------------------------------------------

    def _ask(
        self,
        record: type[Record],
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        effect: Effect = Effect.NONE_OR_REPEATABLE,
        machine: str | None = None,
    ) -> Record:
        text = self._exchange(what, method, path, query=query, body=body, effect=effect, machine=machine)
        try:
            return record.model_validate_json(text)
        except ValidationError as error:
            problem = f"RunPod's answer cannot be read ({what}): {_first_problem(error)}"
            if effect is Effect.RENTS:
                raise Indeterminate(problem) from error
            if error.errors(include_url=False)[0]["type"] == "json_invalid":  # something in between has answered
                raise Transient(problem) from error
            raise CloudboothError(problem, f"RunPod may have changed its API; {upgrading()}") from error

    def _exchange(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        effect: Effect = Effect.NONE_OR_REPEATABLE,
        machine: str | None = None,
    ) -> str:
        try:
            response = self._http.request(
                method, self._url(path), params=query, json=body, headers=self._headers(),
                timeout=CREATE_TIMEOUT if effect is Effect.RENTS else TIMEOUT,
            )  # fmt: skip
        except _NEVER_SENT as error:
            raise Transient(f"RunPod cannot be reached ({what}): {_told(error)}") from error
        except httpx.HTTPError as error:
            if effect is Effect.RENTS:
                raise Indeterminate(f"RunPod's answer was lost ({what}): {_told(error)}") from error
            raise Transient(f"RunPod does not answer ({what}): {_told(error)}") from error
        if not response.is_success:
            raise self._refused(response, what, effect, machine)
        return response.text

    def _refused(self, response: httpx.Response, what: str, effect: Effect, machine: str | None) -> CloudboothError:
        said, is_structured = reason_of(response.text)
        text = said.replace(self._key.reveal(), "[key]")[:TEXT_CHARACTERS]
        refusal = Refusal(response.status_code, text, retry_after_s(response.headers), is_structured)
        return error_of(refusal, what, effect, machine)

    def _url(self, path: str) -> str:
        return f"{self._base_url}/v2{path}"

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key.reveal()}"}


def user_agent() -> str:
    return f"cloudbooth/{version('cloudbooth')}"


def _segment(pod_id: str) -> str:
    """As one part of a path, whatever it holds."""
    return quote(pod_id, safe="")


def _events(lines: Iterator[str]) -> Iterator[LogLine]:
    """The `data:` of server-sent events. What is no log line is left out."""
    for line in lines:
        if line.startswith("data:"):
            try:
                yield LogLine.model_validate_json(line.removeprefix("data:").strip())
            except ValidationError:
                continue


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'body'}: {first['msg']}"


def _told(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
