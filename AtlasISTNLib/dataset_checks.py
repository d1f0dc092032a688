"""Checks of training data before anything starts: all that is wrong with it at once, and what a person should know."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from .configs import TrainConfig
from .datasets import Case
from .errors import AtlasISTNError, ConfigError, VolumeError
from .geometry import Grid
from .grids import Extent, label_values
from .label_maps import MapCase, checked_codes
from .progress import Cancel, Progress, Report, never, silent, stop_if
from .splits import split_cases
from .volume import checked_image, checked_labels

#: More values than this are not a label map but an image.
MOST_LABELS = 256


@dataclass(frozen=True)
class Finding:
    """Something about the data: about one case, or about all of them where `case` is empty."""

    message: str
    hint: str = ""
    case: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


@dataclass(frozen=True, eq=False)
class DataCheck:
    """What was found in the data; a plain value that can be shown.

    Attributes:
        extents: of all cases whose label map can be used.
        names: the label table: names by values, without the background, sorted by value. Made of the values found where
            nobody named any.
        counts: how many of the cases in `extents` hold each label, by value.
        problems: what has to be put right before a training.
        notes: what a person should know; the training can go on.
        present: all values that the label maps hold, with a name or without.
    """

    extents: tuple[Extent, ...]
    names: Mapping[int, str]
    counts: Mapping[int, int]
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    present: frozenset[int] = frozenset()

    @property
    def good(self) -> bool:
        """Whether the data can be trained on."""
        return not self.problems

    def require_good(self) -> None:
        """Raise one error about all problems.

        Raises:
            VolumeError: there are some; the message lists them.
        """
        if len(self.problems) == 1:
            raise VolumeError(self.problems[0].message, self.problems[0].hint)
        if self.problems:
            listed = "; ".join(problem.message for problem in self.problems)
            raise VolumeError(f"{len(self.problems)} problems with the data: {listed}", "correct them one by one")


@dataclass
class _Findings:
    """Collects what is found while cases are read."""

    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    unnamed: dict[int, list[str]] = field(default_factory=dict)  # names of cases by label values that have no name
    present: set[int] = field(default_factory=set)  # all values of all label maps

    def problem(self, message: str, hint: str, case: str = "") -> None:
        named = not case or message.startswith((f"{case}:", f"{case} "))
        self.problems.append(Finding(message if named else f"{case}: {message}", hint, case))

    def error(self, error: AtlasISTNError | OSError, case: str) -> None:
        if isinstance(error, AtlasISTNError):
            self.problem(error.message, error.hint or "correct it or leave the case out", case)
        else:
            self.problem(f"{error.filename}: {error.strerror}", "check the path and its permissions", case)

    def note(self, message: str, hint: str = "") -> None:
        self.notes.append(Finding(message, hint))


def check_cases(
    cases: Sequence[Case],
    names: Mapping[int, str],
    config: TrainConfig,
    *,
    ignore_others: bool = False,
    report: Report = silent,
    cancel: Cancel = never,
) -> DataCheck:
    """Read every case once, one at a time, and look for whatever would spoil a training on them.

    Args:
        names: of the structures by their label values; if empty, all values found in the label maps are structures.
        config: says how many cases are held out.
        ignore_others: take label values without a name for background; otherwise they are a problem.
        report: gets stage "check" for each case.
        cancel: asked before each case.

    Raises:
        Cancelled: stopped.
    """
    found = _Findings()
    _check_names(cases, found)
    extents: list[Extent] = []
    same: dict[bytes, list[str]] = {}
    for done, case in enumerate(cases):
        stop_if(cancel, "checking the data")
        grid, extent = _check_labels(case, frozenset(names), ignore_others, found)
        if extent is not None:
            extents.append(extent)
        digest = _check_image(case, grid, found)
        if digest:
            same.setdefault(digest, []).append(case.name)
        report(Progress("check", done + 1, len(cases), message=case.name))
    for group in same.values():
        if len(set(group)) > 1:  # under one name they were named already
            what = "label maps" if any(isinstance(case, MapCase) for case in cases) else "images"
            found.problem(f"the {what} of {listed(group)} are identical", "leave all but one of them out")
    _check_unnamed(found)
    _check_dimensions(extents, found)
    values = sorted(names or frozenset().union(*(extent.values for extent in extents)))
    table = {value: names.get(value, f"label {value}") for value in values}
    counts = {value: sum(value in extent.values for extent in extents) for value in values}
    _check_counts(extents, table, counts, found)
    _check_split(len(cases), config, found)
    return DataCheck(
        tuple(extents),
        MappingProxyType(table),
        MappingProxyType(counts),
        tuple(found.problems),
        tuple(found.notes),
        frozenset(found.present),
    )


def _check_names(cases: Sequence[Case], found: _Findings) -> None:
    for name, count in Counter(case.name for case in cases).items():
        if count > 1:
            found.problem(f"{count} cases have the same name", "give every case once, under a name of its own", name)
    for case in cases:
        if isinstance(case.image, Path) and case.image == case.labels and not isinstance(case, MapCase):
            found.problem(f"{case.image} is both image and label map", "give its label map", case.name)


def _check_labels(
    case: Case, table: frozenset[int], ignore_others: bool, found: _Findings
) -> tuple[Grid | None, Extent | None]:
    """The grid of a label map and what it covers; None for what cannot be said."""
    grid = None
    try:
        labels = case.load_labels()
        grid = labels.grid
        values = [value for value in label_values(checked_labels(labels)) if value != 0]
        if len(values) > MOST_LABELS:
            raise VolumeError(f"the label map has {len(values)} values", "is it an image, or are the two switched?")
        others = [value for value in values if value not in table] if table and not ignore_others else []
        for value in others:
            found.unnamed.setdefault(value, []).append(case.name)
        if len(others) == len(values) > 0:
            return grid, None  # empty but for what was noted
        found.present.update(values)
        if isinstance(case, MapCase):
            checked_codes(labels, case.name)
        if values and values[0] < 0 and not table:
            raise VolumeError(f"the label map holds {values[0]}", "label values are 1 or more")
        return grid, Extent.of(labels, case.name, table)
    except (AtlasISTNError, OSError) as error:
        found.error(error, case.name)
        return grid, None


def _check_image(case: Case, labels: Grid | None, found: _Findings) -> bytes:
    """A hash of the image's voxels; empty if it cannot be used."""
    try:
        # Where the image is made of the labels, these alone tell one case from another.
        image = case.load_labels() if isinstance(case, MapCase) else case.load_image()
        checked_image(image, 2 if sum(n > 1 for n in image.grid.shape) == 2 else 3)
        if labels is not None:
            case.check_grids(image.grid, labels)
    except (AtlasISTNError, OSError) as error:
        found.error(error, case.name)
        return b""
    digest = hashlib.blake2b(repr((image.grid.size, image.array.dtype.str)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image.array).data)
    return digest.digest()


