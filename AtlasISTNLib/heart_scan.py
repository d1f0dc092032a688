"""The scan of the phantom's heart: grey values, labels, noise, and what metal and poor contrast do to a CT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .chest_phantom import AIR, Chest, paint_chest
from .errors import ConfigError
from .geometry import VOXEL, WORLD, Grid
from .heart_phantom import (
    ARTEFACTS,
    LEAD,
    NOISE,
    Anatomy,
    Contrast,
    Solids,
    heart_from_valve,
    near_heart,
    paint_heart,
    solids,
    stream,
    valve_axes,
)
from .implicit import Array, Canvas, Points, capsule, ellipsoid, tube

_METAL = 3000.0  # HU, the top of the usual scale
_BLOCK = 1 << 15  # points at a time: arrays that stay in the cache are several times as fast


@dataclass(frozen=True)
class HeartArtefacts:
    """What disturbs the image of a heart, each from 0 (absent) to 1 (severe). Labels are never touched.

    Attributes:
        implant: metal: a pacing lead to the apex of the right ventricle and a ring at the mitral valve.
        streaks: bright and dark rays from metal, whether or not the metal itself is drawn.
        dropout: parts of chambers without contrast, as dark as muscle.

    Raises:
        ConfigError: a strength is not between 0 and 1.
    """

    implant: float = 0.0
    streaks: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("implant", "streaks", "dropout"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must lie between 0 and 1, not {value!r}")

    @classmethod
    def typical(cls, seed: int) -> HeartArtefacts:
        """A clearly disturbed case."""
        rng = stream(seed, ARTEFACTS)
        return cls(1.0, float(rng.uniform(0.6, 1)), float(rng.uniform(0.6, 1)))


def render_heart(
    seed: int, grid: Grid, artefacts: HeartArtefacts, noise_hu: float | None, variation: float
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """HU and labels of a seed's chest on a 3D grid, both of the grid's shape."""
    points = _world(grid)
    anatomy = Anatomy.random(seed, variation)
    chest = Chest.random(seed, anatomy, variation)
    contrast = Contrast.random(seed, variation)
    dropouts = _Dropouts.random(seed, artefacts.dropout)
    values = np.full(points[0].size, AIR, dtype=np.float32)
    labels = np.zeros(points[0].size, dtype=np.uint8)
    for start in range(0, values.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        # Partial volume: an edge is as wide as a voxel.
        canvas = Canvas(values[block], 1.1 * grid.voxel_volume ** (1 / 3))
        warped = anatomy.warped((points[0][block], points[1][block], points[2][block]))
        at = near_heart(anatomy, warped)
        heart = anatomy.heart_from_warped((warped[0][at], warped[1][at], warped[2][at]))
        parts = solids(anatomy, heart)
        distance = np.full(canvas.values.size, 60, dtype=np.float32)
        distance[at] = np.minimum(parts.muscle - anatomy.fat, 60)
        paint_chest(canvas, chest, chest.chest_from_warped(warped), distance, contrast.left)
        part = canvas.part(at)
        paint_heart(part, anatomy, contrast, parts, heart)
        dropouts.paint(part, contrast, parts, heart)
        _implant(part, anatomy, artefacts.implant, heart)
        canvas.put(at, part)
        labels[block][at] = parts.labels()
    image = ndimage.gaussian_filter(values.reshape(grid.shape), 0.45, mode="nearest")
    if artefacts.streaks > 0:
        image += _streaks(seed, artefacts.streaks, anatomy, points).reshape(grid.shape)
    image += _noise(seed, grid, noise_hu)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), labels.reshape(grid.shape)


def _world(grid: Grid) -> Points:
    """WORLD x, y, z of all voxel centres in array order, float32."""
    matrix = grid.matrix(WORLD, VOXEL)
    k, j, i = (np.arange(n, dtype=np.float64) for n in grid.shape)
    x, y, z = (
        (row[0] * i + row[1] * j[:, None] + row[2] * k[:, None, None] + row[3]).astype(np.float32).ravel()
        for row in matrix[:3]
    )
    return x, y, z


def _noise(seed: int, grid: Grid, noise_hu: float | None) -> Array:
    """Noise with the grain of a smooth reconstruction: neighbours agree a little, in each slice alike."""
    rng = stream(seed, NOISE)
    usual = float(rng.uniform(25, 40))
    grain = rng.standard_normal(grid.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, 0.65, mode="wrap")
    return grain * np.float32((usual if noise_hu is None else noise_hu) / max(float(grain.std()), 1e-6))


@dataclass(frozen=True)
class _Dropouts:
    """Places in chambers that lose their contrast: chamber, middle and radii in mm along p, q, r."""

    strength: float
    places: tuple[tuple[str, NDArray[np.float64], NDArray[np.float64]], ...]

    @classmethod
    def random(cls, seed: int, strength: float) -> _Dropouts:
        rng = stream(seed, ARTEFACTS + 1)
        sites = (("lv", (58, -4, 0), 20), ("lv", (20, 4, -12), 16), ("rv", (50, 36, -8), 20), ("la", (-24, -14, 6), 20))
        chosen = rng.permutation(len(sites))[: int(rng.integers(2, 4))]
        places = [
            (name, np.array(middle) + rng.uniform(-5, 5, 3), size * (0.6 + 0.5 * strength) * rng.uniform(0.85, 1.15, 3))
            for name, middle, size in (sites[n] for n in chosen)
        ]
        return cls(strength, tuple(places))

    def paint(self, canvas: Canvas, contrast: Contrast, parts: Solids, heart: Points) -> None:
        """Make the places as dark as muscle, inside their chambers."""
        if self.strength <= 0 or not canvas.values.size:
            return
        axes = valve_axes(heart)
        for name, middle, radii in self.places:
            # A wide edge: contrast thins out, it has no border.
            fade = np.clip(0.5 - ellipsoid(axes, middle, radii) / 8, 0, 1) * np.float32(self.strength)
            fade *= np.clip(0.5 - getattr(parts, name) / canvas.width, 0, 1)
            canvas.values += fade * (np.float32(contrast.muscle - 8) - canvas.values)


def _implant(canvas: Canvas, anatomy: Anatomy, strength: float, heart: Points) -> None:
    """Draw a pacing lead with its coil, and a valve ring, over what is there."""
    if strength <= 0:
        return
    axes = valve_axes(heart)
    lead = tube(axes, LEAD, 1.0)
    coil = capsule(axes, LEAD[-2], LEAD[-1], 2.0)
    metal = np.minimum(np.minimum(lead, coil), _ring(axes, _ring_radius(anatomy), 1.6))
    canvas.paint(metal, _METAL, opacity=strength)


def _ring_radius(anatomy: Anatomy) -> float:
    return anatomy.radius - anatomy.wall + 1.0


def _ring(axes: Points, radius: float, thickness: float) -> Array:
    """A ring round the mitral valve."""
    p, q, r = axes
    away = np.sqrt(q * q + r * r) - np.float32(radius)
    return np.sqrt(p * p + away * away) - np.float32(thickness)


def _streaks(seed: int, strength: float, anatomy: Anatomy, points: Points) -> Array:
    """Rays in the axial planes about pieces of metal: HU to add."""
    rng = stream(seed, ARTEFACTS + 2)
    around = rng.uniform(0, 2 * np.pi) + np.array([0, 2.2, 4.1])
    ring = [(0.0, _ring_radius(anatomy) * np.cos(t), _ring_radius(anatomy) * np.sin(t)) for t in around]
    sites = anatomy.world_from_heart(heart_from_valve(np.array([LEAD[-1], LEAD[-2], *ring])))
    result = np.zeros_like(points[0])
    for x, y, z in sites:
        tall, orders = rng.uniform(3, 6), rng.integers(2, 24, 7)
        phases, weights = rng.uniform(0, 2 * np.pi, 7), rng.uniform(0.4, 1, 7)
        near = np.flatnonzero(np.abs(points[2] - np.float32(z)) < 2.6 * tall)
        dx, dy, dz = points[0][near] - np.float32(x), points[1][near] - np.float32(y), points[2][near] - np.float32(z)
        angle, distance = np.arctan2(dy, dx), np.sqrt(dx * dx + dy * dy)
        rays = np.zeros_like(dx)
        for n, phase, weight in zip(orders, phases, weights, strict=True):
            rays += np.float32(weight) * np.sin(np.float32(n) * angle + np.float32(phase))
        # Photon starvation makes the dark rays the stronger ones.
        rays = np.where(rays > 0, rays, 1.4 * rays) * np.exp(-distance / 60) * np.minimum(distance / 5, 1)
        result[near] += rays * np.exp(-0.5 * (dz / np.float32(tall)) ** 2)
    return result * np.float32(150 * strength)
