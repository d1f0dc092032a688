"""Slicer's scene without Qt: the real MRML classes and module logics of the wheel `slicer-core`, put together.

`make_scene` gives a fresh scene and sets what code under test looks for, slicer.mrmlScene and
slicer.modules.<name>.logic(); with them the array functions of slicer.util work. What Qt does in Slicer and scene code
relies on (items of the subject hierarchy for nodes) is done here by observers.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer
import slicer.util
import vtk

from . import terminologies

LOGICS = {
    "units": "vtkSlicerUnitsLogic",
    "terminologies": "vtkSlicerTerminologiesModuleLogic",
    "subjecthierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "volumes": "vtkSlicerVolumesLogic",
    "transforms": "vtkSlicerTransformLogic",
    "markups": "vtkSlicerMarkupsLogic",
    "models": "vtkSlicerModelsLogic",
    "tables": "vtkSlicerTablesLogic",
    "texts": "vtkSlicerTextsLogic",
    "plots": "vtkSlicerPlotsLogic",
    "sequences": "vtkSlicerSequencesLogic",
    "cameras": "vtkSlicerCamerasModuleLogic",
    "viewcontrollers": "vtkSlicerViewControllersLogic",
    "volumerendering": "vtkSlicerVolumeRenderingLogic",
    "sceneviews": "vtkSlicerSceneViewsModuleLogic",
    "data": "vtkSlicerDataModuleLogic",
    "reformat": "vtkSlicerReformatLogic",
}
# The names that Slicer's application logic and the logics themselves ask each other for.
TITLES = {
    "subjecthierarchy": "SubjectHierarchy",
    "viewcontrollers": "ViewControllers",
    "volumerendering": "VolumeRendering",
    "sceneviews": "SceneViews",
}
# Which plug-in of Slicer's subject hierarchy owns an item; nodes of other classes get no item.
OWNERS = (
    ("vtkMRMLLabelMapVolumeNode", "LabelMaps"),
    ("vtkMRMLVolumeNode", "Volumes"),
    ("vtkMRMLSegmentationNode", "Segmentations"),
    ("vtkMRMLModelNode", "Models"),
    ("vtkMRMLMarkupsNode", "Markups"),
    ("vtkMRMLTransformNode", "Transforms"),
    ("vtkMRMLTableNode", "Tables"),
    ("vtkMRMLTextNode", "Texts"),
    ("vtkMRMLPlotChartNode", "Plots"),
    ("vtkMRMLPlotSeriesNode", "Plots"),
    ("vtkMRMLSequenceNode", "Sequences"),
)


@dataclass
class Module:
    """What slicer.modules.<name> is: an object whose `logic()` and `path` code asks for."""

    name: str
    path: str = ""
    title: str = ""
    _logic: Any = None
    _representation: Any = None

    def logic(self) -> Any:
        return self._logic

    def widgetRepresentation(self) -> Any:
        return self._representation


@dataclass
class Core:
    """A scene and the logics that serve it."""

    scene: Any
    application_logic: Any
    logics: dict[str, Any]
    kept: list[Any]
    observations: list[int] = field(default_factory=list)
    views: list[Any] = field(default_factory=list)


_current: list[Core] = []
_given_up: list[Core] = []
vtk_errors: list[str] = []


def core() -> Core:
    """The core that `make_core` made last; made now where there is none."""
    return _current[0] if _current else make_core()


def make_scene() -> Any:
    """A fresh scene, set as slicer.mrmlScene, with the logics of Slicer's modules; the earlier scene is given up."""
    return make_core().scene


def make_core() -> Core:
    """As `make_scene`; gives the logics too."""
    _tidy_names()
    _catch_vtk_errors()
    while _current:
        _give_up(_current.pop())
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    application.SetTemporaryPath(tempfile.gettempdir())
    application.SetMRMLScene(scene)
    colors = application.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())  # as Slicer's own logic of colours does
    application.SetModuleLogic("Colors", colors)
    application.SetSliceLogics(vtk.vtkCollection())
    application.SetViewLogics(vtk.vtkCollection())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    logics = {"colors": colors}
    for name, class_name in LOGICS.items():
        logic = getattr(slicer, class_name)()
        if name == "terminologies":
            logic.SetModuleShareDirectory(_share_folder())
        application.SetModuleLogic(TITLES.get(name, name.capitalize()), logic)
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        logics[name] = logic
    made = Core(scene, application, logics, _file_logics(scene, application))
    made.observations += observe_subject_hierarchy(scene)
    slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)
    slicer.mrmlScene = scene
    _set_modules(logics)
    _current.append(made)
    return made


