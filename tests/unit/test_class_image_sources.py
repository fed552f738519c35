"""Where class images may come from, as the spec says it and the plan tells it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.dataset.git_pictures import fetches_of, newest_commit
from orchestrator.errors import UsageError
from orchestrator.spec import RunSpec
from orchestrator.spec_data import GitClassImages, picture_source
from orchestrator.spec_file import spec_from_photos
from remote_trainer.wire import GitPictures

SHARED = "https://github.com/djbielejeski/Stable-Diffusion-Regularization-Images-person_ddim"


def spec(regularization: str, *overrides: str) -> RunSpec:
    return spec_from_photos(Path("/photos"), "sks dog", [f"data.regularization={regularization}", *overrides])


@pytest.mark.parametrize(
    ("text", "url", "folder"),
    [
        (SHARED, SHARED, "person_ddim"),
        (f"{SHARED}.git", f"{SHARED}.git", "person_ddim"),
        (f"{SHARED}#man/euler/", SHARED, "man/euler"),
        ("https://example.com/x.git", "https://example.com/x.git", ""),
        ("file:///srv/x.git#a", "file:///srv/x.git", "a"),
    ],
)
def test_an_address_may_name_the_folder(text: str, url: str, folder: str) -> None:
    assert picture_source(text) == GitClassImages(url, folder)
    assert spec(text).data.regularization == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("git@github.com:a/b.git", "needs a key"),
        ("ssh://git@github.com/a/b", "needs a key"),
        ("https://me:secret@example.com/x.git", "would travel to the machine"),
        ("https://example.com/x.git#../../etc", "outside the repository"),
    ],
)
def test_addresses_that_would_not_do_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        spec(text)


def test_a_repository_is_pinned_to_its_newest_commit(tmp_path: Path) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], [*who, "commit", "--quiet", "--allow-empty", "--message", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    url = tmp_path.as_uri()
    pinned = fetches_of(spec(f"{url}#men", "data.regularization_count=50"))
    commit = newest_commit(url)
    assert pinned == {"class": GitPictures(url, "men", 50, commit)}
    assert len(commit) == 40


def test_a_repository_that_does_not_answer_costs_nothing() -> None:
    with pytest.raises(UsageError, match="file:///nowhere cannot be read"):
        fetches_of(spec("file:///nowhere"))
