"""How good a model is on labelled images: ITN, one pass, and refined at several λ*.

    python Testing/benchmarks/accuracy.py --model letter-b --images test.csv --labels test.seg.csv
    python Testing/benchmarks/accuracy.py --model phantom-heart --phantoms 20 --artefacts

`--held-out` takes of the listed cases only those that the model's own record says were kept from its training. A result
counts as topologically right when every label has the components, holes, tunnels and Euler number of the atlas's label.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from AtlasISTNLib import Bundle, RefineConfig, Result, Scores, evaluate, load_bundle, refine, segment
from AtlasISTNLib.datasets import Case, cases_from_csv, cases_from_folders
from AtlasISTNLib.experiment_scores import atlas_on_its_grid, folded_percent
from AtlasISTNLib.phantoms import HeartArtefacts, heart
from AtlasISTNLib.topology import topology

#: Seeds from here on were never trained on.
FIRST_UNSEEN_SEED = 5000


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    bundle = load_bundle(options.model, "cpu")
    expected = topology(atlas_on_its_grid(bundle))
    rows: dict[str, list[Scores]] = {}
    folds: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for case in cases(options, bundle):
        image, labels = case.load()
        result = segment(bundle, image)
        rows.setdefault("ITN", []).append(evaluate(result.prediction, labels))
        for name, refined in runs(bundle, result, options):
            start = time.perf_counter()
            done = refined()
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            rows.setdefault(name, []).append(evaluate(done.labels, labels))
            folds.setdefault(name, []).append(folded_percent(done.correspondence))
    head = f"{'':>28} {'Dice':>8} {'ASSD':>8} {'HD95':>8} {'HD':>8} {'topology':>10} {'folded %':>9} {'seconds':>8}\n"
    sys.stdout.write(f"{bundle.about.name}, {len(rows['ITN'])} cases, mm\n{head}")
    for name, scores in rows.items():
        values = [statistics.mean(_finite(s.mean(m) for s in scores)) for m in ("dice", "assd", "hd95", "hd")]
        right = sum(all(expected.get(x.label) == x.topology for x in s) for s in scores)
        tail = f"{np.mean(folds[name]):9.4f} {np.mean(seconds[name]):8.1f}" if name in folds else ""
        figures = f"{values[0]:8.4f} {values[1]:8.3f} {values[2]:8.2f} {values[3]:8.2f}"
        sys.stdout.write(f"{name:>28} {figures} {right:5}/{len(scores):<4} {tail}\n")


def runs(bundle: Bundle, result: Result, options: argparse.Namespace) -> Iterator:
    """Names of the atlas's results and functions that compute them."""
    yield "one pass", lambda: result
    for mode in options.modes:
        for strength in options.strengths:
            config = RefineConfig(options.iterations, strength, mode=mode)
            yield f"refined, {mode}, λ* = {strength:g}", lambda c=config: refine(bundle, result, c)


def cases(options: argparse.Namespace, bundle: Bundle) -> Iterator[Case]:
    """The cases that the options name."""
    if options.phantoms:
        for seed in range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + options.phantoms):
            phantom = heart(seed, artefacts=HeartArtefacts.typical(seed) if options.artefacts else None)
            yield Case(f"heart {seed}", phantom.image, phantom.labels)
        return
    read = cases_from_csv if Path(options.images).is_file() else cases_from_folders
    held_out = set(bundle.training.get("held_out", ()))
    for case in read(options.images, options.labels):
        if not options.held_out or case.name in held_out:
            yield case


def _finite(values: Iterator[float]) -> list[float]:
    return [v for v in values if np.isfinite(v)] or [float("nan")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", help="CSV list or folder")
    parser.add_argument("--labels", help="CSV list or folder")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--phantoms", type=int, default=0)
    parser.add_argument("--artefacts", action="store_true")
    parser.add_argument("--strengths", type=float, nargs="+", default=[50.0, 500.0, 5000.0])
    parser.add_argument("--modes", nargs="+", default=["network"])
    parser.add_argument("--iterations", type=int, default=None)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
