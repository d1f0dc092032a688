"""Enumerations as PythonQt has them: whole numbers with a type of their own, whatever Qt's binding makes of them."""

from __future__ import annotations

import enum
import functools
from typing import Any


class EnumValue(int):
    """A member of an enumeration, or several of a flag; equal to its number, printed as its number."""

    native_type: type | None = None

    def native(self) -> Any:
        """The same for PySide; a plain int where the enumeration is not one of Qt's."""
        if self.native_type is None:
            return int(self)
        try:
            return self.native_type(int(self))
        except ValueError:  # a flag of all bits is -1 here, as in C++
            return self.native_type(int(self) & 0xFFFFFFFF)

    def __or__(self, other: int) -> EnumValue:
        return type(self)(int(self) | int(other))

    def __and__(self, other: int) -> EnumValue:
        return type(self)(int(self) & int(other))

    def __xor__(self, other: int) -> EnumValue:
        return type(self)(int(self) ^ int(other))

    def __invert__(self) -> EnumValue:
        return type(self)(~int(self))

    __ror__ = __or__
    __rand__ = __and__
    __rxor__ = __xor__


@functools.cache
def of_native(native_type: type, name: str = "") -> type[EnumValue]:
    """The enumeration that stands for one of PySide's; Slicer's has another name where it is a flag."""
    return type(name or native_type.__name__, (EnumValue,), {"native_type": native_type})


@functools.cache
def named(owner: str, name: str) -> type[EnumValue]:
    """An enumeration that Qt does not have, e.g. of a ctk class."""
    return type(name, (EnumValue,), {"__module__": owner})


def number(value: enum.Enum) -> int:
    """The number behind a member of one of PySide's enumerations (its flags are no numbers)."""
    found = int(value.value)
    return found - (1 << 32) if (1 << 31) <= found < (1 << 32) else found


def wrap(value: enum.Enum, name: str = "") -> EnumValue:
    """PySide's member as PythonQt's."""
    return of_native(type(value), name)(number(value))
