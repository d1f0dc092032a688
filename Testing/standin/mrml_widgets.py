"""Stand-ins for Slicer's other widgets: sliders, tables of segments and of table nodes, plots (plain)."""

from __future__ import annotations

from typing import Any, ClassVar

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Qt

from . import ctk_values
from .mrml_base import SCENE_SIGNAL, MrmlHolder
from .mrml_selectors import qMRMLNodeComboBox

READ_ONLY = QtWidgets.QAbstractItemView.EditTrigger.NoEditTriggers


class qMRMLSliderWidget(MrmlHolder, ctk_values.ctkSliderWidget):
    """A slider with a unit of the scene's; the stand-in knows no units."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._start_holding()


class qMRMLSegmentsTableView(MrmlHolder, QtWidgets.QWidget):
    """The segments of a segmentation: shown, colour, opacity and name, as many of them as are switched on."""

    SIGNATURES: ClassVar = {
        **SCENE_SIGNAL,
        "selectionChanged(QItemSelection,QItemSelection)": "selectionChanged",
        "segmentAboutToBeModified(QString)": "segmentAboutToBeModified",
    }
    mrmlSceneChanged = QtCore.Signal(object)
    selectionChanged = QtCore.Signal(object, object)
    segmentAboutToBeModified = QtCore.Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._start_holding()
        self._node: Any = None
        self._ids: list[str] = []
        self._table = QtWidgets.QTableWidget(0, 3, self)
        self._table.setHorizontalHeaderLabels(["", "", "Name"])
        self._table.verticalHeader().hide()
        self._table.horizontalHeader().hide()
        self._table.horizontalHeader().setStretchLastSection(True)
        self._table.setEditTriggers(READ_ONLY)
        self._table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)
        self._table.selectionModel().selectionChanged.connect(lambda new, old: self.selectionChanged.emit(new, old))
        self._table.cellClicked.connect(self._clicked)

    def segmentationNode(self) -> Any:
        return self._node

    def setSegmentationNode(self, node: Any) -> None:
        self._observers.clear(self._node)
        self._node = node
        if node is not None:
            segmentation = slicer.vtkSegmentation
            for event in (segmentation.SegmentAdded, segmentation.SegmentRemoved, segmentation.SegmentModified):
                self._observers.add(node, event, "_rebuild")
            self._observers.add(node, slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent, "_rebuild")
        self._rebuild()

    def _rebuild(self, _: Any = None) -> None:
        chosen = self.selectedSegmentIDs()
        self._ids = [] if self._node is None else list(self._node.GetSegmentation().GetSegmentIDs())
        self._table.setRowCount(len(self._ids))
        for row, segment_id in enumerate(self._ids):
            segment = self._node.GetSegmentation().GetSegment(segment_id)
            display = self._node.GetDisplayNode()
            shown = display is None or display.GetSegmentVisibility(segment_id)
            colour = QtWidgets.QTableWidgetItem()
            colour.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            for column, item in enumerate(
                (
                    QtWidgets.QTableWidgetItem("◉" if shown else "–"),
                    colour,
                    QtWidgets.QTableWidgetItem(segment.GetName()),
                )
            ):
                self._table.setItem(row, column, item)
        self._table.setColumnWidth(0, 28)
        self._table.setColumnWidth(1, 28)
        self.setSelectedSegmentIDs(chosen)

    def _clicked(self, row: int, column: int) -> None:
        display = self._node.GetDisplayNode() if self._node is not None else None
        if column == 0 and display is not None:
            display.SetSegmentVisibility(self._ids[row], not display.GetSegmentVisibility(self._ids[row]))

    def selectedSegmentIDs(self) -> list[str]:
        rows = {index.row() for index in self._table.selectedIndexes()}
        return [segment_id for row, segment_id in enumerate(self._ids) if row in rows]

    def setSelectedSegmentIDs(self, segment_ids: list[str]) -> None:
        self._table.clearSelection()
        mode = QtCore.QItemSelectionModel.SelectionFlag.Select | QtCore.QItemSelectionModel.SelectionFlag.Rows
        for segment_id in segment_ids:
            if segment_id in self._ids:
                index = self._table.model().index(self._ids.index(segment_id), 0)
                self._table.selectionModel().select(index, mode)

    def clearSelection(self) -> None:
        self._table.clearSelection()

    def displayedSegmentIDs(self) -> list[str]:
        return list(self._ids)

    def segmentIDForRow(self, row: int) -> str:
        return self._ids[row] if 0 <= row < len(self._ids) else ""

    def rowForSegmentID(self, segment_id: str) -> int:
        return self._ids.index(segment_id) if segment_id in self._ids else -1

    def tableWidget(self) -> QtWidgets.QTableView:
        return self._table

    def _set_mode(self, mode: int) -> None:
        self._table.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode(mode))

    def _set_column(self, column: int, shown: bool) -> None:
        self._table.setColumnHidden(column, not shown)

    def setSelectionMode(self, mode: Any) -> None:
        self._table.setSelectionMode(mode)

    def setVisibilityColumnVisible(self, shown: bool) -> None:
        self._set_column(0, shown)

    def setColorColumnVisible(self, shown: bool) -> None:
        self._set_column(1, shown)

    def setHeaderVisible(self, shown: bool) -> None:
        self._table.horizontalHeader().setVisible(shown)

    def setReadOnly(self, read_only: bool) -> None:
        self.setProperty("readOnly", read_only)

    def _column_shown(self, column: int) -> bool:
        return not self._table.isColumnHidden(column)

    segmentCount = QtCore.Property(int, lambda self: len(self._ids))
    selectionMode = QtCore.Property(int, lambda self: int(self._table.selectionMode().value), _set_mode)
    visibilityColumnVisible = QtCore.Property(bool, lambda self: self._column_shown(0), setVisibilityColumnVisible)
    colorColumnVisible = QtCore.Property(bool, lambda self: self._column_shown(1), setColorColumnVisible)
    headerVisible = QtCore.Property(bool, lambda self: not self._table.horizontalHeader().isHidden(), setHeaderVisible)


class qMRMLSegmentSelectorWidget(MrmlHolder, QtWidgets.QWidget):
    """A segmentation, and one of its segments."""

    SIGNATURES: ClassVar = {
        **SCENE_SIGNAL,
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentSegmentChanged(QString)": "currentSegmentChanged",
        "segmentSelectionChanged(QStringList)": "segmentSelectionChanged",
        "nodeAboutToBeEdited(vtkMRMLNode*)": "nodeAboutToBeEdited",
    }
    mrmlSceneChanged = QtCore.Signal(object)
    currentNodeChanged = QtCore.Signal(object)
    currentSegmentChanged = QtCore.Signal(str)
    segmentSelectionChanged = QtCore.Signal(list)
    nodeAboutToBeEdited = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._start_holding()
        self._nodes, self._segments = qMRMLNodeComboBox(self), QtWidgets.QComboBox(self)
        self._nodes._set_types(["vtkMRMLSegmentationNode"])
        for name in ("add", "remove"):
            self._nodes._set_flag(name, False)
        self._none = False
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._nodes)
        layout.addWidget(self._segments)
        self._nodes.hide()
        self._nodes.currentNodeChanged.connect(self._node_changed)
        self._segments.currentIndexChanged.connect(lambda _: self._tell())

    def _scene_was_set(self) -> None:
        self._nodes.setMRMLScene(self._scene)

    def _node_changed(self, node: Any) -> None:
        self._observers.clear()
        if node is not None:
            for event in (slicer.vtkSegmentation.SegmentAdded, slicer.vtkSegmentation.SegmentRemoved,
                          slicer.vtkSegmentation.SegmentModified):  # fmt: skip
                self._observers.add(node, event, "_rebuild")
        self._rebuild()
        self.currentNodeChanged.emit(node)

    def _rebuild(self, _: Any = None) -> None:
        before, node = self.currentSegmentID(), self._nodes.currentNode()
        self._segments.blockSignals(True)
        self._segments.clear()
        if self._none:
            self._segments.addItem("None", "")
        for segment_id in [] if node is None else node.GetSegmentation().GetSegmentIDs():
            self._segments.addItem(node.GetSegmentation().GetSegment(segment_id).GetName(), segment_id)
        self._segments.setCurrentIndex(max(0, self._segments.findData(before)) if self._segments.count() else -1)
        self._segments.blockSignals(False)
        if self.currentSegmentID() != before:
            self._tell()

    def _tell(self) -> None:
        self.currentSegmentChanged.emit(self.currentSegmentID())

    def currentNode(self) -> Any:
        return self._nodes.currentNode()

    def currentNodeID(self) -> str:
        return self._nodes.property("currentNodeID")

    def setCurrentNode(self, node: Any) -> None:
        self._nodes.setCurrentNode(node)

    def setCurrentNodeID(self, node_id: str) -> None:
        self._nodes.setCurrentNodeID(node_id)

    def currentSegmentID(self) -> str:
        return self._segments.currentData() or ""

    def setCurrentSegmentID(self, segment_id: str) -> None:
        self._segments.setCurrentIndex(self._segments.findData(segment_id))

    def segmentIDs(self) -> list[str]:
        return [self._segments.itemData(row) for row in range(self._segments.count()) if self._segments.itemData(row)]

    def _set_none(self, none: bool) -> None:
        self._none = none
        self._rebuild()

    noneEnabled = QtCore.Property(bool, lambda self: self._none, _set_none)
    segmentationNodeSelectorVisible = QtCore.Property(
        bool, lambda self: not self._nodes.isHidden(), lambda self, shown: self._nodes.setVisible(shown)
    )


class qMRMLTableView(MrmlHolder, QtWidgets.QTableView):
    """The cells of a table node, to read."""

    SIGNATURES: ClassVar = {**SCENE_SIGNAL, "selectionChanged()": "_cells_chosen"}
    mrmlSceneChanged = QtCore.Signal(object)
    _cells_chosen = QtCore.Signal()

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._start_holding()
        self._node: Any = None
        self.setModel(QtGui.QStandardItemModel(self))
        self.selectionModel().selectionChanged.connect(lambda *_: self._cells_chosen.emit())

    def mrmlTableNode(self) -> Any:
        return self._node

    def setMRMLTableNode(self, node: Any) -> None:
        self._observers.clear(self._node)
        self._node = node
        if node is not None:
            self._observers.add(node, vtk.vtkCommand.ModifiedEvent, "_rebuild")
        self._rebuild()

    def tableModel(self) -> QtCore.QAbstractItemModel:
        return self.model()

    def _rebuild(self, _: Any = None) -> None:
        model, node = self.model(), self._node
        model.clear()
        if node is None or node.GetTable() is None:
            return
        columns = [node.GetColumnName(index) for index in range(node.GetNumberOfColumns())]
        cells = [[node.GetCellText(row, column) for column in range(len(columns))]
                 for row in range(node.GetNumberOfRows())]  # fmt: skip
        if node.GetUseColumnTitleAsColumnHeader():
            model.setHorizontalHeaderLabels(columns)
        for row in [columns, *cells] if not node.GetUseColumnTitleAsColumnHeader() else cells:
            items = [QtGui.QStandardItem(text) for text in row]
            for item in items:
                item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
            model.appendRow(items)


class qMRMLPlotWidget(MrmlHolder, QtWidgets.QWidget):
    """A plot view; nothing is drawn in it."""

    SIGNATURES: ClassVar = SCENE_SIGNAL
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._start_holding()
        self._view_node: Any = None
        self.setMinimumSize(200, 120)

    def mrmlPlotViewNode(self) -> Any:
        return self._view_node

    def setMRMLPlotViewNode(self, node: Any) -> None:
        self._view_node = node
