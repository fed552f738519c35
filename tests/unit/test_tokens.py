"""Rare tokens: a small tokenizer in CLIP's own file format, with embeddings written by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import cli
from orchestrator.errors import UsageError
from orchestrator.tokens.bpe import read_tokenizer
from orchestrator.tokens.embeddings import find_embeddings
from orchestrator.tokens.ranking import common_words, rare_tokens
from orchestrator.tokens.source import open_source
from orchestrator.tokens.words import is_listed, shipped_words

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["the", "photo", "dog", "sks", "zwx", "qvj", "kilt", "of", "ohwx"]
"""In the order in which they were merged."""


def merges_for(words: list[str]) -> list[tuple[str, str]]:
    """The merges, from left to right, that make each word one token."""
    merges: list[tuple[str, str]] = []
    for word in words:
        whole = word[0]
        for place, letter in enumerate(word[1:], 2):
            right = letter + ("</w>" if place == len(word) else "")
            if (whole, right) not in merges:
                merges.append((whole, right))
            whole += letter
    return merges


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder as diffusers writes it, as far as tokens go."""
    merges = merges_for(WORDS)
    vocabulary = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *(left + right for left, right in merges)]
    (tmp_path / "tokenizer").mkdir()
    ids = {token: id_ for id_, token in enumerate(vocabulary)}
    (tmp_path / "tokenizer/vocab.json").write_text(json.dumps(ids))
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    (tmp_path / "tokenizer/merges.txt").write_text("#version: 0.2\n" + lines)
    return tmp_path


def write_embeddings(base: Path, rows: dict[str, list[float]], dtype: str = "F32") -> None:
    """Rows of two numbers, by token; the others are (1, 0). Behind another tensor, as in a real file."""
    ids = json.loads((base / "tokenizer/vocab.json").read_text())
    letter = {"F32": "f", "F16": "e"}[dtype]
    packed = b"".join(struct.pack(f"<2{letter}", *rows.get(token, [1.0, 0.0])) for token in ids)
    header = {
        "__metadata__": {"format": "pt"},
        "text_model.final.bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "text_model.embeddings.token_embedding.weight": {
            "dtype": dtype, "shape": [len(ids), 2], "data_offsets": [4, 4 + len(packed)],
        },
    }  # fmt: skip
    raw = json.dumps(header).encode()
    (base / "text_encoder").mkdir(exist_ok=True)
    (base / "text_encoder/model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0" * 4 + packed)


def found(base: Path, **wishes: Any) -> list[str]:
    source = open_source(str(base), base / "cache", wants_embeddings=False, tell=lambda _: None)
    tokens = rare_tokens(source.tokenizer, is_listed, "a photo of {} dog", table=source.table, **wishes)
    return [token.word for token in tokens]


# ---- the tokenizer -------------------------------------------------------------------------------------------------


def test_a_known_word_is_one_token_and_an_unknown_one_is_cut(base: Path) -> None:
    tokenizer = read_tokenizer(base / "tokenizer")
    assert tokenizer.encode("photo of sks dog") == ["photo</w>", "of</w>", "sks</w>", "dog</w>"]
    assert tokenizer.encode("SKSS") == ["sk", "s", "s</w>"]


def test_a_tokenizer_in_one_file_is_the_same(base: Path, tmp_path: Path) -> None:
    two = read_tokenizer(base / "tokenizer")
    (tmp_path / "one").mkdir()
    model = {"vocab": dict(two.vocabulary), "merges": [list(pair) for pair in two.merges]}
    (tmp_path / "one/tokenizer.json").write_text(json.dumps({"model": model}))
    assert read_tokenizer(tmp_path / "one") == two


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no byte-pair tokenizer"):
        read_tokenizer(tmp_path)


# ---- ranking -------------------------------------------------------------------------------------------------------


def test_late_merges_come_first_and_words_never(base: Path) -> None:
    assert found(base) == ["ohwx", "qvj", "zwx", "sks"]


def test_length_and_count_are_kept_to(base: Path) -> None:
    assert found(base, letters=(3, 3)) == ["qvj", "zwx", "sks"]
    assert found(base, count=1) == ["ohwx"]


def test_short_and_distant_embeddings_win_over_late_ones(base: Path) -> None:
    """`sks` was merged first of the candidates, but training hardly moved it, and no common word lies near it."""
    rows = {"sks</w>": [-0.1, 0.0], "ohwx</w>": [5.0, 0.0], "zwx</w>": [4.0, 1.0], "qvj</w>": [6.0, 0.0]}
    write_embeddings(base, rows)
    assert found(base)[0] == "sks"


def test_each_token_comes_with_what_was_measured(base: Path) -> None:
    write_embeddings(base, {"sks</w>": [3.0, 4.0]})
    source = open_source(str(base), base, wants_embeddings=False, tell=lambda _: None)
    tokens = rare_tokens(source.tokenizer, is_listed, "{}", table=source.table)
    (sks,) = (token for token in tokens if token.word == "sks")
    assert (sks.norm, sks.nearest in ("the", "photo", "dog", "kilt")) == (5.0, True)
    assert sks.distance == pytest.approx(1 - 0.6)


