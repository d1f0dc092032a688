"""Slice and 3D views as pictures: MRML's own displayable managers over an offscreen window, without Qt or a screen.

A view shows what a view of Slicer with the same nodes would show. Rendering needs EGL or another offscreen OpenGL (on a
machine without a graphics card, Mesa's software renderer; Testing/system_libraries.py knows the packages).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")  # read when the first window is made

SLICE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
THREED_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLTransformsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLVolumeRenderingDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
LETTERS = {"Red": "R", "Green": "G", "Yellow": "Y"}
COLORS = {"Red": (243, 74, 51), "Green": (110, 176, 75), "Yellow": (237, 213, 76), "1": (105, 108, 180)}
BORDER = 2
FOUR_UP = (("Red", "1"), ("Green", "Yellow"))
LAYOUTS = {
    "four-up": FOUR_UP,
    "slices": (("Red", "Green", "Yellow"),),
    "red": (("Red",),),
    "3d": (("1",),),
}
# From the patient's front, a little from the left and from above: left, posterior, superior parts of the direction.
SEEN_FROM = (-0.25, 1.0, 0.25)


@functools.cache
def _load_opengl() -> None:
    """VTK's factories: without these modules there are no render windows, texts or volume mappers."""
    import vtkmodules.vtkRenderingContextOpenGL2
    import vtkmodules.vtkRenderingFreeType
    import vtkmodules.vtkRenderingOpenGL2
    import vtkmodules.vtkRenderingVolumeOpenGL2  # noqa: F401


class View:
    """A render window with the displayable managers of a kind of view.

    Parameters
    ----------
    core: the scene and its logics
    node: the slice or view node that is shown
    size: pixels, width and height
    """

    factory: str
    managers: Sequence[str]

    def __init__(self, core: Any, node: Any, size: tuple[int, int]) -> None:
        _load_opengl()
        self.core, self.node = core, node
        self.renderer = vtk.vtkRenderer()
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.ShowWindowOff()
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.Initialize()
        factory = getattr(slicer, self.factory).GetInstance()
        factory.SetMRMLApplicationLogic(core.application_logic)
        for manager in self.managers:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.SetRenderer(self.renderer)
        self.group.Initialize(factory, self.renderer)
        self.group.SetMRMLDisplayableNode(node)
        core.views.append(self)

    def resize(self, size: tuple[int, int]) -> None:
        """Pixels, width and height."""
        self.window.SetSize(*size)

    def pixels(self) -> np.ndarray:
        """The view as it is now: (height, width, 3) uint8, the first row on top."""
        self.window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self.window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        image = grabber.GetOutput()
        width, height = image.GetDimensions()[:2]
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()

    def png(self, path: str | Path) -> None:
        """Write the view to a file."""
        write_png(self.pixels(), path)


class SliceView(View):
    """What a slice widget of Slicer shows: background, foreground and label layers, segmentations, markups, …"""

    factory = "vtkMRMLSliceViewDisplayableManagerFactory"
    managers = SLICE_MANAGERS

    def __init__(self, core: Any, logic: Any, size: tuple[int, int] = (400, 400)) -> None:
        self.logic = logic
        super().__init__(core, logic.GetSliceNode(), size)
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        self.mapper = vtk.vtkImageMapper()
        self.mapper.SetColorWindow(255)
        self.mapper.SetColorLevel(127.5)
        self.actor = vtk.vtkActor2D()
        self.actor.SetMapper(self.mapper)
        self.actor.GetProperty().SetDisplayLocationToBackground()
        self.resize(size)

    def resize(self, size: tuple[int, int]) -> None:
        super().resize(size)
        self.logic.ResizeSliceNode(*size)

    def show(self, volume: Any) -> None:
        """A volume in the background, the whole slice in view."""
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
        self.logic.FitSliceToBackground()
        self.logic.SnapSliceOffsetToIJK()

    def set_offset(self, mm: float) -> None:
        """Move to a slice, in mm along the view's normal."""
        self.logic.SetSliceOffset(mm)

    def pixels(self) -> np.ndarray:
        layers = self.logic.GetImageDataConnection()
        if layers is None:
            self.renderer.RemoveViewProp(self.actor)
        else:
            self.mapper.SetInputConnection(layers)
            self.renderer.AddViewProp(self.actor)
        return super().pixels()


