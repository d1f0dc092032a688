"""Where voxels lie: against SimpleITK, against torch's cube, and a picture is one picture however it is stored."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from AtlasISTNLib.errors import GeometryError
from AtlasISTNLib.geometry import CUBE, VOXEL, WORLD, Grid, Plane, slice_of
from AtlasISTNLib.volume import Volume
from AtlasISTNLib.warp import sample


def directions(*degrees: float, mirrored: bool = False) -> np.ndarray:
    """Axes turned by Euler angles (2D: one angle), the first one mirrored if wanted."""
    if len(degrees) == 1:
        transform = sitk.Euler2DTransform((0, 0), np.deg2rad(degrees[0]))
    else:
        transform = sitk.Euler3DTransform((0, 0, 0), *np.deg2rad(degrees))
    d = len(degrees) if len(degrees) == 3 else 2
    matrix = np.array(transform.GetMatrix()).reshape(d, d)
    return matrix * ([-1.0 if mirrored else 1.0] + [1.0] * (d - 1))


GRIDS = {
    "straight 3D": Grid((5, 6, 7), (1, 1, 1), (0, 0, 0), np.eye(3)),
    "oblique 3D": Grid((5, 6, 7), (0.7, 1.3, 2.5), (10, -20, 30), directions(20, -35, 50)),
    "left-handed 3D": Grid((9, 4, 6), (0.5, 3.0, 1.1), (-7, 8, 900), directions(-70, 10, 130, mirrored=True)),
    "straight 2D": Grid((8, 5), (1, 2), (0, 0), np.eye(2)),
    "left-handed 2D": Grid((8, 5), (0.4, 2.5), (33, -4), directions(40, mirrored=True)),
}
any_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def as_sitk(grid: Grid) -> sitk.Image:
    image = sitk.Image(grid.size, sitk.sitkUInt8)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(np.ravel(grid.direction).tolist())
    return image


class TestFrames:
    @any_grid
    def test_every_way_round_the_frames_comes_back(self, grid):
        points = np.random.default_rng(1).uniform(-30, 30, (4, 5, grid.ndim))
        for a, b, c in itertools.permutations((WORLD, VOXEL, CUBE)):
            there = grid.transform_points(grid.transform_points(points, b, a), c, b)
            np.testing.assert_allclose(there, grid.transform_points(points, c, a), atol=1e-9)
            np.testing.assert_allclose(grid.transform_points(there, a, c), points, atol=1e-9)

    @any_grid
    def test_simpleitk_agrees(self, grid):
        image = as_sitk(grid)
        for index in np.random.default_rng(2).uniform(-3, 12, (20, grid.ndim)):
            world = image.TransformContinuousIndexToPhysicalPoint(index.tolist())
            np.testing.assert_allclose(grid.transform_points(index, WORLD, VOXEL), world, atol=1e-9)
        points = grid.points()
        assert points.shape == (*grid.shape, grid.ndim)
        for index in itertools.islice(np.ndindex(*grid.shape), 0, None, 7):
            world = image.TransformIndexToPhysicalPoint(index[::-1])
            np.testing.assert_allclose(points[index], world, atol=1e-9)

    @any_grid
    def test_cube_is_torchs_cube(self, grid):
        array = np.random.default_rng(3).normal(size=grid.shape)
        voxel = np.random.default_rng(4).uniform(0, np.array(grid.size) - 1, (50, grid.ndim))
        cube = grid.transform_points(voxel, CUBE, VOXEL)
        points = torch.from_numpy(cube).reshape(1, 50, *[1] * (grid.ndim - 1), grid.ndim)
        ours = sample(torch.from_numpy(array)[None, None], points).ravel().numpy()
        np.testing.assert_allclose(ours, ndimage.map_coordinates(array, voxel[:, ::-1].T, order=1), atol=1e-12)

    @any_grid
    def test_cube_ends_at_the_outermost_centres(self, grid):
        cube = grid.points(CUBE)
        np.testing.assert_allclose(cube[(0,) * grid.ndim], -1, atol=1e-12)
        np.testing.assert_allclose(cube[(-1,) * grid.ndim], 1, atol=1e-12)

    def test_axis_of_one_voxel_has_its_centre_at_0(self):
        grid = Grid((1, 4, 5), (1, 1, 3), (0, 0, 7), np.eye(3))
        assert grid.points(CUBE)[0, 0, 0].tolist() == [-1, -1, 0]
        assert grid.center == pytest.approx((2, 1.5, 7))
        assert grid.transform_points([0, 0, 1], WORLD, CUBE)[2] == pytest.approx(8.5)  # its border, half a voxel on

    def test_unknown_frame_is_named(self):
        with pytest.raises(GeometryError, match="ijk"):
            GRIDS["oblique 3D"].matrix("ijk", WORLD)


class TestGrid:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"shape": (5,)}, "2 or 3 axes"),
            ({"shape": (1, 2, 3, 4)}, "2 or 3 axes"),
            ({"shape": (5, 0, 7)}, "at least one voxel"),
            ({"shape": (5, -2, 7)}, "at least one voxel"),
            ({"spacing": (1, 0, 1)}, "spacing must be positive"),
            ({"spacing": (1, -1, 1)}, "spacing must be positive"),
            ({"spacing": (1, 1)}, "spacing needs 3"),
            ({"spacing": (1, float("nan"), 1)}, "spacing has values that are not finite"),
            ({"origin": (0, 0)}, "origin needs 3"),
            ({"origin": (0, float("inf"), 0)}, "origin has values that are not finite"),
            ({"direction": np.eye(2)}, "direction needs 3x3"),
            ({"direction": np.zeros((3, 3))}, "not orthonormal"),
            ({"direction": [[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]}, "not orthonormal"),
            ({"direction": 2 * np.eye(3)}, "not orthonormal"),
            ({"direction": np.full((3, 3), np.nan)}, "not orthonormal"),
        ],
    )
    def test_impossible_grids_are_refused(self, changes, message):
        fine = {"shape": (5, 6, 7), "spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": np.eye(3)}
        Grid(**fine)
        with pytest.raises(GeometryError, match=message):
            Grid(**{**fine, **changes})

    @any_grid
    def test_centered_grid_has_its_middle_there(self, grid):
        middle = np.arange(1, grid.ndim + 1) * 11.0
        moved = Grid.centered(grid.shape, grid.spacing, middle, grid.direction)
        np.testing.assert_allclose(moved.points().reshape(-1, grid.ndim).mean(axis=0), middle, atol=1e-9)
        np.testing.assert_allclose(moved.center, middle, atol=1e-9)
        assert moved.direction == grid.direction

    @any_grid
    def test_corners_span_the_extent(self, grid):
        along = grid.corners() @ np.array(grid.direction)
        np.testing.assert_allclose(np.ptp(along, axis=0), grid.extent, atol=1e-9)
        assert np.prod(grid.extent) == pytest.approx(grid.voxel_volume * np.prod(grid.shape))

    @any_grid
    def test_contains_ends_at_the_outer_faces(self, grid):
        inside = grid.transform_points(np.array(grid.size) - 0.51, WORLD, VOXEL)
        outside = grid.transform_points(np.array(grid.size) - [0.49] + np.eye(grid.ndim)[0] * 0.02, WORLD, VOXEL)
        assert grid.contains(grid.points()).all()
        assert grid.contains([inside, outside]).tolist() == [True, False]

    @any_grid
    def test_same_as_sees_a_turn_that_moves_only_the_far_corner(self, grid):
        nudged = Grid(grid.shape, grid.spacing, np.array(grid.origin) + 1e-5 * min(grid.spacing), grid.direction)
        turn = directions(*[0.05] * (1 if grid.ndim == 2 else 3))
        bent = Grid(grid.shape, grid.spacing, grid.origin, turn @ grid.direction)
        assert grid.same_as(nudged)
        assert not grid.same_as(bent)
        assert grid.same_as(bent, tolerance=0.1)
        assert not grid.same_as(grid.box([0] * grid.ndim, [n - 1 for n in grid.shape]))

    @any_grid
    def test_box_is_a_part_of_the_same_voxels(self, grid):
        part = grid.box([1] * grid.ndim, [n - 1 for n in grid.shape])
        inner = (slice(1, -1),) * grid.ndim
        np.testing.assert_allclose(part.points(), grid.points()[inner], atol=1e-9)

    @any_grid
    def test_with_spacing_covers_the_extent_about_one_middle(self, grid):
        fine = grid.with_spacing([0.3] * grid.ndim)
        np.testing.assert_allclose(fine.center, grid.center, atol=1e-9)
        assert (np.array(fine.extent) >= np.array(grid.extent) - 1e-4).all()
        assert (np.array(fine.extent) < np.array(grid.extent) + 0.3).all()

    def test_a_grid_is_a_value(self):
        grid = GRIDS["oblique 3D"]
        again = Grid(list(grid.shape), np.array(grid.spacing), list(grid.origin), np.array(grid.direction))
        assert again == grid
        assert hash(again) == hash(grid)
        with pytest.raises(AttributeError):
            grid.spacing = (1, 1, 1)


def picture(points: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A picture without symmetry, painted on the plane of u and v about (30, 20, 10)."""
    a, b = (points - [30, 20, 10]) @ u, (points - [30, 20, 10]) @ v
    return np.exp(-((a - 4) ** 2 + (b + 2) ** 2) / 30) + 0.5 * np.exp(-((a + 6) ** 2 + (b - 5) ** 2) / 12)


