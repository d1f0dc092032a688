"""What steering a refinement gains: phantom hearts with metal in the wall, and label maps that were spoilt.

    OMP_NUM_THREADS=1 python Testing/benchmarks/steering.py [--hearts 8] [--strengths 150 500] [--output out/steering]

Two tables, as Markdown, and pictures of the first cases.

1. A piece of metal with a dark halo and streaks lies in the free wall of the left ventricle of hearts that the bundled
   model never saw. The atlas is refined as it is, with a ball about the metal ignored, and with two of its points
   pulled to where they belong. That is what a user can do who sees the metal and knows the heart: the ball is that of a
   round brush; the points are those where the wall's inner or outer surface, refined by λ* alone, is farthest from the
   true one near the metal, and each goes to the nearest point of the true one.
2. The atlas is fitted to true labels that were spoilt: torn (a hole through the wall, a piece of the right ventricle
   cut off, four islands), besides with each slice a voxel or so off, and riddled with twenty holes and twenty islands.
   The network is not used.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from AtlasISTNLib import Bundle, Landmarks, RefineConfig, Result, Scores, Steering, Volume, evaluate, load_bundle
from AtlasISTNLib.experiment_drawing import Page
from AtlasISTNLib.experiment_scores import atlas_on_its_grid
from AtlasISTNLib.geometry import VOXEL, WORLD, Float, Grid
from AtlasISTNLib.panels import draw_outlines, shades, show
from AtlasISTNLib.phantoms import Phantom, heart, heart_center
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.topology import topology
from AtlasISTNLib.views import View, views_of

#: Seeds from here on were never trained on.
FIRST_UNSEEN_SEED = 5000
WALL, BLOOD, RIGHT, ATRIUM = 1, 2, 3, 5
#: mm: the metal, its dark halo, how far streaks reach and how thick they are, and what a user paints over it.
METAL, HALO, REACH, THICK, PAINTED = 10.0, 18.0, 30.0, 8.0, 26.0
#: mm: half of what a picture shows.
SHOWN = 62.0
#: mm between the two points that are pulled, at least, and from the metal, at most.
APART, NEAR = 12.0, 35.0


@dataclass
class Row:
    """One way of refining.

    Attributes:
        scores: of each case.
        seconds: of the processor for each step.
        right: whether every structure has the topology that it has in the atlas.
        left: mm between pulled points and their places.
    """

    scores: list[Scores] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    left: list[float] = field(default_factory=list)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    bundle = load_bundle("phantom-heart", "cpu")
    options.output.mkdir(parents=True, exist_ok=True)
    seeds = range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + options.hearts)
    for name in options.tables:
        rows: dict[str, Row] = {}
        for seed in seeds:
            {"metal": metal_table, "labels": spoilt_table}[name](bundle, seed, rows, options)
            (options.output / f"{name}.md").write_text(markdown(rows), encoding="utf-8")  # so far: it takes its time
        sys.stdout.write(markdown(rows) + "\n")


# ---------------------------------------------------------------------------------------------- metal in the wall


def metal_table(bundle: Bundle, seed: int, rows: dict[str, Row], options: argparse.Namespace) -> None:
    """Measure one heart with metal in its wall."""
    phantom = around_heart(seed)
    center = place_in_wall(phantom)
    image = with_metal(phantom.image, center, seed)
    result = segment(bundle, image)
    truth = phantom.labels
    noted(bundle, result.prediction, truth, rows, "network (ITN)")
    noted(bundle, segment(bundle, phantom.image).prediction, truth, rows, "network (ITN), without metal")
    mask = ball(truth, center, PAINTED)
    for strength in options.strengths:
        config = RefineConfig(options.iterations, strength, mode=options.mode)
        alone = refined(bundle, result, config, None, truth, rows, f"λ* = {strength:g}")
        marks = pulled(alone, truth, center)
        ways = {
            "region ignored": Steering(ignore=mask),
            "two points pulled": Steering(landmarks=marks),
            "both": Steering(ignore=mask, landmarks=marks),
        }
        shown = {"truth": truth, "λ* alone": alone.labels}
        for name, steering in ways.items():
            done = refined(bundle, result, config, steering, truth, rows, f"λ* = {strength:g}, {name}")
            shown[name] = done.labels
        if seed < FIRST_UNSEEN_SEED + options.pictures:
            picture(bundle, image, center, shown, options.output / f"metal-{seed}-{strength:g}.png")


def refined(
    bundle: Bundle,
    result: Result,
    config: RefineConfig,
    steering: Steering | None,
    truth: Volume,
    rows: dict[str, Row],
    name: str,
) -> Result:
    """Refine, and note scores, topology and seconds."""
    start = time.process_time()
    done = refine(bundle, result, config, steering=steering)
    seconds = time.process_time() - start
    row = noted(bundle, done.labels, truth, rows, name)
    if done.trace is not None:
        row.seconds.append(seconds / len(done.trace.steps))
        row.left += [mark.after for mark in done.trace.landmarks]
    return done


def noted(bundle: Bundle, labels: Volume, truth: Volume, rows: dict[str, Row], name: str) -> Row:
    """Note scores and topology of labels."""
    row = rows.setdefault(name, Row())
    row.scores.append(evaluate(labels, truth))
    found = topology(labels)
    row.right.append(all(found.get(value) == shape for value, shape in topology(atlas_on_its_grid(bundle)).items()))
    return row


def around_heart(seed: int) -> Phantom:
    """A heart with 16 cm of its chest."""
    return heart(seed, Grid.centered((64, 80, 80), (2.0, 2.0, 2.5), heart_center(seed)))


def place_in_wall(phantom: Phantom) -> Float:
    """A point in the middle of the left ventricle's free wall, away from valve and septum; WORLD mm."""
    labels, grid = phantom.labels.array[0], phantom.labels.grid
    spacing = grid.spacing[::-1]
    wall = labels == WALL
    far = [ndimage.distance_transform_edt(labels != value, spacing) > 20 for value in (RIGHT, ATRIUM)]
    free = wall & far[0] & far[1]
    depth = ndimage.distance_transform_edt(wall, spacing)
    points = np.argwhere(free & (depth >= np.quantile(depth[free], 0.8)))
    chosen = points[np.random.default_rng(phantom.seed).integers(len(points))]
    return grid.transform_points(chosen[::-1].astype(np.float64), WORLD, VOXEL)