def test_common_words_are_words_that_were_merged_early(base: Path) -> None:
    tokenizer = read_tokenizer(base / "tokenizer")
    assert [word for word, _ in common_words(tokenizer, is_listed, 2)] == ["the", "photo"]


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_rows_are_read_where_the_header_says(base: Path, dtype: str) -> None:
    write_embeddings(base, {"zwx</w>": [0.5, -2.0]}, dtype)
    table = find_embeddings(base / "text_encoder/model.safetensors")
    assert table is not None
    id_ = read_tokenizer(base / "tokenizer").vocabulary["zwx</w>"]
    assert table.rows([id_, 10_000]) == {id_: (0.5, -2.0)}


def test_a_torn_weights_file_is_refused(base: Path) -> None:
    (base / "text_encoder").mkdir()
    (base / "text_encoder/model.safetensors").write_bytes(struct.pack("<Q", 500) + b"{")
    with pytest.raises(UsageError, match="is no whole safetensors file"):
        found(base)


# ---- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["dog", "swaps", "spool", "hund", "perro", "chien", "kilt", "bowed"])
def test_words_of_several_languages_are_known(word: str) -> None:
    assert is_listed(word)


@pytest.mark.parametrize("token", ["sks", "zwx", "ohwx", "qvj"])
def test_what_nobody_says_is_no_word(token: str) -> None:
    assert not is_listed(token)


def test_the_list_holds_nothing_but_short_plain_words() -> None:
    assert all(word.isascii() and word.isalpha() and word.islower() and len(word) <= 5 for word in shipped_words())


# ---- the command ---------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["tokens", *arguments], standalone_mode=False)


def test_the_command_prints_a_line_for_each(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDBOOTH_HOME", str(tmp_path / "home"))
    lines = [json.loads(line) for line in run(str(base), "--json", "--count", "2").stdout.splitlines()]
    assert [line.get("word") for line in lines] == ["ohwx", "qvj", None]
    assert lines[-1]["prompt"] == "a photo of {} dog"
    shown = run(str(base), "--subject", "cat").stdout
    assert 'instance_prompt = "a photo of ohwx cat"' in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/folder"], "neither a folder nor a hub id"),
        (["builtin:tiny"], "neither a folder nor a hub id"),
        (["BASE", "--letters", "9"], "two numbers from 2 to 5"),
        (["BASE", "--prompt", "a dog"], "needs {} once"),
    ],
)
def test_what_makes_no_sense_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("CLOUDBOOTH_HOME", str(tmp_path / "home"))
    done = run(*(str(base) if argument == "BASE" else argument for argument in arguments))
    assert isinstance(done.exception, UsageError)
    assert message in done.exception.message


class TestHub:
    def test_only_tokenizer_and_embeddings_are_fetched(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: tuple[str, list[str]]
    ) -> None:
        write_embeddings(base, {"sks</w>": [-0.1, 0.0]})
        address, asked = served
        monkeypatch.setenv("HF_ENDPOINT", address)
        told: list[str] = []
        source = open_source("owner/base", tmp_path / "cache", wants_embeddings=True, tell=told.append)
        assert source.table is not None
        assert source.table.tokens == len(source.tokenizer.vocabulary)
        assert told[-1] == "fetching 0 MB of token embeddings"
        before = len(asked)
        again = open_source("owner/base", tmp_path / "cache", wants_embeddings=False, tell=told.append)
        assert (again.table, len(asked)) == (source.table, before)

    def test_a_base_that_is_not_there_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: tuple[str, list[str]]
    ) -> None:
        monkeypatch.setenv("HF_ENDPOINT", served[0] + "/nothing")
        with pytest.raises(UsageError, match=r"owner/base does not hand out vocab\.json \(HTTP 404\)"):
            open_source("owner/base", tmp_path, wants_embeddings=False, tell=lambda _: None)

    @pytest.fixture
    def served(self, base: Path) -> Any:
        """Address of a hub that has `base` as owner/base, with ranges; and the paths it was asked for."""
        import http.server
        import threading

        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                path = base / self.path.removeprefix("/owner/base/resolve/main/")
                if not self.path.startswith("/owner/base/") or not path.is_file():
                    self.send_error(404)
                    return
                content, span = path.read_bytes(), self.headers.get("Range")
                if span:
                    first, last = (int(part) for part in span.removeprefix("bytes=").split("-"))
                    content = content[first : last + 1]
                self.send_response(206 if span else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Nothing: the test's output is no log."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_base_that_ships_with_the_program_is_asked_and_has_no_rare_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDBOOTH_HOME", str(tmp_path / "home"))
    shown = run("builtin:toybox")
    assert shown.exit_code == 0
    assert '"sks", will do' in " ".join(shown.stdout.split())


def test_the_base_that_the_trainer_writes_has_its_rare_token_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_source("builtin:tiny", tmp_path, wants_embeddings=False, tell=lambda _: None)
    assert caught.value.hint.startswith('its rare token is "sks"')
