"""How soon the overlay follows the slider: seconds from the last movement of λ* with Auto on, in the panel.

    python Testing/benchmarks/live.py [--threads 2] [--repeats 3] [--iterations 100] [--cube 64]

The panel runs on the stand-in host with the real engine, on the bundled heart; with `--cube`, on a model grid of so
many voxels along each axis in place of its own 48 × 40 × 40, which are as large. λ* is dragged for half a second while
a refinement goes on. Printed are the seconds from the last movement until the next refinement was asked for, until the
surfaces moved for the first time by the new λ*, until its loss was within 1 % of the lowest that it reached, and until
the result was written into the scene. They depend on what else the machine does: its load is printed, too.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from AtlasISTNLib import About, Bundle, load_bundle, save_bundle
from AtlasISTNLib.bundle import half_extent
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.model import AtlasISTN
from AtlasISTNLib.networks import STN_MULTIPLE, padded_shape

TESTING = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTING))

import standin  # noqa: E402

SECONDS = 600
#: Ticks of the slider between which it is dragged, and seconds that a drag takes.
ENDS, DRAG = (-200, 100), 0.5
FIGURES = ("asked", "moved", "converged", "written")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--modes", nargs="+", default=["field", "network"], choices=["field", "network"])
    parser.add_argument(
        "--cube", type=int, default=0, help="voxels along each axis of the model grid, in multiples of 16"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = save_bundle(in_cube(options.cube), Path(scratch, "cube")) if options.cube else None
        measure(options, model)
    return 0


def measure(options: argparse.Namespace, model: Path | None) -> None:
    """Drag λ* in the panel, and print how soon it was followed."""
    standin.start()
    opened = standin.open_module(TESTING.parent / "AtlasISTN" / "AtlasISTN.py")
    opened.parent.show()
    opened.widget.enter()
    panel = opened.widget.panel
    try:
        prepare(panel, options.threads, options.iterations, model)
        write(f"{'mode':>8} {'load':>5} " + " ".join(f"{name:>10}" for name in FIGURES) + f" {'per step':>10}")
        for mode in options.modes:
            panel.parameters.mode = mode
            settle(panel)
            runs = [dragged(panel, ENDS[turn % 2]) for turn in range(options.repeats)]
            for run in runs:
                report(mode, run)
            report(f"{mode[:3]} med.", {key: statistics.median(run[key] for run in runs) for key in runs[0]})
    finally:
        standin.close_module(opened)


def in_cube(size: int) -> Bundle:
    """The bundled heart model on a cubic grid of voxels as large as its own, with the same weights.

    Those of the layer behind the affine head's features, which knows how many there are, are interpolated; one pass is
    therefore a little worse than the model's own.
    """
    old = load_bundle("phantom-heart", "cpu")
    grid = Grid.centered((size,) * 3, old.grid.spacing, old.grid.center)
    image = old.atlas_image.resampled(grid, outside="minimum").array.copy()
    soft = old.atlas_labels.resampled(grid).array.copy()
    soft[0] = 1 - soft[1:].sum(axis=0)
    config = replace(old.config, shape=grid.shape)
    model = AtlasISTN(config, half_extent(grid), torch.from_numpy(image), torch.from_numpy(soft))
    weights = old.model.state_dict()
    before, after = (
        [n // STN_MULTIPLE for n in padded_shape(shape, STN_MULTIPLE)] for shape in (old.grid.shape, grid.shape)
    )
    known = weights["stn.affine_hidden.weight"].unflatten(1, (-1, *before))
    share = math.prod(before) / math.prod(after)
    weights["stn.affine_hidden.weight"] = (F.interpolate(known, after, mode="trilinear") * share).flatten(1)
    model.load_state_dict(weights)
    return replace(old, about=About(f"heart in {size}³"), grid=grid, model=model.eval().requires_grad_(False))


def prepare(panel: Any, threads: int, iterations: int, model: Path | None) -> None:
    """The heart segmented, Auto on."""
    ui = panel.ui
    actions = ui.sampleButton.menu().actions()
    next(action for action in actions if action.text == "Phantom heart with artefacts").trigger()
    standin.process_events()
    if model is not None and not panel.input.add_model(str(model)):
        raise SystemExit("The model was not taken")
    ui.threadsSpinBox.value = threads
    ui.iterationsSpinBox.value = iterations
    standin.click(ui.segmentButton)
    settle(panel)
    if panel.session.failure is not None:
        raise SystemExit(str(panel.session.failure))
    panel.parameters.autoRefine = True


def dragged(panel: Any, end: int) -> dict[str, float]:
    """Drag λ* to a tick while a refinement goes on; the figures of what follows."""
    session, slider = panel.session, panel.ui.strengthSlider
    slider.value = 0
    panel.auto_restart()  # also where the slider was there before
    wait(lambda: session.refining and session.previews >= 2)
    began, last = slider.value, 0.0
    for share in range(1, 11):
        standin.process_events(DRAG / 10)
        last = time.monotonic()
        slider.value = round(began + (end - began) * share / 10)
    wanted = panel.refine.strength
    found: dict[str, float] = {"load": os.getloadavg()[0]}
    losses: list[tuple[float, float]] = []

    def look(_correspondence: Any = None, _frame: Any = None) -> None:
        run = session._run
        if run is None or run.config is None or abs(run.config.strength - wanted) > 1e-6 * wanted:
            return
        found.setdefault("asked", time.monotonic() - last)
        if run.previews:
            found.setdefault("moved", time.monotonic() - last)
        points = session.course.points
        if run.stage == "refine" and points:
            losses.append((time.monotonic() - last, points[-1].total))

    session.on_preview_listeners.append(look)
    wait(lambda: look() or (found.get("moved") and not session.busy and not panel.live.waiting))
    session.on_preview_listeners.remove(look)
    found["written"] = time.monotonic() - last
    least = min(total for _when, total in losses)
    found["converged"] = next(when for when, total in losses if total <= 1.01 * least)
    trace = session.outcome.trace
    found["per step"] = trace["seconds"] / max(1, len(trace["steps"]) - 1)
    return found


def report(name: str, run: dict[str, float]) -> None:
    figures = " ".join(f"{run[key]:>10.2f}" for key in FIGURES)
    write(f"{name:>8} {run['load']:>5.1f} {figures} {run['per step']:>10.3f}")


def settle(panel: Any) -> None:
    wait(lambda: not (panel.session.busy or panel.live.waiting or panel.session.unwritten))
    standin.process_events(0.1)


def wait(condition: Any) -> None:
    if not standin.wait_until(condition, SECONDS):
        raise SystemExit(f"Nothing came of it within {SECONDS} s")


def write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