def with_metal(image: Volume, center: Float, seed: int) -> Volume:
    """The image with a bright lump, its dark halo and streaks in its axial planes; HU."""
    rng = np.random.default_rng(seed)
    offset = image.grid.points() - center
    away = np.linalg.norm(offset, axis=-1)
    dx, dy, dz = np.moveaxis(offset, -1, 0)
    angle, flat = np.arctan2(dy, dx), np.hypot(dx, dy)
    rays = sum(rng.uniform(0.5, 1) * np.sin(n * angle + rng.uniform(0, 6.3)) for n in (2, 3, 5, 7, 11))
    streaks = 300 * rays * np.exp(-flat / REACH) * np.exp(-0.5 * (dz / THICK) ** 2)
    values = image.array[0] + streaks
    dark = np.clip((HALO - away) / 3, 0, 1)
    values = values + dark * (-400 - values)
    bright = np.clip((METAL - away) / 2, 0, 1)
    values = values + bright * (3000 - values)
    return image.with_array(np.clip(np.rint(values), -1024, 3071).astype(np.int16))


def ball(like: Volume, center: Float, radius: float) -> Volume:
    """A mask on the grid of a volume."""
    inside = np.linalg.norm(like.grid.points() - center, axis=-1) < radius
    return Volume.from_array(inside.astype(np.uint8), like.grid, "painted")


def surface(labels: Volume, values: tuple[int, ...]) -> Float:
    """Middles of the voxels at the border of some structures together, (P, D) WORLD mm."""
    mask = np.isin(labels.array[0], values)
    border = mask & ~ndimage.binary_erosion(mask)
    return labels.grid.transform_points(np.argwhere(border)[:, ::-1].astype(np.float64), WORLD, VOXEL)


def pulled(result: Result, truth: Volume, center: Float) -> Landmarks:
    """The two points of the refined wall's surfaces that are worst near the metal, pulled to the true surfaces."""
    points, places, distances = [], [], []
    for values in ((WALL, BLOOD), (BLOOD,)):  # outer and inner surface
        ours, theirs = surface(result.labels, values), surface(truth, values)
        ours = ours[np.linalg.norm(ours - center, axis=1) < NEAR]
        distance, nearest = cKDTree(theirs).query(ours)
        points.append(ours)
        places.append(theirs[nearest])
        distances.append(distance)
    ours, wanted, distance = np.concatenate(points), np.concatenate(places), np.concatenate(distances)
    first = int(distance.argmax())
    second = int(np.where(np.linalg.norm(ours - ours[first], axis=1) > APART, distance, -1).argmax())
    chosen = [first, second]
    return Landmarks(result.correspondence.atlas_from_image(ours[chosen]), wanted[chosen])


# --------------------------------------------------------------------------------------- label maps that were spoilt


def spoilt_table(bundle: Bundle, seed: int, rows: dict[str, Row], options: argparse.Namespace) -> None:
    """Measure what becomes of spoilt label maps of one heart, and of the true one."""
    phantom = around_heart(seed)
    truth = phantom.labels
    config = RefineConfig(options.iterations, options.target_strength, mode=options.mode)
    torn = spoilt(phantom)
    given = {
        "torn": torn,
        "torn, slices shifted": shifted(torn, seed),
        "riddled": riddled(phantom),
        "true": truth,
    }
    shown = {"truth": truth}
    for name, target in given.items():
        if target is not truth:
            noted(bundle, target, truth, rows, f"label map, {name}")
        result = segment(bundle, phantom.image, target=target)
        done = refined(bundle, result, config, None, truth, rows, f"atlas fitted to the {name} one")
        if target is not truth:
            shown |= {name: target, f"fitted to {name}": done.labels}
    if seed < FIRST_UNSEEN_SEED + options.pictures:
        picture(bundle, phantom.image, place_in_wall(phantom), shown, options.output / f"labels-{seed}.png")


