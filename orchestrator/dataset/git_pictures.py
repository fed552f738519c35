"""Class images that the machine fetches from git: looked at from here, so that a wrong address costs nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping

from orchestrator.errors import UsageError
from orchestrator.spec import RunSpec
from orchestrator.spec_data import GitClassImages
from remote_trainer.wire import GitPictures

_TIMEOUT_S = 30.0


def fetches_of(spec: RunSpec) -> dict[str, GitPictures]:
    """By the id of the set, each repository pinned to the commit that it has now. One small request for each; without
    git on this machine they stay unpinned.

    Raises UsageError for a repository that does not answer.
    """
    found = unpinned(spec)
    if not found or shutil.which("git") is None:
        return found
    commits = {url: newest_commit(url) for url in {wanted.url for wanted in found.values()}}
    return {
        id_: GitPictures(wanted.url, wanted.folder, wanted.count, commits[wanted.url]) for id_, wanted in found.items()
    }


def unpinned(spec: RunSpec) -> dict[str, GitPictures]:
    """What the spec says by itself."""
    count = spec.data.regularization_count
    sources = {pictures.id: pictures.source for pictures in spec.picture_sets}
    return {
        id_: GitPictures(source.url, source.folder, count)
        for id_, source in sources.items()
        if isinstance(source, GitClassImages)
    }


def newest_commit(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """The full hash of the repository's HEAD. Asks for no password. Raises UsageError when it does not answer."""
    command = ["git", "-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=20", "ls-remote", "--", url, "HEAD"]
    settings = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "GIT_ALLOW_PROTOCOL": "https:http:git:file"}
    hint = "check the address; or `git clone` it and give the folder"
    try:
        done = subprocess.run(
            command, env={**environment, **settings, "LC_ALL": "C"}, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UsageError(f"{url} does not answer", hint) from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["git said nothing"]
        raise UsageError(f"{url} cannot be read: {said[0]}", hint)
    if not (commit := re.match(r"[0-9a-f]{40,64}", done.stdout)):
        raise UsageError(f"{url} is an empty repository", hint)
    return commit[0]
