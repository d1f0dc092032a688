"""The panel's section Train: data are checked; a training is watched, stopped and resumed; its model is used."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import standin
from fake_engine import FakeEngine

standin.start()
REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "AtlasISTN"))

import slicer  # noqa: E402
from AtlasISTNHost.engine import Engine, Failure  # noqa: E402
from AtlasISTNHost.jobs import JobFolders  # noqa: E402
from AtlasISTNHost.training import TrainSection  # noqa: E402

from AtlasISTNLib.configs import TrainConfig, as_dict  # noqa: E402
from AtlasISTNLib.exchange import volume_to_files  # noqa: E402
from AtlasISTNLib.geometry import Grid  # noqa: E402
from AtlasISTNLib.manifest import load_manifest  # noqa: E402
from AtlasISTNLib.phantoms import write_phantoms  # noqa: E402
from AtlasISTNLib.volume import Volume  # noqa: E402

UI = REPOSITORY / "AtlasISTN" / "Resources" / "UI" / "AtlasISTN.ui"
PATIENCE = 300.0  # seconds that the real engine may take; the machine may be busy
FOUND = {
    "source": "folders",
    "cases": 3,
    "problems": [{"message": "a: the image and <labels> differ", "hint": "resample one", "case": "a"}],
    "notes": [{"message": "label 2 (RV) is missing from 1 of 3 cases: b", "hint": "", "case": ""}],
    "labels": [{"value": 1, "name": "LV", "cases": 3}, {"value": 2, "name": "RV", "cases": 2}],
    "grid": None,
}
GRID = {"shape": [32, 48, 64], "spacing": [2.0, 2.5, 3.0], "origin": [0, 0, 0], "direction": np.eye(3).tolist()}
EPOCH = {"loss": 0.5, "segmentation": 0.1, "a2s": 0.2, "s2a": 0.15, "reg": 1e-4, "omega": 1.0, "dice_one_pass": 0.8}


class Opened:
    """The section on a form of its own."""

    def __init__(self, tmp_path: Path, engine: Any = None) -> None:
        self.widget = slicer.util.loadUI(str(UI))
        self.widget.setMRMLScene(slicer.mrmlScene)
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.jobs = JobFolders(tmp_path / "jobs")
        self.engine = engine or FakeEngine()
        self.used: list[str] = []
        self.failures: list[Failure | None] = []
        self.input = SimpleNamespace(device="cpu", threads=1, torch=SimpleNamespace(ready=True))
        self.section = TrainSection(
            self.ui, lambda: self.input, self.jobs, self.used.append, self.failures.append, self.engine
        )
        self.ui.trainCollapsibleButton.collapsed = False
        self.widget.resize(460, 1400)
        self.widget.show()
        standin.process_events()

    def choose(self, data: Path | None = None, output: Path | None = None, name: str | None = None) -> None:
        if data is not None:
            self.ui.trainDataEdit.currentPath = str(data)
        if output is not None:
            self.ui.trainOutputEdit.currentPath = str(output)
        if name is not None:
            self.ui.trainNameEdit.text = name
        standin.process_events()

    def why(self, name: str) -> str:
        """Why a button is disabled; "" where it is not."""
        button = getattr(self.ui, name)
        return "" if button.enabled else button.toolTip

    def close(self) -> None:
        self.section.close()
        self.jobs.close()
        self.widget.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    standin.slot_errors.clear()
    standin.messages.forget()
    form = Opened(tmp_path)
    yield form
    form.close()
    assert standin.slot_errors == []


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset003_Heart"
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")
    return folder


def epoch(opened: Opened, step: int, total: int, **values: float) -> None:
    """The engine tells of an epoch."""
    event = {"stage": "train", "step": step, "total": total, "values": {**EPOCH, **values}, "message": ""}
    opened.engine.progress(**event, seconds_left=300.0)


def write_checkpoint(path: Path, epochs: int, done: int, strength: float = 321.0) -> None:
    """What a training leaves behind, without its tensors."""
    config = as_dict(TrainConfig(epochs=epochs, strength=strength, seed=7))
    training = {"schema": 2, "config": config, "history": [EPOCH] * done}
    header = json.dumps({"__metadata__": {"training": json.dumps(training)}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def an_atlas() -> tuple[Volume, Volume]:
    """A structure to the patient's left, in front and high up; LPS, 2 mm."""
    grid = Grid.centered((40, 40, 40), (2.0, 2.0, 2.0))
    labels = np.zeros((3, 40, 40, 40), dtype=np.float32)
    labels[1, 28:34, 6:12, 28:34] = 1  # z up, y forward (small y is anterior in LPS), x left
    labels[2, 6:12, 28:34, 6:12] = 1
    labels[0] = 1 - labels[1:].sum(axis=0)
    image = np.linspace(0, 1, 40, dtype=np.float32).repeat(1600).reshape(1, 40, 40, 40)
    return Volume.from_array(image, grid), Volume.from_array(labels, grid)


