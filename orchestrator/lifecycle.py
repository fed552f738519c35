"""The life of a run as values: states, reasons, legal moves, and what to do next. No I/O.

`next_step` is the whole strategy: the driver does what it says, learns facts from it, and asks again. Everything that
must survive the driver stands in the ledger; `Facts` is what one driver has learned since it started, and a fresh
driver with empty facts reaches the same end because every phase is safe to run twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, assert_never

from orchestrator.errors import ExitCode
from orchestrator.silence import NO_SILENCE, Silence

if TYPE_CHECKING:  # the protocol takes a while to load, and a list of runs needs none of it
    from remote_trainer.wire import HostStatus


class State(Enum):
    PLANNED = "planned"
    PROVISIONING = "provisioning"
    SHIPPING = "shipping"
    TRAINING = "training"
    RETRIEVING = "retrieving"
    RESCUING = "rescuing"
    """The machine is stopped, or cannot be reached, and its disk holds what came home nowhere: it is started again."""
    RECOVERING = "recovering"
    """The machine was lost; the run goes on elsewhere from the newest checkpoint that came home."""
    KEEPING = "keeping"
    """The model is home, and the machine stays warm for the next run as long as the spec says."""
    RELEASING = "releasing"
    ENDED = "ended"


class EndReason(Enum):
    """Why a run ended. Decided when its end begins, and kept through retrieval and release."""

    DONE = "done"
    STOPPED = "stopped"
    """By request, with a checkpoint of the last step where training had begun."""
    CANCELED = "canceled"
    """By request, without waiting for one."""
    TRAINING_FAILED = "training-failed"
    NO_MACHINE = "no-machine"
    """Nothing could be rented."""
    MACHINE_LOST = "machine-lost"
    """The last machine that could be paid for was pre-empted, vanished or never answered."""


class Trouble(Enum):
    """Why a run can no longer use its machine. Decides whether its offer is taken again."""

    PREEMPTED = "pre-empted"
    """A spot machine was taken away, as spot machines are."""
    LOST = "lost"
    """It is gone, stopped or silent, and nobody asked for that."""
    BROKEN = "broken"
    """It never answered, or its GPU cannot be used."""
    TOO_DEAR = "too dear"
    """It bills more than was offered."""
    TOO_SLOW = "too slow"
    """With it the run would break its ceiling, and with another it would not."""


class Keeps(Enum):
    """What a machine's disk holds that lies nowhere else, in ascending order of worth."""

    NOTHING = ""
    CHECKPOINT = "checkpoint"
    """Newer than the newest that came home."""
    UNKNOWN = "unknown"
    """Perhaps the finished model: the machine had the time for it since it was last heard."""
    MODEL = "model"
    """It said that it was done."""

    @property
    def may_be_the_model(self) -> bool:
        return self in (Keeps.UNKNOWN, Keeps.MODEL)

    @property
    def words(self) -> str:
        match self:
            case Keeps.NOTHING:
                return "nothing of its own"
            case Keeps.CHECKPOINT:
                return "a checkpoint that came home nowhere"
            case Keeps.UNKNOWN:
                return "perhaps the finished model"
            case Keeps.MODEL:
                return "the finished model alone"
        assert_never(self)


class Wish(Enum):
    """What the user wants now; any process may change it, the driver obeys within a second."""

    RUN = "run"
    STOP = "stop"
    DOWN = "down"
    ABANDON = "abandon"
    """As DOWN, and a machine of one's own that cannot be reached is given up as it is."""

    @property
    def ends_now(self) -> bool:
        """Nothing is waited for any more."""
        return self in (Wish.DOWN, Wish.ABANDON)


class Standing(Enum):
    """What the ledger knows about the machine of the current attempt."""

    NONE = "none"
    UNSETTLED = "unsettled"
    """The intent is written and no answer is: a machine may or may not exist."""
    HELD = "held"
    ABSENT = "absent"
    """Released, and its absence confirmed."""


