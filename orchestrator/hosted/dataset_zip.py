"""The data set of a hosted trainer: one flat zip of pictures, each with its caption beside it.

Equal pictures and captions give equal bytes: no times, no owners, one order, nothing compressed (pictures are already).
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from remote_trainer.wire import ImageSpec

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can name."""


def write_dataset_zip(folder: Path, images: Sequence[ImageSpec], instance_prompt: str, target: Path) -> int:
    """Writes `target` whole or not at all and returns its size. A picture without a caption gets the instance prompt.

    Raises OSError.
    """
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for image in sorted(images, key=lambda image: image.file):
            _add(archive, image.file, (folder / image.file).read_bytes())
            caption = image.caption or instance_prompt
            _add(archive, Path(image.file).with_suffix(".txt").name, caption.encode())
    part.replace(target)
    return target.stat().st_size


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # or the host's own system would be written down
    archive.writestr(entry, content)
