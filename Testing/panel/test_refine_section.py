"""The buttons and boxes of Refine by themselves."""

from __future__ import annotations

import sys

import pytest
import slicer
import standin
from house import MODULE
from PySide6 import QtCore, QtTest
from standin import manners

sys.path.insert(0, str(MODULE))

from AtlasISTNHost.models import entries
from AtlasISTNHost.refine_section import RefineSection


def nothing(*_arguments: object) -> None:
    """What a test is not about."""


@pytest.mark.parametrize("box", ["strengthSpinBox", "iterationsSpinBox"])
def test_a_number_that_was_only_typed_counts_without_leaving_its_box(box):
    widget = slicer.util.loadUI(str(MODULE / "Resources" / "UI" / "AtlasISTN.ui"))
    ui = slicer.util.childWidgetVariables(widget)
    widget.resize(520, 2600)
    widget.show()
    ui.refineButton.enabled = True
    seen: list[float] = []
    section = RefineSection(ui, nothing, lambda: seen.append(getattr(ui, box).value), nothing, nothing)
    section.set_model(entries()[0])
    section.show_strength(section.own_strength)
    line = manners.unwrap(getattr(ui, box)).lineEdit()
    line.setFocus()
    line.selectAll()
    QtTest.QTest.keyClicks(line, "123")
    manners.unwrap(ui.refineButton).setFocusPolicy(QtCore.Qt.FocusPolicy.TabFocus)  # as on a Mac
    standin.click(ui.refineButton)
    assert seen == [123]
    section.close()
    widget.close()