class Phase(Enum):
    CREATE = "create"
    SETTLE = "settle"
    AWAIT = "await"
    LOOK = "look"
    """Asks the host what stands there, before a decision that must not be taken blindly."""
    LOOK_AGAIN = "look again"
    """Asks a lost machine once more, before it is given back with whatever it holds."""
    SHIP = "ship"
    FOLLOW = "follow"
    RETRIEVE = "retrieve"
    REVIVE = "revive"
    KEEP = "keep"
    RELEASE = "release"


MOVES: dict[State, frozenset[State]] = {
    State.PLANNED: frozenset({State.PROVISIONING, State.RELEASING}),
    State.PROVISIONING: frozenset({State.SHIPPING, State.TRAINING, State.RESCUING, State.RECOVERING, State.RELEASING}),
    State.SHIPPING: frozenset({State.TRAINING, State.RESCUING, State.RECOVERING, State.RELEASING}),
    State.TRAINING: frozenset({State.SHIPPING, State.RETRIEVING, State.RESCUING, State.RECOVERING, State.RELEASING}),
    State.RETRIEVING: frozenset({State.RESCUING, State.RECOVERING, State.KEEPING, State.RELEASING}),
    State.KEEPING: frozenset({State.RELEASING}),
    State.RESCUING: frozenset({State.PROVISIONING, State.RECOVERING, State.RELEASING}),
    State.RECOVERING: frozenset({State.PROVISIONING, State.RELEASING}),
    State.RELEASING: frozenset({State.ENDED}),
    State.ENDED: frozenset({State.PLANNED}),
}
"""Legal moves. ENDED → PLANNED is `resume`; TRAINING → SHIPPING restarts a supervisor that is gone; PROVISIONING →
TRAINING is a hosted job's, which ships its photos before it is submitted.
"""

EXIT_CODES: dict[EndReason, ExitCode] = {
    EndReason.DONE: ExitCode.OK,
    EndReason.STOPPED: ExitCode.STOPPED,
    EndReason.CANCELED: ExitCode.CANCELED,
    EndReason.TRAINING_FAILED: ExitCode.TRAINING_FAILED,
    EndReason.NO_MACHINE: ExitCode.PROVIDER,
    EndReason.MACHINE_LOST: ExitCode.MACHINE_LOST,
}

RESUMABLE = frozenset(EndReason) - {EndReason.DONE}


@dataclass(frozen=True)
class Facts:
    """What this driver has learned since it started or since the last move."""

    no_machine: str = ""
    """Why nothing can be rented; empty while it is still tried."""
    refused: frozenset[str] = frozenset()
    """Ids of the offers that turned out to be gone since the last pause."""
    waited_s: float = 0.0
    """How long this driver has waited for capacity in all."""
    reachable: bool = False
    shipped: bool = False
    host: HostStatus | None = None
    retrieved: bool = False
    machine_lost: str = ""
    """Why the machine can no longer be used (pre-empted, gone, never answered); empty while it can."""
    model_home: bool = False
    """The machine was lost and the finished model came home from the store."""
    looked_again: bool = False
    """Whether a lost machine has been asked once more before it is given back."""
    answers_again: bool = False
    """It runs and answers after all."""
    silence: Silence = NO_SILENCE
    """Of a rented machine that no phase can reach."""
    heard_at_s: float | None = None
    """On the driver's monotonic clock: when the host last answered this driver."""
    keeps: Keeps = Keeps.NOTHING
    """What the machine's disk is believed to hold alone; from the ledger. Looked at only when it was lost."""
    rescue_over: bool = False
    """Whether it has been kept for as long as the spec allows."""
    revived: bool = False
    """The stopped machine runs again."""
    not_revived: str = ""
    """Why it does not and is no longer waited for."""
    keep_left_s: float = 0.0
    """How long the machine of a run that is done is still to stay; from spec and ledger."""
    may_rent_again: bool = False
    """Whether money and attempts allow another machine. Looked at only when one was lost."""
    restarts: int = 0
    """How often this driver has found the supervisor gone without a last word, or stopped without being asked."""


