"""A base at an address: fetched once, continued where it was cut, believed only with the right hash."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from remote_trainer.errors import TrainingFailed

CHUNK_BYTES = 4 << 20
TIMEOUT_S = 60.0
ATTEMPTS = 5
"""Each goes on where the last was cut."""


def fetch(link: str, folder: Path, say: Callable[[str], None]) -> Path:
    """link: `https://…/model.safetensors#sha256=<64 hex digits>` → `folder/<12 digits>/model.safetensors`.

    Blocks until it is there; `say` hears of every tenth. Twice is safe: a whole file is not asked for again, and a cut
    one is continued. Raises TrainingFailed("base-not-found") when the server does not hand it out or hands out
    something else, OSError for a full disk.
    """
    url, _, digest = link.partition("#sha256=")
    whole = folder / digest[:12] / Path(unquote(urlsplit(url).path)).name
    if whole.exists():
        return whole
    whole.parent.mkdir(parents=True, exist_ok=True)
    part = whole.with_name(whole.name + ".part")
    _download(url, part, say)
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        part.unlink()
        raise TrainingFailed(
            "base-not-found",
            f"what {url} holds has the hash {found}, not {digest}",
            "compare the hash with the one that the site shows, and the address with the file that you mean",
        )
    os.replace(part, whole)
    return whole


def _download(url: str, part: Path, say: Callable[[str], None]) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if _continue(url, part, say):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:  # nothing is left beyond what is here; the hash tells whether it is right
                    return
                reason = f"HTTP {error.code}"
                if error.code in (401, 403, 404, 410):
                    break
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error))
        say(f"the download of the base was interrupted ({reason}), attempt {attempt} of {ATTEMPTS}")
    raise TrainingFailed(
        "base-not-found",
        f"{url} cannot be downloaded: {reason}",
        "open the address in a browser without logging in; what needs a login is downloaded and named by its path",
    )


def _continue(url: str, part: Path, say: Callable[[str], None]) -> bool:
    """One connection's worth. False when it ended before the length that the server had told."""
    there = part.stat().st_size if part.exists() else 0
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
