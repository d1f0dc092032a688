"""Running an experiment: models are trained and rows measured into one folder, and a stopped run goes on from it.

    experiment.json                       the experiment, as it was given
    models/MODEL/                         settings.json, checkpoint, history.json, initial atlas, bundle/ (last)
    scores/TEST/ROW.csv, ROW.json         what was measured, and with which model and settings
    labels/TEST/ROW/CASE.nrrd             the results themselves
    data/  cache/                         phantoms; prepared cases

Whatever is there already is only taken when it was made with the settings that the experiment has now.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

from .bundle import MANIFEST, WEIGHTS, About, Bundle, load_bundle, read_manifest, save_bundle
from .configs import ModelConfig, PlacementConfig, TrainConfig, as_dict
from .datasets import Case
from .errors import Cancelled, ConfigError, DivergenceError, OutputError
from .experiment_data import CaseSet, cases_of, fewer, identity, split, write_missing
from .experiment_scores import ScoreLine, folded_percent, largest_components, read_scores, score_case, write_scores
from .experiments import Experiment, ModelEntry, ResultEntry
from .progress import Cancel, Progress, Report, never, silent, stop_if
from .result import Result
from .segmentation import refine, resolved, segment
from .strict_json import read_json
from .training import run_training
from .volume import Volume, write_atomically

_GO_ON = "run the same command again to go on"


@dataclass(frozen=True)
class Places:
    """Where things are in an experiment's folder."""

    root: Path

    def model(self, name: str) -> Path:
        """Folder of a model."""
        return self.root / "models" / name

    def bundle(self, name: str) -> Path:
        """The trained model; it is there once the training is complete."""
        return self.model(name) / "bundle"

    def initial_atlas(self, name: str) -> tuple[Path, Path]:
        """Image and soft labels of the atlas at t = 0."""
        return self.model(name) / "initial-atlas-image.nrrd", self.model(name) / "initial-atlas-labels.nrrd"

    def scores(self, test: str, row: str) -> Path:
        """What was measured of a row on a test set."""
        return self.root / "scores" / test / f"{row}.csv"

    def labels(self, test: str, row: str, case: str) -> Path:
        """A label map that was measured."""
        return self.root / "labels" / test / row / f"{case}.nrrd"

    def trained(self, name: str) -> bool:
        """Whether a model is complete."""
        return (self.bundle(name) / MANIFEST).is_file()


class Lists:
    """The lists of an experiment's cases; each source is listed once, when it is first asked for.

    Args:
        experiment: the experiment.
        places: its folder.
        given: paths by the names that the experiment gives them.
    """

    def __init__(self, experiment: Experiment, places: Places, given: Mapping[str, Path]) -> None:
        self._experiment, self._given, self._store = experiment, given, places.root / "data"
        self._split: tuple[list[Case], list[Case]] | None = None

    def training(self, entry: ModelEntry) -> list[Case]:
        """The cases that a model is trained on, those that it watches itself with included."""
        return fewer(self._both()[0], entry.cases, self._experiment.seed, f"the model '{entry.name}'")

    def test(self, entry: CaseSet) -> list[Case]:
        """The cases of a test set."""
        return entry.chosen(self._both()[1] if entry.source is None else self._all(entry))

    def test_set(self, entry: CaseSet) -> CaseSet:
        """The set with the source that its cases come from."""
        return self._experiment.data if entry.source is None else entry

    def _both(self) -> tuple[list[Case], list[Case]]:
        if self._split is None:
            e = self._experiment
            self._split = split(e.data.chosen(self._all(e.data)), e.held_out, e.seed)
        return self._split

    def _all(self, entry: CaseSet) -> list[Case]:
        if entry.source is None:
            return []
        return cases_of(entry.source, self._experiment.folder, self._given, self._store)


def open_folder(experiment: Experiment, root: Path, spec: Path) -> Places:
    """Make an experiment's folder, or see that an old one is its own.

    Raises:
        OutputError: something else is there, or it cannot be written.
    """
    record = root / "experiment.json"
    if record.is_file():
        name = read_json(record).get("name")
        if name != experiment.name:
            raise OutputError(f"{root} holds the experiment '{name}', not '{experiment.name}'", "choose another folder")
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise OutputError(f"{root} is there and holds no experiment", "choose another folder")
    text = spec.read_text(encoding="utf-8")
    write_atomically(record, lambda partial: partial.write_text(text, encoding="utf-8"))
    return Places(root)


