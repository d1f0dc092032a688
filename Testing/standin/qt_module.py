"""The module `qt`: every class of QtCore, QtGui, QtWidgets and QtUiTools behind PythonQt's manners."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from . import dialogs, manners, signals, ui_loader
from .manners import answer_instead

SOURCES = (QtCore, QtGui, QtWidgets, QtUiTools)
# PySide's own, which PythonQt does not have.
NOT_OFFERED = frozenset({"ClassInfo", "Property", "Signal", "SignalInstance", "Slot", "QEnum", "QFlag", "Object"})


class QtModule(types.ModuleType):
    """`qt`, or `ctk`: classes are made when they are first asked for."""

    def __init__(self, name: str, find: Callable[[str], type | None]) -> None:
        super().__init__(name)
        self._find = find

    def __getattr__(self, name: str) -> Any:
        native = None if name.startswith("__") else self._find(name)
        if native is None:
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
        cls = manners.class_of(native)
        self.__dict__[name] = cls
        return cls


def _find_qt(name: str) -> type | None:
    if name == "QUiLoader":
        return ui_loader.QUiLoader
    if name in NOT_OFFERED:
        return None
    found = next((getattr(source, name) for source in SOURCES if hasattr(source, name)), None)
    return found if isinstance(found, type) and issubclass(found, shiboken6.Object) else None


def _single_shot(milliseconds: int, function: Callable[[], Any], *more: Any) -> None:
    if more or not callable(function):
        raise ValueError("QTimer.singleShot takes a number of milliseconds and a function")
    QtCore.QTimer.singleShot(int(milliseconds), signals.guarded(function, 0))


def _no_bytes(*arguments: Any) -> None:
    if any(isinstance(argument, (bytes, bytearray, memoryview)) for argument in arguments):
        raise ValueError("PythonQt makes no QImage of bytes; load it from a file or with loadFromData")


def _settings_value(wrapped: Any, key: str, *default: Any) -> Any:
    if len(default) > 1:
        raise ValueError("QSettings.value takes a key and a default; conversion is left to the caller")
    return manners.wrap(wrapped._native.value(key, *[manners.unwrap(value) for value in default]))


def _class_name(wrapped: Any) -> str:
    return type(wrapped)._info.name


def _delete(wrapped: Any) -> None:
    shiboken6.delete(wrapped._native)


def _inherits(wrapped: Any, name: str) -> bool:
    native = wrapped._native
    if isinstance(native, QtCore.QObject) and native.inherits(name):
        return True
    return any(getattr(base, "_info", None) is not None and base._info.name == name for base in type(wrapped).__mro__)


def _connect(wrapped: Any, signal: Any, *target: Any) -> bool:
    """connect("clicked(bool)", f), or connect("toggled(bool)", receiver, "setVisible(bool)")."""
    native = wrapped._native
    if not isinstance(native, QtCore.QObject) or not isinstance(signal, str):
        raise ValueError("connect takes a signal as a string and a function")
    if len(target) == 1:
        return signals.connect(native, signal, target[0])
    if len(target) == 2 and isinstance(target[1], str):
        return signals.connect(native, signal, ui_loader.slot_function(target[0]._native, target[1]))
    raise ValueError("Called connect with wrong number of arguments")


def _disconnect(wrapped: Any, signal: Any, *target: Any) -> bool:
    if not isinstance(signal, str) or len(target) > 1:
        raise ValueError("disconnect takes a signal as a string, and a function")
    return signals.disconnect(wrapped._native, signal, *target)


def _children(wrapped: Any) -> tuple[Any, ...]:
    return tuple(manners.wrap(child) for child in wrapped._native.children())


def _find_children(wrapped: Any, *arguments: Any) -> tuple[Any, ...]:
    if not arguments:
        return tuple(manners.wrap(child) for child in wrapped._native.findChildren(QtCore.QObject))
    kind = arguments[0]._info.native if isinstance(arguments[0], type) else QtCore.QObject
    names = [argument for argument in arguments if isinstance(argument, str)]
    return tuple(manners.wrap(child) for child in wrapped._native.findChildren(kind, *names))


def _find_child(wrapped: Any, *arguments: Any) -> Any:
    found = _find_children(wrapped, *arguments)
    return found[0] if found else None


def make_qt() -> QtModule:
    """The module `qt`, with the answers that PythonQt gives where PySide differs."""
    answer_instead("QTimer", "singleShot")(_single_shot)
    answer_instead("QImage", "__init__")(_no_bytes)
    answer_instead("QSettings", "value")(_settings_value)
    answer_instead("QObject", "connect")(_connect)
    answer_instead("QObject", "disconnect")(_disconnect)
    answer_instead("QObject", "children")(_children)
    answer_instead("QObject", "findChildren")(_find_children)
    answer_instead("QObject", "findChild")(_find_child)
    answer_instead("Wrapped", "className")(_class_name)
    answer_instead("Wrapped", "delete")(_delete)
    answer_instead("Wrapped", "inherits")(_inherits)
    dialogs.install()
    return QtModule("qt", _find_qt)
