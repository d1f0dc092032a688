"""The steering of the worker's requests: read strictly, and its volumes taken from their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .exchange import volume_from_files
from .steering import LANDMARK_WEIGHT, Landmarks, Steering
from .strict_json import Section
from .volume import Volume

#: Entry of a volume, and the folder where its file is.
Entry = tuple[Mapping[str, Any], Path]


@dataclass(frozen=True)
class SteeringRequest:
    """What a refinement is to be steered by; its volumes are still files. See `Steering`."""

    target: Entry | None = None
    target_map: Mapping[int, int] | None = None
    ignore: Entry | None = None
    landmarks: Landmarks | None = None
    label_weights: Mapping[int, float] = field(default_factory=dict)
    certainty: bool = False

    def read(self) -> Steering:
        """With its volumes.

        Raises:
            WorkerError: a volume's entry or file makes no sense.
            ConfigError: a value is impossible.
        """
        target, ignore = (None if entry is None else named_volume(entry) for entry in (self.target, self.ignore))
        weights = self.label_weights or None
        return Steering(target, ignore, self.landmarks, weights, self.certainty, target_map=self.target_map)


def steering_request(found: Section) -> SteeringRequest:
    """The fields of a request's "steering"; null is as good as absent.

    Raises:
        ConfigError: something is unknown, of another kind or impossible.
    """
    found = without_nulls(found.section("steering", {}), found.take("steering", dict, {}))
    request = SteeringRequest(
        target=optional_entry(found, "target"),
        target_map=value_map(found, "target_map"),
        ignore=optional_entry(found, "ignore"),
        landmarks=_landmarks(found),
        label_weights={_whole(found, "label_weights", k): v for k, v in _floats(found, "label_weights").items()},
        certainty=found.take("certainty", bool, False),
    )
    if request.target_map is not None and request.target is None:
        found.fail("target_map", "comes without a target", "give the target, too")
    found.close()
    return request


def without_nulls(found: Section, values: Mapping[str, Any]) -> Section:
    """The section without the keys that are null."""
    return Section({key: value for key, value in values.items() if value is not None}, found.where)


def entry_of(values: Mapping[str, Any], where: str) -> Entry:
    """An entry of a volume, and its folder; what is in the entry is for `volume_from_files` to check."""
    folder = Path(Section(values, where).take("folder", str))
    return {key: value for key, value in values.items() if key != "folder"}, folder


def optional_entry(found: Section, key: str) -> Entry | None:
    """The entry of a volume, where there is one."""
    values = found.take(key, dict, None)
    return None if values is None else entry_of(values, found.at(key))


def named_volume(entry: Entry) -> Volume:
    """The volume of an entry."""
    return volume_from_files(*entry)


def value_map(found: Section, key: str) -> dict[int, int] | None:
    """{"3": 1, …}: JSON has texts for keys."""
    if key not in found:
        return None
    section = found.section(key)
    return {_whole(found, key, name): section.take(name, int) for name in section.keys}


def _floats(found: Section, key: str) -> dict[str, float]:
    section = found.section(key, {})
    return {name: float(section.take(name, float)) for name in section.keys}


def _whole(found: Section, key: str, text: str) -> int:
    if not text.strip().lstrip("-").isdecimal():
        found.fail(key, f"has the key '{text}', not a label's value", "write it as a whole number")
    return int(text)


def _landmarks(found: Section) -> Landmarks | None:
    if "landmarks" not in found:
        return None
    inner = without_nulls(found.section("landmarks"), found.take("landmarks", dict))
    places = []
    for key in ("atlas", "image"):
        rows = inner.items(key, list)
        if len({len(row) for row in rows}) > 1 or not all(_is_number(x) for row in rows for x in row):
            inner.fail(key, "is no list of points of two or three numbers")
        places.append(np.array(rows, dtype=np.float64))
    weight, names = float(inner.take("weight", float, LANDMARK_WEIGHT)), inner.items("names", str, ())
    inner.close()
    return Landmarks(places[0], places[1], weight, names)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


__all__ = [
    "Entry",
    "SteeringRequest",
    "entry_of",
    "named_volume",
    "optional_entry",
    "steering_request",
    "value_map",
    "without_nulls",
]
