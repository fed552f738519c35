"""A model hub on loopback that answers as the real one does, error codes in headers included."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"


@dataclass
class FakeHub:
    """Knows `open/diffusers`, `open/words`, `open/florence2`, `open/clip` (no diffusers), `gated/base`, `private/base`.

    The token `good` opens the last two; `broken` answers 503 to everything.
    """

    endpoint: str = ""
    broken: bool = False
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, token: str) -> tuple[int, str, object]:
        """(status, X-Error-Code, body)."""
        self.asked.append(f"{method} {path}")
        if self.broken:
            return 503, "", None
        parts = path.strip("/").split("/")
        if parts == ["api", "whoami-v2"]:
            known = token in ("good", "writing")
            role = "write" if token == "writing" else "read"
            return (200, "", {"auth": {"accessToken": {"role": role}}}) if known else (401, "", None)
        if parts[:2] == ["api", "models"] and len(parts) == 4:
            return self._info("/".join(parts[2:4]), "main", token)
        if parts[:2] == ["api", "models"] and len(parts) == 6 and parts[4] == "revision":
            return self._info("/".join(parts[2:4]), unquote(parts[5]), token)
        if len(parts) == 5 and parts[2] == "resolve":
            denied = parts[0] == "gated" and token != "good"
            return (403 if token else 401, "GatedRepo", None) if denied else (200, "", None)
        return 404, "", None

    def _info(self, repo: str, revision: str, token: str) -> tuple[int, str, object]:
        files = ["README.md", "model_index.json"]
        match repo:
            case "open/diffusers" | "open/large" | "gated/base":
                pass
            case "open/florence2" | "open/clip":
                files = ["config.json", "model.safetensors"]
            case "open/words":
                files = ["README.md", "config.json"]
            case "private/base" if token == "good":
                pass
            case _:
                return (404 if token else 401), "RepoNotFound", None
        if revision not in ("main", "v1", COMMIT):
            return 404, "RevisionNotFound", None
        gated = "manual" if repo.startswith("gated/") else False
        info = {"sha": COMMIT, "gated": gated, "siblings": [{"rfilename": name} for name in files]}
        if repo == "open/large":
            info["config"] = {"diffusers": {"_class_name": "StableDiffusionXLPipeline"}}
        if repo in ("open/florence2", "open/clip"):
            info["config"] = {"model_type": repo.partition("/")[2]}
        return 200, "", info


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, code, body = hub.answer(self.command, self.path, token)
            payload = json.dumps(body).encode() if body is not None else b""
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(payload)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
