"""A case on disk: what is in its folder, and that it is whole or not there at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from AtlasISTNLib import outputs
from AtlasISTNLib.configs import RefineConfig
from AtlasISTNLib.errors import Cancelled, ConfigError, GeometryError, OutputError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.outputs import check_output, write_result
from AtlasISTNLib.segmentation import refine
from AtlasISTNLib.volume import Volume

STEMS = ("labels", "prediction", "one-pass", "atlas-image")
OTHERS = {"image-from-atlas.h5", "atlas-from-image.h5", "report.json"}


@pytest.fixture(scope="module")
def a_refined_result(a_small_bundle, a_result):
    return refine(a_small_bundle, a_result, RefineConfig(iterations=3))


@pytest.fixture(scope="module")
def a_case(a_small_bundle, a_refined_result, tmp_path_factory) -> Path:
    """A refined case, written once."""
    folder = tmp_path_factory.mktemp("cases") / "new" / "case"
    return write_result(a_small_bundle, a_refined_result, folder, picture=False, source="somewhere")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -------------------------------------------------------------------------------------------------- what is in a case


def test_a_case_has_its_files_and_nothing_lies_beside_it(a_case):
    assert names(a_case) == {f"{stem}.nii.gz" for stem in STEMS} | OTHERS
    assert names(a_case.parent) == {"case"}


def test_images_are_those_of_the_result(a_case, a_refined_result, an_image):
    pairs = {
        "labels": a_refined_result.labels,
        "prediction": a_refined_result.prediction,
        "one-pass": a_refined_result.one_pass_labels,
        "atlas-image": a_refined_result.atlas_image,
    }
    for stem, expected in pairs.items():
        written = Volume.read(a_case / f"{stem}.nii.gz")
        assert written.grid.same_as(an_image.grid), stem
        np.testing.assert_array_equal(written.array, expected.array, err_msg=stem)
    # The three label maps differ, so that a mix-up would show.
    maps = [pairs[stem].array for stem in ("labels", "prediction", "one-pass")]
    assert all((a != b).any() for a, b in zip(maps, maps[1:] + maps[:1], strict=True))


def test_written_transform_carries_the_atlas_to_the_written_atlas_image(a_case, a_small_bundle):
    written = sitk.ReadImage(str(a_case / "atlas-image.nii.gz"))
    transform = sitk.ReadTransform(str(a_case / "atlas-from-image.h5"))
    again = sitk.Resample(a_small_bundle.atlas_image.to_sitk(), written, transform, sitk.sitkLinear, 0.0)
    values = sitk.GetArrayFromImage(written)
    assert values.max() > 0.5
    np.testing.assert_allclose(sitk.GetArrayFromImage(again), values, atol=1e-4)


def test_written_transforms_undo_each_other(a_case, an_image):
    there, back = (sitk.ReadTransform(str(a_case / f"{n}.h5")) for n in ("atlas-from-image", "image-from-atlas"))
    point = tuple(np.add(an_image.grid.center, [2.0, 1.0, -3.0]))
    moved = there.TransformPoint(point)
    assert np.linalg.norm(np.subtract(moved, point)) > 1
    np.testing.assert_allclose(back.TransformPoint(moved), point, atol=0.05)


def test_report_is_plain_json_and_names_its_source(a_case):
    figures = json.loads((a_case / "report.json").read_text(encoding="utf-8"))
    assert figures["image"]["source"] == "somewhere"
    assert [entry["name"] for entry in figures["structures"]] == ["shell", "core"]


def test_flat_case_as_nrrd_with_picture(a_flat_bundle, a_flat_result, tmp_path):
    said = []
    folder = write_result(a_flat_bundle, a_flat_result, tmp_path / "case", format="nrrd", report=said.append)
    assert names(folder) == {f"{stem}.nrrd" for stem in STEMS} | OTHERS | {"report.png"}
    labels = Volume.read(folder / "labels.nrrd")
    assert labels.grid.same_as(a_flat_result.image.grid)
    np.testing.assert_array_equal(labels.array, a_flat_result.labels.array)
    assert [p.step for p in said] == list(range(1, 9))
    assert {p.total for p in said} == {8}
    assert said[-1].message == "report.json", "the report is written last"


# ----------------------------------------------------------------------------------------------------- what is refused


def test_unknown_format_is_refused(a_small_bundle, a_result, tmp_path):
    with pytest.raises(ConfigError, match="mha"):
        write_result(a_small_bundle, a_result, tmp_path / "case", format="mha")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("overwrite", [False, True])
def test_free_and_empty_places_are_fine_and_stay_as_they_are(tmp_path, overwrite):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "free", tmp_path / "deep" / "er" / "free", tmp_path / "empty"):
        check_output(folder, overwrite)
    assert names(tmp_path) == {"empty"}


def test_existing_case_needs_overwrite(tmp_path):
    (tmp_path / "labels.nrrd").write_text("a case")
    with pytest.raises(OutputError, match="not empty"):
        check_output(tmp_path, overwrite=False)
    check_output(tmp_path, overwrite=True)


@pytest.mark.parametrize("foreign", ["notes.txt", "labels.nii", "labels.nrrd/"])
def test_folder_with_anything_else_is_never_replaced(a_small_bundle, a_result, tmp_path, foreign):
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "report.json").write_text("old")
    if foreign.endswith("/"):
        (folder / foreign).mkdir()
    else:
        (folder / foreign).write_text("precious")
    before = names(folder)
    with pytest.raises(OutputError, match=foreign.strip("/")):
        check_output(folder, overwrite=True)
    with pytest.raises(OutputError):
        write_result(a_small_bundle, a_result, folder, overwrite=True, picture=False)
    assert names(folder) == before
    assert names(tmp_path) == {"case"}


@pytest.mark.parametrize("path", ["file", "file/case", "file/deep/case"])
def test_file_in_the_way_is_refused(tmp_path, path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match="file"):
        check_output(tmp_path / path, overwrite=True)
    assert content(tmp_path) == {"file": b"precious"}


def test_place_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def full(*_args: object, **_named: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs.tempfile, "mkdtemp", full)
    with pytest.raises(OutputError, match="No space left"):
        check_output(tmp_path / "case", overwrite=False)


def test_reference_on_another_grid_is_refused_before_anything_is_written(a_small_bundle, a_result, tmp_path):
    grid = Grid.centered((4, 4, 4), (1.0, 1.0, 1.0))
    reference = Volume.from_array(np.zeros(grid.shape, dtype=np.uint8), grid, "truth")
    with pytest.raises(GeometryError, match="truth"):
        write_result(a_small_bundle, a_result, tmp_path / "new" / "case", reference=reference)
    assert names(tmp_path) == set()


# --------------------------------------------------------------------------------------------- replacing, and failing


@pytest.fixture
def an_old_case(tmp_path) -> Path:
    folder = tmp_path / "case"
    folder.mkdir()
    for name in ("labels.nrrd", "report.json", "report.png"):
        (folder / name).write_text(f"old {name}")
    return folder


def test_overwriting_leaves_nothing_of_the_old_case(a_small_bundle, a_result, an_old_case):
    write_result(a_small_bundle, a_result, an_old_case, overwrite=True, picture=False)
    assert names(an_old_case) == {f"{stem}.nii.gz" for stem in STEMS} | OTHERS
    assert names(an_old_case.parent) == {"case"}


def test_overwriting_through_a_link_keeps_the_link(a_small_bundle, a_result, an_old_case):
    link = an_old_case.parent / "link"
    link.symlink_to(an_old_case, target_is_directory=True)
    assert write_result(a_small_bundle, a_result, link, overwrite=True, picture=False) == link
    assert link.is_symlink()
    assert (an_old_case / "labels.nii.gz").is_file()
    assert names(an_old_case.parent) == {"case", "link"}


def full_disk(*_args: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["writer", "summary", "move"])
def test_failure_restores_the_old_case(a_small_bundle, a_result, an_old_case, monkeypatch, step):
    before = content(an_old_case)
    if step == "writer":
        monkeypatch.setattr(sitk, "WriteTransform", full_disk)
    elif step == "summary":
        monkeypatch.setattr(outputs, "summary", full_disk)
    else:
        rename = outputs.os.rename
        # Only moving the new folder in fails: the old one is moved aside, and back.
        monkeypatch.setattr(
            outputs.os,
            "rename",
            lambda a, b: full_disk() if (Path(a) / "report.json").stat().st_size > 99 else rename(a, b),
        )
    with pytest.raises(OutputError, match="No space left") as caught:
        write_result(a_small_bundle, a_result, an_old_case, overwrite=True, picture=False)
    assert str(an_old_case) in caught.value.message
    assert ".atlas-istn-" not in caught.value.message, "people never asked for the hidden folder"
    assert content(an_old_case) == before
    assert names(an_old_case.parent) == {"case"}


def test_foreign_file_that_appears_while_writing_is_kept(a_small_bundle, a_result, an_old_case):
    def somebody(_progress: object) -> None:
        (an_old_case / "notes.txt").write_text("precious")

    with pytest.raises(OutputError, match=r"notes\.txt"):
        write_result(a_small_bundle, a_result, an_old_case, overwrite=True, picture=False, report=somebody)
    assert names(an_old_case) == {"labels.nrrd", "report.json", "report.png", "notes.txt"}
    assert names(an_old_case.parent) == {"case"}


@pytest.mark.parametrize("error", [Cancelled("stopped"), KeyboardInterrupt()])
def test_interruption_leaves_nothing_behind_not_even_new_parents(a_small_bundle, a_result, tmp_path, error):
    def stop(_progress: object) -> None:
        raise error

    with pytest.raises(type(error)):
        write_result(a_small_bundle, a_result, tmp_path / "new" / "er" / "case", picture=False, report=stop)
    assert names(tmp_path) == set()
