"""The small table of two results compared, below the choice of the second one."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Any

import qt
from slicer.i18n import tr as _

from .comparison import Row
from .history_entries import Entry

#: Pixels of a row and of the table's frame; so many rows are seen at once.
_ROW, _FRAME, _ROWS = 24, 2, 6


def make_plain(table: Any) -> None:
    """A table whose rows are selected one at a time and whose cells are not edited."""
    table.verticalHeader().setVisible(False)
    table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
    table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
    table.setSelectionMode(qt.QAbstractItemView.SingleSelection)


def fill(table: Any, rows: Sequence[Row], pair: tuple[Entry, Entry]) -> None:
    """Show how two results agree, with their colours in the views.

    Args:
        table: the QTableWidget.
        rows: of the structures.
        pair: the result that is shown, and the other one.
    """
    table.verticalHeader().setDefaultSectionSize(_ROW)
    titles = (_("Structure"), _("Dice"), *(entry.title for entry in pair))
    table.setColumnCount(len(titles))
    table.setHorizontalHeaderLabels(list(titles))
    table.setRowCount(len(rows))
    for index, row in enumerate(rows):
        texts = [row.name, "–" if isnan(row.dice) else f"{row.dice:.3f}"]
        texts += [f"{volume:.2f} {pair[0].unit}" for volume in row.volumes]
        tip = _("{name}: Dice of the two results, and volume in each with the colour that it is drawn in")
        for column, text in enumerate(texts):
            item = qt.QTableWidgetItem(text)
            if column:
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            color = {2: row.color, 3: row.other_color}.get(column)
            if color is not None:
                item.setIcon(_square(color))
            item.setToolTip(tip.format(name=row.name))
            table.setItem(index, column, item)
    header = table.horizontalHeader()
    header.setStretchLastSection(False)  # or the last column would keep the width of its contents
    table.resizeColumnsToContents()
    header.setStretchLastSection(True)
    height = header.sizeHint.height() + _FRAME + _ROW * min(len(rows), _ROWS)
    table.minimumHeight = table.maximumHeight = height
    table.visible = True


def _square(color: Sequence[int]) -> Any:
    square = qt.QPixmap(12, 12)
    square.fill(qt.QColor(*color))
    return qt.QIcon(square)


__all__ = ["fill", "make_plain"]
