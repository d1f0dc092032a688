"""How a result is looked at, on real display nodes, slice layers and transforms."""

from __future__ import annotations

from typing import Any

import host_results
import numpy as np
import pytest
import slicer
import vtk
from AtlasISTNHost import frames, jacobian, nodes, overlays, review
from vtk.util.numpy_support import vtk_to_numpy

from AtlasISTNLib.correspondence import ATLAS_FROM_IMAGE, Correspondence
from AtlasISTNLib.errors import ConfigError
from AtlasISTNLib.geometry import Grid, Plane, transform_points

FLIP = np.array([-1.0, -1.0, 1.0])


@pytest.fixture
def make_a_case(make_a_volume: Any) -> Any:
    def make(parent: Any = None, directions: Any = None, **deformation: Any) -> host_results.Case:
        node = make_a_volume(np.zeros((26, 30, 32), np.float32), spacing=(2.0, 1.8, 2.2), directions=directions)
        if parent is not None:
            node.SetAndObserveTransformNodeID(parent.GetID())
        return host_results.case(node, **deformation)

    return make


@pytest.fixture
def a_case(make_a_case: Any) -> host_results.Case:
    return make_a_case()


@pytest.fixture
def views(scene: Any, a_case: host_results.Case, make_a_volume: Any) -> dict[str, Any]:
    """Layers of three slice views: two show the input, one with a foreground, and one shows another volume."""
    found = {}
    other = make_a_volume(name="Other")
    overlay = make_a_volume(name="PET")
    for name, background in (("Red", a_case.input_node), ("Green", a_case.input_node), ("Yellow", other)):
        layers = slicer.vtkMRMLSliceCompositeNode()
        layers.SetLayoutName(name)
        layers.SetSingletonTag(name)
        layers.SetBackgroundVolumeID(background.GetID())
        found[name] = scene.AddNode(layers)
    found["Green"].SetForegroundVolumeID(overlay.GetID())
    found["Green"].SetForegroundOpacity(0.3)
    found["Yellow"].SetForegroundVolumeID(overlay.GetID())
    found["Yellow"].SetForegroundOpacity(0.7)
    return found


def foregrounds(views: dict[str, Any]) -> dict[str, tuple[str | None, float]]:
    scene = views["Red"].GetScene()
    found = {}
    for name, layers in views.items():
        node = scene.GetNodeByID(layers.GetForegroundVolumeID() or "")
        found[name] = (None if node is None else node.GetName(), layers.GetForegroundOpacity())
    return found


# ------------------------------------------------------------------------------------------------------- segmentations


def test_exactly_one_segmentation_of_ours_is_shown(a_case: host_results.Case, a_segmentation_node: Any) -> None:
    a_segmentation_node.GetDisplayNode().SetVisibility(True)
    a_segmentation_node.GetDisplayNode().SetSegmentVisibility("Outer", False)
    own = {
        "prediction": a_case.nodes.prediction,
        "one-pass": a_case.nodes.one_pass,
        "refined": a_case.nodes.segmentation,
    }
    for which in (*own, "refined"):
        review.show(a_case.nodes, which)
        assert {name for name, node in own.items() if node.GetDisplayNode().GetVisibility()} == {which}
        assert a_segmentation_node.GetDisplayNode().GetVisibility()
        assert not a_segmentation_node.GetDisplayNode().GetSegmentVisibility("Outer")
    with pytest.raises(ConfigError, match="final"):
        review.show(a_case.nodes, "final")


def test_a_second_result_is_not_touched(a_case: host_results.Case, make_a_case: Any) -> None:
    other = make_a_case()
    review.show(other.nodes, "one-pass")
    review.show(a_case.nodes, "prediction")
    assert other.nodes.one_pass.GetDisplayNode().GetVisibility()
    assert not other.nodes.prediction.GetDisplayNode().GetVisibility()


