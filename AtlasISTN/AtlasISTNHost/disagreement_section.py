"""How sure a result is: where atlas and prediction disagree, over the slices and for each structure. Part of Review."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from AtlasISTNLib.errors import AtlasISTNError

from . import disagreement_map, nodes, segments
from .messages import Failure, failure_of
from .session import Session

#: Pixels of the table's rows and frame, and so many rows are seen at once: the worst stand first.
_ROW, _FRAME, _ROWS = 22, 2, 5


class DisagreementSection:
    """Binds the group "How sure" of Review.

    Args:
        ui: the form's widgets by name.
        session: gives the last result.
        failed: told what went wrong.
    """

    def __init__(self, ui: Any, session: Session, failed: Callable[[Failure | None], None]) -> None:
        self.ui, self.session, self._failed = ui, session, failed
        self.parameters: Any = None
        self.nodes: Any = None
        self.figures: disagreement_map.Figures | None = None
        self._seen: Any = None
        self._on = False
        table = ui.disagreementTable
        table.verticalHeader().setVisible(False)
        table.verticalHeader().setDefaultSectionSize(_ROW)
        table.connect("cellClicked(int,int)", lambda row, _column: self._jump(row))
        self._fill()

    def bind(self, parameters: Any) -> None:
        """Follow a scene's parameter node, or none."""
        self.parameters, self.nodes, self.figures = parameters, None, None
        self._seen, self._on = None, False
        self._fill()

    def update(self, found: Any) -> None:
        """Follow the result that is looked at.

        Args:
            found: its `results.Nodes`; None where there is none.
        """
        key = (self.session.outcome, found.segmentation.GetID()) if found is not None else None
        self.nodes = found
        if key != self._seen:
            self._seen, self._on = key, False
            self.figures = None if found is None else self._figures()
            self._fill()
        self._enable()
        self.apply()

    def apply(self) -> None:
        """Show the map or take it off, as the choices say; of two maps, the one that was chosen last is shown."""
        p = self.parameters
        if p is None:
            return
        if p.showDisagreement and p.showJacobian:
            if self._on:
                p.showDisagreement = False
            else:
                p.showJacobian = False
        if self.nodes is None or p.inputVolume is None:
            return
        if p.showDisagreement != self._on:
            self._on = p.showDisagreement
            disagreement_map.show(self.nodes, p.inputVolume, self._on)

    def _figures(self) -> disagreement_map.Figures | None:
        """Those of the session's result, kept in the scene from now on; else those that the scene has."""
        outcome, ours = self.session.outcome, self.session.nodes
        volume = self.nodes.segmentation.GetNodeReference(nodes.INPUT)
        if outcome is None or ours is None or volume is None or ours.segmentation is not self.nodes.segmentation:
            return disagreement_map.read(self.nodes)
        try:
            return disagreement_map.write(outcome, self.nodes, volume)
        except AtlasISTNError as error:
            self._failed(failure_of(error))
            return None

    def _enable(self) -> None:
        box = self.ui.disagreementCheckBox
        reason = ""
        if self.nodes is None:
            reason = _("Nothing has been segmented yet")
        elif disagreement_map.map_node(self.nodes) is None:
            reason = _("This result has no map of disagreement; refine it to get one")
        tip = _(
            "Colour the slices by how much the fitted atlas and what it was fitted to (the network's prediction, or"
            " your target) disagree: bright where no structure is called by both"
        )
        box.enabled, box.toolTip = not reason, reason or tip

    def _fill(self) -> None:
        table, figures = self.ui.disagreementTable, self.figures
        rows = figures.rows if figures is not None else ()
        table.visible = bool(rows)
        table.setRowCount(len(rows))
        if figures is None or not rows:
            return
        table.setColumnCount(len(figures.columns))
        table.setHorizontalHeaderLabels(list(figures.columns))
        for i, row in enumerate(rows):
            for column, text in enumerate(row.cells):
                item = qt.QTableWidgetItem(text)
                if column:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                else:
                    item.setIcon(self._square(row.value))
                item.setToolTip(_tip(row, figures.unit))
                table.setItem(i, column, item)
        header = table.horizontalHeader()
        header.setStretchLastSection(False)  # or the last column would keep the width of its contents
        table.resizeColumnsToContents()
        header.setStretchLastSection(True)
        height = header.sizeHint.height() + _FRAME + _ROW * min(len(rows), _ROWS)
        table.minimumHeight = table.maximumHeight = height

    def _square(self, value: int) -> Any:
        """A structure's colour, as its segment has it now."""
        segment = self.nodes.segmentation.GetSegmentation().GetSegment(segments.segment_id(value))
        if segment is None:
            return qt.QIcon()
        square = qt.QPixmap(12, 12)
        square.fill(qt.QColor(*(round(255 * part) for part in segment.GetColor())))
        return qt.QIcon(square)

    def _jump(self, index: int) -> None:
        volume = self.nodes.segmentation.GetNodeReference(nodes.INPUT) if self.nodes is not None else None
        if volume is None or self.figures is None or not 0 <= index < len(self.figures.rows):
            return
        disagreement_map.jump(self.figures.rows[index], volume)


def _tip(row: disagreement_map.Row, unit: str) -> str:
    """What a row means, and what a click on it does."""
    if row.center is None:
        return _("{name}: atlas and prediction agree everywhere").format(name=row.name)
    what = _("missing in the atlas") if row.kind == "missing" else _("too much in the atlas")
    return _("{name}: the largest piece has {size:.2f} {unit} and is {what}. Click to see it in the slices.").format(
        name=row.name, size=row.blob, unit=unit, what=what
    )
