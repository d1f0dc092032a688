"""Experiments: models to train, results to measure and what to show of them.

Every baseline and ablation is a set of settings: nothing here knows what a row of a table stands for.
`experiment_reading.read_experiment` reads one from a JSON file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .bundle import Label
from .configs import ModelConfig, NormalisationConfig, RefineConfig, TrainConfig
from .errors import ConfigError
from .experiment_data import CaseSet
from .geometry import Grid
from .resources import experiments_folder

#: What a row measures.
RESULTS = ("prediction", "largest-component", "one-pass", "refined", "initial-atlas")
#: Marks of significance, in the order in which a table is read.
MARKS = ("*", "†", "‡", "§")
FIGURES = ("cases", "boxes", "strengths")
#: Where the model grid goes on an image to segment.
PLACED = ("auto", "center")
#: Cases that a figure may ask for by their rank.
RANKS = ("best", "median", "worst")


@dataclass(frozen=True)
class ModelEntry:
    """A model to train.

    Attributes:
        name, title: for folders and for people.
        train, model: its settings, complete.
        cases: how many of the training cases it gets; None for all.
    """

    name: str
    title: str
    train: TrainConfig
    model: ModelConfig
    cases: int | None = None


@dataclass(frozen=True)
class ResultEntry:
    """A row: one result of one model on every test set.

    Attributes:
        name, title: for files and for people.
        model: name of the model.
        result: one of `RESULTS`.
        refine: settings of the refinement, for "refined".
    """

    name: str
    title: str
    model: str
    result: str
    refine: RefineConfig | None = None


@dataclass(frozen=True)
class TableEntry:
    """A table.

    Attributes:
        name, title: for files and for people.
        rows: names of the rows, in order.
        tests: names of the test sets, in order.
        measures: some of `metrics.MEASURES`.
        comparisons: mark of significance and the row that it compares with, in order.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    tests: tuple[str, ...]
    measures: tuple[str, ...]
    comparisons: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class FigureEntry:
    """A figure.

    Attributes:
        kind: "cases" shows outlines, "boxes" the spread of the scores, "strengths" scores and outlines against λ*.
        name: of the file.
        rows: names of the rows, in order.
        tests: names of the test sets.
        measures: what is plotted; the first one ranks cases.
        by: row by whose scores cases are ranked.
        cases: of `RANKS`, or names of cases.
        planes: of 3D images.
    """

    kind: str
    name: str
    rows: tuple[str, ...]
    tests: tuple[str, ...]
    measures: tuple[str, ...]
    by: str
    cases: tuple[str, ...]
    planes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Experiment:
    """A whole experiment, checked.

    Attributes:
        name, title: for folders and for people.
        folder: the file's; relative paths in it start there.
        labels: the structures, background first.
        grid: the model grid, centred at 0.
        place_on_labels: in training; see `training.run_training`.
        placement: of the model grid on test images, one of `PLACED`.
        normalisation: of images.
        data: the labelled cases to train on and to hold out.
        held_out: names of the cases of `data` that no model is trained on, or how large a share of them to draw.
        seed: of that draw, and of the order in which models with fewer cases get theirs.
        tests: the test sets; those without a source are the held-out cases.
        models, rows: by name.
        topology: name of the model whose atlas has the topology that results should have.
        tables, figures: what is made of the scores.
    """

    name: str
    title: str
    folder: Path
    labels: tuple[Label, ...]
    grid: Grid
    place_on_labels: bool
    placement: str
    normalisation: NormalisationConfig
    data: CaseSet
    held_out: tuple[str, ...] | float
    seed: int
    tests: Mapping[str, CaseSet]
    models: Mapping[str, ModelEntry]
    rows: Mapping[str, ResultEntry]
    topology: str
    tables: tuple[TableEntry, ...]
    figures: tuple[FigureEntry, ...]

    @property
    def names(self) -> dict[int, str]:
        """Names of the structures by value, without the background."""
        return {label.value: label.name for label in self.labels[1:]}


def available_experiments() -> dict[str, Path]:
    """The experiments that come along, by name."""
    folder = experiments_folder()
    return {path.stem: path for path in sorted(folder.glob("*.json"))} if folder.is_dir() else {}


def find_experiment(spec: str | os.PathLike[str]) -> Path:
    """The file of an experiment: a path, or the name of one that comes along.

    Raises:
        ConfigError: there is none.
    """
    path, known = Path(spec), available_experiments()
    if path.is_file():
        return path
    if str(spec) in known:
        return known[str(spec)]
    raise ConfigError(f"there is no experiment '{spec}'", f"give a JSON file, or one of: {', '.join(known) or '-'}")


__all__ = [
    "FIGURES",
    "MARKS",
    "PLACED",
    "RANKS",
    "RESULTS",
    "Experiment",
    "FigureEntry",
    "ModelEntry",
    "ResultEntry",
    "TableEntry",
    "available_experiments",
    "find_experiment",
]
