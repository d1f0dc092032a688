"""Scores of a model on labelled cases, each in its own geometry, at every stage of the segmentation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np

from .bundle import Bundle
from .datasets import Case
from .errors import AtlasISTNError, Cancelled, DivergenceError
from .metrics import Scores, Spread, evaluate
from .progress import Cancel, Progress, Report, never, silent
from .result import Result
from .segmentation import refine, segment
from .volume import Volume, checked_labels, flat

#: The segmentations that are scored, in the order of `report.STAGES`.
ITN, ONE_PASS, REFINED = "prediction", "one_pass", "final"
STAGE_TITLES = {ITN: "ITN", ONE_PASS: "one pass", REFINED: "refined"}


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case.

    Attributes:
        name: of the case.
        stages: its scores by stage.
        absent: values of the model's labels that its truth does not have.
        warnings: what the placement of the model grid warned of, and whether the refinement left the finite numbers.
        seconds: wall time of segmentation and refinement.
    """

    name: str
    stages: Mapping[str, Scores]
    absent: frozenset[int] = frozenset()
    warnings: tuple[str, ...] = ()
    seconds: float = nan

    def value(self, stage: str, label: int, measure: str) -> float:
        """A measure of a label; nan where the truth does not have the label, so that nobody can find it there."""
        return nan if label in self.absent else self.stages[stage][label].value(measure)

    def mean(self, stage: str, measure: str) -> float:
        """Mean of a measure over the labels that the truth has; nan where one of them lacks the figure."""
        known = [self.value(stage, entry.label, measure) for entry in self.stages[stage]]
        known = [
            value for value, entry in zip(known, self.stages[stage], strict=True) if entry.label not in self.absent
        ]
        return float(np.mean(known)) if known else nan


@dataclass(frozen=True)
class CohortScores:
    """Scores of a model on several cases.

    Attributes:
        cases: in the order in which they were given.
        stages: those that the model has.
        failed: why a case could not be scored, by its name.
        cancelled: whether the caller stopped before the last case.
    """

    cases: tuple[CaseScores, ...]
    stages: tuple[str, ...]
    failed: Mapping[str, str]
    cancelled: bool = False

    def spread(self, stage: str, measure: str, label: int | None = None) -> Spread:
        """A measure of a label over the cases, or of the cases' means over their labels."""
        if label is None:
            return Spread.of([case.mean(stage, measure) for case in self.cases])
        return Spread.of([case.value(stage, label, measure) for case in self.cases])

    def worst(self, count: int) -> tuple[CaseScores, ...]:
        """The cases of the lowest mean Dice at the last stage, worst first."""
        known = [case for case in self.cases if not isnan(case.mean(self.stages[-1], "dice"))]
        return tuple(sorted(known, key=lambda case: case.mean(self.stages[-1], "dice"))[:count])


#: Gets every case that was scored: its scores, its result, and its truth on the image's grid.
Seen = Callable[[CaseScores, Result, Volume], None]


def stages_of(bundle: Bundle) -> tuple[str, ...]:
    """The stages in which a model's segmentations differ."""
    if bundle.config.stn_input == "image":
        return (ONE_PASS,)  # no ITN, and nothing to refine against
    return (ITN, ONE_PASS, REFINED) if bundle.refinement.iterations else (ITN, ONE_PASS)


def score_cases(
    bundle: Bundle,
    cases: Sequence[Case],
    report: Report = silent,
    cancel: Cancel = never,
    seen: Seen | None = None,
) -> CohortScores:
    """Segment, refine with the model's own settings and evaluate cases, each on its own image's grid.

    A case that cannot be segmented is passed over and named in what comes back, as is the reason.

    Args:
        report: told after each case, stage "report".
        cancel: asked all the time; the scores of the cases before are given back.
        seen: called with each case that was scored, while its volumes are in memory.
    """
    stages = stages_of(bundle)
    scored: list[CaseScores] = []
    failed: dict[str, str] = {}
    for done, case in enumerate(cases, 1):
        if cancel():
            return CohortScores(tuple(scored), stages, failed, True)
        try:
            scores, result, truth = _scored(bundle, case, stages, cancel)
        except Cancelled:
            return CohortScores(tuple(scored), stages, failed, True)
        except AtlasISTNError as error:
            failed[case.name] = error.message
        else:
            scored.append(scores)
            if seen is not None:
                seen(scores, result, truth)
        report(Progress("report", done, len(cases), message=case.name))
    return CohortScores(tuple(scored), stages, failed)


def _scored(bundle: Bundle, case: Case, stages: Sequence[str], cancel: Cancel) -> tuple[CaseScores, Result, Volume]:
    image, labels = case.load()
    truth = _known(labels, image, bundle)
    begun = time.perf_counter()
    result = segment(bundle, image, cancel=cancel)
    warnings: tuple[str, ...] = ()
    if REFINED in stages:
        try:
            result = refine(bundle, result, cancel=cancel)
        except DivergenceError as error:
            result, warnings = error.result or result, ("its refinement left the finite numbers",)
        if result.trace is not None and result.trace.stopped == "cancelled":
            raise Cancelled(f"refining {case.name} was cancelled")
    seconds = time.perf_counter() - begun
    true = flat(truth)
    maps = {ITN: result.prediction, ONE_PASS: result.one_pass_labels, REFINED: result.labels}
    by_stage = {stage: evaluate(flat(maps[stage]), true, bundle.names) for stage in stages}
    absent = frozenset(bundle.names) - set(np.unique(truth.array).tolist())
    warnings = (*result.placement.warnings, *warnings)
    return CaseScores(case.name, by_stage, absent, warnings, seconds), result, truth


def _known(labels: Volume, image: Volume, bundle: Bundle) -> Volume:
    """A case's labels on its image's very grid, without those that the model does not know."""
    codes = checked_labels(labels)
    values = [label.value for label in bundle.labels]
    kept = np.where(np.isin(codes, values), codes, values[0])
    return Volume.from_array(kept.astype(np.int32), image.grid, labels.name)


__all__ = ["CaseScores", "CohortScores", "score_cases", "stages_of"]
