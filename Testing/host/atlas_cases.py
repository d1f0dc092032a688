"""A small atlas, a patient who differs from it by a known smooth map, and scans of the patient in any geometry.

The patient exists in the world: a scan's parent transform, rigid or none, only says how the scan lies there. So every
scan of the patient has the same true labels at the same world points.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import slicer
from AtlasISTNHost import frames
from AtlasISTNHost.results import Outcome
from scipy import ndimage

from AtlasISTNLib.configs import ModelConfig, NormalisationConfig, RefineConfig
from AtlasISTNLib.correspondence import ATLAS_FROM_IMAGE, Correspondence, carried, carried_labels
from AtlasISTNLib.geometry import Grid, transform_points
from AtlasISTNLib.manifest import About, Label, Manifest
from AtlasISTNLib.volume import Volume

LABELS = (
    Label(0, "background", (0, 0, 0)),
    Label(3, "shell", (200, 80, 82), "74281007", "Myocardium"),
    Label(7, "core", (80, 80, 200)),
)
ATLAS_GRID = Grid.centered((16, 18, 17), (6.0, 6.0, 6.0), (2.0, -3.0, 1.0))
#: Where the patient's anatomy is, LPS mm.
PLACE = np.array([14.0, -22.0, 35.0])
FLIP = np.diag([-1.0, -1.0, 1.0])


def a_manifest(name: str = "two blobs", labels: tuple[Label, ...] = LABELS) -> Manifest:
    architecture = ModelConfig(len(labels), (16, 24, 16))
    return Manifest(About(name), labels, ATLAS_GRID, NormalisationConfig(), RefineConfig(), architecture, {})


@cache
def the_soft_labels() -> Volume:
    """Two nested ellipsoids, the inner one off the middle: weights of background, shell and core."""
    points = ATLAS_GRID.points() - np.array(ATLAS_GRID.center)
    outer = np.sqrt(((points / (26.0, 32.0, 28.0)) ** 2).sum(axis=-1))
    inner = np.sqrt((((points - (5.0, 8.0, -4.0)) / (12.0, 15.0, 13.0)) ** 2).sum(axis=-1))
    whole, core = (1 / (1 + np.exp(20 * (r - 1))) for r in (outer, inner))
    core = core * whole
    return Volume.from_array(np.stack([1 - whole, whole - core, core]), ATLAS_GRID, "labels")


@cache
def the_atlas_image() -> Volume:
    soft = the_soft_labels().array
    stripes = np.sin(ATLAS_GRID.points() / 9.0).sum(axis=-1)
    return Volume.from_array((soft[1] + 2 * soft[2] + 0.3 * stripes).astype(np.float32), ATLAS_GRID, "atlas image")


@cache
def a_correspondence(outward: str = ATLAS_FROM_IMAGE, seed: int = 0) -> Correspondence:
    """An affine with turn, scale and shear and a smooth displacement of up to 5 mm."""
    rng = np.random.default_rng(seed)
    theta = np.eye(4)
    theta[:3, :3] += rng.uniform(-0.15, 0.15, (3, 3))
    theta[:3, 3] = rng.uniform(-0.1, 0.1, 3)
    cube = np.moveaxis(ATLAS_GRID.points("cube"), -1, 0)
    waves = [np.cos(np.pi * cube[(axis + 1) % 3] * 0.7 + axis) for axis in range(3)]
    field = 0.08 * np.stack(waves) * np.prod(np.cos(np.pi / 2 * cube), axis=0)
    image_grid = Grid.centered(ATLAS_GRID.shape, ATLAS_GRID.spacing, PLACE, ATLAS_GRID.direction)
    return Correspondence.build(outward, theta, field, -field, image_grid, ATLAS_GRID)


def outcome_of(node: Any, correspondence: Correspondence | None = None, refined: bool = True) -> Any:
    """What a perfect engine answers for a scan of the patient."""
    c = correspondence or a_correspondence()
    grid = frames.grid_of(node)
    transform = c.transform(ATLAS_FROM_IMAGE)
    labels = carried_labels(the_soft_labels(), [label.value for label in LABELS], grid, transform, grid)
    volumes = {
        "labels": labels,
        "one_pass": labels,
        "prediction": labels,
        "atlas_image": carried(the_atlas_image(), grid, transform),
    }
    return Outcome("a case", LABELS, volumes, c, c, {"structures": []}, None, refined)


def true_labels(world: np.ndarray, correspondence: Correspondence | None = None) -> np.ndarray:
    """The patient's true labels at world points (N, 3), RAS mm."""
    c = correspondence or a_correspondence()
    return labels_of_atlas(c.atlas_from_image(world @ FLIP))


def labels_of_atlas(points: np.ndarray) -> np.ndarray:
    """Labels of the atlas at its LPS points (N, 3)."""
    soft = the_soft_labels()
    index = ATLAS_GRID.transform_points(points, "voxel", "world")[:, ::-1].T
    weights = [ndimage.map_coordinates(channel, index, order=1, cval=0.0) for channel in soft.array]
    return np.array([label.value for label in LABELS])[np.argmax(weights, axis=0)]


def scan(
    scene: Any,
    *,
    directions: np.ndarray | None = None,
    spacing: tuple[float, float, float] = (2.5, 2.5, 2.5),
    parent: Any = None,
    name: str = "Scan",
    extent: float = 110.0,
) -> Any:
    """A scan whose middle lies at the patient's anatomy, in the world, through whatever parent transform."""
    axes = np.eye(3) if directions is None else directions
    size = np.ceil(extent / np.array(spacing)).astype(int)
    middle = frames.moved((PLACE @ FLIP)[np.newaxis], parent, to_world=False)[0]
    matrix = np.eye(4)
    matrix[:3, :3] = axes * np.array(spacing)
    matrix[:3, 3] = middle - matrix[:3, :3] @ ((size - 1) / 2)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size[::-1]), indexing="ij"), axis=-1)[..., ::-1]
    world = frames.moved(transform_points(matrix, index.reshape(-1, 3)), parent)
    grey = true_labels(world).reshape(size[::-1]).astype(np.float32) * 10
    node = slicer.util.addVolumeFromArray(grey, ijkToRAS=matrix, name=name)
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def linear(scene: Any, matrix: np.ndarray, parent: Any = None, name: str = "Linear") -> Any:
    """A linear transform node, (3, 3) or (4, 4)."""
    full = np.eye(4)
    full[: matrix.shape[0], : matrix.shape[1]] = matrix
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(full))
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def rotation(rng: np.random.Generator) -> np.ndarray:
    """A random rotation, (3, 3)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def points_in_body(count: int = 300, seed: int = 1, share: float = 1.0) -> np.ndarray:
    """Random world points, RAS mm, in the ball of 45 mm about the anatomy."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return PLACE @ FLIP + share * 45 * directions * rng.uniform(0, 1, (count, 1)) ** (1 / 3)
