"""PythonQt's manners over PySide: properties without parentheses, only recorded names, no new attributes on widgets.

Every Qt object is held by a `Wrapped`, which answers for it as PythonQt's wrapper does in Slicer. The error texts are
PythonQt's, since users see them.
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable
from typing import Any

import shiboken6
from PySide6 import QtCore

from . import enums, members, properties, signals
from .members import CONSTANT, METHOD, PROPERTY, SIGNAL, TYPE

_alive: weakref.WeakValueDictionary[int, Wrapped] = weakref.WeakValueDictionary()  # by the C++ object's address
_classes: dict[type, type] = {}  # PySide's class -> ours
_overrides: dict[tuple[str, str], Callable[..., Any]] = {}  # (class, method) -> function that answers instead


class ClassWrapper(type):
    """What `qt.QProcess` is: instantiated, inherited from, and asked for enumerations and static functions."""

    _info: members.ClassInfo | None

    def __getattr__(cls, name: str) -> Any:
        info = cls.__dict__.get("_info") or next(
            (b.__dict__["_info"] for b in cls.__mro__ if "_info" in b.__dict__), None
        )
        if info is None or name.startswith("__"):
            raise AttributeError(name)
        plain = info.plain(name)
        kind = info.kind(plain)
        if kind == CONSTANT:
            return info.constant(plain)
        if kind == TYPE:
            return info.enumeration(plain)
        if kind == METHOD:
            return StaticMethod(info, plain)
        raise AttributeError(f"type object '{info.name}' has no attribute '{name}'")

    def __setattr__(cls, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise AttributeError(f"'{name}' can not be set on {cls.__name__}")
        super().__setattr__(name, value)


class Wrapped(metaclass=ClassWrapper):
    """An object of Qt, or of a stand-in for ctk or qMRML."""

    _info = None
    _plain = False  # true for Qt's own classes; a class that somebody derives in Python may have attributes of its own

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        info = type(self)._info
        if info is None:
            raise TypeError("this class has no constructor")
        if keywords:
            raise TypeError(f"{info.name}() takes no keyword arguments in PythonQt")
        check = override(type(self), "__init__")
        if check is not None:
            check(*arguments)
        _hold(self, _call_native(info.native, info.name, arguments))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_native":
            raise AttributeError(name)
        info = type(self)._info
        plain = info.plain(name)
        kind = info.kind(plain)
        native = self._native
        if kind in (PROPERTY, SIGNAL) and not shiboken6.isValid(native):
            raise ValueError(f"Trying to read property '{name}' from a destroyed {info.name} object")
        if kind == PROPERTY:
            return wrap(properties.read(native, plain, info))
        if kind == METHOD:
            return Method(self, plain)
        if kind == SIGNAL:
            if not hasattr(native, plain):
                raise NotImplementedError(f"the stand-in of {info.name} has no signal '{plain}'")
            return signals.Signal(native, plain)
        if kind == CONSTANT:
            return info.constant(plain)
        if kind == TYPE:
            return info.enumeration(plain)
        return _unlisted(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_native":
            object.__setattr__(self, name, value)
            return
        info = type(self)._info
        plain = info.plain(name)
        kind = info.kind(plain)
        if kind == PROPERTY:
            if not shiboken6.isValid(self._native):
                raise AttributeError(f"Trying to set property '{name}' on a destroyed {info.name} object")
            properties.write(self._native, plain, unwrap(value), value, info)
        elif kind is not None:
            word = {METHOD: "Slot", SIGNAL: "Signal", CONSTANT: "EnumValue", TYPE: "Enum"}[kind]
            raise AttributeError(f"{word} '{name}' can not be overwritten on {type(self).__name__} object")
        elif properties.is_dynamic(self._native, name):
            self._native.setProperty(name, unwrap(value))
        elif not type(self).__dict__.get("_plain", False):
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(
                f"'{name}' does not exist on {info.name} and creating new attributes on C++ objects is not allowed"
            )

    def __dir__(self) -> list[str]:
        info = type(self)._info
        return sorted(info.entry.names) if info.entry else [name for name in dir(info.native) if info.kind(name)]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Wrapped):
            other = other._native
        return bool(self._native is other or (not isinstance(self._native, QtCore.QObject) and self._native == other))

    def __hash__(self) -> int:
        return hash(shiboken6.getCppPointer(self._native)) if isinstance(self._native, shiboken6.Object) else id(self)

    def __bool__(self) -> bool:
        return shiboken6.isValid(self._native)

    def __repr__(self) -> str:
        return f"{type(self).__name__} ({self._native!r})"

    def __str__(self) -> str:
        return str(self._native.data(), "utf-8") if isinstance(self._native, QtCore.QByteArray) else repr(self)

    def _operate(self, other: Any, operator: str) -> Any:
        operation = getattr(self._native, operator, None)
        return NotImplemented if operation is None else wrap(operation(unwrap(other)))

    def __add__(self, other: Any) -> Any:
        return self._operate(other, "__add__")

    def __sub__(self, other: Any) -> Any:
        return self._operate(other, "__sub__")

    def __mul__(self, other: Any) -> Any:
        return self._operate(other, "__mul__")


class Method:
    """A method bound to an object."""

    def __init__(self, owner: Wrapped, name: str) -> None:
        self._owner, self._name = owner, name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        native, info = self._owner._native, type(self._owner)._info
        if not shiboken6.isValid(native):
            raise ValueError(f"Trying to call '{self._name}' on a destroyed {info.name} object")
        if keywords:
            raise TypeError(f"{self._name}() takes no keyword arguments in PythonQt")
        instead = override(type(self._owner), self._name)
        if instead is not None:
            return instead(self._owner, *arguments)
        if not info.has_method(self._name):
            raise NotImplementedError(f"the stand-in of {info.name} has no method '{self._name}'")
        return _called(getattr(native, members.native_name(self._name)), f"{info.name}.{self._name}", arguments)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Method) and self._owner == other._owner and self._name == other._name

    def __hash__(self) -> int:
        return hash((self._owner, self._name))

    def __repr__(self) -> str:
        return f"<qt slot {self._name} of {type(self._owner).__name__}>"


class StaticMethod:
    """A function asked of a class: a static one, or a method that is given its object first."""

    def __init__(self, info: members.ClassInfo, name: str) -> None:
        self._info, self._name = info, name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if keywords:
            raise TypeError(f"{self._name}() takes no keyword arguments in PythonQt")
        instead = override(class_of(self._info.native), self._name)
        if instead is not None:
            return instead(*arguments)
        if not self._info.has_method(self._name):
            raise NotImplementedError(f"the stand-in of {self._info.name} has no function '{self._name}'")
        return _called(getattr(self._info.native, members.native_name(self._name)), self._name, arguments)

    def __repr__(self) -> str:
        return f"<unbound qt slot {self._name} of {self._info.name} type>"


def answer_instead(class_name: str, method: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function answers a method of Qt. It gets the wrapped object first, where there is one."""

    def keep(function: Callable[..., Any]) -> Callable[..., Any]:
        _overrides[class_name, method] = function
        return function

    return keep


