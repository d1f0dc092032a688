"""Training data in the layout of nnU-Net's raw folders, versions 1 and 2, and of the Medical Segmentation Decathlon.

    dataset.json    labels, channel_names (version 1: modality), file_ending
    imagesTr/       CASE_0000.nii.gz, one file for each input channel (Decathlon: CASE.nii.gz)
    labelsTr/       CASE.nii.gz

Version 2 names a value ({"liver": 1}), version 1 a name ({"1": "liver"}).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError, VolumeError

DATASET_JSON = "dataset.json"

_CORRECT = f"correct {DATASET_JSON}"


@dataclass(frozen=True)
class RawFolder:
    """What a raw folder offers for training.

    Attributes:
        pairs: name, image and label map of each case, sorted by name; a file that its partner calls for may be absent.
        names: of the structures by their values, without the background.
        channel: the input channel that the images are of, from 0.
    """

    pairs: tuple[tuple[str, Path, Path], ...]
    names: Mapping[int, str]
    channel: int


def read_raw_folder(folder: str | os.PathLike[str], channel: int | None = None) -> RawFolder:
    """The training cases of a raw folder; no image is read.

    Args:
        folder: holds dataset.json.
        channel: which input channel to take, from 0; needed when there are several.

    Raises:
        VolumeError: dataset.json is absent, damaged or describes what cannot be trained (regions, an ignore label), or
            there are no cases.
        ConfigError: there are several channels and none was chosen, or not the chosen one.
    """
    folder = Path(folder)
    path = folder / DATASET_JSON
    description = _read_json(path)
    names = _label_names(description.get("labels"), path)
    channel = _channel(description, path, channel)
    listed = description.get("dataset")
    pairs = _listed_pairs(listed, folder, path, channel) if listed else _found_pairs(description, folder, path, channel)
    return RawFolder(tuple(sorted(pairs)), names, channel)


def read_label_folder(folder: str | os.PathLike[str]) -> tuple[tuple[tuple[str, Path], ...], Mapping[int, str]]:
    """Name and label map of each training case of a raw folder, whose images need not be there; and the structures.

    Raises:
        VolumeError: dataset.json is absent, damaged or names no labels, or there are no label maps.
    """
    folder = Path(folder)
    path = folder / DATASET_JSON
    description = _read_json(path)
    names = _label_names(description.get("labels"), path)
    ending, place = _ending(description, path), folder / "labelsTr"
    files = sorted(place.iterdir()) if place.is_dir() else []
    found = tuple((p.name[: -len(ending)], p) for p in files if p.name.endswith(ending) and not p.name.startswith("."))
    if not found:
        raise VolumeError(f"{place} holds no {ending} label maps", f"check file_ending in {DATASET_JSON}")
    return found, names


def _ending(description: Mapping[str, Any], path: Path) -> str:
    ending = description.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise VolumeError(f"{path} has the file ending {ending!r}", 'give one such as ".nii.gz"')
    return ending


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise VolumeError(
            f"{path} does not exist", "give an nnU-Net raw folder, or say with --pattern what files it has"
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # wrong JSON, or no text at all
        raise VolumeError(f"{path} cannot be read: {error}", _CORRECT) from error
    if not isinstance(description, dict):
        raise VolumeError(f"{path} is not a description of a data set", _CORRECT)
    return description


def _label_names(labels: Any, path: Path) -> dict[int, str]:
    if not isinstance(labels, dict) or not labels:
        raise VolumeError(f"{path} names no labels", 'give it "labels": {"background": 0, "liver": 1}')
    if all(key.isdecimal() and isinstance(value, str) for key, value in labels.items()):
        labels = [(name, int(value)) for value, name in labels.items()]
    else:
        labels = list(labels.items())
    regions = [name for name, value in labels if isinstance(value, list)]
    if regions:
        raise VolumeError(
            f"{path} has regions of several values ({', '.join(regions)}); an atlas needs labels that do not overlap",
            "describe the values of the label maps one by one in dataset.json, or with --label and --pattern",
        )
    names: dict[int, str] = {}
    for name, value in labels:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise VolumeError(f"{path} gives the label '{name}' the value {value!r}", "use a whole number")
        if value in names:
            raise VolumeError(f"{path} calls the value {value} both '{names[value]}' and '{name}'", _CORRECT)
        if name == "ignore":
            raise VolumeError(
                f"{path} has an ignore label: parts of its label maps are not labelled",
                "an atlas needs whole label maps; complete them or leave these cases out",
            )
        names[value] = name
    names.pop(0, None)
    if not names:
        raise VolumeError(f"{path} names no label but the background", _CORRECT)
    return names


def _channel(description: Mapping[str, Any], path: Path, wanted: int | None) -> int:
    channels = description.get("channel_names") or description.get("modality") or {"0": "image"}
    if not isinstance(channels, dict):
        raise VolumeError(f"{path} lists its channels in another way than by number", _CORRECT)
    if wanted is None and len(channels) > 1:
        listed = ", ".join(f"{number} {name}" for number, name in channels.items())
        raise ConfigError(
            f"{path.parent} has {len(channels)} input channels ({listed}) and a model takes one",
            "choose one with --channel",
        )
    chosen = wanted or 0
    if not 0 <= chosen < len(channels):
        raise ConfigError(f"{path.parent} has no channel {chosen}", f"there are {len(channels)}, counted from 0")
    return chosen


def _found_pairs(
    description: Mapping[str, Any], folder: Path, path: Path, channel: int
) -> list[tuple[str, Path, Path]]:
    ending = _ending(description, path)
    files = {}
    for name in ("imagesTr", "labelsTr"):
        if not (folder / name).is_dir():
            raise VolumeError(f"{folder} has no folder {name}", "is it an nnU-Net raw folder?")
        # Names with a dot before them are what macOS leaves on foreign disks.
        found = [p for p in (folder / name).iterdir() if p.name.endswith(ending) and not p.name.startswith(".")]
        files[name] = {p.name[: -len(ending)]: p for p in found}
    images, labels = files["imagesTr"], files["labelsTr"]
    # The Decathlon's images bear the bare names of their label maps.
    cases = set(labels) | {stem if stem in labels else re.sub(r"_\d{4}$", "", stem) for stem in images}
    if not cases:
        raise VolumeError(f"{folder}/imagesTr holds no {ending} images", f"check file_ending in {DATASET_JSON}")
    pairs = []
    for case in cases:
        numbered, bare = f"{case}_{channel:04d}", images.get(case) if channel == 0 else None
        image = images.get(numbered) or bare or folder / "imagesTr" / f"{numbered}{ending}"
        pairs.append((case, image, folder / "labelsTr" / f"{case}{ending}"))
    return pairs


def _listed_pairs(listed: Any, folder: Path, path: Path, channel: int) -> list[tuple[str, Path, Path]]:
    """Of version 2's optional list of files, relative to the folder."""
    try:
        return [
            (str(case), folder / files["images"][channel], folder / files["label"]) for case, files in listed.items()
        ]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise VolumeError(f'{path}: its list "dataset" cannot be read', _CORRECT) from error
