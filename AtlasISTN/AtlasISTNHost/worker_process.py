"""The engine's process: how it is found and started, lines in, lines out, log, end. Knows nothing of requests."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

import AtlasISTNLib
from AtlasISTNLib.errors import WorkerError

#: Names a Python in which AtlasISTN and torch are installed, to be used in place of Slicer's.
PYTHON_VARIABLE = "ATLASISTN_PYTHON"
#: Lines of the log that are kept.
LOG_LINES = 200
_LOG_WIDTH = 2000  # characters
_LONGEST = 8 << 20  # bytes of a line; an event is a few kilobytes
#: What PythonSlicer, a launcher, writes last when what it launched has crashed. It then ends itself with exit code 1.
_LAUNCHER_SAW_CRASH = "exit abnormally"

_log = logging.getLogger(__name__)


def python_path() -> str:
    """The Python to start the engine with: that of ATLASISTN_PYTHON, else Slicer's own.

    Raises:
        WorkerError: there is none.
    """
    chosen = os.environ.get(PYTHON_VARIABLE, "").strip()
    if chosen:
        return chosen
    # Slicer sets sys.executable to PythonSlicer and puts it on PATH; embedded builds may leave the application there,
    # and starting that would open a second Slicer.
    if sys.executable and Path(sys.executable).stem.lower().startswith("python"):
        return sys.executable
    home = getattr(slicer.app, "slicerHome", "")
    found = shutil.which("PythonSlicer") or (
        shutil.which("PythonSlicer", path=os.path.join(home, "bin")) if home else None
    )
    if not found:
        raise WorkerError(
            _("Slicer's Python (PythonSlicer) was not found"),
            _("set the environment variable {name} to a Python that has PyTorch").format(name=PYTHON_VARIABLE),
        )
    return found


def worker_command() -> list[str]:
    """Program and arguments of the engine.

    Raises:
        WorkerError: there is no Python to start it with.
    """
    return [python_path(), "-m", "AtlasISTNLib", "worker"]


def worker_environment(extra: Mapping[str, str] | None = None) -> Any:
    """The engine's environment, a QProcessEnvironment; `extra` is set on top.

    PythonSlicer is a launcher that sets its own paths, so both the environment of Slicer (as
    slicer.util.executePythonModule and SlicerNNUnet pass) and the one from before Slicer's start (as TotalSegmentator
    passes) work with it; the first is passed because it has what the user or another module set in Slicer. A foreign
    Python must see nothing of Slicer's PYTHONHOME and libraries and gets the second.
    """
    if os.environ.get(PYTHON_VARIABLE, "").strip() and hasattr(slicer.app, "startupEnvironment"):
        environment = slicer.app.startupEnvironment()
    else:
        environment = qt.QProcessEnvironment.systemEnvironment()
    # Slicer's folder of scripted modules is not on PythonSlicer's path
    paths = [str(Path(AtlasISTNLib.__file__).resolve().parent.parent), environment.value("PYTHONPATH", "")]
    environment.insert("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    environment.insert("PYTHONIOENCODING", "utf-8")  # else the log of a Windows worker is in the system's code page
    for name, value in (extra or {}).items():
        environment.insert(name, value)
    return environment


class Lines:
    """Bytes as they come from a pipe → complete lines of text.

    Args:
        ends: bytes that end a line.
    """

    def __init__(self, ends: bytes = b"\n") -> None:
        self._ends = ends
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now; what follows the last one waits, so that no character is cut in two."""
        self._rest += data
        for end in self._ends[1:]:
            self._rest = self._rest.replace(bytes((end,)), self._ends[:1])
        *lines, self._rest = self._rest.split(self._ends[:1])
        if len(self._rest) > _LONGEST:
            lines.append(self._rest)
            self._rest = bytearray()
        return [text for text in (line.decode("utf-8", errors="replace").strip() for line in lines) if text]

    def close(self) -> list[str]:
        """The last line, where it was not ended."""
        return self.feed(self._ends[:1])


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        started: whether it ever ran.
        crashed: whether it was ended by the system or by a signal.
        code: exit code; of a crash the signal, where the system has signals, or 0 where only a launcher knows it.
        text: Qt's words; of a process that never ran.
    """

    started: bool
    crashed: bool = False
    code: int = 0
    text: str = ""


class WorkerProcess:
    """One process. Neither callback may do more than take note: they are called inside of Qt's signals.

    Args:
        command: program and arguments.
        environment: a QProcessEnvironment.
        on_event: called with each JSON object that the process wrote to its standard output.
        on_end: called once, when the process is gone.

    Attributes:
        log: the last lines that the process wrote to standard error, and anything on standard output that was no event.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Any,
        on_event: Callable[[dict[str, Any]], None],
        on_end: Callable[[WorkerProcess, End], None],
    ) -> None:
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self._command = [str(part) for part in command]
        self._on_event, self._on_end = on_event, on_end
        self._out, self._error = Lines(), Lines(b"\n\r")
        self._ended = False
        self._process = qt.QProcess()
        self._process.setProcessChannelMode(qt.QProcess.SeparateChannels)
        self._process.setProcessEnvironment(environment)
        # Strings, because finished() is overloaded in Qt 5
        self._process.connect("readyReadStandardOutput()", self._read_output)
        self._process.connect("readyReadStandardError()", self._read_log)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._failed)

    def start(self) -> None:
        """Start it; what comes of it is told by the callbacks."""
        self._process.start(self._command[0], self._command[1:])

    @property
    def launched(self) -> int:
        """The pid of what was started: a launcher's, where the program is one; 0 before and after."""
        return int(self._process.processId()) if not self._ended else 0

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one JSON line. Qt buffers it: a process that does not read never blocks Slicer."""
        if not self._ended:
            self._process.write(json.dumps(message, allow_nan=False).encode("ascii") + b"\n")

    def quit(self) -> None:
        """Ask it to end, by message and by the end of its input."""
        if not self._ended:
            self.send({"id": 0, "do": "quit"})
            self._process.closeWriteChannel()

    def wait(self, wait_ms: int) -> bool:
        """Block until it is gone, at most this long; True when it is."""
        return self._ended or bool(self._process.waitForFinished(wait_ms)) or self._ended

    def kill(self, pid: int) -> None:
        """End it by force.

        Args:
            pid: what the worker said about itself; 0 when it said nothing. PythonSlicer is a launcher: to kill only
                what was started would leave the worker behind.
        """
        if self._ended:
            return
        if pid > 0:
            kill(pid)
        self._process.kill()

    def release(self) -> None:
        """Let go of Qt's object, whose connections would keep this one alive. Not inside of one of its signals."""
        if self._ended:  # the destructor of one that runs blocks
            self._process.deleteLater()

    def _read_output(self) -> None:
        self._take(self._out.feed(self._process.readAllStandardOutput().data()))

    def _read_log(self) -> None:
        for line in self._error.feed(self._process.readAllStandardError().data()):
            self._note(line)

    def _take(self, lines: Sequence[str]) -> None:
        for line in lines:
            event = _event(line)
            if event is None:
                self._note(line)
            else:
                self._on_event(event)

    def _note(self, line: str) -> None:
        self.log.append(line[:_LOG_WIDTH])

    def _finished(self, code: int, status: Any) -> None:
        self._read_output()
        self._take(self._out.close())
        self._read_log()
        for line in self._error.close():
            self._note(line)
        if status == qt.QProcess.NormalExit and code and any(_LAUNCHER_SAW_CRASH in line for line in [*self.log][-3:]):
            self._end(End(True, crashed=True))
        else:
            self._end(End(True, status == qt.QProcess.CrashExit, int(code)))

    def _failed(self, error: Any) -> None:
        # All other errors are followed by finished()
        if error == qt.QProcess.FailedToStart:
            self._end(End(False, text=f"{self._command[0]}: {self._process.errorString()}"))

    def _end(self, end: End) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(self, end)


def kill(pid: int) -> None:
    """End a process by force, if it is there."""
    with contextlib.suppress(OSError):
        # Windows has no signals: os.kill ends the process whatever the number, but 0 and 1
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def _event(line: str) -> dict[str, Any] | None:
    """The event that a line holds; None when it is something else, as a library's print."""
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None
