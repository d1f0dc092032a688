"""Steer, as a user meets it: what the atlas is fitted to, what is ignored, how hard structures pull."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import standin
from house import MODULE
from standin import mrml

sys.path.insert(0, str(MODULE))

from AtlasISTNHost import frames, ignore, nodes, segments, targets

from AtlasISTNLib.errors import AtlasISTNError
from AtlasISTNLib.exchange import volume_from_files
from AtlasISTNLib.resources import samples_folder
from AtlasISTNLib.volume import Volume

SECONDS = 240  # an engine that starts on a busy machine
HEART = {
    1: "heart_myocardium",
    2: "heart_ventricle_left",
    3: "heart_ventricle_right",
    4: "heart_atrium_right",
    5: "heart_atrium_left",
}


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    """The module, opened once for all tests, with Steer unfolded and a Segment Editor to go to."""
    slicer.mrmlScene.Clear(0)
    slicer.modules.segmenteditor = mrml.Module("SegmentEditor")
    found = standin.open_module(MODULE / "AtlasISTN.py")
    found.parent.resize(480, 1800)
    found.parent.show()
    found.widget.enter()
    assert found.widget.panel.ui.steerCollapsibleButton.collapsed  # until somebody needs it
    found.widget.panel.ui.steerCollapsibleButton.collapsed = False
    found.widget.panel.ui.weightsGroupBox.collapsed = False
    yield found
    standin.close_module(found)
    slicer.mrmlScene.Clear(0)
    del slicer.modules.segmenteditor


@pytest.fixture
def panel(module: Any) -> Iterator[Any]:
    """The panel in an empty scene, with the heart's model."""
    found = module.widget.panel
    slicer.mrmlScene.Clear(0)
    found.session.show_failure(None)
    standin.process_events()
    choose_model(found, "phantom-heart")
    yield found
    slicer.mrmlScene.Clear(0)
    standin.process_events()


@pytest.fixture
def ui(panel: Any) -> Any:
    return panel.ui


def choose_model(panel: Any, key: str) -> None:
    panel.ui.modelComboBox.setCurrentIndex([entry.key for entry in panel.input.entries].index(key))
    standin.process_events()


@pytest.fixture
def told(panel: Any, monkeypatch: Any) -> list[str]:
    """A word for each time that a running refinement would have to begin again."""
    words: list[str] = []
    monkeypatch.setattr(panel.steer, "_on_change", lambda: words.append("changed"))
    return words


@pytest.fixture
def scan(panel: Any) -> Any:
    """A scan of 24 × 22 × 20 voxels, chosen as the input."""
    shape = (20, 22, 24)
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    matrix = np.diag([-2.0, -2.5, 3.0, 1.0])
    matrix[:3, 3] = (20.0, 30.0, -40.0)
    node = slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name="CT")
    panel.parameters.inputVolume = node
    standin.process_events()
    return node


@pytest.fixture
def result(panel: Any, scan: Any) -> Any:
    """What segmenting has left in the scene: segmentation and prediction with the model's labels."""
    manifest = panel.input.model.manifest
    volume = Volume(boxes(scan)[np.newaxis], frames.grid_of(scan), "labels")
    made = {}
    for role in (nodes.SEGMENTATION, nodes.PREDICTION):
        layer = segments.layer_of(volume, manifest.labels, frames.ijk_to_ras(scan))
        made[role] = segments.write_segmentation(layer, role, role, manifest.labels, scan, manifest.about.name)
    standin.process_events()
    return made


def boxes(scan: Any) -> np.ndarray:
    """Five boxes with the values of the model."""
    array = np.zeros(slicer.util.arrayFromVolume(scan).shape, np.uint8)
    for value in range(1, 6):
        array[4:14, 5:15, 2 + 4 * (value - 1) : 4 * value] = value
    return array


def segmentation(scan: Any, names: dict[int, str], name: str = "TotalSegmentator") -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(scan)
    for value, text in names.items():
        key = node.GetSegmentation().AddEmptySegment(f"S{value}", text)
        slicer.util.updateSegmentBinaryLabelmapFromArray((boxes(scan) == value).astype(np.uint8), node, key, scan)
    return node


