"""Label maps as segmentation nodes, and what in them is the user's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import slicer
import vtk
from AtlasISTNHost import nodes, results, segments, transforms
from host import atlas_cases as cases

from AtlasISTNLib.manifest import Label
from AtlasISTNLib.volume import Volume

SHELL, CORE = "AtlasISTN_3", "AtlasISTN_7"


@pytest.fixture(autouse=True)
def coarse_transforms(monkeypatch):
    """They are tested elsewhere, and slow."""
    monkeypatch.setattr(transforms, "MOST_NODES", 20_000)


@pytest.fixture
def a_scan(scene):
    return cases.scan(scene, spacing=(4.0, 5.0, 4.5))


@pytest.fixture
def an_outcome(a_scan):
    return cases.outcome_of(a_scan)


@pytest.fixture
def a_result(a_scan, an_outcome):
    return results.write_outcome(an_outcome, a_scan, cases.a_manifest())


def array_of(node, segment, volume):
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume) > 0


def segment_of(node, key):
    return node.GetSegmentation().GetSegment(key)


def tag_of(segment):
    value = vtk.reference("")
    segment.GetTag(segment.GetTerminologyEntryTagName(), value)
    return str(value)


def paint(node, segment, volume, cube):
    """Add a cube of voxels to a segment, as the Segment Editor's paint does."""
    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume)
    array[cube] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, segment, volume)


def test_every_structure_is_where_its_labels_are(a_scan, an_outcome, a_result):
    labels = an_outcome.volumes["labels"].array[0]
    node = a_result.segmentation
    for value, key in ((3, SHELL), (7, CORE)):
        np.testing.assert_array_equal(array_of(node, key, a_scan), labels == value)
        assert (labels == value).sum() > 50
    assert node.GetSegmentation().GetNumberOfSegments() == 2
    assert node.GetSegmentation().GetNumberOfLayers() == 1  # one shared label map
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface")


def test_names_colours_and_terminology_come_from_the_model(a_result):
    shell = segment_of(a_result.segmentation, SHELL)
    assert shell.GetName() == "shell"
    np.testing.assert_allclose(shell.GetColor(), np.array([200, 80, 82]) / 255)
    entry = slicer.vtkSlicerTerminologyEntry()
    logic = slicer.modules.terminologies.logic()
    assert logic.DeserializeTerminologyEntry(tag_of(shell), entry)
    kind, category = entry.GetTypeObject(), entry.GetCategoryObject()
    assert (kind.GetCodingSchemeDesignator(), kind.GetCodeValue(), kind.GetCodeMeaning()) == (
        "SCT",
        "74281007",
        "Myocardium",
    )
    assert (category.GetCodeValue(), category.GetCodeMeaning()) == ("123037004", "Anatomical Structure")
    assert logic.SerializeTerminologyEntry(entry) == tag_of(shell)
    assert tag_of(segment_of(a_result.segmentation, CORE)) == ""  # the model has no code for it


def test_marks_that_separate_entries_do_not_break_one(scene):
    entry = slicer.vtkSlicerTerminologyEntry()
    text = segments.terminology(Label(1, "x", snomed_code="12", snomed_meaning="left ~ of | the ^ middle"))
    assert slicer.modules.terminologies.logic().DeserializeTerminologyEntry(text, entry)
    assert entry.GetTypeObject().GetCodeValue() == "12"
    assert "|" not in text


def test_the_reference_geometry_is_that_of_the_input(a_scan, a_result):
    segmentation = a_result.segmentation.GetSegmentation()
    text = segmentation.GetConversionParameter(slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName())
    image = slicer.vtkOrientedImageData()
    assert slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    expected = vtk.vtkMatrix4x4()
    a_scan.GetIJKToRASMatrix(expected)
    np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix), slicer.util.arrayFromVTKMatrix(expected))
    assert image.GetDimensions() == a_scan.GetImageData().GetDimensions()


def test_a_structure_that_is_absent_has_an_empty_segment(a_scan, an_outcome):
    labels = an_outcome.volumes["labels"]
    for kept in (labels.array * (labels.array == 3), labels.array * 0):
        outcome = replace(an_outcome, volumes={**an_outcome.volumes, "labels": labels.with_array(kept)})
        node = results.write_outcome(outcome, a_scan, cases.a_manifest()).segmentation
        assert segment_of(node, CORE) is not None
        assert not array_of(node, CORE, a_scan).any()
        assert array_of(node, SHELL, a_scan).sum() == (kept == 3).sum()
        assert not segments.edited(node)


