"""Reading an experiment from its JSON file; docs/experiments.md describes it.

Everything that can be known before any work is checked here, and errors name the file and the key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .bundle import Label
from .configs import ModelConfig, NormalisationConfig, RefineConfig, TrainConfig, from_dict
from .errors import AtlasISTNError, ConfigError
from .experiment_data import CaseSet, FilePairs, Phantoms, RawFolder, Source, phantoms_overlap
from .experiments import (
    FIGURES,
    MARKS,
    PLACED,
    RANKS,
    RESULTS,
    Experiment,
    FigureEntry,
    ModelEntry,
    ResultEntry,
    TableEntry,
    find_experiment,
)
from .geometry import Grid
from .metrics import MEASURES
from .strict_json import REQUIRED, Section, read_json

#: Results that need an ITN.
_OF_ITN = ("prediction", "largest-component", "refined")
_PLANES = ("Axial", "Coronal", "Sagittal")
_DISTANCES = ("dice", "assd", "hd95", "hd", "reference_asd")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COLORS = ((230, 160, 40), (72, 150, 206), (92, 188, 152), (196, 92, 84), (176, 118, 200), (150, 150, 150))
_C = TypeVar("_C")


def read_experiment(spec: str | os.PathLike[str]) -> Experiment:
    """Read an experiment and check all of it.

    Raises:
        ConfigError: the file is absent, no JSON, lacks a key or has an unknown one, or a setting is impossible; the
            message names the file and the key.
    """
    path = find_experiment(spec)
    top = Section(read_json(path), path.name)
    labels = _labels(top)
    grid = _grid(top)
    folder = path.resolve().parent
    data, held_out, seed = _data(top, folder)
    tests = {name: _test(name, entry, folder) for name, entry in _named(top, "tests")}
    models = _models(top, labels, grid)
    rows = _rows(top, models)
    comparisons = _comparisons(top, rows, ())
    tables = _tables(top, rows, tests, comparisons)
    first = comparisons[0][1] if comparisons else next(iter(rows))
    experiment = Experiment(
        name=_safe(top, "name", top.take("name", str)),
        title=top.take("title", str),
        folder=folder,
        labels=labels,
        grid=grid,
        place_on_labels=top.take("place_on_labels", bool, False),
        placement=top.one_of("placement", PLACED, "auto"),
        normalisation=_config(top, "normalisation", NormalisationConfig, top.take("normalisation", dict, {})),
        data=data,
        held_out=held_out,
        seed=seed,
        tests=tests,
        models=models,
        rows=rows,
        topology=top.one_of("topology", models, rows[first].model),
        tables=tables,
        figures=_figures(top, rows, tests, first),
    )
    top.take("description", str, "")
    top.close()
    _check_apart(top, experiment)
    return experiment


def _labels(top: Section) -> tuple[Label, ...]:
    found = [Label(0, "background", (0, 0, 0))]
    for index, entry in enumerate(top.sections("labels")):
        color = entry.items("color", int, _COLORS[index % len(_COLORS)])
        if len(color) != 3 or not all(0 <= part <= 255 for part in color):
            entry.fail("color", f"is {list(color)}", "give red, green and blue from 0 to 255")
        value, name = entry.whole("value", 1), entry.take("name", str)
        if value in {label.value for label in found}:
            entry.fail("value", f"{value} stands there twice")
        found.append(Label(value, name, tuple(color)))
        entry.close()
    if len(found) == 1:
        top.fail("labels", "is empty", "name at least one structure")
    return tuple(found)


def _grid(top: Section) -> Grid:
    entry = top.section("grid")
    shape, spacing = entry.items("shape", int), entry.items("spacing", float)
    entry.close()
    if len(shape) not in (2, 3) or len(spacing) != len(shape):
        top.fail("grid", f"has shape {list(shape)} and spacing {list(spacing)}", "give 2 or 3 numbers for both")
    if min(shape) < 8 or min(spacing) <= 0:
        top.fail("grid", "needs 8 voxels or more along every axis, and a positive spacing")
    return Grid.centered(shape, spacing)


def _data(top: Section, folder: Path) -> tuple[CaseSet, tuple[str, ...] | float, int]:
    entry = top.section("data")
    data = CaseSet("data", "data", _source(entry), _names(entry, "names", folder), entry.whole("count", 1, None))
    entry.close()
    split = top.section("split", {})
    seed = split.whole("seed", 0, 0)
    names, share = _names(split, "held_out", folder), split.take("share", float, 0.0)
    split.close()
    if names is not None and share:
        split.fail("share", "goes not with held_out", "give the names or the share")
    if not 0 <= share < 1:
        split.fail("share", f"lies between 0 and 1, not {share}")
    return data, names if names is not None else float(share), seed


def _test(name: str, entry: Section, folder: Path) -> CaseSet:
    held_out = entry.take("held_out", bool, False)
    source = None if held_out else _source(entry)
    structures = entry.items("structures", int, ())
    title, names = entry.take("title", str, name), _names(entry, "names", folder)
    found = CaseSet(name, title, source, names, entry.whole("count", 1, None), structures)
    entry.close()
    return found


def _source(entry: Section) -> Source:
    """Where the cases of a set come from."""
    if "phantom" in entry:
        grid = entry.section("grid", {})
        shape, spacing = grid.items("shape", int, ()), grid.items("spacing", float, ())
        grid.close()
        kind = entry.one_of("phantom", ("heart", "letter-b"))
        d = 3 if kind == "heart" else 2
        if len(shape) not in (0, d) or len(spacing) != len(shape) or min(spacing, default=1) <= 0:
            entry.fail("grid", f"of a {kind} needs {d} numbers for shape and for spacing, or is left out")
        number = entry.whole("count", 1)
        return Phantoms(kind, number, entry.whole("seed", 0, 0), entry.take("artefacts", bool, False), shape, spacing)
    if "nnunet" in entry:
        return RawFolder(entry.take("nnunet", str), entry.whole("channel", 0, None))
    if "images" not in entry:
        raise ConfigError(
            f"{entry.where} does not say where its cases come from",
            "give images and labels, or nnunet, or phantom; a test set may be held_out",
        )
    return FilePairs(entry.take("images", str), entry.take("labels", str))


def _names(entry: Section, key: str, folder: Path) -> tuple[str, ...] | None:
    """Names of cases: a list, or a text file with one a line."""
    if entry.holds(key, str):
        path = folder / entry.take(key, str)
        if not path.is_file():
            entry.fail(
                key, f"names the file {path}, which does not exist", "paths start at the experiment's own folder"
            )
        names: tuple[str, ...] | None = tuple(path.read_text(encoding="utf-8").split())
    else:
        names = entry.items(key, str, None)
    if names is not None and len(set(names)) < len(names):
        entry.fail(key, "names a case twice")
    return names


def _models(top: Section, labels: Sequence[Label], grid: Grid) -> dict[str, ModelEntry]:
    base, found = top.take("train", dict, {}), {}
    made = {"labels": len(labels), "shape": list(grid.shape)}
    base_model = top.take("model", dict, {})
    for name, entry in _named(top, "models"):
        own = entry.take("model", dict, {})
        for where, values in ((top, base_model), (entry, own)):
            if clash := sorted(set(values) & set(made)):
                where.fail("model", f"gives {clash[0]}, which comes from the experiment's labels and grid")
        cases = entry.whole("cases", 2, None)
        train = _config(entry, "train", TrainConfig, {**base, **entry.take("train", dict, {})})
        model = _config(entry, "model", ModelConfig, {**base_model, **own, **made})
        found[name] = ModelEntry(name, entry.take("title", str, name), train, model, cases)
        entry.close()
    return found


def _rows(top: Section, models: Mapping[str, ModelEntry]) -> dict[str, ResultEntry]:
    base, found = top.take("refine", dict, {}), {}
    _config(top, "refine", RefineConfig, base)
    for entry in top.sections("rows"):
        name = _safe(entry, "name", entry.take("name", str))
        if name in found:
            entry.fail("name", f"'{name}' stands there twice")
        model = models[entry.one_of("model", models)]
        result = entry.one_of("result", RESULTS)
        if model.model.stn_input == "image" and result in _OF_ITN:
            entry.fail("result", f"'{result}' needs an ITN, which the model '{model.name}' has not", "use one-pass")
        refine = None
        if result == "refined":
            refine = _config(entry, "refine", RefineConfig, {**base, **entry.take("refine", dict, {})})
        found[name] = ResultEntry(name, entry.take("title", str, name), model.name, result, refine)
        entry.close()
    if not found:
        top.fail("rows", "is empty", "give at least one row")
    return found


def _comparisons(entry: Section, rows: Mapping[str, ResultEntry], default: Any) -> tuple[tuple[str, str], ...]:
    if "comparisons" not in entry:
        return tuple(default)
    marks = entry.section("comparisons")
    for mark in marks.keys:
        if mark not in MARKS:
            entry.fail("comparisons", f"has the mark '{mark}'", f"use {' '.join(MARKS)}")
    return tuple((mark, marks.one_of(mark, rows)) for mark in marks.keys)


def _tables(
    top: Section,
    rows: Mapping[str, ResultEntry],
    tests: Mapping[str, CaseSet],
    comparisons: Sequence[tuple[str, str]],
) -> tuple[TableEntry, ...]:
    if "tables" not in top:
        return (TableEntry("results", "Results", tuple(rows), tuple(tests), _DISTANCES, tuple(comparisons)),)
    found = []
    for entry in top.sections("tables"):
        table = TableEntry(
            _safe(entry, "name", entry.take("name", str)),
            entry.take("title", str, ""),
            _chosen(entry, "rows", rows, tuple(rows)),
            _chosen(entry, "tests", tests, tuple(tests)),
            _chosen(entry, "measures", MEASURES, _DISTANCES),
            _comparisons(entry, rows, comparisons),
        )
        entry.close()
        found.append(table)
    _distinct(top, "tables", [table.name for table in found])
    return tuple(found)


def _figures(
    top: Section, rows: Mapping[str, ResultEntry], tests: Mapping[str, CaseSet], first: str
) -> tuple[FigureEntry, ...]:
    found = []
    for entry in top.sections("figures", []):
        kind = entry.one_of("kind", FIGURES)
        figure = FigureEntry(
            kind,
            _safe(entry, "name", entry.take("name", str)),
            _chosen(entry, "rows", rows, REQUIRED),
            _chosen(entry, "tests", tests, tuple(tests)),
            _chosen(entry, "measures", MEASURES, ("dice",) if kind == "cases" else ("dice", "assd", "hd")),
            entry.one_of("by", rows, first),
            entry.items("cases", str, RANKS if kind == "cases" else ("median",)),
            _chosen(entry, "planes", _PLANES, _PLANES[:1]),
        )
        if kind == "strengths":
            for name in figure.rows:
                if (refine := rows[name].refine) is None or not refine.strength:
                    entry.fail("rows", f"holds '{name}', which states no λ*", "choose refined rows with a strength")
        entry.close()
        found.append(figure)
    _distinct(top, "figures", [figure.name for figure in found])
    return tuple(found)


def _chosen(entry: Section, key: str, known: Sequence[str] | Mapping[str, Any], default: Any) -> tuple[str, ...]:
    values: tuple[str, ...] = entry.items(key, str, default)
    for value in values:
        if value not in known:
            entry.fail(key, f"holds '{value}'", f"known are {', '.join(known)}")
    if not values:
        entry.fail(key, "is empty")
    _distinct(entry, key, values)
    return values


def _distinct(entry: Section, key: str, values: Sequence[str]) -> None:
    twice = [value for value in values if list(values).count(value) > 1]
    if twice:
        entry.fail(key, f"holds '{twice[0]}' twice")


def _named(top: Section, key: str) -> list[tuple[str, Section]]:
    entries = top.section(key)
    if not entries.keys:
        top.fail(key, "is empty", "give at least one")
    return [(_safe(entries, name, name), entries.section(name)) for name in entries.keys]


def _safe(entry: Section, key: str, name: str) -> str:
    if not _SAFE.fullmatch(name):
        entry.fail(key, f"is '{name}', which cannot name a file", "use letters, digits, '.', '_' and '-'")
    return name


def _config(entry: Section, key: str, kind: type[_C], values: Mapping[str, Any]) -> _C:
    try:
        return from_dict(kind, values)
    except AtlasISTNError as error:
        raise ConfigError(f"{entry.at(key)}: {error.message}", error.hint) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{entry.at(key)}: a value is of the wrong kind ({error})") from error


def _check_apart(top: Section, experiment: Experiment) -> None:
    """No phantom is trained on and tested on."""
    for test in experiment.tests.values():
        if test.source is not None and phantoms_overlap(experiment.data, test):
            top.fail("tests", f"holds '{test.name}', some of whose seeds are trained on", "choose other seeds")
        if test.source is None and not experiment.held_out:
            top.fail("tests", f"holds '{test.name}', the held-out cases, but the split holds none out")
        if unknown := set(test.structures) - set(experiment.names):
            top.fail("tests", f"'{test.name}' has the label {min(unknown)}, which the experiment does not name")


__all__ = ["read_experiment"]
