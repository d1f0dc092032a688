"""The heart of the phantom: five chambers, vessels and pericardial fat as implicit solids in millimetres.

Heart coordinates are LPS mm with the heart's middle at 0, before the case's own pose. The left ventricle has axes of
its own: p from the mitral valve to the apex (left, anterior, inferior), q towards the right ventricle, r upwards; 0 is
the valve's middle. Sizes are those of adults: left ventricle 8 cm long, its wall about 1 cm, aortic root 3 cm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .implicit import Array, Canvas, Index, Points, Waves, capsule, ellipsoid, smooth_max, smooth_min, tube

#: Streams of random numbers, apart from each other so that one more draw in one leaves the others as they are.
ANATOMY, CONTRAST, CHEST, NOISE, ARTEFACTS = range(5)

_MITRAL = np.array([4.5, 14.5, 2.5])  # the mitral valve from the heart's middle, mm
_P = np.array([0.65, -0.60, -0.47])
_Q = np.array([-0.72, -0.67, -0.15])
#: A pacing lead in p, q, r: by the caval vein, right atrium and tricuspid valve to the right ventricle's apex.
LEAD = ((-74.0, 18.0, 82.0), (-36.0, 38.0, 6.0), (-8.0, 36.0, -6.0), (22.0, 40.0, -10.0), (52.0, 35.0, -7.0))

#: The heart's middle in the chest, mm.
PLACE = np.array([16.0, -12.0, 0.0])
_REACH = 125.0  # no part of the heart or its vessels that matters is further from its middle, mm


def stream(seed: int, which: int) -> np.random.Generator:
    """The random numbers of one stream of one case."""
    return np.random.default_rng([seed, which])


@dataclass(frozen=True)
class Anatomy:
    """Everything that varies between hearts; lengths in mm.

    A WORLD point x lies at (R S)⁻¹ (x + u(x) − middle) of heart coordinates.
    """

    middle: NDArray[np.float64]
    rotation: NDArray[np.float64]
    scale: NDArray[np.float64]
    warp: Waves
    length: float
    radius: float
    wall: float
    rv_width: float
    rv_size: float
    la_size: float
    ra_size: float
    fat: float
    aorta: float

    @classmethod
    def random(cls, seed: int, variation: float) -> Anatomy:
        """The anatomy of a seed; `variation` 0 gives the average heart, 1 a population."""
        rng = stream(seed, ANATOMY)

        def around(mean: float, spread: float) -> float:
            return float(mean + variation * spread * rng.uniform(-1, 1))

        degrees = [around(0, 15) for _ in range(3)]
        scale = around(0.97, 0.09) * np.array([around(1, 0.035) for _ in range(3)])
        shift = np.array([around(0, 12), around(0, 10), around(0, 10)])
        warp = Waves.random(rng, 6, 3, 90, 220).with_slope(0.27 * variation)
        return cls(
            PLACE + shift,
            Rotation.from_euler("xyz", degrees, degrees=True).as_matrix(),
            scale,
            warp,
            length=around(85, 5),
            radius=around(33, 2.5),
            wall=around(10, 2),
            rv_width=around(1, 0.12),
            rv_size=around(1, 0.07),
            la_size=around(1, 0.12),
            ra_size=around(1, 0.1),
            fat=around(4, 2.5),
            aorta=around(14.5, 2),
        )

    def warped(self, points: Points) -> Points:
        """x + u(x) of WORLD points x, mm."""
        x, y, z = (p + u for p, u in zip(points, self.warp.at(points), strict=True))
        return x, y, z

    def heart_from_warped(self, points: Points) -> Points:
        """Heart coordinates of points that are `warped` already."""
        moved = [p - np.float32(m) for p, m in zip(points, self.middle, strict=True)]
        return _linear(moved, (self.rotation / self.scale).T)

    def world_from_heart(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """WORLD points (N, 3) of heart coordinates (N, 3), to 0.01 mm."""
        target = (points * self.scale) @ self.rotation.T + self.middle
        found = target
        for _ in range(40):  # the warp's slope is below 1, so this contracts
            x = tuple(found.T.astype(np.float32))
            found = target - np.stack(self.warp.at(x), axis=-1)
        return found

    @property
    def center(self) -> tuple[float, float, float]:
        """The heart's middle in WORLD mm."""
        x, y, z = self.world_from_heart(np.zeros((1, 3)))[0]
        return float(x), float(y), float(z)


