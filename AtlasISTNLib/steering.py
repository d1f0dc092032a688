"""Steering: what a user can say besides λ* about where the atlas is to go on one case.

A `Steering` is plain values and volumes; it is checked against a model here, and brought to the model grid. Needs no
torch. What it does to the loss L* (Sinclair et al. 2022, doi:10.1016/j.media.2022.102383) is in `guidance`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .correspondence import part_around, place_of
from .datasets import soft_labels
from .errors import ConfigError, GeometryError, VolumeError
from .geometry import Float, Grid, Plane, transform_points
from .manifest import Label
from .volume import Volume, checked_labels, flattened

#: Of a landmark pair, in the loss: per mm² of the mean squared distance.
LANDMARK_WEIGHT = 0.001
#: σ in voxels of the blur of a label map that is a target: as trained and published.
_BLUR = 0.5
#: Probabilities that were interpolated, or come from a network without a softmax, leave [0, 1] by so much at most.
_BEYOND = 0.5
#: A landmark lies on a single slice when it is no farther off than half its thickness, or than this many mm.
_OFF_SLICE_MM = 1.0
_LPS = "give LPS millimetres: RAS ones have x and y with the other sign"


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Pairs of points that belong together: the atlas is pulled until each lies on its partner.

    Attributes:
        atlas: (P, D) in atlas space, LPS mm, x, y, z.
        image: (P, D) on the image, LPS mm; for single slices of a volume D is 3, and z = 0 in the atlas.
        weight: w of the term w · mean_p ‖image_from_atlas(p) − q‖², per mm²; at least 0.
        names: of the pairs, for people; numbers from 1 without.

    Raises:
        ConfigError: the two do not pair, there are none, or a number is not finite.
    """

    atlas: Float
    image: Float
    weight: float = LANDMARK_WEIGHT
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in ("atlas", "image"):
            object.__setattr__(self, key, _points(key, getattr(self, key)))
        if self.atlas.shape != self.image.shape:
            raise ConfigError(
                f"there are {len(self.atlas)} landmarks of {self.atlas.shape[1]} coordinates in the atlas and "
                f"{len(self.image)} of {self.image.shape[1]} on the image",
                "give each landmark in both places",
            )
        _weight("the landmarks' weight", self.weight)
        names = tuple(str(name) for name in self.names) or tuple(str(i + 1) for i in range(len(self.atlas)))
        if len(names) != len(self.atlas):
            raise ConfigError(f"there are {len(self.atlas)} landmarks but {len(names)} names")
        object.__setattr__(self, "names", names)

    def __len__(self) -> int:
        return len(self.atlas)


