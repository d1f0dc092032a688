"""Topology of label masks: connected components, holes, tunnels and the Euler number, in 2D and 3D by one code.

Digital topology needs two adjacencies that belong together, one for the foreground and the complementary one for the
background (Kong and Rosenfeld, "Digital topology: introduction and survey", CVGIP 48, 1989):

- "full" (the default): foreground voxels that share a corner are connected (8 neighbours in 2D, 26 in 3D), background
  voxels only across faces (4 and 6). The foreground is then the union of closed voxels.
- "face": the other way round (foreground 4 and 6, background 8 and 26).

Every mask is seen with background around it, so that a shape which touches the image's border counts as it would in a
larger image. Voxel sizes play no part.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy  # opens its parts when they are first used: the panel need not wait for them
from numpy.typing import ArrayLike, NDArray

from .errors import ConfigError, GeometryError, VolumeError
from .volume import Volume, checked_labels

#: Adjacencies of the foreground; the background has the complementary one.
CONNECTIVITIES = ("full", "face")

Box = tuple[slice, ...]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Topology:
    """Numbers that no stretching of a shape changes.

    Attributes:
        components: connected components of the foreground (Betti number b0).
        holes: background components that the foreground encloses. In 3D these are cavities (b2), in 2D the holes of the
            drawing (b1).
        tunnels: ways through, as in a ring (b1); always 0 in 2D, where they are the holes.
        euler: components - tunnels + cavities in 3D, components - holes in 2D.
    """

    components: int
    holes: int
    tunnels: int
    euler: int


def topology(labels: Volume, connectivity: str = "full") -> Mapping[int, Topology]:
    """Topology of every label but the background 0, by label value in rising order.

    Args:
        labels: one channel of whole numbers, 2D or 3D.
        connectivity: adjacency of the foreground, "full" or "face"; see the module.

    Raises:
        VolumeError: several channels, or values that are not whole numbers of 0 or more.
        ConfigError: an unknown connectivity.
    """
    array = checked_labels(labels)
    boxes = label_boxes(array, labels.name or "the label map")
    return MappingProxyType({k: mask_topology(array[box] == k, connectivity) for k, box in boxes.items()})


def mask_topology(mask: ArrayLike, connectivity: str = "full") -> Topology:
    """Topology of the non-zero voxels of a mask (Z, Y, X) or (Y, X); an empty mask gives zeros.

    Raises:
        ConfigError: an unknown connectivity.
        GeometryError: the mask is neither 2D nor 3D.
    """
    padded = _padded(mask)
    d = padded.ndim
    foreground, background = _structures(d, connectivity)
    components = _count(padded, foreground)
    # The padding joins everything that reaches the border into one outer background component, which is no hole.
    holes = _count(~padded, background) - 1
    euler = _euler(padded, connectivity)
    return Topology(components, holes, components + holes - euler if d == 3 else 0, euler)


def euler_number(mask: ArrayLike, connectivity: str = "full") -> int:
    """Euler number of the non-zero voxels of a mask (Z, Y, X) or (Y, X), from the cells of its cubical complex.

    A ball has 1, a hollow ball 2, a solid ring 0; in 2D a disc 1 and the letter B -1. It is the alternating sum of the
    numbers of cells, vertices - edges + squares - cubes. With "full" the cells are those of the closed voxels: a cell
    belongs where any voxel around it does. With "face" they are those of the dual complex: voxel centres, and the
    edges, squares and cubes between centres that are all foreground.

    Raises:
        ConfigError: an unknown connectivity.
        GeometryError: the mask is neither 2D nor 3D.
    """
    _structures(2, connectivity)
    return _euler(_padded(mask), connectivity)


def label_boxes(labels: NDArray[Any], name: str = "the label map") -> dict[int, Box]:
    """The bounding box of every label above 0 in an array of whole numbers, by label in rising order.

    Raises:
        VolumeError: a label is negative.
    """
    if labels.size == 0:
        return {}
    if (lowest := int(labels.min())) < 0:
        raise VolumeError(f"{name} holds the negative label {lowest}", "number the labels from 1; 0 is the background")
    values: NDArray[Any] | None = None
    if int(labels.max()) > np.iinfo(np.uint16).max:
        # The search for boxes keeps a list as long as the largest label, so enormous ones are renumbered first.
        values, inverse = np.unique(np.append(labels.ravel(), 0), return_inverse=True)
        labels = inverse[:-1].reshape(labels.shape)
    found: list[Box | None] = list(scipy.ndimage.find_objects(labels))
    return {int(values[i]) if values is not None else i: box for i, box in enumerate(found, 1) if box is not None}


def foreground_box(mask: Mask) -> Box:
    """The bounding box of a mask's foreground; of an empty mask, an empty box."""
    return label_boxes(mask.view(np.uint8)).get(1, (slice(0, 0),) * mask.ndim)


def _padded(mask: ArrayLike) -> Mask:
    array = np.asarray(mask) != 0
    if array.ndim not in (2, 3):
        raise GeometryError(f"a mask has 2 or 3 axes, not shape {array.shape}")
    return np.pad(array[foreground_box(array)], 1)


def _structures(d: int, connectivity: str) -> tuple[Mask, Mask]:
    """Neighbourhoods of foreground and background."""
    if connectivity not in CONNECTIVITIES:
        raise ConfigError(f"no connectivity '{connectivity}'", f"use one of {list(CONNECTIVITIES)}")
    full, face = scipy.ndimage.generate_binary_structure(d, d), scipy.ndimage.generate_binary_structure(d, 1)
    return (full, face) if connectivity == "full" else (face, full)


def _count(mask: Mask, structure: Mask) -> int:
    return int(scipy.ndimage.label(mask, structure)[1])


def _euler(padded: Mask, connectivity: str) -> int:
    d = padded.ndim
    join = np.logical_or if connectivity == "full" else np.logical_and
    total = 0
    for spans in itertools.product((False, True), repeat=d):
        cells = padded
        for axis in (i for i, spanned in enumerate(spans) if spanned):
            low, high = [slice(None)] * d, [slice(None)] * d
            low[axis], high[axis] = slice(None, -1), slice(1, None)
            cells = join(cells[tuple(low)], cells[tuple(high)])
        # A cell between neighbours along n axes has dimension d - n among closed voxels and n in the dual complex.
        dimension = d - sum(spans) if connectivity == "full" else sum(spans)
        total += (-1) ** dimension * int(np.count_nonzero(cells))
    return total
