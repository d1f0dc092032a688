"""Tables: the figures of a report as short texts in rows and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_STAGES = {"prediction": "ITN", "one_pass": "1-pass", "final": "refined"}
#: Structures that are shown; report.json has all.
MOST_ROWS = 30
_NAME_LENGTH = 30


@dataclass(frozen=True)
class Cell:
    """A figure as text; style "best" is the best of its group, "odd" one that contradicts the atlas."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Group:
    """Columns of one measure."""

    title: str
    heads: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A structure; `color` is None for a row that is none."""

    name: str
    color: tuple[int, int, int] | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Rows under groups of columns."""

    title: str
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]

    @property
    def lines(self) -> int:
        """Lines of text: two of headings and the rows."""
        return 2 + len(self.rows)


def figure_tables(figures: Mapping[str, Any]) -> list[Table]:
    """The tables of a report: the structures, and their scores if there was a reference.

    Args:
        figures: what `report.summary` gives.
    """
    stages = [stage for stage in _STAGES if stage != "final" or figures["refinement"]]
    tables = [_structure_table(figures["structures"], stages)]
    if figures["scores"]:
        tables.append(_score_table(figures, stages))
    return tables


def _structure_table(structures: Sequence[Mapping[str, Any]], stages: Sequence[str]) -> Table:
    heads = tuple(_STAGES[stage] for stage in stages)
    last = stages[-1]
    solid = structures[0]["volume"]["unit"] == "mL"
    unit = "Volume, mL" if solid else "Area, mm²"
    groups = (
        Group(unit, heads),
        Group("Dice to ITN", (_STAGES[last],)),
        Group("Components", ("ITN", _STAGES[last], "atlas")),
        Group("Holes and tunnels" if solid else "Holes", ("ITN", _STAGES[last], "atlas")),
    )
    rows = []
    for entry in structures[:MOST_ROWS]:
        cells = [Cell(_volume(entry["volume"][stage], solid)) for stage in stages]
        cells.append(Cell(_number(entry["dice_prediction_final"], 3)))
        for count in (lambda t: t["components"], lambda t: t["holes"] + t["tunnels"]):
            own = count(entry["topology"]["atlas"])
            found = [count(entry["topology"][stage]) for stage in ("prediction", last)]
            cells += [Cell(str(n), "" if n == own else "odd") for n in found] + [Cell(str(own))]
        rows.append(_row(entry, cells))
    return Table("Structures", groups, _with_more(rows, len(structures)))


def _score_table(figures: Mapping[str, Any], stages: Sequence[str]) -> Table:
    heads = tuple(_STAGES[stage] for stage in stages)
    measures = (("Dice", "dice", 3, -1), ("ASSD, mm", "assd", 2, 1), ("Hausdorff, mm", "hd", 1, 1))
    scores = {stage: {row["label"]: row for row in figures["scores"][stage]["labels"]} for stage in stages}
    rows = []
    for entry in figures["structures"][:MOST_ROWS]:
        by_stage = [scores[stage][entry["value"]] for stage in stages]
        rows.append(_row(entry, [cell for m in measures for cell in _compared([s[m[1]] for s in by_stage], *m[2:])]))
    many = len(figures["structures"]) > 1
    if many:
        means = [_means(figures["scores"][stage]) for stage in stages]
        cells = [cell for m in measures for cell in _compared([mean[m[1]] for mean in means], *m[2:])]
    shown = _with_more(rows, len(figures["structures"]))
    if many:
        shown += (Row("mean", None, tuple(cells)),)
    return Table("Against the reference", tuple(Group(m[0], heads) for m in measures), shown)


def _means(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """Means over the structures; None where one of them has no figure, as that would be the mean of fewer."""
    known = [row for row in scores["labels"] if row["dice"] is not None]
    return {m: None if any(row[m] is None for row in known) else mean for m, mean in scores["mean"].items()}


def _compared(values: Sequence[float | None], digits: int, sign: int) -> list[Cell]:
    """Figures of one measure over the stages; the best one is marked, and all that look the same."""
    texts = [_number(value, digits) for value in values]
    known = [sign * round(value, digits) for value in values if value is not None]
    best = min(known) if known else None
    marks = ["best" if v is not None and sign * round(v, digits) == best else "" for v in values]
    return [Cell(text, mark) for text, mark in zip(texts, marks, strict=True)]


def _row(entry: Mapping[str, Any], cells: Sequence[Cell]) -> Row:
    name = str(entry["name"])
    short = name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
    return Row(short, tuple(entry["color"]), tuple(cells))


def _with_more(rows: Sequence[Row], count: int) -> tuple[Row, ...]:
    if count <= len(rows):
        return tuple(rows)
    return (*rows, Row(f"and {count - len(rows)} more: see report.json", None, ()))


def _volume(value: float, solid: bool) -> str:
    return f"{value:.0f}" if not solid and value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


__all__ = ["Cell", "Group", "Row", "Table", "figure_tables"]
