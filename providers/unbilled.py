"""Machines that are nobody's to bill: the shared half of `local` and `ssh`.

Nothing is rented, but a run must still find, settle and give back what it took. So a "rental" is a file: one JSON
record per tag in the state folder, there from `create` to `release`, whichever process looks.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from providers.api import (
    Access,
    BootPlan,
    GpuRequest,
    Machine,
    MachineId,
    MachineStatus,
    Market,
    Offer,
    SelfRelease,
    SshAccess,
    ThisMachine,
)
from providers.errors import CloudboothError, MachineGone, NoCapacity, UnsupportedMarket

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class Rental:
    tag: str
    access: Access

    def to_json(self) -> str:
        kind = "ssh" if isinstance(self.access, SshAccess) else "this-machine"
        return json.dumps({"tag": self.tag, "kind": kind, "access": asdict(self.access)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Rental:
        """Raises ValueError, KeyError or TypeError for anything that `to_json` has not written."""
        body = json.loads(text)
        access: Access = (SshAccess if body["kind"] == "ssh" else ThisMachine)(**body["access"])
        return cls(body["tag"], access)


class RentalRecords:
    """The records of one provider. Writing is atomic; several processes may share the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, rental: Rental) -> None:
        """Durable when this returns. Raises CloudboothError for a tag that cannot be a file name or is taken."""
        if not _TAG.fullmatch(rental.tag):
            raise CloudboothError(f"{rental.tag!r} is no machine tag: letters, digits, `.`, `_` and `-` only")
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(rental.to_json())
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, self._path(rental.tag))  # unlike a rename, refuses an existing name
        except FileExistsError:
            raise CloudboothError(f"a machine with the tag {rental.tag} exists already") from None
        finally:
            os.unlink(temporary)

    def get(self, tag: str) -> Rental | None:
        if not _TAG.fullmatch(tag):
            return None
        try:
            return Rental.from_json(self._path(tag).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise CloudboothError(
                f"the record of machine {tag} is damaged: {self._path(tag)}", f"rm {self._path(tag)}"
            ) from None

    def with_prefix(self, prefix: str) -> list[Rental]:
        """By tag, in order. A record that another process removes meanwhile is left out."""
        tags = sorted(path.stem for path in self._folder.glob("*.json")) if self._folder.is_dir() else []
        found = (self.get(tag) for tag in tags if tag.startswith(prefix))
        return [rental for rental in found if rental is not None]

    def remove(self, tag: str) -> None:
        """Absent is fine."""
        if _TAG.fullmatch(tag):
            self._path(tag).unlink(missing_ok=True)

    def _path(self, tag: str) -> Path:
        return self._folder / f"{tag}.json"


class UnbilledProvider(ABC):
    """A `MachineProvider` with one offer, at no price, for a machine that already stands there."""

    name: str
    gpu: str
    markets: frozenset[Market] = frozenset({Market.ON_DEMAND})

    def __init__(self, state_folder: Path) -> None:
        self._records = RentalRecords(state_folder / "machines" / self.name)

    @abstractmethod
    def access(self) -> Access:
        """Where the machine is, from the options; recorded with each rental."""

    def offers(self, want: GpuRequest) -> Sequence[Offer]:
        """The one machine. Its GPU and memory are unknown until somebody looks, so no request for them excludes it."""
        self._require_market(want.market)
        return [
            Offer(
                provider=self.name,
                id=self.name,
                gpu=self.gpu,
                gpu_count=1,
                vram_gb=0.0,
                market=Market.ON_DEMAND,
                price_per_hour_usd=0.0,
                region="own",
                stock="1",
            )
        ]

    def create(self, offer: Offer, boot: BootPlan, tag: str) -> MachineId:
        """The id is the tag."""
        self._require_market(offer.market)
        if offer.provider != self.name:
            raise NoCapacity(f"the offer {offer.id} is one of {offer.provider}, not of {self.name}")
        self._records.add(Rental(tag, self.access()))
        return MachineId(tag)

    def describe(self, machine: MachineId) -> Machine:
        rental = self._records.get(machine)
        if rental is None:
            raise MachineGone(f"{self.name} has no machine {machine}: it was given back, or never taken")
        return _machine(rental)

    def list(self, prefix: str) -> Sequence[Machine]:
        return [_machine(rental) for rental in self._records.with_prefix(prefix)]

    def release(self, machine: MachineId) -> None:
        """Forgets the rental. Files and processes on the machine are not the provider's business."""
        self._records.remove(machine)

    def self_release(self, offer: Offer) -> SelfRelease | None:
        return None

    def _require_market(self, market: Market) -> None:
        if market not in self.markets:
            raise UnsupportedMarket(
                f"{self.name} does not rent on the {market.value} market: the machine is yours already",
                "leave out --spot (on-demand is what it is), or rent: --provider runpod, --provider vast",
            )


def _machine(rental: Rental) -> Machine:
    return Machine(
        id=MachineId(rental.tag),
        tag=rental.tag,
        status=MachineStatus.RUNNING,
        status_text="not rented",
        price_per_hour_usd=0.0,
        access=rental.access,
    )
