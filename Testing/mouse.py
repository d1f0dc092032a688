"""A user's mouse over the markups of a view: moves, clicks and drags go the way that Slicer's own do."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk


class Mouse:
    """Over one view of `standin.views`.

    Args:
        view: a SliceView or a ThreeDView.
    """

    def __init__(self, view: Any) -> None:
        self.view = view
        view.window.Render()
        self._manager = view.group.GetDisplayableManagerByClassName("vtkMRMLMarkupsDisplayableManager")

    def move(self, place: Any) -> None:
        """To a place in world RAS mm."""
        self._tell(vtk.vtkCommand.MouseMoveEvent, place)

    def click(self, place: Any, button: str = "Left") -> None:
        """Press and release there."""
        self.move(place)
        self._tell(getattr(vtk.vtkCommand, f"{button}ButtonPressEvent"), place)
        self._tell(getattr(vtk.vtkCommand, f"{button}ButtonReleaseEvent"), place)

    def press(self, place: Any) -> None:
        """Press the left button and hold it."""
        self.move(place)
        self._tell(vtk.vtkCommand.LeftButtonPressEvent, place)

    def release(self, place: Any) -> None:
        """Let the left button go."""
        self._tell(vtk.vtkCommand.LeftButtonReleaseEvent, place)

    def drag(self, start: Any, end: Any) -> None:
        """From a place to another."""
        self.press(start)
        for share in (0.5, 1.0):
            self.move(np.array(start) + share * (np.array(end) - np.array(start)))
        self.release(end)

    def key(self, letter: str, place: Any) -> None:
        """Press a key with the mouse there."""
        self.move(place)
        self._tell(vtk.vtkCommand.KeyPressEvent, place, letter)

    def _tell(self, event: int, place: Any, letter: str = "") -> None:
        data = slicer.vtkMRMLInteractionEventData()
        data.SetType(event)
        if letter:
            data.SetKeyCode(letter)
            data.SetKeySym(letter)
            data.SetKeyRepeatCount(chr(1))
        data.SetDisplayPosition(self._pixel(place))
        data.SetMouseMovedSinceButtonDown(True)
        if self._manager.CanProcessInteractionEvent(data, vtk.reference(0.0)):
            self._manager.ProcessInteractionEvent(data)

    def _pixel(self, place: Any) -> list[int]:
        if self.view.node.IsA("vtkMRMLSliceNode"):
            to_world = slicer.util.arrayFromVTKMatrix(self.view.node.GetXYToRAS())
            found = np.linalg.solve(to_world, [*np.asarray(place, float), 1.0])
        else:
            self.view.renderer.SetWorldPoint(*place, 1.0)
            self.view.renderer.WorldToDisplay()
            found = self.view.renderer.GetDisplayPoint()
        return [round(float(found[0])), round(float(found[1]))]
