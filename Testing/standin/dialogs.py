"""Dialogs that nobody sees: a test says beforehand what the user answers; a dialog that no test expected is an error.

dialogs.answer("QFileDialog.getSaveFileName", "/tmp/report.png")
dialogs.answer("QMessageBox", qt.QMessageBox.Yes)        # or a button's text, or a function of the dialog
dialogs.answer("QInputDialog.getText", "New name")
...
assert dialogs.asked[-1].text == "Replace the file?"
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from . import manners
from .manners import answer_instead


class UnansweredDialogError(AssertionError):
    """A dialog would have waited for a user for ever."""


@dataclass(frozen=True)
class Asked:
    """A dialog that was shown: its kind ("QMessageBox", "QFileDialog.getOpenFileName", …) and what it said."""

    kind: str
    title: str
    text: str
    details: str = ""
    arguments: tuple[Any, ...] = ()


asked: list[Asked] = []
opened_urls: list[str] = []  # what would have been opened in a browser or a file manager
_answers: dict[str, deque[Any]] = {}

BOXES = ("information", "question", "warning", "critical")
FILES = ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory")
INPUTS = ("getText", "getItem", "getInt", "getDouble", "getMultiLineText")


def answer(kind: str, value: Any) -> None:
    """The next dialog of this kind is answered so; several answers are used in their order."""
    _answers.setdefault(kind, deque()).append(value)


def clear() -> None:
    """Forget answers that were not used, and what was shown or opened."""
    asked.clear()
    opened_urls.clear()
    _answers.clear()


def unused() -> dict[str, list[Any]]:
    """Answers to dialogs that never came."""
    return {kind: list(waiting) for kind, waiting in _answers.items() if waiting}


def take(shown: Asked) -> Any:
    """The answer to a dialog; raises UnansweredDialogError where no test gave one."""
    asked.append(shown)
    waiting = _answers.get(shown.kind)
    if not waiting:
        raise UnansweredDialogError(f"Nobody answers the dialog {shown.kind}: {shown.title!r}, {shown.text!r}")
    return waiting.popleft()


def install() -> None:
    """Take the place of everything that would wait for a user or leave the process."""
    for name in BOXES:
        answer_instead("QMessageBox", name)(_static("QMessageBox", name, 0))
    for name in FILES:
        answer_instead("QFileDialog", name)(_static("QFileDialog", name, () if name.endswith("Names") else ""))
    for name in INPUTS:
        answer_instead("QInputDialog", name)(_static("QInputDialog", name, ""))
    answer_instead("QColorDialog", "getColor")(_static("QColorDialog", "getColor", manners.wrap(QtGui.QColor())))
    answer_instead("QDialog", "exec")(_execute)
    answer_instead("QMenu", "exec")(_execute_menu)
    answer_instead("QDesktopServices", "openUrl")(_open_url)


def native_file(name: str, parent: QtWidgets.QWidget, title: str, path: str, filters: str = "") -> str:
    """For stand-ins that open a file dialog themselves."""
    return _static("QFileDialog", name, "")(manners.wrap(parent), title, path, filters)


def native_text(parent: QtWidgets.QWidget, title: str, label: str, text: str) -> str:
    """For stand-ins that ask for a text themselves."""
    return _static("QInputDialog", "getText", "")(manners.wrap(parent), title, label, 0, text)


def _static(owner: str, name: str, empty: Any) -> Callable[..., Any]:
    kind = f"{owner}.{name}"

    def ask(*arguments: Any) -> Any:
        texts = [argument if isinstance(argument, str) else "" for argument in (*arguments[1:3], "", "")]
        given = take(Asked(kind, texts[0], texts[1], "", arguments))
        given = given(*arguments) if callable(given) else given
        return empty if given is None else given

    return ask


def _execute(wrapped: Any, *arguments: Any) -> int:
    """exec() of any dialog: shown, so that a function that answers can click what it holds, and closed at once."""
    native = wrapped._native
    if isinstance(native, QtWidgets.QMessageBox):
        return _execute_box(wrapped, native)
    given = take(Asked(type(wrapped)._info.name, native.windowTitle(), "", "", arguments))
    native.open()
    result = given(wrapped) if callable(given) else given
    if native.isVisible():
        native.done(int(result))
    return native.result()


def _execute_box(wrapped: Any, native: QtWidgets.QMessageBox) -> int:
    details = "\n".join(part for part in (native.informativeText(), native.detailedText()) if part)
    given = take(Asked("QMessageBox", native.windowTitle(), native.text(), details))
    given = given(wrapped) if callable(given) else given
    button = _button(native, given)
    if button is None:
        raise UnansweredDialogError(f"The message {native.text()!r} has no button {given!r}")
    native.open()  # a box that was never shown has no clickedButton
    button.click()
    return int(native.standardButton(button).value) or native.buttons().index(button)


def _button(native: QtWidgets.QMessageBox, given: Any) -> QtWidgets.QAbstractButton | None:
    if isinstance(given, str):
        plain = {button.text().replace("&", ""): button for button in native.buttons()}
        return plain.get(given.replace("&", ""))
    if not native.buttons():
        native.setStandardButtons(QtWidgets.QMessageBox.StandardButton.Ok)
    return native.button(QtWidgets.QMessageBox.StandardButton(int(given)))


def _execute_menu(wrapped: Any, *arguments: Any) -> Any:
    """exec() of a menu: the answer is the text of the action that is chosen, or None."""
    native: QtWidgets.QMenu = wrapped._native
    given = take(Asked("QMenu", native.title(), "", "", arguments))
    given = given(wrapped) if callable(given) else given
    chosen = next((action for action in native.actions() if action.text().replace("&", "") == given), None)
    if given is not None and (chosen is None or not chosen.isEnabled()):
        raise UnansweredDialogError(f"The menu has no action {given!r} that can be chosen")
    if chosen is not None:
        chosen.trigger()
    return manners.wrap(chosen)


def _open_url(url: Any) -> bool:
    native = manners.unwrap(url)
    if not isinstance(native, QtCore.QUrl):
        raise ValueError(f"openUrl takes a qt.QUrl, not {url!r}")
    opened_urls.append(native.toString())
    return True
