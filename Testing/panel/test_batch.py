"""The panel's section Batch: every volume gets its turn, what fails is named, what is there is left alone."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import standin

standin.start()
REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "AtlasISTN"))

import slicer  # noqa: E402
from AtlasISTNHost import batch as batch_section  # noqa: E402
from AtlasISTNHost import models  # noqa: E402
from AtlasISTNHost.batch_run import Batch, Settings, State, planned  # noqa: E402
from AtlasISTNHost.batch_sources import Item, file_name, folder_items, scene_items, sequence_items  # noqa: E402
from AtlasISTNHost.engine import Engine, Failure  # noqa: E402
from AtlasISTNHost.jobs import JobFolders  # noqa: E402

from AtlasISTNLib.configs import RefineConfig  # noqa: E402
from AtlasISTNLib.errors import VolumeError  # noqa: E402
from AtlasISTNLib.geometry import Grid  # noqa: E402
from AtlasISTNLib.volume import Volume  # noqa: E402

UI = REPOSITORY / "AtlasISTN" / "Resources" / "UI" / "AtlasISTN.ui"
SAMPLES = REPOSITORY / "Resources" / "Samples"
PATIENCE = 240.0  # seconds that the real engine may take; the machine may be busy
FIGURES = {"structures": [{"name": "LV", "volume": {"unit": "mL", "final": 82.25}}]}


@dataclass
class FakeEngine:
    """An engine that answers when the test says so, or at once where `at_once` gives an answer."""

    at_once: Callable[[str, dict], tuple[str, Any] | None] = lambda do, fields: None
    state: str = "idle"
    asked: list[tuple[str, dict]] = field(default_factory=list)
    cancelled: int = 0
    stopped: int = 0
    told: Any = None

    def request(self, do: str, fields: dict, **told: Any) -> int:
        if self.state != "idle":
            return 0
        json.dumps(fields, allow_nan=False)  # what the real one demands
        self.asked.append((do, fields))
        self.told = told
        answer = self.at_once(do, fields)
        if answer is not None:
            self.answer(*answer)
        return len(self.asked)

    def answer(self, kind: str, what: Any) -> None:
        told, self.told = self.told, None
        told[f"on_{kind}"](what)

    def progress(self, **event: Any) -> None:
        self.told["on_progress"](event)

    def cancel(self) -> None:
        self.cancelled += 1

    def stop(self, wait_ms: int = 0) -> None:
        self.stopped += 1
        if self.told:
            self.answer("error", Failure("Cancelled", "The engine was stopped"))


class Later:
    """What a batch put off, done when the test says so."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], None]] = deque()

    def __call__(self, _ms: int, function: Callable[[], None]) -> None:
        self.waiting.append(function)

    def all(self) -> None:
        for _turn in range(1000):
            if not self.waiting:
                return
            self.waiting.popleft()()
        raise AssertionError("the batch never rests")


def works(do: str, fields: dict) -> tuple[str, Any]:
    """The answers of an engine to which nothing happens; an export writes."""
    if do == "export":
        folder = Path(fields["folder"])
        folder.mkdir(parents=True)
        (folder / "report.json").write_text("{}")
    return "result", {"case": fields["case"], "figures": FIGURES, "trace": None}


def a_volume(name: str = "scan") -> Volume:
    return Volume.from_array(np.arange(24.0).reshape(2, 3, 4), Grid.centered((2, 3, 4), (1.0, 1.0, 2.0)), name)


def an_item(name: str, **more: Any) -> Item:
    return Item(name, lambda: a_volume(name), **more)


def raises(error: Exception) -> Callable[[], Any]:
    def fail(*_arguments: Any) -> Any:
        raise error

    return fail


@pytest.fixture
def model() -> models.Entry:
    return models.entries()[0]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobFolders]:
    folders = JobFolders(tmp_path / "jobs")
    yield folders
    folders.close()


