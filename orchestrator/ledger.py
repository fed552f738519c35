"""The one durable memory of the laptop: runs, machines, moves. SQLite.

Three rules make it safe to be killed anywhere:
- intent before act: a machine's row is written before `create` is called, so what may bill is always on record;
- compare and set: a move names the state it leaves, so that two processes cannot both make it;
- one driver: every write of a driver carries its epoch, and an older epoch is refused with StaleDriver.

Transactions are IMMEDIATE: a deferred one that starts by reading fails with "database is locked" the moment it wants
to write, whatever the busy timeout. No network call is ever made inside a transaction.

Longer than other modules, since every statement on these tables but those that make them stands here.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.clock import Clock
from orchestrator.errors import RunConflict, StaleDriver, UsageError
from orchestrator.ledger_records import (
    ArtifactRecord,
    MachineRecord,
    MoveRecord,
    PredictionRecord,
    Rate,
    RunRecord,
    machine_record,
    run_record,
)
from orchestrator.ledger_schema import MIGRATIONS
from orchestrator.lifecycle import MOVES, EndReason, Keeps, State, Trouble, Wish
from providers.api import MachineId, Offer
from providers.errors import CloudboothError

__all__ = [
    "BUSY_TIMEOUT_S",
    "ArtifactRecord",
    "DiskFull",
    "Ledger",
    "MachineRecord",
    "MoveRecord",
    "PredictionRecord",
    "Rate",
    "RunRecord",
    "met_a_full_disk",
]  # records are asked for by this name

BUSY_TIMEOUT_S = 30.0
_MOVE_STATE = "export CLOUDBOOTH_HOME=~/.cloudbooth"


def met_a_full_disk(error: sqlite3.Error) -> bool:
    """SQLite's shared memory does not tell a full disk from a broken one."""
    full = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_WRITE")
    return getattr(error, "sqlite_errorname", "") in full


