"""Curves of a run as TensorBoard reads them, written without TensorBoard.

An event file is a sequence of TFRecords, each holding a protobuf message `Event`; of both only what a scalar needs is
written.
https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from orchestrator.curves import Point

_VERSION = b"brain.Event:2"
_POLYNOMIAL = 0x82F63B78
"""Castagnoli, reflected: RFC 3720, appendix B.4."""


def file_name(at: float) -> str:
    """TensorBoard looks for `tfevents` in it."""
    return f"events.out.tfevents.{int(at):010d}.cloudbooth"


def beginning(at: float) -> bytes:
    """What stands first in a file."""
    return record(_double(1, at) + _bytes(3, _VERSION))


def records(told: Iterable[Point]) -> Iterator[bytes]:
    """One for each point."""
    for point in told:
        yield scalars(point.at, point.step, point.values)


def scalars(at: float, step: int, values: Mapping[str, float]) -> bytes:
    """One record: `at` in seconds since 1970."""
    summary = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in values.items())
    return record(_double(1, at) + _varint(2 << 3) + _varint(step) + _bytes(5, summary))


def record(data: bytes) -> bytes:
    """A TFRecord: length and data, each with its masked CRC-32C."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _table()[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
