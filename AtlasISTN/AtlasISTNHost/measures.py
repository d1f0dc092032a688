"""The table of a result: how large each structure is, whether it hangs together, and how it agrees with a reference.

Volumes and topology come from the engine's own figures, which it works out in its process; only the comparison with a
reference is computed here. A table is kept in the scene as a table node.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from AtlasISTNLib.correspondence import Correspondence
from AtlasISTNLib.errors import ConfigError, GeometryError
from AtlasISTNLib.folding import atlas_map_folding
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.metrics import dice, surface_distances
from AtlasISTNLib.topology import label_boxes
from AtlasISTNLib.volume import Volume, flat

from . import nodes

#: What can be shown: the names in the panel, and those of the engine's volumes and figures.
VOLUMES = {"prediction": "prediction", "one-pass": "one_pass", "refined": "labels"}
STAGES = {"prediction": "prediction", "one-pass": "one_pass", "refined": "final"}

#: Attributes of the table node: which segmentation it is of, and what stands below the table.
_WHICH, _TEXT = "AtlasISTN.Which", "AtlasISTN.Text"
#: Decimals of volume, Dice, ASSD and HD95.
_DIGITS = (2, 3, 2, 2)

#: Part of an array (Z, Y, X) and what lies in it.
Masked = tuple[tuple[slice, ...], np.ndarray]


@dataclass(frozen=True, eq=False)
class Reference:
    """True masks of some structures on the voxels of an image.

    Attributes:
        name: what people call the reference.
        grid: the image's grid.
        masks: by label value, the box in the array (Z, Y, X) outside of which a mask is empty, and the mask in it.
            Masks may overlap.
        matched: by label value, the name of the segment in the reference.
        missing: names of structures for which the reference has no segment, or none that is certainly theirs.
        unused: names of segments that belong to no structure.
    """

    name: str
    grid: Grid
    masks: Mapping[int, Masked]
    matched: Mapping[int, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def labels(self) -> Volume:
        """One label map of all masks; where they overlap, the larger value has the voxel."""
        kind = np.uint8 if max(self.masks, default=0) < 256 else np.int32
        array = np.zeros(self.grid.shape, dtype=kind)
        for value in sorted(self.masks):
            box, mask = self.masks[value]
            array[box][mask] = value
        return Volume.from_array(array, self.grid, self.name)

    def note(self) -> str:
        """What was not compared, in a sentence or two; empty when everything was."""
        parts = []
        if self.missing:
            parts.append(_("Not in the reference: {names}.").format(names=", ".join(self.missing)))
        if self.unused:
            parts.append(_("Not compared: {names}.").format(names=", ".join(self.unused)))
        return " ".join(parts)


@dataclass(frozen=True)
class Row:
    """One structure.

    Attributes:
        name, value, color: as the model has them; colour RGB, 0 to 255.
        volume: mL, in 2D mm².
        dice, assd, hd95: against the reference, distances in mm; nan without one, or where they do not exist.
        components, holes, tunnels: of the structure; holes are enclosed cavities in 3D.
        topology: the same in words, against the atlas's own.
    """

    name: str
    value: int
    color: tuple[int, int, int]
    volume: float
    dice: float
    assd: float
    hd95: float
    components: int
    holes: int
    tunnels: int
    topology: str


@dataclass(frozen=True)
class Table:
    """What is known of one of the segmentations that a result has.

    Attributes:
        which: "prediction", "one-pass" or "refined".
        unit: of the volumes, "mL" or "mm²".
        rows: one for each structure, in the model's order.
        folding: how far the deformation is from a diffeomorphism, in words.
        reference: name of what it was compared with; empty without one.
        note: what could not be compared; empty when everything was.
    """

    which: str
    unit: str
    rows: tuple[Row, ...]
    folding: str
    reference: str = ""
    note: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Titles of the columns of `cells`."""
        volume = _("Volume {unit}") if self.unit == "mL" else _("Area {unit}")
        titles = [_("Structure"), volume.format(unit=self.unit)]
        if self.reference:
            titles += [_("Dice"), _("ASSD mm"), _("HD95 mm")]
        return (*titles, _("Topology"))

    @property
    def cells(self) -> tuple[tuple[str, ...], ...]:
        """The rows as people read them; a figure that does not exist is a dash."""
        return tuple(self._cells(row) for row in self.rows)

    @property
    def text(self) -> str:
        """What stands below the table: folding, and what was not compared."""
        return " ".join(part for part in (self.folding, self.note) if part)

    def figures(self, row: Row) -> tuple[float, ...]:
        """The numbers of a row, in the order of the columns between the first and the last."""
        return (row.volume, row.dice, row.assd, row.hd95) if self.reference else (row.volume,)

    def _cells(self, row: Row) -> tuple[str, ...]:
        texts = (_figure(value, digits) for value, digits in zip(self.figures(row), _DIGITS, strict=False))
        return (row.name, *texts, row.topology)

    def to_csv(self) -> str:
        """Comma-separated values with a row of names first: every figure with a point and as exact as it is known.

        The names are not translated, so that scripts find them; a figure that does not exist is empty.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        volume = "volume_ml" if self.unit == "mL" else "area_mm2"
        writer.writerow([*CSV_NAMES[:3], volume, *CSV_NAMES[3:]])
        for row in self.rows:
            figures = [row.volume, row.dice, row.assd, row.hd95]
            counts = [row.components, row.holes, row.tunnels]
            plain = ["" if isnan(value) else repr(float(value)) for value in figures]
            writer.writerow([self.which, row.name, row.value, *plain, *counts, self.reference])
        return text.getvalue()


#: Columns of the comma-separated table; the volume, whose name says the unit, stands after the third.
CSV_NAMES = (
    *("segmentation", "structure", "label", "dice", "assd_mm", "hd95_mm"),
    *("components", "holes", "tunnels", "reference"),
)


def measure(outcome: Any, which: str, reference: Reference | None = None) -> Table:
    """The table of one of the segmentations of a result.

    Args:
        outcome: a `results.Outcome`.
        which: "prediction", "one-pass" or "refined".
        reference: true masks on the image's grid.

    Raises:
        ConfigError: `which` is none of these.
        GeometryError: the reference lies on another grid.
    """
    if which not in VOLUMES:
        raise ConfigError(f"no segmentation '{which}'", f"use one of {list(VOLUMES)}")
    volume = outcome.volumes[VOLUMES[which]]
    if reference is not None and reference.grid.shape != volume.grid.shape:
        # The volume may have been moved since; its voxels are the same ones.
        raise GeometryError(
            _("The reference {name} does not lie on the scan's voxels").format(name=reference.name),
            _("select it again"),
        )
    agreement = {} if reference is None else _agreement(volume, reference)
    entries = {entry["value"]: entry for entry in outcome.figures["structures"]}
    rows = []
    for label in outcome.labels:
        entry = entries.get(label.value)
        if entry is not None:  # the background has none
            rows.append(_row(label, entry, STAGES[which], agreement.get(label.value, (nan, nan, nan))))
    unit = next((entry["volume"]["unit"] for entry in entries.values()), "mL")
    note = "" if reference is None else reference.note()
    return Table(which, unit, tuple(rows), _folding(outcome, which), reference.name if reference else "", note)


def write_table(table: Table, result: Any) -> Any:
    """Keep a table in the scene: our table node, made where there is none.

    Args:
        table: from `measure`.
        result: a `results.Nodes`.

    Returns:
        the vtkMRMLTableNode; None where the input has left the scene.
    """
    input_node = result.segmentation.GetNodeReference(nodes.INPUT)
    if input_node is None:
        return None
    scene, model = input_node.GetScene(), result.segmentation.GetAttribute(nodes.MODEL)
    node = nodes.get_or_add(scene, "vtkMRMLTableNode", nodes.TABLE, input_node, model, name=_("measures"))
    content = vtk.vtkTable()
    values = [[row.name, *table.figures(row), row.topology] for row in table.rows]
    for i, title in enumerate(table.columns):
        column = vtk.vtkStringArray() if i in (0, len(table.columns) - 1) else vtk.vtkDoubleArray()
        column.SetName(title)
        for row in values:
            column.InsertNextValue(row[i])
        content.AddColumn(column)
    with slicer.util.NodeModify(node):
        node.SetAndObserveTable(content)
        node.SetUseColumnTitleAsColumnHeader(True)
        node.SetAttribute(_WHICH, table.which)
        node.SetAttribute(_TEXT, table.text)
    return node


def read_table(result: Any) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], str] | None:
    """The table that the scene holds of a result: titles, cells and the text below; None where it holds none."""
    input_node = result.segmentation.GetNodeReference(nodes.INPUT)
    if input_node is None:
        return None
    model = result.segmentation.GetAttribute(nodes.MODEL)
    node = nodes.find(input_node.GetScene(), nodes.TABLE, input_node, model)
    content = node.GetTable() if node is not None else None
    if content is None or not content.GetNumberOfColumns():
        return None
    count = content.GetNumberOfColumns()
    cells = []
    for row in range(content.GetNumberOfRows()):
        texts = [content.GetValue(row, i).ToString() for i in range(count)]
        for i in range(1, count - 1):
            texts[i] = _figure(_number(texts[i]), _DIGITS[min(i, len(_DIGITS)) - 1])
        cells.append(tuple(texts))
    titles = tuple(content.GetColumn(i).GetName() for i in range(count))
    return titles, tuple(cells), node.GetAttribute(_TEXT) or ""


def topology_text(own: Mapping[str, int], atlas: Mapping[str, int], ndim: int = 3) -> str:
    """Topology of a structure against the atlas's, in words: "as the atlas", or what differs."""
    if not own["components"] and atlas["components"]:
        return _("absent")
    words = {
        "components": (_("1 piece"), _("{n} pieces")),
        "holes": (_("1 cavity"), _("{n} cavities")) if ndim == 3 else (_("1 hole"), _("{n} holes")),
        "tunnels": (_("1 tunnel"), _("{n} tunnels")),
    }
    found = []
    for key, (one, many) in words.items():
        if own[key] != atlas[key]:
            text = one if own[key] == 1 else many.format(n=own[key])
            found.append(_("{found} instead of {expected}").format(found=text, expected=atlas[key]))
    return ", ".join(found) if found else _("as the atlas")


