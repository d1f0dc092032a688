"""Fixtures of the tests with Slicer's real scene and no Qt: a fresh scene for every test, and what a user has in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="the wheel slicer-core is not installed")

TESTING = Path(__file__).resolve().parents[1]
for folder in (TESTING, TESTING.parent / "AtlasISTN"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import slicer  # noqa: E402
from standin import application, i18n, mrml, parameter_nodes  # noqa: E402

i18n.install()  # the rooms of the panel take their texts from it when they are imported
parameter_nodes.install()
application.install()  # slicer.app without Qt: files and messages work; there is no event loop


@pytest.fixture
def scene() -> Iterator[Any]:
    """A fresh scene, which is slicer.mrmlScene; a test fails where VTK reported an error (which it only prints)."""
    mrml.vtk_errors.clear()
    application.forget()
    yield mrml.make_scene()
    reported = list(mrml.vtk_errors)
    mrml.vtk_errors.clear()
    assert not reported, "VTK reported errors: " + "; ".join(reported)


@pytest.fixture
def make_a_volume(scene: Any):
    """A function that adds a scalar volume: make(array KJI, spacing mm, origin RAS mm, directions 3×3 in RAS, name)."""

    def make(
        array: np.ndarray | None = None,
        *,
        spacing: tuple[float, float, float] = (1.5, 1.2, 2.0),
        origin: tuple[float, float, float] = (12.0, -30.0, 7.0),
        directions: np.ndarray | None = None,
        name: str = "CT heart",
    ) -> Any:
        if array is None:
            array = two_blobs()
        matrix = np.eye(4)
        matrix[:3, :3] = (np.eye(3) if directions is None else directions) @ np.diag(spacing)
        matrix[:3, 3] = origin
        return slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name=name)

    return make


def two_blobs(shape: tuple[int, int, int] = (16, 20, 24)) -> np.ndarray:
    """A bright ellipsoid and a brighter, smaller one off its middle; no two axes alike."""
    k, j, i = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    outer = (k / 0.7) ** 2 + (j / 0.6) ** 2 + (i / 0.8) ** 2 < 1
    inner = ((k - 0.2) / 0.3) ** 2 + ((j + 0.1) / 0.25) ** 2 + ((i - 0.3) / 0.3) ** 2 < 1
    return (60.0 * outer + 40.0 * inner).astype(np.float32)


def turned(*degrees: float) -> np.ndarray:
    """Rotation by angles about x, y and z, in that order: (3, 3)."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


@pytest.fixture
def a_volume_node(make_a_volume: Any) -> Any:
    """An axial volume, 24 × 20 × 16 voxels of unequal sides, with two blobs."""
    return make_a_volume()


@pytest.fixture
def an_oblique_volume_node(make_a_volume: Any) -> Any:
    """The same, its axes turned about all three directions of space."""
    return make_a_volume(directions=turned(25, -15, 40), name="Oblique CT")


@pytest.fixture
def a_left_handed_volume_node(make_a_volume: Any) -> Any:
    """Slices stored the other way round: axes of negative determinant."""
    return make_a_volume(directions=turned(10, 5, -20) @ np.diag([1.0, 1.0, -1.0]), name="Left-handed CT")


@pytest.fixture
def a_linear_transform_node(scene: Any) -> Any:
    """A rigid motion of the patient: turned by 20 and 10 degrees, moved by (7, −12, 30) mm RAS."""
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Patient moved")
    matrix = np.eye(4)
    matrix[:3, :3] = turned(0, 10, 20)
    matrix[:3, 3] = (7.0, -12.0, 30.0)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


@pytest.fixture
def a_moved_volume_node(a_volume_node: Any, a_linear_transform_node: Any) -> Any:
    """A volume under a linear transform."""
    a_volume_node.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
    return a_volume_node


@pytest.fixture
def a_roi_node(scene: Any, a_volume_node: Any) -> Any:
    """A region of interest around the middle half of the volume."""
    bounds = np.zeros(6)
    a_volume_node.GetRASBounds(bounds)
    low, high = bounds[::2], bounds[1::2]
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Heart ROI")
    node.SetCenter(*((low + high) / 2))
    node.SetSize(*((high - low) / 2))
    return node


@pytest.fixture
def a_segmentation_node(scene: Any, a_volume_node: Any) -> Any:
    """A user's own segmentation of the volume: the segments Outer and Inner, with the volume's geometry."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "My segmentation")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(a_volume_node)
    array = slicer.util.arrayFromVolume(a_volume_node)
    for name, above, color in (("Outer", 50, (0.8, 0.3, 0.3)), ("Inner", 90, (0.3, 0.4, 0.9))):
        segment = node.GetSegmentation().AddEmptySegment(name, name, color)
        slicer.util.updateSegmentBinaryLabelmapFromArray((array > above).astype(np.uint8), node, segment, a_volume_node)
    return node


@pytest.fixture
def a_markups_node(scene: Any) -> Any:
    """Three control points in RAS mm, named as a user would."""
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Landmarks")
    for name, point in (("Apex", (20.0, -10.0, 20.0)), ("Base", (30.0, -20.0, 30.0)), ("Septum", (25.0, -12.0, 25.0))):
        node.AddControlPoint(point, name)
    return node
