"""Placing the model grid on an image: at its centre, where the user says, or where the ITN finds the anatomy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from .bundle import Bundle
from .configs import PlacementConfig
from .datasets import normalised
from .errors import ConfigError, GeometryError
from .geometry import VOXEL, WORLD, Float, Grid
from .grids import larger
from .networks import ITN_MULTIPLE
from .progress import Cancel, Progress, Report, never, silent, stop_if
from .volume import Volume
from .warp import sample

#: The whole image goes through the ITN in slabs of at most so many voxels, overlapping by the ITN's reach.
_SLAB_VOXELS = 1 << 22
#: The same where memory is short: their overlaps then cost more than they do.
SMALL_SLAB_VOXELS = 1 << 19
_REACH = 6 * ITN_MULTIPLE
#: Less foreground than this share of the atlas's own, and nothing was found.
_LEAST_MASS = 0.05
#: So many places are compared at most: pieces of at least this share of the largest one, so far apart as this share of
#: the model grid's shortest side.
_MOST_CANDIDATES, _LEAST_PIECE, _APART = 4, 0.15, 0.05


@dataclass(frozen=True)
class Placement:
    """Where the model grid lies on an image.

    Attributes:
        grid: in WORLD.
        how: "auto", "center", "given" or "target".
        warnings: what the user should know of it.
    """

    grid: Grid
    how: str
    warnings: tuple[str, ...] = ()


def place(
    bundle: Bundle,
    image: Volume,
    config: PlacementConfig,
    report: Report = silent,
    cancel: Cancel = never,
    slab_voxels: int | None = None,
) -> Placement:
    """Place the model grid; its directions and spacing are the model's, only its centre is sought.

    Args:
        image: of the model's dimension.
        config: how.
        report: gets stage "place".
        cancel: asked before each slab of the image.
        slab_voxels: how much of the image goes through the ITN at once, at most.

    Raises:
        ConfigError: a given centre or box has another dimension, or lies outside the image.
        Cancelled: stopped while looking.
    """
    grid = bundle.grid
    if config.how == "given":
        return _given(grid, image, config)
    with_itn = bundle.config.stn_input == "prediction"  # a model of images has nothing to look with
    if config.how == "auto" and with_itn and larger(image.grid, grid):
        return _found(bundle, image, report, cancel, slab_voxels)
    return Placement(_at(grid, np.array(image.grid.center)), "center")


def place_on(bundle: Bundle, image: Volume, foreground: Volume, config: PlacementConfig) -> Placement:
    """Place the model grid on given labels, where it is not given itself.

    Args:
        bundle: the model.
        image: of the model's dimension.
        foreground: weight of all structures in [0, 1], in the image's world.
        config: "auto" takes the place that holds most of the foreground, as the atlas has it.

    Raises:
        ConfigError: as `place`.
        GeometryError: the foreground lies outside the image.
    """
    grid = bundle.grid
    if config.how == "given":
        return _given(grid, image, config)
    if config.how == "center":
        return Placement(_at(grid, np.array(image.grid.center)), "center")
    mass = foreground.resampled(_covering(foreground.grid, grid), antialias=True)
    values, atlas_mass = mass.array[0].astype(np.float64), bundle.model.atlas_labels[1:].sum(dim=0).clamp(0, 1)
    offset = _centroid(atlas_mass.cpu().numpy(), grid, grid) - np.array(grid.center)
    center = _heaviest(values, mass.grid, grid, offset)
    if not image.grid.contains(center + offset):
        place = tuple(np.round(center + offset, 1).tolist())
        raise GeometryError(
            f"{foreground.name or 'the target'} lies outside {image.name or 'the image'}, about {place} mm",
            "do both belong to one scan, in one world?",
        )
    return Placement(_at(grid, center), "target")


def touching(labels: NDArray[np.integer], names: dict[int, str]) -> list[str]:
    """Names of the labels whose largest piece reaches the outermost voxels of a label map (Z, Y, X) or (Y, X).

    Islands at the border, which a network sees in noise, do not count.
    """
    border = np.ones(labels.shape, dtype=bool)
    border[tuple(slice(1, -1) for _ in labels.shape)] = False
    found = []
    for value in set(np.unique(labels[border]).tolist()) & set(names):
        pieces, _ = ndimage.label(labels == value)
        largest = np.bincount(pieces.ravel())[1:].argmax() + 1
        if (pieces[border] == largest).any():
            found.append(value)
    return [name for value, name in names.items() if value in found]


def _at(grid: Grid, center: Float) -> Grid:
    return Grid.centered(grid.shape, grid.spacing, center, grid.direction)


def _given(grid: Grid, image: Volume, config: PlacementConfig) -> Placement:
    d = grid.ndim
    if config.center is not None:
        values, center = config.center, np.array(config.center)
    else:
        values = config.box or ()
        low, high = np.array(values[::2]), np.array(values[1::2])
        center = (low + high) / 2
    if len(center) != d:
        raise ConfigError(f"the placement {tuple(values)} is not for a {d}D model", f"give {d} coordinates in LPS mm")
    if not image.grid.contains(center):
        corners = image.grid.corners()
        span = " ".join(f"{a:g}..{b:g}" for a, b in zip(corners.min(axis=0), corners.max(axis=0), strict=True))
        raise ConfigError(
            f"the model grid's centre {tuple(center.tolist())} lies outside the image",
            f"the image covers {span} mm (LPS)",
        )
    warnings = []
    if (
        config.box is not None
        and (np.array(config.box[1::2]) - np.array(config.box[::2]) > np.array(grid.extent)).any()
    ):
        size = " x ".join(f"{e:g}" for e in grid.extent)
        warnings.append(f"The box is larger than the model grid ({size} mm): only its middle is segmented.")
    return Placement(_at(grid, center), "given", tuple(warnings))


def _found(bundle: Bundle, image: Volume, report: Report, cancel: Cancel, slab_voxels: int | None) -> Placement:
    """Run the ITN over the whole image, and centre the grid on that part of its foreground that the atlas explains."""
    grid = bundle.grid
    mass = foreground_mass(bundle, image, report, cancel, slab_voxels)
    atlas_mass = bundle.model.atlas_labels[1:].sum(dim=0).clamp(0, 1).cpu().numpy()
    if mass.array.sum() < _LEAST_MASS * atlas_mass.sum():
        return Placement(
            _at(grid, np.array(image.grid.center)),
            "center",
            ("The anatomy was not found in the image; the model grid was placed at the image's centre.",),
        )
    found = []
    for center in _candidates(mass, atlas_mass, grid):
        stop_if(cancel, "looking for the anatomy")
        found.append((*agreement(bundle, image, _at(grid, center)), center))
    score, shift, center = max(found, key=lambda place: place[0])
    if shift is not None and agreement(bundle, image, _at(grid, center + shift))[0] > score:
        center = center + shift
    return Placement(_at(grid, center), "auto")


def _candidates(mass: Volume, atlas_mass: NDArray[np.floating], grid: Grid) -> list[Float]:
    """Centres of the model grid at which the anatomy may be: where most of the mass is, then at its largest pieces.

    Something else that looks like the anatomy, as a vertebra does like a heart full of contrast, may outweigh it or
    pull the centre of both to a place between them.
    """
    values = mass.array[0].astype(np.float64)
    offset = _centroid(atlas_mass, grid, grid) - np.array(grid.center)
    centers = [_heaviest(values, mass.grid, grid, offset)]
    pieces, count = ndimage.label(values > 0)
    weights = ndimage.sum_labels(values, pieces, np.arange(1, count + 1)) if count > 1 else np.zeros(0)
    order = np.argsort(weights)[::-1][: _MOST_CANDIDATES - 1]
    for piece in order[weights[order] >= _LEAST_PIECE * weights.max(initial=0)] + 1:
        middle = np.array(ndimage.center_of_mass(values, pieces, int(piece)))[::-1]
        center = mass.grid.transform_points(middle, WORLD, VOXEL) - offset
        if all(np.linalg.norm(center - other) > _APART * min(grid.extent) for other in centers):
            centers.append(center)
    return centers


def _heaviest(values: NDArray[np.float64], points: Grid, grid: Grid, offset: Float) -> Float:
    """The centre of the window of the model grid's size that holds most of the mass, moved onto the mass in it."""
    sizes = [min(n, m) for n, m in zip(grid.shape, values.shape, strict=True)]
    window = ndimage.uniform_filter(values, size=sizes, mode="constant")
    center = points.transform_points(np.array(np.unravel_index(window.argmax(), values.shape)[::-1]), WORLD, VOXEL)
    for _ in range(8):
        moved = _centroid(values, points, _at(grid, center)) - offset
        done = np.linalg.norm(moved - center) < 0.1 * min(grid.spacing)
        center = moved
        if done:
            break
    return center