@pytest.fixture
def total(scan: Any) -> Any:
    """A segmentation as TotalSegmentator names it, with one segment that is no structure of the heart."""
    names = {**HEART, 5: "aorta"}
    return segmentation(scan, names)


def fit_to(ui: Any, node: Any) -> None:
    ui.fitToComboBox.setCurrentIndex(2)
    ui.targetSelector.setCurrentNode(node)
    standin.process_events()


def paint(node: Any, scan: Any, part: tuple[slice, ...] = (slice(2, 6),) * 3) -> np.ndarray:
    """What the Segment Editor does at the end of a stroke."""
    mask = np.zeros(slicer.util.arrayFromVolume(scan).shape, np.uint8)
    mask[part] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, node.GetSegmentation().GetNthSegmentID(0), scan)
    standin.process_events()
    return mask


def request(panel: Any, do: str = "refine") -> dict[str, Any]:
    """The further fields of a request."""
    extra = panel.steer.extra(do)
    return {} if extra is None else extra(panel.parameters.inputVolume, Path())


def read(entry: dict[str, Any]) -> Volume:
    return volume_from_files({key: value for key, value in entry.items() if key != "folder"}, entry["folder"])


def scan_shape(scan: Any) -> tuple[int, int]:
    """Rows and columns of a single slice."""
    return slicer.util.arrayFromVolume(scan).shape[1:]


def rows(table: Any) -> list[tuple[str, str]]:
    return [(table.item(i, 0).text(), table.cellWidget(i, 1).currentText) for i in range(table.rowCount)]


class TestPlain:
    def test_nothing_steers_at_first(self, panel, scan):
        assert request(panel, "refine") == request(panel, "segment") == {}
        assert panel.ui.steerWordsLabel.text == "Fits to the network's prediction."
        assert panel.ui.steerCollapsibleButton.text == "Steer"

    def test_without_a_scan_everything_is_disabled_and_says_why(self, ui):
        for widget in (ui.fitToComboBox, ui.editPredictionButton, ui.paintIgnoreButton, ui.ignoreCheckBox):
            assert not widget.enabled
            assert widget.toolTip
        assert "volume" in ui.steerWordsLabel.text
        assert not ui.withoutNetworkCheckBox.enabled

    def test_before_segmenting_there_is_nothing_to_edit(self, ui, scan):
        assert not ui.editPredictionButton.enabled
        assert "Segment" in ui.editPredictionButton.toolTip
        assert ui.paintIgnoreButton.enabled


