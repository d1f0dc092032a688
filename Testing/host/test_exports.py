"""Exports: files that other programs read are where the scene says, and the user's files are safe."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import host_results
import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from AtlasISTNHost import export_files, exports, frames, measures, results, review, segments
from standin import mrml
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from AtlasISTNLib.errors import OutputError
from AtlasISTNLib.geometry import transform_points

FLIP = np.array([-1.0, -1.0, 1.0])
ALL = exports.Choices(segmentation=True, labelmap=True, surfaces="obj", transforms="nrrd")


def turned(*degrees: float) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


def rigid(scene: Any) -> Any:
    matrix = np.eye(4)
    matrix[:3, :3] = turned(10, -15, 25)
    matrix[:3, 3] = (40.0, -12.0, 300.0)
    return linear(scene, matrix)


def large(scene: Any) -> Any:
    """A magnification, as of a scan whose voxel size was wrong."""
    return linear(scene, np.diag([1.25, 1.25, 1.25, 1.0]))


def linear(scene: Any, matrix: np.ndarray) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Parent")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def bent(scene: Any) -> Any:
    """A smooth displacement of up to 4 mm, stored as from-parent."""
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Bent")
    n, step, start = 24, 12.0, np.array([-110.0, -140.0, -120.0])
    k, j, i = np.meshgrid(*(np.arange(n),) * 3, indexing="ij")
    waves = 4 * np.stack([np.sin(j / 5), np.cos(k / 6), np.sin(i / 7)], axis=-1)
    image = vtk.vtkImageData()
    image.SetDimensions(n, n, n)
    image.SetSpacing(step, step, step)
    image.SetOrigin(start)
    image.GetPointData().SetScalars(numpy_to_vtk(waves.reshape(-1, 3), deep=True))
    grid = slicer.vtkOrientedGridTransform()
    grid.SetDisplacementGridData(image)
    node.SetAndObserveTransformFromParent(grid)
    return node


PARENTS = {"none": None, "rigid": rigid, "large": large, "bent": bent}


@pytest.fixture
def make_a_case(scene: Any, make_a_volume: Any) -> Any:
    def make(parent: str = "none", directions: Any = None, name: str = "CT heart") -> host_results.Case:
        node = make_a_volume(
            np.zeros((26, 30, 32), np.float32), spacing=(2.0, 1.8, 2.2), directions=directions, name=name
        )
        if PARENTS[parent] is not None:
            node.SetAndObserveTransformNodeID(PARENTS[parent](scene).GetID())
        return host_results.case(node)

    return make


@pytest.fixture
def a_case(make_a_case: Any) -> host_results.Case:
    return make_a_case()


def write_all(case: host_results.Case, folder: Path, choices: exports.Choices = ALL) -> dict[str, Path]:
    """The files by the part of their names after the input's."""
    planned = exports.plan(case.nodes, folder, choices)
    written = exports.write(planned)
    assert sorted(folder.iterdir()) == sorted(written)
    return {path.name.removeprefix("CT heart-"): path for path in written}


def voxels_in_world(node: Any) -> np.ndarray:
    """LPS world positions of all voxels, (K, J, I, 3)."""
    shape = slicer.util.arrayFromVolume(node).shape
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)[..., ::-1]
    local = transform_points(frames.ijk_to_ras(node), index.reshape(-1, 3))
    return (frames.moved(local, node.GetParentTransformNode()) * FLIP).reshape(*shape, 3)


