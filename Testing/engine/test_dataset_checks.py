"""Checks of training data: every kind of bad data set, in every layout, is refused before anything starts."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib.configs import TrainConfig
from AtlasISTNLib.dataset_checks import DataCheck, check_cases
from AtlasISTNLib.datasets import Case, find_cases
from AtlasISTNLib.errors import Cancelled, VolumeError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.volume import Volume

SHAPE = (24, 20)
GRID = Grid.centered(SHAPE, (1.5, 1.2))
NAMES = ("ann", "bob", "cyd")


def a_drawing(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A noisy disc (label 1) with a spot (label 2) in it."""
    rng = np.random.default_rng(seed)
    index = np.indices(shape).astype(float)
    middle = np.array(shape, float).reshape((-1,) + (1,) * len(shape)) / 2 + rng.uniform(-2, 2)
    distance = np.sqrt(((index - middle) ** 2).sum(axis=0))
    labels = (distance < 6).astype(np.uint8) + (distance < 2.5)
    return (50 * labels + rng.normal(0, 10, shape)).astype(np.float32), labels.astype(np.uint8)


class Folder:
    """A small data set in one of the layouts.

    Attributes:
        layout: "nnunet", "lists" or "pattern".
        images, labels: path of each case's files.
        words: of the command line that finds them.
    """

    def __init__(self, place: Path, layout: str) -> None:
        self.place, self.layout = place, layout
        folders = {
            "nnunet": ("imagesTr/{}_0000", "labelsTr/{}"),
            "lists": ("i/{}", "l/{}"),
            "pattern": ("{}/t1", "{}/seg"),
        }
        image, labels = folders[layout]
        self.images = {name: place / f"{image.format(name)}.nrrd" for name in NAMES}
        self.labels = {name: place / f"{labels.format(name)}.nrrd" for name in NAMES}
        for seed, name in enumerate(NAMES):
            self.draw(name, *a_drawing(seed))
        self.words: list[object] = ["--data", place]
        if layout == "nnunet":
            self.describe(labels={"background": 0, "disc": 1, "spot": 2})
        elif layout == "lists":
            for stem, paths in (("images", self.images), ("labels", self.labels)):
                lines = [str(path.relative_to(place)) for path in paths.values()]
                (place / f"{stem}.csv").write_text("\n".join(["path", *lines]) + "\n")
            self.words = ["--images", place / "images.csv", "--labels", place / "labels.csv"]
        else:
            self.words += ["--pattern", "{case}/t1.nrrd", "{case}/seg.nrrd"]
        if layout != "nnunet":
            self.words += ["--label", "1=disc", "--label", "2=spot"]

    def draw(self, name: str, image: np.ndarray | None = None, labels: np.ndarray | None = None, grid=GRID) -> None:
        for paths, values in ((self.images, image), (self.labels, labels)):
            if values is not None:
                Volume.from_array(values, grid).write(paths[name])

    def describe(self, **changes: object) -> None:
        path = self.place / "dataset.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        described = {"channel_names": {"0": "CT"}, "file_ending": ".nrrd", **before, **changes}
        path.write_text(json.dumps(described))


@pytest.fixture(params=["nnunet", "lists", "pattern"])
def a_folder(request, tmp_path) -> Folder:
    return Folder(tmp_path / "data", request.param)


def damaged(data: Folder) -> None:
    data.images["ann"].write_text("these are words")
    data.labels["bob"].write_bytes(data.labels["bob"].read_bytes()[:150])
    data.labels["cyd"].unlink()


def other_grid(data: Folder) -> None:
    values = a_drawing(1)[1]
    data.draw("bob", labels=values, grid=Grid(SHAPE, GRID.spacing, np.add(GRID.origin, 3), GRID.direction))
    data.draw("cyd", labels=values[1:], grid=Grid.centered((23, 20), GRID.spacing))


def unnamed(data: Folder) -> None:
    values = a_drawing(1)[1]
    values[0, 0] = 9
    data.draw("bob", labels=values)


def nowhere(data: Folder) -> None:
    for name in NAMES:
        data.draw(name, labels=(a_drawing(1)[1] > 0).astype(np.uint8))


def one_image_twice(data: Folder) -> None:
    data.draw("cyd", image=a_drawing(0)[0])


def two_dimensions(data: Folder) -> None:
    solid = (20, 22, 24)
    data.draw("cyd", *a_drawing(7, solid), grid=Grid.centered(solid, (1, 1, 1)))


def empty(data: Folder) -> None:
    data.draw("ann", labels=np.zeros(SHAPE, np.uint8))


def useless_images(data: Folder) -> None:
    spoilt = a_drawing(0)[0]
    spoilt[3, 4] = np.nan
    data.draw("ann", image=spoilt)
    data.draw("bob", image=np.full(SHAPE, 7.0))


