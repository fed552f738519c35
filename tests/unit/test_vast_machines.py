"""An instance of Vast.ai read as a machine: its four status words, its price, its address."""

from __future__ import annotations

from typing import Any

import pytest

from providers.api import MachineStatus, SshAccess
from providers.vast.machines import access, as_machine, machine_status, ssh_port, status_text
from providers.vast.records import Instance

UP = ("running", "running", "running", "running")


def instance(words: tuple[str | None, ...] = UP, **other: Any) -> Instance:
    actual, intended, current, following = words
    fields = {
        "id": 31, "label": "cb-1", "is_bid": True, "dph_base": 0.22, "dph_total": 0.23, "storage_total_cost": 0.01,
        "actual_status": actual, "intended_status": intended, "cur_state": current, "next_state": following,
        "public_ipaddr": " 203.0.113.9\n", "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "20544"}]},
    }  # fmt: skip
    return Instance.model_validate(fields | other)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((None, "running", "running", "running"), MachineStatus.STARTING),
        (("created", "running", "running", "running"), MachineStatus.STARTING),
        (("loading", "running", "running", "running"), MachineStatus.STARTING),
        (("rebooting", "running", "running", "running"), MachineStatus.STARTING),
        (UP, MachineStatus.RUNNING),
        (("frozen", "running", "running", "running"), MachineStatus.RUNNING),
        # outbid: the contract first, the container 10 to 30 s later
        (("running", "stopped", "running", "stopped"), MachineStatus.STOPPED),
        (("running", "stopped", "stopped", "stopped"), MachineStatus.STOPPED),
        (("exited", "stopped", "stopped", "stopped"), MachineStatus.STOPPED),
        (("stopped", "stopped", "stopped", "stopped"), MachineStatus.STOPPED),
        # a start that waits for a GPU
        (("exited", "running", "stopped", "running"), MachineStatus.STOPPED),
        # the host gave up at boot
        (("created", "stopped", "stopped", "stopped"), MachineStatus.STOPPED),
        # after a start the record reads so for minutes; a crashed container does as well
        (("exited", "running", "running", "running"), MachineStatus.STARTING),
        (("offline", "running", "running", "running"), MachineStatus.UNKNOWN),
        (("unknown", "running", "running", "running"), MachineStatus.UNKNOWN),
        (("melting", "running", "running", "running"), MachineStatus.UNKNOWN),
    ],
)
def test_four_words_make_one_status(words: tuple[str | None, ...], expected: MachineStatus) -> None:
    assert machine_status(instance(words)) is expected


@pytest.mark.parametrize("current", ["running", "stopped"])
def test_a_host_that_gave_up_at_boot_is_not_waited_for(current: str) -> None:
    said = "Error response from daemon: failed to create task: OCI runtime create failed: no CDI device"
    failed = instance(("created", current, current, current), status_msg=said)
    assert machine_status(failed) is MachineStatus.FAILED
    assert "OCI runtime create failed" in status_text(failed)


def test_an_old_complaint_of_a_container_that_runs_is_no_failure() -> None:
    assert machine_status(instance(UP, status_msg="unexpected EOF")) is MachineStatus.RUNNING
    assert machine_status(instance(("loading", *UP[1:]), status_msg="a1b2: Pulling fs layer")) is MachineStatus.STARTING


def test_an_outbid_machine_bills_its_disk_and_cannot_be_reached() -> None:
    machine = as_machine(instance(("running", "stopped", "stopped", "stopped")))
    assert (machine.price_per_hour_usd, machine.access) == (0.01, None)
    assert machine.status_text == "running, outbid or stopped"


def test_the_price_of_a_stopped_disk_is_the_one_stated_for_this_state() -> None:
    stated = {"gpuCostPerHour": 0, "diskHour": 0.015}
    assert (
        as_machine(instance(("exited", "stopped", "stopped", "stopped"), instance=stated)).price_per_hour_usd == 0.015
    )


def test_a_machine_that_comes_up_counts_in_full() -> None:
    assert as_machine(instance((None, "running", "running", "running"))).price_per_hour_usd == 0.23
    assert as_machine(instance(dph_total=None)).price_per_hour_usd == pytest.approx(0.23)


def test_what_the_service_says_of_a_failing_boot_is_passed_on() -> None:
    record = instance(
        ("created", "stopped", "stopped", "stopped"), status_msg="OCI runtime\ncreate failed", is_bid=False
    )
    assert status_text(record) == "created, stopped: OCI runtime create failed"
    assert status_text(instance(status_msg="success, running vastai/pytorch")) == "running"
    assert status_text(instance(("exited", "running", "stopped", "running"))) == "exited, start queued"


def test_the_address_is_direct_and_trimmed() -> None:
    expected = SshAccess("203.0.113.9", 20544, "root", workdir="/workspace/cloudbooth")
    assert access(instance()) == expected


def test_an_address_without_a_port_is_none() -> None:
    assert access(instance(ports=None)) is None
    assert access(instance(public_ipaddr="\n")) is None


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ({"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "20544"}, {"HostIp": "::", "HostPort": "20545"}]}, 20544),
        ({"22/tcp": [{"HostPort": 20544}]}, 20544),
        ({"8080/tcp": [{"HostPort": "1"}]}, None),
        ({"22/tcp": []}, None),
        ({"22/tcp": [{"HostPort": "99999"}]}, None),
        ({"22/tcp": [{"HostPort": "soon"}]}, None),
        ([8080, 8081], None),
        (None, None),
    ],
    ids=str,
)
def test_ports_are_read_in_every_form_they_come_in(ports: object, expected: int | None) -> None:
    assert ssh_port(ports) == expected


def test_a_record_full_of_nulls_can_be_read() -> None:
    machine = as_machine(Instance(id=31))
    assert (machine.tag, machine.status, machine.access) == ("", MachineStatus.STARTING, None)
