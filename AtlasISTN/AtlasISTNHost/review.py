"""How a result is looked at: which segmentation is shown, and what lies over the slices.

Only nodes of ours are changed, and the foreground of the slice views, which goes back to what it was.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.correspondence import Correspondence
from AtlasISTNLib.errors import ConfigError
from AtlasISTNLib.geometry import VOXEL, WORLD, Float
from AtlasISTNLib.volume import Volume

from . import frames, jacobian, overlays, volumes
from . import nodes as ours

#: Which node of a result is which segmentation.
SEGMENTATIONS = {"prediction": "prediction", "one-pass": "one_pass", "refined": "segmentation"}

#: Roles of nodes that only this room knows.
GRID = "warped-grid"
JACOBIAN_COLORS = "jacobian-colors"
#: Attribute of the atlas image on the patient: the opacity that it is asked to have, 0 when it is not there.
_ATLAS_OPACITY = "AtlasISTN.Opacity"

#: Roles of the maps that lie over the patient one at a time, and before the atlas's image.
MAPS = (ours.JACOBIAN, "disagreement")
#: Opacity of the Jacobian over the patient.
JACOBIAN_OPACITY = 0.5
#: At least so many lines of the warped grid cross the anatomy; their distance is 1, 2 or 5 times a power of ten, in mm.
GRID_LINES = 8
#: So many pieces a line has from one crossing to the next.
GRID_PIECES = 5
_GRID_COLOR = (1.0, 0.85, 0.25)
_SAMPLES = 7


def show(result: Any, which: str) -> None:
    """Show one of a result's segmentations and hide the others; what else is in the scene stays as it is.

    Args:
        result: a `results.Nodes`.
        which: "prediction", "one-pass" or "refined".

    Raises:
        ConfigError: `which` is none of these.
    """
    if which not in SEGMENTATIONS:
        raise ConfigError(f"no segmentation '{which}'", f"use one of {list(SEGMENTATIONS)}")
    for name, node in _segmentations(result).items():
        display = _display(node)
        if bool(display.GetVisibility()) != (name == which):
            display.SetVisibility(name == which)


def set_outlines_only(result: Any, on: bool) -> None:
    """Draw a result's segmentations as outlines, or filled; what is set for single segments stays."""
    for node in _segmentations(result).values():
        display = _display(node)
        if bool(display.GetVisibility2DFill()) == on:
            display.SetVisibility2DFill(not on)


def show_surfaces(result: Any, on: bool) -> None:
    """Show or hide a result's surfaces."""
    for node in result.surfaces.values():
        if ours.in_scene(node):
            display = _display(node)
            if bool(display.GetVisibility()) != on:
                display.SetVisibility(on)


def set_atlas_opacity(result: Any, input_node: Any, opacity: float) -> None:
    """Lay the atlas's image over the patient in all slice views whose background is the input.

    At 0 the user's own foreground is there again. While one of `MAPS` is shown, it goes before the atlas's image.

    Args:
        result: a `results.Nodes`.
        input_node: the patient's image.
        opacity: in [0, 1].
    """
    atlas = result.atlas_image
    if not ours.in_scene(atlas):
        return
    atlas.SetAttribute(_ATLAS_OPACITY, repr(float(opacity)) if opacity > 0 else None)
    model = result.segmentation.GetAttribute(ours.MODEL)
    if any(overlays.covers(ours.find(input_node.GetScene(), role, input_node, model)) for role in MAPS):
        return
    if opacity > 0:
        overlays.lay_over(input_node, atlas, opacity)
    else:
        overlays.take_off(input_node.GetScene(), atlas)


def show_jacobian(result: Any, input_node: Any, outcome: Any, on: bool) -> Any:
    """Lay the local change of volume from the atlas to the patient over the patient.

    Args:
        result: a `results.Nodes`.
        input_node: the patient's image.
        outcome: a `results.Outcome`; None takes the values that the scene has, as after it was loaded.
        on: whether to show it.

    Returns:
        the volume node: 1 where nothing changes, below where the atlas is compressed; None where there is none.
    """
    node = _jacobian_node(result, input_node)
    if on and outcome is not None:
        node = _write_jacobian(result, input_node, outcome)
    if node is not None:
        show_map(result, input_node, node, on, JACOBIAN_OPACITY)
    return node