def labels_at(path: Path, points: np.ndarray) -> np.ndarray:
    """Values of an image file at LPS points (N, 3); 0 beyond it."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    index = np.array([image.TransformPhysicalPointToIndex(point.tolist()) for point in points])
    inside = ((index >= 0) & (index < image.GetSize())).all(axis=1)
    found = np.zeros(len(points), array.dtype)
    found[inside] = array[tuple(index[inside, ::-1].T)]
    return found


oblique = pytest.mark.parametrize("directions", [np.eye(3), turned(20, 30, -10)], ids=["axial", "oblique"])


# --------------------------------------------------------------------------------------------- what other programs read


@oblique
@pytest.mark.parametrize("parent", ["none", "rigid", "large"])
def test_label_map_and_segmentation_lie_in_the_world(
    make_a_case: Any, tmp_path: Path, parent: str, directions: np.ndarray
) -> None:
    case = make_a_case(parent, directions)
    files = write_all(case, tmp_path / "out", exports.Choices(segmentation=True, labelmap=True))
    expected = case.outcome.volumes["labels"].array[0]
    world = voxels_in_world(case.input_node)
    rng = np.random.default_rng(0)
    place = [rng.integers(0, n, 400) for n in expected.shape]
    inner = np.argwhere(expected > 0)[::5].T
    place = tuple(np.concatenate([a, b]) for a, b in zip(place, inner, strict=True))
    assert set(np.unique(expected[place])) == {0, 2, 5}
    assert (labels_at(files["labels.nii.gz"], world[place]) == expected[place]).all()
    assert (labels_at(files["segmentation.seg.nrrd"], world[place]) == expected[place]).all()
    image = sitk.ReadImage(str(files["labels.nii.gz"]))
    assert image.GetSize() == expected.shape[::-1]
    assert np.array(image.TransformIndexToPhysicalPoint((31, 0, 25))) == pytest.approx(world[25, 0, 31], abs=1e-3)


def test_a_segmentation_is_loaded_as_it_was(scene: Any, make_a_case: Any, tmp_path: Path) -> None:
    case = make_a_case("rigid")
    path = write_all(case, tmp_path / "out")["segmentation.seg.nrrd"]
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Loaded")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    old, new = case.nodes.segmentation.GetSegmentation(), node.GetSegmentation()
    for value in (2, 5):
        a, b = (s.GetSegment(segments.segment_id(value)) for s in (old, new))
        assert a.GetName() == b.GetName()
        assert a.GetColor() == pytest.approx(b.GetColor(), abs=1e-5)
        assert tag(a) == tag(b)
    bounds = [np.zeros(6), np.zeros(6)]
    case.nodes.segmentation.GetRASBounds(bounds[0])
    node.GetRASBounds(bounds[1])
    # Bounds of a turned box are those of its corners.
    assert bounds[0] == pytest.approx(bounds[1], abs=2.5)
    # The geometry that the Segment Editor and DICOM export go by is that of the scan, in the world.
    text = new.GetConversionParameter(slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName())
    image = slicer.vtkOrientedImageData()
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    corner = np.array(matrix.MultiplyPoint((31.0, 29.0, 25.0, 1.0))[:3]) * FLIP
    assert corner == pytest.approx(voxels_in_world(case.input_node)[25, 29, 31], abs=1e-3)
    assert image.GetExtent() == (0, 31, 0, 29, 0, 25)


def tag(segment: Any) -> str:
    value = vtk.reference("")
    segment.GetTag(segment.GetTerminologyEntryTagName(), value)
    return str(value)


def test_under_a_bent_transform_voxels_stay_the_scans_own(make_a_case: Any, tmp_path: Path) -> None:
    case = make_a_case("bent")
    planned = exports.plan(case.nodes, tmp_path, exports.Choices(segmentation=True, labelmap=True))
    assert any("not linear" in note for note in planned.notes)
    path = exports.write(planned)[1]
    image = sitk.ReadImage(str(path))
    local = frames.ijk_to_ras(case.input_node)
    assert np.array(image.TransformIndexToPhysicalPoint((0, 0, 0))) == pytest.approx(local[:3, 3] * FLIP, abs=1e-3)
    assert (sitk.GetArrayFromImage(image) == case.outcome.volumes["labels"].array[0]).all()


def read_mesh(path: Path) -> np.ndarray:
    reader = {".obj": vtk.vtkOBJReader, ".stl": vtk.vtkSTLReader, ".vtk": vtk.vtkPolyDataReader}[path.suffix]()
    reader.SetFileName(str(path))
    reader.Update()
    return vtk_to_numpy(reader.GetOutput().GetPoints().GetData())


@pytest.mark.parametrize("parent", ["none", "rigid", "bent"])
@pytest.mark.parametrize("ending", exports.SURFACE_FORMATS)
def test_surfaces_are_in_the_world(make_a_case: Any, tmp_path: Path, parent: str, ending: str) -> None:
    case = make_a_case(parent)
    files = write_all(case, tmp_path / "out", exports.Choices(segmentation=False, surfaces=ending))
    assert set(files) == {f"left ventricle.{ending}", f"right atrium.{ending}"}
    node = case.nodes.surfaces[5]
    local = vtk_to_numpy(node.GetPolyData().GetPoints().GetData()).astype(float)
    world = frames.moved(local, case.input_node.GetParentTransformNode()) * FLIP
    points = read_mesh(files[f"right atrium.{ending}"])
    if ending == "stl":  # keeps triangles only
        nearest = np.linalg.norm(points[:, None] - world[None], axis=-1).min(axis=1)
        assert nearest.max() < 1e-3
        assert len(points) == len(world)
    else:  # vertex for vertex
        assert points == pytest.approx(world, abs=2e-3)
    assert b"LPS" in files[f"right atrium.{ending}"].read_bytes()[:200]


def read_transform(path: Path) -> Any:
    if path.suffix == ".h5":
        return sitk.ReadTransform(str(path))
    return sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkVectorFloat64))


def anatomy(case: host_results.Case) -> tuple[np.ndarray, np.ndarray]:
    """Atlas points in the structures, LPS mm, and where they lie in the patient's world, LPS mm."""
    rng = np.random.default_rng(1)
    atlas = np.add(host_results.ATLAS_MIDDLE, rng.uniform(-14, 14, (60, 3)))
    frame = frames.processing_frame(case.input_node)
    local = frame.to_local(case.outcome.final.image_from_atlas(atlas))
    return atlas, frames.moved(local, case.input_node.GetParentTransformNode()) * FLIP


