"""Views show what Slicer's would: layers, segmentations, models and markups, in the place where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from standin import application, views

SIZE = (200, 180)


@pytest.fixture
def manager(scene: Any, a_volume_node: Any) -> Any:
    """The layout manager, the volume in all slice views."""
    manager = slicer.app.layoutManager()
    slicer.util.setSliceViewerLayers(background=a_volume_node, fit=True)
    return manager


def changed(show: Callable[[], Any], layout: str) -> np.ndarray:
    """(height, width) bool: pixels that `show` changes."""
    before = views.picture(layout=layout, size=SIZE).astype(int)
    show()
    return np.abs(views.picture(layout=layout, size=SIZE).astype(int) - before).max(axis=-1) > 10


def test_slice_views_show_the_volume_upright(manager: Any, a_volume_node: Any) -> None:
    """The patient's left is on the right of the picture, anterior on top: the small blob is left and anterior."""
    array = np.zeros((16, 20, 24), np.float32)
    array[6:10, 12:18, 15:22] = 100
    slicer.util.updateVolumeFromArray(a_volume_node, array)  # its axes are those of RAS: right, anterior, superior
    manager.resetSliceViews()
    bright = views.picture(layout="red", size=SIZE)[20:].mean(axis=-1) > 100
    rows, columns = np.nonzero(bright)
    assert rows.mean() < bright.shape[0] / 2
    assert columns.mean() < bright.shape[1] / 2  # right of the patient


def test_a_foreground_is_blended(manager: Any, make_a_volume: Any) -> None:
    other = make_a_volume(np.full((16, 20, 24), 100, np.float32), name="Other")
    other.GetDisplayNode().AutoWindowLevelOff()
    other.GetDisplayNode().SetWindowLevelMinMax(0, 100)

    def level(opacity: float) -> float:
        slicer.util.setSliceViewerLayers(foreground=other, foregroundOpacity=opacity)
        return views.picture(layout="red", size=SIZE)[20:].mean()

    none, half, full = level(0), level(0.5), level(1)
    assert none < half < full
    assert half == pytest.approx((none + full) / 2, abs=0.1 * full)


def test_a_segmentation_covers_its_segments(manager: Any, a_segmentation_node: Any, a_volume_node: Any) -> None:
    show = a_segmentation_node.GetDisplayNode().SetVisibility
    show(False)
    differing = changed(lambda: show(True), "red")
    outer = slicer.util.arrayFromSegmentBinaryLabelmap(a_segmentation_node, "Outer", a_volume_node)
    offset = manager.sliceWidget("Red").sliceLogic().GetSliceOffset()
    covered = outer[round((offset - 7.0) / 2.0)].sum() * 1.5 * 1.2  # mm²; the volume's origin and spacing
    node = manager.sliceWidget("Red").mrmlSliceNode()
    pixel = np.prod(np.array(node.GetFieldOfView()[:2]) / np.array(node.GetDimensions()[:2]))
    assert differing.sum() * pixel == pytest.approx(covered, rel=0.2)


def test_surfaces_are_in_the_3d_view_and_outlined_in_slices(manager: Any, scene: Any, a_volume_node: Any) -> None:
    bounds = np.zeros(6)
    a_volume_node.GetRASBounds(bounds)
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(*(bounds[::2] + bounds[1::2]) / 2)
    sphere.SetRadius(8)
    sphere.Update()
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "Surface")
    node.SetAndObservePolyData(sphere.GetOutput())
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetColor(1, 0.8, 0)
    node.GetDisplayNode().SetVisibility(False)
    node.GetDisplayNode().SetVisibility2D(True)
    outlined = changed(lambda: node.GetDisplayNode().SetVisibility(True), "red")
    assert 0 < outlined.sum() < 0.05 * outlined.size
    assert changed(lambda: node.GetDisplayNode().SetVisibility(False), "3d").sum() > 0.02 * outlined.size


def test_markups_are_shown_in_their_slice_only(manager: Any, a_markups_node: Any) -> None:
    a_markups_node.CreateDefaultDisplayNodes()
    show = a_markups_node.GetDisplayNode().SetVisibility
    logic = manager.sliceWidget("Red").sliceLogic()
    for offset, expected in ((20.0, True), (12.0, False)):
        show(False)
        logic.SetSliceOffset(offset)
        assert changed(lambda: show(True), "red").any() == expected


def test_the_layout_is_composed_and_written(manager: Any, tmp_path: Path) -> None:
    path = tmp_path / "four.png"
    pixels = views.picture(path, size=SIZE)
    width, height = SIZE
    assert pixels.shape == (2 * (height + 16 + 4), 2 * (width + 4), 3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), pixels)
    quarters = [pixels[r : r + 16, c : c + 60].reshape(-1, 3) for r in (2, height + 22) for c in (30, width + 34)]
    assert [tuple(np.median(each, axis=0)) for each in quarters] == [
        views.COLORS[n] for n in ("Red", "1", "Green", "Yellow")
    ]


def test_the_layout_manager_answers_as_slicers(manager: Any) -> None:
    assert manager.sliceViewNames() == ("Red", "Green", "Yellow")
    assert manager.sliceWidget("Nowhere") is None
    assert manager.threeDViewCount == 1
    orientations = [manager.sliceWidget(name).sliceOrientation for name in manager.sliceViewNames()]
    assert orientations == ["Axial", "Coronal", "Sagittal"]
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    assert manager.sliceViewNames() == ("Red",)
    slicer.util.forceRenderAllViews()
    application.state.main_window = False
    assert slicer.app.layoutManager() is None  # as with --no-main-window


def test_views_live_through_the_closing_of_a_scene(manager: Any, scene: Any, make_a_volume: Any) -> None:
    assert views.picture(layout="red", size=SIZE)[20:].max() > 100
    scene.Clear(0)
    assert views.picture(layout="red", size=SIZE)[20:].max() == 0
    slicer.util.setSliceViewerLayers(background=make_a_volume(), fit=True)
    assert views.picture(layout="red", size=SIZE)[20:].max() > 100
