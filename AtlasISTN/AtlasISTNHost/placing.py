"""Slicer's place mode: whom the next click in a view gives a point."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def undisturbed(scene: Any) -> Iterator[None]:
    """Markups nodes that are added within the block do not become those that the user places points of."""
    selection, _interaction = _singletons(scene)
    before = None if selection is None else _chosen(selection)
    try:
        yield
    finally:
        if before is not None:
            _choose(scene, selection, before)


class Placing:
    """Slicer's place mode for one point of a node; afterwards, whatever was chosen for placing before is so again."""

    def __init__(self, node: Any) -> None:
        self._scene = node.GetScene()
        selection, interaction = _singletons(self._scene)
        self._before = _chosen(selection)
        self._node_id = node.GetID()
        selection.SetReferenceActivePlaceNodeClassName(node.GetClassName())
        selection.SetActivePlaceNodeID(self._node_id)
        interaction.SwitchToSinglePlaceMode()

    @property
    def interaction_node(self) -> Any:
        """Tells of the end of placing by InteractionModeChangedEvent."""
        return _singletons(self._scene)[1]

    @property
    def selection_node(self) -> Any:
        """Tells by ActivePlaceNodeIDChangedEvent that placing is about another node now."""
        return _singletons(self._scene)[0]

    @property
    def going_on(self) -> bool:
        """Whether the next click in a view places a point of the node."""
        selection, interaction = _singletons(self._scene)
        if selection is None or interaction is None:
            return False
        placing = interaction.GetCurrentInteractionMode() == interaction.Place
        return bool(placing and selection.GetActivePlaceNodeID() == self._node_id)

    def stop(self) -> None:
        """Stop placing, if it still goes on; also without the node, for which the next click would make another one."""
        interaction = self.interaction_node
        if self.going_on or (self._orphaned and interaction.GetCurrentInteractionMode() == interaction.Place):
            interaction.SwitchToViewTransformMode()

    def give_back(self) -> None:
        """Let the next placing be about what it was about before, unless something else was chosen since."""
        selection, _interaction = _singletons(self._scene)
        if selection is None or self.going_on:
            return
        if self._orphaned or selection.GetActivePlaceNodeID() == self._node_id:
            _choose(self._scene, selection, self._before)

    @property
    def _orphaned(self) -> bool:
        """Whether the node has left the scene, and nothing else was chosen since."""
        selection, interaction = _singletons(self._scene)
        if selection is None or interaction is None or self._scene.GetNodeByID(self._node_id) is not None:
            return False
        return (selection.GetActivePlaceNodeID() or self._node_id) == self._node_id


def _chosen(selection: Any) -> tuple[str | None, str | None]:
    return selection.GetActivePlaceNodeClassName(), selection.GetActivePlaceNodeID()


def _choose(scene: Any, selection: Any, chosen: tuple[str | None, str | None]) -> None:
    class_name, node_id = chosen
    known = node_id is not None and scene.GetNodeByID(node_id) is not None
    if _chosen(selection) != (class_name, node_id if known else None):
        selection.SetReferenceActivePlaceNodeClassName(class_name)
        selection.SetActivePlaceNodeID(node_id if known else None)


def _singletons(scene: Any) -> tuple[Any, Any]:
    names = ("vtkMRMLSelectionNodeSingleton", "vtkMRMLInteractionNodeSingleton")
    return scene.GetNodeByID(names[0]), scene.GetNodeByID(names[1])


__all__ = ["Placing", "undisturbed"]
