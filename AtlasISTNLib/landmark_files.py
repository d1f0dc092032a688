"""Landmark pairs from files: a CSV of pairs, or two point lists of 3D Slicer (.fcsv, .mrk.json) or CSVs of points.

Inside everything is LPS mm. Slicer's files say themselves whether they are LPS or RAS; CSVs hold LPS.

    name,atlas_x,atlas_y,atlas_z,image_x,image_y,image_z      one CSV of pairs, z left out in 2D
    name,x,y,z                                                one of two CSVs of points
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConfigError, VolumeError
from .steering import LANDMARK_WEIGHT, Landmarks
from .strict_json import Section, read_json

PathLike = str | os.PathLike[str]
#: Name and position of one point.
Point = tuple[str, tuple[float, ...]]

_AXES = ("x", "y", "z")
_FCSV = ("id", *_AXES)  # Slicer's own columns where the header names none
#: How .fcsv headers say the frame; Slicer before 4.11 wrote numbers, and without any header it is RAS.
_FRAMES = {"LPS": "LPS", "1": "LPS", "RAS": "RAS", "0": "RAS"}
_SIGNS = {"LPS": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0)}


def read_landmarks(files: Sequence[PathLike], weight: float = LANDMARK_WEIGHT) -> Landmarks:
    """Landmark pairs of one CSV, or of two point files: first those in the atlas, then those on the image.

    Two files are paired by their points' names if both have the same ones, and else by their order.

    Raises:
        VolumeError: a file cannot be read.
        ConfigError: it holds no landmarks, or the two files do not pair.
    """
    paths = [Path(file) for file in files]
    for path in paths:
        if not path.is_file():
            raise VolumeError(f"{path} does not exist", "check the path of the landmarks")
    if len(paths) == 1:
        if _ending(paths[0]) != ".csv":
            raise ConfigError(
                f"{paths[0]} alone holds no pairs", "give two files, of the atlas and of the image, or a CSV of pairs"
            )
        names, known, seen = _csv_pairs(paths[0])
        return Landmarks(np.array(known), np.array(seen), weight, names)
    if len(paths) != 2:
        raise ConfigError(f"landmarks are one file of pairs or two of points, not {len(paths)} files")
    atlas, image = (read_points(path) for path in paths)
    if len(atlas) != len(image):
        raise ConfigError(
            f"{paths[0]} holds {len(atlas)} landmarks and {paths[1]} {len(image)}", "give each in both places"
        )
    found = dict(image)
    if len(found) == len(image) and {name for name, _ in atlas} == set(found):
        image = [(name, found[name]) for name, _ in atlas]
    names = tuple(name for name, _ in atlas)
    return Landmarks(np.array([p for _, p in atlas]), np.array([p for _, p in image]), weight, names)


def read_points(path: Path) -> list[Point]:
    """Named points of a file, LPS mm.

    Raises:
        VolumeError: it cannot be read.
        ConfigError: it holds no points.
    """
    readers = {".csv": _csv_points, ".fcsv": _fcsv_points, ".mrk.json": _markup_points}
    ending = _ending(path)
    if ending not in readers:
        raise ConfigError(f"{path} is no file of landmarks", "give a .csv, .fcsv or .mrk.json")
    points = readers[ending](path)
    if not points:
        raise ConfigError(f"{path} holds no landmarks", "place at least one")
    return points


def _ending(path: Path) -> str:
    name = path.name.lower()
    return ".mrk.json" if name.endswith(".mrk.json") else path.suffix.lower()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VolumeError(f"{path} cannot be read as a text file", "is it the right file?") from error


def _csv_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    reader = csv.DictReader([line for line in _lines(path) if line.strip() and not line.startswith("#")])
    fields = [(field or "").strip().lower() for field in reader.fieldnames or ()]
    reader.fieldnames = fields
    return fields, list(reader)


def _csv_pairs(path: Path) -> tuple[tuple[str, ...], list[tuple[float, ...]], list[tuple[float, ...]]]:
    fields, rows = _csv_rows(path)
    axes = [axis for axis in _AXES if f"atlas_{axis}" in fields]
    wanted = [f"{where}_{axis}" for where in ("atlas", "image") for axis in (axes if len(axes) > 1 else _AXES)]
    if missing := [name for name in wanted if name not in fields]:
        raise ConfigError(
            f"{path} has no column {missing[0]}",
            "its first line names the columns name,atlas_x,atlas_y,atlas_z,image_x,image_y,image_z",
        )
    if not rows:
        raise ConfigError(f"{path} holds no landmarks", "give one pair a line")
    half = len(wanted) // 2
    names = tuple(row.get("name") or str(i) for i, row in enumerate(rows, 1))
    values = [_numbers(path, i, [row[name] for name in wanted]) for i, row in enumerate(rows, 1)]
    return names, [v[:half] for v in values], [v[half:] for v in values]


def _csv_points(path: Path) -> list[Point]:
    fields, rows = _csv_rows(path)
    axes = [axis for axis in _AXES if axis in fields]
    if axes not in (["x", "y"], ["x", "y", "z"]):
        raise ConfigError(f"{path} has no columns x, y and z", "its first line names them: name,x,y,z")
    return [
        (row.get("name") or str(i), _numbers(path, i, [row[axis] for axis in axes])) for i, row in enumerate(rows, 1)
    ]


def _fcsv_points(path: Path) -> list[Point]:
    columns: Sequence[str] = _FCSV
    frame = "RAS"
    points: list[Point] = []
    for line in _lines(path):
        if line.startswith("#"):
            key, _, value = line.lstrip("# ").partition("=")
            if key.strip() == "columns":
                columns = [name.strip() for name in value.split(",")]
            elif key.strip() == "CoordinateSystem":
                frame = _frame(path, _FRAMES.get(value.strip().upper(), value.strip()))
        elif line.strip():
            row = dict(zip(columns, next(csv.reader([line])), strict=False))
            number = len(points) + 1
            position = _numbers(path, number, [row.get(axis, "") for axis in _AXES])
            points.append((row.get("label") or str(number), position))
    return [(name, _lps(position, frame)) for name, position in points]


def _markup_points(path: Path) -> list[Point]:
    points: list[Point] = []
    for markup in Section(read_json(path), str(path)).sections("markups"):
        frame = _frame(path, markup.take("coordinateSystem", str, "LPS"))
        for point in markup.sections("controlPoints", []):
            if point.take("positionStatus", str, "defined") != "defined":
                continue
            number = len(points) + 1
            position = _numbers(path, number, point.items("position", float))
            if len(position) != 3:
                raise ConfigError(f"{path}: the landmark {number} has {len(position)} coordinates")
            points.append((point.take("label", str, "") or str(number), _lps(position, frame)))
    return points


def _frame(path: Path, frame: str) -> str:
    if frame not in _SIGNS:
        raise ConfigError(f"{path} is in coordinates '{frame}'", "save the points in LPS or RAS")
    return frame


def _lps(position: Iterable[float], frame: str) -> tuple[float, ...]:
    return tuple(sign * x for sign, x in zip(_SIGNS[frame], position, strict=True))


def _numbers(path: Path, number: int, values: Iterable[Any]) -> tuple[float, ...]:
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: the landmark {number} is not all numbers", "correct the file there") from error
    if not all(math.isfinite(value) for value in found):
        raise ConfigError(f"{path}: the landmark {number} has a coordinate that is not finite")
    return found


__all__ = ["read_landmarks", "read_points"]
