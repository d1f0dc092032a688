"""Geometry of volume nodes as the engine sees it, under every kind of transform."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from AtlasISTNHost import frames
from host import atlas_cases as cases

from AtlasISTNLib.configs import PlacementConfig
from AtlasISTNLib.errors import ConfigError, GeometryError, VolumeError
from AtlasISTNLib.geometry import VOXEL, WORLD

RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


def world_of_voxel(node, index):
    """Where Slicer itself says that a voxel (i, j, k) lies, RAS mm."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    local = matrix.MultiplyPoint([*index, 1.0])[:3]
    if node.GetParentTransformNode() is None:
        return np.array(local)
    general = vtk.vtkGeneralTransform()
    node.GetParentTransformNode().GetTransformToWorld(general)
    return np.array(general.TransformPoint(local))


def grid_transform(scene, amplitude=8.0):
    """A smooth grid transform, whose displacement varies over tens of mm."""
    size, spacing, origin = (24, 24, 24), 12.0, -140.0
    k, j, i = np.meshgrid(*(np.arange(n) * spacing + origin for n in size), indexing="ij")
    field = amplitude * np.stack([np.sin(j / 60), np.cos(k / 55), np.sin((i + j) / 70)], axis=-1)
    image = vtk.vtkImageData()
    image.SetDimensions(size)
    image.SetOrigin(origin, origin, origin)
    image.SetSpacing(spacing, spacing, spacing)
    image.GetPointData().SetScalars(vtk.util.numpy_support.numpy_to_vtk(field.reshape(-1, 3), deep=True))
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(image)
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Bent")
    node.SetAndObserveTransformToParent(transform)
    return node


def spline_transform(scene):
    """A thin-plate spline with a turn of 20 degrees about z and a bend."""
    transform = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    turn = cases.linear(scene, rotation_about_z(20)).GetTransformToParent()
    rng = np.random.default_rng(3)
    for point in np.stack(np.meshgrid(*([-90, 0, 90],) * 3, indexing="ij"), axis=-1).reshape(-1, 3):
        source.InsertNextPoint(point)
        target.InsertNextPoint(np.array(turn.TransformPoint(point.astype(float))) + rng.uniform(-6, 6, 3))
    transform.SetSourceLandmarks(source)
    transform.SetTargetLandmarks(target)
    transform.SetBasisToR()
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Plate")
    node.SetAndObserveTransformToParent(transform)
    return node


def b_spline_transform(scene):
    size, spacing = 9, 50.0
    rng = np.random.default_rng(5)
    image = vtk.vtkImageData()
    image.SetDimensions(size, size, size)
    image.SetOrigin(*([-200.0] * 3))
    image.SetSpacing(*([spacing] * 3))
    values = rng.uniform(-9, 9, (size**3, 3))
    image.GetPointData().SetScalars(vtk.util.numpy_support.numpy_to_vtk(values, deep=True))
    transform = slicer.vtkOrientedBSplineTransform()
    transform.SetCoefficientData(image)
    node = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "Spline")
    node.SetAndObserveTransformFromParent(transform)
    return node


