"""What is said about the time that a transfer will still take."""

from __future__ import annotations

from orchestrator.transfer.pace import Pace

MB = 1_000_000


def steady(pace: Pace, begin_s: float, seconds: int, begin_bytes: int, bytes_per_s: int) -> None:
    for second in range(seconds + 1):
        pace.told(begin_bytes + second * bytes_per_s, begin_s + second)


def test_nothing_is_said_before_two_seconds_have_been_seen() -> None:
    pace = Pace()
    assert pace.seconds_left(100 * MB, 0.0) is None
    steady(pace, 0, 1, 0, 10 * MB)
    assert pace.seconds_left(100 * MB, 1.9) is None


def test_the_rest_is_divided_by_the_speed() -> None:
    pace = Pace()
    steady(pace, 0, 4, 0, 10 * MB)
    assert pace.seconds_left(100 * MB, 4.0) == 6.0


def test_only_the_last_ten_seconds_count() -> None:
    pace = Pace()
    steady(pace, 0, 60, 0, 1 * MB)
    steady(pace, 61, 10, 60 * MB, 10 * MB)
    assert pace.seconds_left(260 * MB, 71.0) == 10.0


def test_nothing_is_said_while_nothing_moves() -> None:
    pace = Pace()
    steady(pace, 0, 4, 0, 10 * MB)
    pace.told(40 * MB, 9.5)
    assert pace.seconds_left(100 * MB, 9.5) is None


def test_nothing_is_said_while_bytes_are_taken_off_again() -> None:
    pace = Pace()
    pace.told(50 * MB, 0.0)
    pace.told(40 * MB, 3.0)
    assert pace.seconds_left(100 * MB, 3.0) is None
