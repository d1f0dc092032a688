"""Steering on the command line: what each option does to the result, and what it says to input that makes no sense."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib.arguments import parse
from AtlasISTNLib.bundle import save_bundle
from AtlasISTNLib.configs import RefineConfig
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.steering import LANDMARK_WEIGHT, Landmarks, Steering
from AtlasISTNLib.volume import Volume

CONFIG = RefineConfig(15, 5.0, learning_rate=0.2, mode="field")
FIELD = ("--refine", CONFIG.iterations, "--strength", CONFIG.strength, "--learning-rate", CONFIG.learning_rate)
FIELD = (*FIELD, "--mode", CONFIG.mode)


def as_read(volume: Volume, path: Path) -> Volume:
    """A volume as the command line reads it from a file."""
    volume.write(path)
    return Volume.read(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory, a_small_bundle, a_flat_bundle, an_image, a_flat_image, a_result, make_image) -> Path:
    """A folder with a model, an image, a target away from it, the same with other values, and a mask."""
    folder = tmp_path_factory.mktemp("steering")
    save_bundle(a_small_bundle, folder / "small.zip")
    save_bundle(a_flat_bundle, folder / "flat")
    an_image.write(folder / "head.nrrd")
    an_image.write(folder / "again.nrrd")
    a_flat_image.write(folder / "picture.nrrd")
    grid = an_image.grid
    values = make_image(grid, tuple(np.add(grid.center, [-2.5, 2.0, -1.5])), 1.0).array[0]
    target = np.where(values > 75, 7, np.where(values > 15, 3, 0)).astype(np.uint8)
    Volume.from_array(target, grid).write(folder / "target.nrrd")
    Volume.from_array(np.choose(target // 3, [0, 1, 5]).astype(np.uint8), grid).write(folder / "others.nrrd")
    side = grid.points() @ np.array(grid.direction)[:, 2]
    Volume.from_array((side > np.median(side)).astype(np.uint8), grid).write(folder / "mask.nrrd")
    return folder


@pytest.fixture
def steered(run, data, tmp_path):
    """A function that segments with the 3D model and the given options, and gives code, messages and the folder."""

    def call(*words: object, images=("head.nrrd",), refining=FIELD):
        paths = [data / name for name in images]
        code, out, err = run(
            *("segment", *paths, "--model", data / "small.zip", "--output", tmp_path / "out", "--overwrite"),
            *("--no-picture", "--format", "nrrd", *refining, *words),
        )
        return code, out, err

    return call


def labels_of(tmp_path: Path, name: str = "head") -> np.ndarray:
    return Volume.read(tmp_path / "out" / name / "labels.nrrd").array


def report_of(tmp_path: Path, name: str = "head") -> dict:
    return json.loads((tmp_path / "out" / name / "report.json").read_text(encoding="utf-8"))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


# --------------------------------------------------------------------------------------------------- what options do


def test_without_options_nothing_steers(steered, tmp_path, a_small_bundle, an_image, data):
    code, _, err = steered()
    assert code == 0, err
    image = Volume.read(data / "head.nrrd")
    own = refine(a_small_bundle, segment(a_small_bundle, image), CONFIG)
    np.testing.assert_array_equal(labels_of(tmp_path), own.labels.array)
    refinement = report_of(tmp_path)["refinement"]
    assert (refinement["steering"], refinement["landmarks"]) == (None, [])
    assert [entry["total"] for entry in refinement["trace"]] == [step.total for step in own.trace.steps]


def test_a_target_takes_the_networks_place(steered, tmp_path, data):
    wanted = Volume.read(data / "target.nrrd").array
    assert steered()[0] == 0
    before = dice(labels_of(tmp_path) > 0, wanted > 0)
    code, _, err = steered("--target", data / "target.nrrd")
    assert code == 0, err
    after = labels_of(tmp_path)
    assert dice(after > 0, wanted > 0) > 0.9 > before
    assert report_of(tmp_path)["prediction"] == "target"
    assert report_of(tmp_path)["placement"]["how"] == "target"
    prediction = Volume.read(tmp_path / "out" / "head" / "prediction.nrrd").array
    assert dice(prediction > 0, wanted > 0) > 0.95


def test_values_of_a_target_are_mapped(steered, tmp_path, data):
    assert steered("--target", data / "target.nrrd")[0] == 0
    plain = labels_of(tmp_path)
    code, _, err = steered("--target", data / "others.nrrd", "--target-map", "1=3,5=7")
    assert code == 0, err
    np.testing.assert_array_equal(labels_of(tmp_path), plain)


@pytest.mark.parametrize(
    ("words", "steering"),
    [
        (("--ignore", "mask.nrrd"), lambda data: Steering(ignore=Volume.read(data / "mask.nrrd"))),
        (("--label-weights", "3=2,7=0"), lambda data: Steering(label_weights={3: 2.0, 7: 0.0})),
        (("--certainty",), lambda data: Steering(certainty=True)),
    ],
)
def test_options_do_what_the_library_does(steered, tmp_path, a_small_bundle, data, words, steering):
    code, _, err = steered(*(data / word if word.endswith(".nrrd") else word for word in words))
    assert code == 0, err
    plain = segment(a_small_bundle, Volume.read(data / "head.nrrd"))
    own = refine(a_small_bundle, plain, CONFIG, steering=steering(data))
    np.testing.assert_array_equal(labels_of(tmp_path), own.labels.array)
    assert not np.array_equal(own.labels.array, refine(a_small_bundle, plain, CONFIG).labels.array)
    told, record = report_of(tmp_path)["refinement"]["steering"], dict(own.trace.steering)
    assert told == json.loads(json.dumps(record))


def written_pairs(result, folder: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A table of two landmarks, 2 mm from where one pass takes them."""
    atlas = np.add(result.correspondence.atlas_grid.center, [[2.0, 2, 2], [-2.5, -2.5, -2.5]])
    image = result.correspondence.image_from_atlas(atlas) + 2 * np.array([[1.0, 0, 0], [-1.0, 0, 0]])
    rows = [",".join(map(str, (name, *a, *q))) for name, a, q in zip("AB", atlas, image, strict=True)]
    path = folder / "pairs.csv"
    path.write_text("name,atlas_x,atlas_y,atlas_z,image_x,image_y,image_z\n" + "\n".join(rows) + "\n")
    return path, atlas, image


