"""Our packet layer against paramiko's own, over a socket pair: what one seals the other opens."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import paramiko  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko.buffered_pipe import PipeTimeout  # type: ignore[import-untyped]
from paramiko.common import MSG_CHANNEL_DATA  # type: ignore[import-untyped]
from paramiko.packet import NeedRekeyException  # type: ignore[import-untyped]

from orchestrator.ssh.packets import AHEAD_BYTES, Burst, Packets, Pieces

KEY, NONCE = bytes(range(16)), bytes(range(12))
CHANNEL = 7


class Line:
    """Ours at one end, paramiko's at the other."""

    def __init__(self) -> None:
        self.here, self.there = socket.socketpair()
        for end in (self.here, self.there):
            end.settimeout(0.1)  # as Transport does
        self.ours, self.theirs = Packets(self.here), paramiko.Packetizer(self.there)

    def seal(self, *, after: int = 0) -> None:
        """Both change to AES-GCM, as after an exchange of keys; `after` differs from one to the next."""
        nonce = bytes(NONCE[:-1]) + bytes([after])
        for end in (self.ours, self.theirs):
            named: dict[str, Any] = {"block_size": 16, "mac_engine": None, "mac_size": 16, "mac_key": None}
            end.set_outbound_cipher(block_engine=AESGCM(KEY), aead=True, iv_out=nonce, **named)
            end.set_inbound_cipher(block_engine=AESGCM(KEY), aead=True, iv_in=nonce, **named)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


def message(kind: int, content: bytes) -> paramiko.Message:
    told = paramiko.Message()
    told.add_byte(bytes([kind]))
    told.add_bytes(content)
    return told


def data(content: bytes) -> paramiko.Message:
    told = paramiko.Message()
    told.add_byte(bytes([MSG_CHANNEL_DATA]))
    told.add_int(CHANNEL)
    told.add_string(content)
    return told


