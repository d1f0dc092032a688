"""Exchange: how volumes and correspondences travel between two processes, as plain values and .npy files in a folder.

An entry is what stands in a JSON message; it names files in a folder that both processes know, never anything beyond
it. Needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .correspondence import ATLAS_FROM_IMAGE, IMAGE_FROM_ATLAS, Correspondence
from .errors import AtlasISTNError, WorkerError
from .geometry import Float, Grid
from .volume import Volume, write_atomically

PathLike = str | os.PathLike[str]

_NONSENSE = "the two processes do not understand each other; are they of one version?"
#: What reading values of wrong kinds out of an entry raises.
_WRONG = (AttributeError, KeyError, OverflowError, TypeError, ValueError)


def grid_as_dict(grid: Grid) -> dict[str, Sequence[Any]]:
    """A grid as plain values for JSON."""
    return {
        "shape": list(grid.shape),
        "spacing": list(grid.spacing),
        "origin": list(grid.origin),
        "direction": [list(row) for row in grid.direction],
    }


def grid_from_dict(values: Mapping[str, Any]) -> Grid:
    """A grid from plain values; see `grid_as_dict`."""
    return Grid(tuple(values["shape"]), values["spacing"], values["origin"], values["direction"])


def volume_to_files(volume: Volume, folder: PathLike, stem: str) -> dict[str, Any]:
    """Write a volume's voxels, (C, *shape), to `<stem>.npy` in a folder; the file appears whole or not at all.

    Returns:
        The entry: "array" (the file's name), "grid" and "name".

    Raises:
        OutputError: the folder cannot be written to.
    """
    name = f"{stem}.npy"
    array = np.ascontiguousarray(volume.array)
    write_atomically(Path(folder, name), lambda partial: np.save(partial, array, allow_pickle=False))
    return {"array": name, "grid": grid_as_dict(volume.grid), "name": volume.name}


def volume_from_files(entry: Mapping[str, Any], folder: PathLike) -> Volume:
    """The volume of an entry; its voxels are a copy, so that the file may be removed afterwards.

    Raises:
        WorkerError: the entry makes no sense, names a file beyond the folder, or the file is absent, damaged or of
            another shape than the entry says.
    """
    try:
        name, grid, title = entry["array"], grid_from_dict(entry["grid"]), entry.get("name", "")
    except (AtlasISTNError, *_WRONG) as error:
        raise WorkerError(f"an entry of a volume makes no sense: {_reason(error)}", _NONSENSE) from error
    if not isinstance(name, str) or not isinstance(title, str):
        raise WorkerError(f"a volume's file and name are texts, not {name!r} and {title!r}", _NONSENSE)
    try:
        return Volume(_array(_inside(folder, name)), grid, title)
    except AtlasISTNError as error:
        raise WorkerError(f"{name} does not fit its entry: {error.message}", _NONSENSE) from error


def correspondence_to_files(correspondence: Correspondence, folder: PathLike, stem: str) -> dict[str, Any]:
    """Write a correspondence: its two displacement fields as float32 (mm), the rest into the entry.

    Returns:
        The entry: "outward", "theta" (rows, mm), "displacement" and "displacement_back" (entries of volumes),
        "image_grid" and "atlas_grid".

    Raises:
        OutputError: the folder cannot be written to.
    """
    fields = {"displacement": correspondence.displacement, "displacement_back": correspondence.displacement_back}
    written = {
        key: volume_to_files(field.with_array(field.array.astype(np.float32)), folder, f"{stem}-{key}")
        for key, field in fields.items()
    }
    return {
        "outward": correspondence.outward,
        "theta": correspondence.theta.tolist(),
        **written,
        "image_grid": grid_as_dict(correspondence.image_grid),
        "atlas_grid": grid_as_dict(correspondence.atlas_grid),
    }


def correspondence_from_files(entry: Mapping[str, Any], folder: PathLike) -> Correspondence:
    """The correspondence of an entry, its files read and closed.

    Raises:
        WorkerError: as for `volume_from_files`, or the parts do not fit together.
    """
    try:
        outward, theta = entry["outward"], np.array(entry["theta"], dtype=np.float64)
        image_grid, atlas_grid = (grid_from_dict(entry[key]) for key in ("image_grid", "atlas_grid"))
        fields = [entry[key] for key in ("displacement", "displacement_back")]
    except (AtlasISTNError, *_WRONG) as error:
        raise WorkerError(f"an entry of a correspondence makes no sense: {_reason(error)}", _NONSENSE) from error
    volumes = [volume_from_files(field, folder) for field in fields]
    _check_parts(outward, theta, volumes, image_grid, atlas_grid)
    return Correspondence(outward, theta, volumes[0], volumes[1], image_grid, atlas_grid)


def _check_parts(outward: Any, theta: Float, volumes: Sequence[Volume], image_grid: Grid, atlas_grid: Grid) -> None:
    if outward not in (IMAGE_FROM_ATLAS, ATLAS_FROM_IMAGE):
        raise WorkerError(f"no map is named {outward!r}", _NONSENSE)
    d = image_grid.ndim
    if theta.shape != (d + 1, d + 1) or not np.isfinite(theta).all():
        raise WorkerError(f"the affine part of a {d}D correspondence has {theta.shape} values or some not finite")
    grids = {atlas_grid.ndim, *(volume.grid.ndim for volume in volumes)}
    if grids != {d} or any(volume.array.shape[0] != d for volume in volumes):
        raise WorkerError("the grids and fields of a correspondence are of different dimensions", _NONSENSE)


def _inside(folder: PathLike, name: str) -> Path:
    """The path of a file in a folder; nothing beyond it, not even through a link."""
    place = Path(folder).resolve()
    path = Path(place, name)
    if Path(name).name != name or "\\" in name or path.resolve().parent != place:
        raise WorkerError(f"'{name}' would be read from outside its folder", "nothing was read")
    return path


def _array(path: Path) -> NDArray[Any]:
    """The array of a .npy file. Mapped before it is copied, so that a false header claims no memory."""
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError as error:
        raise WorkerError(f"{path} does not exist", "was its folder removed?") from error
    except (OSError, EOFError, SyntaxError, *_WRONG) as error:
        raise WorkerError(f"{path} cannot be read: {_reason(error)}", "is it whole?") from error


def _reason(error: Exception) -> str:
    if isinstance(error, AtlasISTNError):
        return error.message
    return f"{type(error).__name__}: {error}".splitlines()[0]


__all__ = [
    "correspondence_from_files",
    "correspondence_to_files",
    "grid_as_dict",
    "grid_from_dict",
    "volume_from_files",
    "volume_to_files",
]
