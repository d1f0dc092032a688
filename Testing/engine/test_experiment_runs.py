"""Running an experiment: every kind of row, going on after a stop, and refusing what was made otherwise."""

from __future__ import annotations

import csv
import json
import shutil
import struct
from dataclasses import replace

import numpy as np
import pytest

from AtlasISTNLib import experiment_runs
from AtlasISTNLib.bundle import load_bundle
from AtlasISTNLib.cli import main
from AtlasISTNLib.configs import PlacementConfig
from AtlasISTNLib.errors import Cancelled, ConfigError
from AtlasISTNLib.experiment_reading import read_experiment
from AtlasISTNLib.experiment_runs import Lists, Places, train_model
from AtlasISTNLib.experiment_scores import largest_components, read_scores, write_scores
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.metrics import dice
from AtlasISTNLib.segmentation import segment
from AtlasISTNLib.volume import Volume

SPEC = {
    "name": "toy",
    "title": "Toy letters",
    "labels": [{"value": 1, "name": "letter B"}],
    "grid": {"shape": [24, 20], "spacing": [5, 5]},
    "normalisation": {"kind": "z-score", "outside": "mean"},
    "placement": "center",
    "data": {"phantom": "letter-b", "count": 8, "grid": {"shape": [30, 26], "spacing": [4, 4]}},
    "split": {"share": 0.25},
    "tests": {
        "held-out": {"title": "Held out", "held_out": True},
        "corrupted": {
            "title": "Corrupted",
            "phantom": "letter-b",
            "count": 3,
            "seed": 50,
            "artefacts": True,
            "grid": {"shape": [30, 26], "spacing": [4, 4]},
        },
    },
    "train": {"epochs": 2, "batch_size": 3, "learning_rate": 0.003, "strength": 50, "validation": 0},
    "refine": {"iterations": 2, "strength": 50},
    "models": {
        "unet": {"title": "U-net", "train": {"part": "itn"}},
        "proposed": {"title": "Proposed"},
        "vml": {"model": {"stn_input": "image"}},
        "no-ls": {"train": {"segmentation_weight": 0}},
        "svf": {"model": {"affine": False}, "train": {"eta": 0}},
        "few": {"cases": 3},
    },
    "rows": [
        {"name": "unet", "title": "U-net", "model": "unet", "result": "prediction"},
        {"name": "unet-1cc", "model": "unet", "result": "largest-component"},
        {"name": "independent", "model": "unet", "result": "refined"},
        {"name": "itn", "model": "proposed", "result": "prediction"},
        {"name": "one-pass", "model": "proposed", "result": "one-pass"},
        {"name": "refined", "title": "Refined", "model": "proposed", "result": "refined"},
        {"name": "stiff", "model": "proposed", "result": "refined", "refine": {"strength": 5000}},
        {"name": "id", "model": "proposed", "result": "initial-atlas"},
        {"name": "vml", "model": "vml", "result": "one-pass"},
        {"name": "no-ls", "model": "no-ls", "result": "refined"},
        {"name": "svf", "model": "svf", "result": "one-pass"},
        {"name": "few", "model": "few", "result": "one-pass"},
    ],
    "comparisons": {"*": "refined", "†": "unet"},
    "tables": [{"name": "main", "title": "Main"}],
    "figures": [
        {"kind": "cases", "name": "cases", "rows": ["unet", "refined"], "tests": ["corrupted"]},
        {"kind": "boxes", "name": "boxes", "rows": ["unet", "one-pass", "refined"]},
        {"kind": "strengths", "name": "strengths", "rows": ["refined", "stiff"], "measures": ["dice", "hd"]},
    ],
}


def written(folder, **changes):
    """The toy experiment as a file, with some keys replaced; figures take their time."""
    path = folder / "toy.json"
    path.write_text(json.dumps({**SPEC, **changes}), encoding="utf-8")
    return path


