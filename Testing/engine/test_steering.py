"""Steering as values: what is refused and why, what comes to the model grid, and landmarks from files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from AtlasISTNLib.errors import AtlasISTNError, ConfigError, GeometryError, VolumeError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.landmark_files import read_landmarks
from AtlasISTNLib.manifest import Label
from AtlasISTNLib.steering import (
    Landmarks,
    Steering,
    certainty_of,
    check_steering,
    in_model,
    kept_share,
    soft_target,
    target_foreground,
)
from AtlasISTNLib.volume import Volume

LABELS = (Label(0, "background"), Label(3, "shell"), Label(7, "core"))
ATLAS = Grid.centered((16, 20, 12), (1.5, 1.2, 2.0), (5.0, -3.0, 10.0))
TURN = np.linalg.qr(np.array([[2.0, 1, 0.5], [-1, 2, 1], [0.3, -0.8, 2]]))[0]
FINE = Grid.centered((40, 44, 48), (0.5, 0.6, 0.7), (40.0, -25.0, 60.0), TURN)
COARSE = Grid.centered((10, 12, 14), (2.0, 2.0, 2.0), (40.0, -25.0, 60.0))


def halves(grid: Grid = FINE, values: tuple[int, int] = (3, 7)) -> Volume:
    """One label below, the other above the plane x = 40 mm."""
    return Volume.from_array(np.where(grid.points()[..., 0] < 40, *values).astype(np.int16), grid, "halves")


def mark(atlas=(5.0, -3.0, 10.0), image=(40.0, -25.0, 60.0), **more) -> Landmarks:
    return Landmarks([atlas], [image], **more)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Landmarks([(1, 2, 3)], [(1, 2, 3), (4, 5, 6)]), "1 landmarks of 3 coordinates"),
        (lambda: Landmarks([], []), "shape"),
        (lambda: Landmarks([(1, 2, np.nan)], [(1, 2, 3)]), "not finite"),
        (lambda: Landmarks([("a", 2, 3)], [(1, 2, 3)]), "not points"),
        (lambda: mark(weight=-1), "weight"),
        (lambda: mark(weight=float("inf")), "weight"),
        (lambda: mark(names=("a", "b")), "2 names"),
        (lambda: Steering(label_weights={3: -1.0}), "label 3"),
        (lambda: Steering(label_weights={3: True}), "label 3"),
        (lambda: Steering(certainty=1), "certainty"),
        (lambda: Steering(target_map={1: 3}), "without a target"),
    ],
)
def test_impossible_values_are_refused(make, reason):
    with pytest.raises(ConfigError, match=reason):
        make()


def changed(values) -> Volume:
    return Volume.from_array(np.asarray(values), FINE, "given")


FULL = np.full(FINE.shape, 3)
SOFT = np.stack([np.full(FINE.shape, 0.2), np.full(FINE.shape, 0.8), np.zeros(FINE.shape)])


@pytest.mark.parametrize(
    ("steering", "kind", "reason"),
    [
        (lambda: Steering(label_weights={5: 1.0}), ConfigError, "label 5"),
        (lambda: Steering(label_weights={0: 1.0}), ConfigError, "label 0"),
        (lambda: Steering(label_weights={3: 0.0, 7: 0.0}), ConfigError, "nothing would pull"),
        (lambda: Steering(changed(FULL + 1)), VolumeError, r"\[4\], which the model has not \(0 background, 3 shell"),
        (lambda: Steering(changed(FULL * 0)), VolumeError, "none of the model's structures"),
        (lambda: Steering(changed(FULL + 0.5)), VolumeError, "not whole numbers"),
        (lambda: Steering(changed(FULL), target_map={3: 4}), ConfigError, "leads to the label 4"),
        (lambda: Steering(changed(FULL), target_map={9: 3}), VolumeError, "none of the model's"),
        (lambda: Steering(changed(SOFT[:2])), VolumeError, "2 channels, the model 3"),
        (lambda: Steering(changed(SOFT * 9)), VolumeError, "probabilities"),
        (lambda: Steering(changed(SOFT), target_map={1: 3}), ConfigError, "channels, not values"),
        (lambda: Steering(changed(SOFT * [[[[1]]], [[[0]]], [[[0]]]])), VolumeError, "none of the model's"),
        (lambda: Steering(ignore=changed(SOFT)), VolumeError, "3 channels"),
        (lambda: Steering(ignore=changed(FULL * np.nan)), VolumeError, "NaN"),
        (
            lambda: Steering(ignore=Volume.from_array(np.ones((4, 4)), Grid.centered((4, 4), (1, 1)))),
            GeometryError,
            "is 2D",
        ),
        (
            lambda: Steering(Volume.from_array(np.full((4, 4), 3), Grid.centered((4, 4), (1, 1)))),
            GeometryError,
            "is 2D",
        ),
        (lambda: Steering(landmarks=mark(atlas=(99.0, 0, 0))), ConfigError, "landmark 1 at .* outside the atlas"),
        (lambda: Steering(landmarks=mark(image=(-40, 25, 60), names=("apex",))), ConfigError, "apex .* outside the im"),
        (lambda: Steering(landmarks=Landmarks([(5, -3)], [(40, -25)])), ConfigError, "2 coordinates"),
    ],
)
def test_what_does_not_fit_the_model_or_the_image_is_refused(steering, kind, reason):
    with pytest.raises(kind, match=reason) as error:
        check_steering(steering(), LABELS, ATLAS, FINE)
    assert error.value.hint


def test_what_fits_passes():
    steering = Steering(halves(), halves(), mark(), {3: 2.0, 7: 0.0}, True)
    check_steering(steering, LABELS, ATLAS, FINE)
    check_steering(Steering(changed(SOFT)), LABELS, ATLAS, FINE)
    check_steering(Steering(landmarks=mark(), label_weights={3: 0.0, 7: 0.0}), LABELS, ATLAS, FINE)
    assert not Steering()
    assert not Steering(label_weights={3: 1.0})
    assert all(map(bool, (Steering(halves()), Steering(ignore=halves()), Steering(certainty=True))))


# ------------------------------------------------------------------------------------------------ to the model grid


def test_a_target_is_averaged_on_any_grid():
    """The plane between the two labels runs through the middle of voxels of the coarse grid: they get half of each."""
    grid = Grid.centered((5, 5, 5), (2.0, 2.0, 2.0), (40.0, -25.0, 60.0))
    soft = soft_target(halves(), None, LABELS, grid)
    np.testing.assert_allclose(soft.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(soft[1], np.broadcast_to(soft[1, 2, 2], (5, 5, 5)), atol=0.06)
    np.testing.assert_allclose(soft[1, 2, 2, 2], 0.5, atol=0.03)
    assert soft[1, 2, 2, 0] > 0.97
    assert soft[2, 2, 2, 4] > 0.97


def test_values_are_mapped_and_others_are_background():
    mapped = soft_target(halves(values=(1, 9)), {9: 7}, LABELS, COARSE)
    plain = soft_target(halves(values=(0, 7)), None, LABELS, COARSE)
    np.testing.assert_array_equal(mapped, plain)
    assert mapped[1].max() == 0


def test_soft_labels_come_as_they_are():
    grid = Grid.centered((6, 7, 8), (2.0, 2.0, 2.0), (40.0, -25.0, 60.0))
    rng = np.random.default_rng(0)
    soft = rng.dirichlet((1.0, 1.0, 1.0), grid.shape).transpose(3, 0, 1, 2)
    np.testing.assert_allclose(soft_target(Volume(soft, grid), None, LABELS, grid), soft, atol=1e-5)
    larger = Grid.centered((10, 11, 12), (2.0, 2.0, 2.0), (40.0, -25.0, 60.0))
    wide = soft_target(Volume(soft, grid), None, LABELS, larger)
    np.testing.assert_allclose(wide[:, 2:8, 2:9, 2:10], soft, atol=1e-5)
    np.testing.assert_allclose(wide[:, 0, 0, 0], (1, 0, 0))


def test_a_target_elsewhere_is_refused():
    with pytest.raises(VolumeError, match="no structure of halves lies on the model grid"):
        soft_target(halves(), None, LABELS, ATLAS)


def test_foreground_of_a_target():
    some = target_foreground(halves(values=(1, 9)), {9: 7}, LABELS).array[0]
    np.testing.assert_array_equal(some, halves().array[0] == 7)
    np.testing.assert_allclose(target_foreground(changed(SOFT), None, LABELS).array, 0.8)


def test_a_voxel_that_is_half_ignored_does_not_count():
    """The mask ends at x = 40; voxels of 2 mm whose centres lie at 38, 39, 40, 41 and 42 are ignored less and less."""
    grid = Grid.centered((3, 3, 5), (1.0, 2.0, 2.0), (40.0, -25.0, 60.0))
    mask = Volume.from_array(halves().array[0] == 3, FINE)
    kept = kept_share(mask, grid)[1, 1]
    assert kept[0] == 0
    assert kept[2] == pytest.approx(0, abs=0.1)
    assert kept[4] > 0.9
    assert (np.diff(kept) >= 0).all()
    np.testing.assert_array_equal(kept_share(mask, ATLAS), 1)


def test_certainty_is_one_minus_the_relative_entropy():
    soft = np.array([[1.0, 0.5, 1 / 3, 2.0], [0.0, 0.5, 1 / 3, -0.3], [0.0, 0.0, 1 / 3, 0.0]])
    expected = [1, 1 - np.log(2) / np.log(3), 0, 1]
    np.testing.assert_allclose(certainty_of(soft), expected, atol=1e-5)


class TestSingleSlices:
    FLAT = Grid.centered((20, 28), (1.5, 1.1), (5.0, -3.0))

    @pytest.mark.parametrize("thin", [0, 1, 2])
    def test_landmarks_in_the_slices_own_coordinates(self, thin):
        shape = [30, 34]
        shape.insert(thin, 1)
        slab = Grid.centered(shape, (1.0, 1.0, 1.0), (40.0, -25.0, 60.0), TURN)
        voxels = np.array([[4.0, 5, 6], [10, 9, 8]])
        voxels[:, 2 - thin] = 0.3
        image = slab.transform_points(voxels, "world", "voxel")
        marks = Landmarks([(5.0, -3.0, 0.0), (6.0, -2.0, 0.0)], image)
        atlas, seen = in_model(marks, self.FLAT, slab)
        np.testing.assert_array_equal(atlas, [(5, -3), (6, -2)])
        assert np.linalg.norm(seen[0] - seen[1]) == pytest.approx(np.linalg.norm(image[0] - image[1]))
        off = image + 2.5 * TURN[:, 2 - thin]
        with pytest.raises(ConfigError, match=r"landmark 1 lies .* mm off the image's slice"):
            in_model(Landmarks(marks.atlas, off), self.FLAT, slab)
        with pytest.raises(ConfigError, match="off z = 0 of the atlas"):
            in_model(Landmarks(marks.atlas + np.array([0, 0, 3.0]), image), self.FLAT, slab)

    def test_points_of_3d_files_on_2d_images(self):
        picture = Grid.centered((30, 34), (1.0, 1.0))
        atlas, seen = in_model(Landmarks([(5, -3, 0)], [(1, 2, 0)]), self.FLAT, picture)
        assert (atlas.tolist(), seen.tolist()) == ([[5, -3]], [[1, 2]])


# ------------------------------------------------------------------------------------------------------------- files

PAIRS = "name,atlas_x,atlas_y,atlas_z,image_x,image_y,image_z\napex,1,2,3,4,5,6\n\nbase,-1,-2,-3,-4,-5.5,-6\n"
FCSV = "# Markups fiducial file version = 4.11\n# CoordinateSystem = {}\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,"
FCSV += "label,desc,associatedNodeID\n1,1,2,3,0,0,0,1,1,1,0,apex,,\n2,-1,-2,-3,0,0,0,1,1,1,0,base,,\n"


def markups(frame: str, names=("base", "apex"), points=((-4, -5.5, -6), (4, 5, 6))) -> str:
    controls = [{"label": n, "position": p, "positionStatus": "defined"} for n, p in zip(names, points, strict=True)]
    controls.append({"label": "to come", "position": [0, 0, 0], "positionStatus": "preview"})
    return json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": frame, "controlPoints": controls}]})


@pytest.fixture
def files(tmp_path):
    """A function that writes texts to files and gives their paths."""

    def written(**texts: str):
        paths = []
        for name, text in texts.items():
            paths.append(tmp_path / name.replace("__", "."))
            paths[-1].write_text(text, encoding="utf-8")
        return paths

    return written


def test_pairs_of_a_table(files):
    marks = read_landmarks(files(pairs__csv=PAIRS), 0.5)
    assert marks.names == ("apex", "base")
    assert marks.atlas.tolist() == [[1, 2, 3], [-1, -2, -3]]
    assert marks.image.tolist() == [[4, 5, 6], [-4, -5.5, -6]]
    assert marks.weight == 0.5
    flat = read_landmarks(files(flat__csv="atlas_x,atlas_y,image_x,image_y\n1,2,3,4\n"))
    assert (flat.names, flat.atlas.tolist(), flat.image.tolist()) == (("1",), [[1, 2]], [[3, 4]])


@pytest.mark.parametrize(("frame", "sign"), [("LPS", 1), ("RAS", -1), ("0", -1), ("1", 1)])
def test_two_files_of_slicer_are_paired_by_name(files, frame, sign):
    atlas, image = files(atlas__fcsv=FCSV.format(frame), image__mrk__json=markups("LPS" if sign == 1 else "RAS"))
    marks = read_landmarks([atlas, image])
    assert marks.names == ("apex", "base")
    assert marks.atlas.tolist() == [[sign, 2 * sign, 3], [-sign, -2 * sign, -3]]
    assert marks.image.tolist() == [[4 * sign, 5 * sign, 6], [-4 * sign, -5.5 * sign, -6]]


def test_other_names_are_paired_by_order(files):
    atlas, image = files(a__csv="name,x,y,z\nA-1,1,2,3\nA-2,3,2,1\n", i__mrk__json=markups("LPS", ("P-1", "P-2")))
    marks = read_landmarks([atlas, image])
    assert marks.names == ("A-1", "A-2")
    assert marks.image.tolist() == [[-4, -5.5, -6], [4, 5, 6]]


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({"a__csv": "name,x,y,z\nA,1,2,3\n"}, "no column atlas_x"),
        ({"a__csv": PAIRS.splitlines()[0]}, "no landmarks"),
        ({"a__csv": PAIRS.replace("5.5", "five")}, "landmark 2 is not all numbers"),
        ({"a__csv": PAIRS.replace("5.5", "nan")}, "not finite"),
        ({"a__csv": PAIRS.replace(",-5.5,-6", "")}, "landmark 2 is not all numbers"),
        ({"a__fcsv": FCSV.format("LPS")}, "alone holds no pairs"),
        ({"a__fcsv": FCSV.format("LPS"), "b__txt": "1"}, "no file of landmarks"),
        ({"a__fcsv": FCSV.format("IJK"), "b__mrk__json": markups("LPS")}, "coordinates 'IJK'"),
        ({"a__mrk__json": markups("voxel"), "b__mrk__json": markups("LPS")}, "coordinates 'voxel'"),
        ({"a__mrk__json": "{", "b__mrk__json": markups("LPS")}, "not JSON"),
        ({"a__mrk__json": '{"markups": []}', "b__mrk__json": markups("LPS")}, "no landmarks"),
        ({"a__fcsv": FCSV.format("LPS"), "b__mrk__json": markups("LPS", ("apex",), ((1, 2, 3),))}, "holds 2 .* and"),
        ({"a__csv": PAIRS, "b__csv": PAIRS, "c__csv": PAIRS}, "not 3 files"),
    ],
)
def test_files_that_make_no_sense(files, texts, reason):
    with pytest.raises(AtlasISTNError, match=reason):
        read_landmarks(files(**texts))
    with pytest.raises(VolumeError, match="does not exist"):
        read_landmarks(["nowhere.csv"])
