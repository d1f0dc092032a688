"""A segmentation as what the atlas is fitted to: which segment is which structure, and where its voxels lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import slicer
from AtlasISTNHost import frames, ignore, nodes, segments, structure_names, targets
from host.atlas_cases import rotation

from AtlasISTNLib.errors import VolumeError
from AtlasISTNLib.manifest import Label

HEART = (
    Label(0, "background"),
    Label(1, "left ventricular myocardium", (200, 0, 0), "74281007", "Myocardium"),
    Label(2, "left ventricle", (200, 80, 0), "87878005", "Left ventricle of heart"),
    Label(3, "right ventricle", (0, 80, 200), "53085002", "Right ventricle of heart"),
    Label(4, "right atrium", (0, 200, 200), "73829009", "Right atrium"),
    Label(9, "left atrium", (200, 0, 200), "82471001", "Left atrium"),
)
BRAIN = (
    Label(0, "background"),
    Label(1, "left thalamus"),
    Label(2, "right thalamus"),
    Label(3, "left pallidum"),
    Label(4, "right pallidum"),
    Label(5, "left accumbens"),
    Label(6, "brainstem"),
    Label(7, "left hippocampus"),
)
PAIRED = (Label(0, "background"), Label(1, "right kidney", (1, 2, 3), "64033007", "Kidney"))
PAIRED = (*PAIRED, Label(2, "left kidney", (1, 2, 3), "64033007", "Kidney"), Label(3, "left lung"))
BLOBS = (Label(0, "background"), Label(3, "outer"), Label(300, "inner"))
_ENTRY = "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"


def entry(code: str, meaning: str = "something", side: str = "^^") -> str:
    return f"{_ENTRY}~SCT^{code}^{meaning}~{side}~Anatomic codes - DICOM master list~^^~^^"


@pytest.fixture
def segmentation_of(scene: Any):
    """A function that adds a segmentation with segments of these names; pairs have a terminology, too."""

    def make(*names: Any) -> Any:
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Somebody's")
        for i, name in enumerate(names):
            text, tag = name if isinstance(name, tuple) else (name, "")
            segment_id = node.GetSegmentation().AddEmptySegment(f"s{i}", text)
            if tag:
                segment = node.GetSegmentation().GetSegment(segment_id)
                segment.SetTag(segment.GetTerminologyEntryTagName(), tag)
        return node

    return make


class TestMatching:
    @pytest.mark.parametrize(
        ("labels", "name", "value"),
        [
            # TotalSegmentator
            (HEART, "heart_ventricle_left", 2),
            (HEART, "heart_ventricle_right", 3),
            (HEART, "heart_atrium_left", 9),
            (HEART, "heart_myocardium", 1),
            (PAIRED, "kidney_left", 2),
            (PAIRED, "lung_upper_lobe_left", 3),
            # MM-WHS, ACDC and what people type
            (HEART, "LV", 2),
            (HEART, "RA", 4),
            (HEART, "Myo", 1),
            (HEART, "LV myocardium", 1),
            (HEART, "left ventricle blood cavity", 2),
            (HEART, "myocardium of the left ventricle", 1),
            (HEART, "Ventricle, LEFT", 2),
            (HEART, "LeftAtrium", 9),
            (HEART, "Right atria", 4),
            (PAIRED, "L Kidneys", 2),
            # FreeSurfer
            (BRAIN, "Left-Thalamus-Proper", 1),
            (BRAIN, "Right-Thalamus", 2),
            (BRAIN, "Brain-Stem", 6),
            (BRAIN, "Left-Accumbens-area", 5),
            (BRAIN, "rh globus pallidus", 4),
            (BRAIN, "lh hippocampi", 7),
            # nobody's
            (HEART, "right ventricular myocardium", 0),
            (HEART, "ventricle", 0),
            (HEART, "aorta", 0),
            (HEART, "heart", 0),
            (HEART, "Segment_1", 0),
            (BRAIN, "thalamus", 0),
            (BRAIN, "Right-Accumbens-area", 0),
            (PAIRED, "lung_upper_lobe_right", 0),
        ],
    )
    def test_by_name(self, segmentation_of, labels, name, value):
        (found,) = targets.match(segmentation_of(name), labels)
        assert (found.value, found.name) == (value, name)

    @pytest.mark.parametrize(
        ("labels", "tag", "value"),
        [
            (HEART, entry("87878005"), 2),
            (HEART, entry("82471001"), 9),
            (PAIRED, entry("64033007", "Kidney", "SCT^7771000^Left"), 2),
            (PAIRED, entry("64033007", "Kidney", "SCT^24028007^Right"), 1),
            (PAIRED, entry("64033007", "Kidney"), 0),  # which of the two?
            (PAIRED, entry("39607008", "Lung", "SCT^7771000^Left"), 3),  # the model has no code: its words
            (PAIRED, entry("39607008", "Lung", "SCT^24028007^Right"), 0),
            (HEART, entry("85756007", "Tissue"), 0),  # what every new segment is
            (HEART, "", 0),
        ],
    )
    def test_by_code_where_the_name_says_nothing(self, segmentation_of, labels, tag, value):
        (found,) = targets.match(segmentation_of(("Segment_1", tag)), labels)
        assert found.value == value

    def test_a_name_goes_before_a_code_and_left_is_never_right(self, segmentation_of):
        node = segmentation_of(("left atrium", entry("87878005")), ("right one", entry("87878005")))
        assert [found.value for found in targets.match(node, HEART)] == [9, 0]

    def test_several_segments_may_be_one_structure(self, segmentation_of):
        node = segmentation_of("lung_upper_lobe_left", "lung_lower_lobe_left", "spleen")
        assert [found.value for found in targets.match(node, PAIRED)] == [3, 3, 0]

    def test_what_the_user_says_counts_and_what_the_model_has_not_does_not(self, segmentation_of):
        node = segmentation_of("LV", "RV", "myo")
        found = targets.match(node, HEART, {"s0": 4, "s1": 0, "s2": 77})
        assert [(match.value, match.chosen) for match in found] == [(4, True), (0, True), (1, False)]

    def test_numbers_alone_are_no_names(self):
        assert structure_names.words("Segment_1") != structure_names.words("label 1")
        assert structure_names.words("Label_1") == structure_names.words("label 1")

    @pytest.mark.parametrize("name", ["", "left", "of the", "_", "L R", "Ödem links"])
    def test_odd_names_do_no_harm(self, segmentation_of, name):
        (found,) = targets.match(segmentation_of(name), HEART)
        assert found.value == 0


@dataclass(frozen=True)
class Blob:
    """A ball in the world, RAS mm."""

    middle: tuple[float, float, float]
    radius: float

    def holds(self, points: np.ndarray) -> np.ndarray:
        return self.outside(points) < 0

    def outside(self, points: np.ndarray) -> np.ndarray:
        """mm from its surface, negative within."""
        return np.linalg.norm(points - np.array(self.middle), axis=-1) - self.radius


OUTER, INNER = Blob((29.0, -19.0, 22.0), 10.0), Blob((31.0, -18.0, 23.0), 5.5)


def world_points(volume: Any) -> np.ndarray:
    """World RAS of a volume's voxels, (Z, Y, X, 3)."""
    shape = slicer.util.arrayFromVolume(volume).shape
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)[..., ::-1]
    local = index @ frames.ijk_to_ras(volume)[:3, :3].T + frames.ijk_to_ras(volume)[:3, 3]
    return frames.moved(local.reshape(-1, 3), volume.GetParentTransformNode()).reshape(local.shape)


