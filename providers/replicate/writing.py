"""What changes something at Replicate, through the `replicate` package: uploads, models, trainings, predictions.

The package sends every POST once and never repeats it. It is imported at the first use, since that takes up to a
second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from providers.errors import CloudboothError, Indeterminate, Transient
from providers.jobs import Value
from providers.replicate.refusals import error_of
from providers.secret import Secret

T = TypeVar("T")


class ReplicateWriter:
    def __init__(self, token: Secret, base_url: str) -> None:
        self._token, self._base_url, self._made = token, base_url, None

    def __repr__(self) -> str:
        return f"ReplicateWriter({self._base_url})"

    def upload(self, file: Path, name: str) -> str:
        """The URL of a new file, which the service keeps for about a day."""

        def send(client: Any) -> str:
            with file.open("rb") as content:
                return str(client.files.create(content, filename=name, content_type="application/zip").urls["get"])

        return self._call(send, "uploading the photos", submits=False)

    def make_model(self, name: str, hardware: str) -> None:
        """Private. Raises CloudboothError when there is one."""
        owner, _, own = name.partition("/")

        def make(client: Any) -> None:
            client.models.create(owner=owner, name=own, visibility="private", hardware=hardware)

        self._call(make, f"making the model {name}", submits=False)

    def train(
        self, trainer: str, version: str, destination: str, inputs: Mapping[str, Value], dataset: Mapping[str, str]
    ) -> str:
        """The id. Exactly one request; Indeterminate when its answer was lost or cannot be read."""

        def submit(client: Any) -> str:
            return str(
                client.trainings.create(
                    model=trainer, version=version, destination=destination, input={**inputs, **dataset}
                ).id
            )

        return self._call(submit, "submitting the training", submits=True)

    def predict(self, model: str, version: str | None, inputs: Mapping[str, Value]) -> str:
        """The id of a prediction of `owner/name`, an official model when `version` is None. It bills a few cents."""

        def submit(client: Any) -> str:
            if version is None:
                return str(client.models.predictions.create(model=model, input=dict(inputs)).id)
            return str(client.predictions.create(version=version, input=dict(inputs)).id)

        return self._call(submit, "asking for pictures", submits=True)

    def _call(self, act: Callable[[Any], T], what: str, *, submits: bool) -> T:
        import httpx
        from replicate.exceptions import ReplicateError

        try:
            return act(self._client())
        except ReplicateError as error:
            raise self._explained(error, what, submits=submits) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:  # nothing has left
            raise Transient(f"Replicate cannot be reached ({what}): {self._cut(str(error))}") from None
        except httpx.HTTPError as error:
            told = self._cut(str(error)) or type(error).__name__
            if submits:
                raise Indeterminate(f"Replicate's answer was lost ({what}): {told}") from None
            raise Transient(f"Replicate does not answer ({what}): {told}") from None
        except (ValueError, TypeError, AttributeError, KeyError) as error:  # an answer that the package cannot read
            told = f"Replicate's answer cannot be read ({what}): {type(error).__name__}"
            raise (Indeterminate(told) if submits else CloudboothError(told)) from None

    def _explained(self, error: Any, what: str, *, submits: bool) -> CloudboothError:
        reason = ": ".join(part for part in (error.title, error.detail) if part)
        body = "" if not reason else f'{{"detail": {_quoted(self._cut(reason))}}}'
        return error_of(error.status or 500, body, {}, what, submits=submits)

    def _cut(self, text: str) -> str:
        return text.replace(self._token.reveal(), "[token]")

    def _client(self) -> Any:
        if self._made is None:
            import replicate

            self._made = replicate.Client(api_token=self._token.reveal(), base_url=self._base_url)
        return self._made


def _quoted(text: str) -> str:
    import json

    return json.dumps(text)
