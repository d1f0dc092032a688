"""The panel's sections Segment and Refine, and the line that shows how far a run is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from AtlasISTNLib.configs import RefineConfig

from . import models
from .live import Live
from .loss_chart import LossChart
from .session import Session

_TICKS = 600  # the slider's reach to either side


class RefineSection:
    """Binds the widgets that start, stop and watch runs.

    Args:
        ui: the form's widgets by name.
        on_segment, on_refine, on_stop: what the buttons do.
        on_strength: told a λ* that the user chose.
    """

    def __init__(
        self,
        ui: Any,
        on_segment: Callable[[], None],
        on_refine: Callable[[], None],
        on_stop: Callable[[], None],
        on_strength: Callable[[float], None],
    ) -> None:
        self.ui, self._on_strength = ui, on_strength
        self.own_strength = 1.0
        self._setting = False
        self.chart = LossChart(ui.lossChartLabel, ui.foldingLiveLabel)
        ui.segmentButton.connect("clicked(bool)", lambda _checked: on_segment())
        ui.refineButton.connect("clicked(bool)", lambda _checked: self._on_refine(on_refine))
        ui.stopButton.connect("clicked(bool)", lambda _checked: on_stop())
        ui.strengthSlider.connect("valueChanged(int)", self._on_slider)
        ui.strengthSpinBox.connect("valueChanged(double)", self._on_spin)
        ui.strengthResetButton.connect("clicked(bool)", lambda _checked: self._choose(self.own_strength))

    @property
    def strength(self) -> float:
        """λ*, as the box beside the slider shows it."""
        return float(self.ui.strengthSpinBox.value)

    def set_model(self, entry: models.Entry) -> None:
        """Turn λ* about the model's own; a value out of its reach becomes the model's own."""
        self.own_strength = entry.strength
        reach = models.STRENGTH_REACH
        self._setting = True
        self.ui.strengthSpinBox.minimum = 0.0  # never above the maximum on the way
        self.ui.strengthSpinBox.maximum = entry.strength * reach
        self.ui.strengthSpinBox.minimum = entry.strength / reach
        self._setting = False

    def show_strength(self, value: float) -> None:
        """Show a λ* on the slider and beside it, without telling anybody."""
        self._setting = True
        box, slider = self.ui.strengthSpinBox, self.ui.strengthSlider
        decimals = models.strength_decimals(value)
        box.decimals = max(decimals, models.strength_decimals(self.own_strength / models.STRENGTH_REACH))
        box.singleStep = 10.0 ** math.floor(math.log10(max(value, 1e-6) / 5))
        box.value = value
        ratio = math.log(max(value, 1e-12) / self.own_strength) / math.log(models.STRENGTH_REACH)
        slider.value = round(max(-1.0, min(1.0, ratio)) * _TICKS)
        self._setting = False

    def config(self, parameters: Any) -> RefineConfig:
        """The refinement that the panel asks for.

        Raises:
            ConfigError: the choices contradict each other.
        """
        return RefineConfig(
            iterations=parameters.iterations,
            strength=self.strength,
            beta=parameters.beta,
            gamma=parameters.gamma,
            learning_rate=parameters.learningRate or None,
            mode=parameters.mode,
        )

    def close(self) -> None:
        """Draw no more."""
        self.chart.close()

    def show(self, session: Session, segment_reason: str, refine_reason: str, live: Live) -> None:
        """Enable what can be done now; a disabled button's tooltip says why it is."""
        ui = self.ui
        _set_enabled(ui.segmentButton, segment_reason, _("Warp the atlas onto the scan"))
        _set_enabled(ui.refineButton, refine_reason, _("Fit the atlas more closely to this scan"))
        stopping = session.status is not None and session.status.stage == "stopping"
        running = session.busy or live.waiting or session.unwritten
        reason = "" if running and not stopping else _("Stopping") if stopping else _("Nothing is running")
        _set_enabled(ui.stopButton, reason, _("Stop, and switch Auto off; the best result so far is kept"))
        ui.progressBar.visible = ui.stopButton.visible = running
        self.chart.show(session.course, session.refining or session.unwritten)
        status = session.status
        if status is None and running:
            return  # between two refinements: what was said of the last one still stands
        if status is None:
            stale = live.stale and not refine_reason and session.outcome is not None
            text = segment_reason or (_("The settings have changed since this result: refine again") if stale else "")
            ui.statusLabel.visible, ui.statusLabel.text = bool(text), text
            return
        ui.statusLabel.visible = True
        if status.fraction is None:
            ui.progressBar.setRange(0, 0)  # busy, with no end in sight
        else:
            ui.progressBar.setRange(0, 1000)
            ui.progressBar.value = round(1000 * status.fraction)
        ui.statusLabel.text = status.text

    def _on_slider(self, value: int) -> None:
        if not self._setting:
            self._choose(models.strength_of_slider(value, self.own_strength, _TICKS))

    def _on_refine(self, on_refine: Callable[[], None]) -> None:
        # On a Mac the click takes no keyboard focus from a box, whose number would not count yet.
        ui = self.ui
        for box in (ui.strengthSpinBox, ui.iterationsSpinBox, ui.betaSpinBox, ui.gammaSpinBox, ui.learningRateSpinBox):
            box.interpretText()
        on_refine()

    def _on_spin(self, value: float) -> None:
        if not self._setting:
            self._choose(value)

    def _choose(self, value: float) -> None:
        self.show_strength(value)
        self._on_strength(self.strength)


def _set_enabled(button: Any, reason: str, tip: str) -> None:
    button.enabled = not reason
    button.toolTip = reason or tip
