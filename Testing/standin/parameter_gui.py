"""How slicer.parameterNodeWrapper reads and writes widgets: by their *exact* type, as Slicer's connectors do.

A connector is told of a widget and of the parameter's annotated type; it sets the widget's bounds and items from the
annotations. Needs qt and ctk.
"""

from __future__ import annotations

import enum
import pathlib
from collections.abc import Callable
from typing import Any

import ctk
import qt
import slicer

from .parameter_annotations import Choice, Decimals, Maximum, Minimum, RangeBounds, SingleStep, WithinRange
from .parameter_values import node_classes, split

connectors: list[type[GuiConnector]] = []


class GuiConnector:
    """Between a widget and a value; `signal` is the one that says that the user changed it ("" for none)."""

    signal = ""

    def __init__(self, widget: Any, hint: Any) -> None:
        self._widget = widget
        self._kind, self._notes = split(hint)
        self._callback: Callable[[], None] | None = None
        self._connected: Any = None
        self.prepare()

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        raise NotImplementedError

    def prepare(self) -> None:
        """Set the widget's bounds and items."""

    def note(self, kind: type) -> Any:
        return next((note for note in self._notes if isinstance(note, kind)), None)

    def onChanged(self, callback: Callable[[], None] | None) -> None:
        self._callback = callback
        if not self.signal:
            return
        if callback is None:
            getattr(self._widget, self.signal).disconnect(self.changed)
        else:
            getattr(self._widget, self.signal).connect(self.changed)

    def changed(self) -> None:
        if self._callback is not None:
            self._callback()

    def widget(self) -> Any:
        return self._widget

    def read(self) -> Any:
        raise NotImplementedError

    def write(self, value: Any) -> None:
        raise NotImplementedError


def parameterNodeGuiConnector(kind: type[GuiConnector]) -> type[GuiConnector]:
    """Class decorator: the connector is tried after those before it."""
    connectors.append(kind)
    return kind


def createGuiConnector(widget: Any, hint: Any) -> GuiConnector:
    """The first connector for the widget and the type; RuntimeError where there is none."""
    for kind in connectors:
        if kind.canRepresent(widget, hint):
            return kind(widget, hint)
    raise RuntimeError(f"Unable to create GUI connector from datatype '{hint}' to widget type '{type(widget)}'.")


def is_one_of(widget: Any, *kinds: type) -> bool:
    """Subclasses do not count."""
    return type(widget) in kinds


@parameterNodeGuiConnector
class CheckBox(GuiConnector):
    signal = "stateChanged"

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        return split(hint)[0] is bool and is_one_of(widget, qt.QCheckBox, ctk.ctkCheckBox)

    def read(self) -> bool:
        return self._widget.checked

    def write(self, value: bool) -> None:
        self._widget.checked = value


@parameterNodeGuiConnector
class PushButton(CheckBox):
    signal = "toggled"

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        return split(hint)[0] is bool and is_one_of(widget, qt.QPushButton, ctk.ctkCheckablePushButton)

    def prepare(self) -> None:
        if not self._widget.checkable:
            self._widget.checkable = True


class Bounded(GuiConnector):
    """Numbers: what bounds there are come from the annotations."""

    signal = "valueChanged"
    must_be_bounded: tuple[type, ...] = ()
    error = ""

    def prepare(self) -> None:
        step, within = self.note(SingleStep), self.note(WithinRange)
        low, high = self.note(Minimum), self.note(Maximum)
        if step is not None:
            self._widget.singleStep = step.value
        if is_one_of(self._widget, *self.must_be_bounded) and within is None and (low is None or high is None):
            raise RuntimeError(self.error)
        bounds = within or Bounds(low, high, *self.widest)
        self._widget.minimum = bounds.minimum
        self._widget.maximum = bounds.maximum

    widest: tuple[float, float] = (float("-inf"), float("inf"))

    def read(self) -> Any:
        return self._kind(self._widget.value)

    def write(self, value: Any) -> None:
        self._widget.value = self._kind(value)


class Bounds:
    """The bounds of a Minimum and a Maximum, either of which may be missing."""

    def __init__(self, low: Minimum | None, high: Maximum | None, lowest: float, highest: float) -> None:
        self.minimum = lowest if low is None else low.minimum
        self.maximum = highest if high is None else high.maximum


@parameterNodeGuiConnector
class IntegerBox(Bounded):
    must_be_bounded = (qt.QSlider,)
    error = "Cannot have a connection to QSlider where the int type is unbounded."
    widest = (-(2**31), 2**31 - 1)

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        return split(hint)[0] is int and is_one_of(widget, qt.QSlider, qt.QSpinBox)


@parameterNodeGuiConnector
class NumberBox(Bounded):
    must_be_bounded = (ctk.ctkSliderWidget, slicer.qMRMLSliderWidget)
    error = "Cannot have a connection to ctkSliderWidget where the float types is unbounded."

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        kinds = (qt.QDoubleSpinBox, ctk.ctkSliderWidget, slicer.qMRMLSliderWidget)
        more = (ctk.ctkDoubleSlider, ctk.ctkDoubleSpinBox, slicer.qMRMLSpinBox)
        return split(hint)[0] in (int, float) and is_one_of(widget, *kinds, *more)

    def prepare(self) -> None:
        decimals = self.note(Decimals)
        if not is_one_of(self._widget, ctk.ctkDoubleSlider):
            if self._kind is int:
                self._widget.decimals = 0
            elif decimals is not None:
                self._widget.decimals = decimals.value
        super().prepare()


