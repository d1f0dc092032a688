"""One head stored in six axis orders is one head: the same result in the world from each file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from AtlasISTNLib.bundle import About, Bundle, Label, half_extent
from AtlasISTNLib.configs import ModelConfig, NormalisationConfig, RefineConfig
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.metrics import dice
from AtlasISTNLib.model import AtlasISTN
from AtlasISTNLib.result import Result
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.volume import Volume

ORDERS = ("RAS", "LPS", "ASL", "IRP", "PIR", "SLA")


@pytest.fixture(scope="module")
def a_head_model() -> Bundle:
    """A model with random networks and a head-sized atlas of three nested, asymmetric structures.

    Its heads are not zero, so that affine and velocity depend on the image.
    """
    grid = Grid.centered((24, 28, 24), (8.0, 8.0, 8.0))
    x, y, z = np.moveaxis(grid.points(), -1, 0)
    radius = np.sqrt((x / 60) ** 2 + (y / 75) ** 2 + (z / 55) ** 2)
    inside = [radius < 1, (radius < 0.75) & (x > 0), (radius < 0.75) & (y > 15) & (x <= 0)]
    hard = np.select(inside[::-1], [3, 2, 1], 0)
    atlas = torch.from_numpy(np.stack([hard == k for k in range(4)]).astype(np.float32))
    model = AtlasISTN(ModelConfig(4, grid.shape), half_extent(grid), torch.zeros(1, *grid.shape), atlas)
    torch.manual_seed(3)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv3d | torch.nn.Linear):
            layer.reset_parameters()  # torch's own initialisation, whose random networks make gentle fields
    with torch.no_grad():
        for name, head in model.stn.named_children():
            if name in ("translation", "rotation", "scaling"):
                head.weight.normal_(std=0.15)
            if name == "velocity":
                head.weight.normal_(std=0.15)
    labels = tuple(Label(k, f"structure {k}") for k in range(4))
    settings = RefineConfig(5, 500.0, 1.0, 0.0, None, "network")
    model = model.eval().requires_grad_(False)
    return Bundle(About("head"), labels, grid, NormalisationConfig(outside="mean"), settings, model)


@pytest.fixture(scope="module")
def results(a_head_model: Bundle, shared_data: Path) -> dict[str, Result]:
    folder = shared_data / "orientations"
    if not folder.is_dir():
        pytest.skip("the head in six orientations is not there")
    found = {}
    for order in ORDERS:
        result = segment(a_head_model, Volume.read(folder / f"{order}.nii.gz"))
        found[order] = refine(a_head_model, result)
    return found


def test_the_files_do_differ_in_their_axes(results: dict[str, Result]) -> None:
    assert len({result.image.grid.shape for result in results.values()}) > 2


def test_the_transformation_is_not_the_identity(results: dict[str, Result]) -> None:
    correspondence = results["LPS"].correspondence
    points = correspondence.atlas_grid.points()
    centered = points + np.array(correspondence.image_grid.center)
    assert np.linalg.norm(correspondence.image_from_atlas(points) - centered, axis=-1).mean() > 2


@pytest.mark.parametrize("order", ORDERS)
def test_labels_agree_in_the_world(results: dict[str, Result], order: str) -> None:
    common = results["LPS"].image.grid
    expected = results["LPS"].labels.array[0]
    found = results[order].labels.resampled(common, "nearest").array[0]
    assert set(np.unique(expected)) == {0, 1, 2, 3}
    for label in (1, 2, 3):
        assert dice(found == label, expected == label) >= 0.99


@pytest.mark.parametrize("order", ORDERS)
def test_points_correspond_in_the_world(results: dict[str, Result], order: str) -> None:
    points = results["LPS"].image.grid.points()[::6, ::6, ::6]
    expected = results["LPS"].correspondence.atlas_from_image(points)
    assert np.abs(results[order].correspondence.atlas_from_image(points) - expected).max() < 0.1
