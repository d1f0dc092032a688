"""Where atlas and prediction disagree: the map lies where it is, figures stay in the scene, a jump finds the spot."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import Any

import host_results
import numpy as np
import pytest
import slicer
from AtlasISTNHost import disagreement_map, frames, nodes, overlays, results, review
from standin import views

from AtlasISTNLib.errors import GeometryError
from AtlasISTNLib.geometry import transform_points
from AtlasISTNLib.volume import Volume

FLIP = np.array([-1.0, -1.0, 1.0])
#: Figures as the engine sends them; the place of the first is set where it is needed.
ENTRIES = (
    {"value": 5, "name": "right atrium", "share": 0.371, "unit": "mL", "missing": 1.5, "extra": 0.25, "blob": 0.9}
    | {"blob_kind": "missing", "blob_center": [0.0, 0.0, 0.0]},
    {"value": 2, "name": "left ventricle", "share": None, "unit": "mL", "missing": 0.0, "extra": 0.004, "blob": 0.0}
    | {"blob_kind": "", "blob_center": None},
)


#: Outcomes by their grids: they take long to make, and nobody changes them.
_outcomes: dict[Any, Any] = {}


@pytest.fixture
def make_a_case(make_a_volume: Any) -> Any:
    """A function that segments a volume; the map is 1 in a ball about `spot` (LPS mm from its middle), else 0."""

    def make(parent: Any = None, spot: tuple[float, ...] = (6.0, -4.0, 5.0), high: float = 1.0) -> host_results.Case:
        node = make_a_volume(np.zeros((26, 30, 32), np.float32), spacing=(2.0, 1.8, 2.2))
        if parent is not None:
            node.SetAndObserveTransformNodeID(parent.GetID())
        model = host_results.manifest()
        grid = frames.grid_of(node)
        if grid not in _outcomes:
            _outcomes[grid] = host_results.outcome(node, model)
        plain = _outcomes[grid]
        placed = plain.final.image_grid
        place = np.array(placed.center) + spot
        array = high * (np.linalg.norm(placed.points() - place, axis=-1) < 7.0)
        entries = [{**ENTRIES[0], "blob_center": place.tolist()}, dict(ENTRIES[1])]
        outcome = host_results.without(
            plain,
            disagreement=Volume.from_array(array.astype(np.float32), placed, "disagreement"),
            figures={**plain.figures, "disagreement": entries},
        )
        return host_results.Case(node, outcome, results.write_outcome(outcome, node, model))

    return make


@pytest.fixture
def a_case(make_a_case: Any) -> host_results.Case:
    found = make_a_case()
    disagreement_map.write(found.outcome, found.nodes, found.input_node)
    return found


def spot_of(case: host_results.Case) -> np.ndarray:
    """The middle of the ball in the world as it was processed, RAS mm."""
    return np.array(case.outcome.figures["disagreement"][0]["blob_center"]) * FLIP


def heaviest(node: Any) -> np.ndarray:
    """Where the values of a volume node have their middle, in the world, RAS mm."""
    array = slicer.util.arrayFromVolume(node)
    index = np.argwhere(array > 0.5)[:, ::-1].mean(axis=0)
    local = transform_points(frames.ijk_to_ras(node), index)
    return frames.moved(local[np.newaxis], node.GetParentTransformNode())[0]


@pytest.fixture
def layers(scene: Any, a_case: host_results.Case, make_a_volume: Any) -> Any:
    """A slice view of the input with a foreground of the user's."""
    found = slicer.vtkMRMLSliceCompositeNode()
    found.SetLayoutName("Red")
    found.SetSingletonTag("Red")
    found = scene.AddNode(found)
    found.SetBackgroundVolumeID(a_case.input_node.GetID())
    found.SetForegroundVolumeID(make_a_volume(name="PET").GetID())
    found.SetForegroundOpacity(0.3)
    return found


def foreground(layers: Any) -> str:
    node = layers.GetScene().GetNodeByID(layers.GetForegroundVolumeID() or "")
    return "" if node is None else node.GetName()


# -------------------------------------------------------------------------------------------------------- where it lies


@pytest.mark.parametrize("under_transform", [False, True])
def test_the_map_lies_where_it_was_found(make_a_case: Any, a_linear_transform_node: Any, under_transform: bool) -> None:
    case = make_a_case(a_linear_transform_node if under_transform else None)
    disagreement_map.write(case.outcome, case.nodes, case.input_node)
    node = disagreement_map.map_node(case.nodes)
    assert heaviest(node) == pytest.approx(spot_of(case), abs=0.8)
    assert node.GetTransformNodeID() == case.input_node.GetTransformNodeID()
    assert nodes.is_ours(node)
    assert not node.GetHideFromEditors()  # else Slicer's dialogue would not save it


