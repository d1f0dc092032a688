"""Segmenting and refining: what refinement promises, and that it leaves everything else as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from AtlasISTNLib import segmentation
from AtlasISTNLib.configs import MODES, PlacementConfig, RefineConfig
from AtlasISTNLib.correspondence import Correspondence
from AtlasISTNLib.errors import Cancelled, ConfigError, DeviceError, DivergenceError, VolumeError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.segmentation import LEARNING_RATES, refine, resolved, segment
from AtlasISTNLib.volume import Volume
from AtlasISTNLib.warp import sample

either_mode = pytest.mark.parametrize("mode", MODES)


def same_maps(one, other) -> bool:
    """Whether two results map alike to 0.1 µm, which is the rounding of the networks."""
    points = one.correspondence.image_grid.points()
    pair = (result.correspondence.atlas_from_image(points) for result in (one, other))
    return np.allclose(*pair, rtol=0, atol=1e-4)


def loss_terms(bundle, result) -> tuple[float, float, float]:
    """a2s, s2a and the regulariser of a result's state, written out by hand."""
    prediction = torch.from_numpy(result.soft_prediction.array.copy()).reshape(1, 3, *bundle.config.shape)
    warp = bundle.model.transformation(result.state.velocity, result.state.affine)
    atlas = bundle.model.atlas_labels.unsqueeze(0)
    a2s = ((prediction - sample(atlas, warp.atlas_from_image()))[:, 1:] ** 2).mean()
    s2a = ((sample(prediction, warp.image_from_atlas()) - atlas)[:, 1:] ** 2).mean()
    steps = [torch.diff(warp.displacement(1), dim=axis) ** 2 for axis in range(2, 2 + bundle.config.ndim)]
    return a2s.item(), s2a.item(), float(np.mean([step.mean().item() for step in steps]))


class TestSegment:
    def test_prediction_reads_the_image(self, a_result, an_image):
        """The ITN gives 3 around 50 and 7 around 100, at the image's own voxels."""
        values, found = an_image.array, a_result.prediction.array
        assert found.shape == values.shape
        clear = (np.abs(values) < 10) | (np.abs(values - 50) < 5) | (values > 90)
        expected = np.where(values > 90, 7, np.where(values > 25, 3, 0))
        inside = a_result.placement.grid.contains(an_image.grid.points())
        agree = (found == expected)[clear & inside]
        assert agree.mean() > 0.9  # the model's voxels are larger than the image's
        assert {3, 7} <= set(np.unique(found))
        assert a_result.names == {3: "shell", 7: "core"}
        assert a_result.trace is None
        assert a_result.correspondence is a_result.one_pass
        assert a_result.one_pass_labels is a_result.labels

    def test_stages_are_reported_in_order(self, a_small_bundle, an_image):
        stages = []
        segment(a_small_bundle, an_image, report=lambda p: stages.append(p.stage))
        assert list(dict.fromkeys(stages)) == ["place", "predict", "register"]

    def test_it_can_be_stopped_at_every_stage(self, a_small_bundle, an_image):
        asked = []
        segment(a_small_bundle, an_image, cancel=lambda: bool(asked.append(1)))
        assert len(asked) >= 3
        for last in range(len(asked)):
            calls = iter(range(100))
            with pytest.raises(Cancelled):
                segment(a_small_bundle, an_image, cancel=lambda calls=calls, last=last: next(calls) == last)

    def test_unusable_images_are_refused(self, a_small_bundle, a_flat_bundle, an_image, a_flat_image):
        with pytest.raises(VolumeError, match="is 2D"):
            segment(a_small_bundle, a_flat_image)
        with pytest.raises(VolumeError, match="model is 2D"):
            segment(a_flat_bundle, an_image)
        for bad in (np.nan, 1e30):
            values = an_image.array.copy()
            values[0, 3, 4, 5] = bad
            with pytest.raises(VolumeError, match="blob"):
                segment(a_small_bundle, an_image.with_array(values))

    def test_structures_at_the_border_of_the_model_grid_are_named(self, a_small_bundle, make_image, a_result):
        assert not [w for w in a_result.placement.warnings if "border" in w]
        grid = Grid.centered((16, 20, 12), (1.5, 1.2, 2.0))
        off = make_image(grid, (0.0, 8.0, 0.0))
        result = segment(a_small_bundle, off, PlacementConfig("center"))
        (warning,) = (w for w in result.placement.warnings if "border" in w)
        assert "shell" in warning

    def test_out_of_memory_is_a_device_error(self, a_small_bundle, an_image, monkeypatch, a_result):
        def full(*args: object, **kwargs: object) -> None:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(segmentation, "normalised", full)
        with pytest.raises(DeviceError, match="segmenting blob"):
            segment(a_small_bundle, an_image)
        monkeypatch.setattr(segmentation, "smoothness", full)
        with pytest.raises(DeviceError, match="refining blob"):
            refine(a_small_bundle, a_result, RefineConfig(2))