def blobs_in(scene: Any, reference: Any, parent: Any = None) -> Any:
    """The two balls as a segmentation with the geometry of a volume, which is not kept."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Elsewhere")
    node.CreateDefaultDisplayNodes()
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    points = world_points(reference)
    for blob, name in ((OUTER, "Outer"), (INNER, "Inner")):
        segment = node.GetSegmentation().AddEmptySegment(name, name)
        mask = blob.holds(points).astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, reference)
    return node


def true_values(volume: Any) -> np.ndarray:
    points = world_points(volume)
    return np.where(INNER.holds(points), 300, np.where(OUTER.holds(points), 3, 0))


class TestVoxels:
    def test_values_of_the_model_on_the_inputs_grid(self, a_volume_node, scene):
        node = blobs_in(scene, a_volume_node)
        target = targets.target_volume(node, targets.match(node, BLOBS), a_volume_node)
        assert target.grid.same_as(frames.grid_of(a_volume_node))
        np.testing.assert_array_equal(target.array[0], true_values(a_volume_node))

    def test_a_finer_oblique_geometry_elsewhere(self, a_volume_node, make_a_volume, scene):
        axes, spacing, shape = rotation(np.random.default_rng(3)), (0.6, 0.7, 0.8), (40, 45, 50)
        first = np.array(OUTER.middle) - axes @ (np.array(spacing) * shape[::-1] / 2)
        fine = make_a_volume(np.zeros(shape, np.float32), spacing=spacing, origin=tuple(first), directions=axes)
        target = self._agrees(blobs_in(scene, fine), a_volume_node)
        assert target.grid.same_as(frames.grid_of(a_volume_node))

    def test_under_a_transform_of_its_own(self, a_volume_node, make_a_volume, a_linear_transform_node, scene):
        other = make_a_volume(np.zeros((50, 50, 60), np.float32), spacing=(1.0, 1.0, 1.0), origin=(-5.0, -45.0, -40.0))
        other.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
        self._agrees(blobs_in(scene, other, a_linear_transform_node), a_volume_node)

    def test_the_input_is_moved_and_the_segmentation_is_not(self, a_moved_volume_node, make_a_volume, scene):
        points = world_points(a_moved_volume_node).reshape(-1, 3)
        low = points.min(axis=0)
        size = np.ceil(np.ptp(points, axis=0)).astype(int)[::-1]
        other = make_a_volume(np.zeros(size, np.float32), spacing=(1.0, 1.0, 1.0), origin=tuple(low))
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Unmoved")
        blob = Blob(tuple(points.mean(axis=0)), 9.0)
        segment = node.GetSegmentation().AddEmptySegment("Outer", "Outer")
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            blob.holds(world_points(other)).astype(np.uint8), node, segment, other
        )
        target = targets.target_volume(node, targets.match(node, BLOBS), a_moved_volume_node)
        assert target.grid.same_as(frames.grid_of(a_moved_volume_node))
        points = world_points(a_moved_volume_node)
        wrong = (target.array[0] == 3) != blob.holds(points)
        assert blob.holds(points).sum() > 100
        assert np.abs(blob.outside(points))[wrong].max(initial=0) < 1.5

    def test_surfaces_only(self, a_volume_node, scene):
        node = blobs_in(scene, a_volume_node)
        node.CreateClosedSurfaceRepresentation()
        node.SetSourceRepresentationToClosedSurface()
        node.GetSegmentation().RemoveRepresentation("Binary labelmap")
        before = node.GetSegmentation().GetMTime()
        self._agrees(node, a_volume_node, 2.5)
        assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")
        assert node.GetSegmentation().GetMTime() == before

    def test_a_single_slice(self, make_a_volume, scene):
        flat = make_a_volume(np.zeros((1, 20, 24), np.float32), origin=(12.0, -30.0, 22.0))
        node = blobs_in(scene, flat)
        target = targets.target_volume(node, targets.match(node, BLOBS), flat)
        assert target.array.shape == (1, 1, 20, 24)
        np.testing.assert_array_equal(target.array[0], true_values(flat))
        assert (target.array == 300).any()

    def test_only_what_is_matched_is_in_it(self, a_volume_node, scene):
        node = blobs_in(scene, a_volume_node)
        target = targets.target_volume(node, targets.match(node, BLOBS, {"Inner": 0}), a_volume_node)
        assert set(np.unique(target.array)) == {0, 3}
        assert ((target.array[0] == 3) == OUTER.holds(world_points(a_volume_node))).all()
        with pytest.raises(VolumeError, match="Elsewhere"):
            targets.target_volume(node, targets.match(node, HEART), a_volume_node)

    def test_what_has_no_voxels_does_no_harm(self, a_volume_node, make_a_volume, scene):
        other = make_a_volume(np.zeros((30, 30, 30), np.float32), spacing=(1.0, 1.0, 1.0), origin=(14.0, -34.0, 7.0))
        node = blobs_in(scene, other)
        slicer.util.updateSegmentBinaryLabelmapFromArray(np.zeros((30, 30, 30), np.uint8), node, "Inner", other)
        target = targets.target_volume(node, targets.match(node, BLOBS), a_volume_node)
        assert set(np.unique(target.array)) == {0, 3}

    def test_a_part_of_the_scan_has_a_part_of_the_structures(self, make_a_volume, scene):
        other = make_a_volume(np.zeros((34, 34, 40), np.float32), spacing=(1.0, 1.0, 1.0), origin=(10.0, -36.0, 5.0))
        node = blobs_in(scene, other)
        edge = make_a_volume(np.zeros((12, 20, 5), np.float32), origin=(17.0, -30.0, 7.0), name="Edge")
        target = targets.target_volume(node, targets.match(node, BLOBS), edge)
        assert not INNER.holds(world_points(edge)).any()
        assert set(np.unique(target.array)) == {0, 3}

    def test_what_lies_elsewhere_is_refused(self, a_volume_node, scene, a_linear_transform_node):
        node = blobs_in(scene, a_volume_node)
        matrix = np.eye(4)
        matrix[:3, 3] = 500.0
        a_linear_transform_node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        node.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
        with pytest.raises(VolumeError, match="Elsewhere"):
            targets.target_volume(node, targets.match(node, BLOBS), a_volume_node)

    def _agrees(self, node: Any, volume: Any, within: float = 1.5) -> Any:
        """Wrong voxels lie this near to the surface of a ball, in mm: voxels' sides are up to 2 mm."""
        before = len(nodes.all_nodes(volume.GetScene()))
        target = targets.target_volume(node, targets.match(node, BLOBS), volume)
        points, wrong = world_points(volume), target.array[0] != true_values(volume)
        far = np.minimum(*(np.abs(blob.outside(points)) for blob in (OUTER, INNER)))
        assert not wrong.any() or far[wrong].max() < within
        assert len(nodes.all_nodes(volume.GetScene())) == before
        return target


