"""HTTP to Vast.ai and nothing else: one bounded exchange a method, never repeated, never redirected.

The key travels in a header only. `create` tells apart what never left this machine (Transient) from what may have
arrived (Indeterminate); for everything else both are Transient.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from providers.errors import CloudboothError, Indeterminate, MachineGone, Transient
from providers.secret import Secret
from providers.vast.records import Ask, Charge, Instance
from providers.vast.refusals import Answer, refusal

Record = TypeVar("Record", bound=BaseModel)

BASE_URL = "https://console.vast.ai"
USER_AGENT = "cloudbooth"
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
CREATE_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
LIST_PAGE = 25
CHARGES_PAGE = 500
MAX_PAGES = 40
"""Of a list: a token that leads in a circle must not hold us forever."""

# Nothing of the request has left this machine when these are raised.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class VastClient:
    def __init__(self, key: Secret, base_url: str = BASE_URL) -> None:
        self._key = key
        self._base_url = base_url.rstrip("/")
        self._http = httpx.Client(timeout=TIMEOUT, headers={"User-Agent": USER_AGENT}, follow_redirects=False)

    def __repr__(self) -> str:
        return f"VastClient({self._base_url})"

    def search(self, body: Mapping[str, object]) -> list[Ask]:
        """At most 64. Rows that cannot be read are left out: one odd machine must not hide the market."""
        answer = self._require("search offers", "POST", "/api/v0/bundles/", body)
        return [ask for row in _rows(answer, "offers", "search offers") if (ask := _parsed_or_none(Ask, row))]

    def create(self, ask_id: int, body: Mapping[str, object]) -> Answer:
        """Whatever is answered. Raises Transient when certainly nothing was sent, else Indeterminate."""
        try:
            return self._exchange("PUT", f"/api/v0/asks/{ask_id}/", body, timeout=CREATE_TIMEOUT)
        except _NEVER_SENT as error:
            raise Transient(f"Vast.ai cannot be reached (create): {_told(error)}") from error
        except httpx.HTTPError as error:
            raise Indeterminate(f"the answer to a create was lost: {_told(error)}") from error

    def instance(self, instance: int) -> Instance:
        """Raises MachineGone, also for the `null` that stands for an instance which is no more."""
        what = f"show instance {instance}"
        answer = self._require(what, "GET", f"/api/v0/instances/{instance}/")
        if "instances" not in answer.body:
            raise Transient(f"Vast.ai gives an answer that cannot be read ({what})")
        found = answer.body["instances"]
        if isinstance(found, list):
            found = found[0] if found else None
        if found is None:
            raise MachineGone(f"Vast.ai knows no instance {instance}")
        return _parsed(Instance, found, what)

    def instances(self, only: int | None = None) -> list[Instance]:
        """All of the account, or the one with this id; every page."""
        filters = {} if only is None else {"id": {"eq": only}}
        query = {"limit": str(LIST_PAGE), "select_filters": json.dumps(filters)}
        query["order_by"] = json.dumps([{"col": "id", "dir": "asc"}])
        rows = self._pages("show instances", "/api/v1/instances/", query, "instances")
        return [_parsed(Instance, row, "show instances") for row in rows]

    def set_state(self, instance: int, state: Literal["running", "stopped"]) -> Answer:
        """Whatever is answered with a 2xx: a start that is refused and queued comes as 200 with `success: false`."""
        what = f"set instance {instance} {state}"
        return self._require(what, "PUT", f"/api/v0/instances/{instance}/", {"state": state}, accept_false=True)

    def change_bid(self, instance: int, usd_per_hour: float) -> None:
        body = {"client_id": "me", "price": usd_per_hour}
        self._require(f"change the bid of instance {instance}", "PUT", f"/api/v0/instances/bid_price/{instance}/", body)

    def attach_key(self, instance: int, public_key: str) -> None:
        what = f"attach a key to instance {instance}"
        self._require(what, "POST", f"/api/v0/instances/{instance}/ssh/", {"ssh_key": public_key})

    def destroy(self, instance: int) -> None:
        """Raises MachineGone when there is no such instance (any more)."""
        self._require(f"destroy instance {instance}", "DELETE", f"/api/v0/instances/{instance}/", {})

    def request_logs(self, instance: int, tail: int) -> str:
        """The URL at which the service will put them."""
        what = f"show the logs of instance {instance}"
        answer = self._require(what, "PUT", f"/api/v0/instances/request_logs/{instance}/", {"tail": str(tail)})
        return str(answer.body.get("result_url") or "")

    def text_at(self, url: str) -> str | None:
        """What lies at a URL of elsewhere, asked without our key; None while there is nothing."""
        try:
            answer = self._http.get(url)
        except httpx.HTTPError as error:
            raise Transient(f"the logs cannot be fetched: {_told(error)}") from error
        return answer.text if answer.status_code == 200 else None

    def charges(self, since: int, until: int) -> list[Charge]:
        """One row for each contract with costs between these Unix seconds."""
        filters = {"day": {"gte": since, "lte": until}, "type": {"in": ["instance"]}}
        query = {"select_filters": json.dumps(filters), "limit": str(CHARGES_PAGE), "format": "table"}
        rows = self._pages("show charges", "/api/v0/charges/", query, "results")
        return [_parsed(Charge, row, "show charges") for row in rows]

    def _pages(self, what: str, path: str, query: Mapping[str, str], name: str) -> list[object]:
        found: list[object] = []
        token: object = None
        for _ in range(MAX_PAGES):
            page = dict(query) if token is None else {**query, "after_token": str(token)}
            answer = self._require(what, "GET", path, query=page)
            found += _rows(answer, name, what)
            token = answer.body.get("next_token")
            if not token:
                return found
        raise Transient(f"Vast.ai gives ever more pages ({what})")

    def _require(
        self,
        what: str,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        accept_false: bool = False,
    ) -> Answer:
        try:
            answer = self._exchange(method, path, body, query)
        except httpx.HTTPError as error:
            raise Transient(f"Vast.ai does not answer ({what}): {_told(error)}") from error
        if answer.is_success or (accept_false and 200 <= answer.status < 300):
            return answer
        raise refusal(answer, what)

    def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> Answer:
        authorization = {"Authorization": f"Bearer {self._key.reveal()}"}
        try:
            response = self._http.request(
                method, self._base_url + path, json=body, params=query, headers=authorization, timeout=timeout
            )
        except (httpx.InvalidURL, UnicodeError) as error:
            raise CloudboothError(f"{self._base_url!r} is no URL: {error}", "unset VAST_URL") from None
        return Answer(response.status_code, response.text, response.headers.get("Retry-After"))


def _rows(answer: Answer, name: str, what: str) -> list[object]:
    found = answer.body.get(name)
    if not isinstance(found, list):
        raise Transient(f"Vast.ai gives an answer that cannot be read ({what})")
    return found


def _parsed(kind: type[Record], row: object, what: str) -> Record:
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise Transient(f"Vast.ai gives a record that cannot be read ({what}): {field}: {first['msg']}") from None


def _parsed_or_none(kind: type[Record], row: object) -> Record | None:
    try:
        return kind.model_validate(row)
    except ValidationError:
        return None


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
