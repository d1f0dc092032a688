"""What Slicer does with the module besides showing it: start-up, its own tests, and events in the midst of work."""

from __future__ import annotations

import os
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import SampleData
import slicer
import standin
from house import MODULE

SECONDS = 240  # an engine that starts on a busy machine


@pytest.fixture
def opened() -> Iterator[Any]:
    """The module, opened in an empty scene; its engine ends with it."""
    slicer.mrmlScene.Clear(0)
    found = standin.open_module(MODULE / "AtlasISTN.py")
    found.parent.resize(480, 1500)
    found.parent.show()
    standin.process_events()
    yield found
    standin.close_module(found)
    slicer.mrmlScene.Clear(0)


def test_sample_data_lists_the_samples_once_slicer_has_started(opened):
    standin.application.startup_completed()
    listed = slicer.modules.sampleDataSources["Atlas-ISTN"]
    assert [source.sampleName for source in listed] == ["Phantom heart", "Phantom heart with artefacts", "Letter B"]
    node = SampleData.downloadSample("Phantom heart")
    assert node.GetName() == "Phantom heart"
    assert min(node.GetImageData().GetDimensions()) > 1
    assert opened.widget.panel.parameters.inputVolume is node


def test_the_modules_own_test_opens_the_panel_itself(opened, monkeypatch):
    """As ctest runs it, one test a method: no panel was shown before."""
    monkeypatch.delattr(slicer.modules, "AtlasISTNWidget")
    result = unittest.TestResult()
    opened.module.AtlasISTNTest("test_panel_opens").run(result)
    assert result.testsRun == 1
    assert result.wasSuccessful(), (result.errors, result.failures)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_a_script_leaves_no_engine_behind(opened):
    """It may end Slicer in the next line."""
    logic = opened.module.AtlasISTNLogic()
    scan = logic.room("samples").load(logic.room("samples").samples()[-1])
    assert logic.process(scan, model="letter-b", refine=False).segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert children() == []


def children() -> list[str]:
    """Command lines of the processes that this one has started and that still run."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.append((place / "cmdline").read_text())
        except OSError:  # it has ended meanwhile
            continue
    return found


def test_double_clicks_do_their_work_once(opened, tmp_path, monkeypatch):
    """The wait cursor appears by way of Qt's events: the second click arrives while the first one is worked on."""
    import qt
    from AtlasISTNHost import exports, torch_setup

    panel = opened.widget.panel
    ui = panel.ui
    next(action for action in ui.sampleButton.menu().actions() if action.text == "Letter B").trigger()
    standin.process_events()
    standin.click(ui.segmentButton)
    assert standin.wait_until(lambda: not panel.session.busy, SECONDS)
    standin.click(ui.exportCollapsibleButton)
    ui.exportPathEdit.currentPath = str(tmp_path)
    ui.exportReportCheckBox.checked = False
    written = []
    write = exports.write
    monkeypatch.setattr(exports, "write", lambda *a, **k: (written.append(a), write(*a, **k))[1])
    qt.QTimer.singleShot(0, ui.exportButton.click)
    ui.exportButton.click()
    standin.process_events()
    assert len(written) == 1
    assert panel.session.failure is None
    assert list(tmp_path.glob("*.seg.nrrd"))

    installed = []

    def install(on_done: Any) -> None:
        with slicer.util.WaitCursor():
            installed.append(on_done)

    monkeypatch.setattr(torch_setup, "install", install)
    qt.QTimer.singleShot(0, ui.torchInstallButton.click)
    ui.torchInstallButton.click()
    standin.process_events()
    assert len(installed) == 1
    panel.input.install_torch()
    assert len(installed) == 2