class TestTarget:
    def test_segments_are_matched_and_sent_on_the_inputs_voxels(self, panel, ui, scan, total):
        assert not ui.targetSelector.visible
        fit_to(ui, total)
        assert rows(ui.targetTable) == [
            ("heart_myocardium", "left ventricular myocardium"),
            ("heart_ventricle_left", "left ventricle"),
            ("heart_ventricle_right", "right ventricle"),
            ("heart_atrium_right", "right atrium"),
            ("aorta", "not used"),
        ]
        assert "4 of 5" in ui.targetNoteLabel.text
        assert "left atrium" in ui.targetNoteLabel.text
        assert "TotalSegmentator" in ui.steerWordsLabel.text
        assert ui.steerCollapsibleButton.text == "Steer (on)"
        sent = request(panel)
        assert set(sent) == {"steering"}
        assert sent["steering"]["label_weights"] == {"5": 0.0}  # it is not known where the left atrium is
        target = read(sent["steering"]["target"])
        np.testing.assert_array_equal(target.array[0], np.where(boxes(scan) == 5, 0, boxes(scan)))
        assert target.grid.same_as(frames.grid_of(scan))
        assert request(panel, "segment") == {}

    def test_a_correction_counts_and_can_be_taken_back(self, panel, ui, scan, total, told):
        fit_to(ui, total)
        told.clear()
        aorta = ui.targetTable.cellWidget(4, 1)
        aorta.setCurrentIndex(aorta.findText("left atrium"))
        standin.process_events()
        assert told
        assert "5 of 5" in ui.targetNoteLabel.text
        np.testing.assert_array_equal(read(request(panel)["steering"]["target"]).array[0], boxes(scan))
        ui.targetTable.cellWidget(0, 1).setCurrentIndex(0)
        standin.process_events()
        assert 1 not in read(request(panel)["steering"]["target"]).array
        standin.click(ui.rematchButton)
        standin.process_events()
        assert rows(ui.targetTable)[0][1] == "left ventricular myocardium"
        assert rows(ui.targetTable)[4][1] == "not used"
        assert not ui.rematchButton.visible

    def test_nothing_matched_is_a_reason_not_to_refine(self, panel, ui, scan, result):
        assert panel.refine_reason() == ""
        fit_to(ui, segmentation(scan, {1: "spleen"}, "Abdomen"))
        assert "Abdomen" in ui.steerWordsLabel.text
        assert "Abdomen" in panel.refine_reason()
        assert not ui.refineButton.enabled
        assert panel.segment_reason() == ""
        with pytest.raises(AtlasISTNError, match="Abdomen"):
            request(panel)

    def test_a_structure_without_voxels_does_not_pull(self, panel, ui, scan):
        node = segmentation(scan, HEART)
        slicer.util.updateSegmentBinaryLabelmapFromArray(np.zeros_like(boxes(scan)), node, "S2", scan)
        fit_to(ui, node)
        panel.steer._weights._boxes[4].value = 3
        assert request(panel)["steering"]["label_weights"] == {"2": 0.0, "4": 3.0}

    def test_off_in_the_only_structure_of_a_target_is_a_reason(self, panel, ui, scan, result):
        fit_to(ui, segmentation(scan, {2: "LV"}))
        assert panel.refine_reason() == ""
        panel.steer._weights._boxes[2].value = 0
        standin.process_events()
        assert "off" in panel.refine_reason()

    def test_a_result_is_refused(self, panel, ui, result):
        fit_to(ui, result[nodes.SEGMENTATION])
        assert "result" in panel.refine_reason()

    def test_none_chosen_is_a_reason(self, panel, ui, result):
        ui.fitToComboBox.setCurrentIndex(2)
        standin.process_events()
        assert "Choose" in ui.steerWordsLabel.text
        assert "Steer" in panel.refine_reason()

    def test_without_the_network_segmenting_goes_by_it_too(self, panel, ui, scan, total):
        assert not ui.withoutNetworkCheckBox.enabled
        fit_to(ui, total)
        assert ui.withoutNetworkCheckBox.enabled
        standin.click(ui.withoutNetworkCheckBox)
        assert "without the network" in ui.steerWordsLabel.text
        first, again = request(panel, "segment"), request(panel, "refine")
        assert set(first) == {"target"}
        assert again["target"] == first["target"]  # so that the engine knows it again
        assert set(again) == {"target", "steering"}
        assert set(again["steering"]) == {"label_weights"}
        np.testing.assert_array_equal(read(first["target"]).array[0], np.where(boxes(scan) == 5, 0, boxes(scan)))
        paint(total, scan)
        assert request(panel, "segment") != first
        ui.fitToComboBox.setCurrentIndex(0)
        standin.process_events()
        assert request(panel, "segment") == {}

    def test_files_are_written_again_only_when_something_changed(self, panel, ui, scan, total):
        fit_to(ui, total)
        first = request(panel)["steering"]["target"]
        ui.certaintyCheckBox.checked = True
        assert request(panel)["steering"]["target"] == first
        matrix = np.eye(4)
        matrix[:3, 3] = (8.0, 0.0, 0.0)
        move = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        move.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        total.SetAndObserveTransformNodeID(move.GetID())
        standin.process_events()
        second = request(panel)["steering"]["target"]
        assert second["array"] != first["array"]
        assert not (Path(first["folder"]) / first["array"]).exists()
        sent, true = read(second).array[0], np.where(boxes(scan) == 5, 0, boxes(scan))
        np.testing.assert_array_equal(sent[:, :, :-4], true[:, :, 4:])  # 8 mm are 4 voxels


