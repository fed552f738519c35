"""A model that describes pictures in a sentence or two: Florence-2 or BLIP, as transformers itself knows them.

No code of a repository is ever run and no pickle is read: a machine may be a stranger's, and so may a repository.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .errors import TrainingFailed
from .run_folder import is_disk_full

if TYPE_CHECKING:
    from PIL import Image

BATCH = {"cuda": 8, "cpu": 1}
"""Pictures at once."""
MAX_TOKENS = 64
"""Of a description. CLIP's window has 77, the rest is for the prompt; two sentences are 30 to 60."""
ASKED: dict[str, str | None] = {"florence2": "<DETAILED_CAPTION>", "blip": None}
"""What a model of each kind (`model_type`) is asked, beside the picture."""
_USELESS_BEGIN = re.compile(
    r"^(the|this) (image|picture|photo|photograph) (shows|depicts|features|is of|captures) (that )?"
    r"|^(there is|there are|a (photo|picture|photograph|close[- ]up) of) ",
    re.IGNORECASE,
)

Describe = Callable[[Sequence["Image.Image"]], list[str]]


class Captioner:
    """Loaded on entering, gone from memory on leaving: what comes after it needs the room."""

    def __init__(self, model: str, device: torch.device) -> None:
        """model: `hub id@revision`, downloaded where it is not on this host yet, or a folder here."""
        self._name, self._device = model, device
        self._model: Any = None
        self._processor: Any = None
        self._asked: str | None = None

    def __enter__(self) -> Captioner:
        """Blocks for the download. Raises TrainingFailed("captions") for a model that cannot be had or is of another
        kind than `ASKED`."""
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        name, revision = self._source()
        # Said, since transformers would otherwise ask whoever sits at the machine.
        options: dict[str, Any] = {"trust_remote_code": False} | ({"revision": revision} if revision else {})
        try:
            kind = AutoConfig.from_pretrained(name, **options).model_type
            if kind not in ASKED:
                message = f"{self._name} is of the kind {kind}, which cannot be asked for captions"
                raise TrainingFailed("captions", message, f"kinds that can: {', '.join(sorted(ASKED))}")
            self._asked = ASKED[kind]
            self._processor = AutoProcessor.from_pretrained(name, **options)
            model = AutoModelForImageTextToText.from_pretrained(
                name, use_safetensors=True, dtype=self._precision, **options
            )
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, OSError) and is_disk_full(error)):
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            hint = "set data.captioner to another, or write captions beside the photos and leave data.captions out"
            raise TrainingFailed("captions", f"the captioner {self._name} cannot be loaded: {reason}", hint) from error
        self._model = model.to(self._device).eval().requires_grad_(False)
        return self

    def __exit__(self, *_: object) -> None:
        self._model = self._processor = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def batch(self) -> int:
        return BATCH[self._device.type]

    @torch.no_grad()
    def describe(self, pictures: Sequence[Image.Image]) -> list[str]:
        """A description of each RGB picture, as `tidy` leaves it; greedy, so that equal pictures get equal words."""
        words = {} if self._asked is None else {"text": [self._asked] * len(pictures)}
        given = self._processor(images=list(pictures), return_tensors="pt", **words).to(self._device)
        if "pixel_values" in given:
            given["pixel_values"] = given["pixel_values"].to(self._precision)
        tokens = self._model.generate(**given, max_new_tokens=MAX_TOKENS, num_beams=1, do_sample=False)
        return [tidy(text) for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]

    @property
    def _precision(self) -> torch.dtype:
        return torch.bfloat16 if self._device.type == "cuda" else torch.float32

    def _source(self) -> tuple[str, str]:
        """Raises TrainingFailed("captions") for a folder that is not there."""
        if not Path(self._name).is_absolute():
            name, _, revision = self._name.partition("@")
            return name, revision
        if not (Path(self._name) / "config.json").is_file():
            message = f"there is no captioner in {self._name} on the host"
            raise TrainingFailed("captions", message, "data.captioner is a folder there, or `owner/name@commit`")
        return self._name, ""


def tidy(text: str) -> str:
    """One line that can stand behind a prompt and a comma: without "The image shows", and without the half sentence
    that the limit of tokens may have left at the end."""
    text = " ".join(text.split())
    ended = max(text.rfind(mark) for mark in ".!?")
    text = text[:ended] if ended > 0 else text
    begun = _USELESS_BEGIN.sub("", text)
    if begun and begun != text:
        begun = begun[0].lower() + begun[1:]
    return begun.strip(" ,.;:!?")
