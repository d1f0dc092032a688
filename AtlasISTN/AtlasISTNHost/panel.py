"""The panel: owner of the session and of the sections, and what leads from one to the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.errors import AtlasISTNError, ConfigError

from . import batch_run, messages, nodes
from .batch import BatchSection
from .disagreement_section import DisagreementSection
from .engine import Engine, Failure
from .export_section import ExportSection
from .history_section import HistorySection
from .input_section import InputSection
from .jobs import JobFolders
from .live import Live
from .models import Entry
from .refine_section import RefineSection
from .review_section import ReviewSection
from .session import Session, Task
from .steer_section import SteerSection
from .training import TrainSection


class Panel:
    """Everything behind the form.

    Args:
        ui: the form's widgets by name.
        engine: the engine's process; by default one of its own.
    """

    def __init__(self, ui: Any, engine: Engine | None = None) -> None:
        self.ui = ui
        self.parameters: Any = None
        self._binding: Any = None
        self._seen: Any = None
        self._low_memory = False
        self._settings: tuple[Any, ...] | None = None  # of the refinement; None while they are not watched
        self.jobs = JobFolders()
        self.engine = engine or Engine(on_state=self._on_engine)
        self.session = Session(self.engine, self.jobs, self.update, self._on_progress)
        self.input = InputSection(ui, self._on_input, self.session.show_failure)
        self.refine = RefineSection(ui, self.on_segment, self.on_refine, self.on_stop, self._on_strength)
        self.live = Live(self.session, self.refine_reason, self._go_on, self._switch_auto_off)
        self.steer = SteerSection(ui, self.session, self.auto_restart)
        self.history = HistorySection(ui, self.session, self.session.show_failure, self.quietly)
        self.review = ReviewSection(ui, self.session, self.session.show_failure)
        self.how_sure = DisagreementSection(ui, self.session, self.session.show_failure)
        self.export = ExportSection(ui, self.session, self.review, self.engine, self.session.show_failure)
        self.batch = BatchSection(ui, self._batch_settings, self.engine, self.jobs, self.session.show_failure)
        self.train = TrainSection(ui, lambda: self.input, self.jobs, self._on_trained, self.session.show_failure)
        ui.messageCloseButton.connect("clicked(bool)", lambda _checked: self.session.show_failure(None))
        ui.messageCopyButton.connect("clicked(bool)", lambda _checked: self._copy_report())
        ui.messageActionButton.connect("clicked(bool)", lambda _checked: self._act(0))
        ui.messageSecondButton.connect("clicked(bool)", lambda _checked: self._act(1))
        self.update()

    def bind(self, parameters: Any) -> None:
        """Follow a scene's parameter node; None to follow none."""
        self._settings = None
        self.live.close()
        if self.parameters is not None and self._binding is not None:
            self.parameters.disconnectGui(self._binding)
        self.parameters, self._binding = parameters, None
        if parameters is not None:
            self._first_choices(parameters)
            self._binding = parameters.connectGui(self.ui)
        self.steer.bind(parameters)
        self.history.bind(parameters)
        self.review.bind(parameters)
        self.how_sure.bind(parameters)
        self._follow_model()
        if parameters is not None:
            self._settings = _settings(parameters)
            self.live.turn(parameters.autoRefine)
        self.update()

    def on_parameters(self) -> None:
        """Called when the parameter node changed."""
        if self.parameters is not None:
            if self.input.model is not None and self.parameters.model not in ("", self.input.model.key):
                self._follow_model()
            if self.parameters.strength and abs(self.parameters.strength - self.refine.strength) > 1e-9:
                self.refine.show_strength(self.parameters.strength)
            self.how_sure.apply()
            self.review.apply()
            self._watch(self.parameters)
        self.update()

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        """A block that changes settings of the refinement and no refinement follows, as going back to a result does."""
        self._settings = None
        try:
            yield
        finally:
            if self.parameters is not None:
                self._settings = _settings(self.parameters)
            self.live.asked()

    def nodes_changed(self) -> None:
        """Called when nodes came to the scene or left it."""
        if self.parameters is not None and self.parameters.inputVolume is None:
            self._first_choices(self.parameters)
        self.update()

    def scene_closed(self) -> None:
        """Called before a scene is closed: nothing of it is used from here on."""
        self.session.forget()
        self.history.scene_closed()
        self.bind(None)

    def close(self) -> None:
        """End the engine and remove what was left on disk; called when the module goes away."""
        self.batch.close()
        self.refine.close()
        self.live.close()
        self.engine.stop()  # both engines end at once; each is then waited for, because Slicer may have no more timers
        self.bind(None)
        self.steer.close()
        self.history.close()
        self.review.close()
        self.train.close()
        self.engine.stop(wait_ms=3000)
        self.jobs.close()

    def on_segment(self) -> None:
        """The button Segment."""
        if not self.segment_reason():
            self._run(self._segment)

    def on_refine(self) -> None:
        """The button Refine."""
        if not self.refine_reason():
            self._run(lambda: self._refine("one-pass"))

    def on_stop(self) -> None:
        """The button Stop: of the run that goes on, and of those that would follow by themselves."""
        self.session.stop()
        self.live.stop()
        self.update()

    def auto_restart(self) -> None:
        """Something that steers a refinement changed: with Auto on, refine again from where the last one is."""
        self.live.changed()
        self._show_run()

    def segment_reason(self) -> str:
        """Why nothing can be segmented now; empty where it can."""
        parameters, model = self.parameters, self.input.model
        if self.session.busy or self.batch.busy:
            return _("The engine is at work")
        if parameters is None or parameters.inputVolume is None:
            return _("Select a volume, or load a sample")
        if not self.input.torch.ready:
            return _("Install PyTorch first (see Input)")
        if model is None or model.manifest is None:
            return _("Choose a model")
        image = parameters.inputVolume.GetImageData()
        if image is None or 0 in image.GetDimensions():
            return _("The selected volume is empty")
        if model.dimension == 2 and min(image.GetDimensions()) > 1:
            return _("{model} is a model of single slices; this volume has many").format(model=model.title)
        if model.dimension == 3 and min(image.GetDimensions()) == 1:
            return _("{model} is a model of volumes; this is a single slice").format(model=model.title)
        return self.steer.reason("segment")

    def refine_reason(self) -> str:
        """Why nothing can be refined now; empty where it can."""
        reason = self.segment_reason()
        if reason:
            return reason
        volume, model = self.parameters.inputVolume, self.input.model
        if self.session.holds(volume, model):
            return self.steer.reason()
        # The nodes of a scene that was loaded are enough: the engine segments again on its way.
        found = model and nodes.find(slicer.mrmlScene, "segmentation", volume, model.manifest.about.name)
        return self.steer.reason() if found else _("Segment the volume first")

    def update(self) -> None:
        """Bring the widgets up to what there is to do."""
        self.steer.update(self.parameters.inputVolume if self.parameters is not None else None, self.input.model)
        self.live.update()
        self._show_run()
        self._show_message(self.session.failure)
        if self.session.outcome is not self._seen:
            self._seen = self.session.outcome
            self.review.show_result()
        self.history.update(self.parameters.inputVolume if self.parameters is not None else None, self.input.model)
        if not self.session.busy:
            self.review.update(self.parameters, self.input.model)
            self.how_sure.update(self.review.nodes)
            self.export.update()
        self.batch.update()
        self.train.update()

    # Private: runs

    def _segment(self) -> None:
        p, extra = self.parameters, self.steer.extra
        then = self.refine.config(p) if p.refineAfter else None
        self.live.asked()
        self.session.segment(self._task(), then, extra("segment"), extra("refine"))

    def _refine(self, start: str) -> None:
        config, extra = self.refine.config(self.parameters), self.steer.extra("refine")
        self.live.asked()
        self.session.refine(self._task(), config, extra, start)

    def _go_on(self) -> None:
        self._refine("current")

    def _watch(self, parameters: Any) -> None:
        """Notice what changed of the refinement's settings, and whether Auto is on."""
        self.live.turn(parameters.autoRefine)
        settings = _settings(parameters)
        if self._settings is not None and settings != self._settings:
            self._settings = settings
            self.auto_restart()

    def _switch_auto_off(self) -> None:
        if self.parameters is not None:
            self.parameters.autoRefine = False
        self.live.turn(False)

    def _on_progress(self) -> None:
        self.live.update()
        self._show_run()

    def _show_run(self) -> None:
        self.refine.show(self.session, self.segment_reason(), self.refine_reason(), self.live)

    # Private: from one section to another

    def _task(self) -> Task:
        p = self.parameters
        assert self.input.model is not None  # checked by segment_reason
        return Task(p.inputVolume, p.region, self.input.model, self.input.device, self.input.threads, self._low_memory)

    def _run(self, start: Callable[[], None]) -> None:
        try:
            start()
        except AtlasISTNError as error:
            self.session.show_failure(messages.failure_of(error))

    def _on_input(self) -> None:
        """The user chose a model or a device."""
        model = self.input.model
        if model is not None and self.parameters is not None and self.parameters.model != model.key:
            with self.quietly():
                self.parameters.model = model.key
                self._use_defaults(model)
        self._low_memory = False
        self.update()

    def _use_defaults(self, model: Entry) -> None:
        self.refine.set_model(model)
        self.refine.show_strength(model.strength)
        self.parameters.strength = model.strength
        self.parameters.iterations = model.iterations

    def _follow_model(self) -> None:
        """Choose what the parameter node says, or write into it what is chosen."""
        parameters = self.parameters
        if parameters is None:
            return
        wanted = parameters.model
        if wanted and not self.input.choose(wanted):
            self.session.failure = Failure(
                "BundleError",
                _("This scene was made with the model {model}, which is not here").format(model=wanted),
                _("add it to go on with it; {other} was chosen in its place").format(
                    other=self.input.model.title if self.input.model else "-"
                ),
            )
            wanted = ""
        model = self.input.model
        if model is None:
            return
        self.refine.set_model(model)
        reach = (self.ui.strengthSpinBox.minimum, self.ui.strengthSpinBox.maximum)
        if wanted and reach[0] * 0.999 <= parameters.strength <= reach[1] * 1.001:
            self.refine.show_strength(parameters.strength)
        else:
            parameters.model = model.key
            self._use_defaults(model)

    def _first_choices(self, parameters: Any) -> None:
        if parameters.inputVolume is None:
            for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
                if not nodes.is_ours(volume) and not volume.GetHideFromEditors():
                    parameters.inputVolume = volume
                    return

    def _on_strength(self, value: float) -> None:
        if self.parameters is not None:
            self.parameters.strength = value

    def _on_engine(self, state: str) -> None:
        if self.engine.devices:
            self.input.fill_devices(list(self.engine.devices))
        waits = self.live.waiting or self.session.unwritten
        if state == "idle" and waits and not self.session.busy:  # it had been at work for somebody else
            self.update()

    def _batch_settings(self) -> batch_run.Settings | str:
        """What a batch is run with, or why none can be."""
        model = self.input.model
        if self.session.busy:
            return _("The engine is at work")
        if not self.input.torch.ready:
            return _("Install PyTorch first (see Input)")
        if model is None or model.manifest is None or self.parameters is None:
            return _("Choose a model")
        try:
            refinement = self.refine.config(self.parameters)
        except ConfigError as error:
            return error.message
        return batch_run.Settings(model, self.input.device, self.input.threads, self._low_memory, refinement)

    def _on_trained(self, path: str) -> None:
        self.input.add_model(path)

    # Private: messages

    def _show_message(self, failure: Failure | None) -> None:
        ui = self.ui
        ui.messageFrame.visible = failure is not None
        actions: tuple[messages.Action, ...] = ()
        if failure is not None:
            message = messages.message(failure)
            ui.messageLabel.text, actions = message.html, message.actions
        for place, button in enumerate((ui.messageActionButton, ui.messageSecondButton)):
            button.visible = place < len(actions)
            if place < len(actions):
                button.text = actions[place].text

    def _copy_report(self) -> None:
        if self.session.failure is not None:
            qt.QApplication.clipboard().setText(messages.report(self.session.failure, self.engine))

    def _act(self, place: int) -> None:
        """Do what the message proposes."""
        failure = self.session.failure
        actions = messages.message(failure).actions if failure is not None else ()
        if failure is None or place >= len(actions):
            return
        again = self.on_refine if failure.do == "refine" else self.on_segment
        self.session.show_failure(None)
        action = actions[place].name
        if action != "install":
            self.live.stop()
        if action == "install":
            self.input.install_torch()
        elif action == "stop-engine":
            self.engine.stop()
        elif action == "cpu":
            self.input.choose_device("cpu")
            again()
        elif action == "low-memory":
            self._low_memory = True
            again()


def _settings(parameters: Any) -> tuple[Any, ...]:
    """What of the choices a refinement depends on."""
    p = parameters
    return (p.strength, p.iterations, p.beta, p.gamma, p.learningRate, p.mode)