class DiskFull(CloudboothError):
    """The laptop's disk, where the state lies."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"this machine's disk is full: {folder}",
            "free some space, or move the state with CLOUDBOOTH_HOME; runs go on without us, see `cloudbooth ps`",
        )


class Ledger:
    """Opens (and on first use makes) the database. Every method is one transaction; blocks up to 30 s on a writer.

    On a full disk a write raises DiskFull, and nothing of it has happened.
    """

    def __init__(self, file: Path, clock: Clock) -> None:
        self._clock, self._folder = clock, file.parent
        self._one_at_a_time = threading.Lock()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"the state folder {file.parent} cannot be used: {reason}", _MOVE_STATE) from None
        except sqlite3.OperationalError as error:
            raise UsageError(f"the ledger {file} cannot be opened: {error}", _MOVE_STATE) from None
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._migrate()

    def close(self) -> None:
        self._db.close()

    @property
    def installation(self) -> str:
        """Eight letters that mark this installation's machines at every provider."""
        return str(self._db.execute("SELECT id FROM installation").fetchone()["id"])

    # -- runs

    def add_run(self, name: str, provider: str, spec_json: str, plan_json: str) -> None:
        """Raises RunConflict when the name is taken."""
        with self._transaction():
            if self.has_run(name):
                raise RunConflict(
                    f"a run named `{name}` exists",
                    f"choose another with `--name {name}-2`; `cloudbooth forget {name}` frees it when that run is over",
                )
            self._db.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, NULL, 1, 0, NULL)",
                (name, self._clock.now(), provider, spec_json, plan_json, State.PLANNED.value, Wish.RUN.value),
            )

    def run(self, name: str) -> RunRecord:
        """Raises UsageError with the nearest known names."""
        row = self._db.execute("SELECT * FROM runs WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise UsageError(f"there is no run named `{name}`", self._nearest(name))
        return run_record(row)

    def has_run(self, name: str) -> bool:
        """In whatever case it is written: on many disks `Dog` and `dog` are one folder."""
        return self._db.execute("SELECT 1 FROM runs WHERE name = ? COLLATE NOCASE", (name,)).fetchone() is not None

    def runs(self) -> list[RunRecord]:
        """Newest first."""
        return [run_record(row) for row in self._db.execute("SELECT * FROM runs ORDER BY created_at DESC")]

    def runs_without_documents(self) -> list[RunRecord]:
        """As `runs`, but `spec_json` and `plan_json` are empty: for a list of thousands that shows neither."""
        columns = (
            "name, created_at, provider, '' AS spec_json, '' AS plan_json, state, wish, reason, attempt, driver_epoch"
        )
        rows = self._db.execute(f"SELECT {columns}, ended_at FROM runs ORDER BY created_at DESC")
        return [run_record(row) for row in rows]

    def become_driver(self, name: str) -> int:
        """Takes the run over: from now on every write with an older epoch is refused. Returns the new epoch."""
        with self._transaction():
            self._db.execute("UPDATE runs SET driver_epoch = driver_epoch + 1 WHERE name = ?", (name,))
            return int(
                self._db.execute("SELECT driver_epoch FROM runs WHERE name = ?", (name,)).fetchone()["driver_epoch"]
            )

    def move(
        self, name: str, epoch: int, leaving: State, to: State, why: str, reason: EndReason | None = None
    ) -> RunRecord:
        """Compare and set. Raises StaleDriver for an old epoch and RunConflict when the run left that state already."""
        if to not in MOVES[leaving]:
            raise RunConflict(f"a run cannot go from {leaving.value} to {to.value}")
        now = self._clock.now()
        with self._transaction():
            self._require_epoch(name, epoch)
            begins_anew = to is State.PROVISIONING  # an end that had begun is off
            changed = self._db.execute(
                "UPDATE runs SET state = ?, reason = CASE WHEN ? THEN NULL ELSE coalesce(?, reason) END, ended_at = ? "
                "WHERE name = ? AND state = ?",
                (
                    to.value,
                    begins_anew,
                    reason and reason.value,
                    now if to is State.ENDED else None,
                    name,
                    leaving.value,
                ),
            )
            if changed.rowcount != 1:
                raise RunConflict(f"run `{name}` is no longer {leaving.value}")
            self._note_move(name, epoch, leaving, to, why)
        return self.run(name)

    def start_attempt(self, name: str, epoch: int) -> RunRecord:
        """An ended run becomes a planned one with the next attempt number. For `resume`."""
        with self._transaction():
            self._require_epoch(name, epoch)
            changed = self._db.execute(
                "UPDATE runs SET state = ?, wish = ?, reason = NULL, attempt = attempt + 1, ended_at = NULL "
                "WHERE name = ? AND state = ?",
                (State.PLANNED.value, Wish.RUN.value, name, State.ENDED.value),
            )
            if changed.rowcount != 1:
                raise RunConflict(f"run `{name}` has not ended", f"watch it with `cloudbooth attach {name}`")
            self._note_move(name, epoch, State.ENDED, State.PLANNED, "`resume` was asked for")
        return self.run(name)

    def change_spec(self, name: str, epoch: int, spec_json: str) -> None:
        """For a person who resumes with other limits."""
        with self._transaction():
            self._require_epoch(name, epoch)
            self._db.execute("UPDATE runs SET spec_json = ? WHERE name = ?", (spec_json, name))

    def set_wish(self, name: str, wish: Wish) -> None:
        """Any process may. A wish only grows (run → stop → down) until the run ends."""
        with self._transaction():
            order = [w.value for w in Wish]
            current = self._db.execute("SELECT wish FROM runs WHERE name = ?", (name,)).fetchone()
            if current is not None and order.index(wish.value) > order.index(current["wish"]):
                self._db.execute("UPDATE runs SET wish = ? WHERE name = ?", (wish.value, name))

    def withdraw_wish(self, name: str, epoch: int) -> None:
        """Back to `run`, for a person who resumes what they had asked to stop."""
        with self._transaction():
            self._require_epoch(name, epoch)
            self._db.execute("UPDATE runs SET wish = ? WHERE name = ?", (Wish.RUN.value, name))

    def forget_run(self, name: str, epoch: int) -> None:
        """Removes every row of a run that has ended, and of which nothing may bill any more; its name is free then.

        Raises RunConflict for any other.
        """
        with self._transaction():
            self._require_epoch(name, epoch)
            ended = self._db.execute("SELECT state FROM runs WHERE name = ?", (name,)).fetchone()["state"]
            may_bill = any(each.absent_at is None for each in self.machines(name))
            may_bill = may_bill or any(each.over_at is None for each in self.predictions(name))
            if ended != State.ENDED.value or may_bill:
                raise RunConflict(f"run `{name}` is not over", "`cloudbooth ps` shows what it is at")
            self._db.execute("DELETE FROM rates WHERE tag IN (SELECT tag FROM machines WHERE run = ?)", (name,))
            for table in ("machines", "moves", "artifacts", "predictions"):
                self._db.execute(f"DELETE FROM {table} WHERE run = ?", (name,))
            self._db.execute("DELETE FROM runs WHERE name = ?", (name,))

    def moves(self, name: str) -> list[MoveRecord]:
        """In the order they were made."""
        rows = self._db.execute("SELECT * FROM moves WHERE run = ? ORDER BY id", (name,))
        return [MoveRecord(r["at"], State(r["from_state"]), State(r["to_state"]), r["why"]) for r in rows]

    # -- machines

    def record_intent(
        self,
        run: RunRecord,
        epoch: int,
        tag: str,
        offer: Offer,
        rescue_usd: float = 0.0,
        first_lease_s: float | None = None,
        traffic_usd: float = 0.0,
    ) -> None:
        """Written before `create` is called: from here on a machine may exist."""
        with self._transaction():
            self._require_epoch(run.name, epoch)
            self._db.execute(
                "INSERT INTO machines (tag, run, attempt, provider, offer_id, price_per_hour_usd, intent_at, market, "
                "disk_per_day_usd, rescue_usd, first_lease_s, gpu, traffic_usd) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    tag, run.name, run.attempt, offer.provider, offer.id, offer.price_per_hour_usd, self._clock.now(),
                    offer.market.value, offer.stopped_disk_per_day_usd, rescue_usd,
                    first_lease_s, offer.gpu, traffic_usd,
                ),
            )  # fmt: skip

    def record_created(self, run: str, epoch: int, tag: str, machine_id: MachineId, *, adopted: bool = False) -> None:
        """`adopted`: found later, so that it may have billed since its intent."""
        with self._transaction():
            self._require_epoch(run, epoch)
            self._db.execute(
                "UPDATE machines SET machine_id = ?, created_at = coalesce(?, intent_at) WHERE tag = ?",
                (machine_id, None if adopted else self._clock.now(), tag),
            )

    def record_rate(self, run: str, epoch: int, tag: str, usd_per_hour: float, since: float | None = None) -> None:
        """What the running machine bills, from now on or `since` a moment; nothing changes when that is known."""
        with self._transaction():
            self._require_epoch(run, epoch)
            self._note_rate(tag, usd_per_hour, stopped=False, since=since)

    def record_stopped(self, run: str, epoch: int, tag: str) -> None:
        """From now on only the machine's disk is billed."""
        with self._transaction():
            self._require_epoch(run, epoch)
            self._note_rate(tag, self._machine(tag).disk_per_day_usd / 24, stopped=True)

    def record_not_started(self, run: str, epoch: int, tag: str) -> None:
        """The start for which `record_rate` was called has certainly not happened: the disk is billed as before."""
        with self._transaction():
            self._require_epoch(run, epoch)
            newest = "SELECT max(id) FROM rates WHERE tag = ?"
            self._db.execute(f"DELETE FROM rates WHERE id = ({newest}) AND stopped = 0", (tag,))

    def record_trouble(
        self, run: str, epoch: int, tag: str, trouble: Trouble, why: str, keeps: Keeps, *, stopped: bool
    ) -> None:
        """The run cannot use the machine as it is. One that is `stopped` bills its disk alone from now on.

        What it `keeps` replaces what was believed before; the hours of a rescue count from the first time.
        """
        with self._transaction():
            self._require_epoch(run, epoch)
            self._db.execute(
                "UPDATE machines SET trouble = ?, trouble_why = ?, keeps = ?, "
                "keeps_since = CASE WHEN ? IS NULL THEN NULL ELSE coalesce(keeps_since, ?) END WHERE tag = ?",
                (trouble.value, why, keeps.value, keeps.value or None, self._clock.now(), tag),
            )
            if stopped:
                self._note_rate(tag, self._machine(tag).disk_per_day_usd / 24, stopped=True)

    def record_absent(self, run: str, epoch: int, tag: str, *, refused: bool = False) -> None:
        """The provider has confirmed that nothing of this intent exists. `refused`: that nothing ever did."""
        with self._transaction():
            self._require_epoch(run, epoch)
            self._db.execute(
                "UPDATE machines SET absent_at = ?, refused = ? WHERE tag = ?", (self._clock.now(), refused, tag)
            )

    def record_bill(self, tag: str, usd: float) -> None:
        """The provider's own word on what a machine that is gone has cost. No epoch: it is a fact."""
        with self._transaction():
            self._db.execute("UPDATE machines SET billed_usd = ? WHERE tag = ?", (usd, tag))

    def reopen(self, tag: str, machine_id: MachineId) -> None:
        """A machine that was believed absent exists: it is shown as billing until its absence is confirmed anew.

        No epoch, since whoever sees it states a fact.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE machines SET absent_at = NULL, billed_usd = NULL, refused = 0, machine_id = ?, "
                "created_at = coalesce(created_at, intent_at) WHERE tag = ?",
                (machine_id, tag),
            )

    def record_ended(self, tag: str, machine_id: MachineId, began_at: float, ended_at: float, usd: float) -> None:
        """What nobody saw at work is over: from when to when it billed, in Unix seconds, and what it has cost. No
        epoch, as above.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE machines SET machine_id = ?, created_at = ?, absent_at = ?, billed_usd = ?, refused = 0 "
                "WHERE tag = ?",
                (machine_id, began_at, ended_at, usd, tag),
            )

    def confirm_absent(self, tag: str) -> None:
        """As `record_absent`, for a machine that no driver looks after."""
        with self._transaction():
            self._db.execute("UPDATE machines SET absent_at = ? WHERE tag = ?", (self._clock.now(), tag))

    def machine(self, run: str, attempt: int) -> MachineRecord | None:
        """The newest machine of an attempt."""
        found = self._machines("WHERE run = ? AND attempt = ? ORDER BY rowid DESC LIMIT 1", run, attempt)
        return found[0] if found else None

    def machines(self, run: str) -> list[MachineRecord]:
        """In the order of their intents."""
        return self._machines("WHERE run = ? ORDER BY rowid", run)

    def every_machine(self) -> list[MachineRecord]:
        """Of all runs, in the order of their intents."""
        return self._machines("ORDER BY rowid")

    def open_machines(self) -> list[MachineRecord]:
        """Everything that may still bill: no confirmed absence."""
        return self._machines("WHERE absent_at IS NULL")

    # -- predictions. No epoch: no driver has them, and what a service says of one is a fact.

    def record_prediction_intent(
        self, tag: str, run: str, provider: str, model: str, wish_json: str, usd_per_s: float | None
    ) -> None:
        """Written before the service is asked: from here on a prediction may bill."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO predictions (tag, run, provider, model, wish_json, usd_per_s, intent_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (tag, run, provider, model, wish_json, usd_per_s, self._clock.now()),
            )

    def record_predicted(self, tag: str, prediction: str) -> None:
        """The service has taken it. Twice is safe."""
        with self._transaction():
            self._db.execute("UPDATE predictions SET prediction = ? WHERE tag = ?", (prediction, tag))

    def record_prediction_over(self, tag: str, outcome: str, usd: float | None) -> None:
        """It bills no more. Twice is safe: the first word stays."""
        with self._transaction():
            self._db.execute(
                "UPDATE predictions SET over_at = ?, outcome = ?, usd = ? WHERE tag = ? AND over_at IS NULL",
                (self._clock.now(), outcome, usd, tag),
            )

    def predictions(self, run: str) -> list[PredictionRecord]:
        """In the order in which they were asked for."""
        return self._predictions("WHERE run = ? ORDER BY rowid", run)

    def open_predictions(self) -> list[PredictionRecord]:
        """Of all runs: those that may still bill."""
        return self._predictions("WHERE over_at IS NULL ORDER BY rowid")

    def _predictions(self, which: str, *values: str) -> list[PredictionRecord]:
        return [PredictionRecord(**row) for row in self._db.execute(f"SELECT * FROM predictions {which}", values)]

    # -- artifacts

    def record_artifact(self, run: str, kind: str, step: int, folder: Path, manifest_sha256: str) -> None:
        """What has arrived and was verified. Twice is safe; no epoch, since an arrived file is a fact."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO artifacts VALUES (?, ?, ?, ?, ?, ?)",
                (run, kind, step, str(folder), manifest_sha256, self._clock.now()),
            )

    def artifacts(self, run: str) -> list[ArtifactRecord]:
        """Oldest step first."""
        rows = self._db.execute("SELECT * FROM artifacts WHERE run = ? ORDER BY step, at", (run,))
        return [ArtifactRecord(r["kind"], r["step"], r["folder"], r["manifest_sha256"]) for r in rows]

    # -- internals

    def _machine(self, tag: str) -> MachineRecord:
        return self._machines("WHERE tag = ?", tag)[0]

    def _machines(self, which: str, *values: str | int) -> list[MachineRecord]:
        rows = self._db.execute(f"SELECT * FROM machines {which}", values).fetchall()
        rates: dict[str, list[Rate]] = {row["tag"]: [] for row in rows}
        for rate in self._db.execute("SELECT * FROM rates ORDER BY id") if rows else ():
            if rate["tag"] in rates:
                rates[rate["tag"]].append(Rate(rate["at"], rate["usd_per_hour"], bool(rate["stopped"])))
        return [machine_record(row, tuple(rates[row["tag"]])) for row in rows]

    def _note_rate(self, tag: str, usd_per_hour: float, *, stopped: bool, since: float | None = None) -> None:
        known = self._machine(tag)
        if (known.rate_usd, known.stopped) != (usd_per_hour, stopped):
            self._db.execute(
                "INSERT INTO rates (tag, at, usd_per_hour, stopped) VALUES (?, ?, ?, ?)",
                (tag, self._clock.now() if since is None else since, usd_per_hour, stopped),
            )

    def _require_epoch(self, name: str, epoch: int) -> None:
        row = self._db.execute("SELECT driver_epoch FROM runs WHERE name = ?", (name,)).fetchone()
        if row is None or row["driver_epoch"] != epoch:
            raise StaleDriver(f"another process drives run `{name}` now", f"watch it with `cloudbooth attach {name}`")

    def _note_move(self, name: str, epoch: int, leaving: State, to: State, why: str) -> None:
        self._db.execute(
            "INSERT INTO moves (run, at, epoch, from_state, to_state, why) VALUES (?, ?, ?, ?, ?, ?)",
            (name, self._clock.now(), epoch, leaving.value, to.value, why),
        )

    def _nearest(self, name: str) -> str:
        import difflib  # `ps` is waited for, and never needs it

        names = [row["name"] for row in self._db.execute("SELECT name FROM runs")]
        close = difflib.get_close_matches(name, names, n=3)
        return f"did you mean `{close[0]}`?" if close else "`cloudbooth ps` lists all runs"

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._one_at_a_time:  # the courier's thread writes through the same connection
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException as error:  # a Ctrl-C may come between any two of these lines
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error) and met_a_full_disk(error):
                    raise DiskFull(self._folder) from error
                raise

    def _migrate(self) -> None:
        with self._transaction():
            self._db.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY)")
            applied = {row["name"] for row in self._db.execute("SELECT name FROM migrations")}
            for name, script in MIGRATIONS:
                if name not in applied:
                    for statement in script.split(";"):
                        self._db.execute(statement)
                    self._db.execute("INSERT INTO migrations VALUES (?)", (name,))
            if self._db.execute("SELECT 1 FROM installation").fetchone() is None:
                self._db.execute("INSERT INTO installation VALUES (?)", (uuid.uuid4().hex[:8],))
