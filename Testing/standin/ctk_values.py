"""Stand-ins for ctk's widgets that hold numbers: ctkSliderWidget and ctkRangeWidget."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Qt

from .stored import Recorded

STEPS = 100000  # a slider of Qt counts in whole steps; no more of them than this


def _box(parent: QtWidgets.QWidget, limit: float) -> QtWidgets.QDoubleSpinBox:
    box = QtWidgets.QDoubleSpinBox(parent)
    box.setRange(0, limit)
    box.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    box.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Fixed)
    return box


class ctkSliderWidget(Recorded, QtWidgets.QWidget):
    """A slider and a spin box that show the same number."""

    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)
    decimalsChanged = QtCore.Signal(int)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider, self._spin = QtWidgets.QSlider(Qt.Orientation.Horizontal, self), _box(self, 99.99)
        layout.addWidget(self._slider)
        layout.addWidget(self._spin)
        self._tracking, self._told = True, 0.0
        self._spin.valueChanged.connect(self._spin_changed)
        self._slider.valueChanged.connect(self._slider_changed)
        self._slider.sliderReleased.connect(self._tell)
        self._scale()

    def _scale(self) -> None:
        span, step = self._spin.maximum() - self._spin.minimum(), self._spin.singleStep() or 1.0
        self._slider.blockSignals(True)
        self._slider.setRange(0, max(1, min(STEPS, round(span / step))))
        self._slider.blockSignals(False)
        self._place()

    def _place(self) -> None:
        span = self._spin.maximum() - self._spin.minimum()
        share = (self._spin.value() - self._spin.minimum()) / span if span > 0 else 0.0
        self._slider.blockSignals(True)
        self._slider.setValue(round(share * self._slider.maximum()))
        self._slider.blockSignals(False)

    def _slider_changed(self, place: int) -> None:
        span = self._spin.maximum() - self._spin.minimum()
        self._spin.setValue(self._spin.minimum() + span * place / self._slider.maximum())

    def _spin_changed(self, value: float) -> None:
        if not self._slider.isSliderDown():
            self._place()
        elif not self._tracking:
            self.valueIsChanging.emit(value)
            return
        self._tell()

    def _tell(self) -> None:
        if self._spin.value() != self._told:
            self._told = self._spin.value()
            self.valueChanged.emit(self._told)

    def setValue(self, value: float) -> None:
        self._spin.setValue(value)

    def _set_limit(self, name: str, value: float) -> None:
        getattr(self._spin, name)(value)
        self._scale()

    def setDecimals(self, decimals: int) -> None:
        if decimals != self._spin.decimals():
            self._spin.setDecimals(decimals)
            self.decimalsChanged.emit(decimals)

    def setSpinBoxVisible(self, visible: bool) -> None:
        self._spin.setVisible(visible)

    def reset(self) -> None:
        self._spin.setValue(0.0)

    def _set_tracking(self, tracking: bool) -> None:
        self._tracking = tracking

    value = QtCore.Property(float, lambda self: self._spin.value(), setValue)
    minimum = QtCore.Property(
        float, lambda self: self._spin.minimum(), lambda self, value: self._set_limit("setMinimum", value)
    )
    maximum = QtCore.Property(
        float, lambda self: self._spin.maximum(), lambda self, value: self._set_limit("setMaximum", value)
    )
    singleStep = QtCore.Property(
        float, lambda self: self._spin.singleStep(), lambda self, value: self._set_limit("setSingleStep", value)
    )
    decimals = QtCore.Property(int, lambda self: self._spin.decimals(), setDecimals)
    prefix = QtCore.Property(str, lambda self: self._spin.prefix(), lambda self, text: self._spin.setPrefix(text))
    suffix = QtCore.Property(str, lambda self: self._spin.suffix(), lambda self, text: self._spin.setSuffix(text))
    tracking = QtCore.Property(bool, lambda self: self._tracking, _set_tracking)
    spinBoxVisible = QtCore.Property(bool, lambda self: not self._spin.isHidden(), setSpinBoxVisible)


class _RangeBar(QtWidgets.QWidget):
    """Two handles on a groove."""

    moved = QtCore.Signal(int, float)  # which handle (0 left, 1 right), where to (a share of the groove)

    def __init__(self, parent: QtWidgets.QWidget) -> None:
        super().__init__(parent)
        self.shares, self._held = [0.0, 1.0], -1
        self.setMinimumSize(60, 20)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)

    def _x(self, share: float) -> float:
        return 6 + share * (self.width() - 12)

    def mousePressEvent(self, event: QtGui.QMouseEvent) -> None:
        distances = [abs(event.position().x() - self._x(share)) for share in self.shares]
        self._held = distances.index(min(distances))

    def mouseMoveEvent(self, event: QtGui.QMouseEvent) -> None:
        if self._held >= 0:
            self.moved.emit(self._held, min(1.0, max(0.0, (event.position().x() - 6) / max(1, self.width() - 12))))

    def mouseReleaseEvent(self, event: QtGui.QMouseEvent) -> None:
        self.mouseMoveEvent(event)
        self._held = -1

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter, middle = QtGui.QPainter(self), self.height() / 2
        painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
        left, right = (self._x(share) for share in self.shares)
        painter.setPen(QtGui.QColor("#bdbdbd"))
        painter.drawRect(QtCore.QRectF(6, middle - 2, self.width() - 12, 4))
        painter.fillRect(QtCore.QRectF(left, middle - 2, right - left, 4), QtGui.QColor("#6c9bd2"))
        painter.setBrush(QtGui.QColor("#f4f4f4"))
        for place in (left, right):
            painter.drawRoundedRect(QtCore.QRectF(place - 5, middle - 8, 10, 16), 2, 2)
        painter.end()


class ctkRangeWidget(Recorded, QtWidgets.QWidget):
    """Two numbers, the lower never above the upper."""

    minimumValueChanged = QtCore.Signal(float)
    maximumValueChanged = QtCore.Signal(float)
    minimumValueIsChanging = QtCore.Signal(float)
    maximumValueIsChanging = QtCore.Signal(float)
    valuesChanged = QtCore.Signal(float, float)
    rangeChanged = QtCore.Signal(float, float)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._low, self._bar, self._high = _box(self, 99.0), _RangeBar(self), _box(self, 99.0)
        for child in (self._low, self._bar, self._high):
            layout.addWidget(child)
        self._high.setValue(99.0)
        self._told = (0.0, 99.0)
        self._low.valueChanged.connect(lambda value: self.setValues(value, max(value, self._high.value())))
        self._high.valueChanged.connect(lambda value: self.setValues(min(value, self._low.value()), value))
        self._bar.moved.connect(self._moved)

    def _moved(self, handle: int, share: float) -> None:
        value = self._low.minimum() + share * (self._low.maximum() - self._low.minimum())
        self.setValues(
            *(
                (min(value, self._high.value()), self._high.value())
                if handle == 0
                else (self._low.value(), max(value, self._low.value()))
            )
        )

    def setValues(self, low: float, high: float) -> None:
        low, high = min(low, high), max(low, high)
        for box, value in ((self._low, low), (self._high, high)):
            box.blockSignals(True)
            box.setValue(value)
            box.blockSignals(False)
        span = (self._low.maximum() - self._low.minimum()) or 1.0
        self._bar.shares = [(box.value() - self._low.minimum()) / span for box in (self._low, self._high)]
        self._bar.update()
        before, self._told = self._told, (self._low.value(), self._high.value())
        if before[0] != self._told[0]:
            self.minimumValueChanged.emit(self._told[0])
        if before[1] != self._told[1]:
            self.maximumValueChanged.emit(self._told[1])
        if before != self._told:
            self.valuesChanged.emit(*self._told)

    def setMinimumValue(self, value: float) -> None:
        self.setValues(value, max(value, self._high.value()))

    def setMaximumValue(self, value: float) -> None:
        self.setValues(min(value, self._low.value()), value)

    def setRange(self, minimum: float, maximum: float) -> None:
        minimum, maximum = min(minimum, maximum), max(minimum, maximum)
        low, high = self._low.value(), self._high.value()
        for box in (self._low, self._high):
            box.blockSignals(True)
            box.setRange(minimum, maximum)
            box.blockSignals(False)
        self.rangeChanged.emit(minimum, maximum)
        self.setValues(max(low, minimum), min(high, maximum))

    def setDecimals(self, decimals: int) -> None:
        self._each("setDecimals", decimals)

    def reset(self) -> None:
        self.setValues(self._low.minimum(), self._low.maximum())

    def _each(self, name: str, value: Any) -> None:
        for box in (self._low, self._high):
            getattr(box, name)(value)

    minimum = QtCore.Property(
        float, lambda self: self._low.minimum(), lambda self, value: self.setRange(value, self._low.maximum())
    )
    maximum = QtCore.Property(
        float, lambda self: self._low.maximum(), lambda self, value: self.setRange(self._low.minimum(), value)
    )
    minimumValue = QtCore.Property(float, lambda self: self._low.value(), setMinimumValue)
    maximumValue = QtCore.Property(float, lambda self: self._high.value(), setMaximumValue)
    decimals = QtCore.Property(int, lambda self: self._low.decimals(), setDecimals)
    singleStep = QtCore.Property(
        float, lambda self: self._low.singleStep(), lambda self, value: self._each("setSingleStep", value)
    )
    prefix = QtCore.Property(str, lambda self: self._low.prefix(), lambda self, text: self._each("setPrefix", text))
    suffix = QtCore.Property(str, lambda self: self._low.suffix(), lambda self, text: self._each("setSuffix", text))
