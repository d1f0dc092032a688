"""States that the worker keeps of its results, so that a program can go back to an earlier one and on from there."""

from __future__ import annotations

import uuid
import weakref
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from .bundle import Bundle
from .result import Result, State, Trace
from .volume import Volume

#: States that are kept, and their bytes; the oldest ones make room.
MOST_STATES, MOST_STATE_BYTES = 48, 1 << 30


@dataclass(frozen=True, eq=False)
class KeptState:
    """What of a result cannot be worked out again from its case's one-pass result.

    Attributes:
        case: the case's name.
        bundle: the model that it is of; another one, be it a newer version, could do nothing with it.
        state: velocity and affine parameters, and weights where these were adapted.
        target: what the atlas was last fitted to, where it was not the prediction.
        trace: course of the refinement; None of a one-pass result.
    """

    case: str
    bundle: weakref.ref[Bundle]
    state: State
    target: Volume | None
    trace: Trace | None

    @property
    def size(self) -> int:
        """Bytes."""
        tensors = [self.state.velocity, self.state.affine, *(self.state.weights or {}).values()]
        found = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))
        return found + (0 if self.target is None else self.target.array.nbytes)


class States:
    """States by names that no other one ever has, not in another process either."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, KeptState] = OrderedDict()

    def keep(self, case: str, bundle: Bundle, result: Result) -> str:
        """Keep the state of a result; gives its name."""
        name = uuid.uuid4().hex
        self._states[name] = KeptState(case, weakref.ref(bundle), result.state, result.target, result.trace)
        while len(self._states) > 1 and (
            len(self._states) > MOST_STATES or sum(kept.size for kept in self._states.values()) > MOST_STATE_BYTES
        ):
            self._states.popitem(last=False)
        return name

    def find(self, case: str, bundle: Bundle, name: str) -> KeptState | None:
        """A state of a case by a model; None where it is not kept any more."""
        kept = self._states.get(name)
        return kept if kept is not None and kept.case == case and kept.bundle() is bundle else None

    def forget(self, case: str) -> None:
        """Let go of all states of a case."""
        for name in [name for name, kept in self._states.items() if kept.case == case]:
            del self._states[name]

    def clear(self) -> None:
        """Let go of everything."""
        self._states.clear()


__all__ = ["MOST_STATES", "MOST_STATE_BYTES", "KeptState", "States"]