def an_image_for_labels(data: Folder) -> None:
    data.draw("ann", labels=a_drawing(0)[0])
    data.draw("bob", labels=np.arange(480, dtype=np.int16).reshape(SHAPE))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (damaged, [("ann", "cannot be read"), ("bob", "cannot be read"), ("cyd", "does not exist")]),
        (other_grid, [("bob", "different grids, with origin"), ("cyd", "20 x 24 and 20 x 23 voxels")]),
        (unnamed, [("", "label values without a name: 9 (in bob)")]),
        (nowhere, [("", "label 2 (spot) is in none of the cases")]),
        (one_image_twice, [("", "images of ann, cyd are identical")]),
        (two_dimensions, [("", "cyd are 3D among 2D cases")]),
        (empty, [("ann", "holds none of the labels [1, 2]")]),
        (useless_images, [("ann", "1 values that are NaN"), ("bob", "the same value 7 everywhere")]),
        (an_image_for_labels, [("ann", "not whole numbers"), ("bob", "has 479 values")]),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_bad_data_is_refused_with_all_that_is_wrong(run, a_folder, tmp_path, spoil, says, check):
    spoil(a_folder)
    end = ["--check"] if check else ["--output", tmp_path / "out", "--name", "n", "--epochs", 1]
    code, out, err = run("train", *a_folder.words, *end, "--validation", 0)
    assert code == 2
    lines = err.splitlines()
    assert len(lines) == (len(says) + 1 if len(says) > 1 else 1), err
    for line, (name, text) in zip(lines, says, strict=False):
        assert line.startswith(f"error: {name}")
        assert text in line
        assert " — " in line, "no hint"
    if len(says) > 1:
        assert f"{len(says)} problems in the data of 3 cases" in lines[-1]
    assert ("3 cases" in out) == check
    assert not (tmp_path / "out").exists()


def test_good_data_gives_its_check_and_a_grid(run, a_folder, tmp_path):
    code, out, err = run("train", *a_folder.words, "--check")
    assert code == 0, err
    assert "3 cases, 2D" in out
    assert ["1", "disc", "3"] in [line.split() for line in out.splitlines()]
    assert "--shape" in out
    assert "none is held out" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_events_of_a_check(run, a_folder):
    unnamed(a_folder)
    empty(a_folder)
    code, out, _ = run("train", *a_folder.words, "--check", "--events", "jsonl")
    events = [json.loads(line) for line in out.splitlines()]
    errors = [event for event in events if event["event"] == "error"]
    assert [event["image"] for event in errors] == ["ann", None, None]
    assert (code, events[-1]["exit_code"]) == (2, 2)


def test_events_of_a_good_check(run, a_folder):
    code, out, _ = run("train", *a_folder.words, "--check", "--events", "jsonl", "--shape", "8,8", "--spacing", "1")
    events = [json.loads(line) for line in out.splitlines()]
    (setup,) = [event for event in events if event["event"] == "setup"]
    assert code == 0
    assert (setup["cases"], setup["shape"], setup["names"]) == (3, [8, 8], {"1": "disc", "2": "spot"})
    assert setup["cut"] == list(NAMES)
    assert max(setup["margin"]) < 0
    (warning,) = [event["message"] for event in events if event["event"] == "warning" and "cuts" in event["message"]]
    assert "ann, bob, cyd" in warning


def test_many_problems_are_counted_and_not_all_shown(run, tmp_path):
    lines = [f"{n}.nrrd" for n in range(30)]
    (tmp_path / "list.csv").write_text("\n".join(["path", *lines]))
    (tmp_path / "labels.csv").write_text("\n".join(["path", *lines]))
    code, _, err = run("train", "--images", tmp_path / "list.csv", "--labels", tmp_path / "labels.csv", "--check")
    assert code == 2
    assert len(err.splitlines()) == 21
    assert "not shown" in err.splitlines()[-1]


# ------------------------------------------------------------------------------------------ the check as a value


def some_cases(count: int, first: int = 0) -> list[Case]:
    drawn = [a_drawing(seed) for seed in range(first, first + count)]
    volumes = [[Volume.from_array(values, GRID) for values in pair] for pair in drawn]
    return [Case(f"case {first + n}", *pair) for n, pair in enumerate(volumes)]


def checked(cases, names=None, *, ignore_others=False, **settings) -> DataCheck:
    return check_cases(cases, names or {}, TrainConfig(**settings), ignore_others=ignore_others)


def test_without_names_all_values_found_make_the_table():
    check = checked(some_cases(3))
    assert dict(check.names) == {1: "label 1", 2: "label 2"}
    assert dict(check.counts) == {1: 3, 2: 3}
    assert check.good
    check.require_good()
    assert [extent.name for extent in check.extents] == ["case 0", "case 1", "case 2"]


def test_label_missing_from_some_cases_is_a_note():
    cases = some_cases(3)
    cases[1] = Case("case 1", cases[1].image, cases[1].labels.with_array((cases[1].labels.array > 0).astype(np.uint8)))
    check = checked(cases, {1: "disc", 2: "spot"}, validation=0.0)
    assert check.good
    (note,) = check.notes
    assert "label 2 (spot) is missing from 1 of 3 cases: case 1" in note.message
    assert dict(check.counts) == {1: 3, 2: 2}