# ---------------------------------------------------------------------------------------------------------- the section


def test_disabled_buttons_say_why(opened: Opened, data: Path, tmp_path: Path) -> None:
    assert opened.why("trainCheckButton") == opened.why("trainButton") == "Choose the folder of a data set"
    assert opened.why("trainStopButton") == "Nothing is running"
    opened.choose(tmp_path / "absent")
    assert "is not a folder" in opened.why("trainCheckButton")
    (tmp_path / "empty").mkdir()
    opened.choose(tmp_path / "empty")
    assert "neither" in opened.why("trainCheckButton")
    for part in ("images", "labels"):
        (tmp_path / "empty" / part).mkdir()
    opened.choose(data)
    opened.choose(tmp_path / "empty")
    assert opened.why("trainCheckButton") == ""
    opened.choose(data)
    assert opened.why("trainCheckButton") == ""
    assert opened.ui.trainNameEdit.text == "heart"
    assert opened.why("trainButton") == "Choose a folder for the model"
    opened.choose(output=tmp_path, name="no name")
    assert "letters, digits and hyphens" in opened.why("trainButton")
    opened.choose(name="")
    assert opened.why("trainButton") == "Give the model a name"
    opened.choose(name="heart-2")
    assert opened.why("trainButton") == ""
    assert opened.why("trainUseButton") == "There is no model of this name in the folder yet"
    opened.input.torch.ready = False
    opened.section.update()
    assert opened.why("trainButton") == opened.why("trainCheckButton") == "Install PyTorch first (see Input)"


def test_a_name_of_the_users_own_is_kept(opened: Opened, data: Path, tmp_path: Path) -> None:
    opened.choose(name="mine")
    opened.choose(data)
    assert opened.ui.trainNameEdit.text == "mine"
    opened.choose(name="")
    (tmp_path / "Other").mkdir()
    opened.choose(tmp_path / "Other")
    assert opened.ui.trainNameEdit.text == "other"


def test_check_shows_what_it_found(opened: Opened, data: Path, tmp_path: Path) -> None:
    opened.choose(data, tmp_path / "models", "heart")
    standin.click(opened.ui.trainCheckButton)
    do, fields = opened.engine.asked[0]
    assert (do, fields["data"], fields["device"], fields["threads"]) == ("check", str(data), "cpu", 1)
    assert opened.ui.trainStopButton.enabled
    assert opened.why("trainCheckButton")
    assert not opened.ui.trainDataEdit.enabled
    opened.engine.tell("progress", {"stage": "check", "step": 2, "total": 3})
    assert opened.ui.trainProgressBar.visible
    assert opened.ui.trainProgressBar.value == round(1000 * 2 / 3)
    assert opened.ui.trainStatusLabel.text == "Reading case 2 of 3"
    opened.engine.tell("result", FOUND)
    assert "a: the image and <labels> differ" in opened.ui.trainChecksBrowser.plainText
    assert opened.why("trainButton") == "Correct the problems of the data, then check them again"
    assert not opened.ui.trainProgressBar.visible
    standin.click(opened.ui.trainCheckButton)
    opened.engine.tell("result", {**FOUND, "problems": [], "grid": GRID})
    assert opened.why("trainButton") == ""


def start_training(opened: Opened, data: Path, output: Path, epochs: int = 4) -> dict:
    opened.choose(data, output, "heart")
    opened.ui.trainEpochsSpinBox.value = epochs
    opened.ui.trainStrengthSpinBox.value = 123.0
    standin.click(opened.ui.trainButton)
    return opened.engine.asked[-1][1]