def test_a_removed_segmentation_is_passed_over(scene: Any, a_case: host_results.Case) -> None:
    scene.RemoveNode(a_case.nodes.prediction)
    review.show(a_case.nodes, "one-pass")
    assert a_case.nodes.one_pass.GetDisplayNode().GetVisibility()


def test_outlines_leave_single_segments_alone(a_case: host_results.Case, a_segmentation_node: Any) -> None:
    display = a_case.nodes.segmentation.GetDisplayNode()
    segment = a_case.nodes.segmentation.GetSegmentation().GetNthSegmentID(0)
    display.SetSegmentVisibility2DOutline(segment, False)
    review.set_outlines_only(a_case.nodes, True)
    assert not display.GetVisibility2DFill()
    assert display.GetVisibility2DOutline()
    assert not display.GetSegmentVisibility2DOutline(segment)
    assert a_segmentation_node.GetDisplayNode().GetVisibility2DFill()
    review.set_outlines_only(a_case.nodes, False)
    assert display.GetVisibility2DFill()


def test_surfaces_are_shown_and_hidden(a_case: host_results.Case) -> None:
    assert len(a_case.nodes.surfaces) == 2
    for on in (False, True):
        review.show_surfaces(a_case.nodes, on)
        assert {bool(n.GetDisplayNode().GetVisibility()) for n in a_case.nodes.surfaces.values()} == {on}


# ------------------------------------------------------------------------------------------------- over the slice views


def test_the_atlas_lies_over_its_input_only(a_case: host_results.Case, views: dict[str, Any]) -> None:
    before = foregrounds(views)
    atlas = a_case.nodes.atlas_image.GetName()
    for opacity in (0.4, 0.8):
        review.set_atlas_opacity(a_case.nodes, a_case.input_node, opacity)
        shown = foregrounds(views)
        assert shown["Red"] == shown["Green"] == (atlas, opacity)
        assert shown["Yellow"] == before["Yellow"]
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.0)
    assert foregrounds(views) == before


def test_leaving_gives_the_views_back(a_case: host_results.Case, views: dict[str, Any]) -> None:
    before = foregrounds(views)
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.5)
    review.leave(a_case.input_node.GetScene())
    assert foregrounds(views) == before
    assert not [name for layers in views.values() for name in layers.GetAttributeNames() if "AtlasISTN" in name]


def test_what_the_user_chose_since_stays(a_case: host_results.Case, views: dict[str, Any], make_a_volume: Any) -> None:
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.5)
    mine = make_a_volume(name="Mine")
    views["Green"].SetForegroundVolumeID(mine.GetID())
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.0)
    assert foregrounds(views)["Green"] == ("Mine", 0.5)
    # And it is what comes back the next time.
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.6)
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.0)
    assert foregrounds(views)["Green"] == ("Mine", 0.5)


def test_a_removed_foreground_is_not_brought_back(scene: Any, a_case: host_results.Case, views: dict[str, Any]) -> None:
    users = scene.GetNodeByID(views["Green"].GetForegroundVolumeID())
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.5)
    scene.RemoveNode(users)
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.0)
    assert foregrounds(views)["Green"][0] is None


def test_the_users_foreground_comes_back_when_ours_is_removed(
    scene: Any, a_case: host_results.Case, views: dict[str, Any]
) -> None:
    before = foregrounds(views)
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.5)
    scene.RemoveNode(a_case.nodes.atlas_image)
    review.leave(scene)
    assert foregrounds(views) == before


def test_atlas_and_jacobian_take_turns(a_case: host_results.Case, views: dict[str, Any]) -> None:
    before = foregrounds(views)
    atlas = a_case.nodes.atlas_image.GetName()
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.4)
    node = review.show_jacobian(a_case.nodes, a_case.input_node, a_case.outcome, True)
    assert foregrounds(views)["Red"] == (node.GetName(), review.JACOBIAN_OPACITY)
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.9)
    assert foregrounds(views)["Red"] == (node.GetName(), review.JACOBIAN_OPACITY)
    review.show_jacobian(a_case.nodes, a_case.input_node, a_case.outcome, False)
    assert foregrounds(views)["Red"] == (atlas, 0.9)
    review.show_jacobian(a_case.nodes, a_case.input_node, a_case.outcome, True)
    review.set_atlas_opacity(a_case.nodes, a_case.input_node, 0.0)
    review.show_jacobian(a_case.nodes, a_case.input_node, a_case.outcome, False)
    assert foregrounds(views) == before
    assert not overlays.covers(node)


