"""A JPEG without anything but its picture, and without decoding it: the coded coefficients stay as they are.

Pure. Segments are those of ITU-T T.81, annex B; what decides how samples become colors (JFIF's and Adobe's markers) is
written anew with nothing but that in it.
"""

from __future__ import annotations

import struct

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Huffman-coded: baseline, extended, progressive. Arithmetic coding and hierarchies are read by few decoders."""
_TABLES = frozenset({0xC4, 0xDB, 0xDD})
"""Huffman tables, quantization tables, restart interval."""
_JFIF, _ADOBE, _COMMENT = 0xE0, 0xEE, 0xFE
_BARE_JFIF = b"JFIF\0\x01\x01\0" + struct.pack(">HHBB", 1, 1, 0, 0)
"""Version 1.1, square pixels, no thumbnail."""


class NotBared(ValueError):
    """A JPEG of a kind, or with a segment, that is left to a decoder."""


def bare_jpeg(content: bytes) -> bytes:
    """The first picture in the file: no EXIF, XMP, profile, maker notes, comment or thumbnail, nor what stands behind
    its end (phones put second views and films there). Its pixels are those of `content`, before any orientation.

    Raises NotBared for what is damaged or unusual.
    """
    try:
        return _bared(content)
    except (IndexError, struct.error):
        raise NotBared("the file ends within a segment") from None


def _bared(content: bytes) -> bytes:
    if content[:2] != bytes((0xFF, _SOI)):
        raise NotBared("the file does not begin as a JPEG")
    kept = [content[:2]]
    at, frames = 2, 0
    while True:
        at, marker = _next_marker(content, at)
        if marker == _EOI:
            if not frames:
                raise NotBared("the file holds no picture")
            return b"".join((*kept, bytes((0xFF, _EOI))))
        (length,) = struct.unpack_from(">H", content, at)
        body, at = content[at + 2 : at + length], at + length
        if length < 2 or at > len(content):
            raise NotBared("the file ends within a segment")
        if marker in _TABLES or marker in _FRAMES:
            frames += marker in _FRAMES
            kept.append(_segment(marker, body))
        elif marker == _SOS:
            end = _end_of_scan(content, at)
            kept += [_segment(marker, body), content[at:end]]
            at = end
        elif marker == _JFIF and body[:5] == b"JFIF\0":
            kept.append(_segment(marker, _BARE_JFIF))
        elif marker == _ADOBE and body[:5] == b"Adobe" and len(body) >= 12:
            kept.append(_segment(marker, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, body[11])))
        elif not (0xE0 <= marker <= 0xEF or marker == _COMMENT):
            raise NotBared(f"the file holds a segment 0x{marker:02X}")


def _next_marker(content: bytes, at: int) -> tuple[int, int]:
    """Position behind it, and the marker. Any number of fill bytes may stand before one."""
    if content[at] != 0xFF:
        raise NotBared("the file holds bytes between its segments")
    while content[at] == 0xFF:
        at += 1
    return at + 1, content[at]


def _end_of_scan(content: bytes, at: int) -> int:
    """Where the coded data ends: at a marker that is neither a stuffed 0xFF nor a restart."""
    while True:
        at = content.find(b"\xff", at)
        if at < 0:
            raise NotBared("the file ends within its picture")
        follows = content[at + 1]
        if follows != 0 and not 0xD0 <= follows <= 0xD7:
            return at
        at += 2


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
