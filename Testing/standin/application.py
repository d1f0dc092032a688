"""slicer.app: an object with the recorded names only, with and without Qt.

What Qt answers is passed on to the QApplication where there is one; what belongs to Slicer is answered here. Tests look
at and change `state`, which code under test cannot see.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer

from . import messages, mrml, packages, record
from .files import IOManager
from .modules import ModuleManager, Signals


@dataclass
class State:
    """What a test may set, and what the application was asked to do.

    testing: Slicer was started with --testing (no message boxes, questions answered with yes)
    main_window: there is a layout manager; Slicer has none with --no-main-window
    """

    testing: bool = False
    main_window: bool = True
    selected_modules: list[str] = field(default_factory=list)
    opened_urls: list[str] = field(default_factory=list)
    asked_for: list[str] = field(default_factory=list)
    render_pauses: int = 0


state = State()

VALUES = {
    "applicationName": "Slicer",
    "applicationDisplayName": "3D Slicer",
    "applicationVersion": "5.13.0-2026-08-01",
    "organizationName": "slicer.org",
    "organizationDomain": "slicer.org",
    "mainApplicationName": "Slicer",
    "mainApplicationDisplayName": "3D Slicer",
    "mainApplicationMajorVersion": 5,
    "mainApplicationMinorVersion": 13,
    "mainApplicationPatchVersion": 0,
    "mainApplicationRevision": "34045",
    "mainApplicationRepositoryRevision": "34045",
    "mainApplicationRepositoryUrl": "https://github.com/Slicer/Slicer",
    "majorVersion": 5,
    "minorVersion": 13,
    "revision": "34045",
    "repositoryRevision": "34045",
    "repositoryUrl": "https://github.com/Slicer/Slicer",
    "repositoryBranch": "main",
    "releaseType": "Preview",
    "platform": f"{'linux' if sys.platform.startswith('linux') else sys.platform}-amd64",
    "os": "linux" if sys.platform.startswith("linux") else sys.platform,
    "arch": "amd64",
    "documentationBaseUrl": "https://slicer.readthedocs.io/en/latest/",
    "documentationVersion": "latest",
    "documentationLanguage": "en",
    "applicationLocaleName": "en-US",
    "isInstalled": True,
    "isCustomMainApplication": False,
    "isUsageLoggingSupported": False,
    "intDir": "",
    "launcherExecutableFilePath": "",
    "launcherSettingsFilePath": "",
}
FOLDERS = {
    "slicerHome": "home",
    "slicerSharePath": "home/share",
    "temporaryPath": "temporary",
    "cachePath": "cache",
    "extensionsInstallPath": "extensions",
    "defaultScenePath": "documents",
    "startupWorkingPath": "documents",
}
WRITABLE = frozenset({"temporaryPath", "cachePath", "defaultScenePath", "extensionsInstallPath"})
SIGNALS = ("startupCompleted()", "mrmlSceneChanged(vtkMRMLScene*)", "renderPaused(bool)", "usageEventLogged()")
WITHOUT_QT: dict[str, Callable[..., Any]] = {
    "processEvents": lambda *_: None,
    "setOverrideCursor": lambda *_: None,
    "restoreOverrideCursor": lambda *_: None,
    "topLevelWidgets": lambda *_: (),
    "applicationPid": os.getpid,
}


class BoundSignal:
    """`slicer.app.startupCompleted`, to connect to."""

    def __init__(self, signals: Signals, signature: str) -> None:
        self._signals, self._signature = signals, signature

    def connect(self, slot: Callable[..., Any]) -> bool:
        return self._signals.connect(self._signature, slot)

    def disconnect(self, slot: Callable[..., Any] | None = None) -> bool:
        return self._signals.disconnect(self._signature, slot)


class Application:
    """What slicer.app is."""

    def __init__(self, qt_application: Any = None) -> None:
        values = dict(VALUES)
        for name, folder in FOLDERS.items():
            path = mrml.own_folder() / folder
            path.mkdir(parents=True, exist_ok=True)
            values[name] = str(path)
        self.__dict__.update(_qt=qt_application, _values=values, _signals=Signals(), _layout=[], _settings=[])
        self.__dict__["_managers"] = {"modules": ModuleManager(), "files": IOManager()}

    def __getattr__(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        signature = next((each for each in SIGNALS if each.startswith(f"{name}(")), None)
        if signature is not None:
            return BoundSignal(self._signals, signature)
        if name in recorded_names():
            if self._qt is not None and hasattr(self._qt, name):
                return getattr(self._qt, name)
            if name in WITHOUT_QT:
                return WITHOUT_QT[name]
            raise NotImplementedError(f"the stand-in for slicer.app has no {name}")
        raise AttributeError(f"qSlicerApplication has no attribute named '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in WRITABLE:
            if name in recorded_names():
                raise AttributeError(f"'{name}' can not be set on qSlicerApplication")
            raise AttributeError(
                f"'{name}' does not exist on qSlicerApplication and creating new attributes on C++ objects is not"
                " allowed"
            )
        self._values[name] = value

    def __dir__(self) -> list[str]:
        return sorted(recorded_names())

    def connect(self, signal: str, slot: Callable[..., Any]) -> bool:
        """Slicer's own signals here, Qt's on the QApplication; False for one that does not exist."""
        if signal in SIGNALS:
            return self._signals.connect(signal, slot)
        return self._qt is not None and self._qt.connect(signal, slot)

    def disconnect(self, signal: str, slot: Callable[..., Any] | None = None) -> bool:
        if signal in SIGNALS:
            return self._signals.disconnect(signal, slot)
        return self._qt is not None and self._qt.disconnect(signal, slot)

    # What modules ask for

    def mrmlScene(self) -> Any:
        return slicer.mrmlScene

    def applicationLogic(self) -> Any:
        return mrml.core().application_logic

    def moduleLogic(self, moduleName: str) -> Any:
        return mrml.core().application_logic.GetModuleLogic(moduleName)

    def moduleManager(self) -> ModuleManager:
        return self._managers["modules"]

    def coreIOManager(self) -> IOManager:
        return self._managers["files"]

    ioManager = coreIOManager

    def layoutManager(self) -> Any:
        """Made when first asked for, for the scene of then; None without a main window, as in Slicer."""
        if not state.main_window:
            return None
        from .layout import LayoutManager

        if not self._layout or self._layout[0].mrmlScene() is not slicer.mrmlScene:
            self._layout[:] = [LayoutManager(mrml.core())]
        return self._layout[0]

    def testingEnabled(self) -> bool:
        return state.testing

    def commandOptions(self) -> Any:
        return CommandOptions()

    def translate(self, context: str, text: str) -> str:
        from . import i18n

        return i18n.translate(context, text)

    def userSettings(self) -> Any:
        """The QSettings that `qt.QSettings()` reads too: a file of this process."""
        if not self._settings:
            import qt

            self._settings.append(qt.QSettings())
        return self._settings[0]

    settings = revisionUserSettings = userSettings

    def pauseRender(self) -> None:
        state.render_pauses += 1

    def resumeRender(self) -> None:
        state.render_pauses -= 1

    def setRenderPaused(self, pause: bool) -> None:
        state.render_pauses += 1 if pause else -1

    def moduleDocumentationUrl(self, moduleName: str) -> str:
        return f"{self.documentationBaseUrl}user_guide/modules/{moduleName.lower()}.html"

    def startupEnvironment(self) -> Any:
        """The environment in which Slicer's launcher was started: this process's."""
        import qt

        return qt.QProcessEnvironment.systemEnvironment()

    environment = startupEnvironment

    def openUrl(self, url: str) -> None:
        state.opened_urls.append(url)

    def openNodeModule(self, node: Any, role: str = "", context: str = "") -> None:
        state.asked_for.append(f"module of {node.GetName()}")

    def restart(self) -> None:
        state.asked_for.append("restart")

    def confirmRestart(self, reason: str = "") -> bool:
        state.asked_for.append("restart")
        return False

    def exit(self, status: int = 0) -> None:
        state.asked_for.append(f"exit {status}")

    def quit(self) -> None:
        state.asked_for.append("quit")

    def showConsoleMessage(self, message: str, error: bool = True) -> None:
        messages.show("error" if error else "info", message)

    def logUsageEvent(self, component: str, event: str) -> None:
        state.asked_for.append(f"usage of {component}: {event}")

    def pythonConsole(self) -> Any:
        return None

    def errorLogModel(self) -> Any:
        return None


class CommandOptions:
    """The command line that Slicer was started with."""

    noMainWindow = property(lambda self: not state.main_window)
    testingEnabled = property(lambda self: state.testing)
    noSplash = True


def recorded_names() -> frozenset[str]:
    """The names of slicer.app in a running Slicer."""
    return frozenset(record.widgets()["slicer.app"])


def startup_completed() -> None:
    """Slicer has started: all modules are loaded, and those that wait for it are told. Exceptions are not caught."""
    slicer.app._signals.emit("startupCompleted()")


def select_module(module: Any) -> None:
    """In the place of slicer.util.selectModule."""
    name = module if isinstance(module, str) else module.name
    if getattr(slicer.modules, name.lower(), None) is None:
        raise RuntimeError(f"Could not find module with name '{name}'")
    state.selected_modules.append(name)


def selected_module() -> str:
    """In the place of slicer.util.selectedModule."""
    return state.selected_modules[-1] if state.selected_modules else "Welcome"


def install(qt_application: Any = None) -> Application:
    """Set slicer.app, and what of slicer.util would wait for a user or needs a main window."""
    mrml.core()
    if qt_application is not None:
        keep_settings_apart()
    slicer.app = Application(qt_application)
    messages.install()
    packages.install()
    slicer.util.selectModule, slicer.util.selectedModule = select_module, selected_module
    return slicer.app


def keep_settings_apart() -> None:
    """`qt.QSettings()` is a file of this process: a test never reads or writes the settings of the machine's user."""
    from PySide6.QtCore import QCoreApplication, QSettings

    QCoreApplication.setOrganizationName(VALUES["organizationName"])
    QCoreApplication.setApplicationName(VALUES["applicationName"])
    QSettings.setDefaultFormat(QSettings.Format.IniFormat)
    for scope in (QSettings.Scope.UserScope, QSettings.Scope.SystemScope):
        QSettings.setPath(QSettings.Format.IniFormat, scope, str(Path(mrml.own_folder()) / "settings"))


def forget() -> None:
    """For the start of a test: the state as after the start, no messages, no answers."""
    fresh = State()
    for name in vars(fresh):
        setattr(state, name, getattr(fresh, name))
    messages.forget()
    packages.forget()