def rotation_about_z(degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


GEOMETRIES = [(seed, seed % 2 == 1) for seed in range(6)]


@pytest.mark.parametrize(("seed", "mirrored"), GEOMETRIES)
def test_every_voxel_lies_where_slicer_says(scene, make_a_volume, seed, mirrored):
    rng = np.random.default_rng(seed)
    directions = cases.rotation(rng) @ np.diag([1.0, 1.0, -1.0 if mirrored else 1.0])
    node = make_a_volume(directions=directions, spacing=tuple(rng.uniform(0.4, 4, 3)), origin=tuple(rng.normal(size=3)))
    volume = frames.volume_from_node(node)
    array = slicer.util.arrayFromVolume(node)
    for index in rng.integers(0, array.shape[::-1], (20, 3)):
        lps = volume.grid.transform_points(index, WORLD, VOXEL)
        np.testing.assert_allclose(lps * RAS_TO_LPS, world_of_voxel(node, index), atol=1e-9)
        assert volume.array[(0, *index[::-1])] == array[tuple(index[::-1])]
    assert (np.linalg.det(np.array(volume.grid.direction)) < 0) == mirrored


def test_voxels_are_a_copy(a_volume_node):
    volume = frames.volume_from_node(a_volume_node)
    before = volume.array.copy()
    slicer.util.arrayFromVolume(a_volume_node)[:] = -1
    np.testing.assert_array_equal(volume.array, before)


def test_a_rigid_parent_is_the_frame_itself(scene, an_oblique_volume_node):
    rng = np.random.default_rng(0)
    outer, inner = np.eye(4), np.eye(4)
    outer[:3, :3], outer[:3, 3] = cases.rotation(rng), (300.0, -40.0, 12.0)
    inner[:3, :3], inner[:3, 3] = cases.rotation(rng), (-30.0, 5.0, 80.0)
    parent = cases.linear(scene, inner, cases.linear(scene, outer))
    an_oblique_volume_node.SetAndObserveTransformNodeID(parent.GetID())
    frame = frames.processing_frame(an_oblique_volume_node)
    np.testing.assert_allclose(frame.matrix, outer @ inner, atol=1e-9)
    grid = frames.grid_of(an_oblique_volume_node)
    for index in [(0, 0, 0), (23, 4, 11)]:
        lps = grid.transform_points(np.array(index), WORLD, VOXEL)
        np.testing.assert_allclose(lps * RAS_TO_LPS, world_of_voxel(an_oblique_volume_node, index), atol=1e-9)


@pytest.mark.parametrize("kind", ["similarity", "affine", "mirror", "grid", "plate", "spline"])
def test_the_frame_turns_and_scales_as_the_parent_does(scene, an_oblique_volume_node, kind):
    rotation = cases.rotation(np.random.default_rng(4))
    shear = np.array([[1.2, 0.1, 0.05], [0.1, 0.8, 0.2], [0.05, 0.2, 1.1]])  # symmetric: it turns nothing
    made = {
        "similarity": lambda: cases.linear(scene, 1.7 * rotation),
        "affine": lambda: cases.linear(scene, rotation @ shear),
        "mirror": lambda: cases.linear(scene, np.diag([-1.0, 1.0, 1.0])),
        "grid": lambda: grid_transform(scene),
        "plate": lambda: spline_transform(scene),
        "spline": lambda: b_spline_transform(scene),
    }
    node = an_oblique_volume_node
    local = frames.grid_of(node)
    parent = made[kind]()
    node.SetAndObserveTransformNodeID(parent.GetID())
    matrix = frames.processing_frame(node).matrix
    scale = np.cbrt(abs(np.linalg.det(matrix[:3, :3])))
    np.testing.assert_allclose(matrix[:3, :3].T @ matrix[:3, :3], scale**2 * np.eye(3), atol=1e-9)
    grid = frames.grid_of(node)
    np.testing.assert_allclose(grid.spacing, scale * np.array(local.spacing), rtol=1e-9)
    middle = (np.array(grid.size) - 1) / 2
    lps = grid.transform_points(middle, WORLD, VOXEL)
    np.testing.assert_allclose(lps * RAS_TO_LPS, world_of_voxel(node, middle), atol=1e-6)
    volume = np.cbrt(np.linalg.det(shear))  # a small cube keeps the volume that the parent gives it
    expected = {"similarity": 1.7 * rotation, "affine": volume * rotation, "mirror": np.diag([-1.0, 1.0, 1.0])}
    if kind in expected:
        np.testing.assert_allclose(matrix[:3, :3], expected[kind], atol=1e-9)
    # Of all turns the polar one is nearest to the Jacobian, so no other may bring near points nearer to the truth.
    steps = np.concatenate([np.eye(3), -np.eye(3)])
    near = middle + steps @ np.linalg.inv(frames.ijk_to_ras(node)[:3, :3]).T
    truth = np.array([world_of_voxel(node, index) for index in near])
    found = grid.transform_points(near, WORLD, VOXEL) * RAS_TO_LPS
    error = ((found - truth) ** 2).sum()
    center = found.mean(axis=0)
    for axis in range(3):
        for angle in (-0.05, 0.05):
            turned = np.roll(np.roll(rotation_about_z(np.rad2deg(angle)), axis, 0), axis, 1)
            assert (((found - center) @ turned.T + center - truth) ** 2).sum() > error


def test_a_bent_parent_given_the_other_way_round_is_no_different(scene, an_oblique_volume_node):
    """Files give transforms from parent; then Slicer itself inverts them."""
    forward = grid_transform(scene)
    backward = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Inverse")
    backward.SetAndObserveTransformFromParent(forward.GetTransformToParent().GetInverse())
    matrices = []
    for node in (forward, backward):
        an_oblique_volume_node.SetAndObserveTransformNodeID(node.GetID())
        matrices.append(frames.processing_frame(an_oblique_volume_node).matrix)
    np.testing.assert_allclose(matrices[0], matrices[1], atol=0.02)


def test_a_flat_parent_is_refused(scene, a_volume_node):
    parent = cases.linear(scene, np.diag([1.0, 0.0, 1.0]), name="Squashed")
    a_volume_node.SetAndObserveTransformNodeID(parent.GetID())
    with pytest.raises(GeometryError, match="Squashed") as caught:
        frames.grid_of(a_volume_node)
    assert caught.value.hint


def test_slanted_axes_are_refused_with_advice(scene, make_a_volume):
    node = make_a_volume(directions=np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1.0]]), name="Gantry")
    with pytest.raises(GeometryError, match="Gantry") as caught:
        frames.volume_from_node(node)
    assert "resample" in caught.value.hint


