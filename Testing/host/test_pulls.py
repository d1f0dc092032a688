"""Pulls: placed with the mouse, tied to the atlas, shown where the atlas is, kept with the scene."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import slicer
from AtlasISTNHost import frames, nodes, pull_lines, pulls, results, surfaces
from AtlasISTNHost.placing import Placing
from host import atlas_cases as cases
from mouse import Mouse
from standin import views

from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.steering import LANDMARK_WEIGHT, Landmarks, in_model

FLIP = cases.FLIP

MODEL = cases.a_manifest().about.name
NAMES = {label.value: label.name for label in cases.LABELS}


@pytest.fixture(scope="module")
def the_surfaces():
    return surfaces.atlas_surfaces(cases.a_manifest(), cases.the_soft_labels())


@pytest.fixture(params=["upright", "moved", "scaled"])
def scan(request: Any, scene: Any) -> Any:
    """A scan of the patient in the world, under a rigid motion, and under one that enlarges besides."""
    if request.param == "upright":
        return cases.scan(scene, extent=80.0)
    matrix = np.eye(4)
    matrix[:3, :3] = cases.rotation(np.random.default_rng(4)) * (1.25 if request.param == "scaled" else 1.0)
    matrix[:3, 3] = (30.0, -8.0, 12.0)
    return cases.scan(scene, extent=80.0, parent=cases.linear(scene, matrix))


def segmented(scan: Any, the_surfaces: Any, correspondence: Any = None) -> results.Nodes:
    return results.write_outcome(cases.outcome_of(scan, correspondence), scan, cases.a_manifest(), the_surfaces)


def meshes_of(found: results.Nodes) -> dict[str, Any]:
    return {NAMES[value]: node.GetPolyData() for value, node in found.surfaces.items()}


def add(node: Any, world: Any) -> int:
    """Place a point at a world position."""
    return node.AddControlPointWorld(*np.asarray(world, float))


def world_of(node: Any, index: int) -> np.ndarray:
    return np.array(node.GetNthControlPointPositionWorld(index))


def on_surface(found: results.Nodes, value: int = 7, which: int = 40) -> np.ndarray:
    """A vertex of the warped atlas in the world, (3,)."""
    node = found.surfaces[value]
    points = np.array(slicer.util.arrayFromModelPoints(node), dtype=float)
    return frames.moved(points[which : which + 1], node.GetParentTransformNode())[0]


def outermost(found: results.Nodes) -> np.ndarray:
    """The point of the shell's outside farthest anterior, in the world: no other structure is near it."""
    points = _world_points(found, 3)
    return points[points[:, 1].argmax()]


def a_pull(scan: Any, found: results.Nodes, away: Any = (0.0, 0.0, 0.0)) -> Any:
    """A node with one pull, placed at a vertex of the core and dragged away from it, mm in the world."""
    node = pulls.get_or_add(scan, MODEL)
    place = on_surface(found)
    index = add(node, place)
    pulls.adopt(node, pulls.maps_of_node(found.image_from_atlas), meshes_of(found))
    node.SetNthControlPointPositionWorld(index, *(place + np.array(away)))
    return node


# ------------------------------------------------------------------------------------------- which point of the atlas


def distance_to_atlas(the_surfaces: Any, value: int, point: np.ndarray) -> float:
    """mm from a point of the atlas's space to the atlas's own surface."""
    mesh = surfaces._mesh(the_surfaces[value], the_surfaces[value].points.astype(np.float32), False)
    near = pulls.nearest({"it": mesh}, point)
    return np.inf if near is None else float(np.linalg.norm(near[1] - point))