def override(cls: type, method: str) -> Callable[..., Any] | None:
    """The function that answers instead of Qt, for a class or one that it inherits."""
    names = [base._info.name for base in cls.__mro__ if getattr(base, "_info", None) is not None] + ["Wrapped"]
    return next((_overrides[name, method] for name in names if (name, method) in _overrides), None)


def class_of(native: type, qualified: str | None = None) -> type:
    """Our class for one of PySide's or of the stand-ins; made when first asked for."""
    if native not in _classes:
        bases = tuple(
            class_of(base) for base in native.__bases__ if issubclass(base, shiboken6.Object) and _is_qt(base)
        )
        info = members.ClassInfo(qualified or f"{getattr(native, 'HOME', 'qt')}.{native.__name__}", native)
        body = {"_info": info, "_plain": True, "__module__": info.qualified.split(".")[0]}
        _classes[native] = ClassWrapper(native.__name__, bases or (Wrapped,), body)
    return _classes[native]


def wrap(value: Any) -> Any:
    """What PythonQt hands to Python for what Qt gave: lists are tuples, members of enumerations are numbers."""
    if isinstance(value, enum.Enum):
        return enums.wrap(value)
    if isinstance(value, (list, tuple)):
        return tuple(wrap(item) for item in value)
    if isinstance(value, dict):
        return {key: wrap(item) for key, item in value.items()}
    if isinstance(value, shiboken6.Object) and not isinstance(value, Wrapped):
        return _wrapped(value)
    return value


