"""The Segment Editor's effect "Atlas fit": its options, and its run of the engine. What it writes is in `atlas_fit`.

The segments that are edited are what the atlas is fitted to; when the engine is done, the fitted atlas replaces them in
one step that one undo takes back. Until then, and if anything fails or is cancelled, the segments are as they were.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.configs import as_dict
from AtlasISTNLib.errors import AtlasISTNError, VolumeError
from AtlasISTNLib.exchange import volume_from_files

from . import atlas_fit, frames, messages, nodes, settings, targets, torch_setup
from .engine import Engine
from .fit_widgets import FitWidgets
from .jobs import JobFolders, save_volume
from .messages import Failure, failure_of

#: Milliseconds after the last fit, when the engine's process ends: it holds a model and hundreds of megabytes.
IDLE_MS = 600_000
#: What may change which segments are replaced.
_SEGMENT_EVENTS = ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SourceRepresentationModified")

_log = logging.getLogger(__name__)


@dataclass
class _Run:
    """A fit that is going on: what it was started on, by ID, and whether its result is wanted still."""

    segmentation_id: str
    volume_id: str
    plan: atlas_fit.Plan
    stamp: Any
    folder: Path
    wanted: bool = True


class Fit:
    """The effect's work behind its widgets.

    Args:
        effect: the editor's side of the effect, a qSlicerSegmentEditorScriptedEffect.
        engine: by default one of its own, started with the first fit.

    Attributes:
        failure: of the last fit; None when it went well.
        message: what came of it, for people.
    """

    def __init__(self, effect: Any, engine: Engine | None = None) -> None:
        self.effect = effect
        self.engine = engine or Engine()
        self.jobs = JobFolders()
        self.failure: Failure | None = None
        self.message = ""
        self._run: _Run | None = None
        self._fraction: float | None = None
        self._observed: tuple[Any, tuple[int, ...]] = (None, ())
        self._can_work = False
        self.widgets = FitWidgets(effect, self.apply, self.cancel, self._on_model)
        self._idle = qt.QTimer()
        self._idle.setSingleShot(True)
        self._idle.connect("timeout()", self._rest)
        slicer.app.connect("aboutToQuit()", self.close)

    @property
    def busy(self) -> bool:
        """Whether a fit is going on."""
        return self._run is not None

    def enter(self) -> None:
        """The effect was chosen: models may have been added meanwhile, and segments are followed from now on."""
        if not self.busy:
            self.widgets.refresh()
        self._can_work = torch_setup.state().ready  # looks at the disk: not each time that a slider moves
        self.show()

    def leave(self) -> None:
        """Another effect was chosen, or none."""
        self._follow(None)
        self.cancel()

    def show(self) -> None:
        """Show what the scene says."""
        self._follow(self._edited()[0] if self.effect.active() else None)
        if self.effect.parameterSetNode() is not None:
            self.widgets.show()
            self.update()

    def reason(self) -> str:
        """Why nothing can be fitted now; empty where it can."""
        if self.busy:
            return _("The engine is at work")
        segmentation, volume = self._edited()
        if segmentation is None or not targets.segment_ids(segmentation):
            return _("There are no segments to fit the atlas to")
        if volume is None or volume.GetImageData() is None:
            return _("Choose a source volume")
        model = self.widgets.model
        if model is None or model.manifest is None:
            return model.problem if model is not None else _("There is no model")
        if not self._can_work:
            return _("Install PyTorch first: open the module Atlas-ISTN")
        single = min(volume.GetImageData().GetDimensions()) == 1
        if single != (model.dimension == 2):
            return (
                _("{model} is a model of volumes; this is a single slice")
                if single
                else _("{model} is a model of single slices; this volume has many")
            ).format(model=model.title)
        plan = self._plan()
        return "" if plan is not None and plan.replaced else _("No segment is a structure of this model")

    def update(self) -> None:
        """Bring the widgets up to what there is to do."""
        reason, plan = self.reason(), self._plan()
        can_cancel = self._run is not None and self._run.wanted
        self.widgets.show_state(reason, self.busy, can_cancel, self._fraction)
        refused = reason if plan is None or plan.replaced else ""  # else the plan says it
        said = (plan.text, plan.full_text) if plan is not None else ("", "")
        self.widgets.say(*said, self.message or refused)

    def apply(self) -> None:
        """The button Apply."""
        if self.reason():
            return
        self._idle.stop()
        self.failure, self.message, self._fraction = None, _("Starting…"), None
        try:
            self._start()
        except AtlasISTNError as error:
            self._fail(failure_of(error))
        self.update()

    def cancel(self) -> None:
        """The button Cancel, and leaving the effect: the result is not wanted any more."""
        if self._run is not None and self._run.wanted:
            self._run.wanted = False
            self.message, self._fraction = _("Stopping…"), None
            self.engine.cancel()
            self.update()

    def close(self) -> None:
        """End the engine and remove what was left on disk; called when the effect goes away and when Slicer ends."""
        slicer.app.disconnect("aboutToQuit()", self.close)
        self._follow(None)
        self._run = None
        self._idle.stop()
        self.engine.stop(wait_ms=3000)
        self.jobs.close()

    # Private: the run

    def _start(self) -> None:
        segmentation, volume = self._edited()
        model, plan = self.widgets.model, self._plan()
        assert model is not None  # checked by reason
        assert plan is not None
        folder = self.jobs.new("fit")
        try:
            image = save_volume(frames.volume_from_node(volume), folder)
            target = save_volume(targets.target_volume(segmentation, plan.matches, volume), folder, "target")
        except AtlasISTNError:
            self.jobs.remove(folder)
            raise
        stamp = _stamp(segmentation, volume)
        self._run = _Run(segmentation.GetID(), volume.GetID(), plan, stamp, folder)
        accepted = self.engine.request(
            "refine",
            {
                "case": folder.name,
                "model": str(model.path),
                "device": settings.device(),
                "threads": settings.threads(),
                "image": image,
                "target": target,
                "folder": str(folder),
                "config": as_dict(self.widgets.config),
                # What nobody has drawn is carried along, and does not pull the atlas to where it is not.
                "steering": {"label_weights": {str(value): 0.0 for value in plan.undrawn}},
            },
            on_progress=self._on_progress,
            on_result=self._on_result,
            on_error=self._on_error,
        )
        if not accepted:
            self._end()
            self._fail(Failure("Busy", _("The engine is busy"), _("try again in a moment")))

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        if self._run is None or not self._run.wanted:
            return
        step, total = int(event.get("step") or 0), int(event.get("total") or 0)
        refining = event.get("stage") == "refine"
        self._fraction = step / total if refining and total else None
        if refining:
            self.message = _("Step {step} of {total}").format(step=step, total=total)
        else:
            self.message = str(event.get("message") or "") or _("Preparing…")
        self.update()

    def _on_result(self, event: Mapping[str, Any]) -> None:
        run = self._run
        if run is None:
            return
        try:
            if run.wanted:
                self._write(run, event)
                self.message = _("Replaced. Undo brings back what was there.")
            else:
                self.message = _("Cancelled; the segments are as they were")
        except AtlasISTNError as error:
            self._fail(failure_of(error))
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            _log.exception("the fitted atlas could not be written")
            hint = _("the segments are as they were")
            text = _("The fitted atlas could not be written: {error}").format(error=error)
            self._fail(Failure(type(error).__name__, text, hint))
        finally:
            self._end()
        self.update()

    def _write(self, run: _Run, event: Mapping[str, Any]) -> None:
        """Replace the segments, where they still are what the atlas was fitted to."""
        segmentation, volume = self._edited()
        if (
            segmentation is None
            or volume is None
            or (segmentation.GetID(), volume.GetID()) != (run.segmentation_id, run.volume_id)
        ):
            raise VolumeError(_("Another segmentation or volume was chosen meanwhile"), _("fit the atlas again"))
        if _stamp(segmentation, volume) != run.stamp:
            raise VolumeError(_("The segments were changed or moved meanwhile"), _("fit the atlas again"))
        labels = volume_from_files(event["volumes"]["labels"], event["folder"])
        parameters = self.effect.parameterSetNode()
        with slicer.util.WaitCursor():
            change = atlas_fit.change(segmentation, labels, run.plan.replaced, volume, parameters)
            self.effect.saveStateForUndo()
            atlas_fit.apply(segmentation, change)

    def _on_error(self, failure: Failure) -> None:
        if not failure.over:  # no sign of life: it may still come back, or be cancelled
            self.message = failure.message
            self.update()
            return
        cancelled = failure.kind == "Cancelled" or (self._run is not None and not self._run.wanted)
        self._end()
        if cancelled:
            self.message = _("Cancelled; the segments are as they were")
        else:
            self._fail(failure)
        self.update()

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self.message = messages.message(failure).html
        _log.error("%s", messages.report(failure, self.engine))

    def _end(self) -> None:
        if self._run is not None:
            self.jobs.remove(self._run.folder)
        self._run, self._fraction = None, None
        self._idle.start(IDLE_MS)

    def _on_model(self) -> None:
        self.message = ""
        self.update()

    def _rest(self) -> None:
        if not self.busy:
            self.engine.stop()

    def _follow(self, segmentation: Any) -> None:
        """Keep what is said up to the segments of a segmentation, and of no other one: the editor does not tell."""
        before, tags = self._observed
        if before is segmentation:
            return
        for tag in tags:
            before.RemoveObserver(tag)
        self._observed = (None, ())
        if segmentation is not None:
            events = [getattr(slicer.vtkSegmentation, name) for name in _SEGMENT_EVENTS]
            events.append(segmentation.DisplayModifiedEvent)
            tags = tuple(segmentation.AddObserver(event, self._on_segments) for event in events)
            self._observed = (segmentation, tags)

    def _on_segments(self, segmentation: Any, _event: str) -> None:
        scene = segmentation.GetScene()
        if scene is not None and not (scene.IsClosing() or scene.IsImporting()):
            self.update()

    def _edited(self) -> tuple[Any, Any]:
        """The segmentation that is edited and the volume beneath; None where there is none."""
        parameters = self.effect.parameterSetNode()
        if parameters is None:
            return None, None
        return tuple(
            node if nodes.in_scene(node) else None
            for node in (parameters.GetSegmentationNode(), parameters.GetSourceVolumeNode())
        )

    def _plan(self) -> atlas_fit.Plan | None:
        segmentation, model = self._edited()[0], self.widgets.model
        if segmentation is None or model is None or model.manifest is None:
            return None
        return atlas_fit.plan(segmentation, model.manifest.labels)


def _stamp(segmentation: Any, volume: Any) -> tuple[Any, ...]:
    """What changes when the segments do, or where they lie in the volume."""
    return targets.content_stamp(segmentation, targets.segment_ids(segmentation)), targets.placed_at(volume)


def help_text() -> str:
    """What the editor shows of the effect: up to the first line break, and the rest on demand."""
    return _(
        "<html>Fit a shape atlas to the segments and put it in their place: gaps are bridged, islands go, and every"
        " structure has the atlas's topology.<br><p>Segments are recognised by their names or terminology. Those that"
        " are no structure of the model are never changed, whatever is chosen under <i>Modify other segments</i>; where"
        " the atlas reaches into one, the two overlap. <i>Editable area</i> and <i>Editable intensity range</i> hold:"
        " outside of them segments keep their voxels.<p>One undo takes the fit back. Choosing another effect or module"
        " while it runs stops it, and the segments stay as they are. Not for clinical use.</html>"
    )
