"""What a training step sees and minimises: augmentation in degrees and millimetres, and the joint loss by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from AtlasISTNLib.augmentation import batch_of, prediction_noise
from AtlasISTNLib.configs import DIRECTIONS, NormalisationConfig, TrainConfig
from AtlasISTNLib.datasets import Case
from AtlasISTNLib.errors import ConfigError
from AtlasISTNLib.geometry import CUBE, WORLD, Grid
from AtlasISTNLib.losses import cross_entropy_dice
from AtlasISTNLib.objective import joint_loss
from AtlasISTNLib.prepared import prepare
from AtlasISTNLib.volume import Volume
from AtlasISTNLib.warp import sample

QUICK = TrainConfig(validation=0.0)


class TestAugmentation:
    GRID = Grid.centered((40, 48), (2.0, 1.2))

    @pytest.fixture
    def data(self, tmp_path):
        """A bar with a dot at one end, as image and as label."""
        grid = Grid.centered((70, 90), (2.0, 1.2))
        p = grid.points()
        bar = (np.abs(p[..., 0]) < 20) & (np.abs(p[..., 1]) < 4) | (np.linalg.norm(p - [20, 0], axis=-1) < 7)
        labels = Volume.from_array(bar.astype(np.uint8), grid)
        case = Case("bar", Volume.from_array(bar.astype(np.float32), grid), labels)
        none = NormalisationConfig("none")
        return lambda config: prepare([case] * 2, [0, 1], self.GRID, none, config, False, tmp_path)

    def drawn(self, data, config: TrainConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
        cpu = torch.device("cpu")
        image, labels = batch_of(data(config), torch.tensor([0, 1]), self.GRID, replace(config, seed=seed), 1, cpu)
        return image.numpy(), labels.numpy()

    def moments(self, weight: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Centroid in mm, angle in degrees and length in mm of a shape."""
        p, w = self.GRID.points().reshape(-1, 2), weight.ravel() / weight.sum()
        middle = w @ p
        spread = (p - middle).T @ np.diag(w) @ (p - middle)
        values, vectors = np.linalg.eigh(spread)
        long = vectors[:, 1] * np.sign(vectors[0, 1])
        return middle, np.rad2deg(np.arctan2(long[1], long[0])), float(np.sqrt(values[1]))

    def test_nothing_asked_nothing_changed(self, data):
        image, labels = self.drawn(data, replace(QUICK, label_blur=0.0), 0)
        prepared = data(replace(QUICK, label_blur=0.0))
        np.testing.assert_array_equal(image, prepared.images)
        np.testing.assert_array_equal(labels, prepared.labels.astype(np.float32))

    def test_images_and_labels_move_together(self, data):
        config = replace(QUICK, label_blur=0.0, rotation=20.0, translation=6.0, scale=0.2)
        image, labels = self.drawn(data, config, 1)
        np.testing.assert_allclose(image[:, 0], labels[:, 1], atol=0.02)
        assert np.abs(image[0] - image[1]).max() > 0.5  # each case by its own draw
        np.testing.assert_allclose(labels.sum(axis=1), 1, atol=5e-3)

    def test_limits_are_in_degrees_and_millimetres(self, data):
        still = self.moments(self.drawn(data, replace(QUICK, label_blur=0.0, noise=1e-9), 0)[1][0, 1])
        seen = {"rotation": [], "translation": [], "scale": []}
        for seed in range(12):
            for name, limit in (("rotation", 20.0), ("translation", 6.0), ("scale", 0.2)):
                labels = self.drawn(data, replace(QUICK, label_blur=0.0, **{name: limit}), seed)[1]
                for one in labels:
                    middle, angle, length = self.moments(one[1])
                    seen[name].append(
                        {
                            "rotation": angle - still[1],
                            "translation": np.abs(middle - still[0]).max(),
                            "scale": length / still[2] - 1,
                        }[name]
                    )
        assert 14 < np.abs(seen["rotation"]).max() < 20.5
        assert np.min(seen["rotation"]) < -5 < 5 < np.max(seen["rotation"])
        assert 4 < np.max(seen["translation"]) < 6.2
        assert 0.12 < np.max(seen["scale"]) < 0.21
        assert -0.21 < np.min(seen["scale"]) < -0.12

    def test_intensity_and_noise_leave_the_labels(self, data):
        plain = self.drawn(data, replace(QUICK, label_blur=0.0), 0)
        image, labels = self.drawn(data, replace(QUICK, label_blur=0.0, intensity=0.3), 2)
        np.testing.assert_array_equal(labels, plain[1])
        for one, old in zip(image, plain[0], strict=True):
            contrast = one.max() - one.min()
            np.testing.assert_allclose(one, one.min() + contrast * old, atol=1e-5)
            assert abs(contrast - 1) <= 0.3
            assert abs(one.min()) <= 0.3
        image, labels = self.drawn(data, replace(QUICK, label_blur=0.0, noise=0.2), 2)
        np.testing.assert_array_equal(labels, plain[1])
        assert 0.001 < (image - plain[0]).std(axis=(1, 2, 3)).max() < 0.21

    def test_elastic_deformation_is_smooth_and_bounded(self, data):
        """Within its limit in mm, for about half of the cases, and without folds."""
        coordinates = [
            Volume.from_array(axis, grid)
            for grid in (Grid.centered((70, 90), (2.0, 1.2)),)
            for axis in np.moveaxis(grid.points(), -1, 0)
        ]
        config, moved = replace(QUICK, label_blur=0.0, elastic=5.0), []
        for seed in range(10):
            shift = np.stack([self.points_seen(data, config, seed, axis) for axis in coordinates], axis=-1)
            shift = shift - self.GRID.points()
            inner = shift[:, 4:-4, 4:-4]
            for one in inner:
                moved.append(np.abs(one).max())
                steps = [np.diff(one, axis=a) / s for a, s in ((0, 2.0), (1, 1.2))]
                assert max(np.abs(step).max() for step in steps) < 0.9
        moved = np.array(moved)
        assert moved.max() < 5.0
        assert moved.max() > 1.5
        assert 0.2 < np.mean(moved < 1e-3) < 0.8

    def points_seen(self, data, config: TrainConfig, seed: int, axis: Volume) -> np.ndarray:
        """Where the augmented voxels come from along one axis: a ramp, sampled as an image is."""
        prepared = data(config)
        whole = Grid.centered(prepared.images.shape[2:], self.GRID.spacing)
        ramp = axis.resampled(whole, outside="minimum").array[0].astype(np.float32)
        ramps = replace(prepared, images=np.stack([ramp[None]] * 2))
        cpu = torch.device("cpu")
        image, _ = batch_of(ramps, torch.tensor([0, 1]), self.GRID, replace(config, seed=seed), 1, cpu)
        return image[:, 0].numpy()

    def test_blur_keeps_the_mean_and_lowers_the_contrast(self, data):
        plain = self.drawn(data, replace(QUICK, label_blur=0.0), 0)
        seen = []
        for seed in range(8):
            image, labels = self.drawn(data, replace(QUICK, label_blur=0.0, blur=2.0), seed)
            np.testing.assert_array_equal(labels, plain[1])
            np.testing.assert_allclose(image.mean(axis=(1, 2, 3)), plain[0].mean(axis=(1, 2, 3)), rtol=1e-3)
            seen += (image.std(axis=(1, 2, 3)) / plain[0].std(axis=(1, 2, 3))).tolist()
        assert min(seen) < 0.95
        assert max(seen) == pytest.approx(1, abs=1e-6)

    def test_bias_is_smooth(self, data):
        plain = self.drawn(data, replace(QUICK, label_blur=0.0), 0)
        image, labels = self.drawn(data, replace(QUICK, label_blur=0.0, bias=2.0), 2)
        np.testing.assert_array_equal(labels, plain[1])
        field = (image - plain[0])[:, 0]
        for one in field:
            assert 0.01 < one.std() < 4
            assert np.abs(np.diff(one, axis=0)).mean() < 0.5 * one.std()

    def test_a_case_is_drawn_alike_in_any_company(self, data):
        """Not by the order of the batch: so processes that share a batch see what one process would."""
        config = replace(QUICK, rotation=9.0, elastic=3.0, noise=0.2, blur=1.0, bias=0.4, intensity=0.2)
        cpu, prepared = torch.device("cpu"), data(config)
        both, _ = batch_of(prepared, torch.tensor([1, 0]), self.GRID, config, 5, cpu)
        alone, _ = batch_of(prepared, torch.tensor([0]), self.GRID, config, 5, cpu)
        torch.testing.assert_close(both[1:], alone)
        later, _ = batch_of(prepared, torch.tensor([0]), self.GRID, config, 6, cpu)
        assert (later - alone).abs().max() > 0.1
        noise = [
            prediction_noise(torch.tensor(i), 2, self.GRID, replace(QUICK, prediction_noise=1.0), 5, cpu)
            for i in ([1, 0], [0])
        ]
        torch.testing.assert_close(noise[0][1:], noise[1])
        assert prediction_noise(torch.tensor([0]), 2, self.GRID, QUICK, 5, cpu) is None

    @pytest.mark.parametrize(
        "values",
        [{"rotation": 120.0}, {"scale": 1.0}, {"scale": -0.1}, {"epochs": 0}, {"epochs": 1.5}, {"eta": 1.0}],
    )
    def test_impossible_settings(self, values):
        with pytest.raises(ConfigError, match=next(iter(values))):
            TrainConfig(**values)


