"""Seconds per refinement iteration: the two modes of `refine` against the loop of the released code written out.

    python Testing/benchmarks/refinement.py [--sizes 64 96] [--iterations 6] [--threads 2] [--device cpu]

The naive loop runs and differentiates the ITN in every iteration and warps what the released loop warps: the atlas
image, the atlas labels and the prediction. Surface metrics, which the released loop also computes in every iteration,
are left out. What counts are the ratios of one run: they say how much work is saved, whatever the machine.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import time

import torch

from AtlasISTNLib.bundle import About, Bundle, Label, find_device, half_extent
from AtlasISTNLib.configs import MODES, ModelConfig, NormalisationConfig, RefineConfig
from AtlasISTNLib.datasets import soft_labels
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.losses import label_distance, smoothness
from AtlasISTNLib.model import AtlasISTN
from AtlasISTNLib.phantoms import heart, heart_center
from AtlasISTNLib.progress import Progress
from AtlasISTNLib.result import Result
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.volume import Volume
from AtlasISTNLib.warp import sample

LABELS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    write = sys.stdout.write
    device = find_device(options.device)
    write(f"{LABELS} labels, {torch.get_num_threads()} threads, {device}, torch {torch.__version__}\n")
    write(f"{'size':>6} {'mode':>8} {'s/iteration':>12} {'naive / mode':>13}\n")
    for size in options.sizes:
        bundle, image = a_case(size, options.device)
        result = segment(bundle, image)
        seconds = {"naive": statistics.median(naive(bundle, image, options.iterations)[1:])}
        for mode in MODES:
            seconds[mode] = statistics.median(refined(bundle, result, mode, options.iterations)[1:])
        for name, value in seconds.items():
            write(f"{size:>4}^3 {name:>8} {value:>12.3f} {seconds['naive'] / value:>13.2f}\n")


def a_case(size: int, device: str) -> tuple[Bundle, Volume]:
    """An untrained model of the standard architecture with a real atlas, and a phantom heart on its grid."""
    grid = Grid.centered((size,) * 3, (160 / size,) * 3)
    placed = Grid.centered(grid.shape, grid.spacing, heart_center(1))
    phantom = heart(1, placed)
    atlas = torch.from_numpy(soft_labels(phantom.labels, range(LABELS), placed, 0.5))
    torch.manual_seed(0)
    model = AtlasISTN(ModelConfig(LABELS, grid.shape), half_extent(grid), torch.zeros(1, *grid.shape), atlas)
    labels = tuple(Label(value, str(value)) for value in range(LABELS))
    settings = RefineConfig(50, 500.0, 1.0, 0.0, None, "network")
    model = model.to(find_device(device)).eval().requires_grad_(False)
    bundle = Bundle(About("benchmark"), labels, grid, NormalisationConfig(), settings, model)
    return bundle, phantom.image


def refined(bundle: Bundle, result: Result, mode: str, iterations: int) -> list[float]:
    """Seconds between the steps of `refine`."""
    ticks: list[float] = []

    def report(progress: Progress) -> None:
        ticks.append(time.perf_counter())

    refine(bundle, result, RefineConfig(iterations, 500.0, mode=mode), report)
    # The last step only evaluates.
    return [b - a for a, b in itertools.pairwise(ticks[:-1])]


def naive(bundle: Bundle, image: Volume, iterations: int) -> list[float]:
    """The released refinement loop: ITN in every iteration, with its gradient, and everything warped."""
    model = copy.deepcopy(bundle.model).requires_grad_(True)
    normal = torch.from_numpy(image.array.astype("float32")).unsqueeze(0).to(bundle.device)
    normal = (normal - normal.mean()) / normal.std()
    optimizer = torch.optim.Adam(model.stn.parameters(), lr=1e-3)
    seconds = []
    for _ in range(iterations):
        start = time.perf_counter()
        optimizer.zero_grad()
        prediction = model.itn(normal)
        warp = model.register_atlas(prediction)
        plus, minus = warp.displacement(1), warp.displacement(-1)
        to_atlas, to_image = warp.atlas_from_image(plus), warp.image_from_atlas(minus)
        sample(prediction, to_image)
        sample(model.atlas_image.unsqueeze(0), to_atlas)
        warped = sample(model.atlas_labels.unsqueeze(0), to_atlas)
        loss = label_distance(prediction[:, 1:], warped[:, 1:]) + 500.0 * smoothness(plus, normal)
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
