"""The local change of volume from the atlas to the patient, and its colours. No MRML."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from AtlasISTNLib.correspondence import ATLAS_FROM_IMAGE, Correspondence, carried
from AtlasISTNLib.folding import jacobian_determinant
from AtlasISTNLib.geometry import VOXEL, WORLD, Float, Grid
from AtlasISTNLib.volume import Volume

#: What folded places are given, which have no volume of their own.
SMALLEST = 0.01
#: Ends of the colour scale: from 1/L to L.
LIMITS = (1.25, 1.5, 2.0, 3.0, 4.0)
COLORS = 256
# Compressed, unchanged, stretched. Blue and red that are told apart without green, grey between (Moreland, "Diverging
# color maps for scientific visualization", 2009).
_BLUE, _GREY, _RED = (0.230, 0.299, 0.754), (0.865, 0.865, 0.865), (0.706, 0.016, 0.150)


def jacobian_volume(correspondence: Correspondence) -> Volume:
    """New volume per old volume of the map from the atlas to the image, at the image: (1, *shape), float32.

    Returns:
        a volume on the model grid where it was placed on the image: 1 where nothing changes, below 1 where the atlas is
        compressed, above where it is stretched, `SMALLEST` where the map folds. Places to which the atlas does not
        reach have the value of its border. For 2D, areas.
    """
    atlas, placed = correspondence.atlas_grid, correspondence.image_grid
    points = placed.transform_points(correspondence.image_from_atlas(atlas.points(WORLD)), VOXEL, WORLD)
    if atlas.ndim == 3 and atlas.shape[0] == 1:
        determinant = jacobian_determinant(points[0, ..., :2])[np.newaxis]  # a 2D model's map, lifted to a slice
    else:
        determinant = jacobian_determinant(points)
    determinant = determinant * placed.voxel_volume / atlas.voxel_volume
    values = np.maximum(determinant, SMALLEST).astype(np.float32)
    known = _extended(values, atlas, correspondence.atlas_from_image(placed.points(WORLD)))
    return carried(known, placed, correspondence.transform(ATLAS_FROM_IMAGE))


def _extended(values: NDArray[np.float32], grid: Grid, points: Float) -> Volume:
    """Values on a grid, which grows as far as WORLD points (..., D) reach; border values there."""
    index = grid.transform_points(points.reshape(-1, grid.ndim), VOXEL, WORLD)[:, ::-1]
    below = np.ceil(np.maximum(-index.min(axis=0), 0)).astype(int) + 1
    above = np.ceil(np.maximum(index.max(axis=0) - grid.shape + 1, 0)).astype(int) + 1
    padded = np.pad(values, list(zip(below, above, strict=True)), mode="edge")
    return Volume.from_array(padded, grid.box((-below).tolist(), (grid.shape + above).tolist()), "Jacobian")


def color_limit(values: NDArray[np.floating]) -> float:
    """The end L of the colour scale [1/L, L] that shows nearly all of the values without saturation."""
    needed = float(np.exp(np.percentile(np.abs(np.log(values)), 98)))
    return next((limit for limit in LIMITS if needed <= limit), LIMITS[-1])


def colors(limit: float) -> NDArray[np.float64]:
    """RGB in [0, 1] of values at even steps from 1/limit to limit, (COLORS, 3); symmetric about 1 in the logarithm."""
    values = np.linspace(1 / limit, limit, COLORS)
    t = (np.log(values) / np.log(limit))[:, np.newaxis]
    ends = np.where(t < 0, np.array(_BLUE), np.array(_RED))
    return np.asarray(np.array(_GREY) + np.abs(t) * (ends - np.array(_GREY)), dtype=np.float64)
