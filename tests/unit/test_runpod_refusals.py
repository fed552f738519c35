"""What RunPod's answers mean, as a table; each text is one that the service has given."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    QuotaExceeded,
    Transient,
    UnsupportedMarket,
)
from providers.runpod import spot
from providers.runpod.refusals import Effect, NotInThisStatus, Refusal, error_of, reason_of, retry_after_s

LOOKS, RENTS = Effect.NONE_OR_REPEATABLE, Effect.RENTS

ON_DEMAND = (
    "There are no longer any instances available with the requested specifications. Please refresh and try again."
)
SPOT = "There are no longer any instances available with the request specifications. Please try again later."
SPOT_AGAIN = "There are no instances available with the request specifications. Please try again later."
MACHINE = "This machine does not have the resources to deploy your pod. Please try a different machine"
PASSING = "Something went wrong. Please try again later or contact support."


@pytest.mark.parametrize(
    ("status", "text", "effect", "expected"),
    [
        # capacity goes by its words, whatever the status
        (400, ON_DEMAND, RENTS, NoCapacity),
        (500, ON_DEMAND, RENTS, NoCapacity),
        (200, ON_DEMAND, RENTS, NoCapacity),
        (400, SPOT, RENTS, NoCapacity),
        (400, SPOT_AGAIN, RENTS, NoCapacity),
        (400, MACHINE, RENTS, NoCapacity),
        (409, "There are not enough free GPUs on the host machine to start this pod.", LOOKS, NoCapacity),
        # what no other offer will help with
        (401, "missing bearer token", LOOKS, AuthRejected),
        (403, "access denied", RENTS, AuthRejected),
        (402, "insufficient balance", RENTS, QuotaExceeded),
        (400, "Your account has insufficient funds", RENTS, QuotaExceeded),
        (500, "hourly spend limit reached", RENTS, QuotaExceeded),
        # our own mistakes
        (400, "mounts.persistent and mounts.network are mutually exclusive", RENTS, CloudboothError),
        (422, "request body has an error: property 'imageName' is unsupported", RENTS, CloudboothError),
        (413, "request body too large", RENTS, CloudboothError),
        (405, "The requested method is not allowed for this path.", LOOKS, CloudboothError),
        (403, "error code: 1010", LOOKS, CloudboothError),
        (302, "", LOOKS, CloudboothError),
        # passing, or unknown for a request that rents
        (429, "rate limit exceeded for the minute window", RENTS, Transient),
        (429, "error code: 1015", LOOKS, Transient),
        (502, "Bad Gateway", LOOKS, Transient),
        (502, "Bad Gateway", RENTS, Indeterminate),
        (408, "", RENTS, Indeterminate),
        (400, PASSING, LOOKS, Transient),
        (400, PASSING, RENTS, Indeterminate),
    ],
)
def test_an_answer_becomes_an_error(status: int, text: str, effect: Effect, expected: type[CloudboothError]) -> None:
    assert type(error_of(Refusal(status, text), "asking", effect)) is expected


@pytest.mark.parametrize("status", [404, 410])
def test_a_pod_that_the_service_does_not_know_is_gone(status: int) -> None:
    assert type(error_of(Refusal(status, "pod not found"), "looking", LOOKS, machine="p1")) is MachineGone


def test_a_status_that_forbids_an_action_is_told_apart() -> None:
    refusal = Refusal(409, "cannot stop a pod that is EXITED")
    assert type(error_of(refusal, "asking", LOOKS, machine="p1")) is NotInThisStatus


def test_a_404_that_is_not_the_services_own_proves_no_absence() -> None:
    from_a_proxy = Refusal(404, "<html>not found</html>", is_structured=False)
    assert type(error_of(from_a_proxy, "looking", LOOKS, machine="p1")) is CloudboothError


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('Cannot query field "podRentInterruptable" on type "Mutation".', UnsupportedMarket),
        (SPOT, NoCapacity),
        (SPOT_AGAIN, NoCapacity),
        ("Unauthorized", AuthRejected),
        (PASSING, Indeterminate),
        ('Field "bidPerGpu" of required type "Float!" was not provided.', CloudboothError),
    ],
)
def test_a_message_in_a_graphql_answer_becomes_an_error(message: str, expected: type[CloudboothError]) -> None:
    assert type(spot.refused(message, "renting a spot pod", RENTS)) is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "soon"}, None),
        ({"ratelimit": '"minute";r=0;t=12, "hour";r=0;t=1812, "day";r=49500;t=45012'}, 1812.0),
        ({"ratelimit": '"minute";r=3;t=12'}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, datetime(2026, 11, 22, 12, tzinfo=UTC)) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"title": "T", "status": 422, "detail": "wrong", "errors": ["a", "b"]}', ("wrong: a: b", True)),
        ('{"error": "gone"}', ("gone", True)),
        ('{"message": "gone"}', ("gone", True)),
        ("error code:\n1015", ("error code: 1015", False)),
        ("[]", ("[]", False)),
    ],
)
def test_a_refusals_reason_is_found_in_every_shape(body: str, expected: tuple[str, bool]) -> None:
    assert reason_of(body) == expected