class TestEditing:
    def test_the_button_opens_a_copy_in_the_segment_editor(self, panel, ui, scan, result, told):
        standin.click(ui.editPredictionButton)
        standin.process_events()
        copy = slicer.util.getNode("CT – edited prediction")
        editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        assert editor.GetSegmentationNode() is copy
        assert editor.GetSourceVolumeNode() is scan
        assert slicer.util.selectedModule() == "SegmentEditor"
        assert ui.fitToComboBox.currentIndex == 1
        assert ui.steerWordsLabel.text == "Fits to the edited prediction."
        assert not ui.targetTable.visible
        told.clear()
        mask = paint(copy, scan, (slice(0, 4), slice(0, 4), slice(0, 4)))
        assert told
        sent = read(request(panel)["steering"]["target"])
        np.testing.assert_array_equal(sent.array[0] == 1, mask)
        np.testing.assert_array_equal(sent.array[0] == 3, boxes(scan) == 3)
        assert not segments.edited(result[nodes.PREDICTION])

    def test_the_copy_is_opened_again_and_begun_anew_only_when_asked(self, ui, scan, result):
        assert not ui.startOverButton.visible
        standin.click(ui.editPredictionButton)
        standin.process_events()
        copy = slicer.util.getNode("CT – edited prediction")
        paint(copy, scan)
        standin.click(ui.editPredictionButton)
        standin.process_events()
        assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 3
        standin.click(ui.startOverButton)
        standin.process_events()
        assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 4
        assert "earlier" in copy.GetName()

    def test_an_added_segment_can_be_given_a_structure(self, panel, ui, scan, result):
        standin.click(ui.editPredictionButton)
        copy = slicer.util.getNode("CT – edited prediction")
        copy.GetSegmentation().AddEmptySegment("Segment_1", "scribble")
        standin.process_events()
        assert ui.targetTable.visible
        assert rows(ui.targetTable)[-1] == ("scribble", "not used")

    def test_chosen_without_a_copy_it_says_what_to_do(self, panel, ui, result):
        ui.fitToComboBox.setCurrentIndex(1)
        standin.process_events()
        assert "copy" in panel.refine_reason()
        assert ui.editPredictionButton.enabled


class TestIgnoring:
    def test_a_region_is_painted(self, panel, ui, scan, told):
        assert not ui.ignoredSelector.visible
        standin.click(ui.paintIgnoreButton)
        standin.process_events()
        node = slicer.util.getNode("CT – ignore")
        editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        assert editor.GetSegmentationNode() is node
        assert editor.GetSelectedSegmentID() == ignore.SEGMENT_ID
        assert editor.GetActiveEffectName() == "Paint"
        assert ui.ignoreCheckBox.checked
        assert "nothing yet" in ui.steerWordsLabel.text
        told.clear()
        mask = paint(node, scan)
        assert told == ["changed"]
        assert "ignores 0.96 mL" in ui.steerWordsLabel.text  # 64 voxels of 15 mm³
        sent = request(panel)["steering"]
        assert set(sent) == {"ignore"}
        np.testing.assert_array_equal(read(sent["ignore"]).array[0], mask)
        standin.click(ui.ignoreCheckBox)
        assert request(panel) == {}
        standin.click(ui.paintIgnoreButton)
        assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1

    def test_any_segment_can_be_it(self, panel, ui, scan, total):
        standin.click(ui.ignoreCheckBox)
        assert "region" in ui.steerWordsLabel.text
        ui.ignoredSelector.setCurrentNode(total)
        standin.process_events()
        box = ui.ignoredSegmentComboBox
        assert "region" in ui.steerWordsLabel.text  # which of five?
        box.setCurrentIndex(box.findText("aorta"))
        standin.process_events()
        assert [box.itemText(i) for i in range(box.count)] == [*list(HEART.values())[:4], "aorta"]
        np.testing.assert_array_equal(read(request(panel)["steering"]["ignore"]).array[0], boxes(scan) == 5)

    def test_another_scan_has_another_region(self, panel, ui, scan):
        standin.click(ui.paintIgnoreButton)
        other = slicer.util.addVolumeFromArray(np.zeros((10, 10, 10), np.float32), name="Second")
        panel.parameters.inputVolume = other
        standin.process_events()
        assert not ui.ignoreCheckBox.checked
        assert request(panel) == {}
        standin.click(ui.paintIgnoreButton)
        standin.process_events()
        assert panel.parameters.ignored.GetName() == "Second – ignore"


