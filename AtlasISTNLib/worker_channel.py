"""The worker's channel: one JSON object a line, requests on standard input and events on standard output.

A thread reads, so that a cancellation arrives while work goes on; another one says every other second that the process
lives. When the input ends, as it does when whoever started the process is gone, the work is cancelled; and if it does
not stop soon, the process ends all the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import AtlasISTNError, WorkerError
from .strict_json import parse_json
from .terminal import plain

#: Seconds between two signs of life.
ALIVE_SECONDS = 2.0
#: Seconds that work has to stop when the process is to end.
GRACE_SECONDS = 2.0
#: Seconds more where it is writing what belongs to the user.
_WRITING_SECONDS = 60.0
#: A line of more bytes is no request.
LONGEST_LINE = 4 << 20
_BLOCK = 1 << 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What was asked for: the request's number, its name, and its fields by name."""

    number: int
    do: str
    fields: Mapping[str, Any]


class Channel:
    """Both directions, and whether the work at hand is to stop.

    Args:
        source, target: file descriptors of input and output; the channel owns them.
    """

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = source, target
        self._sending, self._writing, self._state = threading.Lock(), threading.Lock(), threading.Lock()
        self._stop, self._ended, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._brief = False
        self._queue: queue.Queue[Request | None] = queue.Queue()
        self._waiting: set[int] = set()
        self._cancelled: set[int] = set()
        self._current: int | None = None
        self._parent = os.getppid()

    @classmethod
    def on_standard_streams(cls) -> Channel:
        """Take over standard input and output: what anybody else prints goes to standard error from now on."""
        source, target = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        try:
            os.dup2(2, 1)
        except OSError:  # there is no standard error
            os.dup2(nothing, 1)
        os.close(nothing)
        return cls(source, target)

    def start(self) -> None:
        """Begin to read, and to give signs of life."""
        for work in (self._read, self._live):
            threading.Thread(target=work, daemon=True, name=f"worker{work.__name__}").start()

    def send(self, event: str, number: int | None = None, **values: Any) -> None:
        """One event; numbers that are not finite become null. If nobody listens any more, the work is to end."""
        text = json.dumps(plain({"id": number, "event": event, **values}), allow_nan=False)
        data = text.encode("ascii") + b"\n"
        try:
            with self._sending:
                while data:
                    data = data[os.write(self._target, data) :]
        except OSError:
            self.end()

    def next(self) -> Request | None:
        """Wait for the next request, which becomes the current one; None when there will be no more."""
        request = None if self._ended.is_set() else self._queue.get()
        with self._state:
            self._stop.clear()
            self._brief = False
            self._current = None if request is None else request.number
            if self._ended.is_set() or self._current in self._cancelled:
                self._stop.set()
        return None if self._ended.is_set() else request

    def done(self, request: Request) -> None:
        """The current request is over: a cancellation of it comes too late."""
        with self._state:
            self._current = None
            self._waiting.discard(request.number)
            self._cancelled.discard(request.number)

    def cancelled(self) -> bool:
        """Whether the current request is to stop."""
        return self._stop.is_set()

    def briefly(self) -> bool:
        """Whether whoever cancelled the current request wants no files, as it will go on from what was reached."""
        return self._brief

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A block that writes what belongs to the user, and is not to be broken off."""
        with self._writing:
            yield

    def close(self) -> None:
        """The work is over and the process may end by itself."""
        self._closed.set()

    def end(self) -> None:
        """Ask for the end: no more requests, the current one is to stop, and after a while the process ends."""
        with self._state:
            if self._ended.is_set():
                return
            self._ended.set()
            self._stop.set()
        self._queue.put(None)
        threading.Thread(target=self._leave, daemon=True, name="worker_leave").start()

    def _leave(self) -> None:
        if not self._closed.wait(GRACE_SECONDS):
            self._writing.acquire(timeout=_WRITING_SECONDS)
            os._exit(0)  # the main thread may be deep inside of a computation that asks nobody

    def _live(self) -> None:
        while not self._closed.wait(ALIVE_SECONDS):
            self.send("alive")
            if os.getppid() != self._parent:  # and perhaps somebody else still holds our input open
                self.end()

    def _read(self) -> None:
        try:
            for line in self._lines():
                self._hear(line)
        finally:
            self.end()

    def _lines(self) -> Iterator[bytes]:
        # From the descriptor: a thread that waits inside of a buffered stream stops Python from ending.
        kept, skipping = b"", False
        while not self._ended.is_set():
            try:
                block = os.read(self._source, _BLOCK)
            except OSError:
                return
            if not block:
                return
            *lines, kept = (kept + block).split(b"\n")
            yield from lines[skipping:]
            skipping = skipping and not lines
            if len(kept) > LONGEST_LINE and not skipping:
                self._refuse(WorkerError(f"a line of more than {LONGEST_LINE >> 20} MiB is no request"))
                skipping = True
            if skipping:
                kept = b""

    def _hear(self, line: bytes) -> None:
        if not line.strip():
            return
        number = None
        try:
            values = _object(line)
            number = _number(values, "id")
            do = values.get("do")
            if do == "cancel":
                self._cancel(_number(values, "target"), values.get("brief") is True)
            elif do == "quit":
                self.end()
            elif isinstance(do, str):
                fields = {key: value for key, value in values.items() if key not in ("id", "do")}
                with self._state:
                    self._waiting.add(number)
                self._queue.put(Request(number, do, fields))
            else:
                raise WorkerError(f"a request's 'do' is its name, not {_short(do)}")
        except AtlasISTNError as error:
            self._refuse(error, number)

    def _refuse(self, error: AtlasISTNError, number: int | None = None) -> None:
        _log.warning("a request was refused: %s", error)
        told = {"kind": type(error).__name__, "message": error.message, "hint": error.hint, "out_of_memory": False}
        self.send("error", number, **told)

    def _cancel(self, target: int, brief: bool) -> None:
        with self._state:
            if target == self._current:
                self._brief = self._brief if self._stop.is_set() else brief  # the first word holds
                self._stop.set()
            elif target in self._waiting:
                self._cancelled.add(target)


def _object(line: bytes) -> dict[str, Any]:
    try:
        values = parse_json(line.decode("utf-8"), "the request")
    except UnicodeDecodeError as error:
        raise WorkerError("a request is not text in UTF-8") from error
    if not isinstance(values, dict):
        raise WorkerError(f"a request is a JSON object, not {type(values).__name__}")
    return values


def _number(values: Mapping[str, Any], key: str) -> int:
    number = values.get(key)
    if not isinstance(number, int) or isinstance(number, bool):
        raise WorkerError(f"a request's '{key}' is a whole number, not {_short(number)}")
    return number


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


__all__ = ["ALIVE_SECONDS", "GRACE_SECONDS", "LONGEST_LINE", "Channel", "Request"]
