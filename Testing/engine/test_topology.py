"""Topology of shapes whose topology everyone knows."""

from __future__ import annotations

import numpy as np
import pytest

from AtlasISTNLib.errors import ConfigError, GeometryError, VolumeError
from AtlasISTNLib.geometry import VOXEL, Grid
from AtlasISTNLib.topology import Topology, euler_number, mask_topology, topology
from AtlasISTNLib.volume import Volume

SPACING = (0.8, 1.1, 2.5)


def ball(grid: Grid, radius: float, center: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    """A ball in mm, in the grid's own axes, about the middle of the grid."""
    offset = (grid.points(VOXEL) - (np.array(grid.size) - 1) / 2) * grid.spacing - np.array(center)[: grid.ndim]
    return (offset**2).sum(axis=-1) <= radius**2


def drawn(*lines: str) -> np.ndarray:
    return np.array([[character == "#" for character in line] for line in lines])


def shapes_3d() -> dict[str, tuple[np.ndarray, Topology]]:
    grid = Grid.centered((21, 21, 21), (1, 1, 1))
    x, y, z = np.moveaxis(grid.points(VOXEL) - 10, -1, 0)
    from_core = (np.hypot(x, y) - 6) ** 2 + z**2
    ring = from_core <= 6
    hollow = ball(grid, 9) & ~ball(grid, 5)
    two = ball(grid, 3, (-5, 0, 0)) | ball(grid, 3, (5, 0, 0))
    return {
        "nothing": (np.zeros((5, 5, 5), bool), Topology(0, 0, 0, 0)),
        "voxel": (np.ones((1, 1, 1), bool), Topology(1, 0, 0, 1)),
        "ball": (ball(grid, 8), Topology(1, 0, 0, 1)),
        "two balls": (two, Topology(2, 0, 0, 2)),
        "hollow ball": (hollow, Topology(1, 1, 0, 2)),
        "ring": (ring, Topology(1, 0, 1, 0)),
        "hollow ring": ((from_core <= 12) & (from_core > 1), Topology(1, 1, 2, 0)),
        "ball in a hollow ball": (hollow | ball(grid, 2), Topology(2, 1, 0, 3)),
        "pierced hollow ball": (hollow & ~((np.hypot(x, y) < 2) & (z > 0)), Topology(1, 0, 0, 1)),
        "twice pierced hollow ball": (hollow & ~(np.hypot(x, y) < 2), Topology(1, 0, 1, 0)),
    }


LETTER_B = drawn("####.", "#...#", "####.", "#...#", "####.")


class TestTopology:
    @pytest.mark.parametrize("name", shapes_3d())
    def test_known_solids_under_both_conventions(self, name):
        mask, expected = shapes_3d()[name]
        for connectivity in ("full", "face"):
            assert mask_topology(mask, connectivity) == expected
            assert euler_number(mask, connectivity) == expected.euler

    def test_known_drawings(self):
        block_b = drawn("####", "#..#", "####", "#..#", "####")
        assert mask_topology(block_b) == mask_topology(block_b, "face") == Topology(1, 2, 0, -1)
        assert mask_topology(drawn("###", "###")) == Topology(1, 0, 0, 1)
        assert mask_topology(drawn("#####", "#...#", "#.#.#", "#...#", "#####")) == Topology(2, 1, 0, 1)

    def test_corners_join_or_part_by_convention(self):
        # The round strokes of this B touch at corners only.
        assert mask_topology(LETTER_B, "full") == Topology(1, 2, 0, -1)
        assert mask_topology(LETTER_B, "face").holes == 0
        diagonal = np.zeros((2, 2, 2), bool)
        diagonal[0, 0, 0] = diagonal[1, 1, 1] = True
        assert mask_topology(diagonal, "full") == Topology(1, 0, 0, 1)
        assert mask_topology(diagonal, "face") == Topology(2, 0, 0, 2)

    @pytest.mark.parametrize("connectivity", ["full", "face"])
    def test_betti_numbers_add_up_on_random_masks(self, connectivity):
        generator = np.random.default_rng(3)
        for _ in range(20):
            flat = mask_topology(generator.random((12, 13)) < 0.5, connectivity)
            # Holes are counted by flooding and the Euler number from cells: two roads to one number.
            assert flat.euler == flat.components - flat.holes
            solid = mask_topology(generator.random((7, 8, 9)) < 0.4, connectivity)
            assert solid.euler == solid.components - solid.tunnels + solid.holes
            assert solid.tunnels >= 0

    def test_foreground_and_background_are_dual(self):
        # In a frame of background, each convention's foreground holes are the other's background components.
        mask = np.pad(np.random.default_rng(5).random((14, 14)) < 0.55, 2)
        own, other = mask_topology(mask, "full"), mask_topology(~mask, "face")
        assert other.components == own.holes + 1
        # The complement of a frame has the frame's outside as one more hole than the foreground has components.
        assert other.holes == own.components

    def test_shapes_at_the_border_of_the_image_count_as_in_a_larger_one(self):
        for mask, expected in shapes_3d().values():
            if mask.any():
                sides = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {i}))) for i in range(3)]
                tight = mask[tuple(slice(s[0], s[-1] + 1) for s in sides)]
                assert mask_topology(tight) == expected
        # A bay that opens at the border of the image is no hole.
        assert mask_topology(drawn("#.#", "#.#", "###")) == Topology(1, 0, 0, 1)

    def test_voxel_sizes_and_order_of_axes_play_no_part(self):
        mask, expected = shapes_3d()["ring"]
        assert mask_topology(mask.repeat(3, axis=0)) == expected
        assert mask_topology(mask.transpose(2, 0, 1)) == expected
        assert mask_topology(mask[:, ::-1]) == expected
        grids = [Grid.centered(mask.shape, spacing) for spacing in ((1, 1, 1), (0.3, 1, 9))]
        assert [topology(Volume.from_array(mask, g))[1] for g in grids] == [expected, expected]

    def test_labels_of_a_volume(self):
        array = np.zeros((5, 9, 9), np.int16)
        array[1:4, 1:8, 1:8] = 300
        array[2, 3:6, 3:6] = 7
        found = topology(Volume.from_array(array, Grid.centered(array.shape, SPACING)))
        assert dict(found) == {7: Topology(1, 0, 0, 1), 300: Topology(1, 1, 0, 2)}
        assert list(found) == [7, 300]
        with pytest.raises(TypeError):
            found[7] = None  # type: ignore[index]

    def test_enormous_label_values(self):
        array = np.array([[5, 0, 2_000_000_000], [5, 0, 0]])
        assert list(topology(Volume.from_array(array, Grid.centered((2, 3), (1, 1))))) == [5, 2_000_000_000]
        everywhere = np.full((2, 2), 2_000_000_000)
        assert list(topology(Volume.from_array(everywhere, Grid.centered((2, 2), (1, 1))))) == [2_000_000_000]

    def test_refuses_what_it_cannot_count(self):
        with pytest.raises(ConfigError, match="26"):
            mask_topology(np.ones((2, 2)), "26")
        with pytest.raises(GeometryError, match=r"\(4,\)"):
            mask_topology(np.ones(4))
        with pytest.raises(VolumeError, match="-3"):
            topology(Volume.from_array(np.array([[0, -3]]), Grid.centered((1, 2), (1, 1))))
