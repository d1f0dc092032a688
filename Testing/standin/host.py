"""Starting the stand-in host, and what tests do with it: clicks, waiting, pictures. Needs Qt."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

import shiboken6
import slicer
from PySide6 import QtCore, QtTest, QtWidgets

from . import look, manners, qt_module, record, signals, widgets

log = logging.getLogger(__name__)
_started: list[Any] = []


def start() -> Any:
    """Put the modules `qt` and `ctk`, Slicer's widgets and slicer.app in their places; gives slicer.app.

    Once per process, before the module under test is imported; later calls give the same.
    """
    if _started:
        return _started[0]
    native = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
    native.setQuitOnLastWindowClosed(False)
    look.dress(native)
    sys.excepthook = _except
    sys.modules["qt"] = qt_module.make_qt()
    sys.modules["ctk"] = qt_module.QtModule("ctk", lambda name: _recorded_class("ctk", name))
    for name in _names_of("slicer"):
        setattr(slicer, name, manners.class_of(_recorded_class("slicer", name)))
    _started.append(manners.wrap(native))
    _started[0] = _start_slicer(_started[0])
    return _started[0]


def _start_slicer(application: Any) -> Any:
    """Slicer's own part: slicer.app, slicer.i18n and so on."""
    for room in ("i18n", "scripted_module", "parameter_nodes", "segment_editor"):
        importlib.import_module(f"{__package__}.{room}").install()
    started = importlib.import_module(f"{__package__}.application").install(application)
    if importlib.util.find_spec(f"{__package__}.sample_data") is not None:
        importlib.import_module(f"{__package__}.sample_data").install()
    return started


def _names_of(home: str) -> list[str]:
    recorded = [name.split(".")[1] for name in record.widgets()["classes"] if name.startswith(f"{home}.")]
    made = [name for name, native in widgets.every().items() if home == native.HOME]
    return sorted({*recorded, *made})


def _recorded_class(home: str, name: str) -> type | None:
    """The class that stands in, or one that only has its name and its enumerations."""
    native = widgets.find(name)
    if native is not None:
        return native if home == native.HOME else None
    if f"{home}.{name}" not in record.widgets()["classes"]:
        return None
    return _absent(home, name)


def _absent(home: str, name: str) -> type:
    """A class of which there is no stand-in: it can be asked for and compared with, and not made."""

    def refuse(self: Any, *arguments: Any) -> None:
        raise NotImplementedError(f"there is no stand-in for {home}.{name}")

    return type(name, (QtWidgets.QWidget,), {"HOME": home, "__init__": refuse})


def _except(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What escapes from code that Qt calls, other than slots, is kept too."""
    signals.slot_errors.append(error)
    sys.__excepthook__(kind, error, trace)


def open_module(path: str | Path) -> Any:
    """Open a scripted module as Slicer does when the user first goes to it: .module .instance .widget .parent."""
    start().layoutManager()  # a user sees the views before any module
    return importlib.import_module(f"{__package__}.scripted_module").open_module(path)


def process_events(seconds: float = 0.0) -> None:
    """Let Qt work: once, or for so long."""
    end = time.monotonic() + seconds
    while True:
        QtWidgets.QApplication.sendPostedEvents(None, 0)
        QtWidgets.QApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)
        QtWidgets.QApplication.processEvents()
        if time.monotonic() >= end:
            return
        time.sleep(0.005)


def wait_until(condition: Callable[[], Any], timeout: float = 10.0) -> bool:
    """Let Qt work until the condition holds; False where it did not within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        process_events(0.01)
    return True


class ClickError(AssertionError):
    """A user could not have clicked there."""


def click(widget: Any) -> None:
    """A click with the left button at the widget's middle.

    Raises ClickError for a widget that is disabled, not shown, or outside of what its parents show.
    """
    native = manners.unwrap(widget)
    name = native.objectName() or native.metaObject().className()
    if not native.isVisible():
        raise ClickError(f"{name} is not visible")
    if not native.isEnabled():
        raise ClickError(f"{name} is disabled")
    place = _place_to_click(native)
    if not native.rect().contains(place) or native.visibleRegion().isEmpty():
        raise ClickError(f"{name} has no place to click")
    QtTest.QTest.mouseClick(native, QtCore.Qt.MouseButton.LeftButton, QtCore.Qt.KeyboardModifier.NoModifier, place)
    process_events()


def _place_to_click(native: QtWidgets.QWidget) -> QtCore.QPoint:
    """The middle; of boxes and folding widgets, the part of them that takes clicks."""
    style, kind = native.style(), QtWidgets.QStyle
    if isinstance(native, (QtWidgets.QCheckBox, QtWidgets.QRadioButton)):
        option = QtWidgets.QStyleOptionButton()
        native.initStyleOption(option)
        radio = isinstance(native, QtWidgets.QRadioButton)
        element = kind.SubElement.SE_RadioButtonClickRect if radio else kind.SubElement.SE_CheckBoxClickRect
        return style.subElementRect(element, option, native).center()
    if isinstance(native, QtWidgets.QGroupBox):
        option = QtWidgets.QStyleOptionGroupBox()
        native.initStyleOption(option)
        box = kind.SubControl.SC_GroupBoxCheckBox
        return style.subControlRect(kind.ComplexControl.CC_GroupBox, option, box, native).center()
    header = getattr(native, "_header", None)
    return native.rect().center() if header is None else header().center()


def grab(widget: Any, path: str | Path) -> Path:
    """A picture of the widget as it is now, as a PNG file."""
    native = manners.unwrap(widget)
    process_events()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not native.grab().save(str(path), "PNG"):
        raise OSError(f"could not write {path}")
    return path


def is_alive(widget: Any) -> bool:
    """Whether Qt still has the object."""
    return shiboken6.isValid(manners.unwrap(widget))
