"""The engine's client: starts the worker when it is needed, asks, hears, cancels, stops. It never blocks Slicer."""

from __future__ import annotations

import inspect
import json
import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import qt
from slicer.i18n import tr as _

from AtlasISTNLib.errors import AtlasISTNError

from .inbox import Inbox
from .messages import Failure, failure_of, failure_of_end, failure_of_event
from .worker_process import End, WorkerProcess, worker_command, worker_environment

#: Milliseconds between two looks at the clock.
TICK_MS = 500

_log = logging.getLogger(__name__)

Event = Mapping[str, Any]
Callback = Callable[[Any], Any]


@dataclass(frozen=True)
class Limits:
    """How long the engine is waited for, in seconds of Slicer's own time: a Slicer that is blocked, or a computer that
    sleeps, does not count.

    Attributes:
        start: until it is ready; torch is a gigabyte to read, from a slow disk too.
        silence: without a sign of life while it works; it gives one every 2 s.
        cancel: until a cancelled request is over.
        quit: without a sign of life after it was asked to end; then it is ended by force.
        end: until it has ended on request, with signs of life: it may be writing what belongs to the user.
    """

    start: float = 180.0
    silence: float = 30.0
    cancel: float = 10.0
    quit: float = 4.0
    end: float = 65.0


@dataclass
class _Request:
    """A request that is not over."""

    number: int
    do: str
    fields: Mapping[str, Any]
    callbacks: Mapping[str, Callable[[], Callback | None]]
    cancelling: float | None = None  # seconds since it was cancelled
    warned_cancel: bool = False
    warned_silence: bool = False


