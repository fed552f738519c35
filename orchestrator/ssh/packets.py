"""The packet layer of a connection, for streams of gigabytes: paramiko's, with fewer copies and fewer calls.

What paramiko does with a packet of 32 KiB costs ten times what its decryption costs: two or more reads of the socket,
nine copies, a wake-up of the reader. Here many packets come with one read, are opened where they lie, and reach the
channel's reader as they are; it is woken when nothing more can be had without waiting. This is only for AES-GCM, which
every current server speaks and `connection.CIPHERS` prefers; with other ciphers all is as in paramiko.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import paramiko  # type: ignore[import-untyped]
from cryptography.exceptions import InvalidTag
from paramiko.buffered_pipe import PipeTimeout  # type: ignore[import-untyped]
from paramiko.common import MSG_CHANNEL_DATA, cMSG_CHANNEL_DATA  # type: ignore[import-untyped]
from paramiko.packet import NeedRekeyException  # type: ignore[import-untyped]

AHEAD_BYTES = 512 << 10
"""Read at once, at most. Not less than the 256 KiB that the longest packet of any server has."""
_LENGTH_BYTES, _BLOCK_BYTES, _TAG_BYTES = 4, 16, 16
_COUNTER = slice(4, 12)
"""Of the nonce: it counts packets (RFC 5647 §7.1)."""


class Packets(paramiko.Packetizer):  # type: ignore[misc]
    """Given to `paramiko.Transport` as its `packetizer_class`. Channels get their `in_buffer` from `pieces`."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self._sock = sock
        self._inbound: _Gcm | None = None
        self._ahead = memoryview(bytearray(AHEAD_BYTES))
        self._begin = self._end = 0
        """What has been read from the socket and is no message yet: `_ahead[_begin:_end]`."""
        self._received = 0
        """Packets since the count was last reset: what an answer to a message that is not understood names."""
        self._to_wake: list[Pieces] = []
        self._overdue = 0
        """Bytes received since new keys were asked for."""
        self._outbound: _Gcm | None = None
        self._sending = threading.RLock()

    def pieces(self) -> Pieces:
        """A buffer for a channel of this connection, in place of the one it was made with."""
        return Pieces(self._to_wake.append)

    def set_inbound_cipher(self, *args: Any, aead: bool = False, iv_in: bytes | None = None, **named: Any) -> None:
        super().set_inbound_cipher(*args, aead=aead, iv_in=iv_in, **named)
        self._overdue = 0
        engine = named.get("block_engine", args[0] if args else None)
        self._inbound = _Gcm(engine, iv_in) if aead and iv_in is not None else None

    def set_outbound_cipher(self, *args: Any, aead: bool = False, iv_out: bytes | None = None, **named: Any) -> None:
        super().set_outbound_cipher(*args, aead=aead, iv_out=iv_out, **named)
        engine = named.get("block_engine", args[0] if args else None)
        self._outbound = _Gcm(engine, iv_out) if aead and iv_out is not None else None

    def reset_seqno_in(self) -> None:
        super().reset_seqno_in()
        self._received = 0

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """As paramiko's: exactly `n` bytes."""
        ahead = bytes(self._ahead[self._begin : min(self._begin + n, self._end)])
        self._begin += len(ahead)
        rest: bytes = super().read_all(n - len(ahead), check_rekey and not ahead)
        return ahead + rest

    def read_message(self) -> tuple[int, Any]:
        """As paramiko's: (type, what follows it), the latter read from its start. One thread reads."""
        cipher = self._inbound
        if cipher is None:
            kind, message = super().read_message()
            self._received += 1
            return kind, message
        self._fill(_LENGTH_BYTES)
        length = int.from_bytes(self._ahead[self._begin : self._begin + _LENGTH_BYTES], "big")
        whole = _LENGTH_BYTES + length + _TAG_BYTES
        if length < 2 or whole > AHEAD_BYTES:
            raise paramiko.SSHException(f"a packet of {length} bytes")
        self._fill(whole)
        packet = self._ahead[self._begin : self._begin + whole]
        plain = memoryview(cipher.opened(packet[:_LENGTH_BYTES], packet[_LENGTH_BYTES:]))
        self._begin += whole
        payload = plain[1 : length - plain[0]]
        kind = payload[0]
        message = _Data(payload) if kind == MSG_CHANNEL_DATA else paramiko.Message(bytes(payload[1:]))
        message.seqno = self._received
        self._received += 1
        if self.need_rekey():
            self._overdue += whole
            if self._overdue >= self.REKEY_BYTES_OVERFLOW_MAX:
                raise paramiko.SSHException("the server ignores that new keys are due")
        elif cipher.bytes >= self.REKEY_BYTES:
            self._trigger_rekey()
        return kind, message

    def send_message(self, data: Any) -> None:
        """As paramiko's, and for a `Burst`. Threads take turns."""
        with self._sending:
            cipher = self._outbound
            if cipher is None:
                for message in data.messages() if isinstance(data, Burst) else [data]:
                    super().send_message(message)
                return
            if isinstance(data, Burst):
                sealed = b"".join([part for payload in data.payloads() for part in cipher.sealed(*payload)])
            else:
                sealed = b"".join(cipher.sealed(data.asbytes()))
            self.write_all(memoryview(sealed))
            if cipher.bytes >= self.REKEY_BYTES and not self.need_rekey():
                self._trigger_rekey()

    def _fill(self, count: int) -> None:
        """Reads until `count` bytes lie ahead. Raises as `read_all` of paramiko does."""
        while self._end - self._begin < count:
            if self._begin == self._end:
                self._begin = self._end = 0
            elif AHEAD_BYTES - self._begin < count:
                rest = self._end - self._begin
                self._ahead[:rest] = self._ahead[self._begin : self._end]
                self._begin, self._end = 0, rest
            self._wake()
            if self.handshake_timed_out():
                raise EOFError
            try:
                got = self._sock.recv_into(self._ahead[self._end :])
            except (TimeoutError, BlockingIOError):
                if self.closed:
                    raise EOFError from None
                if self._begin == self._end and self.need_rekey():
                    raise NeedRekeyException from None
                self._check_keepalive()
            except OSError:
                if self.closed:
                    raise EOFError from None
                raise
            else:
                if got == 0:
                    raise EOFError
                self._end += got

    def _wake(self) -> None:
        while self._to_wake:
            self._to_wake.pop().wake()


