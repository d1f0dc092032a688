"""Prepared cases: images and soft labels on the model grid, kept on disk and read from there a batch at a time.

A cache folder holds one folder for each preparation, named by a hash of everything that it depends on: the cases'
files with their sizes and times, the grid, the labels and the settings. It is made under another name and moved into
its place once it is whole, so that a preparation that was stopped leaves nothing to stumble over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray

from .configs import NormalisationConfig, TrainConfig, as_dict
from .datasets import Case, foreground_center, normalised, soft_labels
from .errors import OutputError, VolumeError
from .geometry import VOXEL, WORLD, Grid
from .label_maps import MapCase, checked_codes
from .progress import Cancel, Progress, Report, never, silent, stop_if
from .volume import Volume, checked_image, flattened

IMAGES, LABELS, CODES, RECORD = "images.npy", "labels.npy", "codes.npy", "prepared.json"
_SCHEMA = 1
#: The widest margin, as a share of the grid's longest side.
_WIDEST_MARGIN = 0.25
#: Seconds after which a preparation that nobody writes to was left by a process that is no more.
_STALE = 3600.0


@dataclass(frozen=True, eq=False)
class Prepared:
    """Cases on one grid.

    Attributes:
        images: (N, 1, *shape + margins) float32, normalised; a memory map unless made in memory.
        labels: (N, K, *shape + margins) float16, soft.
        margin: voxels beyond the model grid on each side, so that augmentation does not run out of image.
        names: of the cases.
        codes: (N, *shape of `codes_on`) int16, the label values themselves, nearest; None unless asked for.
        codes_on: the grid of the codes; its centre is that of the model grid.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.float16]
    margin: int
    names: tuple[str, ...]
    codes: NDArray[np.int16] | None = None
    codes_on: Grid | None = None

    def __len__(self) -> int:
        return len(self.names)


def margin_for(grid: Grid, config: TrainConfig) -> int:
    """Voxels beyond the model grid that rotation, shift, scaling and elastic deformation can reach for."""
    if not (config.rotation or config.scale or config.translation or config.elastic):
        return 0
    half = max(grid.shape) / 2
    shift = (config.translation + config.elastic) / min(grid.spacing)
    reach = shift + half * (config.scale + math.sin(math.radians(min(config.rotation, 45))))
    return math.ceil(min(reach, _WIDEST_MARGIN * max(grid.shape)))


