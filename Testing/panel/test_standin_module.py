"""A whole module is opened, driven by clicks and closed in the stand-in host, as a user would in Slicer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qt
import slicer
import standin

SAMPLE = Path(__file__).with_name("host_sample") / "HostSample.py"


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    slicer.mrmlScene.Clear()
    opened = standin.open_module(SAMPLE)
    opened.parent.resize(380, 560)
    opened.parent.show()
    standin.process_events()
    yield opened
    standin.close_module(opened)
    standin.process_events()


@pytest.fixture
def ui(opened: Any) -> Any:
    return opened.widget.ui


def test_slicer_knows_the_module(opened: Any) -> None:
    assert slicer.modules.hostsample.title == "Host sample"
    assert slicer.modules.HostSampleWidget is opened.widget
    assert slicer.util.modulePath("HostSample") == str(SAMPLE)


def test_apply_waits_for_its_inputs_and_works(opened: Any, ui: Any, tmp_path: Path) -> None:
    with pytest.raises(standin.ClickError, match="applyButton is disabled"):
        standin.click(ui.applyButton)
    voxels = np.zeros((6, 8, 10), np.float32)
    voxels[2:4, 3:5, 4:6] = 60
    volume = slicer.util.addVolumeFromArray(voxels, name="CT")
    assert opened.widget.parameters.inputVolume is volume  # the only volume there is
    segmentation = ui.outputSelector.addNode()
    standin.process_events()
    assert opened.widget.parameters.outputSegmentation is segmentation
    ui.thresholdSlider.value = 55
    assert opened.widget.parameters.threshold == 55
    standin.click(ui.applyButton)
    assert ui.statusLabel.text == "8 voxels"
    assert ui.segmentsTable.displayedSegmentIDs() == ("bright",)
    assert float(qt.QSettings().value("HostSample/Threshold")) == 55
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert red.GetBackgroundVolumeID() == volume.GetID()
    assert standin.grab(opened.parent, tmp_path / "panel.png").stat().st_size > 5000


def test_the_parameter_node_sets_the_widgets(opened: Any, ui: Any) -> None:
    opened.widget.parameters.smooth = True
    opened.widget.parameters.threshold = 12.5
    standin.click(ui.smoothBox)
    ui.folderEdit.currentPath = "/data"
    assert (ui.smoothBox.checked, opened.widget.parameters.smooth) == (False, False)
    assert ui.thresholdSlider.value == 12.5
    assert opened.widget.parameters.folder == Path("/data")


def test_a_worker_is_heard(opened: Any, ui: Any) -> None:
    standin.click(ui.workerButton)
    assert standin.wait_until(lambda: ui.statusLabel.text == "Ended with 0")
    assert ui.progressBar.value == 100


def test_an_error_in_a_slot_is_shown_and_not_lost(opened: Any, ui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr(opened.widget.logic, "process", fail)
    standin.click(ui.applyButton)
    assert any("out of ideas" in text for text in standin.messages.texts("error"))
    assert [str(error) for error in standin.slot_errors] == ["out of ideas"]
    standin.slot_errors.clear()
