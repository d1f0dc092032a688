"""The scene that the tests stand on behaves as Slicer's does."""

import numpy as np
import slicer
import vtk
from standin import mrml


def hierarchy():
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def test_nodes_have_items_while_they_are_in_the_scene(scene, a_segmentation_node, a_markups_node):
    items = [hierarchy().GetItemByDataNode(node) for node in (a_segmentation_node, a_markups_node)]
    assert all(items)
    assert [hierarchy().GetItemOwnerPluginName(item) for item in items] == ["Segmentations", "Markups"]
    before = hierarchy().GetNumberOfItems()
    scene.RemoveNode(a_markups_node)
    assert hierarchy().GetNumberOfItems() == before - 1
    hidden = slicer.vtkMRMLModelNode()
    hidden.SetHideFromEditors(True)
    scene.AddNode(hidden)
    assert not hierarchy().GetItemByDataNode(hidden)


def test_a_segmentation_lies_where_its_volume_lies(a_volume_node, a_segmentation_node, a_linear_transform_node):
    def inner():
        return slicer.util.arrayFromSegmentBinaryLabelmap(a_segmentation_node, "Inner", a_volume_node)

    bright = slicer.util.arrayFromVolume(a_volume_node) > 90
    np.testing.assert_array_equal(inner() > 0, bright)
    a_volume_node.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
    assert not np.array_equal(inner() > 0, bright)
    a_segmentation_node.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
    np.testing.assert_array_equal(inner() > 0, bright)


def test_a_new_scene_knows_nothing_of_the_one_before(scene, a_volume_node):
    again = mrml.make_scene()
    assert again is slicer.mrmlScene
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
    assert slicer.modules.segmentations.logic().GetMRMLScene() is again


def test_closing_a_scene_tells_observers_and_leaves_a_subject_hierarchy(scene, a_volume_node):
    seen = []
    scene.AddObserver(scene.StartCloseEvent, lambda *_: seen.append("start"))
    scene.AddObserver(scene.EndCloseEvent, lambda *_: seen.append("end"))
    scene.Clear(0)
    assert seen == ["start", "end"]
    assert hierarchy() is not None
    assert slicer.util.getNodesByClass("vtkMRMLVolumeNode") == []


def test_terminologies_are_there(scene):
    logic = slicer.modules.terminologies.logic()
    names = vtk.vtkStringArray()
    logic.GetLoadedTerminologyNames(names)
    listed = [names.GetValue(i) for i in range(names.GetNumberOfValues())]
    assert "Segmentation category and type - 3D Slicer General Anatomy list" in listed


def test_errors_that_vtk_only_prints_are_kept(scene):
    with mrml.expecting_vtk_errors() as errors:
        scene.AddNewNodeByClass("vtkMRMLNoSuchNode")
    assert any("vtkMRMLNoSuchNode" in error for error in errors)
    assert mrml.vtk_errors == []