def show_map(result: Any, input_node: Any, node: Any, on: bool, opacity: float) -> None:
    """Lay a map over the patient with its legend, or take it off: then comes what was there before it.

    Args:
        result: a `results.Nodes`.
        input_node: the patient's image.
        node: the volume node of one of `MAPS`.
        on: whether to show it.
        opacity: in [0, 1].
    """
    atlas = result.atlas_image
    before = atlas.GetAttribute(_ATLAS_OPACITY) if ours.in_scene(atlas) else None
    if on:
        overlays.lay_over(input_node, node, opacity)
    elif overlays.covers(node) and before:
        overlays.lay_over(input_node, atlas, float(before))
    else:
        overlays.take_off(input_node.GetScene(), node)
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
    if legend is not None:
        legend.SetVisibility(on)
        legend.Modified()  # it looks at what the views show only when it changes itself


def show_grid(result: Any, on: bool) -> Any:
    """Draw the atlas's regular grid as it lies on the patient, over the slices.

    Slicer draws a transform's grid by laying regular lines over the slice, as points of the space that the transform
    takes to the world, and carrying them through it; what leads out of the slice is not drawn. The atlas's own space
    may lie anywhere, far from the slice. So a rigid motion comes first, which lays the atlas over the patient as near
    as it can: the lines are the atlas's, undeformed, and what is seen of them is stretch and bend. It is a transform
    node under image-from-atlas and follows it, and the input's own transforms, by itself.

    Args:
        result: a `results.Nodes`.
        on: whether to show it.

    Returns:
        the transform node; None where there is none.
    """
    input_node = result.segmentation.GetNodeReference(ours.INPUT)
    if input_node is None or not ours.in_scene(result.image_from_atlas):
        return None
    scene, model = input_node.GetScene(), result.segmentation.GetAttribute(ours.MODEL)
    node = ours.find(scene, GRID, input_node, model)
    if node is None and not on:
        return None
    if on:
        bounds = _bounds(result, input_node)
        if node is None:
            node = ours.get_or_add(scene, "vtkMRMLLinearTransformNode", GRID, input_node, model, name=_("warped grid"))
            node.CreateDefaultDisplayNodes()
            _style_grid(node.GetDisplayNode(), bounds)
        node.SetAndObserveTransformNodeID(result.image_from_atlas.GetID())
        node.SetMatrixTransformToParent(frames.vtk_matrix(_atlas_over_patient(result, bounds)))
    display = _display(node)
    display.SetVisibility(on)
    display.SetVisibility2D(on)
    display.SetVisibility3D(False)
    return node


def focus(result: Any) -> None:
    """Move all slice views to the middle of the segmented anatomy, as after a first result."""
    input_node = result.segmentation.GetNodeReference(ours.INPUT)
    if input_node is not None:
        middle = _bounds(result, input_node).mean(axis=0)
        slicer.vtkMRMLSliceNode.JumpAllSlices(input_node.GetScene(), *middle, slicer.vtkMRMLSliceNode.OffsetJumpSlice)


def leave(scene: Any) -> None:
    """Give the slice views back as they were; called when the user leaves the module."""
    overlays.take_off(scene)


def _segmentations(result: Any) -> dict[str, Any]:
    found = {which: getattr(result, field) for which, field in SEGMENTATIONS.items()}
    return {which: node for which, node in found.items() if ours.in_scene(node)}


def _display(node: Any) -> Any:
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    return node.GetDisplayNode()


def _bounds(result: Any, input_node: Any) -> Float:
    """The corners, lowest and highest, of the box around the anatomy in world RAS mm: (2, 3)."""
    bounds = np.zeros(6)
    result.segmentation.GetRASBounds(bounds)
    if not (bounds[1::2] >= bounds[::2]).all():  # nothing was segmented
        input_node.GetRASBounds(bounds)
    return bounds.reshape(3, 2).T


