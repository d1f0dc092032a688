"""The correspondence as transform nodes: which way they lead, how exactly, under which parents, through which files."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from AtlasISTNHost import frames, markups, nodes, transforms, volumes
from host import atlas_cases as cases
from host.test_frames import b_spline_transform, grid_transform, spline_transform

from AtlasISTNLib.correspondence import ATLAS_FROM_IMAGE, IMAGE_FROM_ATLAS, Correspondence, carried
from AtlasISTNLib.errors import GeometryError
from AtlasISTNLib.geometry import VOXEL, WORLD, Grid, Plane, slice_of
from AtlasISTNLib.volume import Volume

FLIP = cases.FLIP
MODEL = "two blobs"


def parent_of(scene, kind):
    rng = np.random.default_rng(11)
    turn = cases.rotation(rng)
    full = np.eye(4)
    full[:3, :3], full[:3, 3] = turn, (60.0, -20.0, 33.0)
    made = {
        "none": lambda: None,
        "rigid": lambda: cases.linear(scene, full),
        "nested": lambda: cases.linear(scene, turn.T, cases.linear(scene, full)),
        "affine": lambda: cases.linear(scene, turn @ (np.eye(3) + rng.uniform(-0.15, 0.15, (3, 3)))),
        "mirror": lambda: cases.linear(scene, turn @ np.diag([1.0, -1.0, 1.0])),
        "grid": lambda: grid_transform(scene),
        "plate": lambda: spline_transform(scene),
        "spline": lambda: b_spline_transform(scene),
    }
    return made[kind]()


def written(scene, kind="none", outward=ATLAS_FROM_IMAGE, **geometry):
    """A scan under a parent, its frame and both nodes."""
    scan = cases.scan(scene, parent=parent_of(scene, kind), spacing=(6.0, 5.0, 5.5), **geometry)
    frame = frames.processing_frame(scan)
    return scan, frame, transforms.write_transforms(cases.a_correspondence(outward), scan, frame, MODEL)


def world_points(scan, count=300):
    """Random points in the middle of a scan, where the anatomy is, in the world."""
    middle = (np.array(scan.GetImageData().GetDimensions()) - 1) / 2
    center = frames.ijk_to_ras(scan)[:3, :3] @ middle + frames.ijk_to_ras(scan)[:3, 3]
    around = cases.points_in_body(count) - cases.PLACE @ FLIP
    return frames.moved(center + around, scan.GetParentTransformNode())


def true_atlas(scan, frame, world, c):
    """Where world points lie in the atlas, RAS, by the engine's own map."""
    local = frames.moved(world, scan.GetParentTransformNode(), to_world=False)
    return c.atlas_from_image(frame.to_lps(local)) @ FLIP


def through_markups(scene, node, points):
    """Where landmarks come to lie when the user hardens them through a transform node."""
    landmarks = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    slicer.util.updateMarkupsControlPointsFromArray(landmarks, points)
    landmarks.SetAndObserveTransformNodeID(node.GetID())
    landmarks.HardenTransform()
    found = slicer.util.arrayFromMarkupsControlPoints(landmarks)
    scene.RemoveNode(landmarks)
    return found


def distance(one, other):
    return np.linalg.norm(one - other, axis=1).max()


@pytest.mark.parametrize("outward", [ATLAS_FROM_IMAGE, IMAGE_FROM_ATLAS])
@pytest.mark.parametrize("kind", ["none", "rigid", "nested", "affine", "mirror", "grid", "plate", "spline"])
def test_landmarks_go_where_the_name_says_and_back(scene, kind, outward):
    scan, frame, (to_patient, to_atlas) = written(scene, kind, outward)
    c = cases.a_correspondence(outward)
    world = world_points(scan)
    atlas = true_atlas(scan, frame, world, c)
    assert distance(world, atlas) > 5  # there is something to get wrong
    found = through_markups(scene, to_atlas, world)
    assert distance(found, atlas) < 0.1
    back = through_markups(scene, to_patient, atlas)
    assert distance(back, world) < 0.1
    assert distance(through_markups(scene, to_patient, found), world) < 0.1
    assert distance(through_markups(scene, to_atlas, back), atlas) < 0.1


