"""The panel's section Input: the scan, a region, the model and the device; and PyTorch, where it is missing."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.errors import AtlasISTNError

from . import models, samples, settings, torch_setup
from .messages import Failure, failure_of

_AUTO = "auto"


class InputSection:
    """Binds the widgets of Input; node choices are bound to the parameter node by Slicer itself.

    Args:
        ui: the form's widgets by name.
        changed: told when the model, the device or PyTorch changed.
        failed: told what went wrong.
    """

    def __init__(self, ui: Any, changed: Callable[[], None], failed: Callable[[Failure | None], None]) -> None:
        self.ui, self._changed, self._failed = ui, changed, failed
        self.entries: list[models.Entry] = []
        self.torch = torch_setup.state()
        self._filling = self._installing = False
        self._fill_samples()
        self.fill_models()
        self.fill_devices([])
        ui.threadsSpinBox.value = settings.threads()
        ui.modelComboBox.connect("currentIndexChanged(int)", self._on_model)
        ui.modelAddButton.clicked.connect(self._on_add_model)
        ui.deviceComboBox.connect("currentIndexChanged(int)", self._on_device)
        ui.threadsSpinBox.connect("valueChanged(int)", settings.set_threads)
        ui.torchInstallButton.clicked.connect(self.install_torch)
        self.show_torch()

    @property
    def model(self) -> models.Entry | None:
        """The chosen model."""
        index = self.ui.modelComboBox.currentIndex
        return self.entries[index] if 0 <= index < len(self.entries) else None

    @property
    def device(self) -> str:
        """The chosen device, as the engine names it."""
        return self.ui.deviceComboBox.currentData or _AUTO

    @property
    def threads(self) -> int:
        """The engine's threads; 0 for all."""
        return int(self.ui.threadsSpinBox.value)

    def fill_models(self, chosen: str = "") -> None:
        """List the models anew and choose one by its key, or the one that was chosen."""
        chosen = chosen or (self.model.key if self.model else "")
        self.entries = models.entries(tuple(settings.own_models()))
        self._filling = True
        self.ui.modelComboBox.clear()
        for entry in self.entries:
            self.ui.modelComboBox.addItem(entry.title)
        self._filling = False
        self.choose(chosen)

    def choose(self, key: str) -> bool:
        """Choose a model by its key; the first one where there is no such model (then False)."""
        keys = [entry.key for entry in self.entries]
        known = key in keys
        if self.entries:
            self.ui.modelComboBox.setCurrentIndex(keys.index(key) if known else 0)
        self._show_model()
        return known

    def add_model(self, path: str) -> bool:
        """Add a model of the user's own and choose it; False, and a message, where it is not one."""
        try:
            models.load_manifest(path)
        except AtlasISTNError as error:
            self._failed(failure_of(error))
            return False
        key = str(Path(path).resolve())
        settings.add_own_model(key)
        self.fill_models(key)
        self._changed()
        return True

    def fill_devices(self, devices: list[dict[str, Any]]) -> None:
        """List what the engine can compute on; before it has said so, what can be known without it."""
        chosen = self.device if self.ui.deviceComboBox.count else settings.device()
        shown = [(_("Automatic (a graphics card if there is one)"), _AUTO)]
        known = [(str(d["title"]), str(d["name"])) for d in devices] or [(_("Processor"), "cpu")]
        shown += known
        if chosen not in [name for _title, name in shown]:
            shown.append((chosen, chosen))
        self._filling = True
        self.ui.deviceComboBox.clear()
        for title, name in shown:
            self.ui.deviceComboBox.addItem(title, name)
        self.ui.deviceComboBox.setCurrentIndex([name for _title, name in shown].index(chosen))
        self._filling = False

    def choose_device(self, name: str) -> None:
        """Choose a device by the engine's name."""
        index = self.ui.deviceComboBox.findData(name)
        if index >= 0:
            self.ui.deviceComboBox.setCurrentIndex(index)

    def show_torch(self) -> None:
        """Say whether PyTorch is there, and offer to install it where it is not."""
        self.torch = torch_setup.state()
        self.ui.torchFrame.visible = not self.torch.ready
        self.ui.torchLabel.text = self.torch.text
        self.ui.torchInstallButton.visible = self.torch.can_install
        self.ui.torchInstallButton.toolTip = self.torch.download or _("Install PyTorch through its extension")

    def install_torch(self, *_unused: Any) -> None:
        """Install PyTorch through its extension; Slicer waits while pip works."""
        if self._installing:  # the wait cursor appears by way of Qt's events: the second half of a double click
            return
        self._installing = True
        self._failed(None)
        try:
            torch_setup.install(self._on_installed)
        finally:
            self._installing = False

    def _on_installed(self, failure: Failure | None) -> None:
        self.show_torch()
        if failure is not None:
            self._failed(failure)
        self._changed()

    def _fill_samples(self) -> None:
        menu = qt.QMenu(self.ui.sampleButton)
        for sample in samples.samples():
            action = menu.addAction(sample.title)
            action.connect("triggered(bool)", partial(self._on_sample, sample))
        self.ui.sampleButton.setMenu(menu)
        self.ui.sampleButton.visible = bool(samples.samples())

    def _on_sample(self, sample: samples.Sample, *_unused: Any) -> None:
        try:
            node = samples.load(sample)
        except RuntimeError as error:
            self._failed(Failure("VolumeError", _("{file} could not be read").format(file=sample.path), str(error)))
            return
        # A bundled model gives way to the one that the sample is for; one of the user's own stays.
        if self.model is None or self.model.key in models.bundled():
            self.choose(sample.model)
            self._changed()
        self.ui.inputVolumeSelector.setCurrentNode(node)

    def _on_model(self, _index: int) -> None:
        if not self._filling:
            self._show_model()
            self._changed()

    def _on_device(self, _index: int) -> None:
        if not self._filling:
            settings.set_device(self.device)
            self._changed()

    def _on_add_model(self, *_unused: Any) -> None:
        # A model is a folder or a zip: its manifest is a file of either that a file dialogue can choose.
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(),
            _("Add a model: its zip, or the manifest.json in its folder"),
            "",
            _("Models (manifest.json *.zip)"),
        )
        if path:
            chosen = Path(path)
            self.add_model(str(chosen.parent if chosen.name == "manifest.json" else chosen))

    def _show_model(self) -> None:
        entry = self.model
        label = self.ui.modelInfoLabel
        if entry is None:
            label.text = _("No models came with this module; add one of your own.")
            label.toolTip = ""
            return
        label.text = models.info(entry)
        label.toolTip = models.details(entry)
        self.ui.modelComboBox.toolTip = html.escape(str(entry.path))
