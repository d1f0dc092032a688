"""Where the fitted atlas and what it was fitted to disagree: a map over the slices, and a figure for each structure.

Both come from the engine with a result. They are kept in the scene, the map as a volume node and the figures as a table
node, so that a scene that was loaded has them, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from slicer.i18n import tr as _

from AtlasISTNLib.geometry import VOXEL, WORLD

from . import frames, nodes, review, volumes

#: Roles of our nodes.
MAP = "disagreement"
FIGURES = "disagreement-figures"
MAP_COLORS = "disagreement-colors"

#: Opacity of the map over the patient.
OPACITY = 0.75
#: Values below are not drawn: nothing to look at, as along every border of labels that are soft. Slicer's slices know
#: colours that are drawn and colours that are not, and nothing between.
LEAST = 0.1
COLORS = 256
# Of one order, dark to bright: what disagrees most is brightest.
_RAMP = ((0.30, 0.0, 0.42), (0.80, 0.08, 0.40), (0.99, 0.45, 0.18), (1.0, 0.93, 0.35))
#: Attribute of the table node: the unit of its sizes.
_UNIT = "AtlasISTN.Unit"
#: Columns of the table node; not translated, so that scripts find them.
_TEXTS = ("structure", "kind")
_NUMBERS = ("label", "share", "missing", "extra", "blob", "r", "a", "s")
_COLUMNS = ("structure", "label", "share", "missing", "extra", "blob", "kind", "r", "a", "s")


@dataclass(frozen=True)
class Row:
    """One structure.

    Attributes:
        name, value: as the model has them.
        share: voxels that only one of the two calls so, over those that at least one does; nan where neither does.
        missing, extra: mL (2D: mm²) that the atlas leaves out, and that it has too much.
        blob: size of the largest piece of those; 0 where nothing disagrees.
        kind: of that piece, "missing" or "extra"; empty without one.
        center: a voxel in its middle, RAS mm of the input without its parent transforms; None without one.
    """

    name: str
    value: int
    share: float
    missing: float
    extra: float
    blob: float
    kind: str
    center: tuple[float, float, float] | None

    @property
    def cells(self) -> tuple[str, ...]:
        """As people read it; a share that does not exist is a dash."""
        share = "–" if isnan(self.share) else f"{100 * self.share:.0f} %"
        return (self.name, share, _size(self.missing), _size(self.extra))


@dataclass(frozen=True)
class Figures:
    """What disagrees in a result.

    Attributes:
        unit: of the sizes, "mL" or "mm²".
        rows: one for each structure, the largest share first.
    """

    unit: str
    rows: tuple[Row, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Titles of the cells."""
        sizes = (_("Missing {unit}"), _("Extra {unit}"))
        return (_("Structure"), _("Disagree"), *(text.format(unit=self.unit) for text in sizes))


def figures(outcome: Any, input_node: Any) -> Figures | None:
    """The figures of an outcome; None where it has none.

    Args:
        outcome: a `results.Outcome`.
        input_node: the volume that was segmented; where it was moved since, the places stay on its voxels.

    Raises:
        GeometryError: the volume has other voxels than when it was segmented.
    """
    entries = outcome.figures.get("disagreement")
    if not entries:
        return None
    frame = frames.frame_of_result(outcome.volumes["labels"].grid, input_node)
    rows = tuple(_row(entry, frame) for entry in entries)
    return Figures(str(entries[0].get("unit") or "mL"), rows)


def write(outcome: Any, result: Any, input_node: Any) -> Figures | None:
    """Keep the map and the figures of an outcome in the scene; without them, those of an earlier one leave it.

    Args:
        outcome: a `results.Outcome`.
        result: a `results.Nodes`.
        input_node: the volume that was segmented.

    Returns:
        the figures.

    Raises:
        GeometryError: as `figures`.
    """
    found = figures(outcome, input_node)
    if outcome.disagreement is None:
        show(result, input_node, False)
        _drop(_find(MAP, result, input_node))
    else:
        _write_map(outcome, result, input_node)
    if found is None:
        _drop(_find(FIGURES, result, input_node))
    else:
        _write_figures(found, result, input_node)
    return found


