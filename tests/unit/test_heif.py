"""Photos as iPhones take them: read where the extra is installed, explained where it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image

from orchestrator.dataset.buckets import Bucket
from orchestrator.dataset.prepare import prepare_photo
from orchestrator.dataset.scan import scan_photo


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """160 × 96, red at the top left, blue elsewhere."""
    pillow_heif.register_heif_opener()
    picture = Image.new("RGB", (160, 96), (20, 40, 210))
    picture.paste((220, 30, 20), (0, 0, 80, 48))
    picture.save(tmp_path / "IMG_0001.HEIC", "HEIF", quality=95)
    return tmp_path / "IMG_0001.HEIC"


def test_a_photo_from_a_phone_is_usable_as_it_is(photo: Path) -> None:
    found, findings = scan_photo(photo)
    assert found is not None
    assert (found.width, found.height) == (160, 96)
    assert not [finding for finding in findings if finding.severity.value == "error"]


def test_it_is_shipped_upright_and_in_its_colors(photo: Path, tmp_path: Path) -> None:
    found, _ = scan_photo(photo)
    assert found is not None
    prepare_photo(found, Bucket(80, 48), tmp_path / "out.png")
    shipped = Image.open(tmp_path / "out.png")
    corner, middle = shipped.getpixel((10, 8)), shipped.getpixel((60, 40))
    assert isinstance(corner, tuple)
    assert isinstance(middle, tuple)
    assert corner[0] > 180 > 90 > corner[2]
    assert middle[2] > 180 > 90 > middle[0]


def test_a_cut_off_file_is_named_and_not_a_crash(photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:400])
    found, findings = scan_photo(photo)
    assert found is None
    assert findings


def test_without_the_extra_the_hint_names_it(photo: Path) -> None:
    program = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from pathlib import Path; from orchestrator.dataset.scan import scan_photo\n"
        f"photo, [finding] = scan_photo(Path({str(photo)!r}))\n"
        "assert photo is None; print(finding.message, finding.hint)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "is a HEIC photo" in done.stdout
    assert ".[heif]" in done.stdout
    assert "JPEG" in done.stdout
