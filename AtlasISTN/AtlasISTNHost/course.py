"""The course of a refinement: its loss step by step, over all runs that went on from one another. No widgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from AtlasISTNLib.configs import RefineConfig, from_dict

#: Steps of earlier runs that are kept; of more, the latest.
MOST_STEPS = 3000


@dataclass(frozen=True)
class Point:
    """The loss at one step.

    Attributes:
        step: over all runs that went on from one another.
        total: L*.
        a2s, s2a, reg, landmarks: its parts, weights included, which add up to it.
    """

    step: int
    total: float
    a2s: float
    s2a: float
    reg: float
    landmarks: float = 0.0


class Course:
    """Grows with the events of a refinement.

    Attributes:
        starts: the steps at which a run went on from the one before.
        folding: share of the atlas's cells that are turned inside out, as last heard; None before.
        changes: grows with every change.
    """

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.folding: float | None = None
        self.changes = 0
        self._earlier: list[Point] = []
        self._run: list[Point] = []
        self._weights = (1.0, 0.0, 0.0)

    @property
    def points(self) -> list[Point]:
        """By step."""
        return [*self._earlier, *self._run]

    def clear(self) -> None:
        """Forget everything."""
        self._earlier, self._run, self.starts, self.folding = [], [], [], None
        self.changes += 1

    def begin(self, config: RefineConfig, own_strength: float, goes_on: bool) -> None:
        """A run begins.

        Args:
            config: of the run.
            own_strength: the model's own λ*, where the config has none.
            goes_on: whether it begins where the last one ended.
        """
        if not goes_on:
            self.clear()
        self._earlier, self._run = self.points[-MOST_STEPS:], []
        if self._earlier:
            self.starts = [start for start in self.starts if start > self._earlier[0].step] + [self._first]
        strength = own_strength if config.strength is None else config.strength
        self._weights = (config.beta, config.gamma, strength)
        self.changes += 1

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """A step's figures, as the engine tells them while it refines; without any, nothing."""
        if values.get("folding") is not None:
            self.folding = float(values["folding"])
        self._put(step, [values.get(key) for key in ("total", "a2s", "s2a", "reg")])
        self.changes += 1

    def end(self, trace: Mapping[str, Any] | None) -> None:
        """A run is over: all of its steps, of which only some were told; None after one pass."""
        if trace is None:
            self.clear()
        if trace is None or not trace.get("steps"):
            return
        self._run = []
        for step in trace["steps"]:
            self._put(int(step[0]), step[1:5])
        self.changes += 1

    def show(self, trace: Mapping[str, Any] | None) -> None:
        """The course of an earlier result; None of one pass."""
        self.clear()
        if trace is not None:
            self.begin(from_dict(RefineConfig, trace["config"]), 0.0, goes_on=False)
            self.end(trace)

    @property
    def _first(self) -> int:
        """The step of this run's beginning."""
        return self._earlier[-1].step if self._earlier else 0

    def _put(self, step: int, figures: Sequence[Any]) -> None:
        if any(figure is None or not math.isfinite(figure) for figure in figures):
            return
        total = float(figures[0])
        parts = [weight * float(figure) for weight, figure in zip(self._weights, figures[1:], strict=True)]
        rest = total - sum(parts)  # the landmarks' part, or rounding
        self._run.append(Point(self._first + step, total, *parts, rest if rest > 1e-4 * abs(total) else 0.0))
