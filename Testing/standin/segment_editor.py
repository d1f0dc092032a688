"""Slicer's Segment Editor as far as a scripted effect sees it: registration, parameters, options, undo.

What edits and undoes is Slicer's own vtkSlicerSegmentEditorLogic with a real vtkMRMLSegmentEditorNode; only what the
widget does around it stands in. An effect is loaded from its file as Slicer loads it, and its editor's side has the
names that Slicer's headers have: those that nobody needed yet raise NotImplementedError, all others AttributeError.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer
from PySide6 import QtWidgets

from . import manners, signals

PACKAGE = "SegmentEditorEffects"
BASE = "AbstractScriptedSegmentEditorEffect"
PROPERTIES = {
    "name": "UnnamedScriptedEffect",
    "title": "",
    "perSegment": True,
    "requireSegments": True,
    "showEffectCursorInSliceView": True,
    "showEffectCursorInThreeDView": False,
}
#: Of qSlicerSegmentEditorAbstractEffect and qSlicerSegmentEditorScriptedEffect, callable from Python.
METHODS = frozenset(
    re.findall(
        r"\w+",
        """
        pythonSource setPythonSource self helpText cleanup activate deactivate active createCursor selectEffect
        updateGUIFromMRML updateMRMLFromGUI parameterSetNode setParameterSetNode scene
        optionsFrame optionsLayout addOptionsWidget addLabeledOptionsWidget cursorOff cursorOn
        addActor2D removeActor2D addActor3D removeActor3D
        parameter integerParameter doubleParameter nodeReference parameterDefined commonParameterDefined
        setParameter setParameterDefault setCommonParameter setCommonParameterDefault
        setNodeReference setCommonNodeReference confirmCurrentSegmentVisible saveStateForUndo
        modifySelectedSegmentByLabelmap modifySegmentByLabelmap applyImageMask modifierLabelmap
        defaultModifierLabelmap maskLabelmap selectedSegmentLabelmap referenceGeometryImage sourceVolumeImageData
        masterVolumeImageData renderWindow renderer viewNode rasToXy xyzToRas xyToRas xyzToIjk xyToIjk forceRender
        scheduleRender sliceSpacing segmentationDisplayableInView
        """,
    )
)


class ScriptedEffect:
    """qSlicerSegmentEditorScriptedEffect: the editor's side of an effect."""

    def __init__(self, parent: Any = None) -> None:
        frame = QtWidgets.QFrame()
        QtWidgets.QFormLayout(frame)
        values = dict(PROPERTIES)
        self.__dict__.update(_values=values, _frame=frame, _node=None, _logic=None, _self=None, _source="", _active=[])

    def __getattr__(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        if name in METHODS:
            raise NotImplementedError(f"the stand-in for the effect has no {name}")
        raise AttributeError(f"qSlicerSegmentEditorScriptedEffect has no attribute named '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in PROPERTIES:
            raise AttributeError(
                f"'{name}' does not exist on qSlicerSegmentEditorScriptedEffect and creating new attributes on C++"
                " objects is not allowed"
            )
        if type(value) is not type(PROPERTIES[name]):
            raise AttributeError(f"Property '{name}' of type '{type(PROPERTIES[name]).__name__}' cannot be {value!r}")
        self._values[name] = value

    # The file behind it

    def setPythonSource(self, source: str) -> bool:
        """The module is called like the folder, the class like the file; a module that is there already is used."""
        if not source.endswith(".py") or "\\" in source:
            return False
        path = Path(source)
        module_name, class_name = path.parent.name, path.stem
        if not class_name.endswith("Effect"):
            class_name += "Effect"
        if not hasattr(sys.modules.get(module_name), class_name):
            spec = importlib.util.spec_from_file_location(module_name, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
        self.__dict__["_self"] = getattr(sys.modules[module_name], class_name)(self)
        self.__dict__["_source"] = source
        setattr(slicer, module_name, self._self)
        return True

    def pythonSource(self) -> str:
        return self._source

    def self(self) -> Any:
        return self._self

    def _call(self, method: str) -> Any:
        """As Slicer calls Python: what is not there is left out, what is raised is printed and no more."""
        found = getattr(self._self, method, None)
        if found is None:
            return None
        try:
            return found()
        except Exception as error:  # noqa: BLE001 - PythonQt's manner
            signals.slot_errors.append(error)
            sys.excepthook(type(error), error, error.__traceback__)
            return None

    def clone(self) -> Any:
        return self._call("clone")

    def updateGUIFromMRML(self) -> None:
        if self.active():  # it is called when the effect is activated, too
            self._call("updateGUIFromMRML")

    def updateMRMLFromGUI(self) -> None:
        self._call("updateMRMLFromGUI")

    def helpText(self) -> str:
        return self._call("helpText") or ""

    def activate(self) -> None:
        self._frame.setVisible(True)
        self._active[:] = [True]
        self.updateGUIFromMRML()  # the base class's part comes first
        self._call("activate")

    def deactivate(self) -> None:
        self._frame.setVisible(False)
        self._active[:] = []
        self._call("deactivate")

    def active(self) -> bool:
        return bool(self._active)

    def _interaction_node_modified(self, node: Any) -> bool:
        """Whether the effect has a say in it; if not, it is left as soon as the mouse is for something else."""
        found = getattr(self._self, "interactionNodeModified", None)
        if found is not None:
            found(node)
        return found is not None

    def cleanup(self) -> None:
        self._call("cleanup")

    # Options

    def optionsFrame(self) -> Any:
        return manners.wrap(self._frame)

    def optionsLayout(self) -> Any:
        return manners.wrap(self._frame.layout())

    def addOptionsWidget(self, part: Any) -> None:
        native = manners.unwrap(part)
        if isinstance(native, QtWidgets.QWidget):
            native.setParent(self._frame)
            _stretch(native)
        self._frame.layout().addRow(native)

    def addLabeledOptionsWidget(self, label: str, part: Any) -> Any:
        native, words = manners.unwrap(part), QtWidgets.QLabel(label)
        if isinstance(native, QtWidgets.QWidget):
            native.setParent(self._frame)
            _stretch(native)
        self._frame.layout().addRow(words, native)
        return manners.wrap(words)

    # Parameters: attributes of the editor's node

    def parameterSetNode(self) -> Any:
        return self._node

    def setParameterSetNode(self, node: Any) -> None:
        self.__dict__["_node"] = node

    def scene(self) -> Any:
        return None if self._node is None else self._node.GetScene()

    def parameterDefined(self, name: str) -> bool:
        return self._node is not None and bool(self._node.GetAttribute(f"{self.name}.{name}"))

    def parameter(self, name: str) -> str:
        if self._node is None:
            return ""
        value = self._node.GetAttribute(f"{self.name}.{name}")
        if value is None:
            value = self._node.GetAttribute(name)
        if value is None:  # Slicer prints this
            signals.slot_errors.append(KeyError(f"Parameter named {name} cannot be found for effect {self.name}"))
        return value or ""

    def integerParameter(self, name: str) -> int:
        return int(self.parameter(name) or 0)

    def doubleParameter(self, name: str) -> float:
        return float(self.parameter(name) or 0)

    def setParameter(self, name: str, value: str | float) -> None:
        if not isinstance(name, str) or not isinstance(value, (str, int, float)):
            raise ValueError("Called setParameter(QString name, QString value) with wrong arguments")
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        key, node = f"{self.name}.{name}", self._node
        if node is None or node.GetAttribute(key) == text or (not text and node.GetAttribute(key) is None):
            return
        before = node.GetDisableModifiedEvent()
        node.SetDisableModifiedEvent(1)
        node.SetAttribute(key, text)
        node.SetDisableModifiedEvent(before)
        node.InvokeEvent(slicer.vtkMRMLSegmentEditorNode.EffectParameterModified)

    def setParameterDefault(self, name: str, value: str | float) -> None:
        if not self.parameterDefined(name):
            self.setParameter(name, value)

    # Volumes and undo: the logic's

    def saveStateForUndo(self) -> None:
        self._logic.SaveStateForUndo()

    def referenceGeometryImage(self) -> Any:
        return self._logic.GetReferenceGeometryImage() if self._logic.UpdateReferenceGeometryImage() else None


class EffectFactory:
    """qSlicerSegmentEditorEffectFactory."""

    _one: list[EffectFactory] = []  # noqa: RUF012

    def __init__(self) -> None:
        self._effects: list[ScriptedEffect] = []
        self._slots: list[Callable[[str], Any]] = []

    @staticmethod
    def instance() -> EffectFactory:
        if not EffectFactory._one:
            EffectFactory._one.append(EffectFactory())
        return EffectFactory._one[0]

    def registerEffect(self, effect: ScriptedEffect) -> bool:
        if not effect.name or any(known.name == effect.name for known in self._effects):
            return False
        self._effects.append(effect)
        for slot in self._slots:
            slot(effect.name)
        return True

    def registeredEffects(self) -> tuple[ScriptedEffect, ...]:
        return tuple(self._effects)

    def connect(self, signal: str, slot: Callable[[str], Any]) -> bool:
        if signal != "effectRegistered(QString)":
            return False
        self._slots.append(slot)
        return True


class AbstractScriptedSegmentEditorEffect:
    """What scripted effects derive from."""

    def __init__(self, scriptedEffect: ScriptedEffect) -> None:
        self.scriptedEffect = scriptedEffect

    def register(self) -> None:
        slicer.qSlicerSegmentEditorEffectFactory.instance().registerEffect(self.scriptedEffect)

    def cleanup(self) -> None:
        pass


class Editor:
    """What a test holds: the Segment Editor in a scene, with all registered effects and nothing else of the widget."""

    def __init__(self, segmentation: Any = None, volume: Any = None) -> None:
        scene = slicer.mrmlScene
        self.node = scene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        if self.node is None:
            node = slicer.vtkMRMLSegmentEditorNode()
            node.SetSingletonTag("SegmentEditor")
            self.node = scene.AddNode(node)
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(scene)
        self.logic.SetSegmentEditorNode(self.node)
        self.logic.SetMaximumNumberOfUndoStates(10)
        self.logic.SetSegmentationNode(segmentation)
        self.logic.SetSourceVolumeNode(volume)
        self.effects: dict[str, ScriptedEffect] = {}
        self._observers: list[tuple[Any, int]] = []
        for registered in EffectFactory.instance().registeredEffects():
            self._add(registered.clone())
        interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        if interaction is not None:
            tag = interaction.AddObserver("ModifiedEvent", self._on_interaction)
            self._observers.append((interaction, tag))

    def _add(self, effect: ScriptedEffect) -> None:
        """In the order in which Slicer's widget does it: the defaults are set before there are options."""
        effect.__dict__["_logic"] = self.logic
        effect.setParameterSetNode(self.node)
        effect._call("setMRMLDefaults")
        event = slicer.vtkMRMLSegmentEditorNode.EffectParameterModified
        tag = self.node.AddObserver(event, lambda *_: effect.updateGUIFromMRML())
        self._observers.append((self.node, tag))
        effect._call("setupOptionsFrame")
        effect._frame.setVisible(False)
        self.effects[effect.name] = effect

    def activate(self, name: str) -> Any:
        """Choose an effect, as by its button; "" for none. Gives its Python side."""
        for effect in self.effects.values():
            if effect.active():
                effect.deactivate()
        if not name:
            return None
        # The editor makes label maps the source before anything is edited
        self.logic.SetSourceRepresentationToBinaryLabelMap()
        self.effects[name].activate()
        return self.effects[name].self()

    def _on_interaction(self, node: Any, _event: str) -> None:
        for effect in self.effects.values():
            stays = not effect.active() or effect._interaction_node_modified(node)
            if not stays and node.GetCurrentInteractionMode() != node.ViewTransform:
                self.activate("")

    def undo(self) -> None:
        self.logic.Undo()

    def close(self) -> None:
        """As when Slicer ends: no effect is active, and each is told."""
        self.activate("")
        for observed, tag in self._observers:
            observed.RemoveObserver(tag)
        for effect in self.effects.values():
            effect.cleanup()
            effect._frame.deleteLater()
        self.effects = {}


class SegmentEditorWidget:
    """Of qMRMLSegmentEditorWidget only which effects it offers: those that are registered; `Editor` does the rest."""

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene

    def availableEffectNames(self) -> tuple[str, ...]:
        return tuple(effect.name for effect in EffectFactory.instance().registeredEffects())


def _stretch(native: QtWidgets.QWidget) -> None:
    policy = QtWidgets.QSizePolicy.Policy
    native.setSizePolicy(policy.Preferred, policy.MinimumExpanding)


def install() -> None:
    """Put the modules that effects import in their places, and the factory into slicer."""
    package, base = ModuleType(PACKAGE), ModuleType(f"{PACKAGE}.{BASE}")
    package.__path__ = []
    for module in (package, base):
        setattr(module, BASE, AbstractScriptedSegmentEditorEffect)
        sys.modules[module.__name__] = module
    wrapped = ModuleType("qSlicerSegmentationsEditorEffectsPythonQt")
    wrapped.qSlicerSegmentEditorScriptedEffect = ScriptedEffect
    sys.modules[wrapped.__name__] = wrapped
    slicer.qSlicerSegmentEditorScriptedEffect = ScriptedEffect
    slicer.qSlicerSegmentEditorEffectFactory = EffectFactory
    slicer.qMRMLSegmentEditorWidget = SegmentEditorWidget
