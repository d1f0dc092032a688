"""The table of a result, and a user's segmentation as its reference."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from math import isnan
from typing import Any

import host_results
import numpy as np
import pytest
import slicer
from AtlasISTNHost import measures, references

from AtlasISTNLib.errors import ConfigError, GeometryError, VolumeError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.volume import Volume


@pytest.fixture
def a_case(scene: Any, make_a_volume: Any) -> host_results.Case:
    return host_results.case(make_a_volume(np.zeros((26, 30, 32), np.float32), spacing=(2.0, 1.8, 2.2)))


def shifted_reference(labels: Volume, by: int) -> measures.Reference:
    """The labels, moved by some voxels along x."""
    masks = {}
    for value in (2, 5):
        mask = np.roll(labels.array[0] == value, by, axis=2)
        masks[value] = (tuple(slice(0, n) for n in mask.shape), mask)
    return measures.Reference("Truth", labels.grid, masks, {2: "lv", 5: "ra"})


def surface_voxels(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Centres in mm of the voxels of a mask that have a face towards the outside."""
    padded = np.pad(mask, 1)
    inside = padded.copy()
    for axis in range(mask.ndim):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)
    return np.argwhere(padded & ~inside) * spacing[::-1]


def brute_distances(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float]:
    """ASSD and HD95 by comparing every surface voxel with every other."""
    p, q = surface_voxels(a, spacing), surface_voxels(b, spacing)
    d = np.linalg.norm(p[:, None] - q[None], axis=-1)
    there, back = d.min(axis=1), d.min(axis=0)
    return np.concatenate([there, back]).mean(), max(np.percentile(there, 95), np.percentile(back, 95))


def test_figures_are_those_of_the_voxels(a_case: host_results.Case) -> None:
    labels = a_case.outcome.volumes["labels"]
    reference = shifted_reference(labels, 2)
    table = measures.measure(a_case.outcome, "refined", reference)
    assert [row.name for row in table.rows] == ["left ventricle", "right atrium"]
    for row in table.rows:
        own, true = labels.array[0] == row.value, reference.masks[row.value][1]
        assert row.volume == pytest.approx(own.sum() * 2.0 * 1.8 * 2.2 / 1000)
        assert row.dice == pytest.approx(2 * (own & true).sum() / (own.sum() + true.sum()))
        assert (row.assd, row.hd95) == pytest.approx(brute_distances(own, true, labels.grid.spacing))
        assert row.topology == "as the atlas"
    assert table.columns == ("Structure", "Volume mL", "Dice", "ASSD mm", "HD95 mm", "Topology")
    first = table.rows[0]
    assert table.cells[0] == (
        *("left ventricle", f"{first.volume:.2f}", f"{first.dice:.3f}"),
        *(f"{first.assd:.2f}", f"{first.hd95:.2f}", "as the atlas"),
    )


def test_each_segmentation_has_its_own_table(a_case: host_results.Case) -> None:
    tables = {which: measures.measure(a_case.outcome, which) for which in measures.VOLUMES}
    for which, table in tables.items():
        array = a_case.outcome.volumes[measures.VOLUMES[which]].array[0]
        for row in table.rows:
            assert row.volume == pytest.approx((array == row.value).sum() * 2.0 * 1.8 * 2.2 / 1000)
    assert [row.topology for row in tables["prediction"].rows] == ["1 cavity instead of 0", "2 pieces instead of 1"]
    assert tables["refined"].columns == ("Structure", "Volume mL", "Topology")
    with pytest.raises(ConfigError, match="truth"):
        measures.measure(a_case.outcome, "truth")


def test_absent_structures_are_no_numbers(a_case: host_results.Case) -> None:
    labels = a_case.outcome.volumes["labels"]
    full = shifted_reference(labels, 0)
    nowhere = (tuple(slice(0, 0) for _ in range(3)), np.zeros((0, 0, 0), bool))
    reference = measures.Reference("Truth", labels.grid, {2: nowhere}, missing=("right atrium",), unused=("Liver",))
    table = measures.measure(a_case.outcome, "refined", reference)
    lv, ra = table.rows
    assert (lv.dice, isnan(lv.assd), isnan(lv.hd95)) == (0.0, True, True)
    assert isnan(ra.dice)
    assert table.cells[1][2:5] == ("–", "–", "–")
    assert "right atrium" in table.note
    assert "Liver" in table.note
    assert measures.measure(a_case.outcome, "refined", full).note == ""


