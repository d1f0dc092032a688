"""What a running Slicer was recorded to offer: its widgets' attributes with first values, methods, signals."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "record"

# Classes that were not recorded, with the recorded one whose names are theirs too (both are a QBoxLayout, and so on).
KIN = {
    "qt.QHBoxLayout": "qt.QVBoxLayout",
    "qt.QBoxLayout": "qt.QVBoxLayout",
    "slicer.qMRMLNodeComboBoxMenuDelegate": "slicer.qMRMLNodeComboBoxDelegate",
}


@dataclass(frozen=True)
class Entry:
    """One class of the record, with what it inherits of qt.QWidget.

    Attributes
    ----------
    properties: name -> (type's name, value on a new object as JSON has it, or None where none was recorded)
    constants: name -> (type's name, value) of the members of enumerations
    types: names of the enumerations themselves
    """

    name: str
    properties: Mapping[str, tuple[str, Any]]
    constants: Mapping[str, tuple[str, int]]
    types: frozenset[str]
    methods: frozenset[str]
    signals: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        """Everything that may follow the dot."""
        return frozenset().union(self.properties, self.constants, self.types, self.methods, self.signals)


@functools.lru_cache(maxsize=1)
def widgets() -> Mapping[str, Any]:
    """The whole of widgets.json."""
    return json.loads((FOLDER / "widgets.json").read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1)
def behaviour() -> Mapping[str, Any]:
    """The whole of behaviour.json: what expressions gave in a running Slicer."""
    return json.loads((FOLDER / "behaviour.json").read_text(encoding="utf-8"))


@functools.cache
def entry(name: str) -> Entry | None:
    """The record of e.g. "ctk.ctkSliderWidget"; None for a class of which there is none."""
    raw = widgets()["classes"].get(KIN.get(name, name))
    if not isinstance(raw, dict):
        return None
    properties: dict[str, tuple[str, Any]] = {}
    constants: dict[str, tuple[str, int]] = {}
    types: set[str] = set()
    methods, signals = set(raw["methods"]), set(raw["signals"])
    for key, described in raw["attributes"].items():
        kind, value = described[0], described[1] if len(described) > 1 else None
        if kind in ("type", "PythonQtClassWrapper"):
            types.add(key)
        elif kind == "function":  # a static function that the recorder saw as an attribute: QTimer.singleShot
            methods.add(key)
        elif _is_constant(key, kind, raw["attributes"]):
            constants[key] = (kind, value)
        else:
            properties[key] = (kind, value)
    own = Entry(name, properties, constants, frozenset(types), frozenset(methods), frozenset(signals))
    return _with_inherited(own, entry(raw["inherits"])) if raw["inherits"] else own


def _is_constant(key: str, kind: str, attributes: Mapping[str, Any]) -> bool:
    """Whether an attribute is a member of an enumeration: those are named in capitals, and so are their types.

    The few properties in capitals (of qMRMLTransformSliders) have plain types; the few properties whose type is an
    enumeration begin with a small letter.
    """
    return key[0].isupper() and re.fullmatch(r"[A-Z]\w+", kind) is not None and kind not in ("NoneType",)


def _with_inherited(own: Entry, base: Entry | None) -> Entry:
    if base is None:
        return own
    return Entry(
        own.name,
        {**base.properties, **own.properties},
        {**base.constants, **own.constants},
        base.types | own.types,
        base.methods | own.methods,
        base.signals | own.signals,
    )


def own_properties(name: str) -> dict[str, tuple[str, Any]]:
    """The properties that were recorded of the class itself; those it shares with qt.QWidget were not read anew."""
    found, listed = entry(name), widgets()["classes"][name]["attributes"]
    return {key: value for key, value in found.properties.items() if key in listed} if found else {}


def classes() -> dict[str, Entry]:
    """All recorded classes that could be instantiated, by name."""
    found = {name: entry(name) for name in widgets()["classes"]}
    return {name: value for name, value in found.items() if value is not None}
