"""Panels: what a picture of a result draws on matplotlib's axes, and its colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .bundle import Label
from .configs import NormalisationConfig
from .correspondence import Correspondence
from .geometry import VOXEL, WORLD
from .topology import foreground_box
from .views import Picture, View, outline, sampled
from .volume import Volume

#: Colours of the page, of what is written on it, and of what has to be seen.
BACK, PANEL, INK, PALE, FAINT, RULE, WARN = "#111418", "#000000", "#eceff3", "#c5ccd4", "#98a1ac", "#343b44", "#ffb74d"
_GRID_COLOR = "#66d9ef"
_LOSSES = (
    ("total", "total", INK),
    ("a2s", "atlas to image", "#4fc3f7"),
    ("s2a", "image to atlas", "#aed581"),
    ("reg", "λ* · regularity", "#f48fb1"),
)
#: Lines of the atlas's grid across a panel, about.
_LINES = 16
#: Percentiles of the grey values that become black and white.
_RANGE = (0.5, 99.5)
#: Height of the loss axes over the largest loss; the legend goes there.
_HEADROOM = 1.28
_TINY = 7.0  # points
_HALO = [withStroke(linewidth=2.2, foreground="#000000aa")]


def shades(image: Volume, views: Sequence[View], normalisation: NormalisationConfig) -> list[Picture]:
    """Each view of the image as grey values from 0 to 1, in one window: the model's own, or the views' range."""
    slices = [sampled(image, view, "linear", np.nan) for view in views]
    if normalisation.kind == "window":
        low, high = normalisation.center - normalisation.width / 2, normalisation.center + normalisation.width / 2
    else:
        seen = np.concatenate([s[np.isfinite(s)] for s in slices])
        low, high = np.percentile(seen, _RANGE).tolist() if seen.size else (0.0, 1.0)
    return [np.nan_to_num(np.clip((s - low) / ((high - low) or 1.0), 0, 1), nan=0.0) for s in slices]


def show(axes: Axes, view: View, shade: Picture) -> None:
    """A view of the image, with the letters of its sides."""
    axes.imshow(shade, cmap="gray", vmin=0, vmax=1, extent=(0, view.side, view.side, 0), interpolation="bilinear")
    axes.set(xlim=(0, view.side), ylim=(view.side, 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(RULE)
    places = [(0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center")]
    places += [(0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom")]
    for letter, (x, y, ha, va) in zip(view.sides, places, strict=False):
        text = axes.text(x, y, letter, transform=axes.transAxes, fontsize=_TINY, color=INK, path_effects=_HALO)
        text.set(ha=ha, va=va)


def draw_outlines(
    axes: Axes, view: View, structures: Sequence[Label], labels: Volume, reference: Volume | None
) -> None:
    """The outline of every structure in its colour, over that of the reference."""
    at = _centres(view)
    for label in structures:
        pairs: list[tuple[Volume, Any, float]] = [] if reference is None else [(reference, INK, 0.7)]
        pairs.append((labels, visible(label.color), 1.5))
        for volume, color, width in pairs:
            field = outline(volume, view, label.value)
            rows, columns = foreground_box(field > 0)
            field = field[rows, columns]
            if field.size and field.min() < 0.5 < field.max():
                lines = axes.contour(at[columns], at[rows], field, [0.5], colors=[color], linewidths=width)
                if volume is labels:
                    lines.set_path_effects([withStroke(linewidth=width + 1, foreground="#00000090")])


def draw_grid(axes: Axes, view: View, correspondence: Correspondence) -> None:
    """The planes of the atlas's grid where the view cuts them: contours of the atlas coordinates of its pixels."""
    atlas, d = correspondence.atlas_grid, view.grid.ndim
    points = view.grid.points(WORLD).reshape(*view.grid.shape[-2:], d)[::2, ::2]
    voxel = atlas.transform_points(correspondence.atlas_from_image(points), VOXEL, WORLD)
    last = np.array(atlas.size) - 1
    thick = [axis for axis in range(d) if last[axis] > 0]
    outside = ((voxel < 0) | (voxel > last))[..., thick].any(axis=-1)
    if outside.all():
        return
    if len(thick) == 3:
        # The planes that lie along the view are not cut by it.
        along = np.array(correspondence.image_grid.direction).T @ np.array(view.grid.direction)[:, 2]
        thick.remove(int(np.abs(along).argmax()))
    at = _centres(view)[::2]
    for axis in thick:
        step = max(1, round(view.side / _LINES / atlas.spacing[axis]))
        levels = np.arange(last[axis] / 2 % step, last[axis] + 0.5, step)
        field = np.ma.masked_where(outside, voxel[..., axis])
        axes.contour(at, at, field, levels, colors=[_GRID_COLOR], linewidths=0.6, linestyles=["solid"], alpha=0.75)


def draw_scale(axes: Axes, view: View) -> None:
    """A scale bar in the lower left corner."""
    most = view.side / 4
    power = 10 ** np.floor(np.log10(most))
    length = max(n * power for n in (1, 2, 5) if n * power <= most)
    x, y = view.side * 0.04, view.side * 0.96
    axes.plot([x, x + length], [y, y], color=INK, linewidth=2, solid_capstyle="butt", path_effects=_HALO)
    axes.text(x, y - view.side * 0.02, f"{length:g} mm", fontsize=_TINY, color=INK, path_effects=_HALO)


def draw_losses(axes: Axes, refinement: Mapping[str, Any]) -> None:
    """The course of the loss and of its terms, each with its weight."""
    config, trace = refinement["config"], refinement["trace"]
    weights = {"total": 1.0, "a2s": config["beta"], "s2a": config["gamma"], "reg": config["strength"]}
    for key, name, color in _LOSSES:
        if weights[key]:
            values = [weights[key] * entry[key] for entry in trace]
            axes.plot([entry["step"] for entry in trace], values, color=color, linewidth=1.4, label=name)
    best = refinement["losses"]["best"]["total"]
    axes.plot([refinement["best"]], [best], "o", color=INK, markersize=4, label="best", linestyle="none")
    axes.set_facecolor(BACK)
    axes.set_ylim(0, _HEADROOM * max(entry["total"] for entry in trace) or 1.0)
    axes.margins(x=0.02)
    axes.tick_params(colors=FAINT, labelsize=_TINY, length=2.5)
    axes.grid(color=RULE, linewidth=0.5)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("iteration", fontsize=_TINY, color=FAINT)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(RULE)
    look = {"frameon": False, "handlelength": 1.2, "columnspacing": 1.0, "borderpad": 0.0}
    axes.legend(loc="upper right", ncols=2, fontsize=_TINY, labelcolor=INK, **look)


def visible(color: Sequence[int]) -> tuple[float, ...]:
    """A structure's colour (RGB, 0–255) as 0–1, brightened where it would not be seen on black."""
    rgb = np.asarray(color, dtype=np.float64) / 255
    light = float(rgb @ [0.2126, 0.7152, 0.0722])
    least = 0.3
    if light < least:
        rgb = rgb + (1 - rgb) * (least - light) / (1 - light)
    return tuple(rgb.tolist())


def _centres(view: View) -> NDArray[np.floating]:
    """Where the pixels of a view are in its panel, mm."""
    return (np.arange(view.grid.shape[-1]) + 0.5) * view.pixel
