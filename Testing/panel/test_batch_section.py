"""The panel's section Batch: what it offers, asks and shows; and batches through the real engine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import standin
from fake_engine import FakeEngine

standin.start()
REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "AtlasISTN"))

import slicer  # noqa: E402
from AtlasISTNHost import batch as batch_section  # noqa: E402
from AtlasISTNHost import models, nodes  # noqa: E402
from AtlasISTNHost.batch_run import Settings  # noqa: E402
from AtlasISTNHost.engine import Engine, Failure  # noqa: E402
from AtlasISTNHost.jobs import JobFolders  # noqa: E402

from AtlasISTNLib.configs import RefineConfig  # noqa: E402
from AtlasISTNLib.geometry import Grid  # noqa: E402
from AtlasISTNLib.volume import Volume  # noqa: E402

UI = REPOSITORY / "AtlasISTN" / "Resources" / "UI" / "AtlasISTN.ui"
SAMPLES = REPOSITORY / "Resources" / "Samples"
PATIENCE = 240.0  # seconds that the real engine may take; the machine may be busy
FIGURES = {"structures": [{"name": "LV", "volume": {"unit": "mL", "final": 82.25}}]}


def works(do: str, fields: dict) -> tuple[str, Any]:
    """The answers of an engine to which nothing happens; an export writes."""
    if do == "export":
        folder = Path(fields["folder"])
        folder.mkdir(parents=True)
        (folder / "report.json").write_text("{}")
    return "result", {"case": fields["case"], "figures": FIGURES, "trace": None}


def a_volume(name: str = "scan") -> Volume:
    return Volume.from_array(np.arange(24.0).reshape(2, 3, 4), Grid.centered((2, 3, 4), (1.0, 1.0, 2.0)), name)


@pytest.fixture
def model() -> models.Entry:
    return models.entries()[0]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobFolders]:
    folders = JobFolders(tmp_path / "jobs")
    yield folders
    folders.close()


# ---------------------------------------------------------------------------------------------------------- the section


@pytest.fixture
def scene() -> Iterator[Any]:
    slicer.mrmlScene.Clear()
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear()


class Opened:
    """The section on a form of its own, with an engine that answers at once."""

    def __init__(self, jobs: JobFolders, model: models.Entry, engine: Any = None) -> None:
        self.widget = slicer.util.loadUI(str(UI))
        self.widget.setMRMLScene(slicer.mrmlScene)
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.failures: list[Failure | None] = []
        self.busy_when_told: list[bool] = []
        self.settings: Settings | str = Settings(model, "cpu", 1, refinement=RefineConfig(iterations=5))
        self.engine = engine or FakeEngine(works)
        self.section = batch_section.BatchSection(self.ui, lambda: self.settings, self.engine, jobs, self._on_told)
        self.ui.batchCollapsibleButton.collapsed = False
        self.widget.resize(460, 900)
        self.widget.show()
        standin.process_events()

    def _on_told(self, failure: Failure | None) -> None:
        self.failures.append(failure)
        self.busy_when_told.append(self.section.busy)

    def cells(self) -> list[list[str]]:
        table = self.ui.batchTable
        return [[table.item(row, column).text() for column in range(3)] for row in range(table.rowCount)]

    def choose(self, source: int, folder: Path | None = None, output: Path | None = None) -> None:
        self.ui.batchSourceComboBox.setCurrentIndex(source)
        self.ui.batchInputEdit.currentPath = "" if folder is None else str(folder)
        self.ui.batchOutputEdit.currentPath = "" if output is None else str(output)
        standin.process_events()

    def run(self) -> None:
        standin.click(self.ui.batchButton)
        assert standin.wait_until(lambda: not self.section.busy, PATIENCE)


@pytest.fixture
def opened(scene: Any, jobs: JobFolders, model: models.Entry) -> Iterator[Opened]:
    standin.slot_errors.clear()
    standin.messages.forget()
    form = Opened(jobs, model)
    yield form
    assert standin.slot_errors == []
    form.widget.close()


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("anna", "bert"):
        a_volume(name).write(folder / f"{name}.nii.gz")
    return folder


def test_disabled_button_says_why(opened: Opened, scans: Path, tmp_path: Path) -> None:
    button = opened.ui.batchButton
    assert (button.enabled, button.toolTip) == (False, "There are no volumes in the scene")
    opened.choose(batch_section.FOLDER)
    assert button.toolTip == "Choose the folder of the scans"
    opened.choose(batch_section.FOLDER, tmp_path / "nowhere")
    assert button.toolTip == f"{tmp_path / 'nowhere'} is not a folder"
    opened.choose(batch_section.FOLDER, scans)
    assert button.toolTip == "Choose a folder for the results"
    opened.choose(batch_section.SEQUENCE)
    assert button.toolTip == "Select a sequence of volumes"
    opened.choose(batch_section.FOLDER, scans, tmp_path / "results")
    assert button.enabled
    opened.settings = "Install PyTorch first"
    opened.section.update()
    assert (button.enabled, button.toolTip) == (False, "Install PyTorch first")
    assert (opened.ui.batchStopButton.enabled, opened.ui.batchStopButton.toolTip) == (False, "No batch is running")


def test_only_what_the_source_needs_is_shown(opened: Opened) -> None:
    ui = opened.ui
    for source, shown in ((batch_section.SCENE, 0), (batch_section.FOLDER, 1), (batch_section.SEQUENCE, 2)):
        opened.choose(source)
        assert (ui.batchInputEdit.visible, ui.batchInputLabel.visible) == (shown == 1, shown == 1)
        assert (ui.batchSequenceSelector.visible, ui.batchSequenceLabel.visible) == (shown == 2, shown == 2)
        assert ui.batchOutputEdit.visible


def test_a_folder_from_the_panel(opened: Opened, scans: Path, tmp_path: Path) -> None:
    opened.choose(batch_section.FOLDER, scans, tmp_path / "results")
    assert [cells[:2] for cells in opened.cells()] == [["anna", "waiting"], ["bert", "waiting"]]
    opened.run()
    assert [cells[:2] for cells in opened.cells()] == [["anna", "done"], ["bert", "done"]]
    assert all(cells[2].endswith(" s") for cells in opened.cells())
    assert "LV: 82.2 mL" in opened.ui.batchTable.item(0, 1).toolTip()
    assert [do for do, _fields in opened.engine.asked][:1] == ["refine"]
    assert opened.engine.asked[0][1]["config"]["iterations"] == 5
    assert (tmp_path / "results" / "batch.csv").is_file()
    assert opened.failures == [None, None]
    # The outcome stays to be read, whatever happens in the scene
    slicer.util.addVolumeFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5), name="another")
    opened.section.update()
    assert [cells[1] for cells in opened.cells()] == ["done", "done"]


def test_without_refinement(opened: Opened, scans: Path, tmp_path: Path) -> None:
    opened.choose(batch_section.FOLDER, scans, tmp_path / "results")
    opened.ui.batchRefineCheckBox.checked = False
    opened.run()
    assert {do for do, _fields in opened.engine.asked} == {"segment", "export", "forget"}


def test_one_question_where_some_results_are_there(opened: Opened, scans: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    (results / "anna").mkdir(parents=True)
    (results / "anna" / "report.json").write_text("mine")
    opened.choose(batch_section.FOLDER, scans, results)
    standin.messages.answers.append(False)
    standin.click(opened.ui.batchButton)
    assert not opened.section.busy
    assert opened.engine.asked == []
    standin.messages.answers.append(True)
    opened.run()
    assert len(standin.messages.texts("question")) == 2
    assert "1 of 2 volumes" in standin.messages.texts("question")[0]
    assert opened.cells()[0][1] == f"skipped: results are in {results / 'anna'}"
    assert opened.cells()[1][1] == "done"
    assert (results / "anna" / "report.json").read_text() == "mine"


def test_nothing_left_to_do(opened: Opened, scans: Path, tmp_path: Path) -> None:
    for name in ("anna", "bert"):
        (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / name / "report.json").write_text("mine")
    opened.choose(batch_section.FOLDER, scans, tmp_path / "results")
    assert not opened.ui.batchButton.enabled
    assert opened.ui.batchButton.toolTip == "All of these volumes have results already"


def test_stop_from_the_panel(opened: Opened, scans: Path, tmp_path: Path) -> None:
    opened.engine.at_once = lambda do, fields: None
    opened.choose(batch_section.FOLDER, scans, tmp_path / "results")
    standin.click(opened.ui.batchButton)
    assert opened.busy_when_told == [True], "the panel is told when a batch has begun"
    assert standin.wait_until(lambda: opened.engine.told)
    opened.engine.progress(stage="refine", step=3, total=5)
    assert opened.cells()[0][1] == "refining, 3 of 5"
    assert not opened.ui.batchButton.enabled
    assert not opened.ui.batchOutputEdit.enabled
    standin.click(opened.ui.batchStopButton)
    assert not opened.ui.batchStopButton.enabled
    opened.engine.answer("error", Failure("Cancelled", "cancelled"))
    assert standin.wait_until(lambda: not opened.section.busy)
    assert [cells[1] for cells in opened.cells()] == ["stopped", "waiting"]
    assert opened.ui.batchButton.enabled
    assert opened.ui.batchOutputEdit.enabled


def test_what_ended_a_batch_goes_to_the_message(opened: Opened, scans: Path, tmp_path: Path) -> None:
    missing = Failure("TorchMissing", "PyTorch is not installed")
    opened.engine.at_once = lambda do, fields: ("error", missing)
    opened.choose(batch_section.FOLDER, scans, tmp_path / "results")
    opened.run()
    assert opened.failures[-1] == missing
    assert opened.cells()[0][1] == "failed: PyTorch is not installed"


# ------------------------------------------------------------------------------------------------------ the real engine


@pytest.fixture
def real_engine() -> Iterator[Engine]:
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    engine = Engine([sys.executable, "-m", "AtlasISTNLib", "worker", "--threads", "1"], environment)
    yield engine
    engine.stop(5000)


@pytest.fixture
def letters(jobs: JobFolders, scene: Any, real_engine: Engine) -> Iterator[Opened]:
    standin.slot_errors.clear()
    standin.messages.forget()
    entry = next(entry for entry in models.entries() if entry.key == "letter-b")
    form = Opened(jobs, entry, real_engine)
    yield form
    assert standin.slot_errors == []
    form.widget.close()


def test_a_folder_through_the_real_engine(letters: Opened, tmp_path: Path) -> None:
    scans, results = tmp_path / "scans", tmp_path / "results"
    scans.mkdir()
    (scans / "b.png").write_bytes((SAMPLES / "letter-b.png").read_bytes())
    (scans / "a.png").write_bytes(b"damaged")
    letters.choose(batch_section.FOLDER, scans, results)
    letters.run()
    outcome = {cells[0]: cells[1] for cells in letters.cells()}
    assert outcome["b"] == "done"
    assert outcome["a"].startswith("failed: ")
    figures = json.loads((results / "b" / "report.json").read_text())
    assert figures["refinement"]["iterations"] == 5
    assert (results / "b" / "labels.nii.gz").is_file()
    assert not (results / "a").exists()
    standin.messages.answers.append(True)
    letters.run()  # once more: what is done is left alone
    assert {cells[0]: cells[1] for cells in letters.cells()}["b"] == f"skipped: results are in {results / 'b'}"


def test_results_of_other_volumes_than_the_shown_one_are_hidden(letters: Opened, scene: Any) -> None:
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(SAMPLES / "letter-b.png")))[np.newaxis].astype(np.int16)
    first, second = (slicer.util.addVolumeFromArray(image, name=name) for name in ("first", "second"))
    views = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    views.SetBackgroundVolumeID(second.GetID())
    letters.ui.batchRefineCheckBox.checked = False
    letters.choose(batch_section.SCENE)
    letters.section.update()
    letters.run()
    assert [cells[1] for cells in letters.cells()] == ["done", "done"]
    model = letters.settings.model.manifest.about.name
    found = [nodes.find(scene, nodes.SEGMENTATION, volume, model) for volume in (first, second)]
    assert [bool(node.GetDisplayNode().GetVisibility()) for node in found] == [False, True]


def test_a_sequence_through_the_real_engine(letters: Opened, scene: Any, tmp_path: Path) -> None:
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(SAMPLES / "letter-b.png")))[np.newaxis].astype(np.int16)
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Letters")
    for index in range(2):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "letter")
        slicer.util.updateVolumeFromArray(node, np.roll(image, 4 * index, axis=2))
        sequence.SetDataNodeAtValue(node, str(index))
        scene.RemoveNode(node)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.AddSynchronizedSequenceNode(sequence)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    turn = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "turn")
    browser.GetProxyNode(sequence).SetAndObserveTransformNodeID(turn.GetID())
    results = tmp_path / "results"
    letters.choose(batch_section.SEQUENCE, output=results)
    letters.ui.batchSequenceSelector.setCurrentNode(sequence)
    standin.process_events()
    before = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")}
    letters.run()
    assert [cells[:2] for cells in letters.cells()] == [["Letters 0", "done"], ["Letters 1", "done"]]
    found = [node for node in slicer.util.getNodesByClass("vtkMRMLSequenceNode") if node is not sequence]
    assert {node.GetDataNodeClassName() for node in found} >= {"vtkMRMLSegmentationNode"}
    assert [node.GetNumberOfDataNodes() for node in found] == [2, 2]
    assert {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")} == before
    segmentations = next(node for node in found if node.GetDataNodeClassName() == "vtkMRMLSegmentationNode")
    assert {path.name for path in results.iterdir()} == {"Letters 0", "Letters 1", "batch.csv"}
    assert any(path.name.endswith(".seg.nrrd") for path in (results / "Letters 1").iterdir())
    shown = browser.GetProxyNode(segmentations)
    assert shown.GetTransformNodeID() == turn.GetID()
    centers = [np.array(_center(segmentations.GetNthDataNode(index))) for index in range(2)]
    assert np.allclose(centers[1] - centers[0], [4, 0, 0], atol=1.5), "the letter moved by four voxels"
    letters.choose(batch_section.SCENE)
    letters.choose(batch_section.SEQUENCE)
    assert [cells[1] for cells in letters.cells()] == ["skipped: results are in the scene"] * 2


def _center(segmentation: Any) -> list[float]:
    return list(segmentation.GetSegmentCenter(segmentation.GetSegmentation().GetNthSegmentID(0)))
