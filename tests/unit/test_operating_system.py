"""What one system has and another lacks is called in one module, and what needs none of it starts anywhere.

Nothing here ran on Windows: the branches for it are checked for types alone.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.operating_system import account_home, is_locked, kill_session, session_of_its_own, take_lock
from tests.fakes.photos import photo_folder

ROOT = Path(__file__).parents[2]
THE_MODULE = ROOT / "orchestrator" / "operating_system.py"
MODULES = [
    path
    for package in ("orchestrator", "providers", "remote_trainer/wire")  # what a laptop loads
    for path in sorted((ROOT / package).rglob("*.py"))
    if path != THE_MODULE and "cog" not in path.relative_to(ROOT).parts  # `cog` runs in a container
]
POSIX_MODULES = {
    "crypt",
    "curses",
    "fcntl",
    "grp",
    "posix",
    "pty",
    "pwd",
    "readline",
    "resource",
    "syslog",
    "termios",
    "tty",
}
WINDOWS_MODULES = {"_winapi", "msvcrt", "winreg"}
POSIX_CALLS = {
    "os": {
        "chown", "chroot", "fchdir", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getgroups",
        "getloadavg", "getpgid", "getpgrp", "getpriority", "getresuid", "getsid", "getuid", "initgroups", "killpg",
        "lchown", "mkfifo", "mknod", "nice", "openpty", "pipe2", "pread", "pwrite", "register_at_fork",
        "sched_getaffinity", "sched_setaffinity", "sendfile", "set_blocking", "setgid", "setpgid", "setsid", "setuid",
        "statvfs", "fstatvfs", "sync", "sysconf", "ttyname", "uname", "wait", "wait3", "wait4", "waitid", "writev",
        "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC",
    },
    "signal": {
        "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1", "SIGUSR2",
        "SIGWINCH", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait",
    },
    "time": {"clock_gettime", "tzset"},
}  # fmt: skip
"""What the library's reference calls "Availability: Unix" or not Windows."""
POPEN_ARGUMENTS = {"preexec_fn", "start_new_session", "process_group", "pass_fds"}


def offences(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            yield from sorted(names & (POSIX_MODULES | WINDOWS_MODULES))
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = (node.module or "").partition(".")[0]
            if module in POSIX_MODULES | WINDOWS_MODULES:
                yield module
            yield from sorted({alias.name for alias in node.names} & POSIX_CALLS.get(module, set()))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in POSIX_CALLS.get(node.value.id, set()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg in POPEN_ARGUMENTS:
            yield node.arg


def test_no_module_but_one_calls_what_a_system_may_lack() -> None:
    found = {str(path.relative_to(ROOT)): list(offences(path.read_text("utf-8"))) for path in MODULES}
    assert {path: calls for path, calls in found.items() if calls} == {}
    assert len(found) > 200


def test_the_search_finds_what_it_looks_for() -> None:
    assert list(offences("import fcntl, os\nfrom pwd import getpwuid\nfrom os import killpg\nfrom . import tty")) == [
        "fcntl", "pwd", "killpg",
    ]  # fmt: skip
    assert list(offences("os.getuid(); signal.SIGKILL; Popen(a, start_new_session=True)")) != []
    assert {"fcntl", "pwd", "msvcrt", "os.killpg", "os.set_blocking"} <= set(offences(THE_MODULE.read_text("utf-8")))


# ---- without POSIX ---------------------------------------------------------------------------------------------------

AS_ON_WINDOWS = """
import builtins, subprocess, sys, types
import click, jinja2, PIL.Image, platformdirs, pydantic, rich.console, rich.live  # they ask for the system, too
real_import, real_platform = builtins.__import__, sys.platform

def without_posix(name, *more, **keywords):
    if name in {"fcntl", "grp", "pwd", "resource", "termios", "tty"}:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real_import(name, *more, **keywords)

for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules.pop(name, None)
builtins.__import__ = without_posix
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=lambda *_: None)
sys.platform = "win32"
import orchestrator.operating_system
orchestrator.operating_system.sys = types.SimpleNamespace(platform="win32")
sys.platform = real_platform
from orchestrator.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def test_help_photos_and_plan_need_nothing_that_only_posix_has(tmp_path: Path) -> None:
    """A plan goes as far as to the machine, which would have to be this one."""
    photos = str(photo_folder(tmp_path / "photos"))
    plan = ["plan", photos, "--subject", "sks dog", "--set", "model.base=builtin:tiny"]
    for argv, refusal in ((["--help"], ""), (["dataset", "check", photos], ""), (plan, "needs Linux or macOS")):
        done = subprocess.run([sys.executable, "-c", AS_ON_WINDOWS, *argv], capture_output=True, text=True, timeout=120)
        assert (done.returncode == 0) is (refusal == ""), done.stderr
        assert refusal in done.stderr
        assert "Traceback" not in done.stderr


# ---- with it ---------------------------------------------------------------------------------------------------------


def test_a_lock_is_seen_by_other_handles_and_ends_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with file.open("a+") as holder:
        assert take_lock(holder)
        with file.open("a+") as other:
            assert not take_lock(other)
            assert is_locked(other)
    with file.open("a+") as other:
        assert not is_locked(other)
        assert take_lock(other)


def test_a_killed_session_takes_its_children_along() -> None:
    talk = ["sh", "-c", "sleep 600 & echo started; wait"]
    with subprocess.Popen(talk, stdout=subprocess.PIPE, **session_of_its_own()) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"started\n"
        kill_session(child)
        assert child.stdout.read() == b"", "the grandchild holds the pipe until it is dead"
        assert child.wait() == -9


def test_a_process_of_many_runs_may_open_many_files() -> None:
    program = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, r.getrlimit(r.RLIMIT_NOFILE)[1]))\n"
    program += "from orchestrator.operating_system import allow_open_files\nallow_open_files(200)\n"
    program += "print(r.getrlimit(r.RLIMIT_NOFILE)[0]); allow_open_files(100); print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["200", "200"], "it is raised, and never lowered"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such record")
def test_the_account_has_a_home_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    real = account_home()
    monkeypatch.setenv("HOME", "/nowhere")
    assert account_home() == real != Path("/nowhere")
