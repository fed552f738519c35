"""A model hub that takes commits, on loopback, as `huggingface_hub` speaks to one: repositories, LFS, downloads.

It checks what the real one checks: the token, the sha256 of what was uploaded, that a commit names only such files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "8d7c1c4a5d0f4be79ef1d8f2cbcd4a6f6f4d0a11"


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class WritableHub:
    endpoint: str = ""
    token: str = "hf_writing"
    owner: str = "photographer"
    repos: dict[str, Repo] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    """By sha256."""

    @property
    def environ(self) -> dict[str, str]:
        """Uploads go by LFS: the other way, Xet, is a protocol of its own, and the package chooses it by itself."""
        return {"HF_ENDPOINT": self.endpoint, "HF_WRITE_TOKEN": self.token, "HF_HUB_DISABLE_XET": "1"}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON or bytes, headers)."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        match (method, *parts):
            case ("GET", "api", "whoami-v2"):
                return 200, {"name": self.owner, "type": "user"}, {}
            case ("POST", "api", "repos", "create"):
                return self._create(json.loads(body))
            case ("GET", "api", "models", owner, name, *_rest):
                return self._info(f"{owner}/{name}")
            case ("POST", "api", "validate-yaml"):
                return self._validate(json.loads(body)["content"])
            case ("POST", "api", "models", owner, name, "preupload", "main"):
                modes = [
                    {"path": each["path"], "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                     "shouldIgnore": False}
                    for each in json.loads(body)["files"]
                ]  # fmt: skip
                return 200, {"files": modes}, {}
            case ("POST", _owner, _name, "info", "lfs", "objects", "batch"):
                return self._batch(json.loads(body))
            case ("PUT", "upload", sha256):
                if hashlib.sha256(body).hexdigest() != sha256:
                    return 400, {"error": "the content is not what was announced"}, {}
                self.uploads[sha256] = body
                return 200, {}, {}
            case ("POST", "api", "models", owner, name, "commit", "main"):
                return self._commit(f"{owner}/{name}", body)
            case ("GET" | "HEAD", owner, name, "resolve", _revision, *file):
                return self._file(f"{owner}/{name}", "/".join(file))
        return 404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        owner = asked.get("organization") or self.owner
        repo = f"{owner}/{asked['name']}"
        url = {"url": f"{self.endpoint}/{repo}", "id": repo}
        if repo in self.repos:
            return 409, {"error": "You already created this model repo", **url}, {}
        private = bool(asked.get("private") or asked.get("visibility") == "private")
        self.repos[repo] = Repo(private)
        return 200, url, {}

    def _validate(self, card: str) -> tuple[int, Any, dict[str, str]]:
        """As the hub does: a base is named by its id there."""
        base = re.search(r"^base_model: *(.*)$", card, re.MULTILINE)
        wrong = base is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", base[1])
        errors = (
            [{"message": '"base_model" with value "..." is not valid. Use a model id from the hub.'}] if wrong else []
        )
        return 400 if wrong else 200, {"errors": errors, "warnings": []}, {}

    def _info(self, repo: str) -> tuple[int, Any, dict[str, str]]:
        if repo not in self.repos:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        siblings = [{"rfilename": name} for name in self.repos[repo].files]
        return 200, {"id": repo, "sha": COMMIT, "private": self.repos[repo].private, "siblings": siblings}, {}

    def _batch(self, asked: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        objects = [
            {"oid": each["oid"], "size": each["size"], "authenticated": True,
             "actions": {"upload": {"href": f"{self.endpoint}/upload/{each['oid']}", "header": {}}}}
            for each in asked["objects"]
        ]  # fmt: skip
        return 200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"}

    def _commit(self, repo: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        files = self.repos[repo].files
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            match entry["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if value["oid"] not in self.uploads:
                        return 400, {"error": f"{value['path']} was never uploaded"}, {}
                    files[value["path"]] = self.uploads[value["oid"]]
        return 200, {"commitUrl": f"{self.endpoint}/{repo}/commit/{COMMIT}", "commitOid": COMMIT}, {}

    def _file(self, repo: str, path: str) -> tuple[int, Any, dict[str, str]]:
        content = self.repos[repo].files.get(path) if repo in self.repos else None
        if content is None:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        etag = hashlib.sha256(content).hexdigest()
        return 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}


@contextmanager
def running_writable_hub() -> Iterator[WritableHub]:
    hub = WritableHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            allowed = path.startswith("/upload/") or self.headers.get("Authorization") == f"Bearer {hub.token}"
            status, answer, headers = (
                hub.answer(self.command, path, body) if allowed else (401, {"error": "Invalid credentials"}, {})
            )
            payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(payload)

        do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
