"""Class images from a public git repository: one commit, without history, and of its files only the wanted ones.

Such repositories hold thousands of pictures in several folders; a plain clone would bring gigabytes. Nothing but pixels
is kept of a picture, as of photos that travel.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import TrainingFailed
from .run_folder import write_atomically
from .stopping import ShouldStop, StopRequested
from .wire import GitPictures, Warned

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
RECORD = "fetched.json"
"""Beside the pictures, written last: the commit, and the names of the pictures in order."""
_SETTINGS = (
    # A connection that brings less than 1 kB/s for a minute is dead.
    "-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60", "-c", "core.symlinks=false", "-c", "gc.auto=0",
    "-c", "advice.detachedHead=false",
)  # fmt: skip
_TRANSPORTS = "https:http:git:file"
_POLL_S = 0.1
_CLONE_YOURSELF = "clone it yourself and give the folder in data.regularization"


def fetched_commit(folder: Path) -> str:
    """The full hash of what `fetch` has brought. Raises FileNotFoundError while it has not been through."""
    return str(json.loads((folder / RECORD).read_bytes())["commit"])


def fetched_files(folder: Path) -> list[Path] | None:
    """The pictures that `fetch` has brought; None while it has not been through."""
    try:
        names = json.loads((folder / RECORD).read_bytes())["files"]
    except FileNotFoundError:
        return None
    return [folder / name for name in names]


def fetch(wanted: GitPictures, folder: Path, warn: Callable[[Warned], None], should_stop: ShouldStop) -> None:
    """Puts at most `wanted.count` pictures into `folder`, spread evenly over the repository's, and the record last.

    Blocks until they are there; does nothing when they are. Equal commits give equal pictures. Raises
    TrainingFailed("class-images") for a repository or folder that cannot be had, TrainingFailed("environment") where
    git is missing, and StopRequested.
    """
    if fetched_files(folder) is not None:
        return
    clone = folder.with_name(f".{folder.name}.clone")
    shutil.rmtree(clone, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        commit = _fetch_commit(wanted, clone, should_stop)
        chosen = spread(_pictures_in(wanted, clone, should_stop), wanted.count)
        _check_out(clone, wanted.folder, chosen, should_stop)
        folder.mkdir(parents=True)
        kept = _keep_pictures([clone / wanted.folder / name for name in chosen], folder)
    finally:
        shutil.rmtree(clone, ignore_errors=True)
    if not kept:
        raise TrainingFailed("class-images", f"none of {len(chosen)} files of {wanted.url} can be read as a picture")
    if len(kept) < len(chosen):
        broken = len(chosen) - len(kept)
        warn(Warned(f"{broken} of {len(chosen)} class images of {wanted.url} cannot be read: they are left out"))
    record = {"url": wanted.url, "commit": commit, "files": kept}
    write_atomically(folder / RECORD, json.dumps(record).encode())


def spread(names: Sequence[str], count: int) -> list[str]:
    """At most `count` of the sorted names, at even distances: neighbors in such sets resemble each other."""
    ordered = sorted(names)
    if len(ordered) <= count:
        return ordered
    return [ordered[index * len(ordered) // count] for index in range(count)]


# ---- steps ---------------------------------------------------------------------------------------------------------


def _fetch_commit(wanted: GitPictures, clone: Path, should_stop: ShouldStop) -> str:
    """One commit and its trees, without the content of files; a server that cannot leave it out sends all of it."""
    clone.mkdir(parents=True)
    _git(clone, ["init", "--quiet"], should_stop)
    _git(clone, ["remote", "add", "origin", wanted.url], should_stop)
    source = wanted.commit or "HEAD"
    _git(clone, ["fetch", "--quiet", "--depth=1", "--no-tags", "--filter=blob:none", "origin", source], should_stop)
    return _git(clone, ["rev-parse", "FETCH_HEAD"], should_stop).decode().strip()


def _pictures_in(wanted: GitPictures, clone: Path, should_stop: ShouldStop) -> list[str]:
    where = f" in its folder {wanted.folder}" if wanted.folder else ""
    try:
        listing = _git(clone, ["ls-tree", "-z", f"FETCH_HEAD:{wanted.folder}"], should_stop)
    except TrainingFailed:
        folders = _git(clone, ["ls-tree", "-d", "--name-only", "FETCH_HEAD"], should_stop).decode().split("\n")
        there = ", ".join(filter(None, folders)) or "none"
        raise TrainingFailed(
            "class-images", f"{wanted.url} has no folder {wanted.folder}", f"its folders are: {there}"
        ) from None
    found = []
    for line in listing.decode("utf-8", "surrogateescape").split("\0"):
        mode, _, rest = line.partition(" ")
        name = rest.partition("\t")[2]
        # Regular files: a symbolic link could point anywhere on this machine.
        if mode in ("100644", "100755") and os.path.splitext(name)[1].lower() in SUFFIXES:
            found.append(name)
    if not found:
        raise TrainingFailed(
            "class-images", f"{wanted.url} has no pictures{where}", "name a folder behind the address: URL#FOLDER"
        )
    return found


def _check_out(clone: Path, folder: str, names: Sequence[str], should_stop: ShouldStop) -> None:
    """Sparse: git asks the server for the content of these files alone, all at once."""
    _git(clone, ["config", "core.sparseCheckout", "true"], should_stop)
    prefix = f"/{folder}/" if folder else "/"
    patterns = "".join(_literal(prefix + name) + "\n" for name in names)
    (clone / ".git/info").mkdir(exist_ok=True)
    (clone / ".git/info/sparse-checkout").write_text(patterns, "utf-8", "surrogateescape")
    _git(clone, ["checkout", "--quiet", "--detach", "FETCH_HEAD"], should_stop)


def _literal(path: str) -> str:
    return re.sub(r"([\\*?\[\]! #])", r"\\\1", path)


def _keep_pictures(files: Sequence[Path], folder: Path) -> list[str]:
    """Moves what holds pixels alone, and writes those of every other as PNG, upright. What cannot be read stays."""
    from PIL import Image

    from .dataset.upright import is_plain, upright_rgb

    kept = []
    for number, file in enumerate(files):
        try:
            with Image.open(file) as image:
                image.load()
                upright = None if is_plain(image) else upright_rgb(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue
        name = f"{number:06d}{file.suffix.lower() if upright is None else '.png'}"
        if upright is None:
            os.replace(file, folder / name)
        else:
            upright.save(folder / name, compress_level=1)
        kept.append(name)
    return kept


def _git(clone: Path, arguments: Sequence[str], should_stop: ShouldStop) -> bytes:
    """Output of one command. Never asks for a password, and reads no other transports than those of public places."""
    environment = {
        **os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": _TRANSPORTS, "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_ASKPASS": "true", "LC_ALL": "C",
    }  # fmt: skip
    output, errors = clone / ".git-output", clone / ".git-errors"
    try:
        with open(output, "wb") as out, open(errors, "wb") as err:
            command = ["git", *_SETTINGS, "-C", str(clone), *arguments]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
    except FileNotFoundError:
        raise TrainingFailed(
            "environment", "this machine has no git to fetch class images with", _CLONE_YOURSELF
        ) from None
    try:
        while process.poll() is None:
            if should_stop():
                raise StopRequested
            time.sleep(_POLL_S if arguments[0] in ("fetch", "checkout") else 0.005)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        said = errors.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise TrainingFailed(
            "class-images", f"git {arguments[0]} failed: {said[-1]}", f"check the address, or {_CLONE_YOURSELF}"
        )
    return output.read_bytes()
