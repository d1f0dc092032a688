"""What all stand-ins for Slicer's own widgets share: a scene, and observers that end with the widget."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import shiboken6
import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from .stored import Recorded

SCENE_SIGNAL = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}


class Observers:
    """Observers of VTK objects that call a method of a widget while it lives."""

    def __init__(self, widget: QtWidgets.QWidget) -> None:
        self._widget = weakref.ref(widget)
        self._tags: list[tuple[Any, int]] = []

    def add(self, observed: Any, event: Any, method: str) -> None:
        """Call widget.method(call data: the node, where the event has one) on each event."""
        reference = self._widget

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def with_node(caller: Any, name: str, node: Any) -> None:
            widget = reference()
            if widget is not None and shiboken6.isValid(widget):
                getattr(widget, method)(node)

        def without_node(caller: Any, name: str) -> None:
            widget = reference()
            if widget is not None and shiboken6.isValid(widget):
                getattr(widget, method)(None)

        scene = slicer.vtkMRMLScene
        has_node = event in (scene.NodeAddedEvent, scene.NodeAboutToBeRemovedEvent, scene.NodeRemovedEvent)
        self._tags.append((observed, observed.AddObserver(event, with_node if has_node else without_node)))

    def clear(self, observed: Any = None) -> None:
        """End the observers of one object, or all."""
        for held, tag in self._tags:
            if observed is None or held is observed:
                held.RemoveObserver(tag)
        self._tags = [(held, tag) for held, tag in self._tags if observed is not None and held is not observed]


class MrmlHolder(Recorded):
    """Mix-in: mrmlScene() and setMRMLScene()."""

    HOME = "slicer"

    def _start_holding(self) -> None:
        self._scene: Any = None
        self._observers = Observers(self)

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        self._observers.clear(self._scene)
        self._scene = scene
        self._scene_was_set()
        if hasattr(self, "mrmlSceneChanged"):
            self.mrmlSceneChanged.emit(scene)

    def _scene_was_set(self) -> None:
        """For classes that look at the scene."""


class qMRMLWidget(MrmlHolder, QtWidgets.QWidget):
    """A widget with a scene, which it hands on to the widgets connected to its signal."""

    SIGNATURES: ClassVar = SCENE_SIGNAL
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._start_holding()


class qSlicerWidget(qMRMLWidget):
    """The base of Slicer's own panels."""
