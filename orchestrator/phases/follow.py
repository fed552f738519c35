"""Following a run: events as they come, across dropped connections, with pictures and checkpoints coming home."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.budget import spent_usd
from orchestrator.captions_home import bring_captions
from orchestrator.courier import bring, home_already
from orchestrator.host import ConnectionLost, HostUnreachable
from orchestrator.lifecycle import Facts, Trouble, Wish
from orchestrator.mirror import Mirror, forget_what_the_host_lost
from orchestrator.offers import without_terms
from orchestrator.phases.context import RunContext
from orchestrator.phases.loss import Loss, after_no_answer, declare_lost
from orchestrator.phases.persistence import Pauses
from orchestrator.phases.provision import choose_next
from orchestrator.phases.retrieve import newest_committed
from orchestrator.phases.storage import Storekeeper, lend_uploads
from orchestrator.progress import Progress
from orchestrator.recovery import renewed_quote, rest_usd, why_leave
from orchestrator.remote_run import RemoteRun
from orchestrator.silence import NO_SILENCE
from providers.errors import CloudboothError, MachineGone, Transient
from remote_trainer.wire import Captioned, FailureCode, HostStatus

WISH_POLL_S = 0.5
NO_GPU: FailureCode = "no-gpu"
"""On a rented machine this is the machine's failure and not the run's."""


def follow(context: RunContext, facts: Facts) -> Facts:
    """Returns when the supervisor has ended (with its status) or the user wants everything down.

    A dropped or refused connection is tried again for as long as it takes, with longer and longer pauses: the run
    goes on without us, and its limits are the supervisor's to keep. Only a lost machine (`after_no_answer`) ends the
    following, with the fact.
    """
    pauses = Pauses(context)
    contact = _Contact(context, facts.heard_at_s)
    facts = replace(facts, silence=NO_SILENCE)
    while True:
        try:
            remote = context.open_remote()
            try:
                status = remote.status()
                pauses.reset()
                contact.heard()
                facts = replace(facts, silence=NO_SILENCE)
                ended = _follow_connected(context, remote, status, contact)
            finally:
                remote.host.close()
            facts = contact.added_to(facts)
            if contact.is_slow:
                contact.look_elsewhere()
            if ended is not None and ended.ended == "stopped" and contact.leaving and context.wish() is Wish.RUN:
                return declare_lost(context, facts, Loss(Trouble.TOO_SLOW, contact.leaving))
            if ended is not None and contact.broken_gpu and not context.machine_stands:
                return declare_lost(context, facts, Loss(Trouble.BROKEN, contact.broken_gpu))
            if ended is not None or context.wish().ends_now:
                return replace(facts, host=ended)
        except (ConnectionLost, HostUnreachable, MachineGone, Transient) as error:
            facts = after_no_answer(context, contact.added_to(facts))
            if facts.machine_lost:
                return facts
            context.reporter.note(f"{error.message}; the run goes on, trying again in {pauses.next_s:.0f} s")
            if pauses.wait(heed_down=True):
                return replace(facts, host=None)


class _Contact:
    """When the host was last heard, and what it said about itself."""

    def __init__(self, context: RunContext, heard_at_s: float | None) -> None:
        self._context, self._clock, self._quoted, self._rest_usd = context, context.clock, False, 0.0
        self._heard_at_s = heard_at_s
        self.broken_gpu = ""
        """What the trainer says about a GPU that does not work; empty when it says nothing of the kind."""
        self.is_slow = False
        """With it the run would break its ceiling, and nobody has looked yet whether another would not."""
        self.leaving = ""
        """Why the machine is left for another; empty while it is kept."""

    def heard(self) -> None:
        self._heard_at_s = self._clock.monotonic()

    def say_what_it_will_cost(self, progress: Progress) -> None:
        """Once, as soon as the pace is known."""
        if self._quoted or not progress.step_times:
            return
        context, machine = self._context, self._context.held_machine()
        spent = spent_usd(context.ledger.machines(context.run.name), self._clock.now())
        ceiling = context.spec.limits.max_cost_usd
        said = renewed_quote(progress, spent, machine.rate_usd, ceiling)
        if said:
            self._quoted = True
            self._rest_usd = rest_usd(progress, machine.rate_usd) or 0.0
            self.is_slow = not context.machine_stands and self._rest_usd > ceiling - spent
            context.reporter.note(said)

    def look_elsewhere(self) -> None:
        """Whether another offer would finish the run within its ceiling. A provider that does not answer says no."""
        self.is_slow = False
        context, machine = self._context, self._context.held_machine()
        machines = context.ledger.machines(context.run.name)
        try:
            choice = choose_next(context, machines, frozenset({machine.offer_id}))
        except CloudboothError:
            return
        if without_terms(choice.offer.id) == without_terms(machine.offer_id):
            return
        left_usd = context.spec.limits.max_cost_usd - spent_usd(machines, self._clock.now())
        of_attempt = [record for record in machines if record.attempt == context.run.attempt]
        self.leaving = why_leave(self._rest_usd, left_usd, choice.quote, of_attempt)
        if self.leaving:
            context.reporter.note(f"{self.leaving}: it goes there with a checkpoint")

    def added_to(self, facts: Facts) -> Facts:
        return replace(facts, heard_at_s=self._heard_at_s)


def _follow_connected(
    context: RunContext, remote: RemoteRun, status: HostStatus, contact: _Contact
) -> HostStatus | None:
    """Copies events until the stream ends; the status then, or None when a supervisor still lives."""
    if known := home_already(status, context.ledger.artifacts(context.run.name)):
        remote.saved(known)
    forget_what_the_host_lost(context.home.events(status.incarnation), status.events_bytes)
    if status.supervisor_pid is not None:
        lend_uploads(context, remote, status.lent_s)
    mirror = Mirror(context.home.events(status.incarnation))
    storekeeper = Storekeeper(context, remote)
    stop_sent = False
    wish_read_at = context.clock.monotonic()
    try:
        with (
            context.new_courier(context.delivery()) as courier,
            remote.follow(mirror.offset) as chunks,
        ):
            courier.show(mirror.progress)
            bring_captions(context.home, mirror.progress.captions, context.reporter)
            for chunk in chunks:
                contact.heard()
                context.require_driver()  # the mirror has one writer
                described: list[Captioned] = []
                for envelope in mirror.feed(chunk):
                    context.reporter.event(envelope, mirror.progress)
                    storekeeper.heard(envelope.event)
                    described += [envelope.event] if isinstance(envelope.event, Captioned) else []
                bring_captions(context.home, described, context.reporter)
                storekeeper.tick()
                courier.show(mirror.progress)
                contact.say_what_it_will_cost(mirror.progress)
                if contact.is_slow:
                    return None  # offers are asked for without a stream that waits
                if context.clock.monotonic() - wish_read_at >= WISH_POLL_S:
                    wish_read_at = context.clock.monotonic()
                    wish = context.wish()
                    if wish.ends_now:
                        return None
                    if (wish is Wish.STOP or contact.leaving) and not stop_sent:
                        context.reporter.note("asking the trainer for a checkpoint and its end")
                        remote.stop(now=False)
                        stop_sent = True
        after = remote.status()
        failed = mirror.progress.failed
        contact.broken_gpu = failed.message if failed is not None and failed.code == NO_GPU else ""
        if contact.leaving and after.ended == "stopped":
            bring(context.delivery(), remote, Progress(checkpoints=newest_committed(remote, after)))
        return after if after.supervisor_pid is None else None
    finally:
        storekeeper.close()
        mirror.close()
