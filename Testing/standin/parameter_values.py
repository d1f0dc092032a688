"""How slicer.parameterNodeWrapper keeps typed values as strings and references in a parameter node.

A `Codec` for every type that modules use: the names and strings in the node are Slicer's, so that scenes saved here and
there agree. Annotations (WithinRange, Choice, …) refuse values with Slicer's words.
"""

from __future__ import annotations

import collections.abc
import enum
import pathlib
import types
import typing
from typing import Any

import slicer

from .parameter_annotations import IsInstance, IsNone, NotNone, Validator

# --- codecs ---------------------------------------------------------------------------------------------------------


class Codec:
    """Writes a value under a name of a parameter node and reads it back; one plain string unless a subclass differs."""

    caching = True

    def __init__(self, *validators: Validator) -> None:
        self.validators = validators

    def default(self) -> Any:
        return None

    def check(self, value: Any) -> None:
        for validator in self.validators:
            validator.validate(value)

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        self.put(node, name, value)

    def put(self, node: Any, name: str, value: Any) -> None:
        node.SetParameter(name, self.encode(value))

    def read(self, node: Any, name: str) -> Any:
        return self.decode(node.GetParameter(name))

    def present(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(name))

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)

    def accepts(self, value: Any) -> bool:
        """Whether this is the codec for a value in a union of types."""
        return value is not None

    def encode(self, value: Any) -> str:
        return str(value)

    def decode(self, text: str) -> Any:
        return text


class TextCodec(Codec):
    """int, float, str, paths: str() there and the type back."""

    def __init__(self, kind: type, *validators: Validator) -> None:
        super().__init__(NotNone(), IsInstance((int, float) if kind is float else kind), *validators)
        self.kind = kind

    def default(self) -> Any:
        return 0 if self.kind in (int, float) else self.kind()

    def accepts(self, value: Any) -> bool:
        return type(value) in (self.kind,) or (self.kind is float and type(value) is int)

    def decode(self, text: str) -> Any:
        return self.kind(text)


class BoolCodec(Codec):
    def __init__(self, *validators: Validator) -> None:
        super().__init__(NotNone(), IsInstance(bool), *validators)

    def default(self) -> bool:
        return False

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)

    def encode(self, value: bool) -> str:
        return "True" if value else "False"

    def decode(self, text: str) -> bool:
        return text == "True"


class EnumCodec(Codec):
    """An Enum is kept by its member's name."""

    def __init__(self, kind: type[enum.Enum], *validators: Validator) -> None:
        super().__init__(IsInstance(kind), *validators)
        self.kind = kind

    def default(self) -> enum.Enum:
        return next(iter(self.kind))

    def accepts(self, value: Any) -> bool:
        return isinstance(value, self.kind)

    def encode(self, value: enum.Enum) -> str:
        return value.name

    def decode(self, text: str) -> enum.Enum:
        try:
            return self.kind[text]
        except KeyError as error:
            raise ValueError(f"Found {text!r} in parameter node but it is not a name in {self.kind!r}") from error


class NodeCodec(Codec):
    """A node is a reference, and an empty string that says that the parameter was set (maybe to None)."""

    def __init__(self, kind: type, *validators: Validator) -> None:
        super().__init__(IsInstance(kind), *validators)
        self.kind = kind

    def accepts(self, value: Any) -> bool:
        return isinstance(value, self.kind)

    def put(self, node: Any, name: str, value: Any) -> None:
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        super().remove(node, name)
        node.RemoveNodeReferenceIDs(name)


class NoneCodec(Codec):
    def __init__(self, *validators: Validator) -> None:
        super().__init__(IsNone(), *validators)

    def accepts(self, value: Any) -> bool:
        return value is None

    def encode(self, value: None) -> str:
        return "True"

    def decode(self, text: str) -> None:
        return None


