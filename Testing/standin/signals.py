"""Signals with PythonQt's manners: connected by attribute or by string, to plain callables, errors kept to the slot."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import shiboken6
from PySide6 import QtCore

from . import manners

log = logging.getLogger(__name__)

slot_errors: list[BaseException] = []  # what escaped from slots: Qt goes on, as the record shows


@dataclass(frozen=True)
class Connection:
    signal: str
    signature: str
    callable: Callable[..., Any]
    relay: Callable[..., None]


_connections: dict[int, list[Connection]] = {}  # by the C++ object's address


def accepted(function: Callable[..., Any]) -> int | None:
    """How many arguments PythonQt hands to a slot at most; None: all that the signal has.

    It counts the positional parameters of Python functions and methods, those with defaults among them. Of other
    callables (built-ins, partial objects, lambdas with *args) it knows nothing and hands over everything.
    """
    if inspect.ismethod(function) and inspect.isfunction(function.__func__):
        code, own = function.__func__.__code__, 1
    elif inspect.isfunction(function):
        code, own = function.__code__, 0
    else:
        return None
    return None if code.co_flags & inspect.CO_VARARGS else code.co_argcount - own


def guarded(function: Callable[..., Any], count: int | None = None) -> Callable[..., None]:
    """A slot that never raises: `function` with at most `count` arguments, its error kept in `slot_errors`."""
    limits = [limit for limit in (count, accepted(function)) if limit is not None]
    limit = min(limits) if limits else None

    def call(*arguments: Any) -> None:
        try:
            function(*[manners.wrap(argument) for argument in arguments[:limit]])
        except Exception as error:
            slot_errors.append(error)
            log.exception("An error in a slot")

    return call if count is None else _with_count(call, count)


def _with_count(call: Callable[..., None], count: int) -> Callable[..., None]:
    """The same with so many parameters by name: PySide hands to a function what its signature asks for."""
    forms: dict[int, Callable[..., None]] = {
        0: lambda: call(),
        1: lambda a: call(a),
        2: lambda a, b: call(a, b),
        3: lambda a, b, c: call(a, b, c),
        4: lambda a, b, c, d: call(a, b, c, d),
    }
    return forms[count]


def signatures(native: QtCore.QObject, name: str) -> list[str]:
    """All forms of a signal, in the order of their declaration, e.g. ["clicked(bool)", "clicked()"]."""
    declared = getattr(type(native), "SIGNATURES", {})
    found = [signature for signature in declared if signature.startswith(f"{name}(")]
    if found:
        return found
    meta = native.metaObject()
    methods = [meta.method(index) for index in range(meta.methodCount())]
    return [
        method.methodSignature().data().decode()
        for method in methods
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal and method.name().data().decode() == name
    ]


def _argument_count(signature: str) -> int:
    inside = signature[signature.index("(") + 1 : -1]
    return len(inside.split(",")) if inside else 0


def connect(native: QtCore.QObject, signature: str, function: Callable[..., Any]) -> bool:
    """Connect by string. False, and nothing connected, for a signal that the object does not have."""
    signature = QtCore.QMetaObject.normalizedSignature(signature)
    signature = signature if isinstance(signature, str) else bytes(signature).decode()
    name = signature.split("(")[0]
    if not manners.has_signal(native, name) or signature not in signatures(native, name):
        log.warning("%s has no signal %s", native.metaObject().className(), signature)
        return False
    if not callable(function):
        raise TypeError(f"connect expects a callable, not {function!r}")
    relay = guarded(function, _argument_count(signature))
    address = shiboken6.getCppPointer(native)[0]
    if address not in _connections:
        _connections[address] = []
        native.destroyed.connect(lambda *_: _connections.pop(address, None))
    _connections[address].append(Connection(name, signature, function, relay))
    _native_signal(native, signature).connect(relay)
    return True


def disconnect(native: QtCore.QObject, signature: str, function: Callable[..., Any] | None = None) -> bool:
    """Undo connections to a function, or all of the signal; False where there was none."""
    signature = QtCore.QMetaObject.normalizedSignature(signature)
    signature = signature if isinstance(signature, str) else bytes(signature).decode()
    connections = _connections.get(shiboken6.getCppPointer(native)[0], [])
    gone = [c for c in connections if c.signature == signature and (function is None or c.callable == function)]
    if function is not None:
        gone = gone[:1]
    for connection in gone:
        _native_signal(native, signature).disconnect(connection.relay)
        connections.remove(connection)
    return bool(gone)


def _native_signal(native: QtCore.QObject, signature: str) -> QtCore.SignalInstance:
    attribute = getattr(type(native), "SIGNATURES", {}).get(signature, signature.split("(")[0])
    return getattr(native, attribute)


class Signal:
    """What `button.clicked` is. Of an overloaded signal it is the form declared first, as in PythonQt."""

    def __init__(self, native: QtCore.QObject, name: str) -> None:
        self._native, self._name = native, name

    def connect(self, function: Callable[..., Any]) -> bool:
        return connect(self._native, self._signature(), function)

    def disconnect(self, function: Callable[..., Any] | None = None) -> bool:
        return disconnect(self._native, self._signature(), function)

    def emit(self, *arguments: Any) -> None:
        _native_signal(self._native, self._signature()).emit(*[manners.unwrap(argument) for argument in arguments])

    __call__ = emit

    def _signature(self) -> str:
        return signatures(self._native, self._name)[0]

    def __repr__(self) -> str:
        return f"<qt signal {self._name} of {self._native.metaObject().className()}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signal) and (self._native is other._native) and self._name == other._name

    def __hash__(self) -> int:
        return hash((id(self._native), self._name))
