"""SimpleTuner's dataloader file (`multidatabackend.json`), as it is, as sets of pictures.

Pure but for `read_dataloader`. Meanings are those of the April 2024 version that people copy their files from, but for
`resolution`, whose formula is today's (`buckets.area_bucket`); `data.min_area_mp = 1` brings the old one back.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.dataset.buckets import Sizing
from orchestrator.dataset.translation import Translation, shown
from orchestrator.errors import UsageError

Entry = dict[str, Any]

_CAPTIONS = {"instanceprompt": "prompt", "textfile": "textfile", "filename": "filename", "parquet": "parquet"}
_CROPS = {"random": "random", "center": "center", "centre": "center", "corner": "corner"}
_KEPT_IN_MEMORY = "latents and prompts are encoded once per run and kept in memory"
_OWN_WAY = "how files are read and written is this program's own affair"
_IGNORED = {
    "cache_dir_vae": _KEPT_IN_MEMORY,
    "cache_dir": _KEPT_IN_MEMORY,
    "text_embeds": _KEPT_IN_MEMORY,
    "image_embeds": _KEPT_IN_MEMORY,
    "vae_cache_clear_each_epoch": _KEPT_IN_MEMORY,
    "vae_cache_disable": _KEPT_IN_MEMORY,
    "vae_cache_ondemand": _KEPT_IN_MEMORY,
    "preserve_data_backend_cache": _KEPT_IN_MEMORY,
    "write_batch_size": _OWN_WAY,
    "read_batch_size": _OWN_WAY,
    "vae_batch_size": _OWN_WAY,
    "image_processing_batch_size": _OWN_WAY,
    "max_workers": _OWN_WAY,
    "hash_filenames": _OWN_WAY,
    "skip_file_discovery": _OWN_WAY,
    "cache_file_suffix": _OWN_WAY,
    "metadata_backend": _OWN_WAY,
    "compress_cache": _OWN_WAY,
    "scan_for_errors": "every picture is read to its end before anything starts",
    "delete_problematic_images": "nothing of yours is ever deleted; what cannot be read is named",
    "delete_unwanted_images": "nothing of yours is ever deleted; what is too small is named",
    "default": "there is one place for prompts",
}
_NEEDS_NO_FOLDER = {
    "text_embeds": "prompts are encoded once and kept in memory: it needs no folder",
    "image_embeds": "latents are encoded once and kept in memory: it needs no folder",
}


def read_dataloader(path: Path) -> list[Entry]:
    """Raises UsageError, with the line, for what is no list of objects."""
    try:
        raw = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"there is no dataloader file {path}", "check data.dataloader") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg[:1].lower()}{error.msg[1:]}", _SHAPE) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, list) or not all(isinstance(entry, dict) for entry in raw):
        raise UsageError(f"{path} is not a list of datasets", _SHAPE)
    return raw


_SHAPE = "a dataloader file is a JSON list of objects in braces, as SimpleTuner's documentation shows it"


def translate_dataloader(
    entries: Sequence[Entry],
    path: Path,
    *,
    root: Path | None = None,
    min_area_mp: float = 0.0,
    default_size: tuple[float, str] | None = None,
) -> Translation:
    """`path` names the file in errors, and its folder is where relative ones begin. root: put before absolute ones.
    default_size: resolution and its type where an entry has none, from the env file.

    Raises UsageError for an entry that cannot be trained from, and when none shows a subject.
    """
    result = Translation()
    pictures = [entry for entry in entries if _is_used(entry, path, result)]
    has_epochs = any(not entry.get("ignore_epochs") for entry in pictures)
    for entry in pictures:
        reader = _Reader(entry, path, result, root, min_area_mp)
        result.sets.append(reader.read(is_class=_is_class(entry, has_epochs), default_size=default_size))
    subjects = [each for each in result.sets if each["role"] == "instance"]
    if not subjects:
        raise UsageError(f"{path} has no dataset that shows a subject", "give one without `ignore_epochs`")
    if len(subjects) < len(result.sets):
        result.train["prior_sampling"] = "mixed"
        why = "as SimpleTuner does: each batch comes from one dataset, drawn by probability"
        result.say(path.name, "regularization", "", 'train.prior_sampling = "mixed"', why)
    return result


def _is_class(entry: Entry, has_epochs: bool) -> bool:
    marked = any(entry.get(key) for key in ("is_regularisation_data", "is_regularization_data"))
    return bool(marked or (entry.get("ignore_epochs") and has_epochs))


def _is_used(entry: Entry, path: Path, result: Translation) -> bool:
    """Says why not. Raises UsageError for an entry without an id, or of a kind that is not for training pictures."""
    name = entry.get("id")
    if not isinstance(name, str) or not name:
        raise UsageError(f"{path} has a dataset without an id", 'give it a name: "id": "subject"')
    kind = entry.get("dataset_type", "image")
    for key in ("disabled", "disable"):
        if entry.get(key) in (True, "true"):
            result.ignore(name, key, entry[key], "the whole dataset is left out")
            return False
    if kind in _NEEDS_NO_FOLDER:
        result.ignore(name, "dataset_type", kind, _NEEDS_NO_FOLDER[kind])
        return False
    if kind != "image":
        raise UsageError(f"{path}: dataset `{name}` is of the type {kind}", '`"disabled": true` leaves it out')
    if entry.get("type", "local") != "local":
        hint = 'copy the pictures into a folder and make it "type": "local", or leave it out with "disabled": true'
        raise UsageError(f"{path}: dataset `{name}` lies in `{entry['type']}`, which is not read", hint)
    if entry.get("probability") == 0:
        result.ignore(name, "probability", 0, "it is never drawn: the whole dataset is left out")
        return False
    return True


class _Reader:
    """One dataset: its keys, in their order."""

    def __init__(self, entry: Entry, path: Path, result: Translation, root: Path | None, min_area_mp: float) -> None:
        self._entry, self._path, self._result = entry, path, result
        self._root, self._min_area_mp = root, min_area_mp
        self._name = str(entry["id"])
        self._set: Entry = {}

    def read(self, *, is_class: bool, default_size: tuple[float, str] | None) -> Entry:
        self._set = {"id": re.sub(r"[^A-Za-z0-9._-]+", "-", self._name).strip("-._")[:63] or "set"}
        for key, value in self._entry.items():
            self._take(key, value)
        self._take_folder()
        self._take_captions()
        self._take_size(default_size)
        self._take_crop()
        self._set["role"] = "class" if is_class else "instance"
        marked = self._entry.get("is_regularisation_data") or self._entry.get("is_regularization_data")
        why = "is_regularisation_data" if marked else "ignore_epochs" if is_class else ""
        if is_class:
            self._say("role", "", "", f'role = "class": its loss counts train.prior_loss_weight ({why})')
        return self._set

    def _say(self, key: str, value: object, why: str, became: str) -> None:
        self._result.say(self._name, key, value, became, why)

    def _take(self, key: str, value: Any) -> None:
        """Keys that stand by themselves; those that belong together are taken after them."""
        if key == "repeats":
            self._set["repeats"] = repeats = self._number(key, value, whole=True)
            self._say(key, value, "", f"repeats = {repeats:g}: {repeats + 1:g} passes in an epoch, the first included")
        elif key == "probability":
            self._set["probability"] = self._number(key, value)
            self._say(key, value, "", f"probability = {value:g}")
        elif key == "ignore_epochs":
            self._set["ignore_epochs"] = bool(value)
            self._say(key, value, "", f"ignore_epochs = {shown(bool(value))}")
        elif key in _IGNORED:
            self._result.ignore(self._name, key, value, _IGNORED[key])
        elif key in ("maximum_image_size", "target_downsample_size"):
            if not {"maximum_image_size", "target_downsample_size"} <= self._entry.keys():
                raise self._error("maximum_image_size and target_downsample_size go together")
            self._result.ignore(self._name, key, value, "pictures are scaled to just cover their bucket, then cropped")
        elif key not in _TAKEN_TOGETHER:
            self._result.ignore(self._name, key, value, "this program knows no such key", warned=True)

    def _take_folder(self) -> None:
        given = self._entry.get("instance_data_dir") or self._entry.get("instance_data_root")
        if not isinstance(given, str):
            raise self._error("names no folder", '"instance_data_dir": "/folder/of/pictures"')
        folder = Path(given).expanduser()
        if folder.is_absolute() and self._root is not None:
            folder = self._root / folder.relative_to(folder.anchor)
        self._set |= {"pictures": os.path.normpath(self._path.parent / folder), "subfolders": True}
        self._say("instance_data_dir", given, "", f"pictures = {self._set['pictures']}")

    def _take_captions(self) -> None:
        strategy = self._entry.get("caption_strategy", "filename")
        if strategy not in _CAPTIONS:
            known = ", ".join(_CAPTIONS)
            raise self._error(f'has the caption_strategy "{strategy}", which is not read', f"known are {known}")
        prompt = self._entry.get("instance_prompt")
        if strategy == "instanceprompt" and not prompt:
            raise self._error("takes captions from its instance_prompt and has none", '"instance_prompt": "a sks dog"')
        if self._entry.get("only_instance_prompt"):
            strategy = "instanceprompt"
        self._set["captions"] = _CAPTIONS[strategy]
        why = "" if "caption_strategy" in self._entry else "SimpleTuner's default"
        self._say("caption_strategy", strategy, why, f'captions = "{_CAPTIONS[strategy]}"')
        if prompt:
            self._set["prompt"] = str(prompt)
            self._say("instance_prompt", prompt, "", f'prompt = "{prompt}"')
        if self._entry.get("prepend_instance_prompt"):
            self._set["prepend_prompt"] = True
            self._say("prepend_instance_prompt", True, "", "prepend_prompt = true")
        if strategy == "parquet":
            self._take_parquet()

    def _take_parquet(self) -> None:
        table = self._entry.get("parquet")
        if not isinstance(table, dict) or not isinstance(table.get("path"), str):
            raise self._error(
                "takes captions from Parquet and names no file", '"parquet": {"path": "captions.parquet"}'
            )
        path = Path(table["path"]).expanduser()
        if path.is_absolute() and self._root is not None:
            path = self._root / path.relative_to(path.anchor)
        self._set["parquet"] = os.path.normpath(self._path.parent / path)
        for theirs, ours in (("filename_column", "parquet_file_column"), ("caption_column", "parquet_caption_column")):
            if isinstance(table.get(theirs), str):
                self._set[ours] = table[theirs]
        self._say("parquet", table["path"], "", f"parquet = {self._set['parquet']}")
        for key in table.keys() - {"path", "filename_column", "caption_column"}:
            self._result.ignore(self._name, f"parquet.{key}", table[key], "pictures are measured themselves")

    def _take_size(self, default_size: tuple[float, str] | None) -> None:
        resolution, kind = self._entry.get("resolution"), self._entry.get("resolution_type", "pixel")
        if resolution is None and default_size is not None:
            resolution, kind = default_size
        if resolution is not None:
            self._set["resolution"] = self._number("resolution", resolution)
            if kind == "area":
                area = max(self._set["resolution"], self._min_area_mp)
                self._set |= {"resolution": area, "resolution_type": "area"}
                why = f"{self._example(area)}; a megapixel is a million pixels" + (
                    f", and data.min_area_mp = {self._min_area_mp:g}" if area > resolution else ""
                )
                self._say("resolution", resolution, why, f"resolution = {area:g} megapixels")
            elif kind == "pixel_area":
                area = self._set["resolution"] ** 2 / 1e6
                self._set |= {"resolution": area, "resolution_type": "area"}
                self._say("resolution", resolution, self._example(area), f"resolution = {area:g} megapixels")
            elif kind == "pixel":
                self._set["resolution_type"] = "short-edge"
                self._say("resolution", resolution, "the shorter side", f"resolution = {resolution:g} pixels")
            else:
                raise self._error(f'has the resolution_type "{kind}"', "known are area, pixel, pixel_area")
        least = self._entry.get("minimum_image_size")
        if least is not None:
            least = self._number("minimum_image_size", least)
            if kind == "pixel_area":
                least = least**2 / 1e6
            if least > 0:
                self._set["min_size"] = least
            unit = "pixels of the shorter side" if kind == "pixel" else "megapixels"
            self._say("minimum_image_size", self._entry["minimum_image_size"], "", f"min_size = {least:g} {unit}")

    def _example(self, area: float) -> str:
        sizing = Sizing("area", area, square=False)
        return f"square {sizing.bucket(1, 1)}, 3:4 {sizing.bucket(3, 4)}, 2:3 {sizing.bucket(2, 3)}"

    def _take_crop(self) -> None:
        crops = bool(self._entry.get("crop", False))
        aspect = self._entry.get("crop_aspect", "square") if crops else "preserve"
        self._set["square"] = aspect == "square"
        if "crop" in self._entry:
            self._say("crop", crops, "", f"square = {shown(self._set['square'])}")
        if aspect not in ("square", "preserve"):
            why = "pictures go to the bucket nearest to their shape"
            self._result.ignore(self._name, "crop_aspect", aspect, why, warned=True)
        if "crop_aspect_buckets" in self._entry:
            self._result.ignore(self._name, "crop_aspect_buckets", "", "pictures go to the nearest bucket", warned=True)
        style = self._entry.get("crop_style", "random") if crops else "center"
        self._set["crop"] = _CROPS.get(style, "center")
        if "crop_style" in self._entry:
            why = "" if style in _CROPS else f"crops of the style {style} are not made"
            self._say("crop_style", self._entry["crop_style"], why, f'crop = "{self._set["crop"]}"')

    def _number(self, key: str, value: Any, *, whole: bool = False) -> float:
        kind = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or value < 0:
            raise self._error(f"has {key} = {json.dumps(value)}", f"{key} is a {'whole ' * whole}number from 0")
        return value

    def _error(self, what: str, hint: str = "") -> UsageError:
        return UsageError(f"{self._path}: dataset `{self._name}` {what}", hint)


_TAKEN_TOGETHER = {
    "id", "type", "dataset_type", "disabled", "disable", "instance_data_dir", "instance_data_root", "caption_strategy",
    "instance_prompt", "only_instance_prompt", "prepend_instance_prompt", "parquet", "resolution", "resolution_type",
    "minimum_image_size", "crop", "crop_style", "crop_aspect", "crop_aspect_buckets", "is_regularisation_data",
    "is_regularization_data",
}  # fmt: skip
