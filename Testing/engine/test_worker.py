"""The worker as a program sees it: requests, the events that answer them, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_client import LONG

from AtlasISTNLib.bundle import load_bundle, save_bundle
from AtlasISTNLib.configs import PlacementConfig, RefineConfig, as_dict
from AtlasISTNLib.exchange import correspondence_from_files, volume_from_files, volume_to_files
from AtlasISTNLib.outputs import TRANSFORMS
from AtlasISTNLib.phantoms import write_phantoms
from AtlasISTNLib.report import summary
from AtlasISTNLib.resources import samples_folder
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.volume import Volume


def volumes_of(event: dict[str, Any]) -> dict[str, Volume]:
    return {key: volume_from_files(entry, event["folder"]) for key, entry in event["volumes"].items()}


def same_figures(told: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether two reports agree in all but times."""
    timed = ("date", "seconds", "refinement")
    plain = json.loads(json.dumps(own))
    return {k: v for k, v in told.items() if k not in timed} == {k: v for k, v in plain.items() if k not in timed}


# ----------------------------------------------------------------------------------------------------------- the start


def test_it_says_what_it_is(shared_worker):
    ready = next(e for e in shared_worker.events if e["event"] == "ready")
    assert ready["pid"] == shared_worker.process.pid
    assert ready["python"] == ".".join(map(str, sys.version_info[:3]))
    assert ready["devices"][0]["name"] == "cpu"
    assert ready["missing"] == []
    assert {e["event"] for e in shared_worker.events[: shared_worker.events.index(ready)]} <= {"alive"}


def test_the_command_line_knows_it(run):
    code, _, err = run("worker", "--threads", 0)
    assert code == 2
    assert "--threads" in err


# ------------------------------------------------------------------------------------------------------------ the work


@pytest.mark.parametrize("name", ["letter-b.png"])
def test_a_bundled_sample_as_by_the_library(shared_worker, request_of, name):
    image = Volume.read(samples_folder() / name)
    event = shared_worker.result("segment", **request_of(image, "letter-b", "letter"))
    bundle = load_bundle("letter-b", "cpu")
    own = segment(bundle, image)
    found = volumes_of(event)
    assert found["labels"].array.dtype == np.uint8
    assert set(np.unique(found["labels"].array)) == {0, 255}
    for key, volume in (("labels", own.labels), ("one_pass", own.labels), ("prediction", own.prediction)):
        np.testing.assert_array_equal(found[key].array, volume.array)
        assert found[key].grid == image.grid
    np.testing.assert_allclose(found["atlas_image"].array, own.atlas_image.array, atol=1e-5)
    assert (event["case"], event["refined"], event["trace"]) == ("letter", False, None)
    assert [label["name"] for label in event["labels"]] == ["background", "letter B"]
    assert same_figures(event["figures"], summary(bundle, own))


def test_a_refinement_as_by_the_library(shared_worker, scan, a_small_bundle, an_image):
    config = RefineConfig(iterations=6, mode="network")
    first = shared_worker.ask("segment", **scan)
    one_pass = shared_worker.answer(first)
    number = shared_worker.ask("refine", **scan, config=as_dict(config), preview_seconds=0)
    event = shared_worker.answer(number)
    assert event["event"] == "result", event
    own = refine(a_small_bundle, segment(a_small_bundle, an_image), config)
    found = volumes_of(event)
    np.testing.assert_array_equal(found["labels"].array, own.labels.array)
    np.testing.assert_array_equal(found["one_pass"].array, own.one_pass_labels.array)
    np.testing.assert_array_equal(volumes_of(one_pass)["labels"].array, own.one_pass_labels.array)
    assert not np.array_equal(found["labels"].array, found["one_pass"].array)
    points = own.correspondence.atlas_grid.points()
    for key, whole in (("final", own.correspondence), ("one_pass", own.one_pass)):
        back = correspondence_from_files(event["correspondence"][key], event["folder"])
        np.testing.assert_allclose(back.image_from_atlas(points), whole.image_from_atlas(points), atol=1e-4)
    trace = event["trace"]
    assert (trace["stopped"], trace["best"], event["refined"]) == ("finished", own.trace.best, True)
    assert trace["config"]["iterations"] == 6
    steps = [[s.step, s.total, s.a2s, s.s2a, s.reg] for s in own.trace.steps]
    np.testing.assert_allclose(trace["steps"], steps, rtol=1e-5)
    assert same_figures(event["figures"], summary(a_small_bundle, own))
    assert shared_worker.of(number, "preview") == []
    assert shared_worker.stages(first) == ["load", "place", "predict", "register", "write"]
    assert shared_worker.stages(number) == ["refine", "write"]