ORIENTATIONS = {
    "axial": directions(0, 0, 0),
    "coronal": directions(90, 0, 0),
    "sagittal": directions(90, 0, 90),
    "tilted": directions(25, -15, 10),
    "turned by 45 degrees": directions(0, 0, 45),
    # Both in-plane axes lie nearest to the x axis.
    "two axes near x": np.linalg.qr(np.array([[0.7, 0.7, 0], [0.5, -0.5, 1], [0.5, -0.5, -1]]))[0],
}


class TestPlane:
    @pytest.mark.parametrize("name", ORIENTATIONS)
    def test_one_picture_in_any_axis_order_is_one_picture(self, name):
        u, v, n = ORIENTATIONS[name].T
        seen = []
        for order in itertools.permutations(range(3)):
            for su, sv in itertools.product((1, -1), repeat=2):
                axes = [(su * u, 31, 0.9), (sv * v, 27, 1.2), (n, 1, 4.0)]
                columns, size, spacing = zip(*(axes[i] for i in order), strict=True)
                grid = Grid.centered(size[::-1], spacing, (30, 20, 10), np.stack(columns, axis=1))
                plane = Plane.of(grid)
                flat = Volume.from_array(picture(grid.points(), u, v).reshape(plane.grid.shape), plane.grid)
                middle = Grid.centered((20, 24), (0.9, 0.9), plane.grid.center)
                seen.append(flat.resampled(middle).array)
        assert seen[0].max() > 0.9
        for other in seen[1:]:
            np.testing.assert_allclose(other, seen[0], atol=1e-4)

    @pytest.mark.parametrize("name", ORIENTATIONS)
    def test_plane_coordinates_are_the_same_places(self, name):
        grid = Grid.centered((1, 12, 15), (0.9, 1.2, 4.0), (30, 20, 10), ORIENTATIONS[name])
        plane = Plane.of(grid)
        flat = plane.grid.points()
        there = np.concatenate([flat, np.zeros((*flat.shape[:-1], 1))], axis=-1)
        world = there @ plane.world_from_plane[:3, :3].T + plane.world_from_plane[:3, 3]
        np.testing.assert_allclose(world.reshape(grid.points().shape), grid.points(), atol=1e-9)
        assert np.linalg.det(plane.world_from_plane) == pytest.approx(1)

    def test_axial_slice_is_seen_as_radiologists_do(self):
        grid = Grid((1, 4, 5), (1, 2, 3), (10, 20, 30), np.diag([-1.0, -1.0, 1.0]))
        plane = Plane.of(grid)
        assert plane.grid.direction == ((-1.0, 0.0), (0.0, -1.0))
        np.testing.assert_allclose(plane.world_from_plane[:3, :2], np.eye(3)[:, :2], atol=1e-12)

    @pytest.mark.parametrize("shape", [(2, 5, 5), (1, 1, 5), (1, 1, 1), (5, 5)])
    def test_only_single_slices_are_planes(self, shape):
        grid = Grid.centered(shape, [1.0] * len(shape))
        with pytest.raises(GeometryError, match="single slice"):
            Plane.of(grid)

    def test_slice_of_puts_a_2d_grid_at_height_0(self):
        flat = GRIDS["left-handed 2D"]
        slab = slice_of(flat, 2.5)
        np.testing.assert_allclose(slab.points()[0, ..., :2], flat.points(), atol=1e-12)
        assert slab.points()[..., 2].tolist() == np.zeros((1, *flat.shape)).tolist()
        assert slab.spacing[2] == 2.5
