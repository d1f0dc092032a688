"""Where an experiment's cases come from: lists and folders of files, raw folders of nnU-Net, and phantoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .datasets import Case, find_cases
from .errors import ConfigError, VolumeError
from .geometry import Grid
from .phantoms import LETTER_GRID, HeartArtefacts, Phantom, heart, heart_center, letter_b
from .progress import Cancel, Progress, Report, stop_if

#: A path that begins with it is the name of one that is given when the experiment is run.
GIVEN = "$"


@dataclass(frozen=True)
class FilePairs:
    """Two folders, or two CSV lists in the released code's layout; paths may be `GIVEN` names."""

    images: str
    labels: str


@dataclass(frozen=True)
class RawFolder:
    """A raw folder of nnU-Net; the path may be a `GIVEN` name."""

    folder: str
    channel: int | None = None


@dataclass(frozen=True)
class Phantoms:
    """Phantoms with the seeds `seed`, `seed` + 1, …

    Attributes:
        kind: "heart" or "letter-b".
        cases: how many.
        seed: of the first.
        artefacts: hearts with typical artefacts, letters corrupted.
        shape, spacing: of the image, around each case's heart or at the letter's place; empty for the usual image.
    """

    kind: str
    cases: int
    seed: int
    artefacts: bool = False
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()

    @property
    def folder(self) -> str:
        """Name of the folder that they are written to: phantoms made alike share one."""
        size = "x".join(str(n) for n in self.shape)
        width = "x".join(f"{s:g}" for s in self.spacing)
        parts = (self.kind, size, f"{width}mm" if width else "", "artefacts" if self.artefacts else "")
        return "-".join(part for part in parts if part)

    def name(self, index: int) -> str:
        """Of a case."""
        return f"{self.kind}-{self.seed + index:04d}"

    def make(self, index: int) -> Phantom:
        """Draw a case."""
        seed = self.seed + index
        if self.kind == "heart":
            grid = Grid.centered(self.shape, self.spacing, heart_center(seed)) if self.shape else None
            return heart(seed, grid, HeartArtefacts.typical(seed) if self.artefacts else None)
        grid = Grid.centered(self.shape, self.spacing, LETTER_GRID.center) if self.shape else None
        return letter_b(seed, grid, self.artefacts)


Source = FilePairs | RawFolder | Phantoms


@dataclass(frozen=True)
class CaseSet:
    """Some cases of a source.

    Attributes:
        name, title: for files and for people.
        source: None for the cases that the experiment's split holds out.
        names: those to take, in this order; None for all.
        count: take the first so many of them; None for all.
        structures: label values that are measured; empty for all.
    """

    name: str
    title: str
    source: Source | None
    names: tuple[str, ...] | None = None
    count: int | None = None
    structures: tuple[int, ...] = ()

    def chosen(self, cases: Sequence[Case]) -> list[Case]:
        """The set's cases among all of its source.

        Raises:
            VolumeError: a name is not among them, or one name stands for two cases.
        """
        by_name = {case.name: case for case in cases}
        if len(by_name) < len(cases):
            twice = next(name for name in by_name if sum(case.name == name for case in cases) > 1)
            raise VolumeError(f"two cases of '{self.name}' are called {twice}", "rename one of the files")
        names = list(by_name) if self.names is None else list(self.names)
        missing = [name for name in names if name not in by_name]
        if missing:
            raise VolumeError(f"'{self.name}' has no case {', '.join(missing[:5])}", "correct the names in the spec")
        return [by_name[name] for name in names[: self.count]]


def keys_of(sets: Sequence[CaseSet]) -> tuple[str, ...]:
    """Names of the paths that have to be given to read these sets."""
    found: list[str] = []
    for entry in sets:
        paths = () if entry.source is None or isinstance(entry.source, Phantoms) else vars(entry.source).values()
        found += [path[1:] for path in paths if isinstance(path, str) and path.startswith(GIVEN)]
    return tuple(dict.fromkeys(found))


