"""What is wrong is said in one sentence with a way out; nothing is started, nothing is spent."""

from __future__ import annotations

import getpass
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Snapshot
from tests.e2e.command import EXECUTABLE, PHOTOS, Cloudbooth, Finished
from tests.fakes.sshd import Sshd, corrupted, make_key

USAGE, HOST, CONFLICT = 2, 4, 8
TINY = ("--set", "model.base=builtin:tiny")


def assert_refused(installation: Cloudbooth, finished: Finished) -> None:
    assert finished.stdout == "", "a plan was shown for what cannot be"
    assert re.match(r"error: [^\n]+(\n[^\n]+)*\n\nhint: [^\n]+(\n[^\n]+)*\n\Z", finished.stderr), finished.stderr
    assert "Traceback" not in finished.stderr
    assert installation.run("ps", "--json").lines == [{"type": "summary", "runs": 0}]
    assert not installation.models.exists()


def refused(installation: Cloudbooth, exit_code: int, *argv: str) -> str:
    """What `launch` says on stderr, with what differs from run to run taken out."""
    finished = installation.run("launch", *argv, "--yes", check=exit_code)
    assert_refused(installation, finished)
    text = finished.stderr.replace(str(PHOTOS), "PHOTOS").replace(sys.executable, "PYTHON")
    text = text.replace(f"{getpass.getuser()}@127", "USER@127").replace(
        f"login of {getpass.getuser()}", "login of USER"
    )
    text = re.sub(r"SHA256:[A-Za-z0-9+/]{43}", "SHA256:FINGERPRINT", text)
    text = re.sub(r"/\S*/pytest-\d+/(popen-gw\d+/)?home\d+", "HOME", text)
    return re.sub(r"(port |-p |127\.0\.0\.1\]:)\d{4,5}", r"\1PORT", text)


def of_photos(*more: str) -> tuple[str, ...]:
    return (str(PHOTOS), "--subject", "sks robot", *TINY, *more)


# ---- photos and spec -------------------------------------------------------------------------------------------------


def test_a_photo_folder_that_is_not_there(cloudbooth: Cloudbooth, snapshot: Snapshot) -> None:
    text = refused(cloudbooth, USAGE, str(cloudbooth.root / "fotos"), "--subject", "sks dog", *TINY)
    snapshot("missing folder", text)


def test_an_empty_photo_folder(cloudbooth: Cloudbooth) -> None:
    (cloudbooth.root / "photos").mkdir()
    text = refused(cloudbooth, USAGE, "photos", "--subject", "sks dog", *TINY)
    assert "photos is empty\n\nhint: readable are " in text


def test_a_text_file_named_jpg(cloudbooth: Cloudbooth, snapshot: Snapshot) -> None:
    folder = cloudbooth.root / "photos"
    folder.mkdir()
    (folder / "dog.jpg").write_text("to be scanned")
    snapshot("text named jpg", refused(cloudbooth, USAGE, "photos", "--subject", "sks dog", *TINY))


def test_a_folder_without_a_subject(cloudbooth: Cloudbooth, snapshot: Snapshot) -> None:
    snapshot("no subject", refused(cloudbooth, USAGE, str(PHOTOS)))


def test_a_misspelled_key_and_a_negative_number_are_reported_together(
    cloudbooth: Cloudbooth, snapshot: Snapshot
) -> None:
    spec = f"""
[subject]
instance_prompt = "a photo of sks dog"
[data]
instance = "{PHOTOS}"
[model]
base = "builtin:tiny"
[train]
stepz = 100
batch_size = -1
"""
    (cloudbooth.root / "dog.toml").write_text(spec)
    snapshot("spec", refused(cloudbooth, USAGE, "dog.toml"))


def test_negative_steps_on_the_command_line(cloudbooth: Cloudbooth, snapshot: Snapshot) -> None:
    snapshot("negative steps", refused(cloudbooth, USAGE, *of_photos("--steps", "-5")))


@pytest.mark.parametrize("base", ["builtin:huge", "./no-such-base"])
def test_an_unknown_base(base: str, cloudbooth: Cloudbooth) -> None:
    text = refused(cloudbooth, USAGE, *of_photos("--set", f"model.base={base}"))
    assert base.removeprefix("builtin:").removeprefix("./") in text


