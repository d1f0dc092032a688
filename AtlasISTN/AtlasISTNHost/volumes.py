"""Volumes: images of the engine as volume nodes of the scene."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from AtlasISTNLib.geometry import VOXEL, WORLD, Float, slice_of
from AtlasISTNLib.volume import Volume

from . import frames, nodes

#: Attribute of a volume node: the window and level that we gave to it.
_WINDOW = "AtlasISTN.Window"
#: Shares of the values that a first look shows.
_SHOWN = (0.01, 0.995)


def lifted(volume: Volume) -> Volume:
    """A 2D volume as a 3D one of a single slice at z = 0; a 3D one as it is."""
    if volume.grid.ndim == 3:
        return volume
    return Volume.from_array(volume.array[:, np.newaxis], slice_of(volume.grid), volume.name)


def vtk_image(array: NDArray[Any]) -> Any:
    """A vtkImageData of an array (K, J, I), which is copied."""
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape[::-1])
    scalars = numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True)
    image.GetPointData().SetScalars(scalars)
    return image


def fill(node: Any, array: NDArray[Any], matrix: Float) -> None:
    """Give a volume node voxels (K, J, I), copied, and their place.

    Args:
        matrix: (4, 4), voxel index to local RAS mm.
    """
    with slicer.util.NodeModify(node):
        node.SetAndObserveImageData(vtk_image(array))
        node.SetIJKToRASMatrix(frames.vtk_matrix(matrix))


def add_volume(volume: Volume, scene: Any, name: str = "") -> Any:
    """A new scalar volume node, nobody's input, with the first channel of a volume of the engine's world (LPS).

    For instance the atlas image in atlas space.
    """
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name or volume.name))
    solid = lifted(volume)
    fill(node, solid.array[0], frames.FLIP @ solid.grid.matrix(WORLD, VOXEL))
    node.CreateDefaultDisplayNodes()
    _show(node, solid.array[0])
    return node


def write_atlas_image(volume: Volume, input_node: Any, model: str, changes: nodes.Changes | None = None) -> Any:
    """Create or update the atlas image on the patient: our volume node on the input's own voxels.

    Args:
        volume: (1, *shape of the input).
        model: the model's name.
        changes: where to register how to undo it.

    Returns:
        The node. Its window and level follow the data until the user sets others. Beyond the atlas its values lie below
        all of the atlas's, and are not drawn.
    """
    scene = input_node.GetScene()
    role, kind = nodes.ATLAS_IMAGE, "vtkMRMLScalarVolumeNode"
    node = nodes.get_or_add(scene, kind, role, input_node, model, _("atlas image"), changes)
    array, threshold = _without_surroundings(volume.array[0])
    matrix = frames.ijk_to_ras(input_node)
    old, place = node.GetImageData(), vtk.vtkMatrix4x4()
    if changes is not None and old is not None:
        node.GetIJKToRASMatrix(place)
        changes.undo_with(lambda: (node.SetAndObserveImageData(old), node.SetIJKToRASMatrix(place)))
    fill(node, array, matrix)
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    _show(node, volume.array[0])
    with slicer.util.NodeModify(node.GetDisplayNode()):
        node.GetDisplayNode().SetAutoThreshold(False)
        node.GetDisplayNode().SetThreshold(threshold, float(np.finfo(np.float32).max))
        node.GetDisplayNode().SetApplyThreshold(True)
    return node


def _without_surroundings(array: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """The atlas's values with those beyond it, where the engine has 0, below all of them; and a threshold between."""
    outside = array == 0
    inside = array[~outside]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 1.0)
    step = max(high - low, 1e-3) / 10
    return np.where(outside, np.float32(low - step), array), low - step / 2


def _show(node: Any, array: NDArray[Any]) -> None:
    """Window and level from the values, unless the user has set others since we last did."""
    display = node.GetDisplayNode()
    known = nodes.recall(node, _WINDOW)
    if known is not None and known != [display.GetWindow(), display.GetLevel()]:
        return
    inside = array[array != 0]  # beyond the atlas there is nothing
    low, high = np.quantile(inside, _SHOWN).tolist() if inside.size else (0.0, 1.0)
    high = high if high > low else low + 1.0
    with slicer.util.NodeModify(display):
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(high - low, (high + low) / 2)
    node.SetAttribute(_WINDOW, json.dumps([display.GetWindow(), display.GetLevel()]))
