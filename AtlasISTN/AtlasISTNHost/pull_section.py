"""The panel's group Pull: take a point of the warped atlas in a view, and drag it to where it belongs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.correspondence import Correspondence
from AtlasISTNLib.errors import AtlasISTNError
from AtlasISTNLib.steering import LANDMARK_WEIGHT

from . import frames, nodes, placing, pull_lines, pulls, results
from .models import Entry
from .session import Session

_NAME, _DISTANCE, _REMOVE = range(3)
#: Pixels of the table's rows and of its frame, and so many rows are seen at once.
_ROW, _FRAME, _ROWS = 22, 4, 5
_DISTANCE_WIDTH, _REMOVE_WIDTH = 80, 28
#: Ticks of the slider for how hard to pull, for each power of ten.
_DECADE = 100


class PullSection:
    """Binds the widgets of Pull.

    Args:
        ui: the form's widgets by name.
        session: gives what is shown.
        on_change: told when what the pulls ask for changed.
    """

    def __init__(self, ui: Any, session: Session, on_change: Callable[[], None]) -> None:
        self.ui, self.session, self._on_change = ui, session, on_change
        self.pulls: tuple[pulls.Pull, ...] = ()
        self._volume: Any = None
        self._entry: Entry | None = None
        self._result: results.Nodes | None = None
        self._maps: pulls.Maps | None = None
        self._node: Any = None
        self._observed: list[tuple[Any, int]] = []
        self._lines = pull_lines.Lines()
        self._placing: placing.Placing | None = None
        self._placing_tags: tuple[tuple[Any, int], ...] = ()
        self._told: tuple[Any, ...] = ()
        self._working = self._dragging = self._setting = False
        self._escape = qt.QShortcut(qt.QKeySequence(qt.Qt.Key_Escape), ui.pullButton)
        self._escape.connect("activated()", self._stop_placing)
        ui.pullButton.connect("clicked(bool)", self._on_pull)
        ui.pullRemoveAllButton.connect("clicked(bool)", lambda _checked: self._remove_all())
        ui.pullTable.connect("cellClicked(int,int)", self._on_cell)
        ui.pullWeightSlider.connect("valueChanged(int)", self._on_weight)
        ui.pullTable.verticalHeader().setVisible(False)
        ui.pullTable.verticalHeader().setDefaultSectionSize(_ROW)
        ui.pullTable.setColumnCount(3)
        ui.pullTable.setHorizontalHeaderLabels([_("Point of the atlas"), _("Away"), ""])
        header = ui.pullTable.horizontalHeader()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(_NAME, qt.QHeaderView.Stretch)
        ui.pullTable.setColumnWidth(_DISTANCE, _DISTANCE_WIDTH)
        ui.pullTable.setColumnWidth(_REMOVE, _REMOVE_WIDTH)
        session.on_preview_listeners.append(self.follow)
        session.on_result_listeners.append(self._on_result)
        self._show()

    def update(self, volume: Any, entry: Entry | None) -> None:
        """Follow the input and the model that are chosen now, and what was done to the scene.

        Args:
            volume: the input's node, or None.
            entry: the model, or None.
        """
        if self._working:  # nodes that are added here lead back here
            return
        if not nodes.in_scene(self._node):
            self._stop_placing()
        other = volume is not self._volume or self._model_of(entry) != self._model
        if other:
            self._stop_placing()
            self._maps = None
        if other or not self.session.busy:
            self._volume, self._entry = volume, entry
            self._look()
        if other:
            self._told = pulls.signature(self._node)
        self._show()
        self._tell()

    def landmarks(self, volume_node: Any) -> dict[str, Any] | None:
        """The field "landmarks" of a request; None where nothing is pulled.

        Args:
            volume_node: the input.

        Raises:
            AtlasISTNError: the input is impossible.
        """
        entry = self._entry
        if volume_node is None or entry is None or entry.manifest is None:
            return None
        node = pulls.find(volume_node, entry.manifest.about.name)
        if node is None:
            return None
        return pulls.landmarks(pulls.read(node, volume_node, entry.manifest), pulls.weight_of(node))

    def follow(self, correspondence: Correspondence, frame: frames.Frame) -> None:
        """Show where the atlas's points lie by a preview or a result of the input and model that are looked at."""
        if self._volume is None or not self.session.holds(self._volume, self._entry):
            return
        self._maps = pulls.maps_of(correspondence, frame)
        self._show()

    def _on_result(self, _outcome: Any, _nodes: Any, _task: Any, _config: Any) -> None:
        if self._volume is not None and self.session.holds(self._volume, self._entry):
            self._look()
            self._show()

    def close(self) -> None:
        """Leave nothing behind in the scene but the pulls themselves."""
        self._stop_placing()
        self._watch(None)
        self._lines.clear()

    @property
    def _model(self) -> str:
        return self._model_of(self._entry)

    @staticmethod
    def _model_of(entry: Entry | None) -> str:
        return "" if entry is None or entry.manifest is None else str(entry.manifest.about.name)

    def _look(self) -> None:
        """Find the nodes of the input and the model."""
        known = self._volume is not None and self._model != ""
        self._result = results.find_nodes(self._volume, self._model) if known else None
        if self._result is None:
            self._maps = None
        elif self._maps is None or not self.session.unwritten:  # else what is shown is ahead of the nodes
            self._maps = pulls.maps_of_node(self._result.image_from_atlas)
        self._watch(pulls.find(self._volume, self._model) if known else None)
        self._adopt()

    def _watch(self, node: Any) -> None:
        """Observe a node of pulls in place of the one before."""
        if node is self._node:
            return
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        self._observed, self._node, self._dragging = [], node, False
        if node is None:
            return
        for event, function in (
            (node.PointModifiedEvent, self._on_points),
            (node.PointRemovedEvent, self._on_points),
            (node.PointPositionDefinedEvent, self._on_placed),
            (node.PointStartInteractionEvent, self._on_drag),
            (node.PointEndInteractionEvent, self._on_drop),
            (node.DisplayModifiedEvent, self._on_display),
        ):
            self._observed.append((node, node.AddObserver(event, function)))

    # What the user does in the views

    def _on_drag(self, _caller: Any, _event: str) -> None:
        self._dragging = True

    def _on_drop(self, _caller: Any, _event: str) -> None:
        self._dragging = False
        self._on_points(_caller, _event)

    def _on_points(self, _caller: Any, _event: str) -> None:
        if self._working:
            return
        self._show()
        if not self._dragging:
            self._tell()

    def _on_placed(self, _caller: Any, _event: str) -> None:
        if not self._working:
            self._adopt()
            self._on_points(_caller, _event)

    def _on_display(self, _caller: Any, _event: str) -> None:
        if self._working:
            return
        display = self._node.GetDisplayNode()
        if self._dragging and display is not None and not display.HasActiveComponent():
            self._on_drop(_caller, _event)  # the key "s" brings a point to the slice: Slicer says the beginning only
        self._draw()

    def _adopt(self) -> None:
        """Give points that were just placed their points of the atlas."""
        if self._maps is None or self._result is None or not nodes.in_scene(self._node):
            return
        manifest = self._entry.manifest if self._entry is not None else None
        names = {} if manifest is None else {label.value: label.name for label in manifest.labels}
        surfaces = self._result.surfaces
        meshes = {
            names.get(value, str(value)): node.GetPolyData() for value, node in surfaces.items() if nodes.in_scene(node)
        }
        self._working = True
        try:
            pulls.adopt(self._node, self._maps, meshes)
        finally:
            self._working = False

    # What the user does in the panel

    def _on_pull(self, on: bool) -> None:
        self._stop_placing()
        if not on or self._reason():
            self._show()
            return
        self._working = True
        try:
            new = not nodes.in_scene(self._node)
            node = pulls.get_or_add(self._volume, self._model)
            if new:
                pulls.set_weight(node, self._weight())
        finally:
            self._working = False
        self._watch(node)
        if node.GetDisplayNode() is not None and not node.GetDisplayNode().GetVisibility():
            node.GetDisplayNode().SetVisibility(True)  # what cannot be seen cannot be placed
        self._placing = placing.Placing(node)
        interaction, selection = self._placing.interaction_node, self._placing.selection_node
        self._placing_tags = (
            (interaction, interaction.AddObserver(interaction.InteractionModeChangedEvent, self._on_mode)),
            (selection, selection.AddObserver(selection.ActivePlaceNodeIDChangedEvent, self._on_choice)),
        )
        self._show()

    def _on_mode(self, _caller: Any, _event: str) -> None:
        if self._placing is not None and not self._placing.going_on:
            # The views are still at it: they take their leave of the node first.
            qt.QTimer.singleShot(0, self._end_placing)
            self._show()

    def _on_choice(self, _caller: Any, _event: str) -> None:
        # Nodes that are added become the chosen ones for a moment: who is in the end?
        if self._placing is not None and not self._working:
            qt.QTimer.singleShot(0, self._end_placing)

    def _end_placing(self) -> None:
        if self._placing is not None and not self._placing.going_on:
            self._stop_placing()

    def _stop_placing(self) -> None:
        if self._placing is None:
            return
        mode, tags = self._placing, self._placing_tags
        self._placing, self._placing_tags = None, ()
        for observed, tag in tags:
            observed.RemoveObserver(tag)
        mode.stop()
        mode.give_back()
        self._show()

    def _on_cell(self, row: int, column: int) -> None:
        if not nodes.in_scene(self._node) or row >= len(self.pulls):
            return
        index = self.pulls[row].index
        if column == _REMOVE:
            pulls.remove_point(self._node, index)
        else:
            slicer.modules.markups.logic().JumpSlicesToNthPointInMarkup(self._node.GetID(), index, False)

    def _remove_all(self) -> None:
        if nodes.in_scene(self._node):
            self._stop_placing()
            pulls.remove_points(self._node)

    def _on_weight(self, _ticks: int) -> None:
        if self._setting:
            return
        if nodes.in_scene(self._node):
            pulls.set_weight(self._node, self._weight())
        self._show()
        self._tell()

    def _weight(self) -> float:
        return float(LANDMARK_WEIGHT * 10.0 ** (self.ui.pullWeightSlider.value / _DECADE))

    # What is shown

    def _tell(self) -> None:
        """Say that the pulls changed, once for each change."""
        now = pulls.signature(self._node)
        if now != self._told:
            self._told = now
            self._on_change()

    def _show(self) -> None:
        self.pulls = self._read()
        self._draw()
        self._fill()
        self._enable()

    def _read(self) -> tuple[pulls.Pull, ...]:
        volume, entry = self._volume, self._entry
        if not nodes.in_scene(self._node) or not nodes.in_scene(volume) or entry is None or entry.manifest is None:
            return ()
        try:
            return pulls.read(self._node, volume, entry.manifest, self._maps)
        except AtlasISTNError:
            return ()  # of the input; segmenting it says what is wrong

    def _draw(self) -> None:
        """Bring the lines up to the pulls."""
        shown = [pull for pull in self.pulls if pull.now is not None]
        self._working = True
        try:
            if not shown or not nodes.in_scene(self._volume) or not nodes.in_scene(self._node):
                self._lines.clear()
                return
            frame, display = frames.processing_frame(self._volume), self._node.GetDisplayNode()
            ends = [(frame.to_local(pull.now), frame.to_local(pull.target)) for pull in shown]
            visible = display is not None and bool(display.GetVisibility())
            self._lines.show(self._volume.GetScene(), ends, self._volume.GetTransformNodeID(), visible)
        finally:
            self._working = False

    def _fill(self) -> None:
        table = self.ui.pullTable
        if table.rowCount != len(self.pulls):
            table.setRowCount(len(self.pulls))
            for row in range(len(self.pulls)):
                for column in range(3):
                    table.setItem(row, column, qt.QTableWidgetItem(""))
                table.item(row, _DISTANCE).setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.item(row, _REMOVE).setTextAlignment(qt.Qt.AlignCenter)
            height = table.horizontalHeader().sizeHint.height() + _FRAME
            table.minimumHeight = table.maximumHeight = height + _ROW * min(len(self.pulls), _ROWS)
        for row, pull in enumerate(self.pulls):
            tip = pull.problem or _("Click to go there; drag the yellow mark in a view to where this point belongs")
            for column, text in ((_NAME, pull.name), (_DISTANCE, _distance_text(pull)), (_REMOVE, "✕")):
                table.item(row, column).setText(text)
                table.item(row, column).setToolTip(_("Remove this pull") if column == _REMOVE else tip)
        table.visible = bool(self.pulls)

    def _enable(self) -> None:
        ui, reason = self.ui, self._reason()
        waiting = self._placing is not None and self._placing.going_on
        ui.pullButton.enabled, ui.pullButton.checked = not reason, waiting
        self._escape.enabled = waiting  # Slicer's place mode knows the right click only
        ui.pullButton.toolTip = reason or _("Then click on a point of the warped atlas in a slice or in the 3D view")
        nothing = "" if self.pulls else _("Nothing is pulled")
        ui.pullRemoveAllButton.enabled = not nothing
        ui.pullRemoveAllButton.toolTip = nothing or _("Remove all pulls; the atlas goes on without them")
        if waiting:
            ui.pullHintLabel.text = _(
                "Click on a point of the warped atlas, in a slice or in the 3D view. A right click or Esc ends it."
            )
        elif self.pulls:
            ui.pullHintLabel.text = _("Drag the yellow marks to where the points belong, then refine.")
        else:
            ui.pullHintLabel.text = _("Take a point of the warped atlas and drag it to where it belongs, then refine.")
        if nodes.in_scene(self._node):
            self._setting = True
            factor = pulls.weight_of(self._node) / LANDMARK_WEIGHT
            ui.pullWeightSlider.value = round(_DECADE * math.log10(factor)) if factor > 0 else -(10**6)
            self._setting = False
        ui.pullWeightTextLabel.text = _weight_text(self._weight() / LANDMARK_WEIGHT)

    def _reason(self) -> str:
        """Why nothing can be pulled now; empty where it can."""
        if self._volume is None:
            return _("Select a volume, or load a sample")
        if self._result is None:
            return _("Segment the volume first")
        if self._maps is None:
            return _("The transform of the result has left the scene: segment the volume again")
        return ""


def _distance_text(pull: pulls.Pull) -> str:
    if pull.problem:
        return _("not used")
    if math.isnan(pull.distance):
        return "–"
    return _("{distance:.1f} mm").format(distance=pull.distance)


def _weight_text(factor: float) -> str:
    if abs(math.log10(factor)) < 0.5 / _DECADE:
        return _("as usual")
    if factor > 1:
        return _("{factor:.2g} × harder").format(factor=factor)
    return _("{factor:.2g} × softer").format(factor=1 / factor)
