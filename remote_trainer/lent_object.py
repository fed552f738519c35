"""Writes and reads objects at lent URLs: HTTP with the standard library, retried, checked. Python 3.9 or later.

With `StoreKeys` the requests are signed here instead (AWS Signature Version 4, by headers), for stores whose URLs
cannot be. A URL is never part of a message: whoever holds one may write.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Optional, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

from . import wire

TIMEOUT_S = 60.0
ATTEMPTS = 7
FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 20.0
MAX_ANSWER_BYTES = 64 << 20
_ALGORITHM = "AWS4-HMAC-SHA256"
_UNSIGNED = "UNSIGNED-PAYLOAD"

T = TypeVar("T")


class UploadFailed(Exception):
    """Why, as words without an address."""


class Refused(UploadFailed):
    """The store answers and says no: expired, withdrawn or never allowed. Trying again is of no use."""


class Damaged(UploadFailed):
    """What the store holds is not what was sent."""


@dataclass(frozen=True)
class Content:
    """What is sent: its pieces can be had again and again, for another attempt."""

    pieces: Callable[[], Iterator[bytes]]
    size: int
    md5: bytes

    @classmethod
    def of(cls, raw: bytes) -> Content:
        return cls(lambda: iter([raw]), len(raw), _md5(raw))


class LentObjects:
    """One connection, reused while the host of the URLs is the same: one for each thread."""

    def __init__(self, keys: Optional[wire.StoreKeys] = None, attempts: int = ATTEMPTS) -> None:
        self._keys = keys
        self._attempts = attempts
        self._connection: Optional[http.client.HTTPConnection] = None
        self._host = ""

    def put(self, url: str, content: Content) -> None:
        """Returns when the store has confirmed these very bytes. Raises Refused, or UploadFailed after some minutes."""

        def attempt() -> None:
            headers = {
                "Content-Length": str(content.size),
                "Content-MD5": base64.b64encode(content.md5).decode(),
                "Content-Type": "application/octet-stream",
            }
            etag, _ = self._exchange("PUT", url, headers, content)
            if _is_md5(etag) and etag != content.md5.hex():
                raise Damaged("the store confirmed other bytes than were sent")

        self._persistently(attempt)

    def get(self, url: str) -> bytes:
        return self._persistently(lambda: self._exchange("GET", url, {}, None)[1])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _persistently(self, attempt: Callable[[], T]) -> T:
        pause_s = FIRST_PAUSE_S
        for number in range(1, self._attempts + 1):
            try:
                return attempt()
            except Refused:
                self.close()
                raise
            except (OSError, http.client.HTTPException, UploadFailed) as error:
                self.close()
                if number == self._attempts:
                    said = str(error) if isinstance(error, UploadFailed) else _reason(error)
                    raise UploadFailed(f"{self._host}: {said}") from None
            time.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
        raise AssertionError("unreachable")

    def _exchange(self, method: str, url: str, headers: dict[str, str], body: Optional[Content]) -> tuple[str, bytes]:
        """(ETag without quotes, body) of a 2xx answer."""
        parts = urlsplit(url)
        host = parts.netloc
        if self._connection is None or host != self._host:
            self.close()
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            self._connection, self._host = kind(host, timeout=TIMEOUT_S), host
        if self._keys is not None:
            headers = {**headers, **signature(self._keys, method, url, time.gmtime())}
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        early: Optional[OSError] = None
        try:
            self._connection.request(method, target, body.pieces() if body else None, headers)
        except (BrokenPipeError, ConnectionResetError) as error:
            early = error  # it may have answered without reading to the end: that answer says why
        try:
            answer = self._connection.getresponse()
            content = answer.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException):
            if early is not None:
                raise early from None
            raise
        if 200 <= answer.status < 300 and early is None:
            return (answer.getheader("ETag") or "").strip('"'), content
        code = _error_code(content)
        said = f"answered {answer.status}" + (f" ({code})" if code else "")
        if 400 <= answer.status < 500 and answer.status not in (408, 429) and code not in _WORTH_ANOTHER_TRY:
            raise Refused(f"{host}: {said}")
        raise UploadFailed(said)


_WORTH_ANOTHER_TRY = {"BadDigest", "RequestTimeout", "IncompleteBody", "SlowDown", "InvalidDigest"}


def signature(keys: wire.StoreKeys, method: str, url: str, at: time.struct_time) -> dict[str, str]:
    """The headers that sign a request without its body; docs.aws.amazon.com, "Signature Version 4"."""
    parts = urlsplit(url)
    stamp, day = time.strftime("%Y%m%dT%H%M%SZ", at), time.strftime("%Y%m%d", at)
    signed = {"host": parts.netloc, "x-amz-content-sha256": _UNSIGNED, "x-amz-date": stamp}
    if keys.session_token:
        signed["x-amz-security-token"] = keys.session_token
    names = ";".join(sorted(signed))
    query = "&".join(
        f"{quote(key, safe='-_.~')}={quote(value, safe='-_.~')}"
        for key, value in sorted(parse_qsl(parts.query, keep_blank_values=True))
    )
    canonical = "\n".join(
        [method, parts.path or "/", query, *(f"{name}:{signed[name]}" for name in sorted(signed)), "", names, _UNSIGNED]
    )
    scope = f"{day}/{keys.region}/s3/aws4_request"
    to_sign = "\n".join([_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{keys.secret_key}".encode()
    for part in (day, keys.region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    mark = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    del signed["host"]  # http.client sends it by itself
    signed["Authorization"] = (
        f"{_ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={mark}"
    )
    return signed


def _error_code(content: bytes) -> str:
    """`<Code>` of an S3 error document; empty when there is none."""
    with contextlib.suppress(ValueError):
        text = content[:65536].decode(errors="replace")
        start = text.index("<Code>") + len("<Code>")
        return text[start : text.index("</Code>", start)][:64]
    return ""


def _md5(raw: bytes) -> bytes:
    return hashlib.md5(raw, usedforsecurity=False).digest()


def _is_md5(etag: str) -> bool:
    """With encryption by a key of one's own, and in some stores, it is something else."""
    return len(etag) == 32 and all(letter in "0123456789abcdef" for letter in etag)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