@pytest.mark.parametrize("ending", exports.TRANSFORM_FORMATS)
@pytest.mark.parametrize("parent", list(PARENTS))
def test_transforms_take_points_where_their_names_say(
    make_a_case: Any, tmp_path: Path, parent: str, ending: str
) -> None:
    case = make_a_case(parent, turned(20, 30, -10))
    files = write_all(case, tmp_path / "out", exports.Choices(segmentation=False, transforms=ending))
    atlas, world = anatomy(case)
    to_image = read_transform(files[f"image-from-atlas.{ending}"])
    to_atlas = read_transform(files[f"atlas-from-image.{ending}"])
    limit = 0.3 if parent == "bent" else 0.1
    found = np.array([to_image.TransformPoint(point) for point in atlas.tolist()])
    assert np.linalg.norm(found - world, axis=1).max() < limit
    found = np.array([to_atlas.TransformPoint(point) for point in world.tolist()])
    assert np.linalg.norm(found - atlas, axis=1).max() < limit


@pytest.mark.parametrize("parent", ["none", "rigid"])
@pytest.mark.parametrize(
    ("ending", "holder"), [("nrrd", "image-from-atlas"), ("h5", "atlas-from-image")], ids=["nrrd", "h5"]
)
def test_slicer_loads_transforms_as_the_notes_say(
    scene: Any, make_a_case: Any, tmp_path: Path, parent: str, ending: str, holder: str
) -> None:
    case = make_a_case(parent)
    choices = exports.Choices(segmentation=False, transforms=ending)
    planned = exports.plan(case.nodes, tmp_path, choices)
    assert any("put the atlas under atlas-from-image" in note for note in planned.notes) == (ending == "h5")
    files = {path.stem.removeprefix("CT heart-"): path for path in exports.write(planned)}
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Loaded")
    storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(str(files[holder]))
    assert storage.ReadData(node)
    # The atlas under this node lies on the patient.
    atlas, world = anatomy(case)
    assert np.linalg.norm(frames.moved(atlas * FLIP, node) - world * FLIP, axis=1).max() < 0.2


