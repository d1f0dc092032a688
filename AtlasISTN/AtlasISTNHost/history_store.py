"""The store of the history: hidden text nodes in the scene, one for each entry and one for each packed part.

A part is known by what is in it, so that entries that share something (all refinements of one pass share its label map
and correspondence) keep it once. Texts stand in the scene's own file: no file of theirs can get lost, whichever way
the scene is saved. None of the nodes is to be seen anywhere, and no other node is ever changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import slicer

from . import nodes
from .history_entries import Entry, entry_of_values

#: Attribute of our nodes here, "entry" or "part"; and the key of a part, the values of an entry, the size of a text.
_KIND, _KEY, _VALUES, _BYTES = (f"AtlasISTN.History{name}" for name in ("", "Key", "Values", "Bytes"))
_ENTRY, _PART = "entry", "part"
#: Attribute of an entry: whether its result is the one that is shown.
_CURRENT = "AtlasISTN.HistoryCurrent"
_CLASS = "vtkMRMLTextNode"


class Store:
    """The entries of one input and model in a scene.

    Args:
        input_node: the scan.
        model: the model's name.
    """

    def __init__(self, input_node: Any, model: str) -> None:
        self.input_node, self.model = input_node, model
        self._known: dict[str, tuple[str, Entry | None]] = {}

    @property
    def scene(self) -> Any:
        """Of the input; None once it has left."""
        return self.input_node.GetScene()

    def entries(self) -> list[Entry]:
        """All entries, the first one first; damaged ones are left out."""
        found = [entry for _node, entry in self._read()]
        return sorted(found, key=lambda entry: entry.number)

    def find(self, key: str) -> Entry | None:
        """An entry by its key; None where it is gone."""
        return next((entry for _node, entry in self._read() if entry.key == key), None)

    def write(self, entry: Entry) -> None:
        """Create or update an entry."""
        node = self._node(_ENTRY, entry.key)
        if node is None:
            node = self._add(_ENTRY, entry.key, f"{self.input_node.GetName()} history {entry.number}")
        node.SetAttribute(_VALUES, json.dumps(entry.as_values(), ensure_ascii=False))
        node.SetSaveWithScene(bool(entry.parts))  # one whose parts are not there yet would come back as damaged

    def delete(self, entry: Entry) -> None:
        """Remove an entry, and parts that no other one needs."""
        node = self._node(_ENTRY, entry.key)
        if node is not None:
            self.scene.RemoveNode(node)
        self.drop_unused()

    def drop_unused(self) -> None:
        """Remove parts that no entry needs."""
        needed = {key for entry in self.entries() for key in entry.parts.values()}
        for node in list(self._nodes(_PART)):
            if node.GetAttribute(_KEY) not in needed:
                self.scene.RemoveNode(node)

    def has_part(self, key: str) -> bool:
        """Whether a part is kept."""
        return self._node(_PART, key) is not None

    def put_part(self, key: str, text: str) -> None:
        """Keep a part."""
        node = self._node(_PART, key) or self._add(_PART, key, f"{self.input_node.GetName()} history part")
        # The limit of the length beyond which Slicer makes a file of a text is not for us.
        node.SetForceCreateStorageNode(slicer.vtkMRMLTextNode.CreateStorageNodeNever)
        node.SetText(text)
        node.SetAttribute(_BYTES, str(len(text)))

    def part(self, key: str) -> str:
        """The text of a part; empty where it is gone."""
        node = self._node(_PART, key)
        return "" if node is None else node.GetText() or ""

    def part_bytes(self) -> Mapping[str, int]:
        """Sizes of all parts by their keys."""
        return {node.GetAttribute(_KEY): int(node.GetAttribute(_BYTES) or 0) for node in self._nodes(_PART)}

    @property
    def current(self) -> str:
        """Key of the entry whose result is shown; empty where none is."""
        found = (node.GetAttribute(_KEY) for node in self._nodes(_ENTRY) if node.GetAttribute(_CURRENT) == "1")
        return next(found, "")

    @current.setter
    def current(self, key: str) -> None:
        for node in self._nodes(_ENTRY):
            node.SetAttribute(_CURRENT, "1" if node.GetAttribute(_KEY) == key else None)

    def _read(self) -> Iterator[tuple[Any, Entry]]:
        for node in self._nodes(_ENTRY):
            name, text = node.GetID(), node.GetAttribute(_VALUES) or ""
            if self._known.get(name, ("", None))[0] != text:  # asked for far more often than it changes
                self._known[name] = (text, entry_of_values(nodes.recall(node, _VALUES)))
            entry = self._known[name][1]
            if entry is not None:
                yield node, entry

    def _nodes(self, kind: str) -> Iterator[Any]:
        if self.scene is None:
            return
        for node in slicer.util.getNodesByClass(_CLASS, self.scene):
            if (
                node.GetAttribute(_KIND) == kind
                and node.GetAttribute(nodes.MODEL) == self.model
                and node.GetNodeReferenceID(nodes.INPUT) == self.input_node.GetID()
            ):
                yield node

    def _node(self, kind: str, key: str) -> Any:
        return next((node for node in self._nodes(kind) if node.GetAttribute(_KEY) == key), None)

    def _add(self, kind: str, key: str, name: str) -> Any:
        node = self.scene.CreateNodeByClass(_CLASS)
        node.UnRegister(None)
        node.SetName(name)
        node.SetHideFromEditors(True)  # before it is in the scene, or it would get an item in the subject hierarchy
        node.SetUndoEnabled(False)
        node.SetAttribute(_KIND, kind)
        node.SetAttribute(_KEY, key)
        node.SetAttribute(nodes.MODEL, self.model)
        node = self.scene.AddNode(node)
        node.SetNodeReferenceID(nodes.INPUT, self.input_node.GetID())
        return node


def drop_orphans(scene: Any) -> None:
    """Remove entries and parts of scans that have left the scene: nothing could bring them back."""
    for node in list(slicer.util.getNodesByClass(_CLASS, scene)):
        if node.GetAttribute(_KIND) and node.GetNodeReference(nodes.INPUT) is None:
            scene.RemoveNode(node)


def tidy(scene: Any) -> None:
    """Bring texts that Slicer read from files back into the scene, after it was loaded, whatever scan they belong to.

    Slicer does not save that a text is to stand in the scene. When a scene is saved without its data, files of hidden
    nodes may not be written.
    """
    for node in list(slicer.util.getNodesByClass(_CLASS, scene)):
        if node.GetAttribute(_KIND) == _PART:
            storage = node.GetStorageNode()
            node.SetForceCreateStorageNode(slicer.vtkMRMLTextNode.CreateStorageNodeNever)
            if storage is not None:
                node.SetAndObserveStorageNodeID(None)
                scene.RemoveNode(storage)


__all__ = ["Store", "drop_orphans", "tidy"]
