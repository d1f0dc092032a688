"""The chest round the phantom's heart: body wall, ribs, spine, lungs, diaphragm and what lies behind the heart.

Chest coordinates are LPS mm with 0 in the middle of the chest, after the case's own size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .heart_phantom import CHEST, PLACE, Anatomy, stream
from .implicit import Array, Canvas, Points, Waves, capsule, ellipsoid, rounded_box, smooth_max, smooth_min, tube

AIR, LUNG, FAT, MUSCLE, BONE, MARROW = -1000.0, -860.0, -100.0, 52.0, 700.0, 230.0


@dataclass(frozen=True)
class Chest:
    """Everything that varies between chests; lengths in mm."""

    middle: NDArray[np.float64]
    scale: float
    width: float
    depth: float
    fat: float
    rib_phase: float
    rib_slope: float
    vertebra_phase: float
    domes: tuple[float, float]
    aorta: float
    liver: float
    vessels: Waves
    tissue: Waves

    @classmethod
    def random(cls, seed: int, anatomy: Anatomy, variation: float) -> Chest:
        """The chest of a seed, placed and sized to go with its heart."""
        rng = stream(seed, CHEST)

        def around(mean: float, spread: float) -> float:
            return float(mean + variation * spread * rng.uniform(-1, 1))

        scale = float(anatomy.scale.mean()) ** 0.7 * around(1, 0.03)
        shift = anatomy.middle - PLACE * scale + np.array([around(0, 6), around(0, 3), around(0, 6)])
        return cls(
            shift,
            scale,
            width=around(124, 6),
            depth=around(88, 4),
            fat=around(13, 8),
            rib_phase=around(0, 15),
            rib_slope=around(0.72, 0.1),
            vertebra_phase=around(0, 14),
            domes=(around(-40, 7), around(-50, 7)),
            aorta=around(12, 1.5),
            liver=around(95, 20),
            vessels=Waves.random(rng, 12, 2, 24, 70),
            tissue=Waves.random(rng, 6, 2, 12, 60),
        )

    def chest_from_warped(self, points: Points) -> Points:
        """Chest coordinates of WORLD points that are warped already."""
        scale = np.float32(1 / self.scale)
        x, y, z = ((p - np.float32(m)) * scale for p, m in zip(points, self.middle, strict=True))
        return x, y, z


def paint_chest(canvas: Canvas, chest: Chest, points: Points, heart: Array, blood: float) -> None:
    """Paint everything but the heart.

    Args:
        canvas: starts as air.
        chest: what to paint.
        points: in chest coordinates.
        heart: distance in mm to the heart with its walls and fat; large where it is far.
        blood: HU of the left heart, for the aorta.
    """
    _table(canvas, chest, points)
    skin = _skin(chest, points, heart)
    at = np.flatnonzero(skin < canvas.width)
    if not at.size:
        return
    body = canvas.part(at)
    _body(body, chest, (points[0][at], points[1][at], points[2][at]), skin[at], heart[at], blood)
    canvas.put(at, body)


def _body(canvas: Canvas, chest: Chest, points: Points, skin: Array, heart: Array, blood: float) -> None:
    x, y, _ = points
    inner = _thorax(chest, points, heart)
    fibres, folds = chest.tissue.at(points)
    # Muscle is thick along the spine and over the front, thin at the sides.
    bulk = 16 + 6 * np.exp(-(((y + 55) / 35) ** 2) - ((np.abs(x) - 75) / 40) ** 2) + 5 * np.exp(-(((y - 70) / 45) ** 2))
    layer = smooth_max(inner - bulk - 1.5 * folds, skin + 4, k=5)
    canvas.paint(skin, 20.0)
    canvas.paint(skin + 2.2, FAT + 6 * folds)
    canvas.paint(layer, MUSCLE + 5 * fibres)
    plane = smooth_max(np.abs(inner - 13 - 2 * folds) - 0.9, layer + 2, k=1)
    canvas.paint(plane, FAT + 20, opacity=0.8)
    canvas.paint(inner - 1.5, FAT + 40)
    canvas.paint(inner, FAT + 12 + 5 * fibres)
    _lungs(canvas, chest, points, smooth_max(inner + 1.5, -_mediastinum(points, heart), k=6))
    _abdomen(canvas, chest, points, inner, fibres)
    _ribs(canvas, chest, points, inner)
    behind = np.flatnonzero((y > 12) & (np.abs(x) < 60))
    if behind.size:
        part = canvas.part(behind)
        near: Points = (x[behind], y[behind] - 6, points[2][behind])
        _spine(part, chest, near, skin[behind])
        _mediastinal(part, chest, near, blood)
        canvas.put(behind, part)


def _skin(chest: Chest, points: Points, heart: Array) -> Array:
    x, y, _ = points
    shape = rounded_box(x, y - 5, chest.width + 19 + chest.fat, chest.depth + 24 + 0.9 * chest.fat)
    return smooth_min(shape, heart - 26 - 0.5 * chest.fat, k=15)


def _thorax(chest: Chest, points: Points, heart: Array) -> Array:
    """The inside of the ribs: a rounded tube, narrower above, that keeps clear of the heart and dented by the spine."""
    x, y, z = points
    taper = 1 + 0.0018 * np.maximum(z - 10, 0)
    dent = np.float32(11) * np.exp(-((x / 26) ** 2)) * np.clip(y / 40, 0, 1)
    return smooth_min(rounded_box(x * taper, y * taper + dent, chest.width, chest.depth), heart - 3, k=8)


def _table(canvas: Canvas, chest: Chest, points: Points) -> None:
    x, y, _ = points
    top = y - np.float32(chest.depth + 34 + 0.95 * chest.fat) + x * x * np.float32(1 / 900)
    shell = smooth_max(np.abs(top) - 1.2, np.abs(x) - 215, k=2)
    canvas.paint(shell, -120.0)


def _mediastinum(points: Points, heart: Array) -> Array:
    """What is not lung between spine and breastbone."""
    x, y, z = points
    flat: Points = (x - 3, y, np.zeros_like(z))
    column = capsule(flat, (0, 78, 0), (4, -92, 0), 27, 9)
    vessels = capsule((x, y, np.zeros_like(z)), (-26, -24, 0), (30, -10, 0), 24) + np.maximum(30 - z, 0)
    return smooth_min(column, vessels, heart - 1.5, k=10)


def _lungs(canvas: Canvas, chest: Chest, points: Points, lung: Array) -> None:
    """Lung tissue, denser towards the back, with vessels where two random fields vanish together."""
    canvas.paint(lung, LUNG)
    at = np.flatnonzero(lung < 0)
    if not at.size:
        return
    part = canvas.part(at)
    p: Points = (points[0][at], points[1][at], points[2][at])
    first, second = chest.vessels.at(p)
    fine = chest.tissue.at(p)[0]
    part.values += np.float32(16) * fine + np.float32(0.35) * p[1]
    # Vessels taper away from the roots of the lungs. The fields' slopes are about 0.3 per mm: that makes it mm.
    root = np.sqrt(np.minimum((p[0] - 40) ** 2, (p[0] + 40) ** 2) + (p[1] - 18) ** 2 + (0.6 * (p[2] - 25)) ** 2)
    width = np.clip(4.6 - 0.036 * root, 0.9, 4.2)
    apart = np.sqrt(first * first + second * second) * np.float32(1 / 0.3)
    part.paint(np.maximum(apart - width, lung[at] + 3), 40.0)
    canvas.put(at, part)


def _abdomen(canvas: Canvas, chest: Chest, points: Points, inner: Array, fibres: Array) -> None:
    """Diaphragm, liver on the right, stomach and spleen on the left."""
    x, y, z = points
    right, left = chest.domes
    low = np.flatnonzero(z < max(right, left) + 8)
    if not low.size:
        return
    x, y, z, inner, fibres = x[low], y[low], z[low], inner[low], fibres[low]
    part, p = canvas.part(low), (x, y, z)
    # The middle dome carries the heart.
    domes = [
        top - 34 * (((x - u) / a) ** 2 + ((y - v) / b) ** 2)
        for top, u, v, a, b in ((right, -58, 4, 78, 92), (left, 68, 8, 70, 92), (-46, 18, -20, 70, 75))
    ]
    below = smooth_max(z - smooth_max(*domes, k=18), inner + 1.5, k=5)
    part.paint(below, MUSCLE + 3 * fibres)
    part.paint(smooth_max(below + 3, inner + 4, k=3), FAT + 5)
    part.paint(smooth_max(below + 3.5, ellipsoid(p, (-42, -6, -92), (92, 84, 62)), k=6), chest.liver + 3 * fibres)
    part.paint(smooth_max(below + 4, ellipsoid(p, (84, 44, -92), (30, 40, 36)), k=5), chest.liver + 18)
    stomach = smooth_max(below + 5, ellipsoid(p, (54, -14, -94), (42, 46, 34)), k=5)
    part.paint(stomach, 45.0)
    part.paint(stomach + 4, 15.0)
    part.paint(smooth_max(stomach + 4, y + 22, k=2), -950.0)
    canvas.put(low, part)


def _ribs(canvas: Canvas, chest: Chest, points: Points, inner: Array) -> None:
    """Rib arcs that descend towards the front, their cartilage, and the breastbone."""
    wall = np.flatnonzero((inner > -2) & (inner < 18))
    if not wall.size:
        return
    part = canvas.part(wall)
    x, y, z, shell = points[0][wall], points[1][wall], points[2][wall], inner[wall] - 7
    pitch = np.float32(30)
    height = z - np.float32(chest.rib_slope) * y + np.float32(chest.rib_phase)
    offset = (height + pitch / 2) % pitch - pitch / 2
    rib = (np.sqrt((shell / 4.2) ** 2 + (offset / 8.2) ** 2) - 1) * np.float32(4.6)
    side = np.abs(x)
    part.paint(smooth_max(rib, 18 - side, y + 50, k=2), 95.0)
    bony = smooth_max(rib, 24 - side, -52 - y, k=2)
    part.paint(bony, BONE)
    part.paint(bony + 2.0, MARROW)
    board = smooth_max(np.abs(shell) - 5, side - 17, y + 20, -52 - z, k=4)
    part.paint(board, 380.0)
    part.paint(board + 2.2, 130.0)
    canvas.put(wall, part)


def _spine(canvas: Canvas, chest: Chest, points: Points, skin: Array) -> None:
    """Vertebral bodies and discs, canal, arches and processes."""
    x, y, z = points
    flat: Points = (x, y, np.zeros_like(z))
    pitch = np.float32(27)
    along = (z + np.float32(chest.vertebra_phase) + pitch / 2) % pitch - pitch / 2
    body = ellipsoid(flat, (0, 72, 0), (18.5, 15, 1e3))
    bone = smooth_max(body + 0.06 * (11 - np.abs(along)), np.abs(along) - 11.2, k=3)
    canvas.paint(smooth_max(ellipsoid(flat, (0, 98, 0), (48, 22, 1e3)), skin + 5, k=4), MUSCLE + 4)
    canvas.paint(body + 0.8, 85.0)
    level: Points = (np.abs(x), y, along)
    arch = np.minimum(capsule(level, (11, 84, 0), (10, 96, 0), 4.5), capsule(level, (10, 96, 2), (0, 103, -4), 4.5))
    spikes = np.minimum(
        capsule(level, (11, 93, 2), (33, 104, 4), 5.0, 4.0), capsule(level, (0, 103, -3), (0, 118, -9), 4.2, 3.6)
    )
    facets = capsule(level, (14, 91, -13.5), (14, 91, 13.5), 4.6)
    posterior = smooth_max(smooth_min(arch, spikes, facets, k=3), skin + 7, k=3)
    for solid, core in ((bone, 2.0), (posterior, 2.4)):
        canvas.paint(solid, BONE - 150)
        canvas.paint(solid + core, MARROW)
    canvas.paint(ellipsoid(flat, (0, 91, 0), (9.5, 7.5, 1e3)), 15.0)
    canvas.paint(ellipsoid(flat, (0, 91, 0), (5.5, 4.2, 1e3)), 40.0)


def _mediastinal(canvas: Canvas, chest: Chest, points: Points, blood: float) -> None:
    """Descending aorta, oesophagus, windpipe and main bronchi."""
    aorta = tube(
        points, [(24, 40, 130), (25, 46, 20), (16, 48, -130)], [chest.aorta + 1, chest.aorta, chest.aorta - 1.5]
    )
    canvas.paint(aorta - 1.4, 45.0)
    canvas.paint(aorta, 0.97 * blood)
    gullet = tube(points, [(2, 40, 130), (2, 42, 10), (14, 28, -90)], 6.0)
    canvas.paint(gullet, 38.0)
    canvas.paint(gullet + 5.0, -250.0)
    airway = smooth_min(
        capsule(points, (-2, 18, 140), (0, 24, 78), 9),
        capsule(points, (0, 24, 78), (46, 32, 46), 7, 5),
        capsule(points, (0, 24, 78), (-44, 30, 50), 7.5, 5.5),
        k=4,
    )
    canvas.paint(airway - 1.6, 20.0)
    canvas.paint(airway, AIR + 10)