@dataclass(frozen=True, eq=False)
class Steering:
    """What steers a refinement; the default steers nothing.

    Attributes:
        target: what the atlas is fitted to in place of the ITN's prediction, on any grid of the image's world: a label
            map with the model's label values, or K soft labels as channels, background first.
        ignore: a mask on any grid of the image's world; where it is not 0, the labels do not pull.
        landmarks: pairs of points that are to meet.
        label_weights: by label value, how much harder than usual a structure pulls; 0 switches it off, 1 is as usual.
        certainty: labels pull less where what the atlas is fitted to is uncertain.
        target_map: which of the target's values is which of the model's; what is not in it counts as background.

    Raises:
        ConfigError: a weight is negative or not finite, or a map comes without a target.
    """

    target: Volume | None = None
    ignore: Volume | None = None
    landmarks: Landmarks | None = None
    label_weights: Mapping[int, float] | None = None
    certainty: bool = False
    target_map: Mapping[int, int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for value, weight in (self.label_weights or {}).items():
            _weight(f"the weight of label {value}", weight)
        if not isinstance(self.certainty, bool):
            raise ConfigError(f"certainty is true or false, not {self.certainty!r}")
        if self.target_map is not None and self.target is None:
            raise ConfigError("a map of a target's values comes without a target", "give the target, too")
        for key in ("label_weights", "target_map"):
            if getattr(self, key) is not None:
                object.__setattr__(self, key, MappingProxyType(dict(getattr(self, key))))

    def __bool__(self) -> bool:
        volumes = self.target is not None or self.ignore is not None
        weighted = any(weight != 1 for weight in (self.label_weights or {}).values())
        return volumes or weighted or self.certainty or self.landmarks is not None


def check_steering(steering: Steering, labels: Sequence[Label], atlas: Grid, image: Grid) -> None:
    """Refuse, before any heavy work, what cannot steer a model on an image.

    Args:
        steering: what is wanted.
        labels: the model's, background first.
        atlas: the model's grid in atlas space.
        image: the image's own grid.

    Raises:
        ConfigError: a label is not the model's, nothing would pull, or a landmark lies outside the atlas or the image.
        VolumeError: the target or the mask is not what it should be.
        GeometryError: the target or the mask is of another dimension than the image.
    """
    known = {label.value: label.name for label in labels[1:]}
    for value in steering.label_weights or {}:
        _check_known(value, known, "a weight is given for")
    if steering.target is not None:
        check_target(steering.target, steering.target_map, labels, image)
    if steering.ignore is not None:
        check_mask(steering.ignore, image)
    weights = [(steering.label_weights or {}).get(value, 1.0) for value in known]
    if not any(weights) and steering.landmarks is None:
        raise ConfigError("all labels are switched off: nothing would pull the atlas", "leave one of them on")
    if steering.landmarks is not None:
        in_model(steering.landmarks, atlas, image)


def check_target(target: Volume, mapping: Mapping[int, int] | None, labels: Sequence[Label], image: Grid) -> None:
    """Refuse a target that a model cannot be fitted to; see `Steering`.

    Raises:
        ConfigError: the map names labels that the model has not, or maps channels.
        VolumeError: unknown label values, no structure at all, a wrong number of channels, or no probabilities.
        GeometryError: of another dimension than the image.
    """
    name, known = target.name or "the target", {label.value: label.name for label in labels}
    _check_dimension(name, target.grid, image)
    if target.array.shape[0] > 1:
        _check_channels(target, mapping, len(labels), name)
        return
    found = set(np.unique(checked_labels(target)).tolist())
    for value in (mapping or {}).values():
        _check_known(value, known, f"the map of {name}'s values leads to")
    if mapping is None:
        unknown = sorted(found - set(known) - {0})
        if unknown:
            values = ", ".join(f"{value} {label}" for value, label in known.items())
            raise VolumeError(
                f"{name} holds the values {unknown[:8]}, which the model has not ({values})",
                "say which value is which of the model's labels, such as 5=1",
            )
        reached = found - {0, labels[0].value}
    else:
        reached = {mapping[value] for value in found if value in mapping} - {labels[0].value}
    if not reached:
        hint = "is it the right label map?" if mapping is None else f"it holds {sorted(found)[:8]}; check the map"
        raise VolumeError(f"{name} holds none of the model's structures", hint)


def check_mask(mask: Volume, image: Grid) -> None:
    """Refuse what is no mask: several channels, values that are not finite, or another dimension than the image's.

    Raises:
        VolumeError, GeometryError: it is none.
    """
    name = mask.name or "the mask"
    _check_dimension(name, mask.grid, image)
    if mask.array.shape[0] != 1:
        raise VolumeError(f"{name} has {mask.array.shape[0]} channels", "give a mask with one number per voxel")
    if mask.array.dtype.kind == "f" and not np.isfinite(mask.array).all():
        raise VolumeError(f"{name} holds values that are NaN or infinite", "give a mask of zeros and ones")


def soft_target(
    target: Volume, mapping: Mapping[int, int] | None, labels: Sequence[Label], grid: Grid
) -> NDArray[np.float32]:
    """A target as soft labels on the model grid, (K, *shape), summing to 1; beyond the target lies background.

    Each label is averaged over the grid's voxels by itself; a label map is blurred with σ = 0.5 voxel besides, as the
    labels that the ITN was trained on.

    Raises:
        VolumeError: none of the model's structures lies on the grid.
    """
    near = _around(target, grid)
    if target.array.shape[0] > 1:
        soft = near.resampled(grid, "linear", 0.0, antialias=True).array.clip(0, 1)
        rest = 1 - soft[1:].sum(axis=0, keepdims=True)
        soft = np.concatenate([np.maximum(soft[:1], rest), soft[1:]])
        soft = (soft / soft.sum(axis=0, keepdims=True)).astype(np.float32)
    else:
        soft = soft_labels(_mapped(near, mapping), [label.value for label in labels], grid, _BLUR)
    if not (soft[1:].sum(axis=0) > 0.25).any():
        raise VolumeError(
            f"no structure of {target.name or 'the target'} lies on the model grid",
            "does it belong to this image? else place the grid on it",
        )
    return soft


def target_foreground(target: Volume, mapping: Mapping[int, int] | None, labels: Sequence[Label]) -> Volume:
    """Weight of all structures of a target at its own voxels, in [0, 1]; float32."""
    if target.array.shape[0] > 1:
        return target.with_array(target.array[1:].sum(axis=0).clip(0, 1).astype(np.float32))
    values = [label.value for label in labels[1:]]
    return target.with_array(np.isin(checked_labels(_mapped(target, mapping)), values).astype(np.float32))


def on_slice(target: Volume, slab: Grid) -> Volume:
    """What of a 3D target lies on a single slice, as the 2D volume that the model sees."""
    soft = target.array.shape[0] > 1
    return flattened(target.resampled(slab, "linear" if soft else "nearest", 0.0))[0]


def kept_share(mask: Volume, grid: Grid) -> NDArray[np.float32]:
    """How much each voxel of the model grid is to count, (*shape): 0 where half of it or more is to be ignored, to 1.

    A voxel that is partly ignored was partly seen through what is to be ignored; so it loses twice its share.
    """
    near = _around(mask, grid)
    share = near.with_array((near.array != 0).astype(np.float32)).resampled(grid, antialias=True)
    return (1 - 2 * share.array[0]).clip(0, 1).astype(np.float32)


def certainty_of(soft: NDArray[Any]) -> NDArray[np.float32]:
    """1 minus the entropy of soft labels (K, *shape) over its largest value, ln K: 1 where one label has it all.

    Negative weights, which an ITN without a softmax may give, count as none, and weights are taken relative to their
    sum.
    """
    p = np.asarray(soft, dtype=np.float64).clip(0, None) + 1e-9
    p = p / p.sum(axis=0, keepdims=True)
    return (1 + (p * np.log(p)).sum(axis=0) / math.log(len(p))).clip(0, 1).astype(np.float32)


def in_model(landmarks: Landmarks, atlas: Grid, image: Grid) -> tuple[Float, Float]:
    """The landmarks in the coordinates that a model sees, (P, D) mm each: those of the slice for a 2D model.

    Args:
        landmarks: the pairs.
        atlas: the model's grid in atlas space, of D axes.
        image: the image's own grid, of D axes, or a single slice of a volume for D = 2.

    Raises:
        ConfigError: another dimension, or a landmark lies outside the atlas or off the image.
    """
    d, given = atlas.ndim, landmarks.atlas.shape[1]
    if given != image.ndim and not (image.ndim == 2 and given == 3):
        raise ConfigError(
            f"the landmarks have {given} coordinates, the image has {image.ndim}",
            "give x, y and z in LPS mm" if image.ndim == 3 else "give x and y in LPS mm",
        )
    known, seen = landmarks.atlas, landmarks.image
    _check_inside(landmarks, "atlas", atlas, known[:, :d], known)
    _check_on(landmarks, "z = 0 of the atlas", known[:, d:], _OFF_SLICE_MM)
    if image.ndim == d:
        _check_inside(landmarks, "image", image, seen[:, :d], seen)
        _check_on(landmarks, "z = 0 of the image", seen[:, d:], _OFF_SLICE_MM)
        return known[:, :d], seen[:, :d]
    plane = Plane.of(image)
    thickness = image.spacing[image.size.index(1)]
    flat = transform_points(np.linalg.inv(plane.world_from_plane), seen)
    _check_on(landmarks, "the image's slice", flat[:, d:], max(thickness / 2, _OFF_SLICE_MM))
    _check_inside(landmarks, "image", plane.grid, flat[:, :d], seen)
    return known[:, :d], flat[:, :d]


def as_values(steering: Steering) -> dict[str, Any]:
    """What steered, as plain values for a report; volumes by their names."""
    marks, weights, mapping = steering.landmarks, steering.label_weights, steering.target_map
    return {
        "target": None if steering.target is None else steering.target.name or "target",
        "target_map": None if mapping is None else {str(k): int(v) for k, v in mapping.items()},
        "ignore": None if steering.ignore is None else steering.ignore.name or "mask",
        "label_weights": None if weights is None else {str(k): float(v) for k, v in weights.items()},
        "certainty": steering.certainty,
        "landmark_weight": None if marks is None else float(marks.weight),
    }


def _points(what: str, values: Any) -> Float:
    try:
        points = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the landmarks ({what}) are not points of two or three numbers") from error
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not len(points):
        raise ConfigError(f"landmarks ({what}) need the shape (P, 2) or (P, 3), not {points.shape}")
    if not np.isfinite(points).all():
        raise ConfigError(f"the landmarks ({what}) hold numbers that are not finite")
    points.flags.writeable = False
    return points


def _weight(what: str, value: Any) -> None:
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{what} must be a number of at least 0, not {value!r}", "0 switches it off")


def _check_known(value: Any, known: Mapping[int, str], what: str) -> None:
    if value not in known:
        names = ", ".join(f"{v} {name}" for v, name in known.items())
        raise ConfigError(f"{what} the label {value}, which the model has not", f"its labels are {names}")


def _check_dimension(name: str, grid: Grid, image: Grid) -> None:
    if grid.ndim != image.ndim:
        raise GeometryError(
            f"{name} is {grid.ndim}D, the image {image.ndim}D", "give one that lies in the image's own world"
        )


def _check_channels(target: Volume, mapping: Mapping[int, int] | None, labels: int, name: str) -> None:
    count, values = target.array.shape[0], target.array
    if count != labels:
        raise VolumeError(
            f"{name} has {count} channels, the model {labels} labels", "give one channel a label, background first"
        )
    if mapping is not None:
        raise ConfigError(f"{name} has channels, not values that could be mapped", "leave the map out")
    if not np.isfinite(values).all() or values.min() < -_BEYOND or values.max() > 1 + _BEYOND:
        raise VolumeError(
            f"{name} holds values from {values.min():g} to {values.max():g}", "give probabilities, from 0 to 1"
        )
    if not (values[1:] > 0.25).any():
        raise VolumeError(f"{name} holds none of the model's structures", "is the background the first channel?")


def _check_inside(landmarks: Landmarks, where: str, grid: Grid, points: Float, shown: Float) -> None:
    for name, inside, point in zip(landmarks.names, grid.contains(points), shown, strict=True):
        if not inside:
            at = ", ".join(f"{x:.4g}" for x in point)
            raise ConfigError(f"the landmark {name} at ({at}) lies outside the {where}", _LPS)


def _check_on(landmarks: Landmarks, where: str, heights: Float, most: float) -> None:
    """Refuse points whose heights (P, 0 or 1) in mm say that they lie off a slice."""
    for name, height in zip(landmarks.names, heights, strict=True):
        if height.size and abs(height[0]) > most:
            raise ConfigError(f"the landmark {name} lies {abs(height[0]):.3g} mm off {where}", "put it on there")


def _mapped(target: Volume, mapping: Mapping[int, int] | None) -> Volume:
    if mapping is None:
        return target
    values = checked_labels(target)
    codes = np.zeros_like(values)
    for source, label in mapping.items():
        codes[values == source] = label
    return target.with_array(codes)


def _around(volume: Volume, grid: Grid) -> Volume:
    """The part of a volume on and around a grid: channels of a whole scan are gigabytes otherwise.

    It has room for the blur before a resampling. Of a volume that lies elsewhere one voxel is left.
    """
    source = volume.grid
    part = part_around(source, grid.corners(), 4 * max(*grid.spacing, *source.spacing))
    if part is None:
        part = source.box([0] * source.ndim, [1] * source.ndim)
    array = volume.array[(slice(None), *place_of(part, source))]
    return Volume(np.ascontiguousarray(array), part, volume.name)


__all__ = [
    "LANDMARK_WEIGHT",
    "Landmarks",
    "Steering",
    "as_values",
    "certainty_of",
    "check_mask",
    "check_steering",
    "check_target",
    "in_model",
    "kept_share",
    "on_slice",
    "soft_target",
    "target_foreground",
]