def job_folders(tmp_path: Path) -> list[Path]:
    return [p for root in (tmp_path / "jobs").glob("*") for p in root.iterdir()]


def make(engine: FakeEngine, jobs: JobFolders) -> tuple[Batch, Later]:
    later = Later()
    return Batch(engine, jobs, lambda: None, later), later


def states(batch: Batch) -> list[State]:
    return [row.state for row in batch.rows]


# ------------------------------------------------------------------------------------------------------- running a batch


def test_all_volumes_are_segmented_refined_and_written(jobs: JobFolders, model: models.Entry, tmp_path: Path) -> None:
    engine, output = FakeEngine(works), tmp_path / "results"
    batch, later = make(engine, jobs)
    batch.plan([an_item("a"), an_item("b")], output)
    batch.start(Settings(model, "cpu", 2, refinement=RefineConfig(iterations=7)), output)
    later.all()
    assert states(batch) == [State.DONE, State.DONE]
    assert not batch.running
    assert [do for do, _fields in engine.asked] == ["refine", "export", "forget"] * 2
    fields = engine.asked[0][1]
    assert fields["config"]["iterations"] == 7
    assert (fields["device"], fields["threads"], fields["model"]) == ("cpu", 2, str(model.path))
    assert engine.asked[1][1]["folder"] == str(output / "a")
    assert len({fields["case"] for do, fields in engine.asked if do == "refine"}) == 2
    assert job_folders(tmp_path) == [], "voxels stay on disk after they were used"


def test_one_pass_where_no_refinement_is_wanted(jobs: JobFolders, model: models.Entry) -> None:
    engine = FakeEngine(works)
    batch, later = make(engine, jobs)
    batch.plan([an_item("a")], None)
    batch.start(Settings(model), None)
    later.all()
    assert [do for do, _fields in engine.asked] == ["segment", "forget"]
    assert states(batch) == [State.DONE]


def test_what_fails_is_named_and_the_others_go_on(jobs: JobFolders, model: models.Entry, tmp_path: Path) -> None:
    def answers(do: str, fields: dict) -> tuple[str, Any]:
        if do == "segment" and fields["image"]["name"] == "refused":
            return "error", Failure("VolumeError", "refused is constant", "is it the right one?")
        return works(do, fields)

    kept: list[Any] = []
    items = [
        Item("unreadable", raises(VolumeError("unreadable cannot be read", "is it damaged?"))),
        Item("broken disk", raises(OSError(5, "Input/output error"))),
        an_item("refused"),
        an_item("unwritable", keep=raises(RuntimeError("the scene is full"))),
        an_item("fine", keep=kept.append),
    ]
    batch, later = make(FakeEngine(answers), jobs)
    batch.plan(items, None)
    batch.start(Settings(model), None)
    later.all()
    assert states(batch) == [State.FAILED] * 4 + [State.DONE]
    reasons = [row.reason for row in batch.rows]
    assert reasons[0] == "unreadable cannot be read (is it damaged?)"
    assert "Input/output error" in reasons[1]
    assert reasons[2] == "refused is constant (is it the right one?)"
    assert reasons[3] == "the scene is full"
    assert len(kept) == 1
    assert batch.failure is None
    assert job_folders(tmp_path) == []


def test_a_failed_export_is_a_failed_volume(jobs: JobFolders, model: models.Entry, tmp_path: Path) -> None:
    def answers(do: str, fields: dict) -> tuple[str, Any]:
        return ("error", Failure("OutputError", "the disk is full")) if do == "export" else works(do, fields)

    batch, later = make(FakeEngine(answers), jobs)
    batch.plan([an_item("a")], tmp_path / "results")
    batch.start(Settings(model), tmp_path / "results")
    later.all()
    assert (states(batch), batch.rows[0].reason) == ([State.FAILED], "the disk is full")