# --------------------------------------------------------------------------------------------------------- the Jacobian


def sampled(node: Any, world: np.ndarray) -> np.ndarray:
    """Values of a volume node at world points (N, 3), RAS mm, nearest."""
    local = frames.moved(world, node.GetParentTransformNode(), to_world=False)
    index = transform_points(np.linalg.inv(frames.ijk_to_ras(node)), local)
    i, j, k = np.rint(index).astype(int).T
    return slicer.util.arrayFromVolume(node)[k, j, i]


@pytest.mark.parametrize("under_transform", [False, True])
def test_jacobian_of_a_stretch(make_a_case: Any, a_linear_transform_node: Any, under_transform: bool) -> None:
    case = make_a_case(a_linear_transform_node if under_transform else None, scale=1.2, bend=0.0)
    node = review.show_jacobian(case.nodes, case.input_node, case.outcome, True)
    bounds = np.zeros(6)
    case.nodes.segmentation.GetRASBounds(bounds)
    rng = np.random.default_rng(0)
    inside = rng.uniform(bounds[::2], bounds[1::2], (50, 3))
    # Everything in the patient is 1.2 times as long as in the atlas.
    assert sampled(node, inside) == pytest.approx(1.2**3, rel=1e-4)
    assert node.GetTransformNodeID() == case.input_node.GetTransformNodeID()
    assert nodes.is_ours(node)
    assert review.show_jacobian(case.nodes, case.input_node, case.outcome, True) is node


