"""A TCP relay that changes one byte on the way, once."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

Direction = str
"""`up`: towards the server; `down`: from it."""


class FlippingProxy:
    """Relays to `port` of this machine. The byte at `position` of the first stream in `direction` arrives changed."""

    def __init__(self, port: int, direction: Direction, position: int) -> None:
        self._target, self._direction, self._position = port, direction, position
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.flipped = threading.Event()
        self._guard = threading.Lock()

    def accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for source, sink, direction in ((near, far, "up"), (far, near, "down")):
                    threading.Thread(target=self._carry, args=(source, sink, direction), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _carry(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                carried += len(data)
                if direction == self._direction and carried > self._position and self._first():
                    data = data[:-1] + bytes([data[-1] ^ 1])
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _first(self) -> bool:
        with self._guard:
            if self.flipped.is_set():
                return False
            self.flipped.set()
            return True


@contextlib.contextmanager
def flipping_proxy(port: int, direction: Direction, position: int) -> Iterator[FlippingProxy]:
    proxy = FlippingProxy(port, direction, position)
    thread = threading.Thread(target=proxy.accept, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