def test_every_refinement_begins_at_one_pass(shared_worker, scan):
    config = {"iterations": 3, "mode": "field"}
    events = [shared_worker.result("refine", **scan, config=config) for _ in range(2)]
    assert events[0]["trace"]["steps"] == events[1]["trace"]["steps"]


def test_a_case_it_does_not_have_is_segmented_first(shared_worker, scan):
    config = {"iterations": 3, "mode": "field"}
    warm = shared_worker.result("refine", **scan, config=config)
    shared_worker.result("forget", case="scan")
    number = shared_worker.ask("refine", **scan, config=config)
    again = shared_worker.answer(number)
    assert shared_worker.stages(number) == ["load", "place", "predict", "register", "refine", "write"]
    assert again["trace"]["steps"] == warm["trace"]["steps"]
    other = {**scan, "placement": as_dict(PlacementConfig("center"))}
    number = shared_worker.ask("refine", **other, config=config)
    shared_worker.answer(number)
    assert "predict" in shared_worker.stages(number), "another placement under the same name is another case"


def test_a_model_that_changed_is_read_again(shared_worker, request_of, an_image, make_bundle, tmp_path):
    fields = request_of(an_image, save_bundle(make_bundle(3, seed=1), tmp_path / "model"), "changing")
    before = volumes_of(shared_worker.result("segment", **fields))["labels"].array
    other = make_bundle(3, seed=2)
    save_bundle(other, tmp_path / "model", overwrite=True)
    event = shared_worker.result("refine", **fields, config={"iterations": 1, "mode": "field"})
    after = volumes_of(event)["one_pass"].array
    np.testing.assert_array_equal(after, segment(other, an_image).labels.array)
    assert not np.array_equal(before, after)


def test_scores_against_a_reference(shared_worker, scan, an_image, tmp_path):
    truth = an_image.with_array(np.array([0, 3, 7], np.uint8)[np.digitize(an_image.array[0], [5, 75])])
    reference = {**volume_to_files(truth, tmp_path, "truth"), "folder": str(tmp_path)}
    event = shared_worker.result("segment", **scan, reference=reference)
    assert {entry["label"] for entry in event["figures"]["scores"]["final"]["labels"]} == {3, 7}
    moved = Volume(truth.array, an_image.grid.with_spacing(an_image.grid.spacing).box((1, 0, 0), (19, 22, 26)))
    reference = {**volume_to_files(moved, tmp_path, "moved"), "folder": str(tmp_path)}
    number = shared_worker.ask("segment", **scan, reference=reference)
    assert shared_worker.answer(number)["kind"] == "GeometryError"
    assert "predict" not in shared_worker.stages(number), "known before the work"


