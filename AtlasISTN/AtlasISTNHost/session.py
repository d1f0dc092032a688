"""One panel's work with the engine: what is running, what came of it, and which nodes hold it. No widgets.

A run goes: voxels of the input to a job folder, request to the engine, result read from the folder, nodes written.
Until the last step nothing in the scene changes but our own surfaces, which follow a refinement while it runs and go
back to the last result when it fails. A refinement that gives way to the next one is not written at all: the engine
keeps its state, and the surfaces stay where they are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.configs import RefineConfig, as_dict
from AtlasISTNLib.errors import AtlasISTNError, VolumeError
from AtlasISTNLib.exchange import correspondence_from_files
from AtlasISTNLib.manifest import load_atlas

from . import frames, nodes, results, surfaces
from .course import Course
from .engine import Engine, Failure
from .jobs import JobFolders
from .messages import failure_of
from .models import Entry
from .runs import Extra, Inputs, Run, Status, Task, status_of

#: Seconds between two looks at a running refinement; the engine takes longer where a look costs more than a fifth.
PREVIEW_SECONDS = 0.25

_log = logging.getLogger(__name__)


class Session:
    """Owner of the engine's current run and of the last result.

    Args:
        engine: the engine's process.
        jobs: where requests keep their files.
        on_change: told after every change of what the attributes say.
        on_progress: told in its place where only `status` and `course` have changed, which is often.

    Attributes:
        status: of the run that is going on; None when none is.
        failure: of the last run; None when it went well.
        outcome: the last result, while its input is in the scene.
        nodes: the nodes that hold it.
        unwritten: whether the engine has got further than that in a refinement that gave way; see `complete`.
        course: of the refinement that goes on, or the last one.
        on_preview_listeners: called with (correspondence, frame) while a refinement goes on, and when it goes back.
        on_result_listeners: called with (outcome, nodes, task, config) after a result was written into the scene; the
            config is None where nothing was refined.
    """

    def __init__(
        self,
        engine: Engine,
        jobs: JobFolders,
        on_change: Callable[[], None],
        on_progress: Callable[[], None] | None = None,
    ) -> None:
        self.engine, self.jobs, self._changed, self._progressed = engine, jobs, on_change, on_progress or on_change
        self.status: Status | None = None
        self.failure: Failure | None = None
        self.outcome: results.Outcome | None = None
        self.nodes: Any = None
        self.unwritten = False
        self.course = Course()
        self.on_preview_listeners: list[Callable[[Any, frames.Frame], None]] = []
        self.on_result_listeners: list[Callable[[results.Outcome, Any, Task, RefineConfig | None], None]] = []
        self._input_id = ""
        self._model: Entry | None = None
        self._run: Run | None = None
        self._last: tuple[Task, RefineConfig] | None = None  # of the last refinement
        self._inputs = Inputs(jobs)
        self._atlases: dict[str, Mapping[int, Any]] = {}

    @property
    def busy(self) -> bool:
        """Whether a run is going on."""
        return self._run is not None

    @property
    def refining(self) -> bool:
        """Whether that is a refinement."""
        return self._run is not None and self._run.config is not None

    @property
    def previews(self) -> int:
        """How many looks at the run there were."""
        return 0 if self._run is None else self._run.previews

    def holds(self, volume: Any, model: Entry | None) -> bool:
        """Whether the last result is one of this input and model."""
        if volume is None or model is None or self.outcome is None or self._model is None:
            return False
        return bool(volume.GetID() == self._input_id and model.key == self._model.key)

    def segment(
        self, task: Task, then: RefineConfig | None = None, extra: Extra | None = None, then_extra: Extra | None = None
    ) -> None:
        """Start segmenting; with `then`, refine as soon as there is a result.

        Args:
            task: what to segment.
            then: of the refinement that follows.
            extra: gives further fields of the request, such as "target".
            then_extra: as `extra`, of the refinement that follows.

        Raises:
            AtlasISTNError: the input cannot be segmented; nothing was started.
        """
        follow = None if then is None else lambda: self.refine(task, then, then_extra)
        self._start("segment", task, extra, {}, None, follow)

    def refine(self, task: Task, config: RefineConfig, extra: Extra | None = None, start: str = "one-pass") -> None:
        """Start refining from the one-pass result, which the engine makes again where it has it no more.

        Args:
            task: what is refined.
            config: of the refinement.
            extra: gives further fields of the request, such as "steering".
            start: "one-pass", or "current" to go on from the last result.

        Raises:
            AtlasISTNError: as `segment`.
        """
        more = {"config": as_dict(config), "preview_seconds": PREVIEW_SECONDS, "start": start, "folding": True}
        if (
            start == "current"
            and self.outcome is not None
            and self.outcome.state
            and self.holds(task.volume, task.model)
        ):
            more["state"] = self.outcome.state  # the engine's last result may be another one than what is shown
        self._start("refine", task, extra, more, config, None)
        if self._run is not None and self._run.config is config:
            goes_on = start == "current" and (self.unwritten or self.outcome is not None)
            self.course.begin(config, task.model.strength, goes_on)
            self._last = (task, config)
            self._changed()

    def give_way(self) -> None:
        """Ask the refinement to stop for another one that starts at "current": it is not written, see `unwritten`.

        Before its first step it is waited for, as what the engine does until then would have to be done again.
        """
        run = self._run
        if run is None or run.config is None or run.stopping or run.giving_way:
            return
        run.giving_way = True
        self._give_way(run)

    def complete(self) -> None:
        """Write what refinements that gave way have reached, where no other one goes on from it."""
        if self.busy or not self.unwritten or self._last is None:
            return
        task, config = self._last
        self.unwritten = False  # whatever becomes of it: there is no second try
        failure = self.failure
        more = {"config": as_dict(replace(config, iterations=0)), "start": "current"}
        try:
            self._start("refine", task, None, more, config, None)
        except AtlasISTNError as error:
            failure = failure or failure_of(error)
        if self._run is not None:
            self._run.completing = True
        else:  # it was not even begun
            self._go_back()
        self.failure = failure or self.failure
        self._changed()

    def stop(self) -> None:
        """Ask the run to stop; what a refinement reached so far is kept."""
        if self._run is not None and not self._run.stopping:
            self._run.stopping, self._run.then = True, None
            self.status = Status("stopping", None, _("Stopping…"))
            if not self._run.cancelled:
                self._run.cancelled = True
                self.engine.cancel()
            self._changed()

    def forget(self) -> None:
        """Drop the last result, as when its scene is closed; a run that is going on is stopped and its result lost."""
        self.outcome, self.nodes, self._input_id, self._model = None, None, "", None
        self.unwritten = False
        self.course.clear()
        if self._run is not None:
            self._run.volume_id = ""
            self.stop()

    def adopt(self, outcome: results.Outcome, written: Any, volume: Any, model: Entry) -> None:
        """Take an earlier result, which has been written into the scene again, for the last one.

        Args:
            outcome: the result.
            written: the nodes that hold it.
            volume: its input.
            model: its model.
        """
        self.outcome, self.nodes, self._input_id, self._model = outcome, written, volume.GetID(), model
        self.failure, self.unwritten = None, False
        self.course.show(outcome.trace)
        self._tell_preview(outcome.final, frames.frame_of_result(outcome.volumes["labels"].grid, volume))
        self._changed()

    def show_failure(self, failure: Failure | None) -> None:
        """Set what went wrong outside of a run, or that nothing did."""
        self.failure = failure
        self._changed()

    # What follows is called by the engine's client, in Qt's thread

    def _start(
        self,
        do: str,
        task: Task,
        extra: Extra | None,
        more: Mapping[str, Any],
        config: RefineConfig | None,
        then: Callable[[], None] | None,
    ) -> None:
        if self._run is not None:
            return
        self.failure = None
        folder = self.jobs.new()
        try:
            fields = {**self._inputs.fields(task, folder), **more, **(extra(task.volume, folder) if extra else {})}
        except AtlasISTNError:
            self.jobs.remove(folder)
            raise
        if self.unwritten and not (do == "refine" and self.holds(task.volume, task.model)):
            self._go_back()  # nothing goes on from what was seen
        if do == "refine" and self.holds(task.volume, task.model):
            surfaces.show_outlines(self.nodes.surfaces, True)
        self._run = Run(task, task.volume.GetID(), folder, then, config, frames.processing_frame(task.volume))
        self.status = Status("", None, _("Starting the engine…") if self.engine.state == "off" else _("Starting…"))
        accepted = self.engine.request(
            do,
            fields,
            on_progress=self._on_progress,
            on_preview=self._on_preview,
            on_result=self._on_result,
            on_error=self._on_error,
        )
        if not accepted and self._run is not None:
            self._end()
            self.failure = Failure("Busy", _("The engine is busy"), _("wait until it is done, or stop it"))
        self._changed()

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        run = self._run
        if run is None or run.stopping:
            return
        self.status = status_of(event)
        run.stage = self.status.stage
        if run.stage == "refine":
            self.course.add(int(event.get("step") or 0), event.get("values") or {})
            self._give_way(run)
        self._progressed()

    def _give_way(self, run: Run) -> None:
        if run.giving_way and not run.cancelled and run.stage == "refine":
            run.cancelled = True
            self.engine.cancel(brief=True)

    def _on_preview(self, event: Mapping[str, Any]) -> None:
        run = self._run
        if run is None:
            return
        run.previews += 1
        volume = slicer.mrmlScene.GetNodeByID(run.volume_id) if run.volume_id else None
        if not self.holds(volume, run.task.model):  # the surfaces at hand are another scan's
            return
        correspondence = correspondence_from_files(event["correspondence"], run.folder)
        self._move_surfaces(run.task.model, correspondence, run.frame)
        self._tell_preview(correspondence, run.frame)

    def _on_result(self, event: Mapping[str, Any]) -> None:
        run = self._run
        if run is None:
            return
        if event.get("brief"):
            self.unwritten = bool(run.volume_id)
            self.course.end(event.get("trace"))
            self._end(hide=False)
            self._changed()
            return
        failure, then = None, run.then
        if run.completing and not event.get("refined"):  # another engine, which knows nothing of it
            self._end()
            self._go_back()
            self._changed()
            return
        try:
            self._keep(run, event)
        except AtlasISTNError as error:
            failure = failure_of(error)
        except (OSError, RuntimeError, ValueError) as error:
            _log.exception("the result could not be written into the scene")
            failure = Failure(
                type(error).__name__,
                _("The result could not be brought into the scene: {error}").format(error=error),
                _("earlier results are as they were; please copy the report"),
            )
        finally:
            self._end()  # whatever it was: a run that nobody ends would keep the panel from all else
        self.failure = failure
        if failure is None and then is not None and self.outcome is not None:
            self._follow(then)
        self._changed()

    def _follow(self, then: Callable[[], None]) -> None:
        try:
            then()
        except AtlasISTNError as error:
            self.failure = failure_of(error)

    def _keep(self, run: Run, event: Mapping[str, Any]) -> None:
        outcome = results.read_outcome(event)
        volume = slicer.mrmlScene.GetNodeByID(run.volume_id) if run.volume_id else None
        if volume is None:
            if run.volume_id:
                raise VolumeError(
                    _("The volume was removed from the scene while it was segmented"), _("its result was dropped")
                )
            return  # the scene was closed
        atlas = self.surfaces_of(run.task.model)
        self.nodes = results.write_outcome(outcome, volume, run.task.model.manifest, atlas)
        self.outcome, self._input_id, self._model = outcome, run.volume_id, run.task.model
        self.unwritten = False
        self.course.end(outcome.trace)
        for listener in self.on_result_listeners:
            listener(outcome, self.nodes, run.task, run.config)

    def _tell_preview(self, correspondence: Any, frame: frames.Frame) -> None:
        for listener in self.on_preview_listeners:
            listener(correspondence, frame)

    def _on_error(self, failure: Failure) -> None:
        run = self._run
        if not failure.over:  # no sign of life: it may still come back, or be stopped
            self.failure = failure
            self._changed()
            return
        self._end()
        if run is not None and run.config is not None:
            self._go_back()
        self.failure = None if failure.kind == "Cancelled" else failure
        self._changed()

    def _go_back(self) -> None:
        """Surfaces as the last result has them."""
        self.unwritten = False
        volume = slicer.mrmlScene.GetNodeByID(self._input_id) if self._input_id else None
        if volume is None or self.outcome is None or self.nodes is None or self._model is None:
            return
        frame = frames.frame_of_result(self.outcome.volumes["labels"].grid, volume)
        self._move_surfaces(self._model, self.outcome.final, frame)
        surfaces.show_outlines(self.nodes.surfaces, False)
        self._tell_preview(self.outcome.final, frame)

    def _end(self, hide: bool = True) -> None:
        if self._run is not None:
            self.jobs.remove(self._run.folder)
            if self._run.config is not None and self.nodes is not None and hide:
                surfaces.show_outlines(self.nodes.surfaces, False)
        self._run, self.status = None, None

    def surfaces_of(self, model: Entry) -> Mapping[int, Any]:
        """The atlas's surfaces of a model, made once."""
        if model.dimension < 3 or model.manifest is None:
            return {}
        version = json.dumps([str(model.path), model.manifest.about.version, _changed_at(model.path)])
        if version not in self._atlases:
            self._atlases[version] = surfaces.atlas_surfaces(model.manifest, load_atlas(model.path)[1])
        return self._atlases[version]

    def _move_surfaces(self, model: Entry, correspondence: Any, frame: frames.Frame) -> None:
        present = {value: node for value, node in self.nodes.surfaces.items() if nodes.in_scene(node)}
        if present:
            surfaces.move_surfaces(present, self.surfaces_of(model), correspondence, frame)


def _changed_at(path: Path) -> float:
    place = path / "manifest.json" if path.is_dir() else path
    return place.stat().st_mtime if place.exists() else 0.0


__all__ = ["PREVIEW_SECONDS", "Extra", "Session", "Status", "Task"]
