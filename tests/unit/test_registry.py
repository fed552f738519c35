"""Providers are found by name; what is broken is named and harms nobody else.

The plug-ins here are real distributions: a folder on `sys.path` with a module and its dist-info.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from providers.errors import CloudboothError
from providers.installation import adding
from providers.local import LocalProvider
from providers.registry import ProviderContext, installed_providers, load_provider, unknown_provider

WORKING = "from providers.local import LocalProvider\n"


@pytest.fixture
def plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def install(folder: Path, package: str, name: str, value: str, source: str) -> None:
    (folder / f"{package}.py").write_text(source)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cloudbooth.providers]\n{name} = {value}\n")
    importlib.invalidate_caches()


def test_the_built_in_providers_are_installed() -> None:
    assert {"local", "runpod", "ssh"} <= set(installed_providers())


def test_a_provider_is_built_from_its_context(tmp_path: Path) -> None:
    assert isinstance(load_provider("local", ProviderContext(tmp_path, {})), LocalProvider)


def test_an_unknown_name_lists_the_installed_ones_and_hints_at_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CloudboothError, match=r"installed are .*local, .*ssh") as caught:
        load_provider("locla", ProviderContext(tmp_path, {}))
    assert caught.value.message.startswith('there is no provider "locla", did you mean local; ')
    assert caught.value.hint == "`--provider local`"


@pytest.mark.parametrize(
    ("made_by", "command"),
    [
        ("uv-receipt.toml", "uv tool install --force . --with PACKAGE"),
        ("pipx_metadata.json", "pipx inject cloudbooth PACKAGE"),
        ("pyvenv.cfg", "bin/python -m pip install PACKAGE"),
    ],
)
def test_a_plug_in_is_added_with_what_made_the_installation(made_by: str, command: str, tmp_path: Path) -> None:
    (tmp_path / made_by).touch()
    assert adding("PACKAGE", tmp_path).endswith(command)


def test_a_name_like_no_other_comes_with_the_way_to_add_a_plug_in() -> None:
    assert adding("PACKAGE") in unknown_provider("qqqqqq").hint


def test_an_installed_plug_in_is_found(plug_ins: Path) -> None:
    install(plug_ins, "acme_one", "acme", "acme_one:LocalProvider", WORKING)
    assert "acme" in installed_providers()
    assert load_provider("acme", ProviderContext(plug_ins, {}))


def test_a_plug_in_that_cannot_be_imported_is_named(plug_ins: Path) -> None:
    install(plug_ins, "acme_two", "acme", "acme_two:Provider", "import no_such_module\n")
    with pytest.raises(CloudboothError, match=r"'acme' of the package acme_two .*no_such_module") as caught:
        load_provider("acme", ProviderContext(plug_ins, {}))
    assert "acme_two" in caught.value.hint


def test_a_broken_plug_in_does_not_harm_the_others(plug_ins: Path) -> None:
    install(plug_ins, "acme_three", "acme", "acme_three:Provider", "raise RuntimeError\n")
    assert isinstance(load_provider("local", ProviderContext(plug_ins, {})), LocalProvider)


def test_a_plug_in_that_is_no_provider_is_named(plug_ins: Path) -> None:
    install(plug_ins, "acme_four", "acme", "acme_four:Provider", "class Provider:\n    def __init__(self, c): ...\n")
    with pytest.raises(CloudboothError, match="does not return a MachineProvider"):
        load_provider("acme", ProviderContext(plug_ins, {}))


def test_two_packages_with_one_name_are_both_named(plug_ins: Path) -> None:
    install(plug_ins, "acme_five", "acme", "acme_five:LocalProvider", WORKING)
    install(plug_ins, "acme_six", "acme", "acme_six:LocalProvider", WORKING)
    with pytest.raises(CloudboothError, match="acme_five, acme_six"):
        load_provider("acme", ProviderContext(plug_ins, {}))


def test_the_context_does_not_show_the_environment(tmp_path: Path) -> None:
    assert "very-secret" not in repr(ProviderContext(tmp_path, {"KEY": "very-secret"}))
