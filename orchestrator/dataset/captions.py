"""What each picture of a set is called: its prompt, a text file beside it, its file name, or a column of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from orchestrator.dataset.scan import Finding, Photo, Scan, Severity
from orchestrator.errors import UsageError
from orchestrator.spec_data import PictureSet
from providers.installation import installing

PARQUET_HINT = f"in the checkout: {installing('parquet')}; or write captions as `name.txt` beside the pictures"


def captioned(scan: Scan, pictures: PictureSet, prompt: str) -> Scan:
    """The scan with the captions that the set asks for; None stands for the prompt.

    `scan` has the text files' captions. Raises UsageError for a Parquet file that cannot be read.
    """
    findings = scan.findings
    caption: Callable[[Photo], str | None]
    kind = pictures.captions
    if kind == "prompt":
        caption = _none
    elif kind == "textfile" or kind == "generated":  # what is missing then, the machine writes
        caption = _beside_it
    elif kind == "filename":
        caption = _file_name
    elif kind == "parquet":
        if pictures.parquet is None:
            raise UsageError(f"set `{pictures.id}` names no Parquet file")
        table = parquet_captions(pictures.parquet, pictures.parquet_file_column, pictures.parquet_caption_column)

        def caption(photo: Photo) -> str | None:
            return table.get(photo.path.name) or table.get(photo.path.stem)

        if missing := [photo for photo in scan.photos if caption(photo) is None]:
            message = f"has no caption for {len(missing)} of {len(scan.photos)} pictures: they use the prompt"
            findings = (*findings, Finding(Severity.WARNING, pictures.parquet, message))
    else:
        assert_never(kind)
    photos = tuple(replace(photo, caption=_whole(caption(photo), pictures, prompt)) for photo in scan.photos)
    return replace(scan, photos=photos, findings=findings)


def parquet_captions(path: Path, file_column: str, caption_column: str) -> Mapping[str, str]:
    """File name → caption. Reads two columns; needs the extra `parquet`.

    Raises UsageError when pyarrow is missing, and for a file or column that is not there.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f"{path} is a Parquet file, which cannot be read without pyarrow", PARQUET_HINT) from None
    try:
        there = pyarrow.parquet.read_schema(path).names
        for column in (file_column, caption_column):
            if column not in there:
                raise UsageError(f"{path} has no column `{column}`", f"it has {', '.join(there)}")
        table = pyarrow.parquet.read_table(path, columns=[file_column, caption_column])
    except FileNotFoundError:
        raise UsageError(f"there is no caption file {path}") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    rows = zip(table.column(file_column).to_pylist(), table.column(caption_column).to_pylist(), strict=True)
    return {Path(str(name)).name: " ".join(str(text).split()) for name, text in rows if name and text}


def _none(_photo: Photo) -> str | None:
    return None


def _beside_it(photo: Photo) -> str | None:
    return photo.caption


def _file_name(photo: Photo) -> str | None:
    return " ".join(photo.path.stem.replace("_", " ").split()) or None


def _whole(caption: str | None, pictures: PictureSet, prompt: str) -> str | None:
    if not caption or not pictures.prepend_prompt or not prompt:
        return caption
    if pictures.captions == "generated" and caption.startswith(prompt):  # as an earlier run wrote it
        return caption
    return f"{prompt} {caption}"