def test_what_is_no_grey_image_is_refused(scene, make_a_volume):
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    color = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Photo")
    slicer.util.updateVolumeFromArray(color, np.zeros((4, 5, 6, 3), dtype=np.uint8))
    line = make_a_volume(np.zeros((1, 1, 6), dtype=np.uint8), name="Line")
    for node in (empty, color, line):
        with pytest.raises(VolumeError, match=node.GetName()) as caught:
            frames.volume_from_node(node)
        assert caught.value.hint


def test_a_single_slice_is_a_slice(make_a_volume):
    node = make_a_volume(np.arange(35, dtype=np.int16).reshape(1, 5, 7), name="Picture")
    assert frames.volume_from_node(node).array.shape == (1, 1, 5, 7)


def test_an_image_that_begins_elsewhere_lies_where_it_is_shown(scene, make_a_volume):
    """A vtkImageData may begin at other indices than 0; the array that we read does not say so."""
    node = make_a_volume()
    before = frames.grid_of(node)
    node.GetImageData().SetExtent(5, 28, -2, 17, 1, 16)
    moved = frames.grid_of(node)
    expected = before.transform_points(np.array([5, -2, 1]), WORLD, VOXEL)
    np.testing.assert_allclose(moved.origin, expected, atol=1e-9)


def test_the_frame_of_a_result_is_that_of_its_run(scene, an_oblique_volume_node, a_linear_transform_node):
    node = an_oblique_volume_node
    node.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
    grid, frame = frames.grid_of(node), frames.processing_frame(node)
    # The user turns the patient while the engine works.
    a_linear_transform_node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([-1.0, -1.0, 1.0, 1.0])))
    np.testing.assert_allclose(frames.frame_of_result(grid, node).matrix, frame.matrix, atol=1e-9)
    node.SetSpacing(1.0, 1.0, 1.0)
    with pytest.raises(GeometryError, match="Oblique CT"):
        frames.frame_of_result(grid, node)


def test_a_region_is_found_where_the_user_drew_it(scene, a_volume_node, a_roi_node):
    placement = PlacementConfig(**frames.placement_from_roi(a_roi_node, a_volume_node))
    assert placement.how == "given"
    bounds = np.zeros(6)
    a_roi_node.GetRASBounds(bounds)
    box = np.array(placement.box).reshape(3, 2)
    np.testing.assert_allclose(box[0], [-bounds[1], -bounds[0]], atol=1e-9)
    np.testing.assert_allclose(box[1], [-bounds[3], -bounds[2]], atol=1e-9)
    np.testing.assert_allclose(box[2], bounds[4:], atol=1e-9)


def test_a_region_follows_the_transforms_of_both(scene, a_volume_node, a_roi_node):
    """A region moved along with its volume by an affine marks the same voxels."""
    plain = np.array(frames.placement_from_roi(a_roi_node, a_volume_node)["box"]).reshape(3, 2).mean(axis=1)
    voxel = frames.grid_of(a_volume_node).transform_points(plain, VOXEL, WORLD)
    affine = np.eye(4)
    affine[:3, :3] = rotation_about_z(30) @ np.diag([1.3, 0.9, 1.0])
    affine[:3, 3] = (40, -20, 5)
    parent = cases.linear(scene, affine)
    for node in (a_volume_node, a_roi_node):
        node.SetAndObserveTransformNodeID(parent.GetID())
    moved = np.array(frames.placement_from_roi(a_roi_node, a_volume_node)["box"]).reshape(3, 2).mean(axis=1)
    np.testing.assert_allclose(frames.grid_of(a_volume_node).transform_points(moved, VOXEL, WORLD), voxel, atol=1e-6)


def test_a_region_without_extent_is_refused(scene, a_volume_node):
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Point")
    with pytest.raises(ConfigError, match="Point"):
        frames.placement_from_roi(roi, a_volume_node)
