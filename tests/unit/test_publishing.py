"""Where a model goes and what is written there, decided without asking anybody."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.errors import UsageError
from orchestrator.finished_model import FinishedModel
from orchestrator.host import HostError
from orchestrator.publishing.cog_folder import cog_yaml, describe, push_commands, write_cog_folder
from orchestrator.publishing.lora_url import official_model, prediction_command
from orchestrator.publishing.targets import (
    CogTarget,
    HubTarget,
    LoraUrlTarget,
    ProgramTarget,
    StoreTarget,
    Target,
    parse_target,
)
from orchestrator.publishing.to_hub import card_for_hub, publish_to_hub, write_token
from orchestrator.publishing.to_programs import Placed, place, placements, require_program
from orchestrator.ssh.host import SshHost
from orchestrator.this_machine import LocalHost
from providers.api import SshAccess
from providers.errors import AuthRejected, Transient
from providers.secret import Secret

MODEL = FinishedModel(
    name="bot", folder=Path("models/bot"), base="black-forest-labs/FLUX.1-dev", base_config=None, kind="lora",
    path=Path("models/bot/bot.safetensors"), kohya=None, single_files=(), diffusers=None, prompt="a photo of sks robot",
    resolution=None, method="lora", hosted="",
)  # fmt: skip


def test_a_folder_beside_this_one_is_named_by_its_whole_path() -> None:
    beside = Path.cwd().parent / "models"
    assert parse_target("../models") == StoreTarget(beside.as_uri())
    assert parse_target("a1111:../models") == ProgramTarget("a1111", None, str(beside))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("s3://bucket/models", StoreTarget("s3://bucket/models")),
        ("/mnt/models", StoreTarget("file:///mnt/models")),
        ("hf", HubTarget("")),
        ("hf:me/bot", HubTarget("me/bot")),
        ("replicate:me/Bot", CogTarget("me/bot")),
        ("replicate-lora", LoraUrlTarget()),
        ("a1111:/opt/webui", ProgramTarget("a1111", None, "/opt/webui")),
        ("comfyui:me@gpu-box:ComfyUI", ProgramTarget("comfyui", "me@gpu-box", "ComfyUI")),
        ("comfyui:gpu-box:~/ComfyUI", ProgramTarget("comfyui", "gpu-box", "~/ComfyUI")),
    ],
)
def test_a_target_is_what_its_first_word_says(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["hf:me", "a1111", "comfyui:", "s3://", "ftp:there", "bucket"])
def test_a_target_that_cannot_be_understood_comes_with_the_forms_that_can(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(text)
    assert caught.value.hint


def test_a_bare_word_may_be_meant_as_a_folder() -> None:
    with pytest.raises(UsageError) as caught:
        parse_target("out")
    assert caught.value.hint.startswith("did you mean ./out?")


@pytest.mark.parametrize(
    ("program", "root", "adapter", "folder"),
    [
        ("a1111", "/opt/webui", True, "/opt/webui/models/Lora"),
        ("a1111", "/opt/webui/models/", False, "/opt/webui/models/Stable-diffusion"),
        ("comfyui", "ComfyUI", True, "ComfyUI/models/loras"),
        ("comfyui", "ComfyUI", False, "ComfyUI/models/checkpoints"),
    ],
)
def test_each_program_has_its_own_subfolders(program: str, root: str, adapter: bool, folder: str) -> None:
    target = ProgramTarget("a1111" if program == "a1111" else "comfyui", None, root)
    assert target.folder(adapter=adapter) == folder


def test_a_file_goes_over_ssh_whole_into_the_subfolder(ssh_access: SshAccess, tmp_path: Path) -> None:
    lora, root = tmp_path / "bot.safetensors", tmp_path / "ComfyUI"
    lora.write_bytes(b"weights" * 1000)
    (root / "models").mkdir(parents=True)
    model = FinishedModel(**{**vars(MODEL), "path": lora})
    host = SshHost(ssh_access)
    try:
        [placed] = placements(model, ProgramTarget("comfyui", "gpu-box", str(root)))
        there = place(host, "python3", placed)
    finally:
        host.close()
    assert there == str(root / "models" / "loras" / "bot.safetensors")
    assert Path(there).read_bytes() == lora.read_bytes()
    assert [path.name for path in (root / "models" / "loras").iterdir()] == ["bot.safetensors"]


def test_the_folder_of_a_program_must_be_one_before_anything_goes_there(tmp_path: Path) -> None:
    target = ProgramTarget("a1111", None, str(tmp_path / "webui"))
    with pytest.raises(UsageError, match="webui does not exist"):
        require_program(LocalHost(), sys.executable, target)
    (tmp_path / "webui").mkdir()
    with pytest.raises(UsageError, match="webui has no models/"):
        require_program(LocalHost(), sys.executable, target)
    (tmp_path / "webui" / "models").mkdir()
    require_program(LocalHost(), sys.executable, target)


def test_a_model_of_somebody_elses_is_not_replaced_and_the_same_one_may_go_twice(tmp_path: Path) -> None:
    lora, folder = tmp_path / "bot.safetensors", tmp_path / "ComfyUI" / "models" / "loras"
    lora.write_bytes(b"weights")
    folder.mkdir(parents=True)
    placed = Placed(lora, str(folder))
    assert place(LocalHost(), sys.executable, placed) == place(LocalHost(), sys.executable, placed)
    (folder / "bot.safetensors").write_bytes(b"another bot")
    with pytest.raises(HostError, match="another file of this name lies there"):
        place(LocalHost(), sys.executable, placed)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"bot.safetensors": b"another bot"}


def test_a_lora_of_a_hubs_base_is_served_with_that_base_fetched_while_the_image_is_built() -> None:
    described = describe(FinishedModel(**{**vars(MODEL), "base": "me/base@abc123"}))
    assert (described["kind"], described["base"], described["revision"]) == ("lora", "me/base", "abc123")
    assert described["guidance"] == MODEL.guidance
    config = yaml.safe_load(cog_yaml(described, "me/bot"))
    [run] = config["build"]["run"]
    assert "DiffusionPipeline.download('me/base', revision='abc123'" in run
    assert config["image"] == "r8.im/me/bot"


def test_a_lora_of_a_base_that_is_nowhere_to_be_fetched_cannot_be_served_alone() -> None:
    with pytest.raises(UsageError, match="is on no hub"):
        describe(FinishedModel(**{**vars(MODEL), "base": "/home/me/base"}))


def test_official_lora_models_are_named_for_the_bases_that_they_have() -> None:
    assert official_model(MODEL) == "black-forest-labs/flux-dev-lora"
    with pytest.raises(UsageError, match="run LoRAs of FLUX"):
        official_model(FinishedModel(**{**vars(MODEL), "base": "stabilityai/sdxl"}))


def test_the_command_carries_any_address_as_it_is_and_leaves_the_token_in_the_environment() -> None:
    address = "https://s3/bot?sig=1&x='$(id)"
    words = shlex.split(prediction_command("black-forest-labs/flux-dev-lora", address, MODEL))
    assert json.loads(words[words.index("-d") + 1])["input"]["lora_weights"] == address
    assert "Authorization: Bearer $REPLICATE_API_TOKEN" in words


def test_a_cog_folder_that_cannot_be_written_is_no_bug_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written: not a directory") as caught:
        write_cog_folder(MODEL, "me/bot", tmp_path / "file" / "bot-cog")
    assert "--to" in caught.value.hint


def test_the_commands_can_be_pasted_wherever_the_folder_lies() -> None:
    assert shlex.split(push_commands("me/bot", Path("/my models/bot-cog"))[0]) == ["cd", "/my models/bot-cog"]


CARD = "---\nbase_model: {base}\ninstance_prompt: 'x'\n---\n\n# bot\n"


def test_the_card_names_a_base_by_its_id_and_the_bases_license() -> None:
    card = card_for_hub(CARD.format(base="me/base@abc"), "me/base@abc", "openrail")
    assert card.splitlines()[:3] == ["---", "base_model: me/base", "license: openrail"]
    assert "base_model" not in card_for_hub(CARD.format(base="builtin:tiny"), "builtin:tiny", "")


def test_a_card_that_states_a_license_keeps_it() -> None:
    given = "---\nbase_model: me/base\nlicense: mit\n---\nbody"
    assert card_for_hub(given, "me/base", "openrail") == given


# ---- the hub's token and address -------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["hf_a b", "hf_a\nb", "hf_…"])
def test_a_token_that_no_header_can_carry_is_refused_here_and_not_repeated(token: str) -> None:
    with pytest.raises(AuthRejected, match="HF_TOKEN holds blanks") as caught:
        write_token({"HF_WRITE_TOKEN": "", "HF_TOKEN": token})
    assert token not in str(caught.value) + caught.value.hint


def test_without_a_token_that_may_write_nobody_is_asked() -> None:
    with pytest.raises(AuthRejected, match="HF_WRITE_TOKEN is not set"):
        write_token({})
    assert write_token({"HF_WRITE_TOKEN": " hf_a\n", "HF_TOKEN": "hf_b"}).reveal() == "hf_a"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "nonsense", "http://[::1"])
def test_a_hub_that_cannot_be_reached_is_no_bug_of_ours(endpoint: str) -> None:
    token = Secret("hf_a", "HF_WRITE_TOKEN")
    with pytest.raises(Transient, match="Hugging Face cannot be reached") as caught:
        publish_to_hub(MODEL, "me/bot", public=False, token=token, endpoint=endpoint, told=print)
    assert "HF_ENDPOINT" in caught.value.hint


def test_a_model_that_no_program_opens_comes_with_the_command_that_writes_one_that_they_do() -> None:
    whole = FinishedModel(**{**vars(MODEL), "kind": "diffusers", "path": Path("models/bot/diffusers")})
    with pytest.raises(UsageError, match="neither a LoRA nor a single file") as here:
        placements(whole, ProgramTarget("a1111", None, "/webui"))
    assert here.value.hint == ("cloudbooth export bot --format single-file --to /webui/models/Stable-diffusion/bot")
    with pytest.raises(UsageError) as elsewhere:
        placements(whole, ProgramTarget("comfyui", "me@gpu-box", "ComfyUI"))
    assert elsewhere.value.hint.endswith("then copy it to me@gpu-box:ComfyUI/models/checkpoints/bot")
