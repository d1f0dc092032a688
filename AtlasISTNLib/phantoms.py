"""Phantoms: labelled images made from a seed, to train, test and show AtlasISTN without anybody's data.

`heart` is a contrast CT of a chest with five labelled structures; `letter_b` is a noisy letter B. The same seed gives
the same anatomy on every grid, because shapes are solids in millimetres that are asked at the grid's voxel centres.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import ConfigError, GeometryError, OutputError
from .geometry import Grid
from .heart_phantom import Anatomy
from .heart_scan import HeartArtefacts, render_heart
from .letter_phantom import render_letter
from .progress import Cancel, Progress, Report, never, silent, stop_if
from .volume import Volume

__all__ = [
    "HEART_GRID",
    "HEART_LABELS",
    "KINDS",
    "LETTER_GRID",
    "LETTER_LABELS",
    "HeartArtefacts",
    "Phantom",
    "Structure",
    "heart",
    "heart_center",
    "letter_b",
    "write_phantoms",
]


@dataclass(frozen=True)
class Structure:
    """One labelled structure: its value, names, colour (RGB, 0-255) and SNOMED CT code with its meaning."""

    value: int
    name: str
    abbreviation: str
    color: tuple[int, int, int]
    snomed_code: str = ""
    snomed_meaning: str = ""


#: What the labels of `heart` mean.
HEART_LABELS = (
    Structure(1, "left ventricular myocardium", "LVM", (196, 92, 84), "74281007", "Myocardium"),
    Structure(2, "left ventricle", "LV", (240, 178, 62), "87878005", "Left ventricle of heart"),
    Structure(3, "right ventricle", "RV", (72, 150, 206), "53085002", "Right ventricle of heart"),
    Structure(4, "right atrium", "RA", (92, 188, 152), "73829009", "Right atrium"),
    Structure(5, "left atrium", "LA", (176, 118, 200), "82471001", "Left atrium"),
)

#: What the labels of `letter_b` mean.
LETTER_LABELS = (Structure(1, "letter B", "B", (240, 178, 62)),)

#: The chest that `heart` fills by default: 352 x 320 x 180 mm.
HEART_GRID = Grid.centered((72, 160, 176), (2.0, 2.0, 2.5))

#: The image that `letter_b` fills by default: 128 x 128 pixels of 1 mm, the first at 0, as a PNG file has it.
LETTER_GRID = Grid((128, 128), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))

#: What `write_phantoms` can write.
KINDS = ("heart", "letter-b")


@dataclass(frozen=True, eq=False)
class Phantom:
    """An image with its labels on one grid.

    Attributes:
        image: HU as int16 (heart) or grey values as uint8 (letter).
        labels: uint8, 0 is background.
        center: WORLD mm of the middle of what is labelled, whether or not the grid reaches it.
        structures: what the labels mean.
        seed: the seed that made it.
    """

    image: Volume
    labels: Volume
    center: tuple[float, ...]
    structures: tuple[Structure, ...]
    seed: int


def heart(
    seed: int,
    grid: Grid | None = None,
    artefacts: HeartArtefacts | None = None,
    noise_hu: float | None = None,
    variation: float = 1.0,
) -> Phantom:
    """A contrast-enhanced CT of a chest with the heart's chambers labelled.

    Args:
        seed: names the case; 0 or more.
        grid: any 3D grid, oblique or not; default `HEART_GRID`. The heart lies at `heart_center(seed)`.
        artefacts: what disturbs the image; the labels stay as they are. Default nothing.
        noise_hu: standard deviation of the noise; default 25-40 HU by seed. The noise depends on the grid, the anatomy
            does not.
        variation: how far hearts differ; 0 gives the average heart for every seed, 1 a population, at most 1.5.

    Raises:
        ConfigError: a value is out of its range.
        GeometryError: the grid is not 3D.
    """
    grid = HEART_GRID if grid is None else grid
    _check(seed, grid, 3, variation)
    if noise_hu is not None and not 0 <= noise_hu < np.inf:
        raise ConfigError(f"noise_hu must be 0 or more, not {noise_hu:g}")
    image, labels = render_heart(seed, grid, artefacts or HeartArtefacts(), noise_hu, variation)
    name = f"heart-{seed:04d}"
    return Phantom(
        Volume.from_array(image, grid, name),
        Volume.from_array(labels, grid, name),
        heart_center(seed, variation),
        HEART_LABELS,
        seed,
    )


def heart_center(seed: int, variation: float = 1.0) -> tuple[float, float, float]:
    """WORLD mm of the middle of the heart that `heart` draws for this seed."""
    return Anatomy.random(seed, variation).center


def letter_b(seed: int, grid: Grid | None = None, corrupted: bool = False, variation: float = 1.0) -> Phantom:
    """A noisy image of a letter B: one connected shape with two holes.

    Made in the manner of the toy data of Sinclair et al. 2022 (doi:10.1016/j.media.2022.102383).

    Args:
        seed: names the case; 0 or more. The letter is the same whether corrupted or not.
        grid: any 2D grid; default `LETTER_GRID`. The letter stays near (64, 64) mm, about 80 mm high.
        corrupted: add bright blobs and break the strokes; the labels stay as they are.
        variation: how far letters differ; 0 gives the same letter for every seed, 1 a population, at most 1.5.

    Raises:
        ConfigError: a value is out of its range.
        GeometryError: the grid is not 2D.
    """
    grid = LETTER_GRID if grid is None else grid
    _check(seed, grid, 2, variation)
    image, labels, center = render_letter(seed, grid, corrupted, variation)
    name = f"letter-b-{seed:04d}"
    return Phantom(
        Volume.from_array(image, grid, name), Volume.from_array(labels, grid, name), center, LETTER_LABELS, seed
    )


def write_phantoms(
    kind: str,
    count: int,
    folder: str | os.PathLike[str],
    seed: int = 0,
    artefacts: bool = False,
    grid: Grid | None = None,
    variation: float = 1.0,
    overwrite: bool = False,
    report: Report = silent,
    cancel: Cancel = never,
) -> list[tuple[Path, Path]]:
    """Write phantoms to `folder`/images and `folder`/labels under the same file names.

    Args:
        kind: "heart" (NRRD) or "letter-b" (PNG).
        count: how many, with seeds `seed`, `seed` + 1, …
        artefacts: hearts with `HeartArtefacts.typical`, letters corrupted.
        grid: see `heart` and `letter_b`.
        overwrite: replace files that are there.
        report: told after each case, stage "write".
        cancel: asked before each case; what is written stays.

    Returns:
        Paths of image and labels of each case.

    Raises:
        ConfigError: an unknown kind or a value out of its range.
        OutputError: a file is there already, or cannot be written.
        Cancelled: the caller stopped it.
    """
    if kind not in KINDS:
        raise ConfigError(f"no phantom '{kind}'", f"use one of {list(KINDS)}")
    if count < 1:
        raise ConfigError(f"count must be 1 or more, not {count}")
    seeds = range(seed, seed + count)
    paths = _free_paths(kind, seeds, Path(folder), overwrite)
    written: list[tuple[Path, Path]] = []
    for s, (image_path, label_path) in zip(seeds, paths, strict=True):
        stop_if(cancel, "writing phantoms")
        if kind == "heart":
            case = heart(s, grid, HeartArtefacts.typical(s) if artefacts else None, variation=variation)
        else:
            case = letter_b(s, grid, artefacts, variation)
        written.append((case.image.write(image_path), case.labels.write(label_path)))
        report(Progress("write", len(written), count, message=image_path.name))
    return written


def _free_paths(kind: str, seeds: Iterable[int], folder: Path, overwrite: bool) -> list[tuple[Path, Path]]:
    """Where image and labels of every case go; refused before anything is written when something is there."""
    ending = "nrrd" if kind == "heart" else "png"
    names = [f"{kind}-{s:04d}.{ending}" for s in seeds]
    paths = [(folder / "images" / name, folder / "labels" / name) for name in names]
    there = [path for pair in paths for path in pair if path.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise OutputError(
            f"{there[0]}{more} already exists", "choose another folder or seed, or add --overwrite (overwrite=True)"
        )
    return paths


def _check(seed: int, grid: Grid, ndim: int, variation: float) -> None:
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, not {seed}")
    if not 0 <= variation <= 1.5:
        raise ConfigError(f"variation must lie between 0 and 1.5, not {variation:g}")
    if grid.ndim != ndim:
        raise GeometryError(f"this phantom needs a {ndim}D grid, not one of shape {grid.shape}")
