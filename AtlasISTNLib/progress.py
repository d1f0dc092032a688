"""Progress events: how long work tells its caller where it is, and asks whether to go on.

Every function that takes long has two arguments, `report` and `cancel`. `report` is called with a `Progress` after each
step, in the thread that does the work; `cancel` is asked before each step and stops the work when it answers True.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import Cancelled


@dataclass(frozen=True)
class Progress:
    """One step of a run.

    Attributes:
        stage: what is being done: "place", "predict", "register", "refine", "train", "write", …
        step: steps done so far, from 0 to `total`.
        total: steps of this stage; 0 when not known.
        values: figures of this step by name, such as the terms of a loss.
        message: a short sentence for people; may be empty.
        preview: called without arguments, gives the current state of the work (a `Correspondence` while refining) at
            the cost of computing it; None where there is nothing to see. Valid only during the call of `report`.
        more: called without arguments, gives further figures of this step at the cost of computing them: while
            refining, "folding" (share of the model grid's cells that are turned inside out); None where there are none.
            Valid only during the call of `report`.
    """

    stage: str
    step: int = 0
    total: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    preview: Callable[[], Any] | None = field(default=None, compare=False, repr=False)
    more: Callable[[], Mapping[str, float]] | None = field(default=None, compare=False, repr=False)


Report = Callable[[Progress], None]
Cancel = Callable[[], bool]


def silent(progress: Progress) -> None:
    """A `report` that tells nobody."""


def never() -> bool:
    """A `cancel` that never stops the work."""
    return False


def stop_if(cancel: Cancel, what: str) -> None:
    """Raise `Cancelled` when the caller wants to stop and there is no partial result to keep."""
    if cancel():
        raise Cancelled(f"{what} was cancelled", "nothing was changed")
