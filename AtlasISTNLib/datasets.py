"""Data sets: pairs of image and label map as people have them on disk, and how they are brought to a model grid."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .configs import NormalisationConfig
from .errors import VolumeError
from .geometry import Grid
from .volume import IMAGE_ENDINGS, Volume, case_name, checked_labels


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
        image = self.image if isinstance(self.image, Volume) else Volume.read(self.image)
        labels = self.labels if isinstance(self.labels, Volume) else Volume.read(self.labels)
        if not image.grid.same_as(labels.grid, tolerance=1e-2):
            raise VolumeError(
                f"{self.name}: image ({image.grid}) and labels ({labels.grid}) lie on different grids",
                "resample the labels onto the image",
            )
        return image, labels


def cases_from_csv(images: str | os.PathLike[str], labels: str | os.PathLike[str]) -> list[Case]:
    """Pairs from two lists in the released code's layout: one column with a heading, paths relative to the list.

    Raises:
        VolumeError: a list is absent, empty, or the two have different lengths.
    """
    rows = [_first_column(Path(path)) for path in (images, labels)]
    if len(rows[0]) != len(rows[1]):
        raise VolumeError(f"{images} names {len(rows[0])} images, {labels} names {len(rows[1])} label maps")
    return [Case(case_name(image), image, label) for image, label in zip(*rows, strict=True)]


def cases_from_folders(images: str | os.PathLike[str], labels: str | os.PathLike[str]) -> list[Case]:
    """Pairs of files of one name (before the ending) in two folders, sorted by name.

    Raises:
        VolumeError: a folder is absent, or an image has no label map, all of them named.
    """
    found = []
    for folder in (Path(images), Path(labels)):
        if not folder.is_dir():
            raise VolumeError(f"{folder} is not a folder", "check the path")
        found.append({case_name(p): p for p in sorted(folder.iterdir()) if p.name.lower().endswith(IMAGE_ENDINGS)})
    missing = sorted(set(found[0]) - set(found[1]))
    if not found[0] or missing:
        what = f"no label map for {', '.join(missing[:5])}" if missing else f"no images in {images}"
        raise VolumeError(what, "images and label maps need the same names in their two folders")
    return [Case(name, path, found[1][name]) for name, path in found[0].items()]


def normalised(image: Volume, grid: Grid, config: NormalisationConfig) -> Volume:
    """An image on the model grid with its values as the ITN expects them, float32.

    "z-score" takes mean and standard deviation of the whole image, so that they do not depend on where the grid lies.
    """
    values = image.array.astype(np.float64)
    outside = float(values.mean()) if config.outside == "mean" else config.outside
    on_grid = image.resampled(grid, "linear", outside, config.antialias)
    if config.kind == "z-score":
        center, half = float(values.mean()), float(values.std()) or 1.0
    elif config.kind == "window":
        center, half = config.center, config.width / 2
    else:
        return on_grid
    scaled = (on_grid.array - np.float32(center)) / np.float32(half)
    return on_grid.with_array(np.clip(scaled, -1, 1) if config.kind == "window" else scaled)


def soft_labels(labels: Volume, values: Sequence[int], grid: Grid, blur: float) -> NDArray[np.float32]:
    """One channel for each label value on a grid, (K, *shape), summing to 1; beyond the volume lies the first value.

    Args:
        labels: a label map; values that are not in `values` count as the first one, the background.
        values: label values, background first.
        grid: the grid to fill.
        blur: σ in voxels of a final blur of each channel (the released code uses 0.5).
    """
    codes = checked_labels(labels)
    channels = np.stack([codes == value for value in values[1:]]).astype(np.float32)
    soft = Volume(channels, labels.grid, labels.name).resampled(grid, "linear", 0.0, antialias=True).array
    if blur > 0:
        soft = np.stack([ndimage.gaussian_filter(channel, blur, mode="nearest") for channel in soft])
    return np.concatenate([1 - soft.sum(axis=0, keepdims=True), soft]).astype(np.float32)


def foreground_center(labels: Volume, values: Iterable[int]) -> tuple[float, ...]:
    """WORLD mm of the centroid of all voxels whose value is in `values`.

    Raises:
        VolumeError: there is no such voxel.
    """
    inside = np.isin(checked_labels(labels), list(values))
    if not inside.any():
        raise VolumeError(f"{labels.name or 'the label map'} holds none of the labels {list(values)}")
    index = np.array([axis.mean() for axis in np.nonzero(inside)])[::-1]
    return tuple(labels.grid.transform_points(index, "world", "voxel").tolist())


def _first_column(path: Path) -> list[Path]:
    if not path.is_file():
        raise VolumeError(f"{path} does not exist", "check the path")
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
    if len(rows) < 2:
        raise VolumeError(f"{path} lists no files", "it needs a heading and one path a line")
    return [path.parent / row for row in rows[1:]]
