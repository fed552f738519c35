from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-scripts",
        help="a folder with train_dreambooth.py and train_dreambooth_lora.py of huggingface/diffusers "
        "(examples/dreambooth), to be compared with",
    )