def _row(label: Any, entry: Mapping[str, Any], stage: str, agreement: Sequence[float]) -> Row:
    own, atlas = entry["topology"][stage], entry["topology"]["atlas"]
    ndim = 3 if entry["volume"]["unit"] == "mL" else 2
    return Row(
        name=label.name,
        value=label.value,
        color=tuple(label.color),
        volume=float(entry["volume"][stage]),
        dice=agreement[0],
        assd=agreement[1],
        hd95=agreement[2],
        components=int(own["components"]),
        holes=int(own["holes"]),
        tunnels=int(own["tunnels"]),
        topology=topology_text(own, atlas, ndim),
    )


def _agreement(volume: Volume, reference: Reference) -> dict[int, tuple[float, float, float]]:
    """Dice, ASSD and HD95 (mm) of every label of which the reference has a mask."""
    plane = flat(volume)
    labels = volume.array[0]
    boxes = label_boxes(labels)
    found = {}
    for value, (box, mask) in reference.masks.items():
        # Both masks in the smallest box that holds them: all else is background in both.
        parts = [part for part in (box if mask.size else None, boxes.get(value)) if part is not None]
        joint = tuple(slice(min(s.start for s in p), max(s.stop for s in p)) for p in zip(*parts, strict=True))
        if not joint:
            found[value] = (nan, nan, nan)
            continue
        own = labels[joint] == value
        true = np.zeros(own.shape, dtype=np.bool_)
        if mask.size:
            true[tuple(slice(s.start - j.start, s.stop - j.start) for s, j in zip(box, joint, strict=True))] = mask
        if plane is not volume:  # seen in 3D, all of a single slice would be surface
            thin = volume.grid.shape.index(1)
            own, true = own.squeeze(axis=thin), true.squeeze(axis=thin)
        distances = surface_distances(own, true, plane.grid.spacing)
        found[value] = (dice(own, true), distances.assd, distances.hd95)
    return found


def _folding(outcome: Any, which: str) -> str:
    if which == "prediction":
        return _("The network's prediction comes without a deformation.")
    figures = outcome.figures["folding"]
    percent, smallest = figures["percent"], figures["smallest_jacobian"]
    if which == "one-pass" and outcome.refined:
        percent, smallest = _one_pass_folding(outcome.one_pass)
    if smallest > 0:
        return _("No folding: the deformation is a diffeomorphism (smallest Jacobian determinant {value:.2f}).").format(
            value=smallest
        )
    return _(
        "Folding: {percent:.2g} % of the volume is not diffeomorphic (smallest Jacobian determinant {value:.2f})."
    ).format(percent=percent, value=smallest)


def _one_pass_folding(correspondence: Correspondence) -> tuple[float, float]:
    found = atlas_map_folding(correspondence)
    return found.percent, found.smallest


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # a file that was read without knowing the kinds of its columns
        return nan


def _figure(value: float, digits: int) -> str:
    return "–" if isnan(value) else f"{value:.{digits}f}"
