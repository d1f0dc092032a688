"""The networks: shapes, what a voxel can see, and which parts there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from AtlasISTNLib.configs import ModelConfig
from AtlasISTNLib.errors import ConfigError
from AtlasISTNLib.model import AtlasISTN, without_normalisation
from AtlasISTNLib.networks import ITN, STN, padded_shape
from AtlasISTNLib.placement import _REACH
from AtlasISTNLib.warp import identity


def seeded(kind, config: ModelConfig, seed: int = 0):
    torch.manual_seed(seed)
    return kind(config).double().requires_grad_(False)


class TestITN:
    @pytest.mark.parametrize("shape", [(16, 24), (17, 9), (30, 31), (8, 8), (8, 16, 8), (9, 13, 11), (12, 12, 20)])
    def test_output_has_the_inputs_shape(self, shape):
        itn = seeded(ITN, ModelConfig(labels=4, shape=shape))
        assert itn(torch.rand(2, 1, *shape, dtype=torch.float64)).shape == (2, 4, *shape)

    def test_a_part_of_an_image_gives_the_same_away_from_its_border(self):
        itn = seeded(ITN, ModelConfig(labels=2, shape=(64, 64)))
        image = torch.rand(1, 1, 203, 120, dtype=torch.float64)
        whole = itn(image)
        # Not a multiple of 8 long; begun at a multiple of 8, where the grids of all levels agree.
        part = itn(image[:, :, 40:171])
        np.testing.assert_allclose(part[:, :, _REACH:-_REACH], whole[:, :, 40 + _REACH : 171 - _REACH], atol=1e-12)
        shifted = itn(image[:, :, 41:171])
        assert (shifted[:, :, _REACH:-_REACH] - whole[:, :, 41 + _REACH : 171 - _REACH]).abs().max() > 1e-6

    def test_nothing_further_than_the_reach_is_seen(self):
        shape = (200, 16)
        itn = seeded(ITN, ModelConfig(labels=2, shape=shape))
        for parameter in itn.parameters():
            parameter.abs_()  # so that nothing cancels
        image = torch.ones(1, 1, *shape, dtype=torch.float64, requires_grad=True)
        for row in range(96, 104):
            (gradient,) = torch.autograd.grad(itn(image)[0, 1, row].sum(), image)
            seen = torch.nonzero(gradient[0, 0].sum(dim=1))
            assert 24 < row - seen.min() <= _REACH
            assert 24 < seen.max() - row <= _REACH

    def test_padding_continues_the_border(self):
        itn = seeded(ITN, ModelConfig(labels=2, shape=(8, 8)))
        image = torch.rand(1, 1, 21, 18, dtype=torch.float64)
        padded = torch.nn.functional.pad(image, (0, 6, 0, 3), mode="replicate")
        np.testing.assert_allclose(itn(image), itn(padded)[:, :, :21, :18], atol=1e-13)

    @pytest.mark.parametrize("shape", [(17, 24), (8, 16, 11)])
    def test_batch_normalisation_goes_into_the_convolutions(self, shape):
        config = ModelConfig(labels=3, shape=shape, itn_norm="batch", itn_output="softmax")
        torch.manual_seed(3)
        model = AtlasISTN(config, (1.0,) * len(shape), torch.rand(1, *shape), torch.rand(3, *shape)).double()
        for norm in model.itn.norms.values():
            torch.nn.init.uniform_(norm.weight, 0.5, 2)
            torch.nn.init.normal_(norm.bias)
        for _ in range(60):  # until the statistics that stay are of these images
            model.itn(2 + 3 * torch.rand(2, 1, *shape, dtype=torch.float64))
        image = 2 + 3 * torch.rand(1, 1, *shape, dtype=torch.float64)
        model.eval()
        plain = without_normalisation(model)
        assert plain.config.itn_norm == "none"
        assert not any("norm" in name for name in plain.state_dict())
        with torch.no_grad():
            np.testing.assert_allclose(plain.double().itn(image), model.itn(image), atol=1e-5)
            assert float(model.itn(image).std()) > 1e-3
            pair = plain.stn_input(model.itn(image))
            np.testing.assert_allclose(plain.stn(pair)[0], model.stn(pair)[0], atol=1e-9)

    def test_output_is_linear_and_not_a_probability(self):
        out = seeded(ITN, ModelConfig(labels=3, shape=(16, 16)))(20 * torch.randn(1, 1, 16, 16, dtype=torch.float64))
        assert (out < 0).any()


class TestSTN:
    @pytest.mark.parametrize("shape", [(16, 32), (17, 30), (8, 9), (16, 16, 32), (9, 20, 17)])
    @pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True)])
    def test_outputs(self, shape, parts):
        affine, nonrigid = parts
        stn = seeded(STN, ModelConfig(labels=3, shape=shape, affine=affine, nonrigid=nonrigid))
        velocity, parameters = stn(torch.rand(2, 4, *shape, dtype=torch.float64))
        half = tuple(n // 2 for n in padded_shape(shape, 16))
        d = len(shape)
        assert (None if velocity is None else velocity.shape) == ((2, d, *half) if nonrigid else None)
        assert (None if parameters is None else parameters.shape) == ((2, {2: 5, 3: 9}[d]) if affine else None)

    @pytest.mark.parametrize(("convention", "voxels"), [("reference", 1e-3), ("metric", 0.5)])
    def test_training_starts_near_the_identity_with_a_gradient(self, convention, voxels):
        config = ModelConfig(labels=3, shape=(16, 20), convention=convention)
        torch.manual_seed(0)
        model = AtlasISTN(config, (10.0, 8.0), torch.rand(1, 16, 20), torch.rand(3, 16, 20))
        warp = model.register_atlas(torch.rand(1, 3, 16, 20))
        moved = (warp.atlas_from_image() - identity(config.shape, warp.theta)) / 2 * torch.tensor([19.0, 15.0])
        assert moved.abs().max() < voxels
        (warp.atlas_from_image() ** 3).sum().backward()
        gradients = {name: p.grad for name, p in model.stn.named_parameters()}
        for name in ("velocity.weight", "translation.weight", "rotation.weight", "scaling.weight", "merge2b.weight"):
            assert gradients[name].abs().max() > 0, name
        # Where the heads say nothing at first, as in the released code, the layers before them have to wait.
        assert (gradients["affine_hidden.weight"].abs().max() > 0) == (convention == "metric")

    def test_the_signal_reaches_the_deepest_layer(self):
        """With torch's own initialisation a hundredth of it does, and most units there are dead."""
        torch.manual_seed(0)
        stn = STN(ModelConfig(labels=6, shape=(32, 32, 32)))
        x = (torch.rand(2, 10, 32, 32, 32) < 0.05).float()
        seen = {}
        stn.level4.register_forward_hook(lambda module, given, made: seen.update(deep=torch.relu(made)))
        stn(x)
        assert 0.3 < float(seen["deep"].detach().std() / x.std()) < 10
        alive = (seen["deep"] > 0).float().mean(dim=(0, 2, 3, 4))
        assert (alive > 0.05).float().mean() > 0.75

    def test_padded_shape(self):
        assert padded_shape((1, 16, 17, 31), 16) == (16, 16, 32, 32)


