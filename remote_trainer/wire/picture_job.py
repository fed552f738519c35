"""What a host has to know to make pictures with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Optional

from .codec import Bounds, Count, Positive

ModelKind = Literal["lora", "diffusers", "single-file"]
Sampler = Literal["ddim", "dpm++-2m", "dpm++-2m-karras", "euler", "euler-a", "heun", "lms", "pndm", "unipc"]


@dataclass(frozen=True)
class PictureJob:
    """What `sample` makes: pictures of one prompt at consecutive seeds. None leaves a value to the base's pipeline."""

    name: str
    """Of the model, for the pictures' metadata."""
    base: str
    """A diffusers folder on this host, a single file, a hub id or `builtin:NAME`."""
    model: str
    """Path on this host."""
    kind: ModelKind
    prompt: str
    negative: str = ""
    count: Positive = 4
    seed: Count = 42
    """Of the first picture; the next ones follow."""
    width: Optional[Annotated[int, Bounds(ge=64, le=4096, multiple_of=8)]] = None
    height: Optional[Annotated[int, Bounds(ge=64, le=4096, multiple_of=8)]] = None
    steps: Optional[Positive] = None
    guidance: Optional[Annotated[float, Bounds(ge=0)]] = None
    sampler: Optional[Sampler] = None
    """None: the base's own."""
    compare: bool = False
    """The base's pictures as well, beside those of the trained model."""
    base_config: Optional[str] = None
    """As `Job.base_config`."""
    allow_cpu: bool = True

    @property
    def needs_base(self) -> bool:
        """A whole model in diffusers' form opens by itself."""
        return self.compare or self.kind != "diffusers"
