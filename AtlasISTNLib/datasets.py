"""Data sets: pairs of image and label map as people have them on disk, and how they are brought to a model grid."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import scipy  # opens its parts when they are first used: the panel need not wait for them
from numpy.typing import NDArray

from .configs import NormalisationConfig
from .errors import ConfigError, VolumeError
from .geometry import Grid
from .nnunet import DATASET_JSON, read_raw_folder
from .volume import IMAGE_ENDINGS, Volume, case_name, checked_labels

#: Of an image's values, for the normalisation "percentile".
PERCENTILES = (1.0, 99.0)
#: Stands for a case's name in the patterns of its files.
CASE = "{case}"

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Case:
    """One labelled image: volumes in memory, or paths that are read when they are needed."""

    name: str
    image: Volume | Path
    labels: Volume | Path

    def load(self) -> tuple[Volume, Volume]:
        """Image and label map.

        Raises:
            VolumeError: unreadable, or the two lie on different grids.
        """
        image, labels = self.load_image(), self.load_labels()
        self.check_grids(image.grid, labels.grid)
        return image, labels

    def load_image(self) -> Volume:
        """The image alone.

        Raises:
            VolumeError: unreadable.
        """
        return self.image if isinstance(self.image, Volume) else Volume.read(self.image)

    def load_labels(self) -> Volume:
        """The label map alone.

        Raises:
            VolumeError: unreadable.
        """
        return self.labels if isinstance(self.labels, Volume) else Volume.read(self.labels)

    def check_grids(self, image: Grid, labels: Grid) -> None:
        """Refuse an image and a label map that do not lie on one grid.

        Raises:
            VolumeError: they differ; in what is in the message.
        """
        if not image.same_as(labels, tolerance=1e-2):
            raise VolumeError(
                f"{self.name}: image and labels lie on different grids, {_difference(image, labels)}",
                "resample the labels onto the image",
            )


@dataclass(frozen=True)
class DataSet:
    """Cases to train on.

    Attributes:
        cases: sorted by name, or in the order of a list.
        names: of the structures by their label values, without the background; empty where the data does not say.
        source: where the cases come from, for people.
    """

    cases: tuple[Case, ...]
    names: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    source: str = ""


def find_cases(
    folder: PathLike | None = None,
    *,
    pattern: tuple[str, str] | None = None,
    images: PathLike | None = None,
    labels: PathLike | None = None,
    channel: int | None = None,
) -> DataSet:
    """Find pairs of image and label map in one of the ways in which people keep them; no image is read.

    Args:
        folder: an nnU-Net raw folder, or with `pattern` any folder.
        pattern: see `cases_from_pattern`.
        images, labels: instead of `folder`, two folders with files of the same names, or two CSV lists.
        channel: of an nnU-Net folder with several input channels, from 0.

    Raises:
        VolumeError: the files are not there, or do not pair.
        ConfigError: what was given makes no sense together.
    """
    if (folder is None) == (images is None and labels is None):
        raise ConfigError("training data is one folder, or images and labels", "give --data, or --images and --labels")
    if channel is not None and (folder is None or pattern is not None):
        raise ConfigError("channels are numbered in nnU-Net folders only", "leave --channel out")
    if folder is None:
        if images is None or labels is None:
            raise ConfigError("training needs images and labels", "give both --images and --labels")
        if pattern is not None:
            raise ConfigError("a pattern finds files below one folder", "give --data with --pattern")
        return _from_two(Path(images), Path(labels))
    place = Path(folder)
    if pattern is not None:
        found = cases_from_pattern(place, *pattern)
        return DataSet(tuple(found), source=f"{place} by the patterns {pattern[0]} and {pattern[1]}")
    if not place.is_dir():
        raise VolumeError(f"{place} is not a folder", "check the path")
    if not (place / DATASET_JSON).is_file():
        raise ConfigError(
            f"{place} has no {DATASET_JSON}, so it is no nnU-Net folder",
            f'say how its files are named, such as --pattern "{CASE}_img.nii.gz" "{CASE}_seg.nii.gz"',
        )
    raw = read_raw_folder(place, channel)
    return DataSet(
        tuple(Case(*pair) for pair in raw.pairs), MappingProxyType(dict(raw.names)), f"nnU-Net folder {place}"
    )


def _from_two(images: Path, labels: Path) -> DataSet:
    for path in (images, labels):
        if not path.exists():
            raise VolumeError(f"{path} does not exist", "check the path")
    if images.is_dir() != labels.is_dir():
        raise ConfigError("images and labels are a folder and a list", "give two folders or two CSV lists")
    kind, read = ("folders", cases_from_folders) if images.is_dir() else ("lists", cases_from_csv)
    return DataSet(tuple(read(images, labels)), source=f"{kind} {images} and {labels}")


def cases_from_csv(images: PathLike, labels: PathLike) -> list[Case]:
    """Pairs from two lists in the released code's layout: one column with a heading, paths relative to the list.

    Where several images have one name, their folders' names go before it.

    Raises:
        VolumeError: a list is absent, empty, or the two have different lengths.
    """
    rows = [_first_column(Path(path)) for path in (images, labels)]
    if len(rows[0]) != len(rows[1]):
        raise VolumeError(
            f"{images} names {len(rows[0])} images, {labels} names {len(rows[1])} label maps",
            "give one label map for each image, in the same order",
        )
    often = Counter(case_name(image) for image in set(rows[0]))
    names = [f"{p.resolve().parent.name}_{case_name(p)}" if often[case_name(p)] > 1 else case_name(p) for p in rows[0]]
    return [Case(*case) for case in zip(names, *rows, strict=True)]


def cases_from_folders(images: PathLike, labels: PathLike) -> list[Case]:
    """Pairs of files of one name (before the ending) in two folders, sorted by name.

    Raises:
        VolumeError: a folder is absent, or an image has no label map, all of them named.
    """
    found = []
    for folder in (Path(images), Path(labels)):
        if not folder.is_dir():
            raise VolumeError(f"{folder} is not a folder", "check the path")
        files = [p for p in sorted(folder.iterdir()) if p.name.lower().endswith(IMAGE_ENDINGS) and p.name[0] != "."]
        found.append({case_name(p): p for p in files})
    missing = sorted(set(found[0]) - set(found[1]))
    if not found[0] or missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        what = f"no label map for {', '.join(missing[:5])}{more}" if missing else f"no images in {images}"
        raise VolumeError(what, "images and label maps need the same names in their two folders")
    return [Case(name, path, found[1][name]) for name, path in found[0].items()]


def cases_from_pattern(folder: PathLike, image: str, labels: str) -> list[Case]:
    """Pairs below one folder whose names follow from a case's, sorted by name; a label map may turn out to be absent.

    Args:
        folder: what the patterns start from.
        image, labels: paths with "{case}" for the case's name, which is never more than one part of a path, such as
            "{case}_img.nii.gz" or "{case}/anat/{case}_T1w.nii.gz".

    Raises:
        ConfigError: a pattern does not name the case, leaves the folder, or both are one.
        VolumeError: the folder is absent, or no image matches.
    """
    place = Path(folder)
    if image == labels:
        raise ConfigError(f"images and labels have one pattern '{image}'", "give --pattern IMAGE LABELS")
    _check_pattern(place, labels)
    found = matching_files(place, image)
    paths = {name: place / labels.replace(CASE, name) for name in found}
    # "{case}.nii.gz" also matches the label maps of "{case}_seg.nii.gz".
    maps = {paths[name] for name in found if paths[name].exists()}
    cases = [Case(name, path, paths[name]) for name, path in found.items() if path not in maps]
    if not cases:
        raise VolumeError(f"no file below {place} matches '{image}'", "check the pattern and upper and lower case")
    return cases


def matching_files(folder: Path, pattern: str) -> dict[str, Path]:
    """The files below a folder whose names follow from a case's, by the case's name; see `cases_from_pattern`.

    Raises:
        ConfigError: the pattern does not name the case, or leaves the folder.
        VolumeError: the folder is absent.
    """
    _check_pattern(folder, pattern)
    if not folder.is_dir():
        raise VolumeError(f"{folder} is not a folder", "check the path")
    pattern = Path(pattern).as_posix()
    first, *others = [re.escape(part) for part in pattern.split(CASE)]
    named = re.compile(f"{first}(?P<case>[^/]+)" + "(?P=case)".join(others))
    matches = [named.fullmatch(path.relative_to(folder).as_posix()) for path in sorted(folder.glob(_wildcard(pattern)))]
    return {match["case"]: folder / match[0] for match in matches if match and match["case"][0] != "."}


def _check_pattern(folder: Path, text: str) -> None:
    if CASE not in text:
        raise ConfigError(f"the pattern '{text}' does not say where the case's name is", f"write {CASE} there")
    if Path(text).is_absolute() or ".." in Path(text).parts:
        raise ConfigError(f"the pattern '{text}' leads out of {folder}", "patterns start from the folder")


def normalised(image: Volume, grid: Grid, config: NormalisationConfig) -> Volume:
    """An image on the model grid with its values as the ITN expects them, float32.

    "z-score" and "percentile" look at the whole image, so that the values do not depend on where the grid lies.
    """
    values = image.array.astype(np.float64)
    outside = float(values.mean()) if config.outside == "mean" else config.outside
    on_grid = image.resampled(grid, "linear", outside, config.antialias)
    if config.kind == "z-score":
        center, half = float(values.mean()), float(values.std()) or 1.0
    elif config.kind == "percentile":
        low, high = robust_range(values)
        center, half = (low + high) / 2, (high - low) / 2
    elif config.kind == "window":
        center, half = config.center, config.width / 2
    else:
        return on_grid
    scaled = (on_grid.array - np.float32(center)) / np.float32(half)
    return on_grid.with_array(np.clip(scaled, -1, 1) if config.kind in ("percentile", "window") else scaled)


def robust_range(values: NDArray[np.floating]) -> tuple[float, float]:
    """The 1st and the 99th percentile of the values above the lowest, which is the padding of most images.

    So neither a few bright vessels nor the amount of nothing around the anatomy counts. Where so little lies above the
    lowest value that the percentiles are one, the lowest and the highest value; where all values are one, a range of 1.
    """
    lowest, highest = float(values.min()), float(values.max())
    above = values[values > lowest]
    low, high = np.percentile(above, PERCENTILES).tolist() if above.size else (lowest, lowest)
    if low < high:
        return low, high
    return lowest, highest if lowest < highest else lowest + 1.0


def soft_labels(
    labels: Volume, values: Sequence[int], grid: Grid, blur: float, sampling: str = "averaged"
) -> NDArray[np.float32]:
    """One channel for each label value on a grid, (K, *shape), summing to 1; beyond the volume lies the first value.

    Args:
        labels: a label map; values that are not in `values` count as the first one, the background.
        values: label values, background first.
        grid: the grid to fill.
        blur: σ in voxels of a final blur of each channel (the released code uses 0.5).
        sampling: one of `configs.LABEL_SAMPLINGS`; the released code takes "nearest".
    """
    codes = checked_labels(labels)
    channels = np.stack([codes == value for value in values[1:]]).astype(np.float32)
    interpolation = "nearest" if sampling == "nearest" else "linear"
    volume = Volume(channels, labels.grid, labels.name)
    soft = volume.resampled(grid, interpolation, 0.0, antialias=sampling == "averaged").array
    if blur > 0:
        soft = np.stack([scipy.ndimage.gaussian_filter(channel, blur, mode="nearest") for channel in soft])
    return np.concatenate([1 - soft.sum(axis=0, keepdims=True), soft]).astype(np.float32)


def foreground_center(labels: Volume, values: Iterable[int]) -> tuple[float, ...]:
    """WORLD mm of the centroid of all voxels whose value is in `values`.

    Raises:
        VolumeError: there is no such voxel.
    """
    inside = np.isin(checked_labels(labels), list(values))
    if not inside.any():
        raise VolumeError(f"{labels.name or 'the label map'} holds none of the labels {list(values)}")
    return tuple(labels.grid.transform_points(centroid(slice_counts(inside)), "world", "voxel").tolist())


def slice_counts(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Voxels of a mask in each slice across each axis, in the order x, y, z: enough for its box and centroid."""
    axes = range(mask.ndim)
    return [mask.sum(axis=tuple(j for j in axes if j != axis), dtype=np.int64) for axis in reversed(axes)]


