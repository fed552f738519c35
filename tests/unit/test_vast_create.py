"""What Vast.ai is sent to rent a machine, and what must be true of the machine that comes."""

from __future__ import annotations

import base64
import os
import random
import subprocess
from typing import Any

import pytest

from providers.api import BootPlan
from providers.errors import CloudboothError
from providers.vast.asks import Ticket
from providers.vast.bids import market_usd, raised_bid_usd
from providers.vast.boot import MAX_ONSTART, MAX_VARIABLE, create_body, onstart
from providers.vast.provider import broken_terms
from providers.vast.records import Ask, Instance

BID = Ticket(7001, 0.22, 0.5)


def test_a_price_is_sent_for_a_bid_and_only_then() -> None:
    assert create_body(BootPlan(), "t", 0.22)["price"] == 0.22
    assert "price" not in create_body(BootPlan(), "t", None)


def test_an_instance_that_cannot_start_is_not_to_be_kept() -> None:
    assert create_body(BootPlan(), "t", 0.22)["cancel_unavail"] is True


def test_the_environment_is_an_object_with_the_ssh_port_and_the_tag() -> None:
    body = create_body(BootPlan(env={"A": "1"}), "cb-1", None)
    assert body["env"] == {"A": "1", "CLOUDBOOTH_TAG": "cb-1", "-p 22:22": "1"}


def test_a_label_that_would_be_cut_off_is_refused() -> None:
    with pytest.raises(CloudboothError, match="label"):
        create_body(BootPlan(), "t" * 257, None)


def run(start_command: str) -> str:
    """What a boot prints, with the container's variables."""
    commands, pieces = onstart(start_command, "cb-1")
    assert len(commands) <= MAX_ONSTART
    assert all(len(f"{name}={value}") <= MAX_VARIABLE for name, value in pieces.items())
    environ = {"PATH": os.environ["PATH"], "HOME": "/nowhere", **pieces}
    done = subprocess.run(["sh", "-c", commands], input="told", capture_output=True, text=True, check=True, env=environ)
    return done.stdout


def noise(characters: int) -> str:
    return base64.b64encode(random.Random(0).randbytes(characters)).decode()[:characters]


def test_a_short_start_command_stays_readable() -> None:
    commands, pieces = onstart("echo hello", "cb-1")
    assert commands.endswith("\necho hello")
    assert pieces == {}


@pytest.mark.parametrize(
    "filling", ["", "# a guard\n" * 2000, f"# {noise(9000)}\n"], ids=["plain", "packed", "in pieces"]
)
def test_a_start_command_of_any_length_runs_as_it_is(filling: str) -> None:
    assert run(filling + "read line; echo \"$line\" and 'this' of $CLOUDBOOTH_TAG\n") == "told and this of cb-1\n"


def test_a_start_command_of_a_foolish_length_is_refused_before_anything_is_rented() -> None:
    with pytest.raises(CloudboothError, match="start command"):
        create_body(BootPlan(start_command=noise(60_000)), "t", None)


def came(**fields: Any) -> Instance:
    return Instance.model_validate({"id": 31, "is_bid": True, "dph_base": 0.22} | fields)


def test_a_bid_that_became_a_rental_on_demand_is_noticed() -> None:
    assert "on demand" in broken_terms(came(is_bid=False), True, BID)
    assert "interruptible" in broken_terms(came(), False, BID)
    assert "$0.4400/h" in broken_terms(came(dph_base=0.44), True, BID)


def test_a_machine_as_agreed_is_kept_and_so_is_one_that_does_not_say() -> None:
    assert broken_terms(came(), True, BID) == ""
    assert broken_terms(came(is_bid=None, dph_base=None), True, BID) == ""


def ask(machine_id: int, min_bid: float | None) -> Ask:
    return Ask(
        id=1, machine_id=machine_id, gpu_name="RTX 4090", num_gpus=1, gpu_ram=24564, dph_base=0.4, min_bid=min_bid
    )


def test_the_market_of_a_machine_is_its_offers_and_not_its_own_record() -> None:
    record = Instance.model_validate({"id": 31, "machine_id": 9, "min_bid": 9.99})
    assert market_usd(record, [ask(9, 0.3), ask(9, 0.25), ask(8, 0.1), ask(9, None)]) == 0.25
    assert market_usd(record, []) is None


@pytest.mark.parametrize(
    ("present", "market", "cap", "bid"),
    [
        (0.22, 0.30, 0.5, 0.33),
        (0.22, 0.30, 0.31, 0.31),
        (0.22, 0.30, 0.29, None),  # above the cap
        (0.22, 0.30, None, None),  # nothing was agreed on
        (0.22, 0.10, 0.5, None),  # still the highest: never lowered
        (0.22, None, 0.5, None),  # the machine takes no bids now
    ],
)
def test_a_bid_follows_the_market_up_to_its_cap(
    present: float, market: float | None, cap: float | None, bid: float | None
) -> None:
    assert raised_bid_usd(present, market, cap) == bid
