"""What goes wrong, as the panel says it: a message with something to do about it, and a report for the clipboard."""

from __future__ import annotations

import html
import importlib.metadata
import json
import platform
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from AtlasISTNLib import __version__
from AtlasISTNLib.errors import AtlasISTNError

#: Lines of the engine's log that a report carries.
REPORT_LINES = 40
#: Fields of a request that a report repeats: nothing that could name a patient.
_TOLD = (
    *("model", "device", "threads", "low_memory", "placement", "config", "preview_seconds"),
    *("epochs", "weight", "name"),
)


@dataclass(frozen=True)
class Failure:
    """Something that went wrong.

    Attributes:
        kind: the class of the error ("DeviceError", "VolumeError", "Cancelled", …), or what became of the engine:
            "FailedToStart", "Crashed", "Hung".
        message: one sentence without a full stop.
        hint: what the user can do about it; may be empty.
        out_of_memory: whether the device had too little memory.
        log: the last lines of the engine's log.
        trace: the engine's traceback; may be empty.
        do: what the engine was asked for; "" when nothing.
        asked: the fields of that request.
        over: whether the request is over. False of "Hung" only: the engine may still come back, or be stopped.
    """

    kind: str
    message: str
    hint: str = ""
    out_of_memory: bool = False
    log: tuple[str, ...] = ()
    trace: str = ""
    do: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)
    over: bool = True


@dataclass(frozen=True)
class Action:
    """Something that the panel can do about a failure: its name, and the text of its button."""

    name: str
    text: str


@dataclass(frozen=True)
class Message:
    """A failure as the panel shows it.

    Attributes:
        title: a few words.
        html: title, message and hint as rich text.
        actions: what the panel can do about it, the best first; may be empty.
    """

    title: str
    html: str
    actions: tuple[Action, ...] = ()

    @property
    def action(self) -> str:
        """The name of the best action; "" when there is none."""
        return self.actions[0].name if self.actions else ""

    @property
    def action_text(self) -> str:
        """The text of its button."""
        return self.actions[0].text if self.actions else ""


def failure_of(error: Exception) -> Failure:
    """An error that was raised in Slicer's own process, as a failure."""
    if isinstance(error, AtlasISTNError):
        return Failure(type(error).__name__, error.message, error.hint)
    return Failure(type(error).__name__, str(error) or type(error).__name__)


def failure_of_event(event: Mapping[str, Any]) -> Failure:
    """The worker's event "error" as a failure."""
    return Failure(
        str(event.get("kind") or "Unexpected"),
        str(event.get("message") or _("The engine gave no reason")),
        str(event.get("hint") or ""),
        event.get("out_of_memory") is True,
        trace=str(event.get("traceback") or ""),
    )


def failure_of_end(started: bool, crashed: bool, code: int, text: str) -> Failure:
    """The end of a worker that nobody asked to end.

    Args:
        started: whether it ever ran; `text` says why not.
        crashed: whether the system or a signal ended it; `code` is the signal then, where the system has signals, or 0
            where it is not known.
        code: the exit code otherwise.
        text: the system's words.
    """
    if not started:
        return Failure("FailedToStart", _("The engine could not be started: {reason}").format(reason=text))
    hint = _("the next run starts a new one; the report has the last lines of its log")
    if crashed and code in (0, getattr(signal, "SIGKILL", 0)):
        hint = _("the system may have run out of memory: close other programs, or use a smaller region; ") + hint
    if crashed and code and sys.platform != "win32":
        message = _("The engine was ended by signal {number}").format(number=code)
    elif crashed:
        message = _("The engine crashed")
    else:
        message = _("The engine ended by itself (exit code {code})").format(code=code)
    return Failure("Crashed", message, hint)


def message(failure: Failure) -> Message:
    """What the panel's message frame shows of a failure."""
    title = _title(failure)
    text = f"<p><b>{html.escape(title)}</b></p><p>{_sentence(failure.message)}</p>"
    if failure.hint:
        text += f"<p>{_sentence(failure.hint)}</p>"
    return Message(title, text, _actions(failure))


