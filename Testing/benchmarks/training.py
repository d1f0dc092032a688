"""Seconds per training epoch: `run_training` against the loop of the released code written out, on letter B.

    python Testing/benchmarks/training.py [--count 200] [--epochs 3] [--threads 1] [--images CSV --labels CSV] [--cpu]

Cases are phantom letters, or the first of a list such as the published letter B's. The grid is 64 × 64 pixels of 2 mm,
batches hold 10 cases, λ = 500, η = 0.01, ω's midpoint is epoch 25, nothing is augmented. Both loops train the same
networks from the same weights on the same prepared cases in the same order of batches; their losses, printed side by
side, say whether they do the same work; the atlas of `run_training` is updated from its steps, not in a pass of its own
(`atlas_update`), so that its losses differ a little from the second epoch on. What counts are the ratios of one run,
whatever the machine; `--cpu` counts the seconds of processor time instead, for a machine that computes something else
beside it.

What the released loop does, and what is left out of it to its favour, is written in `released_training`. The row
"without metrics" leaves the metrics of the batches out, too: what then remains is the saving in the training proper.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import SimpleITK as sitk
import torch
from released_training import CLASSES, ETA, MIDPOINT, RATE, SPACING, STRENGTH, Letters, Timing, released
from torch import Tensor

from AtlasISTNLib import training
from AtlasISTNLib.bundle import About, Label
from AtlasISTNLib.configs import ModelConfig, NormalisationConfig, TrainConfig
from AtlasISTNLib.datasets import Case, cases_from_csv
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.model import AtlasISTN
from AtlasISTNLib.phantoms import letter_b
from AtlasISTNLib.prepared import prepare
from AtlasISTNLib.training import run_training

SHAPE, BATCH = (64, 64), 10
GRID = Grid.centered(SHAPE, SPACING)
Clock = Callable[[], float]
#: The terms of the loss that both loops report.
TERMS = ("loss", "segmentation", "a2s", "s2a", "reg")


@dataclass
class Start:
    """Where a training began, and the batches that it took in turn."""

    model: AtlasISTN | None = None
    batches: list[list[int]] = field(default_factory=list)


def main() -> None:
    options = parsed()
    clock = time.process_time if options.cpu else time.perf_counter
    torch.set_num_threads(options.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    cases, values = letters(options)
    header = f"{len(cases)} cases, {options.epochs} epochs, {options.threads} threads, torch {torch.__version__}"
    sys.stdout.write(header + "\n")
    with tempfile.TemporaryDirectory() as folder:
        ours, start = trained(cases, values, options.epochs, Path(folder), clock)
        found = prepare(cases, values, GRID, NormalisationConfig(), settings(options.epochs), False, Path(folder))
        data = Letters(np.array(found.images), np.array(found.labels, np.float32))
        each = len(start.batches) // options.epochs
        batches = [start.batches[first : first + each] for first in range(0, len(start.batches), each)]
        assert start.model is not None
        loops = {"released": released(data, start.model, batches, True, clock)}
        loops["without metrics"] = released(data, start.model, batches, False, clock)
        # Once more, so that a machine that grows slower or faster in the meantime does not favour one side.
        again, _ = trained(cases, values, options.epochs, Path(folder), clock)
    ours.steps += again.steps
    ours.update += again.update
    show({**loops, "run_training": ours})


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="list of images in the released layout (default: phantom letters)")
    parser.add_argument("--labels", type=Path, help="list of their label maps")
    parser.add_argument("--count", type=int, default=200, help="cases to take (default: 200)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="measure processor time; with one thread")
    options = parser.parse_args()
    if (options.images is None) != (options.labels is None):
        parser.error("--images and --labels go together")
    return options


def letters(options: argparse.Namespace) -> tuple[list[Case], list[int]]:
    """Cases and their label values."""
    if options.images is None:
        phantoms = ((seed, letter_b(seed)) for seed in range(options.count))
        return [Case(f"letter {seed}", phantom.image, phantom.labels) for seed, phantom in phantoms], [0, 1]
    cases = cases_from_csv(options.images, options.labels)[: options.count]
    return cases, [0, int(cases[0].load()[1].array.max())]


def show(loops: Mapping[str, Timing]) -> None:
    """A table of the seconds and one of the losses."""
    write = sys.stdout.write
    own = loops["run_training"].seconds()
    write(f"\n{'loop':<16} {'steps':>9} {'atlas':>9} {'s/epoch':>9} {'ratio':>7} {'of steps':>9}\n")
    for name, timing in loops.items():
        steps, update = timing.seconds()
        write(f"{name:<16} {steps:>9.3f} {update:>9.3f} {steps + update:>9.3f} {(steps + update) / sum(own):>7.2f}")
        write(f" {steps / own[0]:>9.2f}\n")
    write(f"\n{'epoch':<6} {'loop':<16}" + "".join(f" {name:>13}" for name in TERMS) + "\n")
    for epoch in range(len(loops["released"].terms)):
        for name, timing in loops.items():
            figures = "".join(f" {timing.terms[epoch][term]:>13.6g}" for term in TERMS)
            write(f"{epoch + 1:<6} {name:<16}{figures}\n")


def settings(epochs: int) -> TrainConfig:
    return TrainConfig(
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=RATE,
        strength=STRENGTH,
        omega_midpoint=float(MIDPOINT),
        eta=ETA,
        validation=0.0,
    )


def trained(
    cases: Sequence[Case], values: Sequence[int], epochs: int, cache: Path, clock: Clock
) -> tuple[Timing, Start]:
    """Timing of `run_training`, and what it started with."""
    timing, start = Timing(), Start()
    with watched(timing, start, clock):
        found = run_training(
            cases,
            settings(epochs),
            labels=[Label(value, f"label {value}") for value in values],
            grid=GRID,
            about=About("letters"),
            model_config=ModelConfig(CLASSES, SHAPE, convention="reference"),
            cache=cache,
            device="cpu",
        )
    timing.terms = list(found.history)
    return timing, start


@contextlib.contextmanager
def watched(timing: Timing, start: Start, clock: Clock) -> Iterator[None]:
    """Take down the first weights, the order of the batches and the time of steps and atlas updates."""
    loss, batch, update = training.joint_loss, training.batch_of, training._Training._update_atlas
    steps = training._Training._epoch

    def first_model(model: AtlasISTN, *more: object) -> tuple[Tensor, dict[str, Tensor]]:
        if start.model is None:
            start.model = copy.deepcopy(model)
        return loss(model, *more)

    def next_batch(data: object, index: Tensor, *more: object) -> tuple[Tensor, Tensor]:
        start.batches.append(index.tolist())
        return batch(data, index, *more)

    def timed_update(self: object, epoch: int) -> None:
        began = clock()
        update(self, epoch)
        timing.update.append(clock() - began)

    def timed_steps(self: object, *more: object) -> object:
        began = clock()
        terms = steps(self, *more)
        timing.steps.append(clock() - began)
        return terms

    with (
        mock.patch.object(training, "joint_loss", first_model),
        mock.patch.object(training, "batch_of", next_batch),
        mock.patch.object(training._Training, "_update_atlas", timed_update),
        mock.patch.object(training._Training, "_epoch", timed_steps),
    ):
        yield


if __name__ == "__main__":
    main()
