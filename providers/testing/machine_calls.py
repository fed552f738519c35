"""How a machine of the simulated cloud asks to be given back: HTTP requests with a key that can do no more."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from providers.api import MachineCall, MachineId, SelfRelease
from providers.testing.rentals import Rental

BASE = "https://cloud.simulated/machines/"
ID_VARIABLE = "SIMULATED_MACHINE_ID"
KEY_VARIABLE = "SIMULATED_MACHINE_KEY"


class Answer(Enum):
    PROBE = "PATCH"
    STOP = "POST"
    TERMINATE = "DELETE"


def _call(answer: Answer) -> MachineCall:
    return MachineCall(answer.value, f"{BASE}${{{ID_VARIABLE}}}", {"Authorization": f"Bearer ${{{KEY_VARIABLE}}}"})


SELF_RELEASE = SelfRelease(terminate=_call(Answer.TERMINATE), probe=_call(Answer.PROBE), stop=_call(Answer.STOP))


def environment(rental: Rental) -> Mapping[str, str]:
    """What a machine finds in its environment: its name and its key."""
    return {ID_VARIABLE: str(rental.id), KEY_VARIABLE: rental.key}


def understood(
    method: str, url: str, authorization: str, rentals: Mapping[MachineId, Rental]
) -> tuple[Rental, Answer] | int:
    """Which machine asks for what; the HTTP status of a refusal otherwise."""
    if not url.startswith(BASE) or method not in {answer.value for answer in Answer}:
        return 405
    rental = rentals.get(MachineId(url.removeprefix(BASE)))
    if rental is None or rental.gone_s is not None:
        return 404
    if authorization != f"Bearer {rental.key}":
        return 401
    return rental, Answer(method)
