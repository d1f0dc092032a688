"""Steered refinement: what each way of steering does to the loss and to where the atlas ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from AtlasISTNLib.configs import MODES, ModelConfig, PlacementConfig, RefineConfig
from AtlasISTNLib.errors import ConfigError, GeometryError, VolumeError
from AtlasISTNLib.folding import folding
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.guidance import Pairs
from AtlasISTNLib.losses import folded_share, smoothness
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.steering import Landmarks, Steering, certainty_of
from AtlasISTNLib.topology import mask_topology
from AtlasISTNLib.volume import Volume
from AtlasISTNLib.warp import Transformation, metric_affine, reference_affine, sample

FIELD = RefineConfig(40, 20.0, mode="field")
either_mode = pytest.mark.parametrize("mode", MODES)
either_direction = pytest.mark.parametrize("direction", ["atlas_from_image", "image_from_atlas"])


def soft_of(bundle, result) -> torch.Tensor:
    return torch.from_numpy(result.soft_prediction.array.copy()).reshape(1, 3, *bundle.config.shape)


def apart(one, other) -> float:
    """Largest distance in mm between where two results take the atlas's structures."""
    atlas = one.soft_atlas
    points = atlas.grid.points()[atlas.array[1:].sum(axis=0) > 0.5]
    found = (result.correspondence.image_from_atlas(points) for result in (one, other))
    return float(np.linalg.norm(np.subtract(*found), axis=-1).max())


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


# --------------------------------------------------------------------------------------- nothing steers: as published


@either_mode
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_without_steering_the_loss_is_bit_for_bit_as_published(mode, gamma, a_small_bundle, a_result):
    config = RefineConfig(3, 20.0, gamma=gamma, mode=mode)
    plain = refine(a_small_bundle, a_result, config)
    empty = refine(a_small_bundle, a_result, config, steering=Steering(label_weights={3: 1.0, 7: 1.0}))
    assert plain.trace.steps == empty.trace.steps
    assert (plain.trace.steering, plain.trace.landmarks, plain.target) == (None, (), None)
    if mode == "network":
        return  # its first step computes velocities anew
    soft, model = soft_of(a_small_bundle, a_result), a_small_bundle.model
    warp = model.transformation(a_result.state.velocity, a_result.state.affine)
    plus, minus = warp.displacement(1), warp.displacement(-1)
    atlas = model.atlas_labels[1:].unsqueeze(0)
    a2s = F.mse_loss(soft[:, 1:], sample(atlas, warp.atlas_from_image(plus)))
    s2a = F.mse_loss(sample(soft[:, 1:], warp.image_from_atlas(minus)), atlas)
    total = 1.0 * a2s + gamma * (s2a if gamma else 0.0) + 20.0 * smoothness(plus, soft)
    first = plain.trace.steps[0]
    assert (first.total, first.a2s) == (total.item(), a2s.item())
    assert first.s2a == (s2a.item() if gamma else 0.0)


@either_mode
@pytest.mark.parametrize("ndim", [2, 3])
def test_without_steering_the_result_is_bit_for_bit_as_without_the_option(
    ndim, mode, make_bundle, an_image, a_flat_image
):
    bundle = make_bundle(ndim)
    result, config = segment(bundle, an_image if ndim == 3 else a_flat_image), RefineConfig(3, 20.0, mode=mode)
    plain, empty = refine(bundle, result, config), refine(bundle, result, config, steering=Steering())
    for key in ("displacement", "displacement_back"):
        ours, theirs = (getattr(r.correspondence, key).array for r in (empty, plain))
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(empty.correspondence.theta, plain.correspondence.theta)
    np.testing.assert_array_equal(empty.labels.array, plain.labels.array)


def test_a_weight_of_an_unknown_label_is_refused_even_where_it_changes_nothing(a_small_bundle, a_result):
    with pytest.raises(ConfigError, match="the label 5, which the model has not"):
        refine(a_small_bundle, a_result, FIELD, steering=Steering(label_weights={5: 1.0}))


# -------------------------------------------------------------------------------------------------------- landmarks


