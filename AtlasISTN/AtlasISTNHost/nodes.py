"""Nodes: which nodes of a scene are ours, what each is for, and where they lie. No other node is ever changed.

A node of ours says what it is for in two attributes, of which input by a reference, and that it is itself by another
one: a copy that the user made of it has the attributes too, but not that reference, and is the user's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import slicer
from slicer.i18n import tr as _

SEGMENTATION = "segmentation"
PREDICTION = "prediction"
ONE_PASS = "one-pass"
ATLAS_IMAGE = "atlas-image"
IMAGE_FROM_ATLAS = "image-from-atlas"
ATLAS_FROM_IMAGE = "atlas-from-image"
JACOBIAN = "jacobian"
TABLE = "table"
SURFACE = "surface"
#: Roles of nodes; a surface's is "surface:<value>", see `surface_role`. Other rooms may have roles of their own.
ROLES = (
    *(SEGMENTATION, PREDICTION, ONE_PASS, ATLAS_IMAGE, IMAGE_FROM_ATLAS, ATLAS_FROM_IMAGE),
    *(SURFACE, JACOBIAN, TABLE),
)

#: Attributes.
ROLE = "AtlasISTN.Role"
MODEL = "AtlasISTN.Model"
#: References.
INPUT = "AtlasISTN.Input"
_SELF = "AtlasISTN.Self"
#: Attribute of our folders in the subject hierarchy: the model's name.
_FOLDER = "AtlasISTN.Folder"


class Changes:
    """What a block has done to a scene, so that it can be undone. See `all_or_nothing`."""

    def __init__(self, scene: Any) -> None:
        self.scene = scene
        self._before = {node.GetID() for node in all_nodes(scene)}
        self._undo: list[Callable[[], object]] = []

    def undo_with(self, action: Callable[[], object]) -> None:
        """Call `action` if the block fails; the last one first."""
        self._undo.append(action)

    def undo(self) -> None:
        """Bring the scene back to how it was."""
        for node in all_nodes(self.scene):
            if node.GetID() not in self._before and self.scene.IsNodePresent(node):
                self.scene.RemoveNode(node)
        for action in reversed(self._undo):
            action()


@contextmanager
def all_or_nothing(scene: Any) -> Iterator[Changes]:
    """If the block fails, nodes that were added in it leave the scene again and what it registered is undone."""
    changes = Changes(scene)
    try:
        yield changes
    except BaseException:
        changes.undo()
        raise


def surface_role(value: int) -> str:
    """The role of the surface of a label."""
    return f"{SURFACE}:{value}"


def all_nodes(scene: Any) -> list[Any]:
    """All nodes of a scene."""
    return list(slicer.util.getNodesByClass("vtkMRMLNode", scene))


def in_scene(node: Any) -> bool:
    """Whether a node is in a scene still."""
    return node is not None and node.GetScene() is not None and bool(node.GetScene().IsNodePresent(node))


def is_ours(node: Any) -> bool:
    """Whether a node was made by us and is not the user's by now."""
    return bool(node.GetAttribute(ROLE)) and node.GetNodeReferenceID(_SELF) == node.GetID()


def of_input(scene: Any, input_node: Any, model: str) -> list[Any]:
    """All nodes of ours for an input and a model (its name)."""
    return [
        node
        for node in all_nodes(scene)
        if node.GetAttribute(MODEL) == model and is_ours(node) and node.GetNodeReferenceID(INPUT) == input_node.GetID()
    ]


def own_transform_above(input_node: Any) -> Any:
    """The transform node of ours, made for an input, under which the input itself lies now; None where it does not."""
    node = input_node.GetParentTransformNode()
    while node is not None:
        if is_ours(node) and node.GetNodeReferenceID(INPUT) == input_node.GetID():
            return node
        node = node.GetParentTransformNode()
    return None


def find(scene: Any, role: str, input_node: Any, model: str) -> Any:
    """Our node of a role for an input and a model (its name); None where there is none."""
    return next((node for node in of_input(scene, input_node, model) if node.GetAttribute(ROLE) == role), None)


