"""What a run is trained on: the `[data]` section, and the one form in which all of its ways to name pictures end.

A folder of photos with class images, `[[data.sets]]`, `[[subject]]` and a SimpleTuner file all become `PictureSet`s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from orchestrator.spec_errors import RuleBroken
from remote_trainer.wire import Crop

GENERATE = re.compile(r"generate:([1-9][0-9]{0,5})")
NO_FOLDER = re.compile(r"none|generate[:= ]*\d*|generate:.*")
"""What `data.regularization` means by itself; a folder of such a name is written `./generate`."""
_NAMES_ITS_FOLDER = re.compile(r"Regularization-Images-([\w-]+?)(?:\.git)?/?$")
"""Of the repositories of class images that people share: pictures lie in a folder named as the repository ends."""
GIT_URL = re.compile(r"(https?|ssh|git|file)://|git@|.*\.git(#.*)?$")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Prompt = Annotated[str, Field(pattern=r"\S")]
Role = Literal["instance", "class"]
Captions = Literal["prompt", "textfile", "filename", "parquet", "generated"]
CAPTIONER = "florence-community/Florence-2-base-ft@0b03b6f15a4a211370fb204aee4e7dd48887ea37"
"""Florence-2 by Microsoft (arXiv 2311.06242; 0.23 billion parameters, MIT license), in transformers' own format."""
_PINNED = re.compile(r"/.+|[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*@[0-9a-f]{40}")


# ---- where pictures come from --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NoClassImages:
    """Training without prior preservation."""


@dataclass(frozen=True)
class PictureFolder:
    folder: Path


@dataclass(frozen=True)
class GeneratedClassImages:
    count: int


@dataclass(frozen=True)
class GitClassImages:
    """Fetched by the machine from a public repository."""

    url: str
    folder: str
    """Within the repository; empty: its top."""


PictureSource = NoClassImages | PictureFolder | GeneratedClassImages | GitClassImages


def picture_source(text: str) -> PictureSource:
    """Of `data.regularization` and `data.sets[].pictures`; a folder is given as an absolute path."""
    if text == "none":
        return NoClassImages()
    if generate := GENERATE.fullmatch(text):
        return GeneratedClassImages(int(generate[1]))
    if GIT_URL.match(text):
        url, _, folder = text.partition("#")
        named = _NAMES_ITS_FOLDER.search(url)
        return GitClassImages(url, folder.strip("/") or (named[1] if named else ""))
    return PictureFolder(Path(text))


def require_known_source(text: str, key: str) -> None:
    """Raises RuleBroken or ValueError for what is neither folder nor anything else that `picture_source` knows."""
    if text != "none" and NO_FOLDER.fullmatch(text) and not GENERATE.fullmatch(text):
        count = text.removeprefix("generate").strip(":= ")
        meant = f"generate:{count if re.fullmatch('[1-9][0-9]{0,5}', count) else 200}"
        raise RuleBroken(f'must name a count, is "{text}", did you mean "{meant}"', f"--set {key}={meant}")
    if not GIT_URL.match(text):
        return
    if not re.match(r"(https?|git|file)://", text):
        raise ValueError(f'"{text}" needs a key, and the machine has none of yours: give the https:// address')
    if re.match(r"\w+://[^/]*@", text):
        raise ValueError("an address with a name or password would travel to the machine: only public ones are read")
    if ".." in text.partition("#")[2].split("/"):
        raise ValueError(f'"{text}" names a folder outside the repository')


# ---- the section ---------------------------------------------------------------------------------------------------


_MOST = {"area": 4.0, "short-edge": 2048.0, "side": 2048.0}


