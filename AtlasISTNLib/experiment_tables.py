"""Tables of an experiment: means, spreads and significance of its rows on its test sets, as CSV and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan
from pathlib import Path
from statistics import fmean

from .experiment_runs import Places
from .experiment_scores import ScoreLine, Shape, csv_text, read_scores
from .experiments import Experiment, TableEntry
from .metrics import Spread
from .significance import ALPHA, Paired, holm, wilcoxon
from .volume import write_atomically

#: Title with unit, digits, and whether more is better.
LOOKS = {
    "dice": ("DSC", 3, True),
    "assd": ("ASSD, mm", 2, False),
    "hd95": ("HD95, mm", 2, False),
    "hd": ("HD, mm", 2, False),
    "reference_asd": ("“ASD”, mm", 3, False),
}
_OTHER = (2, None)
_NOTHING = "–"
_MEASURES_TEXT = (
    "DSC: Dice similarity coefficient, 0 where only one of result and truth has the structure. ASSD: average symmetric "
    "surface distance; HD: Hausdorff distance; HD95: the larger of the two directed 95th percentiles; “ASD”: ITK's "
    "average Hausdorff distance, which the paper's code reports under that name."
)
_MISSING_TEXT = (
    "Missing: structures of the truth that a result lacks, over all cases. They have DSC 0 and no distance: means of "
    "distances are over what is there, and flatter a row with missing structures."
)
_REST_TEXT = (
    "Folded: non-diffeomorphic volume of the map onto the image, % of the model grid. Time: wall time for a case, "
    "placing and predicting included."
)
_TESTS_TEXT = (
    "two-sided Wilcoxon signed-rank tests on the cases that both rows have (pairs without a difference ranked and left "
    "out, Pratt 1959), adjusted by Holm's method over all {} comparisons of this table (rows × references × test sets "
    "× measures)."
)
#: Lines of all rows that are measured, by test set and row.
Measured = Mapping[tuple[str, str], Sequence[ScoreLine]]


@dataclass(frozen=True)
class Comparison:
    """A test of a row against another one; `p_holm` is adjusted over all comparisons of the table."""

    test: str
    row: str
    mark: str
    reference: str
    measure: str
    paired: Paired
    p_holm: float

    @property
    def significant(self) -> bool:
        """Whether the mark is set."""
        return self.p_holm < ALPHA


def read_measured(experiment: Experiment, places: Places) -> dict[tuple[str, str], tuple[ScoreLine, ...]]:
    """What has been measured so far, by test set and row.

    Raises:
        VolumeError: a file of scores is damaged.
    """
    found = {(t, r): read_scores(places.scores(t, r)) for t in experiment.tests for r in experiment.rows}
    return {key: lines for key, lines in found.items() if lines}


def case_means(lines: Sequence[ScoreLine], measure: str, label: int | None = None) -> dict[str, float]:
    """A measure by case: the mean over the labels that have a figure, or that of one label; nan where none has."""
    by_case: dict[str, list[float]] = {}
    for line in lines:
        values = by_case.setdefault(line.case, [])
        value = float(getattr(line, measure))
        if isfinite(value) and label in (None, line.label):
            values.append(value)
    return {case: fmean(values) if values else nan for case, values in by_case.items()}


def compare(table: TableEntry, measured: Measured) -> list[Comparison]:
    """Every row of a table against its reference rows, in every test set and measure, by Wilcoxon's signed-rank test.

    p is adjusted by Holm's method over all comparisons of the table together: they are its family.
    """
    found = []
    for test in table.tests:
        for mark, reference in table.comparisons:
            for row in table.rows:
                if row == reference or not {(test, row), (test, reference)} <= set(measured):
                    continue
                for measure in table.measures:
                    pair = [case_means(measured[test, name], measure) for name in (row, reference)]
                    found.append((test, row, mark, reference, measure, wilcoxon(*pair)))
    adjusted = holm([entry[5].p for entry in found])
    return [Comparison(*entry, p) for entry, p in zip(found, adjusted, strict=True)]


def write_table(
    experiment: Experiment, table: TableEntry, measured: Measured, topology: Mapping[int, Shape] | None, folder: Path
) -> list[Path]:
    """Write a table: NAME.md to read, NAME.csv with every figure by label, NAME-tests.csv with every comparison.

    Args:
        topology: components, holes and tunnels that each label should have; None while they are not known.

    Raises:
        OutputError: the place cannot be written.
    """
    comparisons = tuple(compare(table, measured))
    made = _Made(experiment, table, measured, topology, comparisons)
    texts = {
        f"{table.name}.md": made.markdown(),
        f"{table.name}.csv": made.figures_csv(),
        f"{table.name}-tests.csv": _tests_csv(comparisons),
    }
    return [_write(folder / name, text) for name, text in texts.items()]


@dataclass(frozen=True)
class _Made:
    """A table with all that goes into it."""

    experiment: Experiment
    table: TableEntry
    measured: Measured
    topology: Mapping[int, Shape] | None
    comparisons: tuple[Comparison, ...]

    def markdown(self) -> str:
        """A table to read: one part for each test set, then what its figures and marks mean."""
        parts = [f"# {self.table.title or self.experiment.title}", ""]
        for test in self.table.tests:
            if rows := self._rows(test):
                parts += [f"## {self.experiment.tests[test].title}", "", *self._part(test, rows), ""]
        if not any(self._rows(test) for test in self.table.tests):
            parts += ["Nothing has been measured yet.", ""]
        asked = [(test, row) for test in self.table.tests for row in self.table.rows]
        if absent := [f"{row} on {test}" for test, row in asked if (test, row) not in self.measured]:
            parts += [f"Not measured yet: {', '.join(absent)}.", ""]
        if len(self.experiment.names) > 1:
            parts += self._by_label()
        return "\n".join([*parts, "\n\n".join(self._caption())]) + "\n"

    def _rows(self, test: str) -> list[str]:
        return [row for row in self.table.rows if (test, row) in self.measured]

    def _titles(self, rows: Sequence[str]) -> list[str]:
        return ["", *(self.experiment.rows[row].title for row in rows)]

    def _part(self, test: str, rows: Sequence[str]) -> list[str]:
        columns = [self._titles(rows)]
        for measure in self.table.measures:
            title, _, more = look(measure)
            cells = self._cells(test, rows, measure, None)
            marks = [self._marks(test, row, measure) for row in rows]
            arrow = "" if more is None else " ↑" if more else " ↓"
            columns.append([title + arrow, *(cell + mark for cell, mark in zip(cells, marks, strict=True))])
        lines = [self.measured[test, row] for row in rows]
        right = [_right(found, self.topology) for found in lines]
        texts = [_NOTHING if isnan(r) else f"{r:.0f} %" for r in right]
        columns.append(["topology ↑", *_best(texts, [round(r) if isfinite(r) else r for r in right], True)])
        columns.append(["folded, %", *(_folded(found) for found in lines)])
        columns.append(["time, s", *(_seconds(found) for found in lines)])
        columns.append(["missing", *(str(sum(line.missing for line in found)) for found in lines)])
        columns.append(["cases", *(str(len({line.case for line in found})) for found in lines)])
        return _lines(columns)

    def _by_label(self) -> list[str]:
        """The mean of every measure for every label."""
        parts = []
        for test in self.table.tests:
            rows = self._rows(test)
            for measure in self.table.measures if rows else ():
                columns = [self._titles(rows)]
                for value, name in self.experiment.names.items():
                    columns.append([name, *self._cells(test, rows, measure, value)])
                title = f"### {look(measure)[0]} by structure, {self.experiment.tests[test].title}"
                parts += [title, "", *_lines(columns), ""]
        return parts

    def _cells(self, test: str, rows: Sequence[str], measure: str, label: int | None) -> list[str]:
        _, digits, more = look(measure)
        found = [Spread.of(case_means(self.measured[test, row], measure, label).values()) for row in rows]
        return _best([_spread(s, digits) for s in found], [round(s.mean, digits) for s in found], more)

    def _marks(self, test: str, row: str, measure: str) -> str:
        own = (test, row, measure)
        marks = [c.mark for c in self.comparisons if c.significant and (c.test, c.row, c.measure) == own]
        return "".join(marks).replace("*", r"\*")

    def _caption(self) -> list[str]:
        experiment, number = self.experiment, len(self.comparisons)
        averaged = ", each case the mean over its structures" if len(experiment.names) > 1 else ""
        title = experiment.models[experiment.topology].title
        texts = [
            f"Mean ± standard deviation (n − 1) over cases{averaged}; **bold**: the best of its column, as printed.",
            _MEASURES_TEXT,
            _MISSING_TEXT,
            "Topology: cases in which every structure has the components, holes and tunnels of the atlas of the model "
            f"“{title}”. {_REST_TEXT}",
        ]
        if number:
            marks = [
                f"{mark} against “{experiment.rows[row].title}”".replace("*", r"\*")
                for mark, row in self.table.comparisons
            ]
            texts.append(
                f"Marks: the row differs with p < {ALPHA:g} ({'; '.join(marks)}): " + _TESTS_TEXT.format(number)
            )
        return texts

    def figures_csv(self) -> str:
        """Every figure by test set, row and structure."""
        rows: list[list[object]] = []
        for test in self.table.tests:
            for row in self._rows(test):
                for value, name in [(None, "mean"), *self.experiment.names.items()]:
                    rows += [[test, row, name, *figures] for figures in self._figures(self.measured[test, row], value)]
        return csv_text(["test", "row", "structure", "measure", "n", "mean", "sd"], rows)

    def _figures(self, lines: Sequence[ScoreLine], label: int | None) -> list[list[object]]:
        found: list[list[object]] = []
        for measure in [*self.table.measures, "folded", "seconds"]:
            s = Spread.of(case_means(lines, measure, label).values())
            found.append([measure, s.n, _plain(s.mean), _plain(s.deviation)])
        own = [line for line in lines if label in (None, line.label)]
        cases = len({line.case for line in own})
        found.append(["topology_percent", cases, _plain(_right(own, self.topology)), ""])
        found.append(["missing_total", cases, sum(line.missing for line in own), ""])
        found.append(["spurious_total", cases, sum(line.spurious for line in own), ""])
        return found


def _write(path: Path, text: str) -> Path:
    return write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _tests_csv(comparisons: Sequence[Comparison]) -> str:
    header = ["test", "row", "reference", "measure", "n", "zeros", "median_difference", "p", "p_holm", "mark"]
    rows = [
        [
            *(c.test, c.row, c.reference, c.measure, c.paired.n, c.paired.zeros),
            *(_plain(x) for x in (c.paired.median_difference, c.paired.p, c.p_holm)),
            c.mark if c.significant else "",
        ]
        for c in comparisons
    ]
    return csv_text(header, rows)


def look(measure: str) -> tuple[str, int, bool | None]:
    """Title with unit, digits, and whether more is better (None: neither)."""
    return LOOKS.get(measure, (measure.replace("_", " "), *_OTHER))


def _right(lines: Sequence[ScoreLine], topology: Mapping[int, Shape] | None) -> float:
    """% of the cases whose labels all have the topology that they should have; labels that the truth lacks are left
    out unless the result has them."""
    if topology is None or not lines:
        return nan
    cases = {line.case: True for line in lines}
    for line in lines:
        if line.reference_volume > 0 or line.volume > 0:
            cases[line.case] &= line.shape == topology.get(line.label)
    return 100 * sum(cases.values()) / len(cases)


def _folded(lines: Sequence[ScoreLine]) -> str:
    mean = Spread.of(case_means(lines, "folded").values()).mean
    return _NOTHING if isnan(mean) else "0" if mean == 0 else f"{mean:.2g}" if mean < 0.1 else f"{mean:.2f}"


def _seconds(lines: Sequence[ScoreLine]) -> str:
    mean = Spread.of(case_means(lines, "seconds").values()).mean
    return _NOTHING if isnan(mean) else f"{mean:.2g}" if mean < 10 else f"{mean:.0f}"


def _spread(spread: Spread, digits: int) -> str:
    if not spread.n:
        return _NOTHING
    deviation = "" if isnan(spread.deviation) else f" ± {spread.deviation:.{digits}f}"
    return f"{spread.mean:.{digits}f}{deviation}"


def _best(cells: Sequence[str], values: Sequence[float], more: bool | None) -> list[str]:
    """Cells with the best ones bold; none where all are the same."""
    finite = [value for value in values if isfinite(value)]
    if more is None or len(set(finite)) < 2:
        return list(cells)
    best = max(finite) if more else min(finite)
    return [f"**{cell}**" if value == best else cell for cell, value in zip(cells, values, strict=True)]


def _lines(columns: Sequence[Sequence[str]]) -> list[str]:
    """A GitHub table from its columns, the first of which is text."""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in zip(*columns, strict=True)]
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:])]


def _plain(value: float) -> object:
    return "" if isnan(value) else value


__all__ = [
    "LOOKS",
    "Comparison",
    "case_means",
    "compare",
    "look",
    "read_measured",
    "write_table",
]
