"""Files on their way to and from the agent on this machine, by a driver that is told to end meanwhile."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.lifecycle import Facts, Wish
from orchestrator.phases.context import RunContext
from orchestrator.phases.provision import create
from orchestrator.phases.retrieve import retrieve
from orchestrator.phases.ship import ship
from orchestrator.spec import RunSpec, spec_to_json
from orchestrator.transfer.sending import PIECE_BYTES
from orchestrator.wiring import wire_up
from remote_trainer import wire
from tests.fakes.lock_holder import holding
from tests.fakes.told import Told
from tests.unit.fake_clock import FakeClock

PICTURE = b"p" * (3 * PIECE_BYTES)


class HastyClock(FakeClock):
    """A second passes whenever somebody looks at it."""

    def monotonic(self) -> float:
        self.sleep(1.0)
        return super().monotonic()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def context(told: Told, tmp_path: Path) -> RunContext:
    """A run with one large picture, held by this machine, with nothing shipped yet."""
    wiring = wire_up()
    spec = RunSpec.model_validate(
        {
            "name": "robot",
            "subject": {"instance_prompt": "sks robot"},
            "data": {"instance": str(tmp_path)},
            "model": {"base": "builtin:tiny"},
        }
    )
    home = wiring.home.run("robot")
    (home.staged / "data").mkdir(parents=True)
    (home.staged / "data" / "1.png").write_bytes(PICTURE)
    image = wire.ImageSpec("1.png", hashlib.sha256(PICTURE).hexdigest(), 64, 64)
    dataset = wire.DatasetSpec("instance", "instance", "data", "sks robot", (image,))
    job = wire.Job("robot", "robot", "builtin:tiny", wire.TrainSpec(), (dataset,), ("lora",))
    home.job_file.write_bytes(wire.dumps(job))
    wiring.ledger.add_run("robot", "local", spec_to_json(spec), "{}")
    context = replace(wiring.context("robot", wiring.ledger.become_driver("robot"), told), clock=HastyClock())
    create(context, Facts())
    return context


@pytest.mark.parametrize("wish", [Wish.STOP, Wish.DOWN])
def test_the_wish_to_end_is_heeded_in_the_middle_of_an_upload(context: RunContext, told: Told, wish: Wish) -> None:
    context.ledger.set_wish("robot", wish)
    assert ship(context, Facts()) == Facts(), "what to do now is not for this phase to decide"
    assert told.transfers == [("photos", 0, len(PICTURE)), ("photos", PIECE_BYTES, len(PICTURE))]
    assert list(context.home.root.glob("sent/*")) == [], "the job goes last"


def test_a_torn_record_of_the_job_that_was_sent_does_not_block_the_run(context: RunContext) -> None:
    (context.home.root / "sent").mkdir()
    (context.home.root / "sent" / wire.JOB_FILE).write_bytes(b'{"run": "rob')
    context.ledger.set_wish("robot", Wish.DOWN)  # ends it after the record was read
    assert ship(context, Facts()) == Facts()


def test_down_ends_the_waiting_for_another_process_that_fetches(context: RunContext, told: Told) -> None:
    folder = Path(context.open_remote().folder)
    folder.mkdir(parents=True)
    (folder / wire.LOG_FILE).write_text("said there")
    context.ledger.set_wish("robot", Wish.DOWN)
    with holding(context.home.fetch_lock):
        assert retrieve(context, Facts()) == Facts()
    assert context.home.trainer_log.read_text() == "said there", "the log waits for nobody's checkpoint"
    assert told.transfers == []
