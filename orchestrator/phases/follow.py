"""Following a run: events as they come, across dropped connections, with pictures and checkpoints coming home."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.host import ConnectionLost, HostUnreachable
from orchestrator.lifecycle import Facts, Wish
from orchestrator.mirror import Mirror, forget_what_the_host_lost
from orchestrator.phases.context import RunContext
from orchestrator.phases.loss import UNREACHABLE_LIMIT_S, loss_of_machine
from orchestrator.phases.persistence import Pauses
from orchestrator.remote_run import RemoteRun
from remote_trainer.wire import HostStatus

WISH_POLL_S = 0.5


def follow(context: RunContext, facts: Facts) -> Facts:
    """Returns when the supervisor has ended (with its status) or the user wants everything down.

    A dropped or refused connection is tried again for as long as it takes, with longer and longer pauses: the run
    goes on without us, and its limits are the supervisor's to keep. Only a machine that the provider says is gone, or
    a rented one that has not answered for ten minutes, ends the following: with the connection's error or the fact.
    """
    pauses = Pauses(context)
    answered_at = context.clock.monotonic()
    while True:
        try:
            remote = context.open_remote()
            try:
                status = remote.status()
                pauses.reset()
                answered_at = context.clock.monotonic()
                ended = _follow_connected(context, remote, status)
            finally:
                remote.host.close()
            if ended is not None or context.wish() is Wish.DOWN:
                return replace(facts, host=ended)
        except (ConnectionLost, HostUnreachable) as error:
            if loss_of_machine(context):
                raise
            if not context.machine_stands and context.clock.monotonic() - answered_at > UNREACHABLE_LIMIT_S:
                return replace(
                    facts, machine_lost=f"the machine has not answered for {UNREACHABLE_LIMIT_S / 60:.0f} min"
                )
            context.reporter.note(f"{error.message}; the run goes on, trying again in {pauses.next_s:.0f} s")
            if pauses.wait(heed_down=True):
                return replace(facts, host=None)


def _follow_connected(context: RunContext, remote: RemoteRun, status: HostStatus) -> HostStatus | None:
    """Copies events until the stream ends; the status then, or None when a supervisor still lives."""
    forget_what_the_host_lost(context.home.events(status.incarnation), status.events_bytes)
    mirror = Mirror(context.home.events(status.incarnation))
    stop_sent = False
    wish_read_at = context.clock.monotonic()
    try:
        with (
            context.new_courier(context.delivery()) as courier,
            remote.follow(mirror.offset) as chunks,
        ):
            courier.show(mirror.progress)
            for chunk in chunks:
                for envelope in mirror.feed(chunk):
                    context.reporter.event(envelope, mirror.progress)
                courier.show(mirror.progress)
                if context.clock.monotonic() - wish_read_at >= WISH_POLL_S:
                    wish_read_at = context.clock.monotonic()
                    wish = context.wish()
                    if wish is Wish.DOWN:
                        return None
                    if wish is Wish.STOP and not stop_sent:
                        context.reporter.note("asking the trainer for a checkpoint and its end")
                        remote.stop(now=False)
                        stop_sent = True
        after = remote.status()
        return after if after.supervisor_pid is None else None
    finally:
        mirror.close()
