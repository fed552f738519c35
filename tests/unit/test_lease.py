"""The arithmetic of a lease, and the files in which it stands."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from remote_trainer import run_folder, wire
from remote_trainer.lease import (
    BEAT_STALE_S,
    GUARD_FOLDER,
    ONLY_COPY_GRACE_S,
    GuardAction,
    GuardFiles,
    acts_at_s,
    guard_action,
    memory_folder,
    renewed_s,
)
from remote_trainer.supervisor import stage_environment


@pytest.fixture
def files(tmp_path: Path) -> GuardFiles:
    (tmp_path / "work" / "guard").mkdir(parents=True)
    (tmp_path / "memory").mkdir()
    (tmp_path / "work" / "guard" / "memory").write_text(f"{tmp_path / 'memory'}\n")
    found = GuardFiles.above(tmp_path / "work" / "runs" / "dog")
    assert found is not None
    return found


def test_nothing_happens_before_the_lease_has_lapsed() -> None:
    for on_lapse in ("terminate", "stop"):
        assert guard_action(9, 10, None, on_lapse, False) is GuardAction.WAIT  # type: ignore[arg-type]


def test_a_limit_ends_a_lease_that_goes_beyond_it() -> None:
    assert guard_action(10, 99, 10, "terminate", True) is GuardAction.TERMINATE


def test_the_only_copy_is_stopped_and_never_terminated_where_it_can_be_stopped() -> None:
    for now in (10, 1000, 10**9):
        assert guard_action(now, 10, 20, "stop", True) is GuardAction.STOP


def test_without_a_stop_the_only_copy_waits_for_the_limit() -> None:
    assert guard_action(19, 10, 20, "stop", False) is GuardAction.WAIT
    assert guard_action(20, 10, 20, "stop", False) is GuardAction.TERMINATE


def test_without_a_stop_and_a_limit_the_only_copy_waits_a_day() -> None:
    assert guard_action(10 + ONLY_COPY_GRACE_S - 1, 10, None, "stop", False) is GuardAction.WAIT
    assert guard_action(10 + ONLY_COPY_GRACE_S, 10, None, "stop", False) is GuardAction.TERMINATE


@pytest.mark.parametrize("on_lapse", ["terminate", "stop"])
@pytest.mark.parametrize("has_stop", [True, False])
@pytest.mark.parametrize(("lease", "limit"), [(10, None), (10, 20), (30, 20)])
def test_the_second_of_the_act_is_the_first_that_is_not_waited_in(
    lease: int, limit: int | None, on_lapse: str, has_stop: bool
) -> None:
    at = acts_at_s(lease, limit, on_lapse, has_stop)  # type: ignore[arg-type]
    assert guard_action(at - 1, lease, limit, on_lapse, has_stop) is GuardAction.WAIT  # type: ignore[arg-type]
    assert guard_action(at, lease, limit, on_lapse, has_stop) is not GuardAction.WAIT  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limit", "lease", "expected"),
    [(None, None, 160), (None, 120, 160), (None, 900, 900), (150, 120, 150), (90, 120, 90), (500, 900, 500)],
)
def test_a_renewal_never_shortens_a_lease_and_never_goes_beyond_the_limit(
    limit: float | None, lease: float | None, expected: float
) -> None:
    assert renewed_s(100, 60, limit, lease) == expected


def test_a_machine_without_a_guard_has_no_guard_files(tmp_path: Path) -> None:
    assert GuardFiles.above(tmp_path / "work" / "runs" / "dog") is None


def test_a_guard_that_has_not_said_where_its_memory_is_counts_as_none(files: GuardFiles, tmp_path: Path) -> None:
    inner = tmp_path / "work" / "inner"
    (inner / GUARD_FOLDER).mkdir(parents=True)
    (inner / GUARD_FOLDER / "memory").write_text("\n")
    found = GuardFiles.above(inner / "runs" / "dog")
    assert found is not None
    assert found.workdir == files.workdir, "the next one further up"


def test_the_last_word_shortens_a_lease_and_later_contact_lengthens_it_again(files: GuardFiles) -> None:
    files.set_limit(100.0, 1000.0)
    files.renew(100.0, 600.0)
    files.end_lease(100.0)
    assert files.lease_s == 100.0
    files.renew(130.0, 600.0)
    assert files.lease_s == 730.0
    files.renew(900.0, 600.0)
    assert files.lease_s == files.limit_s == 1100.0


def test_what_is_written_is_for_its_owner_alone(files: GuardFiles, tmp_path: Path) -> None:
    files.set_limit(1.0, 5.0)
    files.renew(1.0)
    for name in ("lease", "limit"):
        assert stat.S_IMODE((tmp_path / "memory" / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "memory").iterdir()) == ["lease", "limit"]


@pytest.mark.parametrize(("content", "expected"), [("terminate\n", "terminate"), ("stop\n", "stop"), ("", "stop")])
def test_only_a_clear_word_gives_the_disk_away(files: GuardFiles, tmp_path: Path, content: str, expected: str) -> None:
    assert files.on_lapse == "terminate"  # no file: nothing was ever worth it
    (tmp_path / "work" / "guard" / "on-lapse").write_text(content)
    assert files.on_lapse == expected


def test_a_disk_that_takes_no_new_file_still_learns_that_it_is_to_be_kept(files: GuardFiles, tmp_path: Path) -> None:
    state = tmp_path / "work" / "guard"
    files.set_on_lapse("terminate")
    (state / f".on-lapse.{os.getpid()}.tmp").mkdir()  # in the way of every new file
    files.set_on_lapse("stop")
    assert files.on_lapse == "stop"
    with pytest.raises(OSError, match="on-lapse"):
        files.set_on_lapse("terminate")
    assert files.on_lapse == "stop"


@pytest.mark.parametrize("junk", ["", "soon", "-3", "1" * 11, "٣"])
def test_junk_in_a_file_counts_as_no_file(files: GuardFiles, tmp_path: Path, junk: str) -> None:
    (tmp_path / "memory" / "lease").write_text(junk)
    assert files.lease_s is None


def test_a_guard_lives_while_its_beat_is_young(files: GuardFiles, tmp_path: Path) -> None:
    assert not files.is_alive(1000.0)
    (tmp_path / "memory" / "beat").write_text("1000\n")
    assert files.is_alive(1000.0 + BEAT_STALE_S)
    assert not files.is_alive(1001.0 + BEAT_STALE_S)
    assert not files.is_alive(20.0), "a beat from the clock of an earlier boot"


def test_the_status_tells_what_is_left(files: GuardFiles, tmp_path: Path) -> None:
    empty = files.status(5.0)
    assert (empty.alive, empty.proven, empty.lease_left_s, empty.limit_left_s) == (False, None, None, None)
    files.set_limit(100.0, 50.0)
    files.renew(100.0, 20.0)
    (tmp_path / "memory" / "proof").write_text("204\n")
    told = files.status(110.0)
    assert (told.proven, told.lease_left_s, told.limit_left_s, told.on_lapse) == (True, 10.0, 40.0, "terminate")


def test_memory_that_is_gone_is_no_reason_to_fail(files: GuardFiles, tmp_path: Path) -> None:
    (tmp_path / "memory").rmdir()
    files.renew(1.0)
    files.set_limit(1.0, 5.0)
    assert files.lease_s is None


def test_downloads_of_a_rented_machine_lie_on_its_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HOME", raising=False)
    job = wire.Job("run", "dog", "builtin:tiny", wire.TrainSpec(), (), ())
    (tmp_path / "work" / GUARD_FOLDER).mkdir(parents=True)
    (tmp_path / "work" / GUARD_FOLDER / "memory").write_text(str(tmp_path / "memory"))
    rented, own = tmp_path / "work" / "runs" / "dog", tmp_path / "own" / "runs" / "dog"
    assert stage_environment(job, rented)["HF_HOME"] == str(tmp_path / "work" / "hub")
    assert "HF_HOME" not in stage_environment(job, own)
    monkeypatch.setenv("HF_HOME", "/the/owners")
    assert stage_environment(job, rented)["HF_HOME"] == "/the/owners"


# ---- started over SSH ------------------------------------------------------------------------------------------------


def test_a_guard_is_started_for_the_first_time_with_its_program_and_again_from_memory(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    files = GuardFiles(tmp_path / "state", tmp_path / "memory")
    with pytest.raises(FileNotFoundError):
        files.start()
    files.start(f'echo "${{CLOUDBOOTH_GUARD_AGAIN-first}} $CLOUDBOOTH_GUARD_STATE" >"{told}"')
    assert told.read_text() == f"first {tmp_path / 'state'}\n"
    assert stat.S_IMODE((tmp_path / "memory").stat().st_mode) == 0o700
    files.start()
    assert told.read_text().split()[0] == "yes"


def test_its_memory_is_where_the_machine_says_or_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOUDBOOTH_GUARD_MEMORY", str(tmp_path))
    assert memory_folder() == tmp_path
    monkeypatch.delenv("CLOUDBOOTH_GUARD_MEMORY")
    assert memory_folder() in (Path("/dev/shm/cloudbooth-guard"), Path("/tmp/cloudbooth-guard"))


def test_somebody_who_decides_for_ever_is_waited_for_ten_seconds(
    files: GuardFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_s = [0.0]

    def sleep(seconds: float) -> None:
        passed_s[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: passed_s[0])
    monkeypatch.setattr(time, "sleep", sleep)
    other = run_folder.acquire(tmp_path / "work" / "guard" / "on-lapse.lock", wait_s=0)
    assert other is not None
    with other, files.deciding():
        files.set_on_lapse("stop")
    assert passed_s[0] == pytest.approx(10.0, abs=0.1)
    assert files.on_lapse == "stop", "a decision without the lock is better than none"
    with files.deciding():
        assert passed_s[0] == pytest.approx(10.0, abs=0.1), "now nobody is waited for"
