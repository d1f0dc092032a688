"""Tables of the scores of several cases: mean and spread of each measure, and the cases one by one."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan

from .bundle import Label
from .case_scores import STAGE_TITLES, CohortScores
from .metrics import Spread
from .tables import MOST_ROWS, Cell, Group, Row, Table

#: Names in a list for people, at most.
_MOST_NAMES = 24
#: Measures of the tables: title, name, digits, and whether less is better (1) or more (−1).
_MEASURES = (
    ("Dice", "dice", 3, -1),
    ("ASSD, mm", "assd", 2, 1),
    ("HD95, mm", "hd95", 2, 1),
    ("HD, mm", "hd", 1, 1),
)


def score_tables(labels: Sequence[Label], scores: CohortScores) -> tuple[Table, ...]:
    """A table for each measure, structures by stages; the best stage is marked.

    Args:
        labels: the structures, background first.
        scores: of at least one case.
    """
    measured = (_measure_table(labels, scores, *measure) for measure in _MEASURES)
    return (*measured, _component_table(labels, scores))


def _measure_table(
    labels: Sequence[Label], scores: CohortScores, title: str, measure: str, digits: int, sign: int
) -> Table:
    heads = tuple(STAGE_TITLES[stage] for stage in scores.stages)
    rows = []
    for label in labels[1 : MOST_ROWS + 1]:
        spreads = [scores.spread(stage, measure, label.value) for stage in scores.stages]
        most = scores.spread(scores.stages[0], "dice", label.value).n
        rows.append(Row(label.name, label.color, _compared(spreads, digits, sign, most)))
    rows += _more(labels)
    if len(labels) > 2:
        spreads = [scores.spread(stage, measure) for stage in scores.stages]
        rows.append(Row("mean", None, _compared(spreads, digits, sign, len(scores.cases))))
    return Table(title, (Group("", heads),), tuple(rows))


def _component_table(labels: Sequence[Label], scores: CohortScores) -> Table:
    heads = tuple(STAGE_TITLES[stage] for stage in scores.stages)
    rows = []
    for label in labels[1 : MOST_ROWS + 1]:
        cells = []
        for stage in scores.stages:
            own, true = (
                scores.spread(stage, name, label.value).mean for name in ("components", "reference_components")
            )
            odd = not isnan(own) and round(own, 1) != round(true, 1)
            cells.append(Cell("–" if isnan(own) else f"{own:.1f} ({true:.1f})", "odd" if odd else ""))
        rows.append(Row(label.name, label.color, tuple(cells)))
    return Table("Components", (Group("", heads),), (*rows, *_more(labels)))


def _more(labels: Sequence[Label]) -> list[Row]:
    more = len(labels) - 1 - MOST_ROWS
    return [Row(f"and {more} more: see scores.csv", None, ())] if more > 0 else []


def _compared(spreads: Sequence[Spread], digits: int, sign: int, most: int) -> tuple[Cell, ...]:
    """One measure over the stages; the best is marked where all stages have it for the same number of cases."""
    fair = len(spreads) > 1 and len({spread.n for spread in spreads}) == 1 and spreads[0].n > 0
    best = min(sign * round(spread.mean, digits) for spread in spreads) if fair else nan
    cells = []
    for spread in spreads:
        text = spread_text(spread, digits) + (f", n {spread.n}" if 0 < spread.n < most else "")
        cells.append(Cell(text, "best" if sign * round(spread.mean, digits) == best else "") if spread.n else Cell("–"))
    return tuple(cells)


def case_table(scores: CohortScores) -> Table:
    last = scores.stages[-1]
    heads = tuple(STAGE_TITLES[stage] for stage in scores.stages)
    groups = (
        Group("mean Dice", heads),
        Group("ASSD, mm", heads[-1:]),
        Group("HD95, mm", heads[-1:]),
        Group("", ("time, s",)),
    )
    rows = []
    for case in scores.worst(len(scores.cases)):
        cells = [Cell(number(case.mean(stage, "dice"), 3)) for stage in scores.stages]
        cells += [Cell(number(case.mean(last, name), 2)) for name in ("assd", "hd95")]
        rows.append(Row(case.name, None, (*cells, Cell(number(case.seconds, 1)))))
    return Table("Case", groups, tuple(rows))


def listed(names: Sequence[str]) -> str:
    """Names in a row, not more than people read."""
    shown = ", ".join(names[:_MOST_NAMES])
    return f"{shown} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else shown


def plural(count: int, what: str) -> str:
    """A count of things."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def number(value: float, digits: int) -> str:
    """A figure of a table; a dash where there is none."""
    return "–" if isnan(value) else f"{value:.{digits}f}"


def spread_text(spread: Spread, digits: int) -> str:
    """Mean ± standard deviation; the mean alone where there is one figure only."""
    return number(spread.mean, digits) + ("" if isnan(spread.deviation) else f" ± {spread.deviation:.{digits}f}")


__all__ = ["case_table", "listed", "number", "plural", "score_tables", "spread_text"]
