"""Packing: volumes, correspondences and plain values as short texts, to keep many results of a scan in its scene.

Label maps come back exactly. Displacements come back to within `STEP` / 2 mm in each component: a field is first kept
at every 2ⁿ-th node, and then, spacing by spacing, what differs from a cubic interpolation of that. A field that the
engine interpolated itself, as most of its values are, leaves next to nothing there.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer.i18n import tr as _

from AtlasISTNLib.correspondence import Correspondence
from AtlasISTNLib.errors import AtlasISTNError, VolumeError
from AtlasISTNLib.exchange import grid_as_dict, grid_from_dict
from AtlasISTNLib.volume import Volume

#: Of real values (mm of a displacement): they are kept as whole multiples of it.
STEP = 0.001
#: The coarser nodes are kept four times as finely, so that what is interpolated from them is right.
_COARSE_STEP = STEP / 4
#: Beyond it a displacement in mm has no sense, and its steps no room in 32 bits.
_MOST = 1e5
#: A field is not halved below so many nodes along an axis.
_FEWEST = 5
#: Of zlib: more takes far longer and gains little.
_EFFORT = 4
#: What reading a damaged text raises.
_WRONG = (AtlasISTNError, AttributeError, KeyError, TypeError, ValueError, IndexError, binascii.Error, zlib.error)

Halves = NDArray[np.float64]


def pack_values(values: Any) -> str:
    """Plain values (as JSON has them) as a text."""
    return _text(json.dumps(values, ensure_ascii=False).encode())


def unpack_values(text: str) -> Any:
    """The values of `pack_values`.

    Raises:
        VolumeError: the text is damaged.
    """
    try:
        return json.loads(_bytes(text))
    except _WRONG as error:
        raise _damaged() from error


def pack_labels(labels: Volume) -> str:
    """A label map (1, *shape) as a text. Only the box around what is not the commonest corner value is kept."""
    array = np.ascontiguousarray(labels.array[0])
    around = array.flat[0]
    box = _box(array != around)
    return pack_values(
        {
            "grid": grid_as_dict(labels.grid),
            "name": labels.name,
            "around": int(around),
            "box": [[side.start, side.stop] for side in box],
            "voxels": _packed(array[box]),
        }
    )


def unpack_labels(text: str) -> Volume:
    """The label map of `pack_labels`.

    Raises:
        VolumeError: the text is damaged.
    """
    found = unpack_values(text)
    try:
        grid, voxels = grid_from_dict(found["grid"]), _unpacked(found["voxels"])
        array = np.full(grid.shape, found["around"], dtype=voxels.dtype)
        array[tuple(slice(*ends) for ends in found["box"])] = voxels
        return Volume.from_array(array, grid, found["name"])
    except _WRONG as error:
        raise _damaged() from error


def pack_volume(volume: Volume) -> str:
    """A volume of real values (C, *shape) as a text; they come back to within `STEP` / 2.

    Raises:
        VolumeError: a value is not finite, or far too large.
    """
    return pack_values({"grid": grid_as_dict(volume.grid), "name": volume.name, "levels": _pack_field(volume.array)})


def unpack_volume(text: str) -> Volume:
    """The volume of `pack_volume`, float32.

    Raises:
        VolumeError: the text is damaged.
    """
    found = unpack_values(text)
    try:
        return _unpack_volume(found)
    except _WRONG as error:
        raise _damaged() from error


def pack_correspondence(correspondence: Correspondence) -> str:
    """A correspondence as a text; see the module's text for how exact its fields are.

    Raises:
        VolumeError: a displacement is not finite, or so large that it makes no sense.
    """
    c = correspondence
    fields = {
        key: {"grid": grid_as_dict(volume.grid), "name": volume.name, "levels": _pack_field(volume.array)}
        for key, volume in (("displacement", c.displacement), ("displacement_back", c.displacement_back))
    }
    grids = {"image_grid": grid_as_dict(c.image_grid), "atlas_grid": grid_as_dict(c.atlas_grid)}
    return pack_values({"outward": c.outward, "theta": c.theta.tolist(), **grids, **fields})


def unpack_correspondence(text: str) -> Correspondence:
    """The correspondence of `pack_correspondence`.

    Raises:
        VolumeError: the text is damaged.
    """
    found = unpack_values(text)
    try:
        fields = [_unpack_volume(found[key]) for key in ("displacement", "displacement_back")]
        image_grid, atlas_grid = (grid_from_dict(found[key]) for key in ("image_grid", "atlas_grid"))
        theta = np.array(found["theta"], dtype=np.float64)
        return Correspondence(str(found["outward"]), theta, fields[0], fields[1], image_grid, atlas_grid)
    except _WRONG as error:
        raise _damaged() from error


# ------------------------------------------------------------------------------------------------------------- fields


def _pack_field(array: NDArray[Any]) -> list[dict[str, Any]]:
    """Channels (C, *shape) in mm from the coarsest nodes to all of them, each as what the coarser ones do not tell."""
    if not np.isfinite(array).all() or np.abs(array).max(initial=0.0) > _MOST:
        raise VolumeError(_("The result has values that are not finite"), _("it was not kept in the history"))
    pyramid = [np.asarray(array, dtype=np.float64)]
    while (skip := _skip(pyramid[-1].shape)) != (slice(None),) * array.ndim:
        pyramid.append(pyramid[-1][skip])
    known, levels = np.zeros_like(pyramid[-1]), []
    for index, values in enumerate(reversed(pyramid)):
        guess = known if index == 0 else _finer(known, values.shape)
        step = STEP if index == len(pyramid) - 1 and index else _COARSE_STEP
        left = np.rint((values - guess) / step).astype(np.int32)
        known = guess + step * left
        levels.append({"step": step, "left": _packed(left)})
    return levels


def _unpack_volume(found: Mapping[str, Any]) -> Volume:
    grid, known = grid_from_dict(found["grid"]), np.zeros(0)
    for index, level in enumerate(found["levels"]):
        left = _unpacked(level["left"]).astype(np.float64)
        known = level["step"] * left if index == 0 else _finer(known, left.shape) + level["step"] * left
    return Volume.from_array(known.reshape(-1, *grid.shape).astype(np.float32), grid, found["name"])


def _skip(shape: Sequence[int]) -> tuple[slice, ...]:
    """Every second node along the axes that have enough of them; the channels stay."""
    return (slice(None), *(slice(None, None, 2) if n >= _FEWEST else slice(None) for n in shape[1:]))


def _finer(values: Halves, shape: Sequence[int]) -> Halves:
    """Values of every second node, interpolated cubically to all nodes of a shape."""
    for axis in range(1, len(shape)):
        if values.shape[axis] == shape[axis]:
            continue
        v = np.moveaxis(values, axis, 0)
        padded = np.concatenate([v[:1], v, v[-1:], v[-1:]])
        fine = np.empty((shape[axis], *v.shape[1:]))
        fine[::2] = v
        between = (9 * (padded[1:-2] + padded[2:-1]) - padded[:-3] - padded[3:]) / 16
        fine[1::2] = between[: shape[axis] // 2]
        values = np.moveaxis(fine, 0, axis)
    return values


# -------------------------------------------------------------------------------------------------------------- bytes


def _packed(array: NDArray[Any]) -> dict[str, Any]:
    """Whole numbers in the smallest type that holds them, their bytes sorted by rank, compressed."""
    kind = np.min_scalar_type(int(array.min(initial=0)))
    kind = np.promote_types(kind, np.min_scalar_type(int(array.max(initial=0))))
    small = np.ascontiguousarray(array.astype(kind))
    planes = small.reshape(-1).view(np.uint8).reshape(-1, kind.itemsize).T
    data = zlib.compress(np.ascontiguousarray(planes).tobytes(), _EFFORT)
    name = kind.newbyteorder("<").str
    return {"kind": name, "given": array.dtype.str, "shape": list(array.shape), "data": _encoded(data)}


def _unpacked(found: Mapping[str, Any]) -> NDArray[Any]:
    kind = np.dtype(found["kind"])
    if kind.kind not in "iu":
        raise ValueError("whole numbers were expected")
    planes = np.frombuffer(zlib.decompress(base64.b64decode(found["data"])), dtype=np.uint8)
    small = np.ascontiguousarray(planes.reshape(kind.itemsize, -1).T).view(kind)
    return small.reshape(found["shape"]).astype(np.dtype(found["given"]))


def _box(inside: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box (slices along the array's axes) that holds a mask; empty where the mask is."""
    box = []
    for axis in range(inside.ndim):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        found = np.flatnonzero(inside.any(axis=others))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0))
    return tuple(box)


def _text(data: bytes) -> str:
    return _encoded(zlib.compress(data, 1))


def _bytes(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _damaged() -> VolumeError:
    return VolumeError(_("This entry of the history is damaged"), _("delete it, and run the refinement again"))


__all__ = [
    "STEP",
    "pack_correspondence",
    "pack_labels",
    "pack_values",
    "pack_volume",
    "unpack_correspondence",
    "unpack_labels",
    "unpack_values",
    "unpack_volume",
]
