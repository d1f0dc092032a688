"""What tests of the engine's client need: an ear for callbacks, waiting in Qt's event loop, looking after processes.

Imports the module's rooms; start the stand-in first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import standin
from AtlasISTNHost import jobs
from AtlasISTNHost.engine import Engine, Failure

PATIENCE = 60.0  # seconds; the machine may be busy


class Heard:
    """What an engine told, in order."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.told: list[tuple[str, Any]] = []

    def on_state(self, state: str) -> None:
        self.states.append(state)

    def on_progress(self, event: Any) -> None:
        self.told.append(("progress", event))

    def on_preview(self, event: Any) -> None:
        self.told.append(("preview", event))

    def on_result(self, event: Any) -> None:
        self.told.append(("result", event))

    def on_error(self, failure: Failure) -> None:
        self.told.append(("error", failure))

    def of(self, kind: str) -> list[Any]:
        return [what for name, what in self.told if name == kind]

    @property
    def failures(self) -> list[Failure]:
        return self.of("error")

    @property
    def over(self) -> bool:
        return bool(self.of("result")) or any(failure.over for failure in self.failures)

    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        names = ("on_progress", "on_preview", "on_result", "on_error")
        return {name: getattr(self, name) for name in names}


def processes_of(engine: Engine) -> list[int]:
    """The worker's process and that of its launcher."""
    return [pid for pid in (engine.pid, engine._process.launched if engine._process else 0) if pid]


def gone(pids: list[int]) -> bool:
    return standin.wait_until(lambda: not any(jobs.is_alive(pid) for pid in pids), timeout=PATIENCE)


def wait(condition: Callable[[], Any]) -> None:
    assert standin.wait_until(lambda: bool(condition()), timeout=PATIENCE)


def ask(engine: Engine, heard: Heard, do: str, **fields: Any) -> Heard:
    """Ask and wait for the end."""
    heard.told.clear()
    assert engine.request(do, fields, **heard.callbacks()) > 0
    wait(lambda: heard.over)
    return heard
