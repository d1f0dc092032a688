"""The models that can be chosen, and what people should know of them before they do. Without torch."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from AtlasISTNLib.errors import AtlasISTNError
from AtlasISTNLib.manifest import Manifest, available_models, load_manifest

#: How far λ* can be turned either way from the model's own, as a factor.
STRENGTH_REACH = 64.0
#: Where a model has no λ* of its own worth turning.
_LEAST_STRENGTH = 1e-3


@dataclass(frozen=True)
class Entry:
    """A model that can be chosen.

    Attributes:
        key: what the scene remembers: a bundled model's name, or a path.
        path: its folder or zip.
        manifest: None where it cannot be read.
        problem: why it cannot be used; empty where it can.
    """

    key: str
    path: Path
    manifest: Manifest | None
    problem: str = ""

    @property
    def title(self) -> str:
        """What the list shows."""
        if self.manifest is None:
            return _("{name} (damaged)").format(name=Path(self.key).name)
        return self.manifest.about.title or self.manifest.about.name

    @property
    def strength(self) -> float:
        """The model's own λ*."""
        own = self.manifest.refinement.strength if self.manifest else None
        return max(float(own or 0.0), _LEAST_STRENGTH)

    @property
    def iterations(self) -> int:
        """The model's own number of iterations."""
        own = self.manifest.refinement.iterations if self.manifest else None
        return int(own or 100)

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return self.manifest.grid.ndim if self.manifest else 3


def entries(own: tuple[str, ...] = ()) -> list[Entry]:
    """The bundled models, the one of the most dimensions first, then the user's own by their paths."""
    bundled = [_entry(name, path) for name, path in available_models().items()]
    bundled.sort(key=lambda entry: (-entry.dimension, entry.title))
    known = {entry.path.resolve() for entry in bundled}
    return bundled + [entry_at(path) for path in own if Path(path).resolve() not in known]


def bundled() -> frozenset[str]:
    """Keys of the models that came with the module."""
    return frozenset(available_models())


def entry_at(path: str) -> Entry:
    """A model by its path."""
    return _entry(path, Path(path))


def _entry(key: str, path: Path) -> Entry:
    try:
        return Entry(key, path, load_manifest(path))
    except AtlasISTNError as error:
        return Entry(key, path, None, str(error))


def info(entry: Entry) -> str:
    """A model in a few lines of rich text: structures in their colours, grid, licence, intended use."""
    manifest = entry.manifest
    if manifest is None:
        return "<p>" + html.escape(entry.problem) + "</p>"
    labels = ", ".join(
        f'<span style="color: rgb({label.color[0]}, {label.color[1]}, {label.color[2]})">&#9632;</span>&nbsp;'
        + html.escape(label.name).replace(" ", "&nbsp;")
        for label in manifest.labels[1:]
    )
    about, grid = manifest.about, manifest.grid
    size = " × ".join(str(n) for n in grid.size)
    spacing = " × ".join(f"{s:g}" for s in grid.spacing)
    lines = [
        labels,
        _("<b>Grid:</b> {size} voxels of {spacing} mm. <b>Licence:</b> {licence}. <b>Version:</b> {version}.").format(
            size=size,
            spacing=spacing,
            licence=html.escape(about.licence or _("not stated")),
            version=html.escape(about.version),
        ),
        _("<b>Intended use:</b> {use}").format(use=html.escape(about.intended_use)),
    ]
    return "<br>".join(lines)


def details(entry: Entry) -> str:
    """All that is known of a model, for the tooltip of its lines."""
    manifest = entry.manifest
    if manifest is None:
        return html.escape(entry.problem)
    about = manifest.about
    parts = [
        f"<b>{html.escape(about.title or about.name)}</b>",
        html.escape(about.description),
        _("Citation: {citation}").format(citation=html.escape(about.citation or "-")),
        html.escape(str(entry.path)),
    ]
    return "<p>" + "</p><p>".join(part for part in parts if part) + "</p>"


def strength_of_slider(value: int, own: float, ticks: int) -> float:
    """λ* of a slider from −ticks to ticks: ticks is 64 times the model's own, −ticks a 64th, in equal ratios."""
    return float(own * STRENGTH_REACH ** (value / ticks))


def strength_decimals(value: float) -> int:
    """Decimals with which λ* reads well: three significant digits."""
    if value >= 100:
        return 0
    return 1 if value >= 10 else 2 if value >= 1 else 4


def strength_step(value: float) -> float:
    """By how much the arrows of a box turn λ*: the power of ten that is worth a turn."""
    return float(10.0 ** math.floor(math.log10(max(value, 1e-6) / 5)))
