"""Scores of an experiment's rows, case by case and label by label, in CSV files that a stopped run goes on from.

A file is written anew, as a whole, after each case: it never holds half a case.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from .bundle import Bundle
from .correspondence import Correspondence
from .errors import VolumeError
from .folding import atlas_map_folding
from .metrics import LabelScores, evaluate
from .topology import Topology, topology
from .volume import Volume, checked_labels, flat, write_atomically

#: Components, holes and tunnels.
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class ScoreLine:
    """What was measured of one label of one case; nan where there is no figure.

    Attributes:
        case, label, name: of what.
        dice, …, reference_volume: see `metrics.LabelScores`.
        components, holes, tunnels: of the result.
        reference_components, …: of the truth.
        folded: non-diffeomorphic volume of the map onto the image, % of the model grid; nan for what is not warped.
        seconds: wall time of the result.
        note: "diverged" where the refinement did and the best state before was taken.
    """

    case: str
    label: int
    name: str
    dice: float
    assd: float
    hd95: float
    hd: float
    reference_asd: float
    volume: float
    reference_volume: float
    components: int
    holes: int
    tunnels: int
    reference_components: int
    reference_holes: int
    reference_tunnels: int
    folded: float
    seconds: float
    note: str = ""

    @property
    def shape(self) -> Shape:
        """Components, holes and tunnels of the result."""
        return self.components, self.holes, self.tunnels

    @property
    def missing(self) -> bool:
        """Whether the truth has the label and the result has not."""
        return self.volume == 0 and self.reference_volume > 0

    @property
    def spurious(self) -> bool:
        """Whether the result has the label and the truth has not."""
        return self.volume > 0 and self.reference_volume == 0


def score_case(
    case: str,
    labels: Volume,
    truth: Volume,
    names: Mapping[int, str],
    folded: float = nan,
    seconds: float = nan,
    note: str = "",
) -> tuple[ScoreLine, ...]:
    """One line for each label of `names`, in their order.

    Raises:
        GeometryError, VolumeError: as `metrics.evaluate`.
    """
    scores = evaluate(flat(labels), flat(truth), names)
    return tuple(_line(case, scores[value], folded, seconds, note) for value in names)


def read_scores(path: Path) -> tuple[ScoreLine, ...]:
    """The lines of a file; none if it is not there.

    Raises:
        VolumeError: it is no file of scores.
    """
    if not path.is_file():
        return ()
    readers: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": _number}
    kinds = {field.name: readers[str(field.type)] for field in fields(ScoreLine)}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            if reader.fieldnames != list(kinds):
                raise ValueError("other columns")
            return tuple(ScoreLine(**{key: kinds[key](row[key]) for key in kinds}) for row in reader)
        except (TypeError, ValueError) as error:
            raise VolumeError(f"{path} is not a file of scores ({error})", "remove it to measure again") from error


def write_scores(path: Path, lines: Iterable[ScoreLine]) -> None:
    """Write lines as CSV; the file appears whole or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    names = [field.name for field in fields(ScoreLine)]
    rows = [[_text(getattr(line, name)) for name in names] for line in lines]
    write_atomically(path, lambda partial: partial.write_text(csv_text(names, rows), encoding="utf-8"))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values with a heading."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def largest_components(labels: Volume, values: Iterable[int]) -> Volume:
    """The largest connected component of each of the labels; all else becomes background.

    Voxels that share a corner are connected, as in `topology`. Of equally large components the first one stays.
    """
    codes = checked_labels(labels)
    kept = np.zeros_like(codes)
    structure = ndimage.generate_binary_structure(codes.ndim, codes.ndim)
    for value in values:
        pieces, count = ndimage.label(codes == value, structure)
        if count:
            kept[pieces == np.bincount(pieces.ravel())[1:].argmax() + 1] = value
    return labels.with_array(kept.astype(labels.array.dtype))


def atlas_on_its_grid(bundle: Bundle) -> Volume:
    """The atlas as a label map on the model grid."""
    values = np.array([label.value for label in bundle.labels])
    return Volume.from_array(values[bundle.atlas_labels.array.argmax(axis=0)].astype(np.int32), bundle.grid, "atlas")


def atlas_topology(bundle: Bundle) -> dict[int, Shape]:
    """Components, holes and tunnels of each of the atlas's labels."""
    found = topology(atlas_on_its_grid(bundle))
    none = Topology(0, 0, 0, 0)
    shapes = {value: found.get(value, none) for value in bundle.names}
    return {value: (t.components, t.holes, t.tunnels) for value, t in shapes.items()}


def folded_percent(correspondence: Correspondence) -> float:
    """Non-diffeomorphic volume of the map that brings the atlas onto the image, % of the model grid."""
    return float(atlas_map_folding(correspondence).percent)


def _line(case: str, scores: LabelScores, folded: float, seconds: float, note: str) -> ScoreLine:
    own, other = scores.topology, scores.reference_topology
    return ScoreLine(
        case,
        scores.label,
        scores.name,
        *(float(scores.dice), scores.assd, scores.hd95, scores.hd, scores.reference_asd),
        *(scores.volume, scores.reference_volume),
        *(own.components, own.holes, own.tunnels),
        *(other.components, other.holes, other.tunnels),
        folded,
        seconds,
        note,
    )


def _text(value: Any) -> str:
    return "" if isinstance(value, float) and isnan(value) else str(value)


def _number(text: str) -> float:
    return float(text) if text else nan


__all__ = [
    "ScoreLine",
    "Shape",
    "atlas_on_its_grid",
    "atlas_topology",
    "csv_text",
    "folded_percent",
    "largest_components",
    "read_scores",
    "score_case",
    "write_scores",
]