def _atlas_over_patient(result: Any, bounds: Float) -> Float:
    """The rigid motion from world RAS to atlas RAS, (4, 4), nearest to the correspondence over the anatomy."""
    steps = np.linspace(0, 1, _SAMPLES)
    unit = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    points = bounds[0] + unit * (bounds[1] - bounds[0])
    return rigid_fit(points, frames.moved(points, result.atlas_from_image))


def rigid_fit(source: Float, target: Float) -> Float:
    """The rotation and translation, (4, 4), that bring points (N, 3) nearest to others in the least-squares sense.

    Source: Kabsch, Acta Crystallographica A 32 (1976) 922.
    """
    middle, aim = source.mean(axis=0), target.mean(axis=0)
    left, _stretch, right = np.linalg.svd((target - aim).T @ (source - middle))
    turn = left @ np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, aim - turn @ middle
    return matrix


def _style_grid(display: Any, bounds: Float) -> None:
    spacing = round_length(float((bounds[1] - bounds[0]).max()) / GRID_LINES)
    with slicer.util.NodeModify(display):
        display.SetVisualizationMode(slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID)
        display.SetGridSpacingMm(spacing)
        display.SetGridResolutionMm(spacing / GRID_PIECES)
        display.SetGridScalePercent(100)
        display.SetGridShowNonWarped(False)
        display.SetScalarVisibility(False)
        display.SetColor(*_GRID_COLOR)


def round_length(length: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten that is not longer; 1 mm for lengths that are none."""
    if not length > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(length))
    return float(power * max(step for step in (1, 2, 5) if step <= length / power + 1e-9))


def _jacobian_node(result: Any, input_node: Any) -> Any:
    model = result.segmentation.GetAttribute(ours.MODEL)
    return ours.find(input_node.GetScene(), ours.JACOBIAN, input_node, model)


def _write_jacobian(result: Any, input_node: Any, outcome: Any) -> Any:
    """Create or update the volume node with the Jacobian of the outcome's last deformation."""
    volume = _jacobian_of(outcome.final)
    frame = frames.frame_of_result(outcome.volumes["labels"].grid, input_node)
    model = result.segmentation.GetAttribute(ours.MODEL)
    node = ours.get_or_add(
        input_node.GetScene(), "vtkMRMLScalarVolumeNode", ours.JACOBIAN, input_node, model, name=_("Jacobian")
    )
    matrix = frame.local_from_lps @ volume.grid.matrix(WORLD, VOXEL)
    volumes.fill(node, volume.array[0], matrix)
    _color_jacobian(node, jacobian.color_limit(volume.array))
    return node


@lru_cache(maxsize=1)
def _jacobian_of(correspondence: Correspondence) -> Volume:
    """Kept for the last deformation, so that it can be switched on and off at once."""
    return jacobian.jacobian_volume(correspondence)


def _color_jacobian(node: Any, limit: float) -> None:
    """Diverging colours about 1, and a legend."""
    display = _display(node)
    table = display.GetColorNode()
    if table is None or table.GetAttribute(ours.ROLE) != JACOBIAN_COLORS:
        table = slicer.vtkMRMLColorTableNode()
        table.SetName(f"{node.GetName()} colours")
        table.SetTypeToUser()
        table.SetHideFromEditors(True)
        table.SetAttribute(ours.ROLE, JACOBIAN_COLORS)
        table = node.GetScene().AddNode(table)
    palette = jacobian.colors(limit)
    table.SetNumberOfColors(len(palette))
    table.GetLookupTable().SetRange(1 / limit, limit)
    for i, color in enumerate(palette):
        value = 1 / limit + i * (limit - 1 / limit) / (len(palette) - 1)
        table.SetColor(i, f"{value:.2f}", *color)
    with slicer.util.NodeModify(display):
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(1 / limit, limit)
        display.SetInterpolate(True)
        display.SetAndObserveColorNodeID(table.GetID())
    logic = slicer.vtkSlicerColorLogic
    if logic.GetColorLegendDisplayNode(node) is None:
        legend = logic.AddDefaultColorLegendDisplayNode(node)
        legend.SetTitleText(_("Volume change"))
        legend.SetLabelFormat("%.2f")