def test_landmarks_end_nearer_with_more_weight(steered, tmp_path, data, a_result):
    path, *_ = written_pairs(a_result, tmp_path)
    left = []
    for weight in ("0.0001", "0.1"):
        code, out, err = steered("--landmarks", path, "--landmark-weight", weight)
        assert code == 0, err
        marks = report_of(tmp_path)["refinement"]["landmarks"]
        assert [mark["name"] for mark in marks] == ["A", "B"]
        assert [mark["before"] for mark in marks] == pytest.approx([2, 2], abs=0.05)
        assert f"landmark A: 2.0 mm apart before, {marks[0]['after']:.1f} mm after" in out
        left.append(max(mark["after"] for mark in marks))
    assert left[0] > 1 > 0.6 > left[1]


def fcsv(points: np.ndarray) -> str:
    """As Slicer saves a list of points in RAS."""
    lines = [f"{i},{-x},{-y},{z},0,0,0,1,1,1,0,P-{i},," for i, (x, y, z) in enumerate(points, 1)]
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
    return "\n".join(["# Markups fiducial file version = 4.11", "# CoordinateSystem = RAS", columns, *lines, ""])


def markups(points: np.ndarray) -> str:
    """As Slicer saves a list of points in LPS."""
    controls = [
        {"label": f"P-{i}", "position": list(p), "positionStatus": "defined"} for i, p in enumerate(points.tolist(), 1)
    ]
    return json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": controls}]})


def test_landmarks_from_slicers_files_are_the_same_as_from_a_table(steered, tmp_path, a_result):
    path, atlas, image = written_pairs(a_result, tmp_path)
    assert steered("--landmarks", path)[0] == 0
    table = report_of(tmp_path)["refinement"]
    (tmp_path / "atlas.fcsv").write_text(fcsv(atlas))
    (tmp_path / "image.mrk.json").write_text(markups(image))
    code, _, err = steered("--landmarks", tmp_path / "atlas.fcsv", tmp_path / "image.mrk.json")
    assert code == 0, err
    slicer = report_of(tmp_path)["refinement"]
    assert [m["after"] for m in slicer["landmarks"]] == pytest.approx([m["after"] for m in table["landmarks"]])
    assert slicer["steering"]["landmark_weight"] == Landmarks(atlas, image).weight


