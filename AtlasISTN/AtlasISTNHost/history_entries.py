"""Entries of the history: what is known of one result of the engine without unpacking it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from slicer.i18n import tr as _

from . import measures

#: Loss terms of a step of a refinement, as a trace has them after the step's number.
TERMS = ("total", "a2s", "s2a", "reg")
#: What reading values of wrong kinds out of an attribute raises.
_WRONG = (AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Structure:
    """A structure's figures in a result.

    Attributes:
        value, name, color: as the model has them.
        volume: mL, in 2D mm².
        topology: in words, against the atlas's own.
    """

    value: int
    name: str
    color: tuple[int, int, int]
    volume: float
    topology: str


@dataclass(frozen=True)
class Entry:
    """A result in the history.

    Attributes:
        key: names the entry for good.
        number: counts the entries of its scan and model, from 1.
        name: what the user called it; empty before that.
        pinned: whether it is kept however many follow.
        time: when it was made, ISO 8601, local.
        refined: whether it is a refinement; one pass otherwise.
        config: of the refinement, with every default filled in; empty without one.
        own_rate: whether the learning rate was left to the mode.
        stopped: "finished", "cancelled" or "diverged"; empty without a refinement.
        start: what the refinement began at, "one-pass" or "current"; empty where nobody said.
        best: the step whose state was kept.
        losses: `TERMS` at that step, without their weights but for the total.
        steering: what steered it (see `AtlasISTNLib.steering.as_values`); empty where nothing did.
        landmarks: how many pairs of points pulled it.
        structures: volumes and topology.
        unit: of the volumes.
        folding: percent of the deformation that is folded, and in words.
        state: the engine's name of the state to go on from; empty where it gave none.
        notes: what the engine remarked.
        parent: key of the entry that was shown when this one was made; empty for none.
        following: key of the entry that redo leads to; empty for none.
        parts: keys of the packed parts by what they are.
    """

    key: str
    number: int
    name: str = ""
    pinned: bool = False
    time: str = ""
    refined: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    own_rate: bool = True
    stopped: str = ""
    start: str = ""
    best: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)
    steering: Mapping[str, Any] = field(default_factory=dict)
    landmarks: int = 0
    structures: tuple[Structure, ...] = ()
    unit: str = "mL"
    folding: tuple[float, str] = (0.0, "")
    state: str = ""
    notes: tuple[str, ...] = ()
    parent: str = ""
    following: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or _("{what} {number}").format(what=self.kind, number=self.number)

    @property
    def kind(self) -> str:
        """One pass or refined."""
        return _("Refined") if self.refined else _("One pass")

    def as_values(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def entry_of_values(values: Any) -> Entry | None:
    """The entry of plain values; None where they are damaged."""
    try:
        found = Entry(**values)
        structures = tuple(Structure(**{**s, "color": tuple(s["color"])}) for s in found.structures)
        percent, words = found.folding
        return replace(
            found,
            number=int(found.number),
            structures=structures,
            folding=(float(percent), str(words)),
            notes=tuple(found.notes),
            parts=dict(found.parts),
        )
    except _WRONG:
        return None


def described(outcome: Any, entry: Entry) -> Entry:
    """An entry with everything that is told of a `results.Outcome` in the list."""
    table = measures.measure(outcome, "refined" if outcome.refined else "one-pass")
    structures = tuple(Structure(row.value, row.name, row.color, row.volume, row.topology) for row in table.rows)
    percent = float(outcome.figures["folding"]["percent"])
    found = replace(
        entry, refined=outcome.refined, structures=structures, unit=table.unit, folding=(percent, table.folding)
    )
    trace = outcome.trace
    if trace is None:
        return found
    best = int(trace["best"])
    step = next((step for step in trace["steps"] if int(step[0]) == best), None)
    return replace(
        found,
        config=dict(trace["config"]),
        stopped=str(trace["stopped"]),
        start=str(trace.get("start") or ""),
        best=best,
        losses={} if step is None else dict(zip(TERMS, map(float, step[1:5]), strict=True)),
        steering={key: value for key, value in (trace.get("steering") or {}).items() if value},
        landmarks=len(trace.get("landmarks") or ()),
    )


__all__ = ["TERMS", "Entry", "Structure", "described", "entry_of_values"]
