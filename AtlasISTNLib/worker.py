"""The worker: the engine as a process of its own, `python -m AtlasISTNLib worker`, for programs such as the panel.

It reads one JSON object a line on standard input and writes one a line on standard output; the log goes to standard
error. It does one request after another, and ends with the end of its input, with `quit`, or when whoever started it is
gone, in the middle of work, too. Voxels travel as files (see `exchange`) in folders that the caller makes and removes.

Requests: {"id": whole number, "do": name, …}; null is as good as absent

    segment   case, model, image (an entry and its "folder"), folder (for the answer's files); device ("auto"), threads
              (0: all), low_memory, placement (a PlacementConfig, LPS mm), reference (true labels, as image), target
              (labels in place of the network's, as image), target_map ({"value": label of the model, …})
    refine    the same, and config (a RefineConfig), preview_seconds (0: none), folding (true: "folding" among the
              values of its progress), steering: {target (as image), target_map, ignore (a mask, as image), landmarks
              ({atlas, image: [[x, y, z], …] LPS mm, weight, names}), label_weights ({"label": weight, …}), certainty}.
              Begins at the one-pass result of the case, which it makes first if the worker does not have it any more,
              or with start "current" at its last one, or at that with the given state. A worker that does not have
              this any more begins at the one-pass result and says so among the warnings. No iterations give that
              result itself, completed where it is brief
    report    case, path; state: writes report.png of the case's last result, or of that with the given state
    export    case, folder; state, format, overwrite, picture, source: writes the files of a segmented case
    check     data (and pattern, channel) or images and labels; label ([{"value", "name"}, …]), ignore_other_labels,
              window, shape, spacing, place_on_labels, config (a TrainConfig)
    train     all of check's, output, name; model (parts of a ModelConfig), title, description, licence, citation,
              device, threads, overwrite, checkpoint (default: beside the output), cache, report, folder (for
              previews), preview_seconds. Goes on from the checkpoint if there is one
    forget    case: lets go of it
    cancel    target: the id of the request that is to stop; has no answer itself. brief (true: of a refinement only the
              state is kept, for another one that starts at "current"; its result is brief)
    quit      has no answer

Events: {"id": number of the request or null, "event": name, …}; numbers that are not finite are null

    ready     version, torch, python, pid, devices ([{"name", "title", "memory_mb"}, …]), missing (packages that are not
              installed); once, when requests can be taken. If torch cannot be imported there is an error of kind
              "ImportError" instead, and the process ends with code 1
    alive     every 2 s
    started   a request is begun
    progress  stage, step, total, values, message, seconds_left
    preview   step; correspondence (refine), or image and labels of the atlas on the model's grid (train)
    result    the request is done. segment and refine: case, folder, volumes (labels, one_pass, prediction, atlas_image,
              on the image's grid), correspondence (one_pass, final), disagreement (in [0, 1], on the model's grid),
              figures (see `report.summary`), trace, labels, refined, warnings, state (a name of what the result had
              got to: the last some of them can be gone back to). check: problems, notes, cases, labels,
              grid, … train: path, epochs, history, …
    error     the request failed, or was none: kind (a class's name, or "Unexpected"), message, hint, out_of_memory,
              traceback (of unexpected ones). The worker lives on

A cancelled refinement is a result whose trace says "cancelled"; so is one that diverged, if it had got anywhere. One
that was cancelled briefly has only case, brief (true), trace and warnings, and no files: reports and exports are of the
result before it. All
else that is cancelled is an error of kind "Cancelled"; a training has its checkpoint then.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import logging
import os
import platform
import signal
import sys
import threading
import traceback
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import AtlasISTNError, Cancelled, ConfigError
from .worker_channel import Channel, Request

if TYPE_CHECKING:
    from .worker_jobs import Jobs

#: Packages that some requests need besides torch.
_PACKAGES = ("safetensors", "matplotlib")
_MORE_MEMORY = "use low memory, another device or a smaller image, or close other programs"
#: What libraries say, in lower case, when memory is short and they have no error of their own for it.
_SHORT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "alloc_failed",
    "bad allocation",
)

_log = logging.getLogger(__name__)


def serve(threads: int | None = None) -> int:
    """Serve the caller until the end; gives the exit code.

    Args:
        threads: of the CPU, for requests that ask for all of them; None for all there are.

    Raises:
        ConfigError: less than one thread.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be at least 1, not {threads}", "leave it out to use all")
    channel = Channel.on_standard_streams()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal of the caller is meant for the caller
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)
    channel.start()
    opening = _Guard(channel, None, "ImportError")
    with opening:
        channel.send("ready", **_about())
    if opening.failed:
        channel.close()
        return 1
    jobs: Jobs | None = None
    while (request := channel.next()) is not None:
        with _Guard(channel, request) as guard:
            channel.send("started", request.number)
            if channel.cancelled():
                raise Cancelled(f"the request '{request.do}' was cancelled", "nothing was changed")
            importlib.invalidate_caches()  # what was missing may have been installed since
            jobs = jobs or _open_jobs(channel, threads)
            values = jobs.do(request)
            channel.done(request)
            channel.send("result", request.number, **values)
        if guard.out_of_memory and jobs is not None:
            jobs.make_room()
        elif request.do == "segment" and jobs is not None:
            jobs.be_ready_to_refine()  # while people look at what was segmented
    channel.close()
    return 0