def test_results_that_are_there_are_left_alone(jobs: JobFolders, model: models.Entry, tmp_path: Path) -> None:
    output = tmp_path / "results"
    (output / "a").mkdir(parents=True)
    (output / "a" / "labels.nii.gz").write_text("edited by hand")
    (output / "empty").mkdir()
    engine = FakeEngine(lambda do, fields: works(do, fields) if do != "export" else ("result", {}))
    batch, later = make(engine, jobs)
    batch.plan([an_item("a"), an_item("b"), an_item("empty"), an_item("in the scene", there=True)], output)
    assert states(batch) == [State.SKIPPED, State.WAITING, State.WAITING, State.SKIPPED]
    assert str(output / "a") in batch.rows[0].reason
    batch.start(Settings(model), output)
    later.waiting.popleft()()  # begins with b …
    (output / "empty" / "labels.nii.gz").write_text("came meanwhile")
    later.all()
    assert states(batch) == [State.SKIPPED, State.DONE, State.SKIPPED, State.SKIPPED]
    assert (output / "a" / "labels.nii.gz").read_text() == "edited by hand"
    assert all(not fields.get("overwrite") for _do, fields in engine.asked)


def test_stop_keeps_what_is_done(jobs: JobFolders, model: models.Entry, tmp_path: Path) -> None:
    engine, output = FakeEngine(), tmp_path / "results"
    batch, later = make(engine, jobs)
    batch.plan([an_item("a"), an_item("b"), an_item("c")], output)
    batch.start(Settings(model, refinement=RefineConfig(iterations=9)), output)
    later.all()
    engine.at_once = works
    engine.answer("result", works("refine", engine.asked[0][1])[1])
    engine.at_once = lambda do, fields: None
    later.all()
    engine.progress(stage="predict", step=0, total=1)
    assert batch.rows[1].state is State.SEGMENTING
    engine.progress(stage="refine", step=4, total=9)
    assert (batch.rows[1].state, batch.rows[1].step, batch.rows[1].total) == (State.REFINING, 4, 9)
    batch.stop()
    assert engine.cancelled == 1
    case = engine.asked[-1][1]["case"]
    engine.answer("result", {"case": case, "figures": FIGURES, "trace": {"stopped": "cancelled"}})
    later.all()
    assert states(batch) == [State.DONE, State.STOPPED, State.WAITING]
    assert not batch.running
    assert not (output / "b").exists(), "half a refinement passes for a result"
    # What was stopped is done the next time, and nothing else
    again = planned([an_item("a"), an_item("b"), an_item("c")], output)
    assert [row.state for row in again] == [State.SKIPPED, State.WAITING, State.WAITING]


def test_stop_before_anything_was_asked(jobs: JobFolders, model: models.Entry) -> None:
    engine = FakeEngine(works)
    batch, later = make(engine, jobs)
    batch.plan([an_item("a")], None)
    batch.start(Settings(model), None)
    batch.stop()
    later.all()
    assert (states(batch), batch.running, engine.asked) == ([State.WAITING], False, [])


@pytest.mark.parametrize("kind", ["TorchMissing", "ImportError", "BundleError", "FailedToStart"])
def test_what_stops_all_is_said_once(kind: str, jobs: JobFolders, model: models.Entry) -> None:
    engine = FakeEngine(lambda do, fields: ("error", Failure(kind, "nothing works")))
    batch, later = make(engine, jobs)
    batch.plan([an_item("a"), an_item("b")], None)
    batch.start(Settings(model), None)
    later.all()
    assert states(batch) == [State.FAILED, State.WAITING]
    assert batch.failure == Failure(kind, "nothing works")


