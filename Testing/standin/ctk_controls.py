"""Stand-ins for ctk's buttons, lists and fields for paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtWidgets

from . import dialogs
from .stored import Recorded

FILES, WRITABLE = 0x2, 0x20  # of QDir's filters
HISTORY = 5  # paths that ctkPathLineEdit remembers


class ctkCheckBox(Recorded, QtWidgets.QCheckBox):
    """A check box; its own pictures for the mark are not drawn."""


class ctkPushButton(Recorded, QtWidgets.QPushButton):
    """A push button."""


class ctkMenuButton(Recorded, QtWidgets.QPushButton):
    """A push button; the part with the arrow opens the menu, the rest clicks."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._own_menu: QtWidgets.QMenu | None = None

    def setMenu(self, menu: QtWidgets.QMenu | None) -> None:
        self._own_menu = menu

    def menu(self) -> QtWidgets.QMenu | None:
        return self._own_menu

    def showMenu(self) -> None:
        if self._own_menu is not None:
            self._own_menu.popup(self.mapToGlobal(self.rect().bottomLeft()))

    def mousePressEvent(self, event: Any) -> None:
        if self._own_menu is not None and event.position().x() > self.width() - 18:
            self.showMenu()
        else:
            super().mousePressEvent(event)


class ctkComboBox(Recorded, QtWidgets.QComboBox):
    """A list; shows a default text while nothing is chosen."""

    returnRelease = QtCore.Signal()

    def _user_data(self) -> str:
        data = self.currentData()
        return "" if data is None else str(data)

    def setCurrentUserDataAsString(self, text: str) -> None:
        found = [index for index in range(self.count()) if str(self.itemData(index)) == text]
        self.setCurrentIndex(found[0] if found else -1)

    def _default_text(self) -> str:
        return self.placeholderText() if self._has_default else ""

    def _set_default_text(self, text: str) -> None:
        self._has_default = True
        self.setPlaceholderText(text)

    _has_default = False
    currentUserDataAsString = QtCore.Property(str, _user_data, setCurrentUserDataAsString)
    defaultText = QtCore.Property(str, _default_text, _set_default_text)


class ctkMessageBox(Recorded, QtWidgets.QMessageBox):
    """A message with a box "don't show again", whose answer is kept in the settings under a key."""

    def addDontShowAgainButtonRole(self, role: Any) -> None:
        """The stand-in keeps an answer of any role."""

    def setDontShowAgain(self, again: bool) -> None:
        self.setProperty("dontShowAgain", again)


class ctkDirectoryButton(Recorded, QtWidgets.QWidget):
    """A button that shows a folder and asks for another one."""

    directoryChanged = QtCore.Signal(str)
    directorySelected = QtCore.Signal(str)

    def __init__(self, *arguments: Any) -> None:
        parent = arguments[-1] if arguments and isinstance(arguments[-1], QtWidgets.QWidget) else None
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._button = QtWidgets.QPushButton(self)
        self._button.setIcon(self.style().standardIcon(QtWidgets.QStyle.StandardPixmap.SP_DirIcon))
        layout.addWidget(self._button)
        self._directory, self._text = ".", ""
        self._button.clicked.connect(self.browse)
        self._show()

    def browse(self) -> str:
        found = dialogs.native_file("getExistingDirectory", self, self.property("caption"), self._directory)
        if found:
            self._set_directory(found)
        return found

    def _show(self) -> None:
        self._button.setText(self._text or self._directory)

    def _set_directory(self, directory: str) -> None:
        changed = Path(directory).absolute() != Path(self._directory).absolute()
        self._directory = str(Path(directory).absolute()) if changed else self._directory
        self._show()
        self.directorySelected.emit(self._directory)
        if changed:
            self.directoryChanged.emit(self._directory)

    def _set_text(self, text: str) -> None:
        self._text = text
        self._show()

    directory = QtCore.Property(str, lambda self: self._directory, _set_directory)
    text = QtCore.Property(str, lambda self: self._text, _set_text)
    icon = QtCore.Property("QIcon", lambda self: self._button.icon(), lambda self, icon: self._button.setIcon(icon))


class ctkPathLineEdit(Recorded, QtWidgets.QWidget):
    """A path to type, to choose in a dialog, or to take from the last ones (kept in the settings under a key)."""

    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)

    def __init__(self, *arguments: Any) -> None:
        parent = arguments[-1] if arguments and isinstance(arguments[-1], QtWidgets.QWidget) else None
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setEditable(True)
        self._combo.setInsertPolicy(QtWidgets.QComboBox.InsertPolicy.NoInsert)
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._combo.setMinimumContentsLength(7)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._browse_button = QtWidgets.QToolButton(self)
        self._browse_button.setText("...")
        layout.addWidget(self._combo)
        layout.addWidget(self._browse_button)
        self._key = ""
        self._combo.lineEdit().textChanged.connect(self.currentPathChanged)
        self._browse_button.clicked.connect(self.browse)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)

    def setCurrentPath(self, path: str) -> None:
        self._combo.lineEdit().setText(path)

    def comboBox(self) -> QtWidgets.QComboBox:
        return self._combo

    def browse(self) -> None:
        filters, names = self.property("filters"), ";;".join(self.property("nameFilters"))
        name = "getExistingDirectory"
        if filters & FILES:
            name = "getSaveFileName" if filters & WRITABLE else "getOpenFileName"
        found = dialogs.native_file(name, self, self.property("label"), self._path(), names)
        if found:
            self.setCurrentPath(found)

    def retrieveHistory(self) -> None:
        path = self._path()
        blocked = self.blockSignals(True)
        self._combo.clear()
        self._combo.addItems(self._history()[:HISTORY])
        self._combo.setCurrentIndex(-1)
        self._combo.lineEdit().setText(path)
        self.blockSignals(blocked)
        if not path:  # the most recent one, where none is set
            self._combo.setCurrentIndex(0)

    def addCurrentPathToHistory(self) -> None:
        path = self._path()
        if not path:
            return
        history = [path, *(other for other in self._history() if other != path)]
        QtCore.QSettings().setValue(self._key, history)
        blocked = self.blockSignals(True)
        self.retrieveHistory()
        self.blockSignals(blocked)

    def _history(self) -> list[str]:
        kept = QtCore.QSettings().value(self._key) if self._key else None
        return [kept] if isinstance(kept, str) else list(kept or [])

    def _path(self) -> str:
        return self._combo.lineEdit().text()

    def _set_key(self, key: str) -> None:
        self._key = key
        self.retrieveHistory()

    currentPath = QtCore.Property(str, _path, setCurrentPath)
    settingKey = QtCore.Property(str, lambda self: self._key, _set_key)
    showBrowseButton = QtCore.Property(
        bool,
        lambda self: not self._browse_button.isHidden(),
        lambda self, shown: self._browse_button.setVisible(shown),
    )
