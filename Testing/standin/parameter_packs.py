"""Typed members of a described class, and packs of them that can be members themselves."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any

import slicer

from .parameter_annotations import Default, IsInstance, NotNone
from .parameter_values import Codec, codec_of, split


@dataclass(frozen=True)
class Parameter:
    """One member of a wrapped class or pack."""

    basename: str
    serializer: Codec
    default: Default
    unalteredType: Any


def members_of(described: type) -> dict[str, Parameter]:
    """The members of a described class, in order; the default is that after the equals sign, or of Default(…)."""
    found = {}
    for name, hint in typing.get_type_hints(described, include_extras=True).items():
        codec = codec_of(hint)
        given = [note for note in split(hint)[1] if isinstance(note, Default)]
        if len(given) > 1:
            raise ValueError("Multiple defaults found")
        if hasattr(described, name):
            default = Default(getattr(described, name))
        else:
            default = given[0] if given else Default(codec.default())
        found[name] = Parameter(name, codec, default, hint)
    return found


def check_name(wrapper: Any, name: str) -> None:
    top, _, rest = name.partition(".")
    if top not in wrapper.allParameters:
        listed = "".join(f"\n    {known}," for known in wrapper.allParameters)
        raise ValueError(f"Cannot find a param with the given name: {top}\n  Found parameters [{listed}\n  ]")
    if rest:
        check_name(split(wrapper.allParameters[top].unalteredType)[0], rest)


def data_type(described: type) -> Any:
    def dataType(name: str) -> Any:
        check_name(described, name)
        top, _, rest = name.partition(".")
        hint = described.allParameters[top].unalteredType
        return split(hint)[0].dataType(rest) if rest else hint

    return staticmethod(dataType)


def give(described: type, name: str, value: Any, purpose: str) -> None:
    if name in vars(described) and name != "__init__":
        raise ValueError(f"Cannot use reserved name '{name}' in a {purpose}")
    setattr(described, name, value)


class PackCodec(Codec):
    """A pack is its members, each under the pack's name and its own."""

    def __init__(self, kind: type) -> None:
        super().__init__(NotNone(), IsInstance(kind))
        self.kind = kind

    def default(self) -> Any:
        return self.kind()

    def accepts(self, value: Any) -> bool:
        return isinstance(value, self.kind)

    def put(self, node: Any, name: str, value: Any) -> None:
        with slicer.util.NodeModify(node):
            for member, parameter in self.kind.allParameters.items():
                parameter.serializer.write(node, f"{name}.{member}", getattr(value, member))

    def read(self, node: Any, name: str) -> Any:
        values = {
            member: parameter.serializer.read(node, f"{name}.{member}")
            for member, parameter in self.kind.allParameters.items()
        }
        made = self.kind.__new__(self.kind)
        vars(made).update({f"_pack_{member}": value for member, value in values.items()})
        vars(made)["_pack_saved"] = (self, node, name)
        return made

    def present(self, node: Any, name: str) -> bool:
        first = next(iter(self.kind.allParameters.values()))
        return first.serializer.present(node, f"{name}.{first.basename}")

    def remove(self, node: Any, name: str) -> None:
        for member, parameter in self.kind.allParameters.items():
            parameter.serializer.remove(node, f"{name}.{member}")


def parameterPack(classtype: type | None = None) -> Any:
    """Class decorator: a bundle of typed members that can be a member of a wrapped class."""

    def wrap(described: type) -> type:
        parameters = members_of(described)
        if not parameters:
            raise ValueError("Unable to find any members in parameterPack")
        for name in parameters:
            setattr(described, name, _pack_property(name))
        given = vars(described).get("__init__")

        def initialise(self: Any, *values: Any, **named: Any) -> None:
            chosen = {name: parameter.default.value for name, parameter in parameters.items()}
            if given is None:
                chosen |= dict(zip(parameters, values, strict=False)) | named
            unknown = set(chosen) - set(parameters)
            if unknown:
                raise TypeError(f"__init__() got an unexpected keyword argument '{unknown.pop()}'")
            for name, value in chosen.items():
                setattr(self, name, value)
            if given is not None:
                given(self, *values, **named)

        described.__init__ = initialise
        give(described, "allParameters", parameters, "parameterPack")
        give(described, "_is_parameterPack", True, "parameterPack")
        give(described, "dataType", data_type(described), "parameterPack")
        give(described, "getValue", _pack_get, "parameterPack")
        give(described, "setValue", _pack_set, "parameterPack")
        give(described, "_codec", classmethod(PackCodec), "parameterPack")
        if "__eq__" not in vars(described):
            described.__eq__ = _pack_equal
            described.__hash__ = None
        return described

    return wrap if classtype is None else wrap(classtype)


def _pack_property(name: str) -> property:
    def read(self: Any) -> Any:
        return vars(self)[f"_pack_{name}"]

    def write(self: Any, value: Any) -> None:
        type(self).allParameters[name].serializer.check(value)
        vars(self)[f"_pack_{name}"] = value
        if "_pack_saved" in vars(self):
            codec, node, place = vars(self)["_pack_saved"]
            codec.write(node, place, self)

    return property(read, write)


def _pack_get(self: Any, name: str) -> Any:
    top, _, rest = name.partition(".")
    return getattr(self, top).getValue(rest) if rest else getattr(self, top)


def _pack_set(self: Any, name: str, value: Any) -> None:
    top, _, rest = name.partition(".")
    if rest:
        getattr(self, top).setValue(rest, value)
    else:
        setattr(self, top, value)


def _pack_equal(self: Any, other: object) -> bool:
    return type(self) is type(other) and all(getattr(self, n) == getattr(other, n) for n in self.allParameters)


def isParameterPack(thing: Any) -> bool:
    return getattr(thing, "_is_parameterPack", False)


@parameterPack
class FloatRange:
    """A lower and an upper bound, in order."""

    _minimum: float
    _maximum: float

    def __init__(self, minimum: float = 0, maximum: float = 0) -> None:
        self.setRange(minimum, maximum)

    @property
    def minimum(self) -> float:
        return self._minimum

    @minimum.setter
    def minimum(self, value: float) -> None:
        self.setRange(value, self._maximum)

    @property
    def maximum(self) -> float:
        return self._maximum

    @maximum.setter
    def maximum(self, value: float) -> None:
        self.setRange(self._minimum, value)

    def setRange(self, minimum: float, maximum: float) -> None:
        if not minimum <= maximum:
            raise ValueError(f"FloatRange must have minimum <= maximum: {minimum} <= {maximum}")
        self._minimum = minimum
        self._maximum = maximum
