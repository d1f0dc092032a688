"""Measures of a segmentation against a reference, in 2D and 3D by one code.

Masks are arrays (Z, Y, X) or (Y, X) in which non-zero is foreground; spacing is in mm and in x, y, z order, as in
`Grid`. Distances depend on voxel sizes only: how the grid lies in the world plays no part.

Surfaces: a voxel of a mask is on its surface when a voxel across one of its faces is outside the mask or outside the
image. Distances run between the centres of surface voxels, as in MedPy and MONAI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np
import scipy  # opens its parts when they are first used: the panel need not wait for them
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from .errors import ConfigError, GeometryError
from .geometry import Grid
from .topology import Box, Mask, Topology, foreground_box, label_boxes, mask_topology
from .volume import Volume, checked_labels

#: Names of the measures of a label, in the order of tables.
MEASURES = (
    "dice",
    "assd",
    "hd95",
    "hd",
    "reference_asd",
    "volume",
    "reference_volume",
    "components",
    "reference_components",
    "holes",
    "reference_holes",
    "tunnels",
    "reference_tunnels",
    "euler",
    "reference_euler",
)


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm between two surfaces; nan when either is empty.

    Attributes:
        assd: average symmetric surface distance: the mean over the surface voxels of both masks together.
        hd: Hausdorff distance: the largest of them.
        hd95: the larger of the two directed 95th percentiles, as in MONAI and Metrics Reloaded. (MedPy takes one
            percentile of both directions together, which is never larger.)
    """

    assd: float
    hd: float
    hd95: float


@dataclass(frozen=True)
class LabelScores:
    """Measures of one label.

    Attributes:
        label: its value.
        name: its name.
        dice: 2|A∩B| / (|A| + |B|); 0 when one side is empty, nan when both are.
        assd, hd95, hd: see `SurfaceDistances`, mm.
        reference_asd: `itk_average_hausdorff`, mm, only to compare with publications that call it a surface distance.
        volume, reference_volume: mL in 3D, mm² in 2D.
        topology, reference_topology: see `Topology`, with the default connectivity.
    """

    label: int
    name: str
    dice: float
    assd: float
    hd95: float
    hd: float
    reference_asd: float
    volume: float
    reference_volume: float
    topology: Topology
    reference_topology: Topology

    def value(self, measure: str) -> float:
        """One of `MEASURES` by its name.

        Raises:
            ConfigError: no such measure.
        """
        if measure not in MEASURES:
            raise ConfigError(f"no measure '{measure}'", f"use one of {list(MEASURES)}")
        if hasattr(self, measure):
            return float(getattr(self, measure))
        own = not measure.startswith("reference_")
        return float(getattr(self.topology if own else self.reference_topology, measure.removeprefix("reference_")))


@dataclass(frozen=True)
class Scores:
    """What `evaluate` found, label by label in rising order; immutable.

    Attributes:
        labels: one entry for every label but the background.
        ndim: 2 or 3.
    """

    labels: tuple[LabelScores, ...]
    ndim: int

    @property
    def volume_unit(self) -> str:
        """Unit of `volume` and `reference_volume`."""
        return "mL" if self.ndim == 3 else "mm²"

    def __iter__(self) -> Iterator[LabelScores]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, label: int) -> LabelScores:
        """The scores of a label value; KeyError when it was not evaluated."""
        for entry in self.labels:
            if entry.label == label:
                return entry
        raise KeyError(label)

    def mean(self, measure: str) -> float:
        """Mean of one of `MEASURES` over the labels where it exists; nan where it exists for none.

        Raises:
            ConfigError: no such measure.
        """
        if measure not in MEASURES:
            raise ConfigError(f"no measure '{measure}'", f"use one of {list(MEASURES)}")
        values = [v for v in (entry.value(measure) for entry in self.labels) if not isnan(v)]
        return sum(values) / len(values) if values else nan

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat dict for every label: "label", "name" and `MEASURES`; JSON-able, with None for nan."""
        return [
            {"label": entry.label, "name": entry.name} | {m: _plain(m, entry.value(m)) for m in MEASURES}
            for entry in self.labels
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything with its units; JSON-able, with None for nan."""
        return {
            "distance_unit": "mm",
            "volume_unit": self.volume_unit,
            "labels": self.to_rows(),
            "mean": {m: None if isnan(v := self.mean(m)) else v for m in MEASURES},
        }

    def to_text(self) -> str:
        """A table to read: own topology first, the reference's in brackets."""
        unit = self.volume_unit
        header = ["label", "", "Dice", "ASSD mm", "HD95 mm", "HD mm", "ref. ASD mm"]
        header += [
            f"volume {unit}",
            f"reference {unit}",
            "components",
            "cavities" if self.ndim == 3 else "holes",
            "tunnels",
            "Euler",
        ]
        rows = [_text_row(str(entry.label), entry.name, entry.value, "d") for entry in self.labels]
        rows.append(_text_row("mean", "", self.mean, ".1f"))
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        lines = []
        for row in [header, *rows]:
            cells = [row[i].ljust(w) if i < 2 else row[i].rjust(w) for i, w in enumerate(widths)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n − 1) of n figures; nan where there are too few."""

    mean: float
    deviation: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of the finite ones among the values."""
        known = [value for value in values if np.isfinite(value)]
        mean = float(np.mean(known)) if known else nan
        return cls(mean, float(np.std(known, ddof=1)) if len(known) > 1 else nan, len(known))