class TestWeights:
    def test_weights_are_sent_and_reset(self, panel, ui, scan, told):
        panel.steer._weights._boxes[4].value = 0
        panel.steer._weights._boxes[2].value = 2.5
        standin.process_events()
        assert len(told) == 2
        assert request(panel) == {"steering": {"label_weights": {"2": 2.5, "4": 0.0}}}
        assert "right atrium off" in ui.steerWordsLabel.text
        assert "left ventricle × 2.5" in ui.steerWordsLabel.text
        assert ui.weightsTable.cellWidget(3, 1).text == "off"
        standin.click(ui.weightsResetButton)
        assert request(panel) == {}
        assert not ui.weightsResetButton.enabled
        assert ui.weightsTable.cellWidget(1, 1).value == 1

    def test_all_off_is_a_reason(self, panel, ui, result):
        for box in panel.steer._weights._boxes.values():
            box.value = 0
        standin.process_events()
        assert "off" in panel.refine_reason()

    def test_a_model_has_its_own(self, panel, ui, scan):
        panel.steer._weights._boxes[4].value = 3
        choose_model(panel, "letter-b")
        assert ui.weightsTable.rowCount == 1
        assert request(panel) == {}
        choose_model(panel, "phantom-heart")
        assert ui.weightsTable.cellWidget(3, 1).value == 3

    def test_certainty(self, panel, ui, scan, told):
        standin.click(ui.certaintyCheckBox)
        assert request(panel) == {"steering": {"certainty": True}}
        assert "sure" in ui.steerWordsLabel.text
        assert told == ["changed"]


class TestLeaving:
    def test_a_target_that_is_removed(self, panel, ui, scan, total, result, told):
        other = segmentation(scan, {2: "LV"}, "Somebody's")
        fit_to(ui, total)
        told.clear()
        slicer.mrmlScene.RemoveNode(total)
        standin.process_events()
        assert panel.parameters.fitTo == "prediction"
        assert panel.parameters.target is None
        assert "TotalSegmentator" in ui.steerWordsLabel.text
        assert "TotalSegmentator" in ui.messageLabel.text
        assert told
        assert request(panel) == {}
        fit_to(ui, other)
        assert request(panel)["steering"]

    def test_a_selector_that_moves_on_to_a_neighbour_is_not_followed(self, panel, ui, scan, total):
        other = segmentation(scan, {2: "LV"}, "Somebody's")
        fit_to(ui, total)
        scene = slicer.mrmlScene
        observed = scene.AddObserver(
            scene.NodeAboutToBeRemovedEvent, lambda *_: setattr(panel.parameters, "target", other)
        )
        scene.RemoveNode(total)
        scene.RemoveObserver(observed)
        standin.process_events()
        assert panel.parameters.fitTo == "prediction"
        assert panel.parameters.target is None

    def test_another_choice_outlives_the_first_one(self, panel, ui, scan, total):
        other = segmentation(scan, {2: "LV"}, "Somebody's")
        fit_to(ui, total)
        ui.targetSelector.setCurrentNode(other)
        standin.process_events()
        slicer.mrmlScene.RemoveNode(total)
        standin.process_events()
        assert panel.parameters.target is other
        assert panel.parameters.fitTo == "segmentation"

    def test_an_edited_prediction_that_is_removed(self, panel, ui, scan, result):
        standin.click(ui.editPredictionButton)
        standin.process_events()
        slicer.mrmlScene.RemoveNode(slicer.util.getNode("CT – edited prediction"))
        standin.process_events()
        assert ui.fitToComboBox.currentIndex == 0
        assert "edited prediction" in ui.messageLabel.text
        assert ui.steerCollapsibleButton.text == "Steer"

    def test_a_region_that_is_removed(self, panel, ui, scan):
        standin.click(ui.paintIgnoreButton)
        standin.process_events()
        slicer.mrmlScene.RemoveNode(slicer.util.getNode("CT – ignore"))
        standin.process_events()
        assert not ui.ignoreCheckBox.checked
        assert "ignore" in ui.messageLabel.text
        assert request(panel) == {}


