"""A base at an address: fetched once, continued where it was cut, believed only with the right hash."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from remote_trainer.bases.one_at_a_time import one_at_a_time
from remote_trainer.errors import TrainingFailed

CHUNK_BYTES = 4 << 20
TIMEOUT_S = 60.0
ATTEMPTS = 5
"""In a row that bring nothing, with pauses of 2, 4, 8 and 16 seconds: meanwhile a machine is paid for. Each goes on
where the last was cut."""
_PASSING = (408, 425, 429)
"""Refusals that a client may ask again after."""


def fetch(link: str, folder: Path, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> Path:
    """link: `https://…/model.safetensors#sha256=<64 hex digits>` → `folder/<12 digits>/model.safetensors`.

    Blocks until it is there; `say` hears of every tenth. Twice is safe, also at once: a whole file is not asked for
    again, and a cut one is continued; if that gives the wrong hash, once more from the begin. Raises
    TrainingFailed("base-not-found") when the server does not hand it out or hands out something else, OSError for a
    full disk.
    """
    url, _, digest = link.partition("#sha256=")
    whole = folder / digest[:12] / Path(unquote(urlsplit(url).path)).name
    whole.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(whole.parent / "lock"):
        if whole.exists():
            return whole
        part = whole.with_name(whole.name + ".part")
        is_continued = part.exists()
        found = _downloaded(url, part, say, sleep)
        if found != digest and is_continued:
            say("what was left of an earlier download was damaged: it begins anew")
            part.unlink()
            found = _downloaded(url, part, say, sleep)
        if found != digest:
            part.unlink()
            raise TrainingFailed(
                "base-not-found",
                f"what {url} holds has the hash {found}, not {digest}",
                "compare the hash with the one that the site shows, and the address with the file that you mean",
            )
        os.replace(part, whole)
    return whole


def _downloaded(url: str, part: Path, say: Callable[[str], None], sleep: Callable[[float], None]) -> str:
    """The sha256 of what is then in `part`, and on the disk."""
    _download(url, part, say, sleep)
    with part.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, part: Path, say: Callable[[str], None], sleep: Callable[[float], None]) -> None:
    reached, fruitless = _size(part), 0
    while True:
        try:
            if _continue(url, part, say):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:  # nothing is left beyond what is here; the hash tells whether it is right
                    return
                reason = f"HTTP {error.code}"
                if error.code < 500 and error.code not in _PASSING:
                    break
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error))
        fruitless = 0 if _size(part) > reached else fruitless + 1
        reached = max(reached, _size(part))
        if fruitless == ATTEMPTS:
            break
        say(f"the download of the base was interrupted ({reason}) and goes on")
        if fruitless:
            sleep(2.0**fruitless)
    raise TrainingFailed(
        "base-not-found",
        f"{url} cannot be downloaded: {reason}",
        "open the address in a browser without logging in; what needs a login is downloaded and named by its path",
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _continue(url: str, part: Path, say: Callable[[str], None]) -> bool:
    """One connection's worth. False when it ended before the length that the server had told."""
    there = _size(part)
    headers = {"User-Agent": "cloudbooth"} | ({"Range": f"bytes={there}-"} if there else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
        if answer.status != 206:
            there = 0  # a server without ranges begins anew
        length = answer.headers.get("Content-Length")
        total = there + int(length) if length else None
        with part.open("ab" if there else "wb") as file:
            tenth = 0
            while data := answer.read(CHUNK_BYTES):
                file.write(data)
                there += len(data)
                if total and there * 10 // total > tenth:
                    tenth = there * 10 // total
                    say(f"base: {there / 1e9:.2f} of {total / 1e9:.2f} GB")
    return total is None or there >= total
