"""What a training step sees and minimises: augmentation in degrees and millimetres, and the joint loss by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from AtlasISTNLib.augmentation import batch_of
from AtlasISTNLib.configs import DIRECTIONS, NormalisationConfig, TrainConfig
from AtlasISTNLib.datasets import Case
from AtlasISTNLib.errors import ConfigError
from AtlasISTNLib.geometry import CUBE, WORLD, Grid
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
