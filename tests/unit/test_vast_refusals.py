"""Vast.ai's refusals, in the words it has been seen to use, and what each of them proves."""

from __future__ import annotations

import json

import pytest

from providers.errors import (
    AuthRejected,
    CloudboothError,
    Indeterminate,
    MachineGone,
    NoCapacity,
    QuotaExceeded,
    Transient,
)
from providers.vast.refusals import Answer, Leaked, Rented, outcome_of_create, refusal, retry_after_s


def answer(status: int, **body: object) -> Answer:
    return Answer(status, json.dumps(body))


TAKEN = [
    answer(404, success=False, error="invalid_args", msg="error 404/3603: no_such_ask Instance type by id 7 is gone."),
    answer(410, success=False, error="no_such_ask", msg="error 410/3907: no_such_ask 7 is no longer available."),
    answer(400, success=False, error="no_such_ask"),
    answer(409, success=False, error="conflict", msg="someone was faster"),
    answer(400, success=False, error="invalid_price", msg="bid too low"),
    answer(403, success=False, error="invalid_args", msg="error 403/3586: Offer 7 is not your own."),
    answer(200, success=False, error="resources_unavailable"),
]  # fmt: skip
MONEY = [
    answer(400, success=False, error="insufficient_credit", msg="Your account is lacking credit"),
    answer(402, success=False, msg="pay first"),
    answer(400, success=False, error="spend_rate_limit", msg="new accounts may spend less"),
    answer(200, success=False, error="insufficient_credit"),
]
KEY = [
    answer(401, success=False, error="auth_error", msg="Invalid user key"),
    answer(404, error="auth_error", msg="Invalid user key"),
    answer(403, success=False, error="auth_error", msg="This action requires login."),
]
FREQUENT = [
    Answer(429, "API requests too frequent: endpoint threshold=4.5"),
    answer(429, detail="API requests too frequent endpoint threshold=4.5"),
    answer(429, success=False, error="rate_limit_exceeded", msg="API requests too frequent endpoint threshold=3.0"),
]
UNCERTAIN = [
    Answer(500, "oops"),
    Answer(502, "<html>Bad Gateway</html>"),
    Answer(200, "<html>hello</html>"),
    answer(200, success=True),
    answer(200, success=False, error="new words"),
    Answer(302, ""),
    Answer(408, ""),
]


def ids(of: list[Answer]) -> list[str]:
    return [f"{each.status} {each.shown[:30]}" for each in of]


@pytest.mark.parametrize(
    ("said", "error"),
    [(each, NoCapacity) for each in TAKEN]
    + [(each, QuotaExceeded) for each in MONEY]
    + [(each, AuthRejected) for each in KEY]
    + [(each, Transient) for each in FREQUENT]
    + [(each, Indeterminate) for each in UNCERTAIN]
    + [(answer(400, success=False, error="invalid_args", msg="image is required"), CloudboothError)],
    ids=ids([*TAKEN, *MONEY, *KEY, *FREQUENT, *UNCERTAIN, answer(400, msg="image is required")]),
)
def test_a_refused_create_is_told_apart_by_what_it_proves(said: Answer, error: type[CloudboothError]) -> None:
    with pytest.raises(CloudboothError) as caught:
        outcome_of_create(said)
    assert type(caught.value) is error


def test_a_create_that_worked_names_its_instance() -> None:
    assert outcome_of_create(answer(200, success=True, new_contract=31)) == Rented(31)


@pytest.mark.parametrize("status", [200, 400, 410, 500])
def test_a_failed_create_that_made_an_instance_is_a_leak_whatever_its_status(status: int) -> None:
    said = answer(status, success=False, error="no_such_ask", msg="bid too low", new_contract=31)
    assert outcome_of_create(said) == Leaked(31, "bid too low")


@pytest.mark.parametrize("said", KEY, ids=ids(KEY))
def test_a_wrong_key_is_no_missing_machine(said: Answer) -> None:
    assert isinstance(refusal(said, "show instance 7"), AuthRejected)


@pytest.mark.parametrize(
    "said",
    [
        answer(404, success=False, error="no_such_instance", msg="Instance with that ID does not exist."),
        answer(404, success=False, error="not_found", msg="Instance not found"),
        answer(400, success=False, error="no_such_instance"),
        answer(404, error="invalid_id", msg="Invalid instance id."),
    ],
)
def test_a_missing_machine_is_gone_in_every_wording(said: Answer) -> None:
    assert isinstance(refusal(said, "destroy instance 7"), MachineGone)


@pytest.mark.parametrize("said", FREQUENT, ids=ids(FREQUENT))
def test_too_many_requests_are_worth_another_try(said: Answer) -> None:
    assert isinstance(refusal(said, "show instances"), Transient)


def test_the_daily_search_quota_is_not_waited_out() -> None:
    said = answer(429, success=False, error="search_quota_exceeded", msg="daily quota")
    assert isinstance(refusal(said, "search offers"), QuotaExceeded)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (Answer(429, "", "12"), 12.0),
        (answer(429, retry_after=7), 7.0),
        (FREQUENT[0], 4.5),
        (FREQUENT[2], 3.0),
        (Answer(429, "slow down"), None),
        (Answer(429, "slow down", "Wed, 21 Oct 2026 07:28:00 GMT"), None),
    ],
)
def test_how_long_to_wait_is_taken_from_wherever_it_is_said(said: Answer, seconds: float | None) -> None:
    assert retry_after_s(said) == seconds


@pytest.mark.parametrize("text", ["Not Found", "<html><body>404</body></html>", ""])
def test_a_404_of_somebody_else_proves_no_absence(text: str) -> None:
    error = refusal(Answer(404, text), "show instance 7")
    assert not isinstance(error, MachineGone)
    assert "VAST_URL" in error.hint
