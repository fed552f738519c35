"""All photos of a set on one page with the verdict on each, as HTML or PNG; what the crop leaves out is dimmed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.checks import DatasetCheck, PhotoCheck, Verdict
from orchestrator.dataset.crops import Crop, kept_box
from orchestrator.dataset.faces import Face
from orchestrator.dataset.picture import UnreadablePicture, decode_rgb, open_picture, read_content, upright_size
from orchestrator.errors import UsageError
from orchestrator.whole_file import write_atomically

THUMBNAIL_PX = 320
CELL_PX, LINE_PX, MARGIN_PX, COLUMNS = 240, 20, 12, 4
"""Of the PNG."""
_COLORS = {Verdict.GOOD: "#1d7a46", Verdict.DOUBTFUL: "#9a6200", Verdict.BAD: "#b3261e"}


@dataclass(frozen=True)
class _Cell:
    check: PhotoCheck
    thumbnail: Image.Image | None
    uri: str

    @property
    def size(self) -> str:
        placed = self.check.placement
        if placed is None:
            return ""
        return f"{placed.photo.width}×{placed.photo.height}, trained at {placed.bucket}"


def write_contact_sheet(check: DatasetCheck, folder: Path, file: Path, crop: Crop) -> None:
    """One file that stands alone. Its suffix decides: `.html` or `.png`. Raises UsageError for another, and when it
    cannot be written; a photo that cannot be read any more has no picture.
    """
    if file.suffix.lower() not in (".html", ".png"):
        raise UsageError(f"a contact sheet is .html or .png, not {file.name}", f"--sheet {file.with_suffix('.html')}")
    cells = [_cell(photo, crop) for photo in check.photos]
    content = _png(cells) if file.suffix.lower() == ".png" else _html(check, folder, cells)
    try:
        write_atomically(file, content)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror or error}", "name another with --sheet") from None


def thumbnail(
    photo: Path, bucket: Bucket | None, crop: Crop, side_px: int, face: Face | None = None
) -> Image.Image | None:
    """Upright, RGB, `side_px` on the longer side at most, dimmed where `bucket` cuts it; None if it cannot be read."""
    try:
        with open_picture(read_content(photo)) as image:
            width, height = upright_size(image)
            scale = min(1.0, side_px / max(width, height))
            picture = decode_rgb(image, (max(1, round(width * scale)), max(1, round(height * scale))))
    except UnreadablePicture:
        return None
    if bucket is None:
        return picture
    box = kept_box(picture, bucket, crop, face)
    dimmed = ImageEnhance.Brightness(picture).enhance(0.35)
    dimmed.paste(picture.crop(box), box)
    return dimmed


def _cell(check: PhotoCheck, crop: Crop) -> _Cell:
    bucket = check.placement.bucket if check.placement else None
    picture = thumbnail(check.path, bucket, crop, THUMBNAIL_PX, check.faces[0] if check.faces else None)
    return _Cell(check, picture, "" if picture is None else _uri(picture))


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _html(check: DatasetCheck, folder: Path, cells: Sequence[_Cell]) -> bytes:
    counts = [(verdict.value, check.count(verdict)) for verdict in Verdict]
    page = _template().render(folder=folder.name or str(folder), cells=cells, check=check, counts=counts)
    return str(page).encode("utf-8", "replace")


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((files("orchestrator.dataset") / "contact_sheet.html").read_text("utf-8"))


def _png(cells: Sequence[_Cell]) -> bytes:
    font = ImageFont.load_default(14)
    columns = min(COLUMNS, max(1, len(cells)))
    rows = -(-len(cells) // columns)
    cell_height = CELL_PX + 3 * LINE_PX + MARGIN_PX
    size = (columns * (CELL_PX + MARGIN_PX) + MARGIN_PX, rows * cell_height + MARGIN_PX)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for index, cell in enumerate(cells):
        left = MARGIN_PX + index % columns * (CELL_PX + MARGIN_PX)
        top = MARGIN_PX + index // columns * cell_height
        if cell.thumbnail is not None:
            shown = cell.thumbnail.copy()
            shown.thumbnail((CELL_PX, CELL_PX))
            sheet.paste(shown, (left + (CELL_PX - shown.width) // 2, top + (CELL_PX - shown.height) // 2))
        verdict = cell.check.verdict
        told = ", ".join(reason.code for reason in cell.check.reasons)
        lines = (cell.check.path.name, cell.size, f"{verdict.value}{': ' if told else ''}{told}")
        for number, (line, color) in enumerate(zip(lines, ("black", "#555555", _COLORS[verdict]), strict=True)):
            draw.text((left, top + CELL_PX + number * LINE_PX), _fitting(line, font), color, font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _fitting(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    plain = line.replace("×", "x").encode("latin-1", "replace").decode("latin-1")  # the font has no other letters
    while plain and font.getlength(plain) > CELL_PX:
        plain = plain[:-2].rstrip(".") + "." if len(plain) > 2 else ""
    return plain