def files(folder):
    """Every file with its time and size."""
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An output folder in which the whole toy experiment was run once; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    assert (
        main(["experiment", str(written(folder)), "--output", str(folder / "out"), "--device", "cpu", "--quiet"]) == 0
    )
    return folder / "out"


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of it, with a function that runs the experiment there."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def test_every_kind_of_row_is_measured_on_every_case(finished):
    for test, count in (("held-out", 2), ("corrupted", 3)):
        for row in SPEC["rows"]:
            lines = read_scores(finished / "scores" / test / f"{row['name']}.csv")
            assert len({line.case for line in lines}) == len(lines) == count, row["name"]
            warped = row["result"] in ("one-pass", "refined")
            for line in lines:
                assert 0 <= line.dice <= 1
                assert line.seconds > 0
                assert np.isfinite(line.folded) == warped


def test_scores_are_those_of_the_label_maps_that_are_kept(finished):
    lines = read_scores(finished / "scores" / "corrupted" / "refined.csv")
    for line in lines:
        labels = Volume.read(finished / "labels" / "corrupted" / "refined" / f"{line.case}.nrrd")
        place = finished / "data" / "letter-b-30x26-4x4mm-artefacts" / "labels"
        truth = Volume.read(place / f"{line.case}.nrrd")
        assert line.dice == pytest.approx(dice(labels.array[0], truth.array[0]))


def test_rows_are_what_they_are_called(finished):
    bundle = load_bundle(finished / "models" / "proposed" / "bundle", "cpu")
    case = "letter-b-0050"
    image = Volume.read(finished / "data" / "letter-b-30x26-4x4mm-artefacts" / "images" / f"{case}.nrrd")
    result = segment(bundle, image, PlacementConfig("center"))

    def kept(row):
        return Volume.read(finished / "labels" / "corrupted" / row / f"{case}.nrrd").array

    np.testing.assert_array_equal(kept("itn"), result.prediction.array)
    np.testing.assert_array_equal(kept("one-pass"), result.labels.array)
    initial = Volume.read(finished / "models" / "proposed" / "initial-atlas-labels.nrrd")
    still = replace(result, soft_prediction=result.soft_prediction.with_array(initial.array))
    np.testing.assert_array_equal(kept("id"), still.prediction.array)
    unet = Volume.read(finished / "labels" / "corrupted" / "unet" / f"{case}.nrrd")
    np.testing.assert_array_equal(kept("unet-1cc"), largest_components(unet, [1]).array)


def test_models_are_trained_as_their_settings_say(finished):
    trained = {name: load_bundle(finished / "models" / name / "bundle", "cpu") for name in SPEC["models"]}
    assert trained["few"].training["cases"] == 3
    assert trained["proposed"].training["cases"] == 6  # 2 of 8 are held out
    assert trained["unet"].training["config"]["part"] == "itn"
    assert not trained["svf"].config.affine
    initial = Volume.read(finished / "models" / "svf" / "initial-atlas-labels.nrrd")
    np.testing.assert_allclose(trained["svf"].atlas_labels.array, initial.array, atol=1e-6)  # eta is 0
    history = json.loads((finished / "models" / "proposed" / "history.json").read_text(encoding="utf-8"))
    assert len(history["epochs"]) == 2
    held = {line.case for line in read_scores(finished / "scores" / "held-out" / "itn.csv")}
    assert not held & set(json.loads((finished / "models" / "proposed" / "settings.json").read_text())["cases"])


def test_tables_and_figures_are_written(finished):
    text = (finished / "tables" / "main.md").read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 2
    for block in blocks:
        assert len({line.count("|") - line.count(r"\|") for line in block}) == 1
        assert len(block) == 2 + len(SPEC["rows"])
    with open(finished / "tables" / "main-tests.csv", newline="", encoding="utf-8") as file:
        tests = list(csv.DictReader(file))
    # Each row against two references, of which each is left out once; 2 test sets, 5 measures.
    assert len(tests) == (2 * len(SPEC["rows"]) - 2) * 2 * 5
    assert f"over all {len(tests)} comparisons" in text
    for name in ("cases", "boxes", "strengths"):
        header = (finished / "figures" / f"{name}.png").read_bytes()[:24]
        width, height = struct.unpack(">II", header[16:])
        assert header.startswith(b"\x89PNG")
        assert 1000 < width < 1600
        assert 400 < height < 2500


def test_a_second_run_does_nothing_again(copied, tmp_path, run):
    kept = ("models", "scores", "labels", "data", "figures")
    before = {name: files(copied / name) for name in kept}
    assert run("experiment", written(tmp_path, figures=[]), "--output", copied, "--device", "cpu")[0] == 0
    assert {name: files(copied / name) for name in kept} == before


