"""The command `train`: cases from folders or lists, a grid that fits them, and a bundle at the end."""

from __future__ import annotations

import colorsys
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from .bundle import About, Label, find_device, save_bundle
from .commands import check_bundle_output
from .configs import NormalisationConfig, TrainConfig
from .datasets import Case, cases_from_csv, cases_from_folders
from .errors import ConfigError, VolumeError
from .geometry import VOXEL, WORLD, Float, Grid
from .placement import larger
from .progress import Cancel, Progress, Report, stop_if
from .terminal import FINE, INTERRUPTED, Console, figure
from .training import train
from .volume import Volume, checked_labels

#: Voxels along the longest side of a grid that nobody gave, by dimension: what a CPU trains in hours.
_LONGEST = {2: 128, 3: 64}
#: Space around the structures on a grid that nobody gave, as a share of their extent on each side.
_MARGIN = 0.15
#: The networks halve their input three times; half of 16 would do, too.
_MULTIPLE = 8
#: More values than this are not a label map but an image.
_MOST_LABELS = 256


@dataclass(frozen=True)
class Extent:
    """What a case's label map covers.

    Attributes:
        grid: of the image.
        values: label values without the background.
        low, high: WORLD mm, corners of the box around the foreground.
        center: WORLD mm, centroid of the foreground.
    """

    grid: Grid
    values: frozenset[int]
    low: Float
    high: Float
    center: Float

    @classmethod
    def of(cls, labels: Volume, name: str, wanted: frozenset[int]) -> Extent:
        """Of a label map; `wanted` values only, all of them if there are none.

        Raises:
            VolumeError: it is no label map, or none of the values is in it.
        """
        codes = checked_labels(labels)
        inside = np.isin(codes, list(wanted)) if wanted else codes != 0
        if not inside.any():
            what = f"none of the labels {sorted(wanted)}" if wanted else "no label but the background"
            raise VolumeError(f"the label map of {name} holds {what}", "leave the case out or correct its labels")
        values = frozenset(np.unique(codes[inside]).tolist())
        if len(values) > _MOST_LABELS:
            raise VolumeError(
                f"the label map of {name} has {len(values)} values", "is it an image? Name labels with --label"
            )
        index = np.stack(np.nonzero(inside), axis=-1)[:, ::-1].astype(np.float64)
        ends = np.stack([index.min(axis=0) - 0.5, index.max(axis=0) + 0.5])
        corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), axis=-1).reshape(-1, labels.grid.ndim)
        world = labels.grid.transform_points(corners, WORLD, VOXEL)
        center = labels.grid.transform_points(index.mean(axis=0), WORLD, VOXEL)
        return cls(labels.grid, values, world.min(axis=0), world.max(axis=0), center)


def run_train(options: Namespace, console: Console, cancel: Cancel) -> int:
    """`atlas-istn train`; gives the exit code."""
    config = TrainConfig(**{f.name: getattr(options, f.name) for f in fields(TrainConfig) if hasattr(options, f.name)})
    normalisation = _normalisation(options.window)
    names = _names(options.label)
    check_bundle_output(options.output, options.overwrite)
    find_device(options.device)
    cases = _cases(options.images, options.labels)
    with console.progress(options.name) as report:
        extents = _extents(cases, frozenset(names), report, cancel)
    values = sorted(names or frozenset().union(*(extent.values for extent in extents)))
    grid, on_labels = choose_grid(extents, options.shape, options.spacing, options.place_on_labels)
    labels = make_labels(values, names)
    console.say(f"{len(cases)} cases; grid {grid}, placed on each case's {'labels' if on_labels else 'image'}")
    console.say("labels " + ", ".join(f"{label.value} {label.name}" for label in labels[1:]))
    console.event(
        "setup", cases=len(cases), shape=grid.shape, spacing=grid.spacing, place_on_labels=on_labels, labels=values
    )
    with console.progress(options.name) as report:
        bundle = train(
            cases,
            config,
            labels=labels,
            grid=grid,
            about=About(name=options.name),
            normalisation=normalisation,
            place_on_labels=on_labels,
            checkpoint=options.checkpoint,
            device=options.device,
            report=report,
            cancel=cancel,
        )
    save_bundle(bundle, options.output, options.overwrite)
    last = {name: float(value) for name, value in bundle.training["last"].items()}
    epochs = bundle.training["epochs"]
    if epochs < config.epochs:
        console.warn(f"stopped after epoch {epochs} of {config.epochs}; the model is what that epoch gave")
    console.event("result", path=options.output, epochs=epochs, last=last)
    console.say(f"{options.output} written after {epochs} epochs: {_in_words(last)}")
    return INTERRUPTED if cancel() else FINE


