from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-scripts",
        help="a folder with train_dreambooth.py and train_dreambooth_lora.py of huggingface/diffusers "
        "(examples/dreambooth), to be compared with",
    )


@pytest.fixture
def ram() -> Iterator[Path]:
    """A folder in memory where that is possible: disks are not what is measured."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)