def test_a_point_beside_a_surface_is_the_surface_there(scan, the_surfaces):
    found = segmented(scan, the_surfaces)
    node = pulls.get_or_add(scan, MODEL)
    place = outermost(found) + np.array([0.0, 1.2, 0.9])
    add(node, place)
    assert pulls.adopt(node, pulls.maps_of_node(found.image_from_atlas), meshes_of(found)) == 1
    atlas = pulls.atlas_point(node.GetNthControlPointDescription(0))
    assert distance_to_atlas(the_surfaces, 3, atlas) < 0.5  # a triangle's inside is bent by the map, not only moved
    warped = cases.a_correspondence().image_from_atlas(atlas) @ FLIP
    assert np.linalg.norm(warped - place) < 1.55  # the nearest point is no farther than the vertex
    assert node.GetNthControlPointLabel(0) == "1"  # short, as it stands in the views
    assert pulls.read(node, scan, cases.a_manifest())[0].name == "1 shell"
    np.testing.assert_allclose(world_of(node, 0), place, atol=1e-3)  # the mark stays where the user put it


def test_a_point_far_from_all_surfaces_is_itself(scan, the_surfaces):
    found = segmented(scan, the_surfaces)
    node = pulls.get_or_add(scan, MODEL)
    wide = 1.25 * pulls.SNAP_MM  # in a scan that is enlarged 5 mm are seen as so many
    points = cases.points_in_body(400)
    far = next(
        point
        for point in points
        if min(np.linalg.norm(_world_points(found, v) - point, axis=1).min() for v in found.surfaces) > wide + 1
    )
    add(node, far)
    pulls.adopt(node, pulls.maps_of_node(found.image_from_atlas), meshes_of(found))
    atlas = pulls.atlas_point(node.GetNthControlPointDescription(0))
    np.testing.assert_allclose(atlas, cases.a_correspondence().atlas_from_image(far @ FLIP), atol=0.05)
    assert pulls.read(node, scan, cases.a_manifest())[0].name == "1"


def _world_points(found: results.Nodes, value: int) -> np.ndarray:
    node = found.surfaces[value]
    return frames.moved(np.array(slicer.util.arrayFromModelPoints(node), dtype=float), node.GetParentTransformNode())


def test_a_point_keeps_its_atlas_point(scene, the_surfaces):
    """Dragged about, and after another result: the pair is what the user made of it."""
    scan = cases.scan(scene, extent=80.0)
    found = segmented(scan, the_surfaces)
    node = a_pull(scan, found)
    before = node.GetNthControlPointDescription(0)
    node.SetNthControlPointPositionWorld(0, *(world_of(node, 0) + 9))
    found = segmented(scan, the_surfaces, cases.a_correspondence(seed=5))
    assert pulls.adopt(node, pulls.maps_of_node(found.image_from_atlas), meshes_of(found)) == 0
    assert node.GetNthControlPointDescription(0) == before


# ------------------------------------------------------------------------------------------------------ what is asked


def test_landmarks_are_the_pairs_in_the_engines_world(scan, the_surfaces):
    found = segmented(scan, the_surfaces)
    node = a_pull(scan, found, away=(4.0, -6.0, 3.0))
    pulls.set_weight(node, 0.02)
    asked = pulls.landmarks(pulls.read(node, scan, cases.a_manifest()), pulls.weight_of(node))
    marks = Landmarks(np.array(asked["atlas"]), np.array(asked["image"]), asked["weight"], tuple(asked["names"]))
    in_model(marks, cases.ATLAS_GRID, frames.grid_of(scan))  # the engine takes them
    np.testing.assert_allclose(marks.image[0], world_of(node, 0) @ FLIP, atol=1e-3)
    assert distance_to_atlas(the_surfaces, 7, marks.atlas[0]) < 0.1
    assert (marks.weight, marks.names) == (0.02, ("1 core",))
    # By the truth they are as far apart as the point was dragged.
    away = cases.a_correspondence().image_from_atlas(marks.atlas[0]) - marks.image[0]
    assert np.linalg.norm(away) == pytest.approx(np.sqrt(16 + 36 + 9), abs=0.1)


