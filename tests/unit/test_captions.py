"""What each picture of a set is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.dataset.captions import captioned
from orchestrator.dataset.scan import Photo, Scan
from orchestrator.errors import UsageError
from orchestrator.spec_data import PictureSet

SCAN = Scan(
    Path("/dog"),
    (
        Photo(Path("/dog/rex_on_a  beach.jpg"), 64, 64, "RGB", 1, "0", "beside it"),
        Photo(Path("/dog/0.jpg"), 64, 64, "RGB", 1, "1", None),
    ),
    (),
)


def captions(prompt: str = "sks dog", **settings: Any) -> list[str | None]:
    pictures = PictureSet(id="dog", pictures="/dog", **settings)
    return [photo.caption for photo in captioned(SCAN, pictures, prompt).photos]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("prompt", [None, None]), ("textfile", ["beside it", None]), ("filename", ["rex on a beach", "0"])],
)
def test_captions_come_from_where_the_set_says(kind: str, expected: list[str | None]) -> None:
    assert captions(captions=kind) == expected


def test_the_prompt_can_stand_before_each_caption() -> None:
    assert captions(captions="textfile", prepend_prompt=True) == ["sks dog beside it", None]


class TestParquet:
    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        pytest.importorskip("pyarrow")
        import pyarrow
        import pyarrow.parquet

        columns = {"filename": ["0.jpg", "rex_on_a  beach"], "text": ["a dog\nasleep", None], "n": [1, 2]}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "captions.parquet")
        return tmp_path / "captions.parquet"

    def test_a_column_captions_by_file_name(self, table: Path) -> None:
        assert captions(captions="parquet", parquet=table, parquet_caption_column="text") == [None, "a dog asleep"]

    def test_pictures_it_does_not_know_are_counted(self, table: Path) -> None:
        pictures = PictureSet(
            id="dog", pictures="/dog", captions="parquet", parquet=table, parquet_caption_column="text"
        )
        (finding,) = captioned(SCAN, pictures, "sks dog").findings
        assert finding.message == "has no caption for 1 of 2 pictures: they use the prompt"

    def test_a_missing_column_is_named_with_those_there_are(self, table: Path) -> None:
        with pytest.raises(UsageError) as error:
            captions(captions="parquet", parquet=table)
        assert "no column `caption`" in error.value.message
        assert error.value.hint == "it has filename, text, n"

    def test_what_is_no_parquet_is_refused(self, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow")
        (tmp_path / "x.parquet").write_text("no")
        with pytest.raises(UsageError, match="cannot be read as Parquet"):
            captions(captions="parquet", parquet=tmp_path / "x.parquet")