class UnionCodec(Codec):
    """One of several types: the place of the type in the union is part of the name."""

    def __init__(self, parts: list[Codec], *validators: Validator) -> None:
        super().__init__(*validators)
        self.parts = parts
        self.caching = all(part.caching for part in parts)

    def default(self) -> Any:
        optional = len(self.parts) == 2 and isinstance(self.parts[1], NoneCodec)
        return None if optional else self.parts[0].default()

    def put(self, node: Any, name: str, value: Any) -> None:
        index = next((i for i, part in enumerate(self.parts) if part.accepts(value)), None)
        if index is None:
            raise TypeError(f"Unable to write value '{value}' of type '{type(value)}'")
        self.parts[index].check(value)
        with slicer.util.NodeModify(node):
            self.remove(node, name)
            self.parts[index].write(node, f"{name}.{index}", value)

    def read(self, node: Any, name: str) -> Any:
        for index, part in enumerate(self.parts):
            if part.present(node, f"{name}.{index}"):
                return part.read(node, f"{name}.{index}")
        raise KeyError(f"Unable to find value for name: {name}")

    def present(self, node: Any, name: str) -> bool:
        return any(part.present(node, f"{name}.{index}") for index, part in enumerate(self.parts))

    def remove(self, node: Any, name: str) -> None:
        for index, part in enumerate(self.parts):
            part.remove(node, f"{name}.{index}")


class TupleCodec(Codec):
    def __init__(self, parts: list[Codec], *validators: Validator) -> None:
        super().__init__(*validators)
        self.parts = parts
        self.caching = all(part.caching for part in parts)

    def default(self) -> Any:
        return tuple(part.default() for part in self.parts)

    def put(self, node: Any, name: str, value: Any) -> None:
        values = tuple(value)
        if len(values) != len(self.parts):
            raise ValueError("Unexpected number of tuple values")
        with slicer.util.NodeModify(node):
            for index, (part, item) in enumerate(zip(self.parts, values, strict=True)):
                part.write(node, f"{name}.{index}", item)

    def read(self, node: Any, name: str) -> tuple[Any, ...]:
        return tuple(part.read(node, f"{name}.{index}") for index, part in enumerate(self.parts))

    def present(self, node: Any, name: str) -> bool:
        return self.parts[0].present(node, f"{name}.0")

    def remove(self, node: Any, name: str) -> None:
        for index, part in enumerate(self.parts):
            part.remove(node, f"{name}.{index}")


class ListCodec(Codec):
    def __init__(self, part: Codec, *validators: Validator) -> None:
        super().__init__(*validators)
        self.part = part
        self.caching = part.caching

    def default(self) -> list[Any]:
        return []

    def _length(self, node: Any, name: str) -> int:
        return int(node.GetParameter(f"{name}.len")) if self.present(node, name) else 0

    def put(self, node: Any, name: str, value: Any) -> None:
        values = list(value)
        for item in values:
            self.part.check(item)
        with slicer.util.NodeModify(node):
            before = self._length(node, name)
            for index, item in enumerate(values):
                self.part.write(node, f"{name}.{index}", item)
            node.SetParameter(f"{name}.len", str(len(values)))
            for index in range(len(values), before):
                self.part.remove(node, f"{name}.{index}")

    def items(self, node: Any, name: str) -> list[Any]:
        return [self.part.read(node, f"{name}.{index}") for index in range(self._length(node, name))]

    def read(self, node: Any, name: str) -> ObservedList:
        return ObservedList(self, node, name, self.items(node, name))

    def present(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(f"{name}.len"))

    def remove(self, node: Any, name: str) -> None:
        for index in range(self._length(node, name)):
            self.part.remove(node, f"{name}.{index}")
        node.UnsetParameter(f"{name}.len")


class DictCodec(ListCodec):
    """A dictionary is the list of its pairs."""

    def __init__(self, key: Codec, value: Codec, *validators: Validator) -> None:
        super().__init__(TupleCodec([key, value]), *validators)

    def default(self) -> dict[Any, Any]:  # type: ignore[override]
        return {}

    def put(self, node: Any, name: str, value: Any) -> None:
        super().put(node, name, dict(value).items())

    def read(self, node: Any, name: str) -> Any:
        return ObservedDict(self, node, name, dict(self.items(node, name)))


