"""The fitted atlas takes the place of segments that are edited, and of nothing else; one undo brings them back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import host_results
import numpy as np
import pytest
import slicer
from AtlasISTNHost import atlas_fit, frames
from vtk.util.numpy_support import vtk_to_numpy

from AtlasISTNLib.errors import GeometryError, VolumeError
from AtlasISTNLib.volume import Volume

LABELS = host_results.LABELS
LV, RA = 2, 5


@dataclass
class Edited:
    """A segmentation as it is edited: its volume, node, and the editor's own logic with its history."""

    volume: Any
    node: Any
    choices: Any
    logic: Any

    def array(self, name: str) -> np.ndarray:
        """Voxels of a segment on those of the volume (K, J, I)."""
        segment = self.node.GetSegmentation().GetSegmentIdBySegmentName(name)
        return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(self.node, segment, self.volume)) != 0

    def arrays(self) -> dict[str, np.ndarray]:
        names = [segment.GetName() for segment in segments(self.node)]
        return {name: self.array(name) for name in names}

    def fit(self, labels: Volume) -> atlas_fit.Change:
        """As the effect does, from the plan to the written segments."""
        wanted = atlas_fit.plan(self.node, LABELS)
        change = atlas_fit.change(self.node, labels, wanted.replaced, self.volume, self.choices)
        self.logic.SaveStateForUndo()
        atlas_fit.apply(self.node, change)
        return change


def segments(node: Any) -> list[Any]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(i) for i in range(segmentation.GetNumberOfSegments())]


def ball(volume: Any, middle: tuple[float, float, float], radius: float) -> np.ndarray:
    """A ball about a point in voxels (k, j, i), as a mask on a volume's voxels."""
    shape = volume.GetImageData().GetDimensions()[::-1]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return np.linalg.norm(index - np.array(middle), axis=-1) < radius


#: Segments as a user drew them: two structures of the model under names of his own, a vessel and a spot.
DRAWN = {
    "LV": ((8, 10, 8), 5.0),
    "right_atrium": ((8, 10, 17), 3.5),
    "Vessel": ((8, 10, 12), 2.5),
    "Spot": ((3, 3, 3), 2.0),
}


@pytest.fixture
def edit(scene: Any):
    """A function that makes segments on a volume, all in one layer where they do not overlap, and opens the editor."""

    def make(volume: Any, drawn: Mapping[str, Any] = DRAWN) -> Edited:
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
        node.CreateDefaultDisplayNodes()
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        for name, (middle, radius) in drawn.items():
            segment = node.GetSegmentation().AddEmptySegment(name, name)
            mask = ball(volume, middle, radius).astype(np.uint8)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
        node.GetSegmentation().CollapseBinaryLabelmaps(False)
        choices = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        logic = slicer.vtkSlicerSegmentEditorLogic()
        logic.SetMRMLScene(scene)
        logic.SetSegmentEditorNode(choices)
        choices.SetAndObserveSegmentationNode(node)
        choices.SetAndObserveSourceVolumeNode(volume)
        return Edited(volume, node, choices, logic)

    return make


def fitted(volume: Any) -> Volume:
    """What the engine gives: both structures, larger than they were drawn, the atrium beside the vessel."""
    grid = frames.grid_of(volume)
    array = np.zeros(grid.shape, dtype=np.uint8)
    array[ball(volume, (8, 10, 9), 6.0)] = LV
    array[ball(volume, (8, 10, 18), 4.5) & (array == 0)] = RA
    return Volume.from_array(array, grid, "labels")


# ------------------------------------------------------------------------------------------------------------ the plan


def test_segments_are_found_by_what_they_are_called(edit: Any, a_volume_node: Any) -> None:
    found = atlas_fit.plan(edit(a_volume_node).node, LABELS)
    assert dict(found.replaced) == {"LV": LV, "right_atrium": RA}
    assert found.kept == ("Vessel", "Spot")
    assert found.absent == ()
    for words in ("LV", "right_atrium", "Vessel", "Spot"):
        assert words in found.text