def test_they_lie_where_they_should_in_the_scene(scene):
    scan, _frame, (to_patient, to_atlas) = written(scene, "rigid")
    assert to_patient.GetParentTransformNode() is scan.GetParentTransformNode()
    assert to_atlas.GetParentTransformNode() is None
    again = transforms.write_transforms(cases.a_correspondence(), scan, frames.processing_frame(scan), MODEL)
    assert again == (to_patient, to_atlas)
    assert to_atlas.GetParentTransformNode() is None


@pytest.mark.parametrize("kind", ["none", "rigid"])
def test_landmarks_far_from_the_anatomy_go_to_and_fro_too(scene, kind):
    """The whole image is covered where there are nodes for it, not only the model's grid."""
    scan, frame, (to_patient, to_atlas) = written(scene, kind, extent=240.0)
    grid = frames.grid_of(scan)
    local = frames.ijk_to_ras(scan)
    size = np.array(grid.size)
    index = np.random.default_rng(0).uniform(0, 1, (300, 3)) * (size - 1)
    world = frames.moved(index @ local[:3, :3].T + local[:3, 3], scan.GetParentTransformNode())
    assert distance(world, world_points(scan, 1)) > 150
    atlas = through_markups(scene, to_atlas, world)
    assert distance(atlas, true_atlas(scan, frame, world, cases.a_correspondence())) < 0.1
    assert distance(through_markups(scene, to_patient, atlas), world) < 0.1


def test_few_nodes_still_cover_the_anatomy(scene, monkeypatch):
    monkeypatch.setattr(transforms, "MOST_NODES", 40_000)
    scan, frame, (to_patient, to_atlas) = written(scene, "none", extent=400.0)
    for node in (to_patient, to_atlas):
        grid = node.GetTransformFromParent().GetDisplacementGrid()
        assert grid.GetNumberOfPoints() <= 40_000
    world = world_points(scan)
    atlas = through_markups(scene, to_atlas, world)
    assert distance(atlas, true_atlas(scan, frame, world, cases.a_correspondence())) < 0.3
    assert distance(through_markups(scene, to_patient, atlas), world) < 0.6


@pytest.mark.parametrize("kind", ["none", "rigid", "mirror", "grid"])
def test_the_atlas_volume_under_its_transform_lies_on_the_patient(scene, kind):
    scan, _frame, (to_patient, _to_atlas) = written(scene, kind)
    atlas = volumes.add_volume(cases.the_atlas_image(), scene)
    atlas.SetAndObserveTransformNodeID(to_patient.GetID())
    grid = frames.grid_of(scan)
    expected = carried(cases.the_atlas_image(), grid, cases.a_correspondence().transform(ATLAS_FROM_IMAGE)).array[0]
    found = resampled(atlas, scan)
    inside = expected > 0.5
    assert inside.sum() > 500
    assert np.abs(found - expected)[inside].max() < 0.02 * np.ptp(expected)


def resampled(moving, fixed):
    """A volume node on another one's voxels as Slicer's slice views show it, by VTK, through all transforms."""
    to_moving = vtk.vtkGeneralTransform()
    to_moving.PostMultiply()
    to_moving.Concatenate(frames.vtk_matrix(frames.ijk_to_ras(fixed)))
    between = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        fixed.GetParentTransformNode(), moving.GetParentTransformNode(), between
    )
    to_moving.Concatenate(between)
    to_moving.Concatenate(frames.vtk_matrix(np.linalg.inv(frames.ijk_to_ras(moving))))
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(moving.GetImageData())
    reslice.SetResliceTransform(to_moving)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(*(x for n in fixed.GetImageData().GetDimensions() for x in (0, n - 1)))
    reslice.SetInterpolationModeToLinear()
    reslice.Update()
    image = reslice.GetOutput()
    return vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