def test_users_segments_and_names_are_exported_too(scene: Any, a_case: host_results.Case, tmp_path: Path) -> None:
    node = a_case.nodes.segmentation
    node.GetSegmentation().GetSegment(segments.segment_id(5)).SetName('RA: "mine" <1/2>')
    added = node.GetSegmentation().AddEmptySegment("", "Lesion")
    mask = np.zeros(a_case.outcome.volumes["labels"].grid.shape, np.uint8)
    mask[0:2, 0:3, 0:4] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, added, a_case.input_node)
    planned = exports.plan(a_case.nodes, tmp_path, exports.Choices(labelmap=True, surfaces="stl"))
    assert any("Lesion = 6" in note for note in planned.notes)
    files = exports.write(planned)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "CT heart-labels.nii.gz")))
    expected = np.where(mask > 0, 6, a_case.outcome.volumes["labels"].array[0])
    assert (array == expected).all()
    assert tmp_path / "CT heart-RA- -mine- -1-2.stl" in files
    header = sitk.ReadImage(str(tmp_path / "CT heart-segmentation.seg.nrrd"))
    names = {header.GetMetaData(key) for key in header.GetMetaDataKeys() if key.endswith("_Name")}
    assert "Lesion" in names


def test_exporting_changes_nothing_in_the_scene(make_a_case: Any, scene: Any, tmp_path: Path) -> None:
    case = make_a_case("rigid")
    before = scene.GetNumberOfNodes(), case.nodes.segmentation.GetSegmentation().GetMTime()
    parents = [n.GetTransformNodeID() for n in (case.nodes.segmentation, *case.nodes.surfaces.values())]
    write_all(case, tmp_path / "out")
    assert before == (scene.GetNumberOfNodes(), case.nodes.segmentation.GetSegmentation().GetMTime())
    assert parents == [n.GetTransformNodeID() for n in (case.nodes.segmentation, *case.nodes.surfaces.values())]
    assert not segments.edited(case.nodes.segmentation)


def test_a_saved_scene_is_looked_at_and_exported_again(scene: Any, make_a_case: Any, tmp_path: Path) -> None:
    case = make_a_case("rigid")
    table = measures.measure(case.outcome, "refined")
    measures.write_table(table, case.nodes)
    palette = review.show_jacobian(case.nodes, case.input_node, case.outcome, True).GetDisplayNode()
    limits = palette.GetWindowLevelMin(), palette.GetWindowLevelMax()
    atlas, world = anatomy(case)
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    loaded = mrml.make_scene()
    assert loaded.ReadFromMRB(str(tmp_path / "scene.mrb"), True)
    volume = loaded.GetFirstNodeByName("CT heart")
    found = results.find_nodes(volume, "two-balls")
    assert measures.read_table(found) == (table.columns, table.cells, table.text)
    display = review.show_jacobian(found, volume, None, True).GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx(limits, abs=1e-3)
    assert display.GetColorNode().GetNumberOfColors() == 256
    exports.write(exports.plan(found, tmp_path, exports.Choices(segmentation=False, transforms="nrrd")))
    to_image = read_transform(tmp_path / "CT heart-image-from-atlas.nrrd")
    moved = np.array([to_image.TransformPoint(point) for point in atlas.tolist()])
    assert np.linalg.norm(moved - world, axis=1).max() < 0.1


