"""Fixtures of the engine's tests: small models that are quick and mean something, and images that they can read.

The models' ITN reads grey values: background up to 0, structure 1 at 50, structure 2 at 100. So what it predicts is
known, and only the STN's weights are random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worker_client import WORKER, Worker

from AtlasISTNLib.bundle import About, Bundle, Label, half_extent, save_bundle
from AtlasISTNLib.cli import main
from AtlasISTNLib.configs import ModelConfig, NormalisationConfig, RefineConfig
from AtlasISTNLib.exchange import volume_to_files
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.model import AtlasISTN, channels_last
from AtlasISTNLib.segmentation import segment
from AtlasISTNLib.volume import Volume

SHAPE = (16, 20, 12)
SPACING = (1.5, 1.2, 2.0)
ATLAS_CENTER = (5.0, -3.0, 10.0)
FLAT_SHAPE = (20, 28)
FLAT_SPACING = (1.5, 1.1)
LABELS = (Label(0, "background", (0, 0, 0)), Label(3, "shell", (200, 80, 80)), Label(7, "core", (80, 80, 200)))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small tensors are quicker on one thread, and sums come out the same on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def turned(*degrees: float, mirrored: bool = False) -> np.ndarray:
    """Directions turned about x, y and z (2D: by one angle), with the last axis mirrored if wanted."""
    if len(degrees) == 1:
        c, s = np.cos(np.deg2rad(degrees[0])), np.sin(np.deg2rad(degrees[0]))
        matrix = np.array([[c, -s], [s, c]])
    else:
        matrix = np.eye(3)
        for axis, angle in enumerate(np.deg2rad(degrees)):
            i, j = [(1, 2), (2, 0), (0, 1)][axis]
            step = np.eye(3)
            step[i, i] = step[j, j] = np.cos(angle)
            step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
            matrix = step @ matrix
    if mirrored:
        matrix = matrix @ np.diag([1.0] * (len(matrix) - 1) + [-1.0])
    return matrix


def blob(grid: Grid, center: tuple[float, ...], size: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Two nested ellipsoids in WORLD mm, the inner one off the middle: soft weights (shell, core) in [0, 1]."""
    radii = np.array([6.0, 8.0, 10.0])[: grid.ndim] * size
    points = grid.points() - np.array(center)[: grid.ndim]
    outer = np.sqrt(((points / radii) ** 2).sum(axis=-1))
    offset = np.array([1.0, 2.0, 1.5])[: grid.ndim] * size
    inner = np.sqrt((((points - offset) / (0.5 * radii)) ** 2).sum(axis=-1))
    whole, core = (1 / (1 + np.exp((r - 1) * sharp)) for r, sharp in ((outer, 12.0), (inner, 8.0)))
    core = core * whole
    return whole - core, core


def read_grey_values(model: AtlasISTN) -> None:
    """Set an ITN's weights so that x ≤ 0, 0.5 and 1 give the labels 0, 1 and 2 of three, linear in between."""
    middle = (1,) * model.config.ndim
    with torch.no_grad():
        for parameter in model.itn.parameters():
            parameter.zero_()
        itn = model.itn
        itn.enter1.weight[0, 0][middle] = itn.enter1.weight[1, 0][middle] = 1.0
        itn.enter1.bias[1] = -0.5
        past_skips = model.config.itn_channels[1]
        for channel in (0, 1):  # max(x, 0) and max(x − ½, 0)
            itn.enter2.weight[channel, channel][middle] = 1.0
            itn.merge1.weight[channel, past_skips + channel][middle] = 1.0
        weights = itn.leave.weight.flatten(1)
        weights[:, 0], weights[:, 1] = torch.tensor([-2.0, 2.0, 0.0]), torch.tensor([2.0, -4.0, 2.0])
        itn.leave.bias[0] = 1.0


