"""All stand-ins of ctk's and Slicer's widgets by name."""

from __future__ import annotations

import functools

from . import ctk_collapsing, ctk_controls, ctk_values, mrml_base, mrml_selectors, mrml_widgets
from .stored import Recorded

ROOMS = (ctk_collapsing, ctk_controls, ctk_values, mrml_base, mrml_selectors, mrml_widgets)


@functools.cache
def every() -> dict[str, type]:
    """Name -> class, of all that stand in."""
    found = {}
    for room in ROOMS:
        for name, value in vars(room).items():
            if name.startswith(("ctk", "qMRML", "qSlicer")) and isinstance(value, type) and issubclass(value, Recorded):
                found[name] = value
    return found


def find(name: str) -> type | None:
    """The class that stands for ctk's or Slicer's of that name."""
    return every().get(name)
