"""An engine's client without an engine, for tests: keeps what it was asked and answers when the test says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeEngine:
    """Answers at once where `at_once` gives kind and value for a request; takes requests while `state` is "idle"."""

    at_once: Callable[[str, dict], tuple[str, Any] | None] = lambda do, fields: None
    stopped_as: Any = None
    state: str = "idle"
    asked: list[tuple[str, dict]] = field(default_factory=list)
    cancelled: int = 0
    briefly: int = 0
    stopped: int = 0
    told: Any = None

    def request(self, do: str, fields: dict, **told: Any) -> int:
        json.dumps(fields, allow_nan=False)  # what the real one demands
        if self.state != "idle":
            return 0
        self.asked.append((do, fields))
        self.told = told
        answer = self.at_once(do, fields)
        if answer is not None:
            self.answer(*answer)
        return len(self.asked)

    def tell(self, kind: str, what: Any) -> None:
        """Tell something while the request goes on: "progress", "preview", or an "error" that is not its end."""
        self.told[f"on_{kind}"](what)

    def answer(self, kind: str, what: Any) -> None:
        """End the request with a "result" or an "error"."""
        told, self.told = self.told, None
        told[f"on_{kind}"](what)

    def progress(self, **event: Any) -> None:
        self.tell("progress", event)

    def cancel(self, brief: bool = False) -> None:
        self.cancelled += 1
        self.briefly += brief

    def stop(self, wait_ms: int = 0) -> None:
        self.stopped += 1
        if self.told and self.stopped_as is not None:
            self.answer("error", self.stopped_as)