def test_a_segmentation_can_become_dicom_seg(make_a_case: Any) -> None:
    """What Slicer's DICOM segmentation export asks for, as far as a scene shows it."""
    case = make_a_case("rigid")
    node = case.nodes.segmentation
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is case.input_node
    converter = slicer.vtkSegmentationConverter
    assert node.GetSegmentation().GetSourceRepresentationName() == (
        converter.GetSegmentationBinaryLabelmapRepresentationName()
    )
    assert node.GetSegmentation().GetConversionParameter(converter.GetReferenceImageGeometryParameterName())
    for label in host_results.LABELS[1:]:
        segment = node.GetSegmentation().GetSegment(segments.segment_id(label.value))
        entry = slicer.vtkSlicerTerminologyEntry()
        assert slicer.modules.terminologies.logic().DeserializeTerminologyEntry(tag(segment), entry)
        category, kind = entry.GetCategoryObject(), entry.GetTypeObject()
        assert (category.GetCodingSchemeDesignator(), category.GetCodeValue()) == ("SCT", "123037004")
        assert (kind.GetCodingSchemeDesignator(), kind.GetCodeValue()) == ("SCT", label.snomed_code)
        assert kind.GetCodeMeaning() == label.snomed_meaning


# ---------------------------------------------------------------------------------------------------- the user's files


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_nothing_is_replaced_without_being_asked_for(a_case: host_results.Case, tmp_path: Path) -> None:
    (tmp_path / "CT heart-labels.nii.gz").write_text("mine")
    (tmp_path / "notes.txt").write_text("keep")
    planned = exports.plan(a_case.nodes, tmp_path, ALL)
    assert planned.existing == (tmp_path / "CT heart-labels.nii.gz",)
    before = content(tmp_path)
    with pytest.raises(OutputError, match="there already"):
        exports.write(planned)
    assert content(tmp_path) == before
    exports.write(planned, overwrite=True)
    after = content(tmp_path)
    assert after["CT heart-labels.nii.gz"] != b"mine"
    assert after["notes.txt"] == b"keep"
    assert len(after) == len(planned.items) + 1
    assert set(exports.plan(a_case.nodes, tmp_path, ALL).existing) == {item.path for item in planned.items}


def test_a_file_that_appears_meanwhile_is_not_replaced(a_case: host_results.Case, tmp_path: Path) -> None:
    planned = exports.plan(a_case.nodes, tmp_path, ALL)

    def somebody_else(done: int, total: int, name: str) -> None:
        if done == total:
            planned.items[0].path.write_text("theirs")

    with pytest.raises(OutputError, match="there already"):
        exports.write(planned, somebody_else)
    assert content(tmp_path) == {planned.items[0].path.name: b"theirs"}