def evaluate(labels: Volume, reference: Volume, names: Mapping[int, str] | None = None) -> Scores:
    """Measure a label map against a reference on the same grid.

    Every label above 0 that occurs on either side or in `names` is measured. One that is missing from one side has Dice
    0 and no distances (nan); one that is missing from both has no Dice either.

    Args:
        labels: the label map to measure, one channel of whole numbers.
        reference: the truth, likewise.
        names: names of label values, for the table; others are called "label <value>". 0 is ignored.

    Raises:
        GeometryError: the grids differ.
        VolumeError: several channels, or values that are not whole numbers of 0 or more.
    """
    titles = labels.name or "the label map", reference.name or "the reference"
    if labels.grid.ndim != reference.grid.ndim or not labels.grid.same_as(reference.grid):
        raise GeometryError(
            f"{titles[0]} lies on {_described(labels.grid)}, but {titles[1]} on {_described(reference.grid)}",
            'resample one onto the grid of the other first, with interpolation="nearest"',
        )
    names = {} if names is None else names
    arrays = [checked_labels(volume) for volume in (labels, reference)]
    boxes = [label_boxes(array, title) for array, title in zip(arrays, titles, strict=True)]
    empty = np.zeros((0,) * labels.grid.ndim, dtype=np.bool_)
    entries = []
    for k in sorted({*boxes[0], *boxes[1], *(int(n) for n in names)} - {0}):
        found = [side[k] for side in boxes if k in side]
        box = _joint(found) if found else None
        a, b = (array[box] == k if box is not None else empty for array in arrays)
        entries.append(_scored(k, names.get(k, f"label {k}"), a, b, labels.grid.spacing))
    return Scores(tuple(entries), labels.grid.ndim)


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Dice coefficient 2|A∩B| / (|A| + |B|) of two masks; 0 when one is empty, nan when both are.

    Raises:
        GeometryError: the shapes differ.
    """
    first, second = _masks(a, b)
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else nan


def surface_distances(a: ArrayLike, b: ArrayLike, spacing: Sequence[float]) -> SurfaceDistances:
    """Distances between the surfaces of two masks.

    Args:
        a, b: masks of one shape, (Z, Y, X) or (Y, X).
        spacing: mm along x, y, z.

    Raises:
        GeometryError: the shapes differ, or the spacing does not fit them.
    """
    first, second = _masks(a, b)
    points = [_surface_points(mask, _checked_spacing(spacing, first.ndim)) for mask in (first, second)]
    if not (len(points[0]) and len(points[1])):
        return SurfaceDistances(nan, nan, nan)
    there, back = _nearest(points[0], points[1]), _nearest(points[1], points[0])
    return SurfaceDistances(
        assd=float((there.sum() + back.sum()) / (len(there) + len(back))),
        hd=float(max(there.max(), back.max())),
        hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
    )


def itk_average_hausdorff(a: ArrayLike, b: ArrayLike, spacing: Sequence[float]) -> float:
    """ITK's average Hausdorff distance in mm; nan when a mask is empty.

    It averages, over all voxels of one mask, the distance to the nearest voxel of the other, which is 0 wherever the
    masks overlap, and takes the mean of both directions. It is therefore many times smaller than
    `SurfaceDistances.assd`, the more so the larger the object. Only to compare with publications that report it.

    Args:
        a, b: masks of one shape, (Z, Y, X) or (Y, X).
        spacing: mm along x, y, z.

    Raises:
        GeometryError: the shapes differ, or the spacing does not fit them.
    """
    first, second = _masks(a, b)
    width = _checked_spacing(spacing, first.ndim)
    if not (first.any() and second.any()):
        return nan
    box = _joint([foreground_box(first), foreground_box(second)])
    images = []
    for mask in (first, second):
        image = sitk.GetImageFromArray(mask[box].astype(np.uint8))
        image.SetSpacing(width.tolist())
        images.append(image)
    measure = sitk.HausdorffDistanceImageFilter()
    # Threads add their sums up in the order in which they end, and the last digits would differ from run to run.
    measure.SetNumberOfThreads(1)
    measure.SetNumberOfWorkUnits(1)
    measure.Execute(images[0], images[1])
    return float(measure.GetAverageHausdorffDistance())


def mask_volume(mask: ArrayLike, spacing: Sequence[float]) -> float:
    """Volume of a 3D mask in mL, or area of a 2D mask in mm²; spacing in mm along x, y, z.

    Raises:
        GeometryError: the spacing does not fit the mask.
    """
    array = np.asarray(mask)
    width = _checked_spacing(spacing, array.ndim)
    return float(np.count_nonzero(array) * width.prod()) / (1000 if array.ndim == 3 else 1)


def _scored(label: int, name: str, a: Mask, b: Mask, spacing: Sequence[float]) -> LabelScores:
    surface = surface_distances(a, b, spacing)
    return LabelScores(
        label=label,
        name=name,
        dice=dice(a, b),
        assd=surface.assd,
        hd95=surface.hd95,
        hd=surface.hd,
        reference_asd=itk_average_hausdorff(a, b, spacing),
        volume=mask_volume(a, spacing),
        reference_volume=mask_volume(b, spacing),
        topology=mask_topology(a),
        reference_topology=mask_topology(b),
    )


def _masks(a: ArrayLike, b: ArrayLike) -> tuple[Mask, Mask]:
    first, second = np.asarray(a) != 0, np.asarray(b) != 0
    if first.shape != second.shape:
        raise GeometryError(f"the masks have different shapes, {first.shape} and {second.shape}", "resample one first")
    return first, second


def _checked_spacing(spacing: Sequence[float], ndim: int) -> NDArray[np.float64]:
    width = np.asarray(spacing, dtype=np.float64).reshape(-1)
    if ndim not in (2, 3) or width.size != ndim:
        raise GeometryError(f"spacing {width.tolist()} does not fit a mask of {ndim} axes", "give mm along x, y, z")
    if not (np.isfinite(width).all() and (width > 0).all()):
        raise GeometryError(f"spacing must be positive along every axis, not {width.tolist()} mm")
    return width


def _surface_points(mask: Mask, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centres of the surface voxels, (M, D) in mm in array order, counted from the first voxel of the mask's array."""
    box = foreground_box(mask)
    inside = mask[box]
    # Beyond the box there is background or no image: both make a surface, as erosion's zero border does.
    surface = inside & ~scipy.ndimage.binary_erosion(inside) if inside.size else inside
    index = np.argwhere(surface) + [side.start for side in box]
    return np.asarray(index * spacing[::-1], dtype=np.float64)