class _Guard:
    """A block whose errors become events, whatever they are."""

    def __init__(self, channel: Channel, request: Request | None, kind: str | None = None) -> None:
        self.failed = self.out_of_memory = False
        self._channel, self._request, self._kind = channel, request, kind

    def __enter__(self) -> _Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        number = None if self._request is None else self._request.number
        if self._request is not None:
            self._channel.done(self._request)
        if not isinstance(error, Exception):
            return error is None
        values = failure(error)
        if self._kind is not None:
            values = {**values, "kind": self._kind}
        self.failed, self.out_of_memory = True, values["out_of_memory"]
        if "traceback" in values:
            _log.error("request %s failed\n%s", number, values["traceback"])
        self._channel.send("error", number, **values)
        return True


def failure(error: Exception) -> dict[str, Any]:
    """The values of an event "error"."""
    short = is_out_of_memory(error)
    told: dict[str, Any] = {"out_of_memory": short}
    if isinstance(error, AtlasISTNError):
        return {"kind": type(error).__name__, "message": error.message, "hint": error.hint, **told}
    told["traceback"] = "".join(traceback.format_exception(error))
    if short:
        reason = f"memory ran out: {_first_line(error)}"
        return {"kind": "MemoryError", "message": reason, "hint": _MORE_MEMORY, **told}
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        hint = f"install {package} into this Python: {sys.executable}"
        return {"kind": "ImportError", "message": f"the package {package} is not installed", "hint": hint, **told}
    if isinstance(error, ImportError):
        return {"kind": "ImportError", "message": _first_line(error), "hint": "install the package again", **told}
    if isinstance(error, OSError) and error.filename:
        message = f"{error.filename}: {error.strerror}"
        return {"kind": "OSError", "message": message, "hint": "check the path and its permissions", **told}
    message = f"unexpected {type(error).__name__}: {_first_line(error)}"
    return {"kind": "Unexpected", "message": message, "hint": "please report this with the log", **told}


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that memory ran out."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, RuntimeError):  # torch's own error is one, too
            text = str(error).lower()
            if any(words in text for words in _SHORT_OF_MEMORY):
                return True
        error = error.__cause__ or error.__context__
    return False


def _open_jobs(channel: Channel, threads: int | None) -> Jobs:
    from .worker_jobs import Jobs

    return Jobs(channel, threads)


def _about() -> dict[str, Any]:
    import torch

    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "pid": os.getpid(),
        "devices": _devices(),
        "missing": [name for name in _PACKAGES if importlib.util.find_spec(name) is None],
    }


def _devices() -> list[dict[str, Any]]:
    import torch

    found: list[dict[str, Any]] = [{"name": "cpu", "title": f"CPU, {os.cpu_count()} cores", "memory_mb": None}]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        try:
            properties = torch.cuda.get_device_properties(index)
        except RuntimeError as error:
            _log.warning("the GPU %d cannot be used: %s", index, error)
            continue
        memory = properties.total_memory >> 20
        found.append({"name": f"cuda:{index}", "title": properties.name, "memory_mb": memory})
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "title": "GPU of this Mac", "memory_mb": None})
    return found


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


__all__ = ["failure", "is_out_of_memory", "serve"]
