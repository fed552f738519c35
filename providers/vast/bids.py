"""What a bid may come to: whether the market has moved, and how far we follow it.

The cap of an instance is kept in a file beside us. Its own record would be the place that other laptops see, but the
host's owner reads everything there and would know how high the price can be driven.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from providers.vast.asks import bid_usd
from providers.vast.records import Ask, Instance


def market_usd(record: Instance, asks: Iterable[Ask]) -> float | None:
    """The lowest bid that its machine takes now; None while it takes none.

    `min_bid` of the instance's own record is not that figure: it follows our bid upwards.
    """
    here = [ask.min_bid for ask in asks if ask.machine_id == record.machine_id and ask.min_bid is not None]
    return min(here, default=None)


def raised_bid_usd(present_usd: float, market: float | None, cap_usd: float | None) -> float | None:
    """The bid to go up to; None to leave it as it is. Never lowers one, and raises none without a cap."""
    if market is None or cap_usd is None or present_usd > market:
        return None
    bid = bid_usd(market, cap_usd)
    return bid if bid is not None and bid > present_usd else None


class BidCaps:
    """One small file an instance. Without one, a bid stays as it was made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def remember(self, instance: int, cap_usd: float) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".", suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{cap_usd:.4f}\n")
        os.replace(temporary, self._file(instance))

    def cap_usd(self, instance: int) -> float | None:
        try:
            return float(self._file(instance).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def forget(self, instance: int) -> None:
        self._file(instance).unlink(missing_ok=True)

    def _file(self, instance: int) -> Path:
        return self._folder / str(instance)