def unwrap(value: Any) -> Any:
    """What PySide wants for what Python code hands over."""
    if isinstance(value, Wrapped):
        return value._native
    if isinstance(value, enums.EnumValue):
        return value.native()
    if isinstance(value, (list, tuple)):
        return [unwrap(item) for item in value]
    if isinstance(value, dict):
        return {key: unwrap(item) for key, item in value.items()}
    return value


def has_signal(native: QtCore.QObject, name: str) -> bool:
    """Whether an object's class offers a signal."""
    return class_of(_public(type(native)))._info.kind(name) == SIGNAL


def _wrapped(native: Any) -> Wrapped:
    address = shiboken6.getCppPointer(native)[0] if isinstance(native, QtCore.QObject) else 0
    known = _alive.get(address) if address else None
    if known is not None and known._native is native:
        return known
    cls = class_of(_public(type(native)))
    made = cls.__new__(cls)
    _hold(made, native)
    return made


def _hold(wrapped: Wrapped, native: Any) -> None:
    object.__setattr__(wrapped, "_native", native)
    if isinstance(native, QtCore.QObject):
        _alive[shiboken6.getCppPointer(native)[0]] = wrapped


def _public(native: type) -> type:
    """The nearest class with a name in Slicer: helpers of the stand-ins, named _Something, have none."""
    return next(base for base in native.__mro__ if not base.__name__.startswith("_"))


def _is_qt(native: type) -> bool:
    return native is not shiboken6.Object and native.__module__ != "Shiboken" and native.__name__ != "Object"


def _called(function: Callable[..., Any], name: str, arguments: tuple[Any, ...]) -> Any:
    return wrap(_call_native(function, name, arguments))


def _call_native(function: Callable[..., Any], name: str, arguments: tuple[Any, ...]) -> Any:
    """Call into Qt; arguments that fit no overload are a ValueError, as in PythonQt."""
    if any(callable(argument) and not isinstance(argument, (Wrapped, type)) for argument in arguments):
        raise ValueError(f"{name}: PythonQt takes no Python function here (got {arguments!r})")
    try:
        return function(*[unwrap(argument) for argument in arguments])
    except TypeError as error:
        if not any(isinstance(argument, enums.EnumValue) for argument in arguments):
            raise ValueError(
                f"Could not find matching overload for given arguments: {arguments!r} of {name}"
            ) from error
    # a member of an enumeration where Qt takes a number
    return function(
        *[int(argument) if isinstance(argument, enums.EnumValue) else unwrap(argument) for argument in arguments]
    )


def _unlisted(wrapped: Wrapped, name: str) -> Any:
    """Dynamic properties, then named children; PythonQt offers both as attributes."""
    native = wrapped._native
    if isinstance(native, QtCore.QObject) and shiboken6.isValid(native):
        if properties.is_dynamic(native, name):
            return wrap(native.property(name))
        for child in native.children():
            if child.objectName() == name:
                return wrap(child)
    raise AttributeError(f"{type(wrapped)._info.name} has no attribute named '{name}'")
