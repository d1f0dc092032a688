"""slicer.parameterNodeWrapper: a class of typed members over a vtkMRMLScriptedModuleNode, bound to widgets by name."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import slicer
import vtk

from . import parameter_annotations as annotations
from .parameter_annotations import Default
from .parameter_packs import (
    FloatRange,
    Parameter,
    check_name,
    data_type,
    give,
    isParameterPack,
    members_of,
    parameterPack,
)
from .parameter_values import ObservedDict, ObservedList, node_classes, split

ANNOTATIONS = (
    *("Validator", "NotNone", "IsInstance", "WithinRange", "Minimum", "Maximum", "Choice", "Exclude", "RangeBounds"),
    *("Default", "Decimals", "SingleStep"),
)

SlicerParameterNamePropertyName = "SlicerParameterName"


class Implementation:
    """What reads and writes one parameter of one node."""

    def __init__(self, parameter: Parameter, name: str, node: Any) -> None:
        self.parameter, self.name, self.parameterNode = parameter, name, node

    def read(self) -> Any:
        codec = self.parameter.serializer
        if not codec.present(self.parameterNode, self.name):
            codec.write(self.parameterNode, self.name, self.parameter.default.value)
        return codec.read(self.parameterNode, self.name)

    def write(self, value: Any) -> None:
        with slicer.util.NodeModify(self.parameterNode):
            self.parameter.serializer.write(self.parameterNode, self.name, value)


class WrapperMethods:
    """The methods that `parameterNodeWrapper` gives to a class."""

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._parameterGUIs: dict[int, dict[str, Any]] = {}
        self._nextParameterGUIsTag = 0
        self._guiVtkObserverTags: dict[int, int] = {}
        self._updatingGUIFromParameterNode = False
        for name, parameter in self.allParameters.items():
            made = Implementation(parameter, f"{prefix or ''}{name}", parameterNode)
            setattr(self, f"_{name}_impl", made)
            made.read()

    def default(self, paramName: str) -> Default:
        check_name(self, paramName)
        return self.allParameters[paramName].default

    def isCached(self, paramName: str) -> bool:
        check_name(self, paramName)
        return self.allParameters[paramName].serializer.caching

    def getValue(self, name: str) -> Any:
        check_name(self, name)
        top, _, rest = name.partition(".")
        value = getattr(self, f"_{top}_impl").read()
        return value.getValue(rest) if rest else value

    def setValue(self, name: str, value: Any) -> None:
        check_name(self, name)
        top, _, rest = name.partition(".")
        if not rest:
            getattr(self, f"_{top}_impl").write(value)
            return
        pack = getattr(self, f"_{top}_impl").read()
        pack.setValue(rest, value)

    def connectGui(self, gui: Any) -> int:
        """Bind the children of a widget, or the attributes of an object, that bear a parameter's name."""
        import qt

        whole = getattr(gui, "isWidgetType", lambda: False)()
        widgets = gui.findChildren(qt.QWidget) if whole else gui.__dict__.values()
        named = {widget.property(SlicerParameterNamePropertyName): widget for widget in widgets}
        return self.connectParametersToGui({name: widget for name, widget in named.items() if name})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        from .parameter_gui import GuiConnector, createGuiConnector

        for name in mapping:
            check_name(self, name)
        connectors = {
            name: widget if isinstance(widget, GuiConnector) else createGuiConnector(widget, self.dataType(name))
            for name, widget in mapping.items()
        }
        tag = self._nextParameterGUIsTag
        self._nextParameterGUIsTag += 1
        self._parameterGUIs[tag] = connectors
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.onChanged(_from_gui(self, name, connector))
        event = vtk.vtkCommand.ModifiedEvent
        self._guiVtkObserverTags[tag] = self.AddObserver(event, lambda *_: _to_gui(self))
        return tag

    def disconnectGui(self, guiTag: int) -> None:
        for connector in self._parameterGUIs.pop(guiTag, {}).values():
            connector.onChanged(None)
        if guiTag in self._guiVtkObserverTags:
            self.RemoveObserver(self._guiVtkObserverTags.pop(guiTag))

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified: int) -> int:
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def _from_gui(wrapper: Any, name: str, connector: Any) -> Any:
    def callback() -> None:
        with slicer.util.NodeModify(wrapper):
            if not wrapper._updatingGUIFromParameterNode:
                wrapper.setValue(name, connector.read())

    return callback


def _to_gui(wrapper: Any) -> None:
    if wrapper._updatingGUIFromParameterNode:
        return
    wrapper._updatingGUIFromParameterNode = True
    try:
        with slicer.util.NodeModify(wrapper):
            for connectors in list(wrapper._parameterGUIs.values()):
                for name, connector in connectors.items():
                    connector.write(wrapper.getValue(name))
    finally:
        wrapper._updatingGUIFromParameterNode = False


def parameterNodeWrapper(classtype: type | None = None) -> Any:
    """Class decorator: instances are made with a parameter node and keep the typed members in it."""

    def wrap(described: type) -> type:
        parameters = members_of(described)
        for name in parameters:
            setattr(described, name, _node_property(name))
        give(described, "allParameters", parameters, "parameterNodeWrapper")
        give(described, "_is_parameter_node_wrapper", True, "parameterNodeWrapper")
        give(described, "dataType", data_type(described), "parameterNodeWrapper")
        for name, method in vars(WrapperMethods).items():
            if callable(method):
                give(described, name, method, "parameterNodeWrapper")
        return described

    return wrap if classtype is None else wrap(classtype)


def _node_property(name: str) -> property:
    def read(self: Any) -> Any:
        return getattr(self, f"_{name}_impl").read()

    def write(self: Any, value: Any) -> None:
        getattr(self, f"_{name}_impl").write(value)

    return property(read, write)


def isParameterNodeWrapper(thing: Any) -> bool:
    return getattr(thing, "_is_parameter_node_wrapper", False)


def findChildWidgetForParameter(widget: Any, parameter: str) -> Any:
    import qt

    for child in widget.findChildren(qt.QWidget):
        if child.property(SlicerParameterNamePropertyName) == parameter:
            return child
    return None


# --- as a module of slicer ------------------------------------------------------------------------------------------


class WrapperModule(ModuleType):
    """slicer.parameterNodeWrapper; what needs qt and ctk is looked up when it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name in ("GuiConnector", "createGuiConnector", "parameterNodeGuiConnector"):
            from . import parameter_gui

            return getattr(parameter_gui, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def install() -> None:
    """Set slicer.parameterNodeWrapper."""
    module = WrapperModule("slicer.parameterNodeWrapper")
    for name in ANNOTATIONS:
        setattr(module, name, getattr(annotations, name))
    for thing in (parameterNodeWrapper, isParameterNodeWrapper, findChildWidgetForParameter):
        setattr(module, thing.__name__, thing)
    for thing in (parameterPack, isParameterPack, FloatRange, ObservedList, ObservedDict):
        setattr(module, thing.__name__, thing)
    module.SlicerParameterNamePropertyName = SlicerParameterNamePropertyName
    module.unannotatedType = lambda hint: split(hint)[0]
    module.getNodeTypes = node_classes
    slicer.parameterNodeWrapper = sys.modules["slicer.parameterNodeWrapper"] = module
