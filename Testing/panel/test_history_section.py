"""The section History as a user meets it: results listed, gone back to, compared, named, saved. The engine is real."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import slicer
import standin
from house import MODULE

sys.path.insert(0, str(MODULE))

import qt
from AtlasISTNHost import history_section
from standin import dialogs

SECONDS = 240  # an engine that starts on a busy machine


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    """The module with one engine for all tests here, and three results of the letter: one pass and two refinements."""
    slicer.mrmlScene.Clear(0)
    found = standin.open_module(MODULE / "AtlasISTN.py")
    found.parent.resize(480, 1500)
    found.parent.show()
    found.widget.enter()
    panel = found.widget.panel
    prepare(panel)
    yield found
    standin.close_module(found)
    slicer.mrmlScene.Clear(0)


def prepare(panel: Any) -> None:
    load_sample(panel, "Letter B")
    panel.ui.historyCollapsibleButton.collapsed = False
    panel.parameters.mode = "field"
    panel.ui.iterationsSpinBox.value = 8
    press(panel, panel.ui.segmentButton)
    for ticks in (-300, 200):
        panel.ui.strengthSlider.value = ticks
        press(panel, panel.ui.refineButton)
    assert panel.session.failure is None


@pytest.fixture
def panel(opened: Any) -> Any:
    """With the last of the three results shown."""
    panel = opened.widget.panel
    entries = panel.history.history.entries()
    if panel.history.history.current.key != entries[-1].key:
        panel.history._go(entries[-1])
        standin.process_events()
    return panel


@pytest.fixture
def ui(panel: Any) -> Any:
    return panel.ui


def load_sample(panel: Any, name: str) -> None:
    menu = panel.ui.sampleButton.menu()
    next(action for action in menu.actions() if action.text == name).trigger()
    standin.process_events()


def press(panel: Any, button: Any) -> None:
    standin.click(button)
    finish(panel)


def finish(panel: Any) -> None:
    assert standin.wait_until(lambda: not panel.session.busy, SECONDS), panel.session.status
    standin.process_events()


def settle(panel: Any) -> None:
    """Wait until the results are packed, as they are by themselves when a user pauses."""
    assert standin.wait_until(lambda: not panel.history.history.unsettled, 60)


def click_row(ui: Any, row: int) -> None:
    ui.historyTable.cellClicked.emit(row, 1)
    standin.process_events()


def titles(ui: Any) -> list[str]:
    return [ui.historyTable.item(row, 1).text().split("\n")[0] for row in range(ui.historyTable.rowCount)]


def voxels(panel: Any) -> np.ndarray:
    node = panel.session.nodes.segmentation
    key = node.GetSegmentation().GetNthSegmentID(0)
    return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(node, key, panel.parameters.inputVolume))


def best_loss(outcome: Any) -> float:
    return float(outcome.trace["steps"][outcome.trace["best"]][1])


def test_every_result_is_listed_with_a_picture_and_its_figures(panel, ui):
    assert titles(ui) == ["Refined 3", "Refined 2", "One pass 1"]
    assert ui.historyCollapsibleButton.text == "History (3)"
    for row in range(3):
        icon = ui.historyTable.item(row, 0).icon()
        assert not icon.isNull()
        assert ui.historyTable.item(row, 1).font().bold() == (row == 0)
    assert f"λ* {panel.parameters.strength:.4g}" in ui.historyTable.item(0, 1).text()
    assert "loss" in ui.historyTable.item(0, 2).text()
    assert "loss" not in ui.historyTable.item(2, 2).text()
    assert "letter B" in ui.historyTable.item(0, 1).toolTip()
    assert ui.historyTable.currentRow() == 0


def test_a_click_returns_to_a_result_and_its_settings(panel, ui):
    last, strength = voxels(panel), panel.parameters.strength
    outcome = panel.session.outcome
    click_row(ui, 2)
    assert not panel.session.outcome.refined
    assert ui.showOnePassRadioButton.checked  # Review shows it
    assert not ui.showRefinedRadioButton.enabled
    assert not np.array_equal(voxels(panel), last)
    click_row(ui, 1)
    assert panel.parameters.strength < strength / 4
    assert ui.strengthSpinBox.value == pytest.approx(panel.parameters.strength, rel=1e-3)
    assert ui.historyTable.item(1, 1).font().bold()
    click_row(ui, 0)
    np.testing.assert_array_equal(voxels(panel), last)
    assert panel.parameters.strength == pytest.approx(strength)
    assert panel.session.outcome.figures == outcome.figures
    assert ui.measuresTable.rowCount == 1
    assert panel.session.failure is None


def test_a_result_that_was_deleted_in_the_scene_comes_back_with_a_click(panel, ui):
    last, current = voxels(panel), panel.history.history.current.key
    slicer.mrmlScene.RemoveNode(panel.session.nodes.segmentation)
    standin.process_events()
    click_row(ui, 0)
    assert panel.session.failure is None
    np.testing.assert_array_equal(voxels(panel), last)
    assert panel.history.history.current.key == current
    assert ui.showRefinedRadioButton.checked


def test_pictures_are_made_once(panel, ui, monkeypatch):
    def made_again(*_unused: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(history_section.drawing, "pixmap_of", made_again)
    click_row(ui, 1)
    assert not any(ui.historyTable.item(row, 0).icon().isNull() for row in range(ui.historyTable.rowCount))
    click_row(ui, 0)


def test_undo_and_redo(panel, ui):
    assert not ui.redoButton.enabled
    assert "undone" in ui.redoButton.toolTip
    assert "Refined 2" in ui.undoButton.toolTip
    standin.click(ui.undoButton)
    assert panel.history.history.current.number == 2
    assert "Refined 3" in ui.redoButton.toolTip
    standin.click(ui.undoButton)
    assert panel.history.history.current.number == 1
    assert not ui.undoButton.enabled
    assert ui.undoButton.toolTip
    standin.click(ui.redoButton)
    standin.click(ui.redoButton)
    assert panel.history.history.current.number == 3
    assert ui.historyTable.currentRow() == 0


def test_two_are_compared(panel, ui):
    assert ui.compareComboBox.count == 3
    assert not ui.comparisonTable.visible
    ui.compareComboBox.setCurrentIndex(1)
    standin.process_events()
    assert ui.comparisonTable.visible
    assert ui.comparisonTable.item(0, 0).text() == "letter B"
    dice = float(ui.comparisonTable.item(0, 1).text())
    assert 0.5 < dice < 1
    drawn = [n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if "comparison" in n.GetName()]
    assert len(drawn) == 1
    click_row(ui, 1)  # the other one is what is shown now, and there is nothing to compare it with
    assert not ui.comparisonTable.visible
    assert not [n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if "comparison" in n.GetName()]
    ui.compareComboBox.setCurrentIndex(ui.compareComboBox.findText("Refined 3"))
    standin.process_events()
    assert float(ui.comparisonTable.item(0, 1).text()) == dice
    ui.compareComboBox.setCurrentIndex(0)
    standin.process_events()
    assert not ui.comparisonTable.visible


def test_a_refinement_goes_on_from_the_result_that_is_shown(panel, ui):
    click_row(ui, 1)
    reached = best_loss(panel.session.outcome)
    task, config = panel._task(), panel.refine.config(panel.parameters)
    panel.session.refine(task, config, start="current")
    finish(panel)
    assert panel.session.failure is None
    assert panel.session.outcome.trace["steps"][0][1] == pytest.approx(reached, rel=1e-4)
    assert panel.session.outcome.warnings == ()
    assert titles(ui) == ["Refined 4", "Refined 3", "Refined 2", "One pass 1"]  # what was undone is there still
    assert panel.history.history.undo_target.number == 2


def test_a_refinement_from_a_state_that_the_engine_has_lost_says_so(panel, ui):
    click_row(ui, 2)
    panel.engine.request("forget", {"case": panel.session.outcome.case})
    assert standin.wait_until(lambda: panel.engine.state == "idle", SECONDS)
    task, config = panel._task(), panel.refine.config(panel.parameters)
    panel.session.refine(task, config, start="current")
    finish(panel)
    assert panel.session.failure is None
    assert any("one-pass" in text for text in panel.session.outcome.warnings)
    assert "one-pass" in ui.historyTable.item(0, 1).toolTip()


def test_while_the_engine_works_nothing_is_gone_back_to(panel, ui):
    panel.ui.iterationsSpinBox.value = 2000
    before = panel.history.history.current.key
    standin.click(ui.refineButton)
    assert standin.wait_until(lambda: panel.session.status and panel.session.status.stage == "refine", SECONDS)
    assert not ui.undoButton.enabled
    assert "at work" in ui.undoButton.toolTip
    click_row(ui, 2)
    assert panel.history.history.current.key == before
    press(panel, ui.stopButton)
    assert ui.undoButton.enabled
    assert "stopped" in ui.historyTable.item(0, 1).text()


def test_rename_pin_and_delete(panel, ui):
    ui.historyTable.selectRow(1)
    second = panel.history._selected()
    dialogs.answer("QInputDialog.getText", "my best")
    standin.click(ui.renameEntryButton)
    standin.click(ui.pinEntryButton)
    assert titles(ui)[1] == "my best"
    assert "pinned" in ui.historyTable.item(1, 1).text()
    assert ui.historyTable.currentRow() == 1
    assert ui.pinEntryButton.text == "Unpin"
    ui.historyTable.selectRow(0)
    assert not ui.deleteEntryButton.enabled
    assert "shown" in ui.deleteEntryButton.toolTip
    ui.historyTable.selectRow(1)
    count = ui.historyTable.rowCount
    standin.messages.answers.append(False)
    standin.click(ui.deleteEntryButton)
    assert ui.historyTable.rowCount == count
    ui.historyTable.selectRow(1)
    standin.messages.answers.append(True)
    standin.click(ui.deleteEntryButton)
    assert ui.historyTable.rowCount == count - 1
    assert second.key not in {entry.key for entry in panel.history.history.entries()}


def test_the_menu_of_a_row(panel, ui):
    place = qt.QPoint(100, history_section._ROW + 10)
    dialogs.answer("QMenu", "Pin")
    ui.historyTable.customContextMenuRequested.emit(place)
    standin.process_events()
    assert panel.history.history.entries()[-2].pinned
    current = panel.history.history.current.key
    dialogs.answer("QMenu", "Compare with what is shown")
    ui.historyTable.customContextMenuRequested.emit(place)
    standin.process_events()
    assert ui.comparisonTable.visible
    assert panel.history.history.current.key == current
    dialogs.answer("QMenu", "Return to it")
    ui.historyTable.customContextMenuRequested.emit(place)
    standin.process_events()
    assert panel.history.history.current.key == panel.history.history.entries()[-2].key


def test_it_comes_back_with_a_saved_scene_and_goes_with_a_closed_one(panel, ui, tmp_path):
    settle(panel)
    before, last = titles(ui), voxels(panel)
    path = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    standin.process_events()
    assert ui.historyTable.rowCount == 0
    assert ui.historyCollapsibleButton.text == "History"
    assert not ui.undoButton.enabled
    assert slicer.util.getNodesByClass("vtkMRMLTextNode") == []
    slicer.util.loadScene(str(path))
    standin.process_events()
    assert titles(ui) == before
    assert panel.session.outcome is None
    click_row(ui, len(before) - 1)
    assert panel.session.failure is None
    assert not panel.session.outcome.refined
    click_row(ui, 0)
    np.testing.assert_array_equal(voxels(panel), last)
    assert ui.exportReportCheckBox.enabled  # it is this session's result now


def test_another_scan_has_a_list_of_its_own(panel, ui):
    before, scan = titles(ui), panel.parameters.inputVolume
    load_sample(panel, "Letter B")
    assert panel.parameters.inputVolume is not scan
    assert titles(ui) == []
    assert "no results" in ui.undoButton.toolTip
    panel.parameters.inputVolume = scan
    standin.process_events()
    assert titles(ui) == before


def test_the_columns_fit_a_narrow_panel(panel, ui):
    table = ui.historyTable
    assert sum(table.columnWidth(column) for column in range(3)) <= table.width
    assert all(table.columnWidth(column) > 40 for column in range(3))


def test_a_long_name_does_not_keep_the_panel_wide():
    widths = []
    for name in ("short", "as good as it gets, " * 10):
        form = slicer.util.loadUI(str(MODULE / "Resources" / "UI" / "AtlasISTN.ui"))
        found = slicer.util.childWidgetVariables(form)
        found.historyCollapsibleButton.collapsed = False
        found.compareComboBox.addItem(name)
        form.show()
        standin.process_events()
        widths.append(form.minimumSizeHint.width())
        form.close()
    assert widths[0] == widths[1]
