"""Views: straight pictures of volumes, cut out of the WORLD, so that an image on any grid is shown as it lies.

Display follows radiology: the patient's right is on the left of axial and coronal pictures, anterior is up in axial
ones and on the left of sagittal ones, superior is up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # opens its parts when they are first used: the panel need not wait for them
from numpy.typing import ArrayLike, NDArray

from .correspondence import part_around, place_of
from .geometry import VOXEL, WORLD, Float, Grid, Plane
from .topology import foreground_box
from .volume import Volume

#: Title, and where the picture's right and lower sides point (LPS).
_PLANES = (
    ("Axial", (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    ("Coronal", (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    ("Sagittal", (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
)
_TITLE_BY_NORMAL = ("Sagittal", "Coronal", "Axial")
Picture = NDArray[np.floating]

_POSITIVE, _NEGATIVE = "LPS", "RAI"
#: A direction is named after every axis that it follows by more than this (its cosine).
_NAMED_FROM = 0.35
#: σ in voxels of the blur of an outline's mask. Pieces that it brings below the least peak are drawn as they are.
_BLUR, _LEAST_PEAK = 0.6, 0.55
#: Enough points of a mask to know its bounds in the world.
_MOST_POINTS = 500_000


@dataclass(frozen=True)
class View:
    """A square picture of a plane.

    Attributes:
        title: "Axial", "Coronal", "Sagittal", or "" for a 2D image, whose orientation nobody knows.
        position: where the plane lies along its normal, as "S 12 mm"; may be empty.
        grid: 2D, or 3D of one slice; array rows go down and columns to the right of the picture.
        sides: letters at its left, right, top and bottom; empty for a 2D image.
    """

    title: str
    position: str
    grid: Grid
    sides: tuple[str, ...] = ()

    @property
    def pixel(self) -> float:
        """Width of a pixel in mm."""
        return self.grid.spacing[0]

    @property
    def side(self) -> float:
        """Width and height of the picture in mm."""
        return self.grid.extent[0]

    @property
    def right(self) -> Float:
        """WORLD direction of the picture's rightward axis."""
        return np.array(self.grid.direction)[:, 0]

    @property
    def down(self) -> Float:
        """WORLD direction of the picture's downward axis."""
        return np.array(self.grid.direction)[:, 1]


def views_of(image: Grid, center: ArrayLike, low: ArrayLike, high: ArrayLike, pixels: int) -> tuple[View, ...]:
    """The pictures that show a box of the WORLD, all at one scale: three for a 3D image, one for a single slice or 2D.

    Args:
        image: the grid of the image.
        center: WORLD mm through which the planes go.
        low, high: opposite corners of the box, WORLD mm.
        pixels: along each side of a picture.
    """
    lower, upper = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    middle, width = (lower + upper) / 2, float((upper - lower).max())
    if image.ndim == 2:
        pixel = width / pixels
        return (View("", "", Grid.centered((pixels, pixels), (pixel, pixel), middle)),)
    if 1 in image.shape:
        return (_slice_view(image, middle, width / pixels, pixels),)
    views = []
    for title, right, down in _PLANES:
        axes = np.array([right, down, np.cross(right, down)]).T
        normal = int(np.abs(axes[:, 2]).argmax())
        at = middle.copy()
        at[normal] = np.asarray(center, dtype=np.float64)[normal]
        views.append(_view(title, position(normal, at[normal]), image, at, axes, width / pixels, pixels))
    return tuple(views)


