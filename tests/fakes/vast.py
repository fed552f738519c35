"""Vast.ai on loopback: a market, an API that holds everybody to its published description, and pods for instances.

Every request and every answer is checked against the OpenAPI file where that is at hand; what the real service is
known to do otherwise stands in `_as_lived`, each with its reason. All that is found is in `FakeVast.violations`, which
must be empty at the end of a test.

Time is real time plus what `advance` has added. Without `pods` an instance is a record; with a folder for them it is a
container whose sshd answers (`tests.fakes.pod`), started as the ssh launch mode does: the platform's keys and sshd
first, then `onstart`.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import operator
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.openapi import CONTRACTS, OpenApi
from tests.fakes.pod import Meter, Pod
from tests.fakes.sshd import sshd_binary

PAGE = 64
LIST_PAGE = 25
THRESHOLDS_S = {"asks": 4.5, "bid_price": 5.5, "destroy": 3.0, "show": 2.0, "list": 1.0, "manage": 1.0, "ssh": 1.0}
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "neq": operator.ne, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt,
    "lte": operator.le, "in": lambda value, of: value in of, "notin": lambda value, of: value not in of,
}  # fmt: skip
_NOT_FILTERS = {"type", "order", "limit", "allocated_storage", "disable_bundling"}

_LAUNCH = f"""#!/bin/sh
mkdir -p -m 700 /root/.ssh
cat /root/.platform_keys >> /root/.ssh/authorized_keys
chmod 600 /root/.ssh/authorized_keys
[ -f /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
mkdir -p /run/sshd && {sshd_binary()} -E /var/log/sshd.log
sh /root/onstart.sh
exec sleep infinity
"""


@dataclass
class Host:
    """One machine on the market, with one offer."""

    machine_id: int
    gpu_name: str = "RTX 4090"
    dph_base: float = 0.40
    min_bid: float = 0.20
    """Raised above an instance's bid, that one is outbid: `FakeVast.set_min_bid`."""
    storage_cost: float = 0.18
    stopped_storage_factor: float = 1.5
    """Many hosts take more for the disk of a stopped instance."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Of the offer, instead of the usual ones."""
    taken: bool = False
    """Rented on demand, by whomever."""

    @property
    def ask_id(self) -> int:
        return 7_000_000 + self.machine_id

    def offer(self, kind: str, disk_gb: float) -> dict[str, Any]:
        base = self.min_bid if kind == "bid" else self.dph_base
        disk_hour = disk_gb * self.storage_cost / 720
        return {
            "id": self.ask_id, "ask_contract_id": self.ask_id, "machine_id": self.machine_id, "host_id": 5,
            "hosting_type": 0, "gpu_name": self.gpu_name, "num_gpus": 1, "gpu_ram": 24564, "gpu_total_ram": 24564,
            "compute_cap": 890, "cuda_max_good": 12.8, "cpu_cores": None, "cpu_ram": 64000, "disk_space": 500.0,
            "dph_base": self.dph_base, "dph_total": base + disk_hour, "min_bid": self.min_bid, "is_bid": kind == "bid",
            "storage_cost": self.storage_cost, "storage_total_cost": disk_hour, "inet_up": 400.0, "inet_down": 800.0,
            "inet_up_cost": 0.02, "inet_down_cost": 0.01, "reliability": 0.99, "reliability2": 0.99,
            "verification": "verified", "verified": True, "external": None, "rentable": True, "rented": self.taken,
            "datacenter": False, "static_ip": True, "public_ipaddr": "203.0.113.42", "direct_port_count": 42,
            "geolocation": None, "duration": 2_000_000.0, "vms_enabled": False, "score": 1.0,
        } | self.fields  # fmt: skip


@dataclass
class Rental:
    """An instance, kept when it is gone."""

    id: int
    host: Host
    label: str
    disk_gb: float
    bid: float | None
    """None: on demand."""
    onstart: str
    env: dict[str, str]
    image: str
    created_at: float
    meter: Meter
    key: str
    """Its CONTAINER_API_KEY."""
    pod: Pod | None = None
    platform_keys: list[str] = field(default_factory=list)
    actual: str | None = None
    intended: str = "running"
    cur: str = "running"
    next: str = "running"
    queued: bool = False
    outbid: bool = False
    gone: bool = False
    boots: int = 0
    looks_since_start: int = 0

    @property
    def base(self) -> float:
        return self.host.dph_base if self.bid is None else self.bid

    @property
    def disk_hour(self) -> float:
        factor = self.host.stopped_storage_factor if self.cur == "stopped" else 1.0
        return self.disk_gb * self.host.storage_cost / 720 * factor


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any
    """A string is sent as text."""
    headers: Mapping[str, str] = field(default_factory=dict)


class Dropped(Exception):
    """The connection ends without an answer."""


@dataclass
class FakeVast:
    pods: Path | None = None
    """Where the pods of the instances live; None: an instance is a record only."""
    url: str = ""
    account_key: str = field(default_factory=lambda: f"account-{secrets.token_hex(16)}")
    hosts: list[Host] = field(
        default_factory=lambda: [Host(n, dph_base=0.36 + n / 25, min_bid=0.16 + n / 25) for n in range(1, 6)]
    )
    rentals: dict[int, Rental] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """`METHOD path`, in order."""
    boot_s: float = 0.0
    """From a start to `running`; until then the disk alone is billed."""
    outbid_kill_s: float = 0.3
    """From an outbid contract to the end of its container: 10 to 30 s in life."""
    visible_after_s: float = 0.0
    """Until then neither look shows a new instance."""
    ports_after_looks: int = 1
    """How many looks at a running instance show no ports yet."""
    ports_in_single_look: bool = True
    ignored_filters: frozenset[str] = frozenset({"inet_down", "gpu_ram"})
    """Numeric filters that this service forgets to apply today."""
    credit: float = 100.0
    lose_creates: int = 0
    """So many answers to a create that worked are lost."""
    low_bids_leak: bool = True
    """A bid below the market is refused and leaves a stopped instance behind."""
    creates_on_demand: bool = False
    """Bids are taken and forgotten: every instance comes on demand."""
    auto_resume: bool = False
    """An outbid instance starts by itself when its bid is the highest again."""
    enforce_rates: bool = False
    logs_after_gets: int = 1
    contract: OpenApi | None = field(default_factory=lambda: _described())
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _offset_s: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _ordinals: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _next_replies: list[tuple[str, Reply]] = field(default_factory=list)
    _last_call: dict[str, float] = field(default_factory=dict)
    _logs: dict[str, tuple[Rental, list[int]]] = field(default_factory=dict)

    # ---- the market's knobs ----------------------------------------------------------------------------------------

    def now(self) -> float:
        return time.time() + self._offset_s

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._offset_s += seconds
            self.run_events()

    def host(self, machine_id: int) -> Host:
        return next(host for host in self.hosts if host.machine_id == machine_id)

    def living(self) -> list[Rental]:
        return [rental for rental in self.rentals.values() if not rental.gone]

    def set_min_bid(self, machine_id: int, usd: float) -> None:
        """Instances below it are outbid; those at or above it may resume, if the service does that today."""
        with self._lock:
            host = self.host(machine_id)
            host.min_bid = usd
            for rental in self.living():
                if rental.host is host and rental.bid is not None:
                    if rental.bid < usd and rental.cur == "running":
                        self.outbid(rental)
                    elif rental.bid >= usd and (rental.queued or (rental.outbid and self.auto_resume)):
                        self._start(rental)

    def outbid(self, rental: Rental) -> None:
        """As the real one does it: the contract stops at once, the container some time later, the disk stays."""
        with self._lock:
            rental.outbid = True
            self._stop_contract(rental)
            self._after(self.outbid_kill_s, lambda: self._end_container(rental))

    def reply_next(self, request: str, reply: Reply) -> None:
        """The next request that begins with `METHOD /path` gets this answer and has no effect."""
        self._next_replies.append((request, reply))

    def billed_usd(self, prefix: str = "") -> float:
        """Of all instances with this label, gone ones included."""
        return sum(rental.meter.usd for rental in self.rentals.values() if rental.label.startswith(prefix))

    def close(self) -> None:
        with self._lock:
            for rental in self.living():
                self._destroy(rental)
            self.run_events(to_the_end=True)

    # ---- the API ---------------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, headers: Mapping[str, str], raw: bytes) -> Reply:
        parts = urlsplit(target)
        path = parts.path.rstrip("/")
        with self._lock:
            self.run_events()
            if path.startswith("/logs/"):
                return self._stored_log(path, headers)
            self.requests.append(f"{method} {path}")
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            try:
                body = json.loads(raw) if raw else None
            except ValueError:
                return Reply(400, {"error": "invalid_request", "msg": "Invalid json body"})
            for wanted, reply in self._next_replies:
                if f"{method} {path}".startswith(wanted):
                    self._next_replies.remove((wanted, reply))
                    return reply
            if "api_key" in query:
                self.violations.append(f"the key is in the URL of {method} {path}")
            if not headers.get("User-Agent", "").startswith("cloudbooth"):
                self.violations.append(f"{method} {path} does not say who asks")
            reply = self._routed(method, path, query, headers, body)
            self._hold_to_the_description(method, path, query, body, reply)
            return reply

    def _hold_to_the_description(
        self, method: str, path: str, query: Mapping[str, str], body: object, reply: Reply
    ) -> None:
        if self.contract is None:
            return
        found = self.contract.request_problems(method, path, query, body)
        if not isinstance(reply.body, str):  # some refusals come as plain text
            found += self.contract.answer_problems(method, path, reply.status, "application/json", reply.body)
        self.violations += [f"{method} {path} {reply.status}: {problem}" for problem in found]

    def _routed(self, method: str, path: str, query: dict[str, str], headers: Mapping[str, str], body: Any) -> Reply:
        word, *ids = _route(method, path)
        bearer = headers.get("Authorization", "").removeprefix("Bearer ")
        if refused := self._unauthorized(bearer, word, int(ids[0]) if ids else None):
            return refused
        if frequent := self._too_frequent(word, bearer):
            return frequent
        match word:
            case "search":
                return self._search(body)
            case "asks":
                return self._create(int(ids[0]), body)
            case "list":
                return self._list(query)
            case "charges":
                return self._charges(query)
            case "unknown":
                return Reply(404, {"error": "not_found", "msg": f"no route {method} {path}"})
        rental = self.rentals.get(int(ids[0]))
        if rental is not None and (rental.gone or not self._visible(rental)):
            rental = None
        if word == "show":
            return self._show(rental)
        if rental is None:
            error = "not_found" if word == "destroy" else "no_such_instance"
            return Reply(404, {"success": False, "error": error, "msg": "Instance with that ID does not exist."})
        match word:
            case "manage":
                return self._manage(rental, body)
            case "destroy":
                self._destroy(rental)
                return Reply(200, {"success": True})
            case "bid_price":
                rental.bid = float(body["price"])
                self._rate(rental)
                return Reply(200, {"success": True})
            case "ssh":
                rental.platform_keys.append(body["ssh_key"])
                return Reply(200, {"success": True, "msg": "SSH key attached successfully"})
            case "logs":
                name = secrets.token_hex(8)
                self._logs[name] = (rental, [0])
                return Reply(200, {"success": True, "result_url": f"{self.url}/logs/{name}.log", "msg": "wait"})
        raise AssertionError(word)

    def _unauthorized(self, bearer: str, word: str, instance: int | None) -> Reply | None:
        if bearer == self.account_key:
            return None
        owner = next((rental for rental in self.living() if rental.key == bearer), None)
        if owner is None:
            if not bearer:
                return Reply(401, {"success": False, "error": "auth_error", "msg": "This action requires login."})
            status = 404 if word in ("search", "charges") else 401
            return Reply(status, {"success": False, "error": "auth_error", "msg": "Invalid user key"})
        if word in ("show", "manage", "destroy") and instance == owner.id:
            return None
        return Reply(401, {"success": False, "error": "auth_error", "msg": "This key may not do that"})

    def _too_frequent(self, word: str, bearer: str) -> Reply | None:
        if not self.enforce_rates or word not in THRESHOLDS_S:
            return None
        now, threshold = self.now(), THRESHOLDS_S[word]
        last = self._last_call.get(f"{word} {bearer}")
        self._last_call[f"{word} {bearer}"] = now
        if last is None or now - last >= threshold:
            return None
        return Reply(429, f"API requests too frequent: endpoint threshold={threshold}")

    def _search(self, body: dict[str, Any]) -> Reply:
        kind, disk_gb = body.get("type", "ondemand"), float(body.get("allocated_storage", 8))
        found = []
        for host in self.hosts:
            offer = host.offer(kind, disk_gb)
            held = any(r.host is host and r.cur == "running" for r in self.living())
            if host.taken or held or not all(
                self._passes(offer, name, wanted) for name, wanted in body.items() if name not in _NOT_FILTERS
            ):  # fmt: skip
                continue
            found.append(offer)
        found.sort(key=lambda offer: offer["dph_total"])
        return Reply(200, {"offers": found[: min(PAGE, int(body.get("limit", PAGE)))]})

    def _passes(self, offer: Mapping[str, Any], name: str, wanted: Mapping[str, Any]) -> bool:
        if name == "id":
            return False  # as lived: matches nothing
        value = offer.get(name)
        if name in self.ignored_filters:
            return True
        if name == "external":
            value = bool(value)
        return all(value is not None and _OPERATORS[sign](value, of) for sign, of in wanted.items())

    def _create(self, ask_id: int, body: dict[str, Any]) -> Reply:
        host = next((host for host in self.hosts if host.ask_id == ask_id), None)
        price = body.get("price")
        if host is None:
            msg = f"error 404/3603: no_such_ask Instance type by id {ask_id} is not available."
            return Reply(404, {"success": False, "error": "invalid_args", "msg": msg, "ask_id": ask_id})
        if self.credit <= 0:
            return Reply(400, {"success": False, "error": "insufficient_credit", "msg": "You are lacking credit."})
        for wrong, msg in (
            (len(body.get("onstart", "")) > 4048, "onstart is too long"),
            (len(body.get("label", "")) > 256, "label is too long"),
            (any(len(f"{name}={value}") > 256 for name, value in body.get("env", {}).items()), "env entry too long"),
            (body.get("disk", 8) < 8, "disk is too small"),
            (not isinstance(body.get("env", {}), dict), "env must be an object"),
            ("-p 22:22" not in body.get("env", {}) and "ssh" not in body.get("runtype", "ssh"), "no way in"),
        ):
            if wrong:
                return Reply(400, {"success": False, "error": "invalid_args", "msg": f"error 400/3467: {msg}"})
        rival = any(
            r.host is host and r.cur == "running" and (r.bid is None or r.bid >= (price or 0)) for r in self.living()
        )
        if host.taken or rival:
            msg = f"error 410/3907: no_such_ask Instance type {ask_id} is no longer available."
            return Reply(410, {"success": False, "error": "no_such_ask", "msg": msg, "ask_id": ask_id})
        too_low = price is not None and price < host.min_bid
        rental = self._rent(host, body, stopped=too_low)
        if too_low:
            refused = {"success": False, "error": "invalid_price", "msg": f"the bid is below {host.min_bid}"}
            if not self.low_bids_leak:
                self._destroy(rental)
                return Reply(400, refused)
            return Reply(400, {**refused, "new_contract": rental.id})
        if self.lose_creates > 0:
            self.lose_creates -= 1
            raise Dropped
        return Reply(200, {"success": True, "new_contract": rental.id})

    def _rent(self, host: Host, body: dict[str, Any], *, stopped: bool) -> Rental:
        ordinal = next(self._ordinals)
        bid = None if self.creates_on_demand else body.get("price")
        env = {name: value for name, value in body.get("env", {}).items() if not name.startswith("-")}
        rental = Rental(
            31_000_000 + ordinal, host, body.get("label", ""), body.get("disk", 8), bid, body.get("onstart", ""),
            env, body["image"], self.now(), Meter(self.now), f"instance-{secrets.token_hex(16)}",
        )  # fmt: skip
        if self.pods is not None:
            rental.pod = Pod(self.pods / str(rental.id), exited=lambda: self._crashed(rental))
        self.rentals[rental.id] = rental
        if stopped:
            self._stop_contract(rental)
        else:
            self._start(rental)
        return rental

    def _list(self, query: dict[str, str]) -> Reply:
        filters = json.loads(query.get("select_filters", "{}"))
        first = int(query.get("after_token", "0"))
        columns = {"id", "label", "actual_status", "gpu_name"}
        if bad := set(filters) - columns:
            msg = f"Error in query parameters: {min(bad)} is not a valid search key"
            return Reply(400, {"error": "invalid_request", "msg": msg})
        rows = [self._record(rental, in_list=True) for rental in self.living() if self._visible(rental)]
        rows = [
            row
            for row in rows
            if all(_OPERATORS[sign](row[name], of) for name, tests in filters.items() for sign, of in tests.items())
        ]
        size = min(LIST_PAGE, int(query.get("limit", LIST_PAGE)))
        page = rows[first : first + size]
        token = str(first + size) if first + size < len(rows) else None
        body = {"success": True, "instances_found": len(page), "total_instances": len(rows), "next_token": token}
        return Reply(200, {**body, "label_counts": {}, "instances": page})

    def _show(self, rental: Rental | None) -> Reply:
        return Reply(200, {"instances": None if rental is None else self._record(rental, in_list=False)})

    def _record(self, rental: Rental, *, in_list: bool) -> dict[str, Any]:
        ports = None
        if rental.actual == "running":
            rental.looks_since_start += 1
            if rental.looks_since_start > self.ports_after_looks and (in_list or self.ports_in_single_look):
                port = str(rental.pod.port if rental.pod else 20_000 + rental.boots)
                ports = {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": port}, {"HostIp": "::", "HostPort": port}]}
        gpu_hour = 0 if rental.cur == "stopped" else rental.base
        prices = {"gpuCostPerHour": gpu_hour, "diskHour": rental.disk_hour, "totalHour": gpu_hour + rental.disk_hour}
        return {
            "id": rental.id, "label": rental.label, "machine_id": rental.host.machine_id, "host_id": 5,
            "is_bid": rental.bid is not None,
            "min_bid": max(rental.host.min_bid, rental.base * 1.2),
            "dph_base": rental.base, "dph_total": rental.base + rental.disk_gb * rental.host.storage_cost / 720,
            "storage_cost": rental.host.storage_cost, "storage_total_cost": rental.disk_hour,
            "actual_status": rental.actual, "intended_status": rental.intended, "cur_state": rental.cur,
            "next_state": rental.next, "status_msg": f"success, running {rental.image}/ssh" if rental.boots else None,
            "public_ipaddr": " 127.0.0.1\n", "ports": ports, "ssh_host": "ssh4.vast.ai", "ssh_port": 10600,
            "direct_port_count": 2, "start_date": rental.created_at, "uptime_mins": None,
            "gpu_name": rental.host.gpu_name, "num_gpus": 1, "gpu_ram": 24564, "disk_space": float(rental.disk_gb),
            "image_uuid": rental.image,
            "image_runtype": "ssh ssh_direc ssh_proxy", "onstart": rental.onstart,
            "extra_env": [[name, value] for name, value in rental.env.items()],
            "instance": prices,
        }  # fmt: skip

    def _manage(self, rental: Rental, body: dict[str, Any]) -> Reply:
        if "label" in body:
            rental.label = body["label"]
        match body.get("state"):
            case "stopped":
                rental.queued = False
                if rental.cur != "stopped" or rental.intended != "stopped":
                    self._stop_contract(rental)
                    self._after(0.0, lambda: self._end_container(rental))
            case "running" if rental.cur == "stopped":
                rival = any(r.host is rental.host and r is not rental and r.cur == "running" for r in self.living())
                if rental.host.taken or rival or (rental.bid is not None and rental.bid < rental.host.min_bid):
                    rental.queued, rental.intended, rental.next = True, "running", "running"
                    msg = "Required resources are currently unavailable, state change queued."
                    return Reply(200, {"success": False, "error": "resources_unavailable", "msg": msg})
                self._start(rental)
        return Reply(200, {"success": True})

    def _charges(self, query: dict[str, str]) -> Reply:
        day = json.loads(query.get("select_filters", "{}")).get("day", {})
        if not {"gte", "lte"} <= set(day):
            msg = "Must provide both 'day' gte and lte filters for instance charges"
            return Reply(400, {"success": False, "msg": msg})
        rows = [
            {
                "start": int(rental.created_at), "end": int(self.now()), "type": "instance",
                "source": f"instance-{rental.id}", "description": f"Instance {rental.id} Charges",
                "amount": round(rental.meter.usd, 3), "metadata": {"label": rental.label}, "items": [],
            }
            for rental in self.rentals.values()
            if rental.meter.usd > 0
        ]  # fmt: skip
        return Reply(
            200, {"success": True, "count": len(rows), "total": len(rows), "next_token": None, "results": rows}
        )

    def _stored_log(self, path: str, headers: Mapping[str, str]) -> Reply:
        if "Authorization" in headers:
            self.violations.append("the key was sent to where logs are stored")
        name = path.removeprefix("/logs/").removesuffix(".log")
        if name not in self._logs:
            return Reply(404, "no such key")
        rental, gets = self._logs[name]
        gets[0] += 1
        if gets[0] <= self.logs_after_gets:
            return Reply(403, "AccessDenied")
        return Reply(200, rental.pod.log if rental.pod else f"{rental.onstart}\n")

    # ---- what happens to instances ---------------------------------------------------------------------------------

    def _visible(self, rental: Rental) -> bool:
        return self.now() - rental.created_at >= self.visible_after_s

    def _rate(self, rental: Rental) -> None:
        """Per hour: nothing when gone, the disk while it loads or is stopped, bid or price besides while it runs."""
        if rental.gone:
            rental.meter.run_at(0.0)
        elif rental.cur == "running" and rental.actual == "running":
            rental.meter.run_at(rental.base + rental.disk_hour)
        else:
            rental.meter.run_at(rental.disk_hour)

    def _start(self, rental: Rental) -> None:
        rental.intended = rental.cur = rental.next = "running"
        rental.queued = rental.outbid = False
        rental.actual = "exited" if rental.boots else "loading"
        rental.looks_since_start = 0
        self._rate(rental)
        self._after(self.boot_s, lambda: self._boot(rental))

    def _boot(self, rental: Rental) -> None:
        if rental.gone or rental.cur != "running" or rental.actual == "running":
            return
        if rental.pod is not None:
            environ = {
                **rental.env, "CONTAINER_ID": str(rental.id), "CONTAINER_API_KEY": rental.key, "GPU_COUNT": "1",
                "VAST_CONTAINERLABEL": f"C.{rental.id}", "PUBLIC_IPADDR": "127.0.0.1", "DATA_DIRECTORY": "/workspace/",
            }  # fmt: skip
            files = {
                "/.launch": _LAUNCH,
                "/root/onstart.sh": rental.onstart,
                "/root/.platform_keys": "".join(f"{key}\n" for key in rental.platform_keys),
            }
            rental.pod.boot(["/.launch"], environ, files, keep=rental.boots > 0)
        rental.boots += 1
        rental.actual = "running"
        self._rate(rental)

    def _stop_contract(self, rental: Rental) -> None:
        rental.intended = rental.cur = rental.next = "stopped"
        if rental.actual is None:
            rental.actual = "created"
        self._rate(rental)

    def _end_container(self, rental: Rental) -> None:
        if rental.cur != "stopped":
            return
        rental.actual = "exited"
        if rental.pod is not None:
            rental.pod.kill()
        self._rate(rental)

    def _crashed(self, rental: Rental) -> None:
        with self._lock:
            rental.actual = "exited"

    def _destroy(self, rental: Rental) -> None:
        rental.gone = True
        self._rate(rental)
        if rental.pod is not None:
            self._after(0.05, rental.pod.kill)  # the answer may have to reach the pod itself

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now() + seconds, next(self._ordinals), act))

    def run_events(self, *, to_the_end: bool = False) -> None:
        with self._lock:
            while self._events and (to_the_end or self._events[0][0] <= self.now()):
                heapq.heappop(self._events)[2]()