def read(result: Any) -> Figures | None:
    """The figures that the scene holds of a result; None where it holds none."""
    input_node = result.segmentation.GetNodeReference(nodes.INPUT)
    node = None if input_node is None else _find(FIGURES, result, input_node)
    table = None if node is None else node.GetTable()
    if table is None or any(table.GetColumnByName(name) is None for name in _COLUMNS):
        return None
    rows = []
    for i in range(table.GetNumberOfRows()):
        cells = {name: table.GetValueByName(i, name).ToString() for name in _COLUMNS}
        numbers = {name: _number(cells[name]) for name in _NUMBERS}
        place = tuple(numbers[axis] for axis in "ras")
        rows.append(
            Row(
                name=cells["structure"],
                value=0 if isnan(numbers["label"]) else int(numbers["label"]),
                share=numbers["share"],
                missing=numbers["missing"],
                extra=numbers["extra"],
                blob=numbers["blob"],
                kind=cells["kind"],
                center=None if any(isnan(x) for x in place) else place,
            )
        )
    return Figures(node.GetAttribute(_UNIT) or "mL", tuple(rows))


def map_node(result: Any) -> Any:
    """The map's volume node of a result; None where the scene has none."""
    input_node = result.segmentation.GetNodeReference(nodes.INPUT)
    return None if input_node is None else _find(MAP, result, input_node)


def show(result: Any, input_node: Any, on: bool) -> Any:
    """Lay the map over the patient in all slice views whose background is the input, or take it off.

    While it is shown it goes before the atlas's image, which comes back after it. See `review.show_map`.

    Returns:
        the volume node; None where the scene has none.
    """
    node = _find(MAP, result, input_node)
    if node is not None:
        if on:
            _color(node)  # a file of the scene does not have the colours of every version of Slicer
        review.show_map(result, input_node, node, on, OPACITY)
    return node


def world_place(row: Row, input_node: Any) -> tuple[float, float, float] | None:
    """Where the largest piece of a structure's disagreement is now, RAS mm of the world; None where there is none."""
    if row.center is None:
        return None
    point = frames.moved(np.array([row.center]), input_node.GetParentTransformNode())[0]
    return (float(point[0]), float(point[1]), float(point[2]))


def jump(row: Row, input_node: Any) -> bool:
    """Bring the middle of all slice views, and the crosshair, to the largest piece of a structure's disagreement.

    Returns:
        whether there is any.
    """
    place = world_place(row, input_node)
    if place is None:
        return False
    scene = input_node.GetScene()
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *place, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:  # whether it is seen is the user's choice
        crosshair.SetCrosshairRAS(*place)
    return True


def palette() -> NDArray[np.float64]:
    """RGBA in [0, 1] of values at even steps from 0 to 1, (COLORS, 4); A is 0 below `LEAST`, else 1."""
    values = np.linspace(0, 1, COLORS)
    stops = np.linspace(0, 1, len(_RAMP))
    rgb = [np.interp(values, stops, [color[c] for color in _RAMP]) for c in range(3)]
    return np.stack([*rgb, values >= LEAST], axis=-1)


def _row(entry: Mapping[str, Any], frame: frames.Frame) -> Row:
    share, place = entry.get("share"), entry.get("blob_center")
    center = None
    if place is not None:
        r, a, s = frame.to_local(np.array(place, dtype=np.float64)).tolist()
        center = (r, a, s)
    return Row(
        name=str(entry["name"]),
        value=int(entry["value"]),
        share=nan if share is None else float(share),
        missing=float(entry.get("missing") or 0.0),
        extra=float(entry.get("extra") or 0.0),
        blob=float(entry.get("blob") or 0.0),
        kind=str(entry.get("blob_kind") or ""),
        center=center,
    )


