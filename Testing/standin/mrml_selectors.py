"""Stand-ins for Slicer's lists of nodes: qMRMLNodeComboBox and qMRMLCheckableNodeComboBox."""

from __future__ import annotations

from typing import Any, ClassVar

import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Qt

from . import dialogs
from .mrml_base import MrmlHolder

SIGNATURES = {
    "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
    "currentNodeIDChanged(QString)": "currentNodeIDChanged",
    "nodeActivated(vtkMRMLNode*)": "nodeActivated",
    "currentNodeChanged(bool)": "_currentNodeValid",
    "nodeAdded(vtkMRMLNode*)": "nodeAdded",
    "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
    "nodeAddedByUserAction(vtkMRMLNode*)": "nodeAddedByUserAction",
    "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved",
    "currentNodeRenamed(QString)": "currentNodeRenamed",
    "nodeAboutToBeEdited(vtkMRMLNode*)": "nodeAboutToBeEdited",
    "checkedNodesChanged()": "checkedNodesChanged",
}
ID, ACTION = Qt.ItemDataRole.UserRole, Qt.ItemDataRole.UserRole + 1


class qMRMLNodeComboBox(MrmlHolder, QtWidgets.QWidget):
    """A list of the scene's nodes of some classes, with "None" before them and things to do after them."""

    SIGNATURES: ClassVar = {signature: name for signature, name in SIGNATURES.items() if name != "checkedNodesChanged"}
    currentNodeChanged = QtCore.Signal(object)
    currentNodeIDChanged = QtCore.Signal(str)
    _currentNodeValid = QtCore.Signal(bool)
    nodeActivated = QtCore.Signal(object)
    nodeAdded = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)
    nodeAddedByUserAction = QtCore.Signal(object)
    nodeAboutToBeRemoved = QtCore.Signal(object)
    nodeAboutToBeEdited = QtCore.Signal(object)
    currentNodeRenamed = QtCore.Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._start_holding()
        self._flags = {"none": False, "add": True, "remove": True, "rename": False, "edit": False,
                       "hidden": False, "children": True}  # fmt: skip
        self._types: list[str] = []
        self._none_text, self._wanted_id, self._told_id = "None", "", ""
        self._filters: dict[str, dict[str, Any]] = {}
        self._menu_actions: list[Any] = []
        self._type_labels: dict[str, str] = {}
        self._combo = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._combo.setMinimumContentsLength(6)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Fixed)
        self._combo.currentIndexChanged.connect(self._index_changed)
        self._combo.activated.connect(self._activated)
        self._shown_id = ""  # what was chosen before an action was
        self.setEnabled(False)

    # ---- scene

    def _scene_was_set(self) -> None:
        events = slicer.vtkMRMLScene
        self.setEnabled(self._scene is not None)
        if self._scene is not None:
            self._observers.add(self._scene, events.NodeAddedEvent, "_node_added")
            self._observers.add(self._scene, events.NodeAboutToBeRemovedEvent, "_node_leaves")
            for event in (events.NodeRemovedEvent, events.EndBatchProcessEvent, events.EndCloseEvent):
                self._observers.add(self._scene, event, "_rebuild")
        wanted, self._wanted_id = self._wanted_id, ""
        self._rebuild()
        if wanted:
            self.setCurrentNodeID(wanted)

    def _node_added(self, node: Any) -> None:
        if self._offers(node):
            self._rebuild()
            self.nodeAdded.emit(node)

    def _node_leaves(self, node: Any) -> None:
        if node is not None and self._combo.findData(node.GetID(), ID) >= 0:
            self.nodeAboutToBeRemoved.emit(node)
            self._observers.clear(node)

    def _offers(self, node: Any) -> bool:
        if node is None or (node.GetHideFromEditors() and not self._flags["hidden"]):
            return False
        hidden = self.property("hideChildNodeTypes") or []
        if any(node.IsA(name) for name in hidden):
            return False
        for name in self._types:
            if node.GetClassName() == name or (self._flags["children"] and node.IsA(name)):
                attributes = self._filters.get(name, {})
                return all(_has_attribute(node, key, value) for key, value in attributes.items())
        return False

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        nodes = [self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes())]
        return [node for node in nodes if self._offers(node)]

    # ---- the list

    def _rebuild(self, _: Any = None) -> None:
        """The list anew; the same node stays chosen where it can."""
        if self._scene is not None and self._scene.IsBatchProcessing():
            return
        before_id, before_row = self._id_at(self._combo.currentIndex()), self._combo.currentIndex()
        nodes = self._nodes()
        self._combo.blockSignals(True)
        self._combo.clear()
        if self._flags["none"]:
            self._add_item(self._none_text, "")
        for node in nodes:
            self._add_item(node.GetName(), node.GetID())
            self._observers.clear(node)
            self._observers.add(node, vtk.vtkCommand.ModifiedEvent, "_node_modified")
        self._add_actions()
        self._combo.setCurrentIndex(self._row_after(before_id, before_row, len(nodes)))
        self._combo.blockSignals(False)
        self._tell()

    def _row_after(self, before_id: str, before_row: int, count: int) -> int:
        offset = int(self._flags["none"])
        if before_id:
            row = self._combo.findData(before_id, ID)
            if row >= 0:
                return row
            if count:  # the chosen node left: its neighbour follows
                return min(max(before_row, offset), offset + count - 1)
        if self._flags["none"]:
            return 0
        return 0 if count else -1

    def _add_item(self, text: str, node_id: str) -> None:
        self._combo.addItem(text, node_id)

    def _add_actions(self) -> None:
        if self._scene is None:
            return
        label = self.nodeTypeLabel(self._types[0]) if len(self._types) == 1 else "node"
        actions = [("rename", f"Rename current {label}")] if self._flags["rename"] else []
        actions += [("edit", f"Edit current {label}")] if self._flags["edit"] else []
        if self._flags["add"]:
            for name in self._types:
                actions.append((f"create {name}", f"Create new {self.nodeTypeLabel(name)}"))
                if self._flags["rename"]:
                    actions.append((f"create as {name}", f"Create new {self.nodeTypeLabel(name)} as..."))
        actions += [("remove", f"Delete current {label}")] if self._flags["remove"] else []
        actions += [(f"user {index}", action.text()) for index, action in enumerate(self._menu_actions)]
        if actions:
            self._combo.insertSeparator(self._combo.count())
        for action, text in actions:
            self._combo.addItem(text)
            self._combo.setItemData(self._combo.count() - 1, action, ACTION)

    def _id_at(self, row: int) -> str:
        return (self._combo.itemData(row, ID) or "") if row >= 0 else ""

    def _index_changed(self, row: int) -> None:
        if self._combo.itemData(row, ACTION) is None:
            self._shown_id = self._id_at(row)
            self._tell()

    def _tell(self) -> None:
        node_id = self._id_at(self._combo.currentIndex())
        self._shown_id = node_id
        if node_id != self._told_id:
            self._told_id = node_id
            node = self.currentNode()
            self.currentNodeChanged.emit(node)
            self._currentNodeValid.emit(node is not None)
            self.currentNodeIDChanged.emit(node_id)

    def _node_modified(self, _: Any) -> None:
        for row in range(self._combo.count()):
            node = self._scene.GetNodeByID(self._id_at(row)) if self._id_at(row) else None
            if node is not None and node.GetName() != self._combo.itemText(row):
                self._combo.setItemText(row, node.GetName())

    def _activated(self, row: int) -> None:
        action = self._combo.itemData(row, ACTION)
        if action is None:
            self.nodeActivated.emit(self.currentNode())
            return
        self._combo.blockSignals(True)  # an action is not a choice
        found = self._combo.findData(self._shown_id, ID) if self._shown_id or self._flags["none"] else -1
        self._combo.setCurrentIndex(found)
        self._combo.blockSignals(False)
        self._do(action)

    def _do(self, action: str) -> None:
        if action == "rename":
            self.renameCurrentNode()
        elif action == "edit":
            self.editCurrentNode()
        elif action == "remove":
            self.removeCurrentNode()
        elif action.startswith("user "):
            self._menu_actions[int(action.split()[1])].trigger()
        elif action.startswith("create as "):
            self._create_as(action.removeprefix("create as "))
        else:
            self._created_by_user(self.addNode(action.removeprefix("create ")))

    def _created_by_user(self, node: Any) -> None:
        if node is not None:
            self.setCurrentNode(node)
            self.nodeAddedByUserAction.emit(node)

    def _create_as(self, class_name: str) -> None:
        label = self.nodeTypeLabel(class_name)
        name = dialogs.native_text(self, f"Create new {label}", "New name:", "")
        if name:
            node = self.addNode(class_name)
            node.SetName(name)
            self._created_by_user(node)

    # ---- what Slicer's has

    def currentNode(self) -> Any:
        node_id = self._id_at(self._combo.currentIndex())
        return self._scene.GetNodeByID(node_id) if self._scene is not None and node_id else None

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID("" if node is None else node.GetID() or "")

    def setCurrentNodeID(self, node_id: str | None) -> None:
        if self._scene is None:
            self._wanted_id = node_id or ""
            return
        row = self._combo.findData(node_id, ID) if node_id else -1
        self._combo.setCurrentIndex(row if row >= 0 else (0 if self._flags["none"] else -1))

    def setCurrentNodeIndex(self, index: int) -> None:
        index = -1 if index >= self.nodeCount() else index
        self._combo.setCurrentIndex(index + int(self._flags["none"]))

    def nodeCount(self) -> int:
        return sum(1 for row in range(self._combo.count()) if self._id_at(row))

    def nodeFromIndex(self, index: int) -> Any:
        node_id = self._id_at(index + int(self._flags["none"]))
        return self._scene.GetNodeByID(node_id) if node_id else None

    def addNode(self, class_name: str = "") -> Any:
        class_name = class_name or (self._types[0] if self._types else "")
        if class_name not in self._types:
            return None
        node = self._scene.AddNewNodeByClass(class_name, self.property("baseName") or "")
        for key, value in self._filters.get(class_name, {}).items():
            node.SetAttribute(key, value if isinstance(value, str) else "1")
        if self.property("selectNodeUponCreation"):
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        if self.currentNode() is not None:
            self._scene.RemoveNode(self.currentNode())

    def renameCurrentNode(self) -> None:
        node = self.currentNode()
        if node is not None:
            title = f"Rename {self.nodeTypeLabel(node.GetClassName())}"
            name = dialogs.native_text(self, title, "New name:", node.GetName())
            if name:
                node.SetName(name)
                self.currentNodeRenamed.emit(name)

    def editCurrentNode(self) -> None:
        self.nodeAboutToBeEdited.emit(self.currentNode())

    def addAttribute(self, class_name: str, key: str, value: Any = None) -> None:
        self._filters.setdefault(class_name, {})[key] = value
        self._rebuild()

    def removeAttribute(self, class_name: str, key: str) -> None:
        self._filters.get(class_name, {}).pop(key, None)
        self._rebuild()

    def addMenuAction(self, action: Any) -> None:
        self._menu_actions.append(action)
        self._rebuild()

    def nodeTypeLabel(self, class_name: str) -> str:
        if class_name in self._type_labels:
            return self._type_labels[class_name]
        node = self._scene.CreateNodeByClass(class_name) if self._scene is not None and class_name else None
        if node is None:
            return "node"
        node.UnRegister(None)
        return node.GetNodeTagName()

    def setNodeTypeLabel(self, label: str, class_name: str) -> None:
        self._type_labels[class_name] = label
        self._rebuild()

    def _set_flag(self, name: str, value: Any) -> None:
        self._flags[name] = bool(value)
        self._rebuild()

    def _set_types(self, names: list[str]) -> None:
        self._types = [name for name in names if name]
        self._rebuild()

    def _set_none_text(self, text: str) -> None:
        self._none_text = text
        self._rebuild()

    nodeTypes = QtCore.Property("QStringList", lambda self: self._types, _set_types)
    noneDisplay = QtCore.Property(str, lambda self: self._none_text, _set_none_text)
    currentNodeID = QtCore.Property(str, lambda self: self._id_at(self._combo.currentIndex()), setCurrentNodeID)
    currentNodeId = currentNodeID
    noneEnabled = QtCore.Property(bool, lambda s: s._flags["none"], lambda s, v: s._set_flag("none", v))
    addEnabled = QtCore.Property(bool, lambda s: s._flags["add"], lambda s, v: s._set_flag("add", v))
    removeEnabled = QtCore.Property(bool, lambda s: s._flags["remove"], lambda s, v: s._set_flag("remove", v))
    renameEnabled = QtCore.Property(bool, lambda s: s._flags["rename"], lambda s, v: s._set_flag("rename", v))
    editEnabled = QtCore.Property(bool, lambda s: s._flags["edit"], lambda s, v: s._set_flag("edit", v))
    showHidden = QtCore.Property(bool, lambda s: s._flags["hidden"], lambda s, v: s._set_flag("hidden", v))
    showChildNodeTypes = QtCore.Property(bool, lambda s: s._flags["children"], lambda s, v: s._set_flag("children", v))


