"""Qt's loader of .ui files for forms that hold ctk's and Slicer's widgets.

What real Slicer would pass over in silence is an error here: a class without a stand-in, a property that the class
does not have, a connection between names that are not there.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import manners, signals, widgets

# What .ui files write on widgets though no property has the name.
DESIGNER_ONLY = frozenset({"buddy", "sizeHint", "leftMargin", "topMargin", "rightMargin", "bottomMargin"})


class UiError(ValueError):
    """The form asks for something that Slicer does not have."""


class _Loader(QtUiTools.QUiLoader):
    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> QtWidgets.QWidget:
        native = widgets.find(class_name)
        if native is None:
            if class_name not in self.availableWidgets():
                raise UiError(f"{name}: there is no stand-in for {class_name}")
            return super().createWidget(class_name, parent, name)
        made = native(parent)
        made.setObjectName(name)
        return made


class QUiLoader(QtCore.QObject):
    """What `qt.QUiLoader` is."""

    HOME = "qt"

    def load(self, device: QtCore.QFile, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget:
        """The top widget of a form, its connections made.

        Raises UiError for a form that real Slicer would load only in part.
        """
        if not device.isOpen():
            device.open(QtCore.QFile.OpenModeFlag.ReadOnly)
        tree = ET.fromstring(bytes(device.readAll().data()))
        _check_properties(tree)
        later = list(_take_sets(tree))
        connections = _take_connections(tree)
        loader = _Loader()
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(tree, encoding="utf-8", xml_declaration=True))
        buffer.open(QtCore.QBuffer.OpenModeFlag.ReadOnly)
        top = loader.load(buffer, parent)
        if top is None:
            raise UiError(loader.errorString())
        by_name = {child.objectName(): child for child in top.findChildren(QtCore.QObject)} | {top.objectName(): top}
        for name, key, value in later:
            setattr(manners.wrap(by_name[name]), key, value)
        for connection in connections:
            _connect(by_name, *connection)
        return top


def _check_properties(tree: ET.Element) -> None:
    for widget in tree.iter("widget"):
        class_name = widget.get("class", "")
        native = widgets.find(class_name) or getattr(QtWidgets, class_name, None)
        if native is None:
            raise UiError(f"{widget.get('name')}: there is no stand-in for {class_name}")
        for given in widget.findall("property"):
            name = given.get("name", "")
            if given.get("stdset") == "0" or name in DESIGNER_ONLY:
                continue
            info = manners.class_of(native)._info
            if info.kind(name) != "property":
                raise UiError(f"{widget.get('name')}: {class_name} has no property '{name}'")


def _take_sets(tree: ET.Element) -> Iterator[tuple[str, str, int]]:
    """Enumerations of ctk's classes, which Qt's loader does not know: taken out, to be set afterwards."""
    for widget in tree.iter("widget"):
        native = widgets.find(widget.get("class", ""))
        for given in widget.findall("property"):
            value = given.find("set") if given.find("set") is not None else given.find("enum")
            text = "" if value is None else value.text or ""
            if native is None or not any(word in text for word in ("ctk", "qMRML")):
                continue
            widget.remove(given)
            cls = manners.class_of(native)
            number = 0
            for part in text.split("|"):
                number |= getattr(cls, part.split("::")[-1])
            yield widget.get("name", ""), given.get("name", ""), number


def _take_connections(tree: ET.Element) -> list[tuple[str, str, str, str]]:
    found = []
    for holder in tree.findall("connections"):
        for connection in holder.findall("connection"):
            sender, signal = connection.findtext("sender", ""), connection.findtext("signal", "")
            found.append((sender, signal, connection.findtext("receiver", ""), connection.findtext("slot", "")))
        tree.remove(holder)
    return found


def _connect(by_name: dict[str, Any], sender: str, signal: str, receiver: str, slot: str) -> None:
    for name in (sender, receiver):
        if name not in by_name:
            raise UiError(f"A connection names '{name}', which is not in the form")
    if not signals.connect(by_name[sender], signal, slot_function(by_name[receiver], slot)):
        raise UiError(f"{sender} has no signal {signal}")


def slot_function(native: QtCore.QObject, slot: str) -> Callable[..., None]:
    """A function that calls a slot given as a string, e.g. "setVisible(bool)", with as many arguments as it takes."""
    name, inside = slot.rstrip(")").split("(", 1)
    count = len(inside.split(",")) if inside.strip() else 0
    info = manners.class_of(type(native))._info
    if info.kind(name) != "method" or not info.has_method(name):
        raise UiError(f"{info.name} has no slot {slot}")

    def call(*arguments: Any) -> None:
        getattr(native, name)(*[manners.unwrap(argument) for argument in arguments[:count]])

    return call