def test_jacobian_is_the_volume_change_of_small_pieces(a_case: host_results.Case) -> None:
    volume = jacobian.jacobian_volume(a_case.outcome.final)
    c, grid = a_case.outcome.final, volume.grid
    inner = tuple(slice(n // 2 - 2, n // 2 + 3) for n in grid.shape)
    patient = grid.points()[inner].reshape(-1, 3)
    atlas = c.atlas_from_image(patient)
    h = 1.25
    columns = [
        (c.image_from_atlas(atlas + step) - c.image_from_atlas(atlas - step)) / (2 * h) for step in h * np.eye(3)
    ]
    expected = np.linalg.det(np.stack(columns, axis=-1))
    found = volume.array[0][inner].ravel()
    assert found == pytest.approx(expected, rel=0.03)
    assert np.ptp(expected) > 0.05


def test_jacobian_of_a_single_slice_is_of_areas() -> None:
    shape, spacing = (20, 24), (2.0, 2.0)
    atlas = Grid.centered(shape, spacing, (50.0, 60.0))
    theta = np.diag([1 / 1.3, 1 / 1.1, 1.0])[:2]
    c = Correspondence.build(ATLAS_FROM_IMAGE, theta, None, None, Grid.centered(shape, spacing), atlas)
    turn = host_turn(35.0)
    tilted = Grid((1, 20, 24), (2.0, 2.0, 1.0), (5.0, 6.0, 7.0), tuple(tuple(row) for row in turn))
    volume = jacobian.jacobian_volume(c.lifted(Plane.of(tilted)))
    assert volume.grid.shape[0] == 1
    assert volume.array == pytest.approx(1.3 * 1.1, rel=1e-5)


def host_turn(degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    return np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])


def test_jacobian_goes_on_beyond_the_atlas(a_case: host_results.Case) -> None:
    small = host_results.correspondence(frames.grid_of(a_case.input_node), host_results.manifest(), scale=0.6, bend=0.0)
    # The atlas is smaller than the model grid on the image; no seam shows where it ends.
    assert jacobian.jacobian_volume(small).array == pytest.approx(0.6**3, rel=1e-4)


def test_folded_places_are_marked(a_case: host_results.Case) -> None:
    c = host_results.correspondence(frames.grid_of(a_case.input_node), host_results.manifest(), bend=0.7)
    assert host_results.folding(c)["smallest_jacobian"] < 0
    values = jacobian.jacobian_volume(c).array
    assert values.min() == pytest.approx(jacobian.SMALLEST)
    assert jacobian.color_limit(values) == max(jacobian.LIMITS)


def test_colours_are_symmetric_in_the_logarithm(a_case: host_results.Case) -> None:
    limit = 3.0
    palette = jacobian.colors(limit)
    values = np.linspace(1 / limit, limit, len(palette))

    def color(value: float) -> np.ndarray:
        return np.array([np.interp(value, values, palette[:, c]) for c in range(3)])

    grey = color(1.0)
    for factor in (1.5, 2.0, 2.9):
        up, down = color(factor) - grey, color(1 / factor) - grey
        assert up[0] > up[2]  # towards red
        assert down[2] > down[0]  # towards blue
        # As far along their way as their logarithms say
        share = np.log(factor) / np.log(limit)
        assert up == pytest.approx(share * (palette[-1] - grey), abs=0.02)
        assert down == pytest.approx(share * (palette[0] - grey), abs=0.02)
    node = review.show_jacobian(a_case.nodes, a_case.input_node, a_case.outcome, True)
    display = node.GetDisplayNode()
    low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    assert low * high == pytest.approx(1.0)
    values = slicer.util.arrayFromVolume(node)
    assert ((values >= low) & (values <= high)).mean() >= 0.97
    assert display.GetColorNode().GetNumberOfColors() == jacobian.COLORS
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
    assert legend.GetVisibility()
    review.show_jacobian(a_case.nodes, a_case.input_node, a_case.outcome, False)
    assert not legend.GetVisibility()


def test_jacobian_of_a_loaded_scene_needs_no_engine(a_case: host_results.Case, views: dict[str, Any]) -> None:
    assert review.show_jacobian(a_case.nodes, a_case.input_node, None, True) is None
    node = review.show_jacobian(a_case.nodes, a_case.input_node, a_case.outcome, True)
    review.show_jacobian(a_case.nodes, a_case.input_node, None, False)
    assert review.show_jacobian(a_case.nodes, a_case.input_node, None, True) is node
    assert foregrounds(views)["Red"][0] == node.GetName()


# ------------------------------------------------------------------------------------------------------------ the grid


def to_world(node: Any, points: np.ndarray) -> np.ndarray:
    transform = vtk.vtkGeneralTransform()
    node.GetTransformToWorld(transform)
    return frames.through(transform, points)


@pytest.mark.parametrize("under_transform", [False, True])
def test_the_grid_is_the_atlas_grid_on_the_patient(
    scene: Any, make_a_case: Any, a_linear_transform_node: Any, under_transform: bool
) -> None:
    case = make_a_case(a_linear_transform_node if under_transform else None)
    node = review.show_grid(case.nodes, True)
    display = node.GetDisplayNode()
    assert display.GetVisualizationMode() == slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID
    assert (display.GetVisibility(), display.GetVisibility2D(), display.GetVisibility3D()) == (1, 1, 0)
    # Lines as Slicer draws them on a slice through the anatomy, at their own depth
    bounds = np.zeros(6)
    case.nodes.segmentation.GetRASBounds(bounds)
    middle, size = (bounds[::2] + bounds[1::2]) / 2, float((bounds[1::2] - bounds[::2]).max())
    steps = np.arange(-0.5, 0.51, 0.1) * size
    regular = middle + np.stack(np.meshgrid(steps, steps, [0.0], indexing="ij"), axis=-1).reshape(-1, 3)
    drawn = to_world(node, regular)
    # Carried back to the atlas they are the regular lattice again: all distances are what they were on the slice.
    processing = case.outcome.final.atlas_from_image(drawn * FLIP)
    for a, b in ((0, 1), (0, 11), (5, 115), (60, 61)):
        distance = np.linalg.norm(processing[a] - processing[b])
        assert distance == pytest.approx(np.linalg.norm(regular[a] - regular[b]), abs=0.1)
    # They lie where the slice is, though the atlas's own space is hundreds of mm away, and they are bent.
    moved = np.linalg.norm(drawn - regular, axis=1)
    assert moved.max() < 0.35 * size
    assert moved.max() > 1.0
    slice_to_ras = vtk.vtkMatrix4x4()
    for axis in range(3):
        slice_to_ras.SetElement(axis, 3, middle[axis])
    lines = vtk.vtkPolyData()
    slicer.vtkSlicerTransformLogic.GetVisualization2d(lines, display, slice_to_ras, [0, 0, 0], [size, size, 1])
    points = vtk_to_numpy(lines.GetPoints().GetData())
    assert np.abs(points[:, 2] - middle[2]).max() < 1e-3  # on the slice
    count = size // display.GetGridSpacingMm()
    assert count >= review.GRID_LINES - 1
    assert count <= 2.5 * review.GRID_LINES


def test_the_grid_follows_the_deformation(make_a_case: Any) -> None:
    case = make_a_case()
    node = review.show_grid(case.nodes, True)
    point = np.array([np.array(frames.grid_of(case.input_node).center) * FLIP])
    before = to_world(node, point)
    straight = host_results.outcome(case.input_node, host_results.manifest(), scale=1.0, bend=0.0)
    host_results.results.write_outcome(straight, case.input_node, host_results.manifest())
    # As soon as the transform that it lies under changes, without being asked for again
    assert np.linalg.norm(to_world(node, point) - before) > 1.0
    assert review.show_grid(case.nodes, True) is node
    assert to_world(node, point) == pytest.approx(point, abs=0.05)
    review.show_grid(case.nodes, False)
    assert not node.GetDisplayNode().GetVisibility()


def test_the_grid_keeps_what_the_user_set(a_case: host_results.Case) -> None:
    assert review.show_grid(a_case.nodes, False) is None
    display = review.show_grid(a_case.nodes, True).GetDisplayNode()
    display.SetGridSpacingMm(3.0)
    display.SetColor(1, 0, 0)
    review.show_grid(a_case.nodes, False)
    review.show_grid(a_case.nodes, True)
    assert display.GetGridSpacingMm() == 3.0
    assert display.GetColor() == (1, 0, 0)


def test_rigid_fit_finds_a_motion_and_no_mirror() -> None:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(40, 3)) * 20
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    found = review.rigid_fit(points, points @ turn.T + [5, -6, 7])
    assert found[:3, :3] == pytest.approx(turn, abs=1e-9)
    assert found[:3, 3] == pytest.approx([5, -6, 7], abs=1e-9)
    mirrored = review.rigid_fit(points, points * [-1, 1, 1])
    assert np.linalg.det(mirrored[:3, :3]) == pytest.approx(1.0)
    flat = points * [1, 1, 0]
    assert review.rigid_fit(flat, np.add(flat, (1, 2, 3)))[:3, 3] == pytest.approx([1, 2, 3], abs=1e-9)


@pytest.mark.parametrize(
    ("length", "rounded"), [(7.3, 5.0), (2.0, 2.0), (1.99, 1.0), (0.6, 0.5), (34.0, 20.0), (0.0, 1.0)]
)
def test_grid_spacings_are_round(length: float, rounded: float) -> None:
    assert review.round_length(length) == pytest.approx(rounded)


def test_focus_goes_to_the_anatomy(scene: Any, a_case: host_results.Case) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    node.SetOrientation("Axial")
    node.SetSliceOffset(-500.0)
    review.focus(a_case.nodes)
    bounds = np.zeros(6)
    a_case.nodes.segmentation.GetRASBounds(bounds)
    assert node.GetSliceOffset() == pytest.approx((bounds[4] + bounds[5]) / 2)