def test_a_stopped_measurement_goes_on(copied, tmp_path, run, monkeypatch):
    path = copied / "scores" / "corrupted" / "refined.csv"
    whole = read_scores(path)
    write_scores(path, whole[:1])
    segmented = []
    monkeypatch.setattr(experiment_runs, "segment", lambda *given: segmented.append(given[1].name) or segment(*given))
    assert run("experiment", written(tmp_path, figures=[]), "--output", copied, "--device", "cpu")[0] == 0
    assert segmented == [line.case for line in whole[1:]]
    found = read_scores(path)
    assert [replace(line, seconds=0) for line in found] == [replace(line, seconds=0) for line in whole]


def test_a_stopped_training_goes_on(tmp_path):
    experiment = read_experiment(written(tmp_path))
    entry, places = experiment.models["proposed"], Places(tmp_path / "out")
    stop = []

    def watch(progress):
        if (progress.stage, progress.step) == ("train", 1):
            stop.append(True)

    lists = Lists(experiment, places, {})
    with pytest.raises(Cancelled, match="after epoch 1"):
        train_model(experiment, entry, places, lists, "cpu", watch, lambda: bool(stop))
    assert not places.trained("proposed")
    epochs = []
    train_model(
        experiment, entry, places, lists, "cpu", lambda p: epochs.append(p.step) if p.stage == "train" else None
    )
    assert epochs == [2]
    assert places.trained("proposed")


def test_models_may_be_run_one_by_one(tmp_path, run):
    path, out = written(tmp_path), tmp_path / "out"
    code, text, err = run(
        "experiment", path, "--output", out, "--only", "unet", "--tests", "corrupted", "--device", "cpu"
    )
    assert code == 0, err
    assert [p.name for p in (out / "models").iterdir()] == ["unet"]
    assert sorted(p.stem for p in (out / "scores" / "corrupted").glob("*.csv")) == ["independent", "unet", "unet-1cc"]
    assert "Not measured yet: " in text
    assert "refined on corrupted" in text
    code, text, _ = run("experiment", path, "--output", out, "--list")
    assert code == 0
    state = {line.split()[0]: line.split()[-1] for line in text.splitlines() if line.strip()}
    assert (state["svf"], state["unet-1cc"]) == ("0", "3")
    assert "trained" in text
    assert not (out / "models" / "proposed").exists()


def test_rows_train_only_the_models_that_they_need(tmp_path, run):
    out = tmp_path / "out"
    words = ("--rows", "few", "--tests", "corrupted", "--device", "cpu")
    assert run("experiment", written(tmp_path, figures=[]), "--output", out, *words)[0] == 0
    assert [p.name for p in (out / "models").iterdir()] == ["few"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"train": {**SPEC["train"], "epochs": 3}}, "'unet' was trained with other settings: train.epochs was 2, is 3"),
        (
            {"refine": {"iterations": 3, "strength": 50}},
            "'independent' on 'held-out' was measured with other settings: refine",
        ),
        ({"split": {"share": 0.5}}, "'unet' was trained with other settings: cases changed"),
        (
            {"tests": {**SPEC["tests"], "corrupted": {**SPEC["tests"]["corrupted"], "seed": 60}}},
            "'unet' on 'corrupted' was measured with other settings: test.seed was 50, is 60",
        ),
        (
            {"tests": {**SPEC["tests"], "corrupted": {**SPEC["tests"]["corrupted"], "count": 2}}},
            "on cases that are not in the test set any more: letter-b-0052",
        ),
        ({"name": "other"}, "holds the experiment 'toy', not 'other'"),
    ],
)
def test_what_was_made_with_other_settings_is_refused(copied, tmp_path, run, changes, complaint):
    code, _, err = run("experiment", written(tmp_path, **changes), "--output", copied, "--device", "cpu")
    assert code == 2
    assert complaint in err


def test_a_model_trained_anew_has_no_old_scores(copied, tmp_path, run):
    shutil.rmtree(copied / "models" / "few")
    other = {**SPEC["models"], "few": {"cases": 4}}
    code, _, err = run("experiment", written(tmp_path, models=other), "--output", copied, "--device", "cpu")
    assert code == 2
    assert "the row 'few' on 'held-out' was measured with other settings: model changed" in err