def test_values_without_a_name_can_be_background():
    assert not checked(some_cases(3), {2: "spot"}).good
    check = checked(some_cases(3), {2: "spot"}, ignore_others=True)
    assert check.good
    assert dict(check.names) == {2: "spot"}
    assert all(extent.values == {2} for extent in check.extents)


def test_values_without_a_name_are_one_problem_of_all_cases():
    check = checked(some_cases(5), {2: "spot"}, validation=0.0)
    (problem,) = check.problems
    assert problem.message == "label values without a name: 1 (in case 0, case 1, case 2 and 2 more)"
    assert dict(check.counts) == {2: 5}
    nothing_else = checked(some_cases(3), {7: "other"}).problems
    assert [p.message[:27] for p in nothing_else] == ["label values without a name"]


def test_negative_values_are_no_labels():
    cases = some_cases(3)
    cases[2] = Case("case 2", cases[2].image, cases[2].labels.with_array(cases[2].labels.array.astype(np.int16) - 1))
    assert [problem.case for problem in checked(cases).problems] == ["case 2"]


@pytest.mark.parametrize(
    ("count", "settings", "says"),
    [
        (1, {}, "at least two cases, not 1"),
        (3, {"folds": 4}, "3 cases cannot be dealt out to 4 folds"),
        (3, {"keep": "best"}, "no case is held out of 3"),
        (3, {"patience": 2}, "no case is held out of 3"),
        (5, {"validation": 0.95}, "holds all 5 cases out"),
    ],
)
def test_too_few_cases(count, settings, says):
    (problem,) = checked(some_cases(count), **settings).problems
    assert says in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    ("count", "settings"), [(2, {}), (3, {"folds": 3}), (5, {"keep": "best"}), (5, {"validation": 0.8})]
)
def test_just_enough_cases(count, settings):
    assert checked(some_cases(count), **settings).good


def test_one_case_given_twice():
    cases = some_cases(3)
    (problem,) = checked([*cases, cases[1]]).problems
    assert problem.case == "case 1"
    assert "2 cases have the same name" in problem.message


def test_an_image_twice_is_seen_through_other_compression_and_grids(tmp_path):
    cases = some_cases(3)
    cases[0].image.write(tmp_path / "zipped.nii.gz")
    other = Grid.centered(SHAPE, (2, 2))
    again = [Case("again", tmp_path / "zipped.nii.gz", cases[0].labels)]
    again.append(Case("elsewhere", *(Volume.from_array(v.array, other) for v in (cases[0].image, cases[0].labels))))
    (problem,) = checked([*cases, *again]).problems
    assert "case 0, again, elsewhere" in problem.message


def test_image_and_label_map_of_one_file(tmp_path):
    cases = some_cases(3)
    cases[0].labels.write(tmp_path / "same.nrrd")
    check = checked([*cases[1:], Case("same", tmp_path / "same.nrrd", tmp_path / "same.nrrd")])
    assert any("both image and label map" in problem.message for problem in check.problems)


def test_all_problems_in_one_error():
    cases = some_cases(2)
    bad = [Case("gone", Path("gone.nrrd"), Path("gone-labels.nrrd")), Case("flat", cases[0].labels, cases[0].labels)]
    check = checked([*cases, *bad])
    with pytest.raises(VolumeError) as raised:
        check.require_good()
    for text in ("gone.nrrd does not exist", "gone-labels.nrrd does not exist"):
        assert text in raised.value.message
    assert len(check.problems) == 2


def test_a_slice_in_3d_is_2d_among_others():
    cases = some_cases(2)
    thin = Grid.centered((1, *SHAPE), (1.5, 1.2, 4.0))
    image, labels = (Volume.from_array(values[np.newaxis], thin) for values in a_drawing(9))
    check = checked([*cases, Case("slice", image, labels)])
    assert check.good
    assert {extent.grid.ndim for extent in check.extents} == {2}


def test_progress_and_cancel():
    seen = []
    check_cases(some_cases(3), {}, TrainConfig(), report=seen.append)
    assert [(p.stage, p.step, p.total, p.message) for p in seen] == [("check", n + 1, 3, f"case {n}") for n in range(3)]
    with pytest.raises(Cancelled):
        check_cases(some_cases(3), {}, TrainConfig(), cancel=lambda: len(seen) > 0)


def test_one_case_at_a_time_is_in_memory(tmp_path):
    grid = Grid.centered((64, 64, 64), (1, 1, 1))
    cases = []
    for n in range(6):
        image, labels = a_drawing(n, grid.shape)
        paths = [tmp_path / f"{n}-image.nrrd", tmp_path / f"{n}-labels.nrrd"]
        for values, path in zip((image, labels), paths, strict=True):
            Volume.from_array(values, grid).write(path)
        cases.append(Case(str(n), *paths))
    peaks = []
    for some in (cases[:2], cases):
        tracemalloc.start()
        checked(some)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 64**3 * 4  # less than one more image


def test_names_of_an_nnunet_folder_are_the_table(tmp_path):
    data = find_cases(Folder(tmp_path, "nnunet").place)
    check = check_cases(data.cases, data.names, TrainConfig())
    assert check.good
    assert dict(check.names) == {1: "disc", 2: "spot"}