def _give_up(old: Core) -> None:
    """Empty a scene that nobody wants any more, before Python lets go of its parts in any order."""
    for observation in old.observations:
        old.scene.RemoveObserver(observation)
    if not old.views:
        old.scene.Clear(1)
        return
    # Displayable managers do not survive their own view node: it stays with them.
    old.scene.Clear(0)
    for view in old.views:
        view.window.Finalize()
    _given_up.append(old)


def _tidy_names() -> None:
    """The wheel puts slicer.util's functions into slicer itself; Slicer does not, and code must not rely on it."""
    for name in [*slicer.util.__all__, "LazyImport", "VTKObservationMixin", "NodeModify"]:
        if name != "util" and hasattr(slicer, name):
            delattr(slicer, name)


def _set_modules(logics: dict[str, Any]) -> None:
    """slicer.modules with every logic; modules that tests have added stay."""
    modules = sys.modules.get("slicer.modules")
    if modules is None:
        modules = slicer.modules = sys.modules["slicer.modules"] = ModuleType("slicer.modules")
    for name, logic in logics.items():
        title = TITLES.get(name, name.capitalize())
        setattr(modules, name, Module(title, title=title, _logic=logic))


def _file_logics(scene: Any, application: Any) -> list[Any]:
    """Scenes that name files by URI need these to be read."""
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLScene(scene)
    remote.SetMRMLApplicationLogic(application)
    # A folder of its own: the cache counts and clears whatever lies in its folder.
    remote.GetCacheManager().SetRemoteCacheDirectory(_cache_folder())
    data = slicer.vtkDataIOManagerLogic()
    data.SetMRMLScene(scene)
    data.SetMRMLApplicationLogic(application)
    data.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.AddDataIOToScene()
    return [remote, data]


@cache
def own_folder() -> Path:
    """A temporary folder of this process, gone at its end."""
    folder = Path(tempfile.mkdtemp(prefix="standin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _cache_folder() -> str:
    folder = own_folder() / "cache"
    folder.mkdir()
    (folder / ".slicer-cache").touch()
    return str(folder)


@cache
def _share_folder() -> str:
    folder = own_folder() / "share"
    terminologies.write(folder)
    return str(folder)


# --- subject hierarchy ----------------------------------------------------------------------------------------------


def observe_subject_hierarchy(scene: Any) -> list[int]:
    """Nodes get items in the subject hierarchy and lose them, as qSlicerSubjectHierarchyPluginLogic sees to it."""
    events = slicer.vtkMRMLScene

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(scene: Any, _event: str, node: Any) -> None:
        if node.IsA("vtkMRMLSubjectHierarchyNode"):
            slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)
        elif not scene.IsImporting():
            add_item(scene, node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def removing(scene: Any, _event: str, node: Any) -> None:
        if scene.IsClosing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
            return
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        item = hierarchy.GetItemByDataNode(node)
        if item:
            hierarchy.RemoveItem(item, False, False)

    def resolve(scene: Any, _event: str) -> None:
        slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)
        for node in slicer.util.getNodesByClass("vtkMRMLNode", scene):
            add_item(scene, node)

    return [
        scene.AddObserver(events.NodeAddedEvent, added),
        scene.AddObserver(events.NodeAboutToBeRemovedEvent, removing),
        scene.AddObserver(events.EndImportEvent, resolve, 10.0),
        scene.AddObserver(events.EndBatchProcessEvent, resolve, 10.0),
        scene.AddObserver(events.EndCloseEvent, resolve),
    ]


def add_item(scene: Any, node: Any) -> None:
    """An item for the node under the scene's, where the node is one that Slicer shows and has none yet."""
    owner = next((owner for class_name, owner in OWNERS if node.IsA(class_name)), None)
    if owner is None or node.GetHideFromEditors():
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if not hierarchy.GetItemByDataNode(node):
        item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
        hierarchy.SetItemOwnerPluginName(item, owner)


# --- errors that VTK only prints ------------------------------------------------------------------------------------


def _catch_vtk_errors() -> None:
    """VTK's errors are printed and otherwise lost: keep them in `vtk_errors`, so that tests can look."""
    if vtk.vtkOutputWindow.GetInstance().HasObserver("ErrorEvent"):
        return

    @vtk.calldata_type(vtk.VTK_STRING)
    def keep(_window: Any, _event: str, text: str) -> None:
        vtk_errors.append(text)

    vtk.vtkOutputWindow.GetInstance().AddObserver("ErrorEvent", keep)


@contextmanager
def expecting_vtk_errors() -> Iterator[list[str]]:
    """The errors of VTK within the block, which no test then fails for."""
    before = list(vtk_errors)
    vtk_errors.clear()
    seen: list[str] = []
    try:
        yield seen
    finally:
        seen.extend(vtk_errors)
        vtk_errors[:] = before
