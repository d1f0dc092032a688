"""The panel's section Export: a result as files."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.errors import AtlasISTNError

from . import exports, measures, torch_setup
from .engine import Engine
from .messages import Failure, failure_of
from .review_section import ReviewSection
from .session import Session

#: Most names of existing files that the question repeats.
_NAMED = 8


class ExportSection:
    """Binds the widgets of Export.

    Args:
        ui: the form's widgets by name.
        session: gives the last result.
        review: gives the nodes that are looked at, and their table.
        engine: draws report.png.
        failed: told what went wrong.
    """

    def __init__(
        self,
        ui: Any,
        session: Session,
        review: ReviewSection,
        engine: Engine,
        failed: Callable[[Failure | None], None],
    ) -> None:
        self.ui, self.session, self.review, self.engine, self._failed = ui, session, review, engine, failed
        self._plan: exports.Plan | None = None
        self._writing = False
        ui.exportButton.connect("clicked(bool)", lambda _checked: self.export())
        ui.exportPathEdit.connect("currentPathChanged(QString)", lambda _path: self.update())
        for box in self._boxes():
            box.connect("toggled(bool)", lambda _on: self.update())

    def update(self) -> None:
        """Enable what can be done now; a disabled widget's tooltip says why it is."""
        ui = self.ui
        reason = ""
        if self.review.nodes is None:
            reason = _("Nothing has been segmented yet")
        elif self.session.busy:
            reason = _("The engine is at work")
        elif not ui.exportPathEdit.currentPath.strip():
            reason = _("Choose a folder")
        elif not any(box.checked for box in self._boxes()):
            reason = _("Choose what to export")
        ui.exportButton.enabled = not reason
        ui.exportButton.toolTip = reason or _("Write the files; nothing is replaced without asking")
        surfaces = self.review.nodes is not None and not self.review.nodes.surfaces
        ui.exportSurfacesCheckBox.enabled = not surfaces
        ui.exportReportCheckBox.enabled = self._has_outcome()
        ui.exportReportCheckBox.toolTip = (
            _("A picture of the result with its measures")
            if self._has_outcome()
            else _("The picture needs the result of this session: segment the volume again")
        )

    def export(self) -> None:
        """The button Export: plan, ask, write; then the engine's picture."""
        if self._writing:  # the wait cursor appears by way of Qt's events: the second half of a double click
            return
        ui = self.ui
        self._failed(None)
        self._writing = True
        try:
            planned = exports.plan(self.review.nodes, Path(ui.exportPathEdit.currentPath.strip()), self._choices())
            if planned.existing and not self._may_replace(planned):
                return
            ui.exportPathEdit.addCurrentPathToHistory()
            with slicer.util.WaitCursor():
                written = exports.write(planned, overwrite=bool(planned.existing))
        except AtlasISTNError as error:
            self._failed(failure_of(error))
            return
        finally:
            self._writing = False
        self._plan = planned
        self._say(written, planned.notes)
        if planned.report is not None:
            self._ask_for_report(planned.report)

    def _choices(self) -> exports.Choices:
        ui = self.ui
        table: measures.Table | None = self.review.table if ui.exportTableCheckBox.checked else None
        surfaces = ui.exportSurfacesCheckBox.checked and ui.exportSurfacesCheckBox.enabled
        return exports.Choices(
            segmentation=ui.exportSegmentationCheckBox.checked,
            labelmap=ui.exportLabelmapCheckBox.checked,
            surfaces=ui.surfaceFormatComboBox.currentText.lower() if surfaces else "",
            transforms=ui.transformFormatComboBox.currentText.strip(".") if ui.exportTransformsCheckBox.checked else "",
            table=table,
            report=ui.exportReportCheckBox.checked and self._has_outcome(),
        )

    def _boxes(self) -> tuple[Any, ...]:
        ui = self.ui
        return (
            ui.exportSegmentationCheckBox,
            ui.exportLabelmapCheckBox,
            ui.exportSurfacesCheckBox,
            ui.exportTransformsCheckBox,
            ui.exportTableCheckBox,
            ui.exportReportCheckBox,
        )

    def _has_outcome(self) -> bool:
        outcome, found = self.session.outcome, self.review.nodes
        return bool(
            outcome is not None
            and self.session.nodes is not None
            and found is not None
            and self.session.nodes.segmentation is found.segmentation
        )

    def _may_replace(self, planned: exports.Plan) -> bool:
        names = [path.name for path in planned.existing]
        shown = ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
        text = _("{count} files are in {folder} already: {names}. Replace them?").format(
            count=len(names), folder=planned.folder, names=shown
        )
        return bool(slicer.util.confirmYesNoDisplay(text, windowTitle=_("Export")))

    def _ask_for_report(self, path: Path) -> None:
        failure = torch_setup.ensure_matplotlib()
        if failure is not None:
            self._failed(failure)
            return
        outcome = self.session.outcome
        assert outcome is not None
        self.ui.exportStatusLabel.text += "<br>" + _("Drawing {name}…").format(name=path.name)
        taken = self.engine.request(
            "report",
            {"case": outcome.case, "path": str(path), "state": outcome.state or None},
            on_result=self._on_report,
            on_error=self._on_report_failed,
        )
        if not taken:
            self._failed(Failure("Busy", _("The engine is busy"), _("export the picture when it is done")))

    def _on_report(self, _event: Mapping[str, Any]) -> None:
        if self._plan is not None:
            written = [item.path for item in self._plan.items]
            self._say(written, self._plan.notes)

    def _on_report_failed(self, failure: Failure) -> None:
        if self._plan is not None:
            self._say([item.path for item in self._plan.items if item.write is not None], self._plan.notes)
        self._failed(failure)

    def _say(self, written: list[Path], notes: tuple[str, ...]) -> None:
        if not written:
            self.ui.exportStatusLabel.text = ""
            return
        self.ui.exportStatusLabel.toolTip = "<br>".join(html.escape(path.name) for path in written)
        lines = [
            _("{count} files are in {folder}").format(count=len(written), folder=html.escape(str(written[0].parent))),
            *(html.escape(note) for note in notes),
        ]
        self.ui.exportStatusLabel.text = "<br>".join(lines)