def cases_of(source: Source, folder: Path, given: Mapping[str, Path], store: Path) -> list[Case]:
    """All cases of a source, nothing read yet; the files of phantoms need not be there yet, see `write_missing`.

    Args:
        folder: where relative paths start.
        given: paths by their name.
        store: folder that phantoms are written to.

    Raises:
        ConfigError: a path was not given.
        VolumeError: a path does not exist, or images and labels do not match.
    """
    if isinstance(source, Phantoms):
        place = store / source.folder
        names = [source.name(index) for index in range(source.cases)]
        return [Case(name, place / "images" / f"{name}.nrrd", place / "labels" / f"{name}.nrrd") for name in names]
    if isinstance(source, RawFolder):
        return list(find_cases(_path(source.folder, folder, given), channel=source.channel).cases)
    images, labels = (_path(text, folder, given) for text in (source.images, source.labels))
    return list(find_cases(images=images, labels=labels).cases)


def identity(entry: CaseSet) -> dict[str, Any]:
    """What makes a set's cases what they are, beyond their names, as plain values."""
    if not isinstance(entry.source, Phantoms):
        return {}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(entry.source).items()} | {
        "cases": 0  # more of them are other cases, but the same ones are the same
    }


def write_missing(entry: CaseSet, cases: Sequence[Case], report: Report, cancel: Cancel) -> None:
    """Draw those phantoms of a set whose files are not there yet.

    Raises:
        OutputError: they cannot be written.
        Cancelled: stopped; what is written stays.
    """
    source = entry.source
    if not isinstance(source, Phantoms):
        return
    index = {source.name(i): i for i in range(source.cases)}
    for done, case in enumerate(cases):
        stop_if(cancel, "drawing phantoms")
        if not (Path(str(case.image)).exists() and Path(str(case.labels)).exists()):
            phantom = source.make(index[case.name])
            phantom.labels.write(Path(str(case.labels)))
            phantom.image.write(Path(str(case.image)))
        report(Progress("draw", done + 1, len(cases), message=case.name))


def split(cases: Sequence[Case], held_out: tuple[str, ...] | float, seed: int) -> tuple[list[Case], list[Case]]:
    """Cases to train on and cases held out, both in the order given.

    Args:
        held_out: names, or a share of the cases (rounded, at least one if it is above 0).
        seed: of the draw of a share.

    Raises:
        VolumeError: a name is not among the cases.
    """
    if isinstance(held_out, tuple):
        names = set(held_out)
        if missing := sorted(names - {case.name for case in cases}):
            raise VolumeError(
                f"no case is called {', '.join(missing[:5])}", "correct the names to hold out in the spec"
            )
    else:
        count = max(1, round(len(cases) * held_out)) if held_out else 0
        order = np.random.default_rng(seed).permutation(len(cases))
        names = {cases[i].name for i in order[:count]}
    return [c for c in cases if c.name not in names], [c for c in cases if c.name in names]


def fewer(cases: Sequence[Case], count: int | None, seed: int, what: str) -> list[Case]:
    """Some of the cases, in the order given; of one seed a smaller number is part of every larger one.

    Raises:
        ConfigError: there are not so many.
    """
    if count is None:
        return list(cases)
    if count > len(cases):
        raise ConfigError(f"{what} wants {count} cases, but there are {len(cases)} to train on", "lower its number")
    kept = set(np.random.default_rng(seed).permutation(len(cases))[:count].tolist())
    return [case for i, case in enumerate(cases) if i in kept]


def phantoms_overlap(first: CaseSet, second: CaseSet) -> bool:
    """Whether two sets draw a common anatomy."""
    a, b = first.source, second.source
    if not (isinstance(a, Phantoms) and isinstance(b, Phantoms) and a.kind == b.kind):
        return False
    return a.seed < b.seed + b.cases and b.seed < a.seed + a.cases


def _path(text: str, folder: Path, given: Mapping[str, Path]) -> Path:
    if not text.startswith(GIVEN):
        return folder / text
    key = text[1:]
    if key not in given:
        raise ConfigError(f"the experiment needs the path '{key}'", f"give it with --data {key}=PATH")
    return given[key]


__all__ = [
    "GIVEN",
    "CaseSet",
    "FilePairs",
    "Phantoms",
    "RawFolder",
    "Source",
    "cases_of",
    "fewer",
    "identity",
    "keys_of",
    "phantoms_overlap",
    "split",
    "write_missing",
]