def test_what_is_reported_and_exported(shared_worker, scan, tmp_path):
    event = shared_worker.result("refine", **scan, config={"iterations": 2, "mode": "field"})
    shared_worker.result("report", case="scan", path=str(tmp_path / "r.png"))
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    shared_worker.result("export", case="scan", folder=str(tmp_path / "out"))
    exported = Volume.read(tmp_path / "out" / "labels.nii.gz")
    np.testing.assert_array_equal(exported.array, volumes_of(event)["labels"].array)
    assert {*TRANSFORMS.values(), "report.json", "report.png"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert shared_worker.error("export", case="scan", folder=str(tmp_path / "out"))["kind"] == "OutputError"
    shared_worker.result("forget", case="scan")
    for do, where in (("report", {"path": str(tmp_path / "x.png")}), ("export", {"folder": str(tmp_path / "x")})):
        assert "does not have the case 'scan'" in shared_worker.error(do, case="scan", **where)["message"]
    assert not (tmp_path / "x").exists()


def test_answers_stay_in_their_folder(shared_worker, scan, tmp_path, an_image):
    folder = tmp_path / "answer"
    folder.mkdir()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p != folder}
    event = shared_worker.result("refine", **{**scan, "folder": str(folder)}, config={"iterations": 2, "mode": "field"})
    assert {p: p.stat().st_mtime_ns for p in before} == before
    named = [entry["array"] for entry in [*event["volumes"].values(), event["disagreement"]]]
    for entry in event["correspondence"].values():
        named += [entry["displacement"]["array"], entry["displacement_back"]["array"]]
    assert {p.name for p in folder.iterdir()} == set(named), "nothing but what was named"


# ---------------------------------------------------------------------------------------------- previews and cancelling


def test_previews_and_a_cancellation_in_mid_run(shared_worker, scan, a_small_bundle, tmp_path):
    number = shared_worker.ask("refine", **scan, config=LONG, preview_seconds=0.05)
    for _ in range(3):
        shared_worker.hear(lambda e: e["id"] == number and e["event"] == "preview")
    shared_worker.ask("cancel", target=number)
    event = shared_worker.answer(number)
    assert event["event"] == "result", event
    assert event["trace"]["stopped"] == "cancelled"
    steps = event["trace"]["steps"]
    assert 3 < len(steps) < 100_000
    assert min(step[1] for step in steps) == steps[event["trace"]["best"]][1]
    previews = shared_worker.of(number, "preview")
    names = [e["correspondence"]["displacement"]["array"] for e in previews]
    assert len(set(names)) == len(names) >= 3
    back = correspondence_from_files(previews[-1]["correspondence"], tmp_path)
    assert back.atlas_grid == a_small_bundle.grid
    assert len(list(tmp_path.glob("*preview*"))) <= 2 * 16, "old previews do not pile up"
    times = [e for e in shared_worker.of(number, "progress") if e["stage"] == "refine"]
    assert times[0]["step"] == 0
    assert times[0]["seconds_left"] is None
    assert all(e["seconds_left"] > 0 for e in times[2:])
    assert len(times) < len(steps), "not every step is worth an event"
    seconds = event["trace"]["seconds"]
    assert len(times) <= 21 * seconds + 3


def test_a_brief_cancellation_keeps_the_state_and_writes_nothing(shared_worker, scan, tmp_path):
    first = shared_worker.result("refine", **scan, config={"iterations": 2, "mode": "field"})
    before = sorted(path.name for path in tmp_path.iterdir())
    number = shared_worker.ask("refine", **scan, config=LONG, start="current")
    shared_worker.step(number, "refine", 5)
    shared_worker.ask("cancel", target=number, brief=True)
    shared_worker.ask("cancel", target=number)  # too late: half of it is left undone
    event = shared_worker.answer(number)
    assert event["brief"] is True
    assert event["trace"]["stopped"] == "cancelled"
    assert "volumes" not in event
    assert sorted(path.name for path in tmp_path.iterdir()) == before

    reached = event["trace"]["steps"][event["trace"]["best"]][1]
    assert reached < first["trace"]["steps"][first["trace"]["best"]][1]
    onwards = shared_worker.result("refine", **scan, config={"iterations": 1, "mode": "field"}, start="current")
    assert onwards["trace"]["steps"][0][1] == pytest.approx(reached, rel=1e-5), "it goes on from there"
    assert onwards["trace"]["start"] == "current"
    assert "brief" not in onwards