def test_one_crash_is_survived_and_two_in_a_row_are_not(jobs: JobFolders, model: models.Entry) -> None:
    answers = deque(["crash", "fine", "crash", "crash"])

    def answer(do: str, fields: dict) -> tuple[str, Any]:
        if do != "segment" or answers.popleft() == "fine":
            return works(do, fields)
        return "error", Failure("Crashed", "The engine ended unexpectedly")

    batch, later = make(FakeEngine(answer), jobs)
    batch.plan([an_item(name) for name in "abcde"], None)
    batch.start(Settings(model), None)
    later.all()
    assert states(batch) == [State.FAILED, State.DONE, State.FAILED, State.FAILED, State.WAITING]
    assert batch.failure is not None


def test_an_engine_that_hangs_is_started_anew(jobs: JobFolders, model: models.Entry) -> None:
    engine = FakeEngine()
    batch, later = make(engine, jobs)
    batch.plan([an_item("a"), an_item("b")], None)
    batch.start(Settings(model), None)
    later.all()
    engine.at_once = works
    engine.told["on_error"](Failure("Hung", "no sign of life for 30 s", over=False))
    later.all()
    assert engine.stopped == 1
    assert states(batch) == [State.FAILED, State.DONE]
    assert batch.rows[0].reason == "no sign of life for 30 s"


def test_a_busy_engine_is_asked_again(jobs: JobFolders, model: models.Entry) -> None:
    engine = FakeEngine(works, state="stopping")
    batch, later = make(engine, jobs)
    batch.plan([an_item("a")], None)
    batch.start(Settings(model), None)
    for _turn in range(5):
        later.waiting.popleft()()
    assert states(batch) == [State.SEGMENTING]
    engine.state = "idle"
    later.all()
    assert states(batch) == [State.DONE]


