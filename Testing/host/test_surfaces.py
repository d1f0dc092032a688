"""Surfaces of the atlas on the patient."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import slicer
import vtk
from AtlasISTNHost import frames, surfaces
from host import atlas_cases as cases

from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.manifest import Label
from AtlasISTNLib.volume import Volume

FLIP = cases.FLIP


@pytest.fixture(scope="module")
def the_surfaces():
    return surfaces.atlas_surfaces(cases.a_manifest(), cases.the_soft_labels())


def a_ball(radius=30.0, spacing=3.0, center=(4.0, -6.0, 9.0), direction=None):
    """A soft ball of known size in atlas space."""
    grid = Grid.centered((28, 30, 32), (spacing,) * 3, center, direction)
    inside = 1 / (1 + np.exp((np.linalg.norm(grid.points() - np.array(center), axis=-1) - radius) / 2.0))
    return Volume.from_array(np.stack([1 - inside, inside]), grid)


def ball_manifest():
    return replace(cases.a_manifest(), labels=(Label(0, "background"), Label(5, "ball", (10, 200, 30))))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_ball_has_its_size_place_and_outside(mirrored):
    direction = cases.rotation(np.random.default_rng(2)) @ np.diag([1.0, 1.0, -1.0 if mirrored else 1.0])
    surface = surfaces.atlas_surfaces(ball_manifest(), a_ball(direction=direction))[5]
    radii = np.linalg.norm(surface.points - (4.0, -6.0, 9.0), axis=1)
    assert radii.mean() == pytest.approx(30.0, abs=0.15)
    assert radii.std() < 0.15
    a, b, c = (surface.points[surface.triangles[:, i]] for i in range(3))
    outwards = (np.cross(b - a, c - a) * (a - (4.0, -6.0, 9.0))).sum(axis=1)
    assert (outwards > 0).all()
    # Closed: every edge has two triangles.
    assert (triangles_by_edge(surface) == 2).all()


def test_the_same_atlas_has_the_same_vertices_always():
    one, two = (surfaces.atlas_surfaces(ball_manifest(), a_ball())[5] for _ in range(2))
    np.testing.assert_array_equal(one.points, two.points)
    np.testing.assert_array_equal(one.triangles, two.triangles)


def test_pieces_and_holes_stay_and_what_touches_the_border_is_closed():
    grid = Grid.centered((20, 20, 40), (2.0, 2.0, 2.0))
    x, y, z = np.moveaxis(grid.points(), -1, 0)
    two = (np.hypot(np.hypot(x - 20, y), z) < 12) | (np.hypot(np.hypot(x + 20, y), z) < 12)
    wall = (z > 14) & (np.abs(x) < 4)
    hard = np.stack([~(two | wall), two & ~wall, wall]).astype(np.float32)
    labels = (Label(0, "background"), Label(1, "two"), Label(2, "wall"), Label(3, "nowhere"))
    soft = Volume.from_array(np.concatenate([hard, hard[:1] * 0]), grid)
    made = surfaces.atlas_surfaces(replace(cases.a_manifest(), labels=labels), soft)
    assert sorted(made) == [1, 2]
    assert pieces(made[1]) == 2
    assert pieces(made[2]) == 1
    for surface in made.values():
        assert (triangles_by_edge(surface) == 2).all()


def triangles_by_edge(surface):
    """How many triangles each edge has; two everywhere where a surface is closed."""
    edges = np.concatenate([surface.triangles[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
    return np.unique(np.sort(edges, axis=1), axis=0, return_counts=True)[1]


def pieces(surface):
    connected = vtk.vtkPolyDataConnectivityFilter()
    connected.SetInputData(surfaces._mesh(surface, surface.points.astype(np.float32), False))
    connected.SetExtractionModeToAllRegions()
    connected.Update()
    return connected.GetNumberOfExtractedRegions()


def test_a_flat_atlas_has_no_surfaces():
    flat = Volume.from_array(np.ones((3, 8, 8)), Grid.centered((8, 8), (1.0, 1.0)))
    assert surfaces.atlas_surfaces(cases.a_manifest(), flat) == {}


@pytest.mark.parametrize("mirrored", [False, True])
def test_they_lie_under_the_inputs_parent_with_normals_outwards(scene, the_surfaces, mirrored):
    matrix = cases.rotation(np.random.default_rng(3)) @ np.diag([1.0, 1.0, -1.0 if mirrored else 1.0])
    parent = cases.linear(scene, matrix)
    scan = cases.scan(scene, spacing=(6.0, 6.0, 6.0), parent=parent)
    made = surfaces.show_surfaces(the_surfaces, cases.a_correspondence(), scan, cases.a_manifest(), cases.LABELS)
    assert sorted(made) == [3, 7]
    for value, node in made.items():
        assert node.GetParentTransformNode() is parent
        local = slicer.util.arrayFromModelPoints(node).astype(np.float64)
        world = frames.moved(local, parent)
        expected = cases.a_correspondence().image_from_atlas(the_surfaces[value].points) @ FLIP
        assert np.abs(world - expected).max() < 1e-3
    normals = vtk.util.numpy_support.vtk_to_numpy(made[7].GetPolyData().GetPointData().GetNormals())
    local = slicer.util.arrayFromModelPoints(made[7])
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
    assert ((local - local.mean(axis=0)) * normals).sum(axis=1).min() > 0


def test_moving_is_showing(scene, the_surfaces):
    """The live preview ends where the written result lies, and the meshes stay the same objects."""
    scan = cases.scan(
        scene, spacing=(6.0, 6.0, 6.0), parent=cases.linear(scene, cases.rotation(np.random.default_rng(3)))
    )
    first, second = cases.a_correspondence(), cases.a_correspondence(seed=5)
    made = surfaces.show_surfaces(the_surfaces, second, scan, cases.a_manifest(), cases.LABELS)
    expected = {value: points_and_normals(node) for value, node in made.items()}
    surfaces.show_surfaces(the_surfaces, first, scan, cases.a_manifest(), cases.LABELS)
    meshes = {value: node.GetPolyData() for value, node in made.items()}
    assert not np.allclose(points_and_normals(made[3])[0], expected[3][0], atol=0.5)
    times = {value: mesh.GetPoints().GetData().GetMTime() for value, mesh in meshes.items()}
    events = []
    made[3].AddObserver(slicer.vtkMRMLModelNode.MeshModifiedEvent, lambda *_: events.append(1))
    surfaces.move_surfaces(made, the_surfaces, second, frames.processing_frame(scan))
    assert events, "views are not told"
    for value, mesh in meshes.items():  # graphics cards get the arrays that are newer than theirs
        assert mesh.GetPoints().GetData().GetMTime() > times[value]
    for value, node in made.items():
        assert node.GetPolyData() is meshes[value]
        for found, wanted in zip(points_and_normals(node), expected[value], strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-4)
        bounds = np.zeros(6)
        node.GetPolyData().GetBounds(bounds)
        assert bounds[0] == pytest.approx(expected[value][0][:, 0].min(), abs=1e-3)


def points_and_normals(node):
    normals = vtk.util.numpy_support.vtk_to_numpy(node.GetPolyData().GetPointData().GetNormals())
    return slicer.util.arrayFromModelPoints(node).copy(), normals.copy()


def test_a_mesh_that_the_user_replaced_is_ours_again(scene, the_surfaces):
    scan = cases.scan(scene, spacing=(6.0, 6.0, 6.0))
    c = cases.a_correspondence()
    made = surfaces.show_surfaces(the_surfaces, c, scan, cases.a_manifest(), cases.LABELS)
    expected = points_and_normals(made[3])[0]
    made[3].SetAndObservePolyData(vtk.vtkPolyData())
    surfaces.move_surfaces(made, the_surfaces, c, frames.processing_frame(scan))
    np.testing.assert_allclose(points_and_normals(made[3])[0], expected, atol=1e-4)


def test_moving_forty_thousand_vertices_is_quick(scene):
    """As often as a preview comes; 50 ms on a machine with nothing else to do."""
    ball = surfaces.atlas_surfaces(ball_manifest(), a_ball(radius=39, spacing=3.0))[5]
    copies = int(np.ceil(40_000 / len(ball.points)))
    many = {n: ball for n in range(1, copies + 1)}
    labels = (Label(0, "background"), *(Label(n, f"ball {n}") for n in many))
    scan = cases.scan(scene, spacing=(8.0, 8.0, 8.0))
    c = cases.a_correspondence()
    made = surfaces.show_surfaces(many, c, scan, cases.a_manifest(), labels)
    frame = frames.processing_frame(scan)
    seconds = []
    for _ in range(8):
        start = time.process_time()
        surfaces.move_surfaces(made, many, c, frame)
        seconds.append(time.process_time() - start)
    assert sum(node.GetPolyData().GetNumberOfPoints() for node in made.values()) >= 40_000
    assert min(seconds) < 0.1