def _nearest(points: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from each point to the nearest target.

    A tree search is as exact as a Euclidean distance transform, and its cost grows with the surfaces and not with the
    space between them.
    """
    return np.asarray(scipy.spatial.cKDTree(targets).query(points)[0], dtype=np.float64)


def _joint(boxes: Sequence[Box]) -> Box:
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*boxes, strict=True))


def _described(grid: Grid) -> str:
    origin = ", ".join(f"{x:.6g}" for x in grid.origin)
    direction = "; ".join(" ".join(f"{x:.4g}" for x in row) for row in grid.direction)
    return f"{grid} (origin {origin} mm, direction {direction})"


def _plain(measure: str, value: float) -> float | int | None:
    if isnan(value):
        return None
    return int(value) if measure.removeprefix("reference_") in Topology.__annotations__ else value


def _text_row(label: str, name: str, value: Callable[[str], float], count: str) -> list[str]:
    def real(measure: str, digits: int) -> str:
        return "-" if isnan(v := value(measure)) else f"{v:.{digits}f}"

    def counts(measure: str) -> str:
        pair = value(measure), value(f"reference_{measure}")
        own, other = ("-" if isnan(v) else format(int(v) if count == "d" else v, count) for v in pair)
        return f"{own} ({other})"

    row = [label, name, real("dice", 3)] + [real(m, 2) for m in ("assd", "hd95", "hd")] + [real("reference_asd", 3)]
    row += [real("volume", 2), real("reference_volume", 2)]
    return row + [counts(m) for m in ("components", "holes", "tunnels", "euler")]
