"""Results: what segmenting an image gives, in the image's own world. Values: nothing in them changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from .bundle import Label
from .configs import RefineConfig
from .correspondence import ATLAS_FROM_IMAGE, Correspondence, carried, carried_labels, part_around, place_of
from .geometry import Float, Grid
from .placement import Placement
from .volume import Volume

#: Where the atlas has less foreground than this, no label can come from.
_LEAST_WEIGHT = 1e-3


@dataclass(frozen=True)
class Step:
    """Loss terms of one refinement step, before its update; the last one is after the last update.

    Attributes:
        step: from 0.
        total: L*.
        a2s, s2a, reg: its terms, without their weights.
        landmarks: mean squared distance of the landmarks in mm², without its weight; 0 without landmarks.
        distances: each landmark's distance in mm.
    """

    step: int
    total: float
    a2s: float
    s2a: float
    reg: float
    landmarks: float = 0.0
    distances: tuple[float, ...] = ()


@dataclass(frozen=True)
class LandmarkLeft:
    """A landmark pair of a refinement: how far apart the two were in mm before it, and are by its result."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Trace:
    """The course of a refinement.

    Attributes:
        config: with every default filled in.
        strength_voxel: λ* in voxel units along x, y, z.
        steps: loss terms by step.
        best: the step whose state was kept, that of the lowest total.
        stopped: "finished", "cancelled" or "diverged".
        seconds: wall time.
        steering: what steered it, as plain values (see `steering.as_values`); None where nothing did.
        landmarks: how far they were and are.
    """

    config: RefineConfig
    strength_voxel: tuple[float, ...]
    steps: tuple[Step, ...]
    best: int
    stopped: str
    seconds: float
    steering: Mapping[str, Any] | None = None
    landmarks: tuple[LandmarkLeft, ...] = ()


@dataclass(frozen=True, eq=False)
class State:
    """What refinement goes on from: velocity and affine parameters, and the STN's weights when they were adapted."""

    velocity: Tensor | None
    affine: Tensor | None
    weights: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """A segmented image.

    Attributes:
        image: the input.
        structures: the labels, background first.
        placement: where the model grid lay.
        soft_prediction: the ITN's output on the model grid, K channels; a target where that was given in its place.
        soft_atlas: the atlas label map in atlas space, K channels.
        atlas: the atlas image in atlas space.
        one_pass: correspondence after one pass of the STN.
        correspondence: the current one: the refined one after `refine`.
        state: what refinement goes on from.
        trace: course of the last refinement; None before one.
        seconds: wall time by stage.
        source: of `soft_prediction`: "itn" or "target".
        target: what the atlas was last fitted to, K channels on the model grid, where it was not the ITN's prediction.

    The volumes below are computed when they are first asked for.
    """

    image: Volume
    structures: tuple[Label, ...]
    placement: Placement
    soft_prediction: Volume
    soft_atlas: Volume
    atlas: Volume
    one_pass: Correspondence
    correspondence: Correspondence
    state: State
    trace: Trace | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    source: str = "itn"
    target: Volume | None = None

    @property
    def values(self) -> tuple[int, ...]:
        """Label values, background first."""
        return tuple(label.value for label in self.structures)

    @property
    def names(self) -> dict[int, str]:
        """Names of the structures by value, without the background."""
        return {label.value: label.name for label in self.structures[1:]}

    @cached_property
    def labels(self) -> Volume:
        """The warped atlas labels at the image's own voxels."""
        return self.labels_of(self.correspondence)

    @cached_property
    def one_pass_labels(self) -> Volume:
        """The atlas labels as one pass of the STN warps them, at the image's own voxels."""
        return self.labels if self.correspondence is self.one_pass else self.labels_of(self.one_pass)

    @cached_property
    def prediction(self) -> Volume:
        """The labels of `soft_prediction` at the image's own voxels; background beyond the model grid."""
        grid = self.soft_prediction.grid
        where = part_around(self.image.grid, grid.corners(), 0.0)
        return self._labels(self.soft_prediction, sitk.Transform(grid.ndim, sitk.sitkIdentity), where)

    @cached_property
    def atlas_image(self) -> Volume:
        """The atlas image on the patient, at the image's own voxels, in the atlas's normalised values; 0 beyond it."""
        grid = self.image.grid
        where = part_around(grid, self._image_points(self.atlas.grid.points().reshape(-1, grid.ndim)), self._margin)
        full = np.zeros((1, *grid.shape), dtype=np.float32)
        if where is not None:
            part = carried(self.atlas, where, self.correspondence.transform(ATLAS_FROM_IMAGE))
            full[0][place_of(where, grid)] = part.array[0]
        return Volume.from_array(full, grid, "atlas-image")

    def labels_of(self, correspondence: Correspondence) -> Volume:
        """The atlas labels on the image by any correspondence of it."""
        weight = self.soft_atlas.array[1:].sum(axis=0)
        points = self.soft_atlas.grid.points()[weight > _LEAST_WEIGHT]
        where = None
        if len(points):
            where = part_around(self.image.grid, correspondence.image_from_atlas(points), self._margin)
        return self._labels(self.soft_atlas, correspondence.transform(ATLAS_FROM_IMAGE), where)

    @property
    def _margin(self) -> float:
        # Boundaries lie between voxels of the atlas, which the affine part may stretch.
        return 4 * max(self.soft_atlas.grid.spacing)

    def _image_points(self, points: Float) -> Float:
        return self.correspondence.image_from_atlas(points)

    def _labels(self, soft: Volume, transform: sitk.Transform, where: Grid | None) -> Volume:
        if where is None:
            return Volume.from_array(np.full(self.image.grid.shape, self.values[0], dtype=np.uint8), self.image.grid)
        return carried_labels(soft, self.values, self.image.grid, transform, where)
