from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.base_model import (
    BuiltinBase,
    HubModel,
    LocalFolder,
    inspect_base,
    job_base,
    require_reading_token,
)
from orchestrator.errors import UsageError
from tests.fakes.hub import COMMIT, FakeHub, running_hub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(autouse=True)
def no_token_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)


def refusal(base: str, endpoint: str | None = None, token: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        inspect_base(base, endpoint=endpoint, token=token)
    text = f"{caught.value.message}\n\nhint: {caught.value.hint}\n"
    return text.replace(endpoint, "HUB") if endpoint else text


def diffusers_folder(folder: Path) -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "weights.safetensors").write_bytes(bytes(1000))
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    return folder


# ---- on this machine -----------------------------------------------------------------------------------------------


def test_the_tiny_base_is_built_in() -> None:
    base = inspect_base("builtin:tiny")
    assert base == BuiltinBase("tiny")
    assert job_base(base) == "builtin:tiny"


def test_an_unknown_builtin_names_the_known_ones(snapshot: Callable[[str, str], None]) -> None:
    snapshot("unknown_builtin", refusal("builtin:huge"))


def test_a_folder_is_listed_with_sizes_and_without_hidden_files(tmp_path: Path) -> None:
    base = inspect_base(str(diffusers_folder(tmp_path / "base")))
    assert isinstance(base, LocalFolder)
    assert [(file.path, file.bytes) for file in base.files] == [
        ("model_index.json", 2), ("unet/weights.safetensors", 1000),
    ]  # fmt: skip
    assert base.total_bytes == 1002


def test_a_folder_tells_how_long_a_picture_its_transformer_has_places_for(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "base")
    for name, config in {
        "transformer": {"pos_embed_max_size": 96, "patch_size": 2},
        "vae": {"block_out_channels": [128, 256, 512, 512]},
    }.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    base = inspect_base(str(folder))
    assert isinstance(base, LocalFolder)
    assert base.longest_side == 96 * 2 * 8


def test_a_base_tells_its_pipeline_from_its_index_or_through_the_hub(tmp_path: Path, hub: FakeHub) -> None:
    folder = diffusers_folder(tmp_path / "base")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    for found in (inspect_base(str(folder)), inspect_base("open/large", endpoint=hub.endpoint)):
        assert not isinstance(found, BuiltinBase)
        assert found.pipeline == "StableDiffusionXLPipeline"


def test_folders_are_told_apart_by_their_content(tmp_path: Path) -> None:
    one, two = diffusers_folder(tmp_path / "one"), diffusers_folder(tmp_path / "two")
    assert job_base(inspect_base(str(one))) == job_base(inspect_base(str(two)))
    weights = two / "unet" / "weights.safetensors"
    weights.write_bytes(b"\1" * weights.stat().st_size)
    assert job_base(inspect_base(str(one))) != job_base(inspect_base(str(two)))
    assert job_base(inspect_base(str(one))).startswith("folder:")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, snapshot: Callable[[str, str], None]) -> None:
    snapshot("folder_without_index", refusal(str(tmp_path)))


def test_a_missing_folder_is_refused(tmp_path: Path, snapshot: Callable[[str, str], None]) -> None:
    snapshot("missing_folder", refusal(str(tmp_path / "base")))


def test_what_is_no_name_at_all_is_refused(snapshot: Callable[[str, str], None]) -> None:
    snapshot("no_name", refusal("a photo of a dog"))


# ---- on the hub ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["open/diffusers", "open/diffusers@v1", f"open/diffusers@{COMMIT}"])
def test_a_hub_base_is_pinned_to_its_commit(hub: FakeHub, base: str) -> None:
    found = inspect_base(base, endpoint=hub.endpoint)
    assert found == HubModel("open/diffusers", COMMIT, pinned=True)
    assert job_base(found) == f"open/diffusers@{COMMIT}"


def test_the_endpoint_comes_from_the_environment(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint + "/")
    assert inspect_base("open/diffusers") == HubModel("open/diffusers", COMMIT, pinned=True)