@parameterNodeGuiConnector
class ComboBox(GuiConnector):
    """The items of the form are replaced: by the choices as strings, or by an Enum's labels."""

    signal = "currentIndexChanged"

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        kind = split(hint)[0]
        listed = kind in (int, float, str, bool) or (isinstance(kind, type) and issubclass(kind, enum.Enum))
        return is_one_of(widget, qt.QComboBox, ctk.ctkComboBox) and listed

    def prepare(self) -> None:
        if issubclass(self._kind, enum.Enum):
            label = getattr(self._kind, "label", lambda member: member.name)
            self._values = list(self._kind)
            labels = [label(member) for member in self._values]
        else:
            choice = self.note(Choice)
            if choice is None:
                raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
            self._values = list(choice.choices)
            labels = [str(value) for value in self._values]
        self._widget.clear()
        for text in labels:
            self._widget.addItem(text)

    def read(self) -> Any:
        return self._values[self._widget.currentIndex]

    def write(self, value: Any) -> None:
        if value not in self._values:
            raise ValueError(f"Unable to find value {value} in choices {self._values}")
        self._widget.currentIndex = self._values.index(value)


@parameterNodeGuiConnector
class LineEdit(GuiConnector):
    signal = "textChanged"

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        return split(hint)[0] is str and is_one_of(widget, qt.QLineEdit)

    def read(self) -> str:
        return self._widget.text

    def write(self, value: str) -> None:
        if value != self._widget.text:  # setting it would move the cursor to the end
            self._widget.text = value


@parameterNodeGuiConnector
class Label(LineEdit):
    signal = ""

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        return split(hint)[0] is str and is_one_of(widget, qt.QLabel)


@parameterNodeGuiConnector
class TextEdit(GuiConnector):
    signal = "textChanged"

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        return split(hint)[0] is str and is_one_of(widget, qt.QTextEdit)

    def read(self) -> str:
        return self._widget.toPlainText()

    def write(self, value: str) -> None:
        self._widget.setPlainText(value)


@parameterNodeGuiConnector
class RangeWidget(GuiConnector):
    signal = "valuesChanged"

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        kinds = (ctk.ctkRangeWidget, ctk.ctkDoubleRangeSlider, slicer.qMRMLRangeWidget)
        return getattr(split(hint)[0], "__name__", "") == "FloatRange" and is_one_of(widget, *kinds)

    def prepare(self) -> None:
        bounds, decimals, step = self.note(RangeBounds), self.note(Decimals), self.note(SingleStep)
        if bounds is None:
            raise RuntimeError(
                "Cannot have a connection to a range widget where the float is unbounded. Add a RangeBounds annotation."
            )
        if decimals is not None and not is_one_of(self._widget, ctk.ctkDoubleRangeSlider):
            self._widget.decimals = decimals.value
        if step is not None:
            self._widget.singleStep = step.value
        self._widget.setRange(bounds.minimum, bounds.maximum)

    def read(self) -> Any:
        return self._kind(self._widget.minimumValue, self._widget.maximumValue)

    def write(self, value: Any) -> None:
        self._widget.setValues(value.minimum, value.maximum)


@parameterNodeGuiConnector
class PathEdit(GuiConnector):
    signal = "currentPathChanged"

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        return is_path(hint) and is_one_of(widget, ctk.ctkPathLineEdit)

    def read(self) -> Any:
        return self._kind(self._widget.currentPath)

    def write(self, value: Any) -> None:
        self._widget.currentPath = str(value)


@parameterNodeGuiConnector
class DirectoryButton(GuiConnector):
    signal = "directoryChanged"

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        return is_path(hint) and is_one_of(widget, ctk.ctkDirectoryButton)

    def read(self) -> Any:
        return self._kind(self._widget.directory)

    def write(self, value: Any) -> None:
        self._widget.directory = str(value)


def is_path(hint: Any) -> bool:
    kind = split(hint)[0]
    return isinstance(kind, type) and issubclass(kind, pathlib.PurePath)


@parameterNodeGuiConnector
class NodeComboBox(GuiConnector):
    signal = "currentNodeChanged"

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        return is_one_of(widget, slicer.qMRMLNodeComboBox) and bool(node_classes(hint))

    def prepare(self) -> None:
        self._widget.nodeTypes = node_classes(self._kind)

    def read(self) -> Any:
        return self._widget.currentNode()

    def write(self, value: Any) -> None:
        self._widget.setCurrentNode(value)


@parameterNodeGuiConnector
class ColorButton(GuiConnector):
    signal = "colorChanged"

    @staticmethod
    def canRepresent(widget: Any, hint: Any) -> bool:
        return is_one_of(widget, ctk.ctkColorPickerButton) and split(hint)[0] is qt.QColor

    def read(self) -> Any:
        return self._widget.color

    def write(self, value: Any) -> None:
        self._widget.color = value
