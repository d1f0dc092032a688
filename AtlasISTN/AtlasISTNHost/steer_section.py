"""The panel's section Steer: what the atlas is fitted to, what is ignored, how hard each structure pulls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from AtlasISTNLib.errors import AtlasISTNError, ConfigError

from . import editor, ignore, nodes, steer_choices, targets
from .messages import Failure, failure_of
from .models import Entry
from .pull_section import PullSection
from .session import Session
from .steer_choices import EDITED, FITS, PREDICTION, SEGMENTATION, Choices
from .steer_files import SteerFiles
from .steer_tables import MatchTable, WeightTable

#: Events of a segmentation node that may change what a segment is, and where.
_EVENTS = (
    *("SegmentAdded", "SegmentRemoved", "SegmentModified", "SourceRepresentationModified", "RepresentationModified"),
)


class SteerSection:
    """Binds the widgets of Steer.

    Args:
        ui: the form's widgets by name.
        session: told what goes wrong; gives the folders for files.
        on_change: called when a refinement would be steered otherwise than before.

    Attributes:
        choices: what steers now, but for the points that are pulled.
        pull: the group of those.
    """

    def __init__(self, ui: Any, session: Session, on_change: Callable[[], None]) -> None:
        self.ui, self.session, self._on_change = ui, session, on_change
        self.parameters: Any = None
        self.choices = Choices()
        self._volume: Any = None
        self._model: Entry | None = None
        self._files = SteerFiles(session.jobs)
        self._observed: list[tuple[Any, list[int]]] = []
        self._state: Any = None
        self._setting = False
        self._seen_at: Any = None
        self._seen: dict[str, tuple[str, str]] = {}
        self._gone: dict[str, tuple[str, str]] = {}
        self._said: tuple[Any, str] = (None, "")
        self._note = ""
        self.pull = PullSection(ui, session, self._on_pull)
        self._matches = MatchTable(ui.targetTable, self._on_match)
        self._weights = WeightTable(ui.weightsTable, self._on_weights)
        ui.fitToComboBox.connect("currentIndexChanged(int)", self._on_fit)
        ui.editPredictionButton.connect("clicked(bool)", lambda _checked: self.edit_prediction())
        ui.startOverButton.connect("clicked(bool)", lambda _checked: self.edit_prediction(start_over=True))
        ui.rematchButton.connect("clicked(bool)", lambda _checked: self._on_rematch())
        ui.paintIgnoreButton.connect("clicked(bool)", lambda _checked: self.paint_region())
        ui.ignoredSegmentComboBox.connect("currentIndexChanged(int)", self._on_segment)
        ui.weightsResetButton.connect("clicked(bool)", lambda _checked: self._on_weights({}))

    def bind(self, parameters: Any) -> None:
        """Follow a scene's parameter node, or none."""
        self.parameters, self._state, self._seen_at = parameters, None, None
        self._seen, self._gone, self._note = {}, {}, ""
        if parameters is None:
            self._observe()
            self.choices, self._volume = Choices(), None

    def update(self, volume: Any, model: Entry | None) -> None:
        """Follow the input and the model that are chosen now, and bring the widgets up to the choices."""
        if volume is not self._volume or model is not self._model:
            self._volume, self._model, self._state = volume, model, None
            self._leave_other_region()
            self._seen_at = None
        # A run tells twenty times a second how far it is: then nothing has changed here.
        p = self.parameters
        now = None if p is None else (p.parameterNode.GetMTime(), slicer.mrmlScene.GetMTime())
        if now is None or now != self._seen_at:
            self._refresh()
        self._seen_at = now
        self.pull.update(volume, model)

    def extra(self, do: str) -> Callable[[Any, Path], dict[str, Any]] | None:
        """What gives the further fields of a request "segment" or "refine" when it is started.

        It raises AtlasISTNError where what is chosen cannot be used.
        """

        def fields(volume: Any, _folder: Path) -> dict[str, Any]:
            reason = self.reason(do)
            if reason:
                raise ConfigError(reason)
            pulls = self.pull.landmarks(volume) if do == "refine" else None
            return self._files.fields(do, self.choices, volume, pulls)

        return fields

    def reason(self, do: str = "refine") -> str:
        """Why what is chosen cannot be used; empty where it can, or where `do` has no use for it."""
        if do == "segment" and not self.choices.without_network:
            return ""
        reason = self._reason()
        return _("Steer: {reason}").format(reason=reason) if reason else ""

    def close(self) -> None:
        """Follow nothing any more."""
        self._observe()
        self.pull.close()

    def edit_prediction(self, start_over: bool = False) -> None:
        """Open the copy of the prediction in the Segment Editor and fit to it."""
        if self._model is None or self._model.manifest is None or self._volume is None:
            return
        copy = targets.start_over if start_over else targets.copy_prediction
        try:
            node = copy(self._volume, self._model.manifest.about.name)
        except AtlasISTNError as error:
            self.session.show_failure(failure_of(error))
            return
        self._seen.pop(EDITED, None)
        self.parameters.fitTo = EDITED
        editor.open_on(node, self._volume)

    def paint_region(self) -> None:
        """Open our region to ignore in the Segment Editor, made now where there is none, and ignore it."""
        if self._model is None or self._model.manifest is None or self._volume is None:
            return
        node = ignore.make_region(self._volume, self._model.manifest.about.name)
        with slicer.util.NodeModify(self.parameters.parameterNode):
            self.parameters.ignored = node
            self.parameters.ignoredSegment = ignore.SEGMENT_ID
            self.parameters.ignoreRegion = True
        editor.open_on(node, self._volume, ignore.SEGMENT_ID, "Paint")

    # Private: what the user does

    def _on_fit(self, place: int) -> None:
        if not self._setting and self.parameters is not None and place >= 0:
            self.parameters.fitTo = FITS[place]

    def _on_match(self, segment_id: str, value: int) -> None:
        if self.choices.target is not None and self._model is not None:
            steer_choices.correct(self.parameters, self.choices.target, self._model, segment_id, value)

    def _on_rematch(self) -> None:
        if self.choices.target is not None and self._model is not None:
            steer_choices.forget_corrections(self.parameters, self.choices.target, self._model)

    def _on_segment(self, place: int) -> None:
        if not self._setting and self.parameters is not None and place >= 0:
            self.parameters.ignoredSegment = self.ui.ignoredSegmentComboBox.itemData(place) or ""

    def _on_weights(self, weights: dict[int, float]) -> None:
        if self.parameters is not None and self._model is not None:
            steer_choices.set_weights(self.parameters, self._model, weights)

    def _reason(self) -> str:
        return steer_choices.reason(self.choices, bool(self.pull.pulls))

    def _on_pull(self) -> None:
        self._show()
        self._on_change()

    # Private: what the scene does

    def _refresh(self) -> None:
        """Read the choices, show them, and tell that they steer otherwise where they do."""
        if self.parameters is not None:
            self._fall_back()
        self.choices = steer_choices.read(self.parameters, self._volume, self._model)
        self._observe(self.choices.target, self.choices.region)
        self._show()
        state = self.choices.state()
        before, self._state = self._state, state
        if before is not None and before != state:
            self._on_change()

    def _fall_back(self) -> None:
        """Where a node that was chosen has left the scene, go on without it and say so."""
        p = self.parameters
        edited = None
        if p.fitTo == EDITED and self._volume is not None and self._model is not None:
            edited = steer_choices.target_of(p, self._volume, self._model)
        now = {EDITED: edited, SEGMENTATION: p.target if p.fitTo == SEGMENTATION else None, ignore.IGNORE: p.ignored}
        for what, node in now.items():
            before = self._seen.get(what)
            here = None if node is None else (node.GetID(), node.GetName())
            left = [k for k in (before, self._gone.get(what)) if k and slicer.mrmlScene.GetNodeByID(k[0]) is None]
            if left:
                self._seen.pop(what, None)
                self._gone.pop(what, None)
                self._give_up(what, left[0][1])
                continue
            if before and here and before[0] != here[0]:
                # A selector moves on to another node just before its own one is removed.
                self._gone[what] = before
                qt.QTimer.singleShot(0, lambda: self._gone.clear())
            if here:
                self._seen[what] = here
            else:
                self._seen.pop(what, None)

    def _give_up(self, what: str, name: str) -> None:
        p = self.parameters
        if what == ignore.IGNORE:
            told = p.ignoreRegion
            with slicer.util.NodeModify(p.parameterNode):
                p.ignored, p.ignoredSegment, p.ignoreRegion = None, "", False
            text = _("{name} was removed: nothing is ignored any more").format(name=name)
        else:
            told = p.fitTo == what
            with slicer.util.NodeModify(p.parameterNode):
                p.fitTo = PREDICTION
                if what == SEGMENTATION:
                    p.target = None
            text = _("{name} was removed: refining fits to the network's prediction again").format(name=name)
        if told:
            self._note = text + "."
            self.session.show_failure(Failure("Steering", text, _("choose something else in Steer")))

    def _leave_other_region(self) -> None:
        """A region that was painted on another input is not this one's."""
        p = self.parameters
        if p is None or self._volume is None or not ignore.is_region(p.ignored):
            return
        if not ignore.belongs_to(p.ignored, self._volume):
            own = ignore.region(self._volume)
            with slicer.util.NodeModify(p.parameterNode):
                p.ignored, p.ignoreRegion = own, p.ignoreRegion and own is not None
                p.ignoredSegment = ignore.SEGMENT_ID if own is not None else ""

    def _observe(self, *wanted: Any) -> None:
        """Follow the voxels and segments of these nodes and of no others."""
        kept = [node for node in wanted if node is not None]
        if [node for node, _tags in self._observed] == kept:
            return
        for node, tags in self._observed:
            for tag in tags:
                node.RemoveObserver(tag)
        events = [getattr(slicer.vtkSegmentation, name) for name in _EVENTS]
        events += [slicer.vtkMRMLTransformableNode.TransformModifiedEvent, vtk.vtkCommand.ModifiedEvent]
        self._observed = [(node, [node.AddObserver(event, self._on_content) for event in events]) for node in kept]

    def _on_content(self, _node: Any, _event: str) -> None:
        scene = slicer.mrmlScene
        if self.parameters is not None and not (scene.IsClosing() or scene.IsImporting()):
            self._refresh()

    # Private: the widgets

    def _show(self) -> None:
        ui, p, choices = self.ui, self.parameters, self.choices
        usable = p is not None and choices.volume is not None
        self._setting = True
        fit = p.fitTo if p is not None else PREDICTION
        if ui.fitToComboBox.currentIndex != FITS.index(fit):
            ui.fitToComboBox.setCurrentIndex(FITS.index(fit))
        self._show_target(fit, usable)
        self._show_region(usable)
        if usable and self._model is not None and self._model.manifest is not None:
            self._weights.show(steer_choices.weights(p, self._model), self._model.manifest.labels)
        self._setting = False
        for widget in (ui.fitToComboBox, ui.targetSelector, ui.certaintyCheckBox, ui.weightsTable):
            widget.enabled = usable
        changed = bool(choices.weights)
        _enable(ui.weightsResetButton, "" if changed else _("All structures pull as usual"), _("Back to 1 for all"))
        reason = self._reason() if usable else _("Select a volume and a model first")
        ui.steerWordsLabel.text = reason or self._words()
        ui.steerCollapsibleButton.text = (
            _("Steer (on)") if usable and (choices.steers or self.pull.pulls) else _("Steer")
        )

    def _show_target(self, fit: str, usable: bool) -> None:
        ui, choices = self.ui, self.choices
        ui.targetLabel.visible = ui.targetSelector.visible = fit == SEGMENTATION
        # Of a copy of the prediction all is known, unless the user added segments.
        telling = fit == SEGMENTATION or any(m.chosen or m.value == targets.UNUSED for m in choices.matches)
        shown = choices.target is not None and bool(choices.matches) and telling
        ui.targetTable.visible = ui.targetNoteLabel.visible = shown
        ui.rematchButton.visible = shown and any(entry.chosen for entry in choices.matches)
        if shown and self._model is not None and self._model.manifest is not None:
            self._matches.show(choices.matches, self._model.manifest.labels)
            found, count = len(choices.names or {}) - len(choices.missing), len(choices.names or {})
            note = _("{found} of {count} structures are in it.").format(found=found, count=count)
            if choices.missing:
                note += " " + _("These are not, and do not pull: {names}.").format(names=", ".join(choices.missing))
            ui.targetNoteLabel.text = note
        ui.withoutNetworkCheckBox.enabled = usable and fit != PREDICTION
        ui.withoutNetworkCheckBox.toolTip = (
            _(
                "Segment, too, goes by this segmentation: the atlas is placed and registered by it in place of the"
                " network's prediction. For scans that the network was not made for"
            )
            if fit != PREDICTION
            else _("Fit to something else than the network's prediction first")
        )
        self._show_edit_buttons(fit, usable)

    def _show_edit_buttons(self, fit: str, usable: bool) -> None:
        ui = self.ui
        ui.editPredictionButton.visible = fit != SEGMENTATION
        reason, there = _("Select a volume and a model first"), False
        if usable and self._model is not None and self._model.manifest is not None:
            model = self._model.manifest.about.name
            there = targets.edited_prediction(self._volume, model) is not None
            found = there or nodes.find(slicer.mrmlScene, nodes.PREDICTION, self._volume, model) is not None
            reason = "" if found else _("Segment the volume first")
        _enable(
            ui.editPredictionButton,
            reason,
            _("Correct a copy of the prediction in the Segment Editor, and fit to it; the prediction itself stays"),
        )
        ui.startOverButton.visible = fit == EDITED and there

    def _show_region(self, usable: bool) -> None:
        ui, p, choices = self.ui, self.parameters, self.choices
        ui.ignoreCheckBox.enabled = usable
        _enable(
            ui.paintIgnoreButton,
            "" if usable else _("Select a volume and a model first"),
            _("Paint it in the Segment Editor, for instance over metal, a tumour or a part that is cut off"),
        )
        shown = p is not None and p.ignoreRegion
        for widget in (ui.ignoredLabel, ui.ignoredSelector, ui.ignoredSegmentComboBox):
            widget.visible = shown
        box, region = ui.ignoredSegmentComboBox, choices.region if shown else None
        entries = [("", _("Select a segment"))] if region is not None and not choices.region_id else []
        for key in targets.segment_ids(region) if region is not None else ():
            entries.append((key, region.GetSegmentation().GetSegment(key).GetName()))
        if entries != [(box.itemData(i), box.itemText(i)) for i in range(box.count)]:
            box.clear()
            for key, name in entries:
                box.addItem(name, key)
        place = next((i for i, (key, _name) in enumerate(entries) if key == choices.region_id), -1)
        if box.currentIndex != place:
            box.setCurrentIndex(place)
        box.enabled = len(entries) > 1

    def _words(self) -> str:
        """What steers, in a sentence; the region is measured anew only when something changed."""
        target, pulls = self.choices.target, len(self.pull.pulls)
        key = (self.choices.state(), "" if target is None else target.GetName(), pulls)
        if key != self._said[0]:
            self._said = (key, steer_choices.in_words(self.choices, pulls))
        return " ".join(part for part in (self._note, self._said[1]) if part)


def _enable(button: Any, reason: str, tip: str) -> None:
    button.enabled = not reason
    button.toolTip = reason or tip
