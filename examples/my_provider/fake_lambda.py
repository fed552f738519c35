"""Lambda Cloud on loopback: what the provider uses of it, with its error bodies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "the-key-that-the-fake-accepts"
KINDS = {"gpu_1x_a10": ("A10 (24 GB PCIe)", 75), "gpu_1x_h100_pcie": ("H100 (80 GB PCIe)", 249)}


@dataclass
class FakeLambda:
    url: str = ""
    instances: dict[str, dict[str, Any]] = field(default_factory=dict)
    sold_out: bool = False
    drop_launch_answers: bool = False

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        match method, path.strip("/").split("/"):
            case "GET", ["instance-types"]:
                return 200, {name: self._kind(name) for name in KINDS}
            case "GET", ["instances"]:
                return 200, list(self.instances.values())
            case "GET", ["instances", id_] if id_ in self.instances:
                return 200, self.instances[id_]
            case "POST", ["instance-operations", "launch"]:
                return self._launch(body)
            case "POST", ["instance-operations", "terminate"] if set(body["instance_ids"]) <= set(self.instances):
                for id_ in body["instance_ids"]:
                    self.instances[id_]["status"] = "terminated"
                return 200, {"terminated_instances": body["instance_ids"]}
        return 404, error("global/object-does-not-exist", "Specified instance does not exist.")

    def _launch(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.sold_out:
            return 400, error(
                "instance-operations/launch/insufficient-capacity", "Not enough capacity to fulfill launch."
            )
        assert len(body["ssh_key_names"]) == 1
        assert body["user_data"].startswith("#cloud-config\n")
        id_ = f"{len(self.instances):032x}"
        kind = self._kind(body["instance_type_name"])["instance_type"]
        self.instances[id_] = {
            "id": id_, "name": body["name"], "status": "active", "ip": "192.0.2.7", "instance_type": kind,
        }  # fmt: skip
        return 200, {"instance_ids": [id_]}

    def _kind(self, name: str) -> dict[str, Any]:
        gpu, cents = KINDS[name]
        regions = [] if self.sold_out else [{"name": "us-west-1", "description": "California, USA"}]
        about = {"name": name, "gpu_description": gpu, "price_cents_per_hour": cents, "specs": {"gpus": 1}}
        return {"instance_type": about, "regions_with_capacity_available": regions}


def error(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message, "suggestion": ""}


@contextmanager
def running_fake() -> Iterator[FakeLambda]:
    fake = FakeLambda()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET", {})

        def do_POST(self) -> None:
            self._answer("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, method: str, body: dict[str, Any]) -> None:
            if self.headers["Authorization"] != f"Bearer {KEY}":
                status, content = 401, error("global/invalid-api-key", "API key was invalid, expired, or deleted.")
            else:
                status, content = fake.answer(method, self.path, body)
            if fake.drop_launch_answers and self.path.endswith("/launch"):
                self.close_connection = True
                return
            raw = json.dumps({"data" if status == 200 else "error": content}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *message: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield fake
        server.shutdown()
