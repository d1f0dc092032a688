"""A result in the scene: in the right place for every geometry, once for each input and model, whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import slicer
import vtk
from AtlasISTNHost import frames, nodes, results, segments, surfaces, transforms, volumes
from host import atlas_cases as cases
from host.test_frames import grid_transform
from host.test_transforms import flat_case

from AtlasISTNLib.errors import GeometryError, WorkerError
from AtlasISTNLib.exchange import correspondence_to_files, volume_to_files
from AtlasISTNLib.volume import Volume

FLIP = cases.FLIP


@pytest.fixture(autouse=True)
def coarse_transforms(monkeypatch):
    """They are tested elsewhere, and slow."""
    monkeypatch.setattr(transforms, "MOST_NODES", 20_000)


@pytest.fixture(scope="module")
def the_surfaces():
    return surfaces.atlas_surfaces(cases.a_manifest(), cases.the_soft_labels())


@pytest.fixture
def write(the_surfaces):
    """A function that writes the perfect result for a scan."""

    def run(scan, model="two blobs", outcome=None, shapes=the_surfaces):
        return results.write_outcome(outcome or cases.outcome_of(scan), scan, cases.a_manifest(model), shapes)

    return run


def all_of(found):
    parts = [found.segmentation, found.prediction, found.one_pass, found.atlas_image]
    return [*parts, found.image_from_atlas, found.atlas_from_image, *found.surfaces.values()]


def hierarchy():
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def node_ids(scene):
    return {node.GetID() for node in nodes.all_nodes(scene)}


# ----------------------------------------------------------------------------------------------------------- geometry


def geometry(seed, scene):
    """Directions, spacing and parent of a scan; the first one is the identity's."""
    if seed == 0:
        return {"spacing": (2.5, 2.5, 2.5)}
    rng = np.random.default_rng(seed)
    mirror = np.diag([1.0, -1.0 if seed % 2 else 1.0, 1.0])
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = cases.rotation(rng), rng.uniform(-80, 80, 3)
    parent = None
    if seed % 3 == 0:
        parent = cases.linear(scene, motion)
    if seed % 3 == 1:
        parent = cases.linear(scene, motion, cases.linear(scene, cases.rotation(rng)))
    spacing = tuple(rng.permutation([1.9, 2.4, 3.3]))
    return {"directions": cases.rotation(rng) @ mirror, "spacing": spacing, "parent": parent}


def segment_at(node, key, world):
    """Whether world points (N, 3) lie in a segment: where the scene shows it, voxel by voxel."""
    local = frames.moved(world, node.GetParentTransformNode(), to_world=False)
    segment = node.GetSegmentation().GetSegment(key)
    image = segment.GetRepresentation("Binary labelmap")
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    back = np.linalg.inv(slicer.util.arrayFromVTKMatrix(matrix))
    index = np.rint(local @ back[:3, :3].T + back[:3, 3]).astype(int) - image.GetExtent()[::2]
    inside = ((index >= 0) & (index < image.GetDimensions())).all(axis=1)
    voxels = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    found = np.zeros(len(world), dtype=bool)
    found[inside] = voxels[tuple(index[inside][:, ::-1].T)] == segment.GetLabelValue()
    return found


@pytest.mark.parametrize("seed", range(11))
def test_segments_lie_on_the_patient_in_every_geometry(scene, write, seed):
    """The same bounds for all: no geometry is worse off than the identity's."""
    scan = cases.scan(scene, **geometry(seed, scene))
    found = write(scan)
    world = cases.PLACE @ FLIP + np.random.default_rng(0).uniform(-44, 44, (90_000, 3))
    truth = cases.true_labels(world)
    for value in (3, 7):
        there, true = segment_at(found.segmentation, segments.segment_id(value), world), truth == value
        assert 2 * (there & true).sum() / (there.sum() + true.sum()) > (0.93 if value == 3 else 0.90)
        assert np.abs(world[there].mean(axis=0) - world[true].mean(axis=0)).max() < 0.35
    bounds = np.zeros(6)
    found.segmentation.GetRASBounds(bounds)
    assert (bounds[::2] - 5 < world[truth > 0].min(axis=0)).all()
    assert (bounds[1::2] + 5 > world[truth > 0].max(axis=0)).all()


