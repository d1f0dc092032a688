"""Training report: what was trained, how it went, and how well the model does, to read, to print and to compute with.

report.html      everything in one file
report.md        the same as Markdown, with its pictures beside it
history.csv      the figures of each epoch
scores.csv       the scores of each case, stage and structure
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from math import isfinite, isnan
from pathlib import Path
from typing import Any

import numpy as np

from .case_scores import CaseScores, CohortScores, score_cases, stages_of
from .datasets import Case
from .document import Document, to_html, to_markdown
from .errors import ConfigError, OutputError
from .progress import Cancel, Report, never, silent
from .result import Result
from .score_tables import listed
from .training import Trained
from .volume import Volume, write_atomically

#: Cases that are scored, at most: refinement takes its time.
MOST_CASES = 20
HTML, MARKDOWN, HISTORY, SCORES = "report.html", "report.md", "history.csv", "scores.csv"
#: Worst cases that are shown.
_WORST = 3
_PICTURES = ("loss", "dice", "schedule", "atlas-image", "atlas-labels", "scores")
_FILES = (HTML, MARKDOWN, HISTORY, SCORES)
_OURS = (*_FILES, *(f"{name}.png" for name in (*_PICTURES, *(f"worst-{n}" for n in range(1, _WORST + 1)))))


def check_training_report(folder: str | os.PathLike[str], overwrite: bool = False) -> None:
    """See, before any heavy work, that a report can be written to a folder.

    Raises:
        OutputError: there is a report in it and `overwrite` is not set, or nothing can be written there.
    """
    place = Path(folder)
    there = sorted(name for name in _OURS if (place / name).exists())
    if there and not overwrite:
        raise OutputError(f"{place / there[0]} exists", "choose another folder, or add --overwrite (overwrite=True)")
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"{place} is not a folder", "choose another folder")
    try:
        # Permissions do not tell on every system; a folder that was made does.
        os.rmdir(tempfile.mkdtemp(prefix=".atlas-istn-", dir=place))
    except OSError as error:
        raise OutputError(f"cannot write to {place}: {error.strerror}", "choose another folder") from error


def write_training_report(
    trained: Trained,
    cases: Sequence[Case],
    folder: str | os.PathLike[str],
    report: Report = silent,
    cancel: Cancel = never,
    overwrite: bool = False,
) -> Path:
    """Write the report of a training.

    The held-out cases, or the training cases if there are none, are segmented and refined with the model's own settings
    and scored on their images' own grids; of more than `MOST_CASES`, so many are taken evenly from the list. All is
    made before the first file is written; then each appears whole, report.html last.

    Args:
        trained: from `run_training`.
        cases: those that were given to it, at least the held-out ones.
        folder: where the files go; made if absent. Other files in it stay as they are.
        report: told after each case, stage "report".
        cancel: asked all the time; the report then has the cases that were scored before, and says so.
        overwrite: replace the files of a report that is there.

    Returns:
        The path of report.html.

    Raises:
        OutputError: see `check_training_report`, or writing failed.
        ConfigError: a held-out case is not among `cases`.
    """
    check_training_report(folder, overwrite)
    chosen, remarks = _chosen(trained, cases)
    # Brings matplotlib, which takes a second that only reports need.
    from .training_document import training_document
    from .training_figures import case_slices

    worst: dict[str, tuple[float, bytes]] = {}

    def seen(case: CaseScores, result: Result, truth: Volume) -> None:
        dice = case.mean(stages_of(trained.bundle)[-1], "dice")
        others = [other for other, _ in worst.values()]
        if isnan(dice) or (len(worst) >= _WORST and dice >= max(others)):
            return
        # Drawn while the case is in memory; its volumes may be large.
        worst[case.name] = dice, case_slices(result, truth, case, trained.bundle.normalisation)
        if len(worst) > _WORST:
            del worst[max(worst, key=lambda name: worst[name][0])]

    scores = score_cases(trained.bundle, chosen, report, cancel, seen)
    pictures = {case.name: worst[case.name][1] for case in scores.worst(_WORST) if case.name in worst}
    document = training_document(trained, scores, pictures, remarks)
    _write(trained, scores, document, Path(folder))
    return Path(folder) / HTML


def _chosen(trained: Trained, cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """The cases to score, and what has to be said of the choice."""
    wanted = trained.validation or trained.training
    count = Counter(case.name for case in cases)
    missing = [name for name in wanted if not count[name]]
    if missing:
        raise ConfigError(
            f"{missing[0]} was in the training but is not among the cases of the report",
            "give the cases that the model was trained with",
        )
    remarks = []
    if twice := sorted(name for name in set(wanted) if count[name] > 1):
        remarks.append(f"Several cases are called {listed(twice)}; they cannot be told apart and were not scored.")
    by_name = {case.name: case for case in cases}
    names = [name for name in wanted if count[name] == 1]
    kind = "held-out" if trained.validation else "training"
    if len(names) > MOST_CASES:
        index = np.linspace(0, len(names) - 1, MOST_CASES).round().astype(int).tolist()
        remarks.append(f"Of {len(names)} {kind} cases, {MOST_CASES} were scored, taken evenly from the list.")
        names = [names[i] for i in index]
    return [by_name[name] for name in names], remarks


def _write(trained: Trained, scores: CohortScores, document: Document, folder: Path) -> None:
    """Every file whole, the one that is opened first last of all; pictures of an earlier report go."""
    files = {f"{picture.name}.png": picture.light for picture in document.pictures()}
    files |= {HISTORY: _history(trained).encode(), SCORES: _scores(scores).encode()}
    files |= {MARKDOWN: to_markdown(document).encode(), HTML: to_html(document).encode()}
    for name, data in files.items():
        write_atomically(folder / name, lambda partial, data=data: partial.write_bytes(data))  # type: ignore[misc]
    for name in set(_OURS) - set(files):
        (folder / name).unlink(missing_ok=True)


def _history(trained: Trained) -> str:
    """The figures of each epoch as CSV; a field is empty where a figure does not exist."""
    names = list(dict.fromkeys(name for entry in trained.history for name in entry))
    rows = [[epoch, *(_field(entry.get(name)) for name in names)] for epoch, entry in enumerate(trained.history, 1)]
    return _csv([["epoch", *names], *rows])


def _scores(scores: CohortScores) -> str:
    """The scores of each case, stage and structure as CSV; a field is empty where a measure does not exist.

    Unlike in the tables, structures that the truth does not have stand here as well, with a reference volume of 0.
    """
    rows: list[list[Any]] = []
    names: list[str] = []
    for case in scores.cases:
        for stage, found in case.stages.items():
            for row in found.to_rows():
                names = names or list(row)
                rows.append([case.name, stage, *(_field(row[name]) for name in names)])
    return _csv([["case", "stage", *names], *rows])


def _field(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not isfinite(value)) else value


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


__all__ = ["MOST_CASES", "check_training_report", "write_training_report"]
