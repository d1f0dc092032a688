"""The stand-ins for Qt's, ctk's and Slicer's widgets answer as the widgets of a running Slicer were recorded to do."""

from __future__ import annotations

import ctk
import pytest
import qt
import slicer
import standin
from standin import record, widgets

MODULES = {"qt": qt, "ctk": ctk, "slicer": slicer}
STOOD_IN = [name for name in record.classes() if name.startswith("qt.") or name.split(".")[1] in widgets.every()]
# Qt 6, over which the stand-ins are made, no longer has these; Slicer's Qt 5 does. Code that has to run in both must
# not use them, so reading one raises NotImplementedError.
GONE_IN_QT_6 = {
    "QComboBox": {"autoCompletion", "autoCompletionCaseSensitivity"},
    "QFileDialog": {"confirmOverwrite", "nameFilterDetailsVisible", "readOnly", "resolveSymlinks"},
    "QFormLayout": {"margin"},
    "QGridLayout": {"margin"},
    "QVBoxLayout": {"margin"},
    "QPlainTextEdit": {"tabStopWidth"},
    "QTextBrowser": {"tabStopWidth"},
    "QTextEdit": {"tabStopWidth"},
}
# Numbers that Qt 6 changed. What code does with the names works; nothing may be written as a number.
OTHER_NUMBERS_IN_QT_6 = {
    ("QComboBox", "AdjustToMinimumContentsLengthWithIcon"): 2,
    ("ctkComboBox", "AdjustToMinimumContentsLengthWithIcon"): 2,
    ("QFileDialog", "DontUseNativeDialog"): 8,
    ("QFileDialog", "ReadOnly"): 16,
    ("QFileDialog", "HideNameFilterDetails"): 32,
    ("QFileDialog", "DontUseCustomDirectoryIcons"): 64,
}
# Methods that are offered as in Slicer and refuse to work: gone in Qt 6, of no use in Python, or not made.
CANNOT_DO = {
    "ctk.ctkMessageBox": "onFinished showExtension",
    "qt.QAction": "associatedGraphicsWidgets associatedWidgets parentWidget",
    "qt.QByteArray": "operator_assign readFrom writeTo",
    "qt.QColor": "readFrom writeTo",
    "qt.QDialog": "showExtension",
    "qt.QFileDialog": (
        "isNameFilterDetailsVisible isReadOnly setConfirmOverwrite setNameFilterDetailsVisible setReadOnly "
        "setResolveSymlinks showExtension"
    ),
    "qt.QFormLayout": "setMargin",
    "qt.QGridLayout": "setMargin",
    "qt.QIcon": "readFrom writeTo",
    "qt.QKeySequence": "operator_subscript readFrom writeTo",
    "qt.QLineEdit": "getTextMargins",
    "qt.QListWidget": "viewOptions",
    "qt.QMessageBox": "showExtension",
    "qt.QPixmap": "grabWidget grabWindow readFrom writeTo",
    "qt.QPlainTextEdit": "setTabStopWidth",
    "qt.QProcess": "setupChildProcess",
    "qt.QProcessEnvironment": "operator_assign",
    "qt.QSettings": "iniCodec setIniCodec",
    "qt.QSplitter": "readFrom writeTo",
    "qt.QTableWidget": "viewOptions",
    "qt.QTextBrowser": "setTabStopWidth",
    "qt.QTextEdit": "setTabStopWidth",
    "qt.QTreeWidget": "isFirstItemColumnSpanned setFirstItemColumnSpanned viewOptions",
    "qt.QUrl": "readFrom topLevelDomain writeTo",
    "qt.QVBoxLayout": "setMargin",
    "slicer.qMRMLCheckableNodeComboBox": "setUserCheckable sortFilterProxyModel",
    "slicer.qMRMLNodeComboBox": "sortFilterProxyModel",
    "slicer.qMRMLPlotWidget": (
        "controllerWidget logic mrmlAbstractViewNode pauseRender pixmapFromIcon plotController plotView "
        "postInitializeApplication preInitializeApplication resumeRender setMRMLAbstractViewNode "
        "setRenderPaused viewWidget"
    ),
    "slicer.qMRMLSegmentSelectorWidget": (
        "pixmapFromIcon postInitializeApplication preInitializeApplication selectedSegmentIDs setSelectedSegmentIDs"
    ),
    "slicer.qMRMLSegmentsTableView": (
        "clearSelectedSegments hideSegments jumpSlices model moveSelectedSegmentsDown moveSelectedSegmentsUp "
        "pixmapFromIcon postInitializeApplication preInitializeApplication setHideSegments "
        "setSelectedSegmentsStatus setStatusShown showOnlySelectedSegments sortFilterProxyModel statusShown "
        "terminologyTooltipForSegment toggleSelectedSegmentsVisibility"
    ),
    "slicer.qMRMLTableView": (
        "copySelection deleteColumn deleteRow insertColumn insertRow mrmlTableViewNode pasteSelection "
        "plotSelection setMRMLTableViewNode sortFilterProxyModel viewOptions"
    ),
    "slicer.qMRMLWidget": "pixmapFromIcon postInitializeApplication preInitializeApplication",
}
# First values that depend on the machine, its style or its window system: sizes, fonts, pictures.
BY_STYLE = {"frameRect", "iconSize", "font", "minimumSizeHint", "sizeHint", "tabStopDistance"}
PLAIN = {"bool": bool, "int": int, "float": float, "str": str, "tuple": tuple, "NoneType": type(None)}


def class_of(name: str):
    home, short = name.split(".")
    return getattr(MODULES[home], short)


def make(name: str):
    return class_of(name)()


def plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("name", STOOD_IN)
def test_what_a_stand_in_cannot_do_is_known_and_refused(name: str) -> None:
    cls = class_of(name)
    lacking = {key for key, kind in cls._info.missing().items() if kind == "method"}
    assert lacking == set(CANNOT_DO.get(name, "").split())
    made = make(name)
    for key in lacking:
        with pytest.raises(NotImplementedError):
            getattr(made, key)()


@pytest.mark.parametrize("name", STOOD_IN)
def test_every_recorded_name_is_there_and_no_other(name: str) -> None:
    cls, entry = class_of(name), record.entry(name)
    missing = cls._info.missing()
    lacking = {key for key, kind in missing.items() if kind == "property"}
    assert lacking == GONE_IN_QT_6.get(cls.__name__, set())
    assert not [key for key, kind in missing.items() if kind == "signal"]
    made = make(name)
    for key in entry.names - set(missing):
        assert hasattr(made, key), key
    native = {key for key in dir(made._native) if not key.startswith("_") and not key.endswith("_")}
    for key in native - entry.names - {"name"}:
        with pytest.raises(AttributeError, match=f"{cls.__name__} has no attribute named '{key}'"):
            getattr(made, key)


@pytest.mark.parametrize("name", STOOD_IN)
def test_first_values_are_the_recorded_ones(name: str) -> None:
    made = make(name)
    gone = GONE_IN_QT_6.get(name.split(".")[1], set())
    for key, (kind, value) in record.own_properties(name).items():
        if key in gone | BY_STYLE or (value is None and kind != "NoneType"):
            continue
        found = getattr(made, key)
        if kind in PLAIN:
            assert (key, found) == (key, plain(value))
            assert type(found) is PLAIN[kind], key
        elif isinstance(value, int):  # an enumeration
            assert (key, int(found)) == (key, value)
        else:
            assert (key, type(found).__name__) == (key, kind)


@pytest.mark.parametrize("name", STOOD_IN)
def test_enumerations_are_the_recorded_ones(name: str) -> None:
    cls, entry = class_of(name), record.entry(name)
    for key, (kind, value) in entry.constants.items():
        found = getattr(cls, key)
        assert (key, found) == (key, OTHER_NUMBERS_IN_QT_6.get((cls.__name__, key), value))
        assert type(found).__name__ == kind
    for key in entry.types:
        assert isinstance(getattr(cls, key), type)


@pytest.mark.parametrize("name", STOOD_IN)
def test_every_recorded_signal_can_be_connected(name: str) -> None:
    made = make(name)
    for key in record.entry(name).signals:
        assert getattr(made, key).connect(lambda: None) is True, key


# --- what expressions gave in a running Slicer


def recorded(key: str) -> object:
    return record.behaviour()[key]


def error_of(function) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 — its type is part of the text
        function()
    return f"{caught.type.__name__}: {caught.value}"


def test_a_stray_attribute_is_refused() -> None:
    assert error_of(lambda: setattr(qt.QSlider(), "nonsense", 1)) == recorded("stray attribute")


def test_a_property_is_no_method() -> None:
    assert error_of(lambda: qt.QSlider().value()) == recorded("slider.value()")


def test_an_unknown_signal_is_not_connected() -> None:
    assert str(qt.QPushButton().connect("nonsense()", lambda: None)) == recorded("connect unknown signal")
    assert qt.QPushButton().connect("clicked(int)", lambda: None) is False


def test_arguments_of_a_click() -> None:
    button, got = qt.QPushButton(), []
    button.clicked.connect(lambda *given: got.append(("clicked.connect", given)))
    button.connect("clicked(bool)", lambda *given: got.append(("string", given)))
    button.connect("clicked()", lambda *given: got.append(("string()", given)))
    button.click()
    assert str(got) == recorded("clicked")


def test_an_error_in_a_slot_is_kept_and_qt_goes_on() -> None:
    button, got = qt.QPushButton(), []
    button.clicked.connect(lambda: 1 / 0)
    button.clicked.connect(lambda: got.append("continues"))
    button.click()
    assert got == [recorded("after slot error")]
    assert [type(error) for error in standin.slot_errors] == [ZeroDivisionError]
    standin.slot_errors.clear()


def test_bytes() -> None:
    assert str(qt.QByteArray(b"ab\x00c").data()) == recorded("QByteArray.data")


def test_slider_widget() -> None:
    slider, got = ctk.ctkSliderWidget(), []
    slider.maximum = 1000
    slider.connect("valueChanged(double)", got.append)
    slider.value = 7
    values = (got, slider.value, slider.minimum, slider.maximum, slider.decimals, slider.singleStep, slider.tracking)
    assert str(values) == recorded("ctkSliderWidget")


def test_node_selector() -> None:
    slicer.mrmlScene.Clear()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "vol")
    combo, got = slicer.qMRMLNodeComboBox(), []
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(slicer.mrmlScene)
    combo.connect("currentNodeChanged(vtkMRMLNode*)", got.append)
    node = combo.currentNode()
    values = (got, combo.currentNodeID, node.GetName(), combo.noneEnabled, combo.nodeCount())
    assert str(values) == recorded("nodeCombo")


def test_processes() -> None:
    events, missing, real = [], qt.QProcess(), qt.QProcess()
    missing.connect("errorOccurred(QProcess::ProcessError)", lambda error: events.append(["missing error", str(error)]))
    missing.start("no-such-program-anywhere", [])
    real.connect(
        "finished(int,QProcess::ExitStatus)", lambda code, how: events.append(["finished", str(code), str(how)])
    )
    real.start("true", [])
    assert standin.wait_until(lambda: len(events) == 2)
    assert events == recorded("QProcess events")
    assert real.state() == qt.QProcess.NotRunning