class ThreeDView(View):
    """What a 3D widget of Slicer shows; the camera is turned to the patient's front at first."""

    factory = "vtkMRMLThreeDViewDisplayableManagerFactory"
    managers = THREED_MANAGERS

    def __init__(self, core: Any, node: Any, size: tuple[int, int] = (400, 400)) -> None:
        super().__init__(core, node, size)
        self.renderer.GradientBackgroundOn()

    def reset_camera(self, direction: tuple[float, float, float] = SEEN_FROM) -> None:
        """Look at everything that is shown, from a direction in RAS."""
        self.window.Render()
        node = slicer.modules.cameras.logic().GetViewActiveCameraNode(self.node)
        camera = self.renderer.GetActiveCamera() if node is None else node.GetCamera()
        bounds = self.renderer.ComputeVisiblePropBounds()
        if bounds[0] > bounds[1]:
            return
        camera.SetFocalPoint(*[(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)])
        camera.SetPosition(*(np.array(camera.GetFocalPoint()) + 500 * np.array(direction)))
        camera.SetViewUp(0, 0, 1)
        self.renderer.ResetCamera(bounds)
        camera.Zoom(1.3)
        self.renderer.ResetCameraClippingRange()


# --- pictures -------------------------------------------------------------------------------------------------------


def write_png(pixels: np.ndarray, path: str | Path) -> None:
    """(height, width, 3) uint8 to a file."""
    height, width = pixels.shape[:2]
    image = vtk.vtkImageData()
    image.SetDimensions(width, height, 1)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    vtk_to_numpy(image.GetPointData().GetScalars())[:] = pixels[::-1].reshape(-1, 3)
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(image)
    writer.Write()


def framed(pixels: np.ndarray, name: str) -> np.ndarray:
    """With a bar in the view's colour on top, and its letter, as Slicer has."""
    width = pixels.shape[1]
    color = np.array(COLORS.get(name, (150, 150, 150)), dtype=np.uint8)
    bar = np.full((16, width, 3), color, dtype=np.uint8)
    letter = text_pixels(LETTERS.get(name, name), bar.shape[0])
    bar[: letter.shape[0], 6 : 6 + letter.shape[1]][letter] = 0
    return np.concatenate([bar, pixels], axis=0)


@functools.cache
def text_pixels(text: str, height: int) -> np.ndarray:
    """A short text as a mask, (height, width) bool."""
    drawn = vtk.vtkImageData()
    style = vtk.vtkTextProperty()
    style.SetFontSize(12)
    style.SetColor(1, 1, 1)
    style.BoldOn()
    renderer = vtk.vtkFreeTypeTools.GetInstance()
    renderer.RenderString(style, text, 72, drawn)
    width, drawn_height = drawn.GetDimensions()[:2]
    values = vtk_to_numpy(drawn.GetPointData().GetScalars()).reshape(drawn_height, width, -1)[::-1, :, -1] > 100
    mask = np.zeros((height, width), dtype=bool)
    top = max((height - drawn_height) // 2, 0)
    mask[top : top + drawn_height] = values[: height - top]
    return mask


def composed(rows: Sequence[Sequence[tuple[str, np.ndarray]]]) -> np.ndarray:
    """Views side by side with thin borders: rows of (name, pixels), the pictures of a row equally high."""
    made = []
    for row in rows:
        pictures = [np.pad(framed(pixels, name), ((BORDER, BORDER), (BORDER, BORDER), (0, 0))) for name, pixels in row]
        made.append(np.concatenate(pictures, axis=1))
    return np.concatenate(made, axis=0)


def picture(path: str | Path | None = None, layout: str = "four-up", size: tuple[int, int] = (400, 360)) -> np.ndarray:
    """The views of a layout, composed as on Slicer's screen: (height, width, 3) uint8; written to `path` if given.

    layout: a key of LAYOUTS; size: pixels of one view. A 3D view whose camera nobody has set sees everything from the
    patient's front.
    """
    manager = slicer.app.layoutManager()
    rows = [[(name, _pixels(manager, name, size)) for name in row] for row in LAYOUTS[layout]]
    made = composed(rows)
    if path is not None:
        write_png(made, path)
    return made


def _pixels(manager: Any, name: str, size: tuple[int, int]) -> np.ndarray:
    widget = manager.sliceWidget(name)
    if widget is not None:
        view = widget._view()
        before = np.array(widget.mrmlSliceNode().GetFieldOfView())
        if tuple(view.window.GetSize()) != size:
            view.resize(size)
            _keep_in_view(widget.mrmlSliceNode(), before)
        return view.pixels()
    widget = manager.threeDWidget(name)
    widget._view().resize(size)
    if not widget._camera_is_set:
        widget._view().reset_camera()
    return widget._view().pixels()


def _keep_in_view(node: Any, before: np.ndarray) -> None:
    """After another size in pixels: at least as many mm are seen as before, in both directions."""
    after = np.array(node.GetFieldOfView())
    grow = max((before[:2] / after[:2]).max(), 1.0)
    node.SetFieldOfView(*(after[:2] * grow), after[2])