def long_axes() -> NDArray[np.float64]:
    """Rows: the directions p, q, r of the left ventricle's axes in heart coordinates."""
    p = _P / np.linalg.norm(_P)
    q = _Q - (_Q @ p) * p
    q /= np.linalg.norm(q)
    return np.stack([p, q, np.cross(q, p)])


def valve_axes(heart: Points) -> Points:
    """p, q, r in mm of points in heart coordinates."""
    return _linear([c - np.float32(m) for c, m in zip(heart, _MITRAL, strict=True)], long_axes())


def heart_from_valve(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heart coordinates (N, 3) of p, q, r (N, 3)."""
    return points @ long_axes() + _MITRAL


@dataclass(frozen=True)
class Solids:
    """The heart's solids at some points: chambers without overlap, and what surrounds them."""

    lvm: Array  # the ventricle with its cavity; the cavity is painted over it
    lv: Array
    rv: Array
    ra: Array
    la: Array
    left_vessels: Array
    right_vessels: Array
    cava: Array
    coronaries: Array
    papillary: Array
    mitral: Array
    tricuspid: Array

    @property
    def muscle(self) -> Array:
        """The chambers with their walls."""
        return smooth_min(self.lvm, self.rv - 3, self.ra - 2, self.la - 2, k=3)

    def labels(self) -> NDArray[np.uint8]:
        """0 outside, 1 left ventricular myocardium, 2 left ventricle, 3 right ventricle, 4 right and 5 left atrium."""
        result = np.zeros(self.lv.shape, dtype=np.uint8)
        for value, solid in ((5, self.la), (4, self.ra), (3, self.rv), (1, self.lvm), (2, self.lv)):
            result[solid < 0] = value
        return result


def solids(anatomy: Anatomy, heart: Points) -> Solids:
    """The heart's solids at points in heart coordinates."""
    a = anatomy
    h: Points = tuple(c - np.float32(m) for c, m in zip(heart, _MITRAL, strict=True))  # type: ignore[assignment]
    axes = valve_axes(heart)
    p = axes[0]
    belly = 0.22 * a.length
    epicard = ellipsoid(axes, (belly, 0, 0), (a.length - belly, a.radius, a.radius))
    cup = smooth_max(epicard, -p, k=3)
    inner = a.radius - a.wall
    endocard = ellipsoid(axes, (belly, 0, 0), (a.length - belly - 0.8 * a.wall, inner, inner))
    la_raw = smooth_min(
        ellipsoid(h, (-10, 21, 11), np.array([33, 22, 28]) * a.la_size),
        capsule(h, (8, 16, 21), (20, 10, 30), 10, 7),
        k=8,
    )
    body = ellipsoid(axes, (20, 24, 2), np.array([53, 38 * a.rv_width, 38]) * a.rv_size)
    outflow = capsule(axes, (18, 36, 20), (4, 13, 48), 16, 12)
    rv = smooth_max(smooth_min(body, outflow, k=12), -epicard, -(p + 8), 2 - la_raw, k=5)
    ra_raw = smooth_min(
        ellipsoid(h, (-48, -10, 0), np.array([24, 27, 32]) * a.ra_size),
        capsule(h, (-47, -20, 14), (-36, -36, 26), 13, 9),
        k=8,
    )
    root = (axes, (0, 14, 10))
    left, right, cava = _vessels(a, h)
    return Solids(
        lvm=cup,
        lv=np.maximum(endocard, cup),
        rv=rv,
        ra=smooth_max(ra_raw, p + 8, 2 - la_raw, 1 - left, k=4),
        la=smooth_max(la_raw, p, 1 - capsule(*root, (-25, 22, 20), a.aorta), k=4),
        left_vessels=left,
        right_vessels=right,
        cava=cava,
        coronaries=_coronaries(a, axes),
        papillary=np.minimum(
            capsule(axes, (52, -8, 12), (24, -7, 9), 5.5, 3.0), capsule(axes, (52, -4, -13), (24, -3, -10), 5.5, 3.0)
        ),
        mitral=smooth_max(np.abs(p) - 1.0, endocard, k=1),
        tricuspid=smooth_max(np.abs(p + 8) - 0.8, body, k=1),
    )


def _vessels(a: Anatomy, h: Points) -> tuple[Array, Array, Array]:
    """Aorta and pulmonary veins, pulmonary arteries, caval veins; `h` is LPS mm from the mitral valve."""
    aorta = tube(h, [(-8, -14, 6), (-24, -19, 38), (-22, -12, 120)], [a.aorta, a.aorta * 1.05, a.aorta])
    ends = [(-62, 32, 30), (-62, 36, 2), (40, 30, 30), (42, 38, 2)]
    starts = [(-28, 26, 20), (-28, 28, 8), (4, 26, 20), (4, 28, 10)]
    veins = [capsule(h, s, e, 8, 5.5) for s, e in zip(starts, ends, strict=True)]
    trunk = tube(h, [(6, -32, 38), (9, -10, 58), (52, 26, 60)], [12, 12.5, 8])
    right = tube(h, [(9, -8, 58), (-20, 8, 56), (-66, 18, 48)], [11, 10, 7])
    cava = np.minimum(
        tube(h, [(-50, -4, 22), (-44, -6, 120)], 9.5), tube(h, [(-50, 2, -22), (-42, 18, -110)], [11, 12])
    )
    return smooth_min(aorta, *veins, k=3), smooth_min(trunk, right, k=4), cava


def _coronaries(a: Anatomy, axes: Points) -> Array:
    """Arteries in the grooves: circumflex round the mitral valve, right coronary round the tricuspid valve."""
    left = np.deg2rad([60, 95, 130, 165, 200, 230])
    right = np.deg2rad([75, 40, 5, -30, -65, -95])
    turn_left = [(-2.0, (a.radius + 2.5) * np.cos(t), (a.radius + 2.5) * np.sin(t)) for t in left]
    q, r = 33 * a.rv_width * a.rv_size + 4, 33 * a.rv_size + 4
    turn_right = [(-7.0, 24 + q * np.cos(t), 2 + r * np.sin(t)) for t in right]
    return np.minimum(tube(axes, turn_left, 1.7), tube(axes, turn_right, 1.8))


@dataclass(frozen=True)
class Contrast:
    """Grey values in HU."""

    left: float
    right: float
    muscle: float
    fat: float
    mixing: Waves

    @classmethod
    def random(cls, seed: int, variation: float) -> Contrast:
        """The contrast phase of a seed."""
        rng = stream(seed, CONTRAST)
        values = [m + variation * s * rng.uniform(-1, 1) for m, s in ((360, 60), (240, 85), (105, 18), (-90, 10))]
        left, right, muscle, fat = values
        return cls(left, right, muscle, fat, Waves.random(rng, 5, 1, 35, 80))


def paint_heart(canvas: Canvas, anatomy: Anatomy, contrast: Contrast, parts: Solids, heart: Points) -> None:
    """Paint the heart over what is there, at points in heart coordinates."""
    s, c = parts, contrast
    (mixing,) = c.mixing.at(heart)
    muscle = s.muscle
    vessels = np.minimum(np.minimum(s.left_vessels, s.right_vessels), s.cava)
    sac = smooth_min(muscle, vessels + 3, k=14) - anatomy.fat
    canvas.paint(sac - 0.7, 25.0)
    canvas.paint(sac + 0.7, c.fat)
    canvas.paint(muscle, c.muscle + 4 * mixing)
    canvas.paint(vessels - 1.5, 45.0)
    right = c.right + 0.05 * c.right * mixing
    canvas.paint(s.cava, 0.8 * c.right + 0.15 * c.right * mixing)
    canvas.paint(s.right_vessels, right)
    canvas.paint(s.left_vessels, c.left)
    canvas.paint(s.coronaries, 0.9 * c.left)
    canvas.paint(s.ra, 0.9 * c.right + 0.1 * c.right * mixing)
    canvas.paint(s.rv, right)
    canvas.paint(s.la, c.left - 5 + 4 * mixing)
    canvas.paint(s.lv, c.left + 4 * mixing)
    canvas.paint(smooth_max(s.papillary, s.lv - 1, k=1), c.muscle + 15)
    canvas.paint(s.mitral, 0.5 * (c.left + c.muscle), opacity=0.8)
    canvas.paint(s.tricuspid, 0.5 * (c.right + c.muscle), opacity=0.6)


def near_heart(anatomy: Anatomy, warped: Points) -> Index:
    """Which of the warped points the heart or its vessels can reach."""
    reach = _REACH * float(anatomy.scale.max())
    distance = np.zeros_like(warped[0])
    for p, c in zip(warped, anatomy.middle, strict=True):
        distance += (p - np.float32(c)) ** 2
    return np.flatnonzero(distance < np.float32(reach**2))


def _linear(points: Points | list[Array], matrix: NDArray[np.float64]) -> Points:
    x, y, z = points
    rows = [np.float32(r[0]) * x + np.float32(r[1]) * y + np.float32(r[2]) * z for r in matrix]
    return rows[0], rows[1], rows[2]