def test_what_was_cancelled_briefly_can_be_completed(shared_worker, scan, tmp_path):
    number = shared_worker.ask("refine", **scan, config=LONG)
    shared_worker.step(number, "refine", 5)
    shared_worker.ask("cancel", target=number, brief=True)
    brief = shared_worker.answer(number)
    event = shared_worker.result("refine", **scan, config={"iterations": 0, "mode": "field"}, start="current")
    assert event["trace"] == {**brief["trace"], "start": "current"}, "its course is the one that was cancelled"
    assert event["refined"] is True
    final = correspondence_from_files(event["correspondence"]["final"], tmp_path)
    assert final.displacement.grid.shape[0] > 1.5 * final.image_grid.shape[0], "not as coarse as a preview"
    onwards = shared_worker.result("refine", **scan, config={"iterations": 1, "mode": "field"}, start="current")
    reached = brief["trace"]["steps"][brief["trace"]["best"]][1]
    assert onwards["trace"]["steps"][0][1] == pytest.approx(reached, rel=1e-5)


@pytest.mark.parametrize("mode", ["network", "field"])
def test_it_goes_back_to_an_earlier_result_and_on_from_there(shared_worker, scan, tmp_path, mode):
    def refine(**fields):
        return shared_worker.result("refine", **scan, **fields)

    def loss(event, step):
        return event["trace"]["steps"][step][1]

    first = refine(config={"iterations": 3, "mode": mode})
    reached = loss(first, first["trace"]["best"])
    direct = refine(config={"iterations": 4, "mode": mode}, start="current")
    assert loss(direct, 0) == pytest.approx(reached, rel=1e-5)
    refine(config={"iterations": 3, "mode": mode, "strength": 5e4})
    again = refine(config={"iterations": 4, "mode": mode}, start="current", state=first["state"])
    np.testing.assert_allclose(again["trace"]["steps"], direct["trace"]["steps"], rtol=1e-5)
    np.testing.assert_array_equal(volumes_of(again)["labels"].array, volumes_of(direct)["labels"].array)
    assert len({event["state"] for event in (first, direct, again)}) == 3

    shared_worker.result("export", case="scan", folder=str(tmp_path / "first"), state=first["state"], picture=False)
    exported = Volume.read(tmp_path / "first" / "labels.nii.gz")
    np.testing.assert_array_equal(exported.array, volumes_of(first)["labels"].array)
    onwards = refine(config={"iterations": 1, "mode": mode}, start="current")
    assert loss(onwards, 0) == pytest.approx(reached, rel=1e-5), "what was exported is the last one now"


def test_a_state_that_is_gone_is_said_to_be(shared_worker, scan, tmp_path):
    one_pass = shared_worker.result("segment", **scan)
    config = {"iterations": 2, "mode": "field"}
    first = shared_worker.result("refine", **scan, config=config)
    assert first["warnings"] == one_pass["warnings"]
    back = shared_worker.result("refine", **scan, config=config, start="current", state=one_pass["state"])
    assert back["trace"]["steps"] == first["trace"]["steps"]
    assert back["warnings"] == one_pass["warnings"]
    shared_worker.result("forget", case="scan")
    event = shared_worker.result("refine", **scan, config=config, start="current", state=first["state"])
    assert event["trace"]["steps"] == first["trace"]["steps"]
    assert "one-pass" in event["warnings"][-1]
    assert (event["trace"]["start"], back["trace"]["start"]) == ("one-pass", "current")
    error = shared_worker.error("report", case="scan", path=str(tmp_path / "r.png"), state=first["state"])
    assert error["kind"] == "WorkerError"
    assert not (tmp_path / "r.png").exists()


def test_a_queued_request_is_cancelled_before_it_begins(shared_worker, scan):
    number = shared_worker.ask("refine", **scan, config=LONG)
    waiting = shared_worker.ask("segment", **scan)
    after = shared_worker.ask("forget", case="nothing")
    shared_worker.step(number, "refine", 2)
    shared_worker.ask("cancel", target=waiting)
    shared_worker.ask("cancel", target=12345)  # nobody's
    shared_worker.ask("cancel", target=number)
    assert shared_worker.answer(number)["trace"]["stopped"] == "cancelled"
    assert shared_worker.answer(waiting)["kind"] == "Cancelled"
    assert shared_worker.stages(waiting) == []
    assert shared_worker.answer(after)["event"] == "result", "what comes after is not cancelled"
    assert shared_worker.result("segment", **scan)["refined"] is False