def beside(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_what_paramiko_seals_we_open_and_the_other_way_round(line: Line) -> None:
    line.seal()
    chance = random.Random(1)
    sent = [(50 + n % 40, chance.randbytes(chance.choice([0, 1, 11, 12, 13, 100, 32_768]))) for n in range(200)]
    for out, back in ((line.theirs, line.ours), (line.ours, line.theirs)):
        sending = beside(lambda out=out: [out.send_message(message(*one)) for one in sent])  # type: ignore[misc]
        for kind, content in sent:
            got, rest = back.read_message()
            assert (got, rest.get_remainder()) == (kind, content)
        sending.join()


def test_bytes_for_a_channel_reach_it_as_they_were(line: Line) -> None:
    line.seal()
    sent = random.Random(2).randbytes(3 * AHEAD_BYTES)
    sending = beside(
        lambda: [line.theirs.send_message(data(sent[at : at + 32_000])) for at in range(0, len(sent), 32_000)]
    )
    pieces = line.ours.pieces()
    while len(pieces) < len(sent):
        kind, told = line.ours.read_message()
        assert (kind, told.get_int()) == (MSG_CHANNEL_DATA, CHANNEL)
        pieces.feed(told.get_binary())
    sending.join()
    assert pieces.read(100) == sent[:100]
    assert pieces.read(len(sent)) == sent[100:]


@pytest.mark.parametrize("sealed", [True, False])
def test_a_burst_reaches_paramiko_as_the_packets_it_is_made_of(line: Line, sealed: bool) -> None:
    if sealed:
        line.seal()
    sent = [memoryview(random.Random(n).randbytes(size)) for n, size in enumerate((32_704, 1, 32_704, 500))]
    sending = beside(lambda: line.ours.send_message(Burst(CHANNEL, sent)))
    for piece in sent:
        kind, told = line.theirs.read_message()
        assert (kind, told.get_int(), told.get_binary()) == (MSG_CHANNEL_DATA, CHANNEL, bytes(piece))
    sending.join()


def test_before_keys_are_agreed_on_and_with_other_ciphers_all_is_as_in_paramiko(line: Line) -> None:
    line.theirs.send_message(message(50, b"in clear"))
    kind, told = line.ours.read_message()
    assert (kind, told.get_remainder()) == (50, b"in clear")


def test_what_was_read_ahead_is_not_lost_when_keys_change(line: Line) -> None:
    line.seal()
    line.theirs.send_message(message(50, b"old"))
    old, first = line.theirs, line.ours
    named: dict[str, Any] = {"block_size": 16, "mac_engine": None, "mac_size": 16, "mac_key": None}
    old.set_outbound_cipher(block_engine=AESGCM(KEY), aead=True, iv_out=bytes(12), **named)
    old.send_message(message(51, b"new"))
    assert first.read_message()[1].get_remainder() == b"old"
    first.set_inbound_cipher(block_engine=AESGCM(KEY), aead=True, iv_in=bytes(12), **named)
    assert first.read_message()[1].get_remainder() == b"new"


def test_a_packet_that_was_changed_on_the_way_is_refused(line: Line) -> None:
    line.seal()
    line.theirs.send_message(data(bytes(1000)))
    raw = bytearray(line.here.recv(1 << 16))
    raw[500] ^= 1
    line.there.sendall(raw)
    with pytest.raises(paramiko.SSHException, match="changed on the way"):
        line.ours.read_message()


@pytest.mark.parametrize("length", [0, 1, AHEAD_BYTES, 0xFFFFFFFF])
def test_a_length_that_no_server_sends_is_refused_before_anything_is_awaited(line: Line, length: int) -> None:
    line.seal()
    line.there.sendall(length.to_bytes(4, "big") + bytes(32))
    with pytest.raises(paramiko.SSHException, match=f"a packet of {length} bytes"):
        line.ours.read_message()


def test_the_end_of_the_line_is_an_end_in_the_middle_of_a_packet_too(line: Line) -> None:
    line.seal()
    line.there.sendall(bytes(3))
    line.there.close()
    with pytest.raises(EOFError):
        line.ours.read_message()


def test_closing_ends_who_waits(line: Line) -> None:
    line.seal()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(line.ours.read_message)
        line.ours.close()
        with pytest.raises(EOFError):
            waiting.result(timeout=5)


def test_new_keys_are_asked_for_after_so_many_bytes_either_way(line: Line) -> None:
    line.seal()
    line.ours.REKEY_BYTES = 1000
    line.ours.send_message(data(bytes(500)))
    assert not line.ours.need_rekey()
    line.ours.send_message(data(bytes(500)))
    assert line.ours.need_rekey()
    with pytest.raises(NeedRekeyException):
        line.ours.read_message()
    line.seal(after=1)
    assert not line.ours.need_rekey()
    line.theirs.send_message(data(bytes(1000)))
    line.ours.read_message()
    assert line.ours.need_rekey()


def test_a_server_that_never_makes_new_keys_is_left(line: Line) -> None:
    line.seal()
    line.ours.REKEY_BYTES = line.ours.REKEY_BYTES_OVERFLOW_MAX = 1000
    for after in (1, 2):  # it counts from one exchange of keys to the next
        line.theirs.send_message(data(bytes(1000)))
        line.theirs.send_message(data(bytes(500)))
        assert [line.ours.read_message()[0] for _ in range(2)] == [MSG_CHANNEL_DATA] * 2
        line.seal(after=after)
    for _ in range(3):
        line.theirs.send_message(data(bytes(1000)))
    line.ours.read_message()
    with pytest.raises(paramiko.SSHException, match="ignores that new keys are due"):
        line.ours.read_message()


def test_a_quiet_line_is_kept_alive(line: Line) -> None:
    line.seal()
    called = threading.Event()

    def keep_alive() -> None:
        called.set()
        line.theirs.send_message(message(50, b""))

    line.ours.set_keepalive(-1, keep_alive)
    line.ours.read_message()
    assert called.is_set()


def test_an_answer_to_what_is_not_understood_names_the_packet(line: Line) -> None:
    line.theirs.send_message(message(50, b""))
    line.ours.read_message()
    line.seal()
    for number in (1, 2):
        line.theirs.send_message(message(50, b""))
        assert line.ours.read_message()[1].seqno == number
    line.ours.reset_seqno_in()  # strict key exchange
    line.theirs.send_message(data(b""))
    assert line.ours.read_message()[1].seqno == 0


def test_pieces_are_read_in_any_size_and_end_when_closed() -> None:
    to_wake: list[Pieces] = []
    pieces = Pieces(to_wake.append)
    for part in (b"abc", b"def", b"g"):
        pieces.feed(memoryview(part))
    assert to_wake == [pieces], "once, until it has been read"
    assert (len(pieces), pieces.read_ready()) == (7, True)
    assert [pieces.read(2), pieces.read(3), pieces.read(100)] == [b"ab", b"cde", b"fg"]
    with pytest.raises(PipeTimeout):
        pieces.read(1, 0.0)
    pieces.feed(b"last")
    pieces.close()
    assert [pieces.empty(), pieces.read(1)] == [b"last", b""]


def test_a_reader_that_waits_is_woken_by_the_feeder() -> None:
    to_wake: list[Pieces] = []
    pieces = Pieces(to_wake.append)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(100):
            reading = pool.submit(pieces.read, 10, 5.0)
            pieces.feed(b"late")
            to_wake.pop().wake()
            assert reading.result(timeout=5) == b"late"