def test_a_structure_of_several_segments_replaces_none(edit: Any, a_volume_node: Any) -> None:
    drawn = {"left ventricle": ((8, 10, 8), 4.0), "LV": ((8, 10, 10), 4.0)}
    found = atlas_fit.plan(edit(a_volume_node, drawn).node, LABELS)
    assert found.replaced == {}
    assert [match.value for match in found.matches] == [LV, LV]  # but both are what the atlas is fitted to
    assert found.kept == ("left ventricle", "LV")
    assert found.absent == ("right atrium",)


def test_of_many_segments_the_first_are_named_and_the_others_counted(edit: Any, a_volume_node: Any) -> None:
    edited = edit(a_volume_node)
    for number in range(100):
        edited.node.GetSegmentation().AddEmptySegment("", f"vessel {number}")
    found = atlas_fit.plan(edited.node, LABELS)
    assert "Stay as they are: Vessel; Spot; vessel 0; " in found.text
    assert "vessel 4 and 95 more." in found.text
    assert len(found.text) < 200
    assert "vessel 99" in found.full_text
    assert "more" not in found.full_text


def test_hidden_segments_are_said_to_be_hidden(edit: Any, a_volume_node: Any) -> None:
    edited = edit(a_volume_node)
    edited.node.CreateDefaultDisplayNodes()
    display = edited.node.GetDisplayNode()
    display.SetSegmentVisibility(edited.node.GetSegmentation().GetSegmentIdBySegmentName("LV"), False)
    assert atlas_fit.plan(edited.node, LABELS).names == ("LV (hidden)", "right_atrium")
    display.SetVisibility(False)
    assert atlas_fit.plan(edited.node, LABELS).names == ("LV (hidden)", "right_atrium (hidden)")


# ---------------------------------------------------------------------------------------------------------- the change


def test_the_atlas_replaces_what_it_was_fitted_to_and_nothing_else(edit: Any, a_volume_node: Any) -> None:
    edited = edit(a_volume_node)
    before, labels = edited.arrays(), fitted(a_volume_node)
    assert len({id(s.GetRepresentation("Binary labelmap")) for s in segments(edited.node)}) < 4  # layers are shared
    edited.fit(labels)
    np.testing.assert_array_equal(edited.array("LV"), labels.array[0] == LV)
    np.testing.assert_array_equal(edited.array("right_atrium"), labels.array[0] == RA)
    overlap = (labels.array[0] != 0) & before["Vessel"]
    assert overlap.sum() > 20  # the atlas lies over the vessel now, which keeps all of its voxels
    np.testing.assert_array_equal(edited.array("Vessel"), before["Vessel"])
    np.testing.assert_array_equal(edited.array("Spot"), before["Spot"])


@pytest.mark.parametrize("overwrite", ["OverwriteAllSegments", "OverwriteVisibleSegments", "OverwriteNone"])
def test_other_segments_stay_whatever_the_editor_overwrites(edit: Any, a_volume_node: Any, overwrite: str) -> None:
    edited = edit(a_volume_node)
    edited.choices.SetOverwriteMode(getattr(slicer.vtkMRMLSegmentEditorNode, overwrite))
    before = edited.arrays()
    edited.fit(fitted(a_volume_node))
    np.testing.assert_array_equal(edited.array("Vessel"), before["Vessel"])


def raw(node: Any) -> list[tuple[Any, ...]]:
    """Everything of the segments that a user could tell apart: names, status, layers, values and all voxels."""
    found = []
    for segment in segments(node):
        image = segment.GetRepresentation("Binary labelmap")
        status = slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(segment)
        voxels = vtk_to_numpy(image.GetPointData().GetScalars()).tobytes()
        place = (image.GetExtent(), image.GetSpacing(), image.GetOrigin())
        found.append((segment.GetName(), segment.GetColor(), status, segment.GetLabelValue(), place, voxels))
    return found


