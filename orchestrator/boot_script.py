"""The boot plan's start command: this run's keys, and the guard that gives the machine back. Pure.

Everything is packed, because the whole must stay below `MAX_CHARACTERS`, and holds no quotes, because providers wrap
it into shells of their own. What it does on the machine, in this order: the SSH host key is put in place (an sshd that
runs already takes it up), the login key is appended, the guard is put into memory and started, detached.

The machine's own environment may move what is written where: `CLOUDBOOTH_GUARD_STATE` and `CLOUDBOOTH_GUARD_MEMORY`
(the guard's two folders), `CLOUDBOOTH_RENDEZVOUS` (a file), `CLOUDBOOTH_ETC_SSH` (instead of /etc/ssh; the sshd that is
told is then the one whose process id stands in `sshd.pid` there), `HOME`.
"""

from __future__ import annotations

import base64
import gzip
import re
import shlex
from dataclasses import dataclass
from functools import cache
from importlib import resources

from providers.api import MachineCall, SelfRelease
from providers.errors import CloudboothError

MAX_CHARACTERS = 4000
"""Vast takes 4,096 for start command and arguments together."""
GUARD_FOLDER = "guard"
"""Below the work folder, on the volume."""
_HEREDOC = "CLOUDBOOTH_ENDS_HERE"
_NOTE_RENDEZVOUS = (
    "env | grep -E '^(PET_[A-Z_]+|NUM_NODES|NODE_RANK|MASTER_ADDR|MASTER_PORT)=' "
    '>"${CLOUDBOOTH_RENDEZVOUS:-/dev/shm/cloudbooth-rendezvous}"'
)


@dataclass(frozen=True)
class GuardSettings:
    workdir: str
    """The work folder on the machine, absolute or below `~/`, as its `SshAccess` will state it."""
    first_lease_s: int
    """From the machine's boot until somebody must have renewed: boot, image pull and first login fit into it."""
    lease_s: int = 600
    """What a renewal is good for: how long the machine outlives a supervisor and a laptop that are both gone. The
    supervisor renews every 15 s."""
    poll_s: float = 5.0
    retry_s: int = 5
    """The first pause after a call that was not answered well; it doubles up to five minutes."""


def start_command(
    self_release: SelfRelease | None,
    settings: GuardSettings,
    *,
    authorized_key: str,
    host_key_private: str | None = None,
    meets_others: bool = False,
) -> str:
    """One POSIX shell command without quotes or line breaks; it returns within seconds, and twice is safe.

    `authorized_key`: the OpenSSH public key line that root lets in. `host_key_private`: an ed25519 key in OpenSSH's
    PEM form; None leaves the image's own. Without `self_release` there is no guard. `meets_others`: the environment
    says where, and the trainer, which a login over SSH starts without it, finds it noted
    (`remote_trainer/rendezvous.py`). Raises CloudboothError when the result would be longer than MAX_CHARACTERS.
    """
    parts = ["umask 077", "cd /"]
    if meets_others:
        parts.append(_NOTE_RENDEZVOUS)
    if host_key_private is not None:
        parts.append(_place_host_key(host_key_private))
    parts.append(_let_in(authorized_key))
    if self_release is not None:
        parts.append(_start_guard(guard_program(self_release, settings)))
    packed = base64.b64encode(gzip.compress("\n".join(parts).encode() + b"\n", mtime=0)).decode()
    command = f"echo {packed}|base64 -d|gzip -dc|sh"
    if len(command) > MAX_CHARACTERS:
        raise CloudboothError(
            f"the machine's start command has {len(command)} characters, {MAX_CHARACTERS} are allowed",
            "the provider's calls for self-release are too long: shorten their headers and bodies",
        )
    return command


