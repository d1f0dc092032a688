"""Files are read and written by slicer.util as in Slicer: what a module saves comes back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from standin import messages, mrml


def hierarchy() -> Any:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


@pytest.fixture
def a_model_node(scene: Any) -> Any:
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(10, 20, 30)
    sphere.Update()
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "Surface")
    node.SetAndObservePolyData(sphere.GetOutput())
    node.CreateDefaultDisplayNodes()
    return node


@pytest.fixture
def a_grid_transform_node(scene: Any) -> Any:
    """Displacements given from the parent, with different values everywhere."""
    grid = vtk.vtkImageData()
    grid.SetDimensions(5, 4, 3)
    grid.SetSpacing(2, 3, 4)
    grid.AllocateScalars(vtk.VTK_DOUBLE, 3)
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(grid)
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Field")
    node.SetAndObserveTransformFromParent(transform)
    array = slicer.util.arrayFromGridTransform(node)
    array[:] = np.arange(array.size).reshape(array.shape) / array.size
    slicer.util.arrayFromGridTransformModified(node)
    return node


@pytest.mark.parametrize("ending", ["nrrd", "nii.gz", "mha"])
def test_a_volume_comes_back(an_oblique_volume_node: Any, tmp_path: Path, ending: str) -> None:
    path = str(tmp_path / f"ct.{ending}")
    assert slicer.util.saveNode(an_oblique_volume_node, path)
    again = slicer.util.loadVolume(path)
    assert again.GetName() == "ct"
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(again), slicer.util.arrayFromVolume(an_oblique_volume_node)
    )
    matrices = [vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()]
    for node, matrix in zip((again, an_oblique_volume_node), matrices, strict=True):
        node.GetIJKToRASMatrix(matrix)
    np.testing.assert_allclose(*map(slicer.util.arrayFromVTKMatrix, matrices), atol=1e-4)
    assert slicer.mrmlScene.GetNodeByID(again.GetStorageNodeID()).GetFileName() == path


def test_a_volume_is_loaded_as_labels_and_under_another_name(a_volume_node: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "labels.nrrd")
    slicer.util.saveNode(a_volume_node, path)
    again = slicer.util.loadLabelVolume(path, {"name": "Heart"})
    assert (again.GetClassName(), again.GetName()) == ("vtkMRMLLabelMapVolumeNode", "Heart")


def test_a_segmentation_comes_back(a_segmentation_node: Any, a_volume_node: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "mine.seg.nrrd")
    assert slicer.util.saveNode(a_segmentation_node, path)
    again = slicer.util.loadSegmentation(path)
    segments = again.GetSegmentation()
    assert [segments.GetNthSegment(i).GetName() for i in range(segments.GetNumberOfSegments())] == ["Outer", "Inner"]
    assert segments.GetSegment("Inner").GetColor() == pytest.approx((0.3, 0.4, 0.9), abs=0.01)
    for name in ("Outer", "Inner"):
        np.testing.assert_array_equal(
            *(slicer.util.arrayFromSegmentBinaryLabelmap(n, name, a_volume_node) for n in (again, a_segmentation_node))
        )


@pytest.mark.parametrize("ending", ["vtk", "stl", "ply"])
def test_a_model_comes_back(a_model_node: Any, tmp_path: Path, ending: str) -> None:
    path = str(tmp_path / f"surface.{ending}")
    assert slicer.util.saveNode(a_model_node, path)
    again = slicer.util.loadModel(path)
    np.testing.assert_allclose(again.GetPolyData().GetBounds(), a_model_node.GetPolyData().GetBounds(), atol=1e-3)


@pytest.mark.parametrize("ending", ["h5", "nrrd", "nii.gz"])
def test_a_field_comes_back(a_grid_transform_node: Any, tmp_path: Path, ending: str) -> None:
    path = str(tmp_path / f"field.{ending}")
    assert slicer.util.saveNode(a_grid_transform_node, path)
    again = slicer.util.loadTransform(path)
    moved = []
    for node in (again, a_grid_transform_node):
        moved.append(np.zeros(3))
        node.GetTransformFromParent().TransformPoint((3.0, 4.0, 5.0), moved[-1])
    np.testing.assert_allclose(*moved, atol=1e-5)
    assert np.linalg.norm(moved[0] - (3.0, 4.0, 5.0)) > 0.1


def test_markups_and_tables_come_back(scene: Any, a_markups_node: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "landmarks.mrk.json")
    assert slicer.util.saveNode(a_markups_node, path)
    again = slicer.util.loadMarkups(path)
    assert again.GetNthControlPointLabel(2) == "Septum"
    np.testing.assert_allclose(*map(slicer.util.arrayFromMarkupsControlPoints, (again, a_markups_node)))
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "Volumes")
    slicer.util.updateTableFromArray(table, [np.array([1.5, 2.5])], ["ml"])
    assert slicer.util.saveNode(table, str(tmp_path / "volumes.csv"))
    assert slicer.util.arrayFromTableColumn(slicer.util.loadTable(str(tmp_path / "volumes.csv")), "ml")[1] == 2.5


def test_exporting_in_world_coordinates_leaves_the_node_as_it_was(
    a_model_node: Any, a_linear_transform_node: Any, tmp_path: Path
) -> None:
    a_model_node.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
    points = slicer.util.arrayFromModelPoints(a_model_node).copy()
    to_world = slicer.util.arrayFromTransformMatrix(a_linear_transform_node)
    assert slicer.util.exportNode(a_model_node, str(tmp_path / "world.vtk"), {}, world=True)
    assert slicer.util.exportNode(a_model_node, str(tmp_path / "local.vtk"), {})
    world, local = (slicer.util.loadModel(str(tmp_path / f"{name}.vtk")) for name in ("world", "local"))
    expected = points @ to_world[:3, :3].T + to_world[:3, 3]
    np.testing.assert_allclose(slicer.util.arrayFromModelPoints(world), expected, atol=1e-3)
    np.testing.assert_allclose(slicer.util.arrayFromModelPoints(local), points, atol=1e-3)
    assert a_model_node.GetStorageNode() is None
    assert a_model_node.GetParentTransformNode() is a_linear_transform_node


def test_what_is_not_there_is_an_error_with_the_files_name(scene: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"missing\.nrrd"):
        slicer.util.loadVolume(str(tmp_path / "missing.nrrd"))
    broken = tmp_path / "broken.nrrd"
    broken.write_bytes(b"no image")
    with mrml.expecting_vtk_errors(), pytest.raises(RuntimeError, match=r"broken\.nrrd"):
        slicer.util.loadVolume(str(broken))


def test_a_path_that_is_no_text_is_refused_as_by_qt(a_volume_node: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        slicer.util.saveNode(a_volume_node, tmp_path / "ct.nrrd")


def fill(scene: Any, segmentation: Any, model: Any, field: Any, volume: Any) -> None:
    """As a module leaves a scene: a folder, a transformed model, and a parameter node that names nodes."""
    folder = hierarchy().CreateFolderItem(hierarchy().GetSceneItemID(), "CT heart – Atlas-ISTN")
    for node in (segmentation, model, field):
        hierarchy().SetItemParent(hierarchy().GetItemByDataNode(node), folder)
    model.SetAndObserveTransformNodeID(field.GetID())
    segmentation.SetAttribute("AtlasISTN.Role", "segmentation")
    parameters = scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
    parameters.UnRegister(None)
    parameters.SetSingletonTag("Sample")
    parameters.SetParameter("strength", "800.0")
    scene.AddNode(parameters)
    parameters.SetNodeReferenceID("inputVolume", volume.GetID())


@pytest.mark.parametrize("name", ["case.mrb", "case"])
def test_a_scene_comes_back(
    scene: Any,
    a_volume_node: Any,
    a_segmentation_node: Any,
    a_model_node: Any,
    a_grid_transform_node: Any,
    tmp_path: Path,
    name: str,
) -> None:
    fill(scene, a_segmentation_node, a_model_node, a_grid_transform_node, a_volume_node)
    inner = slicer.util.arrayFromSegmentBinaryLabelmap(a_segmentation_node, "Inner", a_volume_node).copy()
    assert slicer.util.saveScene(str(tmp_path / name))
    scene.Clear(0)
    seen = []
    for event in ("StartImportEvent", "EndImportEvent"):
        scene.AddObserver(getattr(scene, event), lambda *_, event=event: seen.append(event))
    slicer.util.loadScene(str(tmp_path / name) if name.endswith("mrb") else str(tmp_path / name / f"{name}.mrml"))
    assert seen == ["StartImportEvent", "EndImportEvent"]
    segmentation, model, volume = (slicer.util.getNode(each) for each in ("My segmentation", "Surface", "CT heart"))
    assert segmentation.GetAttribute("AtlasISTN.Role") == "segmentation"
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "Inner", volume), inner)
    assert model.GetParentTransformNode() is slicer.util.getNode("Field")
    parents = {hierarchy().GetItemParent(hierarchy().GetItemByDataNode(node)) for node in (segmentation, model)}
    assert [hierarchy().GetItemName(item) for item in parents] == ["CT heart – Atlas-ISTN"]
    parameters = scene.GetSingletonNode("Sample", "vtkMRMLScriptedModuleNode")
    assert parameters.GetParameter("strength") == "800.0"
    assert parameters.GetNodeReference("inputVolume") is volume


def test_messages_are_kept_and_nothing_waits(scene: Any) -> None:
    slicer.util.errorDisplay("It failed.", detailedText="line 3")
    assert not slicer.util.confirmYesNoDisplay("Overwrite?")
    messages.answers.append(True)
    assert slicer.util.confirmYesNoDisplay("Really?")
    assert messages.texts("error", "question") == ["It failed.", "Overwrite?", "Really?"]
    assert messages.shown[0].details == "line 3"
