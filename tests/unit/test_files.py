"""The files of a host as the laptop reads and writes them, and what is refused."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO

import pytest

from remote_trainer import files, wire
from remote_trainer.files import Range

MIB = 1 << 20


def test_reading_concatenates_the_ranges(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "b").write_bytes(b"abcdef")
    out = io.BytesIO()
    files.read(tmp_path, [Range("a", 7, None), Range("b", 0, None), Range("a", 2, 3)], out)
    assert out.getvalue() == b"789abcdef234"


def test_reading_outside_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(files.Refused, match="lies outside the folder"):
        files.read(tmp_path / "run", [Range("../secret", 0, None)], io.BytesIO())


class RemovesAtFirstByte(io.BytesIO):
    """A slow reader: while the first bytes are on their way, the folder is pruned."""

    def __init__(self, doomed: Path) -> None:
        super().__init__()
        self._doomed = doomed

    def write(self, data: object) -> int:
        shutil.rmtree(self._doomed, ignore_errors=True)
        return super().write(data)  # type: ignore[arg-type]


def test_a_checkpoint_pruned_while_it_is_read_arrives_whole(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-000010"
    folder.mkdir()
    names = ("a", "b", "c")
    for name in names:
        (folder / name).write_bytes(name.encode() * 3)
    out = RemovesAtFirstByte(folder)
    files.read(tmp_path, [Range(f"{folder.name}/{name}", 0, 3) for name in names], out)
    assert not folder.exists()
    assert out.getvalue() == b"aaabbbccc"


def test_more_files_than_a_login_may_open_are_read(tmp_path: Path) -> None:
    count = 2 * files.HANDLES_AT_ONCE + 1
    for number in range(count):
        (tmp_path / str(number)).write_bytes(b"x")
    out = io.BytesIO()
    files.read(tmp_path, [Range(str(number), 0, 1) for number in range(count)], out)
    assert out.getvalue() == b"x" * count


def entry(path: str, content: bytes) -> wire.FileEntry:
    return wire.FileEntry(path, len(content), hashlib.sha256(content).hexdigest())


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> BinaryIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def test_a_file_counts_as_present_only_with_equal_size_and_hash(tmp_path: Path) -> None:
    for name, content in (("same", b"1234"), ("other", b"1235"), ("longer", b"12345")):
        (tmp_path / name).write_bytes(content)
    wanted = [entry(name, b"1234") for name in ("same", "other", "longer", "absent")]
    assert files.have(tmp_path, wanted) == ["same"]


def test_accepted_files_stand_under_their_names_and_replace_older_ones(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"old")
    stream = tar((tarfile.TarInfo("photos/a.png"), b"new"), (tarfile.TarInfo("job.json"), b"{}"))
    assert files.accept(tmp_path, stream) == ([], [])
    assert (tmp_path / "photos" / "a.png").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "job.json", "photos"]


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "photos/../../outside", "."])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(files.Refused, match="lies outside the folder"):
        files.accept(tmp_path / "run", tar((tarfile.TarInfo(name), b"x")))
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(files.Refused, match="no plain file: link"):
        files.accept(tmp_path, tar((member, b"")))
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_breaks_leaves_no_file_under_its_name(tmp_path: Path) -> None:
    whole = tar((tarfile.TarInfo("weights"), b"x" * 100_000)).read()
    with pytest.raises(tarfile.ReadError):
        files.accept(tmp_path, io.BytesIO(whole[:50_000]))
    assert not (tmp_path / "weights").exists()


def test_a_file_that_ends_within_its_range_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x" * 10)
    with pytest.raises(files.Refused, match="weights is 6 bytes shorter than it was said to be"):
        files.read(tmp_path, [Range("weights", 4, 12)], io.BytesIO())


def test_a_whole_file_that_arrives_damaged_is_named_and_kept_from_its_name(tmp_path: Path) -> None:
    wrong, right = tarfile.TarInfo("wrong"), tarfile.TarInfo("right")
    for member in (wrong, right):
        member.pax_headers = {wire.TAR_SHA256: hashlib.sha256(b"12").hexdigest()}
    assert files.accept(tmp_path, tar((wrong, b"1x"), (right, b"12"))).damaged == ["wrong"]
    assert [path.name for path in tmp_path.iterdir()] == ["right"]


def test_whole_files_that_came_before_a_stream_broke_have_their_names(tmp_path: Path) -> None:
    whole = tar((tarfile.TarInfo("first"), b"1" * 100), (tarfile.TarInfo("second"), b"2" * 100_000)).read()
    with pytest.raises(tarfile.ReadError):
        files.accept(tmp_path, io.BytesIO(whole[:50_000]))
    assert (tmp_path / "first").read_bytes() == b"1" * 100
    assert not (tmp_path / "second").exists()


def a_range(path: str, offset: int, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(path)
    member.pax_headers = {wire.TAR_OFFSET: str(offset)}
    return member, content


def finished(root: Path, *entries: wire.FileEntry) -> list[bytes]:
    out = io.BytesIO()
    files.finish(root, entries, out)
    return out.getvalue().split()


def test_ranges_come_in_any_order_and_the_whole_gets_its_name_when_it_is_right(tmp_path: Path) -> None:
    wanted = entry("unet/weights", b"0123456789")
    files.accept(tmp_path, tar(a_range("unet/weights", 6, b"6789")))
    assert finished(tmp_path, wanted) == [b"false"]
    files.accept(tmp_path, tar(a_range("unet/weights", 0, b"012345")))
    assert not (tmp_path / "unet" / "weights").exists()
    assert finished(tmp_path, wanted) == [b"true"]
    assert (tmp_path / "unet" / "weights").read_bytes() == b"0123456789"
    assert finished(tmp_path, wanted) == [b"true"], "twice is safe"


def last_range(path: str, offset: int, content: bytes, whole: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member, content = a_range(path, offset, content)
    member.pax_headers[wire.TAR_SHA256] = hashlib.sha256(whole).hexdigest()
    return member, content


def test_a_file_whose_ranges_all_come_in_one_stream_and_in_order_needs_no_further_call(tmp_path: Path) -> None:
    (tmp_path / wire.partial_name("weights")).write_bytes(b"of an older and longer file")
    stream = tar(a_range("weights", 0, b"0123"), a_range("other", 0, b"x"), last_range("weights", 4, b"45", b"012345"))
    assert files.accept(tmp_path, stream) == ([], ["weights"])
    assert (tmp_path / "weights").read_bytes() == b"012345"


@pytest.mark.parametrize(
    "ranges",
    [
        pytest.param((a_range("weights", 0, b"0!23"), last_range("weights", 4, b"45", b"012345")), id="one is damaged"),
        pytest.param((last_range("weights", 4, b"45", b"012345"), a_range("weights", 0, b"0123")), id="the last first"),
        pytest.param((last_range("weights", 4, b"45", b"012345"),), id="the first came in another stream"),
        pytest.param((a_range("weights", 0, b"0123"), a_range("weights", 4, b"45")), id="nobody says its hash"),
    ],
)
def test_any_other_file_in_ranges_has_no_name_after_its_stream(
    tmp_path: Path, ranges: tuple[tuple[tarfile.TarInfo, bytes], ...]
) -> None:
    assert files.accept(tmp_path, tar(*ranges)) == ([], [])
    assert not (tmp_path / "weights").exists()


def test_a_partial_of_a_longer_file_of_the_same_name_is_cut(tmp_path: Path) -> None:
    files.accept(tmp_path, tar(a_range("weights", 0, b"0123-and more")))
    files.accept(tmp_path, tar(a_range("weights", 4, b"4567")))
    assert finished(tmp_path, entry("weights", b"01234567")) == [b"true"]
    assert (tmp_path / "weights").read_bytes() == b"01234567"


def test_a_host_without_room_says_so_before_it_takes_anything(tmp_path: Path) -> None:
    stream = tar((tarfile.TarInfo("weights"), b"x"))
    with pytest.raises(files.Refused, match=r"No space left on device: 1000000\.00 GB needed, \d+\.\d\d GB free in"):
        files.accept(tmp_path / "not" / "there", stream, needed_bytes=10**15)
    assert stream.tell() == 0
    assert list(tmp_path.iterdir()) == []


def test_each_chunk_has_its_hash_and_what_is_absent_has_none(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"aaaabbbbcc")
    out = io.BytesIO()
    files.digest(tmp_path, [Range("weights", 0, 10), Range("weights", 4, 8), Range("absent", 0, 4)], 4, out)
    a, b, c = (hashlib.sha256(part).hexdigest().encode() for part in (b"aaaa", b"bbbb", b"cc"))
    assert out.getvalue().split() == [a, b, c, b, b"-", b"-"]
