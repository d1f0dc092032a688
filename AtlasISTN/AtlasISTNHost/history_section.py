"""The panel's section History: the results so far with a picture of each, the way back to them, and two compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.errors import AtlasISTNError

from . import comparison_table, drawing, history_store, history_texts, results
from .history import MOST_BYTES, MOST_ENTRIES, History
from .history_entries import Entry
from .messages import Failure, failure_of
from .models import Entry as Model
from .session import Session

#: Pixels of a picture, of a row and of the list's frame; so many rows are seen at once.
_PICTURE, _ROW, _FRAME, _ROWS = 60, 64, 2, 4
#: Milliseconds of rest after a result before it is packed into the scene, and between two that wait.
_REST_MS = 800
#: Milliseconds that the engine's remarks stand in Slicer's status bar.
_NOTE_MS = 8000
#: Seconds after which a result is packed while a run goes on, too.
_MOST_WAIT = 8.0


class HistorySection:
    """Binds the widgets of History.

    Args:
        ui: the form's widgets by name.
        session: tells of results, and takes earlier ones for its last.
        failed: told what went wrong.
        quietly: gives a block in which settings of the refinement may change with no refinement to follow.
    """

    def __init__(
        self,
        ui: Any,
        session: Session,
        failed: Callable[[Failure | None], None],
        quietly: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.ui, self.session, self._failed = ui, session, failed
        self.history, self._quietly = History(session.surfaces_of), quietly
        self.parameters: Any = None
        self._volume: Any = None
        self._model: Model | None = None
        self._rows: list[Entry] = []
        self._icons: dict[str, Any] = {}  # of entries by their keys: each takes a file to make
        self._shown: Any = None
        self._marked = ""
        self._compared: tuple[str, str] | None = None
        self._writing = self._filling = self._was_busy = False
        self._waiting_since: float | None = None
        session.on_result_listeners.append(self._on_result)
        comparison_table.make_plain(ui.historyTable)
        ui.historyTable.setIconSize(qt.QSize(_PICTURE, _PICTURE))
        ui.historyTable.verticalHeader().setDefaultSectionSize(_ROW)
        ui.historyTable.horizontalHeader().setVisible(False)
        ui.historyTable.contextMenuPolicy = qt.Qt.CustomContextMenu
        ui.historyTable.connect("cellClicked(int,int)", lambda row, _column: self._go_to_row(row))
        ui.historyTable.connect("cellActivated(int,int)", lambda row, _column: self._go_to_row(row))
        ui.historyTable.connect("itemSelectionChanged()", self._enable)
        ui.historyTable.connect("customContextMenuRequested(QPoint)", self._open_menu)
        comparison_table.make_plain(ui.comparisonTable)
        ui.undoButton.connect("clicked(bool)", lambda _checked: self._go(self.history.undo_target))
        ui.redoButton.connect("clicked(bool)", lambda _checked: self._go(self.history.redo_target))
        ui.compareComboBox.connect("currentIndexChanged(int)", lambda _index: self._on_compare())
        ui.renameEntryButton.connect("clicked(bool)", lambda _checked: self._rename())
        ui.pinEntryButton.connect("clicked(bool)", lambda _checked: self._pin())
        ui.deleteEntryButton.connect("clicked(bool)", lambda _checked: self._delete())
        self.update(None, None)

    # What the panel calls

    def bind(self, parameters: Any) -> None:
        """Follow a scene's parameter node; None for none, as before the scene is closed."""
        self._hide_comparison()
        self.parameters = parameters
        if parameters is None:
            self.history.follow(None, None)
            self._shown = None
            self._fill([])
        else:
            history_store.tidy(slicer.mrmlScene)

    def scene_closed(self) -> None:
        """The scene goes, and the history with it."""
        self.history.forget()
        self._shown = None

    def close(self) -> None:
        """Called when the module goes away."""
        self._settled(None)
        self._hide_comparison()

    def update(self, volume: Any, model: Model | None) -> None:
        """Follow the input and the model that are chosen now."""
        if (volume, model) != (self._volume, self._model):
            self._hide_comparison()
            self._volume, self._model = volume, model
        if self._busy() and self._was_busy:
            return  # as often as the engine reports progress
        self._was_busy = self._busy()
        self.history.follow(volume, model)
        entries, current = self.history.entries(), self.history.current
        shown = (entries, None if current is None else current.key)
        if shown != self._shown:
            self._shown = shown
            self._fill(entries)
            self._compare()
        self._enable()

    # Private: what happens

    def _on_result(self, outcome: results.Outcome, _nodes: Any, task: Any, config: Any) -> None:
        before = self.history.current
        try:
            self.history.record(outcome, task.volume, task.model, config)
        except AtlasISTNError as error:
            self._failed(failure_of(error))
        fresh = [note for note in outcome.warnings if before is None or note not in before.notes]
        if fresh:
            slicer.util.showStatusMessage(" ".join(fresh), _NOTE_MS)
        qt.QTimer.singleShot(_REST_MS, self._settle)

    def _settle(self) -> None:
        """Pack one result; a run that goes on comes first, but not for long."""
        if not self.history.unsettled:
            self._waiting_since = None
            return
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if not self.session.busy or now - self._waiting_since > _MOST_WAIT:
            self._waiting_since = None
            self._settled(1)
            self.update(self._volume, self._model)
        if self.history.unsettled:
            qt.QTimer.singleShot(_REST_MS, self._settle)

    def _settled(self, most: int | None) -> None:
        try:
            self.history.settle(most)
        except AtlasISTNError as error:
            self._failed(failure_of(error))

    def _go_to_row(self, row: int) -> None:
        entry = self._rows[row] if 0 <= row < len(self._rows) else None
        if entry is not None and self._is_elsewhere(entry):
            self._go(entry)

    def _is_elsewhere(self, entry: Entry) -> bool:
        """Whether returning to an entry would change anything: it is not shown, or was deleted in the scene."""
        current = self.history.current
        return current is None or entry.key != current.key or not self.history.is_in_scene

    def _go(self, entry: Entry | None) -> None:
        """Return to an entry."""
        if entry is None or self._writing or self._busy():
            return
        volume, model = self._volume, self._model
        assert model is not None  # there would be no entry
        self._failed(None)
        self._writing = True
        try:
            with slicer.util.WaitCursor():
                outcome, written = self.history.restore(entry)
        except AtlasISTNError as error:
            self._failed(failure_of(error))
            return
        finally:
            self._writing = False
        with self._quietly():
            self._bring_settings_back(entry)
            self.session.adopt(outcome, written, volume, model)
        self.update(volume, model)

    def _bring_settings_back(self, entry: Entry) -> None:
        """The settings that a refinement was made with; what steers it stays as it is."""
        p, config = self.parameters, entry.config
        if p is None or not config:
            return
        p.strength = float(config["strength"])
        p.iterations = int(config["iterations"])
        p.beta, p.gamma = float(config["beta"]), float(config["gamma"])
        p.mode = str(config["mode"])
        p.learningRate = 0.0 if entry.own_rate else float(config["learning_rate"])

    def _rename(self) -> None:
        entry = self._selected()
        if entry is None:
            return
        name = qt.QInputDialog.getText(
            self.ui.historyTable, _("Rename"), _("Name of this result:"), qt.QLineEdit.Normal, entry.title
        )
        if name and str(name).strip() and str(name).strip() != entry.title:
            self.history.rename(entry, str(name))
            self.update(self._volume, self._model)

    def _pin(self) -> None:
        entry = self._selected()
        if entry is not None:
            self.history.pin(entry, not entry.pinned)
            self.update(self._volume, self._model)

    def _delete(self) -> None:
        entry = self._selected()
        if entry is None or self._delete_reason(entry):
            return
        text = _("Delete {name} from the history? This cannot be undone.").format(name=entry.title)
        if slicer.util.confirmYesNoDisplay(text, windowTitle=_("History")):
            self.history.delete(entry)
            self.update(self._volume, self._model)

    def _open_menu(self, place: Any) -> None:
        row = self.ui.historyTable.rowAt(place.y())
        if not 0 <= row < len(self._rows):
            return
        self.ui.historyTable.selectRow(row)
        entry, current = self._rows[row], self.history.current
        other = current is None or current.key != entry.key
        menu = qt.QMenu(self.ui.historyTable)
        for text, do, enabled in (
            (_("Return to it"), lambda: self._go(entry), self._is_elsewhere(entry) and not self._busy()),
            (_("Compare with what is shown"), lambda: self._choose(entry.key), other and current is not None),
            (_("Rename…"), self._rename, True),
            (_("Unpin") if entry.pinned else _("Pin"), self._pin, True),
            (_("Delete"), self._delete, not self._delete_reason(entry)),
        ):
            action = menu.addAction(text)
            action.enabled = bool(enabled)
            action.connect("triggered(bool)", lambda _checked, do=do: do())
        menu.exec_(self.ui.historyTable.viewport().mapToGlobal(place))
        menu.deleteLater()

    # Private: the comparison

    def _choose(self, key: str) -> None:
        combo = self.ui.compareComboBox
        index = combo.findData(key)
        if index >= 0:
            combo.setCurrentIndex(index)

    def _on_compare(self) -> None:
        if not self._filling:
            self._compare()

    def _compare(self) -> None:
        """Show the chosen entry's outlines over the current result, or take them off."""
        combo, current = self.ui.compareComboBox, self.history.current
        key = combo.itemData(combo.currentIndex) if combo.currentIndex > 0 else None
        other = next((entry for entry in self._rows if entry.key == key), None)
        if other is None or current is None or self._model is None or self._model.manifest is None:
            self._hide_comparison()
            return
        if self._compared == (current.key, other.key):
            return
        try:
            rows = self.history.compare(current, other)
        except AtlasISTNError as error:
            self._hide_comparison()
            self._failed(failure_of(error))
            return
        self._compared = (current.key, other.key)
        comparison_table.fill(self.ui.comparisonTable, rows, (current, other))

    def _hide_comparison(self) -> None:
        if self._compared is not None:
            self._compared = None
            self.history.end_comparison()
        self.ui.comparisonTable.visible = False

    # Private: the list

    def _fill(self, entries: list[Entry]) -> None:
        """The entries, the last one on top, and those that can be compared with."""
        table, current, selected = self.ui.historyTable, self.history.current, self._selected()
        self._rows = list(reversed(entries))
        self._icons = {e.key: self._icons[e.key] for e in entries if e.key in self._icons}
        key = "" if current is None else current.key
        # What the user has selected stays so, unless another result is shown since.
        marked = selected.key if selected is not None and self._marked == key else key
        self._marked = key
        self.ui.historyCollapsibleButton.text = (
            _("History ({count})").format(count=len(entries)) if entries else _("History")
        )
        table.visible = bool(entries)
        table.setColumnCount(3)
        table.setRowCount(len(entries))
        for row, entry in enumerate(self._rows):
            shown = entry.key == key
            self._fill_row(row, entry, shown)
            if entry.key == marked:
                table.selectRow(row)
        table.setColumnWidth(0, _PICTURE + 8)
        table.resizeColumnToContents(2)
        table.horizontalHeader().setStretchLastSection(False)
        table.horizontalHeader().setSectionResizeMode(1, qt.QHeaderView.Stretch)
        table.minimumHeight = table.maximumHeight = _FRAME + _ROW * max(1, min(len(entries), _ROWS))
        self._fill_choices(current)

    def _fill_row(self, row: int, entry: Entry, shown: bool) -> None:
        table, tip = self.ui.historyTable, history_texts.tip(entry, shown)
        for column, text in enumerate(("", history_texts.what_text(entry), history_texts.figures_text(entry))):
            item = qt.QTableWidgetItem(text)
            if column == 0:
                icon = self._icon(entry)
                if icon is not None:
                    item.setIcon(icon)
            font = item.font()
            font.setBold(shown)
            item.setFont(font)
            item.setToolTip(tip)
            table.setItem(row, column, item)

    def _icon(self, entry: Entry) -> Any:
        if entry.key not in self._icons:
            picture = self.history.picture_of(entry)
            if picture is None:
                return None
            pixmap = drawing.pixmap_of(picture)
            icon = qt.QIcon(pixmap)
            icon.addPixmap(pixmap, qt.QIcon.Selected)
            self._icons[entry.key] = icon
        return self._icons[entry.key]

    def _fill_choices(self, current: Entry | None) -> None:
        combo = self.ui.compareComboBox
        before = combo.itemData(combo.currentIndex) if combo.currentIndex > 0 else None
        self._filling = True
        try:
            combo.clear()
            combo.addItem(_("nothing"))
            for entry in self._rows:
                if current is not None and entry.key != current.key:
                    combo.addItem(entry.title, entry.key)
            index = combo.findData(before) if before is not None else 0
            combo.setCurrentIndex(max(0, index))
        finally:
            self._filling = False

    def _selected(self) -> Entry | None:
        row = self.ui.historyTable.currentRow()
        return self._rows[row] if 0 <= row < len(self._rows) else None

    def _busy(self) -> bool:
        return bool(self.session.busy)

    def _delete_reason(self, entry: Entry) -> str:
        current = self.history.current
        if current is not None and current.key == entry.key:
            return _("This is what is shown now; return to another result first")
        return ""

    def _enable(self) -> None:
        """Enable what can be done; a disabled widget says why it is."""
        ui, entry = self.ui, self._selected()
        empty = "" if self._rows else _("There are no results of this scan and model yet")
        busy = _("The engine is at work") if self._busy() else ""
        undo, redo = self.history.undo_target, self.history.redo_target
        no_undo = "" if undo is not None else _("Nothing came before this result")
        no_redo = "" if redo is not None else _("Nothing was undone")
        _set(ui.undoButton, empty or busy or no_undo, _("Back to {name}").format(name=undo.title if undo else ""))
        _set(ui.redoButton, empty or busy or no_redo, _("Forward to {name}").format(name=redo.title if redo else ""))
        alone = "" if ui.compareComboBox.count > 1 else _("There is no other result to compare with")
        _set(
            ui.compareComboBox,
            empty or alone,
            _("Draw another result as outlines over this one, each structure in the colour opposite to its own"),
        )
        none = empty or ("" if entry is not None else _("Select a result in the list"))
        _set(ui.renameEntryButton, none, _("Give the selected result a name of your own"))
        pinned = entry is not None and entry.pinned
        ui.pinEntryButton.text = _("Unpin") if pinned else _("Pin")
        _set(ui.pinEntryButton, none, _("Keep the selected result however many follow"))
        _set(
            ui.deleteEntryButton,
            none or (self._delete_reason(entry) if entry is not None else ""),
            _("Remove the selected result from the list"),
        )
        ui.historyTable.toolTip = _(
            "Click a result to return to it and to the settings that it was refined with. Results are saved with the"
            " scene. The last {count} results of a scan and model"
            " are kept, {size} MB at most; the oldest ones that are not pinned are dropped then."
        ).format(count=MOST_ENTRIES, size=MOST_BYTES // 1_000_000)


def _set(widget: Any, reason: str, tip: str) -> None:
    widget.enabled, widget.toolTip = not reason, reason or tip


__all__ = ["HistorySection"]