def test_it_stays_on_the_patient_who_was_moved_meanwhile(make_a_case: Any, a_linear_transform_node: Any) -> None:
    case = make_a_case()
    case.input_node.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
    found = disagreement_map.write(case.outcome, case.nodes, case.input_node)
    expected = frames.moved(spot_of(case)[np.newaxis], a_linear_transform_node)[0]
    assert heaviest(disagreement_map.map_node(case.nodes)) == pytest.approx(expected, abs=0.8)
    assert disagreement_map.world_place(found.rows[0], case.input_node) == pytest.approx(tuple(expected), abs=1e-6)


def test_other_voxels_are_refused(make_a_case: Any) -> None:
    case = make_a_case()
    case.input_node.SetSpacing(1.0, 1.0, 4.0)
    with pytest.raises(GeometryError, match="changed"):
        disagreement_map.write(case.outcome, case.nodes, case.input_node)


def test_a_new_result_takes_its_place(a_case: host_results.Case, make_a_case: Any) -> None:
    before = disagreement_map.map_node(a_case.nodes)
    volume = a_case.outcome.disagreement
    other = host_results.without(a_case.outcome, disagreement=volume.with_array(np.zeros_like(volume.array)))
    disagreement_map.write(other, a_case.nodes, a_case.input_node)
    assert disagreement_map.map_node(a_case.nodes) is before
    assert slicer.util.arrayFromVolume(before).max() == 0


# ------------------------------------------------------------------------------------------------------------- colours


def test_the_colours_rise_and_begin_with_nothing() -> None:
    palette = disagreement_map.palette()
    brightness = palette[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) > 0).all()  # of one order, so that more is seen as more
    values = np.linspace(0, 1, len(palette))
    assert (palette[values < disagreement_map.LEAST, 3] == 0).all()
    assert (palette[values >= disagreement_map.LEAST, 3] == 1).all()


@pytest.mark.parametrize("high", [0.2, 1.0])
def test_the_scale_is_the_same_for_every_result(make_a_case: Any, high: float) -> None:
    case = make_a_case(high=high)
    disagreement_map.write(case.outcome, case.nodes, case.input_node)
    display = disagreement_map.show(case.nodes, case.input_node, True).GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 1)
    assert not display.GetAutoWindowLevel()
    assert tuple(display.GetColorNode().GetLookupTable().GetRange()) == (0, 1)


def test_only_what_disagrees_is_covered(scene: Any, make_a_case: Any) -> None:
    """As a slice is rendered: the ball is seen, and beside it the scan as it is."""
    case = make_a_case()
    slicer.util.updateVolumeFromArray(case.input_node, np.full((26, 30, 32), 80, np.float32))
    disagreement_map.write(case.outcome, case.nodes, case.input_node)
    case.nodes.segmentation.GetDisplayNode().SetVisibility(False)
    manager = slicer.app.layoutManager()
    slicer.util.setSliceViewerLayers(background=case.input_node, foreground=None, label=None, fit=True)
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *spot_of(case), slicer.vtkMRMLSliceNode.OffsetJumpSlice)
    size = (200, 180)
    before = views.picture(layout="red", size=size).astype(int)
    disagreement_map.show(case.nodes, case.input_node, True)
    changed = np.abs(views.picture(layout="red", size=size).astype(int) - before).max(axis=-1) > 10
    mm = manager.sliceWidget("Red").mrmlSliceNode().GetFieldOfView()[1] / size[1]
    assert changed.sum() * mm**2 == pytest.approx(np.pi * 7.0**2, rel=0.25)
    disagreement_map.show(case.nodes, case.input_node, False)
    assert (views.picture(layout="red", size=size) == before).all()


# --------------------------------------------------------------------------------------------------------- taking turns


def test_the_users_foreground_comes_back(a_case: host_results.Case, layers: Any) -> None:
    node = disagreement_map.show(a_case.nodes, a_case.input_node, True)
    assert foreground(layers) == node.GetName()
    disagreement_map.show(a_case.nodes, a_case.input_node, False)
    assert (foreground(layers), layers.GetForegroundOpacity()) == ("PET", 0.3)


def test_atlas_image_and_maps_take_turns(a_case: host_results.Case, layers: Any) -> None:
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.4)
    node = disagreement_map.show(a_case.nodes, a_case.input_node, True)
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.8)
    assert foreground(layers) == node.GetName()
    jacobian = review.show_jacobian(a_case.nodes, a_case.input_node, a_case.outcome, True)
    disagreement_map.show(a_case.nodes, a_case.input_node, False)
    assert foreground(layers) == jacobian.GetName()
    review.show_jacobian(a_case.nodes, a_case.input_node, None, False)
    assert (foreground(layers), layers.GetForegroundOpacity()) == (a_case.nodes.atlas_image.GetName(), 0.8)


def test_a_result_without_a_map_has_none(a_case: host_results.Case, layers: Any) -> None:
    disagreement_map.show(a_case.nodes, a_case.input_node, True)
    figures = {key: value for key, value in a_case.outcome.figures.items() if key != "disagreement"}
    without = host_results.without(a_case.outcome, disagreement=None, figures=figures)
    assert disagreement_map.write(without, a_case.nodes, a_case.input_node) is None
    assert disagreement_map.map_node(a_case.nodes) is None
    assert disagreement_map.read(a_case.nodes) is None
    assert foreground(layers) == "PET"