def test_reference_of_another_image_is_refused(a_case: host_results.Case) -> None:
    other = Grid.centered((4, 4, 4), (1, 1, 1))
    with pytest.raises(GeometryError, match="Truth"):
        measures.measure(a_case.outcome, "refined", measures.Reference("Truth", other, {}))


def test_a_single_slice_is_measured_as_an_area(scene: Any, make_a_volume: Any) -> None:
    node = make_a_volume(np.zeros((1, 30, 32), np.float32), spacing=(2.0, 1.5, 5.0))
    grid = host_results.frames.grid_of(node)
    model = host_results.manifest()
    flat_map = host_results.correspondence(grid, model, scale=1.0, bend=0.0)
    labels = host_results.label_map(grid, flat_map)
    volumes = {"labels": labels, "one_pass": labels, "prediction": labels}
    figures = {"structures": host_results.structures(volumes, model), "folding": host_results.folding(flat_map)}
    outcome = host_results.results.Outcome(
        "case", host_results.LABELS, volumes, flat_map, flat_map, figures, None, False
    )
    table = measures.measure(outcome, "one-pass", shifted_reference(labels, 1))
    row = table.rows[0]
    own = labels.array[0, 0] == row.value
    assert table.columns[1] == "Area mm²"
    assert row.volume == pytest.approx(own.sum() * 3.0)
    # The shifted mask's outline lies one voxel, 2 mm, to the side at most; seen as a solid, every voxel were surface.
    assert (row.assd, row.hd95) == pytest.approx(brute_distances(own, np.roll(own, 1, axis=1), (2.0, 1.5)))
    assert row.assd > 0.3


@pytest.mark.parametrize(
    ("own", "ndim", "text"),
    [
        ({"components": 1, "holes": 0, "tunnels": 0}, 3, "as the atlas"),
        ({"components": 3, "holes": 0, "tunnels": 0}, 3, "3 pieces instead of 1"),
        ({"components": 1, "holes": 2, "tunnels": 1}, 3, "2 cavities instead of 0, 1 tunnel instead of 0"),
        ({"components": 1, "holes": 1, "tunnels": 0}, 2, "1 hole instead of 0"),
        ({"components": 0, "holes": 0, "tunnels": 0}, 3, "absent"),
    ],
)
def test_topology_in_words(own: dict[str, int], ndim: int, text: str) -> None:
    assert measures.topology_text(own, {"components": 1, "holes": 0, "tunnels": 0}, ndim) == text


def test_folding_in_words(scene: Any, make_a_volume: Any) -> None:
    node = make_a_volume(np.zeros((26, 30, 32), np.float32), spacing=(2.0, 1.8, 2.2))
    model = host_results.manifest()
    smooth = host_results.outcome(node, model)
    folded = host_results.outcome(node, model, bend=0.7)
    assert measures.measure(smooth, "refined").folding.startswith("No folding")
    assert measures.measure(folded, "refined").folding.startswith("Folding: ")
    # One pass of this result is the identity, and the figures of the refined one must not be said of it.
    assert "No folding" in measures.measure(folded, "one-pass").folding
    assert "1.00" in measures.measure(folded, "one-pass").folding
    assert "without a deformation" in measures.measure(folded, "prediction").folding


def test_csv_holds_every_figure(a_case: host_results.Case) -> None:
    reference = shifted_reference(a_case.outcome.volumes["labels"], 1)
    table = measures.measure(a_case.outcome, "refined", reference)
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [row["structure"] for row in rows] == ["left ventricle", "right atrium"]
    assert [int(row["label"]) for row in rows] == [2, 5]
    assert [float(row["volume_ml"]) for row in rows] == [row.volume for row in table.rows]
    assert [float(row["dice"]) for row in rows] == [row.dice for row in table.rows]
    assert {row["segmentation"] for row in rows} == {"refined"}
    assert {row["reference"] for row in rows} == {"Truth"}
    plain = measures.measure(a_case.outcome, "one-pass").to_csv()
    assert next(csv.DictReader(io.StringIO(plain)))["dice"] == ""


@pytest.mark.parametrize("shift", [None, 1])
def test_the_scene_keeps_the_table(a_case: host_results.Case, shift: int | None) -> None:
    reference = None if shift is None else shifted_reference(a_case.outcome.volumes["labels"], shift)
    table = measures.measure(a_case.outcome, "refined", reference)
    assert measures.read_table(a_case.nodes) is None
    node = measures.write_table(table, a_case.nodes)
    assert measures.read_table(a_case.nodes) == (table.columns, table.cells, table.text)
    assert slicer.util.arrayFromTableColumn(node, "Volume mL") == pytest.approx([row.volume for row in table.rows])
    again = measures.write_table(measures.measure(a_case.outcome, "prediction"), a_case.nodes)
    assert again is node
    assert measures.read_table(a_case.nodes)[1][0][-1] == "1 cavity instead of 0"


