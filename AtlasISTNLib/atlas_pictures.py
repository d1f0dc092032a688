"""Pictures of an atlas as plain arrays: middle slices of its image and of its labels, as they lie in the world."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bundle import Label
from .geometry import Grid
from .views import Picture, View, bounds, sampled, views_of
from .volume import Volume

#: Percentiles of the grey values that become black and white.
_RANGE = (0.5, 99.5)
#: Golden section: hues that follow one another in its steps stay far apart.
_GOLDEN = 0.618034
Colors = NDArray[np.float64]


def atlas_views(soft: Volume, pixels: int) -> tuple[View, ...]:
    """The views of an atlas: all of its grid, in three planes through the middle of its structures in 3D.

    Args:
        soft: label map, (K, *shape), background first.
        pixels: along each side of a view.
    """
    grid = soft.grid
    corners = grid.corners()
    box = bounds(Volume.from_array(soft.array.argmax(axis=0), grid), 0)
    center = grid.center if box is None else (box[0] + box[1]) / 2
    return views_of(grid, center, corners.min(axis=0), corners.max(axis=0), pixels)


def grey_range(*images: Volume) -> tuple[float, float]:
    """The values that become black and white where several images are to be compared."""
    low, high = np.percentile(np.concatenate([image.array.ravel() for image in images]), _RANGE).tolist()
    return low, high if high > low else low + 1.0


def grey(image: Volume, view: View, between: tuple[float, float]) -> Picture:
    """An image in a view, (rows, columns), 0 for black to 1 for white; black beyond the image."""
    low, high = between
    values = sampled(image, view, "linear", np.nan)
    return np.nan_to_num(np.clip((values - low) / (high - low), 0, 1), nan=0.0)


def mixed(soft: Volume, view: View, colors: ArrayLike) -> Colors:
    """A soft label map in a view, (rows, columns, RGB): each colour by the share of its label, black for none.

    Args:
        soft: (K, *shape), background first.
        colors: RGB from 0 to 1 of the K − 1 structures.
    """
    picture = np.zeros((*view.grid.shape[-2:], 3))
    for channel, color in zip(soft.array[1:], np.asarray(colors, dtype=np.float64), strict=True):
        share = sampled(Volume.from_array(channel, soft.grid), view, "linear", 0.0)
        picture += np.clip(share, 0, 1)[..., np.newaxis] * color
    return np.clip(picture, 0, 1)


def painted(soft: Volume, view: View, colors: ArrayLike) -> Colors:
    """The same with the colour of the strongest label at each voxel."""
    table = np.concatenate([np.zeros((1, 3)), np.asarray(colors, dtype=np.float64).reshape(-1, 3)])
    codes = Volume.from_array(soft.array.argmax(axis=0).astype(np.int32), soft.grid)
    index: NDArray[np.int64] = np.rint(sampled(codes, view, "nearest", 0.0)).astype(np.int64)
    return np.asarray(table[index], dtype=np.float64)


def colors_of(labels: Sequence[Label], count: int) -> list[tuple[float, ...]]:
    """RGB from 0 to 1 of `count` structures: those of the labels (background first), or some that are told apart."""
    if len(labels) == count + 1:
        return [tuple(part / 255 for part in label.color) for label in labels[1:]]
    return [distinct_color(index) for index in range(count)]


def distinct_color(index: int) -> tuple[float, float, float]:
    """RGB from 0 to 1 of the structure with this number, told apart from those before it."""
    return colorsys.hsv_to_rgb((index * _GOLDEN) % 1, 0.6, 0.9)


def atlas_volumes(image: ArrayLike, labels: ArrayLike, grid: Grid | None) -> tuple[Volume, Volume]:
    """Arrays (1, *shape) and (K, *shape) as volumes; on voxels of 1 mm where no grid is known."""
    soft = np.asarray(labels, dtype=np.float32)
    shape = soft.shape[1:]
    where = Grid.centered(shape, (1.0,) * len(shape)) if grid is None else grid
    return Volume.from_array(np.asarray(image, dtype=np.float32), where), Volume.from_array(soft, where)