# ------------------------------------------------------------------------------------------------------- bad requests

BAD_LINES = [
    (b"nonsense", "not JSON"),
    (b"[1, 2]", "a JSON object"),
    (b"{}", "'id'"),
    (b'{"id": "one", "do": "segment"}', "'id'"),
    (b'{"id": true, "do": "segment"}', "'id'"),
    (b'{"id": 7}', "'do'"),
    (b'{"id": 7, "do": 5}', "'do'"),
    (b'{"id": 7, "do": "dance"}', "'dance'"),
    (b'{"id": 7, "do": "cancel"}', "'target'"),
    (b'{"id": 7, "do": "forget"}', "case is missing"),
    (b'{"id": 7, "do": "forget", "case": "a", "case": "b"}', "twice"),
    (b'{"id": 7, "do": "forget", "case": NaN}', "NaN"),
    (b'{"id": 7, "do": "forget", "case": 5}', "a text"),
    (b'{"id": 7, "do": "forget", "case": "a", "force": true}', "force is not known"),
    (b"[" * 100_000, "JSON"),
    (b'{"id": ' + b"9" * 5000 + b', "do": "forget"}', "JSON"),
    (b'{"id": 7, "do": "\xff\xfe"}', "UTF-8"),
    (b'{"id": 7, "do": "check"}', "data"),
    (b'{"id": 7, "do": "train", "data": "/nowhere", "name": "n"}', "output"),
    (b'{"id": 7, "do": "train", "config": {"epochs": 0}}', "epochs"),
    (b'{"id": 7, "do": "check", "pattern": ["one"], "data": "x"}', "two texts"),
    (b'{"id": 7, "do": "train", "model": {"colour": 1}}', "colour"),
    (b" " * (5 << 20), "4 MiB"),
]


def test_nonsense_is_refused_by_name_and_survived(shared_worker):
    for line, reason in BAD_LINES:
        shared_worker.say(line)
        event = shared_worker.hear(lambda e: e["event"] in ("error", "result"))
        assert event["event"] == "error", (line[:80], event)
        assert reason in event["message"] + event["hint"], (line[:80], event)
        assert event["kind"] in ("WorkerError", "ConfigError"), event
        assert event["out_of_memory"] is False
        assert event["id"] == (7 if b'"id": 7' in line and b"\xff" not in line and b"Na" not in line else None) or (
            reason == "twice"
        )
    shared_worker.say(b"")
    shared_worker.result("forget", case="nothing")


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"model": "nowhere"}, "BundleError", "no model 'nowhere'"),
        ({"device": "cuda:99"}, "DeviceError", "cuda:99"),
        ({"folder": "/nowhere"}, "OutputError", "/nowhere"),
        ({"threads": -1}, "ConfigError", "threads"),
        ({"case": None}, "ConfigError", "case is missing"),
        ({"image": None}, "ConfigError", "image is missing"),
        ({"image": {"folder": "/"}}, "WorkerError", "entry of a volume"),
        ({"placement": {"how": "given"}}, "ConfigError", "given"),
        ({"placement": {"how": "given", "center": [1e6, 0, 0]}}, "ConfigError", "outside the image"),
        ({"placement": {"where": 1}}, "ConfigError", "where"),
        ({"config": {"iterations": -1}}, "ConfigError", "iterations"),
        ({"config": {"mode": "magic"}}, "ConfigError", "magic"),
        ({"preview_seconds": -1}, "ConfigError", "preview_seconds"),
        ({"colour": "red"}, "ConfigError", "colour"),
    ],
)
def test_fields_that_make_no_sense(shared_worker, scan, change, kind, reason):
    event = shared_worker.error(
        "refine", **{**scan, "case": "bad", "config": {"iterations": 1, "mode": "field"}, **change}
    )
    assert event["kind"] == kind, event
    assert reason in event["message"]
    assert event["out_of_memory"] is False


