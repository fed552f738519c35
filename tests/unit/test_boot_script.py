"""The start command: keys and guard in one short string that any shell takes."""

from __future__ import annotations

import base64
import gzip
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.boot_script import MAX_CHARACTERS, GuardSettings, guard_program, start_command
from orchestrator.code_bundle import trainer_code
from providers.api import MachineCall, SelfRelease
from providers.errors import CloudboothError
from remote_trainer.lease import GuardFiles
from tests.fakes.self_release import SelfReleaseService, end_guard

LOGIN_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJzJ4pK1v8m2q0y3b8Qw5d6f7g8h9i0jKlMnOpQrStUv cloudbooth my-dog"
HEADERS = {"Authorization": "Bearer ${CONTAINER_API_KEY}", "Content-Type": "application/json"}
URL = "https://console.example.com/api/v0/instances/${CONTAINER_ID}/"
CALLS = SelfRelease(
    terminate=MachineCall("DELETE", URL, HEADERS),
    probe=MachineCall("PUT", URL, HEADERS, '{"label": "${CONTAINER_LABEL}"}'),
    stop=MachineCall("PUT", URL, HEADERS, '{"state": "stopped"}'),
)


def host_key() -> str:
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        .decode()
    )


def settings(root: Path | str = "/workspace/cloudbooth", first_lease_s: int = 1800) -> GuardSettings:
    return GuardSettings(str(root), first_lease_s, poll_s=0.05)


class Image:
    """What a start command finds on a machine."""

    def __init__(self, root: Path) -> None:
        self.home, self.etc_ssh, self.memory = root / "home", root / "etc-ssh", root / "memory"
        self.home.mkdir()
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "CLOUDBOOTH_ETC_SSH": str(self.etc_ssh),
            "CLOUDBOOTH_GUARD_MEMORY": str(self.memory), "MACHINE_NAME": "m", "MACHINE_KEY": "k",
        }  # fmt: skip

    def boot(self, command: str) -> None:
        """Blocks as long as the command does."""
        done = subprocess.run(
            ["sh", "-c", command], env=self.environment, timeout=5, check=False, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0

    @property
    def authorized(self) -> list[str]:
        return [line for line in (self.home / ".ssh" / "authorized_keys").read_text().splitlines() if line]


def test_everything_fits_into_what_a_provider_takes() -> None:
    command = start_command(CALLS, settings(), authorized_key=LOGIN_KEY, host_key_private=host_key())
    assert len(command) < MAX_CHARACTERS


def test_calls_that_do_not_fit_are_refused_before_anything_is_rented() -> None:
    noise = base64.b64encode(os.urandom(3000)).decode()
    long = SelfRelease(MachineCall("DELETE", URL, HEADERS, noise), CALLS.probe)
    with pytest.raises(CloudboothError, match="4000 are allowed"):
        start_command(long, settings(), authorized_key=LOGIN_KEY)


def test_any_shell_may_wrap_it() -> None:
    command = start_command(CALLS, settings(), authorized_key=LOGIN_KEY, host_key_private=host_key())
    assert not set(command) & set("'\"\\$`\n")


def test_equal_inputs_make_equal_commands() -> None:
    key = host_key()
    one, two = (start_command(CALLS, settings(), authorized_key=LOGIN_KEY, host_key_private=key) for _ in range(2))
    assert one == two


def test_the_keys_are_in_place_when_it_returns(tmp_path: Path) -> None:
    image, key = Image(tmp_path), host_key()
    image.boot(start_command(None, settings(), authorized_key=LOGIN_KEY, host_key_private=key))
    private = image.etc_ssh / "ssh_host_ed25519_key"
    assert private.read_text() == key
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    public = serialization.load_ssh_private_key(key.encode(), None).public_key()
    expected = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    assert private.with_suffix(".pub").read_text().split()[:2] == expected.split()
    assert image.authorized == [LOGIN_KEY]
    assert not image.memory.exists(), "no guard was asked for"


def test_a_machine_that_boots_again_gets_its_keys_once_and_keeps_those_of_others(tmp_path: Path) -> None:
    image = Image(tmp_path)
    (image.home / ".ssh").mkdir()
    (image.home / ".ssh" / "authorized_keys").write_text("ssh-ed25519 AAAA somebody else")  # without a line break
    command = start_command(None, settings(), authorized_key=LOGIN_KEY)
    image.boot(command)
    image.boot(command)
    assert image.authorized == ["ssh-ed25519 AAAA somebody else", LOGIN_KEY]
    assert not image.etc_ssh.exists(), "the image's own host key stays"


def test_an_sshd_that_runs_already_is_told_of_the_new_key(tmp_path: Path) -> None:
    image = Image(tmp_path)
    image.etc_ssh.mkdir()
    listening = (
        "import signal,sys; signal.signal(signal.SIGHUP, lambda *_: sys.exit(7)); print(flush=True); signal.pause()"
    )
    with subprocess.Popen(["python3", "-c", listening], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        (image.etc_ssh / "sshd.pid").write_text(f"{daemon.pid}\n")
        image.boot(start_command(None, settings(), authorized_key=LOGIN_KEY, host_key_private=host_key()))
        assert daemon.wait(10) == 7


def test_the_guard_outlives_the_command_and_acts(tmp_path: Path) -> None:
    image, workdir = Image(tmp_path), tmp_path / "it's a folder"
    with SelfReleaseService() as service:
        image.boot(start_command(service.calls(), settings(workdir, 1), authorized_key=LOGIN_KEY))
        service.wait_for("terminate")
        files = GuardFiles.above(workdir / "runs" / "dog")
        assert files is not None
        assert files.can_stop
        end_guard(image.memory)
    assert stat.S_IMODE((image.memory / "guard.sh").stat().st_mode) == 0o600
    assert stat.S_IMODE(image.memory.stat().st_mode) == 0o700


def test_a_work_folder_below_home_is_that_of_the_machine(tmp_path: Path) -> None:
    image = Image(tmp_path)
    script = guard_program(CALLS, GuardSettings("~/a b", 60)).splitlines()[0] + '\necho "$CLOUDBOOTH_GUARD_STATE"'
    told = subprocess.run(["sh", "-c", script], env=image.environment, capture_output=True, text=True, check=True)
    assert told.stdout == f"{image.home}/a b/guard\n"


def test_the_machine_may_say_where_its_volume_is() -> None:
    script = guard_program(CALLS, settings()).splitlines()[0] + '\necho "$CLOUDBOOTH_GUARD_STATE"'
    told = subprocess.run(
        ["sh", "-c", script], env={"CLOUDBOOTH_GUARD_STATE": "/volume/x y"}, capture_output=True, text=True, check=True
    )
    assert told.stdout == "/volume/x y\n"


def test_a_header_cannot_smuggle_another_line_in() -> None:
    crooked = SelfRelease(MachineCall("DELETE", URL, {"A": "b\nX: y"}), CALLS.probe)
    with pytest.raises(ValueError, match="line break"):
        guard_program(crooked, settings())


def test_no_comment_travels_in_the_command_and_the_bundle_has_the_whole_script() -> None:
    command = start_command(CALLS, settings(), authorized_key=LOGIN_KEY)
    unpacked = gzip.decompress(base64.b64decode(command.split("|")[0].removeprefix("echo "))).decode()
    assert "bashism" not in unpacked
    assert b"remote_trainer/guard.sh" in trainer_code().tar