def test_one_undo_brings_all_back_bit_by_bit(edit: Any, a_volume_node: Any) -> None:
    edited = edit(a_volume_node)
    before = raw(edited.node)
    edited.fit(fitted(a_volume_node))
    after = edited.arrays()
    assert raw(edited.node) != before
    edited.logic.Undo()
    assert raw(edited.node) == before
    assert not edited.logic.CanUndo()
    edited.logic.Redo()
    for name, array in after.items():
        np.testing.assert_array_equal(edited.array(name), array)


def test_a_failure_in_the_midst_leaves_all_as_it_was(edit: Any, a_volume_node: Any) -> None:
    edited = edit(a_volume_node)
    before = edited.arrays()
    wanted = atlas_fit.plan(edited.node, LABELS)
    change = atlas_fit.change(edited.node, fitted(a_volume_node), wanted.replaced, a_volume_node, edited.choices)
    assert list(change.images) == ["LV", "right_atrium"]
    images = {**change.images, "right_atrium": "no image"}  # refused after the first one was written
    with pytest.raises(TypeError):
        atlas_fit.apply(edited.node, atlas_fit.Change(images))
    for name, array in before.items():
        np.testing.assert_array_equal(edited.array(name), array)


def test_a_removed_segment_is_missed_before_anything_changes(edit: Any, a_volume_node: Any) -> None:
    edited = edit(a_volume_node)
    wanted = atlas_fit.plan(edited.node, LABELS)
    change = atlas_fit.change(edited.node, fitted(a_volume_node), wanted.replaced, a_volume_node)
    edited.node.GetSegmentation().RemoveSegment("right_atrium")
    before = edited.arrays()
    with pytest.raises(VolumeError, match="removed"):
        atlas_fit.apply(edited.node, change)
    np.testing.assert_array_equal(edited.array("LV"), before["LV"])


def test_a_volume_with_other_voxels_is_refused(edit: Any, a_volume_node: Any) -> None:
    edited, labels = edit(a_volume_node), fitted(a_volume_node)
    a_volume_node.SetSpacing(1.0, 1.0, 1.0)
    with pytest.raises(GeometryError, match="changed"):
        atlas_fit.change(edited.node, labels, {"LV": LV}, a_volume_node)


# -------------------------------------------------------------------------------------------------- the editable area


def test_outside_of_the_editable_area_a_segment_keeps_its_voxels(edit: Any, a_volume_node: Any) -> None:
    edited = edit(a_volume_node)
    before, labels = edited.arrays(), fitted(a_volume_node)
    edited.choices.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
    edited.choices.SetMaskSegmentID("Vessel")
    edited.fit(labels)
    expected = np.where(before["Vessel"], labels.array[0] == LV, before["LV"])
    assert (expected != before["LV"]).any()
    np.testing.assert_array_equal(edited.array("LV"), expected)


def test_outside_all_segments_means_that_the_atlas_stays_out_of_others(edit: Any, a_volume_node: Any) -> None:
    edited = edit(a_volume_node)
    before, labels = edited.arrays(), fitted(a_volume_node)
    edited.choices.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    edited.fit(labels)
    others = before["Vessel"] | before["Spot"] | before["right_atrium"]
    np.testing.assert_array_equal(edited.array("LV"), np.where(others, before["LV"], labels.array[0] == LV))


def test_intensities_hold(edit: Any, a_volume_node: Any) -> None:
    edited = edit(a_volume_node)
    before, labels = edited.arrays(), fitted(a_volume_node)
    values = slicer.util.arrayFromVolume(a_volume_node)
    edited.choices.SourceVolumeIntensityMaskOn()
    edited.choices.SetSourceVolumeIntensityMaskRange(50.0, 80.0)
    edited.fit(labels)
    allowed = (values >= 50) & (values <= 80)
    expected = np.where(allowed, labels.array[0] == LV, before["LV"])
    assert (allowed & (labels.array[0] == LV)).any()
    assert (~allowed & (labels.array[0] == LV)).any()
    np.testing.assert_array_equal(edited.array("LV"), expected)


