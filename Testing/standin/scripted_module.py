"""slicer.ScriptedLoadableModule: the base classes of a scripted module, and Slicer's part in opening one."""

from __future__ import annotations

import importlib.util
import sys
import unittest
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer

from .modules import ModuleManager, ScriptedModule


class ScriptedLoadableModule:
    """What Slicer lists of a module."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title = ""
        parent.categories = []
        parent.dependencies = []
        parent.contributors = []
        parent.helpText = ""
        parent.acknowledgementText = ""
        for ending in (".svg", ".png"):
            icon = Path(self.resourcePath("Icons")) / (self.moduleName + ending)
            if icon.is_file() and "qt" in sys.modules:
                parent.icon = sys.modules["qt"].QIcon(str(icon))
                break
        if not hasattr(slicer, "selfTests"):
            slicer.selfTests = {}
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        base = slicer.app.documentationBaseUrl
        url = base + docPage if docPage else slicer.app.moduleDocumentationUrl(self.moduleName)
        return f'<p>For more information, see the <a href="{url}">online documentation</a>.</p>'

    def runTest(self, msec: int = 100, **kwargs: Any) -> None:
        tests = getattr(sys.modules[type(self).__module__], f"{self.moduleName}Test")()
        tests.messageDelay = msec
        tests.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    """The panel; `parent` is the widget that hosts it."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Widget")
        setting = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        self.developerMode = setting
        if parent is None:
            import qt

            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        else:
            self.parent = parent
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect(ModuleManager.ABOUT_TO_BE_UNLOADED, self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def setup(self) -> None:
        self.setupDeveloperSection()

    def setupDeveloperSection(self) -> None:
        """A button that reloads the module, for developers."""
        if not self.developerMode:
            return
        import ctk
        import qt

        self.reloadCollapsibleButton = ctk.ctkCollapsibleButton()
        self.reloadCollapsibleButton.text = "Reload && Test"
        self.layout.addWidget(self.reloadCollapsibleButton)
        row = qt.QFormLayout(self.reloadCollapsibleButton)
        self.reloadButton = qt.QPushButton("Reload")
        self.reloadButton.connect("clicked()", self.onReload)
        row.addRow(self.reloadButton)

    def cleanup(self) -> None:
        """Called when the module is unloaded or reloaded."""

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            signal = ModuleManager.ABOUT_TO_BE_UNLOADED
            slicer.app.moduleManager().disconnect(signal, self._onModuleAboutToBeUnloaded)

    def onReload(self) -> None:
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """What a module can do without a panel; its parameters are in a node of the scene."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        """The module's node; a new one where the scene has none."""
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                if node.GetAttribute("ModuleName") != self.moduleName:  # closing a scene removes it
                    node.SetAttribute("ModuleName", self.moduleName)
                return node
        else:
            known = self.getAllParameterNodes()
            if known:
                return known[0]
        return slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list[Any]:
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Tests of a module that Slicer itself runs."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.enableScreenshots = False
        self.screenshotScaleFactor = 1.0
        self.moduleTestNames = [name for name in dir(self) if "test" in name and callable(getattr(self, name))]

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        slicer.util.delayDisplay(message, getattr(self, "messageDelay", msec or requestedDelay or 100))

    def takeScreenshot(self, name: str, description: str, type: int = -1) -> None:
        self.delayDisplay(description)

    def runTest(self) -> None:
        for name in self.moduleTestNames:
            self.setUp()
            getattr(self, name)()
            self.tearDown()


# --- Slicer's part --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """An opened module.

    module: the Python module; instance: of its first class; widget: of its Widget class; parent: the widget around it
    """

    module: ModuleType
    instance: Any
    widget: Any
    parent: Any


def load_module(path: str | Path) -> ScriptedModule:
    """As Slicer does at its start: the file is imported, its first class instantiated, slicer.modules told."""
    path = Path(path).resolve()
    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # Slicer has all folders of modules on its path
    spec = importlib.util.spec_from_file_location(name, path)
    source = importlib.util.module_from_spec(spec)
    sys.modules[name] = source
    spec.loader.exec_module(source)
    module = ScriptedModule(name, str(path))
    instance = getattr(source, name)(module)
    setattr(slicer.modules, f"{name}Instance", instance)
    setattr(slicer.modules, name.lower(), module)
    module.setMRMLScene(slicer.mrmlScene)
    if hasattr(instance, "setup"):
        instance.setup()
    if hasattr(source, f"{name}Widget"):
        module._make_widget = lambda: module_widget_class()(module)
    return module


def open_module(path: str | Path) -> Opened:
    """As when the user opens it first: loaded, its panel made and set up in a host widget, and entered."""
    module = load_module(path)
    parent = module.widgetRepresentation()
    parent.enter()
    return Opened(sys.modules[module.name], getattr(slicer.modules, f"{module.name}Instance"), parent.self(), parent)


def module_widget_class() -> type:
    """slicer.qSlicerScriptedLoadableModuleWidget, which needs Qt's stand-ins to be there."""
    if hasattr(slicer, "qSlicerScriptedLoadableModuleWidget"):
        return slicer.qSlicerScriptedLoadableModuleWidget
    import qt

    class qSlicerScriptedLoadableModuleWidget(slicer.qMRMLWidget):
        """Hosts the panel of a scripted module and hands Slicer's calls on to it."""

        def __init__(self, module: ScriptedModule) -> None:
            slicer.qMRMLWidget.__init__(self)
            self._module = module
            self.setLayout(qt.QVBoxLayout())
            self._make()
            self.setMRMLScene(slicer.mrmlScene)
            self.setup()

        def _make(self) -> None:
            name = f"{self._module.name}Widget"
            self._panel = getattr(sys.modules[self._module.name], name)(self)
            setattr(slicer.modules, name, self._panel)

        def self(self) -> Any:
            return self._panel

        def setup(self) -> None:
            self._panel.setup()

        def reload(self) -> None:
            self._make()
            self.setup()

        def enter(self) -> None:
            self._entered = True
            if hasattr(self._panel, "enter"):
                self._panel.enter()

        def exit(self) -> None:
            self._entered = False
            if hasattr(self._panel, "exit"):
                self._panel.exit()

        def isEntered(self) -> bool:
            return getattr(self, "_entered", False)

        def setEditedNode(self, node: Any, role: str = "", context: str = "") -> bool:
            edit = getattr(self._panel, "setEditedNode", None)
            return bool(edit(node, role, context)) if edit else False

    slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
    return qSlicerScriptedLoadableModuleWidget


def close_module(opened: Opened) -> None:
    """As when Slicer ends: the panel is left, told to clean up, and deleted."""
    if opened.parent.isEntered():
        opened.parent.exit()
    slicer.app.moduleManager().unload(type(opened.instance).__name__)
    opened.parent.deleteLater()


def install() -> None:
    """Set slicer.ScriptedLoadableModule."""
    module = ModuleType("slicer.ScriptedLoadableModule")
    classes = (ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic)
    for each in (*classes, ScriptedLoadableModuleTest):
        setattr(module, each.__name__, each)
    module.__all__ = [each.__name__ for each in (*classes, ScriptedLoadableModuleTest)]
    slicer.qSlicerScriptedLoadableModule = ScriptedModule
    slicer.ScriptedLoadableModule = sys.modules["slicer.ScriptedLoadableModule"] = module
