"""JSON files that people write: read strictly, with errors that name the file and the key."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .errors import ConfigError

#: For `Section.take`: the key has to be there.
REQUIRED = object()
_KINDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


class Section:
    """One object of a file, taken key by key. `close` refuses what nobody took.

    Args:
        values: the object.
        where: file and path of keys, for errors: "letter-b.json: models.unet".

    Raises:
        ConfigError: `values` is no object.
    """

    def __init__(self, values: Any, where: str) -> None:
        self.where = where
        self._values: dict[str, Any] = dict(_checked(values, dict, where))
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    @property
    def keys(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(self._values)

    def at(self, key: str) -> str:
        """Where a key is, for errors."""
        return f"{self.where}{'.' if ': ' in self.where else ': '}{key}"

    def holds(self, key: str, kind: type) -> bool:
        """Whether a key is there with a value of this kind, where several are possible."""
        return isinstance(self._values.get(key), kind)

    def fail(self, key: str, message: str, hint: str = "") -> NoReturn:
        """Raise a ConfigError about a key."""
        raise ConfigError(f"{self.at(key)} {message}", hint)

    def take(self, key: str, kind: type, default: Any = REQUIRED) -> Any:
        """The value of a key, of this kind; `default` where the file has none.

        Raises:
            ConfigError: it is absent though required, or of another kind.
        """
        self._taken.add(key)
        if key not in self._values:
            if default is REQUIRED:
                self.fail(key, "is missing", f"give {_KINDS[kind]}")
            return default
        return _checked(self._values[key], kind, self.at(key))

    def whole(self, key: str, low: int, default: Any = REQUIRED) -> Any:
        """A whole number of at least `low`."""
        value = self.take(key, int, default)
        if value is not default and value < low:
            self.fail(key, f"must be at least {low}, not {value}")
        return value

    def one_of(self, key: str, choices: Iterable[str], default: Any = REQUIRED) -> Any:
        """One of several texts."""
        value = self.take(key, str, default)
        if value is not default and value not in choices:
            self.fail(key, f"is '{value}'", f"use one of {', '.join(choices)}")
        return value

    def items(self, key: str, kind: type, default: Any = REQUIRED) -> Any:
        """A list whose entries are all of this kind, as a tuple; `default` where the file has none."""
        values = self.take(key, list, default)
        if values is default:
            return default
        return tuple(_checked(value, kind, f"{self.at(key)}[{i}]") for i, value in enumerate(values))

    def section(self, key: str, default: Any = REQUIRED) -> Section:
        """An object inside this one."""
        return Section(self.take(key, dict, default), self.at(key))

    def sections(self, key: str, default: Any = REQUIRED) -> list[Section]:
        """A list of objects."""
        return [Section(value, f"{self.at(key)}[{i}]") for i, value in enumerate(self.items(key, dict, default))]

    def close(self) -> None:
        """Refuse keys that nobody took.

        Raises:
            ConfigError: there are some.
        """
        unknown = [key for key in self._values if key not in self._taken]
        if unknown:
            known = ", ".join(sorted(self._taken))
            self.fail(unknown[0], "is not known here", f"known are {known}")


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        ConfigError: absent, no JSON, a key given twice, or a number that is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8") from error
    return parse_json(text, str(path))


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text.

    Args:
        text: the JSON.
        where: it comes from, for errors.

    Raises:
        ConfigError: no JSON, a key given twice, or a number that is none.
    """
    try:
        return json.loads(text, object_pairs_hook=_once(where), parse_constant=_not_a_number(where))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(f"{where} is not JSON: {error.msg} ({place})", "correct it there") from error
    except (RecursionError, ValueError) as error:  # nested, or a number, beyond all reason
        raise ConfigError(f"{where} is not JSON that can be read: {error}") from error


def _once(where: str) -> Callable[[Sequence[tuple[str, Any]]], dict[str, Any]]:
    def made(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ConfigError(f"{where} gives '{key}' twice in one object", "keep one of them")
            found[key] = value
        return found

    return made


def _not_a_number(where: str) -> Callable[[str], Any]:
    def refuse(text: str) -> NoReturn:
        raise ConfigError(f"{where} holds {text}, which is no number", "leave the key out or give a number")

    return refuse


def _checked(value: Any, kind: type, where: str) -> Any:
    good = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
    if not good or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where} is {_short(value)}, not {_KINDS[kind]}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{where} must be finite")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


__all__ = ["REQUIRED", "Section", "parse_json", "read_json"]
