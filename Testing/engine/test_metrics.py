"""Measures of a segmentation against numbers known without them."""

from __future__ import annotations

import json
from math import isnan

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from AtlasISTNLib.errors import ConfigError, GeometryError, VolumeError
from AtlasISTNLib.geometry import VOXEL, Grid
from AtlasISTNLib.metrics import (
    MEASURES,
    dice,
    evaluate,
    itk_average_hausdorff,
    mask_volume,
    surface_distances,
)
from AtlasISTNLib.topology import Topology
from AtlasISTNLib.volume import Volume

SPACING = (0.8, 1.1, 2.5)
OBLIQUE = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()


def ball(grid: Grid, radius: float, center: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    """A ball in mm, in the grid's own axes, about the middle of the grid."""
    offset = (grid.points(VOXEL) - (np.array(grid.size) - 1) / 2) * grid.spacing - np.array(center)[: grid.ndim]
    return (offset**2).sum(axis=-1) <= radius**2


def box(shape: tuple[int, ...], *sides: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def brute_force(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float, float]:
    """ASSD, HD and HD95 from the distances between all pairs of border voxels."""
    sets = []
    for mask in (a, b):
        padded = np.pad(mask, 1)
        neighbours = [np.roll(padded, step, axis) for axis in range(mask.ndim) for step in (-1, 1)]
        border = padded & ~np.logical_and.reduce(neighbours)
        sets.append(np.argwhere(border)[:, ::-1] * np.array(spacing))
    pairs = np.linalg.norm(sets[0][:, np.newaxis] - sets[1], axis=-1)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    return (
        float(np.concatenate([there, back]).mean()),
        float(max(there.max(), back.max())),
        float(max(np.percentile(there, 95), np.percentile(back, 95))),
    )


class TestOverlapAndVolume:
    def test_half_overlapping_boxes(self):
        assert dice(box((4, 8), (0, 4), (0, 4)), box((4, 8), (0, 4), (2, 6))) == 0.5

    def test_identical_disjoint_and_empty(self):
        a, b, none = box((4, 4, 4), (0, 2)), box((4, 4, 4), (2, 4)), np.zeros((4, 4, 4), bool)
        assert dice(a, a) == 1
        assert dice(a, b) == 0
        assert dice(a, none) == dice(none, a) == 0
        assert isnan(dice(none, none))

    def test_volume_is_in_ml_and_area_in_square_mm(self):
        assert mask_volume(np.ones((10, 20, 30)), (1, 2, 0.5)) == pytest.approx(6.0)
        assert mask_volume(np.ones((10, 20)), (0.5, 2)) == pytest.approx(200.0)

    def test_refuses_masks_of_two_shapes_and_spacing_of_another_dimension(self):
        with pytest.raises(GeometryError, match=r"\(3, 4\).*\(4, 3\)"):
            dice(np.ones((3, 4)), np.ones((4, 3)))
        with pytest.raises(GeometryError, match="spacing"):
            surface_distances(np.ones((3, 4)), np.ones((3, 4)), SPACING)
        with pytest.raises(GeometryError, match="positive"):
            mask_volume(np.ones((3, 4)), (1, 0))


class TestSurfaceDistances:
    def test_a_ball_shifted_along_each_axis_has_the_shift_as_its_hausdorff_distance(self):
        spacing = (0.4, 0.5, 0.8)
        grid = Grid.centered((64, 100, 124), spacing)
        still = ball(grid, 20)
        for axis, voxels in ((0, 10), (1, 8), (2, 5)):
            shift = voxels * spacing[axis]
            moved = np.roll(still, voxels, axis=2 - axis)
            found = surface_distances(still, moved, spacing)
            # The farthest point of a convex body from its shifted copy lies along the shift.
            assert found.hd == pytest.approx(shift, abs=1e-9)
            # Over a sphere the distance is close to shift · |cos| of the angle to it: mean ½, 95th percentile 0.95.
            assert found.assd == pytest.approx(shift / 2, abs=max(spacing) / 2)
            assert found.hd95 == pytest.approx(0.95 * shift, abs=max(spacing) / 2)

    def test_concentric_spheres_are_apart_by_the_difference_of_their_radii(self):
        spacing = (0.5, 0.6, 0.75)
        grid = Grid.centered((80, 90, 100), spacing)
        found = surface_distances(ball(grid, 20), ball(grid, 14), spacing)
        # Border voxels lie up to a voxel inside of their sphere, in both masks alike, and the nearest of them wins.
        assert found.assd == pytest.approx(6, abs=min(spacing) / 2)
        assert found.hd == pytest.approx(6, abs=max(spacing))
        assert found.assd < found.hd95 <= found.hd

    def test_boxes_with_exact_numbers(self):
        # Two rows of 10 pixels, 3 rows of 2 mm apart: every distance is 6 mm.
        apart = surface_distances(box((8, 10), (1, 2)), box((8, 10), (4, 5)), (1, 2))
        assert (apart.assd, apart.hd, apart.hd95) == (6, 6, 6)
        # A row of 20 against its first 10: 10 distances of 0, then 1 ... 10; back, all 0.
        row, half = box((1, 20), (0, 1), (0, 20)), box((1, 20), (0, 1), (0, 10))
        found = surface_distances(row, half, (1.5, 7))
        assert found.assd == pytest.approx(1.5 * 55 / 30)
        assert found.hd == pytest.approx(15)
        # The 95th percentile of the 20 distances lies at rank 0.95 * 19 = 18.05, so between 9 and 10.
        assert found.hd95 == pytest.approx(1.5 * 9.05)

    @pytest.mark.parametrize("shape", [(9, 11), (6, 7, 8)])
    def test_agrees_with_all_pairs_on_random_masks(self, shape):
        generator = np.random.default_rng(7)
        spacing = SPACING[: len(shape)]
        for density in (0.05, 0.4, 0.9):
            a, b = (generator.random(shape) < density for _ in range(2))
            found = surface_distances(a, b, spacing)
            assert (found.assd, found.hd, found.hd95) == pytest.approx(brute_force(a, b, spacing))

    def test_agrees_with_exact_distance_transforms(self):
        grid = Grid.centered((20, 40, 50), SPACING)
        a, b = ball(grid, 15), ball(grid, 11, (4, -3, 5))
        borders = [m & ~ndimage.binary_erosion(m) for m in (a, b)]
        there, back = (
            ndimage.distance_transform_edt(~borders[1 - i], sampling=SPACING[::-1])[borders[i]] for i in (0, 1)
        )
        found = surface_distances(a, b, SPACING)
        assert found.hd == pytest.approx(max(there.max(), back.max()))
        assert found.assd == pytest.approx(np.concatenate([there, back]).mean())

    def test_is_symmetric_and_zero_for_equal_masks(self):
        grid = Grid.centered((12, 20, 24), SPACING)
        a, b = ball(grid, 9), ball(grid, 6, (2, 1, -3))
        assert surface_distances(a, b, SPACING) == surface_distances(b, a, SPACING)
        same = surface_distances(a, a, SPACING)
        assert (same.assd, same.hd, same.hd95) == (0, 0, 0)

    def test_voxels_at_the_border_of_the_image_are_surface(self):
        # A full image has its outermost voxels for a surface: its corners are 2 steps along both axes from the middle.
        full, inner = np.ones((5, 5), bool), box((5, 5), (2, 3), (2, 3))
        found = surface_distances(full, inner, (1, 1))
        assert found.hd == pytest.approx(np.sqrt(8))
        assert surface_distances(full, full, (1, 1)).hd == 0

    def test_margin_around_the_masks_changes_nothing(self):
        a, b = box((6, 7, 8), (1, 4), (2, 6), (0, 5)), box((6, 7, 8), (2, 6), (1, 5), (3, 8))
        wide = [np.pad(m, [(3, 40), (25, 0), (7, 9)]) for m in (a, b)]
        near, far = surface_distances(a, b, SPACING), surface_distances(*wide, SPACING)
        assert (far.assd, far.hd, far.hd95) == pytest.approx((near.assd, near.hd, near.hd95))
        assert itk_average_hausdorff(*wide, SPACING) == pytest.approx(itk_average_hausdorff(a, b, SPACING))

    def test_empty_masks_have_no_distance(self):
        a, none = box((4, 4), (1, 3)), np.zeros((4, 4), bool)
        for pair in ((a, none), (none, a), (none, none)):
            found = surface_distances(*pair, (1, 1))
            assert isnan(found.assd)
            assert isnan(found.hd)
            assert isnan(found.hd95)
            assert isnan(itk_average_hausdorff(*pair, (1, 1)))


class TestItkAverageHausdorff:
    def test_averages_the_distance_to_the_other_mask_over_all_voxels(self):
        grid = Grid.centered((14, 30, 36), SPACING)
        a, b = ball(grid, 11), ball(grid, 8, (5, 4, -3))
        to = [ndimage.distance_transform_edt(~m, sampling=SPACING[::-1]) for m in (a, b)]
        expected = (to[1][a].mean() + to[0][b].mean()) / 2
        assert itk_average_hausdorff(a, b, SPACING) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("shape", [(9, 11), (6, 7, 8)])
    def test_agrees_with_distance_transforms_on_random_masks(self, shape):
        generator = np.random.default_rng(11)
        spacing = SPACING[: len(shape)]
        for density in (0.05, 0.4, 0.9):
            a, b = (generator.random(shape) < density for _ in range(2))
            to = [ndimage.distance_transform_edt(~m, sampling=spacing[::-1]) for m in (a, b)]
            expected = (to[1][a].mean() + to[0][b].mean()) / 2
            assert itk_average_hausdorff(a, b, spacing) == pytest.approx(expected, rel=1e-5)

    def test_is_far_below_the_average_surface_distance(self):
        grid = Grid.centered((24, 60, 80), SPACING)
        a, b = ball(grid, 22), ball(grid, 22, (2, 0, 0))
        assert 8 * itk_average_hausdorff(a, b, SPACING) < surface_distances(a, b, SPACING).assd

    def test_a_mask_that_fills_the_image(self):
        full, part = np.ones((1, 6), bool), box((1, 6), (0, 1), (0, 3))
        assert itk_average_hausdorff(full, part, (2, 1)) == pytest.approx((0 + 0 + 0 + 2 + 4 + 6) / 6 / 2)


@pytest.fixture
def grid() -> Grid:
    return Grid.centered((16, 30, 40), SPACING)


@pytest.fixture
def pair(grid) -> tuple[Volume, Volume]:
    """Label 1: a ball and its shifted copy; label 2: a box, missing from the first."""
    labels, reference = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    labels[ball(grid, 10)] = 1
    reference[ball(grid, 10, (SPACING[0] * 2, 0, 0))] = 1
    reference[1:3, 1:5, 1:6] = 2
    return Volume.from_array(labels, grid, "mine"), Volume.from_array(reference, grid, "truth")


class TestEvaluate:
    def test_measures_each_label(self, pair, grid):
        scores = evaluate(*pair, {1: "ball"})
        a, b = pair[0].array[0] == 1, pair[1].array[0] == 1
        entry, surface = scores[1], surface_distances(a, b, SPACING)
        assert [s.label for s in scores] == [1, 2]
        assert len(scores) == 2
        assert (entry.name, scores[2].name) == ("ball", "label 2")
        assert entry.dice == dice(a, b)
        assert (entry.assd, entry.hd, entry.hd95) == pytest.approx((surface.assd, surface.hd, surface.hd95))
        assert entry.hd == pytest.approx(1.6)
        assert entry.reference_asd == pytest.approx(itk_average_hausdorff(a, b, SPACING))
        assert entry.volume == pytest.approx(a.sum() * grid.voxel_volume / 1000)
        assert entry.volume == pytest.approx(4 / 3 * np.pi, rel=0.03)
        assert entry.topology == entry.reference_topology == Topology(1, 0, 0, 1)

    def test_a_label_missing_from_one_side(self, pair):
        for scores in (evaluate(*pair), evaluate(*pair[::-1])):
            entry = scores[2]
            assert entry.dice == 0
            assert all(isnan(v) for v in (entry.assd, entry.hd, entry.hd95, entry.reference_asd))
        assert entry.volume == pytest.approx(2 * 4 * 5 * 2.2 / 1000)
        assert entry.reference_volume == 0
        assert entry.reference_topology == Topology(0, 0, 0, 0)

    def test_a_named_label_missing_from_both_sides_is_listed_without_dice(self, pair):
        scores = evaluate(*pair, {0: "background", 9: "absent"})
        assert [s.label for s in scores] == [1, 2, 9]
        assert isnan(scores[9].dice)
        assert scores[9].volume == 0
        with pytest.raises(KeyError):
            scores[0]

    def test_means_leave_out_what_does_not_exist(self, pair):
        scores = evaluate(*pair, {9: "absent"})
        assert scores.mean("dice") == pytest.approx((scores[1].dice + 0) / 2)
        assert scores.mean("assd") == scores[1].assd
        assert scores.mean("reference_components") == pytest.approx((1 + 1 + 0) / 3)
        nothing = Volume.from_array(np.zeros((3, 3)), Grid.centered((3, 3), (1, 1)))
        assert isnan(evaluate(nothing, nothing).mean("dice"))
        with pytest.raises(ConfigError, match="jaccard"):
            scores.mean("jaccard")

    def test_equal_maps_are_perfect(self, pair):
        scores = evaluate(pair[1], pair[1])
        assert [scores.mean(m) for m in ("dice", "assd", "hd95", "hd", "reference_asd")] == [1, 0, 0, 0, 0]

    def test_how_the_grid_lies_in_the_world_plays_no_part(self, pair):
        oblique = Grid.centered(pair[0].grid.shape, SPACING, (40, -70, 1200), OBLIQUE @ np.diag([1, -1, 1]))
        turned = [Volume.from_array(v.array, oblique) for v in pair]
        assert evaluate(*turned).to_dict() == evaluate(*pair).to_dict()

    def test_topology_of_a_torn_result_against_its_reference(self):
        letter = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]])
        torn = letter.copy()
        torn[1, 0] = 0
        grid = Grid.centered(letter.shape, (2, 0.5))
        scores = evaluate(Volume.from_array(torn, grid), Volume.from_array(letter, grid))
        assert (scores[1].topology.holes, scores[1].reference_topology.holes) == (1, 2)
        assert scores.volume_unit == "mm²"
        assert scores[1].reference_volume == 16

    def test_refuses_different_grids_and_names_both(self, pair):
        reference = pair[1]
        grid = reference.grid
        moved = Grid(grid.shape, grid.spacing, tuple(np.add(grid.origin, (1, 0, 0))), grid.direction)
        coarse = Grid.centered((8, 30, 40), SPACING)
        flat = Grid.centered((30, 40), SPACING[:2])
        for other in (moved, coarse, flat):
            with pytest.raises(GeometryError) as caught:
                evaluate(Volume.from_array(np.zeros(other.shape), other, "mine"), reference)
            message = str(caught.value)
            assert "mine" in message
            assert "truth" in message
            assert str(other) in message
            assert str(grid) in message
            assert "resample" in caught.value.hint
        assert f"{moved.origin[0]:.6g}" in _refusal(pair, moved)

    def test_refuses_what_is_no_label_map(self, pair, grid):
        for array, match in (
            (np.full(grid.shape, 0.5), "whole numbers"),
            (np.zeros((2, *grid.shape)), "2 channels"),
            (np.full(grid.shape, -1), "-1"),
        ):
            broken = Volume.from_array(array, grid, "broken")
            for sides in ((broken, pair[1]), (pair[1], broken)):
                with pytest.raises(VolumeError, match=f"broken.*{match}"):
                    evaluate(*sides)

    def test_dicts_can_be_json(self, pair):
        scores = evaluate(*pair, {2: "box"})
        data = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
        assert data["volume_unit"] == "mL"
        assert data["labels"] == scores.to_rows()
        assert set(data["labels"][0]) == {"label", "name", *MEASURES}
        assert data["labels"][1]["hd"] is None
        assert data["labels"][0]["euler"] == 1
        assert data["mean"]["dice"] == pytest.approx(scores.mean("dice"))

    def test_the_table_shows_every_label_and_the_mean(self, pair):
        lines = evaluate(*pair, {1: "ball", 2: "box"}).to_text().splitlines()
        assert len(lines) == 4
        assert [line.split()[0] for line in lines] == ["label", "1", "2", "mean"]
        assert "ball" in lines[1]
        assert "1.60" in lines[1]
        assert " - " in lines[2]
        assert "0 (1)" in lines[2]

    def test_scores_cannot_be_changed(self, pair):
        scores = evaluate(*pair)
        with pytest.raises(AttributeError):
            scores.ndim = 2  # type: ignore[misc]
        with pytest.raises(AttributeError):
            scores[1].dice = 1.0  # type: ignore[misc]


def _refusal(pair: tuple[Volume, Volume], grid: Grid) -> str:
    with pytest.raises(GeometryError) as caught:
        evaluate(pair[0], Volume.from_array(pair[1].array, grid))
    return str(caught.value)
