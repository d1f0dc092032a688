"""Properties that a stand-in only keeps: everything that the record lists and the class does not make itself."""

from __future__ import annotations

from typing import Any, ClassVar

from PySide6 import QtCore, QtGui

from . import record

TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "tuple": "QStringList",
    "NoneType": "QVariant",
    "QColor": QtGui.QColor,
    "QIcon": QtGui.QIcon,
    "QSize": QtCore.QSize,
    "QPixmap": QtGui.QPixmap,
    "QPalette": QtGui.QPalette,
}
VALUES = {
    "tuple": list,
    "QIcon": QtGui.QIcon,
    "QSize": QtCore.QSize,
    "QPixmap": QtGui.QPixmap,
    "QPalette": QtGui.QPalette,
}


def stored(kind: str, name: str, first: Any) -> QtCore.Property:
    """A property that does nothing but keep what was set."""
    key = f"_stored_{name}"

    def read(self: Any) -> Any:
        return self.__dict__.get(key, first() if callable(first) else first)

    def write(self: Any, value: Any) -> None:
        self.__dict__[key] = value
        self.update()

    return QtCore.Property(TYPES.get(kind, int), read, write)


def _first_value(kind: str, value: Any) -> Any:
    if kind == "QColor":
        return QtGui.QColor(str(value).split("(")[1].split(",")[0]) if value else QtGui.QColor()
    return VALUES.get(kind, value)


def _setter(name: str) -> Any:
    def write(self: Any, value: Any) -> None:
        self.setProperty(name, value)

    return write


class Recorded:
    """Mix-in for stand-ins written with PySide.

    A class that inherits it names its HOME ("ctk" or "slicer") and gets, as Qt properties, all recorded attributes that
    neither it nor its base in Qt has. SIGNATURES names the signals with their C++ types, in the order of their
    declaration, where PySide's own do not say it: signature -> the attribute that is the signal.
    """

    HOME: ClassVar[str] = "ctk"
    SIGNATURES: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        entry = record.entry(f"{cls.HOME}.{cls.__name__}")
        if entry is None:
            return
        meta = next(base.staticMetaObject for base in cls.__mro__[1:] if hasattr(base, "staticMetaObject"))
        for name, (kind, value) in entry.properties.items():
            if name not in vars(cls) and meta.indexOfProperty(name) < 0:
                setattr(cls, name, stored(kind, name, _first_value(kind, value)))
                setter = f"set{name[0].upper()}{name[1:]}"
                if setter in entry.methods and not hasattr(cls, setter):
                    setattr(cls, setter, _setter(name))
