"""Reading and writing Qt's properties with PythonQt's conversions."""

from __future__ import annotations

import enum
from typing import Any

from PySide6 import QtCore

from . import enums, members


def read(native: QtCore.QObject, name: str, info: members.ClassInfo) -> Any:
    """The value; enumerations and flags as plain numbers."""
    index = native.metaObject().indexOfProperty(name)
    if index < 0:
        raise NotImplementedError(f"the stand-in of {info.name} has no property '{name}'")
    try:
        value = native.property(name)
    except RuntimeError:  # PySide has no converter from a variant for some flags; their getters have
        value = getattr(native, name)()
    return enums.number(value) if isinstance(value, enum.Enum) else value


def is_dynamic(native: Any, name: str) -> bool:
    """Whether a property was added to this one object, e.g. SlicerParameterName by a .ui file."""
    return isinstance(native, QtCore.QObject) and name in [bytes(key).decode() for key in native.dynamicPropertyNames()]


def write(native: QtCore.QObject, name: str, value: Any, given: Any, info: members.ClassInfo) -> None:
    """Set the value, or raise AttributeError for one that is read only or does not take what was `given`."""
    meta = native.metaObject()
    index = meta.indexOfProperty(name)
    if index < 0:
        raise NotImplementedError(f"the stand-in of {info.name} has no property '{name}'")
    prop = meta.property(index)
    if not prop.isWritable():
        raise AttributeError(f"Property '{name}' of {info.name} object is not writable")
    type_name = prop.typeName()
    fits, converted = _enumeration(value, prop) if prop.isEnumType() else _converted(value, type_name)
    if not fits or not _set(native, name, converted):
        raise AttributeError(
            f"Property '{name}' of type '{type_name}' does not accept an object of type {type(given).__name__} "
            f"({given!r})"
        )


def _set(native: QtCore.QObject, name: str, value: Any) -> bool:
    """Through the setter where there is one of that name, since PySide has no variants of some flags."""
    setter = getattr(native, f"set{name[0].upper()}{name[1:]}", None)
    if isinstance(value, enum.Enum) and setter is not None:
        setter(value)
        return True
    return native.setProperty(name, value)


def _enumeration(value: Any, prop: QtCore.QMetaProperty) -> tuple[bool, Any]:
    if isinstance(value, enum.Enum):
        return True, value
    if isinstance(value, str):
        number, known = prop.enumerator().keysToValue(value)
        return known, number
    return isinstance(value, int), value


def _converted(value: Any, type_name: str) -> tuple[bool, Any]:
    """As PythonQt converts: numbers among each other, anything to text, sequences of texts to lists of texts."""
    if isinstance(value, enum.Enum):
        value = enums.number(value)
    numeric = isinstance(value, (bool, int, float))
    if type_name == "bool":
        return numeric, bool(int(value)) if numeric else None
    if type_name in ("int", "uint", "qlonglong"):
        return numeric, int(value) if numeric else None
    if type_name in ("double", "float"):
        return numeric, float(value) if numeric else None
    if type_name == "QString":
        return True, value.decode() if isinstance(value, bytes) else str(value)
    if type_name == "QStringList":
        listed = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
        return listed, list(value) if listed else None
    return value is not None, value
