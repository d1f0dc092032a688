"""The tables of the panel's section Steer: which segment is which structure, and how hard each structure pulls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from . import steer_choices, targets

#: Pixels of a row and of the header, and so many rows are seen at once.
_ROW, _HEADER, _ROWS = 26, 28, 6


class MatchTable:
    """A row for each segment of a target, with a list of the model's structures.

    Args:
        table: the QTableWidget.
        on_choice: told a segment's ID and the label value that the user chose for it.
    """

    def __init__(self, table: Any, on_choice: Callable[[str, int], None]) -> None:
        self.table, self._on_choice = table, on_choice
        self._key: Any = None
        self._setting = False
        self._lists: dict[str, Any] = {}
        self._shown: dict[str, tuple[int, bool]] = {}
        self._values: list[int] = []
        _prepare(table, (_("Segment"), _("Structure")))

    def show(self, matches: Sequence[targets.Match], labels: Sequence[Any]) -> None:
        """Show matches; segments that are structures come first."""
        structures = [(label.value, label.name, tuple(label.color)) for label in labels[1:]]
        key = (tuple((m.segment_id, m.name, m.color) for m in matches), tuple(structures))
        if key != self._key:
            self._key = key
            self._shown = {}
            self._build(matches, structures)
        self._setting = True
        for match in matches:
            if self._shown.get(match.segment_id) == (match.value, match.chosen):
                continue
            self._shown[match.segment_id] = (match.value, match.chosen)
            chosen = self._lists[match.segment_id]
            place = self._values.index(match.value)
            if chosen.currentIndex != place:
                chosen.setCurrentIndex(place)
            chosen.toolTip = _("Chosen by you") if match.chosen else _("Found by name or code")
            if match.value == targets.UNUSED and not match.chosen:
                chosen.toolTip = _("No structure of the model has this name or code; choose one if it is one")
        self._setting = False

    def _build(self, matches: Sequence[targets.Match], structures: Sequence[tuple[int, str, Any]]) -> None:
        table = self.table
        table.setRowCount(0)
        self._lists, self._values = {}, [targets.UNUSED, *(value for value, _name, _color in structures)]
        table.setRowCount(len(matches))
        for row, match in enumerate(sorted(matches, key=lambda m: m.value == targets.UNUSED)):
            table.setItem(row, 0, _item(match.name, match.color))
            chosen = qt.QComboBox()
            chosen.addItem(_("not used"))
            for _value, name, color in structures:
                chosen.addItem(_square(color), name)
            chosen.connect("currentIndexChanged(int)", lambda place, key=match.segment_id: self._chose(key, place))
            self._lists[match.segment_id] = chosen
            table.setCellWidget(row, 1, chosen)
        _fit(table, len(matches))

    def _chose(self, segment_id: str, place: int) -> None:
        if not self._setting and place >= 0:
            self._on_choice(segment_id, self._values[place])


class WeightTable:
    """A row for each structure, with its weight.

    Args:
        table: the QTableWidget.
        on_weights: told all weights by label value when the user changed one.
    """

    def __init__(self, table: Any, on_weights: Callable[[dict[int, float]], None]) -> None:
        self.table, self._on_weights = table, on_weights
        self._key: Any = None
        self._setting = False
        self._boxes: dict[int, Any] = {}
        _prepare(table, (_("Structure"), _("Weight")))

    def show(self, weights: Mapping[int, float], labels: Sequence[Any]) -> None:
        """Show the weights of a model's structures."""
        key = tuple((label.value, label.name, tuple(label.color)) for label in labels[1:])
        if key != self._key:
            self._key = key
            self._build(labels[1:])
        self._setting = True
        for value, box in self._boxes.items():
            if abs(box.value - weights.get(value, steer_choices.NORMAL)) > 1e-9:
                box.value = weights.get(value, steer_choices.NORMAL)
        self._setting = False

    def _build(self, structures: Sequence[Any]) -> None:
        table = self.table
        table.setRowCount(0)
        self._boxes = {}
        table.setRowCount(len(structures))
        for row, label in enumerate(structures):
            table.setItem(row, 0, _item(label.name, tuple(label.color)))
            box = qt.QDoubleSpinBox()
            box.minimum, box.maximum = steer_choices.OFF, steer_choices.MOST
            box.decimals, box.singleStep = 2, 0.5
            box.specialValueText = _("off")
            box.keyboardTracking = False
            box.value = steer_choices.NORMAL
            box.toolTip = _("How hard {name} pulls: 0 is off, 1 is normal").format(name=label.name)
            box.connect("valueChanged(double)", lambda _value: self._changed())
            self._boxes[label.value] = box
            table.setCellWidget(row, 1, box)
        _fit(table, len(structures))

    def _changed(self) -> None:
        if not self._setting:
            self._on_weights({value: float(box.value) for value, box in self._boxes.items()})


def _prepare(table: Any, titles: Sequence[str]) -> None:
    table.setColumnCount(len(titles))
    table.setHorizontalHeaderLabels(list(titles))
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(_ROW)
    table.horizontalHeader().setStretchLastSection(True)


def _fit(table: Any, rows: int) -> None:
    """As high as its rows, up to some; names as wide as half of it."""
    table.minimumHeight = table.maximumHeight = _HEADER + _ROW * min(max(rows, 1), _ROWS)
    table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)


def _item(text: str, color: Any) -> Any:
    item = qt.QTableWidgetItem(text)
    item.setIcon(_square(color))
    item.setToolTip(text)
    return item


def _square(color: Any) -> Any:
    square = qt.QPixmap(12, 12)
    square.fill(qt.QColor(*color))
    return qt.QIcon(square)
