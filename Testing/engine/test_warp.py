"""Warps against closed forms: translations, rotations, millimetres, and maps that undo each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from AtlasISTNLib.configs import CONVENTIONS, DIRECTIONS, ModelConfig
from AtlasISTNLib.warp import (
    Transformation,
    apply_matrix,
    displacement_from_velocity,
    exponential,
    identity,
    invert_matrix,
    metric_affine,
    reference_affine,
    rotation_from_vector,
    sample,
    to_components_last,
)

DOUBLE = torch.zeros((), dtype=torch.float64)
HALF_EXTENT = (10.0, 25.0, 40.0)
SHAPES = [(16, 20, 12), (17, 23, 11), (20, 28), (19, 27)]


def half_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of the STN's velocity: half of the shape padded to multiples of 16."""
    return tuple(-(-n // 16) * 8 for n in shape)


def smooth(shape: tuple[int, ...], size: float, seed: int = 0, n: int = 1) -> torch.Tensor:
    """A smooth random velocity (N, D, *shape) of about `size`."""
    noise = np.random.default_rng(seed).normal(size=(n, len(shape), *shape))
    field = ndimage.gaussian_filter(noise, (0, 0, *[2.0] * len(shape)), mode="nearest")
    return torch.from_numpy(size * field / field.std())


class TestSampling:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_identity_reproduces_an_image(self, shape):
        image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, *shape)))
        np.testing.assert_allclose(sample(image, identity(shape, image)), image, atol=1e-12)

    def test_components_are_x_y_z(self):
        points = identity((2, 3, 4), DOUBLE)[0]
        assert points[0, 0, 0].tolist() == [-1, -1, -1]
        np.testing.assert_allclose(points[0, 0, 1], [-1 / 3, -1, -1], atol=1e-12)
        np.testing.assert_allclose(points[1, 0, 0], [-1, -1, 1])

    def test_linear_images_and_borders(self):
        points = identity((6, 7, 8), DOUBLE)
        image = (points @ torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)).unsqueeze(1)
        seen = sample(image, points * 0.5)
        np.testing.assert_allclose(seen, image * 0.5, atol=1e-12)
        outside = sample(image, points * 3)
        assert outside[0, 0, 0, 0, 0] == image.min()
        assert outside[0, 0, -1, -1, -1] == image.max()

    def test_one_image_serves_many_point_sets(self):
        image = torch.rand(1, 2, 5, 6, dtype=torch.float64)
        points = identity((5, 6), DOUBLE) * torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64).reshape(3, 1, 1, 1)
        together = sample(image, points)
        for i in range(3):
            np.testing.assert_allclose(together[i], sample(image, points[i : i + 1])[0])


class TestExponential:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_constant_velocity_is_a_translation(self, shape):
        vector = torch.tensor([0.13, -0.21, 0.08][: len(shape)], dtype=torch.float64)
        velocity = vector.reshape(1, -1, *[1] * len(shape)).expand(1, -1, *shape)
        np.testing.assert_allclose(exponential(velocity, 6), velocity, atol=1e-12)

    @pytest.mark.parametrize("shape", [(33, 41), (25, 29, 27)])
    def test_turning_velocity_is_a_rotation(self, shape):
        # v = ω × p; exp(v) is the turn by |ω|, by matrix exponential, away from the border that stops it.
        omega = [0.5] if len(shape) == 2 else [0.3, -0.25, 0.35]
        points = identity(shape, DOUBLE)
        generator = torch.zeros(len(shape), len(shape), dtype=torch.float64)
        if len(shape) == 2:
            generator[0, 1], generator[1, 0] = -omega[0], omega[0]
        else:
            x, y, z = omega
            generator[:] = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        velocity = (points @ generator.T).movedim(-1, 1)
        expected = points @ torch.linalg.matrix_exp(generator).T
        inside = points.norm(dim=-1) < 0.75
        moved = points + to_components_last(exponential(velocity, 8))
        difference = (moved - expected)[inside].abs().max()
        assert difference < 2e-3
        # One squaring less, twice the error of its first step: the limit is the rotation and nothing near it.
        rougher = (points + to_components_last(exponential(velocity, 7)) - expected)[inside].abs().max()
        assert 0.4 < difference / rougher < 0.6

    @pytest.mark.parametrize("ndim", [2, 3])
    def test_plus_and_minus_undo_each_other(self, ndim):
        """Up to the grid: on half the voxel width some four times as well."""
        errors = []
        for n in (17, 33):
            p = identity((n,) * ndim, DOUBLE).movedim(-1, 1)
            velocity = 0.25 * torch.cos(math.pi / 2 * p).prod(dim=1, keepdim=True) * torch.sin(2 * p.flip(1) + 0.5)
            plus, minus = exponential(velocity, 7), exponential(-velocity, 7)
            assert 0.15 < plus.abs().max() < 0.3
            back = plus + sample(minus, identity((n,) * ndim, plus) + to_components_last(plus))
            errors.append(back.abs().max().item())
        assert errors[1] < 2e-3
        assert 2.5 < errors[0] / errors[1] < 5

    def test_samples_of_a_batch_are_apart(self):
        velocity = smooth((12, 14), 0.1, n=3)
        together = exponential(velocity, 5)
        for i in range(3):
            np.testing.assert_allclose(together[i], exponential(velocity[i : i + 1], 5)[0], atol=1e-14)