def test_each_image_of_a_batch_has_its_own_files(steered, tmp_path, data):
    nothing = data / "nothing.nrrd"
    mask = Volume.read(data / "mask.nrrd")
    mask.with_array(np.zeros_like(mask.array)).write(nothing)
    names = ("head.nrrd", "again.nrrd")
    assert steered(images=names)[0] == 0
    plain = labels_of(tmp_path)
    code, _, err = steered("--ignore", nothing, data / "mask.nrrd", images=names)
    assert code == 0, err
    np.testing.assert_array_equal(labels_of(tmp_path, "head"), plain)
    assert not np.array_equal(labels_of(tmp_path, "again"), plain)


def test_in_2d(run, data, tmp_path, a_flat_result):
    wanted = np.roll(a_flat_result.labels.array, 4, axis=2)
    a_flat_result.labels.with_array(wanted).write(tmp_path / "target.nrrd")
    points = a_flat_result.correspondence.atlas_grid.center, (0.0, 0.0)
    (tmp_path / "points.csv").write_text("atlas_x,atlas_y,image_x,image_y\n{},{},{},{}\n".format(*sum(points, ())))
    words = ("segment", data / "picture.nrrd", "--model", data / "flat", "--output", tmp_path / "out", "--overwrite")
    words = (*words, "--no-picture", "--format", "nrrd", *FIELD, "--target", tmp_path / "target.nrrd")
    code, _, err = run(*words)
    assert code == 0, err
    assert dice(labels_of(tmp_path, "picture") > 0, wanted > 0) > 0.9
    code, _, err = run(*words, "--landmarks", tmp_path / "points.csv", "--ignore", tmp_path / "target.nrrd")
    assert code == 2
    assert "landmark 1 at (0, 0) lies outside the image" in err


def test_the_disagreement_is_in_the_report(steered, tmp_path, data):
    assert steered("--target", data / "target.nrrd")[0] == 0
    entries = report_of(tmp_path)["disagreement"]
    assert {entry["name"] for entry in entries} == {"shell", "core"}
    assert entries[0]["share"] >= entries[1]["share"]
    assert {"unit", "missing", "extra", "blob", "blob_kind", "blob_center"} <= set(entries[0])


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def bad_files(tmp_path, data):
    """Files that make no sense, each in its own way."""
    head = Volume.read(data / "head.nrrd")
    (tmp_path / "text.nrrd").write_text("not an image")
    far = Grid.centered(head.grid.shape, head.grid.spacing, (-900.0, 0.0, 0.0))
    full = np.full(head.grid.shape, 3, np.uint8)
    Volume.from_array(full, far).write(tmp_path / "far.nrrd")
    Volume.from_array(full[0], Grid.centered(full.shape[1:], (1, 1))).write(tmp_path / "flat.nrrd")
    Volume.from_array(full * 0, head.grid).write(tmp_path / "empty.nrrd")
    Volume.from_array(np.stack([full, full]), head.grid).write(tmp_path / "channels.nrrd")
    (tmp_path / "outside.csv").write_text("atlas_x,atlas_y,atlas_z,image_x,image_y,image_z\n900,0,0,0,0,0\n")
    x, y, z = head.grid.center
    (tmp_path / "fine.csv").write_text(f"atlas_x,atlas_y,atlas_z,image_x,image_y,image_z\n5,-3,10,{x},{y},{z}\n")
    (tmp_path / "words.csv").write_text("atlas_x,atlas_y,atlas_z,image_x,image_y,image_z\na,0,0,0,0,0\n")
    (tmp_path / "none.mrk.json").write_text('{"markups": []}')
    return tmp_path