class TestChanges:
    def test_the_stamp_follows_voxels_and_transforms_and_nothing_else(
        self, a_segmentation_node, a_volume_node, a_linear_transform_node
    ):
        node = a_segmentation_node

        def stamp() -> Any:
            return targets.content_stamp(node, ["Outer", "Inner"])

        first = stamp()
        node.GetDisplayNode().SetOpacity2DFill(0.1)
        node.GetSegmentation().GetSegment("Outer").SetName("another")
        node.CreateClosedSurfaceRepresentation()
        assert stamp() == first
        mask = np.zeros((16, 20, 24), np.uint8)
        mask[3:6, 3:6, 3:6] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "Outer", a_volume_node)
        second = stamp()
        assert second != first
        node.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
        third = stamp()
        assert third != second
        a_linear_transform_node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.eye(4)))
        assert stamp() != third


@pytest.fixture
def a_prediction(a_volume_node: Any, scene: Any) -> Any:
    """Our prediction of the volume with the model "blobs"."""
    from AtlasISTNLib.volume import Volume

    array = np.zeros((1, 16, 20, 24), np.int32)
    array[0, 3:12, 4:16, 4:18], array[0, 6:9, 8:12, 8:12] = 3, 300
    volume = Volume(array, frames.grid_of(a_volume_node), "p")
    layer = segments.layer_of(volume, BLOBS, frames.ijk_to_ras(a_volume_node))
    return segments.write_segmentation(layer, nodes.PREDICTION, "prediction", BLOBS, a_volume_node, "blobs")


