"""What slicer.util shows to the user, kept instead of shown: nothing waits for a click.

`shown` lists the messages; `answers` holds what the user clicks next, in order (else OK, and No or Cancel to questions,
so that nothing happens by default that a user had to confirm).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import slicer

STANDARD_BUTTONS = {"Ok": 0x400, "Yes": 0x4000, "No": 0x10000, "Cancel": 0x400000, "Retry": 0x80000, "Close": 0x200000}


@dataclass(frozen=True)
class Shown:
    """One message: kind is "info", "warning", "error", "question", "message", "delay" or "status"."""

    kind: str
    text: str
    title: str = ""
    details: str = ""
    answer: Any = None


shown: list[Shown] = []
answers: deque[Any] = deque()


def forget() -> None:
    """For the start of a test."""
    shown.clear()
    answers.clear()


def texts(*kinds: str) -> list[str]:
    """The texts of all messages, or of those kinds."""
    return [message.text for message in shown if not kinds or message.kind in kinds]


def show(kind: str, text: str, *, title: str | None = None, default: Any = None, **more: Any) -> Any:
    """Keep a message and give the user's answer to it."""
    question = kind in ("question", "message")
    answer = answers.popleft() if question and answers else default
    shown.append(Shown(kind, str(text), title or "", str(more.get("detailedText") or ""), answer))
    return answer


def infoDisplay(text, windowTitle=None, parent=None, standardButtons=None, **kwargs) -> Any:
    return show("info", text, title=windowTitle, default=STANDARD_BUTTONS["Ok"], **kwargs)


def warningDisplay(text, windowTitle=None, parent=None, standardButtons=None, **kwargs) -> Any:
    return show("warning", text, title=windowTitle, default=STANDARD_BUTTONS["Ok"], **kwargs)


def errorDisplay(text, windowTitle=None, parent=None, standardButtons=None, **kwargs) -> Any:
    return show("error", text, title=windowTitle, default=STANDARD_BUTTONS["Ok"], **kwargs)


def confirmOkCancelDisplay(text, windowTitle=None, parent=None, **kwargs) -> bool:
    return _confirm(text, windowTitle, kwargs)


def confirmYesNoDisplay(text, windowTitle=None, parent=None, **kwargs) -> bool:
    return _confirm(text, windowTitle, kwargs)


def confirmRetryCloseDisplay(text, windowTitle=None, parent=None, **kwargs) -> bool:
    return _confirm(text, windowTitle, kwargs)


def _confirm(text: str, title: str | None, more: dict[str, Any]) -> bool:
    """In testing mode Slicer answers yes by itself."""
    return bool(show("question", text, title=title, default=bool(slicer.app.testingEnabled()), **more))


def messageBox(text, parent=None, **kwargs) -> Any:
    title = kwargs.pop("windowTitle", None)
    return show("message", text, title=title, default=STANDARD_BUTTONS["Ok"], **kwargs)


def delayDisplay(message, autoCloseMsec=1000, parent=None, **kwargs) -> None:
    show("delay", message)
    slicer.app.processEvents()


def showStatusMessage(message, duration=0) -> bool:
    show("status", message)
    return True


def install() -> None:
    """Put these in the place of slicer.util's functions of the same names."""
    for function in (infoDisplay, warningDisplay, errorDisplay, messageBox, delayDisplay, showStatusMessage):
        setattr(slicer.util, function.__name__, function)
    for function in (confirmOkCancelDisplay, confirmYesNoDisplay, confirmRetryCloseDisplay):
        setattr(slicer.util, function.__name__, function)