class TestJointLoss:
    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_terms_by_hand(self, direction, make_bundle):
        model = make_bundle(2, direction=direction).model
        image = torch.rand(2, 1, *model.config.shape)
        labels = torch.softmax(torch.randn(2, 3, *model.config.shape), dim=1)
        total, terms = joint_loss(model, image, labels, 0.25, 40.0, QUICK)
        prediction = model.itn(image)
        warp = model.register_atlas(prediction)
        atlas = model.atlas_labels.expand(2, -1, -1, -1)
        by_hand = {
            "segmentation": ((prediction - labels) ** 2).mean(),
            "a2s": ((labels - sample(atlas, warp.atlas_from_image()))[:, 1:] ** 2).mean(),
            "s2a": ((sample(labels, warp.image_from_atlas()) - atlas)[:, 1:] ** 2).mean(),
            "reg": torch.stack([warp.displacement(1).diff(dim=a).square().mean() for a in (2, 3)]).mean(),
        }
        for name, value in by_hand.items():
            assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
        expected = by_hand["segmentation"] + 0.25 * (by_hand["a2s"] + by_hand["s2a"] + 40 * by_hand["reg"])
        assert total.item() == pytest.approx(expected.item(), rel=1e-5)
        assert not torch.allclose(by_hand["a2s"], by_hand["s2a"], rtol=1e-3)

    def test_registration_reaches_the_itn(self, make_bundle):
        """As in the released code: the prediction that the STN sees is not detached."""
        model = make_bundle(2).model
        model.itn.requires_grad_(True)
        labels = torch.zeros(1, 3, *model.config.shape)
        _, terms = joint_loss(model, torch.rand(1, 1, *model.config.shape), labels, 1.0, 1.0, QUICK)
        (gradient,) = torch.autograd.grad(terms["a2s"], model.itn.leave.weight)
        assert gradient.abs().max() > 0
        model.itn.requires_grad_(False)

    def test_uncoupled_registration_leaves_the_itn(self, make_bundle):
        model = make_bundle(2).model
        model.itn.requires_grad_(True)
        model.stn.requires_grad_(True)
        labels = torch.softmax(torch.randn(1, 3, *model.config.shape), dim=1)
        config = replace(QUICK, couple=False, segmentation_weight=0.0)
        total, _ = joint_loss(model, torch.rand(1, 1, *model.config.shape), labels, 1.0, 1.0, config)
        total.backward()
        reached = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in model.itn.parameters()]
        assert not any(reached)
        assert model.stn.velocity.weight.grad.abs().max() > 0
        model.requires_grad_(False)

    def test_the_itn_alone(self, make_bundle):
        model = make_bundle(2).model
        image, labels = torch.rand(1, 1, *model.config.shape), torch.rand(1, 3, *model.config.shape)
        total, terms = joint_loss(model, image, labels, 1.0, 500.0, replace(QUICK, part="itn"))
        assert total.item() == pytest.approx(((model.itn(image) - labels) ** 2).mean().item(), rel=1e-5)
        assert [terms[name].item() for name in ("a2s", "s2a", "reg")] == [0, 0, 0]

    def test_the_disturbance_reaches_the_stn_alone(self, make_bundle):
        model = make_bundle(2).model
        shape = model.config.shape
        image, labels = torch.rand(1, 1, *shape), torch.softmax(torch.randn(1, 3, *shape), dim=1)
        plain = joint_loss(model, image, labels, 1.0, 5.0, QUICK)[1]
        noisy = joint_loss(model, image, labels, 1.0, 5.0, QUICK, 3 * torch.randn(1, 2, *shape))[1]
        assert noisy["segmentation"].item() == plain["segmentation"].item()
        assert abs(noisy["a2s"].item() - plain["a2s"].item()) > 1e-6

    def test_strength_is_kept_in_voxel_units(self):
        """λ·4/(N−1)² stays the same when λ was chosen on another grid."""
        config = TrainConfig(strength=500.0, strength_size=64)
        for shape in ((64, 64), (96, 96), (48, 48, 48)):
            voxel = config.strength_on(shape) * 4 / (shape[0] - 1) ** 2
            assert voxel == pytest.approx(500 * 4 / 63**2)
        assert TrainConfig(strength=500.0).strength_on((96, 96)) == 500

    def test_cross_entropy_and_dice(self):
        truth = torch.zeros(2, 3, 8, 8)
        truth[:, 0] = 1
        truth[:, :, 2:5, 2:6] = torch.tensor([0.0, 1, 0]).reshape(1, 3, 1, 1)
        certain = cross_entropy_dice(truth, truth)
        assert certain.item() == pytest.approx(0, abs=1e-4)  # also of the label that is nowhere
        even = cross_entropy_dice(torch.full_like(truth, 1 / 3), truth)
        size = 24.0
        dice = ((2 * size / 3 + 1) / (128 / 3 + size + 1) + 1 / (128 / 3 + 1)) / 2
        assert even.item() == pytest.approx(np.log(3) + 1 - dice, rel=1e-5)

    def test_omega(self):
        assert TrainConfig().omega(1) == 1
        config = TrainConfig(omega_midpoint=200)
        assert config.omega(200) == pytest.approx(0.5)
        for epoch in (1, 150, 333):
            assert config.omega(epoch) == pytest.approx(1 / (1 + np.exp(-(epoch - 200) / 25)))
        assert TrainConfig(omega_midpoint=1e6).omega(1) == 0


def test_cube_points_of_the_margin_are_those_of_the_grid():
    """Augmentation looks from the model grid into a larger one about the same middle."""
    margin = 5
    inner = Grid.centered((40, 48), (2.0, 1.2))
    outer = Grid.centered((50, 58), (2.0, 1.2))
    factor = (np.array(inner.size) - 1) / (np.array(inner.size) - 1 + 2 * margin)
    expected = outer.transform_points(inner.points(), CUBE, WORLD)
    np.testing.assert_allclose(inner.points(CUBE) * factor, expected, atol=1e-12)
