"""What every `Host` must do. A subclass provides the fixture `host` and the class is its test suite."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.host import ConnectionLost, Host, HostError

PYTHON = sys.executable
MIB = 1 << 20
SILENCE_S = 1.0
"""Longer than a busy machine takes to open a channel and start a shell."""
AWKWARD = ("two words", "it's", 'say "hi"', "line\nbreak", "ünïcødé 狗", "$HOME `id` \\ *", "", "-n", "tab\there", "~")


def eventually(claim: Callable[[], bool], within_s: float = 120.0) -> bool:
    """Polls for something that another process does in its own time."""
    deadline = time.monotonic() + within_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    """Ended; whether its parent has reaped it is the parent's business, and that may be sshd."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except FileNotFoundError:  # no /proc here, or it ended between the two looks: the next look tells
        return False


class HostContract:
    @pytest.fixture
    def host(self) -> Iterator[Host]:
        raise NotImplementedError("a subclass provides the host")

    def test_output_and_errors_come_back_apart(self, host: Host) -> None:
        done = host.run(["sh", "-c", "echo out; echo err >&2"])
        assert (done.exit_code, done.stdout, done.stderr) == (0, b"out\n", b"err\n")

    def test_a_nonzero_exit_is_an_answer(self, host: Host) -> None:
        assert host.run(["sh", "-c", "exit 7"]).exit_code == 7

    @pytest.mark.parametrize(("signal", "code"), [("KILL", 137), ("TERM", 143)])
    def test_death_by_signal_is_128_plus_its_number(self, host: Host, signal: str, code: int) -> None:
        assert host.run(["sh", "-c", f"kill -{signal} $$"]).exit_code == code

    def test_a_command_that_does_not_exist_exits_127(self, host: Host) -> None:
        done = host.run(["no-such-command-anywhere"])
        assert done.exit_code == 127
        assert b"no-such-command-anywhere" in done.stderr

    def test_commands_run_in_the_home_folder(self, host: Host) -> None:
        done = host.run(["sh", "-c", 'test "$(pwd -P)" = "$(cd && pwd -P)"'])
        assert done.exit_code == 0

    @pytest.mark.parametrize("argument", AWKWARD)
    def test_an_argument_arrives_as_it_was_given(self, host: Host, argument: str) -> None:
        program = "import os, sys; sys.stdout.buffer.write(os.fsencode(sys.argv[1]))"
        assert host.run([PYTHON, "-c", program, argument]).stdout == argument.encode()

    def test_stdin_arrives_and_ends(self, host: Host) -> None:
        assert host.run(["cat"], stdin=b"some input").stdout == b"some input"

    def test_there_is_no_terminal(self, host: Host) -> None:
        assert host.run(["sh", "-c", "test -t 0 || test -t 1 || test -t 2"]).exit_code == 1

    def test_a_mebibyte_of_any_bytes_survives_the_way_there_and_back(self, host: Host) -> None:
        data = bytes(range(256)) * (MIB // 256)
        assert host.run(["cat"], stdin=data).stdout == data

    def test_a_flood_on_stderr_does_not_block_stdout(self, host: Host) -> None:
        program = (
            "import sys\n"
            "for _ in range(32):\n"
            "    sys.stderr.buffer.write(b'e' * 65536); sys.stdout.buffer.write(b'o' * 65536)\n"
        )
        done = host.run([PYTHON, "-c", program])
        assert (len(done.stdout), len(done.stderr)) == (2 * MIB, 2 * MIB)

    def test_a_flood_on_stderr_does_not_block_receiving(self, host: Host) -> None:
        program = (
            "import sys\n"
            "for _ in range(32):\n"
            "    sys.stderr.buffer.write(b'e' * 65536); sys.stdout.buffer.write(b'o' * 65536)\n"
        )
        with host.receive([PYTHON, "-c", program]) as chunks:
            assert sum(map(len, chunks)) == 2 * MIB

    def test_output_floods_while_input_is_still_coming(self, host: Host) -> None:
        sent = [bytes([n]) * 65536 for n in range(64)]
        done = host.send(["cat"], sent)
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(b"".join(sent)).digest()

    def test_a_command_that_does_not_listen_ends_the_sending(self, host: Host) -> None:
        done = host.send(["sh", "-c", "exec <&-; exit 3"], (b"x" * 65536 for _ in range(100)))
        assert done.exit_code == 3

    def test_empty_chunks_are_not_the_end_of_input(self, host: Host) -> None:
        assert host.send(["cat"], [b"", b"a", b"", b"b"]).stdout == b"ab"

    def test_an_error_of_the_source_is_raised_as_it_is(self, host: Host) -> None:
        def source() -> Iterator[bytes]:
            yield b"first"
            raise OSError("disk")

        with pytest.raises(OSError, match=r"^disk$"):
            host.send(["cat"], source())
        assert host.run(["echo", "still here"]).stdout == b"still here\n"

    def test_chunks_arrive_while_the_command_runs(self, host: Host) -> None:
        with host.receive(["sh", "-c", "echo first; cat >/dev/null"]) as chunks:
            assert next(chunks) == b"first\n"

    def test_the_iterator_ends_when_the_command_does(self, host: Host) -> None:
        with host.receive(["sh", "-c", "echo a; echo b"]) as chunks:
            assert b"".join(chunks) == b"a\nb\n"

    def test_a_failing_command_raises_with_the_end_of_its_stderr(self, host: Host) -> None:
        with host.receive(["sh", "-c", "echo some; echo the reason >&2; exit 4"]) as chunks:
            assert next(chunks) == b"some\n"
            with pytest.raises(HostError, match=r"exit code 4.*the reason") as caught:
                next(chunks)
        assert not isinstance(caught.value, ConnectionLost)

    def test_the_end_of_the_context_ends_the_command(self, host: Host, tmp_path: Path) -> None:
        saw_the_end = tmp_path / "saw the end"
        script = 'echo $$; cat >/dev/null; echo over >"$0"'
        with host.receive(["sh", "-c", script, str(saw_the_end)]) as chunks:
            pid = int(next(chunks))
            assert not gone(pid)
        assert eventually(lambda: gone(pid))
        assert eventually(saw_the_end.exists)

    def test_a_command_that_only_writes_ends_with_the_context(self, host: Host) -> None:
        with host.receive(["sh", "-c", "echo $$; exec yes"]) as chunks:
            pid = int(next(chunks).split(b"\n")[0])
        assert eventually(lambda: gone(pid))

    def test_an_error_in_the_context_passes_and_ends_the_command(self, host: Host) -> None:
        def interrupted() -> None:
            with host.receive(["sh", "-c", "echo $$; cat"]) as chunks:
                raise KeyError(int(next(chunks)))

        with pytest.raises(KeyError) as caught:
            interrupted()
        assert eventually(lambda: gone(caught.value.args[0]))

    def test_silence_while_receiving_loses_the_connection(self, host: Host) -> None:
        with (
            host.receive(["sh", "-c", "echo one; cat"], idle_timeout_s=SILENCE_S) as chunks,
            pytest.raises(ConnectionLost, match=f"{SILENCE_S:g} s"),
        ):
            list(chunks)

    def test_a_slow_consumer_is_not_silence(self, host: Host) -> None:
        got = b""
        with host.receive(
            ["sh", "-c", "echo one; cat /dev/zero | head -c 9000000"], idle_timeout_s=2 * SILENCE_S
        ) as chunks:
            for chunk in chunks:
                if not got:
                    time.sleep(2.2 * SILENCE_S)
                got += chunk
        assert len(got) == 9000004

    def test_a_command_that_takes_too_long_loses_the_connection(self, host: Host) -> None:
        with pytest.raises(ConnectionLost, match=f"{SILENCE_S:g} s"):
            host.run(["sh", "-c", "cat; sleep 20"], timeout_s=SILENCE_S)

    def test_silence_while_sending_loses_the_connection(self, host: Host) -> None:
        with pytest.raises(ConnectionLost, match=f"{SILENCE_S:g} s"):
            host.send(["sleep", "20"], (b"x" * MIB for _ in range(64)), idle_timeout_s=SILENCE_S)

    def test_a_host_works_again_after_a_loss(self, host: Host) -> None:
        with pytest.raises(ConnectionLost):
            host.run(["sleep", "20"], timeout_s=0.2)
        assert host.run(["echo", "back"]).stdout == b"back\n"

    def test_closing_twice_is_safe_and_the_next_call_connects_again(self, host: Host) -> None:
        assert host.run(["true"]).exit_code == 0
        host.close()
        host.close()
        assert host.run(["true"]).exit_code == 0

    def test_closing_before_the_first_call_is_safe(self, host: Host) -> None:
        host.close()

    def test_the_label_is_for_people(self, host: Host) -> None:
        assert host.label
        assert "object at" not in host.label
