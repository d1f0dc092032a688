"""Report: all figures of a result as plain values, and a picture of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import __version__
from .bundle import Bundle, grid_as_dict
from .configs import as_dict
from .correspondence import Correspondence
from .disagreements import disagreement
from .errors import GeometryError
from .folding import atlas_map_folding
from .metrics import dice, evaluate, mask_volume
from .result import Result, Step, Trace
from .topology import Topology, mask_topology
from .volume import Volume, checked_labels, flat, write_atomically

#: Names of the three segmentations that every report compares, in this order.
STAGES = ("prediction", "one_pass", "final")


def summary(bundle: Bundle, result: Result, reference: Volume | None = None, source: str = "") -> dict[str, Any]:
    """Everything that is known of a result, as plain values for JSON; None where a figure does not exist.

    Lengths are in mm, LPS; volumes in mL, areas (2D images and single slices) in mm²; times in seconds, dates in UTC.

    Args:
        bundle: the model that made the result.
        result: from `segment` or `refine`.
        reference: true labels on the image's grid, with the model's label values.
        source: where the image came from, for people.

    Raises:
        GeometryError: the reference lies on another grid than the image.
        VolumeError: the reference is not a label map.
    """
    if reference is not None:
        check_reference(result.image, reference)
    return {
        "software": {
            "name": "AtlasISTN",
            "version": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "image": {"name": result.image.name, "source": source, **grid_as_dict(result.image.grid)}
        | {"size": list(result.image.grid.size)},
        "model": _model(bundle),
        "device": str(bundle.device),
        "prediction": result.source,
        "placement": _placement(result),
        "refinement": None if result.trace is None else _refinement(result.trace),
        "seconds": {stage: float(s) for stage, s in result.seconds.items()},
        "structures": _structures(result),
        "folding": _folding(result.correspondence),
        "disagreement": disagreement(result).as_values(),
        "scores": None if reference is None else _scores(result, reference),
    }


def write_picture(
    bundle: Bundle,
    result: Result,
    path: str | os.PathLike[str],
    reference: Volume | None = None,
    figures: Mapping[str, Any] | None = None,
) -> Path:
    """Write a picture of a result as a PNG: slices with outlines at each stage, deformation, losses and figures.

    Args:
        bundle: the model that made the result.
        result: from `segment` or `refine`.
        path: the file; it appears whole or not at all.
        reference: as for `summary`; drawn and scored.
        figures: what `summary` gave for the same result and reference, to save computing it again.

    Raises:
        OutputError: the place cannot be written.
        GeometryError, VolumeError: as `summary`.
    """
    from .picture import draw  # brings matplotlib, which takes a second that only pictures need

    known = summary(bundle, result, reference) if figures is None else figures
    canvas = draw(result, bundle.normalisation, known, reference)
    return write_atomically(path, lambda partial: canvas.print_png(str(partial)))


def check_reference(image: Volume, reference: Volume) -> None:
    """Refuse true labels that an image's results cannot be measured against.

    Raises:
        GeometryError: they lie on another grid than the image.
        VolumeError: they are not a label map.
    """
    checked_labels(reference)
    grid = image.grid
    if reference.grid.ndim != grid.ndim or not reference.grid.same_as(grid):
        raise GeometryError(
            f"{reference.name or 'the reference'} ({reference.grid}) does not lie on the grid of the image ({grid})",
            'resample it onto the image first, with interpolation="nearest"',
        )


def _model(bundle: Bundle) -> dict[str, Any]:
    about = bundle.about
    return {
        "name": about.name,
        "title": about.title,
        "version": about.version,
        "licence": about.licence,
        "intended_use": about.intended_use,
        "citation": about.citation,
        "shape": list(bundle.grid.shape),
        "spacing": list(bundle.grid.spacing),
    }


def _placement(result: Result) -> dict[str, Any]:
    grid = result.placement.grid
    corners = grid.corners()
    pairs = zip(corners.min(axis=0).tolist(), corners.max(axis=0).tolist(), strict=True)
    return {
        "how": result.placement.how,
        "center": list(grid.center),
        "box": [value for pair in pairs for value in pair],
        "grid": grid_as_dict(grid),
        "warnings": list(result.placement.warnings),
    }


def _refinement(trace: Trace) -> dict[str, Any]:
    best = next(step for step in trace.steps if step.step == trace.best)
    return {
        "config": as_dict(trace.config),
        "strength": trace.config.strength,
        "strength_voxel": list(trace.strength_voxel),
        "iterations": trace.steps[-1].step,
        "best": trace.best,
        "stopped": trace.stopped,
        "steering": None if trace.steering is None else dict(trace.steering),
        "landmarks": [{"name": mark.name, "before": mark.before, "after": mark.after} for mark in trace.landmarks],
        "losses": {"first": _losses(trace.steps[0]), "best": _losses(best), "last": _losses(trace.steps[-1])},
        "trace": [{"step": step.step, **_losses(step)} for step in trace.steps],
    }


def _losses(step: Step) -> dict[str, Any]:
    losses: dict[str, Any] = {"total": step.total, "a2s": step.a2s, "s2a": step.s2a, "reg": step.reg}
    return {**losses, "landmarks": step.landmarks, "distances": list(step.distances)} if step.distances else losses


def _stages(result: Result) -> dict[str, Volume]:
    """The label maps of the three stages."""
    return dict(zip(STAGES, (result.prediction, result.one_pass_labels, result.labels), strict=True))


def _structures(result: Result) -> list[dict[str, Any]]:
    maps = {stage: flat(volume) for stage, volume in _stages(result).items()}
    grid = maps["final"].grid
    codes = np.asarray(result.values)
    atlas = codes[flat(result.soft_atlas).array.argmax(axis=0)]
    entries = []
    for label in result.structures[1:]:
        masks = {stage: volume.array[0] == label.value for stage, volume in maps.items()}
        volumes = {stage: mask_volume(mask, grid.spacing) for stage, mask in masks.items()}
        topologies = {stage: _plain_topology(mask_topology(mask)) for stage, mask in masks.items()}
        agreement = dice(masks["prediction"], masks["final"])
        entries.append(
            {
                "value": label.value,
                "name": label.name,
                "color": list(label.color),
                "snomed": {"code": label.snomed_code, "meaning": label.snomed_meaning},
                "volume": {"unit": "mL" if grid.ndim == 3 else "mm²", **volumes},
                "topology": {**topologies, "atlas": _plain_topology(mask_topology(atlas == label.value))},
                "dice_prediction_final": None if isnan(agreement) else agreement,
            }
        )
    return entries


def _plain_topology(topology: Topology) -> dict[str, int]:
    return {
        "components": topology.components,
        "holes": topology.holes,
        "tunnels": topology.tunnels,
        "euler": topology.euler,
    }


def _folding(correspondence: Correspondence) -> dict[str, Any]:
    """Folding of the map from the placed model grid to the atlas, both in voxels of the model."""
    found = atlas_map_folding(correspondence)
    return {
        "map": "atlas_from_image",
        "percent": found.percent,
        "volume_voxels": found.volume,
        "voxels": found.voxels,
        "smallest_jacobian": found.smallest,
    }


def _scores(result: Result, reference: Volume) -> dict[str, Any]:
    true = flat(reference)
    return {stage: evaluate(flat(v), true, result.names).to_dict() for stage, v in _stages(result).items()}


__all__ = ["STAGES", "check_reference", "summary", "write_picture"]