@either_direction
@pytest.mark.parametrize("convention", ["metric", "reference"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_gradient_of_the_landmark_term(ndim, convention, direction):
    """Against central differences, through affine and velocity, in double precision."""
    shape = (12, 10, 14)[-ndim:]
    config = ModelConfig(2, shape, convention=convention, direction=direction)
    generator = torch.Generator().manual_seed(3)
    half = tuple(n // 2 + n // 2 % 4 for n in shape)
    velocity = torch.randn(1, ndim, *half, generator=generator, dtype=torch.float64)
    affine = 0.2 * torch.randn(1, 5 if ndim == 2 else 9, generator=generator, dtype=torch.float64)
    points = torch.rand(4, ndim, generator=generator, dtype=torch.float64) - 0.5
    pairs = Pairs(points.reshape(*[1] * ndim, 4, ndim), points + 0.2, 10 * torch.ones(ndim).double(), 1.0)

    def term(v: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        theta = reference_affine(a) if convention == "reference" else metric_affine(a, (10.0,) * ndim)
        return pairs.distances(Transformation(theta, v, config)).mean()

    leaves = [velocity.requires_grad_(True), affine.requires_grad_(True)]
    gradients = torch.autograd.grad(term(*leaves), leaves)
    for k, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        for index in gradient.abs().flatten().topk(3).indices.tolist():
            step = torch.zeros_like(leaf).flatten()
            step[index] = 1e-5
            ends = [[*leaves[:k], leaf.detach() + s * step.reshape(leaf.shape), *leaves[k + 1 :]] for s in (1, -1)]
            slope = (term(*ends[0]) - term(*ends[1])).item() / 2e-5
            assert slope == pytest.approx(gradient.flatten()[index].item(), rel=1e-3)


@pytest.fixture
def pulled():
    """A function that gives a result's steering by two landmarks, each 1.5 mm from where the atlas takes it."""

    def made(bundle, result, weight: float) -> Landmarks:
        middle = np.array(bundle.grid.center)
        atlas = np.stack([middle + 2.0, middle - 2.5])
        d = result.correspondence.theta.shape[0] - 1
        atlas = np.concatenate([atlas, np.zeros((2, d - atlas.shape[1]))], axis=1)
        image = result.correspondence.image_from_atlas(atlas)
        along = np.array(result.placement.grid.direction)[:, 0]
        return Landmarks(atlas, image + 1.5 * np.outer([1, -1], along), weight, ("right", "left"))

    return made


@either_mode
@either_direction
@pytest.mark.parametrize("ndim", [2, 3])
def test_landmarks_with_a_large_weight_meet(ndim, direction, mode, make_bundle, an_image, a_flat_image, pulled):
    """In images that lie obliquely and are left-handed."""
    bundle = make_bundle(ndim, direction=direction)
    result = segment(bundle, an_image if ndim == 3 else a_flat_image)
    marks = pulled(bundle, result, 1.0)
    seen = []
    steering = Steering(landmarks=marks)
    refined = refine(bundle, result, replace(FIELD, mode=mode, iterations=60), seen.append, steering=steering)
    left = np.linalg.norm(refined.correspondence.image_from_atlas(marks.atlas) - marks.image, axis=1)
    assert left.max() < 0.5
    names = [(mark.name, mark.before) for mark in refined.trace.landmarks]
    assert names == [("right", pytest.approx(1.5, abs=0.15)), ("left", pytest.approx(1.5, abs=0.15))]
    assert [mark.after for mark in refined.trace.landmarks] == pytest.approx(left.tolist())
    best, first = refined.trace.steps[refined.trace.best], refined.trace.steps[0]
    assert best.landmarks == pytest.approx(np.mean(np.square(best.distances)), rel=1e-4)
    assert first.total == pytest.approx(first.a2s + 20 * first.reg + first.landmarks, rel=1e-5)
    assert [p.values["landmarks"] for p in seen] == [s.landmarks for s in refined.trace.steps]
    assert refined.trace.steering["landmark_weight"] == 1.0


def test_landmarks_on_a_single_slice_in_space(a_flat_bundle, a_flat_image, pulled):
    turn = np.linalg.qr(np.array([[2.0, 1, 0.5], [-1, 2, 1], [0.3, -0.8, 2]]))[0]
    slab = Volume.from_array(a_flat_image.array, Grid.centered((1, 30, 34), (1.3, 0.9, 3.0), (9.0, 8.0, 7.0), turn))
    result = segment(a_flat_bundle, slab)
    marks = pulled(a_flat_bundle, result, 1.0)
    assert marks.atlas.shape == (2, 3)
    refined = refine(a_flat_bundle, result, FIELD, steering=Steering(landmarks=marks))
    assert max(mark.after for mark in refined.trace.landmarks) < 0.5
    assert np.linalg.norm(refined.correspondence.image_from_atlas(marks.atlas) - marks.image, axis=1).max() < 0.5


def test_the_weight_of_landmarks_does_not_depend_on_the_grids_size():
    """One shift of 2 mm on two grids of one extent costs 4 mm² on both."""
    for shape in ((9, 9), (33, 33)):
        half = torch.full((2,), 16.0)
        config = ModelConfig(2, shape, nonrigid=False)
        theta = metric_affine(torch.zeros(1, 5), (16.0, 16.0))
        points = torch.tensor([[[[0.25, -0.5]]]])
        pairs = Pairs(points, points.reshape(1, 2) + torch.tensor([[2 / 16, 0.0]]), half, 1.0)
        assert pairs.distances(Transformation(theta, None, config)).item() == pytest.approx(4.0)


# ----------------------------------------------------------------------------------------------- what labels may do


@pytest.fixture
def spoiled(a_small_bundle, a_result):
    """A result whose prediction has a slab of nonsense, and the mask of the slab on a finer oblique grid."""
    soft = a_result.soft_prediction.array.copy()
    grid = a_result.placement.grid
    along = grid.points() @ np.array(grid.direction)[:, 2]
    middle = np.median(along)
    soft[:, along > middle + 3] = np.array([0.0, 0.0, 1.0])[:, np.newaxis]
    fine = Grid.centered(np.multiply(grid.shape, 2), np.divide(grid.spacing, 2), grid.center, grid.direction)
    mask = fine.points() @ np.array(grid.direction)[:, 2] > middle + 2
    return (
        replace(a_result, soft_prediction=a_result.soft_prediction.with_array(soft)),
        Volume.from_array(mask.astype(np.uint8), fine, "slab"),
    )


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_what_is_ignored_does_not_matter(gamma, a_small_bundle, a_result, spoiled):
    bad, mask = spoiled
    config = replace(FIELD, gamma=gamma)
    wanted = refine(a_small_bundle, a_result, config, steering=Steering(ignore=mask))
    found = refine(a_small_bundle, bad, config, steering=Steering(ignore=mask))
    assert apart(found, wanted) < (1e-6 if gamma == 0 else 0.1)
    pulled = refine(a_small_bundle, bad, config)
    assert apart(pulled, wanted) > 1.0
    assert 10 < found.trace.steering["ignored_percent"] < 60
    assert found.trace.steering["ignore"] == "slab"


def test_what_is_not_ignored_counts_as_always(a_small_bundle, a_result):
    """The term is the sum over the voxels that count, over the number of all voxels."""
    placed = a_result.placement.grid
    halved = Volume.from_array((placed.points()[..., 2] > placed.center[2]).astype(np.uint8), placed)
    steering = Steering(ignore=halved, label_weights={3: 2.0, 7: 0.5})
    first = refine(a_small_bundle, a_result, replace(FIELD, iterations=1), steering=steering).trace.steps[0]
    model, soft = a_small_bundle.model, soft_of(a_small_bundle, a_result)
    warp = model.transformation(a_result.state.velocity, a_result.state.affine)
    squares = (soft - sample(model.atlas_labels.unsqueeze(0), warp.atlas_from_image()))[0, 1:].square()
    kept = torch.from_numpy(halved.array[0] == 0)
    expected = (kept * (2.0 * squares[0] + 0.5 * squares[1])).sum() / squares.numel()
    assert first.a2s == pytest.approx(expected.item(), rel=1e-5)


def test_a_structure_without_weight_does_not_attract(a_small_bundle, a_result):
    """The core is predicted elsewhere: with weight 0 the atlas goes where it goes without that."""
    soft = a_result.soft_prediction.array.copy()
    moved = np.roll(soft[2], 4, axis=2)
    bad = replace(a_result, soft_prediction=a_result.soft_prediction.with_array(np.stack([soft[0], soft[1], moved])))
    steering = Steering(label_weights={7: 0.0})
    wanted = refine(a_small_bundle, a_result, FIELD, steering=steering)
    found = refine(a_small_bundle, bad, FIELD, steering=steering)
    assert apart(found, wanted) < 1e-6
    assert apart(refine(a_small_bundle, bad, FIELD), wanted) > 1.0


def test_uncertain_labels_pull_less(a_small_bundle, a_result):
    """A prediction that wavers between all labels in half of the image, wrongly, is followed less there."""
    soft = a_result.soft_prediction.array.copy()
    grid = a_result.placement.grid
    side = grid.points() @ np.array(grid.direction)[:, 1] > np.dot(grid.center, np.array(grid.direction)[:, 1]) + 2
    soft[:, side] = np.array([0.30, 0.36, 0.34])[:, np.newaxis]
    bad = replace(a_result, soft_prediction=a_result.soft_prediction.with_array(soft))
    good = refine(a_small_bundle, a_result, FIELD)
    blind, wary = (refine(a_small_bundle, bad, FIELD, steering=Steering(certainty=c)) for c in (False, True))
    assert apart(wary, good) < 0.7 * apart(blind, good)


def test_labels_that_are_equally_certain_pull_as_always(a_small_bundle, a_result):
    shape = (3, *a_small_bundle.config.shape)
    codes = a_result.soft_prediction.array.argmax(axis=0)
    even = np.where(np.arange(3).reshape(3, 1, 1, 1) == codes, 0.8, 0.1).astype(np.float32)
    assert even.shape == shape
    assert np.ptp(certainty_of(even)) < 1e-6
    result = replace(a_result, soft_prediction=a_result.soft_prediction.with_array(even))
    plain, wary = (
        refine(a_small_bundle, result, replace(FIELD, iterations=4), steering=Steering(certainty=c)).trace.steps
        for c in (False, True)
    )
    assert [s.total for s in wary] == pytest.approx([s.total for s in plain], rel=1e-4)


# ---------------------------------------------------------------------------------------------------------- targets


@either_mode
def test_the_prediction_as_a_target_changes_nothing(mode, a_small_bundle, a_result):
    config = RefineConfig(5, 20.0, mode=mode)
    soft = a_result.soft_prediction.array.clip(0, 1)
    result = replace(a_result, soft_prediction=a_result.soft_prediction.with_array(soft / soft.sum(axis=0)))
    plain = refine(a_small_bundle, result, config)
    again = refine(a_small_bundle, result, config, steering=Steering(result.soft_prediction))
    assert [s.total for s in again.trace.steps] == pytest.approx([s.total for s in plain.trace.steps], rel=1e-3)
    np.testing.assert_allclose(again.target.array, result.soft_prediction.array, atol=1e-5)
    assert plain.target is None


@pytest.fixture
def broken(a_result, make_image, oblique_grid):
    """The blobs as a label map with a hole, a bite and two islands, on a grid of its own; and the true one."""
    grid = Grid.centered((44, 40, 36), (0.9, 1.0, 1.1), oblique_grid.center)
    values = make_image(grid, tuple(np.add(oblique_grid.center, [1.5, -1.0, 2.0])), 1.1).array[0]
    true = np.where(values > 75, 7, np.where(values > 15, 3, 0)).astype(np.int16)
    bad, points, middle = true.copy(), grid.points(), np.add(oblique_grid.center, [1.5, -1.0, 2.0])
    for offset, radius, value in (
        ((-3.0, -3.5, -4.0), 1.6, 0),
        ((-12.0, 10.0, 9.0), 3.0, 3),
        ((12.0, -11.0, -10.0), 3.0, 7),
        ((5.0, 5.5, 0.0), 3.5, 0),
    ):
        bad[np.linalg.norm(points - middle - offset, axis=-1) < radius] = value
    return Volume.from_array(bad, grid, "broken"), Volume.from_array(true, grid, "true")


def test_islands_and_holes_of_a_target_are_mended(broken, a_small_bundle, an_image):
    target, true = broken
    codes = {0: 0, 3: 30, 7: 70}
    other = target.with_array(np.vectorize(codes.get)(target.array))
    assert mask_topology(target.array[0] > 0).components == 3
    assert mask_topology(target.array[0] > 0).holes == 1
    scan = Volume.from_array(np.zeros(an_image.grid.shape), an_image.grid).resampled(true.grid)
    scan = scan.with_array(np.arange(scan.array.size).reshape(scan.array.shape))  # nothing that an ITN could read
    result = segment(a_small_bundle, scan, target=other, target_map={30: 3, 70: 7})
    assert (result.source, result.placement.how) == ("target", "target")
    assert np.linalg.norm(np.subtract(result.placement.grid.center, np.add(an_image.grid.center, (1.5, -1, 2)))) < 3
    refined = refine(a_small_bundle, result, RefineConfig(80, 5.0, mode="field"))
    found = refined.labels.array[0]
    for mask in (found > 0, found == 7):
        assert (mask_topology(mask).components, mask_topology(mask).holes) == (1, 0)
    assert dice(found > 0, true.array[0] > 0) > dice(target.array[0] > 0, true.array[0] > 0)
    assert dice(found > 0, true.array[0] > 0) > 0.95
    np.testing.assert_array_equal(refined.target.array, refined.soft_prediction.array)


def test_a_target_replaces_the_prediction(a_small_bundle, a_result, broken):
    _, true = broken
    before = a_result.soft_prediction.array.copy()
    away = Volume.from_array(np.roll(true.array[0], 3, axis=0), true.grid, "away")
    config = RefineConfig(60, 20.0, mode="field")
    refined = refine(a_small_bundle, a_result, config, steering=Steering(away))
    wanted = away.resampled(refined.labels.grid, "nearest").array > 0
    assert dice(refined.labels.array > 0, wanted) > 0.9 > dice(a_result.labels.array > 0, wanted)
    np.testing.assert_array_equal(refined.soft_prediction.array, before)
    assert refined.trace.steering["target"] == "away"
    assert refine(a_small_bundle, refined, replace(config, iterations=2)).target is None


def test_a_target_in_2d_and_on_a_slice(a_flat_bundle, a_flat_image):
    labels = np.where(a_flat_image.array[0] > 75, 7, np.where(a_flat_image.array[0] > 15, 3, 0))
    flat = Volume.from_array(labels, a_flat_image.grid)
    noise = a_flat_image.with_array(np.random.default_rng(1).normal(size=labels.shape))
    refined = refine(a_flat_bundle, segment(a_flat_bundle, noise, target=flat), FIELD)
    assert dice(refined.labels.array[0] > 0, labels > 0) > 0.93
    turn = np.linalg.qr(np.array([[2.0, 1, 0.5], [-1, 2, 1], [0.3, -0.8, 2]]))[0]
    slab = Grid.centered((1, 30, 34), (1.3, 0.9, 3.0), (9.0, 8.0, 7.0), turn)
    thick = Grid.centered((4, 30, 34), (1.3, 0.9, 2.0), (9.0, 8.0, 7.0), turn)
    target = Volume.from_array(np.repeat(labels[np.newaxis], 4, axis=0), thick)
    result = segment(a_flat_bundle, Volume.from_array(noise.array, slab), target=target)
    refined = refine(a_flat_bundle, result, FIELD)
    assert dice(refined.labels.array[0, 0] > 0, labels > 0) > 0.93
    again = refine(a_flat_bundle, result, FIELD, steering=Steering(target, ignore=target.with_array(target.array == 9)))
    assert apart(again, refined) < 0.05


def test_targets_that_cannot_be(a_small_bundle, make_bundle, an_image, broken):
    target, _ = broken
    with pytest.raises(ConfigError, match="registers images"):
        segment(make_bundle(3, stn_input="image"), an_image, target=target)
    with pytest.raises(VolumeError, match="which the model has not"):
        segment(a_small_bundle, an_image, target=target.with_array(target.array + 1))
    far = Grid.centered(target.grid.shape, target.grid.spacing, (-500.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match="outside blob"):
        segment(a_small_bundle, an_image, target=Volume.from_array(target.array[0], far, "far"))
    given = segment(a_small_bundle, an_image, PlacementConfig("center"), target=target)
    assert given.placement.how == "center"


def test_a_model_of_images_is_steered_by_a_target(make_bundle, an_image, broken):
    bundle = make_bundle(3, stn_input="image")
    result = segment(bundle, an_image)
    with pytest.raises(ConfigError, match="predicts no labels"):
        refine(bundle, result, FIELD)
    refined = refine(bundle, result, FIELD, steering=Steering(broken[1]))
    assert refined.trace.steps[-1].total < 0.5 * refined.trace.steps[0].total


# ---------------------------------------------------------------------------------------------------------- folding


@pytest.mark.parametrize("ndim", [2, 3])
def test_share_of_folded_cells(ndim):
    """A field that turns every other row back on itself folds half of the cells; a smooth one none."""
    shape = (9, 11, 13)[-ndim:]
    field = torch.zeros(1, ndim, *shape)
    assert folded_share(None) == folded_share(field) == 0
    x = torch.arange(shape[-1]) * (2 / (shape[-1] - 1))
    field[0, 0] = 0.3 * torch.sin(2 * x)
    assert folded_share(field) == 0
    field[0, 0] = 1.5 * (2 / (shape[-1] - 1)) * (torch.arange(shape[-1]) % 2)
    assert folded_share(field) == pytest.approx(0.5)


def test_folding_of_a_step_is_there_when_asked_for(a_flat_bundle, a_flat_result):
    shares = []
    wild = RefineConfig(30, 0.0, mode="field", learning_rate=3.0)
    refine(a_flat_bundle, a_flat_result, wild, lambda p: shares.append((p.more()["folding"], p.preview())))
    assert shares[0][0] == 0
    folded, seen = shares[-1]
    assert 0 < folded < 1
    grid = seen.image_grid
    points = seen.atlas_grid.transform_points(seen.atlas_from_image(grid.points()), "voxel", "world")
    assert folding(points).voxels > 0