class PictureSet(Section):
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """Names the set in the plan and its folder on the machine."""
    pictures: Annotated[str, Field(pattern=r"\S")]
    """Folder; for class images also what `data.regularization` takes."""
    subfolders: bool = False
    """Take the pictures of folders within the folder, too."""
    role: Role = "instance"
    """`instance` shows the subject, `class` others of its kind: their loss counts `train.prior_loss_weight`."""
    prompt: Prompt | None = None
    """For pictures without a caption; omitted: that of `[subject]` for the role."""
    captions: Captions = "textfile"
    """`prompt` for every picture; `name.txt` beside it; its file name; a column of a Parquet file; or `generated`: the
    prompt, then what `data.captioner` sees on the machine, where no `name.txt` is."""
    prepend_prompt: bool = False
    """Put the prompt before each caption."""
    parquet: Path | None = None
    """The file of `captions = "parquet"`."""
    parquet_file_column: str = "filename"
    """Names of the pictures, with or without their ending."""
    parquet_caption_column: str = "caption"
    """Their captions."""
    repeats: Annotated[int, Field(ge=0)] | None = None
    """Passes over the set in an epoch beyond the first; omitted: 0, and for class images as many as are drawn."""
    probability: Annotated[float, Field(gt=0)] = 1.0
    """How often the set is drawn, against the others of its batch."""
    ignore_epochs: bool | None = None
    """An epoch ends without waiting for this set; omitted: true for class images."""
    resolution: Annotated[float, Field(gt=0)] | None = None
    """In the unit of `resolution_type`; omitted: that of `[train]`."""
    resolution_type: Literal["side", "area", "short-edge"] = "side"
    """`side` in pixels of the square whose area all buckets share, `area` in megapixels, or `short-edge` in pixels."""
    min_size: Annotated[float, Field(gt=0)] | None = None
    """Smaller pictures are left out: megapixels with `area`, pixels of the shorter side otherwise."""
    square: bool | None = None
    """Crop to a square; omitted: as `train.aspect_buckets` says."""
    crop: Crop = "center"
    """What is taken of a picture larger than its bucket; `random`: one of four places at each visit."""
    mirror: bool = False
    """Half of the visits see the picture mirrored left to right."""
    mask: bool = False
    """What is transparent in a picture does not count in the loss."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        require_known_source(self.pictures, "data.sets[].pictures")
        if self.pictures == "none" or (self.role == "instance" and not isinstance(self.source, PictureFolder)):
            raise ValueError(f'"{self.pictures}" is no folder of photos of the subject')
        if (self.captions == "parquet") != (self.parquet is not None):
            raise ValueError('captions = "parquet" and the key parquet, its file, go together')
        if self.captions == "generated" and not isinstance(self.source, PictureFolder):
            raise ValueError('captions = "generated" is for a folder of pictures; others have the prompt')
        if self.resolution is None:
            if self.resolution_type != "side":
                raise ValueError("resolution_type without resolution means nothing")
        elif self.resolution_type == "side" and (self.resolution % 8 or not 64 <= self.resolution <= 2048):
            raise ValueError(f"resolution is a multiple of 8 pixels from 64 to 2048, is {self.resolution:g}")
        elif self.resolution > _MOST[self.resolution_type]:
            most = f"{_MOST[self.resolution_type]:g} {'megapixels' if self.resolution_type == 'area' else 'pixels'}"
            raise ValueError(f"resolution is at most {most}, is {self.resolution:g}")
        return self

    @property
    def source(self) -> PictureSource:
        return picture_source(self.pictures)

    @property
    def is_endless(self) -> bool:
        """Drawn as often as its share wants it."""
        return self.repeats is None and self.role == "class"

    @property
    def ignores_epochs(self) -> bool:
        return self.role == "class" if self.ignore_epochs is None else self.ignore_epochs


class Data(Section):
    instance: Path | None = None
    """Folder of photos; `name.txt` beside `name.jpg` is its caption. Either this, `sets` or `dataloader`."""
    captions: Literal["prompt", "textfile", "filename", "generated"] | None = None
    """Of `instance`, as in `sets`; omitted: `textfile`."""
    captioner: str = CAPTIONER
    """Writes `generated` captions: `owner/name@commit` of a Florence-2 or BLIP model on the hub, or an absolute folder
    on the machine."""
    regularization: str = "none"
    """`none`, `generate:N`, a folder or `https://REPOSITORY#FOLDER`; read it through `class_images`."""
    regularization_count: Annotated[int, Field(ge=1)] = 200
    """How many pictures of a git repository, at most; they are spread evenly over its folder."""
    dataloader: Path | None = None
    """A SimpleTuner `multidatabackend` file, which becomes `sets`; the plan prints how."""
    env: Path | None = None
    """A SimpleTuner env file, whose assignments become keys of `[train]` that the spec leaves open."""
    root: Path | None = None
    """Put before absolute folders in `dataloader`, for a file that was written for another machine."""
    min_area_mp: Annotated[float, Field(ge=0)] = 0.0
    """Megapixels: smaller areas in `dataloader` are raised to it; 1 is what SimpleTuner of April 2024 did."""
    keep_small: bool = False
    """Train pictures that `min_size` would leave out."""
    ship_originals: bool = False
    """Photos travel with their own pixels, without metadata, and the machine scales them."""
    sets: tuple[PictureSet, ...] = ()
    """Several sets of pictures, each with its own prompt, size and share."""

    @field_validator("regularization")
    @classmethod
    def _known_source(cls, value: str) -> str:
        require_known_source(value, "data.regularization")
        return value

    @field_validator("captioner")
    @classmethod
    def _pinned(cls, value: str) -> str:
        if not _PINNED.fullmatch(value):
            raise ValueError(
                f'"{value}" is neither `owner/name@` with a commit of 40 hex digits nor an absolute folder'
            )
        return value

    @model_validator(mode="after")
    def _one_way_to_name_photos(self) -> Self:
        if self.instance is None and not self.sets:
            photos = ("data.instance", "data.sets", "data.dataloader", "subject")
            raise RuleBroken("missing", key="data.instance", about=photos)
        if self.instance is not None and self.sets:
            raise ValueError("data.instance and several sets do not go together: give the folder as one of the sets")
        if self.captions is not None and self.sets:
            raise ValueError("data.captions is for data.instance: give each of the sets its own captions")
        ids = [each.id for each in self.sets]
        if double := next((name for name in ids if ids.count(name) > 1), None):
            raise ValueError(f'two of data.sets have the id "{double}"')
        if self.sets and not any(each.role == "instance" for each in self.sets):
            raise ValueError("none of data.sets shows the subject: all have the role class")
        return self

    @property
    def class_images(self) -> PictureSource:
        """What `regularization` names."""
        return picture_source(self.regularization)