@pytest.mark.parametrize("seed", [0, 1, 3, 4])
def test_surfaces_lie_on_the_patient(scene, write, the_surfaces, seed):
    scan = cases.scan(scene, **geometry(seed, scene))
    found = write(scan)
    for value, node in found.surfaces.items():
        local = slicer.util.arrayFromModelPoints(node).astype(np.float64)
        world = frames.moved(local, scan.GetParentTransformNode())
        expected = cases.a_correspondence().image_from_atlas(the_surfaces[value].points) @ FLIP
        assert np.linalg.norm(world - expected, axis=1).max() < 1e-3
        assert node.GetParentTransformNode() is scan.GetParentTransformNode()


def test_a_bent_parent_carries_the_result_with_its_voxels(scene, write):
    scan = cases.scan(scene, spacing=(4.0, 4.0, 4.0), parent=grid_transform(scene))
    outcome = cases.outcome_of(scan)
    found = write(scan, outcome=outcome)
    assert found.segmentation.GetParentTransformNode() is scan.GetParentTransformNode()
    scan.SetAndObserveTransformNodeID(None)
    found.segmentation.SetAndObserveTransformNodeID(None)
    for value in (3, 7):
        key = segments.segment_id(value)
        there = slicer.util.arrayFromSegmentBinaryLabelmap(found.segmentation, key, scan) > 0
        np.testing.assert_array_equal(there, outcome.volumes["labels"].array[0] == value)


def test_a_scan_that_was_moved_meanwhile_keeps_its_result(scene, write, the_surfaces):
    """The engine worked on the old position; labels, surfaces and maps belong on the voxels."""
    parent = cases.linear(scene, cases.rotation(np.random.default_rng(1)))
    scan = cases.scan(scene, spacing=(5.0, 5.0, 5.0), parent=parent)
    outcome = cases.outcome_of(scan)
    before = write(scan, outcome=outcome)
    points = {value: slicer.util.arrayFromModelPoints(node).copy() for value, node in before.surfaces.items()}
    parent.SetMatrixTransformToParent(frames.vtk_matrix(np.diag([-1.0, 1.0, -1.0, 1.0])))
    after = write(scan, outcome=outcome)
    assert after.segmentation is before.segmentation
    for value, node in after.surfaces.items():
        np.testing.assert_allclose(slicer.util.arrayFromModelPoints(node), points[value], atol=1e-4)


@pytest.mark.parametrize("deep", [False, True])
def test_a_scan_under_its_own_result_is_refused(scene, write, deep):
    """To see the patient in atlas space is fine; to segment it from there would make the map from itself."""
    scan = cases.scan(scene, spacing=(5.0, 5.0, 5.0))
    outcome = cases.outcome_of(scan)
    found = write(scan, outcome=outcome)
    above = cases.linear(scene, np.eye(3), found.atlas_from_image) if deep else found.atlas_from_image
    scan.SetAndObserveTransformNodeID(above.GetID())
    for act in (lambda: frames.volume_from_node(scan), lambda: write(scan, outcome=outcome)):
        with pytest.raises(GeometryError, match="Scan atlas from image") as caught:
            act()
        assert "take the volume out" in caught.value.hint
    assert frames.grid_of(scan) is not None  # to measure it is fine
    other = cases.scan(scene, spacing=(5.0, 5.0, 5.0), name="Other")
    other.SetAndObserveTransformNodeID(found.atlas_from_image.GetID())
    assert frames.volume_from_node(other) is not None


def test_a_scan_with_other_voxels_gets_no_result(scene, write):
    scan = cases.scan(scene, spacing=(5.0, 5.0, 5.0))
    outcome = cases.outcome_of(scan)
    before = node_ids(scene)
    slicer.util.updateVolumeFromArray(scan, np.zeros((4, 4, 4), dtype=np.float32))
    with pytest.raises(GeometryError, match="Scan"):
        write(scan, outcome=outcome)
    assert node_ids(scene) == before


