"""Label tables: what the values of label maps are, which of them are segmented, and which belong together.

A table is a JSON object, or as text `10=left thalamus,49=right thalamus`:

    {"structures": [{"value": 10, "name": "left thalamus", "color": [0, 118, 14], "snomed_code": "119406000",
                     "snomed_meaning": "Thalamus"}, …],
     "pairs": [[10, 49], [2, 41], …],       left and right
     "classes": [[8, 3], …],                values that look alike in every image
     "kept": [2, 3, …], "fringe": [24],     what is left, and what may be left, where the rest was stripped off
     "greys": {"2": 0.8, "3": 0.55, …}}     grey values of the fixed rendering, from 0 to 1

Values that are no structures may stand in all other parts: they are drawn, but not segmented.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .manifest import Label
from .strict_json import Section, read_json

BACKGROUND = Label(0, "background", (0, 0, 0))
#: Label maps are kept as 16-bit numbers.
LARGEST_VALUE = 32767
_SIDES = re.compile(r"\b(left|right)\b")
#: Steps of the golden ratio spread grey values that nobody gave.
_GOLDEN = 0.6180339887


@dataclass(frozen=True)
class LabelTable:
    """What label maps hold.

    Attributes:
        structures: what is segmented, background first.
        pairs: values of left and right partners, of structures or of others.
        classes: groups of values that look alike; partners do so, too.
        kept: values that are left where the rest is stripped off; empty if nothing ever is.
        fringe: values that are left there, or not, at random.
        greys: value and grey of the fixed rendering.
    """

    structures: tuple[Label, ...]
    pairs: tuple[tuple[int, int], ...] = ()
    classes: tuple[tuple[int, ...], ...] = ()
    kept: tuple[int, ...] = ()
    fringe: tuple[int, ...] = ()
    greys: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        values = [label.value for label in self.structures]
        if len(values) < 2 or values[0] != 0:
            raise ConfigError("a label table needs a background and at least one structure")
        _once("structures", values)
        _once("pairs", [value for pair in self.pairs for value in pair])
        _once("kept and fringe", [*self.kept, *self.fringe])
        _once("greys", [value for value, _ in self.greys])
        others = [v for group in (*self.pairs, *self.classes, self.kept, self.fringe) for v in group]
        for value in (*values[1:], *others, *(v for v, _ in self.greys)):
            if not 0 <= value <= LARGEST_VALUE:
                raise ConfigError(f"the label table has the value {value}", f"values lie between 0 and {LARGEST_VALUE}")
        if 0 in others:
            raise ConfigError("the label table pairs, groups or keeps the background 0", "leave 0 out there")
        for value, grey in self.greys:
            if not 0 <= grey <= 1:
                raise ConfigError(f"the grey of the label {value} is {grey:g}", "greys lie between 0 and 1")
        lost = [label for label in self.structures[1:] if self.kept and label.value not in {*self.kept, *self.fringe}]
        if lost:
            raise ConfigError(
                f"the structure {lost[0].value} ({lost[0].name}) would be stripped off",
                "list the values of all structures under kept",
            )

    @property
    def names(self) -> dict[int, str]:
        """Names of the structures by their values, without the background."""
        return {label.value: label.name for label in self.structures[1:]}

    def partners(self) -> dict[int, int]:
        """The value that each paired value becomes in a mirror."""
        return {a: b for pair in self.pairs for a, b in (pair, pair[::-1])}

    def groups(self, values: Iterable[int]) -> dict[int, int]:
        """For each of these values the least value that looks like it."""
        first: dict[int, int] = {}
        for group in (*self.pairs, *self.classes):
            roots = {_root(first, value) for value in group}
            for root in roots:
                first[root] = min(roots)
        return {value: _root(first, value) for value in values}

    def grey(self, value: int) -> float:
        """Grey of a value in the fixed rendering: the given one, or one of its own; 0 for the background."""
        given = dict(self.greys)
        root = self.groups([value])[value]
        if value == 0:
            return given.get(0, 0.0)
        return given.get(value, given.get(root, 0.3 + 0.7 * (root * _GOLDEN % 1)))

    def as_dict(self) -> dict[str, Any]:
        """As plain values, as JSON has them."""
        return {
            "structures": [{"value": s.value, "name": s.name} for s in self.structures[1:]],
            "pairs": [list(pair) for pair in self.pairs],
            "classes": [list(group) for group in self.classes],
            "kept": list(self.kept),
            "fringe": list(self.fringe),
            "greys": {str(value): grey for value, grey in self.greys},
        }


def table_from_names(names: Mapping[int, str]) -> LabelTable:
    """A table of structures by their values; those named left and right are partners.

    Raises:
        ConfigError: a structure is left or right and has no partner, or a value cannot be.
    """
    labels = (BACKGROUND, *(Label(value, name) for value, name in sorted(names.items())))
    return LabelTable(labels, pairs_by_name(labels[1:]))


def table_from_text(text: str) -> LabelTable:
    """A table from `VALUE=NAME,VALUE=NAME,…`.

    Raises:
        ConfigError: it is none, names a value twice, or has half a pair.
    """
    found: dict[int, str] = {}
    for part in text.split(","):
        value, _, name = (word.strip() for word in part.partition("="))
        if not value.isdecimal() or int(value) == 0 or not name:
            raise ConfigError(
                f"'{part.strip()}' is not VALUE=NAME with a value of 1 or more", "such as 10=left thalamus"
            )
        if int(value) in found:
            raise ConfigError(f"the structure {value} is named twice", "give every value once")
        found[int(value)] = name
    return table_from_names(found)


def read_table(path: Path) -> LabelTable:
    """A table from a JSON file.

    Raises:
        ConfigError: it cannot be read, or is not a table that makes sense.
    """
    found = Section(read_json(path), path.name)
    table = table_from_section(found)
    found.close()
    return table


def table_from_section(found: Section) -> LabelTable:
    """A table from the keys of a JSON object; other keys are left to the caller.

    Raises:
        ConfigError: something is absent, of another kind or impossible.
    """
    labels = [BACKGROUND]
    for entry in found.sections("structures"):
        color = entry.items("color", int, Label(0, "").color)
        if len(color) != 3 or not all(0 <= part <= 255 for part in color):
            entry.fail("color", "is not three numbers from 0 to 255")
        code, meaning = entry.take("snomed_code", str, ""), entry.take("snomed_meaning", str, "")
        labels.append(
            Label(entry.whole("value", 1), entry.take("name", str), (color[0], color[1], color[2]), code, meaning)
        )
        entry.close()
    pairs = _lists(found, "pairs")
    for index, pair in enumerate(pairs):
        if len(pair) != 2:
            found.fail(f"pairs[{index}]", f"is {list(pair)}, not two values", "give left and right of each pair")
    greys = found.take("greys", dict, {})
    for key, grey in greys.items():
        if not key.isdecimal() or isinstance(grey, bool) or not isinstance(grey, (int, float)):
            found.fail("greys", f"holds {key}: {grey!r}, not a label value and a grey")
    return LabelTable(
        tuple(sorted(labels, key=lambda label: label.value)),
        tuple((pair[0], pair[1]) for pair in pairs) if "pairs" in found else pairs_by_name(labels[1:]),
        tuple(_lists(found, "classes")),
        found.items("kept", int, ()),
        found.items("fringe", int, ()),
        tuple(sorted((int(key), float(grey)) for key, grey in greys.items())),
    )


def pairs_by_name(labels: Sequence[Label]) -> tuple[tuple[int, int], ...]:
    """Left and right partners, found by their names: "Left-Caudate" and "Right-Caudate", "left lung", "right lung".

    Raises:
        ConfigError: a structure is left or right and has no partner.
    """
    plain = {re.sub(r"[\W_]+", " ", label.name.lower()).strip(): label for label in labels}
    pairs = []
    for name, label in plain.items():
        sides = _SIDES.findall(name)
        if len(sides) != 1:
            continue
        other = _SIDES.sub({"left": "right", "right": "left"}[sides[0]], name)
        if other not in plain:
            raise ConfigError(
                f"the structure {label.value} ({label.name}) has no partner '{other}' for images in the mirror",
                "add it, or give the pairs in a JSON table (none: an empty list)",
            )
        if sides[0] == "left":
            pairs.append((label.value, plain[other].value))
    return tuple(pairs)


def table_problems(table: LabelTable, present: frozenset[int]) -> list[str]:
    """What of a table does not fit label maps that hold these values; structures are for `check_cases` to look at."""
    problems = []
    for pair in table.pairs:
        absent = [value for value in pair if value not in present]
        if len(absent) == 1:
            other = pair[1 - pair.index(absent[0])]
            problems.append(f"the label {absent[0]}, partner of {other}, is in no label map")
    if table.kept and not set(table.kept) & present:
        problems.append("no label map holds any of the labels that are kept where the rest is stripped off")
    return problems


def _lists(found: Section, key: str) -> list[tuple[int, ...]]:
    values = []
    for index, entry in enumerate(found.items(key, list, ())):
        if not entry or not all(isinstance(v, int) and not isinstance(v, bool) for v in entry):
            found.fail(f"{key}[{index}]", "is not a list of label values")
        values.append(tuple(entry))
    return values


def _root(first: Mapping[int, int], value: int) -> int:
    while first.get(value, value) != value:
        value = first[value]
    return value


def _once(what: str, values: Sequence[int]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ConfigError(
            f"the label table names the value {twice[0]} twice under {what}", "give every value once there"
        )


__all__ = [
    "BACKGROUND",
    "LARGEST_VALUE",
    "LabelTable",
    "pairs_by_name",
    "read_table",
    "table_from_names",
    "table_from_section",
    "table_from_text",
    "table_problems",
]