def centroid(counts: Sequence[NDArray[np.int64]]) -> list[float]:
    """VOXEL x, y, z of the centroid of a mask, from what `slice_counts` gives of it."""
    return [float(np.arange(len(count)) @ count / count.sum()) for count in counts]


def _difference(image: Grid, labels: Grid) -> str:
    """In what two grids differ most plainly."""
    if image.shape != labels.shape:
        size = " and ".join(" x ".join(str(n) for n in grid.size) for grid in (image, labels))
        return f"of {size} voxels"
    for what in ("spacing", "origin", "direction"):
        first, second = (np.ravel(getattr(grid, what)) for grid in (image, labels))
        if not np.allclose(first, second, rtol=0, atol=1e-3):
            return f"with {what} " + " and ".join(",".join(f"{x:.6g}" for x in values) for values in (first, second))
    return f"of {image} and {labels}"


def _wildcard(pattern: str) -> str:
    """A pattern as `glob` has it: the case is anything, the rest is meant literally."""
    return "*".join(re.sub(r"([*?[])", r"[\1]", part) for part in pattern.split(CASE))


def _first_column(path: Path) -> list[Path]:
    if not path.is_file():
        raise VolumeError(f"{path} does not exist", "check the path")
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
    if len(rows) < 2:
        raise VolumeError(f"{path} lists no files", "it needs a heading and one path a line")
    return [path.parent / row for row in rows[1:]]