def _route(method: str, path: str) -> list[str]:
    """A word for the endpoint, and the id in its path."""
    for word, verb, pattern in (
        ("search", "POST", r"/api/v0/bundles"),
        ("asks", "PUT", r"/api/v0/asks/(\d+)"),
        ("list", "GET", r"/api/v1/instances"),
        ("charges", "GET", r"/api/v0/charges"),
        ("show", "GET", r"/api/v0/instances/(\d+)"),
        ("manage", "PUT", r"/api/v0/instances/(\d+)"),
        ("destroy", "DELETE", r"/api/v0/instances/(\d+)"),
        ("bid_price", "PUT", r"/api/v0/instances/bid_price/(\d+)"),
        ("ssh", "POST", r"/api/v0/instances/(\d+)/ssh"),
        ("logs", "PUT", r"/api/v0/instances/request_logs/(\d+)"),
    ):
        if method == verb and (found := re.fullmatch(pattern, path)):
            return [word, *found.groups()]
    return ["unknown"]


@cache
def _described() -> OpenApi | None:
    """None where the description is not at hand."""
    file = CONTRACTS / "vast-v0.openapi.yaml"
    if not file.exists():
        return None
    import yaml

    document = yaml.load(file.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    _as_lived(document["paths"])
    return OpenApi(document)


def _as_lived(paths: dict[str, Any]) -> None:
    """Where the service and its clients are known to differ from the description."""
    asks = paths["/api/v0/asks/{id}"]["put"]
    fields = asks["requestBody"]["content"]["application/json"]["schema"]["properties"]
    fields["env"] = {"type": "object", "additionalProperties": {"type": "string"}}  # a string is refused today
    fields["client_id"] = {"const": "me"}  # sent by the vendor's own client
    refused = asks["responses"]["400"]["content"]["application/json"]["schema"]["properties"]
    refused["error"]["enum"] += ["insufficient_credit", "no_such_ask"]  # seen by several clients
    refused["new_contract"] = {"type": "integer"}  # a refused bid that made an instance
    asks["responses"]["409"] = asks["responses"]["410"]
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"].setdefault("401", asks["responses"]["401"])  # described for some
            if "application/json" in operation.get("requestBody", {}).get("content", {}):
                # the description lets everything pass that it does not know, and so would every misspelling
                operation["requestBody"]["content"]["application/json"]["schema"]["additionalProperties"] = False
    destroy = paths["/api/v0/instances/{id}"]["delete"]
    destroy["requestBody"] = {"content": {"application/json": {"schema": {"maxProperties": 0}}}}  # the vendor sends {}
    show = paths["/api/v0/instances/{id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    row = paths["/api/v1/instances"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    row["properties"]["instances"]["items"]["required"] = ["id", "label", "actual_status", "cur_state"]
    # null for an unknown instance; ports and environment in the form that the list has
    show["properties"]["instances"] = {"anyOf": [{"type": "null"}, row["properties"]["instances"]["items"]]}
    show["required"] = ["instances"]
    manage = paths["/api/v0/instances/{id}"]["put"]["responses"]["200"]["content"]["application/json"]
    manage["schema"] = {  # a start that is refused is a 200
        "type": "object",
        "properties": {"success": {"type": "boolean"}, "error": {"const": "resources_unavailable"}, "msg": {}},
        "required": ["success"],
    }


@contextlib.contextmanager
def running_vast(fake: FakeVast | None = None) -> Iterator[FakeVast]:
    """Serves until the end, and then ends every pod. The test looks at `violations` itself."""
    vast = fake or FakeVast()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: two wait for each other's acknowledgment, 40 ms

        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                reply = vast.answer(self.command, self.path, self.headers, raw)
            except Dropped:
                self.close_connection = True
                return
            text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            payload = text.encode()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(payload))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815  # the library's names

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    vast.url = f"http://127.0.0.1:{server.server_port}"
    ended = threading.Event()

    def keep_time() -> None:
        while not ended.wait(0.02):
            vast.run_events()

    threads = [threading.Thread(target=run, daemon=True) for run in (partial(server.serve_forever, 0.02), keep_time)]
    for thread in threads:
        thread.start()
    try:
        yield vast
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        for thread in threads:
            thread.join()
        vast.close()