class TestRefine:
    @either_mode
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_it_lowers_its_loss_and_says_so(self, ndim, mode, a_small_bundle, a_flat_bundle, a_result, a_flat_result):
        bundle, result = (a_small_bundle, a_result) if ndim == 3 else (a_flat_bundle, a_flat_result)
        seen = []
        config = RefineConfig(8, 20.0, mode=mode)
        refined = refine(bundle, result, config, report=seen.append)
        steps = refined.trace.steps
        assert [(p.stage, p.step, p.total) for p in seen] == [("refine", i, 8) for i in range(9)]
        assert [p.values["total"] for p in seen] == [s.total for s in steps]
        totals = [s.total for s in steps]
        assert min(totals) < 0.6 * totals[0]
        assert totals[refined.trace.best] == min(totals)
        assert (refined.trace.stopped, refined.trace.config.mode) == ("finished", mode)
        # The state that came back is that of the best step.
        a2s, _, reg = loss_terms(bundle, refined)
        best = steps[refined.trace.best]
        assert best.a2s == pytest.approx(a2s, rel=1e-4)
        assert best.reg == pytest.approx(reg, rel=1e-4)
        assert best.total == pytest.approx(a2s + 20 * reg, rel=1e-4)
        assert not same_maps(refined, result)
        np.testing.assert_array_equal(refined.one_pass_labels.array, result.labels.array)

    @pytest.mark.parametrize("mode", MODES)
    def test_all_terms_of_the_loss(self, mode, a_flat_bundle, a_flat_result):
        for direction in ("a2s", "s2a", "both"):
            beta, gamma = {"a2s": (0.7, 0.0), "s2a": (0.0, 1.3), "both": (0.7, 1.3)}[direction]
            config = RefineConfig(3, 5.0, beta=beta, gamma=gamma, mode=mode)
            trace = refine(a_flat_bundle, a_flat_result, config).trace
            a2s, s2a, reg = loss_terms(a_flat_bundle, a_flat_result)
            first = trace.steps[0]
            assert first.total == pytest.approx(beta * a2s + gamma * s2a + 5 * reg, rel=1e-5)
            assert first.a2s == pytest.approx(a2s if beta else 0.0, rel=1e-5)
            assert first.s2a == pytest.approx(s2a if gamma else 0.0, rel=1e-5)
            assert min(s.total for s in trace.steps) < first.total

    @either_mode
    @pytest.mark.parametrize("direction", ["atlas_from_image", "image_from_atlas"])
    def test_both_directions_pull_the_atlas_to_the_image(self, mode, direction, make_bundle, a_flat_image):
        bundle = make_bundle(2, direction=direction)
        result = segment(bundle, a_flat_image)
        wanted = result.prediction.array
        refined = refine(bundle, result, RefineConfig(50, 5.0, gamma=0.5, mode=mode))

        def dice(labels: np.ndarray) -> float:
            return 2 * ((labels == wanted) & (wanted > 0)).sum() / ((labels > 0).sum() + (wanted > 0).sum())

        assert dice(refined.labels.array) > 0.9 > dice(result.labels.array)

    @either_mode
    def test_twice_is_the_same(self, mode, a_flat_bundle, a_flat_result):
        one, two = (refine(a_flat_bundle, a_flat_result, RefineConfig(5, mode=mode)) for _ in range(2))
        assert one.trace.steps == two.trace.steps
        assert same_maps(one, two)

    @either_mode
    def test_bundle_and_result_stay_as_they_were(self, mode, a_flat_bundle, a_flat_result):
        def everything() -> list[np.ndarray]:
            tensors = [*a_flat_bundle.model.state_dict().values(), a_flat_bundle.model.atlas_labels]
            tensors += [a_flat_bundle.model.atlas_image, a_flat_result.state.velocity, a_flat_result.state.affine]
            return [t.numpy().copy() for t in tensors] + [a_flat_result.correspondence.displacement.array.copy()]

        before = everything()
        refine(a_flat_bundle, a_flat_result, RefineConfig(4, mode=mode))
        for old, new in zip(before, everything(), strict=True):
            np.testing.assert_array_equal(old, new)
        assert not any(p.requires_grad for p in a_flat_bundle.model.parameters())

    @either_mode
    def test_it_goes_on_from_where_it_was(self, mode, a_flat_bundle, a_flat_result):
        first = refine(a_flat_bundle, a_flat_result, RefineConfig(5, 20.0, mode=mode))
        second = refine(a_flat_bundle, first, RefineConfig(3, 20.0, mode=mode))
        assert second.trace.steps[0].total == pytest.approx(first.trace.steps[first.trace.best].total, rel=1e-6)
        assert min(s.total for s in second.trace.steps) <= second.trace.steps[0].total
        assert second.one_pass is a_flat_result.one_pass

    @either_mode
    def test_it_goes_on_gently(self, mode, a_flat_bundle, a_flat_result):
        """Near a minimum Adam's first steps, as long as the rate whatever the gradient, would lead away from it."""
        refined = refine(a_flat_bundle, a_flat_result, RefineConfig(60, 20.0, mode=mode))
        afresh = refine(a_flat_bundle, replace(refined, trace=None), RefineConfig(6, 20.0, mode=mode)).trace.steps
        onwards = refine(a_flat_bundle, refined, RefineConfig(6, 20.0, mode=mode)).trace.steps
        assert onwards[0] == afresh[0]
        up = [max(step.total for step in steps[1:]) - steps[0].total for steps in (afresh, onwards)]
        assert up[1] < up[0] / 3

    def test_fields_can_go_on_from_a_network(self, a_flat_bundle, a_flat_result):
        first = refine(a_flat_bundle, a_flat_result, RefineConfig(5, 20.0, mode="network"))
        second = refine(a_flat_bundle, first, RefineConfig(3, 20.0, mode="field"))
        assert second.trace.steps[0].total == pytest.approx(first.trace.steps[first.trace.best].total, rel=1e-6)
        assert second.state.weights is None

    def test_never_worse_than_its_start(self, a_flat_bundle, a_flat_result):
        good = refine(a_flat_bundle, a_flat_result, RefineConfig(10, 20.0, mode="field"))
        worse = refine(a_flat_bundle, good, RefineConfig(3, 20.0, mode="field", learning_rate=3.0))
        assert worse.trace.steps[-1].total > worse.trace.steps[0].total
        assert worse.trace.best == 0
        assert same_maps(worse, good)

    @either_mode
    def test_larger_strength_keeps_more_of_the_atlass_shape(self, mode, a_flat_bundle, a_flat_result):
        weak, strong = (
            loss_terms(a_flat_bundle, refine(a_flat_bundle, a_flat_result, RefineConfig(15, s, mode=mode)))
            for s in (1.0, 3000.0)
        )
        assert strong[2] < 0.5 * weak[2]
        assert strong[0] > weak[0]

    def test_zero_iterations_give_the_result_back(self, a_small_bundle, a_result):
        assert refine(a_small_bundle, a_result, RefineConfig(0)) is a_result

    def test_the_itn_is_not_run_again(self, a_small_bundle, an_image):
        runs = []
        hook = a_small_bundle.model.itn.register_forward_hook(lambda *args: runs.append(1))
        try:
            result = segment(a_small_bundle, an_image, PlacementConfig("center"))
            assert len(runs) == 1
            for mode in MODES:
                refine(a_small_bundle, result, RefineConfig(3, gamma=1.0, mode=mode))
            assert len(runs) == 1
        finally:
            hook.remove()

    @either_mode
    def test_cancelling_keeps_the_best_so_far(self, mode, a_flat_bundle, a_flat_result):
        whole = refine(a_flat_bundle, a_flat_result, RefineConfig(8, mode=mode))
        steps = []
        stopped = refine(
            a_flat_bundle, a_flat_result, RefineConfig(8, mode=mode), steps.append, lambda: steps[-1].step == 3
        )
        assert stopped.trace.stopped == "cancelled"
        assert stopped.trace.steps == whole.trace.steps[:4]
        assert stopped.trace.best == int(np.argmin([s.total for s in stopped.trace.steps]))
        at_once = refine(a_flat_bundle, a_flat_result, RefineConfig(8, mode=mode), cancel=lambda: True)
        assert same_maps(at_once, a_flat_result)

    def test_divergence_carries_the_last_good_result(self, a_flat_bundle, a_flat_result):
        with pytest.raises(DivergenceError, match="not finite at step") as error:
            refine(a_flat_bundle, a_flat_result, RefineConfig(8, 20.0, mode="field", learning_rate=1e25))
        good = error.value.result
        assert good.trace.stopped == "diverged"
        assert np.isfinite([s.total for s in good.trace.steps]).all()
        assert same_maps(good, a_flat_result)
        assert {0, 3, 7} == set(np.unique(good.labels.array))

    def test_a_nan_at_a_later_step(self, a_flat_bundle, a_flat_result, monkeypatch):
        calls = iter(range(100))
        real = segmentation.smoothness

        def poisoned(displacement, like):
            return real(displacement, like) * (float("nan") if next(calls) == 4 else 1.0)

        monkeypatch.setattr(segmentation, "smoothness", poisoned)
        with pytest.raises(DivergenceError, match="step 4") as error:
            refine(a_flat_bundle, a_flat_result, RefineConfig(8, 20.0, mode="field"))
        good = error.value.result
        assert len(good.trace.steps) == 4
        assert good.trace.best == 3
        assert not same_maps(good, a_flat_result)

    def test_previews_are_the_state_of_their_step(self, a_flat_bundle, a_flat_result):
        previews = []
        refined = refine(
            a_flat_bundle, a_flat_result, RefineConfig(4, mode="field"), lambda p: previews.append(p.preview())
        )
        assert all(isinstance(p, Correspondence) for p in previews)
        points = a_flat_result.image.grid.points()
        first, best = (previews[i].atlas_from_image(points) for i in (0, refined.trace.best))
        # A preview keeps the field at the model grid's spacing, a result interpolates it smoothly.
        np.testing.assert_allclose(first, a_flat_result.correspondence.atlas_from_image(points), atol=0.05)
        np.testing.assert_allclose(best, refined.correspondence.atlas_from_image(points), atol=0.05)
        assert np.abs(best - first).max() > 0.1

    @pytest.mark.parametrize("parts", [{"affine": False}, {"nonrigid": False}])
    @either_mode
    def test_models_of_one_part(self, mode, parts, make_bundle, a_flat_image):
        bundle = make_bundle(2, **parts)
        result = segment(bundle, a_flat_image)
        refined = refine(bundle, result, RefineConfig(6, 20.0, mode=mode))
        assert min(s.total for s in refined.trace.steps) < refined.trace.steps[0].total
        if "nonrigid" in parts:
            assert not refined.correspondence.displacement.array.any()
            assert refined.trace.steps[0].reg == 0

    def test_another_models_result_is_refused(self, a_small_bundle, a_flat_bundle, a_result, a_flat_result):
        for bundle, result in ((a_small_bundle, a_flat_result), (a_flat_bundle, a_result)):
            with pytest.raises(ConfigError, match="not made with the model small"):
                refine(bundle, result, RefineConfig(1))
        renamed = replace(a_flat_bundle, labels=tuple(replace(x, value=x.value + 1) for x in a_flat_bundle.labels))
        with pytest.raises(ConfigError, match="not made with"):
            refine(renamed, a_flat_result, RefineConfig(1))

    def test_defaults_are_the_models_own(self, a_flat_bundle):
        config = resolved(RefineConfig(), a_flat_bundle)
        assert (config.iterations, config.strength) == (8, 20.0)
        assert config.learning_rate == LEARNING_RATES["network"]
        assert resolved(RefineConfig(mode="field"), a_flat_bundle).learning_rate == LEARNING_RATES["field"]
        tuned = replace(a_flat_bundle, refinement=replace(a_flat_bundle.refinement, learning_rate=0.5))
        assert resolved(RefineConfig(), tuned).learning_rate == 0.5
        assert resolved(RefineConfig(mode="field"), tuned).learning_rate == LEARNING_RATES["field"]
        assert resolved(RefineConfig(3, 4.0, learning_rate=0.1), tuned) == RefineConfig(3, 4.0, learning_rate=0.1)


