"""Implicit shapes: solids as functions of points, negative inside, zero on the surface, about the distance in mm.

Points are three arrays (x, y, z) of one shape, so that any set of points can be asked, on any grid.
The blends are the polynomial smooth minimum and maximum: they round an edge over `k` mm and leave the rest as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # float32 throughout: half the memory, and a micrometre is exact enough
Points = tuple[Array, Array, Array]
Index = NDArray[np.intp]
Vector = Sequence[float] | NDArray[np.float64]


def ellipsoid(points: Points, center: Vector, radii: Vector) -> Array:
    """Ellipsoid with its axes along x, y, z; the distance is exact to first order near the surface."""
    value = np.zeros_like(points[0])
    slope = np.full_like(points[0], 1e-12)
    for p, c, r in zip(points, center, radii, strict=True):
        q = (p - np.float32(c)) * np.float32(1 / r)
        q *= q
        value += q
        slope += q * np.float32(1 / r**2)
    np.sqrt(value, out=value)
    return value * (value - 1) / np.sqrt(slope)


def capsule(points: Points, start: Vector, stop: Vector, radius: float, last: float | None = None) -> Array:
    """Round-ended rod from `start` to `stop`; its radius goes from `radius` to `last` (default the same)."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(stop, dtype=np.float64)
    along = b - a
    unit = along / float(along @ along)
    t = np.zeros_like(points[0])
    for p, c, u in zip(points, a, unit, strict=True):
        t += (p - np.float32(c)) * np.float32(u)
    np.clip(t, 0, 1, out=t)
    distance = np.zeros_like(t)
    for p, c, d in zip(points, a, along, strict=True):
        offset = p - np.float32(c) - t * np.float32(d)
        distance += offset * offset
    np.sqrt(distance, out=distance)
    return distance - (np.float32(radius) + t * np.float32((radius if last is None else last) - radius))


def tube(points: Points, path: Sequence[Vector], radius: float | Sequence[float]) -> Array:
    """Rod along a polyline, with one radius or one at each corner."""
    radii = [radius] * len(path) if isinstance(radius, (int, float)) else list(radius)
    pieces = zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True)
    return smooth_min(*(capsule(points, a, b, r, s) for a, b, r, s in pieces), k=2.0)


def smooth_min(*shapes: Array, k: float) -> Array:
    """Union of solids, blended over `k` mm."""
    result = shapes[0]
    for shape in shapes[1:]:
        h = np.maximum(np.float32(k) - np.abs(result - shape), 0)
        result = np.minimum(result, shape) - h * h * np.float32(0.25 / k)
    return result


def smooth_max(*shapes: Array, k: float) -> Array:
    """Intersection of solids, its edges rounded over `k` mm."""
    return -smooth_min(*(-shape for shape in shapes), k=k)


@dataclass(frozen=True)
class Waves:
    """A sum of plane sine waves: a smooth random scalar (one column) or displacement field (three columns).

    Args:
        numbers: (W, 3) wave vectors in radians per mm.
        phases: (W,) radians.
        amplitudes: (W, C), in the unit of the field.
    """

    numbers: NDArray[np.float64]
    phases: NDArray[np.float64]
    amplitudes: NDArray[np.float64]

    @classmethod
    def random(cls, rng: np.random.Generator, count: int, channels: int, shortest: float, longest: float) -> Waves:
        """`count` waves of unit amplitude, in random directions, with wavelengths from `shortest` to `longest` mm."""
        ways = _unit(rng.normal(size=(count, 3)))
        numbers = ways * (2 * np.pi / rng.uniform(shortest, longest, size=(count, 1)))
        return cls(numbers, rng.uniform(0, 2 * np.pi, count), _unit(rng.normal(size=(count, channels))))

    def with_slope(self, limit: float) -> Waves:
        """The same waves scaled so that no difference quotient exceeds `limit`.

        A displacement whose slope stays below 1 gives a one-to-one map x + u(x).
        """
        bound = float((np.linalg.norm(self.amplitudes, axis=1) * np.linalg.norm(self.numbers, axis=1)).sum())
        return Waves(self.numbers, self.phases, self.amplitudes * (limit / bound))

    def at(self, points: Points) -> list[Array]:
        """The field's channels at points."""
        fields = [np.zeros_like(points[0]) for _ in range(self.amplitudes.shape[1])]
        for number, phase, amplitude in zip(self.numbers, self.phases, self.amplitudes, strict=True):
            angle = np.full_like(points[0], phase)
            for p, n in zip(points, number, strict=True):
                angle += p * np.float32(n)
            np.sin(angle, out=angle)
            for field, a in zip(fields, amplitude, strict=True):
                field += angle * np.float32(a)
        return fields


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Canvas:
    """Grey values at points, painted one solid over the other with soft edges.

    Args:
        values: grey values at the start; painted in place.
        width: mm over which an edge goes from the old value to the new: about a voxel, the partial volume.
    """

    def __init__(self, values: Array, width: float) -> None:
        self.values = values
        self.width = width

    def part(self, at: Index) -> Canvas:
        """A copy of some points, to paint apart and `put` back."""
        return Canvas(self.values[at], self.width)

    def put(self, at: Index, part: Canvas) -> None:
        """Take over what was painted on a part."""
        self.values[at] = part.values

    def paint(self, shape: Array, value: Array | float, opacity: float = 1.0) -> None:
        """Paint a solid with a value, or with a value per point."""
        alpha = shape * np.float32(-1 / self.width)
        alpha += np.float32(0.5)
        np.clip(alpha, 0, 1, out=alpha)
        if opacity != 1.0:
            alpha *= np.float32(opacity)
        alpha *= (np.float32(value) if isinstance(value, (int, float)) else value) - self.values
        self.values += alpha


def rounded_box(x: Array, y: Array, a: float, b: float, square: float = 0.3) -> Array:
    """Something between an ellipse (`square` 0) and a rectangle (1) with half-axes a and b.

    The squircle of Fernández-Guasti (1992), u² + v² − s u² v² = 1, solved for the scale at which it meets the point.
    """
    u, v = x * np.float32(1 / a), y * np.float32(1 / b)
    u *= u
    v *= v
    total = u + v
    root = np.sqrt(np.maximum(total * total - np.float32(4 * square) * (u * v), 0))
    return (np.sqrt((total + root) * np.float32(0.5)) - 1) * np.float32(0.5 * (a + b))