def test_the_atlas_image_lies_on_the_scans_voxels(scene, write):
    scan = cases.scan(scene, **geometry(3, scene))
    outcome = cases.outcome_of(scan)
    node = write(scan, outcome=outcome).atlas_image
    given, shown = outcome.volumes["atlas_image"].array[0], slicer.util.arrayFromVolume(node)
    there = given != 0
    np.testing.assert_array_equal(shown[there], given[there])
    np.testing.assert_allclose(frames.ijk_to_ras(node), frames.ijk_to_ras(scan))
    display = node.GetDisplayNode()
    assert display.GetApplyThreshold()  # the scan is not veiled where there is no atlas
    assert shown[~there].max() < display.GetLowerThreshold() < shown[there].min()
    inside = outcome.volumes["atlas_image"].array[outcome.volumes["atlas_image"].array != 0]
    assert not display.GetAutoWindowLevel()
    assert display.GetWindowLevelMin() == pytest.approx(np.quantile(inside, 0.01), abs=0.05)
    assert display.GetWindowLevelMax() == pytest.approx(np.quantile(inside, 0.995), abs=0.05)


def test_a_single_slice_has_all_but_surfaces(scene):
    """A 2D model's result on an oblique slice: the labels on its voxels, the maps in its plane."""
    c, scan = flat_case(cases.rotation(np.random.default_rng(4)))
    grid = frames.grid_of(scan)
    array = np.zeros((1, *grid.shape), dtype=np.uint8)
    array[0, 0, 12:25, 10:30] = 3
    labels = Volume(array, grid)
    images = dict.fromkeys(("labels", "one_pass", "prediction"), labels)
    images["atlas_image"] = Volume(array.astype(np.float32), grid)
    outcome = results.Outcome("flat", cases.LABELS, images, c, c, {}, None, False)
    found = results.write_outcome(outcome, scan, cases.a_manifest(), {})
    there = slicer.util.arrayFromSegmentBinaryLabelmap(found.segmentation, "AtlasISTN_3", scan)
    np.testing.assert_array_equal(there > 0, array[0] == 3)
    assert found.surfaces == {}
    assert not results.is_refined(found)
    shown = slicer.util.arrayFromVolume(found.atlas_image)
    np.testing.assert_array_equal(shown[array[0] > 0], array[0][array[0] > 0])
    center = np.array(c.image_grid.center)[np.newaxis]
    atlas = frames.through(found.image_from_atlas.GetTransformFromParent(), center @ FLIP) @ FLIP
    np.testing.assert_allclose(atlas, c.atlas_from_image(center), atol=0.1)


# ---------------------------------------------------------------------------------------------------------- ownership


@pytest.fixture
def a_scan(scene):
    return cases.scan(scene, spacing=(5.0, 6.0, 5.5))


def test_a_second_run_makes_no_new_nodes(scene, a_scan, write):
    first = write(a_scan)
    before = node_ids(scene)
    second = write(a_scan)
    assert all_of(second) == all_of(first)
    assert node_ids(scene) == before
    assert second.folder_item == first.folder_item


def test_two_inputs_and_two_models_have_four_sets(scene, a_scan, write):
    other = cases.scan(scene, spacing=(6.0, 6.0, 6.0), name="Other")
    sets = [write(scan, model) for scan in (a_scan, other) for model in ("two blobs", "three blobs")]
    ids = [node.GetID() for found in sets for node in all_of(found)]
    assert len(ids) == len(set(ids)) == 4 * 8
    names = [node.GetName() for found in sets for node in all_of(found)]
    assert len(set(names)) == len(names)
    assert len({found.folder_item for found in sets}) == 4
    assert len({hierarchy().GetItemName(found.folder_item) for found in sets}) == 4
    for scan, model, found in zip((a_scan, a_scan, other, other), ("two blobs", "three blobs") * 2, sets, strict=True):
        assert results.find_nodes(scan, model).segmentation is found.segmentation


def test_a_users_node_of_the_same_name_is_not_touched(scene, a_scan, write):
    name = write(a_scan).segmentation.GetName()
    scene.RemoveNode(results.find_nodes(a_scan, "two blobs").segmentation)
    mine = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    modified = mine.GetMTime()
    found = write(a_scan)
    assert found.segmentation is not mine
    assert mine.GetMTime() == modified
    assert mine.GetName() == name
    assert found.segmentation.GetName() != name


