"""The group Pull as a user meets it: placed and dragged with the mouse, listed, weighed, removed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import standin
from fake_engine import FakeEngine
from house import MODULE
from PySide6 import QtCore, QtTest
from standin import manners, views

sys.path.insert(0, str(MODULE))

from AtlasISTNHost import frames, pulls, results, surfaces
from AtlasISTNHost.jobs import JobFolders
from AtlasISTNHost.models import Entry
from AtlasISTNHost.pull_section import PullSection
from AtlasISTNHost.session import Session
from host import atlas_cases as cases
from mouse import Mouse

from AtlasISTNLib.steering import LANDMARK_WEIGHT

FLIP = cases.FLIP
SECONDS = 240  # an engine that starts on a busy machine


@dataclass
class Told:
    """How often the section said that something changed."""

    count: int = 0

    def __call__(self) -> None:
        self.count += 1

    def since(self) -> int:
        """How often since last asked."""
        count, self.count = self.count, 0
        return count


@dataclass
class Bench:
    """The section over the real form, beside a session that has a result."""

    ui: Any
    session: Session
    section: PullSection
    scan: Any
    entry: Entry
    told: Told = field(default_factory=Told)

    @property
    def node(self) -> Any:
        return pulls.find(self.scan, self.entry.manifest.about.name)

    @property
    def lines(self) -> list[Any]:
        return list(slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode"))

    @property
    def red(self) -> Any:
        return slicer.app.layoutManager().sliceWidget("Red")._view()

    @property
    def place(self) -> np.ndarray:
        """World RAS in the axial slice that is shown, on the outside of the atlas."""
        offset = self.red.logic.GetSliceOffset()
        points = np.array(slicer.util.arrayFromModelPoints(self.session.nodes.surfaces[3]), float)
        near = points[np.abs(points[:, 2] - offset) < 2]
        return np.array([*near[near[:, 1].argmax()][:2], offset])

    def cell(self, row: int, column: int) -> str:
        return self.ui.pullTable.item(row, column).text()

    def click_cell(self, row: int, column: int) -> None:
        table = manners.unwrap(self.ui.pullTable)
        place = table.visualItemRect(table.item(row, column)).center()
        button, keys = QtCore.Qt.MouseButton.LeftButton, QtCore.Qt.KeyboardModifier.NoModifier
        QtTest.QTest.mouseClick(table.viewport(), button, keys, place)
        standin.process_events()

    def pull(self, away: Any = (0.0, 0.0, 0.0), place: Any = None) -> None:
        """As a user: the button, a click, and a drag by some mm."""
        place = self.place if place is None else place
        standin.click(self.ui.pullButton)
        mouse = Mouse(self.red)
        mouse.click(place)
        standin.process_events()
        start = np.array(self.node.GetNthControlPointPositionWorld(self.node.GetNumberOfControlPoints() - 1))
        if np.any(away):
            mouse.drag(start, start + np.array(away))
            standin.process_events()

    def show(self, seed: int, refined: bool = True) -> None:
        """Another result of the same scan."""
        outcome = cases.outcome_of(self.scan, cases.a_correspondence(seed=seed), refined)
        written = results.write_outcome(outcome, self.scan, self.entry.manifest, the_surfaces())
        self.session.adopt(outcome, written, self.scan, self.entry)
        self.section.update(self.scan, self.entry)


@cache
def the_surfaces() -> Any:
    return surfaces.atlas_surfaces(cases.a_manifest(), cases.the_soft_labels())


@pytest.fixture
def empty() -> Iterator[Bench]:
    """A scan that was not segmented."""
    slicer.mrmlScene.Clear(0)
    manager = slicer.app.layoutManager()  # there before any scan, as in Slicer
    scan = cases.scan(slicer.mrmlScene, spacing=(4.0, 4.0, 4.0), extent=100.0)
    slicer.util.setSliceViewerLayers(background=scan, fit=True)
    views.picture(layout="red", size=(400, 360))
    manager.sliceWidget("Red")._view().set_offset(float(cases.PLACE[2]) + 0.3)
    widget = slicer.util.loadUI(str(MODULE / "Resources" / "UI" / "AtlasISTN.ui"))
    widget.setMRMLScene(slicer.mrmlScene)
    ui = slicer.util.childWidgetVariables(widget)
    widget.resize(520, 2000)
    widget.show()
    ui.steerCollapsibleButton.collapsed = False
    told, jobs = Told(), JobFolders()
    session = Session(FakeEngine(), jobs, lambda: None)
    bench = Bench(
        ui, session, PullSection(ui, session, told), scan, Entry("two-blobs", Path(), cases.a_manifest()), told
    )
    bench.section.update(scan, bench.entry)
    standin.process_events()
    yield bench
    bench.section.close()
    widget.close()
    jobs.close()
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def bench(empty: Bench) -> Bench:
    """A scan with a result."""
    empty.show(seed=0)
    empty.told.since()
    standin.process_events()
    return empty


# --------------------------------------------------------------------------------------------------------- beginnings


def test_before_there_is_a_result_the_button_says_why(empty):
    ui = empty.ui
    assert not ui.pullButton.enabled
    assert "Segment" in ui.pullButton.toolTip
    assert not ui.pullRemoveAllButton.enabled
    assert not ui.pullTable.visible
    assert empty.section.landmarks(empty.scan) is None
    empty.section.update(None, empty.entry)
    assert "volume" in ui.pullButton.toolTip
    empty.section.update(empty.scan, None)
    assert not ui.pullButton.enabled
    assert empty.told.count == 0


def test_a_click_and_a_drag_make_a_pull(bench):
    ui, place = bench.ui, bench.place
    assert ui.pullButton.enabled
    standin.click(ui.pullButton)
    assert ui.pullButton.checked
    assert "Click" in ui.pullHintLabel.text
    mouse = Mouse(bench.red)
    mouse.move(place)
    assert bench.told.since() == 0  # the mark under the mouse is no pull yet
    assert ui.pullTable.rowCount == 0
    mouse.click(place)
    standin.process_events()
    assert not ui.pullButton.checked
    assert bench.told.since() == 1
    assert bench.cell(0, 0) == "1 shell"
    assert float(bench.cell(0, 1).split()[0]) < 2.5
    assert ui.pullTable.visible
    assert "Drag" in ui.pullHintLabel.text
    assert len(bench.lines) == 1

    start = np.array(bench.node.GetNthControlPointPositionWorld(0))
    mouse.press(start)
    mouse.move(start + np.array([0.0, 12.0, 0.0]))
    held = float(bench.cell(0, 1).split()[0])
    assert held > 9  # the table follows the mouse
    end = slicer.util.arrayFromMarkupsControlPoints(bench.lines[0])[1]
    np.testing.assert_allclose(end, start + np.array([0.0, 12.0, 0.0]), atol=0.7)  # and so does the line
    assert bench.told.since() == 0
    mouse.release(start + np.array([0.0, 12.0, 0.0]))
    standin.process_events()
    assert bench.told.since() == 1  # once, when it is let go
    asked = bench.section.landmarks(bench.scan)
    warped = cases.a_correspondence().image_from_atlas(np.array(asked["atlas"][0]))
    assert np.linalg.norm(warped - np.array(asked["image"][0])) == pytest.approx(held, abs=0.3)
    assert (asked["names"], asked["weight"]) == (["1 shell"], LANDMARK_WEIGHT)


def test_a_click_on_a_mark_that_stays_where_it_is_changes_nothing(bench):
    bench.pull()
    assert bench.told.since() == 1
    mouse, start = Mouse(bench.red), np.array(bench.node.GetNthControlPointPositionWorld(0))
    mouse.press(start)
    mouse.release(start)
    assert bench.told.since() == 0


def test_a_right_click_ends_it(bench):
    standin.click(bench.ui.pullButton)
    mouse = Mouse(bench.red)
    mouse.move(bench.place)
    mouse.click(bench.place, "Right")
    standin.process_events()
    assert not bench.ui.pullButton.checked
    assert "Take" in bench.ui.pullHintLabel.text
    assert bench.node.GetNumberOfControlPoints() == 0
    assert bench.told.count == 0


def test_the_button_once_more_ends_it(bench):
    standin.click(bench.ui.pullButton)
    standin.click(bench.ui.pullButton)
    standin.process_events()
    assert not bench.ui.pullButton.checked
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    assert interaction.GetCurrentInteractionMode() != interaction.Place


def test_what_the_user_places_otherwise_is_left_alone(bench):
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Mine")
    selection = slicer.mrmlScene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    assert selection.GetActivePlaceNodeID() == mine.GetID()
    bench.pull(away=(0.0, 6.0, 0.0))
    bench.show(seed=5)
    assert selection.GetActivePlaceNodeID() == mine.GetID()
    assert selection.GetActivePlaceNodeClassName() == "vtkMRMLMarkupsFiducialNode"
    assert mine.GetNumberOfControlPoints() == 0


def test_escape_ends_it(bench):
    window = manners.unwrap(bench.ui.pullButton).window()
    window.activateWindow()
    standin.click(bench.ui.pullButton)
    Mouse(bench.red).move(bench.place)
    QtTest.QTest.keyClick(window, QtCore.Qt.Key.Key_Escape)
    standin.process_events()
    assert not bench.ui.pullButton.checked
    assert bench.node.GetNumberOfControlPoints() == 0
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    assert interaction.GetCurrentInteractionMode() != interaction.Place
    interaction.SwitchToSinglePlaceMode()  # what is placed otherwise is no business of ours
    QtTest.QTest.keyClick(window, QtCore.Qt.Key.Key_Escape)
    standin.process_events()
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    interaction.SwitchToViewTransformMode()


def test_the_toolbar_is_used_to_place_something_else_meanwhile(bench):
    standin.click(bench.ui.pullButton)
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Mine")  # becomes what is placed
    standin.process_events()
    assert not bench.ui.pullButton.checked
    assert "Take" in bench.ui.pullHintLabel.text
    Mouse(bench.red).click(bench.place)
    standin.process_events()
    assert mine.GetNumberOfControlPoints() == 1
    assert bench.told.count == 0


def test_a_point_that_a_key_brings_to_the_slice_counts_once_the_mouse_leaves_it(bench):
    bench.pull()
    bench.node.GetDisplayNode().SetSliceProjection(True)
    bench.red.set_offset(bench.red.logic.GetSliceOffset() + 8)
    bench.red.window.Render()
    start = np.array(bench.node.GetNthControlPointPositionWorld(0))
    bench.told.since()
    mouse = Mouse(bench.red)
    mouse.key("s", start)
    assert bench.node.GetNthControlPointPositionWorld(0)[2] == pytest.approx(start[2] + 8, abs=0.1)
    mouse.move(start + np.array([0.0, 40.0, 0.0]))
    assert bench.told.since() == 1


# ------------------------------------------------------------------------------------------------- what goes on after


def test_previews_and_results_move_the_atlas_end(bench):
    bench.pull(away=(0.0, 8.0, 0.0))
    bench.told.since()
    before, line = bench.cell(0, 1), slicer.util.arrayFromMarkupsControlPoints(bench.lines[0])
    frame, other = frames.processing_frame(bench.scan), cases.a_correspondence(seed=5)
    for listener in bench.session.on_preview_listeners:
        listener(other, frame)
    atlas, target = (np.array(bench.section.landmarks(bench.scan)[key][0]) for key in ("atlas", "image"))
    moved = np.linalg.norm(other.image_from_atlas(atlas) - target)
    assert bench.cell(0, 1) == f"{moved:.1f} mm"
    assert bench.cell(0, 1) != before
    now = slicer.util.arrayFromMarkupsControlPoints(bench.lines[0])
    np.testing.assert_allclose(now[0], other.image_from_atlas(atlas) @ FLIP, atol=1e-4)
    np.testing.assert_array_equal(now[1], line[1])
    bench.show(seed=5)  # and the result that it becomes
    np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPoints(bench.lines[0]), now, atol=0.1)
    assert bench.told.count == 0  # the pull itself is what it was


def test_a_point_that_is_placed_in_mid_refinement_is_one_of_the_preview(bench):
    other = cases.a_correspondence(seed=5)
    surfaces.move_surfaces(bench.session.nodes.surfaces, the_surfaces(), other, frames.processing_frame(bench.scan))
    bench.section.follow(other, frames.processing_frame(bench.scan))
    bench.pull(place=bench.place)
    asked = bench.section.landmarks(bench.scan)
    now = other.image_from_atlas(np.array(asked["atlas"][0]))
    assert np.linalg.norm(now - np.array(asked["image"][0])) < 2.5


def test_how_hard(bench):
    ui = bench.ui
    assert ui.pullWeightTextLabel.text == "as usual"
    ui.pullWeightSlider.value = 100
    assert bench.told.since() == 0  # nothing is pulled yet
    bench.pull()
    assert bench.section.landmarks(bench.scan)["weight"] == pytest.approx(10 * LANDMARK_WEIGHT)
    bench.told.since()
    ui.pullWeightSlider.value = -30
    assert bench.told.since() == 1
    assert ui.pullWeightTextLabel.text == "2 × softer"
    assert bench.section.landmarks(bench.scan)["weight"] == pytest.approx(LANDMARK_WEIGHT / 10**0.3)
    bench.section.update(bench.scan, bench.entry)
    assert ui.pullWeightSlider.value == -30


def test_rows_lead_to_their_points_and_take_them_away(bench):
    bench.pull()
    middle = np.array([*(cases.PLACE @ FLIP)[:2], bench.place[2]])
    bench.pull(place=middle)
    assert bench.ui.pullTable.rowCount == 2
    bench.told.since()
    second = np.array(bench.node.GetNthControlPointPositionWorld(1))
    bench.red.set_offset(bench.red.logic.GetSliceOffset() + 20)
    bench.click_cell(1, 0)
    assert bench.red.logic.GetSliceOffset() == pytest.approx(second[2], abs=1e-3)
    assert bench.told.count == 0
    bench.click_cell(0, 2)
    assert bench.told.since() == 1
    assert bench.ui.pullTable.rowCount == 1
    np.testing.assert_allclose(bench.node.GetNthControlPointPositionWorld(0), second, atol=1e-6)
    assert len(bench.lines) == 1
    standin.click(bench.ui.pullRemoveAllButton)
    assert bench.told.since() == 1
    assert not bench.ui.pullTable.visible
    assert not bench.ui.pullRemoveAllButton.enabled
    assert bench.lines == []
    assert bench.section.landmarks(bench.scan) is None


def test_points_that_cannot_be_used_are_said_and_left_out(bench):
    bench.pull()
    bench.pull(place=np.array([*(cases.PLACE @ FLIP)[:2], bench.place[2]]))
    bench.node.SetNthControlPointPosition(0, 900.0, 0.0, 0.0)
    assert bench.cell(0, 1) == "not used"
    assert "outside the scan" in bench.ui.pullTable.item(0, 0).toolTip()
    assert len(bench.section.landmarks(bench.scan)["image"]) == 1


def test_hidden_pulls_hide_their_lines(bench):
    bench.pull(away=(0.0, 6.0, 0.0))
    bench.node.GetDisplayNode().SetVisibility(False)
    assert not bench.lines[0].GetDisplayNode().GetVisibility()
    bench.pull()  # who places another one wants to see it
    assert bench.lines[0].GetDisplayNode().GetVisibility()


# --------------------------------------------------------------------------------------------- what is done elsewhere


def test_the_node_is_removed_and_pulling_begins_anew(bench):
    bench.pull()
    bench.told.since()
    slicer.mrmlScene.RemoveNode(bench.node)
    bench.section.update(bench.scan, bench.entry)  # as the panel does when nodes left the scene
    assert bench.told.since() == 1
    assert bench.lines == []
    assert bench.ui.pullTable.rowCount == 0
    bench.pull()
    assert bench.told.since() == 1
    assert bench.ui.pullTable.rowCount == 1


def test_the_node_is_removed_while_a_point_is_placed(bench):
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Mine")
    bench.pull()
    standin.click(bench.ui.pullButton)
    Mouse(bench.red).move(bench.place)
    slicer.mrmlScene.RemoveNode(bench.node)
    bench.section.update(bench.scan, bench.entry)
    standin.process_events()
    assert not bench.ui.pullButton.checked
    Mouse(bench.red).click(bench.place)  # places nothing: Slicer would have made a list of its own for it
    assert list(slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")) == [mine]
    assert mine.GetNumberOfControlPoints() == 0
    selection = slicer.mrmlScene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    assert selection.GetActivePlaceNodeID() == mine.GetID()


def test_nodes_that_leave_without_a_word_are_not_missed(bench):
    bench.pull()
    for node in (*bench.lines, bench.session.nodes.image_from_atlas, bench.node, bench.scan):
        slicer.mrmlScene.RemoveNode(node)
        bench.ui.pullWeightSlider.value += 7
        bench.section.follow(cases.a_correspondence(), frames.Frame())
    bench.section.update(None, bench.entry)
    assert bench.lines == []
    assert not bench.ui.pullButton.enabled


def test_without_the_transform_of_the_result_it_says_so(bench):
    bench.pull()
    slicer.mrmlScene.RemoveNode(bench.session.nodes.image_from_atlas)
    bench.section.update(bench.scan, bench.entry)
    assert "transform" in bench.ui.pullButton.toolTip
    assert bench.cell(0, 1) == "–"
    assert bench.lines == []


def test_undo(bench):
    slicer.mrmlScene.SetUndoOn()
    try:
        bench.pull()
        bench.node.SetUndoEnabled(True)
        before = bench.section.landmarks(bench.scan)
        standin.click(bench.ui.pullRemoveAllButton)
        bench.told.since()
        slicer.mrmlScene.Undo()
        bench.section.update(bench.scan, bench.entry)
        assert bench.told.since() == 1
        assert bench.section.landmarks(bench.scan) == before
        assert bench.cell(0, 0) == "1 shell"
    finally:
        slicer.mrmlScene.SetUndoOff()


def test_another_scan_has_none_and_nothing_has_changed(bench):
    bench.pull()
    bench.told.since()
    other = cases.scan(slicer.mrmlScene, spacing=(6.0, 6.0, 6.0), name="Other")
    standin.click(bench.ui.pullButton)  # placing goes on
    bench.section.update(other, bench.entry)
    standin.process_events()
    assert not bench.ui.pullButton.checked
    assert bench.ui.pullTable.rowCount == 0
    assert bench.lines == []
    bench.section.update(bench.scan, bench.entry)
    assert bench.ui.pullTable.rowCount == 1
    assert len(bench.lines) == 1
    assert bench.told.count == 0


def test_saved_loaded_and_gone_on_with(bench, tmp_path):
    bench.pull(away=(0.0, 9.0, 0.0))
    bench.ui.pullWeightSlider.value = 50
    asked, away = bench.section.landmarks(bench.scan), bench.cell(0, 1)
    path = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(path))
    bench.session.forget()
    bench.section.update(None, bench.entry)
    slicer.mrmlScene.Clear(0)
    bench.ui.pullWeightSlider.value = 0
    bench.told.since()
    slicer.util.loadScene(str(path))
    bench.scan = slicer.util.getNode("Scan")
    bench.section.update(bench.scan, bench.entry)
    assert bench.told.count == 0
    assert (bench.cell(0, 0), bench.cell(0, 1)) == ("1 shell", away)
    assert bench.ui.pullWeightSlider.value == 50
    again = bench.section.landmarks(bench.scan)
    np.testing.assert_allclose(again["atlas"], asked["atlas"], atol=1e-4)
    np.testing.assert_allclose(again["image"], asked["image"], atol=1e-3)
    assert again["weight"] == pytest.approx(asked["weight"])
    assert len(bench.lines) == 1


def test_the_scene_is_closed_while_a_point_is_placed(bench):
    bench.pull()
    standin.click(bench.ui.pullButton)
    Mouse(bench.red).move(bench.place)
    bench.told.since()
    slicer.mrmlScene.Clear(0)
    bench.session.forget()
    bench.section.update(None, bench.entry)
    standin.process_events()
    assert not bench.ui.pullButton.checked
    assert bench.ui.pullTable.rowCount == 0
    assert bench.told.count == 0


def test_closed_it_leaves_the_pulls_and_nothing_else(bench):
    bench.pull()
    node = bench.node
    bench.told.since()
    bench.section.close()
    assert bench.lines == []
    node.SetNthControlPointPosition(0, 1.0, 2.0, 3.0)
    assert bench.told.count == 0
    assert node.GetNumberOfControlPoints() == 1


# ------------------------------------------------------------------------------------------ with the engine, in a slice


def test_a_letter_is_pulled_and_follows():
    """The whole panel and the real engine, on a single slice: where the marks are, the refined atlas is."""
    slicer.mrmlScene.Clear(0)
    opened = standin.open_module(MODULE / "AtlasISTN.py")
    try:
        opened.parent.resize(520, 2600)
        opened.parent.show()
        opened.widget.enter()
        panel = opened.widget.panel
        ui, pull = panel.ui, panel.steer.pull
        next(action for action in ui.sampleButton.menu().actions() if action.text == "Letter B").trigger()
        standin.process_events()
        ui.steerCollapsibleButton.collapsed = False
        assert "Segment" in ui.pullButton.toolTip
        standin.click(ui.segmentButton)
        assert standin.wait_until(lambda: not panel.session.busy, SECONDS)
        scan = panel.parameters.inputVolume
        slicer.util.setSliceViewerLayers(background=scan, fit=True)
        views.picture(layout="red", size=(400, 360))
        view = slicer.app.layoutManager().sliceWidget("Red")._view()
        labels = slicer.util.arrayFromSegmentBinaryLabelmap(panel.session.nodes.segmentation, _segment(panel), scan)
        index = np.argwhere(labels)[len(np.argwhere(labels)) // 2][::-1]
        place = frames.ijk_to_ras(scan) @ [*index, 1.0]
        standin.click(ui.pullButton)
        mouse = Mouse(view)
        mouse.click(place[:3])
        standin.process_events()
        node = pulls.find(scan, "letter-b")
        start = np.array(node.GetNthControlPointPositionWorld(0))
        mouse.drag(start, start + np.array([6.0, 4.0, 0.0]))
        standin.process_events()
        away = float(ui.pullTable.item(0, 1).text().split()[0])
        assert away > 3
        ui.pullWeightSlider.value = 100
        ui.iterationsSpinBox.value = 20
        standin.click(ui.refineButton)
        assert standin.wait_until(lambda: not panel.session.busy, SECONDS)
        assert panel.session.failure is None
        (mark,) = panel.session.outcome.trace["landmarks"]
        assert mark["before"] == pytest.approx(away, abs=0.1)
        assert mark["after"] < away / 2
        assert pull.pulls[0].distance == pytest.approx(mark["after"], abs=0.1)
        assert ui.pullTable.item(0, 1).text() == f"{pull.pulls[0].distance:.1f} mm"
    finally:
        standin.close_module(opened)
        slicer.mrmlScene.Clear(0)


def _segment(panel: Any) -> str:
    return panel.session.nodes.segmentation.GetSegmentation().GetNthSegmentID(0)