class TestModel:
    def test_atlas_must_fit(self):
        config = ModelConfig(labels=3, shape=(16, 20))
        for image, labels in (((1, 16, 21), (3, 16, 20)), ((1, 16, 20), (2, 16, 20)), ((16, 20), (3, 16, 20))):
            with pytest.raises(ConfigError, match="atlas has shapes"):
                AtlasISTN(config, (10.0, 8.0), torch.zeros(image), torch.zeros(labels))

    def test_the_stn_sees_the_foregrounds_prediction_first(self, a_small_model_3d):
        prediction = torch.rand(2, 3, *a_small_model_3d.config.shape)
        pair = a_small_model_3d.stn_input(prediction)
        np.testing.assert_array_equal(pair[:, :2], prediction[:, 1:])
        np.testing.assert_array_equal(pair[1, 2:], a_small_model_3d.atlas_labels[1:])

    def test_it_keeps_nothing_of_a_case(self, a_small_model_3d):
        before = {key: value for key, value in vars(a_small_model_3d).items() if not key.startswith("_")}
        a_small_model_3d.register_atlas(torch.rand(1, 3, *a_small_model_3d.config.shape))
        assert {key: value for key, value in vars(a_small_model_3d).items() if not key.startswith("_")} == before
        assert set(a_small_model_3d.state_dict()) == {
            f"{net}.{key}" for net in ("itn", "stn") for key in getattr(a_small_model_3d, net).state_dict()
        }

    def test_without_an_affine_part_theta_is_the_identity(self, make_bundle):
        model = make_bundle(2, affine=False).model
        warp = model.register_atlas(torch.rand(2, 3, *model.config.shape))
        np.testing.assert_array_equal(warp.theta, np.broadcast_to(np.eye(2, 3), (2, 2, 3)))
        assert warp.velocity is not None