def bounds(labels: Volume, background: int) -> tuple[Float, Float] | None:
    """Opposite corners (WORLD mm) of the box around everything in a label map that is not background; None if empty."""
    inside = labels.array[0] != background
    box = foreground_box(inside)
    index = np.argwhere(inside[box])
    if not len(index):
        return None
    index = index[:: max(1, len(index) // _MOST_POINTS)] + [side.start for side in box]
    points = labels.grid.transform_points(index[:, ::-1], WORLD, VOXEL)
    half = np.abs(np.array(labels.grid.direction)) @ np.array(labels.grid.spacing) / 2
    return points.min(axis=0) - half, points.max(axis=0) + half


def sampled(volume: Volume, view: View, interpolation: str, outside: float) -> Picture:
    """A volume's values at the pixels of a view, (rows, columns); `outside` beyond the volume."""
    piece = _piece(volume, view)
    return np.full(view.grid.shape[-2:], outside) if piece is None else _flat(piece, view, interpolation, outside)


def outline(labels: Volume, view: View, value: int) -> Picture:
    """A smooth field (rows, columns) that is above 0.5 inside one label; no piece of the label gets lost in it."""
    piece = _piece(labels, view)
    if piece is None or not (inside := piece.array == value).any():
        return np.zeros(view.grid.shape[-2:], dtype=np.float32)
    # Blurred voxel by voxel, so that thick slices lose their steps and thin ones their detail alike.
    soft = piece.with_array(scipy.ndimage.gaussian_filter(inside[0].astype(np.float32), _BLUR, mode="nearest"))
    field = _flat(soft, view, "linear", 0.0)
    pieces, _ = scipy.ndimage.label(_flat(piece.with_array(inside), view, "nearest", 0.0), np.ones((3, 3)))
    kept = np.zeros(int(pieces.max()) + 1, dtype=np.bool_)
    kept[pieces[field >= _LEAST_PEAK]] = True
    kept[0] = True
    return np.maximum(field, (~kept[pieces]).astype(np.float32))


def _piece(volume: Volume, view: View) -> Volume | None:
    """The part of a volume that a view needs; None where it shows nothing of it."""
    part = part_around(volume.grid, view.grid.corners(), 2 * max(volume.grid.spacing))
    if part is None:
        return None
    return Volume(volume.array[(slice(None), *place_of(part, volume.grid))], part, volume.name)


def _flat(piece: Volume, view: View, interpolation: str, outside: float) -> Picture:
    values = piece.resampled(view.grid, interpolation, outside, antialias=interpolation == "linear").array[0]
    return np.asarray(values.reshape(view.grid.shape[-2:]), dtype=np.float32)


def letters(direction: ArrayLike) -> str:
    """What a WORLD (LPS) direction points to: "L", "RA", …, strongest first."""
    d = np.asarray(direction, dtype=np.float64)
    order = [int(i) for i in np.argsort(-np.abs(d), kind="stable") if abs(d[i]) > _NAMED_FROM]
    return "".join(_POSITIVE[i] if d[i] > 0 else _NEGATIVE[i] for i in order)


def _slice_view(image: Grid, middle: Float, pixel: float, pixels: int) -> View:
    """The view of a single slice along its own axes, turned as radiology shows the nearest plane."""
    turn = Plane.of(image).world_from_plane[:3, :3]
    right, down = turn[:, 0], turn[:, 1]
    if np.abs(down).argmax() == 2:
        down = -down  # superior is up, whereas posterior, the other possibility, is down
    axes = np.stack([right, down, np.cross(right, down)], axis=1)
    normal = int(np.abs(axes[:, 2]).argmax())
    at = middle + axes[:, 2] * float((np.array(image.center) - middle) @ axes[:, 2])
    return _view(_TITLE_BY_NORMAL[normal], position(normal, at[normal]), image, at, axes, pixel, pixels)


def _view(title: str, position: str, image: Grid, at: Float, axes: Float, pixel: float, pixels: int) -> View:
    grid = Grid.centered((1, pixels, pixels), (pixel, pixel, min(image.spacing)), at, axes)
    sides = tuple(letters(d) for d in (-axes[:, 0], axes[:, 0], -axes[:, 1], axes[:, 1]))
    return View(title, position, grid, sides)


def position(axis: int, mm: float) -> str:
    """A WORLD coordinate along x, y or z as radiology writes it: "S 12 mm"."""
    names: Sequence[str] = _POSITIVE if mm >= 0 else _NEGATIVE
    return f"{names[axis]} {abs(mm):.0f} mm"


__all__ = ["View", "bounds", "letters", "outline", "position", "sampled", "views_of"]