MAX_RESTARTS = 3
BACK_FROM_A_STOP = (State.RESCUING, State.PROVISIONING)
"""Where `stop` does not end the run at once: what the machine holds alone comes home first."""


@dataclass(frozen=True)
class Do:
    phase: Phase


@dataclass(frozen=True)
class Move:
    to: State
    why: str
    reason: EndReason | None = None
    """Set when this move begins the end."""


@dataclass(frozen=True)
class Finished:
    pass


Step = Do | Move | Finished


def next_step(state: State, wish: Wish, reason: EndReason | None, standing: Standing, facts: Facts) -> Step:
    """What a driver does now. `reason` is that of an end which has begun. Pure: equal arguments, equal answer."""
    if state not in (State.KEEPING, State.RELEASING, State.ENDED):
        if wish.ends_now:
            return Move(State.RELEASING, "`down` was asked for", EndReason.CANCELED)
        if facts.machine_lost and State.RECOVERING in MOVES[state] and standing is Standing.HELD:
            if facts.model_home:
                return Move(State.RELEASING, f"{facts.machine_lost}; the model came from the store", EndReason.DONE)
            if State.RESCUING in MOVES[state] and facts.keeps is not Keeps.NOTHING and not facts.rescue_over:
                return Move(State.RESCUING, f"{facts.machine_lost}; its disk holds {facts.keeps.words}")
            if reason in (EndReason.STOPPED, EndReason.TRAINING_FAILED):
                return Move(State.RELEASING, facts.machine_lost, reason)  # what came home is what there is
            return Move(State.RECOVERING, facts.machine_lost)
        if wish is Wish.STOP:
            if state is State.SHIPPING and standing is Standing.HELD:
                return _stop_while_shipping(facts)
            rescued = standing is Standing.HELD and facts.keeps is not Keeps.NOTHING
            if state not in (State.TRAINING, State.RETRIEVING) and not (rescued and state in BACK_FROM_A_STOP):
                return Move(State.RELEASING, "`stop` was asked for while nothing trained", EndReason.STOPPED)
    match state:
        case State.PLANNED:
            return Move(State.PROVISIONING, "the plan was accepted")
        case State.PROVISIONING:
            return _provisioning(standing, facts)
        case State.SHIPPING:
            if facts.shipped:
                return Move(State.TRAINING, "the host has everything and its supervisor runs")
            return Do(Phase.SHIP)
        case State.TRAINING:
            return _training(wish, facts)
        case State.RETRIEVING:
            if not facts.retrieved:
                return Do(Phase.RETRIEVE)
            if reason is EndReason.DONE and facts.keep_left_s > 0 and wish is Wish.RUN:
                return Move(State.KEEPING, "all files are here and verified; the machine stays for the next run")
            return Move(State.RELEASING, "all files are here and verified")
        case State.RESCUING:
            return _rescuing(standing, facts)
        case State.RECOVERING:
            return _recovering(standing, facts)
        case State.KEEPING:
            return _keeping(wish, standing, facts)
        case State.RELEASING:
            if standing in (Standing.NONE, Standing.ABSENT):
                return Move(State.ENDED, "no machine is left")
            return Do(Phase.SETTLE if standing is Standing.UNSETTLED else Phase.RELEASE)
        case State.ENDED:
            return Finished()
    assert_never(state)


def _stop_while_shipping(facts: Facts) -> Step:
    """A driver may have died between starting the supervisor and writing that down: only the host knows."""
    if facts.host is None:
        return Do(Phase.LOOK)
    if facts.host.started or facts.host.checkpoints:
        return Move(State.TRAINING, "something trains or has trained there: its checkpoint comes home first")
    return Move(State.RELEASING, "`stop` was asked for before training began", EndReason.STOPPED)


def _rescuing(standing: Standing, facts: Facts) -> Step:
    """Started again the machine is provisioned like any other, which leads to where the run was."""
    if standing is not Standing.HELD:
        return Move(State.RECOVERING, "the stopped machine is gone")
    if facts.revived:
        return Move(State.PROVISIONING, "the stopped machine runs again")
    if facts.rescue_over:
        return Move(State.RECOVERING, "limits.rescue_hours are over: the stopped disk is given up with what it holds")
    if facts.not_revived:
        return Move(State.RECOVERING, facts.not_revived)
    return Do(Phase.REVIVE)


