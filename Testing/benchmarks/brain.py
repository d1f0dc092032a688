"""How good the model of the brain's deep grey structures is on a real scan, as it is and in the ways scans differ.

    python Testing/benchmarks/brain.py --image t1.nii.gz --labels seg.nii.gz
    python Testing/benchmarks/brain.py --image t1.nii.gz --labels seg.nii.gz --variants

The labels have FreeSurfer's numbers; whatever the model does not segment is left out of them. `--variants` changes the
scan: contrast inverted, slices of 3 mm, noise, uneven brightness, a third of the field of view cut off, turned by 20°,
stored along other axes. Prints Markdown tables; `--pictures` writes a report.png for each row.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from AtlasISTNLib import Bundle, RefineConfig, Result, Scores, evaluate, load_bundle, refine, segment
from AtlasISTNLib.experiment_scores import folded_percent
from AtlasISTNLib.report import write_picture
from AtlasISTNLib.topology import topology
from AtlasISTNLib.volume import Volume

Pair = tuple[Volume, Volume]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    bundle = load_bundle(options.model, "cpu")
    image = Volume.read(options.image)
    truth = _of_model(Volume.read(options.labels), bundle)
    loaded = time.perf_counter() - start
    result = segment(bundle, image)
    found = time.perf_counter() - start
    strengths = options.strengths or [bundle.refinement.strength * factor for factor in (0.1, 1.0, 10.0)]
    results = {"one pass": result}
    for strength in strengths:
        begun = time.perf_counter()
        results[f"refined, λ* {strength:g}"] = refine(bundle, result, _config(options, strength))
        took = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _say(f"{bundle.about.name} on {Path(options.image).name}, {options.threads} threads: model and scan read in")
    _say(f"{loaded:.1f} s, segmented in one pass after {found:.1f} s, a refinement {took:.1f} s; {peak:.2f} GiB\n")
    _structures(bundle, truth, {"ITN": evaluate(result.prediction, truth), **_scores(results, truth)})
    _overall(truth, result, results, options)
    if options.variants:
        _say("\n| scan | ITN | one pass | refined | pieces |\n|---|---|---|---|---|")
        for name, change in variants(options.seed):
            _variant(bundle, name, change((image, truth)), options)


def variants(seed: int) -> Iterator[tuple[str, Callable[[Pair], Pair]]]:
    """Names of changes, and functions of scan and labels that make them."""
    draw = np.random.default_rng(seed)
    yield "as it is", lambda pair: pair
    yield "contrast inverted", lambda pair: (_inverted(pair[0]), pair[1])
    yield "slices of 3 mm", lambda pair: (_thick(pair[0], 3.0), pair[1])
    yield "noise, σ 8 % of the range", lambda pair: (_noisy(pair[0], 0.08, draw), pair[1])
    yield "bias field, 0.5 to 1.5", lambda pair: (_biased(pair[0], 0.5), pair[1])
    yield "a third cut off at the top", lambda pair: (_cut(pair[0], 1 / 3, 2, 1), pair[1])
    yield "a third cut off in front", lambda pair: (_cut(pair[0], 1 / 3, 1, 0), pair[1])
    for axis, name in enumerate(("x", "y", "z")):
        yield f"turned by 20° about {name}", lambda pair, axis=axis: tuple(_turned(v, axis, 20.0) for v in pair)
    for order in ("PSR", "LIP", "IAL"):
        yield f"stored as {order}", lambda pair, order=order: tuple(_stored(v, order) for v in pair)


def _variant(bundle: Bundle, name: str, pair: Pair, options: argparse.Namespace) -> None:
    image, truth = pair
    result = segment(bundle, image)
    refined = refine(bundle, result, _config(options, None))
    found = (result.prediction, result.labels, refined.labels)
    scores = [evaluate(_on_grid(labels, truth), truth).mean("dice") for labels in found]
    pieces = _pieces(refined.labels)
    _say(f"| {name} | " + " | ".join(f"{score:.3f}" for score in scores) + f" | {pieces} |")
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        safe = "".join(letter if letter.isalnum() else "-" for letter in name)
        write_picture(bundle, refined, options.pictures / f"{safe}.png", _on_grid(truth, image))


def _structures(bundle: Bundle, truth: Volume, scores: dict[str, Scores]) -> None:
    head = " | ".join(f"{name} Dice | ASSD" for name in scores)
    _say(f"| structure | {head} |\n|---|{'---|---|' * len(scores)}")
    for label in bundle.labels[1:]:
        cells = []
        for found in scores.values():
            (score,) = (s for s in found if s.label == label.value)
            cells += [f"{score.dice:.3f}", f"{score.assd:.2f}"]
        _say(f"| {label.name} | " + " | ".join(cells) + " |")
    means = [f"{found.mean(measure):.3f}" for found in scores.values() for measure in ("dice", "assd")]
    _say("| **mean** | " + " | ".join(means) + " |\n")


def _overall(truth: Volume, first: Result, results: dict[str, Result], options: argparse.Namespace) -> None:
    _say("| | Dice | ASSD | HD95 | HD | labels in one piece | folded % |\n|---|---|---|---|---|---|---|")
    rows = {"ITN": (first.prediction, None), **{name: (r.labels, r.correspondence) for name, r in results.items()}}
    for name, (labels, correspondence) in rows.items():
        scores = evaluate(labels, truth)
        figures = " | ".join(f"{scores.mean(m):.3f}" for m in ("dice", "assd", "hd95", "hd"))
        folded = "" if correspondence is None else f"{folded_percent(correspondence):.4f}"
        _say(f"| {name} | {figures} | {_pieces(labels)} | {folded} |")


def _scores(results: dict[str, Result], truth: Volume) -> dict[str, Scores]:
    return {name: evaluate(result.labels, truth) for name, result in results.items()}


def _on_grid(labels: Volume, other: Volume) -> Volume:
    """Labels on the voxels of others: a change of resolution takes the image alone."""
    return labels if labels.grid.same_as(other.grid) else labels.resampled(other.grid, "nearest")


def _pieces(labels: Volume) -> str:
    found = [t for value, t in topology(labels).items() if value]
    return f"{sum(t.components == 1 for t in found)}/{len(found)}"


def _config(options: argparse.Namespace, strength: float | None) -> RefineConfig:
    return RefineConfig(options.iterations, strength, mode=options.mode)


def _of_model(labels: Volume, bundle: Bundle) -> Volume:
    values = [label.value for label in bundle.labels[1:]]
    return labels.with_array(np.where(np.isin(labels.array, values), labels.array, 0))


# The changes


def _inverted(image: Volume) -> Volume:
    """The negative of the head; what lies around it stays dark."""
    values = image.array.astype(np.float32)
    low, high = float(values.min()), float(np.percentile(values, 99.9))
    inside = values > low + 0.02 * (high - low)
    return image.with_array(np.where(inside, np.clip(low + high - values, low, None), low))


def _thick(image: Volume, mm: float) -> Volume:
    size = [
        n if axis != 2 else round(n * s / mm)
        for axis, (n, s) in enumerate(zip(image.grid.size, image.grid.spacing, strict=True))
    ]
    spacing = [n * s / m for n, s, m in zip(image.grid.size, image.grid.spacing, size, strict=True)]
    grid = type(image.grid).centered(size[::-1], spacing, image.grid.center, image.grid.direction)
    return image.resampled(grid, antialias=True)


def _noisy(image: Volume, share: float, draw: np.random.Generator) -> Volume:
    values = image.array.astype(np.float32)
    level = share * float(np.percentile(values, 99.5) - values.min())
    real, imaginary = (level * draw.standard_normal(values.shape, dtype=np.float32) for _ in range(2))
    return image.with_array(np.hypot(values - values.min() + real, imaginary))


def _biased(image: Volume, strength: float) -> Volume:
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.array.shape[1:]), indexing="ij", sparse=True)
    field = 1 + strength * np.tanh(0.9 * places[0] + 0.7 * places[1] - 0.8 * places[2])
    return image.with_array((image.array - image.array.min()) * field.astype(np.float32))


def _cut(image: Volume, share: float, axis: int, side: int) -> Volume:
    """Without a share of the head along a WORLD axis (x, y, z): its lower (0) or its upper (1) end, in LPS."""
    grid = image.grid
    place = grid.points()[..., axis]
    head = place[image.array[0] > image.array.min() + 0.05 * (image.array.max() - image.array.min())]
    low, high = np.percentile(head, [0.5, 99.5])
    border = low + share * (high - low) if side == 0 else high - share * (high - low)
    kept = np.argwhere(place >= border if side == 0 else place <= border)
    start, stop = kept.min(axis=0), kept.max(axis=0) + 1
    part = image.array[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))]
    return Volume.from_array(part, grid.box(start.tolist(), stop.tolist()), image.name)


def _turned(volume: Volume, axis: int, degrees: float) -> Volume:
    """The patient turned in the scanner: the voxels are the same, their place in the world is another one."""
    turn = sitk.VersorTransform([float(i == axis) for i in range(3)], np.radians(degrees))
    matrix = np.array(turn.GetMatrix()).reshape(3, 3)
    grid = volume.grid
    direction = matrix @ np.array(grid.direction)
    center = np.array(grid.center)
    origin = center + matrix @ (np.array(grid.origin) - center)
    turned = type(grid)(grid.shape, grid.spacing, tuple(origin), tuple(map(tuple, direction)))
    return Volume.from_array(volume.array, turned, volume.name)


def _stored(volume: Volume, order: str) -> Volume:
    return Volume.from_sitk(sitk.DICOMOrient(volume.to_sitk(), order), volume.name)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="brain-deep-grey")
    parser.add_argument("--image", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--strengths", type=float, nargs="+", default=[])
    parser.add_argument("--mode", default="field", choices=("field", "network"))
    parser.add_argument("--iterations", type=int, default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--pictures", type=Path, help="folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