@torch.no_grad()
def agreement(bundle: Bundle, image: Volume, grid: Grid) -> tuple[float, Float | None]:
    """How well the atlas, registered in one pass, explains what the ITN sees on a grid.

    Returns:
        the labels' mean soft Dice, and how far in mm the warped atlas's centroid lies from the atlas's own (None where
        nothing of it is on the grid): moving the grid by so much brings the anatomy to where the atlas has it.
    """
    model = bundle.model
    normal = torch.from_numpy(normalised(image, grid, bundle.normalisation).array.copy())
    prediction, warp = model(normal.unsqueeze(0).to(bundle.device))
    seen = prediction[0, 1:].clamp(0, 1)
    warped = sample(model.atlas_labels[1:].unsqueeze(0), warp.atlas_from_image())[0].clamp(0, 1)
    axes = tuple(range(1, seen.ndim))
    overlap = 2 * (seen * warped).sum(axes) / (seen.square().sum(axes) + warped.square().sum(axes)).clamp_min(1e-6)
    masses = [part.sum(dim=0).double().cpu().numpy() for part in (warped, model.atlas_labels[1:].clamp(0, 1))]
    if masses[0].sum() <= 0:
        return float(overlap.mean()), None
    there, own = (_centroid(mass, grid, grid) for mass in masses)
    return float(overlap.mean()), there - own