def voxels(node: Any, segment_id: str, volume: Any) -> np.ndarray:
    return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume)) != 0


class TestEditedPrediction:
    def test_the_copy_can_be_edited_and_the_prediction_stays(self, a_prediction, a_volume_node, scene):
        copy = targets.copy_prediction(a_volume_node, "blobs")
        assert copy.GetName() == "CT heart – edited prediction"
        assert copy is not a_prediction
        for value in (3, 300):
            key = segments.segment_id(value)
            np.testing.assert_array_equal(voxels(copy, key, a_volume_node), voxels(a_prediction, key, a_volume_node))
        before = voxels(a_prediction, "AtlasISTN_300", a_volume_node)
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            np.ones((16, 20, 24), np.uint8), copy, "AtlasISTN_300", a_volume_node
        )
        np.testing.assert_array_equal(voxels(a_prediction, "AtlasISTN_300", a_volume_node), before)
        assert not segments.edited(a_prediction)
        assert voxels(copy, "AtlasISTN_300", a_volume_node).all()

    def test_a_copy_that_is_there_is_not_replaced(self, a_prediction, a_volume_node):
        copy = targets.copy_prediction(a_volume_node, "blobs")
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            np.ones((16, 20, 24), np.uint8), copy, "AtlasISTN_3", a_volume_node
        )
        assert targets.copy_prediction(a_volume_node, "blobs") is copy
        assert voxels(copy, "AtlasISTN_3", a_volume_node).all()

    def test_starting_over_leaves_the_earlier_one_to_the_user(self, a_prediction, a_volume_node):
        copy = targets.copy_prediction(a_volume_node, "blobs")
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            np.ones((16, 20, 24), np.uint8), copy, "AtlasISTN_3", a_volume_node
        )
        fresh = targets.start_over(a_volume_node, "blobs")
        assert fresh is not copy
        assert not voxels(fresh, "AtlasISTN_3", a_volume_node).all()
        assert voxels(copy, "AtlasISTN_3", a_volume_node).all()
        assert "earlier" in copy.GetName()
        assert not nodes.is_ours(copy)
        assert targets.edited_prediction(a_volume_node, "blobs") is fresh

    def test_its_segments_are_known_whatever_they_are_called(self, a_prediction, a_volume_node):
        copy = targets.copy_prediction(a_volume_node, "blobs")
        copy.GetSegmentation().GetSegment("AtlasISTN_300").SetName("my name for it")
        copy.GetSegmentation().AddEmptySegment("Segment_1", "scribble")
        assert [found.value for found in targets.match(copy, BLOBS)] == [3, 300, 0]

    def test_without_a_prediction_there_is_nothing_to_copy(self, a_volume_node):
        with pytest.raises(VolumeError, match="no prediction"):
            targets.copy_prediction(a_volume_node, "blobs")

    def test_a_result_is_no_target_of_its_own(self, a_prediction, a_volume_node, a_segmentation_node, scene):
        assert "result" in targets.refusal(a_prediction)
        assert targets.refusal(a_segmentation_node) == ""
        assert targets.refusal(targets.copy_prediction(a_volume_node, "blobs")) == ""
        assert "no segments" in targets.refusal(scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty"))


class TestIgnore:
    def test_painted_voxels_are_the_mask(self, a_volume_node):
        node = ignore.make_region(a_volume_node, "blobs")
        assert node.GetName() == "CT heart – ignore"
        assert ignore.size(node, ignore.SEGMENT_ID) == 0
        assert not ignore.mask(node, ignore.SEGMENT_ID, a_volume_node).array.any()
        painted = np.zeros((16, 20, 24), np.uint8)
        painted[2:6, 5:9, 10:20] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(painted, node, ignore.SEGMENT_ID, a_volume_node)
        mask = ignore.mask(node, ignore.SEGMENT_ID, a_volume_node)
        np.testing.assert_array_equal(mask.array[0], painted)
        assert mask.grid.same_as(frames.grid_of(a_volume_node))
        assert ignore.size(node, ignore.SEGMENT_ID) == pytest.approx(160 * 1.5 * 1.2 * 2.0)

    def test_there_is_one_for_an_input_whatever_the_model(self, a_volume_node, make_a_volume):
        node = ignore.make_region(a_volume_node, "blobs")
        assert ignore.make_region(a_volume_node, "another model") is node
        assert node.GetSegmentation().GetNumberOfSegments() == 1
        other = make_a_volume(name="Another scan")
        assert ignore.region(other) is None
        assert ignore.make_region(other, "blobs") is not node
        assert ignore.belongs_to(node, a_volume_node)
        assert not ignore.belongs_to(node, other)

    def test_the_size_of_a_surface(self, a_segmentation_node):
        voxels_only = ignore.size(a_segmentation_node, "Outer")
        a_segmentation_node.CreateClosedSurfaceRepresentation()
        a_segmentation_node.SetSourceRepresentationToClosedSurface()
        a_segmentation_node.GetSegmentation().RemoveRepresentation("Binary labelmap")
        assert ignore.size(a_segmentation_node, "Outer") == pytest.approx(voxels_only, rel=0.1)
        assert ignore.size(a_segmentation_node, "nothing") == 0