def test_a_copy_that_the_user_made_is_the_users(scene, a_scan, write):
    """Copies of every kind have our attributes too."""
    found = write(a_scan)
    item = slicer.modules.subjecthierarchy.logic().CloneSubjectHierarchyItem(
        hierarchy(), hierarchy().GetItemByDataNode(found.segmentation)
    )
    clone = hierarchy().GetItemDataNode(item)
    plain = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    plain.Copy(found.segmentation)
    for copy in (clone, plain):
        copy.GetSegmentation().GetNthSegment(0).SetName("kept")
        assert not nodes.is_ours(copy)
    scene.RemoveNode(found.segmentation)
    again = write(a_scan).segmentation
    assert again not in (clone, plain)
    assert [copy.GetSegmentation().GetNthSegment(0).GetName() for copy in (clone, plain)] == ["kept", "kept"]


@pytest.mark.parametrize("which", range(8))
def test_a_node_that_was_removed_is_made_again(scene, a_scan, write, which):
    first = all_of(write(a_scan))
    scene.RemoveNode(first[which])
    second = all_of(write(a_scan))
    assert second[which] not in first
    assert [node for i, node in enumerate(second) if i != which] == [n for i, n in enumerate(first) if i != which]


def test_the_users_names_colours_and_windows_stay(scene, a_scan, write):
    found = write(a_scan)
    found.segmentation.SetName("Heart")
    found.surfaces[3].SetName("LV")
    found.surfaces[3].GetDisplayNode().SetColor(0.5, 0.6, 0.7)
    found.surfaces[3].GetDisplayNode().SetVisibility2D(True)
    found.atlas_image.GetDisplayNode().SetWindowLevel(7.0, 3.0)
    found.prediction.GetDisplayNode().SetVisibility(True)
    label = replace(cases.LABELS[2], color=(9, 8, 7))
    outcome = replace(cases.outcome_of(a_scan), labels=(*cases.LABELS[:2], label))
    write(a_scan, outcome=outcome)
    assert found.segmentation.GetName() == "Heart"
    assert found.surfaces[3].GetName() == "LV"
    np.testing.assert_allclose(found.surfaces[3].GetDisplayNode().GetColor(), (0.5, 0.6, 0.7))
    assert found.surfaces[3].GetDisplayNode().GetVisibility2D()
    np.testing.assert_allclose(found.surfaces[7].GetDisplayNode().GetColor(), np.array([9, 8, 7]) / 255)
    assert not found.surfaces[7].GetDisplayNode().GetVisibility2D()
    assert found.atlas_image.GetDisplayNode().GetWindow() == 7.0
    assert found.prediction.GetDisplayNode().GetVisibility()


def test_the_folder_lies_beside_the_input(scene, a_scan, write):
    study = hierarchy().CreateStudyItem(hierarchy().CreateSubjectItem(hierarchy().GetSceneItemID(), "P"), "S")
    hierarchy().SetItemParent(hierarchy().GetItemByDataNode(a_scan), study)
    found = write(a_scan)
    assert hierarchy().GetItemParent(found.folder_item) == study
    assert hierarchy().GetItemName(found.folder_item) == "Scan – Atlas-ISTN"
    for node in all_of(found):
        assert hierarchy().GetItemParent(hierarchy().GetItemByDataNode(node)) == found.folder_item
    # What the user moved elsewhere stays there.
    hierarchy().SetItemParent(hierarchy().GetItemByDataNode(found.surfaces[3]), study)
    write(a_scan)
    assert hierarchy().GetItemParent(hierarchy().GetItemByDataNode(found.surfaces[3])) == study


