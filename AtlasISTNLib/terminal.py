"""What people and programs see of a command: progress, warnings, errors and events.

People get bars with the time left on a terminal and short lines elsewhere, both on stderr, and results on stdout.
Programs that ask for events get one JSON object a line on stdout, and nothing else there:

    {"event": "start", "command": …, "version": …}
    {"event": "image", "image": …, "folder": …}                 an image of a batch begins
    {"event": "setup", …}                                       what a training was found to be
    {"event": "progress", "image": …, "stage": …, "step": …, "total": …, "values": {…}, "message": …}
    {"event": "warning", "image": …, "message": …}
    {"event": "result", …}
    {"event": "error", "image": …, "type": …, "message": …, "hint": …}
    {"event": "end", "exit_code": …}
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, TextIO

from .errors import AtlasISTNError, Cancelled
from .progress import Progress, Report

#: Exit codes of every command.
FINE, UNEXPECTED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
#: Seconds between two lines of one stage where there is no terminal.
_LINE_EVERY = 10.0
#: Seconds that a stage without figures lasts at least to be worth a line.
_LEAST = 1.0


def process_number() -> int:
    """This process's number among those that `torchrun` started; 0 when it is alone or the first, which speaks."""
    number = os.environ.get("RANK", "0")
    return int(number) if number.isdecimal() else 0


def is_main() -> bool:
    """Whether this process is the one that speaks and writes."""
    return process_number() == 0


class Console:
    """Where a command speaks. Of many processes the first one does; the others tell only their errors, with a number.

    Args:
        events: for programs: JSON lines on stdout, no progress for people.
        quiet: only warnings and errors for people.
        debug: tracebacks of unexpected errors.
        hint: for errors that have none of their own.
    """

    def __init__(self, events: bool = False, quiet: bool = False, debug: bool = False, hint: str = "") -> None:
        self.events, self.quiet = events and is_main(), quiet or not is_main()
        self.debug, self.hint = debug, hint
        self._error = "error" if is_main() else f"error in process {process_number()}"
        self._out: TextIO = sys.stdout
        self._err: TextIO = sys.stderr
        self._shown: _Shown | None = None

    def event(self, kind: str, **values: Any) -> None:
        """One JSON line, if a program listens."""
        if self.events:
            text = json.dumps(plain({"event": kind, **values}), allow_nan=False)
            self._out.write(text + "\n")
            self._out.flush()

    def say(self, text: str = "") -> None:
        """A line of a result for people, on stdout."""
        if not (self.events or self.quiet):
            self._clear()
            self._out.write(text + "\n")
            self._out.flush()

    def note(self, text: str) -> None:
        """A line about the run for people, on stderr."""
        if not (self.events or self.quiet):
            self._complain(text)

    def data(self, text: str) -> None:
        """What the user asked to have on stdout, quiet or not; not together with events."""
        self._clear()
        self._out.write(text + "\n")
        self._out.flush()

    def warn(self, message: str, image: str | None = None) -> None:
        """Something the user should know; the work goes on."""
        self.event("warning", image=image, message=message)
        if is_main():
            self._complain(f"warning: {_about(image, message)}")

    def fail(self, error: AtlasISTNError, image: str | None = None) -> None:
        """An error, in one line with its hint."""
        hint = error.hint or self.hint
        self.event("error", image=image, type=type(error).__name__, message=error.message, hint=hint)
        self._complain(f"{self._error}: {_about(image, error.message)}" + (f" — {hint}" if hint else ""))

    def crash(self, error: BaseException, image: str | None = None) -> None:
        """An error that nobody foresaw, in one line; its traceback only when debugging."""
        message, hint = f"unexpected {type(error).__name__}: {error}", "run again with --debug to see where"
        self.event("error", image=image, type=type(error).__name__, message=message, hint=hint)
        if self.debug:
            self._complain("".join(traceback.format_exception(error)).rstrip(), one_line=False)
        self._complain(f"{self._error}: {_about(image, message)}" + ("" if self.debug else f" — {hint}"))

    @contextlib.contextmanager
    def progress(self, title: str, image: str | None = None) -> Iterator[Report]:
        """A `report` to hand to long work, shown under a title."""
        if self.events:
            yield lambda p: self.event(
                "progress",
                image=image,
                stage=p.stage,
                step=p.step,
                total=p.total,
                values=dict(p.values),
                message=p.message,
            )
            return
        if not self.quiet:
            self._shown = _Bars(title, self._err) if self._err.isatty() else _Lines(title, self._err)
        try:
            yield self._shown.report if self._shown else lambda p: None
        finally:
            self._clear()
            self._shown = None

    def _clear(self) -> None:
        if self._shown:
            self._shown.clear()

    def _complain(self, text: str, one_line: bool = True) -> None:
        self._clear()
        self._err.write((" ".join(text.split()) if one_line else text) + "\n")
        self._err.flush()


