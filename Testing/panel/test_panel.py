"""The panel as a user meets it: opened, filled in, clicked through, saved and loaded. The engine is the real one."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import standin
from house import MODULE

sys.path.insert(0, str(MODULE))

from AtlasISTNHost.messages import Failure

SECONDS = 240  # an engine that starts on a busy machine


@pytest.fixture
def opened() -> Iterator[Any]:
    """The module, opened in an empty scene; its engine ends with it."""
    slicer.mrmlScene.Clear(0)
    found = standin.open_module(MODULE / "AtlasISTN.py")
    found.parent.resize(480, 1500)
    found.parent.show()
    found.widget.enter()
    standin.process_events()
    yield found
    standin.close_module(found)
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def panel(opened: Any) -> Any:
    return opened.widget.panel


@pytest.fixture
def ui(panel: Any) -> Any:
    return panel.ui


def load_sample(panel: Any, name: str) -> Any:
    """Choose a sample in the menu of the button Sample."""
    menu = panel.ui.sampleButton.menu()
    action = next(action for action in menu.actions() if action.text == name)
    action.trigger()
    standin.process_events()
    return panel.parameters.inputVolume


def finish(panel: Any) -> None:
    assert standin.wait_until(lambda: not panel.session.busy, SECONDS), panel.session.status
    standin.process_events()


def press(panel: Any, button: Any) -> None:
    standin.click(button)
    finish(panel)


def voxels(node: Any, value: int = 1) -> np.ndarray:
    found = node.GetSegmentation().GetNthSegmentID(value - 1)
    volume = node.GetNodeReference("AtlasISTN.Input")
    return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(node, found, volume))


class TestOpening:
    def test_without_a_scan_it_says_what_to_do(self, ui):
        assert not ui.segmentButton.enabled
        assert "volume" in ui.segmentButton.toolTip.lower()
        assert "volume" in ui.statusLabel.text.lower()
        assert not ui.refineButton.enabled
        assert not ui.exportButton.enabled
        assert ui.exportButton.toolTip
        assert not ui.messageFrame.visible
        assert not ui.progressBar.visible

    def test_every_disabled_button_says_why(self, ui):
        ui.batchCollapsibleButton.collapsed = ui.trainCollapsibleButton.collapsed = False
        buttons = ("segmentButton", "refineButton", "toPatientButton", "toAtlasButton", "exportButton", "batchButton")
        for name in (*buttons, "trainButton", "trainCheckButton", "trainUseButton", "showRefinedRadioButton"):
            button = getattr(ui, name)
            assert not button.enabled, name
            assert len(button.toolTip) > 5, name

    def test_a_model_can_be_read_before_it_is_used(self, ui):
        text = ui.modelInfoLabel.text
        assert "left thalamus" in text.replace("&nbsp;", " ")
        assert "48 × 72 × 72" in text
        assert "Apache-2.0" in text
        assert "Not for clinical use" in text

    def test_every_widget_has_a_tooltip(self, ui):
        asked = ("Button", "CheckBox", "ComboBox", "SpinBox", "Slider", "Selector", "Edit", "Table", "Browser")
        bare = [
            name
            for name in vars(ui)
            if name.endswith(asked)
            and not name.startswith("qt_")
            and not getattr(ui, name).toolTip
            and not name.endswith("CollapsibleButton")
        ]
        assert bare == []


class TestStrength:
    def test_the_slider_is_logarithmic_about_the_models_own(self, panel, ui):
        own = panel.input.model.strength
        assert ui.strengthSlider.value == 0
        assert ui.strengthSpinBox.value == pytest.approx(own)
        for value, factor in ((600, 64), (300, 8), (100, 2), (-600, 1 / 64), (-300, 1 / 8)):
            ui.strengthSlider.value = value
            assert ui.strengthSpinBox.value == pytest.approx(own * factor, rel=2e-3)
            assert panel.parameters.strength == pytest.approx(own * factor, rel=2e-3)

    def test_a_number_that_is_typed_moves_the_slider(self, panel, ui):
        own = panel.input.model.strength
        ui.strengthSpinBox.value = own * 4
        assert ui.strengthSlider.value == 200
        assert panel.parameters.strength == pytest.approx(own * 4)
        standin.click(ui.strengthResetButton)
        assert panel.parameters.strength == pytest.approx(own)
        assert ui.strengthSlider.value == 0

    def test_another_model_brings_its_own(self, panel, ui):
        ui.strengthSlider.value = 600
        ui.modelComboBox.setCurrentIndex(1 - ui.modelComboBox.currentIndex)
        own = panel.input.model.strength
        assert panel.parameters.strength == pytest.approx(own)
        assert panel.parameters.model == panel.input.model.key
        assert panel.parameters.iterations == panel.input.model.iterations
        assert ui.strengthSpinBox.maximum == pytest.approx(64 * own)
        assert ui.strengthSpinBox.minimum == pytest.approx(own / 64, rel=1e-2)


class TestReasons:
    def test_a_slice_for_a_model_of_volumes(self, panel, ui):
        load_sample(panel, "Letter B")
        assert ui.segmentButton.enabled
        ui.modelComboBox.setCurrentIndex([entry.key for entry in panel.input.entries].index("phantom-heart"))
        assert not ui.segmentButton.enabled
        assert "single slice" in ui.segmentButton.toolTip

    def test_without_torch_everything_else_works(self, panel, ui, monkeypatch):
        from AtlasISTNHost import torch_setup

        absent = torch_setup.TorchState("not-installed", "PyTorch is not installed.", "about 200 MB", ("torch>=2.2",))
        monkeypatch.setattr(torch_setup, "state", lambda *_path: absent)
        panel.input.show_torch()
        load_sample(panel, "Letter B")
        assert ui.torchFrame.visible
        assert ui.torchInstallButton.visible
        assert "200 MB" in ui.torchInstallButton.toolTip
        assert not ui.segmentButton.enabled
        assert "PyTorch" in ui.segmentButton.toolTip
        ui.strengthSlider.value = 100
        assert panel.parameters.strength > panel.input.model.strength

    def test_a_folder_that_is_no_model_is_refused_in_words(self, panel, ui, tmp_path):
        before = ui.modelComboBox.count
        assert not panel.input.add_model(str(tmp_path))
        assert ui.messageFrame.visible
        assert "manifest.json" in ui.messageLabel.text
        assert ui.modelComboBox.count == before
        standin.click(ui.messageCloseButton)
        assert not ui.messageFrame.visible


class TestLetter:
    """A whole session on a quick 2D model."""

    def test_segment_refine_review_save_and_load(self, panel, ui, opened, tmp_path):
        scan = load_sample(panel, "Letter B")
        press(panel, ui.segmentButton)
        found = panel.session.nodes
        assert panel.session.failure is None
        assert ui.showOnePassRadioButton.checked
        assert not ui.showRefinedRadioButton.enabled
        assert "refined" in ui.showRefinedRadioButton.toolTip
        one_pass = voxels(found.segmentation)
        assert one_pass.sum() > 100
        assert ui.measuresTable.rowCount == 1
        assert ui.measuresTable.item(0, 0).text() == "letter B"

        ui.strengthSlider.value = -200
        ui.iterationsSpinBox.value = 15
        press(panel, ui.refineButton)
        assert panel.session.failure is None
        assert panel.session.nodes.segmentation is found.segmentation  # updated, not made again
        assert ui.showRefinedRadioButton.checked
        trace = panel.session.outcome.trace
        assert trace["config"]["iterations"] == 15
        assert trace["config"]["strength"] == pytest.approx(panel.input.model.strength / 4, rel=1e-2)
        assert (voxels(found.segmentation) != one_pass).any()
        standin.click(ui.showPredictionRadioButton)
        assert panel.parameters.shown == "prediction"
        assert found.prediction.GetDisplayNode().GetVisibility()
        assert not found.segmentation.GetDisplayNode().GetVisibility()

        refined = voxels(found.segmentation)
        path = tmp_path / "scene.mrb"
        assert slicer.util.saveScene(str(path))
        slicer.mrmlScene.Clear(0)
        standin.process_events()
        assert panel.session.outcome is None
        assert not ui.segmentButton.enabled
        slicer.util.loadScene(str(path))
        standin.process_events()
        assert panel.parameters.inputVolume.GetName() == scan.GetName()
        assert panel.parameters.iterations == 15
        assert panel.input.model.key == "letter-b"
        assert ui.strengthSlider.value == -200
        assert panel.parameters.shown == "prediction"
        assert ui.showPredictionRadioButton.checked
        again = panel.review.nodes
        np.testing.assert_array_equal(voxels(again.segmentation), refined)
        assert ui.measuresTable.rowCount == 1
        # Refining goes on from a loaded scene: the engine segments again on its way.
        assert ui.refineButton.enabled
        press(panel, ui.refineButton)
        assert panel.session.failure is None
        assert panel.session.nodes.segmentation is again.segmentation

    def test_stop_keeps_the_best_so_far(self, panel, ui):
        load_sample(panel, "Letter B")
        ui.iterationsSpinBox.value = 2000
        press(panel, ui.segmentButton)
        standin.click(ui.refineButton)
        assert standin.wait_until(lambda: panel.session.status and panel.session.status.stage == "refine", SECONDS)
        standin.process_events(0.5)
        assert ui.progressBar.visible
        assert "Step" in ui.statusLabel.text
        assert not ui.segmentButton.enabled
        press(panel, ui.stopButton)
        assert panel.session.failure is None
        assert panel.session.outcome.refined
        assert panel.session.outcome.trace["stopped"] == "cancelled"
        assert not ui.stopButton.visible

    def test_refine_straight_away(self, panel, ui):
        load_sample(panel, "Letter B")
        ui.iterationsSpinBox.value = 5
        standin.click(ui.refineAfterCheckBox)
        press(panel, ui.segmentButton)
        assert panel.session.outcome.refined

    def test_what_the_user_renamed_and_others_survive(self, panel, ui):
        load_sample(panel, "Letter B")
        press(panel, ui.segmentButton)
        mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
        mine.GetSegmentation().AddEmptySegment("a", "a")
        segment = panel.session.nodes.segmentation.GetSegmentation().GetNthSegment(0)
        segment.SetName("my letter")
        segment.SetColor(0.1, 0.2, 0.3)
        press(panel, ui.segmentButton)
        segment = panel.session.nodes.segmentation.GetSegmentation().GetNthSegment(0)
        assert segment.GetName() == "my letter"
        assert segment.GetColor() == pytest.approx((0.1, 0.2, 0.3))
        assert slicer.util.getNode("mine").GetSegmentation().GetNumberOfSegments() == 1
        assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 4

    def test_the_volume_leaves_in_mid_run(self, panel, ui):
        scan = load_sample(panel, "Letter B")
        standin.click(ui.segmentButton)
        slicer.mrmlScene.RemoveNode(scan)
        finish(panel)
        assert "removed" in ui.messageLabel.text
        assert panel.session.nodes is None

    def test_the_scene_is_closed_in_mid_run(self, panel, ui):
        load_sample(panel, "Letter B")
        standin.click(ui.segmentButton)
        slicer.mrmlScene.Clear(0)
        finish(panel)
        assert panel.session.failure is None
        assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
        load_sample(panel, "Letter B")  # and the next scene works
        press(panel, ui.segmentButton)
        assert panel.session.failure is None

    def test_export_asks_before_it_replaces(self, panel, ui, tmp_path):
        load_sample(panel, "Letter B")
        press(panel, ui.segmentButton)
        standin.click(ui.exportCollapsibleButton)
        ui.exportPathEdit.currentPath = str(tmp_path)
        ui.exportReportCheckBox.checked = False
        standin.click(ui.exportButton)
        written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert {name.split(".", 1)[1] for name in written} >= {"seg.nrrd", "nii.gz", "h5", "csv"}
        assert str(tmp_path) in ui.exportStatusLabel.text
        standin.messages.answers.append(False)
        standin.click(ui.exportButton)
        assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written

    def test_report(self, panel, ui, tmp_path):
        load_sample(panel, "Letter B")
        press(panel, ui.segmentButton)
        standin.click(ui.exportCollapsibleButton)
        ui.exportPathEdit.currentPath = str(tmp_path)
        for name in ("Segmentation", "Labelmap", "Surfaces", "Transforms", "Table"):
            getattr(ui, f"export{name}CheckBox").checked = False
        standin.click(ui.exportButton)
        assert standin.wait_until(lambda: any(path.suffix == ".png" for path in tmp_path.iterdir()), SECONDS)
        assert ui.messageLabel.text == "" or not ui.messageFrame.visible


def test_a_heart_from_the_sample_to_exported_files_and_back(panel, ui, tmp_path):
    """Sample, Segment, λ*, Refine, Stop, Review, Export; the scene saved and loaded with all of it in place."""
    load_sample(panel, "Phantom heart")
    press(panel, ui.segmentButton)
    assert panel.session.failure is None
    found = panel.session.nodes
    assert len(found.surfaces) == 5
    vertices = {value: np.array(slicer.util.arrayFromModelPoints(node)) for value, node in found.surfaces.items()}
    assert {ui.measuresTable.item(row, 2).text() for row in range(5)} == {"as the atlas"}

    ui.strengthSlider.value = -100
    standin.click(ui.refineButton)
    moving = found.surfaces[1]
    assert standin.wait_until(
        lambda: (slicer.util.arrayFromModelPoints(moving) != vertices[1]).any() or not panel.session.busy, SECONDS
    )
    assert panel.session.busy  # the surfaces follow while it works
    assert moving.GetDisplayNode().GetVisibility2D()
    press(panel, ui.stopButton)
    assert panel.session.outcome.trace["stopped"] == "cancelled"
    assert not moving.GetDisplayNode().GetVisibility2D()
    for value, node in panel.session.nodes.surfaces.items():
        assert node is found.surfaces[value]
        assert slicer.util.arrayFromModelPoints(node).shape == vertices[value].shape  # vertex by vertex the same place

    standin.click(ui.outlineCheckBox)
    standin.click(ui.jacobianCheckBox)
    assert not found.segmentation.GetDisplayNode().GetVisibility2DFill()
    standin.click(ui.exportCollapsibleButton)
    ui.exportPathEdit.currentPath = str(tmp_path / "files")
    standin.click(ui.exportButton)
    files = tmp_path / "files"
    assert standin.wait_until(lambda: any(files.glob("*.png")) and panel.engine.state == "idle", SECONDS)
    assert sorted({path.suffix for path in files.iterdir()}) == [".csv", ".gz", ".h5", ".nrrd", ".png", ".stl"]

    labels = voxels(found.segmentation, 2)
    scene = tmp_path / "heart.mrb"
    assert slicer.util.saveScene(str(scene))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(scene))
    standin.process_events()
    again = panel.review.nodes
    assert (panel.parameters.strength, ui.strengthSlider.value) == (pytest.approx(panel.input.model.strength / 2), -100)
    assert ui.outlineCheckBox.checked
    assert ui.showRefinedRadioButton.checked
    assert len(again.surfaces) == 5
    np.testing.assert_array_equal(voxels(again.segmentation, 2), labels)
    assert ui.measuresTable.rowCount == 5


class TestOutOfMemory:
    """The device has too little memory: the message offers what may help, and does it."""

    @pytest.fixture
    def offered(self, panel: Any, ui: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """The requests that follow such a failure of Segment on a graphics card."""
        load_sample(panel, "Letter B")
        asked: list[dict[str, Any]] = []

        def request(do: str, fields: dict[str, Any], **callbacks: Any) -> int:
            asked.append({"do": do, **fields})
            return 1

        monkeypatch.setattr(panel.engine, "request", request)
        short = {"device": "cuda:0", "low_memory": False}
        panel.session.show_failure(
            Failure("DeviceError", "cuda:0 ran out of memory", out_of_memory=True, do="segment", asked=short)
        )
        assert ui.messageFrame.visible
        return asked

    def buttons(self, ui: Any) -> dict[str, Any]:
        return {b.text: b for b in (ui.messageActionButton, ui.messageSecondButton) if b.visible}

    def test_the_processor(self, ui, offered):
        button = next(b for text, b in self.buttons(ui).items() if "processor" in text.lower() or "cpu" in text.lower())
        standin.click(button)
        assert [(one["do"], one["device"], one["low_memory"]) for one in offered] == [("segment", "cpu", False)]
        assert not ui.messageFrame.visible

    def test_less_memory(self, ui, offered):
        button = next(b for text, b in self.buttons(ui).items() if "memory" in text.lower())
        standin.click(button)
        assert [(one["do"], one["low_memory"]) for one in offered] == [("segment", True)]


def test_developers_reload(opened):
    """The module's button Reload: a new panel over new rooms, and the old engine is gone."""
    first = opened.widget.panel
    load_sample(first, "Letter B")
    press(first, first.ui.segmentButton)
    pid = first.engine.pid
    opened.widget.onReload()
    standin.process_events()
    panel = slicer.modules.AtlasISTNWidget.panel
    assert panel is not first
    assert standin.wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10)
    assert panel.parameters.inputVolume.GetName() == "Letter B"
    assert panel.ui.measuresTable.rowCount == 1
    press(panel, panel.ui.segmentButton)
    assert panel.session.failure is None