def test_leaving_takes_it_off(scene: Any, a_case: host_results.Case, layers: Any) -> None:
    node = disagreement_map.show(a_case.nodes, a_case.input_node, True)
    review.leave(scene)
    assert not overlays.covers(node)
    assert foreground(layers) == "PET"


# ------------------------------------------------------------------------------------------------------------- figures


def test_figures_are_read_as_people_do(a_case: host_results.Case) -> None:
    found = disagreement_map.figures(a_case.outcome, a_case.input_node)
    assert found.columns == ("Structure", "Disagree", "Missing mL", "Extra mL")
    assert [row.cells for row in found.rows] == [
        ("right atrium", "37 %", "1.50", "0.25"),
        ("left ventricle", "–", "0", "< 0.01"),
    ]


def test_figures_come_back_from_the_scene(a_case: host_results.Case) -> None:
    given = disagreement_map.figures(a_case.outcome, a_case.input_node)
    found = disagreement_map.read(a_case.nodes)
    assert found.unit == given.unit
    assert [row.cells for row in found.rows] == [row.cells for row in given.rows]
    assert (found.rows[0].value, found.rows[0].kind, found.rows[0].blob) == (5, "missing", 0.9)
    assert found.rows[0].center == pytest.approx(given.rows[0].center)
    assert found.rows[1].center is None


def test_a_loaded_scene_has_map_and_figures(make_a_case: Any, a_linear_transform_node: Any, tmp_path: Path) -> None:
    case = make_a_case(a_linear_transform_node)
    disagreement_map.write(case.outcome, case.nodes, case.input_node)
    disagreement_map.show(case.nodes, case.input_node, True)
    spot, name = spot_of(case), case.input_node.GetName()
    path = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(path))
    volume = slicer.util.getNode(name)
    again = results.find_nodes(volume, "two-balls")
    found = disagreement_map.read(again)
    assert [row.cells[0] for row in found.rows] == ["right atrium", "left ventricle"]
    assert disagreement_map.world_place(found.rows[0], volume) == pytest.approx(tuple(spot), abs=1e-3)
    node = disagreement_map.show(again, volume, True)
    assert heaviest(node) == pytest.approx(spot, abs=0.8)
    color = [0.0] * 4
    node.GetDisplayNode().GetColorNode().GetColor(disagreement_map.COLORS - 1, color)
    assert color == pytest.approx(disagreement_map.palette()[-1], abs=0.01)


# --------------------------------------------------------------------------------------------------------- to the spot


@pytest.mark.parametrize("under_transform", [False, True])
def test_a_jump_leads_to_the_middle_of_the_largest_piece(
    scene: Any, make_a_case: Any, a_linear_transform_node: Any, under_transform: bool
) -> None:
    case = make_a_case(a_linear_transform_node if under_transform else None)
    found = disagreement_map.write(case.outcome, case.nodes, case.input_node)
    slices = [scene.AddNewNodeByClass("vtkMRMLSliceNode", name) for name in ("Red", "Green", "Yellow")]
    for node, orientation in zip(slices, ("Axial", "Coronal", "Sagittal"), strict=True):
        node.SetOrientation(orientation)
        node.SetSliceOffset(-400.0)
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode") or scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    mode = crosshair.GetCrosshairMode()
    assert disagreement_map.jump(found.rows[0], case.input_node)
    spot = spot_of(case)
    for node in slices:
        middle = [node.GetSliceToRAS().GetElement(i, 3) for i in range(3)]
        assert middle == pytest.approx(spot, abs=1e-6)
    assert crosshair.GetCrosshairRAS() == pytest.approx(tuple(spot), abs=1e-6)
    assert crosshair.GetCrosshairMode() == mode


def test_where_all_agree_there_is_nowhere_to_go(scene: Any, a_case: host_results.Case) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    node.SetSliceOffset(-400.0)
    row = disagreement_map.figures(a_case.outcome, a_case.input_node).rows[1]
    assert not disagreement_map.jump(row, a_case.input_node)
    assert node.GetSliceOffset() == pytest.approx(-400.0)


def test_a_damaged_table_is_no_table(a_case: host_results.Case) -> None:
    table = nodes.find(a_case.input_node.GetScene(), disagreement_map.FIGURES, a_case.input_node, "two-balls")
    content = table.GetTable()
    for name in ("share", "label", "r"):
        column = content.GetColumnByName(name)
        column.SetValue(0, nan)
    found = disagreement_map.read(a_case.nodes)
    assert found.rows[0].cells[1] == "–"
    assert found.rows[0].center is None
    content.RemoveColumnByName("kind")
    assert disagreement_map.read(a_case.nodes) is None