class TestScene:
    def test_everything_is_saved_with_the_scene(self, panel, ui, scan, total, result, tmp_path):
        fit_to(ui, total)
        ui.targetTable.cellWidget(4, 1).setCurrentIndex(5)
        standin.click(ui.paintIgnoreButton)
        mask = paint(panel.parameters.ignored, scan)
        panel.steer._weights._boxes[3].value = 2
        ui.certaintyCheckBox.checked = True
        standin.process_events()
        words, before = ui.steerWordsLabel.text, request(panel)
        path = str(tmp_path / "scene.mrb")
        assert slicer.util.saveScene(path)
        slicer.mrmlScene.Clear(0)
        standin.process_events()
        assert ui.steerCollapsibleButton.text == "Steer"
        slicer.util.loadScene(path)
        standin.process_events()
        assert ui.steerWordsLabel.text == words
        assert rows(ui.targetTable)[4] == ("aorta", "left atrium")
        after = request(panel)["steering"]
        assert after["label_weights"] == before["steering"]["label_weights"] == {"3": 2.0}
        assert after["certainty"] is True
        loaded = panel.parameters.inputVolume
        np.testing.assert_array_equal(read(after["ignore"]).array[0], mask)
        np.testing.assert_array_equal(read(after["target"]).array[0], boxes(loaded))

    def test_a_scene_that_is_added_brings_its_own_region(self, panel, ui, scan, result, tmp_path):
        """Its nodes get other IDs than they were saved with, as those here have them already."""
        standin.click(ui.paintIgnoreButton)
        paint(panel.parameters.ignored, scan)
        path = str(tmp_path / "scene.mrb")
        assert slicer.util.saveScene(path)
        here = panel.parameters.ignored
        other = slicer.util.addVolumeFromArray(slicer.util.arrayFromVolume(scan) + 1, name="MR")
        panel.parameters.inputVolume = other
        standin.process_events()
        assert not panel.parameters.ignoreRegion
        slicer.util.loadScene(path, {"clear": False})
        standin.process_events()
        assert panel.parameters.inputVolume not in (scan, other)
        assert panel.parameters.inputVolume.GetName() == "CT"
        assert panel.parameters.ignoreRegion
        assert panel.parameters.ignored is not here
        assert ignore.belongs_to(panel.parameters.ignored, panel.parameters.inputVolume)
        assert ignore.belongs_to(here, scan)
        assert "steering" in request(panel)

    def test_corrections_stay_with_their_segmentation_in_a_scene_that_is_added(self, panel, ui, scan, total, tmp_path):
        fit_to(ui, total)
        ui.targetTable.cellWidget(4, 1).setCurrentIndex(5)
        standin.process_events()
        path = str(tmp_path / "scene.mrb")
        assert slicer.util.saveScene(path)
        slicer.mrmlScene.Clear(0)
        here = slicer.util.addVolumeFromArray(np.zeros((20, 22, 24), np.float32), name="MR")
        mine = segmentation(here, {**HEART, 5: "spleen"}, "mine")
        slicer.util.loadScene(path, {"clear": False})
        standin.process_events()
        assert rows(ui.targetTable)[4] == ("aorta", "left atrium")
        fit_to(ui, mine)
        assert rows(ui.targetTable)[4] == ("spleen", "not used")

    def test_nodes_that_leave_together_are_noticed(self, panel, ui, scan, result):
        """As when many are deleted in one go, of which Slicer tells only at the end."""
        assert panel.review.nodes is not None
        scene = slicer.mrmlScene
        scene.StartState(scene.BatchProcessState)
        for node in result.values():
            scene.RemoveNode(node)
        scene.EndState(scene.BatchProcessState)
        assert panel.review.nodes is None
        assert not ui.editPredictionButton.enabled

    def test_what_other_modules_add_costs_the_panel_little(self, panel, scan, result, monkeypatch):
        standin.process_events()
        looks: list[str] = []
        update = panel.update
        monkeypatch.setattr(panel, "update", lambda: looks.append("looked") or update())
        for name in ("liver", "spleen"):
            model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", name)
            model.CreateDefaultDisplayNodes()
            slicer.mrmlScene.RemoveNode(model)
        assert looks == []
        standin.process_events()
        assert looks == ["looked"]
        slicer.mrmlScene.RemoveNode(result[nodes.SEGMENTATION])
        assert len(looks) > 1
        assert panel.review.nodes is None

    def test_damaged_notes_in_a_scene_do_no_harm(self, panel, ui, scan, total):
        fit_to(ui, total)
        for text in ("{", "[1]", '{"phantom-heart": 3}', '{"phantom-heart": {"2": "x", "9": 1}}'):
            panel.parameters.structureWeights = text
            panel.parameters.targetMatches = text
            standin.process_events()
            assert "4 of 5" in ui.targetNoteLabel.text
            assert request(panel)["steering"]["label_weights"] == {"5": 0.0}

    def test_closing_the_scene_is_no_removal(self, panel, ui, scan, total):
        fit_to(ui, total)
        slicer.mrmlScene.Clear(0)
        standin.process_events()
        assert not ui.messageFrame.visible
        assert panel.steer.choices.target is None


