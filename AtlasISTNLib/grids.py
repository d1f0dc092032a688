"""The grid of a new model: what its training cases' labels cover, and a grid that holds them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .datasets import centroid, slice_counts
from .errors import ConfigError, VolumeError
from .geometry import VOXEL, WORLD, Float, Grid
from .volume import Volume, checked_labels, flat

#: Voxels along the longest side of a grid that nobody gave, by dimension: what a CPU trains in hours.
LONGEST = {2: 128, 3: 64}
#: Space around the structures on a grid that nobody gave, as a share of their extent on each side.
MARGIN = 0.15
#: The networks halve their input three times; half of 16 would do, too.
MULTIPLE = 8
#: Values up to which counting them is quicker than sorting them.
_COUNTED = 1 << 16


@dataclass(frozen=True, eq=False)
class Extent:
    """What a case's label map covers.

    Attributes:
        name: of the case.
        grid: of the image; 2D for a single slice of a 3D image.
        values: label values without the background.
        low, high: WORLD mm, corners of the box around the foreground.
        center: WORLD mm, centroid of the foreground.
    """

    name: str
    grid: Grid
    values: frozenset[int]
    low: Float
    high: Float
    center: Float

    @classmethod
    def of(cls, labels: Volume, name: str, wanted: frozenset[int] = frozenset()) -> Extent:
        """Of a label map; `wanted` values only, all but 0 if there are none.

        Raises:
            VolumeError: it is no label map, or none of the values is in it.
        """
        labels = flat(labels)
        codes = checked_labels(labels)
        inside = np.isin(codes, list(wanted)) if wanted else codes != 0
        if not inside.any():
            what = f"none of the labels {sorted(wanted)}" if wanted else "no label but the background"
            raise VolumeError(f"{name}: its label map holds {what}", "leave the case out or correct its labels")
        found = frozenset(label_values(codes)) - {0}
        counts = slice_counts(inside)
        present = [np.flatnonzero(count) for count in counts]
        ends = np.array([(index[0] - 0.5, index[-1] + 0.5) for index in present])
        corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, len(counts))
        world = labels.grid.transform_points(corners, WORLD, VOXEL)
        center = labels.grid.transform_points(centroid(counts), WORLD, VOXEL)
        values = found & wanted if wanted else found
        return cls(name, labels.grid, values, world.min(axis=0), world.max(axis=0), center)

    def middle(self, on_labels: bool) -> Float:
        """WORLD mm of the point that the model grid's centre is put on."""
        return self.center if on_labels else np.array(self.grid.center)


@dataclass(frozen=True)
class ModelGrid:
    """A grid for a model and how the training cases' labels lie on it.

    Attributes:
        grid: along the world's axes, centred on 0, the origin of atlas space.
        on_labels: whether its centre is put on the centroid of each case's labels; else on the image's centre.
        margin: mm along x, y, z from the labels to the grid's border, the least of all cases; negative where they are
            cut off.
        cut: names of the cases whose labels reach beyond the grid.
    """

    grid: Grid
    on_labels: bool
    margin: tuple[float, ...]
    cut: tuple[str, ...]

    @classmethod
    def of(cls, grid: Grid, on_labels: bool, extents: Sequence[Extent]) -> ModelGrid:
        """Measure how the labels of these cases lie on a grid."""
        half = np.array(grid.extent) / 2
        margins = np.array([half - _reach([extent], on_labels) for extent in extents])
        # A thousandth of a voxel beyond the border is rounding.
        limit = -1e-3 * np.array(grid.spacing)
        cut = tuple(extent.name for extent, m in zip(extents, margins, strict=True) if (m < limit).any())
        return cls(grid, on_labels, tuple(margins.min(axis=0).tolist()), cut)


