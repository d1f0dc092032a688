"""The command `experiment`: train, measure and show what an experiment's file asks for."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bundle import find_device, load_bundle
from .errors import ConfigError, VolumeError
from .experiment_data import CaseSet, keys_of
from .experiment_reading import read_experiment
from .experiment_runs import Lists, Places, open_folder, score_model, train_model
from .experiment_scores import atlas_topology
from .experiment_tables import read_measured, write_table
from .experiments import Experiment, ResultEntry, find_experiment
from .progress import Cancel
from .terminal import FINE, Console, table


@dataclass(frozen=True)
class _Work:
    """What every step of a run needs."""

    experiment: Experiment
    tests: Sequence[CaseSet]
    places: Places
    lists: Lists
    device: str
    console: Console
    cancel: Cancel

    def model(self, name: str, rows: Sequence[ResultEntry]) -> None:
        """Train one model and measure its rows."""
        entry = self.experiment.models[name]
        with self.console.progress(name) as report:
            bundle = train_model(self.experiment, entry, self.places, self.lists, self.device, report, self.cancel)
        with self.console.progress(name) as report:
            score_model(self.experiment, bundle, rows, self.tests, self.places, self.lists, report, self.cancel)
        self.console.note(f"{name} is trained; rows measured: {', '.join(row.name for row in rows) or 'none'}")


def run_experiment(options: Namespace, console: Console, cancel: Cancel) -> int:
    """`atlas-istn experiment`; gives the exit code."""
    path = find_experiment(options.spec)
    experiment = read_experiment(path)
    if options.list:
        list_experiment(experiment, None if options.output is None else Places(options.output), console)
        return FINE
    if options.output is None:
        raise ConfigError("experiment needs --output DIR", "name the experiment's folder; --list needs none")
    given = _given(options.data, experiment)
    models = _some(options.only, experiment.models, "--only", "model")
    rows = [experiment.rows[name] for name in _some(options.rows, experiment.rows, "--rows", "row")]
    tests = [experiment.tests[name] for name in _some(options.tests, experiment.tests, "--tests", "test set")]
    if options.rows:
        models = [name for name in models if any(row.model == name for row in rows)]
    find_device(options.device)
    if not options.tables_only:
        _check_given(experiment, tests, given)
    places = open_folder(experiment, options.output, path)
    lists = Lists(experiment, places, given)
    if not options.tables_only:
        work = _Work(experiment, tests, places, lists, options.device, console, cancel)
        for name in models:
            work.model(name, [row for row in rows if row.model == name])
    written = show(experiment, places, lists, console)
    console.event("result", output=options.output, files=written)
    return FINE


def show(experiment: Experiment, places: Places, lists: Lists, console: Console) -> list[Path]:
    """Write all tables and figures of what has been measured so far."""
    from .experiment_figures import write_figure  # brings matplotlib, which takes a second

    measured = read_measured(experiment, places)
    topology = None
    if places.trained(experiment.topology):
        topology = atlas_topology(load_bundle(places.bundle(experiment.topology), "cpu"))
    written: list[Path] = []
    for entry in experiment.tables:
        written += write_table(experiment, entry, measured, topology, places.root / "tables")
        console.say((places.root / "tables" / f"{entry.name}.md").read_text(encoding="utf-8"))
    for figure in experiment.figures:
        try:
            path = write_figure(experiment, figure, measured, places, lists, places.root / "figures")
        except (ConfigError, VolumeError) as error:  # the images may be elsewhere; tables need none
            console.warn(f"the figure '{figure.name}' was not drawn: {error}")
            continue
        if path is not None:
            written.append(path)
    for path in written:
        console.note(f"written {path}")
    return written


def list_experiment(experiment: Experiment, places: Places | None, console: Console) -> None:
    """Say what an experiment holds, and with a folder what of it is done."""
    measured = read_measured(experiment, places) if places else {}
    tests, keys = list(experiment.tests), keys_of([experiment.data, *experiment.tests.values()])
    models = [[name, entry.title] for name, entry in experiment.models.items()]
    rows = [[name, row.title, row.model, row.result] for name, row in experiment.rows.items()]
    if places:
        models = [[*line, "trained" if places.trained(line[0]) else "-"] for line in models]
        counts = {key: len({line.case for line in lines}) for key, lines in measured.items()}
        rows = [[*line, *(str(counts.get((test, line[0]), 0)) for test in tests)] for line in rows]
    console.event("result", models=list(experiment.models), rows=list(experiment.rows), tests=tests, data=keys)
    console.say(f"{experiment.name} — {experiment.title}")
    console.say(f"test sets: {', '.join(f'{name} ({test.title})' for name, test in experiment.tests.items())}")
    console.say(f"paths to give: {' '.join(f'--data {key}=PATH' for key in keys) or 'none'}\n")
    console.say(table(["model", "", *(["state"] if places else [])], models, left=3) + "\n")
    console.say(table(["row", "", "model", "result", *(tests if places else [])], rows, left=4))


def _given(pairs: Sequence[tuple[str, Path]], experiment: Experiment) -> dict[str, Path]:
    given = dict(pairs)
    known = keys_of([experiment.data, *experiment.tests.values()])
    if unknown := [key for key in given if key not in known]:
        raise ConfigError(f"--data gives '{unknown[0]}'", f"this experiment takes {', '.join(known) or 'no paths'}")
    if absent := [path for path in given.values() if not path.exists()]:
        raise VolumeError(f"{absent[0]} does not exist", "check the path given with --data")
    return given


def _check_given(experiment: Experiment, tests: Sequence[CaseSet], given: dict[str, Path]) -> None:
    missing = [key for key in keys_of([experiment.data, *tests]) if key not in given]
    if missing:
        raise ConfigError(
            f"the experiment needs the path{'s' * (len(missing) > 1)} {', '.join(missing)}",
            "give " + " ".join(f"{key}=PATH" for key in missing) + " with --data, or leave test sets out with --tests",
        )


def _some(wanted: Sequence[str], known: Iterable[str], option: str, what: str) -> list[str]:
    """Those names that were asked for, in the experiment's order; all of them if none was."""
    names = list(known)
    if unknown := [name for name in wanted if name not in names]:
        raise ConfigError(f"{option} names the {what} '{unknown[0]}'", f"there are {', '.join(names)}")
    return [name for name in names if not wanted or name in wanted]


__all__ = ["list_experiment", "run_experiment", "show"]
