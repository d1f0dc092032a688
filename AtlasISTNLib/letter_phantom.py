"""The letter B of the 2D phantom: strokes of a pen, drawn on the plane in millimetres."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .geometry import Grid

Plane = tuple[NDArray[np.float64], NDArray[np.float64]]
Line = NDArray[np.float64]  # (N, 2) points in mm

_LETTER, _BLOBS, _PIXELS = range(3)
_PAPER, _INK, _NOISE = 100.0, 150.0, 25.5  # grey values
_MIDDLE = 64.0  # mm


def render_letter(
    seed: int, grid: Grid, corrupted: bool, variation: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[float, float]]:
    """The image (uint8), its labels (uint8) and the letter's middle in WORLD mm."""
    points = grid.points()
    plane: Plane = (points[..., 0], points[..., 1])
    strokes, pen, center = _letter(np.random.default_rng([seed, _LETTER]), variation)
    letter = np.min([_to_polyline(plane, stroke) for stroke in strokes], axis=0) < pen
    ink = letter
    if corrupted:
        ink = _corrupted(np.random.default_rng([seed, _BLOBS]), plane, letter, np.concatenate(strokes))
    noise = np.random.default_rng([seed, _PIXELS]).normal(0, _NOISE, grid.shape)
    image = np.where(ink, _INK, _PAPER) + noise
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), letter.astype(np.uint8), center


def _letter(rng: np.random.Generator, variation: float) -> tuple[list[Line], float, tuple[float, float]]:
    """The middle lines of the strokes, half the width of the pen and the letter's middle, in mm."""

    def around(mean: float, spread: float) -> float:
        return float(mean + variation * spread * rng.uniform(-1, 1))

    turn, shear, size = np.deg2rad(around(2, 14)), around(0, 0.12), around(1.0, 0.14)
    wide, x0, y0 = around(1.1, 0.14), around(_MIDDLE, 8), around(_MIDDLE, 8)
    pen, height, waist = around(4.4, 0.6), 36.0, around(-1.5, 3)
    upper, lower = around(34, 3), around(41, 3.5)
    bend, wobble = around(0, 2.5), [around(0, 1.5) for _ in range(5)]

    def place(s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Letter coordinates (N, 2), y downwards, to the plane: bent, sheared, turned and moved."""
        x, y = s[:, 0], s[:, 1]
        x = x + bend * np.cos(np.pi * y / (2 * height)) + wobble[0] * np.sin(y / 9 + wobble[1] * 3)
        y = y + wobble[2] * np.sin(x / 10 + wobble[3] * 3) + wobble[4] * x / 20
        x, y = wide * x - shear * y, y
        c, d = np.cos(turn), np.sin(turn)
        return np.stack([x0 + size * (c * x - d * y), y0 + size * (d * x + c * y)], axis=1)

    left = -20.0
    bar = np.linspace((left, -height), (left, height), 40)
    strokes = [bar, _bowl(left, -height, waist, upper), _bowl(left, waist, height, lower)]
    center = place(np.zeros((1, 2)))[0]
    return [place(s) for s in strokes], pen * size, (float(center[0]), float(center[1]))


def _bowl(left: float, top: float, bottom: float, reach: float) -> Line:
    """From the bar out along the top, round, and back to the bar along the bottom: straight, then half an ellipse."""
    middle, half = (top + bottom) / 2, (bottom - top) / 2
    straight = 0.45 * reach
    angle = np.linspace(-np.pi / 2, np.pi / 2, 40)
    # Between ellipse and rectangle: a pen's bowl has flatter sides than an ellipse.
    c, s = np.cos(angle), np.sin(angle)
    curve = np.stack(
        [left + straight + (reach - straight) * np.abs(c) ** 0.85, middle + half * np.sign(s) * np.abs(s) ** 0.85],
        axis=1,
    )
    return np.concatenate([[(left, top)], curve, [(left, bottom)]])


def _to_polyline(plane: Plane, line: Line) -> NDArray[np.float64]:
    """Distance in mm of every point of the plane to a polyline (N, 2)."""
    x, y = plane
    best = np.full(x.shape, np.inf)
    for (ax, ay), (bx, by) in pairwise(line):
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
        np.minimum(best, (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2, out=best)
    return np.sqrt(best)


def _corrupted(rng: np.random.Generator, plane: Plane, letter: NDArray[np.bool_], strokes: Line) -> NDArray[np.bool_]:
    """Where ink is when blobs are spilt on the paper and the pen has skipped."""
    ink = letter.copy()
    large = float(rng.choice([3.0, 5.0, 9.0]))
    for radius, number in ((1.6, rng.integers(4, 9)), (large, rng.integers(3, 16))):
        for _ in range(number):
            ink |= _disc(plane, rng.uniform(-60, 60, 2) + _MIDDLE, radius * rng.uniform(0.6, 1.1))
    for _ in range(int(rng.integers(2, 7))):
        place = strokes[rng.integers(len(strokes))] + rng.uniform(-3, 3, 2)
        ink &= ~_disc(plane, place, rng.uniform(2.5, 6.0))
    return ink


def _disc(plane: Plane, middle: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    return (plane[0] - middle[0]) ** 2 + (plane[1] - middle[1]) ** 2 < radius**2
