"""Class images from a git repository, over `file://`, laid out as the ones that people share."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess

import pytest
from PIL import Image

from remote_trainer import class_images, git_pictures, wire
from remote_trainer.checkpoint import Frozen, RunState
from remote_trainer.dataset.pictures import fetched_folder, load_pixels, training_set
from remote_trainer.errors import TrainingFailed
from remote_trainer.stopping import StopRequested
from remote_trainer.wire import GitPictures
from tests.trainer.tiny_runs import CLASS_PROMPT, SIDE, photo_set, tiny_job

PICTURES = 20


def git(folder, *arguments):
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(work):
    git(work, "add", "--all")
    git(work, "commit", "--quiet", "--message", "pictures")
    git(work, "push", "--quiet", "--force", "origin", "HEAD:main")
    return git(work, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """(address, work tree, first commit): `person_ddim/` with pictures, one of them broken, and a folder `large`."""
    bare, work = tmp_path_factory.mktemp("bare"), tmp_path_factory.mktemp("work")
    git(bare, "init", "--quiet", "--bare", "--initial-branch=main")
    git(bare, "config", "uploadpack.allowFilter", "true")
    git(work, "init", "--quiet", "--initial-branch=main")
    git(work, "remote", "add", "origin", bare.as_uri())
    (work / "person_ddim").mkdir()
    for number in range(PICTURES):
        Image.new("RGB", (SIDE * 2, SIDE), (number, 0, 0)).save(work / f"person_ddim/{number:03d} [a].png")
    (work / "person_ddim/notes.txt").write_text("no picture")
    (work / "person_ddim/zzz.jpg").write_text("version https://git-lfs.github.com/spec/v1")
    (work / "person_ddim/link.png").symlink_to("/etc/hostname")
    (work / "large").mkdir()
    (work / "large/0.png").write_bytes(random.Random(0).randbytes(1_000_000))
    return bare.as_uri(), work, commit(work)


@pytest.fixture
def warned():
    return []


def fetch(folder, warned, url, count=5, name="person_ddim", at=None, should_stop=lambda: False):
    git_pictures.fetch(GitPictures(url, name, count, at), folder, warned.append, should_stop)
    return git_pictures.fetched_files(folder)


def reds(files):
    return [Image.open(path).getpixel((0, 0))[0] for path in files]


def test_so_many_pictures_as_are_wanted_spread_over_the_folder(repository, tmp_path, warned):
    url, _, first = repository
    files = fetch(tmp_path / "fetched", warned, url, count=7)
    assert reds(files) == [0, 3, 6, 9, 12, 15, 18]
    assert json.loads((tmp_path / "fetched/fetched.json").read_bytes())["commit"] == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fetched"]


def test_what_only_has_the_name_of_a_picture_is_left_out_and_told(repository, tmp_path, warned):
    files = fetch(tmp_path / "fetched", warned, repository[0], count=1000)
    assert len(files) == PICTURES
    assert [warning.message.partition(" of file://")[0] for warning in warned] == ["1 of 21 class images"]


def test_a_pinned_commit_stays_what_it_was(repository, tmp_path, warned):
    url, work, first = repository
    (work / "person_ddim/000 [a].png").unlink()
    commit(work)
    assert reds(fetch(tmp_path / "pinned", warned, url, count=3, at=first))[0] == 0
    assert reds(fetch(tmp_path / "newest", warned, url, count=3))[0] == 1


def test_the_first_machine_pins_what_the_plan_could_not_and_the_next_takes_the_same(repository, tmp_path):
    url, work, _ = repository
    spec = dataclasses.replace(photo_set(tmp_path, "class", 0), fetch=GitPictures(url, "person_ddim", 3))
    job, told = tiny_job(spec), []
    pins = class_images.fetch_all(job, tmp_path / "first", told.append, lambda: False)
    assert [decision.what for decision in told if isinstance(decision, wire.Decision)] == [
        f"take {url} at commit {pins[0].commit}"
    ]
    Image.new("RGB", (SIDE, SIDE), "white").save(work / "person_ddim/000.png")
    assert commit(work) != pins[0].commit
    told.clear()
    assert class_images.fetch_all(job, tmp_path / "next", told.append, lambda: False, pins) == pins
    assert [type(event) for event in told] == [wire.PhaseStarted]
    first, second = (
        [path.read_bytes() for path in git_pictures.fetched_files(fetched_folder(tmp_path / run, spec))]
        for run in ("first", "next")
    )
    assert first == second
    state = RunState(1, "", Frozen("fp32", 1, False, 1e-3), (), pins)
    assert wire.loads(RunState, wire.dumps(state)) == state


def test_of_a_picture_nothing_but_upright_pixels_is_kept(tmp_path):
    clone, folder = tmp_path / "clone", tmp_path / "kept"
    clone.mkdir()
    folder.mkdir()
    wide = Image.new("RGB", (8, 4), "red")
    wide.paste("blue", (4, 0, 8, 4))
    lying = Image.Exif()
    lying[0x0112], lying[0x010F] = 6, "a camera"  # to be turned right
    wide.save(clone / "a.png", exif=lying)
    wide.save(clone / "b.png")
    seen_through = Image.new("RGBA", (8, 4), (255, 0, 0, 0))
    seen_through.save(clone / "c.png")
    deep = Image.new("I;16", (8, 4), 257 * 100)
    deep.save(clone / "d.png")
    names = ["a.png", "b.png", "c.png", "d.png"]
    assert git_pictures._keep_pictures([clone / name for name in names], folder) == [
        "000000.png", "000001.png", "000002.png", "000003.png",
    ]  # fmt: skip
    turned, plain, laid_on_white, flat = (Image.open(path) for path in sorted(folder.iterdir()))
    assert (turned.size, turned.getpixel((0, 0)), turned.getpixel((0, 7))) == ((4, 8), (255, 0, 0), (0, 0, 255))
    assert not turned.getexif()
    assert b"a camera" not in (folder / "000000.png").read_bytes()
    assert (plain.size, laid_on_white.getpixel((0, 0)), flat.getpixel((0, 0))) == ((8, 4), (255,) * 3, (100,) * 3)
    assert (clone / "a.png").exists()
    assert not (clone / "b.png").exists(), "what is plain keeps its bytes"


def test_what_was_fetched_is_not_fetched_again(repository, tmp_path, warned):
    files = fetch(tmp_path / "fetched", warned, repository[0])
    assert fetch(tmp_path / "fetched", warned, "file:///nowhere") == files


def test_content_of_other_folders_is_never_asked_for(repository, tmp_path):
    """The clone is looked at while it is there: `large/0.png` is a megabyte that does not compress."""
    clone = tmp_path / "clone"
    wanted = GitPictures(repository[0], "person_ddim", 2)
    git_pictures._fetch_commit(wanted, clone, lambda: False)
    git_pictures._check_out(clone, "person_ddim", ["003 [a].png"], lambda: False)
    assert [path.name for path in (clone / "person_ddim").iterdir()] == ["003 [a].png"]
    assert not (clone / "large").exists()
    assert sum(path.stat().st_size for path in clone.rglob("*") if path.is_file()) < 500_000


@pytest.mark.parametrize(
    ("url", "name", "message", "hint"),
    [
        (None, "man_euler", "has no folder man_euler", "its folders are: large, person_ddim"),
        (None, "", "has no pictures", "URL#FOLDER"),
        ("file:///nowhere/at/all.git", "x", "git fetch failed", "check the address"),
        ("ext::sh -c true", "x", "git fetch failed", "check the address"),
    ],
)
def test_what_cannot_be_had_ends_the_run_with_a_hint(repository, tmp_path, warned, url, name, message, hint):
    with pytest.raises(TrainingFailed) as failure:
        fetch(tmp_path / "fetched", warned, url or repository[0], name=name)
    assert failure.value.code == "class-images"
    assert message in failure.value.message
    assert hint in failure.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_stop_leaves_nothing_half(repository, tmp_path, warned):
    with pytest.raises(StopRequested):
        fetch(tmp_path / "fetched", warned, repository[0], should_stop=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_fetched_pictures_are_class_images_of_the_run(repository, tmp_path, warned):
    spec = dataclasses.replace(
        photo_set(tmp_path, "class", 0), fetch=GitPictures(repository[0], "person_ddim", 4)
    )  # fmt: skip
    job = tiny_job(photo_set(tmp_path, "instance", 1), spec, resolution=64)
    assert training_set(job, tmp_path).class_ == ()
    git_pictures.fetch(spec.fetch, fetched_folder(tmp_path, spec), warned.append, lambda: False)
    pictures = training_set(job, tmp_path).class_
    assert [(picture.width, picture.height, picture.caption) for picture in pictures] == [(64, 64, CLASS_PROMPT)] * 4
    assert load_pixels(pictures[0]).shape == (3, 64, 64)
    assert wire.loads(wire.Job, wire.dumps(job)) == job