def test_an_unknown_provider(cloudbooth: Cloudbooth, snapshot: Snapshot) -> None:
    snapshot("unknown provider", refused(cloudbooth, USAGE, *of_photos("--provider", "runpood")))


# ---- where the model goes --------------------------------------------------------------------------------------------


def test_an_output_folder_below_a_file(cloudbooth: Cloudbooth, snapshot: Snapshot) -> None:
    (cloudbooth.root / "notes").write_text("")
    snapshot("output below a file", refused(cloudbooth, USAGE, *of_photos("--set", "output.folder=notes/models")))


def test_an_output_folder_where_nothing_can_be_written(cloudbooth: Cloudbooth) -> None:
    text = refused(cloudbooth, USAGE, *of_photos("--set", "output.folder=/proc/models"))
    assert text.startswith("error: /proc cannot be written")


def test_a_model_that_is_there_already_is_not_overwritten(cloudbooth: Cloudbooth) -> None:
    precious = cloudbooth.root / "elsewhere" / "sks-robot" / "precious"
    precious.mkdir(parents=True)
    text = refused(cloudbooth, USAGE, *of_photos("--set", "output.folder=elsewhere"))
    assert "sks-robot exists already" in text
    assert precious.exists()


def test_a_name_used_twice(cloudbooth: Cloudbooth, snapshot: Snapshot) -> None:
    argv = cloudbooth.launch_argv("robot", "--steps", "20000")
    cloudbooth.run(*argv, "--detach")
    again = cloudbooth.run(*[part for part in argv if part != "--json"], check=CONFLICT)
    runs = cloudbooth.run("ps", "--json").lines
    cloudbooth.run("down", "robot")
    assert again.stdout == ""
    assert [line.get("run") for line in runs] == ["robot", None]
    snapshot("name used twice", again.stderr)


def test_a_run_that_does_not_exist(cloudbooth: Cloudbooth) -> None:
    for verb in ("status", "logs", "attach", "pull", "stop", "down", "resume"):
        finished = cloudbooth.run(verb, "robot", check=USAGE)
        assert finished.stderr == "error: there is no run named `robot`\n\nhint: `cloudbooth ps` lists all runs\n"


# ---- the host --------------------------------------------------------------------------------------------------------


def test_a_host_that_does_not_answer(cloudbooth_over_ssh: Cloudbooth, sshd: Sshd, snapshot: Snapshot) -> None:
    sshd.go_away()
    snapshot("closed port", refused(cloudbooth_over_ssh, HOST, *of_photos(*cloudbooth_over_ssh.machine)))


def test_a_wrong_key(cloudbooth_over_ssh: Cloudbooth, isolated_home: Path, snapshot: Snapshot) -> None:
    make_key(isolated_home / ".ssh" / "id_ed25519")
    text = refused(cloudbooth_over_ssh, HOST, *of_photos(*cloudbooth_over_ssh.machine))
    snapshot("wrong key", text)


def test_an_unknown_host_key_can_be_learned_by_what_the_hint_says(
    cloudbooth_over_ssh: Cloudbooth, isolated_home: Path, snapshot: Snapshot
) -> None:
    (isolated_home / ".ssh" / "known_hosts").unlink()
    argv = of_photos(*cloudbooth_over_ssh.machine)
    raw = cloudbooth_over_ssh.run("launch", *argv, "--yes", check=HOST).stderr
    assert re.search(r"SHA256:[A-Za-z0-9+/]{43}", raw)
    snapshot("unknown host key", refused(cloudbooth_over_ssh, HOST, *argv))

    [fix] = re.findall(r"`(ssh-keyscan [^`]+)`", raw)
    subprocess.run(["sh", "-c", fix], check=True, capture_output=True)
    assert cloudbooth_over_ssh.run("plan", *argv).exit_code == 0


def test_a_changed_host_key(
    cloudbooth_over_ssh: Cloudbooth, sshd: Sshd, isolated_home: Path, snapshot: Snapshot
) -> None:
    file = isolated_home / ".ssh" / "known_hosts"
    file.write_text(f"[127.0.0.1]:{sshd.port} {corrupted(sshd.host_keys[0])}\n")
    text = refused(cloudbooth_over_ssh, HOST, *of_photos(*cloudbooth_over_ssh.machine))
    snapshot("changed host key", text)