def choose_grid(
    extents: Sequence[Extent],
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    on_labels: bool | None = None,
) -> ModelGrid:
    """A model grid along the world's axes that holds every case's labels with a margin, and where on a case it goes.

    Args:
        extents: of the cases' labels, at least one.
        shape: voxels (Z, Y, X) or (Y, X), if given.
        spacing: mm along x, y, z, or one for all, if given.
        on_labels: where the grid goes on a case; None for the labels if an image is larger than the grid.

    Raises:
        ConfigError: the cases are of different dimensions, or what was given does not fit them.
    """
    dimensions = {extent.grid.ndim for extent in extents}
    if len(dimensions) > 1:
        raise ConfigError("some cases are 2D and others 3D", "train them apart")
    d = dimensions.pop()
    check_sizes(shape, spacing)
    axes = "z,y,x"[-2 * d + 1 :]
    if shape is not None and len(shape) != d:
        raise ConfigError(f"--shape needs {d} numbers for {d}D cases, not {len(shape)}", f"give --shape {axes}")
    if spacing is not None and len(spacing) not in (1, d):
        raise ConfigError(
            f"--spacing needs {d} numbers or one for {d}D cases, not {len(spacing)}",
            f"give --spacing {axes[::-1]}, or one number for all axes",
        )
    if on_labels is None:
        grid = _grid(extents, shape, spacing, True)
        # As when the model is used: images no larger than the grid are placed by their centre.
        on_labels = any(larger(extent.grid, grid) for extent in extents)
    return ModelGrid.of(_grid(extents, shape, spacing, on_labels), on_labels, extents)


def check_sizes(shape: Sequence[int] | None, spacing: Sequence[float] | None) -> None:
    """See before any image is read that a given shape and spacing can be had.

    Raises:
        ConfigError: they cannot.
    """
    if shape is not None and (len(shape) not in (2, 3) or min(shape) < 8):
        raise ConfigError(f"--shape needs 8 voxels or more along 2 or 3 axes, not {','.join(map(str, shape))}")
    if spacing is not None and not all(0 < s < math.inf for s in spacing):
        raise ConfigError(f"--spacing must be positive, not {','.join(f'{s:g}' for s in spacing)} mm")


def larger(image: Grid, grid: Grid) -> bool:
    """Whether an image reaches further than a model grid along any of its directions, by more than a voxel of it."""
    along = image.corners() @ np.array(grid.direction)
    return bool((np.ptp(along, axis=0) > np.array(grid.extent) + np.array(grid.spacing)).any())


def label_values(codes: NDArray[np.int64]) -> list[int]:
    """The values that occur in a label map, sorted."""
    if codes.min() >= 0 and codes.max() < _COUNTED:
        return [int(value) for value in np.flatnonzero(np.bincount(codes.ravel()))]
    return [int(value) for value in np.unique(codes)]


def _grid(
    extents: Sequence[Extent], shape: Sequence[int] | None, spacing: Sequence[float] | None, on_labels: bool
) -> Grid:
    d = extents[0].grid.ndim
    width = 2 * _reach(extents, on_labels) * (1 + 2 * MARGIN)
    if spacing is None:
        finest = float(np.median([extent.grid.voxel_volume ** (1 / d) for extent in extents]))
        least = (width / np.array(shape[::-1])).max() if shape is not None else width.max() / LONGEST[d]
        voxels = [_rounded_up(max(float(least), 0.0 if shape is not None else finest))] * d
    else:
        voxels = list(spacing) * (d if len(spacing) == 1 else 1)
    if shape is None:
        counts = np.ceil(width / np.array(voxels) / MULTIPLE - 1e-9).astype(int) * MULTIPLE
        shape = tuple(int(n) for n in np.maximum(counts, 2 * MULTIPLE)[::-1])
    return Grid.centered(shape, voxels)


def _reach(extents: Sequence[Extent], on_labels: bool) -> Float:
    """mm along x, y, z that the labels of all cases reach from the point that the grid is put on."""
    ends = [np.maximum(e.high - e.middle(on_labels), e.middle(on_labels) - e.low) for e in extents]
    return np.asarray(np.max(ends, axis=0), dtype=np.float64)


def _rounded_up(value: float) -> float:
    """To two significant digits, so that people can read it."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.6g}")