@pytest.mark.parametrize(
    ("words", "reason", "hint"),
    [
        ("--target {bad}/nowhere.nrrd", "nowhere.nrrd", "check the path"),
        ("--target {bad}/text.nrrd", "text.nrrd", "another kind of file"),
        ("--target {data}/others.nrrd", "the values [1, 5], which the model has not", "such as 5=1"),
        ("--target {data}/others.nrrd --target-map 1=4", "the label 4, which the model has not", "3 shell"),
        ("--target {data}/others.nrrd --target-map 8=3", "none of the model's structures", "[0, 1, 5]"),
        ("--target {bad}/empty.nrrd", "none of the model's structures", "right label map"),
        ("--target {bad}/far.nrrd", "lies outside head", "belong"),
        ("--target {bad}/flat.nrrd", "is 2D, the image 3D", "world"),
        ("--target {bad}/channels.nrrd", "2 channels, the model 3", "one channel a label"),
        ("--target {data}/target.nrrd {data}/target.nrrd", "1 images but 2 files after --target", "one for each"),
        ("--target-map 1=3", "--target-map comes without --target", "label map"),
        ("--target {data}/others.nrrd --target-map 1", "'1' is not a pair such as 3=1", "--help"),
        ("--target {data}/others.nrrd --target-map 1=3,1=7", "says twice what 1 is", "--help"),
        ("--target {data}/others.nrrd --target-map one=3", "'one' in 'one=3' is not a whole number", "--help"),
        ("--ignore {bad}/flat.nrrd", "is 2D, the image 3D", "world"),
        ("--ignore {bad}/channels.nrrd", "2 channels", "one number per voxel"),
        ("--ignore {data}/mask.nrrd {data}/mask.nrrd", "1 images but 2 files after --ignore", "same order"),
        ("--landmarks {bad}/nowhere.csv", "does not exist", "check the path"),
        ("--landmarks {bad}/words.csv", "landmark 1 is not all numbers", "correct the file"),
        ("--landmarks {bad}/outside.csv", "landmark 1 at (900, 0, 0) lies outside the atlas", "RAS"),
        ("--landmarks {bad}/none.mrk.json", "alone holds no pairs", "two files"),
        ("--landmarks {bad}/none.mrk.json {bad}/none.mrk.json", "holds no landmarks", "at least one"),
        ("--landmarks {bad}/fine.csv --landmark-weight -1", "at least 0, not -1", "switches"),
        ("--landmarks {bad}/words.csv --landmark-weight much", "'much' is not a number", "--help"),
        ("--landmark-weight 1", "--landmark-weight comes without --landmarks", "the landmarks"),
        ("--label-weights 5=1", "the label 5, which the model has not", "3 shell, 7 core"),
        ("--label-weights 3=-1", "label 3 must be a number of at least 0", "switches"),
        ("--label-weights 3=nan", "label 3 must be a number of at least 0", "switches"),
        ("--label-weights 3=0,7=0", "nothing would pull the atlas", "leave one"),
        ("--label-weights 3", "'3' is not a pair such as 3=1", "--help"),
    ],
)
def test_input_that_makes_no_sense(steered, bad_files, data, tmp_path, words, reason, hint):
    code, _, err = steered(*words.format(bad=bad_files, data=data).split())
    lines = err.strip().splitlines()
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    told, _, advice = lines[0].partition(" — ")
    assert reason in told
    assert hint in advice
    assert not (tmp_path / "out" / "head").exists()


def test_landmarks_belong_to_one_image(steered, tmp_path, a_result):
    path, *_ = written_pairs(a_result, tmp_path)
    code, _, err = steered("--landmarks", path, images=("head.nrrd", "again.nrrd"))
    assert code == 2
    assert "landmarks belong to one image, not to 2" in err


def test_a_batch_goes_on_after_a_target_that_cannot_be(steered, tmp_path, data):
    files = (data / "target.nrrd", data / "others.nrrd")
    code, _, err = steered("--target", *files, images=("head.nrrd", "again.nrrd"))
    assert code == 2
    assert [line for line in err.splitlines() if line.startswith("error:") and "again.nrrd" in line]
    assert (tmp_path / "out" / "head" / "labels.nrrd").exists()
    assert not (tmp_path / "out" / "again").exists()


def test_the_documentation_shows_what_there_is():
    """Its commands can be read, its table names every option, and its default is the default."""
    documented = (Path(__file__).parents[2] / "docs" / "steering.md").read_text(encoding="utf-8")
    commands = re.findall(r"^atlas-istn (segment .*)$", documented, re.MULTILINE)
    assert len(commands) > 2
    assert any(parse(shlex.split(command)).ignore for command in commands)
    options = {"target", "target-map", "ignore", "landmarks", "landmark-weight", "label-weights", "certainty"}
    assert set(re.findall(r"^\| `--([a-z-]+)", documented, re.MULTILINE)) == options
    assert f"`--landmark-weight {LANDMARK_WEIGHT:g}`" in documented