class TestDisplacementFromVelocity:
    @pytest.mark.parametrize("shape", [*SHAPES, (16, 32, 48), (15, 33)])
    def test_velocity_of_k_voxels_moves_k_voxels(self, shape):
        k = torch.tensor([1.5, -2.0, 0.75][: len(shape)], dtype=torch.float64)
        velocity = k.reshape(1, -1, *[1] * len(shape)).expand(1, -1, *half_shape(shape))
        moved = displacement_from_velocity(velocity, shape, "metric", 6)
        voxels = moved * (torch.tensor(shape[::-1]) - 1).reshape(1, -1, *[1] * len(shape)) / 2
        np.testing.assert_allclose(voxels, k.reshape(1, -1, *[1] * len(shape)).expand_as(voxels), atol=1e-12)

    @pytest.mark.parametrize("shape", [(16, 32), (16, 16, 32)])
    def test_velocity_lies_in_the_middle_of_the_voxels_it_covers(self, shape):
        """A velocity that is linear over the full grid gives, to first order, that linear displacement."""
        slopes = torch.tensor([1e-4, -2e-4, 3e-4][: len(shape)], dtype=torch.float64)
        index = torch.stack(torch.meshgrid(*(torch.arange(n // 2) for n in shape), indexing="ij")[::-1]).double()
        velocity = ((2 * index + 0.5) * slopes.reshape(-1, *[1] * len(shape))).unsqueeze(0)
        moved = displacement_from_velocity(velocity, shape, "metric", 6)
        voxels = moved * (torch.tensor(shape[::-1]) - 1).reshape(1, -1, *[1] * len(shape)) / 2
        full = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")[::-1]).double()
        expected = (full * slopes.reshape(-1, *[1] * len(shape))).unsqueeze(0)
        inner = (..., *[slice(1, -1)] * len(shape))
        np.testing.assert_allclose(voxels[inner], expected[inner], atol=1e-5)

    @pytest.mark.parametrize("shape", [(16, 32), (16, 16, 32), (13, 27)])
    def test_contraction_is_an_exponential(self, shape):
        """v = −0.4 (p − c) takes p to c + e^−0.4 (p − c): only if composed in the half grid's own units."""
        half = half_shape(shape)
        column = (-1, *[1] * len(shape))
        middle = (torch.tensor(shape[::-1]).double() - 1).reshape(column) / 2
        index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in half), indexing="ij")[::-1]).double()
        velocity = -0.4 * (2 * index + 0.5 - middle).unsqueeze(0)
        voxels = displacement_from_velocity(velocity, shape, "metric", 8)[0] * middle
        full = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")[::-1]).double()
        expected = (math.exp(-0.4) - 1) * (full - middle)
        inner = (..., *[slice(1, -1)] * len(shape))
        np.testing.assert_allclose(voxels[inner], expected[inner], rtol=2e-3, atol=1e-9)

    def test_reference_units_are_the_released_ones(self):
        # 2/(N − 1) per axis of the padded grid, at the half grid, and not rescaled after it.
        velocity = torch.ones(1, 2, 8, 16, dtype=torch.float64)
        moved = displacement_from_velocity(velocity, (16, 32), "reference", 6)
        np.testing.assert_allclose(moved[0, 0], 2 / 31, atol=1e-12)
        np.testing.assert_allclose(moved[0, 1], 2 / 15, atol=1e-12)

    @pytest.mark.parametrize("convention", CONVENTIONS)
    def test_extruded_2d_is_3d(self, convention):
        flat = smooth((8, 16), 1.5, seed=3).float()
        deep = torch.cat([flat, torch.zeros(1, 1, 8, 16)], dim=1).unsqueeze(2).expand(1, 3, 8, 8, 16)
        two = displacement_from_velocity(flat, (16, 32), convention, 6)
        three = displacement_from_velocity(deep, (16, 16, 32), convention, 6)
        np.testing.assert_allclose(three[:, :2], two.unsqueeze(2).expand(1, 2, 16, 16, 32), atol=1e-5)
        assert three[:, 2].abs().max() == 0


class TestAffine:
    def in_mm(self, theta: torch.Tensor, half_extent: tuple[float, ...] = HALF_EXTENT) -> np.ndarray:
        """Linear part (N, D, D) of cube matrices in mm."""
        half = np.array(half_extent)
        return theta[:, :, :-1].detach().numpy() * half[:, None] / half

    def test_rotation_keeps_distances_in_mm(self):
        parameters = torch.zeros(4, 9, dtype=torch.float64)
        parameters[:, 3:6] = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3)))
        theta = metric_affine(parameters, HALF_EXTENT)
        points = np.random.default_rng(1).uniform(-1, 1, (1, 30, 1, 1, 3))
        moved = apply_matrix(theta, torch.from_numpy(points)).numpy() * HALF_EXTENT
        before, after = ((p[:, :, None] - p[:, None, :]).squeeze() for p in (points * HALF_EXTENT, moved))
        np.testing.assert_allclose(np.linalg.norm(after, axis=-1)[0], np.linalg.norm(before, axis=-1), rtol=1e-9)
        np.testing.assert_allclose(np.linalg.det(self.in_mm(theta)), 1, rtol=1e-12)

    @pytest.mark.parametrize("axis", range(3))
    def test_rotation_vector_turns_about_its_own_axis(self, axis):
        angle = 0.4
        parameters = torch.zeros(1, 9, dtype=torch.float64)
        parameters[0, 3 + axis] = math.atanh(angle / (math.pi / 2))
        linear = self.in_mm(metric_affine(parameters, HALF_EXTENT))[0]
        np.testing.assert_allclose(linear @ np.eye(3)[axis], np.eye(3)[axis], atol=1e-12)
        first, second = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
        np.testing.assert_allclose(linear @ first, math.cos(angle) * first + math.sin(angle) * second, atol=1e-12)

    def test_two_dimensions_are_a_turn_about_z(self):
        parameters = torch.tensor([[0.2, -0.1, 0.5, 0.1, -0.3]], dtype=torch.float64)
        deep = torch.tensor([[0.2, -0.1, 0, 0, 0, 0.5, 0.1, -0.3, 0]], dtype=torch.float64)
        flat, theta = metric_affine(parameters, HALF_EXTENT[:2]), metric_affine(deep, HALF_EXTENT)
        np.testing.assert_allclose(theta[:, :2][:, :, [0, 1, 3]], flat, atol=1e-12)
        np.testing.assert_allclose(theta[0, 2], [0, 0, 1, 0], atol=1e-12)
        flat, theta = reference_affine(parameters), None
        assert torch.linalg.det(flat[0, :, :2]).item() == pytest.approx(math.exp(math.tanh(0.1) + math.tanh(-0.3)))

    def test_scales_and_translations_in_mm(self):
        parameters = torch.zeros(1, 9, dtype=torch.float64)
        parameters[0, :3] = torch.atanh(torch.tensor([0.1, -0.2, 0.3]))
        theta = metric_affine(parameters, HALF_EXTENT)
        np.testing.assert_allclose(theta[0, :, 3] * torch.tensor(HALF_EXTENT), [1.0, -5.0, 12.0], atol=1e-6)
        parameters[0, 6:] = torch.atanh(torch.log(torch.tensor([1.2, 0.8, 1.0])))
        theta = metric_affine(parameters, HALF_EXTENT)
        np.testing.assert_allclose(np.diag(self.in_mm(theta)[0]), [1.2, 0.8, 1.0], atol=1e-6)
        # Scaled after it is moved: θ = S·R·T.
        np.testing.assert_allclose(theta[0, :, 3] * torch.tensor(HALF_EXTENT), [1.2, -4.0, 12.0], atol=1e-6)

    @pytest.mark.parametrize(("d", "count"), [(2, 5), (3, 9)])
    def test_every_parameter_has_a_gradient_at_the_identity(self, d, count):
        parameters = torch.zeros(1, count, dtype=torch.float64, requires_grad=True)
        theta = metric_affine(parameters, HALF_EXTENT[:d])
        np.testing.assert_allclose(theta[0].detach(), np.eye(d, d + 1), atol=1e-12)
        jacobian = torch.autograd.functional.jacobian(lambda p: metric_affine(p, HALF_EXTENT[:d]).flatten(), parameters)
        assert torch.linalg.matrix_rank(jacobian.reshape(-1, count)) == count

    def test_reference_start_is_singular_as_released(self):
        jacobian = torch.autograd.functional.jacobian(
            lambda p: reference_affine(p).flatten(), torch.zeros(1, 9, dtype=torch.float64)
        ).reshape(-1, 9)
        np.testing.assert_allclose(reference_affine(torch.zeros(1, 9))[0], np.eye(3, 4), atol=1e-7)
        assert torch.linalg.matrix_rank(jacobian) == 8  # the first and the third angle turn about one axis

    def test_reference_is_the_published_product(self):
        values = np.random.default_rng(5).normal(size=9)
        theta = reference_affine(torch.from_numpy(values)[None])[0].numpy()
        shift, scale = np.tanh(values[:3])[::-1], np.exp(np.tanh(values[6:]))[::-1]  # z, y, x
        a = np.tanh(values[3:6]) * np.pi / 4
        turns = []
        for angle, first in zip(a, (0, 1, 0), strict=True):
            turn = np.eye(3)
            turn[first : first + 2, first : first + 2] = [
                [np.cos(angle), -np.sin(angle)],
                [np.sin(angle), np.cos(angle)],
            ]
            turns.append(turn)
        linear = np.diag(scale) @ turns[0] @ turns[1] @ turns[2]
        expected = np.column_stack([linear, linear @ shift])[::-1]  # rows x, y, z
        np.testing.assert_allclose(theta, expected[:, [2, 1, 0, 3]], atol=1e-12)

    def test_rotations_of_any_size_are_rotations(self):
        vectors = torch.tensor([[0.0, 0, 0], [1e-9, 0, 0], [0, 3.0, 0], [1.0, -2.0, 0.5]], dtype=torch.float64)
        matrices = rotation_from_vector(vectors)
        np.testing.assert_allclose(matrices @ matrices.mT, torch.eye(3).expand(4, 3, 3), atol=1e-12)
        np.testing.assert_allclose(matrices @ vectors.unsqueeze(-1), vectors.unsqueeze(-1), atol=1e-12)
        trace = matrices.diagonal(dim1=1, dim2=2).sum(dim=1)
        np.testing.assert_allclose(trace, 1 + 2 * torch.cos(vectors.norm(dim=1)), atol=1e-12)

    def test_inverse(self):
        theta = metric_affine(torch.from_numpy(np.random.default_rng(2).normal(size=(3, 9))), HALF_EXTENT)
        points = identity((4, 5, 6), theta)
        np.testing.assert_allclose(
            apply_matrix(invert_matrix(theta), apply_matrix(theta, points)), points.expand(3, 4, 5, 6, 3), atol=1e-10
        )