# ---------------------------------------------------------------------------------------------------------- geometries


@pytest.mark.parametrize("which", ["an_oblique", "a_left_handed", "a_moved"])
def test_in_any_geometry(edit: Any, which: str, request: pytest.FixtureRequest) -> None:
    volume = request.getfixturevalue(f"{which}_volume_node")
    edited, labels = edit(volume), fitted(volume)
    edited.fit(labels)
    np.testing.assert_array_equal(edited.array("LV"), labels.array[0] == LV)
    np.testing.assert_array_equal(edited.array("right_atrium"), labels.array[0] == RA)


def test_a_segmentation_that_does_not_move_with_the_scan(
    edit: Any, a_volume_node: Any, a_linear_transform_node: Any
) -> None:
    """The scan lies under a shift by whole voxels, the segmentation does not: the atlas goes where the scan is seen."""
    edited = edit(a_volume_node)
    a_linear_transform_node.SetMatrixTransformToParent(
        frames.vtk_matrix(np.array([[1, 0, 0, 3 * 1.5], [0, 1, 0, 0], [0, 0, 1, -2 * 2.0], [0, 0, 0, 1]]))
    )
    a_volume_node.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
    labels = fitted(a_volume_node)
    edited.fit(labels)
    a_volume_node.SetAndObserveTransformNodeID(None)  # to read both on the same voxels
    expected = np.zeros(labels.grid.shape, dtype=bool)
    expected[:-2, :, 3:] = (labels.array[0] == LV)[2:, :, :-3]
    np.testing.assert_array_equal(edited.array("LV"), expected)


def test_finer_voxels_of_the_segmentation(edit: Any, make_a_volume: Any, scene: Any) -> None:
    """Edited on voxels of half the size: the atlas fills the same room."""
    volume = make_a_volume(spacing=(2.0, 2.0, 2.0))
    edited = edit(volume)
    fine = make_a_volume(np.zeros((32, 40, 48), np.float32), spacing=(1.0, 1.0, 1.0), origin=(11.5, -30.5, 6.5))
    edited.node.SetReferenceImageGeometryParameterFromVolumeNode(fine)
    labels = fitted(volume)
    edited.fit(labels)
    found = slicer.util.arrayFromSegmentBinaryLabelmap(edited.node, "LV", fine) != 0
    np.testing.assert_array_equal(found, np.kron(labels.array[0] == LV, np.ones((2, 2, 2), dtype=bool)))


def test_an_empty_segment_is_filled(edit: Any, a_volume_node: Any) -> None:
    """Only one structure was drawn; the other is there as an empty segment."""
    edited = edit(a_volume_node, {"LV": ((8, 10, 8), 5.0)})
    edited.node.GetSegmentation().AddEmptySegment("ra", "right atrium")
    labels = fitted(a_volume_node)
    edited.fit(labels)
    np.testing.assert_array_equal(edited.array("right atrium"), labels.array[0] == RA)


def test_surfaces_follow(edit: Any, a_volume_node: Any) -> None:
    edited = edit(a_volume_node)
    edited.node.CreateClosedSurfaceRepresentation()
    edited.fit(fitted(a_volume_node))
    bounds = np.zeros(6)
    edited.node.GetClosedSurfaceInternalRepresentation("LV").GetBounds(bounds)
    expected = (12 - 6 * 1.5 + 9 * 1.5, 12 + 6 * 1.5 + 9 * 1.5)
    assert bounds[:2] == pytest.approx(expected, abs=1.6)
    before = np.zeros(6)
    edited.logic.Undo()
    edited.node.GetClosedSurfaceInternalRepresentation("LV").GetBounds(before)
    assert before[1] < bounds[1] - 1