@pytest.mark.parametrize("into", ["an empty scene", "another scene"])
def test_a_saved_scene_goes_on_where_it_was(scene, a_scan, write, tmp_path, into):
    outcome = replace(cases.outcome_of(a_scan), refined=True)
    found = write(a_scan, outcome=outcome)
    segments_before = slicer.util.arrayFromSegmentBinaryLabelmap(found.segmentation, "AtlasISTN_7", a_scan)
    save(scene, tmp_path)
    if into == "an empty scene":
        scene.Clear(0)
        scene.SetURL(str(tmp_path / "scene.mrml"))
        assert scene.Connect()
    else:
        scene.SetURL(str(tmp_path / "scene.mrml"))
        assert scene.Import()  # ours of the first scene are there still, and IDs are given anew
    scan = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    scan = [node for node in scan if node.GetName().startswith("Scan") and not nodes.is_ours(node)][-1]
    loaded = results.find_nodes(scan, "two blobs")
    assert loaded is not None
    assert results.is_refined(loaded)
    assert len(all_of(loaded)) == 8
    assert None not in all_of(loaded)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(loaded.segmentation, "AtlasISTN_7", scan)
    np.testing.assert_array_equal(array, segments_before)
    before = node_ids(scene)
    again = write(scan, outcome=outcome)
    assert all_of(again) == all_of(loaded)
    assert node_ids(scene) == before
    assert again.folder_item == loaded.folder_item != 0


def save(scene, folder):
    for node in nodes.all_nodes(scene):
        if not node.IsA("vtkMRMLStorableNode") or not node.GetSaveWithScene() or node.IsA("vtkMRMLColorNode"):
            continue
        ending = {
            "vtkMRMLSegmentationNode": "seg.nrrd",
            "vtkMRMLScalarVolumeNode": "nrrd",
            "vtkMRMLModelNode": "vtk",
            "vtkMRMLTransformNode": "h5",
        }.get(node.GetClassName())
        if ending is None:
            continue
        node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        storage.SetFileName(str(folder / f"{node.GetID()}.{ending}"))
        assert storage.WriteData(node)
    scene.SetRootDirectory(str(folder))
    assert scene.Commit(str(folder / "scene.mrml"))


def test_surfaces_that_no_longer_fit_leave_the_scene(scene, a_scan, write):
    """A run without surfaces would leave them where the anatomy was."""
    first = write(a_scan)
    displays = [node.GetDisplayNode() for node in first.surfaces.values()]
    second = write(a_scan, shapes=None)
    assert second.surfaces == {}
    assert not any(nodes.in_scene(node) for node in (*first.surfaces.values(), *displays))


# -------------------------------------------------------------------------------------------------- whole or not at all


FAILING = {
    "atlas image": (volumes, "write_atlas_image"),
    "transforms": (transforms, "place_transforms"),
    "surfaces": (surfaces, "_color"),
    "segments": (segments, "_fill"),
}


@pytest.mark.parametrize("where", FAILING)
def test_a_first_run_that_fails_leaves_nothing(scene, a_scan, write, monkeypatch, where):
    before, items = node_ids(scene), hierarchy().GetNumberOfItems()
    fail(monkeypatch, *FAILING[where])
    with pytest.raises(RuntimeError, match="no room"):
        write(a_scan)
    assert node_ids(scene) == before
    assert hierarchy().GetNumberOfItems() == items


@pytest.mark.parametrize("where", FAILING)
def test_a_later_run_that_fails_leaves_the_earlier_result(scene, a_scan, write, monkeypatch, where):
    outcome = cases.outcome_of(a_scan)
    found = write(a_scan, outcome=outcome)
    core = found.segmentation.GetSegmentation().GetSegment("AtlasISTN_7")
    found.segmentation.GetSegmentation().RemoveSegment("AtlasISTN_3")
    core.SetName("mine")
    state = state_of(scene, found, a_scan)
    other = cases.a_correspondence(seed=5)
    changed = {name: volume.with_array(np.roll(volume.array, 2, axis=2)) for name, volume in outcome.volumes.items()}
    new = replace(outcome, volumes=changed, final=other, one_pass=other, refined=False)
    fail(monkeypatch, *FAILING[where])
    with pytest.raises(RuntimeError, match="no room"):
        write(a_scan, outcome=new)
    assert state_of(scene, found, a_scan) == state
    monkeypatch.undo()
    monkeypatch.setattr(transforms, "MOST_NODES", 20_000)
    assert write(a_scan, outcome=new).segmentation is found.segmentation
    assert state_of(scene, found, a_scan) != state


