"""What the system is told, so that after a reboot of the laptop its runs are carried on when its user logs in.

A user unit of systemd on Linux, a launch agent on macOS: texts, made here and written by a verb. Keys are not written
into them: both read a file of the user's, which is theirs to make, as shells and systemd read `NAME=value` lines.
"""

from __future__ import annotations

import plistlib
from dataclasses import dataclass
from pathlib import Path

NAME = "cloudbooth"
_SHELL = '[ ! -r "$0" ] || { set -a; . "$0"; }; exec "$1" attach --all'


@dataclass(frozen=True)
class Hook:
    file: Path
    content: bytes
    enable: tuple[str, ...]
    """The command after which it is in force, now and at every login."""
    disable: tuple[str, ...]
    """Before it is removed."""


def environment_file(user_home: Path) -> Path:
    """Of keys and addresses; need not exist."""
    return user_home / ".config" / NAME / "environment"


def hook_for(system: str, user_home: Path, executable: Path, state: Path) -> Hook | None:
    """`system` as `platform.system()` says it; `state` is where the runs are on record. None where none is known."""
    if system == "Linux":
        file = user_home / ".config" / "systemd" / "user" / f"{NAME}.service"
        control = ("systemctl", "--user")
        unit = _systemd_unit(user_home, executable, state)
        return Hook(file, unit, (*control, "enable", file.name), (*control, "disable", file.name))
    if system == "Darwin":
        file = user_home / "Library" / "LaunchAgents" / f"{NAME}.plist"
        agent = _launch_agent(user_home, executable, state)
        return Hook(file, agent, ("launchctl", "load", "-w", str(file)), ("launchctl", "unload", "-w", str(file)))
    return None


def _systemd_unit(user_home: Path, executable: Path, state: Path) -> bytes:
    """`KillMode=process`: what `attach --all` leaves behind is to live on. `env`: a path that systemd starts by itself
    may not hold a quotation mark.

    https://www.freedesktop.org/software/systemd/man/latest/systemd.service.html
    """
    return f"""[Unit]
Description=Carry on the runs of cloudbooth

[Service]
Type=oneshot
RemainAfterExit=yes
KillMode=process
Environment={_quoted(f"CLOUDBOOTH_HOME={state}")}
EnvironmentFile=-{_escaped(str(environment_file(user_home)))}
ExecStart=/usr/bin/env {_quoted(str(executable)).replace("$", "$$")} attach --all

[Install]
WantedBy=default.target
""".encode()


def _launch_agent(user_home: Path, executable: Path, state: Path) -> bytes:
    """`AbandonProcessGroup` for the same reason: `man launchd.plist`."""
    return plistlib.dumps(
        {
            "Label": NAME,
            "ProgramArguments": ["/bin/sh", "-c", _SHELL, str(environment_file(user_home)), str(executable)],
            "EnvironmentVariables": {"CLOUDBOOTH_HOME": str(state)},
            "RunAtLoad": True,
            "AbandonProcessGroup": True,
        }
    )


def _quoted(text: str) -> str:
    """As one word of a unit file."""
    return '"' + _escaped(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