def report(failure: Failure, engine: Any = None) -> str:
    """A failure as plain text for the clipboard: versions, device, what was asked, traceback, last lines of the log.

    Names of images, files and folders of the request are left out; the home folder in paths is written "~".

    Args:
        failure: what went wrong.
        engine: the `Engine`, for what it said about itself; may be None.
    """
    parts = [
        f"Atlas-ISTN: {failure.kind}",
        failure.message + (f" ({failure.hint})" if failure.hint else ""),
        "",
        *_versions(engine),
        f"Asked: {_asked(failure)}",
    ]
    if failure.trace:
        parts += ["", failure.trace.rstrip()]
    log = failure.log or tuple(getattr(engine, "log", ()))
    if log:
        parts += ["", "Last lines of the engine's log:", *log[-REPORT_LINES:]]
    home = str(Path.home())
    text = "\n".join(parts) + "\n"
    return text.replace(home, "~") if len(home) > 1 else text


def _title(failure: Failure) -> str:
    if failure.out_of_memory:
        return _("Not enough memory")
    titles = {
        "BundleError": _("The model cannot be used"),
        "Cancelled": _("Stopped"),
        "ConfigError": _("A setting is not possible"),
        "Crashed": _("The engine ended unexpectedly"),
        "DeviceError": _("The device cannot be used"),
        "DivergenceError": _("The refinement went astray"),
        "FailedToStart": _("The engine did not start"),
        "GeometryError": _("The geometry of this volume cannot be used"),
        "Hung": _("The engine does not answer"),
        "ImportError": _("A Python package is missing or damaged"),
        "ModuleNotFoundError": _("A Python package is missing"),
        "NoExtension": _("PyTorch is not installed"),
        "OutputError": _("The result cannot be written"),
        "PackageMissing": _("A Python package is missing"),
        "RestartNeeded": _("Please restart Slicer"),
        "TorchMissing": _("PyTorch is not installed"),
        "VolumeError": _("This volume cannot be used"),
        "WorkerError": _("The engine did not understand"),
    }
    return titles.get(failure.kind, _("This did not work"))


def _actions(failure: Failure) -> tuple[Action, ...]:
    if failure.out_of_memory:
        return _memory_actions(failure)
    if failure.kind in ("ImportError", "ModuleNotFoundError", "TorchMissing"):
        return (Action("install", _("Install PyTorch")),)
    if failure.kind == "DeviceError" and failure.asked.get("device") not in (None, "cpu"):
        return (Action("cpu", _("Use the CPU")),)
    if failure.kind == "Hung":
        return (Action("stop-engine", _("Stop the engine")),)
    return ()


def _memory_actions(failure: Failure) -> tuple[Action, ...]:
    """What was not tried yet; the gentler first: a graphics card with less memory is faster than no graphics card."""
    actions = []
    if not failure.asked.get("low_memory"):
        actions.append(Action("low-memory", _("Less memory")))
    if failure.asked.get("device") != "cpu":
        actions.append(Action("cpu", _("Use the CPU")))
    return tuple(actions)


def _sentence(text: str) -> str:
    """Escaped, with a capital letter and a full stop, lines kept."""
    text = text.strip()
    text = text[:1].upper() + text[1:]
    if text and text[-1] not in ".!?:":
        text += "."
    return html.escape(text).replace("\n", "<br>")


def _versions(engine: Any) -> list[str]:
    about: Mapping[str, Any] = getattr(engine, "about", {})
    devices = ", ".join(str(device.get("title", device.get("name"))) for device in getattr(engine, "devices", ()))
    return [
        f"Slicer: {getattr(slicer.app, 'applicationVersion', '?')} (revision {getattr(slicer.app, 'revision', '?')})",
        f"Module: {__version__}, engine: {about.get('version', 'not started')}",
        f"torch: {about.get('torch') or _installed('torch')}, numpy: {_installed('numpy')}",
        f"Python: {about.get('python') or platform.python_version()}, system: {platform.platform()}",
        f"Devices: {devices or 'not known'}",
    ]


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _asked(failure: Failure) -> str:
    if not failure.do:
        return "nothing"
    fields = {key: failure.asked[key] for key in _TOLD if failure.asked.get(key) is not None}
    image = failure.asked.get("image")
    if isinstance(image, Mapping) and isinstance(image.get("grid"), Mapping):
        # Where the scan lies in space and what it is called is nobody's business
        fields["image"] = {key: image["grid"].get(key) for key in ("shape", "spacing", "direction")}
    return f"{failure.do} {json.dumps(fields, default=str)}"