class ObservedList(collections.abc.MutableSequence):
    """A list whose changes go to the node at once."""

    def __init__(self, codec: ListCodec, node: Any, name: str, values: list[Any]) -> None:
        self._codec, self._node, self._name, self._list = codec, node, name, values

    def _save(self) -> None:
        try:
            self._codec.write(self._node, self._name, self._list)
        finally:
            self._list = self._codec.items(self._node, self._name)

    def __repr__(self) -> str:
        return f"ObservedList({self._list})"

    def __eq__(self, other: object) -> bool:
        return self._list == (other._list if isinstance(other, ObservedList) else other)

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._list)

    def __getitem__(self, index: Any) -> Any:
        return self._list[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._list[index] = value
        self._save()

    def __delitem__(self, index: Any) -> None:
        del self._list[index]
        self._save()

    def insert(self, index: int, value: Any) -> None:
        self._list.insert(index, value)
        self._save()

    def extend(self, values: Any) -> None:
        self._list.extend(values)
        self._save()

    def __add__(self, other: Any) -> Any:
        raise NotImplementedError("Adding an ObservedList is not supported. However, += is supported.")

    def __mul__(self, other: Any) -> Any:
        raise NotImplementedError("Multiplying an ObservedList is not supported. However, *= is supported.")


class ObservedDict(collections.abc.MutableMapping):
    """A dictionary whose changes go to the node at once."""

    def __init__(self, codec: DictCodec, node: Any, name: str, values: dict[Any, Any]) -> None:
        self._codec, self._node, self._name, self._dict = codec, node, name, values

    def _save(self) -> None:
        try:
            self._codec.write(self._node, self._name, self._dict)
        finally:
            self._dict = dict(self._codec.items(self._node, self._name))

    def __repr__(self) -> str:
        return f"ObservedDict({self._dict})"

    def __len__(self) -> int:
        return len(self._dict)

    def __iter__(self) -> Any:
        return iter(self._dict)

    def __getitem__(self, key: Any) -> Any:
        return self._dict[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._dict[key] = value
        self._save()

    def __delitem__(self, key: Any) -> None:
        del self._dict[key]
        self._save()


# --- from a type to its codec ---------------------------------------------------------------------------------------


def split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type and its annotations."""
    arguments = typing.get_args(typing.Annotated[hint, None])
    return arguments[0], arguments[1:-1]


def codec_of(hint: Any) -> Codec:
    """The codec of an (annotated) type; its validators are those of the annotations. TypeError for other types."""
    kind, annotations = split(hint)
    given = next((note for note in annotations if isinstance(note, Codec)), None)
    validators = [note for note in annotations if isinstance(note, Validator)]
    made = given or _plain_codec(kind)
    made.validators = (*made.validators, *validators)
    return made


def _plain_codec(kind: Any) -> Codec:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return UnionCodec([codec_of(argument) for argument in arguments])
    if origin is list:
        return ListCodec(codec_of(arguments[0]))
    if origin is tuple:
        return TupleCodec([codec_of(argument) for argument in arguments])
    if origin is dict:
        return DictCodec(codec_of(arguments[0]), codec_of(arguments[1]))
    if kind is type(None):
        return NoneCodec()
    if kind is bool:
        return BoolCodec()
    if kind in (int, float, str) or (isinstance(kind, type) and issubclass(kind, pathlib.PurePath)):
        return TextCodec(kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return EnumCodec(kind)
    if isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode):
        return NodeCodec(kind)
    if hasattr(kind, "_codec"):
        return kind._codec()
    raise TypeError(f"Unable to create serializer for type: {kind}")


def node_classes(hint: Any) -> tuple[str, ...]:
    """The class names of a node type or of a union of node types and None; empty for other types."""
    kind = split(hint)[0]
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = [split(argument)[0] for argument in (typing.get_args(kind) if union else [kind])]
    nodes = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)]
    if any(kind not in nodes and kind is not type(None) for kind in kinds):
        return ()
    return tuple(kind.__name__ for kind in nodes)