@pytest.mark.parametrize("ending", ["h5", "nrrd", "nii.gz"])
@pytest.mark.parametrize("kind", ["none", "affine"])
def test_a_saved_transform_is_the_same_when_it_is_loaded(scene, tmp_path, ending, kind):
    scan, _frame, made = written(scene, kind)
    world = world_points(scan)
    local = frames.moved(world, scan.GetParentTransformNode(), to_world=False)
    for node in made:
        if ending != "h5" and node.GetTransformFromParent().IsA("vtkGeneralTransform"):
            continue  # a turned scan's: Slicer writes those as .h5
        path = str(tmp_path / f"{node.GetAttribute(nodes.ROLE)}.{ending}")
        storage = slicer.vtkMRMLTransformStorageNode()
        storage.SetFileName(path)
        assert storage.WriteData(node)
        loaded = scene.AddNewNodeByClass("vtkMRMLTransformNode")
        assert storage.ReadData(loaded)
        points = world if node is made[1] else local
        for direction in ("GetTransformFromParent", "GetTransformToParent"):
            expected = frames.through(getattr(node, direction)(), points)
            assert distance(frames.through(getattr(loaded, direction)(), points), expected) < 0.02


def test_grids_suffice_for_a_scan_that_is_not_turned(scene):
    """So that they can be saved in every format."""
    for node in written(scene, "none")[2]:
        assert node.GetTransformFromParent().IsA("vtkOrientedGridTransform")


def test_a_single_slice_has_transforms_in_its_plane(scene):
    rng = np.random.default_rng(2)
    turn = cases.rotation(rng)
    c, scan = flat_case(turn)
    frame = frames.processing_frame(scan)
    to_patient, to_atlas = transforms.write_transforms(c, scan, frame, MODEL)
    size = np.array(scan.GetImageData().GetDimensions())
    index = rng.uniform(0.2, 0.8, (100, 3)) * (size - 1)
    local = frames.ijk_to_ras(scan)
    world = index @ local[:3, :3].T + local[:3, 3]
    atlas = through_markups(scene, to_atlas, world)
    assert distance(atlas, c.atlas_from_image(world @ FLIP) @ FLIP) < 0.1
    assert np.abs(atlas[:, 2]).max() < 1e-3  # the atlas of a 2D model lies at z = 0
    assert distance(through_markups(scene, to_patient, atlas), world) < 0.1


def test_a_single_slices_transform_reaches_beyond_its_plane_in_other_programs(scene, tmp_path):
    """ITK takes no displacement beyond a grid; a landmark a few mm off the slice still goes right."""
    c, scan = flat_case(cases.rotation(np.random.default_rng(2)))
    to_patient, _to_atlas = transforms.write_transforms(c, scan, frames.processing_frame(scan), MODEL)
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(tmp_path / "x.h5"))
    assert storage.WriteData(to_patient)
    read = sitk.ReadTransform(str(tmp_path / "x.h5"))
    grid = frames.grid_of(scan)
    for off in (0.0, 8.0, -8.0):
        point = grid.transform_points([12, 9, 0], WORLD, VOXEL) + off * np.array(grid.direction)[:, 2]
        np.testing.assert_allclose(read.TransformPoint(point), c.atlas_from_image(point), atol=0.1)


def flat_case(turn):
    """A 2D correspondence lifted to an oblique slice, and the slice."""
    array = np.zeros((1, 40, 50), dtype=np.float32)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn * (2.0, 2.0, 3.0), (5.0, -60.0, 20.0)
    scan = slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name="Slice")
    plane = Plane.of(frames.grid_of(scan))
    atlas = Grid.centered((20, 24), (4.0, 4.0))
    placed = Grid.centered((20, 24), (4.0, 4.0), plane.grid.center)
    cube = np.moveaxis(atlas.points("cube"), -1, 0)
    field = 0.05 * np.stack([np.cos(2 * cube[1]), np.sin(2 * cube[0])]) * np.prod(1 - cube**2, axis=0)
    theta = np.array([[1.1, 0.15, 0.05], [-0.1, 0.95, 0.0]])
    return Correspondence.build(ATLAS_FROM_IMAGE, theta, field, -field, placed, atlas).lifted(plane), scan