# ----------------------------------------------------------------------------------------- a segmentation as reference


@dataclass
class Structure:
    """What the model says of a structure."""

    value: int
    name: str
    snomed_code: str = ""
    snomed_meaning: str = ""


def add_segment(node: Any, name: str, code: str = "", side: str = "") -> str:
    segment = slicer.vtkSegment()
    segment.SetName(name)
    if code:
        modifier = {"left": "SCT^7771000^Left", "right": "SCT^24028007^Right", "": "^^"}[side]
        entry = f"List~SCT^123037004^Anatomical Structure~SCT^{code}^Thing~{modifier}~Regions~^^~^^"
        segment.SetTag(segment.GetTerminologyEntryTagName(), entry)
    identity = node.GetSegmentation().GenerateUniqueSegmentID("Segment")
    node.GetSegmentation().AddSegment(segment, identity)
    return identity


LEFT_KIDNEY = Structure(1, "left kidney", "64033007", "Kidney")
RIGHT_KIDNEY = Structure(2, "right kidney", "64033007", "Kidney")
VENTRICLE = Structure(3, "left ventricle", "87878005", "Left ventricle of heart")
PLAIN = Structure(4, "letter B")
TISSUE = "85756007"


@pytest.mark.parametrize(
    ("segments", "labels", "expected"),
    [
        # by code, whatever the name
        ([("LV", "87878005")], [VENTRICLE], {3: "LV"}),
        # by name: case, spaces, underscores, order and abbreviated sides do not matter
        ([("Left_Ventricle", "")], [VENTRICLE], {3: "Left_Ventricle"}),
        ([("ventricle, L", "")], [VENTRICLE], {3: "ventricle, L"}),
        ([("LeftVentricle", "")], [VENTRICLE], {3: "LeftVentricle"}),
        ([("left ventricle of the heart", "")], [VENTRICLE], {3: "left ventricle of the heart"}),
        ([("Letter b", TISSUE)], [PLAIN], {4: "Letter b"}),
        # one code, two sides
        ([("A", "64033007", "right"), ("B", "64033007", "left")], [LEFT_KIDNEY, RIGHT_KIDNEY], {1: "B", 2: "A"}),
        (
            [("Kidney R", "64033007"), ("Kidney L", "64033007")],
            [LEFT_KIDNEY, RIGHT_KIDNEY],
            {1: "Kidney L", 2: "Kidney R"},
        ),
        # never left for right, never by order, never where two could be meant
        ([("kidney right", "64033007")], [LEFT_KIDNEY], {}),
        ([("Kidney", "64033007")], [LEFT_KIDNEY, RIGHT_KIDNEY], {}),
        ([("Segment_1", ""), ("Segment_2", "")], [LEFT_KIDNEY, RIGHT_KIDNEY], {}),
        ([("one", "87878005"), ("two", "87878005")], [VENTRICLE], {}),
        ([("left ventricle", ""), ("Left Ventricle", "")], [VENTRICLE], {}),
        # the code that Slicer gives to every new segment says nothing
        ([("Segment_1", TISSUE)], [Structure(1, "thing", TISSUE, "Tissue")], {}),
        ([("ventricle", "")], [VENTRICLE], {}),
    ],
)
def test_segments_are_matched_by_code_or_name_and_never_guessed(
    scene: Any, segments: list[tuple[str, ...]], labels: list[Structure], expected: dict[int, str]
) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    ids = {add_segment(node, *segment): segment[0] for segment in segments}
    matched, unused = references.match_segments(node.GetSegmentation(), labels)
    assert {value: ids[i] for value, i in matched.items()} == expected
    assert sorted([*matched.values(), *unused]) == sorted(ids)


