"""The panel's section Train: a model of one's own from labelled cases, while segmenting stays possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.configs import TrainConfig, as_dict, from_dict
from AtlasISTNLib.errors import AtlasISTNError
from AtlasISTNLib.exchange import volume_from_files
from AtlasISTNLib.manifest import MANIFEST

from .drawing import TrainingPictures
from .engine import Engine, Failure, Limits
from .messages import failure_of
from .training_texts import (
    Checkpoint,
    check_html,
    data_fields,
    is_name,
    progress_text,
    read_checkpoint,
    suggested_name,
)

#: Seconds that a cancelled training may take to end its step and to write its checkpoint.
_CANCEL_SECONDS = 300.0
#: Seconds between two pictures of the atlas.
_PREVIEW_SECONDS = 2.0
_STEPS = 1000


class TrainSection:
    """Binds the widgets of Train; owner of a training and of the engine that does it.

    Args:
        ui: the form's widgets by name.
        settings: gives an object with `device`, `threads` and `torch.ready`.
        jobs: where requests keep their files.
        use: told the folder of a model that the user wants to segment with.
        failed: told what went wrong, and None when something new starts.
        engine: the engine's client; by default one of its own, so that the panel's stays free.
    """

    def __init__(
        self,
        ui: Any,
        settings: Callable[[], Any],
        jobs: Any,
        use: Callable[[str], None],
        failed: Callable[[Failure | None], None],
        engine: Any = None,
    ) -> None:
        self.ui, self._settings, self.jobs, self._use, self._failed = ui, settings, jobs, use, failed
        self.engine = engine or Engine(limits=Limits(cancel=_CANCEL_SECONDS))
        self.history: list[Mapping[str, float]] = []
        self._doing, self._stopping = "", False
        self._checkpoint: Checkpoint | None = None
        self._checked: tuple[str, Mapping[str, Any]] | None = None
        self._pictures = TrainingPictures(ui.trainLossLabel, ui.trainAtlasLabel)
        self._folder: Path | None = None
        self._suggested = ""
        ui.trainDataEdit.connect("currentPathChanged(QString)", self._on_data)
        ui.trainOutputEdit.connect("currentPathChanged(QString)", self._on_place)
        ui.trainNameEdit.connect("textChanged(QString)", self._on_place)
        ui.trainEpochsSpinBox.connect("valueChanged(int)", self._on_number)
        ui.trainCheckButton.connect("clicked(bool)", self._on_check)
        ui.trainButton.connect("clicked(bool)", self._on_train)
        ui.trainStopButton.connect("clicked(bool)", self._on_stop)
        ui.trainUseButton.connect("clicked(bool)", self._on_use)
        ui.trainCollapsibleButton.connect("contentsCollapsed(bool)", self._on_place)
        ui.trainChecksBrowser.openExternalLinks = False
        self._look()

    @property
    def busy(self) -> bool:
        """Whether data are being checked or a model trained."""
        return bool(self._doing)

    def close(self) -> None:
        """End the engine; a training that is going on can be resumed from its last epoch."""
        self._doing = ""
        self.engine.stop(2000)
        self._remove_folder()

    def update(self) -> None:
        """Bring the widgets up to what there is to do."""
        ui = self.ui
        ui.trainButton.text = _("Go on") if self._checkpoint is not None else _("Train")
        check, train = self._check_reason(), self._train_reason()
        _set_enabled(ui.trainCheckButton, check, _("Read every case and list all that is wrong with the data at once"))
        _set_enabled(ui.trainButton, train, self._train_tip())
        idle = _("Stopping") if self._stopping else "" if self.busy else _("Nothing is running")
        _set_enabled(ui.trainStopButton, idle, self._stop_tip())
        _set_enabled(ui.trainUseButton, self._use_reason(), _("Add the model to the list of models and choose it"))
        for edit in (ui.trainDataEdit, ui.trainOutputEdit, ui.trainNameEdit, ui.trainEpochsSpinBox):
            edit.enabled = not self.busy
        reason = _("A training goes on with the λ that it began with") if self._checkpoint is not None else ""
        reason = reason or (_("Something is running") if self.busy else "")
        _set_enabled(ui.trainStrengthSpinBox, reason, _("Weight of the smoothness while training"))
        ui.trainProgressBar.visible = self.busy

    # Private: where things are

    @property
    def _data(self) -> Path | None:
        return _path(self.ui.trainDataEdit)

    @property
    def _output(self) -> Path | None:
        return _path(self.ui.trainOutputEdit)

    @property
    def _name(self) -> str:
        return str(self.ui.trainNameEdit.text).strip()

    def _model(self) -> Path | None:
        """Where the model goes."""
        return self._output / self._name if self._output is not None and is_name(self._name) else None

    def _checkpoint_path(self) -> Path | None:
        return self._output / f"{self._name}.checkpoint" if self._model() is not None else None

    def _find(self) -> Checkpoint | None:
        path = self._checkpoint_path()
        return read_checkpoint(path) if path is not None and path.is_file() else None

    def _look(self) -> None:
        """See what the chosen folder holds, and show it."""
        if self.busy:
            return
        found = self._checkpoint = self._find()
        self.history = list(found.history) if found is not None else []
        if found is not None:
            self.ui.trainStrengthSpinBox.value = found.strength
            if found.epochs > len(found.history):
                self.ui.trainEpochsSpinBox.value = found.epochs
        self.ui.trainStatusLabel.text = self._found_text()
        self._pictures.show_history(self.history)
        self._pictures.show_atlas(None)
        self.update()

    def _found_text(self) -> str:
        done = len(self.history)
        if self._checkpoint is not None and not self._has_model():
            return _("A training was stopped here after epoch {done}; Go on resumes it").format(done=done)
        if self._has_model():
            return _("The model {name} is ready").format(name=self._name)
        return ""

    def _has_model(self) -> bool:
        place = self._model()
        return place is not None and (place / MANIFEST).is_file()

    # Private: why something cannot be done

    def _start_reason(self) -> str:
        if self.busy:
            return _("Stop what is running first, or wait")
        if not self._settings().torch.ready:
            return _("Install PyTorch first (see Input)")
        return ""

    def _check_reason(self) -> str:
        reason = self._start_reason()
        if reason:
            return reason
        if self._data is None:
            return _("Choose the folder of a data set")
        if not self._data.is_dir():
            return _("{folder} is not a folder").format(folder=self._data)
        if data_fields(self._data) is None:
            return _('This folder has neither the dataset.json of nnU-Net nor two folders "images" and "labels"')
        return ""

    def _train_reason(self) -> str:
        reason = self._check_reason()
        if reason:
            return reason
        if self._checked is not None and self._checked[0] == str(self._data) and self._checked[1].get("problems"):
            return _("Correct the problems of the data, then check them again")
        if self._output is None:
            return _("Choose a folder for the model")
        if self._output.exists() and not self._output.is_dir():
            return _("{folder} is not a folder").format(folder=self._output)
        if not self._name:
            return _("Give the model a name")
        if not is_name(self._name):
            return _("The name may hold letters, digits and hyphens between them")
        if self._checkpoint is not None and len(self._checkpoint.history) >= int(self.ui.trainEpochsSpinBox.value):
            return _("All of these epochs are done; give more of them to go on")
        if self._has_model() and self._checkpoint is None:
            return _("There is a model {name} in this folder already; give another name").format(name=self._name)
        return ""

    def _use_reason(self) -> str:
        if self._doing == "train":
            return _("The model is not ready yet")
        return "" if self._has_model() else _("There is no model of this name in the folder yet")

    def _train_tip(self) -> str:
        if self._checkpoint is None:
            return _("Train a model; it can be stopped and resumed at any time")
        return _("Go on after epoch {done}").format(done=len(self._checkpoint.history))

    def _stop_tip(self) -> str:
        if self._doing == "train":
            return _("Stop after the current step; the training can be resumed from its last whole epoch")
        return _("Stop")

    # Private: what the user does

    def _on_data(self, *_unused: Any) -> None:
        data = self._data
        if data is not None and data.is_dir() and self._name in ("", self._suggested):
            self._suggested = suggested_name(data)
            self.ui.trainNameEdit.text = self._suggested
        self.update()

    def _on_place(self, *_unused: Any) -> None:
        self._look()

    def _on_number(self, *_unused: Any) -> None:
        self.update()

    def _on_check(self, *_unused: Any) -> None:
        if not self._check_reason():
            self.ui.trainDataEdit.addCurrentPathToHistory()
            self.ui.trainChecksBrowser.setHtml("")
            self._ask("check", data_fields(self._data))

    def _on_train(self, *_unused: Any) -> None:
        if self._train_reason() or not self._agreed():
            return
        ui = self.ui
        try:
            config = self._config()
            self._folder = self.jobs.new("train")
        except AtlasISTNError as error:
            self._failed(failure_of(error))
            return
        for edit in (ui.trainDataEdit, ui.trainOutputEdit):
            edit.addCurrentPathToHistory()
        fields = {
            **data_fields(self._data),
            "output": str(self._model()),
            "checkpoint": str(self._checkpoint_path()),
            "name": self._name,
            "config": as_dict(config),
            "folder": str(self._folder),
            "preview_seconds": _PREVIEW_SECONDS,
            "overwrite": self._has_model(),  # the user agreed
        }
        self._ask("train", fields)

    def _config(self) -> TrainConfig:
        """As the form says; of a training that goes on, all but its length is as it was."""
        epochs = int(self.ui.trainEpochsSpinBox.value)
        if self._checkpoint is not None:
            return from_dict(TrainConfig, {**self._checkpoint.config, "epochs": epochs})
        return TrainConfig(epochs=epochs, strength=float(self.ui.trainStrengthSpinBox.value))

    def _agreed(self) -> bool:
        """Ask before a finished model is replaced by the same one trained further."""
        if not self._has_model():
            return True
        text = _("When it is trained further, the model {name} takes the place of the one that is there. Go on?")
        return bool(slicer.util.confirmYesNoDisplay(text.format(name=self._name), windowTitle=_("Train")))

    def _on_stop(self, *_unused: Any) -> None:
        if self.busy and not self._stopping:
            self._stopping = True
            self.ui.trainStatusLabel.text = _("Stopping after the current step…")
            self.engine.cancel()
            self.update()

    def _on_use(self, *_unused: Any) -> None:
        if not self._use_reason():
            self._use(str(self._model()))

    # Private: a request

    def _ask(self, do: str, fields: dict[str, Any]) -> None:
        settings = self._settings()
        self._doing, self._stopping = do, False
        self._failed(None)
        self.ui.trainProgressBar.setRange(0, 0)
        self.ui.trainStatusLabel.text = _("Starting the engine…")
        told = {"on_progress": self._on_progress, "on_preview": self._on_preview, "on_error": self._on_error}
        taken = self.engine.request(
            do,
            {**fields, "device": settings.device, "threads": settings.threads},
            on_result=self._on_checked if do == "check" else self._on_trained,
            **told,
        )
        if not taken:
            self._end(_("The engine is still ending; try again in a moment"))
        self.update()

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        bar, total = self.ui.trainProgressBar, int(event.get("total") or 0)
        if total:
            bar.setRange(0, _STEPS)
            bar.value = round(_STEPS * int(event.get("step") or 0) / total)
        else:
            bar.setRange(0, 0)
        if event.get("stage") == "train" and event.get("values"):
            self._remember(int(event["step"]), event["values"])
        if not self._stopping:
            self.ui.trainStatusLabel.text = progress_text(event)

    def _remember(self, epoch: int, values: Mapping[str, float]) -> None:
        # Events may be left out where they come too fast: an epoch that is missing is a gap in the curves.
        history = self.history[: epoch - 1]
        self.history = [*history, *({} for _missing in range(epoch - 1 - len(history))), dict(values)]
        self._pictures.show_history(self.history)

    def _on_preview(self, event: Mapping[str, Any]) -> None:
        if self._folder is None:
            return
        try:
            image, labels = (volume_from_files(event[part], self._folder) for part in ("image", "labels"))
        except (AtlasISTNError, KeyError) as error:
            self.ui.trainAtlasLabel.toolTip = _("The atlas cannot be shown: {error}").format(error=error)
            return
        for part in ("image", "labels"):
            (self._folder / event[part]["array"]).unlink(missing_ok=True)
        self._pictures.show_atlas((image, labels), len(self.history))

    def _on_checked(self, event: Mapping[str, Any]) -> None:
        self._checked = (str(self._data), event)
        self.ui.trainChecksBrowser.setHtml(check_html(event))
        count = len(event.get("problems") or ())
        text = _("The data can be trained on") if not count else _("The data cannot be trained on as they are")
        self._end(text)

    def _on_trained(self, event: Mapping[str, Any]) -> None:
        epochs = int(event.get("epochs") or len(self.history))
        self._end(_("The model {name} is ready after {epochs} epochs").format(name=self._name, epochs=epochs))
        self.engine.stop()  # nothing more to do soon, and torch takes memory

    def _on_error(self, failure: Failure) -> None:
        if not failure.over:
            self._failed(failure)
            return
        trained = self._doing == "train"
        text = ""
        if trained:
            done = len(self.history)
            text = (
                _("Stopped. Nothing was kept: the first epoch had not ended")
                if not done
                else _("Stopped after epoch {done}. Go on resumes the training, now or after Slicer was closed").format(
                    done=done
                )
            )
        elif failure.kind == "Cancelled":
            text = _("The check was stopped")
        self._end(text)
        if failure.kind != "Cancelled":
            self._failed(failure)

    def _end(self, text: str) -> None:
        """The request is over."""
        trained = self._doing == "train"
        self._doing, self._stopping = "", False
        self._remove_folder()
        if trained:
            self._checkpoint = self._find()
        self.ui.trainStatusLabel.text = text or self._found_text()
        self.update()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            self.jobs.remove(self._folder)
            self._folder = None


def _path(edit: Any) -> Path | None:
    text = str(edit.currentPath).strip()
    return Path(text).expanduser() if text else None


def _set_enabled(widget: Any, reason: str, tip: str) -> None:
    widget.enabled = not reason
    widget.toolTip = reason or tip


__all__ = ["TrainSection"]