def test_markups_go_to_and_fro_as_copies(scene):
    scan, frame, (to_patient, to_atlas) = written(scene, "affine")
    world = world_points(scan, 20)
    landmarks = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Landmarks")
    # The user placed them in the scan's own coordinates.
    parent = scan.GetParentTransformNode()
    slicer.util.updateMarkupsControlPointsFromArray(landmarks, frames.moved(world, parent, to_world=False))
    landmarks.SetAndObserveTransformNodeID(parent.GetID())
    landmarks.SetNthControlPointLabel(3, "apex")
    landmarks.SetLocked(True)
    landmarks.SetNthControlPointLocked(4, True)
    landmarks.CreateDefaultDisplayNodes()
    landmarks.GetDisplayNode().SetSelectedColor(0.1, 0.2, 0.9)
    in_atlas = markups.to_atlas(landmarks, to_atlas)
    points = slicer.util.arrayFromMarkupsControlPoints(in_atlas, world=True)
    assert distance(points, true_atlas(scan, frame, world, cases.a_correspondence())) < 0.1
    assert in_atlas.GetParentTransformNode() is None
    assert in_atlas.GetNthControlPointLabel(3) == "apex"
    np.testing.assert_allclose(in_atlas.GetDisplayNode().GetSelectedColor(), (0.1, 0.2, 0.9))
    assert in_atlas.GetDisplayNode() is not landmarks.GetDisplayNode()
    back = markups.to_patient(in_atlas, to_patient)
    assert back.GetParentTransformNode() is parent
    assert distance(slicer.util.arrayFromMarkupsControlPoints(back, world=True), world) < 0.1
    assert distance(slicer.util.arrayFromMarkupsControlPoints(landmarks, world=True), world) < 1e-6
    assert landmarks.GetParentTransformNode() is parent
    assert landmarks.GetName() == "Landmarks"
    assert len({node.GetName() for node in (landmarks, in_atlas, back)}) == 3


def test_markups_that_cannot_be_bent_are_refused(scene, a_markups_node):
    _scan, _frame, (to_patient, to_atlas) = written(scene, "none")
    a_markups_node.CanApplyNonLinearTransforms = lambda: False
    count = scene.GetNumberOfNodes()
    for carry, node in ((markups.to_patient, to_patient), (markups.to_atlas, to_atlas)):
        with pytest.raises(GeometryError, match="Landmarks"):
            carry(a_markups_node, node)
    assert scene.GetNumberOfNodes() == count


def test_markups_of_the_atlas_that_are_shown_on_the_patient_are_not_moved_twice(scene):
    scan, frame, (to_patient, _to_atlas) = written(scene, "rigid")
    world = world_points(scan, 10)
    landmarks = scene.AddNewNodeByClass("vtkMRMLMarkupsCurveNode", "Curve")
    atlas = true_atlas(scan, frame, world, cases.a_correspondence())
    slicer.util.updateMarkupsControlPointsFromArray(landmarks, atlas)
    landmarks.SetAndObserveTransformNodeID(to_patient.GetID())
    copy = markups.to_patient(landmarks, to_patient)
    assert distance(slicer.util.arrayFromMarkupsControlPoints(copy, world=True), world) < 0.1


def test_landmarks_follow_a_patient_who_was_moved_since(scene):
    """The map to the atlas has the old parent in it, but its partner lies under the new one."""
    scan, frame, (_to_patient, to_atlas) = written(scene, "rigid")
    world = world_points(scan, 20)
    atlas = true_atlas(scan, frame, world, cases.a_correspondence())
    parent = scan.GetParentTransformNode()
    local = frames.moved(world, parent, to_world=False)
    parent.SetMatrixTransformToParent(frames.vtk_matrix(np.diag([1.0, 1.0, 1.0, 1.0])))
    landmarks = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    slicer.util.updateMarkupsControlPointsFromArray(landmarks, frames.moved(local, parent))
    copy = markups.to_atlas(landmarks, to_atlas)
    assert distance(slicer.util.arrayFromMarkupsControlPoints(copy, world=True), atlas) < 0.1


def test_a_flat_atlas_becomes_a_volume_at_zero(scene):
    flat = Volume.from_array(np.arange(12.0).reshape(3, 4), Grid((3, 4), (2.0, 3.0), (1.0, -2.0), np.eye(2)), "flat")
    node = volumes.add_volume(flat, scene)
    assert node.GetImageData().GetDimensions() == (4, 3, 1)
    expected = FLIP @ slice_of(flat.grid).transform_points([3, 1, 0], WORLD, VOXEL)
    matrix = frames.ijk_to_ras(node)
    np.testing.assert_allclose(matrix[:3, :3] @ [3, 1, 0] + matrix[:3, 3], expected)
    assert slicer.util.arrayFromVolume(node)[0, 1, 3] == flat.array[0, 1, 3]
