"""ctk's and Slicer's widgets in the stand-in host behave as theirs do, and forms load as in Slicer or not at all."""

from __future__ import annotations

from pathlib import Path

import ctk
import numpy as np
import pytest
import qt
import slicer
import standin
from standin import dialogs
from standin.ui_loader import UiError

UI = Path(__file__).resolve().parents[2] / "AtlasISTN" / "Resources" / "UI" / "AtlasISTN.ui"


@pytest.fixture
def scene():
    slicer.mrmlScene.Clear()
    return slicer.mrmlScene


@pytest.fixture
def selector(scene):
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.showChildNodeTypes = False
    combo.setMRMLScene(scene)
    return combo


def add(scene, name: str, class_name: str = "vtkMRMLScalarVolumeNode"):
    return scene.AddNewNodeByClass(class_name, name)


def shown_texts(combo) -> list[str]:
    inner = combo.children()[0]
    inner = inner if inner.className() == "QComboBox" else combo.findChild(qt.QComboBox)
    return [inner.itemText(row) for row in range(inner.count)]


# --- folding


@pytest.mark.parametrize("make", [lambda: ctk.ctkCollapsibleButton("Advanced"), lambda: ctk.ctkCollapsibleGroupBox()])
def test_folding_hides_the_contents_and_minds_what_they_were_told(make) -> None:
    window, folding = qt.QWidget(), make()
    qt.QVBoxLayout(window).addWidget(folding)
    layout = qt.QVBoxLayout(folding)
    always, later, never = qt.QLabel("always"), qt.QLabel("later"), qt.QLabel("never")
    for label in (always, later, never):
        layout.addWidget(label)
    never.visible = False
    window.show()
    standin.process_events()
    tall = folding.height
    assert (always.visible, never.visible) == (True, False)
    standin.click(folding)
    standin.process_events()
    assert folding.collapsed is True
    assert folding.checked is False
    assert (always.visible, later.visible, never.visible) == (False, False, False)
    assert folding.height < tall
    always.visible = False
    never.visible = True  # while folded: nothing is seen of it yet
    assert never.visible is False
    folding.collapsed = False
    standin.process_events()
    assert (always.visible, later.visible, never.visible) == (False, True, True)
    window.close()


def test_what_is_put_into_a_folded_button_is_not_shown() -> None:
    window, button, told = qt.QWidget(), ctk.ctkCollapsibleButton(), []
    button.connect("contentsCollapsed(bool)", told.append)
    qt.QVBoxLayout(window).addWidget(button)
    button.collapsed = True
    label = qt.QLabel("inside")
    qt.QVBoxLayout(button).addWidget(label)
    window.show()
    standin.process_events()
    assert label.visible is False
    button.collapsed = False
    standin.process_events()
    assert label.visible is True
    assert told == [True, False]
    window.close()


# --- numbers


def test_a_slider_widget_keeps_to_its_bounds() -> None:
    slider, got = ctk.ctkSliderWidget(), []
    slider.decimals, slider.singleStep, slider.minimum, slider.maximum = 2, 0.05, 0.25, 1
    assert slider.value == 0.25
    slider.valueChanged.connect(got.append)
    slider.value = 3
    slider.value = 1
    slider.value = 0.5
    assert got == [1.0, 0.5]


def test_dragging_a_slider_widget_without_tracking_tells_at_the_end() -> None:
    slider, changed, changing = ctk.ctkSliderWidget(), [], []
    slider.maximum, slider.tracking = 100, False
    slider.valueChanged.connect(changed.append)
    slider.valueIsChanging.connect(changing.append)
    inner = slider.findChild(qt.QSlider)
    inner.setSliderDown(True)
    inner.value = 40
    inner.value = 60
    assert (changed, changing) == ([], [40.0, 60.0])
    inner.setSliderDown(False)
    assert changed == [60.0]


def test_a_range_never_turns_over() -> None:
    widget, got = ctk.ctkRangeWidget(), []
    widget.maximum = 200
    widget.connect("valuesChanged(double,double)", lambda low, high: got.append((low, high)))
    widget.minimumValue = 150
    widget.maximumValue = 50
    widget.setRange(60, 100)
    assert got == [(150.0, 150.0), (50.0, 50.0), (60.0, 60.0)]


# --- paths and lists


def test_a_path_is_chosen_and_remembered(tmp_path: Path) -> None:
    edit, got = ctk.ctkPathLineEdit(), []
    edit.filters = ctk.ctkPathLineEdit.Dirs
    edit.settingKey = "AtlasISTN/TestFolder"
    edit.currentPathChanged.connect(got.append)
    dialogs.answer("QFileDialog.getExistingDirectory", str(tmp_path))
    edit.browse()
    edit.addCurrentPathToHistory()
    assert (edit.currentPath, got) == (str(tmp_path), [str(tmp_path)])
    later = ctk.ctkPathLineEdit()
    later.settingKey = "AtlasISTN/TestFolder"
    assert later.currentPath == str(tmp_path)


