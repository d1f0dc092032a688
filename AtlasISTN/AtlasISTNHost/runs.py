"""Runs of the engine: what is asked for, its request's files, and what is said while it goes on. No widgets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from AtlasISTNLib.configs import PlacementConfig, RefineConfig, as_dict
from AtlasISTNLib.errors import VolumeError
from AtlasISTNLib.geometry import Grid

from . import frames
from .jobs import JobFolders, save_volume
from .models import Entry

#: Writes what a request needs besides the scan (volume node, its job folder) and gives the fields that name it.
Extra = Callable[[Any, Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """What to segment, with what and where.

    Attributes:
        volume: the input's node.
        region: a box node or None.
        model: the model.
        device: "auto", "cpu", "cuda:0", …
        threads: of the processor; 0 for all.
        low_memory: work in smaller pieces.
    """

    volume: Any
    region: Any
    model: Entry
    device: str = "auto"
    threads: int = 0
    low_memory: bool = False


@dataclass(frozen=True)
class Status:
    """Where a run is.

    Attributes:
        stage: as the engine names it; "" before it said anything.
        fraction: done of this stage in [0, 1]; None when not known.
        text: one line for people.
    """

    stage: str
    fraction: float | None
    text: str


@dataclass
class Run:
    """A run that is going on.

    Attributes:
        task: what is segmented or refined.
        volume_id: of the input's node; "" once its scene was closed.
        folder: where the engine's answer goes.
        then: what follows, unless it is stopped or fails.
        config: of a refinement; None for one pass.
        frame: of the input when it was given to the engine.
        stage: as the engine last named it.
        previews: so many were shown.
        stopping: whether the user stopped it.
        giving_way: whether another one is to go on from it, and nothing of it is to be written.
        cancelled: whether the engine knows of either.
        completing: whether it only gives what refinements that gave way have reached.
    """

    task: Task
    volume_id: str
    folder: Path
    then: Callable[[], None] | None
    config: RefineConfig | None
    frame: frames.Frame
    stage: str = ""
    previews: int = 0
    stopping: bool = False
    giving_way: bool = False
    cancelled: bool = False
    completing: bool = False


class Inputs:
    """The scans of requests as files; that of the last one is kept, as the next request mostly is of the same.

    Args:
        jobs: where the files lie.
    """

    def __init__(self, jobs: JobFolders) -> None:
        self._jobs = jobs
        self._case, self._folder = "", Path()
        self._entry: dict[str, Any] = {}

    def fields(self, task: Task, folder: Path) -> dict[str, Any]:
        """The fields that every request has.

        Args:
            task: what is asked for.
            folder: where the answer goes.

        Raises:
            VolumeError, GeometryError, ConfigError: the input cannot be segmented.
            OutputError: there is no room for its file.
        """
        if task.model.manifest is None:
            raise VolumeError(task.model.problem, "choose another model")
        placement = None if task.region is None else frames.placement_from_roi(task.region, task.volume)
        case = _case_name(task, frames.grid_of(task.volume), placement)
        return {
            "model": str(task.model.path),
            "device": task.device,
            "threads": task.threads,
            "low_memory": task.low_memory,
            "image": self._image(task, case),
            "placement": as_dict(PlacementConfig(**placement)) if placement else None,
            "folder": str(folder),
            "case": case,
        }

    def clear(self) -> None:
        """Remove the file."""
        if self._entry:
            self._jobs.remove(self._folder)
        self._case, self._entry = "", {}

    def _image(self, task: Task, case: str) -> dict[str, Any]:
        if self._entry and self._case == case and (self._folder / self._entry["array"]).is_file():
            return self._entry
        volume = frames.volume_from_node(task.volume)
        self.clear()
        folder = self._jobs.new("image")
        self._entry = save_volume(volume, folder)
        self._case, self._folder = case, folder
        return self._entry


def _case_name(task: Task, grid: Grid, placement: Mapping[str, Any] | None) -> str:
    """What the engine keeps a case under: another one as soon as anything of the input changes."""
    image = task.volume.GetImageData()
    parts = [task.volume.GetID(), image.GetMTime(), asdict(grid), placement, task.model.key]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def status_of(event: Mapping[str, Any]) -> Status:
    """What an event "progress" says."""
    total, step = int(event.get("total") or 0), int(event.get("step") or 0)
    return Status(str(event["stage"]), step / total if total else None, _text(event, step, total))


def _text(event: Mapping[str, Any], step: int, total: int) -> str:
    stage, values = str(event["stage"]), event.get("values") or {}
    text = {
        "start": str(event.get("message") or _("Starting the engine…")),
        "load": _("Loading the model…"),
        "place": _("Looking for the anatomy…"),
        "predict": _("Predicting…"),
        "register": _("Warping the atlas…"),
        "write": _("Bringing the result to the scan…"),
    }.get(stage, stage)
    if stage == "refine":
        text = _("Step {step} of {total}").format(step=step, total=total)
        if values.get("total") is not None:
            text += _(", loss {loss:.4g}").format(loss=float(values["total"]))
    left = event.get("seconds_left")
    if left is not None and float(left) >= 1:
        text += _(", {seconds:.0f} s left").format(seconds=float(left))
    return text


__all__ = ["Extra", "Inputs", "Run", "Status", "Task", "status_of"]