def _has_attribute(node: Any, key: str, value: Any) -> bool:
    found = node.GetAttribute(key)
    return found is not None and (value is None or found == str(value))


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """A list of nodes each with a mark."""

    SIGNATURES: ClassVar = SIGNATURES
    checkedNodesChanged = QtCore.Signal()

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._checked: set[str] = set()
        self._flags |= {"add": False, "remove": False}
        self._combo.model().dataChanged.connect(self._marks_changed)

    def _add_item(self, text: str, node_id: str) -> None:
        super()._add_item(text, node_id)
        item = self._combo.model().item(self._combo.count() - 1)
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(Qt.CheckState.Checked if node_id in self._checked else Qt.CheckState.Unchecked)

    def _marks_changed(self, *_: Any) -> None:
        model = self._combo.model()
        rows = [row for row in range(model.rowCount()) if self._id_at(row)]
        checked = {self._id_at(row) for row in rows if model.item(row).checkState() == Qt.CheckState.Checked}
        if not self._combo.signalsBlocked() and checked != self._checked:
            self._checked = checked
            self.checkedNodesChanged.emit()

    def checkState(self, node: Any) -> Qt.CheckState:
        return Qt.CheckState.Checked if node.GetID() in self._checked else Qt.CheckState.Unchecked

    def setCheckState(self, node: Any, state: Any) -> None:
        row = self._combo.findData(node.GetID(), ID)
        if row >= 0:
            self._combo.model().item(row).setCheckState(Qt.CheckState(state))

    def check(self, node: Any) -> None:
        self.setCheckState(node, Qt.CheckState.Checked)

    def uncheck(self, node: Any) -> None:
        self.setCheckState(node, Qt.CheckState.Unchecked)

    def checkedNodes(self) -> list[Any]:
        return [node for node in self._nodes() if node.GetID() in self._checked]

    def uncheckedNodes(self) -> list[Any]:
        return [node for node in self._nodes() if node.GetID() not in self._checked]

    def allChecked(self) -> bool:
        return not self.uncheckedNodes()

    def noneChecked(self) -> bool:
        return not self.checkedNodes()