def choose_grid(
    extents: Sequence[Extent],
    shape: Sequence[int] | None,
    spacing: Sequence[float] | None,
    on_labels: bool | None,
) -> tuple[Grid, bool]:
    """A model grid along the world's axes that holds every case's labels, and whether to centre it on them.

    Args:
        shape: voxels (Z, Y, X) or (Y, X), if given.
        spacing: mm along x, y, z, or one for all, if given.
        on_labels: where the grid goes on a case; None for the labels if an image is larger than the grid.

    Raises:
        ConfigError: the cases are of different dimensions, or what was given does not fit them.
    """
    dimensions = {extent.grid.ndim for extent in extents}
    if len(dimensions) > 1:
        raise ConfigError("some cases are 2D and others 3D", "train them apart")
    d = dimensions.pop()
    if shape is not None and len(shape) != d:
        raise ConfigError(f"--shape needs {d} numbers for {d}D cases, not {len(shape)}")
    if shape is not None and min(shape) < 8:
        raise ConfigError(f"--shape needs 8 voxels or more along every axis, not {tuple(shape)}")
    if spacing is not None and len(spacing) not in (1, d):
        raise ConfigError(f"--spacing needs {d} numbers or one for {d}D cases, not {len(spacing)}")
    if spacing is not None and not all(0 < s < math.inf for s in spacing):
        raise ConfigError(f"--spacing must be positive, not {','.join(f'{s:g}' for s in spacing)} mm")
    if on_labels is not None:
        return _grid(extents, shape, spacing, on_labels), on_labels
    grid = _grid(extents, shape, spacing, True)
    # As when the model is used: images no larger than the grid are placed by their centre.
    if any(larger(extent.grid, grid) for extent in extents):
        return grid, True
    return _grid(extents, shape, spacing, False), False


def _grid(
    extents: Sequence[Extent], shape: Sequence[int] | None, spacing: Sequence[float] | None, on_labels: bool
) -> Grid:
    d = extents[0].grid.ndim
    reach = np.zeros(d)
    for extent in extents:
        center = extent.center if on_labels else np.array(extent.grid.center)
        reach = np.maximum(reach, np.maximum(extent.high - center, center - extent.low))
    width = 2 * reach * (1 + 2 * _MARGIN)
    if spacing is None:
        finest = float(np.median([extent.grid.voxel_volume ** (1 / d) for extent in extents]))
        least = (width / np.array(shape[::-1])).max() if shape is not None else width.max() / _LONGEST[d]
        voxels = [_rounded_up(max(float(least), 0.0 if shape is not None else finest))] * d
    else:
        voxels = list(spacing) * (d if len(spacing) == 1 else 1)
    if shape is None:
        counts = np.ceil(width / np.array(voxels) / _MULTIPLE - 1e-9).astype(int) * _MULTIPLE
        shape = tuple(int(n) for n in np.maximum(counts, 2 * _MULTIPLE)[::-1])
    return Grid.centered(shape, voxels)


def _rounded_up(value: float) -> float:
    """To two significant digits, so that people can read it."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.6g}")


def make_labels(values: Sequence[int], names: Mapping[int, str]) -> tuple[Label, ...]:
    """Labels with colours that are told apart, background first."""
    hues = [(index * 0.618034) % 1 for index in range(len(values))]
    colors = [tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.6, 0.9)) for hue in hues]
    found = [
        Label(value, names.get(value, f"label {value}"), (color[0], color[1], color[2]))
        for value, color in zip(values, colors, strict=True)
    ]
    return (Label(0, "background", (0, 0, 0)), *found)


def _names(given: Sequence[tuple[int, str]]) -> dict[int, str]:
    names = dict(given)
    if len(names) < len(given):
        raise ConfigError("--label names one value twice", "give every value once")
    return names


def _normalisation(window: Sequence[float] | None) -> NormalisationConfig:
    if window is None:
        return NormalisationConfig()
    if len(window) != 2:
        raise ConfigError(f"--window needs CENTER,WIDTH, not {len(window)} numbers")
    return NormalisationConfig("window", window[0], window[1])


def _cases(images: Path, labels: Path) -> list[Case]:
    for path in (images, labels):
        if not path.exists():
            raise VolumeError(f"{path} does not exist", "check the path")
    if images.is_dir() != labels.is_dir():
        raise ConfigError("--images and --labels are a folder and a list", "give two folders or two CSV lists")
    return cases_from_folders(images, labels) if images.is_dir() else cases_from_csv(images, labels)


def _extents(cases: Sequence[Case], wanted: frozenset[int], report: Report, cancel: Cancel) -> list[Extent]:
    extents = []
    for case in cases:
        stop_if(cancel, "reading the label maps")
        labels = case.labels if isinstance(case.labels, Volume) else Volume.read(case.labels)
        extents.append(Extent.of(labels, case.name, wanted))
        report(Progress("read", len(extents), len(cases), message=case.name))
    return extents


def _in_words(terms: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {figure(value, 4)}" for name, value in terms.items())
