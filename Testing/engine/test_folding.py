"""Folding of maps whose folds are known."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from AtlasISTNLib import folding as folding_room
from AtlasISTNLib.errors import GeometryError
from AtlasISTNLib.folding import folding, jacobian_determinant
from AtlasISTNLib.geometry import VOXEL, Grid


def identity(shape: tuple[int, ...]) -> np.ndarray:
    return Grid.centered(shape, (1.0,) * len(shape)).points(VOXEL)


def cells(shape: tuple[int, ...]) -> int:
    return int(np.prod([n - 1 for n in shape]))


def checkerboard(shape: tuple[int, ...], shift: float) -> np.ndarray:
    """The identity with alternate points moved by +shift and -shift along x."""
    points = identity(shape)
    points[..., 0] += np.where(np.indices(shape).sum(axis=0) % 2, -shift, shift)
    return points


BOTH = pytest.mark.parametrize("shape", [(5, 7), (4, 5, 6)])


class TestFolding:
    @BOTH
    def test_identity_and_affine_maps_do_not_fold(self, shape):
        found = folding(identity(shape))
        assert (found.volume, found.percent, found.voxels, found.smallest) == (0, 0, 0, 1)
        generator = np.random.default_rng(1)
        for _ in range(10):
            matrix = generator.normal(size=(len(shape), len(shape)))
            matrix[0] *= np.sign(np.linalg.det(matrix))
            moved = identity(shape) @ matrix.T + generator.normal(size=len(shape))
            found = folding(moved)
            assert (found.volume, found.voxels) == (0, 0)
            assert found.smallest == pytest.approx(np.linalg.det(matrix))
            assert jacobian_determinant(moved) == pytest.approx(np.linalg.det(matrix))

    @BOTH
    def test_an_affine_map_that_mirrors_folds_the_whole_volume_it_covers(self, shape):
        for axis in range(len(shape)):
            mirrored = identity(shape)
            mirrored[..., axis] *= -1
            found = folding(mirrored)
            assert found.volume == pytest.approx(cells(shape))
            assert found.percent == pytest.approx(100)
            assert found.voxels == np.prod(shape)
        doubled = folding(2 * mirrored)
        assert doubled.volume == pytest.approx(2 ** len(shape) * cells(shape))
        assert doubled.smallest == pytest.approx(-(2 ** len(shape)))

    @BOTH
    def test_central_differences_see_nothing_of_a_checkerboard(self, shape):
        points = checkerboard(shape, 1.0)
        inner = (slice(1, -1),) * len(shape)
        assert jacobian_determinant(points)[inner] == pytest.approx(1.0)
        # Every other difference along x is 1 - 2 = -1. In 2D so are half of the triangles; in 3D half of the corner
        # tetrahedra, while points of the central ones move alike: ½ · 4/6 of each cell.
        found = folding(points)
        assert found.percent == pytest.approx(50 if len(shape) == 2 else 100 / 3)
        assert found.smallest == pytest.approx(-1)
        assert found.voxels > 0

    @BOTH
    def test_less_than_half_a_voxel_of_checkerboard_does_not_fold(self, shape):
        found = folding(checkerboard(shape, 0.49))
        assert (found.volume, found.voxels) == (0, 0)
        assert found.smallest == pytest.approx(0.02)
        assert folding(checkerboard(shape, 0.51)).voxels > 0

    def test_one_point_pulled_over_its_neighbours(self):
        # Pulled by 3 along x, a point folds what is between it and the next ones; the central difference there stays 1.
        points = identity((5, 9))
        points[2, 4, 0] += 3
        assert jacobian_determinant(points)[2, 4] == pytest.approx(1)
        # The x-difference to the next point is 1 - 3 = -2. It is an edge of two corner triangles at either end, and as
        # nothing moves along y those are all that fold: 4 triangles of area 2 / 2, each counted half.
        found = folding(points)
        assert found.volume == pytest.approx(4 * 2 / 4)
        assert found.voxels == 2

    def test_a_twisted_cell_shows_in_the_central_tetrahedra_alone(self):
        for degrees in (60, 120, 180):
            points = identity((2, 2, 2))
            turn = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
            points[1] = (points[1] - [0.5, 0.5, 1]) @ turn.T + [0.5, 0.5, 1]
            # The faces stay flat and whole, so the 8 corner determinants are 1; the central ones are the cosine.
            found = folding(points)
            assert found.smallest == pytest.approx(np.cos(np.radians(degrees)))
            assert found.volume == pytest.approx(max(0, -np.cos(np.radians(degrees))) / 3)
            assert found.voxels == (1 if degrees > 90 else 0)

    @BOTH
    def test_signed_volumes_add_up_to_the_volume_of_the_image(self, shape):
        # With a fixed border, what is counted twice is what is inside out: positive - negative = all.
        generator = np.random.default_rng(2)
        points = identity(shape)
        inner = (slice(1, -1),) * len(shape)
        points[inner] += generator.normal(scale=0.8, size=points[inner].shape)
        negative = folding(points).volume
        mirrored = points.copy()
        mirrored[..., 0] *= -1
        assert negative > 0
        assert folding(mirrored).volume - negative == pytest.approx(cells(shape))

    def test_a_collapsed_map_has_no_folded_volume_but_no_good_voxel(self):
        points = identity((4, 5))
        points[..., 0] = 0
        found = folding(points)
        assert (found.volume, found.voxels, found.smallest) == (0, 20, 0)

    def test_large_maps_in_slabs_give_the_same(self, monkeypatch):
        points = checkerboard((9, 6, 5), 1.3).astype(np.float32)
        whole = folding(points)
        monkeypatch.setattr(folding_room, "_CELLS_AT_ONCE", 1)
        assert folding(points).voxels == whole.voxels
        assert folding(points).volume == pytest.approx(whole.volume)

    def test_a_smooth_map_has_its_analytic_determinant(self):
        points = identity((20, 30, 40))
        x = points[..., 0].copy()
        points[..., 0] = x + 2 * np.sin(x / 5)
        assert jacobian_determinant(points)[:, :, 1:-1] == pytest.approx(
            (1 + 0.4 * np.cos(x / 5))[:, :, 1:-1], abs=0.01
        )

    @pytest.mark.parametrize(
        ("points", "match"),
        [
            (np.zeros((4, 4, 3)), r"\(4, 4, 3\)"),
            (np.zeros((4, 4)), r"\(4, 4\)"),
            (np.zeros((1, 4, 2)), "two or more"),
            (np.full((3, 3, 2), nan), "not finite"),
        ],
    )
    def test_refuses_what_is_no_map(self, points, match):
        for measure in (folding, jacobian_determinant):
            with pytest.raises(GeometryError, match=match):
                measure(points)