@pytest.mark.parametrize("value", [254, 255, 300, 40000])
def test_large_values_leave_room_for_the_users_segments(scene, a_scan, value):
    labels = (Label(0, "background"), Label(value, "large"))
    array = np.zeros((1, *slicer.util.arrayFromVolume(a_scan).shape), dtype=np.int32)
    array[0, 5:10, 5:10, 5:10] = value
    volume = Volume(array, cases.outcome_of(a_scan).volumes["labels"].grid)
    layer = segments.layer_of(volume, labels, results.frames.ijk_to_ras(a_scan))
    node = segments.write_segmentation(layer, "segmentation", "x", labels, a_scan, "m")
    key = segments.segment_id(value)
    np.testing.assert_array_equal(array_of(node, key, a_scan), array[0] == value)
    mine = node.GetSegmentation().AddEmptySegment("mine", "mine")
    paint(node, mine, a_scan, np.s_[12:14, 12:14, 12:14])
    assert array_of(node, mine, a_scan).sum() == 8
    assert array_of(node, key, a_scan).sum() == 125


def test_a_second_run_updates_the_same_segments(a_scan, an_outcome, a_result):
    node = a_result.segmentation
    before = [segment_of(node, key) for key in (SHELL, CORE)]
    shifted = np.roll(an_outcome.volumes["labels"].array, 2, axis=3)
    labels = an_outcome.volumes["labels"].with_array(shifted)
    outcome = replace(an_outcome, volumes={**an_outcome.volumes, "labels": labels})
    node.GetSegmentation().CreateRepresentation("Closed surface")
    again = results.write_outcome(outcome, a_scan, cases.a_manifest()).segmentation
    assert again is node
    assert [segment_of(node, key) for key in (SHELL, CORE)] == before
    np.testing.assert_array_equal(array_of(node, CORE, a_scan), shifted[0] == 7)
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface")  # it showed the old result


def test_what_the_user_named_and_coloured_stays(a_scan, an_outcome, a_result):
    node = a_result.segmentation
    shell, core = segment_of(node, SHELL), segment_of(node, CORE)
    shell.SetName("LV wall")
    core.SetColor(0.1, 0.9, 0.2)
    core.SetTag(core.GetTerminologyEntryTagName(), "mine~SCT^1^A~SCT^2^B~^^~~^^~^^")
    display = node.GetDisplayNode()
    display.SetSegmentVisibility(SHELL, False)
    display.SetSegmentOpacity2DFill(CORE, 0.3)
    slicer.vtkSlicerSegmentationsModuleLogic.SetSegmentStatus(shell, 3)
    labels = (cases.LABELS[0], replace(cases.LABELS[1], name="wall", color=(1, 2, 3)), cases.LABELS[2])
    results.write_outcome(replace(an_outcome, labels=labels), a_scan, cases.a_manifest())
    assert shell.GetName() == "LV wall"
    np.testing.assert_allclose(shell.GetColor(), np.array([1, 2, 3]) / 255)  # this the user had left as it was
    np.testing.assert_allclose(core.GetColor(), [0.1, 0.9, 0.2])
    assert tag_of(core).startswith("mine~")
    assert not display.GetSegmentVisibility(SHELL)
    assert display.GetSegmentOpacity2DFill(CORE) == pytest.approx(0.3)
    assert slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(shell) == 3


def test_segments_that_the_user_added_stay(a_scan, an_outcome, a_result):
    """One in a layer of its own, and one that shares our label map as the Segment Editor likes it."""
    node, segmentation = a_result.segmentation, a_result.segmentation.GetSegmentation()
    own = segmentation.AddEmptySegment("lesion", "lesion")
    paint(node, own, a_scan, np.s_[10:15, 8:12, 9:14])
    shared = slicer.vtkSegment()
    shared.SetName("drawn in the gap")
    image = segment_of(node, SHELL).GetRepresentation("Binary labelmap")
    voxels = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    gap = np.flatnonzero(voxels == 0)[:7]
    voxels[gap] = 9
    image.Modified()
    shared.AddRepresentation("Binary labelmap", image)
    shared.SetLabelValue(9)
    segmentation.AddSegment(shared, "gap")
    lesion, drawn = array_of(node, own, a_scan), array_of(node, "gap", a_scan)
    assert drawn.sum() == 7
    shifted = np.roll(an_outcome.volumes["labels"].array, 3, axis=1)
    labels = an_outcome.volumes["labels"].with_array(shifted)
    outcome = replace(an_outcome, volumes={**an_outcome.volumes, "labels": labels})
    again = results.write_outcome(outcome, a_scan, cases.a_manifest()).segmentation
    assert again is node
    np.testing.assert_array_equal(array_of(node, own, a_scan), lesion)
    np.testing.assert_array_equal(array_of(node, "gap", a_scan), drawn)
    np.testing.assert_array_equal(array_of(node, CORE, a_scan), shifted[0] == 7)
    assert not segments.edited(node)


