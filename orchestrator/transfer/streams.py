"""How many connections a transfer uses: a pure decision over what has been measured.

One TCP stream over a long, slightly lossy link keeps to half of it or less: each loss halves its window, which grows
back by the round trip. Streams of their own lose independently. On a short link nothing is lost and ciphers and copies
are the limit, and one stream spends the least on them: its chunks come in their order, so that a file is hashed while
it arrives and not read again, and nothing is spent on further logins and interpreters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NEAR_S = 0.005
"""A round trip below this is the same room or data center."""
NEAR_STREAMS = 1
FIRST_FAR_STREAMS = 4
MOST_STREAMS = 8
"""sshd's default MaxStartups begins to drop logins at ten that are under way at once."""
GROWTH = 2
WORTH_A_STREAM_BYTES = 8 << 20
"""A login costs half a dozen round trips and two key exchanges: below this the first stream is done before."""
GAIN = 1.1
"""More streams must have brought this much before still more are tried."""
WORTH_GROWING_S = 4.0
"""So much must be left, at the speed of now, for new connections to pay."""


@dataclass(frozen=True)
class Observed:
    """What a number of streams carried together for a while."""

    streams: int
    bytes_per_s: float


def first_streams(total_bytes: int, round_trip_s: float) -> int:
    """To begin with, before anything is measured but the round trip."""
    wanted = NEAR_STREAMS if round_trip_s < NEAR_S else FIRST_FAR_STREAMS
    return max(1, min(wanted, total_bytes // WORTH_A_STREAM_BYTES))


def next_streams(observed: Sequence[Observed], round_trip_s: float, left_bytes: int) -> int:
    """How many there should be now, never fewer than there are. `observed` holds one entry for each number tried, in
    the order of trying; the last is the number of now."""
    now = observed[-1]
    if round_trip_s < NEAR_S or now.streams >= MOST_STREAMS or now.bytes_per_s <= 0:
        return now.streams
    if left_bytes / now.bytes_per_s < WORTH_GROWING_S:
        return now.streams
    if len(observed) > 1 and now.bytes_per_s < GAIN * observed[-2].bytes_per_s:
        return now.streams
    return min(MOST_STREAMS, now.streams + GROWTH)