@pytest.fixture(scope="session")
def make_bundle():
    """A function that makes a small bundle: an atlas of two nested blobs, an ITN that reads grey values, any STN."""

    def make(
        ndim: int = 3,
        seed: int = 0,
        grid: Grid | None = None,
        scale: float = 1.0,
        reads_grey_values: bool = True,
        **settings: object,
    ) -> Bundle:
        if grid is None:
            shape, spacing = (SHAPE, SPACING) if ndim == 3 else (FLAT_SHAPE, FLAT_SPACING)
            grid = Grid.centered(shape, spacing, ATLAS_CENTER[:ndim])
        config = ModelConfig(labels=3, shape=grid.shape, **settings)
        shell, core = blob(grid, grid.center)
        labels = np.stack([1 - shell - core, shell, core])
        image = 0.5 * shell + core
        torch.manual_seed(seed)
        atlas = torch.from_numpy(image)[None], torch.from_numpy(labels)
        model = AtlasISTN(config, half_extent(grid), *atlas)
        # torch's own initialisation, whose networks do little: what a test sees is then made by the heads set below.
        torch.manual_seed(seed)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d | torch.nn.Linear):
                layer.reset_parameters()
        if reads_grey_values:
            read_grey_values(model)
        with torch.no_grad():
            stn = model.stn
            for head in (stn.translation, stn.rotation, stn.scaling):
                if head is not None:
                    head.weight.normal_(std=0.02 * scale)
                    head.bias.copy_(torch.linspace(-0.1, 0.12, len(head.bias)) * scale + 0.03 * scale)
            if stn.velocity is not None:
                stn.velocity.weight.normal_(std=3.0 * scale)
        return Bundle(
            About("small", "A small model", licence="Apache-2.0"),
            LABELS,
            grid,
            NormalisationConfig("window", center=0.0, width=200.0, outside=-100.0),
            RefineConfig(8, 20.0, 1.0, 0.0, None, "network"),
            channels_last(model).eval().requires_grad_(False),  # as loading lays it out
            {"made_for": "tests"},
        )

    return make


@pytest.fixture(scope="session")
def a_small_bundle(make_bundle) -> Bundle:
    """3D, non-cubic field of view, anisotropic voxels; the STN's one pass is not the identity."""
    return make_bundle(3)


@pytest.fixture(scope="session")
def a_small_model_3d(a_small_bundle) -> AtlasISTN:
    return a_small_bundle.model


@pytest.fixture(scope="session")
def a_flat_bundle(make_bundle) -> Bundle:
    """The same in 2D."""
    return make_bundle(2)


@pytest.fixture(scope="session")
def oblique_grid() -> Grid:
    """Turned about all axes, left-handed, anisotropic."""
    return Grid.centered((18, 22, 26), (1.1, 1.4, 1.7), (40.0, -25.0, 60.0), turned(20, -35, 50, mirrored=True))


@pytest.fixture(scope="session")
def oblique_flat_grid() -> Grid:
    return Grid.centered((30, 34), (1.3, 0.9), (-20.0, 33.0), turned(-40, mirrored=True))


@pytest.fixture(scope="session")
def make_image():
    """A function that draws the blobs into an image with grey values that the models read."""

    def make(grid: Grid, center: tuple[float, ...], size: float = 1.0, name: str = "blob") -> Volume:
        shell, core = blob(grid, center, size)
        return Volume.from_array((-20 + 70 * shell + 120 * core).astype(np.float32), grid, name)

    return make


@pytest.fixture(scope="session")
def an_image(oblique_grid, make_image) -> Volume:
    """The blobs in an oblique left-handed image, a little off its middle and larger than the atlas."""
    return make_image(oblique_grid, tuple(np.add(oblique_grid.center, [1.5, -1.0, 2.0])), 1.1)


@pytest.fixture(scope="session")
def a_flat_image(oblique_flat_grid, make_image) -> Volume:
    return make_image(oblique_flat_grid, tuple(np.add(oblique_flat_grid.center, [1.0, -1.5])), 1.1)


@pytest.fixture(scope="session")
def a_result(a_small_bundle, an_image):
    """One pass on `an_image`."""
    return segment(a_small_bundle, an_image)


@pytest.fixture(scope="session")
def a_flat_result(a_flat_bundle, a_flat_image):
    return segment(a_flat_bundle, a_flat_image)


@pytest.fixture
def run(capfd):
    """A function that runs a command line in this process: exit code, stdout and stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return (code, *capfd.readouterr())

    return call


@pytest.fixture
def start_worker() -> Iterator[Callable[..., Worker]]:
    """A function that starts a worker of the test's own."""
    started: list[Worker] = []

    def new(command: tuple[str, ...] = WORKER, errors: int | None = None) -> Worker:
        started.append(Worker(command, errors))
        return started[-1]

    yield new
    for worker in started:
        worker.close()


@pytest.fixture(scope="module")
def shared_worker() -> Iterator[Worker]:
    """One worker for all tests that leave it as it was."""
    worker = Worker()
    worker.ready()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def small_model(tmp_path_factory, a_small_bundle) -> Path:
    return save_bundle(a_small_bundle, tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def request_of(tmp_path) -> Callable[..., dict[str, Any]]:
    """A function that gives the fields of a request for an image."""

    def made(image: Volume, model: Path | str, case: str, **more: Any) -> dict[str, Any]:
        entry = {**volume_to_files(image, tmp_path, "image"), "folder": str(tmp_path)}
        return {"image": entry, "model": str(model), "case": case, "folder": str(tmp_path), "device": "cpu", **more}

    return made


@pytest.fixture
def scan(request_of, an_image, small_model) -> dict[str, Any]:
    """A request for the small 3D model."""
    return request_of(an_image, small_model, "scan")