def test_a_failure_after_an_edited_segmentation_was_set_aside_gives_it_back(scene, a_scan, write, monkeypatch):
    found = write(a_scan)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(found.segmentation, "AtlasISTN_7", a_scan)
    array[:3] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, found.segmentation, "AtlasISTN_7", a_scan)
    state = state_of(scene, found, a_scan)
    fail(monkeypatch, *FAILING["surfaces"])
    with pytest.raises(RuntimeError, match="no room"):
        write(a_scan)
    assert state_of(scene, found, a_scan) == state
    assert results.find_nodes(a_scan, "two blobs").segmentation is found.segmentation


def fail(monkeypatch, module, name):
    def refuse(*_arguments, **_keywords):
        raise RuntimeError("no room")

    monkeypatch.setattr(module, name, refuse)


def state_of(scene, found, scan):
    """What a user could see of a result."""
    segmentation = found.segmentation.GetSegmentation()
    keys = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    voxels = [slicer.util.arrayFromSegmentBinaryLabelmap(found.segmentation, key, scan).tobytes() for key in keys]
    points = cases.points_in_body(20)
    return [
        node_ids(scene),
        [node.GetName() for node in all_of(found)],
        [(key, segmentation.GetSegment(key).GetName(), segmentation.GetSegment(key).GetColor()) for key in keys],
        voxels,
        segments.edited(found.segmentation),
        slicer.util.arrayFromVolume(found.atlas_image).tobytes(),
        frames.through(found.image_from_atlas.GetTransformFromParent(), points).tolist(),
        frames.through(found.atlas_from_image.GetTransformFromParent(), points).tolist(),
        [slicer.util.arrayFromModelPoints(node).tobytes() for node in found.surfaces.values()],
        [found.segmentation.GetAttribute(name) for name in sorted(found.segmentation.GetAttributeNames())],
    ]


def test_an_update_can_be_undone_where_slicer_keeps_undo(scene, a_scan, write):
    scene.SetUndoOn()
    found = write(a_scan)
    found.segmentation.SetUndoEnabled(True)
    before = scene.GetNumberOfUndoLevels()
    write(a_scan)
    assert scene.GetNumberOfUndoLevels() == before + 1


# ----------------------------------------------------------------------------------------------------------- the event


@pytest.fixture
def an_event(a_scan, tmp_path):
    outcome, folder = cases.outcome_of(a_scan), tmp_path / "job"
    folder.mkdir()
    maps = {"one_pass": outcome.one_pass, "final": outcome.final}
    event = {
        "id": 1,
        "event": "result",
        "case": "abc",
        "folder": str(folder),
        "volumes": {name: volume_to_files(volume, folder, name) for name, volume in outcome.volumes.items()},
        "correspondence": {name: correspondence_to_files(c, folder, name) for name, c in maps.items()},
        "figures": {"structures": []},
        "trace": None,
        "labels": [asdict(label) for label in outcome.labels],
        "refined": True,
    }
    return json.loads(json.dumps(event))


def test_an_event_becomes_the_outcome_and_its_files_can_go(a_scan, an_event, tmp_path, write):
    outcome = results.read_outcome(an_event)
    for path in (tmp_path / "job").iterdir():
        path.unlink()
    expected = cases.outcome_of(a_scan)
    assert outcome.labels == expected.labels
    assert (outcome.case, outcome.refined, outcome.trace) == ("abc", True, None)
    for name, volume in expected.volumes.items():
        np.testing.assert_array_equal(outcome.volumes[name].array, volume.array)
    points = cases.points_in_body(50) @ FLIP
    there, expected_there = (o.final.atlas_from_image(points) for o in (outcome, expected))
    np.testing.assert_allclose(there, expected_there, atol=1e-4)
    assert write(a_scan, outcome=outcome).segmentation is not None


@pytest.mark.parametrize("spoil", ["labels", "volumes", "correspondence", "folder", "figures", "color"])
def test_an_event_that_makes_no_sense_is_refused(an_event, spoil):
    if spoil == "color":
        an_event["labels"][1]["color"] = 3
    elif spoil == "volumes":
        an_event["volumes"]["labels"]["array"] = "../../etc/passwd"
    else:
        del an_event[spoil]
    with pytest.raises(WorkerError):
        results.read_outcome(an_event)