def guard_program(self_release: SelfRelease, settings: GuardSettings) -> str:
    """`remote_trainer/guard.sh` with its settings in front: what runs on the machine, without comments.

    It holds placeholders, no keys. A machine whose boot plan had no guard gets it over SSH.
    """
    stop = self_release.stop
    calls = {
        "TERMINATE": _as_text(self_release.terminate),
        "STOP": "" if stop is None else _as_text(stop),
        "PROBE": _as_text(self_release.probe),
    }
    state = f"{settings.workdir.rstrip('/')}/{GUARD_FOLDER}"
    assignments = [
        f"CLOUDBOOTH_GUARD_STATE=${{CLOUDBOOTH_GUARD_STATE:-{_home_expanded(state)}}}",
        f"CLOUDBOOTH_GUARD_FIRST_S={int(settings.first_lease_s)}",
        f"CLOUDBOOTH_GUARD_LEASE_S={int(settings.lease_s)}",
        f"CLOUDBOOTH_GUARD_POLL_S={settings.poll_s:g}",
        f"CLOUDBOOTH_GUARD_RETRY_S={int(settings.retry_s)}",
        *(f"CLOUDBOOTH_GUARD_{name}={shlex.quote(text)}" for name, text in calls.items()),
    ]
    return "\n".join(assignments) + "\n" + _guard()


def _as_text(call: MachineCall) -> str:
    """Raises ValueError for a call that this form cannot carry: line breaks outside the body."""
    lines = [f"{call.method} {call.url}", *(f"{name}: {value}" for name, value in call.headers.items())]
    if any("\n" in line or "\r" in line for line in lines):
        raise ValueError("a call's method, URL or header holds a line break")
    return "\n".join([*lines, "", call.body])


def _home_expanded(path: str) -> str:
    return '"${HOME:-/root}"' + shlex.quote(path[1:]) if path.startswith("~/") else shlex.quote(path)


@cache
def _guard() -> str:
    text = (resources.files("remote_trainer") / "guard.sh").read_text("utf-8")
    return re.sub(r"^\s*#.*\n|^\n", "", text, flags=re.MULTILINE)


def _place_host_key(private: str) -> str:
    """An sshd whose parent is no sshd is the one that listens: on SIGHUP it starts anew, with the key that lies there.

    The machine's other host keys stay; a client that pins the ed25519 key asks for that one.
    """
    return f"""e=${{CLOUDBOOTH_ETC_SSH:-/etc/ssh}}
k=$e/ssh_host_ed25519_key
mkdir -p $e
cat >$k.new <<'{_HEREDOC}'
{private.strip()}
{_HEREDOC}
mv -f $k.new $k
ssh-keygen -y -f $k >$k.pub </dev/null 2>/dev/null
chmod 644 $k.pub
if [ $e != /etc/ssh ]; then
kill -HUP $(cat $e/sshd.pid)
else
for p in /proc/[0-9]*; do
[ "$(cat $p/comm)" = sshd ] || continue
[ "$(cat /proc/$(sed -n 's/^PPid:[^0-9]*//p' $p/status)/comm)" = sshd ] || kill -HUP ${{p#/proc/}}
done
fi 2>/dev/null"""


def _let_in(authorized_key: str) -> str:
    return f"""a=${{HOME:-/root}}/.ssh
mkdir -p $a
chmod 700 $a
l={shlex.quote(authorized_key.strip())}
grep -qxF "$l" $a/authorized_keys 2>/dev/null || printf '\\n%s\\n' "$l" >>$a/authorized_keys"""


def _start_guard(program: str) -> str:
    """Written beside and renamed: a guard that runs reads its script from the file that it was started with."""
    return f"""for d in "$CLOUDBOOTH_GUARD_MEMORY" /dev/shm/cloudbooth-guard /tmp/cloudbooth-guard; do
[ "$d" ] && mkdir -p "$d" && cat >"$d/new" <<'{_HEREDOC}' && mv -f "$d/new" "$d/guard.sh" && break
{program}{_HEREDOC}
done 2>/dev/null
s=$(command -v setsid)
$s sh "$d/guard.sh" </dev/null >/dev/null 2>&1 &"""
