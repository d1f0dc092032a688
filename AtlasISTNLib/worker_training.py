"""The worker's requests `check` and `train`: what `atlas-istn train` does, told as events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .bundle import save_bundle
from .dataset_checks import DataCheck, Finding
from .errors import Cancelled
from .exchange import grid_as_dict, volume_to_files
from .geometry import Grid
from .grids import ModelGrid
from .progress import Cancel, Progress, Report
from .training import Trained
from .training_command import check_data, fitting_grid, make_plan, train_model, with_recipe
from .volume import Volume
from .worker_progress import Reporter
from .worker_requests import TrainRequest

#: Previews of one request that lie on disk; whoever wants them has read the older ones.
_MOST_PREVIEWS = 16


def checked(wanted: TrainRequest, report: Report, cancel: Cancel) -> dict[str, Any]:
    """Look for what would spoil a training; gives the values of the event "result".

    Raises:
        Cancelled: stopped.
        AtlasISTNError: there is no data, or what was asked for makes no sense.
    """
    options = with_recipe(wanted.options)
    plan = make_plan(options)
    check = check_data(plan, options, report, cancel)
    chosen = fitting_grid(check, options) if check.good else None
    return {
        "source": plan.data.source,
        "cases": len(plan.data.cases),
        "problems": [_finding(problem) for problem in check.problems],
        "notes": [_finding(note) for note in check.notes],
        "labels": _labels(check),
        **_grid(chosen),
    }


def trained(
    wanted: TrainRequest,
    number: int,
    send: Callable[..., None],
    cancel: Cancel,
    writing: Callable[[], AbstractContextManager[None]],
) -> dict[str, Any]:
    """Check the data, train on it, going on from the checkpoint if there is one, and write the model.

    Args:
        wanted: the request's fields.
        number: of the request, which the files' names begin with.
        send: sends events.
        cancel: asked before each step.
        writing: gives a block that is not broken off.

    Returns:
        The values of the event "result".

    Raises:
        Cancelled: stopped before all epochs were done; the checkpoint holds those that were.
        AtlasISTNError: the data cannot be trained on, or the errors of `run_training` and `save_bundle`.
    """
    options = with_recipe(wanted.options)
    if options.report is not None:
        from . import training_report  # brings matplotlib: better absent now than after a night
    plan = make_plan(options)
    check = check_data(plan, options, Reporter(send), cancel)
    check.require_good()
    chosen = fitting_grid(check, options)
    show = None if wanted.folder is None else AtlasPreviews(wanted.folder, number, chosen.grid)
    report = Reporter(send, show, wanted.preview_seconds)
    found = train_model(plan, check, chosen, options, report, cancel)
    epochs = len(found.history)
    if cancel() and epochs < plan.config.epochs:
        raise Cancelled(
            f"the training was stopped after epoch {epochs} of {plan.config.epochs}",
            f"started again, it goes on from {options.checkpoint}",
        )
    with writing():
        save_bundle(found.bundle, options.output, options.overwrite)
    if options.report is not None:
        training_report.write_training_report(
            found, plan.cases(check), options.report, report, cancel, options.overwrite
        )
    return {**_told(found), "path": str(options.output), "checkpoint": str(options.checkpoint), **_grid(chosen)}


class AtlasPreviews:
    """The atlas of an epoch as files with names of their own; of many, the latest are there."""

    def __init__(self, folder: Path, number: int, grid: Grid) -> None:
        self._folder, self._stem, self._grid = folder, f"r{number}-atlas", grid
        self._files: list[list[Path]] = []

    def __call__(self, progress: Progress) -> Mapping[str, Any]:
        """Write the atlas of a step; gives the values of an event "preview": entries "image" and "labels"."""
        assert progress.preview is not None
        arrays = dict(zip(("image", "labels"), progress.preview(), strict=True))
        entries = {}
        for key, array in arrays.items():
            volume = Volume.from_array(array, self._grid, f"atlas {key}")
            entries[key] = volume_to_files(volume, self._folder, f"{self._stem}-{progress.step}-{key}")
        self._files.append([self._folder / entry["array"] for entry in entries.values()])
        if len(self._files) > _MOST_PREVIEWS:
            for path in self._files.pop(0):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        return entries


def _told(found: Trained) -> dict[str, Any]:
    return {
        "epochs": len(found.history),
        "best_epoch": found.best_epoch,
        "last": dict(found.bundle.training["last"]),
        "history": [dict(entry) for entry in found.history],
        "training": list(found.training),
        "validation": list(found.validation),
    }


def _finding(finding: Finding) -> dict[str, str]:
    return {"message": finding.message, "hint": finding.hint, "case": finding.case}


def _labels(check: DataCheck) -> list[dict[str, Any]]:
    return [{"value": value, "name": name, "cases": check.counts[value]} for value, name in check.names.items()]


def _grid(chosen: ModelGrid | None) -> dict[str, Any]:
    if chosen is None:
        return {"grid": None}
    return {
        "grid": grid_as_dict(chosen.grid),
        "place_on_labels": chosen.on_labels,
        "margin": list(chosen.margin),
        "cut": list(chosen.cut),
    }


__all__ = ["AtlasPreviews", "checked", "trained"]