def test_a_training_is_watched(opened: Opened, data: Path, tmp_path: Path) -> None:
    fields = start_training(opened, data, tmp_path / "models")
    assert fields["output"] == str(tmp_path / "models" / "heart")
    assert fields["name"] == "heart"
    assert (fields["config"]["epochs"], fields["config"]["strength"]) == (4, 123.0)
    assert not fields["overwrite"]
    assert not opened.ui.trainLossLabel.visible
    epoch(opened, 1, 4)
    assert opened.ui.trainLossLabel.visible
    first = opened.ui.trainLossLabel.pixmap.cacheKey()
    epoch(opened, 2, 4, loss=0.25)
    assert opened.ui.trainLossLabel.pixmap.cacheKey() != first
    assert opened.ui.trainProgressBar.value == 500
    assert opened.ui.trainStatusLabel.text == "Epoch 2 of 4, loss 0.25, Dice 0.800, 5 min left"
    folder = Path(fields["folder"])
    image, labels = an_atlas()
    entries = {"image": volume_to_files(image, folder, "i"), "labels": volume_to_files(labels, folder, "l")}
    assert not opened.ui.trainAtlasLabel.visible
    opened.engine.tell("preview", {"step": 2, **entries})
    assert opened.ui.trainAtlasLabel.visible
    assert opened.ui.trainAtlasLabel.pixmap.width() == 3 * opened.ui.trainAtlasLabel.pixmap.height()
    assert list(folder.iterdir()) == [], "previews pile up on disk"


def test_a_gap_in_the_epochs_is_a_gap(opened: Opened, data: Path, tmp_path: Path) -> None:
    start_training(opened, data, tmp_path / "models")
    epoch(opened, 1, 4)
    epoch(opened, 4, 4, loss=0.1)
    assert [entry.get("loss") for entry in opened.section.history] == [0.5, None, None, 0.1]