def _check_unnamed(found: _Findings) -> None:
    if not found.unnamed:
        return
    where = [f"{value} (in {listed(cases, 3)})" for value, cases in sorted(found.unnamed.items())]
    found.problem(
        f"label values without a name: {listed(where)}",
        "name all of them, or take them for background with --ignore-other-labels (ignore_others=True)",
    )


def _check_dimensions(extents: Sequence[Extent], found: _Findings) -> None:
    by_dimension = {d: [extent.name for extent in extents if extent.grid.ndim == d] for d in (2, 3)}
    if all(by_dimension.values()):
        few = min(by_dimension, key=lambda d: len(by_dimension[d]))
        found.problem(f"{listed(by_dimension[few])} are {few}D among {5 - few}D cases", "train them apart")


def _check_counts(
    extents: Sequence[Extent], table: Mapping[int, str], counts: Mapping[int, int], found: _Findings
) -> None:
    for value, name in table.items() if extents else ():
        if counts[value] == 0:
            found.problem(f"label {value} ({name}) is in none of the cases", "leave it out or correct the label maps")
        elif counts[value] < len(extents):
            without = [extent.name for extent in extents if value not in extent.values]
            found.note(
                f"label {value} ({name}) is missing from {len(without)} of {len(extents)} cases: {listed(without)}",
                "it counts as absent there; leave these cases out if it was only not drawn",
            )


def _check_split(count: int, config: TrainConfig, found: _Findings) -> None:
    try:
        training, validation = split_cases(count, config)
    except ConfigError as error:
        found.problem(error.message, error.hint or "add cases or change the settings")
        return
    if not training:
        found.problem(f"validation {config.validation:g} holds all {count} cases out", "hold out fewer of them")
    elif not validation and (config.patience or config.keep == "best"):
        found.problem(
            f"no case is held out of {count}, but early stopping and the best epoch need some",
            "add cases, or use --folds",
        )
    elif not validation and config.validation:
        found.note(f"with only {count} cases none is held out to watch the training", "use --folds to hold some out")


def listed(items: Sequence[object], most: int = 8) -> str:
    """The first few of many in words."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(str(item) for item in items[:most]) + more