def prepare(
    cases: Sequence[Case],
    values: Sequence[int],
    grid: Grid,
    normalisation: NormalisationConfig,
    config: TrainConfig,
    place_on_labels: bool,
    folder: Path,
    report: Report = silent,
    cancel: Cancel = never,
    codes_on: Grid | None = None,
) -> Prepared:
    """Read, place, normalise and resample all cases, one at a time, or find them prepared in `folder`.

    Args:
        values: label values, background first.
        place_on_labels: centre the grid on each case's foreground, as automatic placement does; else on the image.
        folder: the cache; made if it is not there.
        report: gets stage "prepare" for each case.
        codes_on: also keep the label values, on a grid of this shape, spacing and direction about the same centre.

    Raises:
        VolumeError: a case cannot be used; its name is in the message.
        OutputError: the cache cannot be written.
        Cancelled: stopped; nothing is left in the cache.
    """
    margin = margin_for(grid, config)
    record = {
        "schema": _SCHEMA,
        "cases": [_identity(case) for case in cases],
        "values": list(values),
        "grid": [list(grid.shape), list(grid.spacing), [list(row) for row in grid.direction]],
        "normalisation": as_dict(normalisation),
        "label_blur": config.label_blur,
        "label_sampling": config.label_sampling,
        "margin": margin,
        "place_on_labels": place_on_labels,
    }
    if codes_on is not None:
        record["codes"] = [list(codes_on.shape), list(codes_on.spacing)]
    names = tuple(case.name for case in cases)
    place = folder / hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]
    found = _opened(place, margin, names, codes_on)
    if found is not None:
        report(Progress("prepare", len(cases), len(cases), message="found prepared"))
        return found
    shape = tuple(n + 2 * margin for n in grid.shape)
    partial = folder / f".partial-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        _remove_stale(folder)
        # Written, not mapped: a disk that is full while a map is written to ends the process without a word.
        kinds: dict[str, tuple[Any, tuple[int, ...]]] = {
            IMAGES: (np.float32, (1, *shape)),
            LABELS: (np.float16, (len(values), *shape)),
        }
        if codes_on is not None:
            kinds[CODES] = (np.int16, codes_on.shape)
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(partial / name, "wb")) for name in kinds]
            for file, (kind, size) in zip(files, kinds.values(), strict=True):
                _write_header(file, np.dtype(kind), (len(cases), *size))
            for done, case in enumerate(cases):
                stop_if(cancel, "preparing the cases")
                parts = _on_grid(case, values, grid, shape, normalisation, config, place_on_labels, codes_on)
                for file, (kind, _), part in zip(files, kinds.values(), parts, strict=True):
                    file.write(np.ascontiguousarray(part, kind).tobytes())
                report(Progress("prepare", done + 1, len(cases), message=case.name))
        (partial / RECORD).write_text(json.dumps(record), encoding="utf-8")
        try:
            os.replace(partial, place)
        except OSError:
            if not (place / RECORD).is_file():  # else another process was faster
                raise
    except OSError as error:
        raise OutputError(
            f"the prepared cases cannot be kept in {folder}: {error}", "make room there, or give another cache folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    made = _opened(place, margin, names, codes_on)
    if made is None:
        raise OutputError(f"the prepared cases in {place} cannot be read back", "remove that folder and try again")
    return made


def _on_grid(
    case: Case,
    values: Sequence[int],
    grid: Grid,
    shape: tuple[int, ...],
    normalisation: NormalisationConfig,
    config: TrainConfig,
    place_on_labels: bool,
    codes_on: Grid | None,
) -> list[NDArray[Any]]:
    """Image and soft labels of a case on the model grid, and its label values where they are wanted."""
    image, label_map = case.load()
    checked_image(image, grid.ndim)
    if image.grid.ndim > grid.ndim:
        image, label_map = flattened(image)[0], flattened(label_map)[0]
    center = foreground_center(label_map, values[1:]) if place_on_labels else image.grid.center
    placed = Grid.centered(shape, grid.spacing, center, grid.direction)
    near = _around(label_map, placed) if isinstance(case, MapCase) else label_map
    soft = soft_labels(near, values, placed, config.label_blur, config.label_sampling)
    if not (soft[1:] > 0.5).any():
        raise VolumeError(
            f"{case.name}: none of its labels lies on the model grid", "check the grid's size and the labels"
        )
    parts = [normalised(image, placed, normalisation).array, soft]
    if codes_on is not None:
        fine = Grid.centered(codes_on.shape, codes_on.spacing, center, grid.direction)
        values_there = label_map.with_array(checked_codes(label_map, case.name).astype(np.int16))
        parts.append(values_there.resampled(fine, "nearest", 0).array[0])
    return parts


def _around(labels: Volume, grid: Grid) -> Volume:
    """The part of a label map on and around a grid: whole heads of many labels are gigabytes of channels otherwise."""
    corners = labels.grid.transform_points(grid.corners(), VOXEL, WORLD)
    reach = 4 + 4 * max(grid.spacing) / min(labels.grid.spacing)
    size = np.array(labels.grid.size)
    start = np.clip(np.floor(corners.min(axis=0) - reach), 0, size - 1).astype(int)
    stop = np.clip(np.ceil(corners.max(axis=0) + reach), start + 1, size).astype(int)
    part = tuple(slice(a, b) for a, b in zip(start[::-1], stop[::-1], strict=True))
    box = labels.grid.box(start.tolist()[::-1], stop.tolist()[::-1])
    return Volume(np.ascontiguousarray(labels.array[(slice(None), *part)]), box, labels.name)


def _write_header(file: IO[bytes], kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    write_array_header_1_0(file, {"descr": dtype_to_descr(kind), "fortran_order": False, "shape": shape})


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes have left of their preparations."""
    for partial in folder.glob(".partial-*"):
        with contextlib.suppress(OSError):
            newest = max(path.stat().st_mtime for path in (partial, *partial.iterdir()))
            if time.time() - newest > _STALE:
                shutil.rmtree(partial, ignore_errors=True)


def _identity(case: Case) -> list[Any]:
    """What tells a case from another one, and its files from what they were before."""
    identity = [case.name, *(_file_identity(part) for part in (case.image, case.labels))]
    return [*identity, case.greys()] if isinstance(case, MapCase) else identity


def _file_identity(part: Volume | Path) -> list[Any]:
    if isinstance(part, Volume):
        digest = hashlib.sha256(np.ascontiguousarray(part.array).tobytes())
        digest.update(repr((part.array.dtype.str, part.grid)).encode())
        return ["volume", digest.hexdigest()]
    try:
        state = part.stat()
    except OSError as error:
        raise VolumeError(f"{part} cannot be read: {error.strerror}", "check the path") from error
    return [str(part.resolve()), state.st_size, state.st_mtime_ns]


def _opened(place: Path, margin: int, names: tuple[str, ...], codes_on: Grid | None) -> Prepared | None:
    if not (place / RECORD).is_file():
        return None
    try:
        images, labels = (np.load(place / name, mmap_mode="r") for name in (IMAGES, LABELS))
        codes = None if codes_on is None else np.load(place / CODES, mmap_mode="r")
    except (OSError, ValueError):
        shutil.rmtree(place, ignore_errors=True)  # damaged: made anew
        return None
    return Prepared(images, labels, margin, names, codes, codes_on)


__all__ = ["Prepared", "margin_for", "prepare"]