class TestKilled:
    """The engine's process dies: the message says so, the scene is as it was, and the next run works."""

    @pytest.mark.parametrize("stage", ["load", "predict", "write", "refine"])
    def test_at_each_stage(self, stage, panel, ui):
        load_sample(panel, "Letter B")
        press(panel, ui.segmentButton)
        before = voxels(panel.session.nodes.segmentation)
        ids = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode")}
        pid = panel.engine.pid
        if stage == "load":  # a warm engine has its model
            panel.engine.stop(wait_ms=3000)
            pid = 0
        ui.iterationsSpinBox.value = 2000
        killed: list[int] = []
        heard = panel.session._on_progress

        def kill(event: dict[str, Any]) -> None:
            heard(event)
            if event["stage"] == stage and not killed:
                killed.append(panel.engine.pid)
                os.kill(panel.engine.pid, 9)

        panel.session._on_progress = kill
        standin.click(ui.refineButton if stage == "refine" else ui.segmentButton)
        finish(panel)
        panel.session._on_progress = heard
        assert killed
        assert pid in (0, killed[0])
        assert ui.messageFrame.visible
        assert "signal 9" in ui.messageLabel.text
        standin.click(ui.messageCopyButton)
        assert "Atlas-ISTN" in standin.start().clipboard().text()
        np.testing.assert_array_equal(voxels(panel.session.nodes.segmentation), before)
        assert {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode")} == ids
        ui.iterationsSpinBox.value = 3
        press(panel, ui.refineButton)
        assert panel.session.failure is None
        assert not ui.messageFrame.visible
        assert panel.session.outcome.refined


def test_nothing_is_left_behind(tmp_path):
    """No process and no job folder outlives the module."""
    slicer.mrmlScene.Clear(0)
    found = standin.open_module(MODULE / "AtlasISTN.py")
    found.parent.show()
    found.widget.enter()
    panel = found.widget.panel
    load_sample(panel, "Letter B")
    standin.click(panel.ui.segmentButton)
    assert standin.wait_until(lambda: panel.engine.pid, SECONDS)
    pid = panel.engine.pid
    standin.close_module(found)
    assert standin.wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10)
    assert not list(Path(slicer.app.temporaryPath).glob(f"AtlasISTN-{os.getpid()}*"))
    slicer.mrmlScene.Clear(0)


def test_log_scale_has_no_rounding_surprise():
    from AtlasISTNHost import models

    for ticks in (-600, -1, 0, 1, 599):
        value = models.strength_of_slider(ticks, 500.0, 600)
        assert math.log(value / 500.0, 64) * 600 == pytest.approx(ticks, abs=1e-9)


def test_the_modules_own_test(opened):
    """What Slicer runs as py_AtlasISTN."""
    opened.module.AtlasISTNTest().runTest()
