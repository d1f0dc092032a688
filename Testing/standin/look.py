"""How the panel looks in pictures: Qt's Fusion style in light grey, as Slicer's light style, with a readable font."""

from __future__ import annotations

from PySide6 import QtGui, QtWidgets

COLOURS = {
    QtGui.QPalette.ColorRole.Window: "#f3f3f3",
    QtGui.QPalette.ColorRole.WindowText: "#202020",
    QtGui.QPalette.ColorRole.Base: "#ffffff",
    QtGui.QPalette.ColorRole.AlternateBase: "#f0f0f0",
    QtGui.QPalette.ColorRole.Text: "#202020",
    QtGui.QPalette.ColorRole.Button: "#efefef",
    QtGui.QPalette.ColorRole.ButtonText: "#202020",
    QtGui.QPalette.ColorRole.Highlight: "#5b8fd0",
    QtGui.QPalette.ColorRole.HighlightedText: "#ffffff",
}
FAMILIES = ["DejaVu Sans", "Liberation Sans", "Arial"]
DISABLED = "#9a9a9a"


def dress(application: QtWidgets.QApplication) -> None:
    """Set style, colours and font of the application."""
    application.setStyle("Fusion")
    palette = QtGui.QPalette()
    for role, colour in COLOURS.items():
        palette.setColor(role, QtGui.QColor(colour))
    for role in (
        QtGui.QPalette.ColorRole.WindowText,
        QtGui.QPalette.ColorRole.Text,
        QtGui.QPalette.ColorRole.ButtonText,
    ):
        palette.setColor(QtGui.QPalette.ColorGroup.Disabled, role, QtGui.QColor(DISABLED))
    application.setPalette(palette)
    font = QtGui.QFont()
    font.setFamilies(FAMILIES)
    font.setPointSizeF(9)
    application.setFont(font)