class TestSlice:
    """A model of single slices, with the real engine."""

    def test_a_letter_without_its_network(self, panel, ui):
        menu = ui.sampleButton.menu()
        next(action for action in menu.actions() if action.text == "Letter B").trigger()
        choose_model(panel, "letter-b")
        scan = panel.parameters.inputVolume
        # Half of the letter: what the network would never predict.
        letter = Volume.read(samples_folder() / "letter-b-labels.png").array[0].reshape(1, *scan_shape(scan)) > 0
        rows_, columns = (np.flatnonzero(letter[0].any(axis=axis)) for axis in (1, 0))
        letter[:, rows_[len(rows_) // 2] :] = False
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Half")
        node.SetReferenceImageGeometryParameterFromVolumeNode(scan)
        key = node.GetSegmentation().AddEmptySegment("x", "Letter_B")
        slicer.util.updateSegmentBinaryLabelmapFromArray(letter.astype(np.uint8), node, key, scan)
        fit_to(ui, node)
        standin.click(ui.withoutNetworkCheckBox)
        standin.click(ui.paintIgnoreButton)
        part = (slice(0, 1), slice(rows_[0], rows_[0] + 4), slice(columns[0], columns[0] + 4))
        paint(panel.parameters.ignored, scan, part)
        assert "mm²" in ui.steerWordsLabel.text
        standin.click(ui.segmentButton)
        assert standin.wait_until(lambda: not panel.session.busy, SECONDS)
        assert panel.session.failure is None
        prediction = panel.session.outcome.volumes["prediction"].array[0]
        agreement = 2 * ((prediction > 0) & letter).sum() / ((prediction > 0).sum() + letter.sum())
        assert agreement > 0.9
        ui.iterationsSpinBox.value = 3
        standin.click(ui.refineButton)
        assert standin.wait_until(lambda: not panel.session.busy, SECONDS)
        assert panel.session.failure is None
        assert panel.session.outcome.trace["steering"]["ignore"] == f"{scan.GetName()} – ignore"
        assert (panel.session.outcome.volumes["prediction"].array[0] == prediction).all()
        assert targets.refusal(node) == ""
