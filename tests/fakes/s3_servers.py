"""S3 servers as child processes on loopback: three programs by other people, each strict about something else.

nanio checks signatures, moto part sizes and conditional writes, rclone is a second implementation that checks
signatures and MD5.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY = "AKIDCLOUDBOOTHTESTS"
SECRET_KEY = "the-secret-that-must-not-travel-0123456789"
START_DEADLINE_S = 120.0


@dataclass(frozen=True)
class S3Server:
    name: str
    endpoint_url: str
    environ: dict[str, str]
    """What a client of it needs in its environment."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running_s3(name: str, folder: Path, port: int | None = None) -> Iterator[S3Server]:
    """`nanio`, `moto` or `rclone`, answering on loopback, with its data in `folder` and a bucket `bucket`."""
    port = port or free_port()
    (folder / "data" / "bucket").mkdir(parents=True, exist_ok=True)
    environ = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": "us-east-1"}
    argv = _argv(name, folder / "data", port)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RCLONE_"))}
    with (folder / f"{name}.log").open("wb") as log:
        server = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
            env={**clean, "NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY},
        )  # fmt: skip
    try:
        _await(server, port, folder / f"{name}.log")
        yield S3Server(name, f"http://127.0.0.1:{port}", environ)
    finally:
        server.kill()
        server.wait()


def _argv(name: str, data: Path, port: int) -> list[str]:
    beside = Path(sys.executable).parent
    match name:
        case "nanio":
            program = [str(beside / "nanio"), "serve", "--host", "127.0.0.1", "--no-access-log"]
            return [*program, "--data-dir", str(data), "--port", str(port)]
        case "moto":
            return [str(beside / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
        case "rclone":
            from rclone_api import BINARY_PATH

            keys = f"{ACCESS_KEY},{SECRET_KEY}"
            return [str(BINARY_PATH), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", keys, str(data)]
    raise ValueError(name)


def _await(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert server.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, f"no answer on port {port}"
        time.sleep(0.02)


def make_bucket(server: S3Server) -> None:
    """moto keeps its buckets in memory; the others find theirs on the disk."""
    if server.name == "moto":
        import boto3

        session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
        session.client("s3", endpoint_url=server.endpoint_url).create_bucket(Bucket="bucket")
