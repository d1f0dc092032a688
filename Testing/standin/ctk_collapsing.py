"""Stand-ins for ctk's widgets that fold: ctkCollapsibleButton and ctkCollapsibleGroupBox."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Qt

from .stored import Recorded

WANTED = "visibilityToParent"  # ctk's own name: what a child's visibility is to be when its parent is open
UNLIMITED = 16777215


class Collapsing:
    """Mix-in: hides the children while folded, and minds what they were told meanwhile."""

    def _start_collapsing(self) -> None:
        self._folded, self._forcing, self._watched, self._open_height = False, False, set(), UNLIMITED

    def settle(self) -> None:
        """Take in children that came since the last time; called when a form is loaded, and on every show."""
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget) and id(child) not in self._watched:
                self._watched.add(id(child))
                child.installEventFilter(self)
                if self._folded:
                    if child.testAttribute(Qt.WidgetAttribute.WA_WState_ExplicitShowHide) and child.isHidden():
                        child.setProperty(WANTED, False)
                    self._show_child(child)

    def showEvent(self, event: QtGui.QShowEvent) -> None:
        self.settle()
        super().showEvent(event)

    def eventFilter(self, child: QtCore.QObject, event: QtCore.QEvent) -> bool:
        kind = event.type()
        if kind in (QtCore.QEvent.Type.ShowToParent, QtCore.QEvent.Type.HideToParent) and not self._forcing:
            shown = kind == QtCore.QEvent.Type.ShowToParent
            child.setProperty(WANTED, shown)
            if shown and self._folded:
                self._show_child(child)
        return False

    def _show_child(self, child: QtWidgets.QWidget) -> None:
        wanted = child.property(WANTED)
        wanted = True if wanted is None else bool(wanted)
        self._forcing = True
        child.setVisible(wanted and not self._folded)
        if wanted:  # nobody said that it should be hidden
            child.setAttribute(Qt.WidgetAttribute.WA_WState_ExplicitShowHide, False)
        self._forcing = False

    def _fold(self, folded: bool) -> bool:
        """Fold or open; False where it was so already."""
        if folded == self._folded:
            return False
        self.settle()
        self._folded = folded
        if folded:
            self._open_height = self.maximumHeight()
            self.setMaximumHeight(self._folded_height())
        else:
            self.setMaximumHeight(self._open_height)
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                self._show_child(child)
        self.updateGeometry()
        return True

    def _is_folded(self) -> bool:
        return self._folded

    def _set_folded(self, folded: bool) -> None:
        if self.isCheckable():
            self.setChecked(not folded)
        else:
            self._fold(folded)


def draw_triangle(painter: QtGui.QPainter, rect: QtCore.QRect, folded: bool, colour: QtGui.QColor) -> None:
    """The mark of a folded (pointing right) or open (pointing down) widget."""
    centre, reach = QtCore.QPointF(rect.center()) + QtCore.QPointF(0.5, 0.5), rect.height() / 4
    corners = [(-0.6, -1), (-0.6, 1), (0.8, 0)] if folded else [(-1, -0.6), (1, -0.6), (0, 0.8)]
    painter.save()
    painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(colour)
    painter.drawPolygon([centre + QtCore.QPointF(x * reach, y * reach) for x, y in corners])
    painter.restore()


class ctkCollapsibleButton(Recorded, Collapsing, QtWidgets.QAbstractButton):
    """A header that is a button over contents that fold away."""

    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, *arguments: Any) -> None:
        parent = arguments[-1] if arguments and isinstance(arguments[-1], QtWidgets.QWidget) else None
        super().__init__(parent)
        self._start_collapsing()
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self._header().height(), 0, 0)
        self.setBackgroundRole(QtGui.QPalette.ColorRole.Window)
        if arguments and isinstance(arguments[0], str):
            self.setText(arguments[0])
        self.toggled.connect(self._toggled)

    def _toggled(self, checked: bool) -> None:
        if self._fold(not checked):
            self.contentsCollapsed.emit(not checked)

    collapsed = QtCore.Property(bool, Collapsing._is_folded, Collapsing._set_folded)

    def _header(self) -> QtCore.QRect:
        return QtCore.QRect(0, 0, self.width(), self.fontMetrics().height() + 8)

    def _folded_height(self) -> int:
        return self._header().height() + 4

    def sizeHint(self) -> QtCore.QSize:
        header = QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text()) + 40, self._folded_height())
        return header if self._folded else super().sizeHint().expandedTo(header)

    def minimumSizeHint(self) -> QtCore.QSize:
        header = QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text()) + 40, self._folded_height())
        return header if self._folded else super().minimumSizeHint().expandedTo(header)

    def hitButton(self, place: QtCore.QPoint) -> bool:
        return self._header().contains(place)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter, header = QtGui.QPainter(self), self._header().adjusted(0, 0, -1, -1)
        grey = QtGui.QColor("#d9d9d9" if self.isDown() else "#e6e6e6")
        painter.setPen(QtGui.QColor("#bdbdbd"))
        painter.setBrush(grey)
        painter.drawRoundedRect(header, 2, 2)
        colour = self.palette().color(QtGui.QPalette.ColorRole.WindowText)
        draw_triangle(
            painter, QtCore.QRect(6, 0, header.height(), header.height()), self._folded, QtGui.QColor("#555555")
        )
        painter.setPen(colour)
        painter.drawText(header.adjusted(header.height() + 12, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, self.text())
        painter.end()


class ctkCollapsibleGroupBox(Recorded, Collapsing, QtWidgets.QGroupBox):
    """A group box that folds when its title is clicked."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._start_collapsing()
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(lambda checked: self._fold(not checked))

    collapsed = QtCore.Property(bool, Collapsing._is_folded, Collapsing._set_folded)

    def _option(self) -> QtWidgets.QStyleOptionGroupBox:
        option = QtWidgets.QStyleOptionGroupBox()
        self.initStyleOption(option)
        return option

    def _folded_height(self) -> int:
        style = QtWidgets.QStyle
        label = self.style().subControlRect(
            style.ComplexControl.CC_GroupBox, self._option(), style.SubControl.SC_GroupBoxLabel, self
        )
        return label.height() + 14

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        style, option = QtWidgets.QStyle, self._option()
        group, box = style.ComplexControl.CC_GroupBox, style.SubControl.SC_GroupBoxCheckBox
        mark = self.style().subControlRect(group, option, box, self)
        if self._folded:
            option.subControls &= ~style.SubControl.SC_GroupBoxFrame
        painter = QtWidgets.QStylePainter(self)
        painter.drawComplexControl(group, option)
        painter.fillRect(mark, self.palette().color(QtGui.QPalette.ColorRole.Window))  # the mark of a check box
        draw_triangle(painter, mark, self._folded, QtGui.QColor("#555555"))
        painter.end()