def transformation(shape: tuple[int, ...], size: float = 0.8, n: int = 1, **settings: str) -> Transformation:
    config = ModelConfig(labels=2, shape=shape, **settings)
    d = len(shape)
    count = 5 if d == 2 else 9
    parameters = torch.from_numpy(np.random.default_rng(9).normal(scale=0.12, size=(n, count)))
    theta = reference_affine(parameters) if config.convention == "reference" else metric_affine(parameters, [20.0] * d)
    return Transformation(theta, smooth(half_shape(shape), size, seed=7, n=n), config)


class TestTransformation:
    @pytest.mark.parametrize("direction", DIRECTIONS)
    @pytest.mark.parametrize("convention", CONVENTIONS)
    @pytest.mark.parametrize("shape", [(32, 48), (24, 20, 28)])
    def test_the_two_maps_undo_each_other(self, direction, convention, shape):
        warp = transformation(shape, direction=direction, convention=convention)
        there, back = warp.atlas_from_image(), warp.image_from_atlas()
        still = identity(shape, there)
        voxel = 2 / (max(shape) - 1)
        inner = (still.abs() < 0.55).all(dim=-1)
        for one, other in ((there, back), (back, there)):
            assert (one - still)[inner].abs().max() > 2 * voxel
            round_trip = to_components_last(sample(other.movedim(-1, 1), one))
            assert (round_trip - still)[inner].abs().max() < 0.1 * voxel

    @pytest.mark.parametrize("convention", CONVENTIONS)
    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_direction_says_which_map_is_phi_after_theta(self, convention, direction):
        warp = transformation((24, 32), direction=direction, convention=convention)
        outward = getattr(warp, direction)()
        (other,) = (name for name in DIRECTIONS if name != direction)
        np.testing.assert_array_equal(outward, warp.after_affine(warp.displacement(1)))
        np.testing.assert_array_equal(getattr(warp, other)(), warp.before_affine(warp.displacement(-1)))
        np.testing.assert_array_equal(getattr(warp, direction)(warp.displacement(1)), outward)
        # φ(θp) is φ looked up at θp.
        still = identity((24, 32), outward)
        phi = still + to_components_last(warp.displacement(1))
        inside = (apply_matrix(warp.theta, still).abs() < 1).all(dim=-1)
        looked_up = to_components_last(sample(phi.movedim(-1, 1), apply_matrix(warp.theta, still)))
        np.testing.assert_allclose(outward[inside], looked_up[inside], atol=1e-12)

    def test_border_of_both_conventions(self):
        """Beyond the field of view the released maps stop; the metric ones go on with the border's displacement."""
        for convention, expected in (("reference", 1.0), ("metric", 1.8)):
            config = ModelConfig(labels=2, shape=(16, 16), convention=convention)
            theta = 1.8 * torch.eye(2, 3).unsqueeze(0)
            points = Transformation(theta, torch.zeros(1, 2, 8, 8), config).atlas_from_image()
            assert points.abs().max().item() == pytest.approx(expected)

    def test_without_a_velocity_only_the_affine_is_left(self):
        config = ModelConfig(labels=2, shape=(16, 20), nonrigid=False)
        theta = metric_affine(torch.full((1, 5), 0.2), (10.0, 20.0))
        warp = Transformation(theta, None, config)
        assert warp.displacement() is None
        still = identity((16, 20), theta)
        np.testing.assert_allclose(warp.atlas_from_image(), apply_matrix(theta, still))
        np.testing.assert_allclose(apply_matrix(theta, warp.image_from_atlas()), still, atol=1e-6)

    @pytest.mark.parametrize("convention", CONVENTIONS)
    @pytest.mark.parametrize("direction", DIRECTIONS)
    @pytest.mark.parametrize("shape", [(8, 10), (8, 8, 9)])
    def test_gradients_of_the_composed_map(self, convention, direction, shape):
        config = ModelConfig(labels=2, shape=shape, convention=convention, direction=direction, squarings=2)
        rng = np.random.default_rng(11)
        parameters = torch.from_numpy(rng.normal(scale=0.1, size=(1, 5 if len(shape) == 2 else 9)))
        velocity = torch.from_numpy(rng.normal(scale=0.3, size=(1, len(shape), *[-(-n // 8) * 4 for n in shape])))
        atlas = torch.from_numpy(ndimage.gaussian_filter(rng.normal(size=(1, 1, *shape)), (0, 0, *[1.5] * len(shape))))
        weight = torch.from_numpy(rng.normal(size=(1, 1, *shape)))

        def warped(parameters: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
            half = HALF_EXTENT[: len(shape)]
            theta = reference_affine(parameters) if convention == "reference" else metric_affine(parameters, half)
            warp = Transformation(theta, velocity, config)
            return (sample(atlas, warp.atlas_from_image()) * weight).sum()

        inputs = (parameters.requires_grad_(True), velocity.requires_grad_(True))
        assert torch.autograd.gradcheck(warped, inputs, eps=1e-7, atol=1e-5, rtol=1e-3, fast_mode=True)
        for gradient in torch.autograd.grad(warped(*inputs), inputs):
            assert gradient.abs().max() > 1e-6