class Guard:
    """A block whose errors become one line each; `code` is the exit code that they ask for.

    `except` could not do this and let interrupts through as plainly: only errors of the block itself are taken.
    """

    def __init__(self, console: Console, image: str | None = None) -> None:
        self.code = FINE
        self._console, self._image = console, image

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, BrokenPipeError):
            return error is None
        if isinstance(error, OSError) and error.filename:
            reason = AtlasISTNError(f"{error.filename}: {error.strerror}", "check the path and its permissions")
            self._console.fail(reason, self._image)
            self.code = BAD_INPUT
        elif isinstance(error, AtlasISTNError):
            self._console.fail(error, self._image)
            self.code = INTERRUPTED if isinstance(error, Cancelled) else BAD_INPUT
        else:
            self._console.crash(error, self._image)
            self.code = UNEXPECTED
        return True


class Interrupts:
    """Ctrl-C as a `cancel`: the first one asks the work to stop after its step, the second one breaks it off."""

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __call__(self) -> bool:
        return self.requested

    def __enter__(self) -> Interrupts:
        # Only the main thread may set handlers, and a process that was told to ignore Ctrl-C goes on ignoring it.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._asked)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Not through the stream: a signal may arrive in the middle of its own write.
        with contextlib.suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), b"\nstopping after this step; Ctrl-C again stops at once\n")


class _Shown:
    """Progress for people."""

    def report(self, progress: Progress) -> None:
        raise NotImplementedError

    def clear(self) -> None:
        """Leave the line to others."""


class _Bars(_Shown):
    def __init__(self, title: str, stream: TextIO) -> None:
        self._title, self._stream = title, stream
        self._stage, self._bar = "", None  # type: tuple[str, Any]

    def report(self, progress: Progress) -> None:
        from tqdm import tqdm

        if progress.stage != self._stage:
            self.clear()
        if self._bar is None:
            if progress.total <= 1:
                return
            # Counted from here on, so that a first step done before there was a bar does not spoil the time left.
            self._stage = progress.stage
            self._bar = tqdm(
                desc=f"{self._title}: {progress.stage}",
                total=progress.total,
                initial=progress.step,
                file=self._stream,
                leave=False,
                dynamic_ncols=True,
            )
        self._bar.set_postfix_str(values_text(progress.values, 1), refresh=False)
        self._bar.update(progress.step - self._bar.n)

    def clear(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._stage, self._bar = "", None


class _Lines(_Shown):
    def __init__(self, title: str, stream: TextIO) -> None:
        self._title, self._stream = title, stream
        self._stage, self._first, self._began, self._said = "", 0, 0.0, 0.0

    def report(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._first, self._began, self._said = progress.stage, progress.step, now, now
        finished = progress.total > 0 and progress.step >= progress.total
        # A line tells of what took time or gave figures; the rest is over before it can be read.
        if now - self._said < (_LEAST if finished and not progress.values else 0 if finished else _LINE_EVERY):
            return
        self._said = now
        text = f"{self._title}: {progress.stage}"
        if progress.total > 1:
            text += f" {progress.step}/{progress.total}"
        if progress.values:
            text += f", {values_text(progress.values, 4)}"
        done = progress.step - self._first
        if not finished and done > 0:
            text += f", {(now - self._began) / done * (progress.total - progress.step):.0f} s left"
        self._stream.write(text + "\n")
        self._stream.flush()


def values_text(values: Mapping[str, float], most: int) -> str:
    """The first few figures of a step in words."""
    return ", ".join(f"{name} {value:.4g}" for name, value in list(values.items())[:most])


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lines of a table; the first `left` columns are text, the others figures."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    )


def figure(value: float | int | None, digits: int = 2) -> str:
    """A figure of a table; "-" where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def plain(value: Any) -> Any:
    """A value as JSON knows it: what is not a finite number becomes null, paths become text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _about(image: str | None, message: str) -> str:
    return message if image is None or image in message else f"{image}: {message}"
