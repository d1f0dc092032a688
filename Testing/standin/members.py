"""Which names a class offers and what each is: property, method, signal, enumeration or one of its members.

The record says so for the classes that it has; for others Qt itself does.
"""

from __future__ import annotations

import enum
import functools
import inspect
import keyword
from typing import Any

from PySide6 import QtCore

from . import enums, record

PROPERTY, METHOD, SIGNAL, CONSTANT, TYPE = "property", "method", "signal", "constant", "type"

# Never a property in PythonQt, though Qt has one.
NOT_PROPERTIES = {("QTimer", "singleShot")}
# What PythonQt adds to every object.
ADDED_METHODS = frozenset({"className", "connect", "delete", "disconnect", "help", "inherits"})


class ClassInfo:
    """Names of one class.

    Parameters
    ----------
    qualified: e.g. "qt.QPushButton"
    native: PySide's class, or the class of the stand-in written with PySide
    """

    def __init__(self, qualified: str, native: type) -> None:
        self.qualified, self.native = qualified, native
        self.name = qualified.split(".")[-1]
        self.entry = record.entry(qualified)
        self._native_properties = property_names(native)

    @functools.cache  # noqa: B019 — class infos live as long as the process
    def kind(self, name: str) -> str | None:
        """What the name is; None if there is no such name."""
        if name == "name" and self._native_property("objectName"):
            return PROPERTY
        found = self._recorded_kind(name) if self.entry else self._native_kind(name)
        if found is None and name in ADDED_METHODS and self.entry is None:
            return METHOD
        return found

    def plain(self, name: str) -> str:
        """The name without what Python needs: exec_ is exec; name is objectName."""
        if name == "name" and self._native_property("objectName"):
            return "objectName"
        short = name[:-1]
        if name.endswith("_") and not short.endswith("_") and self.kind(name) is None and self.kind(short) == METHOD:
            return short
        return name

    def constant(self, name: str) -> enums.EnumValue:
        """The member of an enumeration."""
        native = getattr(self.native, name, None)
        recorded = self.entry.constants.get(name) if self.entry is not None else None
        if isinstance(native, enum.Enum):
            return enums.wrap(native, recorded[0] if recorded else "")
        if recorded:
            return enums.named(self.qualified, recorded[0])(recorded[1])
        raise NotImplementedError(f"the stand-in does not know {self.qualified}.{name}")

    def enumeration(self, name: str) -> type:
        """The enumeration itself."""
        native = getattr(self.native, name, None)
        if isinstance(native, type) and issubclass(native, enum.Enum):
            return enums.of_native(native, name)
        return enums.named(self.qualified, name)

    def missing(self) -> dict[str, str]:
        """Recorded names that this stand-in lacks, with what each is in Slicer: reading one raises."""
        if self.entry is None:
            return {}
        lacking = {name: PROPERTY for name in self.entry.properties if not self._native_property(name)}
        lacking |= {name: METHOD for name in self.entry.methods - ADDED_METHODS if not self.has_method(name)}
        return lacking | {name: SIGNAL for name in self.entry.signals if not hasattr(self.native, name)}

    def has_method(self, name: str) -> bool:
        """Whether there is something to call."""
        return callable(getattr(self.native, native_name(name), None))

    def _recorded_kind(self, name: str) -> str | None:
        entry = self.entry
        assert entry is not None
        if name in entry.properties:
            return PROPERTY
        if name in entry.methods:
            return METHOD
        if name in entry.signals:
            return SIGNAL
        if name in entry.constants:
            return CONSTANT
        return TYPE if name in entry.types else None

    def _native_kind(self, name: str) -> str | None:
        if name.startswith("_"):
            return None
        if self._native_property(name) and (self.name, name) not in NOT_PROPERTIES:
            return PROPERTY
        found = getattr(self.native, native_name(name), None)
        if isinstance(found, QtCore.Signal):
            return SIGNAL
        if isinstance(found, enum.Enum):
            return CONSTANT
        if isinstance(found, type):
            return TYPE if issubclass(found, enum.Enum) else None
        return METHOD if callable(found) else None

    def _native_property(self, name: str) -> bool:
        return name in self._native_properties


def property_names(native: type) -> frozenset[str]:
    """All of Qt's properties of a class. Read once: PySide's own handle of a meta object may not last."""
    if not is_qobject(native):
        return frozenset()
    meta = native.staticMetaObject
    return frozenset(meta.property(index).name() for index in range(meta.propertyCount()))


def native_name(name: str) -> str:
    """PySide's name of a method: those that are words of Python end in an underscore there."""
    return f"{name}_" if keyword.iskeyword(name) or name == "print" else name


def is_qobject(native: type) -> bool:
    """Whether a class is a QObject's (others with a meta object are mere name spaces and values)."""
    return inspect.isclass(native) and issubclass(native, QtCore.QObject)


def is_static(native: type, name: str) -> bool:
    """Whether a method is called on the class."""
    for base in native.__mro__:
        if name in vars(base):
            found: Any = vars(base)[name]
            return (
                isinstance(found, (staticmethod, classmethod)) or type(found).__name__ == "builtin_function_or_method"
            )
    return False
