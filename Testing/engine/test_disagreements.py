"""Where the fitted atlas and what it was fitted to are not of one mind: the map, the figures and the place to look."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from AtlasISTNLib.configs import RefineConfig
from AtlasISTNLib.correspondence import ATLAS_FROM_IMAGE, carried
from AtlasISTNLib.disagreements import disagreement
from AtlasISTNLib.errors import AtlasISTNError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.steering import Steering
from AtlasISTNLib.volume import Volume


def fitted(result) -> np.ndarray:
    """The atlas's soft labels on the placed grid; beyond the atlas lies background."""
    soft = carried(result.soft_atlas, result.placement.grid, result.correspondence.transform(ATLAS_FROM_IMAGE)).array
    return np.concatenate([1 - soft[1:].sum(axis=0, keepdims=True), soft[1:]])


def predicting(result, soft: np.ndarray):
    """The result with another prediction."""
    return replace(result, soft_prediction=result.soft_prediction.with_array(soft.astype(np.float32)))


@pytest.fixture(params=[2, 3])
def a_case(request, a_result, a_flat_result):
    """One pass of the oblique image, of each dimension, whose prediction is just what the atlas is."""
    result = a_result if request.param == 3 else a_flat_result
    return predicting(result, fitted(result))


@pytest.fixture
def swapped(a_case):
    """The same, but that a cube of the core is predicted as background; and which voxels those are."""
    soft = a_case.soft_prediction.array.copy()
    core = np.argwhere(soft.argmax(axis=0) == 2)
    middle = core[((core - core.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    cube = tuple(slice(m - 1, m + 2) for m in middle)
    where = np.zeros(soft.shape[1:], dtype=bool)
    where[cube] = True
    soft[:, where] = np.array([1.0, 0.0, 0.0])[:, np.newaxis]
    return predicting(a_case, soft), where & (fitted(a_case).argmax(axis=0) == 2), middle


def test_of_one_mind(a_case):
    found = disagreement(a_case)
    assert found.map.array.max() < 1e-5
    assert found.unit == ("mL" if a_case.placement.grid.ndim == 3 else "mm²")
    for structure in found.structures:
        assert (structure.share, structure.missing, structure.extra, structure.blob) == (0, 0, 0, 0)
        assert (structure.blob_kind, structure.blob_center) == ("", None)


def test_a_lump_is_found_where_it_is_with_its_size(swapped):
    result, where, middle = swapped
    found = disagreement(result)
    core, shell = found.structures
    grid = result.placement.grid
    voxel = np.prod(grid.spacing) / (1000 if grid.ndim == 3 else 1)
    assert (core.name, core.blob_kind, core.missing) == ("core", "extra", 0)
    assert core.extra == pytest.approx(where.sum() * voxel)
    assert core.blob == pytest.approx(where.sum() * voxel)
    both = fitted(result).argmax(axis=0) == 2
    assert core.share == pytest.approx(where.sum() / both.sum())
    center = grid.transform_points(middle[::-1].astype(float), "world", "voxel")
    assert np.linalg.norm(np.subtract(core.blob_center, center)) <= max(grid.spacing)
    assert core.share > shell.share == 0, "the worst comes first"


def test_the_map_is_the_total_variation_distance(swapped):
    result, where, _ = swapped
    found = disagreement(result).map
    assert found.grid == result.placement.grid
    expected = np.abs(fitted(result) - result.soft_prediction.array).sum(axis=0) / 2
    np.testing.assert_allclose(found.array[0], expected, atol=1e-4)
    assert found.array[0][where].min() > 0.5
    assert found.array.max() <= 1


def test_the_other_way_round_it_is_missing(a_case):
    """What is predicted beyond the atlas is missing of the atlas."""
    soft, grid = a_case.soft_prediction.array.copy(), a_case.placement.grid
    corner = (slice(0, 3),) * grid.ndim
    assert soft[0][corner].min() > 0.99
    soft[(slice(None), *corner)] = np.array([0.0, 1.0, 0.0]).reshape(3, *[1] * grid.ndim)
    shell = disagreement(predicting(a_case, soft)).structures[0]
    assert (shell.name, shell.blob_kind, shell.extra) == ("shell", "missing", 0)
    assert shell.missing == pytest.approx(3**grid.ndim * np.prod(grid.spacing) / (1000 if grid.ndim == 3 else 1))
    index = grid.transform_points(shell.blob_center, "voxel", "world")
    np.testing.assert_allclose(index, 1, atol=1e-6)


def test_a_thick_lump_is_told_before_a_longer_seam(a_result):
    """A seam of one voxel along all of a boundary is what two grids always have; a lump is something to look at."""
    soft = fitted(a_result)
    codes = soft.argmax(axis=0)
    codes[1:9, 1, 1:12] = 1  # a sheet of 88 voxels, one voxel thick
    codes[-3:-1, -3:-1, -3:-1] = 1  # a lump of 8
    soft = (np.arange(3).reshape(3, 1, 1, 1) == codes).astype(np.float32)
    shell = next(s for s in disagreement(predicting(a_result, soft)).structures if s.name == "shell")
    voxel = np.prod(a_result.placement.grid.spacing) / 1000
    assert shell.blob == pytest.approx(8 * voxel)
    assert shell.missing > 90 * voxel


def test_a_structure_that_neither_has(a_case):
    """Its share is no number, and it comes last."""
    soft = a_case.soft_atlas.array.copy()
    soft[1] += soft[2]
    soft[2] = 0
    atlas = replace(a_case, soft_atlas=a_case.soft_atlas.with_array(soft))
    found = disagreement(predicting(atlas, fitted(atlas)))
    assert [(s.name, s.share) for s in found.structures] == [("shell", 0.0), ("core", None)]
    json.dumps(found.as_values(), allow_nan=False)


def test_refinement_brings_both_together(a_small_bundle, a_result):
    before = disagreement(a_result)
    after = disagreement(refine(a_small_bundle, a_result, RefineConfig(60, 5.0, mode="field")))
    assert after.map.array.mean() < 0.6 * before.map.array.mean()
    worst = [max(s.share for s in found.structures) for found in (before, after)]
    assert worst[1] < 0.7 * worst[0]


def test_it_is_measured_against_what_the_atlas_was_fitted_to(a_small_bundle, a_result):
    """After fitting to a target it is the target that counts, and any other can be asked for."""
    away = a_result.labels.with_array(np.roll(a_result.labels.array, 3, axis=3))
    config = RefineConfig(60, 5.0, mode="field")
    refined = refine(a_small_bundle, a_result, config, steering=Steering(away))
    own, to_target = disagreement(refined), disagreement(refined, away)
    np.testing.assert_allclose(own.map.array, to_target.map.array, atol=1e-4)
    itn = disagreement(replace(refined, target=None))
    assert own.map.array.mean() < 0.5 * itn.map.array.mean()
    with pytest.raises(AtlasISTNError, match="which the model has not"):
        disagreement(refined, away.with_array(away.array + 1))


def test_on_the_images_own_voxels(swapped):
    result, _, middle = swapped
    found = disagreement(result)
    seen = found.on(result.image.grid)
    assert seen.grid == result.image.grid
    center = result.placement.grid.transform_points(middle[::-1].astype(float), "world", "voxel")
    index = np.rint(result.image.grid.transform_points(center, "voxel", "world")).astype(int)[::-1]
    assert seen.array[0][tuple(index)] > 0.5
    far = Grid.centered(result.image.grid.shape, result.image.grid.spacing, [-900.0] * result.image.grid.ndim)
    assert found.on(far).array.max() == 0


def test_a_single_slice_is_measured_in_mm2(a_flat_bundle, a_flat_image, oblique_grid):
    grid = Grid.centered((1, 30, 34), (1.3, 0.9, 3.0), (9.0, 8.0, 7.0), oblique_grid.direction)
    found = disagreement(segment(a_flat_bundle, Volume.from_array(a_flat_image.array, grid)))
    assert found.unit == "mm²"
    area = np.prod(a_flat_bundle.grid.spacing)
    for structure in found.structures:
        assert structure.missing / area == pytest.approx(round(structure.missing / area), abs=1e-6)
        assert structure.missing + structure.extra > 0
        assert len(structure.blob_center) == 3
        assert abs(grid.transform_points(structure.blob_center, "voxel", "world")[2]) < 1e-6