def train_model(
    experiment: Experiment,
    entry: ModelEntry,
    places: Places,
    lists: Lists,
    device: str = "auto",
    report: Report = silent,
    cancel: Cancel = never,
) -> Bundle:
    """Train a model, go on with its training, or load it if it is complete.

    Raises:
        ConfigError: it was trained, or begun, with other settings; they are named.
        Cancelled: stopped; the training goes on from its last epoch next time.
        others: as `training.run_training`.
    """
    cases, folder = lists.training(entry), places.model(entry.name)
    _check_settings(folder / "settings.json", _settings(experiment, entry, cases), f"the model '{entry.name}'", folder)
    if places.trained(entry.name):
        return load_bundle(places.bundle(entry.name), device)
    write_missing(experiment.data, cases, report, cancel)
    trained = run_training(
        cases,
        entry.train,
        labels=experiment.labels,
        grid=experiment.grid,
        about=About(
            f"{experiment.name}-{entry.name}", entry.title, description=f"{experiment.title}: trained by an experiment."
        ),
        normalisation=experiment.normalisation,
        model_config=entry.model,
        place_on_labels=experiment.place_on_labels,
        checkpoint=folder / "checkpoint.safetensors",
        cache=places.root / "cache",
        device=device,
        report=report,
        cancel=cancel,
    )
    if cancel() and len(trained.history) < entry.train.epochs:
        raise Cancelled(f"the training of '{entry.name}' was stopped after epoch {len(trained.history)}", _GO_ON)
    for volume, path in zip(trained.initial_atlas, places.initial_atlas(entry.name), strict=True):
        volume.write(path)
    history = [{key: float(value) for key, value in epoch.items()} for epoch in trained.history]
    _write_json(folder / "history.json", {"best_epoch": trained.best_epoch, "epochs": history})
    save_bundle(trained.bundle, places.bundle(entry.name))
    return trained.bundle


def score_model(
    experiment: Experiment,
    bundle: Bundle,
    rows: Sequence[ResultEntry],
    tests: Sequence[CaseSet],
    places: Places,
    lists: Lists,
    report: Report = silent,
    cancel: Cancel = never,
) -> None:
    """Measure rows of one model on test sets; cases that were measured already are left out.

    Args:
        rows: all of the model that `bundle` is.

    Raises:
        ConfigError: a row was measured with another model or other settings.
        Cancelled: stopped; cases that are complete stay.
        others: as `segment`, `refine` and `metrics.evaluate`.
    """
    for test in tests:
        cases = lists.test(test)
        lines = {row.name: _opened(experiment, row, test, cases, bundle, places) for row in rows}
        done = {name: {line.case for line in found} for name, found in lines.items()}
        left = [case for case in cases if any(case.name not in names for names in done.values())]
        write_missing(lists.test_set(test), left, report, cancel)
        for number, case in enumerate(left):
            stop_if(cancel, "the experiment")
            wanted = [row for row in rows if case.name not in done[row.name]]
            for row, labels, scored in _measured(experiment, bundle, wanted, test, case, places, cancel):
                labels.write(places.labels(test.name, row.name, case.name))
                lines[row.name] += scored
                write_scores(places.scores(test.name, row.name), lines[row.name])
            report(Progress(f"measure {test.name}", number + 1, len(left), message=case.name))