def test_stop_and_go_on(opened: Opened, data: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    start_training(opened, data, models)
    epoch(opened, 1, 4)
    standin.click(opened.ui.trainStopButton)
    assert opened.engine.cancelled == 1
    assert opened.why("trainStopButton") == "Stopping"
    write_checkpoint(models / "heart.checkpoint", epochs=4, done=1)
    opened.engine.tell("error", Failure("Cancelled", "the training was stopped after epoch 1 of 4"))
    assert "Stopped after epoch 1" in opened.ui.trainStatusLabel.text
    assert "Go on" in opened.ui.trainStatusLabel.text
    assert opened.failures == [None], "stopping is no failure"
    assert opened.ui.trainButton.text == "Go on"
    assert opened.ui.trainButton.toolTip == "Go on after epoch 1"
    standin.click(opened.ui.trainButton)
    config = opened.engine.asked[-1][1]["config"]
    assert (config["strength"], config["seed"], config["epochs"]) == (321.0, 7, 4), "it goes on as it began"


def test_a_training_of_another_day_is_found(opened: Opened, data: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "models" / "heart.checkpoint", epochs=50, done=3)
    opened.choose(data, tmp_path / "models", "heart")
    assert opened.ui.trainButton.text == "Go on"
    assert opened.ui.trainEpochsSpinBox.value == 50
    assert (opened.ui.trainStrengthSpinBox.value, opened.ui.trainStrengthSpinBox.enabled) == (321.0, False)
    assert opened.ui.trainLossLabel.visible, "its losses are drawn"
    opened.ui.trainEpochsSpinBox.value = 3
    assert opened.why("trainButton") == "All of these epochs are done; give more of them to go on"
    opened.choose(name="another")
    assert opened.ui.trainButton.text == "Train"
    assert opened.ui.trainStrengthSpinBox.enabled
    assert not opened.ui.trainLossLabel.visible


def test_the_model_is_used(opened: Opened, data: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    start_training(opened, data, models)
    assert opened.why("trainUseButton") == "The model is not ready yet"
    (models / "heart").mkdir(parents=True)
    (models / "heart" / "manifest.json").write_text("{}")
    opened.engine.tell("result", {"path": str(models / "heart"), "epochs": 4})
    assert opened.ui.trainStatusLabel.text == "The model heart is ready after 4 epochs"
    assert opened.engine.stopped == 1, "torch keeps its memory"
    standin.click(opened.ui.trainUseButton)
    assert opened.used == [str(models / "heart")]
    assert "There is a model heart" in opened.why("trainButton")


def test_a_finished_model_is_replaced_only_when_asked(opened: Opened, data: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "heart").mkdir(parents=True)
    (models / "heart" / "manifest.json").write_text("{}")
    write_checkpoint(models / "heart.checkpoint", epochs=4, done=4)
    opened.choose(data, models, "heart")
    opened.ui.trainEpochsSpinBox.value = 8
    standin.click(opened.ui.trainButton)
    assert opened.engine.asked == []
    standin.messages.answers.append(True)
    standin.click(opened.ui.trainButton)
    assert opened.engine.asked[-1][1]["overwrite"] is True


def test_failures_are_told_and_leave_the_section_usable(opened: Opened, data: Path, tmp_path: Path) -> None:
    start_training(opened, data, tmp_path / "models")
    warning = Failure("Hung", "no sign of life", over=False)
    opened.engine.tell("error", warning)
    assert opened.section.busy, "it may come back"
    failure = Failure("DivergenceError", "the loss is not finite", "lower the learning rate")
    opened.engine.tell("error", failure)
    assert opened.failures == [None, warning, failure]
    assert not opened.section.busy
    assert opened.why("trainButton") == ""
    opened.engine.state = "stopping"
    standin.click(opened.ui.trainButton)
    assert not opened.section.busy
    assert "try again" in opened.ui.trainStatusLabel.text


# ------------------------------------------------------------------------------------------------------ the real engine


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Opened]:
    standin.slot_errors.clear()
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    engine = Engine([sys.executable, "-m", "AtlasISTNLib", "worker", "--threads", "1"], environment)
    form = Opened(tmp_path, engine)
    yield form
    form.close()
    assert standin.slot_errors == []


def test_letters_are_checked_trained_stopped_and_resumed(real: Opened, tmp_path: Path) -> None:
    data, models = tmp_path / "letters", tmp_path / "models"
    write_phantoms("letter-b", 6, data)
    (data / "images" / "broken.png").write_bytes(b"no image")
    (data / "labels" / "broken.png").write_bytes(b"no labels")
    real.choose(data, models)
    standin.click(real.ui.trainCheckButton)
    assert standin.wait_until(lambda: not real.section.busy, PATIENCE)
    assert real.failures == [None]
    assert "broken" in real.ui.trainChecksBrowser.plainText
    assert real.why("trainButton") == "Correct the problems of the data, then check them again"
    for part in ("images", "labels"):
        (data / part / "broken.png").unlink()
    standin.click(real.ui.trainCheckButton)
    assert standin.wait_until(lambda: not real.section.busy, PATIENCE)
    assert "can be trained on" in real.ui.trainChecksBrowser.plainText
    assert "6 cases" in real.ui.trainChecksBrowser.plainText
    assert "voxels of" in real.ui.trainChecksBrowser.plainText

    real.ui.trainEpochsSpinBox.value = 500
    standin.click(real.ui.trainButton)
    assert standin.wait_until(lambda: len(real.section.history) >= 2 and real.ui.trainAtlasLabel.visible, PATIENCE)
    standin.click(real.ui.trainStopButton)
    assert standin.wait_until(lambda: not real.section.busy, PATIENCE)
    done = len(real.section.history)
    assert real.ui.trainButton.text == "Go on"
    assert not (models / "letters").exists()

    real.ui.trainEpochsSpinBox.value = done + 1
    standin.click(real.ui.trainButton)
    assert standin.wait_until(lambda: not real.section.busy, PATIENCE)
    assert real.failures[-1] is None
    assert real.ui.trainStatusLabel.text == f"The model letters is ready after {done + 1} epochs"
    assert len(real.section.history) == done + 1
    manifest = load_manifest(models / "letters")
    assert manifest.about.name == "letters"
    assert manifest.training["epochs"] == done + 1
    standin.click(real.ui.trainUseButton)
    assert real.used == [str(models / "letters")]