class Engine:
    """Owner of the worker's process, and of nothing else.

    All callbacks are called in Qt's thread, never inside a call of one of these methods (but `on_state`) and never one
    inside another. A callback that is a bound method is held weakly: when its owner is gone it is left out. Whoever
    asks therefore keeps the object whose methods it passes.

    Args:
        command: program and arguments of the worker; by default Slicer's Python with `-m AtlasISTNLib worker`.
        environment: variables to set for it on top of Slicer's own.
        on_state: called with the new state after each change.
        limits: how long it is waited for.

    Attributes:
        devices: what the worker can compute on, as it said when it started: mappings with "name", "title", "memory_mb".
        about: "version", "torch" and "python", as it said when it started.
        pid: of the worker; 0 when it is off or has not said it yet.
        failure: why the last start failed; None when it went well.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        on_state: Callback | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.devices: tuple[Mapping[str, Any], ...] = ()
        self.about: dict[str, str] = {}
        self.pid = 0
        self.failure: Failure | None = None
        self._command, self._environment = command, dict(environment or {})
        self._on_state = _weakly(on_state)
        self._limits = limits or Limits()
        self._state = self._told = "off"
        self._number = 0
        self._request: _Request | None = None
        self._process: WorkerProcess | None = None
        self._log: Sequence[str] = ()
        self._inbox = Inbox(self._tell)
        self._since = 0.0  # seconds in this state, or since the last sign of life while busy or stopping
        self._ending = 0.0  # seconds since it was asked to end
        self._looked = 0.0
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._tick)

    @property
    def state(self) -> str:
        """ "off", "starting", "idle", "busy" or "stopping"."""
        return self._state

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines of the worker's log; those of the last worker while there is none."""
        return tuple(self._log)

    def start(self) -> None:
        """Start the worker where it is off, so that its devices are known and the first request need not wait."""
        if self._state == "off":
            self._launch()
            self._tell()

    def request(
        self,
        do: str,
        fields: Mapping[str, Any],
        *,
        on_progress: Callback | None = None,
        on_preview: Callback | None = None,
        on_result: Callback | None = None,
        on_error: Callback | None = None,
    ) -> int:
        """Ask the worker for something; it is started where it is off.

        Args:
            do: the name of the request.
            fields: its fields, plain values for JSON.
            on_progress: called with each event "progress"; while the worker starts, with stage "start" and a message.
            on_preview: called with each event "preview".
            on_result: called with the event "result". The request is over then.
            on_error: called with a `Failure`. The request is over then, unless the failure says that it is not.

        Returns:
            The request's number; 0 when it was refused because another one is not over or the worker is being stopped.

        Raises:
            TypeError: the fields are not plain values.
            ValueError: they hold a number that is none.
        """
        if self._request is not None or self._state == "stopping":
            return 0
        json.dumps(fields, allow_nan=False)
        self._number += 1
        told = {"progress": on_progress, "preview": on_preview, "result": on_result, "error": on_error}
        callbacks = {name: _weakly(callback) for name, callback in told.items()}
        self._request = _Request(self._number, do, dict(fields), callbacks)
        number = self._number
        if self._state == "off":
            self._launch()
        elif self._state == "idle":
            self._send_request()
        self._tell()
        return number

    def cancel(self, brief: bool = False) -> None:
        """Ask the worker to stop what it does; its answer comes as any other, as a result or as an error.

        Args:
            brief: of a refinement only the state is to be kept, for the next one to go on from.
        """
        request = self._request
        if request is None or request.cancelling is not None:
            return
        request.cancelling = 0.0
        if self._state == "busy" and self._process is not None:
            self._number += 1
            self._process.send({"id": self._number, "do": "cancel", "target": request.number, "brief": brief})
        else:  # not sent yet
            self._request = None
            self._inbox.add(partial(self._fail, request, Failure("Cancelled", _("The request was cancelled"))))

    def stop(self, wait_ms: int = 0) -> None:
        """End the worker: by message, then by the end of its input, then by force.

        A request that is not over fails with kind "Cancelled".

        Args:
            wait_ms: 0 returns at once and leaves the rest to timers. More blocks until the worker is gone, at most this
                long and half a second for the force; for when there will be no more timers. No callbacks then.
        """
        request, self._request = self._request, None
        if request is not None and not wait_ms:
            self._inbox.add(partial(self._fail, request, Failure("Cancelled", _("The engine was stopped"))))
        if self._process is not None:
            if self._state != "stopping":
                self._ask_to_end(self._process)
            if wait_ms:
                self._wait(self._process, wait_ms)
        elif self._state != "off":
            self._enter("off")  # it was about to fail to start
        if wait_ms:
            self._inbox.clear()
        self._tell()

    # Private: the worker's life

    def _launch(self) -> None:
        self.failure, self._log = None, ()
        self._enter("starting")
        try:
            command = list(self._command or worker_command())
        except AtlasISTNError as error:
            self._inbox.add(partial(self._lost, replace(failure_of(error), kind="FailedToStart")))
            return
        process = WorkerProcess(command, worker_environment(self._environment), self._hear, self._on_end)
        self._process, self._log = process, process.log
        self._looked = time.monotonic()
        self._timer.start(TICK_MS)
        process.start()
        self._say_starting()

    def _wait(self, process: WorkerProcess, wait_ms: int) -> None:
        if not process.wait(wait_ms):
            process.kill(self.pid)
            if not process.wait(500):
                _log.warning("the engine's process %d could not be ended", process.launched)
        self._forget_process()

    def _ask_to_end(self, process: WorkerProcess) -> None:
        self._enter("stopping")
        self._ending = 0.0
        process.quit()

    def _forget_process(self) -> None:
        if self._process is not None:
            self._process.release()
        self._process, self.pid = None, 0
        self._timer.stop()
        self._enter("off")

    def _hear(self, event: dict[str, Any]) -> None:
        # Inside of a signal of Qt: only take note. A dialogue that a callback opens must not run in here.
        if self._state in ("busy", "stopping"):
            self._since = 0.0
        self._inbox.add(partial(self._handle, self._process, event))

    def _on_end(self, process: WorkerProcess, end: End) -> None:
        self._inbox.add(partial(self._ended, process, end))

    def _ended(self, process: WorkerProcess, end: End) -> None:
        if process is not self._process:
            return
        expected = self._state == "stopping"
        self._forget_process()
        if not expected:
            self._lost(failure_of_end(end.started, end.crashed, end.code, end.text))

    def _lost(self, failure: Failure) -> None:
        """There is no worker any more."""
        if self._state == "starting":
            self._enter("off")
        self.failure = replace(failure, log=self.log)
        if self._request is not None:
            request, self._request = self._request, None
            self._fail(request, failure)

    # Private: what the worker says

    def _handle(self, process: WorkerProcess | None, event: dict[str, Any]) -> None:
        if process is not self._process or self._state == "stopping":
            return
        kind, request = event["event"], self._request
        if kind == "ready" and self._state == "starting":
            self._ready(event)
        elif kind == "error" and self._state == "starting":
            self._cannot_start(failure_of_event(event))
        elif request is None or self._state != "busy":
            return
        elif kind in ("progress", "preview") and event.get("id") == request.number:
            _call(request, kind, event)
        elif kind == "result" and event.get("id") == request.number:
            self._over()
            _call(request, "result", event)
        elif kind == "error" and event.get("id") in (None, request.number):
            # Without a number: the worker could not even read the request
            self._over()
            self._fail(request, failure_of_event(event))

    def _ready(self, event: Event) -> None:
        self.about = {key: str(event.get(key, "")) for key in ("version", "torch", "python")}
        devices = event.get("devices")
        self.devices = tuple(d for d in devices if isinstance(d, dict)) if isinstance(devices, list) else ()
        pid = event.get("pid")
        self.pid = pid if isinstance(pid, int) and pid > 1 and pid != os.getpid() else 0
        self._enter("idle")
        if self._request is not None:
            self._send_request()

    def _cannot_start(self, failure: Failure) -> None:
        if self._state == "starting" and self._process is not None:
            self._ask_to_end(self._process)
            self._lost(failure)

    def _send_request(self) -> None:
        assert self._process is not None
        assert self._request is not None
        request = self._request
        self._process.send({**request.fields, "id": request.number, "do": request.do})
        self._enter("busy")

    def _over(self) -> None:
        self._request = None
        self._enter("idle")

    def _fail(self, request: _Request, failure: Failure) -> None:
        _call(request, "error", replace(failure, log=self.log, do=request.do, asked=request.fields))

    # Private: time

    def _tick(self) -> None:
        now = time.monotonic()
        # A tick that comes late says that Slicer was blocked, not that the worker is slow
        passed = min(now - self._looked, 2 * TICK_MS / 1000)
        before, self._since, self._looked = self._since, self._since + passed, now
        if self._state == "starting":
            self._tick_starting(int(before) != int(self._since))
        elif self._state == "busy" and self._request is not None:
            self._tick_busy(self._request, passed)
        elif self._state == "stopping" and self._process is not None:
            self._ending += passed
            if self._since > self._limits.quit or self._ending > self._limits.end:
                self._process.kill(self.pid)

    def _tick_starting(self, speak: bool) -> None:
        if self._since > self._limits.start:
            message = _("The engine did not start within {seconds:.0f} s").format(seconds=self._limits.start)
            self._inbox.add(
                partial(self._cannot_start, Failure("FailedToStart", message, _("try again; see the report")))
            )
        elif speak:
            self._say_starting()

    def _say_starting(self) -> None:
        if self._request is not None:
            message = _("Starting the engine: loading PyTorch ({seconds:.0f} s)").format(seconds=self._since)
            event = {"event": "progress", "id": self._request.number, "stage": "start", "step": 0, "total": 0}
            event |= {"values": {}, "message": message, "seconds_left": None}
            self._inbox.add(partial(_call, self._request, "progress", event))

    def _tick_busy(self, request: _Request, passed: float) -> None:
        limits = self._limits
        if self._since < limits.silence:
            request.warned_silence = False
        elif not request.warned_silence:
            request.warned_silence = True
            text = _("The engine has given no sign of life for {seconds:.0f} s").format(seconds=limits.silence)
            self._inbox.add(partial(self._hung, request, text))
        if request.cancelling is not None:
            request.cancelling += passed
            if request.cancelling > limits.cancel and not request.warned_cancel:
                request.warned_cancel = True
                text = _("The engine has not stopped within {seconds:.0f} s").format(seconds=limits.cancel)
                self._inbox.add(partial(self._hung, request, text))

    def _hung(self, request: _Request, text: str) -> None:
        if request is self._request:  # it may have ended meanwhile
            hint = _("wait, or stop the engine: results so far stay, and the next run starts a new one")
            self._fail(request, Failure("Hung", text, hint, over=False))

    def _enter(self, state: str) -> None:
        self._state, self._since = state, 0.0

    def _tell(self) -> None:
        """Tell the state where it is another than what was told last."""
        if self._told != self._state:
            self._told = self._state
            callback = self._on_state()
            if callback is not None:
                callback(self._state)


def _weakly(callback: Callback | None) -> Callable[[], Callback | None]:
    """How to get at a callback later: a bound method only as long as its owner lives."""
    if callback is not None and inspect.ismethod(callback):
        return weakref.WeakMethod(callback)
    return lambda: callback


def _call(request: _Request, name: str, argument: Any) -> None:
    callback = request.callbacks[name]()
    if callback is not None:
        callback(argument)