def _measured(
    experiment: Experiment,
    bundle: Bundle,
    rows: Sequence[ResultEntry],
    test: CaseSet,
    case: Case,
    places: Places,
    cancel: Cancel,
) -> Iterable[tuple[ResultEntry, Volume, tuple[ScoreLine, ...]]]:
    """Rows of one case with their label maps and scores; the ITN and the one pass run once for all of them."""
    image, truth = case.load()
    result = segment(bundle, image, PlacementConfig(experiment.placement))
    names = {value: name for value, name in experiment.names.items() if not test.structures or value in test.structures}
    for row in rows:
        began, note, found = time.perf_counter(), "", result
        if row.result == "refined":
            try:
                found = refine(bundle, result, row.refine, cancel=cancel)
            except DivergenceError as error:
                found, note = error.result or result, "diverged"
            stop_if(cancel, "the experiment")  # what a cancelled refinement gives is not its result
        seconds = time.perf_counter() - began + sum(result.seconds.values())
        warped = row.result in ("one-pass", "refined")
        labels = _labels_of(row, found, places)
        folded = folded_percent(found.correspondence) if warped else nan
        yield row, labels, score_case(case.name, labels, truth, names, folded, seconds, note)


def _labels_of(row: ResultEntry, result: Result, places: Places) -> Volume:
    if row.result == "prediction":
        return result.prediction
    if row.result == "largest-component":
        return largest_components(result.prediction, result.names)
    if row.result == "initial-atlas":
        soft = result.soft_prediction
        initial = Volume.read(places.initial_atlas(row.model)[1])
        # Read off as the network's prediction is, which lies on the same grid and is not warped either.
        return replace(result, soft_prediction=soft.with_array(initial.array.reshape(soft.array.shape))).prediction
    return result.labels


def _opened(
    experiment: Experiment, row: ResultEntry, test: CaseSet, cases: Sequence[Case], bundle: Bundle, places: Places
) -> tuple[ScoreLine, ...]:
    """The lines that are there of a row, after a check that they belong to it."""
    path = places.scores(test.name, row.name)
    manifest = read_manifest(places.bundle(row.model))
    record = {
        "model": manifest["hashes"][WEIGHTS],
        "result": row.result,
        "refine": {} if row.refine is None else as_dict(resolved(row.refine, bundle)),
        "placement": experiment.placement,
        "structures": list(test.structures),
        "test": identity(test),
    }
    what = f"the row '{row.name}' on '{test.name}'"
    _check_settings(path.with_suffix(".json"), record, what, path, made="measured")
    lines = read_scores(path)
    others = sorted({line.case for line in lines} - {case.name for case in cases})
    if others:
        raise ConfigError(
            f"{what} was measured on cases that are not in the test set any more: {', '.join(others[:3])}",
            f"remove {path} to measure it again, or choose another output folder",
        )
    return lines


def _settings(experiment: Experiment, entry: ModelEntry, cases: Sequence[Case]) -> dict[str, Any]:
    """All that a trained model depends on, as plain values."""
    grid = experiment.grid
    return {
        "train": as_dict(entry.train),
        "model": as_dict(entry.model),
        "labels": [label.value for label in experiment.labels],
        "grid": {"shape": list(grid.shape), "spacing": list(grid.spacing)},
        "normalisation": as_dict(experiment.normalisation),
        "place_on_labels": experiment.place_on_labels,
        "data": identity(experiment.data),
        "cases": [case.name for case in cases],
    }


def _check_settings(path: Path, settings: Mapping[str, Any], what: str, place: Path, made: str = "trained") -> None:
    """Write settings where none are yet; else see that they are the same."""
    if not path.is_file():
        _write_json(path, settings)
        return
    old = read_json(path)
    # Settings that came to exist later had their defaults.
    for key, kind in (("train", TrainConfig()), ("model", None)):
        if key in old and isinstance(settings.get(key), Mapping):
            now = as_dict(kind) if kind else as_dict(ModelConfig(labels=2, shape=(8, 8)))
            old[key] = {**{name: now[name] for name in settings[key] if name in now}, **old[key]}
    changed = list(_differences(old, json.loads(json.dumps(settings))))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(
            f"{what} was {made} with other settings: {'; '.join(changed[:3])}{more}",
            f"remove {place} to do it again, or choose another output folder",
        )


def _differences(old: Any, new: Any, key: str = "") -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        short = all(len(json.dumps(value)) < 40 for value in (old, new))
        yield f"{key} was {json.dumps(old)}, is {json.dumps(new)}" if short else f"{key} changed"


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


__all__ = ["Lists", "Places", "open_folder", "score_model", "train_model"]
