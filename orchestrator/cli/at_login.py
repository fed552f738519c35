"""`at-login`: runs go on by themselves after a reboot of the laptop."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import sys
from pathlib import Path

import click

from orchestrator.cli.options import json_option
from orchestrator.errors import UsageError
from orchestrator.home import Home
from orchestrator.login_hook import Hook, environment_file, hook_for
from orchestrator.whole_file import write_atomically


@click.command(epilog="Example: cloudbooth at-login")
@click.option("--remove", is_flag=True, help="Take it back.")
@json_option
def at_login(remove: bool, as_json: bool) -> int:
    """Have the runs that go on carried on at every login, by systemd or launchd.

    Writes one file for your account, and prints the command that makes it count; nothing else is changed. Keys that
    your shell exports are not known at login: put them into the file that is named.
    """
    hook = hook_for(platform.system(), Path.home(), _executable(), Home.of_environment().root)
    if hook is None:
        raise UsageError(f"{platform.system()} is not known to start anything at login", "`cloudbooth attach --all`")
    if remove:
        hook.file.unlink(missing_ok=True)
    else:
        hook.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(hook.file, hook.content)
    _tell(hook, remove, as_json)
    return 0


def _executable() -> Path:
    """The command itself, by a path that a login finds without our environment."""
    beside = Path(sys.executable).with_name("cloudbooth")
    return beside if beside.exists() else Path(shutil.which("cloudbooth") or sys.argv[0]).absolute()


def _tell(hook: Hook, removed: bool, as_json: bool) -> None:
    command = shlex.join(hook.disable if removed else hook.enable)
    if as_json:
        click.echo(json.dumps({"type": "summary", "file": str(hook.file), "removed": removed, "next": command}))
        return
    click.echo(f"{'removed' if removed else 'wrote'} {hook.file}")
    click.echo(f"next: {command}")
    if not removed:
        click.echo(f"keys it needs, as NAME=value and for you alone (chmod 600): {environment_file(Path.home())}")