class _Gcm:
    """AES-GCM as SSH uses it, one way: the length of a packet is in clear and authenticated (RFC 5647 §7)."""

    def __init__(self, engine: Any, nonce: bytes) -> None:
        self._engine, self._fixed, self._count = engine, nonce[: _COUNTER.start], int.from_bytes(nonce[_COUNTER], "big")
        self.bytes = 0

    def opened(self, length: memoryview, sealed: memoryview) -> bytes:
        nonce = self._fixed + self._count.to_bytes(8, "big")
        self._count += 1
        self.bytes += len(sealed)
        try:
            plain: bytes = self._engine.decrypt(nonce, sealed, length)
        except InvalidTag:
            raise paramiko.SSHException("a packet was changed on the way") from None
        return plain

    def sealed(self, *payload: bytes | memoryview) -> tuple[bytes, bytes]:
        """The packet of a message that is given in parts: its length, and sealed how much padding there is, the message
        and the padding, which is four bytes at least (RFC 4253 §6)."""
        count = sum(map(len, payload))
        padding = _BLOCK_BYTES + 3 - (count + 4) % _BLOCK_BYTES
        length = (1 + count + padding).to_bytes(_LENGTH_BYTES, "big")
        nonce = self._fixed + self._count.to_bytes(8, "big")
        self._count += 1
        plain = b"".join((padding.to_bytes(1, "big"), *payload, os.urandom(padding)))
        self.bytes += len(plain)
        return length, self._engine.encrypt(nonce, plain, length)


class Burst:
    """Bytes for a channel, in the packets that its window allows: sealed one by one, written to the socket at once."""

    def __init__(self, channel: int, pieces: Sequence[memoryview]) -> None:
        self._channel, self._pieces = channel.to_bytes(4, "big"), pieces

    def payloads(self) -> Iterator[tuple[bytes, memoryview]]:
        for piece in self._pieces:
            yield b"".join((cMSG_CHANNEL_DATA, self._channel, len(piece).to_bytes(4, "big"))), piece

    def messages(self) -> Iterator[Any]:
        return (paramiko.Message(b"".join(payload)) for payload in self.payloads())


def send_burst(channel: Any, content: memoryview) -> int:
    """As `Channel.send`, in many packets: how many bytes were sent, 0 when the channel no longer takes any.

    Blocks while the window is closed. Raises OSError on a closed channel, and what the transport raises.
    """
    pieces, count = list[memoryview](), 0
    with channel.lock:
        if channel.closed:
            raise OSError("the channel is closed")
        while content and (not pieces or channel.out_window_size > 0):
            size = channel._wait_for_send_window(len(content))
            if size == 0:
                break
            pieces.append(content[:size])
            content = content[size:]
            count += size
    if pieces:  # without the lock: a change of keys takes it
        channel.transport._send_user_message(Burst(channel.remote_chanid, pieces))
    return count


class _Data:
    """Bytes for a channel, as `Channel._feed` reads them from a message: its number, then the bytes."""

    __slots__ = ("_payload", "seqno")

    def __init__(self, payload: memoryview) -> None:
        self._payload = payload
        self.seqno = 0

    def get_int(self) -> int:
        return int.from_bytes(self._payload[1:5], "big")

    def get_binary(self) -> memoryview:
        return self._payload[9 : 9 + int.from_bytes(self._payload[5:9], "big")]


class Pieces:
    """What has arrived for a channel and was not read, as it came. Stands in for `paramiko.buffered_pipe.BufferedPipe`.

    One thread feeds, one reads; `to_wake` is called when the reader has to be woken before the feeder waits.
    """

    def __init__(self, to_wake: Callable[[Pieces], object]) -> None:
        self._to_wake = to_wake
        self._pieces: deque[memoryview | bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False

    def feed(self, data: memoryview | bytes) -> None:
        with self._changed:
            first = not self._pieces
            self._pieces.append(data)
            self._bytes += len(data)
        if first:
            self._to_wake(self)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """Up to `nbytes`; empty at the end. Raises PipeTimeout."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._pieces or self._closed, timeout):
                raise PipeTimeout
            taken, count = list[memoryview | bytes](), 0
            while self._pieces and count < nbytes:
                piece = self._pieces.popleft()
                if count + len(piece) > nbytes:
                    self._pieces.appendleft(piece[nbytes - count :])
                    piece = piece[: nbytes - count]
                taken.append(piece)
                count += len(piece)
            self._bytes -= count
        return b"".join(taken)

    def read_ready(self) -> bool:
        return bool(self._pieces)

    def empty(self) -> bytes:
        """All of it."""
        with self._changed:
            taken = b"".join(self._pieces)
            self._pieces.clear()
            self._bytes = 0
        return taken

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        return self._bytes