@pytest.mark.parametrize("source", ["nodes", "preview"])
def test_distances_are_those_that_the_user_sees(scan, the_surfaces, source):
    found = segmented(scan, the_surfaces)
    node = a_pull(scan, found, away=(0.0, 8.0, 6.0))
    maps = pulls.maps_of_node(found.image_from_atlas)
    if source == "preview":
        maps = pulls.maps_of(cases.a_correspondence(), frames.processing_frame(scan))
    (pull,) = pulls.read(node, scan, cases.a_manifest(), maps)
    assert pull.distance == pytest.approx(10.0, abs=0.1)
    assert pull.problem == ""


def test_a_preview_moves_the_atlas_not_the_mark(scene, the_surfaces):
    scan = cases.scan(scene, extent=80.0)
    node = a_pull(scan, segmented(scan, the_surfaces))
    other = cases.a_correspondence(seed=5)
    before = world_of(node, 0)
    (pull,) = pulls.read(node, scan, cases.a_manifest(), pulls.maps_of(other, frames.processing_frame(scan)))
    np.testing.assert_allclose(pull.now, other.image_from_atlas(pull.atlas), atol=1e-6)
    assert pull.distance > 1
    np.testing.assert_array_equal(world_of(node, 0), before)


def test_what_the_engine_would_refuse_is_left_out_and_said(scene, the_surfaces):
    scan = cases.scan(scene, extent=80.0)
    found = segmented(scan, the_surfaces)
    node = a_pull(scan, found)
    add(node, on_surface(found, 3))
    add(node, on_surface(found, 3, 50))
    pulls.adopt(node, pulls.maps_of_node(found.image_from_atlas), meshes_of(found))
    node.SetNthControlPointPosition(1, 900.0, 0.0, 0.0)
    node.SetNthControlPointDescription(2, "atlas LPS mm: 900.0 0.0 0.0")
    add(node, on_surface(found, 3, 90))  # nobody has said which point of the atlas it is
    read = pulls.read(node, scan, cases.a_manifest())
    assert [bool(pull.problem) for pull in read] == [False, True, True, True]
    assert "scan" in read[1].problem
    assert "atlas" in read[2].problem
    assert len(pulls.landmarks(read, 1.0)["atlas"]) == 1
    assert pulls.landmarks(read[1:], 1.0) is None
    assert pulls.landmarks((), 1.0) is None


def test_points_of_a_single_slice_lie_on_it(scene):
    """A 2D model: the mouse may be beside the slice by a hair, in 3D by more; the atlas lies at z = 0."""
    scan = slicer.util.addVolumeFromArray(
        np.zeros((1, 40, 50), np.float32), ijkToRAS=np.diag([-1.0, -1.0, 3.0, 1.0]), name="Slice"
    )
    parent = cases.linear(scene, cases.rotation(np.random.default_rng(1)))
    scan.SetAndObserveTransformNodeID(parent.GetID())
    flat = replace(cases.a_manifest(), grid=Grid.centered((48, 48), (1.0, 1.0)))
    node = pulls.get_or_add(scan, MODEL)
    node.AddControlPoint(-20.0, -11.0, 4.0)
    shift = pulls.Maps(
        lambda points: points @ FLIP - [20.0, 11.0, 0.0], lambda points: (points - [-20.0, -11.0, 0.0]) @ FLIP
    )
    pulls.adopt(node, shift, {})
    node.SetNthControlPointPosition(0, -23.0, -15.0, 1.0)
    (pull,) = pulls.read(node, scan, flat, shift)
    assert pull.atlas[2] == 0
    assert pull.distance == pytest.approx(5.0, abs=1e-3)
    asked = pulls.landmarks([pull], 1.0)
    marks = Landmarks(np.array(asked["atlas"]), np.array(asked["image"]))
    known, seen = in_model(marks, flat.grid, frames.grid_of(scan))
    assert known.shape == seen.shape == (1, 2)
    local = frames.processing_frame(scan).to_local(marks.image[0])
    np.testing.assert_allclose(local, (-23.0, -15.0, 0.0), atol=1e-6)


