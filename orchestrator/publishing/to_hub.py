"""To Hugging Face, as a private repository: the files of the manifest, with the model's own card as its page."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.base_model import DEFAULT_ENDPOINT
from orchestrator.errors import UsageError
from orchestrator.finished_model import FinishedModel
from providers.errors import AuthRejected, CloudboothError, Transient
from providers.installation import installing
from providers.secret import Secret
from remote_trainer import wire

CARD = "README.md"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WRITE_TOKEN_NAME = "HF_WRITE_TOKEN"
_LOOK_AT_NETWORK = "check the network and HF_ENDPOINT, then run the command again"
_HTTP_LIBRARIES = frozenset({"requests", "httpx", "httpx2"})
"""By which versions of the package ask; their errors have no base in common."""
_INSTALL = f"in the checkout: {installing('hub')}"


@dataclass(frozen=True)
class PublishedRepo:
    repo: str
    url: str
    private: bool
    files: tuple[str, ...]


def write_token(environ: Mapping[str, str]) -> Secret:
    """`HF_WRITE_TOKEN`, else `HF_TOKEN`. Raises AuthRejected where neither is set, and for what no header can carry:
    whoever refuses it there repeats it in their words.
    """
    name = WRITE_TOKEN_NAME if environ.get(WRITE_TOKEN_NAME) else "HF_TOKEN"
    token = environ.get(name, "").strip()
    if not token:
        raise AuthRejected(
            f"publishing to Hugging Face needs a token that may write, and {WRITE_TOKEN_NAME} is not set",
            f"make one at {DEFAULT_ENDPOINT}/settings/tokens and `export {WRITE_TOKEN_NAME}=hf_…`",
        )
    if re.search(r"[^\x21-\x7e]", token):
        raise AuthRejected(f"{name} holds blanks or letters that no token has", "copy it again: it begins with hf_")
    return Secret(token, name)


def publish_to_hub(
    model: FinishedModel, repo: str, *, public: bool, token: Secret, endpoint: str, told: Callable[[str], None]
) -> PublishedRepo:
    """Makes the repository if it is not there, and adds the files in one commit. Twice is safe: equal files do not
    travel again. A repository that exists keeps its visibility.

    Raises AuthRejected for a token that may not write there, UsageError without `huggingface_hub`, and Transient when
    the hub does not answer.
    """
    api = _api(token, endpoint)
    with _Explained(token):
        repo = repo or f"{api.whoami()['name']}/{model.name}"
        url = str(api.create_repo(repo, private=not public, exist_ok=True, repo_type="model"))
        content = _content(model, _license_of(api, model.base))
        told(f"sending {len(content)} files to {url}")
        operations = [_addition(path, source) for path, source in content.items()]
        api.create_commit(repo, operations, commit_message=f"Add {model.name}", repo_type="model")
        private = bool(api.model_info(repo).private)
    return PublishedRepo(repo, f"{endpoint}/{repo}", private, tuple(content))


def card_for_hub(card: str, base: str, license_: str) -> str:
    """The model's card as the hub accepts it: a base is named by its id there or not at all, and the license is the
    base's where the card states none. Pure.
    """
    front, bar, rest = card.removeprefix("---\n").partition("\n---\n")
    if not card.startswith("---\n") or not bar:
        return card
    lines = [line for line in front.splitlines() if not line.startswith("base_model:")]
    if HUB_ID.fullmatch(base.partition("@")[0]):
        lines.insert(0, f"base_model: {base.partition('@')[0]}")
    if license_ and not any(line.startswith("license:") for line in lines):
        lines.insert(1, f"license: {license_}")
    return "---\n" + "\n".join(lines) + bar + rest


def _content(model: FinishedModel, license_: str) -> dict[str, Path | bytes]:
    """Path → file, or bytes where the hub gets others than the run made: its card, and the manifest that lists it."""
    manifest = wire.Manifest.from_bytes((model.folder / wire.MANIFEST_NAME).read_bytes())
    content: dict[str, Path | bytes] = {entry.path: model.folder / entry.path for entry in manifest.files}
    if CARD in content:
        written = (model.folder / CARD).read_text("utf-8")
        card = card_for_hub(written, model.base, license_).encode()
        entry = wire.FileEntry(CARD, len(card), hashlib.sha256(card).hexdigest())
        files = tuple(entry if each.path == CARD else each for each in manifest.files)
        manifest, content[CARD] = replace(manifest, files=files), card
    return {**content, wire.MANIFEST_NAME: manifest.to_bytes()}


def _license_of(api: Any, base: str) -> str:
    """As the base's own page states it; empty where it does not, or the base is on no hub."""
    from huggingface_hub.errors import HfHubHTTPError

    repo, _, revision = base.partition("@")
    if not HUB_ID.fullmatch(repo):
        return ""
    try:
        card = api.model_info(repo, revision=revision or None).card_data
    except HfHubHTTPError:
        return ""
    return str(card.get("license") or "") if card is not None else ""


def _api(token: Secret, endpoint: str) -> Any:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        raise UsageError("publishing to Hugging Face needs the package huggingface_hub", _INSTALL) from None
    disable_progress_bars()
    return HfApi(endpoint=endpoint, token=token.reveal(), library_name="cloudbooth")


def _addition(path: str, source: Path | bytes) -> Any:
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=source)


class _Explained:
    """Turns the package's errors into ours, with the token cut out of what they say."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        said = self._shown(getattr(error, "server_message", None) or error)
        if isinstance(error, HfHubHTTPError):
            status = getattr(error.response, "status_code", 0)
            if status in (401, 403):
                raise AuthRejected(
                    f"Hugging Face does not let this token write: {said}",
                    f"make a write token at {DEFAULT_ENDPOINT}/settings/tokens and `export HF_WRITE_TOKEN=…`",
                ) from None
            if status == 429 or status >= 500:
                raise Transient(f"Hugging Face does not answer well: {said}") from None
            raise CloudboothError(f"Hugging Face: {said}") from None
        if isinstance(error, ValueError):  # the card, as the hub judges it before anything is sent
            raise CloudboothError(f"Hugging Face does not take the model's card: {said}") from None
        asked_by = type(error).__module__.partition(".")[0]
        if isinstance(error, OSError) or asked_by in _HTTP_LIBRARIES:
            raise Transient(f"Hugging Face cannot be reached: {said}", _LOOK_AT_NETWORK) from None

    def _shown(self, words: object) -> str:
        return " ".join(str(words).split()).replace(self._token.reveal(), "[token]")[:300]
