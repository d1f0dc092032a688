"""The panel's section Batch: every volume gets its turn, what fails is named, what is there is left alone."""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Callable, Iterator
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
from AtlasISTNHost import models  # noqa: E402
from AtlasISTNHost.batch_run import Batch, Settings, State, planned  # noqa: E402
from AtlasISTNHost.batch_sources import Item, folder_items, scene_items, sequence_items  # noqa: E402
from AtlasISTNHost.engine import Failure  # noqa: E402
from AtlasISTNHost.jobs import JobFolders  # noqa: E402

from AtlasISTNLib.configs import RefineConfig  # noqa: E402
from AtlasISTNLib.errors import VolumeError  # noqa: E402
from AtlasISTNLib.geometry import Grid  # noqa: E402
from AtlasISTNLib.volume import Volume  # noqa: E402

FIGURES = {"structures": [{"name": "LV", "volume": {"unit": "mL", "final": 82.25}}]}


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


# ------------------------------------------------------------------------------------------------------ running a batch


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

    def keep(event: Any, folder: Path | None) -> None:
        kept.append((event["figures"], folder))

    items = [
        Item("unreadable", raises(VolumeError("unreadable cannot be read", "is it damaged?"))),
        Item("broken disk", raises(OSError(5, "Input/output error"))),
        an_item("refused"),
        an_item("unwritable", keep=raises(RuntimeError("the scene is full"))),
        an_item("fine", keep=keep),
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
    assert kept == [(FIGURES, None)]
    assert batch.failure is None
    assert job_folders(tmp_path) == []


def test_volumes_of_the_scene_write_their_own_files(jobs: JobFolders, model: models.Entry, tmp_path: Path) -> None:
    engine, folders = FakeEngine(works), []
    batch, later = make(engine, jobs)
    batch.plan([an_item("a", keep=lambda event, folder: folders.append(folder))], tmp_path / "results")
    batch.start(Settings(model), tmp_path / "results")
    later.all()
    assert folders == [tmp_path / "results" / "a"]
    assert [do for do, _fields in engine.asked] == ["segment", "forget"]


def test_an_engine_that_was_stopped_by_others_is_not_started_again(jobs: JobFolders, model: models.Entry) -> None:
    engine = FakeEngine(stopped_as=Failure("Cancelled", "The engine was stopped"))
    batch, later = make(engine, jobs)
    batch.plan([an_item("a"), an_item("b")], None)
    batch.start(Settings(model), None)
    later.all()
    engine.stop()
    later.all()
    assert states(batch) == [State.STOPPED, State.WAITING]
    assert (batch.running, len(engine.asked)) == (False, 1)


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
    engine = FakeEngine(stopped_as=Failure("Cancelled", "The engine was stopped"))
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


def test_every_volume_has_a_folder_of_its_own(tmp_path: Path) -> None:
    rows = planned([an_item(name) for name in ("CT: before?", "CT- before-", "ct- BEFORE", "..")], tmp_path)
    names = [row.folder.name for row in rows]
    assert len({name.casefold() for name in names}) == 4
    assert all(row.folder.parent == tmp_path for row in rows)
    assert not any(sign in name for name in names for sign in ":?/")


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
