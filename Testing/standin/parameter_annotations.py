"""Annotations of slicer.parameterNodeWrapper: bounds, choices and defaults, which refuse values with Slicer's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class Validator:
    """An annotation that refuses values: `validate` raises ValueError."""

    def validate(self, value: Any) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class WithinRange(Validator):
    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


@dataclass(frozen=True)
class Minimum(Validator):
    minimum: float

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"Value must be greater than {self.minimum}, is {value}")


@dataclass(frozen=True)
class Maximum(Validator):
    maximum: float

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"Value must be greater than {self.maximum}, is {value}")  # Slicer says "greater" too


@dataclass(frozen=True)
class Choice(Validator):
    choices: Sequence[Any]

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be in one of the following: {self.choices}")


@dataclass(frozen=True)
class Exclude(Validator):
    excludedValues: Sequence[Any]

    def validate(self, value: Any) -> None:
        if value in self.excludedValues:
            raise ValueError(
                f"Value is {value}, but must not be an excluded value: excluded values {self.excludedValues}"
            )


@dataclass(frozen=True)
class RangeBounds(Validator):
    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        if not self.minimum <= value.minimum and value.maximum <= self.maximum:  # as Slicer compares
            bounds = f"[{self.minimum}, {self.maximum}], is [{value.minimum}, {value.maximum}]"
            raise ValueError(f"Range must be within the bound of {bounds}")


class NotNone(Validator):
    def validate(self, value: Any) -> None:
        if value is None:
            raise ValueError("Value must not be None")


class IsNone(Validator):
    def validate(self, value: Any) -> None:
        if value is not None:
            raise ValueError("Value must be None")


@dataclass(frozen=True)
class IsInstance(Validator):
    classtype: Any

    def validate(self, value: Any) -> None:
        if value is not None and not isinstance(value, self.classtype):
            raise TypeError(f"Value must be of type '{self.classtype}', is type '{type(value)}' value '{value}'")


class Default:
    """Annotation: the value of a parameter that nobody has set; `generator` is called each time."""

    def __init__(self, value: Any = None, *, generator: Callable[[], Any] | None = None) -> None:
        self._value = value
        self._generator = generator

    @property
    def value(self) -> Any:
        return self._generator() if self._generator else self._value

    def __repr__(self) -> str:
        return f"Default(value={self._value}, generator={self._generator})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Default) and (self._value, self._generator) == (other._value, other._generator)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Decimals:
    """Annotation: decimals of the connected spin box or slider."""

    value: int


@dataclass(frozen=True)
class SingleStep:
    """Annotation: single step of the connected spin box or slider."""

    value: float