def spoilt(phantom: Phantom) -> Volume:
    """True labels with a hole through the wall, a piece of the right ventricle cut off, and four islands."""
    truth, grid = phantom.labels, phantom.labels.grid
    rng = np.random.default_rng(phantom.seed)
    labels, points = truth.array[0].copy(), grid.points()
    hole = np.linalg.norm(points - place_in_wall(phantom), axis=-1) < 12
    labels[hole] = 0
    right = points[truth.array[0] == RIGHT]
    edge = right[(right @ rng.normal(size=3)).argmax()]
    labels[(np.linalg.norm(points - edge, axis=-1) < 16) & (labels == RIGHT)] = 0
    free = ndimage.distance_transform_edt(truth.array[0] == 0, grid.spacing[::-1])
    places = points[(free > 14) & (free < 40)]
    for value in (WALL, BLOOD, RIGHT, ATRIUM):
        middle = places[rng.integers(len(places))]
        labels[(np.linalg.norm(points - middle, axis=-1) < rng.uniform(6, 9)) & (labels == 0)] = value
    return truth.with_array(labels)


def riddled(phantom: Phantom) -> Volume:
    """True labels with twenty holes and twenty islands of 4 to 7 mm radius, as a network leaves on noisy images."""
    truth, grid = phantom.labels, phantom.labels.grid
    rng = np.random.default_rng(phantom.seed)
    known, points = truth.array[0], grid.points()
    labels = known.copy()
    free = ndimage.distance_transform_edt(known == 0, grid.spacing[::-1])
    inside, outside = points[known > 0], points[(free > 10) & (free < 40)]
    for hole in inside[rng.integers(len(inside), size=20)]:
        labels[np.linalg.norm(points - hole, axis=-1) < rng.uniform(4, 7)] = 0
    for island in outside[rng.integers(len(outside), size=20)]:
        near = np.linalg.norm(points - island, axis=-1) < rng.uniform(4, 7)
        labels[near & (known == 0)] = rng.integers(WALL, ATRIUM + 1)
    return truth.with_array(labels)


def shifted(labels: Volume, seed: int) -> Volume:
    """Each axial slice a voxel or two off, as contours are that somebody drew slice by slice."""
    steps = np.rint(np.random.default_rng(seed).normal(0, 1, (labels.array.shape[1], 2))).astype(int)
    slices = [np.roll(part, tuple(step), (0, 1)) for part, step in zip(labels.array[0], steps, strict=True)]
    return labels.with_array(np.stack(slices))


# ------------------------------------------------------------------------------------------------------ what is shown


def markdown(rows: Mapping[str, Row]) -> str:
    """The table: mean ± standard deviation over cases, and in how many of them the wall is better than by λ* alone."""
    lines = [
        "| | Dice, all | Dice, wall | HD, all | HD, wall | topology | points, mm | CPU s / step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [
            _spread([s.mean("dice") for s in row.scores], 3),
            _spread([s[WALL].dice for s in row.scores], 3) + _better(row, rows.get(name.partition(",")[0])),
            _spread([s.mean("hd") for s in row.scores], 1),
            _spread([s[WALL].hd for s in row.scores], 1),
            f"{sum(row.right)}/{len(row.right)}" if row.right else "",
            _spread(row.left, 1) if row.left else "",
            f"{statistics.mean(row.seconds):.3f}" if row.seconds else "",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _better(row: Row, plain: Row | None) -> str:
    """In how many cases the wall is better than without steering."""
    if plain is None or plain is row:
        return ""
    pairs = zip(row.scores, plain.scores, strict=True)
    return f" ({sum(ours[WALL].dice > theirs[WALL].dice for ours, theirs in pairs)}/{len(row.scores)})"


def _spread(values: list[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.{digits}f}"


def picture(bundle: Bundle, image: Volume, center: Float, shown: Mapping[str, Volume], path: Path) -> None:
    """One row of panels: the outlines of each label map in the axial plane through a point, over the true ones."""
    middle = np.array(image.grid.center)
    view: View = views_of(image.grid, center, middle - SHOWN, middle + SHOWN, 480)[0]
    shade = shades(image, [view], bundle.normalisation)[0]
    panel, gap, head = 2.2, 0.05, 0.25
    page = Page(len(shown) * (panel + gap) - gap, panel + head)
    for i, (name, labels) in enumerate(shown.items()):
        axes = page.axes(i * (panel + gap), head, panel, panel)
        show(axes, view, shade)
        reference = None if name == "truth" else shown["truth"]
        draw_outlines(axes, view, bundle.labels[1:], labels, reference)
        page.text(i * (panel + gap) + panel / 2, head / 2, name)
    page.canvas.print_png(str(path))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hearts", type=int, default=8)
    parser.add_argument("--strengths", type=float, nargs="+", default=[150.0, 500.0])
    parser.add_argument("--target-strength", type=float, default=150.0)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--mode", default="field")
    parser.add_argument("--tables", nargs="+", choices=["metal", "labels"], default=["metal", "labels"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("out/steering"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