def test_more_cases_of_a_test_set_are_added(copied, tmp_path, run):
    path = copied / "scores" / "corrupted" / "unet.csv"
    before = read_scores(path)
    more = {**SPEC["tests"], "corrupted": {**SPEC["tests"]["corrupted"], "count": 4}}
    words = ("--rows", "unet", "--device", "cpu")
    assert run("experiment", written(tmp_path, tests=more, figures=[]), "--output", copied, *words)[0] == 0
    after = read_scores(path)
    assert after[:3] == before
    assert [line.case for line in after[3:]] == ["letter-b-0053"]


def test_tables_alone_train_nothing(copied, tmp_path, run):
    for name in ("tables", "figures"):
        shutil.rmtree(copied / name)
    before = files(copied / "models")
    assert run("experiment", written(tmp_path), "--output", copied, "--tables-only")[0] == 0
    assert (copied / "tables" / "main.md").is_file()
    assert (copied / "figures" / "cases.png").is_file()
    assert files(copied / "models") == before


def test_paths_that_are_not_given_are_asked_for_before_any_work(tmp_path, run):
    data = {"images": "$images", "labels": "$labels"}
    path, out = written(tmp_path, data=data), tmp_path / "out"
    code, _, err = run("experiment", path, "--output", out)
    assert code == 2
    assert "needs the paths images, labels" in err
    assert not out.exists()
    code, _, err = run("experiment", path, "--output", out, "--data", "pictures=x")
    assert code == 2
    assert "takes images, labels" in err
    code, _, err = run("experiment", path, "--output", out, "--data", "images=nowhere", "labels=nowhere")
    assert code == 2
    assert "nowhere does not exist" in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "needs --output"),
        (("--output", "o", "--only", "vnet"), "--only names the model 'vnet'"),
        (("--output", "o", "--rows", "vnet"), "--rows names the row 'vnet'"),
        (("--output", "o", "--tests", "vnet"), "--tests names the test set 'vnet'"),
        (("--output", "o", "--data", "vnet"), "is not KEY=PATH"),
    ],
)
def test_command_lines_that_make_no_sense(tmp_path, run, words, complaint):
    code, _, err = run("experiment", written(tmp_path), *words)
    assert code == 2
    assert complaint in err


def test_a_foreign_folder_is_left_alone(tmp_path, run):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("x", encoding="utf-8")
    code, _, err = run("experiment", written(tmp_path), "--output", out)
    assert code == 2
    assert "holds no experiment" in err
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_a_cancelled_refinement_is_not_scored(tmp_path, finished):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "scores" / "corrupted" / "refined.csv").unlink()
    experiment, places = read_experiment(written(tmp_path)), Places(out)
    bundle = load_bundle(places.bundle("proposed"), "cpu")
    asked = []

    def cancel():
        asked.append(True)
        return len(asked) > 1  # after the first step of the refinement

    rows, tests = [experiment.rows["refined"]], [experiment.tests["corrupted"]]
    lists = Lists(experiment, places, {})
    with pytest.raises(Cancelled):
        experiment_runs.score_model(experiment, bundle, rows, tests, places, lists, cancel=cancel)
    assert read_scores(places.scores("corrupted", "refined")) == ()


def test_the_largest_component_of_every_label_stays():
    codes = np.zeros((8, 9), dtype=np.uint8)
    codes[0:2, 0:2] = 1
    codes[2:4, 2:5] = 1  # touches the first one by a corner: one component
    codes[6:8, 0:3] = 1
    codes[0, 6:8] = 2
    codes[5:8, 6:8] = 2
    found = largest_components(Volume.from_array(codes, Grid.centered((8, 9), (1.0, 1.0))), [1, 2]).array[0]
    expected = codes.copy()
    expected[6:8, 0:3] = 0
    expected[0, 6:8] = 0
    np.testing.assert_array_equal(found, expected)


def test_a_model_with_too_many_cases_is_refused(tmp_path):
    experiment = read_experiment(written(tmp_path, models={**SPEC["models"], "few": {"cases": 7}}))
    with pytest.raises(ConfigError, match="wants 7 cases, but there are 6"):
        Lists(experiment, Places(tmp_path), {}).training(experiment.models["few"])