def _keeping(wish: Wish, standing: Standing, facts: Facts) -> Step:
    """Whatever happens now, the run stays done: its model is home."""
    if wish is not Wish.RUN:
        return Move(State.RELEASING, "the kept machine is not wanted any more", EndReason.DONE)
    if facts.machine_lost or standing is not Standing.HELD:
        return Move(State.RELEASING, facts.machine_lost or "the kept machine is gone", EndReason.DONE)
    if facts.keep_left_s <= 0:
        return Move(State.RELEASING, "the machine was kept for as long as it may be", EndReason.DONE)
    return Do(Phase.KEEP)


def _recovering(standing: Standing, facts: Facts) -> Step:
    """The lost machine is given back before another is taken: two never bill for one run. One that answers after all
    (this computer was offline, or a driver died between its loss and its release) is taken back.
    """
    match standing:
        case Standing.HELD:
            if facts.answers_again:
                return Move(State.PROVISIONING, "the machine answers after all")
            return Do(Phase.RELEASE if facts.looked_again else Phase.LOOK_AGAIN)
        case Standing.UNSETTLED:
            return Do(Phase.SETTLE)
        case Standing.NONE | Standing.ABSENT:
            if facts.may_rent_again:
                return Move(State.PROVISIONING, "the run goes on on another machine")
            return Move(State.RELEASING, "money or attempts do not allow another machine", EndReason.MACHINE_LOST)
    assert_never(standing)


def facts_after(move: Move, leaving: State, facts: Facts) -> Facts:
    """What is still true after a move. Back from training to shipping, nothing is known about the host any more;
    on another machine, nothing at all.
    """
    if leaving is State.TRAINING and move.to is State.SHIPPING:
        return replace(facts, shipped=False, host=None, restarts=facts.restarts + 1)
    if leaving in (State.RECOVERING, State.RESCUING) or move.to is State.RESCUING:
        return Facts(restarts=facts.restarts)
    return facts


def _provisioning(standing: Standing, facts: Facts) -> Step:
    match standing:
        case Standing.NONE | Standing.ABSENT:
            if facts.model_home:
                return Move(
                    State.RELEASING, "the model of the machine that was lost came from the store", EndReason.DONE
                )
            if facts.no_machine:
                return Move(State.RELEASING, facts.no_machine, EndReason.NO_MACHINE)
            return Do(Phase.CREATE)
        case Standing.UNSETTLED:
            return Do(Phase.SETTLE)
        case Standing.HELD:
            return Move(State.SHIPPING, "the machine answers") if facts.reachable else Do(Phase.AWAIT)
    assert_never(standing)


def _training(wish: Wish, facts: Facts) -> Step:
    host = facts.host
    if host is None or host.supervisor_pid is not None:
        return Do(Phase.FOLLOW)
    match host.ended:
        case "done":
            return Move(State.RETRIEVING, "training is done", EndReason.DONE)
        case "stopped" if wish is Wish.RUN and facts.restarts < MAX_RESTARTS:
            return Move(State.SHIPPING, "something on the host stopped training; it goes on from its checkpoint")
        case "stopped":
            return Move(State.RETRIEVING, "training stopped with a checkpoint", EndReason.STOPPED)
        case "failed":
            return Move(State.RETRIEVING, "the trainer gave up", EndReason.TRAINING_FAILED)
        case None if wish is Wish.STOP:
            return Move(State.RETRIEVING, "the supervisor is gone, as asked for", EndReason.STOPPED)
        case None if facts.restarts >= MAX_RESTARTS:
            return Move(State.RETRIEVING, "the supervisor keeps dying", EndReason.TRAINING_FAILED)
        case None:
            return Move(State.SHIPPING, "the supervisor is gone without a last word")
    assert_never(host.ended)