def draw(scene: Any, volume: Any, masks: dict[str, np.ndarray], parent: Any = None) -> Any:
    """A user's segmentation with masks on a volume's voxels; segments may overlap."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Manual")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name, mask in masks.items():
        i = node.GetSegmentation().AddEmptySegment("", name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, i, volume)
    node.SetAndObserveTransformNodeID(parent.GetID() if parent is not None else None)
    return node


def whole(reference: measures.Reference, value: int) -> np.ndarray:
    mask = np.zeros(reference.grid.shape, bool)
    box, inside = reference.masks[value]
    mask[box] = inside
    return mask


@pytest.mark.parametrize("kind", ["a_volume_node", "an_oblique_volume_node", "a_left_handed_volume_node"])
def test_masks_lie_on_the_voxels_of_the_volume(scene: Any, request: pytest.FixtureRequest, kind: str) -> None:
    volume = request.getfixturevalue(kind)
    array = slicer.util.arrayFromVolume(volume)
    masks = {"Left ventricle": array > 50, "RIGHT atrium": array > 90}
    node = draw(scene, volume, masks)
    before = scene.GetNumberOfNodes()
    reference = references.reference_labels(node, volume, host_results.LABELS)
    assert (whole(reference, 2) == masks["Left ventricle"]).all()
    assert (whole(reference, 5) == masks["RIGHT atrium"]).all()
    assert reference.matched == {2: "Left ventricle", 5: "RIGHT atrium"}
    assert (reference.missing, reference.unused, reference.note()) == ((), (), "")
    assert scene.GetNumberOfNodes() == before
    # One map of both: the inner one, which has the larger value, is on top
    expected = np.where(masks["RIGHT atrium"], 5, np.where(masks["Left ventricle"], 2, 0))
    assert (reference.labels().array[0] == expected).all()


def test_masks_follow_the_transforms_of_both(
    scene: Any, a_volume_node: Any, make_a_volume: Any, a_linear_transform_node: Any
) -> None:
    array = slicer.util.arrayFromVolume(a_volume_node)
    inner = array > 90
    # Drawn on another volume of the same patient, three voxels to the side, and moved back by its own transform.
    origin = (12.0 + 3 * 1.5, -30.0, 7.0)
    other = make_a_volume(array, origin=origin, name="Other")
    back = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[0, 3] = -3 * 1.5
    back.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node = draw(scene, other, {"right atrium": inner}, back)
    reference = references.reference_labels(node, a_volume_node, host_results.LABELS)
    assert (whole(reference, 5) == inner).all()
    assert reference.missing == ("left ventricle",)
    # Both moved together: nothing changes.
    for moved in (a_volume_node, back):
        moved.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
    reference = references.reference_labels(node, a_volume_node, host_results.LABELS)
    assert (whole(reference, 5) == inner).all()
    # The volume alone moved out of it again: the masks no longer meet.
    a_volume_node.SetAndObserveTransformNodeID(None)
    reference = references.reference_labels(node, a_volume_node, host_results.LABELS)
    assert not (whole(reference, 5) & inner).any()


def test_a_reference_of_surfaces_stays_as_it_is(scene: Any, a_volume_node: Any) -> None:
    large = slicer.util.arrayFromVolume(a_volume_node) > 50
    node = draw(scene, a_volume_node, {"right atrium": large})
    converter = slicer.vtkSegmentationConverter
    surface = converter.GetSegmentationClosedSurfaceRepresentationName()
    labelmap = converter.GetSegmentationBinaryLabelmapRepresentationName()
    node.GetSegmentation().CreateRepresentation(surface)
    node.GetSegmentation().SetSourceRepresentationName(surface)
    node.GetSegmentation().RemoveRepresentation(labelmap)
    before = scene.GetNumberOfNodes()
    mask = whole(references.reference_labels(node, a_volume_node, host_results.LABELS), 5)
    assert 2 * (mask & large).sum() / (mask.sum() + large.sum()) > 0.85
    assert not node.GetSegmentation().ContainsRepresentation(labelmap)
    assert scene.GetNumberOfNodes() == before


def test_overlapping_segments_are_measured_whole(scene: Any, make_a_volume: Any) -> None:
    case = host_results.case(make_a_volume(np.zeros((26, 30, 32), np.float32), spacing=(2.0, 1.8, 2.2)))
    labels = case.outcome.volumes["labels"].array[0]
    masks = {"left ventricle": labels == 2, "right atrium": labels > 0}
    node = draw(scene, case.input_node, masks)
    reference = references.reference_labels(node, case.input_node, host_results.LABELS)
    table = measures.measure(case.outcome, "refined", reference)
    assert table.rows[0].dice == 1.0
    count = [(labels == value).sum() for value in (2, 5)]
    assert table.rows[1].dice == pytest.approx(2 * count[1] / (2 * count[1] + count[0]))


def test_an_empty_segmentation_is_refused(scene: Any, a_volume_node: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Nothing yet")
    with pytest.raises(VolumeError, match="Nothing yet"):
        references.reference_labels(node, a_volume_node, host_results.LABELS)