def test_an_image_beyond_its_folder_or_of_another_kind(shared_worker, scan, request_of, tmp_path, an_image):
    outside = {**scan["image"], "array": "../image.npy"}
    assert "outside" in shared_worker.error("segment", **{**scan, "image": outside})["message"]
    flat = Volume.from_array(an_image.array[0, 0], an_image.grid.__class__.centered((22, 26), (1, 1)), "flat one")
    event = shared_worker.error("segment", **request_of(flat, scan["model"], "flat"))
    assert event["kind"] == "VolumeError"
    assert "flat one" in event["message"]
    assert event["hint"]


# ---------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("letters")
    write_phantoms("letter-b", 4, folder, seed=3)
    return {"images": str(folder / "images"), "labels": str(folder / "labels")}


def training(letters: dict[str, str], output: Path, epochs: int, **more: Any) -> dict[str, Any]:
    config = {"epochs": epochs, "batch_size": 2, "validation": 0.25}
    sizes = {"shape": [16, 16], "spacing": [8, 8]}
    return {**letters, "output": str(output), "name": "b", "config": config, **sizes, "device": "cpu", **more}


def test_data_are_checked(shared_worker, letters):
    event = shared_worker.result("check", **letters)
    assert (event["cases"], event["problems"]) == (4, [])
    assert event["labels"] == [{"value": 1, "name": "label 1", "cases": 4}]
    assert len(event["grid"]["shape"]) == 2
    event = shared_worker.result("check", **letters, label=[{"value": 9, "name": "dot"}])
    assert "without a name: 1" in event["problems"][0]["message"]
    assert all(set(problem) == {"message", "hint", "case"} for problem in event["problems"])
    assert event["grid"] is None


def test_a_training_is_stopped_and_goes_on(shared_worker, letters, tmp_path, run):
    fields = training(letters, tmp_path / "b", 400, folder=str(tmp_path))
    number = shared_worker.ask("train", **fields)
    shared_worker.step(number, "train", 2)
    shared_worker.ask("cancel", target=number)
    event = shared_worker.answer(number)
    assert event["kind"] == "Cancelled"
    assert not (tmp_path / "b").exists()
    epochs = [e["step"] for e in shared_worker.of(number, "progress") if e["stage"] == "train"]
    assert epochs == list(range(1, len(epochs) + 1))
    assert {"loss", "segmentation", "a2s", "s2a", "reg"} <= set(shared_worker.of(number, "progress")[-1]["values"])
    preview = shared_worker.of(number, "preview")[0]
    image, soft = (volume_from_files(preview[key], tmp_path) for key in ("image", "labels"))
    assert (image.array.shape, soft.array.shape) == ((1, 16, 16), (2, 16, 16))
    done, all_epochs = epochs[-1], epochs[-1] + 2
    again = shared_worker.ask("train", **training(letters, tmp_path / "b", all_epochs))
    event = shared_worker.answer(again)
    assert event["event"] == "result", event
    steps = [e["step"] for e in shared_worker.of(again, "progress") if e["stage"] == "train"]
    assert steps == [done + 1, done + 2]
    assert (event["epochs"], len(event["history"])) == (all_epochs, all_epochs)
    # The command line, not stopped, gives the same model.
    words = ["--images", letters["images"], "--labels", letters["labels"], "--shape", "16,16", "--spacing", "8"]
    words += ["--epochs", all_epochs, "--batch-size", 2, "--validation", 0.25, "--name", "b", "--threads", 1]
    assert run("train", *words, "--output", tmp_path / "whole", "--device", "cpu")[0] == 0
    one, two = (load_bundle(tmp_path / name, "cpu") for name in ("b", "whole"))
    for (key, a), b in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=key)
    np.testing.assert_allclose(one.atlas_labels.array, two.atlas_labels.array, atol=1e-6)


def test_no_model_and_no_folder_is_overwritten(shared_worker, letters, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("mine")
    for more in ({}, {"overwrite": True}):
        event = shared_worker.error("train", **training(letters, tmp_path / "photos", 1, **more))
        assert event["kind"] == "OutputError"
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.png"]
    assert [p.name for p in tmp_path.iterdir()] == ["photos"], "nothing was begun"