def foreground_mass(
    bundle: Bundle,
    image: Volume,
    report: Report = silent,
    cancel: Cancel = never,
    slab_voxels: int | None = None,
) -> Volume:
    """The ITN's foreground weight in [0, 1] over the whole image at the model's spacing and directions."""
    grid = _covering(image.grid, bundle.grid)
    normal = torch.from_numpy(normalised(image, grid, bundle.normalisation).array.copy())
    slab = slab_voxels or _SLAB_VOXELS
    rows = max(ITN_MULTIPLE, slab // int(np.prod(grid.shape[1:])) // ITN_MULTIPLE * ITN_MULTIPLE)
    parts = []
    for low in range(0, grid.shape[0], rows):
        stop_if(cancel, "looking for the anatomy")
        start, stop = max(0, low - _REACH), min(grid.shape[0], low + rows + _REACH)
        with torch.no_grad():
            soft = bundle.model.itn(normal[:, start:stop].unsqueeze(0).to(bundle.device))[0]
        weight = soft[1:].amax(dim=0).clamp(0, 1)
        parts.append(torch.where(weight > 0.5, weight, 0.0)[low - start : low - start + rows].cpu().numpy())
        report(Progress("place", min(low + rows, grid.shape[0]), grid.shape[0]))
    return Volume.from_array(np.concatenate(parts), grid, "foreground")


def _covering(image: Grid, grid: Grid) -> Grid:
    """The grid of a model's directions and spacing that covers a whole image."""
    axes = np.array(grid.direction)
    along = image.corners() @ axes
    low, high = along.min(axis=0), along.max(axis=0)
    size = [max(1, int(np.ceil((b - a) / s))) for a, b, s in zip(low, high, grid.spacing, strict=True)]
    return Grid.centered(size[::-1], grid.spacing, axes @ ((low + high) / 2), axes)


def _centroid(values: NDArray[np.floating], grid: Grid, within: Grid) -> Float:
    """WORLD centroid of the values within another grid of the same directions; its centre if there are none."""
    corners = grid.transform_points(within.corners(), VOXEL, WORLD)
    low, high = corners.min(axis=0)[::-1], corners.max(axis=0)[::-1]
    place = tuple(slice(max(0, int(np.ceil(a))), max(0, int(np.floor(b)) + 1)) for a, b in zip(low, high, strict=True))
    part = values[place]
    total = part.sum()
    if part.size == 0 or total <= 0:
        return np.array(within.center)
    sums = [
        (
            part.sum(axis=tuple(j for j in range(part.ndim) if j != axis))
            * np.arange(place[axis].start, place[axis].start + n)
        ).sum()
        for axis, n in enumerate(part.shape)
    ]
    return grid.transform_points(np.array(sums[::-1]) / total, WORLD, VOXEL)
