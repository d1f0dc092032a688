"""The grid of a new model: what label maps cover, and grids that hold them."""

from __future__ import annotations

import numpy as np
import pytest

from AtlasISTNLib.errors import ConfigError, VolumeError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.grids import Extent, ModelGrid, check_sizes, choose_grid, label_values
from AtlasISTNLib.volume import Volume


def an_extent(shape, spacing, low, high, direction=None, name="case") -> Extent:
    """Of a box of label 1 between two corners in voxels, x, y, z."""
    grid = Grid.centered(shape, spacing, None, direction)
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))] = 1
    return Extent.of(Volume.from_array(labels, grid), name)


def test_chosen_grid_holds_every_case_with_a_margin():
    turn = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    extents = [
        an_extent((40, 50, 60), (2.0, 2.0, 3.0), (10, 10, 10), (30, 20, 25)),
        an_extent((40, 50, 60), (2.0, 2.0, 3.0), (10, 10, 10), (30, 20, 25), turn),  # its x runs along the world's y
    ]
    chosen = choose_grid(extents)
    grid = chosen.grid
    assert chosen.on_labels
    extent = np.array(grid.extent)
    assert (extent >= np.array([40, 40, 45]) * 1.25).all()
    assert (extent <= np.array([40, 40, 45]) * 1.31 + 8 * np.array(grid.spacing)).all()
    assert max(grid.shape) <= 72


def test_images_no_larger_than_the_grid_are_placed_by_their_centre():
    extents = [an_extent((32, 32), (1.0, 1.0), (2, 2), (30, 30))]
    chosen = choose_grid(extents)
    assert not chosen.on_labels
    assert choose_grid(extents, on_labels=True).on_labels
    assert min(chosen.grid.extent) >= 28


def test_given_shape_and_spacing_are_kept():
    extents = [an_extent((32, 32, 32), (1.0, 1.0, 1.0), (4, 4, 4), (28, 20, 12))]
    grid = choose_grid(extents, (16, 24, 20), (2.0, 1.5, 3.0)).grid
    assert (grid.shape, grid.spacing) == ((16, 24, 20), (2.0, 1.5, 3.0))
    assert choose_grid(extents, None, (2.0,)).grid.spacing == (2.0, 2.0, 2.0)
    by_shape = choose_grid(extents, (16, 16, 16)).grid
    assert min(by_shape.extent) >= 24 * 1.25


@pytest.mark.parametrize(
    ("shape", "spacing"), [((16, 16), None), ((4, 16, 16), None), (None, (1.0, 2.0)), (None, (0.0,)), (None, (-1.0,))]
)
def test_impossible_grids_are_refused(shape, spacing):
    extents = [an_extent((32, 32, 32), (1.0, 1.0, 1.0), (4, 4, 4), (28, 20, 12))]
    with pytest.raises(ConfigError):
        choose_grid(extents, shape, spacing)


def test_cases_of_two_dimensions_have_no_grid():
    flat = an_extent((32, 32), (1.0, 1.0), (4, 4), (20, 20))
    solid = an_extent((32, 32, 32), (1.0, 1.0, 1.0), (4, 4, 4), (28, 20, 12))
    with pytest.raises(ConfigError, match="2D"):
        choose_grid([flat, solid])


@pytest.mark.parametrize(("shape", "spacing"), [((7, 16), None), ((16,), None), (None, (1.0, -1.0)), (None, (0.0,))])
def test_sizes_are_refused_without_any_image(shape, spacing):
    with pytest.raises(ConfigError):
        check_sizes(shape, spacing)


def test_margin_and_cut_cases_are_those_of_the_boxes():
    # The image's centre is 0; the boxes reach 6 and 10 mm to either side along x, 4 mm along y.
    small = an_extent((32, 32), (1.0, 1.0), (10, 12), (22, 20), name="small")
    large = an_extent((32, 32), (1.0, 1.0), (6, 12), (26, 20), name="large")
    fits = ModelGrid.of(Grid.centered((16, 24), (1.0, 1.0)), False, [small, large])
    assert fits.margin == pytest.approx((2, 4))
    assert fits.cut == ()
    cuts = ModelGrid.of(Grid.centered((16, 16), (1.0, 1.0)), False, [small, large])
    assert cuts.margin == pytest.approx((-2, 4))
    assert cuts.cut == ("large",)
    exact = ModelGrid.of(Grid.centered((16, 20), (1.0, 1.0)), False, [small, large])
    assert exact.cut == ()


def test_where_the_grid_goes_decides_what_it_cuts():
    beside = an_extent((32, 32), (1.0, 1.0), (20, 12), (30, 20))
    grid = Grid.centered((16, 16), (1.0, 1.0))
    assert ModelGrid.of(grid, True, [beside]).margin == pytest.approx((3, 4))
    assert ModelGrid.of(grid, False, [beside]).cut == ("case",)


def test_extent_of_an_oblique_image(oblique_grid):
    codes = np.zeros(oblique_grid.shape, np.int16)
    codes[4:9, 5:15, 6:20] = 7
    codes[10, 10, 10] = 2
    extent = Extent.of(Volume.from_array(codes, oblique_grid), "case", frozenset({7, 9}))
    corners = [(x, y, z) for x in (5.5, 19.5) for y in (4.5, 14.5) for z in (3.5, 8.5)]
    world = oblique_grid.transform_points(corners, "world", "voxel")
    np.testing.assert_allclose(extent.low, world.min(axis=0), atol=1e-9)
    np.testing.assert_allclose(extent.high, world.max(axis=0), atol=1e-9)
    middle = oblique_grid.transform_points((12.5, 9.5, 6), "world", "voxel")
    np.testing.assert_allclose(extent.center, middle, atol=1e-9)
    assert extent.values == {7}


def test_a_single_slice_counts_as_2d():
    codes = np.zeros((1, 20, 24), np.uint8)
    codes[0, 5:10, 5:10] = 1
    assert Extent.of(Volume.from_array(codes, Grid.centered(codes.shape, (1, 1, 3))), "slice").grid.ndim == 2


@pytest.mark.parametrize(("wanted", "says"), [(frozenset(), "no label but the background"), (frozenset({5}), r"\[5\]")])
def test_empty_label_maps_have_no_extent(wanted, says):
    empty = Volume.from_array(np.zeros((8, 8), np.uint8), Grid.centered((8, 8), (1, 1)))
    with pytest.raises(VolumeError, match=f"case 4: .*{says}"):
        Extent.of(empty, "case 4", wanted)


@pytest.mark.parametrize("values", [[0, 3, 70000], [-2, 0, 5], [0], [4, 5]])
def test_label_values(values):
    codes = np.random.default_rng(0).permutation(np.repeat(values, 30)).reshape(-1, 10).astype(np.int64)
    assert label_values(codes) == values