def test_an_open_base_takes_one_request(hub: FakeHub) -> None:
    inspect_base("open/diffusers", endpoint=hub.endpoint)
    assert hub.asked == ["GET /api/models/open/diffusers/revision/main"]


def test_a_branch_name_with_a_slash_is_quoted(hub: FakeHub) -> None:
    assert 'no revision "refs/pr/1"' in refusal("open/diffusers@refs/pr/1", hub.endpoint)
    assert hub.asked == ["GET /api/models/open/diffusers/revision/refs%2Fpr%2F1"]


@pytest.mark.parametrize("token", [None, "good"])
def test_an_unknown_base_names_the_nearest_known_one(
    hub: FakeHub, token: str | None, snapshot: Callable[[str, str], None]
) -> None:
    text = refusal("stable-difusion-v1-5/stable-difusion-v1-5", hub.endpoint, token)
    snapshot(f"unknown_base_{'with' if token else 'without'}_token", text)


def test_an_unknown_revision_is_named(hub: FakeHub, snapshot: Callable[[str, str], None]) -> None:
    snapshot("unknown_revision", refusal("open/diffusers@v9", hub.endpoint))


def test_a_repository_without_a_pipeline_is_refused(hub: FakeHub, snapshot: Callable[[str, str], None]) -> None:
    snapshot("no_pipeline", refusal("open/words", hub.endpoint))


@pytest.mark.parametrize("token", [None, "stranger"])
def test_a_gated_base_says_how_to_get_in(hub: FakeHub, token: str | None, snapshot: Callable[[str, str], None]) -> None:
    snapshot(f"gated_{'refused' if token else 'without_token'}", refusal("gated/base", hub.endpoint, token))


def test_a_token_opens_gated_and_private_bases(hub: FakeHub) -> None:
    for repo in ("gated/base", "private/base"):
        assert inspect_base(repo, endpoint=hub.endpoint, token="good") == HubModel(
            repo, COMMIT, pinned=True, closed=True
        )


def test_a_hub_out_of_order_is_a_warning(hub: FakeHub) -> None:
    hub.broken = True
    found = inspect_base("open/diffusers@v1", endpoint=hub.endpoint)
    assert isinstance(found, HubModel)
    assert (found.pinned, job_base(found)) == (False, "open/diffusers@v1")
    assert "could not be checked" in found.warning
    assert "HTTP 503" in found.warning


def test_an_unreachable_hub_is_a_warning() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        found = inspect_base("open/diffusers", endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert isinstance(found, HubModel)
    assert (found.pinned, job_base(found)) == (False, "open/diffusers")
    assert "Connection refused" in found.warning


@pytest.mark.parametrize(
    ("base", "token", "closed"),
    [("open/diffusers", None, False), ("open/diffusers", "good", False), ("gated/base", "good", True),
     ("private/base", "good", True)],
)  # fmt: skip
def test_a_base_that_only_a_token_opens_is_known_as_closed(
    hub: FakeHub, base: str, token: str | None, closed: bool
) -> None:
    found = inspect_base(base, endpoint=hub.endpoint, token=token)
    assert isinstance(found, HubModel)
    assert found.closed is closed


@pytest.mark.parametrize(
    ("token", "said"), [("", "HF_TOKEN is not set"), ("stranger", "is not accepted"), ("writing", "may write")]
)
def test_a_token_that_cannot_travel_is_refused_before_anything_starts(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match=said) as caught:
        require_reading_token(endpoint=hub.endpoint)
    assert "settings/tokens" in caught.value.hint
    assert not token or token not in caught.value.message + caught.value.hint


def test_a_read_token_may_travel(hub: FakeHub) -> None:
    require_reading_token(endpoint=hub.endpoint, token="good")


def test_a_token_of_which_nobody_knows_what_it_may_do_stays_here(hub: FakeHub) -> None:
    with pytest.raises(UsageError, match="cannot be asked"):
        require_reading_token(endpoint="http://127.0.0.1:9", token="good", timeout_s=1)
    hub.broken = True
    with pytest.raises(UsageError, match="does not say"):
        require_reading_token(endpoint=hub.endpoint, token="good")