@pytest.mark.parametrize("failing", [0, 2, 4])
def test_a_failure_leaves_the_folder_as_it_was(
    a_case: host_results.Case, tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CT heart-labels.nii.gz", "CT heart-segmentation.seg.nrrd", "notes.txt"):
        (tmp_path / name).write_text(f"mine: {name}")
    before = content(tmp_path)
    planned = exports.plan(a_case.nodes, tmp_path, ALL)

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    broken = [*planned.items]
    broken[failing] = exports.Item(broken[failing].path, broken[failing].what, fail)
    with pytest.raises(OutputError, match="No space left"):
        exports.write(exports.Plan(planned.folder, tuple(broken)), overwrite=True)
    assert content(tmp_path) == before


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_a_failure_while_files_are_moved_brings_all_back(
    a_case: host_results.Case, tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CT heart-labels.nii.gz", "CT heart-segmentation.seg.nrrd"):
        (tmp_path / name).write_text(f"mine: {name}")
    before = content(tmp_path)
    planned = exports.plan(a_case.nodes, tmp_path, ALL)
    target, rename = planned.items[failing].path, exports.os.rename

    def refuse(source: Any, place: Any) -> None:
        if Path(place) == target and Path(source).parent.name.startswith(".atlas") and not refused:
            refused.append(target)
            raise PermissionError(13, "Permission denied")
        rename(source, place)

    refused: list[Path] = []
    monkeypatch.setattr(exports.os, "rename", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        exports.write(planned, overwrite=True)
    assert refused
    assert content(tmp_path) == before


def test_folders_that_were_made_in_vain_are_removed(a_case: host_results.Case, tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise OutputError(f"{path} is impossible")

    folder = tmp_path / "a" / "b"
    item = exports.Item(folder / "x.nrrd", "x", fail)
    with pytest.raises(OutputError, match=r"a.b.x\.nrrd is impossible") as caught:
        exports.write(exports.Plan(folder, (item,)))
    assert ".atlas-istn" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    written = exports.write(exports.plan(a_case.nodes, folder, exports.Choices()))
    assert written == [folder / "CT heart-segmentation.seg.nrrd"]


def test_bad_places_are_refused_before_work(scene: Any, a_case: host_results.Case, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        exports.plan(a_case.nodes, tmp_path / "file", ALL)
    with pytest.raises(OutputError, match="ply"):
        exports.plan(a_case.nodes, tmp_path, exports.Choices(surfaces="ply"))
    scene.RemoveNode(a_case.input_node)
    with pytest.raises(OutputError, match="no longer in the scene"):
        exports.plan(a_case.nodes, tmp_path, ALL)


def test_table_and_picture(a_case: host_results.Case, tmp_path: Path) -> None:
    table = measures.measure(a_case.outcome, "refined")
    planned = exports.plan(a_case.nodes, tmp_path, exports.Choices(segmentation=False, table=table, report=True))
    assert planned.report == tmp_path / "CT heart-report.png"
    steps: list[tuple[int, int, str]] = []
    written = exports.write(planned, lambda *step: steps.append(step))
    assert written == [tmp_path / "CT heart-measures.csv"]  # the engine draws the picture
    assert steps == [(1, 1, "CT heart-measures.csv")]
    with written[0].open(encoding="utf-8", newline="") as file:
        assert [row["structure"] for row in csv.DictReader(file)] == ["left ventricle", "right atrium"]


def test_what_is_not_there_is_said(scene: Any, a_case: host_results.Case, tmp_path: Path) -> None:
    for node in (*a_case.nodes.surfaces.values(), a_case.nodes.image_from_atlas):
        scene.RemoveNode(node)
    planned = exports.plan(a_case.nodes, tmp_path, ALL)
    assert [item.what for item in planned.items] == ["segmentation", "label map"]
    assert len(planned.skipped) == 2
    assert set(planned.skipped) <= set(planned.notes)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("CT heart", "CT heart"),
        ('a<b>c:d"e/f\\g|h?i*j', "a-b-c-d-e-f-g-h-i-j"),
        ("  .. ", "image"),
        ("", "image"),
        ("tab\tnew\nline", "tab-new-line"),
        ("ends with a dot.", "ends with a dot"),
        ("NUL", "NUL-"),
        ("com1.scan", "com1.scan-"),
        ("Herz–Übersicht 心", "Herz–Übersicht 心"),
        ("../../etc/passwd", "etc-passwd"),
        ("x" * 300, "x" * 80),
    ],
)
def test_names_are_safe_on_every_system(name: str, safe: str) -> None:
    assert exports.safe_name(name, "image") == safe


def test_structures_of_one_name_do_not_share_a_file(a_case: host_results.Case, tmp_path: Path) -> None:
    segmentation = a_case.nodes.segmentation.GetSegmentation()
    segmentation.GetSegment(segments.segment_id(2)).SetName("Ventricle")
    segmentation.GetSegment(segments.segment_id(5)).SetName("ventricle")
    files = write_all(a_case, tmp_path / "out", exports.Choices(segmentation=False, surfaces="obj"))
    assert sorted(files) == ["Ventricle.obj", "ventricle-5.obj"]


def test_names_of_any_script_reach_every_writer(make_a_case: Any, tmp_path: Path) -> None:
    case = make_a_case(name="Herz–Übersicht 心: 1/2")
    folder = tmp_path / "Ärzte 心"
    choices = exports.Choices(labelmap=True, surfaces="stl", transforms="h5")
    written = exports.write(exports.plan(case.nodes, folder, choices))
    assert sorted(folder.iterdir()) == sorted(written)
    assert len(written) == 6


def test_label_values_are_the_models(a_case: host_results.Case) -> None:
    values = export_files.label_values(a_case.nodes.segmentation)
    assert values == {segments.segment_id(2): 2, segments.segment_id(5): 5}