def _find(role: str, result: Any, input_node: Any) -> Any:
    return nodes.find(input_node.GetScene(), role, input_node, result.segmentation.GetAttribute(nodes.MODEL))


def _drop(node: Any) -> None:
    if node is not None:
        nodes.remove(node)


def _write_map(outcome: Any, result: Any, input_node: Any) -> None:
    volume = volumes.lifted(outcome.disagreement)
    frame = frames.frame_of_result(outcome.volumes["labels"].grid, input_node)
    model = result.segmentation.GetAttribute(nodes.MODEL)
    kind = "vtkMRMLScalarVolumeNode"
    node = nodes.get_or_add(input_node.GetScene(), kind, MAP, input_node, model, name=_("disagreement"))
    volumes.fill(node, volume.array[0], frame.local_from_lps @ volume.grid.matrix(WORLD, VOXEL))
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
        _color(node)


def _color(node: Any) -> None:
    """Colours from 0 to 1, whatever the values, none of them near 0; and a legend."""
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    table = display.GetColorNode()
    if table is None or table.GetAttribute(nodes.ROLE) != MAP_COLORS:
        table = slicer.vtkMRMLColorTableNode()
        table.SetName(f"{node.GetName()} colours")
        table.SetTypeToUser()
        table.SetHideFromEditors(True)
        table.SetAttribute(nodes.ROLE, MAP_COLORS)
        table = node.GetScene().AddNode(table)
    colors = palette()
    if table.GetNumberOfColors() != COLORS or not _has_colors(table, colors):
        table.SetNumberOfColors(COLORS)
        table.GetLookupTable().SetRange(0, 1)
        for i, color in enumerate(colors.tolist()):
            table.SetColor(i, f"{i / (COLORS - 1):.2f}", *color)
    with slicer.util.NodeModify(display):
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0, 1)
        display.SetInterpolate(True)
        display.SetAndObserveColorNodeID(table.GetID())
    logic = slicer.vtkSlicerColorLogic
    if logic.GetColorLegendDisplayNode(node) is None:
        legend = logic.AddDefaultColorLegendDisplayNode(node)
        legend.SetTitleText(_("Disagreement"))
        legend.SetLabelFormat("%.1f")
        legend.SetNumberOfLabels(3)


def _has_colors(table: Any, colors: NDArray[np.float64]) -> bool:
    found = [0.0, 0.0, 0.0, 0.0]
    table.GetColor(COLORS // 2, found)
    return bool(np.abs(np.array(found) - colors[COLORS // 2]).max() < 0.01)


def _write_figures(found: Figures, result: Any, input_node: Any) -> None:
    scene, model = input_node.GetScene(), result.segmentation.GetAttribute(nodes.MODEL)
    node = nodes.get_or_add(
        scene, "vtkMRMLTableNode", FIGURES, input_node, model, name=_("disagreement of each structure")
    )
    content = vtk.vtkTable()
    for name in _COLUMNS:
        column = vtk.vtkStringArray() if name in _TEXTS else vtk.vtkDoubleArray()
        column.SetName(name)
        for row in found.rows:
            column.InsertNextValue(_values(row)[name])
        content.AddColumn(column)
    with slicer.util.NodeModify(node):
        node.SetAndObserveTable(content)
        node.SetUseColumnTitleAsColumnHeader(True)
        node.SetAttribute(_UNIT, found.unit)


def _values(row: Row) -> dict[str, Any]:
    r, a, s = row.center if row.center is not None else (nan, nan, nan)
    return {
        "structure": row.name,
        "label": float(row.value),
        "share": row.share,
        "missing": row.missing,
        "extra": row.extra,
        "blob": row.blob,
        "kind": row.kind,
        "r": r,
        "a": a,
        "s": s,
    }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # an empty cell of a file
        return nan


def _size(value: float) -> str:
    """Sizes that are small are not 0: two digits after the point, and what is below says so."""
    return "0" if value == 0 else "< 0.01" if value < 0.01 else f"{value:.2f}"