def test_the_signature_tells_what_steers(scene, the_surfaces):
    scan = cases.scan(scene, extent=80.0)
    found = segmented(scan, the_surfaces)
    assert pulls.signature(None) == ()
    node = pulls.get_or_add(scan, MODEL)
    pulls.set_weight(node, 7.0)
    assert pulls.signature(node) == ()  # no pull: nothing is steered, however hard
    node = a_pull(scan, found)
    seen = [pulls.signature(node)]
    node.SetNthControlPointLabel(0, "apex")
    node.GetDisplayNode().SetVisibility(False)
    assert pulls.signature(node) == seen[0]
    for change in (
        lambda: node.SetNthControlPointPosition(0, 1.0, 2.0, 3.0),
        lambda: pulls.set_weight(node, 8.0),
        lambda: pulls.remove_points(node),
    ):
        change()
        assert pulls.signature(node) not in seen
        seen.append(pulls.signature(node))


def test_a_weight_that_makes_no_sense_is_the_usual_one(scene, a_volume_node):
    node = pulls.get_or_add(a_volume_node, MODEL)
    assert pulls.weight_of(node) == LANDMARK_WEIGHT
    for text in ("-3", "much", "[1]", "NaN", "true"):
        node.SetAttribute("AtlasISTN.PullWeight", text)
        assert pulls.weight_of(node) == LANDMARK_WEIGHT


@pytest.mark.parametrize("text", ["", "my remark", "atlas LPS mm: 1.0 2.0", "atlas LPS mm: nan 1.0 2.0"])
def test_a_description_that_names_no_point(text):
    assert pulls.atlas_point(text) is None


def test_a_remark_beside_the_point_is_no_harm():
    np.testing.assert_allclose(pulls.atlas_point("apex! atlas LPS mm: -1.5 2 0.25; seen twice"), (-1.5, 2.0, 0.25))


# ------------------------------------------------------------------------------------------------------------- nodes


def test_nodes_lie_under_the_inputs_transform_and_follow_it(scan, the_surfaces):
    found = segmented(scan, the_surfaces)
    node = a_pull(scan, found)
    assert node.GetName() == "Scan – pulls"
    assert node.GetParentTransformNode() is scan.GetParentTransformNode()
    assert pulls.get_or_add(scan, MODEL) is node
    local = np.array(node.GetNthControlPointPosition(0))
    elsewhere = cases.linear(scan.GetScene(), np.diag([1.0, 1.0, 1.0, 1.0]), name="Elsewhere")
    scan.SetAndObserveTransformNodeID(elsewhere.GetID())
    assert pulls.find(scan, MODEL) is node
    assert node.GetParentTransformNode() is elsewhere
    np.testing.assert_array_equal(node.GetNthControlPointPosition(0), local)


def test_models_and_inputs_have_pulls_of_their_own(scene, the_surfaces):
    scan = cases.scan(scene, extent=80.0)
    node = a_pull(scan, segmented(scan, the_surfaces))
    assert pulls.find(scan, "another model") is None
    assert pulls.get_or_add(scan, "another model") is not node
    assert pulls.find(cases.scan(scene, name="Other"), MODEL) is None


def test_saved_and_loaded(scan, the_surfaces, tmp_path):
    found = segmented(scan, the_surfaces)
    node = a_pull(scan, found, away=(3.0, 0.0, -4.0))
    pulls.set_weight(node, 0.004)
    lines = pull_lines.Lines()
    lines.show(scan.GetScene(), [(np.zeros(3), np.ones(3))], scan.GetTransformNodeID(), True)
    before = pulls.read(node, scan, cases.a_manifest(), pulls.maps_of_node(found.image_from_atlas))[0]
    path = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(path))
    again = slicer.util.getNode("Scan")
    node = pulls.find(again, MODEL)
    found = results.find_nodes(again, MODEL)
    (pull,) = pulls.read(node, again, cases.a_manifest(), pulls.maps_of_node(found.image_from_atlas))
    np.testing.assert_allclose(pull.atlas, before.atlas, atol=1e-4)
    np.testing.assert_allclose(pull.target, before.target, atol=1e-3)
    assert pull.distance == pytest.approx(5.0, abs=0.1)
    assert (pull.name, pulls.weight_of(node)) == ("1 core", 0.004)
    assert slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode") == []  # lines are made again, not saved