def get_or_add(
    scene: Any,
    class_name: str,
    role: str,
    input_node: Any,
    model: str,
    name: str = "",
    changes: Changes | None = None,
) -> Any:
    """Our node of a role for an input and a model; made now where there is none.

    A node that is there keeps its name, its place in the subject hierarchy and its display. The transform that it lies
    under becomes that of the input, save for nodes that lie under none by their nature.

    Args:
        class_name: of the node, where it is made.
        role: one of `ROLES`, or another text that names one node of the set.
        model: the model's name.
        name: what the node is for, in the user's words; the name becomes "<input> <name>". The role by default.
        changes: where to register how to undo it.
    """
    node = find(scene, role, input_node, model)
    if node is None:
        node = scene.AddNewNodeByClass(class_name, _free_name(scene, input_node, model, name or role))
        node.SetAttribute(ROLE, role)
        node.SetAttribute(MODEL, model)
        node.SetNodeReferenceID(INPUT, input_node.GetID())
        node.SetNodeReferenceID(_SELF, node.GetID())
        _file(scene, node, input_node, model, changes)
    if role != ATLAS_FROM_IMAGE and hasattr(node, "SetAndObserveTransformNodeID"):
        parent = input_node.GetTransformNodeID() if hasattr(input_node, "GetTransformNodeID") else None
        before = node.GetTransformNodeID()
        if before != parent:
            node.SetAndObserveTransformNodeID(parent)
            if changes is not None:
                changes.undo_with(lambda: node.SetAndObserveTransformNodeID(before))
    return node


def leave_to_user(node: Any, name: str, changes: Changes | None = None) -> None:
    """Make a node of ours the user's own, under a new name."""
    attributes = {key: node.GetAttribute(key) for key in node.GetAttributeNames() if key.startswith("AtlasISTN.")}
    input_id, before = node.GetNodeReferenceID(INPUT), node.GetName()

    def again() -> None:
        node.SetName(before)
        for key, value in attributes.items():
            node.SetAttribute(key, value)
        node.SetNodeReferenceID(INPUT, input_id)
        node.SetNodeReferenceID(_SELF, node.GetID())

    if changes is not None:
        changes.undo_with(again)
    with slicer.util.NodeModify(node):
        for key in attributes:
            node.RemoveAttribute(key)
        node.SetNodeReferenceID(INPUT, None)
        node.SetNodeReferenceID(_SELF, None)
        node.SetName(name if not _named(node.GetScene(), name) else node.GetScene().GenerateUniqueName(name))


def remove(node: Any) -> None:
    """Take a node out of its scene, with its display nodes."""
    scene = node.GetScene()
    count = node.GetNumberOfDisplayNodes() if hasattr(node, "GetNumberOfDisplayNodes") else 0  # tables have none
    displays = [node.GetNthDisplayNode(i) for i in range(count)]
    for part in (node, *displays):
        if in_scene(part):
            scene.RemoveNode(part)


def recall(node: Any, attribute: str) -> Any:
    """What we noted in an attribute of a node as JSON; None where it is absent or damaged."""
    try:
        return json.loads(node.GetAttribute(attribute) or "null")
    except json.JSONDecodeError:
        return None


def folder_item(scene: Any, input_node: Any, model: str) -> int:
    """Our folder in the subject hierarchy for an input and a model; 0 where there is none."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is None:
        return 0
    for node in of_input(scene, input_node, model):
        item = hierarchy.GetItemByDataNode(node)
        parent = hierarchy.GetItemParent(item) if item else 0
        if parent and hierarchy.GetItemAttribute(parent, _FOLDER) == model:
            return int(parent)
    return 0


def _file(scene: Any, node: Any, input_node: Any, model: str, changes: Changes | None) -> None:
    """Put a new node into our folder, which is made beside the input where there is none."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is None:
        return
    folder = folder_item(scene, input_node, model)
    if not folder:
        beside = hierarchy.GetItemByDataNode(input_node)
        parent = hierarchy.GetItemParent(beside) if beside else 0
        parent = parent or hierarchy.GetSceneItemID()
        title = _("{name} – Atlas-ISTN").format(name=input_node.GetName())
        if hierarchy.GetItemChildWithName(parent, title):
            title = f"{title} ({model})"
        folder = hierarchy.CreateFolderItem(parent, title)
        hierarchy.SetItemAttribute(folder, _FOLDER, model)
        if changes is not None:
            changes.undo_with(lambda: hierarchy.RemoveItem(folder, False, False))
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, folder)
    else:
        hierarchy.CreateItem(folder, node)


def _free_name(scene: Any, input_node: Any, model: str, what: str) -> str:
    name = f"{input_node.GetName()} {what}"
    if _named(scene, name):
        name = f"{name} ({model})"
    return str(scene.GenerateUniqueName(name)) if _named(scene, name) else name


def _named(scene: Any, name: str) -> bool:
    return scene.GetFirstNodeByName(name) is not None
