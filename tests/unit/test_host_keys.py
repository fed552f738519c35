"""Whose key is it: known_hosts as sshd(8) describes it."""

from __future__ import annotations

import base64
import hmac
from pathlib import Path

import pytest

from orchestrator.host import HostKeyRejected
from orchestrator.ssh.config import Destination
from orchestrator.ssh.host_keys import (
    HostKey,
    Verdict,
    algorithms_for,
    check,
    expected_keys,
    judge,
    known_keys,
    lookup_names,
)

A = HostKey("ssh-ed25519", b"key a")
B = HostKey("ssh-ed25519", b"key b")
R = HostKey("ssh-rsa", b"key r")


def line(names: str, key: HostKey, marker: str = "") -> str:
    return f"{marker} {names} {key.type} {base64.b64encode(key.blob).decode()} comment\n".lstrip()


def verdict(tmp_path: Path, text: str, shown: HostKey, host: str = "box", port: int = 22) -> Verdict:
    file = tmp_path / "known_hosts"
    file.write_text(text)
    return judge(shown, known_keys([file], lookup_names(host, port, None)))


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def destination(file: Path, port: int = 22) -> Destination:
    return Destination("me@box", "box", port, "me", None, (), False, None, None, (file,), None)


def test_a_key_on_file_is_accepted(tmp_path: Path) -> None:
    assert verdict(tmp_path, line("box", A), A) is Verdict.ACCEPTED


def test_a_host_without_a_line_is_unknown(tmp_path: Path) -> None:
    assert verdict(tmp_path, line("other", A), A) is Verdict.UNKNOWN


def test_a_missing_file_knows_nobody(tmp_path: Path) -> None:
    assert known_keys([tmp_path / "none"], ["box"]) == ()


def test_another_key_for_the_host_is_a_change(tmp_path: Path) -> None:
    assert verdict(tmp_path, line("box", A), B) is Verdict.CHANGED


def test_a_key_of_another_type_than_the_known_one_is_a_change(tmp_path: Path) -> None:
    assert verdict(tmp_path, line("box", R), A) is Verdict.CHANGED


def test_one_of_several_keys_is_enough(tmp_path: Path) -> None:
    assert verdict(tmp_path, line("box", R) + line("box", B) + line("box", A), A) is Verdict.ACCEPTED


def test_a_revoked_key_is_refused_even_if_another_line_has_it(tmp_path: Path) -> None:
    assert verdict(tmp_path, line("box", A) + line("*", A, "@revoked"), A) is Verdict.REVOKED


def test_certificate_authorities_vouch_for_nothing(tmp_path: Path) -> None:
    assert verdict(tmp_path, line("box", A, "@cert-authority"), A) is Verdict.UNKNOWN


@pytest.mark.parametrize("names", ["BOX", "other,box", "b?x", "b*", hashed("box")])
def test_the_names_of_a_line_are_patterns_or_hashes(tmp_path: Path, names: str) -> None:
    assert verdict(tmp_path, line(names, A), A, host="Box") is Verdict.ACCEPTED


def test_a_negated_pattern_excludes_the_line(tmp_path: Path) -> None:
    assert verdict(tmp_path, line("b*,!box", A), A) is Verdict.UNKNOWN


@pytest.mark.parametrize("names", ["[box]:2200", hashed("[box]:2200"), "[*]:2200"])
def test_a_host_on_another_port_has_its_port_in_the_name(tmp_path: Path, names: str) -> None:
    assert verdict(tmp_path, line(names, A), A, port=2200) is Verdict.ACCEPTED
    assert verdict(tmp_path, line(names, A), A, port=2201) is Verdict.UNKNOWN


def test_the_plain_name_may_vouch_for_another_port_but_not_contradict_it(tmp_path: Path) -> None:
    assert verdict(tmp_path, line("box", A), A, port=2200) is Verdict.ACCEPTED
    assert verdict(tmp_path, line("box", A), B, port=2200) is Verdict.UNKNOWN


def test_an_alias_is_looked_up_without_a_port() -> None:
    assert lookup_names("box", 2200, "The-Alias") == ("the-alias",)


def test_broken_lines_are_passed_over(tmp_path: Path) -> None:
    text = "box\nbox ssh-ed25519 ???\n|1|x|y ssh-ed25519 QUJD\n\n# c\n" + line("box", A)
    assert verdict(tmp_path, text, A) is Verdict.ACCEPTED


def test_known_types_are_asked_for_first_and_the_rest_keeps_its_order() -> None:
    supported = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")
    assert algorithms_for(["ssh-rsa"], supported) == (
        "rsa-sha2-512",
        "rsa-sha2-256",
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
    )


def test_a_changed_key_in_a_file_of_its_own_is_forgotten_there(tmp_path: Path) -> None:
    file = tmp_path / "my hosts"
    file.write_text(line("[box]:2200", A))
    place = destination(file, 2200)
    with pytest.raises(HostKeyRejected, match="has changed") as caught:
        check(B, expected_keys(place, None), place, pinned=False)
    assert f"`ssh-keygen -R '[box]:2200' -f '{file}'`" in caught.value.hint


def test_a_pinned_line_that_is_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostKeyRejected, match="no OpenSSH public key line"):
        expected_keys(destination(tmp_path), "ssh-ed25519")
