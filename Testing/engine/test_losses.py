"""The loss terms against sums written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from AtlasISTNLib.losses import label_distance, smoothness, strength_in_voxels


def test_label_distance_is_the_mean_over_voxels_and_channels():
    a, b = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 5, 6))
    distance = label_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert distance.item() == pytest.approx(((a - b) ** 2).sum() / a.size)
    one = label_distance(torch.from_numpy(a), torch.from_numpy(b[:1]))  # one atlas for a whole batch
    assert one.item() == pytest.approx(((a - b[:1]) ** 2).mean())


@pytest.mark.parametrize("ndim", [2, 3])
def test_smoothness_of_a_ramp(ndim):
    shape = (6, 8, 5)[:ndim]
    slopes = [0.3, -0.2, 0.1][:ndim]
    index = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    ramp = sum(slope * i for slope, i in zip(slopes, index, strict=True))
    field = torch.from_numpy(np.stack([ramp, *[np.zeros(shape)] * (ndim - 1)]))[None]
    # One of D components changes, by a constant along each of D axes.
    expected = np.mean([slope**2 / ndim for slope in slopes])
    assert smoothness(field, field).item() == pytest.approx(expected)
    assert smoothness(field + 7, field).item() == pytest.approx(expected)
    assert smoothness(3 * field, field).item() == pytest.approx(9 * expected)


def test_smoothness_without_a_displacement_is_zero():
    zero = smoothness(None, torch.zeros(1, dtype=torch.float64))
    assert zero.item() == 0
    assert zero.dtype == torch.float64


def test_strength_in_voxels_is_the_same_regulariser():
    """λ·L_reg of CUBE displacements is Σ λ_voxel times the same of voxel displacements, component by component."""
    shape = (9, 12, 7)
    voxels = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3, *shape)))
    cube = voxels * 2 / (torch.tensor(shape[::-1]) - 1).reshape(1, 3, 1, 1, 1)
    by_component = [smoothness(voxels[:, i : i + 1], voxels).item() for i in range(3)]
    strengths = strength_in_voxels(500.0, shape)
    expected = 500.0 * smoothness(cube, cube).item()
    assert sum(s * r for s, r in zip(strengths, by_component, strict=True)) / 3 == pytest.approx(expected)
