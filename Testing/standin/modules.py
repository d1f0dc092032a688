"""slicer.app.moduleManager(), and what a scripted module is to Slicer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer


class Signals:
    """Signals of objects that are no QObject here: connected by string, called in order."""

    def __init__(self) -> None:
        self._slots: list[tuple[str, Callable[..., Any]]] = []

    def connect(self, signal: str, slot: Callable[..., Any]) -> bool:
        self._slots.append((signal, slot))
        return True

    def disconnect(self, signal: str, slot: Callable[..., Any] | None = None) -> bool:
        kept = [(name, known) for name, known in self._slots if name != signal or (slot is not None and known != slot)]
        gone = len(kept) < len(self._slots)
        self._slots = kept
        return gone

    def emit(self, signal: str, *values: Any) -> None:
        for name, slot in list(self._slots):
            if name == signal:
                slot(*values)


class ModuleManager(Signals):
    """The methods of qSlicerModuleManager that modules call."""

    ABOUT_TO_BE_UNLOADED = "moduleAboutToBeUnloaded(QString)"

    def factoryManager(self) -> ModuleManager:
        return self

    def loadedModuleNames(self) -> tuple[str, ...]:
        modules = vars(slicer.modules).values()
        return tuple(module.name for module in modules if hasattr(module, "name") and hasattr(module, "logic"))

    modulesNames = loadedModuleNames

    def module(self, name: str) -> Any:
        found = getattr(slicer.modules, name.lower(), None)
        return found if hasattr(found, "logic") else None

    def isLoaded(self, name: str) -> bool:
        return self.module(name) is not None

    def unload(self, name: str) -> None:
        """What happens to a module when Slicer ends."""
        self.emit(self.ABOUT_TO_BE_UNLOADED, name)


class ScriptedModule:
    """qSlicerScriptedLoadableModule: the `parent` of a module's first class. Other attributes are refused, as there."""

    TEXTS = ("title", "helpText", "acknowledgementText", "path", "name")
    LISTS = ("categories", "contributors", "associatedNodeTypes", "dependencies")
    OTHERS = ("extensions", "icon", "hidden", "index", "widgetRepresentationCreationEnabled")
    PROPERTIES = (*TEXTS, *LISTS, *OTHERS)

    def __init__(self, name: str, path: str) -> None:
        self.__dict__.update(dict.fromkeys(self.TEXTS, ""), **dict.fromkeys(self.LISTS, ()))
        self.extensions, self.icon, self.hidden, self.index = None, None, False, -1
        self.widgetRepresentationCreationEnabled = True
        self.name, self.path = name, path
        self._widget: Any = None
        self._make_widget: Callable[[], Any] | None = None
        self._logic = slicer.vtkSlicerScriptedLoadableModuleLogic()

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self.PROPERTIES:
            raise AttributeError(
                f"'{name}' does not exist on qSlicerScriptedLoadableModule and creating new attributes on C++ objects"
                " is not allowed"
            )
        super().__setattr__(name, value)

    def logic(self) -> Any:
        return self._logic

    def setMRMLScene(self, scene: Any) -> None:
        self._logic.SetMRMLScene(scene)

    def widgetRepresentation(self) -> Any:
        """The widget that hosts the panel, made and set up when it is first asked for."""
        if self._widget is None and self._make_widget is not None:
            self._widget = self._make_widget()
        return self._widget
