"""What `generate` asks a trainer for, decided without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click import BadParameter
from click.testing import CliRunner

from orchestrator.base_model import LocalFolder, inspect_base
from orchestrator.cli.generate import base_on, guidance_of, rental_wish
from orchestrator.cli.main import cli
from orchestrator.errors import UsageError
from orchestrator.picture_run import RentalWish
from orchestrator.spec_file import spec_from_photos
from providers.api import Market, SshAccess, ThisMachine
from remote_trainer.wire import PictureJob
from tests.e2e.command import PHOTOS

LORA = PictureJob("bot", "builtin:toybox", "/models/bot.safetensors", "lora", "a dog")
HERE, RENTED = ThisMachine(workdir="/state/host", python="python3"), SshAccess("gpu-box")


def test_a_base_that_ships_with_the_program_is_opened_where_it_lies_since_the_code_travels_without_it() -> None:
    assert (Path(base_on(HERE, LORA, "")) / "model_index.json").is_file()


def test_a_machine_has_a_shipped_base_where_its_run_put_it() -> None:
    base = inspect_base(LORA.base)
    assert isinstance(base, LocalFolder)
    assert base_on(RENTED, LORA, "/workspace") == f"/workspace/bases/{base.content_sha256[:12]}"


def test_other_bases_are_the_trainers_to_find() -> None:
    for name in ("builtin:tiny", "me/base@abc123"):
        assert base_on(RENTED, replace(LORA, base=name), "/workspace") == name


def test_a_base_of_this_computer_matters_on_a_machine_only_where_it_is_opened() -> None:
    whole = replace(LORA, base="/home/me/base", model="/models/diffusers", kind="diffusers")
    assert base_on(RENTED, whole, "/workspace") == "/home/me/base"
    with pytest.raises(UsageError, match="under another name"):
        base_on(RENTED, replace(whole, compare=True), "/workspace")


def test_pictures_have_the_guidance_that_the_runs_spec_states_unless_another_is_asked_for() -> None:
    spec = spec_from_photos(PHOTOS, "sks robot", ("train.validation_guidance_scale=1.0",))
    assert guidance_of(None, spec) == 1.0
    assert guidance_of(0.0, spec) == 0.0
    assert guidance_of(None, spec_from_photos(PHOTOS, "sks robot")) is None


def test_whoever_describes_a_machine_wants_one_to_be_rented() -> None:
    assert rental_wish("auto", "vast", (), False, None, None) == RentalWish("vast")
    assert rental_wish("auto", None, ("A100",), True, 0.4, 2.0) == RentalWish(None, ("A100",), Market.SPOT, 0.4, 2.0)
    assert rental_wish("rented", None, (), False, None, None) == RentalWish()
    assert rental_wish("auto", None, (), False, None, None) is None


def test_a_machine_to_be_rented_goes_with_no_other_place() -> None:
    with pytest.raises(UsageError, match="--gpu is for a machine to be rented, not for --where here"):
        rental_wish("here", None, ("A100",), False, None, None)


@pytest.mark.parametrize("amount", ["0", "-1", "nan", "inf"])
def test_a_ceiling_that_bounds_nothing_or_all_is_refused_before_anything_is_looked_up(amount: str) -> None:
    for flag in ("--max-cost", "--max-price"):
        refused = CliRunner().invoke(cli, ["generate", "dog", "a dog", flag, amount], standalone_mode=False)
        assert isinstance(refused.exception, BadParameter), refused.exception
