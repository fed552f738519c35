"""Pictures side by side on one sheet: columns with captions, rows with the prompts that they were drawn for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_GAP, _CAPTION = 4, 14
_LABEL_SIDES, _LABEL_MIN_PX = 0.75, 128
"""Width of a label, in widths of a picture, and at least."""
_TEXT_SHARE, _TEXT_MIN_PX = 1 / 28, 12
"""Height of a label's letters, in heights of a picture, and at least."""
_SHOWN_MIN_PX = 192
"""Smaller pictures are shown larger beside labels, as a whole multiple and with every pixel as it is."""


def grid(rows: Sequence[Sequence[Path]], columns: Sequence[str], labels: Sequence[str] = ()) -> Any:
    """A PIL image of equally sized pictures with a caption over each column; a row may be shorter than the first.

    labels: one for each row, which then stands to the left of it in as many lines as there is room for.
    """
    from PIL import Image, ImageDraw, ImageFont

    pictures = [[Image.open(path).convert("RGB") for path in row] for row in rows]
    width, height = pictures[0][0].size
    if labels:
        factor = max(1, _SHOWN_MIN_PX // max(width, height))
        width, height = width * factor, height * factor
    text_px = max(_TEXT_MIN_PX, int(height * _TEXT_SHARE))
    margin = max(_LABEL_MIN_PX, int(width * _LABEL_SIDES)) + _GAP if labels else 0
    canvas = Image.new(
        "RGB", (margin + (width + _GAP) * len(columns) + _GAP, (height + _GAP) * len(rows) + _GAP + _CAPTION), "white"
    )
    pen = ImageDraw.Draw(canvas)
    for column, caption in enumerate(columns):
        left = margin + _GAP + column * (width + _GAP)
        pen.text((left, 2), caption, fill="black")
        for row in range(len(rows)):
            if column < len(rows[row]):
                shown = pictures[row][column].resize((width, height), Image.Resampling.NEAREST)
                canvas.paste(shown, (left, _CAPTION + _GAP + row * (height + _GAP)))
    font: Any = ImageFont.load_default(text_px)
    for row, label in enumerate(labels):
        lines = _wrapped(_drawable(label, font), font, margin - 2 * _GAP, height // (text_px + _GAP))
        top = _CAPTION + _GAP + row * (height + _GAP)
        pen.multiline_text((_GAP, top), "\n".join(lines), fill="black", font=font, spacing=_GAP)
    return canvas


def _drawable(text: str, font: Any) -> str:
    """Pillow without FreeType has one font, of Latin-1, and raises for all else."""
    from PIL import ImageFont

    return text if isinstance(font, ImageFont.FreeTypeFont) else text.encode("latin-1", "replace").decode("latin-1")


def _wrapped(text: str, font: Any, width: float, most: int) -> list[str]:
    """At most `most` lines no wider than `width`; a word that is wider is broken, and what is left out shows as …"""
    lines, line = list[str](), ""
    for word in text.split():
        if line and font.getlength(f"{line} {word}") > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        while font.getlength(line) > width and len(line) > 1:
            fits = next(count for count in range(1, len(line)) if font.getlength(line[: count + 1]) > width)
            lines.append(line[:fits])
            line = line[fits:]
        if len(lines) > most:  # none of the rest will be seen
            break
    lines.append(line)
    return lines if len(lines) <= most else [*lines[: most - 1], "…"]
