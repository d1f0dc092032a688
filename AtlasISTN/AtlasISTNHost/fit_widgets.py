"""The widgets of the Segment Editor's effect "Atlas fit", and the choices in them, which are kept with the scene."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from AtlasISTNLib.configs import MODES, RefineConfig

from . import models, settings

#: Names of the effect's parameters, kept with the editor's own in the scene.
MODEL, STRENGTH, ITERATIONS, MODE = "Model", "Strength", "Iterations", "Mode"
_TICKS = 600  # the slider's reach to either side
_MOST_ITERATIONS = 2000


class FitWidgets:
    """Model, λ*, steps and mode, the buttons, and what is said of a fit.

    Args:
        effect: the editor's side of the effect, a qSlicerSegmentEditorScriptedEffect.
        on_apply, on_cancel: what the buttons do.
        on_model: told that another model was chosen.
    """

    def __init__(
        self,
        effect: Any,
        on_apply: Callable[[], None],
        on_cancel: Callable[[], None],
        on_model: Callable[[], None],
    ) -> None:
        self.effect, self._told_model = effect, on_model
        self.entries: list[models.Entry] = []
        self._setting = False
        self._make_choices()
        self._make_buttons()
        self.refresh()
        self.applyButton.connect("clicked(bool)", lambda _checked: on_apply())
        self.cancelButton.connect("clicked(bool)", lambda _checked: on_cancel())

    @property
    def model(self) -> models.Entry | None:
        """The model that is chosen."""
        index = self.modelComboBox.currentIndex
        return self.entries[index] if 0 <= index < len(self.entries) else None

    @property
    def config(self) -> RefineConfig:
        """The refinement that is asked for."""
        return RefineConfig(
            iterations=int(self.iterationsSpinBox.value),
            strength=float(self.strengthSpinBox.value),
            mode=MODES[max(self.modeComboBox.currentIndex, 0)],
        )

    def refresh(self) -> None:
        """List the models that there are now; the one that is chosen stays so where it is still there."""
        found = models.entries(tuple(settings.own_models()))
        if [(entry.key, entry.title) for entry in found] == [(entry.key, entry.title) for entry in self.entries]:
            self.entries = found
            return
        chosen = self.model.key if self.model is not None else ""
        keys = [entry.key for entry in found]
        self._setting = True
        self.modelComboBox.clear()
        self.entries = found
        for entry in found:
            self.modelComboBox.addItem(entry.title)
        self.modelComboBox.setCurrentIndex(keys.index(chosen) if chosen in keys else 0)
        self._setting = False

    def show(self) -> None:
        """Show what the scene says; where it says nothing, the model's own."""
        keys = [entry.key for entry in self.entries]
        wanted, mode = _text(self.effect, MODEL), _text(self.effect, MODE)
        self._setting = True
        if wanted in keys:
            self.modelComboBox.setCurrentIndex(keys.index(wanted))
        model = self.model
        if model is not None:
            self._show_strength(model, _number(self.effect, STRENGTH) or model.strength)
            self.iterationsSpinBox.value = int(_number(self.effect, ITERATIONS)) or model.iterations
        self.modeComboBox.setCurrentIndex(MODES.index(mode) if mode in MODES else 0)
        self._setting = False

    def store(self) -> None:
        """Write what is chosen to the scene."""
        if self._setting or self.effect.parameterSetNode() is None:
            return
        config, model = self.config, self.model
        choices = {
            MODEL: model.key if model is not None else "",
            STRENGTH: repr(float(self.strengthSpinBox.value)),
            ITERATIONS: str(config.iterations),
            MODE: config.mode,
        }
        for name, value in choices.items():
            self.effect.setParameter(name, value)

    def show_state(self, reason: str, busy: bool, can_cancel: bool, fraction: float | None) -> None:
        """Enable what can be done now, and show how far a fit is.

        Args:
            reason: why nothing can be fitted; empty where it can.
            busy: whether a fit goes on.
            can_cancel: whether it can be cancelled still.
            fraction: done of it in [0, 1]; None when not known.
        """
        tip = _("Fit the atlas to the segments and put it in their place; one undo takes it back")
        self.applyButton.enabled, self.applyButton.toolTip = not reason, reason or tip
        self.cancelButton.enabled = can_cancel
        self.cancelButton.toolTip = (
            _("Stop; the segments stay as they are")
            if can_cancel
            else _("Stopping")
            if busy
            else _("Nothing is running")
        )
        self.progressBar.visible = busy
        if fraction is None:
            self.progressBar.setRange(0, 0)  # busy, with no end in sight
        else:
            self.progressBar.setRange(0, 1000)
            self.progressBar.value = round(1000 * fraction)

    def say(self, plan: str, details: str, status: str) -> None:
        """What a fit would do, in brief and in full, and what became of the last one."""
        self.planLabel.text, self.planLabel.toolTip, self.statusLabel.text = plan, details, status
        self.statusLabel.visible = bool(status)

    def _make_choices(self) -> None:
        self.modelComboBox = _combo_box()
        self.modelComboBox.toolTip = _("The atlas to fit; models of your own are added in the module Atlas-ISTN")
        self.strengthSlider = qt.QSlider(qt.Qt.Horizontal)
        self.strengthSlider.setRange(-_TICKS, _TICKS)
        self.strengthSpinBox = qt.QDoubleSpinBox()
        tip = _("Weight of smoothness: to the right the atlas keeps its shape, to the left it follows the segments")
        self.strengthSlider.toolTip = self.strengthSpinBox.toolTip = tip
        self.iterationsSpinBox = qt.QSpinBox()
        self.iterationsSpinBox.setRange(1, _MOST_ITERATIONS)
        self.iterationsSpinBox.toolTip = _("Steps of the refinement")
        self.modeComboBox = _combo_box()
        self.modeComboBox.addItem(_("network: as published"))
        self.modeComboBox.addItem(_("field: several times faster a step"))
        self.modeComboBox.toolTip = _("Whether the registration network or the deformation itself is refined")
        for label, row in (
            (_("Model:"), _row(self.modelComboBox)),
            (_("λ*:"), _row(self.strengthSlider, self.strengthSpinBox)),
            (_("Iterations:"), _row(self.iterationsSpinBox)),
            (_("Mode:"), _row(self.modeComboBox)),
        ):
            self.effect.addLabeledOptionsWidget(label, row)
        self.modelComboBox.connect("currentIndexChanged(int)", self._on_model)
        self.strengthSlider.connect("valueChanged(int)", self._on_slider)
        self.strengthSpinBox.connect("valueChanged(double)", lambda _value: self.store())
        self.strengthSpinBox.connect("editingFinished()", self._on_typed)
        self.iterationsSpinBox.connect("valueChanged(int)", lambda _value: self.store())
        self.modeComboBox.connect("currentIndexChanged(int)", lambda _index: self.store())

    def _make_buttons(self) -> None:
        self.planLabel, self.statusLabel = _label(), _label()
        self.applyButton, self.cancelButton = qt.QPushButton(_("Apply")), qt.QPushButton(_("Cancel"))
        self.progressBar = qt.QProgressBar()
        self.progressBar.textVisible = False
        self.progressBar.toolTip = _("How far the fit is")
        buttons, progress = _row(self.applyButton, self.cancelButton), _row(self.progressBar)
        for part in (self.planLabel, buttons, progress, self.statusLabel):
            self.effect.addOptionsWidget(part)

    def _on_model(self, _index: int) -> None:
        """Another model brings its own λ* and number of steps."""
        model = self.model
        if self._setting or model is None:
            return
        self._setting = True
        self._show_strength(model, model.strength)
        self.iterationsSpinBox.value = model.iterations
        self._setting = False
        self.store()
        self._told_model()

    def _on_slider(self, value: int) -> None:
        if not self._setting and self.model is not None:
            self.strengthSpinBox.value = models.strength_of_slider(value, self.model.strength, _TICKS)

    def _on_typed(self) -> None:
        self.strengthSpinBox.singleStep = models.strength_step(self.strengthSpinBox.value)

    def _show_strength(self, model: models.Entry, value: float) -> None:
        box, reach = self.strengthSpinBox, models.STRENGTH_REACH
        decimals = max(models.strength_decimals(value), models.strength_decimals(model.strength / reach))
        box.setRange(model.strength / reach, model.strength * reach)
        if box.value != value or box.decimals != decimals:  # each of these writes anew what is being typed
            box.decimals = decimals
            box.singleStep = models.strength_step(value)
            box.value = value
        ratio = math.log(max(value, 1e-12) / model.strength) / math.log(reach)
        self.strengthSlider.value = round(max(-1.0, min(1.0, ratio)) * _TICKS)


def defaults(effect: Any) -> None:
    """The first choices of a scene: none, so that the model's own are shown."""
    for name, value in ((MODEL, ""), (STRENGTH, "0"), (ITERATIONS, "0"), (MODE, MODES[0])):
        effect.setParameterDefault(name, value)


def _row(*widgets: Any) -> Any:
    """The editor stretches widgets in height, and not what is in a layout."""
    row = qt.QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget)
    return row


def _combo_box() -> Any:
    box = qt.QComboBox()
    box.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)  # else long titles widen the editor
    box.setMinimumContentsLength(12)
    return box


def _label() -> Any:
    label = qt.QLabel()
    label.wordWrap = True
    label.setAlignment(qt.Qt.AlignLeft | qt.Qt.AlignTop)
    return label


def _text(effect: Any, name: str) -> str:
    return str(effect.parameter(name)) if effect.parameterDefined(name) else ""


def _number(effect: Any, name: str) -> float:
    try:
        return float(_text(effect, name) or 0)
    except ValueError:  # edited by hand
        return 0.0
