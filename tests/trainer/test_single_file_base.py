"""A base that is one file: fetched, unpacked once, and the same numbers as the folder it was made of."""

from __future__ import annotations

import hashlib
import pickle
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from remote_trainer.bases.fetch import fetch
from remote_trainer.bases.resolve import resolve_base
from remote_trainer.errors import TrainingFailed
from remote_trainer.export import single_file
from remote_trainer.families.detect import open_base
from tests.fakes.file_server import FileServer, running_file_server

WEIGHTS = bytes(range(256)) * 4000
LINK_END = f"/base.safetensors#sha256={hashlib.sha256(WEIGHTS).hexdigest()}"


@pytest.fixture
def site() -> Iterator[FileServer]:
    with running_file_server(FileServer({"base.safetensors": WEIGHTS})) as server:
        yield server


def named_tensors(folder: Path) -> dict[str, torch.Tensor]:
    family = open_base(str(folder))
    return single_file.tensors_of(family, family.load_denoiser(torch.device("cpu")))


def unheard(_line: str) -> None:
    return


# ---- unpacking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_becomes_the_folder_it_was_made_of(epsilon_base: Path, tmp_path: Path, suffix: str) -> None:
    file, whole = tmp_path / f"base{suffix}", named_tensors(epsilon_base)
    single_file.write(whole, file, 0)
    folder = resolve_base(str(file), tmp_path / "bases", str(epsilon_base))
    unpacked = named_tensors(Path(folder))
    assert unpacked.keys() == whole.keys()
    assert all(torch.equal(unpacked[name], tensor) for name, tensor in whole.items())


def test_it_is_unpacked_once(epsilon_base: Path, tmp_path: Path) -> None:
    """And what one that was killed has left of it is cleared away."""
    file = tmp_path / "base.safetensors"
    single_file.write(named_tensors(epsilon_base), file, 0)
    first = Path(resolve_base(str(file), tmp_path / "bases", str(epsilon_base)))
    first.rename(first.with_name(f"{first.name}.part"))
    first = Path(resolve_base(str(file), tmp_path / "bases", str(epsilon_base)))
    made_at = (first / "model_index.json").stat().st_mtime_ns
    assert Path(resolve_base(str(file), tmp_path / "bases", str(epsilon_base))) == first
    assert (first / "model_index.json").stat().st_mtime_ns == made_at
    assert list((tmp_path / "bases").glob("*-unpacked*")) == [first], "nothing unfinished is left"


def test_code_in_a_ckpt_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"state_dict": Bomb()}, tmp_path / "base.ckpt", pickle_module=pickle)
    with pytest.raises(TrainingFailed, match="cannot be read as tensors alone") as caught:
        resolve_base(str(tmp_path / "base.ckpt"), tmp_path / "bases")
    assert "safetensors" in caught.value.hint
    assert not (tmp_path / "exploded").exists()


def test_a_configuration_that_does_not_fit_is_named(epsilon_base: Path, tmp_path: Path) -> None:
    file = tmp_path / "base.safetensors"
    single_file.write(named_tensors(epsilon_base), file, 0)
    with pytest.raises(TrainingFailed, match="cannot be opened with") as caught:
        resolve_base(str(file), tmp_path / "bases", "builtin:tiny")
    assert "model.config" in caught.value.hint
    assert not list((tmp_path / "bases").glob("*-unpacked*"))


# ---- fetching --------------------------------------------------------------------------------------------------------


def test_a_cut_download_goes_on_where_it_was_cut(site: FileServer, tmp_path: Path) -> None:
    site.cuts = [300_000, 200_000]
    file = fetch(site.url + LINK_END, tmp_path, unheard)
    assert file.read_bytes() == WEIGHTS
    assert site.sent_bytes == len(WEIGHTS)


def test_a_server_without_ranges_begins_anew(site: FileServer, tmp_path: Path) -> None:
    site.cuts, site.ranges = [300_000], False
    assert fetch(site.url + LINK_END, tmp_path, unheard).read_bytes() == WEIGHTS


def test_a_whole_file_is_not_asked_for_again(site: FileServer, tmp_path: Path) -> None:
    first = fetch(site.url + LINK_END, tmp_path, unheard)
    site.status = 500
    assert fetch(site.url + LINK_END, tmp_path, unheard) == first


def test_another_file_at_the_address_is_not_believed(site: FileServer, tmp_path: Path) -> None:
    site.files["base.safetensors"] = WEIGHTS[::-1]
    with pytest.raises(TrainingFailed, match="has the hash"):
        fetch(site.url + LINK_END, tmp_path, unheard)
    assert not list(tmp_path.rglob("base.safetensors*"))


def test_what_a_crash_has_damaged_of_a_download_is_fetched_anew(site: FileServer, tmp_path: Path) -> None:
    site.cuts = [300_000]
    file = fetch(site.url + LINK_END, tmp_path, unheard)
    file.rename(file.with_name(f"{file.name}.part")).write_bytes(bytes(100_000))
    assert fetch(site.url + LINK_END, tmp_path, unheard).read_bytes() == WEIGHTS


def test_runs_that_want_the_same_file_at_once_fetch_it_once(site: FileServer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: fetch(site.url + LINK_END, tmp_path, unheard), range(4)))
    assert {file.read_bytes() for file in files} == {WEIGHTS}
    assert site.sent_bytes == len(WEIGHTS)


def test_a_site_that_is_busy_is_asked_again_after_pauses(site: FileServer, tmp_path: Path) -> None:
    site.status, pauses = 503, list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        site.status = 0 if len(pauses) == 3 else 503

    assert fetch(site.url + LINK_END, tmp_path, unheard, sleep).read_bytes() == WEIGHTS
    assert pauses == [2, 4, 8]


def test_a_site_that_stays_busy_is_given_up(site: FileServer, tmp_path: Path) -> None:
    site.status, pauses = 503, list[float]()
    with pytest.raises(TrainingFailed, match="HTTP 503"):
        fetch(site.url + LINK_END, tmp_path, unheard, pauses.append)
    assert pauses == [2, 4, 8, 16]


def test_a_download_that_gets_on_is_never_given_up(site: FileServer, tmp_path: Path) -> None:
    site.cuts = [50_000] * 15
    assert fetch(site.url + LINK_END, tmp_path, unheard).read_bytes() == WEIGHTS


def test_an_answer_that_breaks_off_in_its_own_form_is_asked_for_again(tmp_path: Path) -> None:
    """A piece that was announced as longer: what `http.client` raises then is no OSError."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(WEIGHTS) + WEIGHTS
    answers = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nabc", whole]
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            for answer in answers:
                with listening.accept()[0] as connection:
                    connection.recv(1 << 16)
                    connection.sendall(answer)

        served = pool.submit(serve)
        link = f"http://127.0.0.1:{listening.getsockname()[1]}{LINK_END}"
        assert fetch(link, tmp_path, unheard, lambda _: None).read_bytes() == WEIGHTS
        served.result(timeout=5)


def test_what_the_server_does_not_have_is_said_at_once(site: FileServer, tmp_path: Path) -> None:
    site.status = 404
    with pytest.raises(TrainingFailed, match="HTTP 404"):
        fetch(site.url + LINK_END, tmp_path, unheard)