def test_the_kind_of_path_decides_the_dialog() -> None:
    edit = ctk.ctkPathLineEdit()
    for filters, kind in (
        (ctk.ctkPathLineEdit.Files, "getOpenFileName"),
        (ctk.ctkPathLineEdit.Files | ctk.ctkPathLineEdit.Writable, "getSaveFileName"),
        (ctk.ctkPathLineEdit.Dirs, "getExistingDirectory"),
    ):
        edit.filters = filters
        dialogs.answer(f"QFileDialog.{kind}", "")
        edit.browse()  # the user cancels
    assert edit.currentPath == ""


def test_a_folder_button(tmp_path: Path) -> None:
    button, got = ctk.ctkDirectoryButton(), []
    button.directoryChanged.connect(got.append)
    dialogs.answer("QFileDialog.getExistingDirectory", str(tmp_path))
    assert button.browse() == str(tmp_path)
    button.directory = str(tmp_path)
    assert (button.directory, got) == (str(tmp_path), [str(tmp_path)])


def test_a_list_by_its_data() -> None:
    combo = ctk.ctkComboBox()
    for text in ("one", "two"):
        combo.addItem(text.title(), text)
    combo.setCurrentUserDataAsString("two")
    assert (combo.currentText, combo.currentData, combo.currentUserDataAsString) == ("Two", "two", "two")


# --- nodes


def test_the_first_node_is_chosen_where_none_is_not_offered(selector, scene) -> None:
    assert selector.currentNode() is None
    node = add(scene, "CT")
    add(scene, "MR")
    add(scene, "labels", "vtkMRMLLabelMapVolumeNode")
    assert selector.currentNode() is node
    assert (selector.currentNodeID, selector.nodeCount()) == (node.GetID(), 2)


def test_none_is_offered_first(selector, scene) -> None:
    selector.noneEnabled, selector.noneDisplay = True, "Select a volume"
    node = add(scene, "CT")
    assert selector.currentNode() is None
    assert shown_texts(selector)[:2] == ["Select a volume", "CT"]
    selector.setCurrentNode(node)
    scene.Clear()
    assert selector.currentNode() is None


def test_a_node_is_chosen_before_the_scene_is_known(scene) -> None:
    add(scene, "first")
    node, combo = add(scene, "second"), slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    assert combo.enabled is False
    combo.setCurrentNodeID(node.GetID())
    combo.setMRMLScene(scene)
    assert combo.enabled is True
    assert combo.currentNode() is node


def test_names_and_removals_are_followed(selector, scene) -> None:
    first, second, third, got = add(scene, "a"), add(scene, "b"), add(scene, "c"), []
    selector.setCurrentNode(second)
    selector.connect("currentNodeChanged(vtkMRMLNode*)", got.append)
    second.SetName("renamed")
    assert "renamed" in shown_texts(selector)
    scene.RemoveNode(second)
    assert selector.currentNode() is third
    scene.RemoveNode(third)
    assert selector.currentNode() is first
    assert got == [third, first]


def test_hidden_nodes_and_nodes_without_an_attribute_are_left_out(selector, scene) -> None:
    hidden, plain = add(scene, "hidden"), add(scene, "plain")
    hidden.HideFromEditorsOn()
    selector.addAttribute("vtkMRMLScalarVolumeNode", "AtlasISTN.Role", "atlas-image")
    assert selector.nodeCount() == 0
    plain.SetAttribute("AtlasISTN.Role", "atlas-image")
    selector.removeAttribute("vtkMRMLScalarVolumeNode", "AtlasISTN.Role")
    assert (selector.nodeCount(), selector.currentNode()) == (1, plain)


def test_nodes_are_made_renamed_and_deleted_from_the_list(selector, scene) -> None:
    selector.renameEnabled, selector.baseName = True, "Scan"
    inner, by_user = selector.findChild(qt.QComboBox), []
    selector.connect("nodeAddedByUser(vtkMRMLNode*)", by_user.append)

    def choose(text: str) -> None:
        row = inner.findText(text)
        assert row >= 0, shown_texts(selector)
        inner.setCurrentIndex(row)
        inner.activated.emit(row)

    choose("Create new Volume")
    node = selector.currentNode()
    assert (node.GetName(), by_user) == ("Scan", [node])
    dialogs.answer("QInputDialog.getText", "Renamed")
    choose("Rename current Volume")
    assert node.GetName() == "Renamed"
    assert selector.currentNode() is node
    choose("Delete current Volume")
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    assert selector.currentNode() is None


def test_many_nodes_at_once_are_told_once(selector, scene) -> None:
    got = []
    selector.currentNodeIDChanged.connect(got.append)
    scene.StartState(scene.BatchProcessState)
    nodes = [add(scene, str(number)) for number in range(5)]
    scene.EndState(scene.BatchProcessState)
    assert (selector.nodeCount(), got) == (5, [nodes[0].GetID()])


