"""A client of the worker for tests: its process, what it says, and waiting for that."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
WORKER = (sys.executable, "-m", "AtlasISTNLib", "worker", "--threads", "1")
PATIENCE = 60.0
#: A refinement that lasts until it is stopped.
LONG = {"iterations": 100_000, "mode": "field"}


def refuse(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


class Worker:
    """A worker's process. What it says is kept in `events`; every line has to be strict JSON."""

    def __init__(self, command: tuple[str, ...] = WORKER, errors: int | None = None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        self.events: list[dict[str, Any]] = []
        self._queue: queue.Queue[bytes | None] = queue.Queue()
        self._number = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line)
        self._queue.put(None)

    def say(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def ask(self, do: str, **fields: Any) -> int:
        """Send a request; gives its number."""
        self._number += 1
        self.say(json.dumps({"id": self._number, "do": do, **fields}).encode())
        return self._number

    def hear(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Listen until an event is as wanted."""
        until = time.monotonic() + PATIENCE
        while True:
            line = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            assert line is not None, "the worker has ended"
            event = json.loads(line, parse_constant=refuse)
            self.events.append(event)
            if wanted(event):
                return event

    def ready(self) -> dict[str, Any]:
        return self.hear(lambda e: e["event"] == "ready")

    def answer(self, number: int) -> dict[str, Any]:
        """The result or error of a request."""
        return self.hear(lambda e: e["id"] == number and e["event"] in ("result", "error"))

    def result(self, do: str, **fields: Any) -> dict[str, Any]:
        found = self.answer(self.ask(do, **fields))
        assert found["event"] == "result", found
        return found

    def error(self, do: str, **fields: Any) -> dict[str, Any]:
        found = self.answer(self.ask(do, **fields))
        assert found["event"] == "error", found
        return found

    def step(self, number: int, stage: str, step: int = 0) -> None:
        """Listen until a request is at least so far."""
        self.hear(lambda e: e["id"] == number and e.get("stage") == stage and e["step"] >= step)

    def of(self, number: int, name: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["id"] == number and e["event"] == name]

    def stages(self, number: int) -> list[str]:
        return list(dict.fromkeys(e["stage"] for e in self.of(number, "progress")))

    def over(self, within: float = 10.0) -> int:
        """The exit code, once it has ended by itself."""
        return self.process.wait(within)

    def close(self) -> None:
        assert self.process.stdin is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.stdin.close()
        self.process.wait()


def running(code: str) -> tuple[str, ...]:
    """The command of a worker in a Python that first does something else."""
    return (sys.executable, "-c", f"{code}\nfrom AtlasISTNLib.worker import serve\nraise SystemExit(serve(1))")
