"""A stand-in for 3D Slicer, to run a scripted module's panel in tests: PySide with PythonQt's manners, and real MRML.

    import standin
    app = standin.start()                        # qt, ctk, slicer.app, slicer.modules … are there from now on
    opened = standin.open_module("…/AtlasISTN.py")
    standin.click(opened.widget.ui.applyButton)
    assert standin.slot_errors == []

Held to what was recorded in a running Slicer (folder record/). Rooms that need only the scene come without Qt:
`from standin.mrml import make_scene`.
"""

from __future__ import annotations

import importlib
from typing import Any

# Name -> room. Nothing is imported before it is asked for, so that tests of scene code never load Qt.
_ROOMS = {
    "start": "host",
    "open_module": "host",
    "process_events": "host",
    "wait_until": "host",
    "click": "host",
    "ClickError": "host",
    "grab": "host",
    "is_alive": "host",
    "slot_errors": "signals",
    "dialogs": "",
    "messages": "",
    "application": "",
    "opened_urls": "dialogs",
    "asked": "dialogs",
    "answer": "dialogs",
    "UnansweredDialogError": "dialogs",
    "close_module": "scripted_module",
    "packages": "",
    "segment_editor": "",
    "picture": "views",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'standin' has no attribute '{name}'")
    room = _ROOMS[name]
    if not room:
        return importlib.import_module(f".{name}", __name__)
    return getattr(importlib.import_module(f".{room}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