def test_marked_nodes(scene) -> None:
    combo, told = slicer.qMRMLCheckableNodeComboBox(), []
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(scene)
    first, second = add(scene, "a"), add(scene, "b")
    combo.connect("checkedNodesChanged()", lambda: told.append(len(combo.checkedNodes())))
    combo.check(second)
    combo.setCheckState(first, qt.Qt.Checked)
    combo.uncheck(second)
    assert combo.checkedNodes() == (first,)
    assert combo.checkState(second) == qt.Qt.Unchecked
    assert told == [1, 2, 1]


def test_segments_are_shown_and_followed(scene) -> None:
    node, table = add(scene, "heart", "vtkMRMLSegmentationNode"), slicer.qMRMLSegmentsTableView()
    node.CreateDefaultDisplayNodes()
    table.setMRMLScene(scene)
    table.setSegmentationNode(node)
    left = node.GetSegmentation().AddEmptySegment("left", "left ventricle")
    node.GetSegmentation().AddEmptySegment("right", "right ventricle")
    assert (table.segmentCount, table.displayedSegmentIDs()) == (2, ("left", "right"))
    node.GetSegmentation().GetSegment(left).SetName("LV")
    assert table.findChild(qt.QTableWidget).item(0, 2).text() == "LV"
    got = []
    table.connect("selectionChanged(QItemSelection,QItemSelection)", lambda *_: got.append(table.selectedSegmentIDs()))
    table.setSelectedSegmentIDs(["right"])
    assert got[-1] == ("right",)


def test_a_segment_is_chosen(scene) -> None:
    node, widget, got = add(scene, "heart", "vtkMRMLSegmentationNode"), slicer.qMRMLSegmentSelectorWidget(), []
    for name in ("left", "right"):
        node.GetSegmentation().AddEmptySegment(name, name)
    widget.setMRMLScene(scene)
    widget.setCurrentNode(node)
    widget.connect("currentSegmentChanged(QString)", got.append)
    widget.setCurrentSegmentID("right")
    assert (widget.currentSegmentID(), got) == ("right", ["right"])
    node.GetSegmentation().RemoveSegment("right")
    assert widget.currentSegmentID() == "left"


def test_a_table_node_is_shown(scene) -> None:
    node, view = add(scene, "measures", "vtkMRMLTableNode"), slicer.qMRMLTableView()
    slicer.util.updateTableFromArray(node, [np.array([0.5, 0.25])], ["Dice"])
    view.setMRMLScene(scene)
    view.setMRMLTableNode(node)
    assert view.mrmlTableNode() is node
    texts = {view.model().index(row, 0).data() for row in range(view.model().rowCount())}
    assert {"0.5", "0.25"} <= texts


# --- forms


def test_the_panels_form_loads_whole(scene, tmp_path: Path) -> None:
    widget = slicer.util.loadUI(str(UI))
    ui = slicer.util.childWidgetVariables(widget)
    assert ui.exportPathEdit.filters == ctk.ctkPathLineEdit.Dirs
    assert ui.inputVolumeSelector.mrmlScene() is None
    widget.setMRMLScene(scene)
    assert ui.inputVolumeSelector.mrmlScene() is scene
    assert type(ui.inputVolumeSelector) is slicer.qMRMLNodeComboBox
    assert type(ui.atlasOpacitySlider) is ctk.ctkSliderWidget
    assert (ui.inputCollapsibleButton.collapsed, ui.advancedGroupBox.collapsed) == (False, True)
    widget.resize(460, 900)
    widget.show()
    standin.grab(widget, tmp_path / "form.png")
    assert ui.inputVolumeSelector.visible is True
    hidden = [child for child in ui.advancedGroupBox.children() if isinstance(child, qt.QWidget)]
    assert hidden
    assert not any(child.visible for child in hidden)
    widget.close()


FORM = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Form</class><widget class="qMRMLWidget" name="Form"><layout class="QVBoxLayout">
<item><widget class="{widget}" name="inner">{property}</widget></item></layout></widget>
<connections><connection><sender>Form</sender><signal>{signal}</signal><receiver>{receiver}</receiver>
<slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""
GOOD = {
    "widget": "qMRMLNodeComboBox",
    "property": '<property name="noneEnabled"><bool>true</bool></property>',
    "signal": "mrmlSceneChanged(vtkMRMLScene*)",
    "receiver": "inner",
}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"widget": "ctkNothing"}, "no stand-in for ctkNothing"),
        ({"property": '<property name="noneEnable"><bool>true</bool></property>'}, "has no property 'noneEnable'"),
        ({"signal": "sceneChanged(vtkMRMLScene*)"}, "no signal sceneChanged"),
        ({"receiver": "other"}, "'other', which is not in the form"),
        ({"widget": "QLabel", "property": ""}, "no slot setMRMLScene"),
    ],
)
def test_a_form_that_slicer_would_load_in_part_is_refused(change, text: str, tmp_path: Path) -> None:
    path = tmp_path / "Form.ui"
    path.write_text(FORM.format(**GOOD), encoding="utf-8")
    assert slicer.util.loadUI(str(path)).inner.noneEnabled is True
    path.write_text(FORM.format(**(GOOD | change)), encoding="utf-8")
    with pytest.raises(UiError, match=text):
        slicer.util.loadUI(str(path))