def test_undo_brings_back_what_was_removed(scene, the_surfaces):
    scene.SetUndoOn()
    scan = cases.scan(scene, extent=80.0)
    node = a_pull(scan, segmented(scan, the_surfaces), away=(3.0, 0.0, 0.0))
    node.SetUndoEnabled(True)
    before = pulls.signature(node)
    pulls.remove_point(node, 0)
    assert pulls.signature(node) == ()
    scene.Undo()
    assert pulls.signature(pulls.find(scan, MODEL)) == before


def test_without_its_transform_nobody_knows_where_a_point_lies(scene, the_surfaces):
    scan = cases.scan(scene, extent=80.0)
    found = segmented(scan, the_surfaces)
    node = a_pull(scan, found)
    scene.RemoveNode(found.image_from_atlas)
    assert pulls.maps_of_node(found.image_from_atlas) is None
    (pull,) = pulls.read(node, scan, cases.a_manifest(), None)
    assert np.isnan(pull.distance)
    assert pulls.landmarks([pull], 1.0) is not None  # the pair is known nevertheless


# ------------------------------------------------------------------------------------------------------------- lines


def test_lines_are_moved_in_place_and_leave_no_trace(scan):
    scene, lines = scan.GetScene(), pull_lines.Lines()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    items = hierarchy.GetNumberOfItems()
    count = len(nodes.all_nodes(scene))
    one, two = (np.zeros(3), np.array([1.0, 2.0, 3.0])), (np.ones(3), np.array([7.0, 8.0, 9.0]))
    lines.show(scene, [one, two], scan.GetTransformNodeID(), True)
    made = slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")
    assert len(made) == 2
    assert all(node.GetLocked() and node.GetHideFromEditors() for node in made)
    assert made[0].GetParentTransformNode() is scan.GetParentTransformNode()
    assert hierarchy.GetNumberOfItems() == items
    np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPoints(made[1]), two)
    events = []
    made[0].AddObserver(made[0].PointModifiedEvent, lambda *_: events.append(1))
    lines.show(scene, [one, one], scan.GetTransformNodeID(), False)
    assert events == []  # what has not moved is left alone
    assert slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode") == made
    np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPoints(made[1]), one)
    assert not made[0].GetDisplayNode().GetVisibility()
    scene.RemoveNode(made[0])  # by somebody who looked at hidden nodes
    made[1].RemoveAllControlPoints()
    lines.show(scene, [two], scan.GetTransformNodeID(), True)
    np.testing.assert_allclose(
        slicer.util.arrayFromMarkupsControlPoints(slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")[0]), two
    )
    lines.clear()
    assert len(nodes.all_nodes(scene)) == count


# ------------------------------------------------------------------------------------------------- placing, as a user


@pytest.fixture
def red(scene: Any, the_surfaces: Any) -> Any:
    """The axial view over a segmented scan, and the result's nodes."""
    scan = cases.scan(scene, extent=80.0)
    manager = slicer.app.layoutManager()
    slicer.util.setSliceViewerLayers(background=scan, fit=True)
    views.picture(layout="red", size=(400, 360))
    found = segmented(scan, the_surfaces)
    return manager.sliceWidget("Red")._view(), scan, found


def test_a_click_places_and_a_drag_moves(red):
    view, scan, found = red
    node, mouse = pulls.get_or_add(scan, MODEL), Mouse(view)
    maps, meshes = pulls.maps_of_node(found.image_from_atlas), meshes_of(found)
    middle = np.array([*(cases.PLACE @ FLIP)[:2], view.logic.GetSliceOffset()])
    placing = Placing(node)
    assert placing.going_on
    mouse.move(middle)
    assert node.GetNumberOfControlPoints() == 1  # the mark that follows the mouse is no pull yet
    assert pulls.adopt(node, maps, meshes) == 0
    assert pulls.read(node, scan, cases.a_manifest(), maps) == ()
    mouse.click(middle)
    assert not placing.going_on  # one click, one point
    assert pulls.adopt(node, maps, meshes) == 1
    start = world_of(node, 0)
    np.testing.assert_allclose(start, middle, atol=0.5)  # to a pixel
    mouse.drag(start, start + np.array([10.0, 0.0, 0.0]))
    np.testing.assert_allclose(world_of(node, 0), start + np.array([10.0, 0.0, 0.0]), atol=0.7)
    (pull,) = pulls.read(node, scan, cases.a_manifest(), maps)
    assert pull.distance > 5


def test_a_right_click_ends_placing_and_leaves_nothing(red):
    view, scan, _found = red
    node, mouse = pulls.get_or_add(scan, MODEL), Mouse(view)
    middle = np.array([*(cases.PLACE @ FLIP)[:2], view.logic.GetSliceOffset()])
    placing = Placing(node)
    mouse.move(middle)
    mouse.click(middle, "Right")
    assert not placing.going_on
    assert node.GetNumberOfControlPoints() == 0


def test_what_the_user_placed_before_is_what_is_placed_next(scene, a_volume_node, a_markups_node):
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    selection.SetReferenceActivePlaceNodeClassName("vtkMRMLMarkupsFiducialNode")
    selection.SetActivePlaceNodeID(a_markups_node.GetID())
    placing = Placing(pulls.get_or_add(a_volume_node, MODEL))
    assert selection.GetActivePlaceNodeID() != a_markups_node.GetID()
    placing.give_back()
    assert placing.going_on  # not while it goes on
    placing.stop()
    placing.give_back()
    assert selection.GetActivePlaceNodeID() == a_markups_node.GetID()
    # Something else that was chosen meanwhile stays, and a node that is gone is not chosen.
    placing = Placing(pulls.get_or_add(a_volume_node, MODEL))
    placing.stop()
    scene.RemoveNode(a_markups_node)
    placing.give_back()
    assert selection.GetActivePlaceNodeID() is None


def test_lines_are_not_what_the_user_places_next(scene, a_volume_node, a_markups_node):
    """Slicer makes every markups node that is added the one that is placed next."""
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    assert selection.GetActivePlaceNodeID() == a_markups_node.GetID()
    lines = pull_lines.Lines()
    lines.show(scene, [(np.zeros(3), np.ones(3))], None, True)
    assert selection.GetActivePlaceNodeID() == a_markups_node.GetID()
    assert selection.GetActivePlaceNodeClassName() == "vtkMRMLMarkupsFiducialNode"
    lines.clear()
    assert selection.GetActivePlaceNodeID() == a_markups_node.GetID()


def test_the_line_is_seen_where_the_slice_is(red):
    view, scan, _found = red
    lines, offset = pull_lines.Lines(), view.logic.GetSliceOffset()
    middle = np.array([*(cases.PLACE @ FLIP)[:2], offset])

    def drawn(ends: Any) -> int:
        lines.show(scan.GetScene(), [], None, True)
        before = view.pixels().astype(int)
        lines.show(scan.GetScene(), [ends], None, True)
        return int((np.abs(view.pixels().astype(int) - before).max(axis=-1) > 40).sum())

    in_plane = drawn((middle, middle + np.array([20.0, 0.0, 0.0])))
    far_off = drawn((middle + np.array([0.0, 0.0, 30.0]), middle + np.array([20.0, 0.0, 30.0])))
    assert in_plane > 60
    assert far_off == 0