def test_table_as_csv(jobs: JobFolders, model: models.Entry, tmp_path: Path) -> None:
    output = tmp_path / "results"
    batch, later = make(FakeEngine(works), jobs)
    for count in (1, 2):
        bad = Item("bad", raises(VolumeError('it says "no", always')))
        batch.plan([an_item("a"), bad], output)
        batch.start(Settings(model), output)
        later.all()
        assert batch.table == output / ("batch.csv" if count == 1 else "batch-2.csv")
    with open(output / "batch.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["volume"] for row in rows] == ["a", "bad"]
    assert [row["outcome"] for row in rows] == ["done", "failed"]
    assert rows[1]["reason"] == 'it says "no", always'
    assert [row["LV (mL)"] for row in rows] == ["82.25", ""]
    assert [row["folder"] for row in rows] == [str(output / "a"), ""]
    with open(output / "batch-2.csv", newline="") as file:
        assert [row["outcome"] for row in csv.DictReader(file)] == ["skipped", "failed"]


# --------------------------------------------------------------------------------------------- what there is to segment


def test_scans_of_a_folder(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    for name in ("b.nii.gz", "C.nrrd", "same.nrrd", "same.mha", "manual.seg.nrrd", ".hidden.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
    (tmp_path / "a.nii").write_bytes(b"no image at all, but nobody looks yet")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "results").mkdir()
    series = tmp_path / "series"
    series.mkdir()
    for index in range(2):
        sitk.WriteImage(sitk.Cast(image[:, :, index : index + 1], sitk.sitkInt16), str(series / f"{index}.dcm"))
    items = folder_items(tmp_path)
    assert [item.name for item in items] == ["a", "b", "C", "same.mha", "same.nrrd", "series"]
    assert items[1].read().grid.shape == (3, 4, 5)
    with pytest.raises(VolumeError):
        items[0].read()


def test_a_folder_of_slices_is_one_scan(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    for index in range(3):
        sitk.WriteImage(image[:, :, index : index + 1], str(tmp_path / f"{index}.dcm"))
    assert [item.name for item in folder_items(tmp_path)] == [tmp_path.name]


@pytest.mark.parametrize(
    ("name", "plain"), [("CT: before/after?", "CT- before-after-"), ("..", "unnamed"), ("Herz 1", "Herz 1")]
)
def test_names_of_folders(name: str, plain: str) -> None:
    assert file_name(name) == plain


@pytest.fixture
def scene() -> Iterator[Any]:
    slicer.mrmlScene.Clear()
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear()


def add_volume(name: str, class_name: str = "vtkMRMLScalarVolumeNode") -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass(class_name, name)
    slicer.util.updateVolumeFromArray(node, np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    return node


def test_volumes_of_the_scene(scene: Any, model: models.Entry) -> None:
    from AtlasISTNHost import nodes

    ct = add_volume("CT")
    add_volume("CT")
    add_volume("labels", "vtkMRMLLabelMapVolumeNode")
    add_volume("hidden").SetHideFromEditors(True)
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    name = model.manifest.about.name
    ours = nodes.get_or_add(scene, "vtkMRMLScalarVolumeNode", nodes.ATLAS_IMAGE, ct, name)
    slicer.util.updateVolumeFromArray(ours, np.ones((3, 4, 5)))
    items = scene_items(scene, model.manifest)
    assert [(item.name, item.there) for item in items] == [("CT", False), ("CT (2)", False)]
    assert items[0].read().array.shape == (1, 3, 4, 5)
    nodes.get_or_add(scene, "vtkMRMLSegmentationNode", nodes.SEGMENTATION, ct, name)
    assert [item.there for item in scene_items(scene, model.manifest)] == [True, False]
    scene.RemoveNode(ct)
    with pytest.raises(RuntimeError):
        items[0].read()


def test_items_of_a_sequence(scene: Any, model: models.Entry) -> None:
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Beating heart")
    for index in range(3):
        node = add_volume(f"frame {index}")
        slicer.util.updateVolumeFromArray(node, np.full((3, 4, 5), index, dtype=np.int16))
        sequence.SetDataNodeAtValue(node, f"{index * 40}")
        scene.RemoveNode(node)
    before = scene.GetNumberOfNodes()
    items = sequence_items(sequence, model.manifest)
    assert [item.name for item in items] == ["Beating heart 0", "Beating heart 40", "Beating heart 80"]
    assert [int(item.read().array.max()) for item in items] == [0, 1, 2]
    assert scene.GetNumberOfNodes() == before, "reading an item leaves something in the scene"


# ----------------------------------------------------------------------------------------------------------- the section


class Opened:
    """The section on a form of its own, with an engine that answers at once."""

    def __init__(self, jobs: JobFolders, model: models.Entry, engine: Any = None) -> None:
        self.widget = slicer.util.loadUI(str(UI))
        self.widget.setMRMLScene(slicer.mrmlScene)
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.failures: list[Failure | None] = []
        self.settings: Settings | str = Settings(model, "cpu", 1, refinement=RefineConfig(iterations=5))
        self.engine = engine or FakeEngine(works)
        self.section = batch_section.BatchSection(
            self.ui, lambda: self.settings, self.engine, jobs, self.failures.append
        )
        self.ui.batchCollapsibleButton.collapsed = False
        self.widget.resize(460, 900)
        self.widget.show()
        standin.process_events()

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
    add_volume("another")
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


# -------------------------------------------------------------------------------------------------------- the real engine


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


def test_a_sequence_through_the_real_engine(letters: Opened, scene: Any) -> None:
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
    letters.choose(batch_section.SEQUENCE)
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
    shown = browser.GetProxyNode(segmentations)
    assert shown.GetTransformNodeID() == turn.GetID()
    centers = [np.array(_center(segmentations.GetNthDataNode(index))) for index in range(2)]
    assert np.allclose(centers[1] - centers[0], [4, 0, 0], atol=1.5), "the letter moved by four voxels"
    letters.choose(batch_section.SCENE)
    letters.choose(batch_section.SEQUENCE)
    assert [cells[1] for cells in letters.cells()] == ["skipped: results are in the scene"] * 2


def _center(segmentation: Any) -> list[float]:
    return list(segmentation.GetSegmentCenter(segmentation.GetSegmentation().GetNthSegmentID(0)))
