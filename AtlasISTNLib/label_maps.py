"""Label maps without images: cases to train on whose images are made of the labels alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .datasets import Case, DataSet, PathLike, cases_from_csv, matching_files
from .errors import ConfigError, VolumeError
from .label_table import LARGEST_VALUE, LabelTable
from .nnunet import DATASET_JSON, read_label_folder
from .volume import IMAGE_ENDINGS, Volume, case_name, checked_labels


@dataclass(frozen=True)
class MapCase(Case):
    """A label map; its image is a fixed rendering: every label in the grey that the table gives it, no noise.

    `image` is the label map itself. The rendering of all training cases, brought onto the atlas, is the atlas's image.
    """

    table: LabelTable | None = field(default=None)

    @classmethod
    def of(cls, case: Case, table: LabelTable) -> MapCase:
        """The label map of a case, whose image, if it has one, is left alone."""
        return cls(case.name, case.labels, case.labels, table)

    def load(self) -> tuple[Volume, Volume]:
        labels = self.load_labels()
        return self._rendered(labels), labels

    def load_image(self) -> Volume:
        return self._rendered(self.load_labels())

    def greys(self) -> list[tuple[int, float]]:
        """What the rendering depends on besides the label map."""
        return [] if self.table is None else [*self.table.greys, *((a, -b) for a, b in self.table.pairs)]

    def _rendered(self, labels: Volume) -> Volume:
        codes = checked_codes(labels, self.name)
        shades = np.zeros(int(codes.max()) + 1, dtype=np.float32)
        for value in np.flatnonzero(np.bincount(codes.ravel())).tolist():
            shades[value] = float(value > 0) if self.table is None else self.table.grey(value)
        return Volume.from_array(shades[codes], labels.grid, self.name)


def checked_codes(labels: Volume, name: str) -> NDArray[np.int64]:
    """The values of a label map, (Z, Y, X) or (Y, X), when images can be made of it.

    Raises:
        VolumeError: it is no label map, or holds values below 0 or above 32767.
    """
    codes = checked_labels(labels)
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high > LARGEST_VALUE:
        raise VolumeError(
            f"{name}: the label map holds the value {low if low < 0 else high}",
            f"images are made of values from 0 to {LARGEST_VALUE}; renumber them",
        )
    return codes


def find_label_maps(
    folder: PathLike | None = None, *, pattern: Sequence[str] | None = None, labels: PathLike | None = None
) -> DataSet:
    """Find label maps in one of the ways in which people keep them; no image is needed and none is read.

    Args:
        folder: an nnU-Net raw folder, of which labelsTr and dataset.json are looked at, or with `pattern` any folder.
        pattern: the one of the label maps, such as "{case}/seg.nii.gz"; of two, the last one.
        labels: instead of `folder`, a folder of label maps or a CSV list of them.

    Raises:
        VolumeError: there are none.
        ConfigError: what was given makes no sense together.
    """
    if (folder is None) == (labels is None):
        raise ConfigError("label maps to train on are in --data or in --labels", "give one of them")
    if labels is not None:
        place = Path(labels)
        if not place.exists():
            raise VolumeError(f"{place} does not exist", "check the path")
        cases = _in_folder(place) if place.is_dir() else cases_from_csv(place, place)
        return DataSet(tuple(cases), source=f"label maps of {place}")
    assert folder is not None
    place = Path(folder)
    if pattern is not None:
        found = matching_files(place, pattern[-1])
        if not found:
            raise VolumeError(f"no file below {place} matches '{pattern[-1]}'", "check the pattern and its letters")
        return DataSet(
            tuple(Case(name, path, path) for name, path in found.items()),
            source=f"label maps below {place} by the pattern {pattern[-1]}",
        )
    if not place.is_dir():
        raise VolumeError(f"{place} is not a folder", "check the path")
    if not (place / DATASET_JSON).is_file():
        raise ConfigError(
            f"{place} has no {DATASET_JSON}, so it is no nnU-Net folder", "give its label maps as --labels"
        )
    paths, names = read_label_folder(place)
    return DataSet(
        tuple(Case(name, path, path) for name, path in paths),
        MappingProxyType(dict(names)),
        f"label maps of the nnU-Net folder {place}",
    )


def _in_folder(folder: Path) -> list[Case]:
    files = [p for p in sorted(folder.iterdir()) if p.name.lower().endswith(IMAGE_ENDINGS) and p.name[0] != "."]
    if not files:
        raise VolumeError(f"no label maps in {folder}", "check the path and the files' endings")
    return [Case(case_name(path), path, path) for path in files]


__all__ = ["MapCase", "checked_codes", "find_label_maps"]
