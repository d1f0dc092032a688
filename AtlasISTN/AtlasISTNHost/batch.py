"""The panel's section Batch: many volumes segmented one after another."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.manifest import Manifest

from .batch_run import Batch, Row, Settings, State, Structure
from .batch_sources import Item, folder_items, scene_items, sequence_items
from .engine import Failure

#: Order of the sources in the form's list.
SCENE, FOLDER, SEQUENCE = range(3)
_TROUBLE, _FINE = "#d1495b", "#2a9d76"
_ENDED = frozenset({State.DONE, State.FAILED, State.STOPPED})


class BatchSection:
    """Binds the widgets of Batch.

    Args:
        ui: the form's widgets by name.
        settings: gives what to segment with (refinement as the panel has it), or a sentence that says why nothing can
            be segmented now.
        engine: the engine's client.
        jobs: where requests keep their files.
        failed: told what ended a batch before its end, and None when one starts or has ended well.
    """

    def __init__(
        self,
        ui: Any,
        settings: Callable[[], Settings | str],
        engine: Any,
        jobs: Any,
        failed: Callable[[Failure | None], None],
    ) -> None:
        self.ui, self._settings, self._failed = ui, settings, failed
        self.batch = Batch(engine, jobs, self._on_batch, lambda ms, function: qt.QTimer.singleShot(ms, function))
        self._listed: Any = None
        self._trouble = ""
        self._shown: tuple[Row, ...] = ()
        self._was_running = False
        self._updating = False
        _prepare(ui.batchTable)
        ui.batchSourceComboBox.connect("currentIndexChanged(int)", self._on_choice)
        ui.batchInputEdit.connect("currentPathChanged(QString)", self._on_choice)
        ui.batchOutputEdit.connect("currentPathChanged(QString)", self._on_choice)
        ui.batchSequenceSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._on_choice)
        ui.batchCollapsibleButton.connect("contentsCollapsed(bool)", self._on_choice)
        ui.batchButton.connect("clicked(bool)", self._on_start)
        ui.batchStopButton.connect("clicked(bool)", self._on_stop)
        self.update()

    @property
    def busy(self) -> bool:
        """Whether a batch is running."""
        return self.batch.running

    def close(self) -> None:
        """Stop; called when the module goes away."""
        self.batch.stop()

    def update(self) -> None:
        """Bring the widgets up to what there is to do."""
        if self._updating:
            return
        self._updating = True
        try:
            self._show_source()
            if not self.batch.running and not self.ui.batchCollapsibleButton.collapsed:
                self._list(again=False)
            self._show_buttons()
        finally:
            self._updating = False

    # Private: what there is to do

    @property
    def _source(self) -> int:
        return int(self.ui.batchSourceComboBox.currentIndex)

    @property
    def _output(self) -> Path | None:
        path = self.ui.batchOutputEdit.currentPath.strip()
        return Path(path).expanduser() if path else None

    def _list(self, again: bool) -> None:
        """List the volumes anew when another choice was made, or if asked to; outcomes stay until then."""
        settings = self._settings()
        manifest = settings.model.manifest if isinstance(settings, Settings) else None
        key = self._key(manifest)
        ended = any(row.state in _ENDED for row in self.batch.rows)
        same_place = self._listed is not None and key[:4] == self._listed[:4]
        if not again and (key == self._listed or (ended and same_place)):
            return
        self._listed = key
        items, self._trouble = self._items(manifest)
        self.batch.plan(items, self._output)

    def _key(self, manifest: Manifest | None) -> tuple[Any, ...]:
        """What the list depends on: the choices, then what else may change."""
        ui, scene = self.ui, slicer.mrmlScene
        sequence = ui.batchSequenceSelector.currentNode()
        choices = (self._source, ui.batchInputEdit.currentPath, sequence, self._output)
        volumes: tuple[Any, ...] = ()
        if self._source == SCENE:
            kind = "vtkMRMLScalarVolumeNode"
            found = [scene.GetNthNodeByClass(i, kind) for i in range(scene.GetNumberOfNodesByClass(kind))]
            volumes = tuple((node.GetID(), node.GetName(), node.GetHideFromEditors()) for node in found)
        elif sequence is not None:
            volumes = (sequence.GetNumberOfDataNodes(),)
        return (*choices, volumes, manifest.about.name if manifest else "")

    def _items(self, manifest: Manifest | None) -> tuple[list[Item], str]:
        """The volumes, and why there are none."""
        if self._source == FOLDER:
            return self._folder_items()
        if manifest is None:
            return [], _("Choose a model")
        if self._source == SEQUENCE:
            sequence = self.ui.batchSequenceSelector.currentNode()
            if sequence is None:
                return [], _("Select a sequence of volumes")
            items = sequence_items(sequence, manifest)
            return items, "" if items else _("This sequence holds no volumes")
        items = scene_items(slicer.mrmlScene, manifest)
        return items, "" if items else _("There are no volumes in the scene")

    def _folder_items(self) -> tuple[list[Item], str]:
        text = self.ui.batchInputEdit.currentPath.strip()
        if not text:
            return [], _("Choose the folder of the scans")
        folder = Path(text).expanduser()
        if not folder.is_dir():
            return [], _("{folder} is not a folder").format(folder=folder)
        try:
            items = folder_items(folder)
        except OSError as error:
            return [], _("{folder} cannot be read: {error}").format(folder=folder, error=error.strerror or error)
        return items, "" if items else _("{folder} holds no images and no DICOM folders").format(folder=folder)

    def _reason(self, settings: Settings | str) -> str:
        """Why no batch can be started; empty where one can."""
        if self.batch.running:
            return _("A batch is running")
        if isinstance(settings, str):
            return settings
        if self._trouble:
            return self._trouble
        output = self._output
        if output is None and self._source == FOLDER:
            return _("Choose a folder for the results")
        if output is not None and output.exists() and not output.is_dir():
            return _("{folder} is not a folder").format(folder=output)
        return ""

    # Private: what the user does

    def _on_choice(self, *_unused: Any) -> None:
        self.update()

    def _on_start(self, *_unused: Any) -> None:
        if self.batch.running:
            return
        self._list(again=True)
        settings = self._settings()
        reason = self._reason(settings)
        self._show_buttons()
        if reason or isinstance(settings, str) or not self._agreed():
            return
        for edit in (self.ui.batchInputEdit, self.ui.batchOutputEdit):
            if edit.currentPath:
                edit.addCurrentPathToHistory()
        if not self.ui.batchRefineCheckBox.checked:
            settings = Settings(settings.model, settings.device, settings.threads, settings.low_memory)
        self.batch.start(settings, self._output)

    def _agreed(self) -> bool:
        """Ask, once, when some volumes have results: these are never overwritten."""
        waiting = sum(row.state is State.WAITING for row in self.batch.rows)
        there = len(self.batch.rows) - waiting
        if not there or not waiting:
            return bool(waiting)
        text = _(
            "{there} of {count} volumes have results already, which are left as they are. Segment the other {waiting}?"
        ).format(there=there, count=len(self.batch.rows), waiting=waiting)
        return bool(slicer.util.confirmYesNoDisplay(text, windowTitle=_("Batch")))

    def _on_stop(self, *_unused: Any) -> None:
        self.batch.stop()

    def _on_batch(self) -> None:
        """Called after every change of the batch."""
        self._show_rows()
        if self.batch.running != self._was_running:
            self._was_running = self.batch.running
            self._failed(self.batch.failure)
            if not self.batch.running:
                slicer.util.showStatusMessage(self._summary(), 5000)
            self.update()
        self._show_buttons()

    # Private: what is shown

    def _show_source(self) -> None:
        ui, source = self.ui, self._source
        for widget in (ui.batchInputLabel, ui.batchInputEdit):
            widget.visible = source == FOLDER
        for widget in (ui.batchSequenceLabel, ui.batchSequenceSelector):
            widget.visible = source == SEQUENCE
        ui.batchOutputLabel.text = _("Results:") if source == FOLDER else _("Files (optional):")
        ui.batchOutputEdit.toolTip = (
            _("Where the results go, one folder for each scan. Results that are there are left as they are")
            if source == FOLDER
            else _("Optional: results appear in the scene and, where a folder is given, as files, too")
        )
        for name in ("batchSourceComboBox", "batchInputEdit", "batchSequenceSelector", "batchOutputEdit"):
            getattr(ui, name).enabled = not self.batch.running
        ui.batchRefineCheckBox.enabled = not self.batch.running

    def _show_buttons(self) -> None:
        ui = self.ui
        reason = self._reason(self._settings())
        rows = self.batch.rows
        if not reason and rows and all(row.state is State.SKIPPED for row in rows):
            reason = _("All of these volumes have results already")
        ui.batchButton.enabled = not reason
        ui.batchButton.toolTip = reason or _("Segment the volumes below, one after another")
        stoppable = self.batch.running and not self.batch.stopping
        ui.batchStopButton.enabled = stoppable
        ui.batchStopButton.toolTip = (
            _("Stop; finished results are kept")
            if stoppable
            else _("Stopping")
            if self.batch.stopping
            else _("No batch is running")
        )

    def _show_rows(self) -> None:
        """Fill the lines of the table that changed."""
        table, rows = self.ui.batchTable, self.batch.rows
        if len(rows) != len(self._shown):
            table.setRowCount(len(rows))
            self._shown = ()
        for index, row in enumerate(rows):
            if index < len(self._shown) and self._shown[index] == row:
                continue
            cells = (row.name, state_text(row), "" if row.seconds is None else duration(row.seconds))
            for column, text in enumerate(cells):
                table.setItem(index, column, _cell(text, row, column))
            if row.state is not State.REFINING:
                table.resizeRowToContents(index)
            if row.state is State.READING:  # its turn has come
                table.scrollToItem(table.item(index, 0))
        self._shown = rows

    def _summary(self) -> str:
        counts = {state: sum(row.state is state for row in self.batch.rows) for state in State}
        return _("Batch: {done} done, {failed} failed, {skipped} skipped").format(
            done=counts[State.DONE], failed=counts[State.FAILED], skipped=counts[State.SKIPPED]
        )


def state_text(row: Row) -> str:
    """What the table says of a volume."""
    if row.state is State.REFINING and row.total:
        return _("refining, {step} of {total}").format(step=row.step, total=row.total)
    if row.state is State.FAILED:
        return _("failed: {reason}").format(reason=row.reason)
    if row.state is State.SKIPPED:
        return _("skipped: {reason}").format(reason=row.reason)
    return {
        State.WAITING: _("waiting"),
        State.READING: _("reading"),
        State.SEGMENTING: _("segmenting"),
        State.REFINING: _("refining"),
        State.WRITING: _("writing"),
        State.DONE: _("done"),
        State.STOPPED: _("stopped"),
    }[row.state]


def duration(seconds: float) -> str:
    """A time in words: "3.2 s", "4 min 05 s"."""
    if seconds < 59.95:
        return _("{seconds:.1f} s").format(seconds=seconds)
    whole = round(seconds)
    return _("{minutes} min {seconds:02d} s").format(minutes=whole // 60, seconds=whole % 60)


def tooltip(row: Row) -> str:
    """Everything that is known of a volume, as rich text."""
    lines = [f"<b>{html.escape(row.name)}</b>: {html.escape(state_text(row))}"]
    lines += [html.escape(_size_text(structure)) for structure in row.structures]
    if row.folder is not None and row.state is State.DONE:
        lines.append(html.escape(str(row.folder)))
    return "<br>".join(lines)


def _size_text(structure: Structure) -> str:
    return _("{name}: {volume:.1f} {unit}").format(name=structure.name, volume=structure.volume, unit=structure.unit)


def _cell(text: str, row: Row, column: int) -> Any:
    item = qt.QTableWidgetItem(text)
    item.setToolTip(tooltip(row))
    if column == 1 and row.state in (State.FAILED, State.DONE):
        item.setForeground(qt.QBrush(qt.QColor(_TROUBLE if row.state is State.FAILED else _FINE)))
    if column == 2:
        item.setTextAlignment(int(qt.Qt.AlignRight) | int(qt.Qt.AlignVCenter))
    return item


def _prepare(table: Any) -> None:
    table.setColumnCount(3)
    table.setHorizontalHeaderLabels([_("Volume"), _("Outcome"), _("Time")])
    header = table.horizontalHeader()
    header.setSectionResizeMode(0, qt.QHeaderView.Interactive)
    header.setSectionResizeMode(1, qt.QHeaderView.Stretch)
    header.setSectionResizeMode(2, qt.QHeaderView.ResizeToContents)
    table.setColumnWidth(0, 150)
    table.verticalHeader().setVisible(False)
    table.wordWrap = True
    table.setRowCount(0)


__all__ = ["FOLDER", "SCENE", "SEQUENCE", "Batch", "BatchSection", "duration", "state_text", "tooltip"]
