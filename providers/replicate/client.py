"""HTTP to Replicate and nothing else: each method one bounded exchange, never repeated, redirects only where bytes are
fetched.

What looks and what cancels goes through httpx, since the `replicate` package (1.0.7) drops `metrics` and fails on the
status `aborted`; what uploads, creates and predicts goes through that package (`writing.py`). The token travels in a
header, to the API's own host, and to where the service hands out its files only when these refuse to go without; it is
cut out of whatever is said back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from providers.errors import CloudboothError, Transient
from providers.installation import upgrading
from providers.replicate.records import Account, Item, Model, Page, Prediction, Training, Version
from providers.replicate.refusals import error_of
from providers.secret import Secret

Record = TypeVar("Record", bound=BaseModel)

BASE_URL = "https://api.replicate.com"
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
DOWNLOAD_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
MAX_PAGES = 100
MAX_REDIRECTS = 5
FILES_HOST = "replicate.delivery"
"""It and its subdomains serve outputs."""
_WANTS_TOKEN = frozenset({401, 403})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class ReplicateClient:
    """Its methods raise what `refusals.error_of` makes of an answer, and Transient when there is none."""

    def __init__(self, token: Secret, base_url: str = BASE_URL, transport: httpx.BaseTransport | None = None) -> None:
        """`base_url` is without `/v1`; `transport`: in place of the network. No exchange."""
        self._token = token
        self.base_url = base_url
        agent = f"cloudbooth/{version('cloudbooth')}"
        self._http = httpx.Client(timeout=TIMEOUT, headers={"User-Agent": agent}, transport=transport)

    def __repr__(self) -> str:
        return f"ReplicateClient({self.base_url})"

    def account(self) -> Account:
        return self._ask(Account, "reading the account", "/account")

    def model(self, name: str) -> Model | None:
        """`owner/name`; None when there is none."""
        return self._ask_or_none(Model, "looking at a model", f"/models/{quote(name)}")

    def version(self, model: str, version_id: str) -> Version | None:
        path = f"/models/{quote(model)}/versions/{quote(version_id, safe='')}"
        return self._ask_or_none(Version, "looking at a trainer's version", path)

    def training(self, training_id: str) -> Training:
        return self._ask(Training, "reading a training", f"/trainings/{quote(training_id, safe='')}", job=training_id)

    def trainings(self, is_old: Callable[[Training], bool]) -> list[Training]:
        """Newest first, over as many pages as there are before the first that `is_old`."""
        return list(takewhile(lambda training: not is_old(training), self._listed("/trainings", Page[Training])))

    def predictions(self, is_old: Callable[[Prediction], bool]) -> list[Prediction]:
        """As `trainings`."""
        return list(takewhile(lambda each: not is_old(each), self._listed("/predictions", Page[Prediction])))

    def _listed(self, path: str, page_of: type[Page[Item]]) -> Iterator[Item]:
        """Page by page, as far as it is asked for."""
        what, seen = f"listing {path.strip('/')}", set[str]()
        while path not in seen and len(seen) < MAX_PAGES:
            seen.add(path)
            page = self._ask(page_of, what, path)
            yield from page.results
            if not page.next:
                return
            path = self._own_path(page.next)
        raise Transient(f"Replicate's answer does not end ({what})")

    def cancel(self, training_id: str) -> None:
        """Raises MachineGone when there is none."""
        path = f"/trainings/{quote(training_id, safe='')}/cancel"
        self._exchange("POST", path, "canceling a training", job=training_id)

    def cancel_prediction(self, prediction_id: str) -> None:
        """Raises MachineGone when there is none."""
        path = f"/predictions/{quote(prediction_id, safe='')}/cancel"
        self._exchange("POST", path, "canceling a prediction", job=prediction_id)

    def delete_file(self, file_id: str) -> None:
        """Absent already is success."""
        response = self._request("DELETE", f"/files/{quote(file_id, safe='')}", "removing the photos")
        if response.status_code != 404:
            self._succeeded(response, "removing the photos")

    def prediction(self, prediction_id: str) -> Prediction:
        path = f"/predictions/{quote(prediction_id, safe='')}"
        return self._ask(Prediction, "reading a prediction", path, job=prediction_id)

    def download(self, url: str, target: Path, received: Callable[[int, int | None], None]) -> int:
        """Writes what `url` holds and returns its length. The token goes along as `takes_token` says.

        Raises Transient when the transfer breaks off or is shorter than announced.
        """
        refused = False
        for _ in range(MAX_REDIRECTS + 1):
            headers = self._headers_for(url, refused=refused)
            try:
                with self._http.stream("GET", url, headers=headers, timeout=DOWNLOAD_TIMEOUT) as response:
                    if response.status_code in _WANTS_TOKEN and not headers and self._headers_for(url, refused=True):
                        refused = True
                        continue
                    if response.status_code in _REDIRECTS and "location" in response.headers:
                        url, refused = urljoin(url, response.headers["location"]), False
                        continue
                    if not response.is_success:
                        response.read()
                        raise error_of(
                            response.status_code, self._shown(response.text), response.headers, "fetching the weights"
                        )
                    return _write(response, target, received)
            except httpx.HTTPError as error:
                raise Transient(f"the weights did not come whole: {_told(error)}") from error
        raise CloudboothError("the address of the weights leads in a circle")

    # ---- one exchange ------------------------------------------------------------------------------------------------

    def _ask_or_none(self, record: type[Record], what: str, path: str) -> Record | None:
        response = self._request("GET", path, what)
        if response.status_code == 404 and _is_json_object(response):
            return None
        return self._read(record, what, self._succeeded(response, what))

    def _ask(self, record: type[Record], what: str, path: str, job: str | None = None) -> Record:
        return self._read(record, what, self._exchange("GET", path, what, job=job))

    def _exchange(self, method: str, path: str, what: str, job: str | None = None) -> str:
        return self._succeeded(self._request(method, path, what), what, job)

    def _request(self, method: str, path: str, what: str) -> httpx.Response:
        url = f"{self.base_url}/v1{path}"
        try:
            return self._http.request(method, url, headers=self._headers_for(url))
        except httpx.HTTPError as error:
            raise Transient(f"Replicate does not answer ({what}): {_told(error)}") from error

    def _succeeded(self, response: httpx.Response, what: str, job: str | None = None) -> str:
        if not response.is_success:
            raise error_of(response.status_code, self._shown(response.text), response.headers, what, job=job)
        return response.text

    def _read(self, record: type[Record], what: str, text: str) -> Record:
        try:
            return record.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            problem = f"Replicate's answer cannot be read ({what}): {where}: {first['msg']}"
            if first["type"] == "json_invalid":  # something in between has answered
                raise Transient(problem) from error
            raise CloudboothError(problem, f"Replicate may have changed its API; {upgrading()}") from error

    def _own_path(self, url: str) -> str:
        """Of a following page: whatever host it names, we ask the one that we know."""
        parts = urlsplit(url)
        return f"{parts.path.removeprefix('/v1')}{f'?{parts.query}' if parts.query else ''}"

    def _headers_for(self, url: str, *, refused: bool = False) -> dict[str, str]:
        if not takes_token(url, self.base_url, refused=refused):
            return {}
        return {"Authorization": f"Bearer {self._token.reveal()}"}

    def _shown(self, text: str) -> str:
        return text.replace(self._token.reveal(), "[token]")


def takes_token(url: str, base_url: str, *, refused: bool = False) -> bool:
    """The API itself; over TLS the files of Replicate's own API once they were `refused` without; no other host,
    whoever names it. Pure.

    The addresses of outputs are unguessable and open by themselves, "in some cases" with the token alone, as users
    report; the reference of the API says nothing of it. A host of files that may be a cache or somebody's bucket has no
    need to see a key that trains, so it is shown to one that asks.
    """
    ours, other = urlsplit(base_url), urlsplit(url)
    if (ours.scheme, ours.netloc) == (other.scheme, other.netloc):
        return True
    serves_files = f".{other.netloc}".endswith(f".{FILES_HOST}")
    return refused and base_url == BASE_URL and other.scheme == "https" and serves_files


def _write(response: httpx.Response, target: Path, received: Callable[[int, int | None], None]) -> int:
    announced = response.headers.get("content-length", "")
    total = int(announced) if announced.isdigit() and "content-encoding" not in response.headers else None
    done = 0
    with target.open("wb") as file:
        for chunk in response.iter_bytes():
            file.write(chunk)
            done += len(chunk)
            received(done, total)
    if total is not None and done != total:
        raise Transient(f"the weights did not come whole: {done} of {total} bytes")
    return done


def _is_json_object(response: httpx.Response) -> bool:
    """A 404 of the service's own, and not of a proxy or a mistyped base URL."""
    try:
        return isinstance(response.json(), dict)
    except ValueError:
        return False


def _told(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
