"""The history: results come back as they were, none is lost by going back, and all of it is saved with the scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import host_results
import numpy as np
import pytest
import slicer
import vtk
from AtlasISTNHost import (
    comparison,
    frames,
    history,
    history_entries,
    history_store,
    history_texts,
    nodes,
    packing,
    results,
    segments,
    surfaces,
    thumbnails,
    transforms,
)
from AtlasISTNHost.models import Entry as Model

from AtlasISTNLib.correspondence import Correspondence
from AtlasISTNLib.errors import GeometryError, VolumeError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.volume import Volume

#: mm; what is kept of a correspondence is as exact in each component.
EXACT = packing.STEP / 2


@pytest.fixture(autouse=True)
def coarse_transforms(monkeypatch):
    """They are tested elsewhere, and slow."""
    monkeypatch.setattr(transforms, "MOST_NODES", 20_000)


@pytest.fixture
def scan(make_a_volume):
    noise = np.random.default_rng(0).normal(size=(26, 30, 32)).astype(np.float32)
    return make_a_volume(noise, spacing=(2.0, 1.8, 2.2), name="Scan")


@pytest.fixture(scope="module")
def manifest():
    return host_results.manifest(4.0, (12, 14, 15))


@pytest.fixture(scope="module")
def shapes(manifest):
    return surfaces.atlas_surfaces(manifest, host_results.soft_labels(manifest))


@pytest.fixture(scope="module")
def atlas_image(manifest):
    distance = np.linalg.norm(manifest.grid.points() - np.array(host_results.ATLAS_MIDDLE), axis=-1)
    return Volume.from_array(np.exp(-((distance / 15) ** 2)).astype(np.float32), manifest.grid)


@pytest.fixture
def model(manifest):
    return Model("two-balls", Path("absent"), manifest)


@pytest.fixture
def make_a_history(shapes, atlas_image):
    return lambda: history.History(lambda _model: shapes, lambda _model: atlas_image)


@pytest.fixture
def found(make_a_history, scan, model):
    kept = make_a_history()
    kept.follow(scan, model)
    return kept


@pytest.fixture
def run(found, scan, model, manifest, shapes):
    """A function that does what a run of the engine does: a result is written (or not, to be quick) and recorded."""

    def write(scale=1.1, refined=True, node=None, chosen=None, into_scene=True, **changes):
        node, chosen = node or scan, chosen or model
        key = (scale, refined, frames.grid_of(node))
        if key not in _made:
            _made[key] = host_results.outcome(node, chosen.manifest, scale=scale, refined=refined)
        if refined:
            changes.setdefault("trace", trace_of(scale))
        outcome = replace(_made[key], **changes)
        written = results.write_outcome(outcome, node, chosen.manifest, shapes) if into_scene else None
        return found.record(outcome, node, chosen), outcome, written

    return write


_made = {}


def trace_of(strength, **changes):
    config = {"iterations": 5, "strength": strength, "beta": 1.0, "gamma": 0.5, "learning_rate": 0.1, "mode": "field"}
    steps = [[0, 3.0, 1.0, 0.5, 0.1], [1, 2.0, 0.8, 0.4, 0.2], [2, 2.5, 0.9, 0.4, 0.3]]
    return {"config": config, "best": 1, "stopped": "finished", "seconds": 1.0, "steps": steps, "steering": None} | {
        "landmarks": [],
        "start": "one-pass",
        **changes,
    }


def shown(written, scan):
    """Everything that a user could notice of a result: voxels, points, where transforms lead."""
    points = np.random.default_rng(1).uniform(-20, 20, (50, 3)) + np.array(frames.grid_of(scan).center) * [-1, -1, 1]
    state = {}
    for name in ("segmentation", "prediction", "one_pass"):
        segmentation = getattr(written, name).GetSegmentation()
        for i in range(segmentation.GetNumberOfSegments()):
            key = segmentation.GetNthSegmentID(i)
            state[name, key] = slicer.util.arrayFromSegmentBinaryLabelmap(getattr(written, name), key, scan)
    for value, node in written.surfaces.items():
        state["surface", value] = np.array(slicer.util.arrayFromModelPoints(node))
    for name in ("image_from_atlas", "atlas_from_image"):
        transform = vtk.vtkGeneralTransform()
        getattr(written, name).GetTransformFromWorld(transform)
        state["transform", name] = frames.through(transform, points)
    return state


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        if key[0] in ("surface", "transform"):
            np.testing.assert_allclose(one[key], other[key], atol=4 * EXACT, err_msg=str(key))
        else:
            np.testing.assert_array_equal(one[key], other[key], err_msg=str(key))


def ids(scene):
    return {node.GetID() for node in nodes.all_nodes(scene)}


def history_nodes(scene):
    return slicer.util.getNodesByClass("vtkMRMLTextNode", scene)


# ------------------------------------------------------------------------------------------------------------- packing


def test_labels_come_back_exactly():
    rng = np.random.default_rng(0)
    grid = Grid.centered((9, 11, 13), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    for array in (
        rng.integers(0, 300, grid.shape).astype(np.uint16),
        np.zeros(grid.shape, np.uint8),
        np.full(grid.shape, 7, np.int32),
        np.where(grid.points()[..., 0] > 4, -5, 70_000).astype(np.int32),
    ):
        labels = Volume.from_array(array, grid, "labels")
        again = packing.unpack_labels(packing.pack_labels(labels))
        np.testing.assert_array_equal(again.array, labels.array)
        assert again.array.dtype == labels.array.dtype
        assert (again.grid, again.name) == (grid, "labels")


@pytest.mark.parametrize("shape", [(33, 30, 1), (4, 5, 6), (21, 64)])
@pytest.mark.parametrize("rough", [0.0, 30.0])
def test_fields_of_any_shape_come_back(shape, rough):
    """Rough ones, too, which no interpolation foretells."""
    rng = np.random.default_rng(1)
    grid = Grid.centered(shape, (1.0,) * len(shape), (0.0,) * len(shape))
    waves = np.stack([np.sin(grid.points() @ rng.normal(size=len(shape)) / 5) * 40 for _ in shape])
    field = (waves + rough * rng.normal(size=waves.shape)).astype(np.float32)
    again = packing.unpack_volume(packing.pack_volume(Volume(field, grid)))
    assert np.abs(again.array - field).max() < EXACT * 1.02
    assert again.array.dtype == np.float32


def test_a_correspondence_comes_back_small_and_exact(manifest):
    grid = Grid.centered((40, 44, 48), (2.5, 2.5, 2.5), (3.0, 4.0, 5.0))
    big = host_results.manifest(shape=(28, 30, 32))
    c = host_results.correspondence(grid, big)
    text = packing.pack_correspondence(c)
    raw = 2 * 4 * c.displacement.array.size
    assert len(text) < raw / 6
    again = packing.unpack_correspondence(text)
    np.testing.assert_array_equal(again.theta, c.theta)
    assert (again.outward, again.image_grid, again.atlas_grid) == (c.outward, c.image_grid, c.atlas_grid)
    points = np.random.default_rng(0).uniform(-40, 40, (400, 3))
    for one, other in ((c.atlas_from_image, again.atlas_from_image), (c.image_from_atlas, again.image_from_atlas)):
        assert np.linalg.norm(one(points) - other(points), axis=1).max() < 2 * EXACT


def test_what_is_not_finite_is_refused():
    grid = Grid.centered((6, 6, 6), (1.0,) * 3, (0.0,) * 3)
    for bad in (np.nan, np.inf, 1e9):
        field = np.zeros((3, 6, 6, 6))
        field[1, 2, 3, 4] = bad
        with pytest.raises(VolumeError, match="not finite"):
            packing.pack_volume(Volume(field, grid))


@pytest.mark.parametrize("text", ["", "!", "AAAA", packing.pack_values({}), packing.pack_values([1])])
def test_damaged_texts_are_refused(text):
    for unpack in (packing.unpack_labels, packing.unpack_volume, packing.unpack_correspondence):
        with pytest.raises(VolumeError, match="damaged"):
            unpack(text)


# ----------------------------------------------------------------------------------------------------------- going back


@pytest.mark.parametrize("packed", [False, True])
def test_a_result_comes_back_as_it_was(found, run, scan, packed):
    first, outcome, written = run(1.1)
    before, figures = shown(written, scan), outcome.figures
    run(0.9)
    if packed:
        found.settle()
    again, nodes_again = found.restore(first)
    assert nodes_again.segmentation is written.segmentation
    assert_same(shown(nodes_again, scan), before)
    assert (again.figures, again.trace, again.case, again.refined) == (figures, outcome.trace, "case", True)
    assert again.labels == outcome.labels
    assert found.current.key == first.key
    np.testing.assert_array_equal(again.volumes["prediction"].array, outcome.volumes["prediction"].array)


def test_what_is_brought_back_moves_no_further_each_time(found, run, scan):
    first, _outcome, written = run(1.1)
    second, *_rest = run(0.9)
    found.settle()
    found.restore(first)
    once = shown(written, scan)
    for _ in range(3):
        found.restore(second)
        found.restore(first)
    again = shown(written, scan)
    for key, value in once.items():
        np.testing.assert_array_equal(value, again[key])


def test_the_atlas_on_the_patient_is_made_again(found, run, scan, atlas_image):
    first, outcome, written = run(1.1)
    run(0.9)
    found.settle()
    again, _written = found.restore(first)
    grid, array = outcome.volumes["labels"].grid, again.volumes["atlas_image"].array[0]
    points = outcome.final.atlas_from_image(grid.points())
    middle = np.linalg.norm(points - np.array(host_results.ATLAS_MIDDLE), axis=-1)
    inside = middle < 18
    assert np.abs(array[inside] - np.exp(-((middle[inside] / 15) ** 2))).max() < 0.06  # voxels of 4 mm between them
    assert (array[middle > 45] == 0).all()
    assert slicer.util.arrayFromVolume(written.atlas_image).shape == grid.shape


def test_a_map_of_disagreement_comes_back(found, run, scan):
    grid = Grid.centered((6, 7, 8), (3.0,) * 3, (1.0, 2.0, 3.0))
    values = np.random.default_rng(0).uniform(size=grid.shape).astype(np.float32)
    first, *_rest = run(1.1, disagreement=Volume.from_array(values, grid, "disagreement"))
    run(0.9)
    found.settle()
    again, _written = found.restore(first)
    assert again.disagreement.grid == grid
    np.testing.assert_allclose(again.disagreement.array[0], values, atol=EXACT * 1.02)


def test_segments_that_the_user_edited_stay_apart(found, run, scan):
    first, *_rest = run(1.1)
    _second, _outcome, written = run(0.9)
    key = segments.segment_id(2)
    mine = slicer.util.arrayFromSegmentBinaryLabelmap(written.segmentation, key, scan)
    mine[:3, :3, :3] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mine, written.segmentation, key, scan)
    _again, nodes_again = found.restore(first)
    assert nodes_again.segmentation is not written.segmentation
    assert "edited" in written.segmentation.GetName()
    kept = slicer.util.arrayFromSegmentBinaryLabelmap(written.segmentation, key, scan)
    np.testing.assert_array_equal(kept, mine)


def test_a_scan_that_was_moved_keeps_its_results_on_its_voxels(found, run, scan, a_linear_transform_node):
    first, _outcome, written = run(1.1)
    before = shown(written, scan)
    run(0.9)
    scan.SetAndObserveTransformNodeID(a_linear_transform_node.GetID())
    _again, nodes_again = found.restore(first)
    after = shown(nodes_again, scan)
    for key in before:
        if key[0] in ("segmentation", "surface"):
            np.testing.assert_allclose(before[key], after[key], atol=4 * EXACT)


def test_a_scan_with_other_voxels_is_refused_and_nothing_changes(found, run, scan, scene):
    first, *_rest = run(1.1)
    second, _outcome, written = run(0.9)
    before = shown(written, scan)
    image = vtk.vtkImageData()
    image.SetDimensions(5, 5, 5)
    image.AllocateScalars(vtk.VTK_FLOAT, 1)
    old = scan.GetImageData()
    scan.SetAndObserveImageData(image)
    with pytest.raises(GeometryError, match="voxels"):
        found.restore(first)
    scan.SetAndObserveImageData(old)
    assert_same(shown(written, scan), before)
    assert found.current.key == second.key


# ------------------------------------------------------------------------------------------------------- undo and redo


def test_undo_and_redo(found, run):
    one, two, three = (run(scale, refined)[0] for scale, refined in ((1.0, False), (1.1, True), (0.9, True)))
    assert found.redo_target is None
    assert found.redo() is None
    for expected in (two, one):
        found.undo()
        assert found.current.key == expected.key
    assert found.undo_target is None
    assert found.undo() is None
    for expected in (two, three):
        found.redo()
        assert found.current.key == expected.key
    assert found.redo_target is None


def test_a_new_result_after_an_undo_loses_nothing(found, run, scan):
    one, two, three = (run(scale)[0] for scale in (1.0, 1.1, 0.9))
    found.undo()
    found.undo()
    four, _outcome, written = run(1.2)
    assert [entry.number for entry in found.entries()] == [1, 2, 3, 4]
    latest = shown(written, scan)
    assert found.undo_target.key == one.key  # that is what it was made from
    found.undo()
    assert found.redo_target.key == four.key
    found.restore(found.entries()[2])
    assert found.current.key == three.key
    assert found.undo_target.key == two.key
    found.restore(four)
    assert_same(shown(written, scan), latest)


# -------------------------------------------------------------------------------------------------------- what is said


def test_what_an_entry_says(run, manifest):
    entry, outcome, _written = run(1.1, trace=trace_of(120.0), state="a1", warnings=("touches the border",))
    assert (entry.number, entry.refined, entry.best, entry.state) == (1, True, 1, "a1")
    assert entry.losses == {"total": 2.0, "a2s": 0.8, "s2a": 0.4, "reg": 0.2}  # of the step that was kept
    assert entry.notes == ("touches the border",)
    assert [s.name for s in entry.structures] == ["left ventricle", "right atrium"]
    volume = (outcome.volumes["labels"].array == 2).sum() * 2.0 * 1.8 * 2.2 / 1000
    assert entry.structures[0].volume == pytest.approx(volume)
    text = history_texts.what_text(entry)
    assert "λ* 120" in text
    assert "γ* 0.5" in text
    assert "β*" not in text  # it is 1, as published
    assert "loss 2" in history_texts.figures_text(entry)
    tip = history_texts.tip(entry, shown=False)
    assert "left ventricle" in tip
    assert "touches the border" in tip
    steering = {"target": "Mine & yours", "certainty": True, "label_weights": None, "ignore": None}
    steered, *_rest = run(1.1, trace=trace_of(1.0, steering=steering, landmarks=[{}, {}], stopped="cancelled"))
    assert history_texts.steering_text(steered) == "target Mine & yours, 2 points, certainty"
    assert "Mine &amp; yours" in history_texts.tip(steered, shown=False)
    assert "stopped" in history_texts.what_text(steered)


def test_values_of_an_entry_are_plain(run):
    entry, *_rest = run(1.1)
    assert history_entries.entry_of_values(entry.as_values()) == entry
    for broken in (None, {}, {"key": "a"}, {**entry.as_values(), "structures": [3]}, {**entry.as_values(), "new": 1}):
        assert history_entries.entry_of_values(broken) is None


def test_rename_pin_and_delete(found, run, scene):
    one, two, three = (run(scale, into_scene=False)[0] for scale in (1.0, 1.1, 0.9))
    found.settle()
    found.rename(two, "  the good one ")
    found.pin(two, True)
    kept = found.entries()[1]
    assert (kept.title, kept.pinned) == ("the good one", True)
    found.rename(kept, "")
    assert found.entries()[1].title == two.title
    parts = len(history_nodes(scene))
    found.delete(two)
    assert [entry.number for entry in found.entries()] == [1, 3]
    assert found.undo_target.key == one.key
    assert len(history_nodes(scene)) < parts - 1  # with what only it needed
    found.undo()
    with pytest.raises(VolumeError, match="gone"):
        found.restore(two)
    assert found.redo_target.key == three.key


# -------------------------------------------------------------------------------------------------------------- room


def test_the_oldest_that_are_not_pinned_make_room(found, run, monkeypatch):
    monkeypatch.setattr(history, "MOST_ENTRIES", 4)
    for index in range(4):
        run(1.0 + 0.02 * index, into_scene=False)
    found.pin(found.entries()[0], True)
    for index in range(3):
        run(0.9 + 0.02 * index, into_scene=False)
    assert [entry.number for entry in found.entries()] == [1, 5, 6, 7]
    found.restore(found.entries()[1])
    run(1.3, into_scene=False)
    assert [entry.number for entry in found.entries()] == [1, 6, 7, 8]
    found.settle()
    assert all(found.outcome_of(entry).labels for entry in found.entries())


def test_their_size_is_bounded(found, run, monkeypatch):
    run(1.0, into_scene=False)
    found.settle()
    one = found.size
    monkeypatch.setattr(history, "MOST_BYTES", 3 * one)
    for index in range(6):
        run(0.9 + 0.03 * index, into_scene=False)
        found.settle()
        assert found.size <= 3 * one
    assert found.current.number == 7
    assert len(found.entries()) >= 2


def test_refinements_of_one_pass_share_what_is_the_same(found, run, scene):
    run(1.0, refined=False, into_scene=False)
    found.settle()
    before = found.size
    run(1.1, into_scene=False)
    found.settle()
    added = found.size - before
    texts = [node.GetText() for node in history_nodes(scene) if node.GetText()]
    assert len(set(texts)) == len(texts)
    one = found.entries()[1]
    assert one.parts["first"] == found.entries()[0].parts["final"]
    assert added < found.size


# ---------------------------------------------------------------------------------------------------------- the scene


def test_it_is_nowhere_to_be_seen(found, run, scene, scan):
    run(1.0)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    found.settle()
    made = history_nodes(scene)
    assert made
    for node in made:
        assert node.GetHideFromEditors()
        assert not hierarchy.GetItemByDataNode(node)
    assert {node.GetClassName() for node in made} == {"vtkMRMLTextNode"}


@pytest.mark.parametrize("ending", ["mrb", "mrml"])
def test_it_is_saved_with_the_scene(found, run, scan, model, manifest, make_a_history, tmp_path, ending):
    """Twice over."""
    first, outcome, written = run(1.1)
    before = shown(written, scan)
    run(0.9)
    found.rename(first, "tight")
    found.pin(first, True)
    picture = found.picture_of(first).copy()
    found.settle()
    if ending == "mrml":  # as the dialog Save does with what is to be seen
        for class_name, suffix in (("ScalarVolume", "nrrd"), ("Segmentation", "seg.nrrd"), ("Transform", "h5")):
            for node in slicer.util.getNodesByClass(f"vtkMRML{class_name}Node"):
                slicer.util.saveNode(node, str(tmp_path / f"{node.GetID()}.{suffix}"))
    place = str(tmp_path / f"scene.{ending}")
    assert slicer.util.saveScene(place)
    for shown_then in (1, 0):
        slicer.mrmlScene.Clear(0)
        found.forget()
        assert history_nodes(slicer.mrmlScene) == []
        slicer.util.loadScene(place)
        loaded = slicer.util.getNode("Scan")
        again = make_a_history()
        again.follow(loaded, model)
        entries = again.entries()
        assert [(entry.title, entry.pinned) for entry in entries] == [("tight", True), ("Refined 2", False)]
        assert again.current.key == entries[shown_then].key
        np.testing.assert_array_equal(again.picture_of(entries[0]), picture)
        restored, nodes_again = again.restore(entries[0])
        assert restored.figures == outcome.figures
        assert_same(shown(nodes_again, loaded), before)
        assert slicer.util.saveScene(place)


def test_what_is_not_packed_yet_is_no_part_of_a_saved_scene(found, run, model, make_a_history, tmp_path):
    run(1.1)
    found.settle()
    run(0.9)
    place = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(place)
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(place)
    again = make_a_history()
    again.follow(slicer.util.getNode("Scan"), model)
    assert [entry.number for entry in again.entries()] == [1]
    again.restore(again.entries()[0])


def test_a_scene_that_another_module_saved_keeps_it(found, run, scan, model, make_a_history, tmp_path):
    """Slicer itself would make files of long texts; such ones are read, too, and brought back into the scene."""
    run(1.1)
    found.settle()
    for node in history_nodes(slicer.mrmlScene):
        node.SetForceCreateStorageNode(slicer.vtkMRMLTextNode.CreateStorageNodeAuto)
    place = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(place)
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(place)
    again = make_a_history()
    again.follow(slicer.util.getNode("Scan"), model)
    assert again.outcome_of(again.entries()[0]).figures
    assert [node for node in history_nodes(slicer.mrmlScene) if node.GetStorageNode() is not None] == []


def test_a_history_that_nobody_looks_at_stays_in_the_scene_too(
    found, run, scan, model, make_a_history, make_a_volume, tmp_path
):
    """A scene of two scans is loaded, packed into one file, and then saved without its data; one history is opened."""
    other = make_a_volume(np.zeros((26, 30, 32), np.float32), spacing=(2.0, 1.8, 2.2), name="Other")
    run(1.1)
    run(1.0, node=other)
    found.settle()
    before = sorted(node.GetText() or "" for node in history_nodes(slicer.mrmlScene))
    assert slicer.util.saveScene(str(tmp_path / "first.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "first.mrb"))
    again = make_a_history()
    again.follow(slicer.util.getNode("Scan"), model)
    assert slicer.util.saveScene(str(tmp_path / "second.mrb"))
    slicer.mrmlScene.SetURL(str(tmp_path / "third.mrml"))
    assert slicer.mrmlScene.Commit()
    written = (tmp_path / "third.mrml").read_text(encoding="utf-8")
    assert all(text in written for text in before)
    assert sorted(node.GetText() or "" for node in history_nodes(slicer.mrmlScene)) == before


def test_other_inputs_and_models_have_histories_of_their_own(found, run, scan, model, manifest, make_a_volume, scene):
    one, *_rest = run(1.1)
    other_scan = make_a_volume(np.zeros((26, 30, 32), np.float32), spacing=(2.0, 1.8, 2.2), name="Other")
    about = replace(manifest.about, name="other-balls")
    other_model = Model("other-balls", Path("absent"), replace(manifest, about=about))
    two, *_rest = run(1.0, node=other_scan)
    three, *_rest = run(0.9, chosen=other_model)
    assert [entry.key for entry in found.entries()] == [one.key]
    found.follow(other_scan, model)
    assert [entry.key for entry in found.entries()] == [two.key]
    found.follow(scan, other_model)
    assert [(entry.key, entry.number) for entry in found.entries()] == [(three.key, 1)]
    found.follow(None, model)
    assert found.entries() == []
    assert found.current is None
    found.settle()
    count = len(history_nodes(scene))
    scene.RemoveNode(other_scan)
    found.follow(scan, model)
    run(1.05)
    assert len(history_nodes(scene)) <= count  # those of a scan that is gone went


def test_nodes_of_the_user_are_never_touched(found, run, scene):
    mine = scene.AddNewNodeByClass("vtkMRMLTextNode", "Notes")
    mine.SetText("do not lose me")
    copied = None
    for index in range(3):
        run(1.0 + index / 20, into_scene=False)
        found.settle()
        copied = scene.AddNewNodeByClass("vtkMRMLTextNode", "copy")
    for entry in found.entries()[:2]:
        found.delete(entry)
    history_store.drop_orphans(scene)
    assert mine.GetText() == "do not lose me"
    assert nodes.in_scene(copied)


def test_a_damaged_entry_says_so_and_the_others_live(found, run, scene):
    first, *_rest = run(1.1)
    second, *_rest = run(0.9)
    found.settle()
    part = found.entries()[0].parts["final"]
    node = next(n for n in history_nodes(scene) if n.GetAttribute("AtlasISTN.HistoryKey") == part)
    node.SetText("cut off")
    with pytest.raises(VolumeError, match="damaged"):
        found.restore(first)
    assert found.current.key == second.key
    found.restore(second)


def test_a_result_that_cannot_be_packed_is_said_and_dropped(found, run):
    entry, outcome, _written = run(1.1)
    run(1.0)
    broken = outcome.final.displacement.array.copy()
    broken[0, 0, 0, 0] = np.nan
    c = outcome.final
    bad = Correspondence(
        c.outward, c.theta, c.displacement.with_array(broken), c.displacement_back, c.image_grid, c.atlas_grid
    )
    store = found._waiting[entry.key][0]
    found._waiting[entry.key] = (store, replace(outcome, final=bad))
    with pytest.raises(VolumeError, match="not finite"):
        found.settle()
    found.settle()
    assert [kept.number for kept in found.entries()] == [2]


# ---------------------------------------------------------------------------------------------------------- comparing


def test_two_are_compared(found, run, scan, scene):
    first, one, _written = run(1.0)
    second, two, written = run(1.15)
    before = ids(scene)
    rows = found.compare(second, first)
    assert [row.name for row in rows] == ["left ventricle", "right atrium"]
    for row in rows:
        a, b = (outcome.volumes["labels"].array == row.value for outcome in (two, one))
        assert row.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert 0 < row.dice < 1
        assert row.volumes[0] > row.volumes[1]
    drawn = nodes.find(scene, comparison.COMPARISON, scan, "two-balls")
    key = segments.segment_id(2)
    np.testing.assert_array_equal(
        slicer.util.arrayFromSegmentBinaryLabelmap(drawn, key, scan), one.volumes["labels"].array[0] == 2
    )
    display = drawn.GetDisplayNode()
    assert display.GetVisibility2DOutline()
    assert not display.GetVisibility2DFill()
    assert not display.GetVisibility3D()
    own, other = (np.array(n.GetSegmentation().GetSegment(key).GetColor()) for n in (written.segmentation, drawn))
    assert np.linalg.norm(own - other) > 0.7
    assert written.segmentation.GetDisplayNode().GetVisibility()
    found.compare(second, second)
    found.end_comparison()
    assert ids(scene) == before


def test_a_comparison_is_not_saved(found, run, tmp_path):
    first, *_rest = run(1.0)
    second, *_rest = run(1.1)
    found.compare(second, first)
    place = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(place)
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(place)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
    assert not [name for name in names if "comparison" in name]


@pytest.mark.parametrize("color", [(240, 178, 62), (0, 0, 255), (128, 128, 128), (255, 255, 255), (0, 0, 0)])
def test_outlines_stand_out_from_any_colour(color):
    other = np.array(comparison.other_color(color))
    assert np.abs(other - np.array(color)).sum() > 200
    assert other.max() == 255


# ---------------------------------------------------------------------------------------------------------- the picture


def test_the_picture_shows_the_structures_in_their_colours(run, scan, found):
    entry, outcome, _written = run(1.1)
    picture = found.picture_of(entry)
    assert picture.shape == (thumbnails.SIDE, thumbnails.SIDE, 3)
    for label in outcome.labels[1:]:
        drawn = (picture == np.array(label.color)).all(axis=-1)
        assert 30 < drawn.sum() < picture[..., 0].size / 8  # an outline, not an area
    grey = (picture[..., 0] == picture[..., 1]) & (picture[..., 1] == picture[..., 2])
    assert grey.mean() > 0.7
    assert picture[grey].std() > 20  # the scan


def test_a_picture_without_structures(scan):
    grid = frames.grid_of(scan)
    empty = Volume.from_array(np.zeros(grid.shape, np.uint8), grid)
    picture = thumbnails.thumbnail(scan, empty, host_results.LABELS)
    assert picture.std() > 10