class TestSingleSlices:
    def slice_of(self, flat: Volume, shape: tuple[int, int, int], axes: np.ndarray) -> Volume:
        """A 2D image as one slice whose picture axes are world axes."""
        thin = shape.index(1)
        spacing = list(flat.grid.spacing)
        spacing.insert(2 - thin, 3.0)
        grid = Grid.centered(shape, spacing, (0.0, 0.0, 0.0), axes)
        return Volume.from_array(flat.array.reshape(shape), grid, "slice")

    @pytest.fixture
    def straight(self, make_image) -> Volume:
        return make_image(Grid.centered((30, 34), (1.3, 0.9), (3.0, 4.0)), (4.0, 2.5), 1.1)

    @pytest.mark.parametrize("thin", [0, 1, 2])
    def test_a_slice_in_any_axis_is_its_2d_image(self, thin, straight, a_flat_bundle):
        shape = [30, 34]
        shape.insert(thin, 1)
        slab = self.slice_of(straight, tuple(shape), np.eye(3))
        flat = refine(a_flat_bundle, segment(a_flat_bundle, straight), RefineConfig(3))
        deep = refine(a_flat_bundle, segment(a_flat_bundle, slab), RefineConfig(3))
        assert deep.labels.grid == slab.grid
        np.testing.assert_array_equal(deep.labels.array.reshape(30, 34), flat.labels.array[0])
        np.testing.assert_array_equal(deep.prediction.array.reshape(30, 34), flat.prediction.array[0])
        np.testing.assert_allclose(deep.atlas_image.array.ravel(), flat.atlas_image.array.ravel(), atol=1e-4)
        assert deep.trace.steps == pytest.approx(flat.trace.steps) or [s.total for s in deep.trace.steps] == (
            pytest.approx([s.total for s in flat.trace.steps], rel=1e-4)
        )
        assert deep.placement.grid.shape == (1, *a_flat_bundle.config.shape)
        assert slab.grid.contains(deep.placement.grid.center)

    def test_places_are_given_in_the_worlds_millimetres(self, straight, a_flat_bundle):
        turn = np.linalg.qr(np.array([[2.0, 1, 0.5], [-1, 2, 1], [0.3, -0.8, 2]]))[0]
        slab = self.slice_of(straight, (1, 30, 34), turn)
        wanted = slab.grid.transform_points([20.0, 11.0, 0.0], "world", "voxel")
        result = segment(a_flat_bundle, slab, PlacementConfig("given", center=tuple(wanted + 2 * turn[:, 2])))
        np.testing.assert_allclose(result.placement.grid.center, wanted, atol=1e-6)
        box = np.stack([wanted - 6, wanted + 6], axis=1).ravel()
        result = segment(a_flat_bundle, slab, PlacementConfig("given", box=tuple(box.tolist())))
        np.testing.assert_allclose(result.placement.grid.center, wanted, atol=1e-6)
        with pytest.raises(ConfigError, match="outside the image"):
            segment(a_flat_bundle, slab, PlacementConfig("given", center=tuple(wanted + 200 * turn[:, 0])))
