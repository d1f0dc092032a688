"""Volumes and correspondences as files between two processes: what arrives is what was sent, nothing else gets in."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib.errors import OutputError, WorkerError
from AtlasISTNLib.exchange import (
    correspondence_from_files,
    correspondence_to_files,
    grid_as_dict,
    grid_from_dict,
    volume_from_files,
    volume_to_files,
)
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.volume import Volume


def sent(entry: dict) -> dict:
    """An entry after its way through strict JSON."""
    return json.loads(json.dumps(entry, allow_nan=False))


@pytest.fixture
def a_sent_volume(an_image, tmp_path) -> dict:
    return sent(volume_to_files(an_image, tmp_path, "image"))


@pytest.mark.parametrize("which", ["oblique_grid", "oblique_flat_grid"])
def test_grids_arrive_exactly(which, request):
    grid = request.getfixturevalue(which)
    assert grid_from_dict(sent(grid_as_dict(grid))) == grid


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_volumes_arrive_exactly(dtype, channels, oblique_grid, tmp_path):
    values = np.random.default_rng(5).uniform(0, 250, (channels, *oblique_grid.shape)).astype(dtype)
    volume = Volume(values, oblique_grid, "Kopf, ž")
    entry = sent(volume_to_files(volume, tmp_path, "v"))
    back = volume_from_files(entry, tmp_path)
    assert back.array.dtype == values.dtype
    np.testing.assert_array_equal(back.array, values)
    assert (back.grid, back.name) == (oblique_grid, "Kopf, ž")
    assert [p.name for p in tmp_path.iterdir()] == ["v.npy"]


def test_what_was_read_no_longer_needs_its_file(a_sent_volume, an_image, tmp_path):
    back = volume_from_files(a_sent_volume, tmp_path)
    with open(tmp_path / "image.npy", "r+b") as file:
        file.truncate(0)
    np.testing.assert_array_equal(back.array, an_image.array)


def test_views_that_are_not_contiguous_arrive(an_image, tmp_path):
    grid = Grid.centered((6, 5, 4), (1, 1, 1))
    values = np.arange(120).reshape(4, 5, 6).T
    entry = volume_to_files(Volume.from_array(values, grid), tmp_path, "turned")
    np.testing.assert_array_equal(volume_from_files(entry, tmp_path).array[0], values)


@pytest.mark.parametrize("which", ["a_result", "a_flat_result"])
def test_correspondences_arrive(which, request, tmp_path):
    whole = request.getfixturevalue(which).correspondence
    back = correspondence_from_files(sent(correspondence_to_files(whole, tmp_path, "c")), tmp_path)
    np.testing.assert_array_equal(back.theta, whole.theta)
    assert (back.outward, back.image_grid, back.atlas_grid) == (whole.outward, whole.image_grid, whole.atlas_grid)
    points = whole.atlas_grid.points()
    np.testing.assert_allclose(back.image_from_atlas(points), whole.image_from_atlas(points), atol=1e-5)
    points = whole.image_grid.points()
    np.testing.assert_allclose(back.atlas_from_image(points), whole.atlas_from_image(points), atol=1e-5)


@pytest.mark.parametrize("name", ["../image.npy", "sub/../../image.npy", "/etc/passwd", "..\\image.npy", "..", "", "."])
def test_files_beyond_the_folder_are_refused(a_sent_volume, tmp_path, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(WorkerError):
        volume_from_files({**a_sent_volume, "array": name}, inner)


def test_links_out_of_the_folder_are_refused(a_sent_volume, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "image.npy").symlink_to(tmp_path / "image.npy")
    with pytest.raises(WorkerError, match="outside its folder"):
        volume_from_files(a_sent_volume, inner)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.pop("array"),
        lambda e: e.pop("grid"),
        lambda e: e.update(array=7),
        lambda e: e.update(name=None),
        lambda e: e.update(grid=[]),
        lambda e: e["grid"].update(shape=[18, 22, 25]),
        lambda e: e["grid"].update(spacing=[0, 1, 1]),
        lambda e: e["grid"].update(direction=[[1, 1, 0], [0, 1, 0], [0, 0, 1]]),
    ],
)
def test_entries_that_make_no_sense_are_refused(a_sent_volume, tmp_path, change):
    change(a_sent_volume)
    with pytest.raises(WorkerError):
        volume_from_files(a_sent_volume, tmp_path)


def test_damaged_files_are_refused(a_sent_volume, tmp_path):
    path = tmp_path / "image.npy"
    data = path.read_bytes()
    for damaged in (b"", data[:40], data[:-100], b"nonsense" * 100):
        path.write_bytes(damaged)
        with pytest.raises(WorkerError, match=r"image\.npy"):
            volume_from_files(a_sent_volume, tmp_path)
    path.unlink()
    with pytest.raises(WorkerError, match="does not exist"):
        volume_from_files(a_sent_volume, tmp_path)


def test_pickled_objects_are_refused(a_sent_volume, tmp_path):
    np.save(tmp_path / "image.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(WorkerError):
        volume_from_files(a_sent_volume, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.pop("theta"),
        lambda e: e.update(outward="forward"),
        lambda e: e["theta"].pop(),
        lambda e: e["theta"][0].__setitem__(0, None),
        lambda e: e.update(displacement=e["displacement"]["array"]),
        lambda e: e.update(
            atlas_grid={"shape": [4, 4], "spacing": [1, 1], "origin": [0, 0], "direction": [1, 0, 0, 1]}
        ),
        lambda e: e["displacement"].update(array="../c-displacement.npy"),
    ],
)
def test_correspondences_that_make_no_sense_are_refused(a_result, tmp_path, change):
    entry = copy.deepcopy(correspondence_to_files(a_result.correspondence, tmp_path, "c"))
    change(entry)
    with pytest.raises(WorkerError):
        correspondence_from_files(entry, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(an_image, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        volume_to_files(an_image, Path(tmp_path, "file"), "image")
