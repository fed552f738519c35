"""What the agent on the host answers, and what it refuses."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from remote_trainer import agent, supervisor, wire
from remote_trainer import run_folder as folders
from remote_trainer.commit import commit_folder, preparing
from tests.contract.host_contract import eventually

HELLO = wire.Hello(wire.PROTOCOL, "host", "3.11", 1, 1)


def log(run_folder: Path, *events: wire.Event) -> bytes:
    writer = folders.EventLog(run_folder)
    for event in events:
        writer.append(event)
    writer.close()
    return (run_folder / wire.EVENTS_FILE).read_bytes()


# ---- epochs ----------------------------------------------------------------------------------------------------------


def test_an_older_epoch_is_refused_and_an_equal_one_is_not(tmp_path: Path) -> None:
    agent.claim(tmp_path, 3)
    agent.claim(tmp_path, 3)
    with pytest.raises(agent.StaleEpoch, match="driver epoch 2 is older than 3"):
        agent.claim(tmp_path, 2)
    assert agent.status(tmp_path).driver_epoch == 3


@pytest.mark.parametrize("verb", [["start"], ["stop"], ["forget"], ["accept", "--root", "/nowhere"]])
def test_every_call_that_changes_something_refuses_an_old_epoch_with_code_75(tmp_path: Path, verb: list[str]) -> None:
    agent.claim(tmp_path / "run", 3)
    call = [sys.executable, "-m", "remote_trainer", *verb, "--run-folder", str(tmp_path / "run"), "--epoch", "2"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=30, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout) == (75, "")
    assert (tmp_path / "run").exists()


def test_a_driver_that_is_overtaken_while_it_sends_names_no_further_file(tmp_path: Path) -> None:
    run, root, stream = tmp_path / "run", tmp_path / "root", io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("first", "second"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    agent.claim(run, 2)
    call = [sys.executable, "-m", "remote_trainer", "accept", "--root", root, "--run-folder", run, "--epoch", "2"]
    with subprocess.Popen(
        call, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as sending:
        assert sending.stdin is not None
        begun = 2 * tarfile.BLOCKSIZE
        sending.stdin.write(stream.getvalue()[:begun])
        sending.stdin.flush()
        assert eventually(lambda: root.exists() and any(root.iterdir())), "it has begun"
        agent.claim(run, 3)
        sending.communicate(stream.getvalue()[begun:], timeout=30)
    assert sending.returncode == agent.STALE_EPOCH_EXIT
    assert not (root / "second").exists()


def test_a_driver_that_was_overtaken_stays_so_when_the_run_is_forgotten(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "dog"
    agent.claim(run, 3)
    agent.forget(run, 3)
    agent.forget(run, 3)
    for act in (agent.claim, agent.start):
        with pytest.raises(agent.StaleEpoch, match="driver epoch 2 is older than 3"):
            act(run, 2)
    assert not run.exists(), "a refused call leaves nothing behind"
    assert agent.status(run).driver_epoch == 3
    agent.claim(run, 4)


# ---- status ----------------------------------------------------------------------------------------------------------


def test_an_empty_folder_has_nothing_to_tell(tmp_path: Path) -> None:
    status = agent.status(tmp_path)
    assert (status.supervisor_pid, status.trainer_alive, status.started, status.ended) == (None, False, False, None)
    assert (status.events_bytes, status.checkpoints, status.output) == (0, (), None)
    assert status.free_bytes > 0


def test_a_folder_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    assert agent.status(tmp_path / "run").incarnation == ""
    assert not (tmp_path / "run").exists()


def test_the_last_word_counts_only_until_the_next_supervisor_says_hello(tmp_path: Path) -> None:
    log(tmp_path, HELLO, wire.Stopped(5))
    assert agent.status(tmp_path).ended == "stopped"
    log(tmp_path, HELLO)
    assert agent.status(tmp_path).ended is None


def test_committed_checkpoints_are_listed_oldest_first_and_torn_ones_are_not(tmp_path: Path) -> None:
    for step in (20, 10):
        target = tmp_path / wire.checkpoint_folder(step)
        with preparing(target) as prepared:
            (prepared / "weights").write_bytes(b"w")
            commit_folder(prepared, target, step)
    (tmp_path / wire.checkpoint_folder(30)).mkdir()
    assert [checkpoint.step for checkpoint in agent.status(tmp_path).checkpoints] == [10, 20]


# ---- follow --------------------------------------------------------------------------------------------------------


class Recorder(io.BytesIO):
    """Remembers what was written even after it is closed, and tells when the first bytes came."""

    def __init__(self) -> None:
        super().__init__()
        self.got_something = threading.Event()

    def write(self, data: object) -> int:
        count = super().write(data)  # type: ignore[arg-type]
        self.got_something.set()
        return count


def follow_once(run_folder: Path, offset: int) -> bytes:
    """Of a folder without a supervisor: everything that can come, then the end."""
    out = io.BytesIO()
    read_end, write_end = os.pipe()
    try:
        agent.follow(run_folder, offset, out, leash=read_end)
    finally:
        os.close(read_end)
        os.close(write_end)
    return out.getvalue()


def test_following_begins_at_the_offset_and_ends_before_a_torn_line(tmp_path: Path) -> None:
    content = log(tmp_path, HELLO, wire.PhaseStarted("load"))
    first = content.index(b"\n") + 1
    with (tmp_path / wire.EVENTS_FILE).open("ab") as handle:
        handle.write(b'{"torn')
    assert follow_once(tmp_path, 0) == content
    assert follow_once(tmp_path, first) == content[first:]
    assert follow_once(tmp_path, len(content)) == b""


def test_following_a_folder_without_a_log_ends_at_once(tmp_path: Path) -> None:
    assert follow_once(tmp_path, 0) == b""


def test_following_a_living_supervisor_ends_with_the_leash(tmp_path: Path) -> None:
    content = log(tmp_path, HELLO)
    supervisor = folders.acquire(tmp_path / folders.SUPERVISOR_LOCK, wait_s=0)
    assert supervisor is not None
    read_end, write_end = os.pipe()
    out = Recorder()
    with supervisor:
        following = threading.Thread(target=agent.follow, args=(tmp_path, 0, out, read_end), daemon=True)
        following.start()
        assert out.got_something.wait(10)
        assert following.is_alive(), "it ended while more could come"
        os.close(write_end)
        following.join(10)
    os.close(read_end)
    assert not following.is_alive()
    assert out.getvalue() == content


# ---- stop ------------------------------------------------------------------------------------------------------------


def test_a_stop_waits_for_a_supervisor_that_has_not_said_who_it_is(tmp_path: Path) -> None:
    agent.claim(tmp_path, 1)
    lock = folders.acquire(tmp_path / folders.SUPERVISOR_LOCK, wait_s=0)
    assert lock is not None
    with lock, subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        assert agent.status(tmp_path).supervisor_pid == 0
        stopping = threading.Thread(target=agent.stop, args=(tmp_path, 1), kwargs={"now": False}, daemon=True)
        stopping.start()
        folders.write_atomically(tmp_path / folders.SUPERVISOR_FILE, wire.dumps({"pid": child.pid}))
        stopping.join(20)
        assert not stopping.is_alive()
        assert child.wait(20) == -signal.SIGTERM


def test_an_epoch_that_ended_everything_can_start_nothing_any_more(tmp_path: Path) -> None:
    agent.stop(tmp_path, 7, now=True)
    with pytest.raises(agent.StaleEpoch, match="driver epoch 7 has ended everything"):
        agent.start(tmp_path, 7)
    assert supervisor.supervise(tmp_path, 7) == 1
    assert agent.status(tmp_path).started is False


def test_asking_for_a_checkpoint_and_the_end_closes_no_epoch(tmp_path: Path) -> None:
    agent.stop(tmp_path, 7, now=False)
    assert not (tmp_path / folders.CLOSED_FILE).exists()


# ---- forget and locks ------------------------------------------------------------------------------------------------


def test_a_run_at_work_is_not_forgotten(tmp_path: Path) -> None:
    run = tmp_path / "run"
    agent.claim(run, 1)
    stage = folders.acquire(run / folders.STAGE_LOCK, wait_s=0)
    assert stage is not None
    with stage, pytest.raises(agent.AgentError, match="still at work"):
        agent.forget(run, 1)
    agent.forget(run, 1)
    agent.forget(run, 1)
    assert not run.exists()


def test_a_lock_is_held_until_its_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not folders.is_held(path)
    first = folders.acquire(path, wait_s=0)
    assert first is not None
    assert folders.is_held(path)
    assert folders.acquire(path, wait_s=0) is None
    first.close()
    assert not folders.is_held(path)
    second = folders.acquire(path, wait_s=0)
    assert second is not None
    second.close()


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(); sys.stdin.read()"
    argv = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert folders.is_held(path)
        holder.kill()
        holder.wait()
    assert not folders.is_held(path)


def test_a_torn_last_line_is_cut_off_and_its_number_used_again(tmp_path: Path) -> None:
    log(tmp_path, HELLO)
    with (tmp_path / wire.EVENTS_FILE).open("ab") as handle:
        handle.write(b'{"v":1,"seq":1,')
    content = log(tmp_path, wire.Stopped(3))
    assert [wire.decode_event(line).seq for line in content.splitlines()] == [0, 1]


# ---- the event log ---------------------------------------------------------------------------------------------------


def lose_tail(run_folder: Path, lines: int) -> bytes:
    """Cuts the last lines off the log, as a power cut may; what is left."""
    path = run_folder / wire.EVENTS_FILE
    kept = b"".join(path.read_bytes().splitlines(keepends=True)[:-lines])
    path.write_bytes(kept)
    return kept


def test_a_log_that_lost_what_had_reached_the_disk_begins_anew_and_the_old_one_is_kept(tmp_path: Path) -> None:
    log(tmp_path, HELLO, wire.PhaseStarted("load"), wire.Heartbeat(1.0, True))
    before = agent.status(tmp_path).incarnation
    kept = lose_tail(tmp_path, 1)
    content = log(tmp_path, HELLO)
    after = agent.status(tmp_path)
    assert after.incarnation not in ("", before)
    assert [wire.decode_event(line).seq for line in content.splitlines()] == [0]
    assert follow_once(tmp_path, 0) == content
    [aside] = tmp_path.glob("events-before-*.jsonl")
    assert aside.read_bytes() == kept


def test_a_log_that_vanished_begins_anew(tmp_path: Path) -> None:
    log(tmp_path, HELLO)
    before = agent.status(tmp_path).incarnation
    (tmp_path / wire.EVENTS_FILE).unlink()
    log(tmp_path, HELLO)
    assert agent.status(tmp_path).incarnation not in ("", before)


def test_a_log_that_began_anew_goes_on_under_its_new_name(tmp_path: Path) -> None:
    log(tmp_path, HELLO, wire.Heartbeat(1.0, True))
    lose_tail(tmp_path, 1)
    log(tmp_path, HELLO)
    anew = agent.status(tmp_path).incarnation
    content = log(tmp_path, wire.Stopped(1))
    assert (agent.status(tmp_path).incarnation, content.count(b"\n")) == (anew, 2)


def test_a_log_that_lost_nothing_keeps_its_name(tmp_path: Path) -> None:
    log(tmp_path, HELLO, wire.Stopped(1))
    before = agent.status(tmp_path).incarnation
    with (tmp_path / wire.EVENTS_FILE).open("ab") as handle:
        handle.write(b'{"torn')
    log(tmp_path, HELLO)
    assert agent.status(tmp_path).incarnation == before != ""


def test_asking_for_the_status_changes_nothing(tmp_path: Path) -> None:
    agent.status(tmp_path)
    log(tmp_path, HELLO)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert agent.status(tmp_path).incarnation == agent.status(tmp_path).incarnation
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
