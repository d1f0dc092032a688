"""The Segment Editor's effect "Atlas fit": registered, filled in, run, undone, cancelled, and what goes wrong."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import slicer
import standin
from fake_engine import FakeEngine
from house import MODULE
from PySide6 import QtTest
from standin import manners, scripted_module, segment_editor

sys.path.insert(0, str(MODULE))

from AtlasISTNHost import fit_effect, models, samples, settings
from AtlasISTNHost.messages import Failure

from AtlasISTNLib.exchange import grid_from_dict, volume_to_files
from AtlasISTNLib.resources import samples_folder
from AtlasISTNLib.volume import Volume

SECONDS = 240  # an engine that starts on a busy machine
NAME = "Atlas fit"


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    """The module, loaded as Slicer loads it at its start; nobody has opened its panel."""
    scripted_module.load_module(MODULE / "AtlasISTN.py")
    standin.application.startup_completed()


@pytest.fixture
def scan() -> Iterator[Any]:
    """The letter B, a single slice."""
    slicer.mrmlScene.Clear(0)
    yield samples.load(next(sample for sample in samples.samples() if sample.name == "Letter B"))
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def drawn(scan: Any) -> Any:
    """A segmentation by hand: the letter with a gap, and a spot of something else beside and in it."""
    truth = slicer.util.loadVolume(str(samples_folder() / "letter-b-labels.png"), {"show": False, "singleFile": True})
    letter = (slicer.util.arrayFromVolume(truth) > 0).astype(np.uint8)
    slicer.mrmlScene.RemoveNode(truth)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(scan)
    rows = np.argwhere(letter.any(axis=(0, 2)))
    letter[:, int(rows.mean()) - 6 : int(rows.mean()) + 6] = 0
    spot = np.zeros_like(letter)
    spot[:, 20:30, 20:90] = 1
    for name, mask in (("Letter B", letter), ("Spot", spot)):
        segment = node.GetSegmentation().AddEmptySegment(name, name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, scan)
    return node


@pytest.fixture
def editor(drawn: Any, scan: Any) -> Iterator[segment_editor.Editor]:
    found = segment_editor.Editor(drawn, scan)
    yield found
    found.close()


@pytest.fixture
def fit(editor: segment_editor.Editor) -> Any:
    """The effect as it is seen after its button was clicked, with an engine that answers when the test says so."""
    side = editor.activate(NAME)
    frame = side.scriptedEffect.optionsFrame()
    frame.resize(420, 360)
    frame.show()
    side.fit.engine = FakeEngine()
    choose(side.fit, "letter-b")
    standin.process_events()
    return side.fit


def choose(fit: Any, key: str) -> None:
    widgets = fit.widgets
    widgets.modelComboBox.setCurrentIndex([entry.key for entry in widgets.entries].index(key))


def voxels(node: Any, scan: Any) -> dict[str, np.ndarray]:
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    return {key: np.array(slicer.util.arrayFromSegmentBinaryLabelmap(node, key, scan)) for key in ids}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def answer(fit: Any, rows: slice = slice(30, 100)) -> np.ndarray:
    """The engine is done: the fitted atlas is a bar. Gives it as a mask."""
    _do, fields = fit.engine.asked[-1]
    grid = grid_from_dict(fields["image"]["grid"])
    array = np.zeros(grid.shape, dtype=np.uint8)
    value = models.entries()[[e.key for e in models.entries()].index("letter-b")].manifest.labels[1].value
    array[:, rows, 50:70] = value
    entry = volume_to_files(Volume.from_array(array, grid, "labels"), fields["folder"], "r1-labels")
    event = {"case": fields["case"], "folder": fields["folder"], "volumes": {"labels": entry}, "trace": {}}
    fit.engine.answer("result", event)
    return array != 0


class TestOffered:
    def test_it_is_registered_once_when_slicer_has_started(self):
        standin.application.startup_completed()
        names = [effect.name for effect in segment_editor.EffectFactory.instance().registeredEffects()]
        assert names.count(NAME) == 1

    def test_every_editor_has_its_own(self, drawn, scan):
        one, other = segment_editor.Editor(drawn, scan), segment_editor.Editor(drawn, scan)
        assert one.effects[NAME].self().fit is not other.effects[NAME].self().fit
        one.close()
        other.close()

    def test_it_has_an_icon_and_says_what_it_does(self, editor):
        side = editor.activate(NAME)
        assert not side.icon().isNull()
        for word in ("undo", "never changed", "Editable area", "Not for clinical use"):
            assert word in side.scriptedEffect.helpText()
        first = side.scriptedEffect.helpText().split("<br>")[0]  # Slicer folds the rest away
        assert "atlas" in first
        assert len(first) < 200

    def test_long_titles_do_not_widen_the_editor(self, editor):
        effect = editor.effects[NAME]
        effect.self().fit.widgets.modelComboBox.addItem("A model with a title of many words " * 4)
        frame = manners.unwrap(effect.optionsFrame())
        frame.show()
        standin.process_events()
        assert frame.minimumSizeHint().width() < 360

    def test_room_to_spare_goes_to_the_words(self, fit):
        frame = manners.unwrap(fit.effect.optionsFrame())
        frame.resize(400, 700)
        standin.process_events()
        for name, widget in vars(fit.widgets).items():
            if name.endswith(("ComboBox", "SpinBox", "Button")):
                assert manners.unwrap(widget).height() < 40, name

    def test_every_widget_has_a_tooltip(self, fit):
        bare = [
            name
            for name, widget in vars(fit.widgets).items()
            if name.endswith(("ComboBox", "Slider", "SpinBox", "Button", "Bar")) and not widget.toolTip
        ]
        assert bare == []


class TestChoices:
    def test_the_models_own_come_first(self, fit):
        own = fit.widgets.model
        assert own.key == "letter-b"
        assert fit.widgets.strengthSpinBox.value == pytest.approx(own.strength, rel=1e-2)
        assert fit.widgets.iterationsSpinBox.value == own.iterations

    def test_they_are_kept_in_the_scene(self, fit, editor, drawn, scan):
        widgets = fit.widgets
        widgets.strengthSlider.value = 300
        widgets.iterationsSpinBox.value = 17
        widgets.modeComboBox.setCurrentIndex(1)
        expected = 8 * widgets.model.strength
        assert widgets.strengthSpinBox.value == pytest.approx(expected, rel=1e-2)
        editor.activate("")
        other = segment_editor.Editor(drawn, scan)  # as after the scene was saved and loaded
        again = other.activate(NAME).fit.widgets
        assert (again.model.key, again.iterationsSpinBox.value) == ("letter-b", 17)
        assert again.strengthSpinBox.value == pytest.approx(expected, rel=1e-2)
        assert again.strengthSlider.value == pytest.approx(300, abs=2)
        assert again.config.mode == "field"
        other.close()

    def test_a_number_can_be_typed_to_its_last_digit(self, fit):
        spin = fit.widgets.strengthSpinBox
        text = f"{1.2345 * fit.widgets.model.strength:.{spin.decimals}f}"
        line = manners.unwrap(spin).lineEdit()
        line.selectAll()
        for letter in text:  # each is stored in the scene, which the widgets follow
            QtTest.QTest.keyClicks(line, letter)
        assert line.text() == text
        assert spin.value == pytest.approx(float(text))

    def test_what_will_be_replaced_is_said_before(self, fit):
        text = fit.widgets.planLabel.text
        assert text.index("Letter B") < text.index("Stay as they are") < text.index("Spot")
        assert fit.widgets.planLabel.toolTip == text  # all names, where there are too many for a glance
        assert fit.widgets.applyButton.enabled

    def test_why_nothing_can_be_fitted(self, fit, editor, drawn):
        apply = fit.widgets.applyButton
        choose(fit, "phantom-heart")
        assert not apply.enabled
        assert "single slice" in apply.toolTip
        choose(fit, "letter-b")
        drawn.GetSegmentation().GetSegment("Letter B").SetName("Something else")
        assert not apply.enabled
        assert "structure" in apply.toolTip
        editor.node.SetAndObserveSourceVolumeNode(None)
        fit.show()
        assert "source volume" in apply.toolTip

    def test_what_is_said_follows_the_segments(self, fit, editor, drawn):
        segmentation, widgets = drawn.GetSegmentation(), fit.widgets
        segmentation.GetSegment("Letter B").SetName("Something else")
        assert not widgets.applyButton.enabled
        segmentation.GetSegment("Spot").SetName("Letter B")
        assert widgets.applyButton.enabled
        assert widgets.planLabel.text.startswith("To be replaced: Letter B.")
        drawn.GetDisplayNode().SetSegmentVisibility("Spot", False)
        assert widgets.planLabel.text.startswith("To be replaced: Letter B (hidden).")
        segmentation.RemoveSegment("Spot")
        assert not widgets.applyButton.enabled
        editor.activate("")  # and no longer than the effect is shown
        segmentation.GetSegment("Letter B").SetName("Letter B")
        assert not widgets.applyButton.enabled
        editor.activate(NAME)
        assert widgets.applyButton.enabled

    def test_a_model_that_was_added_meanwhile_is_there_when_the_effect_is_chosen_again(self, fit, editor, tmp_path):
        own = tmp_path / "mine"
        path = next(entry.path for entry in models.entries() if entry.key == "letter-b")
        (shutil.copytree if path.is_dir() else shutil.copy)(path, own)
        count = fit.widgets.modelComboBox.count
        settings.add_own_model(str(own))
        try:
            editor.activate("")
            editor.activate(NAME)
            assert fit.widgets.modelComboBox.count == count + 1
            assert fit.widgets.model.key == "letter-b"  # what was chosen stays so
            choose(fit, str(own))
            standin.click(fit.widgets.applyButton)
            assert fit.engine.asked[0][1]["model"] == str(own)
            answer(fit)
        finally:
            settings.remove_own_model(str(own))
        editor.activate("")
        editor.activate(NAME)
        assert fit.widgets.modelComboBox.count == count

    def test_without_torch(self, fit, editor, monkeypatch):
        from AtlasISTNHost import torch_setup

        with monkeypatch.context() as patch:
            patch.setattr(torch_setup, "state", lambda *_path: torch_setup.TorchState("not-installed"))
            editor.activate("")
            editor.activate(NAME)
            assert not fit.widgets.applyButton.enabled
            assert "PyTorch" in fit.widgets.applyButton.toolTip
        editor.activate("")  # it is installed in the module, and that is left for the editor again
        editor.activate(NAME)
        assert fit.widgets.applyButton.enabled


class TestRun:
    def test_the_segments_are_what_is_fitted_to(self, fit, drawn, scan):
        fit.widgets.iterationsSpinBox.value = 12
        standin.click(fit.widgets.applyButton)
        (do, fields), before = fit.engine.asked[0], voxels(drawn, scan)
        assert do == "refine"
        assert fields["config"]["iterations"] == 12
        target = np.load(f"{fields['target']['folder']}/{fields['target']['array']}")
        assert set(np.unique(target)) == {0, fit.widgets.model.manifest.labels[1].value}
        np.testing.assert_array_equal(target.reshape(before["Letter B"].shape) != 0, before["Letter B"] != 0)
        answer(fit)

    def test_it_replaces_the_segment_in_one_step_that_one_undo_takes_back(self, fit, editor, drawn, scan):
        before = voxels(drawn, scan)
        standin.click(fit.widgets.applyButton)
        assert same(voxels(drawn, scan), before)  # nothing happens before the engine is done
        bar = answer(fit)
        after = voxels(drawn, scan)
        np.testing.assert_array_equal(after["Letter B"] != 0, bar)
        np.testing.assert_array_equal(after["Spot"], before["Spot"])
        assert "Undo" in fit.widgets.statusLabel.text
        assert fit.widgets.applyButton.enabled
        editor.undo()
        assert same(voxels(drawn, scan), before)
        assert not editor.logic.CanUndo()

    def test_the_editable_area_holds(self, fit, editor, drawn, scan):
        before = voxels(drawn, scan)
        editor.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
        standin.click(fit.widgets.applyButton)
        bar = answer(fit, slice(10, 60))
        spot = before["Spot"] != 0
        assert (bar & spot).any()
        expected = np.where(spot, before["Letter B"] != 0, bar)
        np.testing.assert_array_equal(voxels(drawn, scan)["Letter B"] != 0, expected)

    def test_progress_is_shown(self, fit):
        standin.click(fit.widgets.applyButton)
        assert fit.widgets.progressBar.visible
        assert not fit.widgets.applyButton.enabled
        fit.engine.progress(stage="refine", step=3, total=10, values={})
        assert fit.widgets.progressBar.value == 300
        assert "3" in fit.widgets.statusLabel.text
        assert "10" in fit.widgets.statusLabel.text
        answer(fit)
        assert not fit.widgets.progressBar.visible

    def test_cancelled_means_untouched(self, fit, drawn, scan):
        before = voxels(drawn, scan)
        standin.click(fit.widgets.applyButton)
        standin.click(fit.widgets.cancelButton)
        assert fit.engine.cancelled == 1
        assert not fit.widgets.cancelButton.enabled
        answer(fit)  # the engine gives what it had
        assert same(voxels(drawn, scan), before)
        assert "as they were" in fit.widgets.statusLabel.text
        assert fit.failure is None
        assert fit.widgets.applyButton.enabled

    def test_another_effect_stops_it(self, fit, editor, drawn, scan):
        before = voxels(drawn, scan)
        standin.click(fit.widgets.applyButton)
        editor.activate("")
        assert fit.engine.cancelled == 1
        fit.engine.answer("error", Failure("Cancelled", "cancelled"))
        assert same(voxels(drawn, scan), before)
        assert fit.failure is None

    def test_windowing_meanwhile_does_not(self, fit, editor, drawn):
        """Slicer leaves an effect when the mouse is for something else, unless the effect says that it may stay."""
        standin.click(fit.widgets.applyButton)
        interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        interaction.SetCurrentInteractionMode(interaction.AdjustWindowLevel)
        try:
            assert fit.effect.active()
            assert fit.engine.cancelled == 0
        finally:
            interaction.SwitchToViewTransformMode()
        answer(fit)

    @pytest.mark.parametrize("kind", ["DeviceError", "Crashed"])
    def test_a_failure_leaves_the_segments_and_says_why(self, fit, editor, drawn, scan, kind):
        before = voxels(drawn, scan)
        standin.click(fit.widgets.applyButton)
        fit.engine.answer("error", Failure(kind, "The processor melted", "use another one"))
        assert same(voxels(drawn, scan), before)
        assert not editor.logic.CanUndo()
        assert "The processor melted" in fit.widgets.statusLabel.text
        assert "se another one" in fit.widgets.statusLabel.text
        assert fit.widgets.applyButton.enabled
        standin.click(fit.widgets.applyButton)  # and the next one works
        answer(fit)
        assert "melted" not in fit.widgets.statusLabel.text

    def test_a_result_without_its_files_leaves_the_segments(self, fit, editor, drawn, scan):
        before = voxels(drawn, scan)
        standin.click(fit.widgets.applyButton)
        fit.engine.answer("result", {"folder": fit.engine.asked[0][1]["folder"], "volumes": {}})
        assert same(voxels(drawn, scan), before)
        assert "could not be written" in fit.widgets.statusLabel.text
        assert not editor.logic.CanUndo()

    def test_what_was_drawn_meanwhile_is_not_lost(self, fit, drawn, scan):
        standin.click(fit.widgets.applyButton)
        mine = np.zeros_like(voxels(drawn, scan)["Letter B"])
        mine[:, 5:9, 5:9] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(mine, drawn, "Letter B", scan)
        answer(fit)
        np.testing.assert_array_equal(voxels(drawn, scan)["Letter B"], mine)
        assert "meanwhile" in fit.widgets.statusLabel.text

    def test_a_volume_that_was_moved_meanwhile_takes_no_segments_with_it(self, fit, drawn, scan):
        before = voxels(drawn, scan)
        standin.click(fit.widgets.applyButton)
        move = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = np.eye(4)
        matrix[0, 3] = 10.0
        move.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        scan.SetAndObserveTransformNodeID(move.GetID())
        answer(fit)
        scan.SetAndObserveTransformNodeID(None)
        assert same(voxels(drawn, scan), before)
        assert "moved meanwhile" in fit.widgets.statusLabel.text

    def test_another_segmentation_chosen_meanwhile_is_left_alone(self, fit, editor, drawn, scan):
        before = voxels(drawn, scan)
        standin.click(fit.widgets.applyButton)
        other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Other")
        other.GetSegmentation().AddEmptySegment("Letter B", "Letter B")
        editor.node.SetAndObserveSegmentationNode(other)
        answer(fit)
        assert same(voxels(drawn, scan), before)
        assert "meanwhile" in fit.widgets.statusLabel.text

    def test_the_scene_is_closed_in_mid_run(self, fit, editor):
        standin.click(fit.widgets.applyButton)
        editor.activate("")
        slicer.mrmlScene.Clear(0)
        answer(fit)
        assert fit.failure is None

    def test_no_files_are_left(self, fit):
        standin.click(fit.widgets.applyButton)
        folder = fit.jobs._root
        assert any(folder.iterdir())
        answer(fit)
        assert not any(folder.iterdir())

    def test_an_idle_engine_is_ended(self, fit, monkeypatch):
        monkeypatch.setattr(fit_effect, "IDLE_MS", 20)
        standin.click(fit.widgets.applyButton)
        answer(fit)
        assert standin.wait_until(lambda: fit.engine.stopped, 5)


def test_with_the_real_engine(editor, drawn, scan):
    """The gap in the letter is bridged, what is no letter stays, and undo brings the gap back."""
    fit = editor.activate(NAME).fit
    fit.effect.optionsFrame().show()
    choose(fit, "letter-b")
    fit.widgets.iterationsSpinBox.value = 8
    before = voxels(drawn, scan)
    standin.click(fit.widgets.applyButton)
    assert standin.wait_until(lambda: not fit.busy, SECONDS)
    assert fit.failure is None
    after = voxels(drawn, scan)
    rows = np.argwhere(before["Letter B"].any(axis=(0, 2))).ravel()
    gap = [row for row in range(rows[0], rows[-1]) if row not in rows]
    assert len(gap) == 12
    assert after["Letter B"][:, gap].any(axis=(0, 2)).all()
    np.testing.assert_array_equal(after["Spot"], before["Spot"])
    editor.undo()
    assert same(voxels(drawn, scan), before)
