"""A result of the engine without the engine: an analytic deformation and the structures that it carries to a volume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from AtlasISTNHost import frames, results, surfaces

from AtlasISTNLib.configs import NormalisationConfig, RefineConfig
from AtlasISTNLib.correspondence import ATLAS_FROM_IMAGE, Correspondence
from AtlasISTNLib.folding import atlas_map_folding
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.manifest import About, Label, Manifest
from AtlasISTNLib.metrics import mask_volume
from AtlasISTNLib.topology import mask_topology
from AtlasISTNLib.volume import Volume, flat

LABELS = (
    Label(0, "background", (0, 0, 0)),
    Label(2, "left ventricle", (240, 178, 62), "87878005", "Left ventricle of heart"),
    Label(5, "right atrium", (92, 188, 152), "73829009", "Right atrium"),
)
#: Middle (LPS mm, atlas space) and radius in mm of each structure of the atlas.
BALLS = {2: ((-6.0, 2.0, 0.0), 11.0), 5: ((11.0, -3.0, 3.0), 6.0)}
#: The atlas's own space lies far from every patient, as it may.
ATLAS_MIDDLE = (300.0, -200.0, 90.0)


@dataclass(frozen=True, eq=False)
class Case:
    """A volume node with a result: the outcome and the nodes that it became."""

    input_node: Any
    outcome: results.Outcome
    nodes: results.Nodes


def manifest(spacing: float = 2.5, shape: tuple[int, ...] = (20, 22, 24)) -> Manifest:
    """A model of two structures."""
    return Manifest(
        about=About("two-balls", "Two balls"),
        labels=LABELS,
        grid=Grid.centered(shape, (spacing,) * 3, ATLAS_MIDDLE),
        normalisation=NormalisationConfig(),
        refinement=RefineConfig(),
        architecture=None,
        training={},
    )


def correspondence(grid: Grid, model: Manifest, scale: float = 1.1, bend: float = 0.08) -> Correspondence:
    """A map from the middle of an image to the atlas: lengths divided by `scale`, and a smooth bend on top.

    Args:
        grid: the image's, in the processing frame.
        model: says where the atlas lies.
        scale: of the patient against the atlas.
        bend: largest displacement, as part of half the model grid's width.
    """
    placed = Grid.centered(model.grid.shape, model.grid.spacing, grid.center)
    theta = np.eye(4)[:3]
    theta[:3, :3] /= scale
    cube = model.grid.points("cube")
    bump = np.exp(-(cube**2).sum(axis=-1) / 0.3)
    field = bend * np.stack([bump, -0.7 * bump * cube[..., 0], 0.6 * bump])
    return Correspondence.build(ATLAS_FROM_IMAGE, theta, field, -field, placed, model.grid)


def atlas_mask(points: np.ndarray, value: int) -> np.ndarray:
    """Which atlas points (..., 3), LPS mm, lie in a structure."""
    middle, radius = BALLS[value]
    return np.linalg.norm(points - np.add(middle, ATLAS_MIDDLE), axis=-1) < radius


def label_map(grid: Grid, c: Correspondence, values: tuple[int, ...] = (2, 5)) -> Volume:
    """The atlas's structures at the voxels of an image."""
    points = c.atlas_from_image(grid.points())
    array = np.zeros(grid.shape, dtype=np.uint8)
    for value in values:
        array[atlas_mask(points, value)] = value
    return Volume.from_array(array, grid, "labels")


def outcome(input_node: Any, model: Manifest, *, refined: bool = True, **deformation: float) -> results.Outcome:
    """What the engine would send for a volume node."""
    grid = frames.grid_of(input_node)
    one_pass = correspondence(grid, model, scale=1.0, bend=0.0)
    final = correspondence(grid, model, **deformation) if refined else one_pass
    labels = label_map(grid, final)
    prediction = label_map(grid, one_pass).array.copy()
    k, j, i = (n // 2 for n in grid.shape)
    prediction[0, k, j, i] = 0  # a hole that the atlas does not have
    prediction[0, 1:3, 1:3, 1:3] = 5  # and an island
    atlas = np.linalg.norm(final.atlas_from_image(grid.points()) - np.array(ATLAS_MIDDLE), axis=-1)
    volumes = {
        "labels": labels,
        "one_pass": label_map(grid, one_pass),
        "prediction": Volume.from_array(prediction, grid, "prediction"),
        "atlas_image": Volume.from_array(np.exp(-((atlas / 15) ** 2)).astype(np.float32), grid, "atlas-image"),
    }
    figures = {"structures": structures(volumes, model), "folding": folding(final)}
    return results.Outcome("case", LABELS, volumes, one_pass, final, figures, None, refined)


def structures(volumes: dict[str, Volume], model: Manifest) -> list[dict[str, Any]]:
    """Figures of structures as the engine's report has them."""
    maps = {"prediction": volumes["prediction"], "one_pass": volumes["one_pass"], "final": volumes["labels"]}
    entries = []
    for label in LABELS[1:]:
        masks = {stage: flat(volume).array[0] == label.value for stage, volume in maps.items()}
        spacing = flat(volumes["labels"]).grid.spacing
        atlas = atlas_mask(model.grid.points(), label.value)
        entries.append(
            {
                "value": label.value,
                "name": label.name,
                "volume": {
                    "unit": "mL" if len(spacing) == 3 else "mm²",
                    **{stage: mask_volume(mask, spacing) for stage, mask in masks.items()},
                },
                "topology": {stage: vars(mask_topology(mask)) for stage, mask in masks.items()}
                | {"atlas": vars(mask_topology(atlas))},
            }
        )
    return entries


def folding(c: Correspondence) -> dict[str, float]:
    """Figures of folding as the engine's report has them."""
    found = atlas_map_folding(c)
    return {"percent": found.percent, "smallest_jacobian": found.smallest}


def soft_labels(model: Manifest) -> Volume:
    """The atlas's soft labels: 1 inside a structure and 0 outside, with an edge of 1 mm."""
    points = model.grid.points()
    channels = []
    for value, (middle, radius) in BALLS.items():
        assert value
        distance = np.linalg.norm(points - np.add(middle, ATLAS_MIDDLE), axis=-1) - radius
        channels.append(1 / (1 + np.exp(distance / 1.0)))
    rest = np.clip(1 - np.sum(channels, axis=0), 0, 1)
    return Volume.from_array(np.stack([rest, *channels]).astype(np.float32), model.grid, "labels")


def case(input_node: Any, **choices: Any) -> Case:
    """The result of a volume node, written into its scene."""
    model = manifest()
    found = outcome(input_node, model, **choices)
    made = surfaces.atlas_surfaces(model, soft_labels(model))
    return Case(input_node, found, results.write_outcome(found, input_node, model, made))


def without(found: results.Outcome, **changes: Any) -> results.Outcome:
    """The outcome with other parts."""
    return replace(found, **changes)
