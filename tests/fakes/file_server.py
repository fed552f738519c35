"""A site on loopback that hands out files, whole or in ranges, and can cut a connection in the middle."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    files: dict[str, bytes]
    """By path, without the leading slash."""
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """After how many bytes each of the next downloads ends."""
    status: int = 0
    """What every request is answered with; 0: as it should be."""
    url: str = ""
    sent_bytes: int = 0


@contextmanager
def running_file_server(server: FileServer) -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            content = server.files.get(self.path.partition("?")[0].strip("/"))
            if server.status or content is None:
                return self._head(server.status or 404, 0)
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            begin, end = 0, len(content)
            if asked and server.ranges:
                begin = int(asked[1])
                end = min(int(asked[2]) + 1, end) if asked[2] else end
                if begin >= len(content):
                    return self._head(416, 0)
            body = content[begin:end]
            self._head(206 if asked and server.ranges else 200, len(body))
            if with_body:
                body = body[: server.cuts.pop(0)] if server.cuts else body
                server.sent_bytes += len(body)
                self.wfile.write(body)
            return None

        def _head(self, status: int, length: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        listening.shutdown()
        thread.join()
