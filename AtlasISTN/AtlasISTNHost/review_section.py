"""The panel's section Review: which result is shown and how, its figures, and points between atlas and patient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.errors import AtlasISTNError

from . import markups, measures, nodes, references, results, review
from .messages import Failure, failure_of
from .models import Entry
from .session import Session

_CHOICES = ("prediction", "one-pass", "refined")
#: Pixels of the table's rows, header and scroll bar, and so many rows are seen at once.
_ROW, _HEADER, _BAR, _ROWS = 24, 30, 16, 8
#: With more columns than these, names get so many pixels at most.
_MANY, _NAMES = 3, 115


class ReviewSection:
    """Binds the widgets of Review.

    Args:
        ui: the form's widgets by name.
        session: gives the last result.
        failed: told what went wrong.
    """

    def __init__(self, ui: Any, session: Session, failed: Callable[[Failure | None], None]) -> None:
        self.ui, self.session, self._failed = ui, session, failed
        self.parameters: Any = None
        self.nodes: Any = None
        self._applied: dict[str, Any] = {}
        self._measured: Any = None
        self.table: measures.Table | None = None
        self._buttons = dict(
            zip(
                _CHOICES,
                (ui.showPredictionRadioButton, ui.showOnePassRadioButton, ui.showRefinedRadioButton),
                strict=True,
            )
        )
        for which, button in self._buttons.items():
            button.connect("toggled(bool)", lambda on, which=which: self._on_shown(which, on))
        ui.toPatientButton.connect("clicked(bool)", lambda _checked: self._carry(to_patient=True))
        ui.toAtlasButton.connect("clicked(bool)", lambda _checked: self._carry(to_patient=False))
        ui.markupsSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda _node: self._show_markups())
        ui.measuresTable.verticalHeader().setVisible(False)
        ui.measuresTable.verticalHeader().setDefaultSectionSize(_ROW)
        self._empty_table()

    def bind(self, parameters: Any) -> None:
        """Follow a scene's parameter node, or none."""
        self.parameters, self.nodes = parameters, None
        self._applied, self._measured, self.table = {}, None, None

    def close(self) -> None:
        """Give the slice views back as they were."""
        review.leave(slicer.mrmlScene)

    def update(self, parameters: Any, model: Entry | None) -> None:
        """Follow the input and the model that are chosen now."""
        volume = parameters.inputVolume if parameters is not None else None
        name = model.manifest.about.name if model is not None and model.manifest is not None else ""
        found = results.find_nodes(volume, name) if volume is not None and name else None
        if found is None or self.nodes is None or found.segmentation is not self.nodes.segmentation:
            self._applied = {}
        self.nodes = found
        self._enable()
        self.apply()
        self._measure()

    def show_result(self) -> None:
        """A new result is there: show it, and its middle if it is the first one."""
        if self.session.outcome is None or self.session.nodes is None:
            return
        first = self.nodes is None
        self.nodes, self._applied, self._measured = self.session.nodes, {}, None
        if self.parameters is not None:
            self.parameters.shown = "refined" if self.session.outcome.refined else "one-pass"
        if first:
            review.focus(self.nodes)

    def apply(self) -> None:
        """Show what the choices say; what is so already is left alone."""
        p, found = self.parameters, self.nodes
        if p is None or found is None:
            return
        volume = p.inputVolume
        shown = p.shown if self._reason(p.shown) == "" else self._fallback()
        wanted = {
            "shown": shown,
            # Filled structures would hide a map.
            "outlines": p.outlinesOnly or p.showJacobian or p.showDisagreement,
            "surfaces": p.showSurfaces,
            "grid": p.showGrid,
            "jacobian": p.showJacobian,
            "opacity": p.atlasOpacity,
        }
        before, self._applied = self._applied, wanted
        changed = {key for key, value in wanted.items() if before.get(key) != value}
        if "shown" in changed and shown:
            review.show(found, shown)
        if "outlines" in changed:
            review.set_outlines_only(found, wanted["outlines"])
        if "surfaces" in changed:
            review.show_surfaces(found, p.showSurfaces)
        if "grid" in changed:
            review.show_grid(found, p.showGrid)
        if "opacity" in changed and (before or p.atlasOpacity):
            review.set_atlas_opacity(found, volume, p.atlasOpacity)
        if "jacobian" in changed and (before or p.showJacobian):
            outcome = self.session.outcome if self._is_current() else None
            review.show_jacobian(found, volume, outcome, p.showJacobian)
        self._check_buttons(shown)
        if "shown" in changed:
            self._measure()

    def _is_current(self) -> bool:
        """Whether the session's result is the one that is looked at."""
        return (
            self.session.outcome is not None
            and self.session.nodes is not None
            and self.nodes is not None
            and self.session.nodes.segmentation is self.nodes.segmentation
        )

    def _on_shown(self, which: str, on: bool) -> None:
        if on and self.parameters is not None and self.parameters.shown != which and self._buttons[which].enabled:
            self.parameters.shown = which

    def _check_buttons(self, shown: str) -> None:
        for which, button in self._buttons.items():
            if button.checked != (which == shown):
                button.checked = which == shown

    def _reason(self, which: str) -> str:
        """Why a result cannot be shown; empty where it can."""
        if self.nodes is None:
            return _("Nothing has been segmented yet")
        if which == "refined":
            return "" if results.is_refined(self.nodes) else _("The result has not been refined yet")
        if which == "one-pass" and not results.is_refined(self.nodes):
            return ""
        node = getattr(self.nodes, review.SEGMENTATIONS[which])
        return "" if nodes.in_scene(node) else _("This result has left the scene")

    def _fallback(self) -> str:
        """What to show where the choice is not there."""
        return next((which for which in ("refined", "one-pass", "prediction") if not self._reason(which)), "")

    def _enable(self) -> None:
        ui = self.ui
        tips = {
            "prediction": _("The network's prediction (ITN), which may have islands and holes"),
            "one-pass": _("The atlas after one pass of the registration network"),
            "refined": _("The atlas after refinement"),
        }
        for which, button in self._buttons.items():
            reason = self._reason(which)
            button.enabled, button.toolTip = not reason, reason or tips[which]
        nothing = "" if self.nodes is not None else _("Nothing has been segmented yet")
        for widget in (ui.outlineCheckBox, ui.atlasOpacitySlider, ui.surfacesCheckBox, ui.gridCheckBox):
            widget.enabled = not nothing
        ui.jacobianCheckBox.enabled = not nothing
        ui.referenceSelector.enabled = not nothing
        self._show_markups()

    def _measure(self) -> None:
        """Fill the table, anew only where something of it changed."""
        if self.nodes is None:
            self._empty_table()
            return
        shown = self._applied.get("shown") or self._fallback()
        reference = self.parameters.reference if self.parameters is not None else None
        stamp = reference.GetSegmentation().GetMTime() if reference is not None else 0
        key = (id(self.session.outcome), self.nodes.segmentation.GetID(), shown, reference, stamp)
        if key == self._measured:
            return
        self._measured = key
        if not self._is_current():
            self._fill_from_scene()
            return
        try:
            with slicer.util.WaitCursor(reference is not None):
                if self._measured == key:  # the cursor appears by way of Qt's events, which may have led back here
                    self._fill(self._measured_table(shown, reference))
        except AtlasISTNError as error:
            self._failed(failure_of(error))

    def _measured_table(self, shown: str, reference: Any) -> measures.Table:
        outcome = self.session.outcome
        assert outcome is not None
        found = None
        if reference is not None:
            found = references.reference_labels(reference, self.parameters.inputVolume, outcome.labels)
        return measures.measure(outcome, shown, found)

    def _fill(self, table: measures.Table) -> None:
        self.table = table
        colors = [row.color for row in table.rows]
        self._write(table.columns, table.cells, colors)
        self.ui.foldingLabel.text = " ".join(text for text in (table.folding, table.note) if text)
        measures.write_table(table, self.nodes)

    def _fill_from_scene(self) -> None:
        """The table that was saved with the scene."""
        found = measures.read_table(self.nodes)
        self.table = None
        if found is None:
            self._empty_table()
            return
        columns, cells, text = found
        self._write(columns, cells, [None] * len(cells))
        self.ui.foldingLabel.text = text

    def _write(self, columns: Any, cells: Any, colors: Any) -> None:
        widget = self.ui.measuresTable
        widget.setColumnCount(len(columns))
        widget.setHorizontalHeaderLabels(list(columns))
        widget.setRowCount(len(cells))
        for row, texts in enumerate(cells):
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                if column and column < len(texts) - 1:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                if column == 0 and colors[row] is not None:
                    square = qt.QPixmap(12, 12)
                    square.fill(qt.QColor(*colors[row]))
                    item.setIcon(qt.QIcon(square))
                item.setToolTip(text)
                widget.setItem(row, column, item)
        header = widget.horizontalHeader()
        header.setStretchLastSection(False)  # or the last column would keep the width of its contents
        widget.resizeColumnsToContents()
        header.setStretchLastSection(True)
        if len(columns) > _MANY:  # the names give way to the figures; their tooltips have them whole
            widget.setColumnWidth(0, min(widget.columnWidth(0), _NAMES))
        bar = _BAR if len(columns) > _MANY else 0
        widget.minimumHeight = widget.maximumHeight = _HEADER + bar + _ROW * min(len(cells), _ROWS)
        widget.visible = True

    def _empty_table(self) -> None:
        self.table = None
        self.ui.measuresTable.setRowCount(0)
        self.ui.measuresTable.visible = False
        self.ui.foldingLabel.text = ""

    def _show_markups(self) -> None:
        ui = self.ui
        reason = ""
        if self.nodes is None:
            reason = _("Nothing has been segmented yet")
        elif ui.markupsSelector.currentNode() is None:
            reason = _("Select points, lines or curves")
        for button, tip in (
            (ui.toPatientButton, _("Copy the points from the atlas to where they lie in the patient")),
            (ui.toAtlasButton, _("Copy the points from the patient to where they lie in the atlas")),
        ):
            button.enabled, button.toolTip = not reason, reason or tip

    def _carry(self, to_patient: bool) -> None:
        node = self.ui.markupsSelector.currentNode()
        if node is None or self.nodes is None:
            return
        try:
            if to_patient:
                made = markups.to_patient(node, self.nodes.image_from_atlas)
            else:
                made = markups.to_atlas(node, self.nodes.atlas_from_image)
        except AtlasISTNError as error:
            self._failed(failure_of(error))
            return
        slicer.util.showStatusMessage(_("{name} was made").format(name=made.GetName()), 3000)