def test_a_segment_that_the_user_removed_comes_back(a_scan, an_outcome, a_result):
    node = a_result.segmentation
    node.GetSegmentation().RemoveSegment(CORE)
    assert not segments.edited(node)
    again = results.write_outcome(an_outcome, a_scan, cases.a_manifest()).segmentation
    assert again is node
    assert array_of(node, CORE, a_scan).any()


def test_an_edited_segmentation_is_left_to_the_user(scene, a_scan, an_outcome, a_result):
    node = a_result.segmentation
    name = node.GetName()
    paint(node, CORE, a_scan, np.s_[2:4, 2:4, 2:4])
    edited = array_of(node, CORE, a_scan)
    assert segments.edited(node)
    again = results.write_outcome(an_outcome, a_scan, cases.a_manifest()).segmentation
    assert again is not node
    assert again.GetName() == name
    assert node.GetName() == f"{name} (edited)"
    np.testing.assert_array_equal(array_of(node, CORE, a_scan), edited)
    np.testing.assert_array_equal(array_of(again, CORE, a_scan), an_outcome.volumes["labels"].array[0] == 7)
    assert not nodes.is_ours(node)
    # It is the user's for good, and a second edited one gets a name of its own.
    paint(again, CORE, a_scan, np.s_[2:4, 2:4, 2:4])
    third = results.write_outcome(an_outcome, a_scan, cases.a_manifest()).segmentation
    assert len({node.GetID(), again.GetID(), third.GetID()}) == 3
    assert again.GetName() not in (node.GetName(), third.GetName())


@pytest.mark.parametrize("change", ["erased voxel", "moved", "source", "same label map in other layers"])
def test_what_counts_as_edited(scene, a_scan, a_result, change):
    node = a_result.segmentation
    segmentation = node.GetSegmentation()
    if change == "erased voxel":
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, CORE, a_scan)
        array[tuple(np.argwhere(array)[0])] = 0
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, CORE, a_scan)
    elif change == "moved":
        transform = cases.linear(scene, cases.rotation(np.random.default_rng(0)))
        node.SetAndObserveTransformNodeID(transform.GetID())
        node.HardenTransform()
    elif change == "source":
        segmentation.CreateRepresentation("Closed surface")
        segmentation.SetSourceRepresentationName("Closed surface")
    else:
        segmentation.SeparateSegmentLabelmap(CORE)
    assert segments.edited(node) == (change != "same label map in other layers")


def test_a_turn_about_the_corner_of_a_segment_is_an_edit(scene, a_scan, an_outcome):
    labels = (cases.LABELS[0], cases.LABELS[2])
    layer = segments.layer_of(an_outcome.volumes["labels"], labels, results.frames.ijk_to_ras(a_scan))
    node = segments.write_segmentation(layer, "segmentation", "x", labels, a_scan, "m")
    first = np.argwhere(an_outcome.volumes["labels"].array[0] == 7).min(axis=0)[::-1]
    matrix = results.frames.ijk_to_ras(a_scan)
    corner = matrix[:3, :3] @ first + matrix[:3, 3]
    turn = np.eye(4)
    turn[:3, :3] = cases.rotation(np.random.default_rng(0))
    turn[:3, 3] = corner - turn[:3, :3] @ corner
    node.SetAndObserveTransformNodeID(cases.linear(scene, turn).GetID())
    node.HardenTransform()
    assert segments.edited(node)


@pytest.mark.parametrize("directions", [np.eye(3), cases.rotation(np.random.default_rng(8)), np.diag([-1.0, 1, 1])])
def test_saving_and_loading_is_not_editing(scene, tmp_path, directions):
    scan = cases.scan(scene, spacing=(4.1, 5.3, 4.7), directions=directions)
    node = results.write_outcome(cases.outcome_of(scan), scan, cases.a_manifest()).segmentation
    before = array_of(node, CORE, scan)
    path = str(tmp_path / "x.seg.nrrd")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(path)
    assert storage.WriteData(node)
    attribute = node.GetAttribute(segments.WRITTEN)
    node.GetSegmentation().RemoveAllSegments()
    assert storage.ReadData(node)
    assert node.GetAttribute(segments.WRITTEN) == attribute
    np.testing.assert_array_equal(array_of(node, CORE, scan), before)
    assert not segments.edited(node)
    paint(node, CORE, scan, np.s_[2:3, 2:3, 2:3])
    assert segments.edited(node)
