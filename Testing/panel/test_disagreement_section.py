"""How sure, as a user meets it: the box, the table, a click on a row; after a new result, and in a loaded scene."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import slicer
import standin
from house import MODULE
from PySide6 import QtCore, QtTest
from standin import manners

sys.path.insert(0, str(MODULE))

import host_results
from AtlasISTNHost import disagreement_map, results

from AtlasISTNLib.volume import Volume

FLIP = np.array([-1.0, -1.0, 1.0])
MODEL = "phantom-heart"


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    slicer.mrmlScene.Clear(0)
    found = standin.open_module(MODULE / "AtlasISTN.py")
    found.parent.resize(480, 2200)
    found.parent.show()
    found.widget.enter()
    standin.process_events()
    yield found
    standin.close_module(found)
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def panel(opened: Any) -> Iterator[Any]:
    """The panel with an empty scene."""
    slicer.mrmlScene.Clear(0)
    standin.process_events()
    panel = opened.widget.panel
    keys = [entry.key for entry in panel.input.entries]
    panel.ui.modelComboBox.setCurrentIndex(keys.index(MODEL))
    return panel


@pytest.fixture
def ui(panel: Any) -> Any:
    return panel.ui


@pytest.fixture
def scan(panel: Any) -> Any:
    """A scan, in all slice views."""
    matrix = np.diag([2.0, 1.8, 2.2, 1.0])
    matrix[:3, 3] = (12.0, -30.0, 7.0)
    node = slicer.util.addVolumeFromArray(np.zeros((26, 30, 32), np.float32), ijkToRAS=matrix, name="CT")
    slicer.util.setSliceViewerLayers(background=node, foreground=None, label=None, fit=True)
    panel.parameters.inputVolume = node
    standin.process_events()
    return node


def structure(value: int, name: str, share: float | None, spot: Any) -> dict[str, Any]:
    """Figures of a structure as the engine sends them."""
    some = {"missing": 1.5, "extra": 0.25, "blob": 0.9, "blob_kind": "extra", "blob_center": spot}
    none = {"missing": 0.0, "extra": 0.0, "blob": 0.0, "blob_kind": "", "blob_center": None}
    return {"value": value, "name": name, "share": share, "unit": "mL", **(none if spot is None else some)}


def segmented(panel: Any, scan: Any, share: float = 0.37, with_map: bool = True) -> results.Outcome:
    """A result of the engine, as it comes after a run."""
    entry = panel.input.model
    model = replace(host_results.manifest(), about=entry.manifest.about)
    plain = host_results.outcome(scan, model)
    placed = plain.final.image_grid
    spot = np.add(placed.center, (6.0, -4.0, 5.0))
    near = (np.linalg.norm(placed.points() - spot, axis=-1) < 7.0).astype(np.float32)
    worst = structure(5, "right atrium", share, spot.tolist())
    found = host_results.without(
        plain,
        disagreement=Volume.from_array(near, placed, "disagreement") if with_map else None,
        figures={**plain.figures, "disagreement": [worst, structure(2, "left ventricle", 0.0, None)]}
        if with_map
        else plain.figures,
    )
    panel.session.adopt(found, results.write_outcome(found, scan, model), scan, entry)
    standin.process_events()
    return found


def cells(table: Any) -> list[list[str]]:
    return [[table.item(i, j).text() for j in range(table.columnCount)] for i in range(table.rowCount)]


def click_row(table: Any, row: int) -> None:
    native = manners.unwrap(table)
    place = native.visualItemRect(native.item(row, 1)).center()
    button, keys = QtCore.Qt.MouseButton.LeftButton, QtCore.Qt.KeyboardModifier.NoModifier
    QtTest.QTest.mouseClick(native.viewport(), button, keys, place)
    standin.process_events()


def foreground() -> str:
    layers = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    node = slicer.mrmlScene.GetNodeByID(layers.GetForegroundVolumeID() or "")
    return "" if node is None else node.GetName()


def test_before_there_is_a_result_it_says_so(ui):
    assert not ui.disagreementCheckBox.enabled
    assert "segmented" in ui.disagreementCheckBox.toolTip
    assert not ui.disagreementTable.visible


def test_the_worst_structure_is_first_and_explained(panel, ui, scan):
    segmented(panel, scan)
    table = ui.disagreementTable
    assert cells(table) == [["right atrium", "37 %", "1.50", "0.25"], ["left ventricle", "0 %", "0", "0"]]
    assert [table.horizontalHeaderItem(i).text() for i in range(4)] == [
        *("Structure", "Disagree", "Missing mL", "Extra mL"),
    ]
    assert "0.90 mL" in table.item(0, 1).toolTip()
    assert "too much" in table.item(0, 1).toolTip()
    assert "agree everywhere" in table.item(1, 0).toolTip()
    assert not table.item(0, 0).icon().isNull()


def test_the_box_lays_the_map_over_the_slices(panel, ui, scan):
    segmented(panel, scan)
    standin.click(ui.disagreementCheckBox)
    assert panel.parameters.showDisagreement
    assert foreground() == "CT disagreement"
    standin.click(ui.disagreementCheckBox)
    assert foreground() == ""


def test_structures_are_outlines_while_a_map_is_shown(panel, ui, scan):
    segmented(panel, scan)
    display = panel.review.nodes.segmentation.GetDisplayNode()
    for box in (ui.disagreementCheckBox, ui.jacobianCheckBox):
        assert display.GetVisibility2DFill()
        standin.click(box)
        standin.process_events()
        assert not display.GetVisibility2DFill()
        assert not ui.outlineCheckBox.checked  # which is the user's
        standin.click(box)
        standin.process_events()
    assert display.GetVisibility2DFill()


def test_two_maps_are_not_shown_at_once(panel, ui, scan):
    segmented(panel, scan)
    standin.click(ui.disagreementCheckBox)
    standin.click(ui.jacobianCheckBox)
    assert (ui.jacobianCheckBox.checked, ui.disagreementCheckBox.checked) == (True, False)
    assert foreground() == "CT Jacobian"
    standin.click(ui.disagreementCheckBox)
    assert (ui.jacobianCheckBox.checked, ui.disagreementCheckBox.checked) == (False, True)
    assert foreground() == "CT disagreement"
    standin.click(ui.disagreementCheckBox)
    assert foreground() == ""


def test_a_click_on_a_row_goes_to_the_spot(panel, ui, scan):
    outcome = segmented(panel, scan)
    spot = np.array(outcome.figures["disagreement"][0]["blob_center"]) * FLIP
    slices = [slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode() for name in ("Red", "Green", "Yellow")]
    for node in slices:
        node.SetSliceOffset(-300.0)
    click_row(ui.disagreementTable, 1)  # where all agree there is nowhere to go
    assert {round(node.GetSliceOffset()) for node in slices} == {-300}
    click_row(ui.disagreementTable, 0)
    for node in slices:
        assert [node.GetSliceToRAS().GetElement(i, 3) for i in range(3)] == pytest.approx(spot, abs=1e-4)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        assert crosshair.GetCrosshairRAS() == pytest.approx(tuple(spot), abs=1e-4)


def test_a_new_result_renews_both(panel, ui, scan):
    segmented(panel, scan)
    standin.click(ui.disagreementCheckBox)
    node = disagreement_map.map_node(panel.how_sure.nodes)
    before = node.GetImageData().GetMTime()
    segmented(panel, scan, share=0.12)
    assert cells(ui.disagreementTable)[0][1] == "12 %"
    assert disagreement_map.map_node(panel.how_sure.nodes) is node
    assert node.GetImageData().GetMTime() > before
    assert foreground() == "CT disagreement"  # and it is shown still


def test_a_result_without_a_map_takes_the_old_one_off(panel, ui, scan):
    segmented(panel, scan)
    standin.click(ui.disagreementCheckBox)
    segmented(panel, scan, with_map=False)
    assert foreground() == ""
    assert not ui.disagreementCheckBox.enabled
    assert "no map" in ui.disagreementCheckBox.toolTip
    assert not ui.disagreementTable.visible


def test_a_loaded_scene_shows_what_was_shown(panel, ui, scan, tmp_path):
    outcome = segmented(panel, scan)
    standin.click(ui.disagreementCheckBox)
    path = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    standin.process_events()
    assert not ui.disagreementTable.visible
    slicer.util.loadScene(str(path))
    standin.process_events()
    assert panel.session.outcome is None  # nothing of the engine's is there any more
    assert cells(ui.disagreementTable)[0] == ["right atrium", "37 %", "1.50", "0.25"]
    assert ui.disagreementCheckBox.checked
    assert foreground() == "CT disagreement"
    node = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    click_row(ui.disagreementTable, 0)
    spot = np.array(outcome.figures["disagreement"][0]["blob_center"]) * FLIP
    assert node.GetSliceOffset() == pytest.approx(spot[2], abs=1e-3)
    standin.click(ui.disagreementCheckBox)
    assert foreground() == ""