def test_a_host_without_python(cloudbooth_over_ssh: Cloudbooth, snapshot: Snapshot) -> None:
    machine = (*cloudbooth_over_ssh.machine, "--set", "compute.ssh.python=/nonexistent/python3")
    text = refused(cloudbooth_over_ssh, HOST, *of_photos(*machine))
    snapshot("no python", re.sub(r"\(.*\)", "(WHAT THE SHELL SAYS)", text))


def test_a_work_folder_that_cannot_be_made(cloudbooth_over_ssh: Cloudbooth) -> None:
    machine = (*cloudbooth_over_ssh.machine, "--set", "compute.ssh.workdir=/dev/null/work")
    text = refused(cloudbooth_over_ssh, HOST, *of_photos(*machine))
    assert "its work folder /dev/null/work cannot be used" in text


@pytest.mark.skipif(
    Path(pwd.getpwuid(os.getuid()).pw_shell).name != "bash", reason="only bash reads ~/.bashrc for a command over SSH"
)
def test_a_host_that_greets_whoever_logs_in(cloudbooth_over_ssh: Cloudbooth, sshd: Sshd, snapshot: Snapshot) -> None:
    bashrc = sshd.home / ".bashrc"
    bashrc.write_text("echo Welcome to gpu-box\n")
    argv = of_photos(*cloudbooth_over_ssh.machine)
    raw = cloudbooth_over_ssh.run("launch", *argv, "--yes", check=HOST).stderr
    snapshot("greeting", refused(cloudbooth_over_ssh, HOST, *argv))

    [fix] = re.findall(r": (case \$- in .* esac)$", raw, re.MULTILINE)
    bashrc.write_text(f"{fix}\n{bashrc.read_text()}")
    assert cloudbooth_over_ssh.run("plan", *argv).exit_code == 0


# ---- full disks ------------------------------------------------------------------------------------------------------


def with_small_disk(installation: Cloudbooth, place: Path, kilobytes: int, *argv: str) -> Finished:
    """Runs the command where `place` is a file system of that size, which nobody else sees."""
    place.mkdir(parents=True, exist_ok=True)
    script = f'mount -t tmpfs -o size={kilobytes}k small "$0" && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, str(place), str(EXECUTABLE), *argv]
    environ = {**os.environ, "CLOUDBOOTH_HOME": str(installation.root / "state")}
    done = subprocess.run(command, env=environ, cwd=installation.root, capture_output=True, text=True, timeout=120)
    return Finished(done.returncode, done.stdout, done.stderr)


may_mount = pytest.mark.skipif(
    subprocess.run(
        ["sh", "-c", "unshare -m sh -c 'mount -t tmpfs -o size=64k small /mnt'"], check=False, capture_output=True
    ).returncode
    != 0,
    reason="a small file system can only be mounted by root with unshare",
)


@may_mount
def test_a_full_disk_on_the_host_is_found_before_anything_is_sent(cloudbooth: Cloudbooth) -> None:
    host = cloudbooth.root / "state" / "providers" / "local" / "host"
    finished = with_small_disk(cloudbooth, host, 1024, "launch", *of_photos("--yes"))
    assert finished.exit_code == HOST, finished
    assert_refused(cloudbooth, finished)
    assert "GB free" in finished.stderr


@may_mount
def test_a_full_disk_on_the_laptop_stops_the_launch_before_a_run_exists(cloudbooth: Cloudbooth) -> None:
    runs = cloudbooth.root / "state" / "runs"
    finished = with_small_disk(cloudbooth, runs, 8, "launch", *of_photos("--yes"))
    assert finished.exit_code == USAGE, finished
    assert re.search(r"error: this machine's disk is full: \S+\n\nhint: free some space", finished.stderr)
    assert "attach" not in finished.stderr, "there is no run to attach to"
    assert cloudbooth.run("ps", "--json").lines == [{"type": "summary", "runs": 0}]


@may_mount
def test_a_disk_too_full_for_the_ledger(cloudbooth: Cloudbooth) -> None:
    finished = with_small_disk(cloudbooth, cloudbooth.root / "state", 8, "launch", *of_photos("--yes"))
    assert finished.exit_code == USAGE, finished
    assert "disk is full" in finished.stderr
    assert "\n\nhint: free some space" in finished.stderr
