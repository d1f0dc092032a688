"""Steering in the worker's requests: targets, ignored regions, landmarks, weights, where to begin, and folding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from AtlasISTNLib.configs import RefineConfig, as_dict
from AtlasISTNLib.disagreements import disagreement
from AtlasISTNLib.exchange import volume_from_files, volume_to_files
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.steering import Landmarks, Steering
from AtlasISTNLib.volume import Volume

CONFIG = RefineConfig(12, 5.0, learning_rate=0.2, mode="field")
SETTINGS = {"config": as_dict(CONFIG)}


def labels_of(event: dict[str, Any]) -> np.ndarray:
    return volume_from_files(event["volumes"]["labels"], event["folder"]).array


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.fixture
def entry_of(tmp_path) -> Callable[[Volume, str], dict[str, Any]]:
    """A function that writes a volume and gives its entry with the folder."""

    def made(volume: Volume, stem: str) -> dict[str, Any]:
        return {**volume_to_files(volume, tmp_path, stem), "folder": str(tmp_path)}

    return made


@pytest.fixture
def target(an_image, make_image) -> Volume:
    """The blobs as labels a few mm away from those of the image."""
    values = make_image(an_image.grid, tuple(np.add(an_image.grid.center, [-2.5, 2.0, -1.5])), 1.0).array[0]
    return Volume.from_array(np.where(values > 75, 7, np.where(values > 15, 3, 0)).astype(np.uint8), an_image.grid)


@pytest.fixture
def mask(an_image) -> Volume:
    """One half of the image."""
    side = an_image.grid.points() @ np.array(an_image.grid.direction)[:, 2]
    return Volume.from_array((side > np.median(side)).astype(np.uint8), an_image.grid, "mask")


@pytest.fixture
def marks(a_result) -> Landmarks:
    """One landmark, 2 mm from where one pass takes it."""
    atlas = np.array([a_result.correspondence.atlas_grid.center])
    return Landmarks(atlas, np.add(a_result.correspondence.image_from_atlas(atlas), (2.0, 0, 0)), 0.05, ("apex",))


def same_steps(event: dict[str, Any], result) -> bool:
    own = [[s.step, s.total, s.a2s, s.s2a, s.reg] for s in result.trace.steps]
    told = [step[:5] for step in event["trace"]["steps"]]
    return bool(np.allclose(told, own, rtol=1e-5))


def test_all_at_once_as_by_the_library(
    shared_worker, scan, a_small_bundle, an_image, entry_of, target, mask, marks, a_result
):
    steering = {
        "target": entry_of(target, "target"),
        "ignore": entry_of(mask, "mask"),
        "landmarks": {
            "atlas": marks.atlas.tolist(),
            "image": marks.image.tolist(),
            "weight": marks.weight,
            "names": ["apex"],
        },
        "label_weights": {"3": 2.0, "7": 0.5},
        "certainty": True,
    }
    event = shared_worker.result("refine", **scan, **SETTINGS, steering=steering)
    wanted = Steering(target, mask, marks, {3: 2.0, 7: 0.5}, True)
    own = refine(a_small_bundle, segment(a_small_bundle, an_image), CONFIG, steering=wanted)
    assert same_steps(event, own)
    np.testing.assert_array_equal(labels_of(event), own.labels.array)
    trace = event["trace"]
    assert trace["landmarks"][0]["name"] == "apex"
    assert trace["landmarks"][0]["before"] == pytest.approx(2, abs=0.05)
    assert trace["landmarks"][0]["after"] == pytest.approx(own.trace.landmarks[0].after, abs=1e-4)
    assert trace["steering"]["label_weights"] == {"3": 2.0, "7": 0.5}
    found = volume_from_files(event["disagreement"], event["folder"])
    np.testing.assert_allclose(found.array, disagreement(own).map.array, atol=1e-4)
    assert event["figures"]["disagreement"][0]["name"] in ("shell", "core")


def test_an_empty_steering_steers_nothing(shared_worker, scan):
    plain = shared_worker.result("refine", **scan, **SETTINGS)
    nothing = {"target": None, "ignore": None, "landmarks": None, "label_weights": {}, "certainty": False}
    for steering in ({}, None, nothing, {"label_weights": {"3": 1}}):
        event = shared_worker.result("refine", **scan, **SETTINGS, steering=steering)
        assert event["trace"]["steps"] == plain["trace"]["steps"]
        assert event["trace"]["steering"] is None
        np.testing.assert_array_equal(labels_of(event), labels_of(plain))


def test_steering_is_over_with_its_request(shared_worker, scan):
    plain = shared_worker.result("refine", **scan, **SETTINGS)
    steered = shared_worker.result("refine", **scan, **SETTINGS, steering={"label_weights": {"7": 0}})
    again = shared_worker.result("refine", **scan, **SETTINGS)
    assert steered["trace"]["steps"] != plain["trace"]["steps"]
    assert again["trace"]["steps"] == plain["trace"]["steps"]


def test_landmarks_pull_on_from_the_current_result(shared_worker, scan, marks):
    pairs = {"atlas": marks.atlas.tolist(), "image": marks.image.tolist(), "weight": 0.05}
    first = shared_worker.result("refine", **scan, **SETTINGS)
    number = shared_worker.ask("refine", **scan, **SETTINGS, start="current", steering={"landmarks": pairs})
    event = shared_worker.answer(number)
    reached = first["trace"]["steps"][first["trace"]["best"]]
    assert event["trace"]["steps"][0][2:5] == pytest.approx(reached[2:5], rel=1e-4), "it begins where that one ended"
    left = event["trace"]["landmarks"][0]
    assert left["after"] < 0.5 * left["before"]
    told = [e["values"] for e in shared_worker.of(number, "progress") if e["stage"] == "refine"]
    assert told[-1]["landmarks"] < told[0]["landmarks"]
    begun = shared_worker.result("refine", **scan, **SETTINGS)
    assert begun["trace"]["steps"] == first["trace"]["steps"], "without 'start' it begins at one pass"


def test_a_target_in_place_of_the_network(shared_worker, scan, entry_of, target, a_small_bundle, an_image):
    others = target.with_array(np.choose(target.array // 3, [0, 1, 5]).astype(np.uint8))
    fields = {**scan, "case": "given", "target": entry_of(others, "others"), "target_map": {"1": 3, "5": 7}}
    one_pass = shared_worker.result("segment", **fields)
    own = segment(a_small_bundle, an_image, target=target)
    np.testing.assert_array_equal(labels_of(one_pass), own.labels.array)
    assert one_pass["figures"]["prediction"] == "target"
    number = shared_worker.ask("refine", **fields, **SETTINGS)
    event = shared_worker.answer(number)
    assert shared_worker.stages(number) == ["refine", "write"], "the case is kept as it is"
    assert dice(labels_of(event) > 0, target.array > 0) > 0.9
    prediction = volume_from_files(event["volumes"]["prediction"], event["folder"]).array
    assert dice(prediction > 0, target.array > 0) > 0.95

    number = shared_worker.ask("refine", **{**scan, "case": "given"}, **SETTINGS)
    event = shared_worker.answer(number)
    assert "predict" in shared_worker.stages(number), "without the target it is another case"
    assert event["figures"]["prediction"] == "itn"


def test_folding_is_told_when_it_is_asked_for(shared_worker, scan):
    def told(**fields):
        number = shared_worker.ask("refine", **scan, **fields)
        assert shared_worker.answer(number)["event"] == "result"
        return [e["values"] for e in shared_worker.of(number, "progress") if e["stage"] == "refine"]

    assert all("folding" not in values for values in told(**SETTINGS))
    wild = {"iterations": 12, "strength": 0.0, "learning_rate": 3.0, "mode": "field"}
    shares = [values["folding"] for values in told(config=wild, folding=True)]
    assert shares[0] == 0
    assert 0 < shares[-1] < 1


@pytest.mark.parametrize(
    ("steering", "reason"),
    [
        ({"colour": "red"}, "colour"),
        ([], "steering"),
        ({"target": {"array": "x.npy"}}, "folder"),
        ({"ignore": {"array": "nothing.npy", "folder": "/nowhere"}}, "entry of a volume"),
        ({"target_map": {"1": 3}}, "without a target"),
        ({"label_weights": {"5": 1}}, "the label 5, which the model has not"),
        ({"label_weights": {"three": 1}}, "'three'"),
        ({"label_weights": {"3": "much"}}, "label_weights"),
        ({"label_weights": {"3": -1}}, "at least 0"),
        ({"label_weights": {"3": 0, "7": 0}}, "nothing would pull"),
        ({"certainty": "yes"}, "certainty"),
        ({"landmarks": {"atlas": [[1, 2, 3]]}}, "image is missing"),
        ({"landmarks": {"atlas": [[1, 2, 3]], "image": [[1, 2]]}}, "1 landmarks of 3"),
        ({"landmarks": {"atlas": [["a", 2, 3]], "image": [[1, 2, 3]]}}, "no list of points"),
        ({"landmarks": {"atlas": [[900, 2, 3]], "image": [[1, 2, 3]]}}, "outside the atlas"),
        ({"landmarks": {"atlas": [], "image": []}}, "landmarks"),
    ],
)
def test_steering_that_makes_no_sense(shared_worker, scan, steering, reason):
    event = shared_worker.error("refine", **scan, **SETTINGS, steering=steering)
    assert event["kind"] in ("ConfigError", "WorkerError"), event
    assert reason in event["message"], event


@pytest.mark.parametrize("change", [{"target_map": {"1": 3}}, {"start": "yesterday"}, {"folding": 1}])
def test_fields_that_make_no_sense(shared_worker, scan, change):
    event = shared_worker.error("refine", **scan, **SETTINGS, **change)
    assert event["kind"] == "ConfigError", event
    assert next(iter(change)) in event["message"], event


def test_a_target_that_cannot_be_leaves_the_case_as_it_was(shared_worker, scan, entry_of, target):
    first = shared_worker.result("refine", **scan, **SETTINGS)
    bad = entry_of(target.with_array(target.array + 1), "bad")
    event = shared_worker.error("refine", **scan, **SETTINGS, steering={"target": bad})
    assert "which the model has not" in event["message"]
    assert event["hint"]
    assert shared_worker.error("segment", **{**scan, "case": "bad"}, target=bad)["kind"] == "VolumeError"
    onwards = shared_worker.result("refine", **scan, config={"iterations": 1, "mode": "field"}, start="current")
    reached = first["trace"]["steps"][first["trace"]["best"]]
    assert onwards["trace"]["steps"][0][2] == pytest.approx(reached[2], rel=1e-4)


def test_segmenting_takes_no_steering(shared_worker, scan):
    for field in ({"steering": {}}, {"start": "current"}, {"folding": True}):
        (name,) = field
        assert name in shared_worker.error("segment", **scan, **field)["message"]
