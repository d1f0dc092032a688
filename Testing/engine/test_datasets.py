"""Data sets: pairs as people keep them, and how they come onto a model grid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib.configs import NormalisationConfig
from AtlasISTNLib.datasets import (
    Case,
    cases_from_csv,
    cases_from_folders,
    cases_from_pattern,
    find_cases,
    foreground_center,
    normalised,
    soft_labels,
)
from AtlasISTNLib.errors import ConfigError, VolumeError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.volume import Volume

GRID = Grid.centered((6, 7, 8), (1, 2, 1.5))


def a_pair(folder: Path, name: str, ending: str = "nrrd") -> None:
    values = np.arange(np.prod(GRID.shape)).reshape(GRID.shape)
    Volume.from_array(values.astype(np.int16), GRID).write(folder / "images" / f"{name}.{ending}")
    Volume.from_array((values % 3).astype(np.uint8), GRID).write(folder / "labels" / f"{name}.nrrd")


class TestPairs:
    def test_folders(self, tmp_path):
        for name in ("b", "a", "c.1"):
            a_pair(tmp_path, name, "nii.gz")
        (tmp_path / "images" / "notes.txt").write_text("not a case")
        Volume.from_array(np.zeros(GRID.shape), GRID).write(tmp_path / "labels" / "unused.nrrd")
        cases = cases_from_folders(tmp_path / "images", tmp_path / "labels")
        assert [case.name for case in cases] == ["a", "b", "c.1"]
        image, labels = cases[0].load()
        assert image.array.max() == 6 * 7 * 8 - 1
        assert np.unique(labels.array).tolist() == [0, 1, 2]

    def test_folders_that_do_not_pair(self, tmp_path):
        a_pair(tmp_path, "a")
        with pytest.raises(VolumeError, match="is not a folder"):
            cases_from_folders(tmp_path / "images", tmp_path / "none")
        (tmp_path / "labels" / "a.nrrd").rename(tmp_path / "labels" / "z.nrrd")
        with pytest.raises(VolumeError, match="no label map for a"):
            cases_from_folders(tmp_path / "images", tmp_path / "labels")
        (tmp_path / "empty").mkdir()
        with pytest.raises(VolumeError, match="no images"):
            cases_from_folders(tmp_path / "empty", tmp_path / "labels")

    def test_lists(self, tmp_path):
        for name in ("a", "b"):
            a_pair(tmp_path, name)
        (tmp_path / "train.csv").write_text("img\nimages/a.nrrd\nimages/b.nrrd\n\n")
        (tmp_path / "train.seg.csv").write_text(f"seg\nlabels/a.nrrd,ignored\n{tmp_path}/labels/b.nrrd\n")
        cases = cases_from_csv(tmp_path / "train.csv", tmp_path / "train.seg.csv")
        assert [case.name for case in cases] == ["a", "b"]
        for case in cases:
            case.load()

    def test_lists_that_do_not_pair(self, tmp_path):
        (tmp_path / "one.csv").write_text("img\na.nrrd\n")
        (tmp_path / "two.csv").write_text("img\na.nrrd\nb.nrrd\n")
        (tmp_path / "none.csv").write_text("img\n")
        with pytest.raises(VolumeError, match=r"names 1 images.*2 label maps"):
            cases_from_csv(tmp_path / "one.csv", tmp_path / "two.csv")
        with pytest.raises(VolumeError, match="lists no files"):
            cases_from_csv(tmp_path / "none.csv", tmp_path / "two.csv")
        with pytest.raises(VolumeError, match="does not exist"):
            cases_from_csv(tmp_path / "absent.csv", tmp_path / "two.csv")
        with pytest.raises(VolumeError, match="does not exist"):
            cases_from_csv(tmp_path / "one.csv", tmp_path / "one.csv")[0].load()

    def test_images_of_one_name_are_told_apart_by_their_folders(self, tmp_path):
        (tmp_path / "i.csv").write_text("img\nann/t1.nrrd\nbob/t1.nrrd\ncyd/flair.nrrd\n")
        (tmp_path / "l.csv").write_text("seg\nann/s.nrrd\nbob/s.nrrd\ncyd/s.nrrd\n")
        names = [case.name for case in cases_from_csv(tmp_path / "i.csv", tmp_path / "l.csv")]
        assert names == ["ann_t1", "bob_t1", "flair"]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"shape": (6, 7, 9)}, "8 x 7 x 6 and 9 x 7 x 6 voxels"),
            ({"spacing": (1, 2, 1.6)}, "spacing 1,2,1.5 and 1,2,1.6"),
            ({"origin": (0.5, 0, 0)}, "origin"),
            ({"direction": np.diag([-1, 1, 1])}, "direction"),
        ],
    )
    def test_image_and_labels_must_lie_on_one_grid(self, change, says):
        image = Volume.from_array(np.zeros(GRID.shape), GRID)
        values = {"shape": GRID.shape, "spacing": GRID.spacing, "origin": GRID.origin, "direction": GRID.direction}
        other = Grid(**{**values, **change})
        with pytest.raises(VolumeError, match=rf"case 3: image and labels lie on different grids.*{says}"):
            Case("case 3", image, Volume.from_array(np.zeros(other.shape), other)).load()

    def test_letter_b_of_the_released_code(self, shared_data):
        folder = shared_data / "letter-b"
        if not folder.is_dir():
            pytest.skip(f"no letters at {folder}")
        cases = cases_from_csv(folder / "train.csv", folder / "train.seg.csv")
        assert len(cases) > 500
        image, labels = cases[0].load()
        assert image.grid.shape == labels.grid.shape == (128, 128)
        assert set(np.unique(labels.array)) == {0, 255}


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


class TestPatterns:
    @pytest.mark.parametrize(
        ("image", "labels", "files"),
        [
            (
                "{case}_img.nii.gz",
                "{case}_seg.nii.gz",
                ("a_img.nii.gz", "a_seg.nii.gz", "b_img.nii.gz", "b_seg.nii.gz"),
            ),
            ("{case}.nrrd", "{case}_seg.nrrd", ("a.nrrd", "a_seg.nrrd", "b.nrrd", "b_seg.nrrd")),
            ("{case}_img.nrrd", "{case}.nrrd", ("a.nrrd", "a_img.nrrd", "b.nrrd", "b_img.nrrd")),
            ("{case}/t1.mha", "{case}/seg.mha", ("a/t1.mha", "a/seg.mha", "a/t2.mha", "b/t1.mha", "b/seg.mha")),
            ("{case}/anat/{case}_x.nii", "seg/{case}.nii", ("a/anat/a_x.nii", "b/anat/b_x.nii", "c/anat/d_x.nii")),
            ("ct[1]/{case}.nii", "s/{case}.nii", ("ct[1]/a.nii", "ct[1]/b.nii", "ct1/z.nii", "s/a.nii")),
        ],
    )
    def test_cases_and_their_files(self, tmp_path, image, labels, files):
        touched(tmp_path, *files, ".hidden/t1.mha", "._z_img.nii.gz", "notes.txt")
        cases = cases_from_pattern(tmp_path, image, labels)
        assert [case.name for case in cases] == ["a", "b"]
        for case in cases:
            assert case.image == tmp_path / image.replace("{case}", case.name)
            assert case.labels == tmp_path / labels.replace("{case}", case.name)

    @pytest.mark.parametrize(
        ("image", "labels", "says"),
        [
            ("img.nii.gz", "{case}.nii.gz", "does not say where"),
            ("{case}.nii", "{case}.nii", "one pattern"),
            ("../{case}.nii", "{case}_seg.nii", "leads out"),
            ("{case}.nii", "/{case}_seg.nii", "leads out"),
        ],
    )
    def test_impossible_patterns(self, tmp_path, image, labels, says):
        with pytest.raises(ConfigError, match=says):
            cases_from_pattern(touched(tmp_path, "a.nii", "a_seg.nii"), image, labels)

    def test_nothing_matches(self, tmp_path):
        with pytest.raises(VolumeError, match=r"no file below .* matches '\{case\}_ct.nii'"):
            cases_from_pattern(touched(tmp_path, "a.nii"), "{case}_ct.nii", "{case}_seg.nii")
        with pytest.raises(VolumeError, match="not a folder"):
            cases_from_pattern(tmp_path / "none", "{case}_ct.nii", "{case}_seg.nii")


V1 = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "tumour"}}
V2 = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}, "file_ending": ".nii.gz"}
RAW_FILES = ("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")


def a_raw_folder(folder: Path, description: object, files: tuple[str, ...] = RAW_FILES) -> Path:
    (folder / "dataset.json").write_text(description if isinstance(description, str) else json.dumps(description))
    return touched(folder, *files)


class TestRawFolders:
    @pytest.mark.parametrize("description", [V1, V2, {**V2, "labels": {"liver": 1, "tumour": 2}}])
    def test_both_versions(self, tmp_path, description):
        data = find_cases(a_raw_folder(tmp_path, description, (*RAW_FILES, "imagesTr/._a_0000.nii.gz")))
        assert dict(data.names) == {1: "liver", 2: "tumour"}
        assert [(c.name, c.image.name, c.labels.parent.name) for c in data.cases] == [
            ("a", "a_0000.nii.gz", "labelsTr"),
            ("b", "b_0000.nii.gz", "labelsTr"),
        ]
        assert str(tmp_path) in data.source

    def test_names_that_are_numbers(self, tmp_path):
        data = find_cases(a_raw_folder(tmp_path, {**V2, "labels": {"background": 0, "1": 1, "2": 2}}))
        assert dict(data.names) == {1: "1", 2: "2"}

    def test_decathlon(self, tmp_path):
        files = ("imagesTr/liver_0001.nii.gz", "imagesTr/liver_0002.nii.gz")
        data = find_cases(
            a_raw_folder(tmp_path, V1, (*files, "labelsTr/liver_0001.nii.gz", "labelsTr/liver_0002.nii.gz"))
        )
        assert [(case.name, case.image.name) for case in data.cases] == [
            ("liver_0001", "liver_0001.nii.gz"),
            ("liver_0002", "liver_0002.nii.gz"),
        ]

    def test_listed_files(self, tmp_path):
        listed = {"x": {"images": ["../i/x.nrrd"], "label": "/abs/x.nrrd"}}
        (case,) = find_cases(a_raw_folder(tmp_path, {**V2, "dataset": listed})).cases
        assert (case.name, case.labels) == ("x", Path("/abs/x.nrrd"))
        assert case.image.resolve() == (tmp_path / "../i/x.nrrd").resolve()

    def test_files_that_partners_call_for(self, tmp_path):
        files = ("imagesTr/a_0000.nii.gz", "labelsTr/b.nii.gz")
        cases = find_cases(a_raw_folder(tmp_path, V2, files)).cases
        assert [case.image.exists() for case in cases] == [True, False]
        assert [case.labels.exists() for case in cases] == [False, True]
        with pytest.raises(VolumeError, match=r"b_0000.nii.gz does not exist"):
            cases[1].load()

    def test_one_of_several_channels(self, tmp_path):
        channels = {"channel_names": {"0": "T1", "1": "FLAIR"}}
        more = ("imagesTr/a_0001.nii.gz", "imagesTr/b_0001.nii.gz")
        folder = a_raw_folder(tmp_path, {**V2, **channels}, (*RAW_FILES, *more))
        with pytest.raises(ConfigError, match=r"2 input channels \(0 T1, 1 FLAIR\)") as raised:
            find_cases(folder)
        assert "--channel" in raised.value.hint
        assert [case.image.name for case in find_cases(folder, channel=1).cases] == ["a_0001.nii.gz", "b_0001.nii.gz"]
        with pytest.raises(ConfigError, match="no channel 2"):
            find_cases(folder, channel=2)

    @pytest.mark.parametrize(
        ("description", "says"),
        [
            ("{labels", "cannot be read"),
            ("[1]", "not a description"),
            ({"channel_names": {"0": "CT"}}, "names no labels"),
            ({**V2, "labels": {"background": 0}}, "no label but the background"),
            ({**V2, "labels": {"background": 0, "whole": [1, 2], "core": 2}}, r"regions of several values \(whole\)"),
            ({**V2, "labels": {"background": 0, "liver": 1, "ignore": 2}}, "ignore label"),
            ({**V2, "labels": {"background": 0, "liver": 1.5}}, "value 1.5"),
            ({**V2, "labels": {"liver": 1, "tumour": 1}}, "both 'liver' and 'tumour'"),
            ({**V2, "file_ending": ".mha"}, "no .mha images"),
            ({**V2, "file_ending": 3}, "file ending"),
            ({**V2, "channel_names": ["CT"]}, "channels"),
            ({**V2, "dataset": {"x": {"images": []}}}, 'list "dataset"'),
        ],
    )
    def test_descriptions_that_cannot_be_trained(self, tmp_path, description, says):
        with pytest.raises(VolumeError, match=says) as raised:
            find_cases(a_raw_folder(tmp_path, description))
        assert raised.value.hint

    def test_without_its_folders(self, tmp_path):
        with pytest.raises(VolumeError, match="no folder labelsTr"):
            find_cases(a_raw_folder(tmp_path, V2, ("imagesTr/a_0000.nii.gz",)))


class TestFindCases:
    def test_each_way(self, tmp_path):
        for name in ("a", "b"):
            a_pair(tmp_path, name)
        for stem in ("images", "labels"):
            (tmp_path / f"{stem}.csv").write_text(f"path\n{stem}/a.nrrd\n{stem}/b.nrrd\n")
        ways = (
            find_cases(images=tmp_path / "images", labels=tmp_path / "labels"),
            find_cases(images=tmp_path / "images.csv", labels=tmp_path / "labels.csv"),
            find_cases(tmp_path, pattern=("images/{case}.nrrd", "labels/{case}.nrrd")),
        )
        for data in ways:
            assert data.cases == ways[0].cases
            assert dict(data.names) == {}
        assert len({data.source for data in ways}) == 3

    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"folder": ".", "images": "i", "labels": "l"},
            {"images": "i"},
            {"images": "i", "labels": "l", "pattern": ("{case}", "{case}_seg")},
            {"images": "i", "labels": "l", "channel": 0},
            {"folder": ".", "pattern": ("{case}", "{case}_seg"), "channel": 0},
        ],
    )
    def test_what_makes_no_sense_together(self, given):
        with pytest.raises(ConfigError) as raised:
            find_cases(**given)
        assert "--" in raised.value.hint

    def test_a_folder_that_says_nothing(self, tmp_path):
        with pytest.raises(ConfigError, match=r"no dataset\.json") as raised:
            find_cases(tmp_path)
        assert "--pattern" in raised.value.hint
        with pytest.raises(VolumeError, match="not a folder"):
            find_cases(tmp_path / "none")


class TestNormalised:
    def image(self, grid: Grid = GRID, dtype: type = np.float64) -> Volume:
        return Volume.from_array((50 + 10 * np.random.default_rng(0).normal(size=grid.shape)).astype(dtype), grid)

    def test_z_score_is_of_the_whole_image(self):
        image = self.image()
        part = image.grid.box((1, 1, 1), (5, 5, 6))
        seen = normalised(image, part, NormalisationConfig("z-score")).array
        expected = (image.array[0, 1:5, 1:5, 1:6] - image.array.mean()) / image.array.std()
        np.testing.assert_allclose(seen[0], expected, atol=1e-5)
        assert seen.dtype == np.float32

    @pytest.mark.parametrize(("outside", "value"), [("mean", 0.0), ("minimum", None), (80.0, None)])
    def test_what_lies_beyond_the_image(self, outside, value):
        image = self.image()
        far = Grid.centered((2, 2, 2), (1, 1, 1), (500, 0, 0))
        seen = normalised(image, far, NormalisationConfig("z-score", outside=outside)).array
        expected = {"mean": image.array.mean(), "minimum": image.array.min()}.get(outside, outside)
        np.testing.assert_allclose(seen, (expected - image.array.mean()) / image.array.std(), atol=1e-5)
        if value is not None:
            np.testing.assert_allclose(seen, value, atol=1e-6)

    def test_window_clips(self):
        values = np.array([[-1000.0, -50, 0], [50, 150, 3000]])
        grid = Grid.centered((2, 3), (1, 1))
        config = NormalisationConfig("window", center=50, width=200)
        seen = normalised(Volume.from_array(values, grid), grid, config).array[0]
        np.testing.assert_allclose(seen, [[-1, -1, -0.5], [0, 1, 1]])

    def test_percentiles_fit_any_units_and_take_neither_padding_nor_outliers_into_account(self):
        rng = np.random.default_rng(3)
        values = np.zeros((40, 40, 40))
        values[10:30, 10:30, 10:30] = rng.uniform(200, 300, (20, 20, 20))
        grid, config = Grid.centered(values.shape, (1, 1, 1)), NormalisationConfig("percentile")
        seen = normalised(Volume.from_array(values, grid), grid, config).array[0]
        inside = seen[10:30, 10:30, 10:30]
        assert (seen[:5] == -1).all()
        assert (np.abs(inside) == 1).mean() == pytest.approx(0.02, abs=0.002)  # 1 % beyond either end
        np.testing.assert_allclose(inside.mean(), 0, atol=0.02)
        other = values * 0.03 - 700
        other[20, 20, 20] = 1e6
        seen_other = normalised(Volume.from_array(other, grid), grid, config).array[0]
        np.testing.assert_allclose(np.delete(seen_other, 20, 0), np.delete(seen, 20, 0), atol=2e-3)
        more = Volume.from_array(np.pad(values, 40), Grid.centered((120, 120, 120), (1, 1, 1)))
        np.testing.assert_allclose(normalised(more, grid, config).array[0], seen, atol=1e-5)

    def test_percentiles_of_a_mask_are_its_two_values(self):
        values = np.zeros(GRID.shape)
        values[2:4] = 7
        seen = normalised(Volume.from_array(values, GRID), GRID, NormalisationConfig("percentile")).array
        np.testing.assert_array_equal(seen[0], np.where(values > 0, 1, -1))

    def test_none_leaves_the_values(self):
        image = self.image(dtype=np.int16)
        seen = normalised(image, GRID, NormalisationConfig("none"))
        np.testing.assert_array_equal(seen.array, image.array.astype(np.float32))

    def test_small_integers_do_not_overflow(self):
        values = np.full(GRID.shape, 250, np.uint8)
        values[0] = 10
        seen = normalised(Volume.from_array(values, GRID), GRID, NormalisationConfig()).array
        assert seen.mean() == pytest.approx(0, abs=1e-5)
        assert seen.std() == pytest.approx(1, abs=1e-5)

    def test_antialias_is_a_setting(self):
        fine = Grid.centered((40, 40, 40), (1, 1, 1))
        coarse = Grid.centered((8, 8, 8), (5, 5, 5))
        on, off = (normalised(self.image(fine), coarse, NormalisationConfig(antialias=a)).array for a in (True, False))
        assert on.std() < 0.3 * off.std()

    @pytest.mark.parametrize(
        "values",
        [
            {"kind": "minmax"},
            {"width": 0.0},
            {"width": -5.0},
            {"center": float("nan")},
            {"outside": "median"},
            {"outside": float("inf")},
        ],
    )
    def test_impossible_settings(self, values):
        with pytest.raises(ConfigError):
            NormalisationConfig(**values)


class TestSoftLabels:
    def labels(self, oblique_grid) -> Volume:
        codes = np.zeros(oblique_grid.shape, np.int16)
        codes[4:12, 5:15, 6:20] = 7
        codes[8:12, 8:15, 10:20] = 300
        codes[0, 0, 0] = 99  # of a structure that the model does not know
        return Volume.from_array(codes, oblique_grid)

    def test_on_its_own_grid_it_is_one_hot(self, oblique_grid):
        volume = self.labels(oblique_grid)
        soft = soft_labels(volume, [0, 7, 300], oblique_grid, 0)
        codes = volume.array[0]
        expected = np.stack([(codes == 0) | (codes == 99), codes == 7, codes == 300])
        np.testing.assert_allclose(soft, expected, atol=1e-6)

    @pytest.mark.parametrize("blur", [0.0, 0.5, 2.0])
    def test_channels_sum_to_one_and_the_rest_is_background(self, oblique_grid, blur):
        grid = Grid.centered((14, 15, 16), (2.0, 2.5, 3.0), oblique_grid.center)
        soft = soft_labels(self.labels(oblique_grid), [0, 7, 300], grid, blur)
        np.testing.assert_allclose(soft.sum(axis=0), 1, atol=1e-5)
        assert soft.min() > -1e-5
        np.testing.assert_allclose(soft[:, 0, 0, 0], [1, 0, 0], atol=1e-4)
        assert soft[1:].max(axis=(1, 2, 3)).min() > 0.1

    def test_volume_is_kept_on_larger_voxels(self, oblique_grid):
        volume = self.labels(oblique_grid)
        grid = Grid.centered((14, 15, 16), (2.0, 2.5, 3.0), oblique_grid.center)
        soft = soft_labels(volume, [0, 7, 300], grid, 0.5)
        for channel, value in ((1, 7), (2, 300)):
            mm3 = (volume.array == value).sum() * oblique_grid.voxel_volume
            assert soft[channel].sum() * grid.voxel_volume == pytest.approx(mm3, rel=0.05)

    def test_images_are_no_labels(self, oblique_grid):
        with pytest.raises(VolumeError, match="not whole numbers"):
            soft_labels(Volume.from_array(np.full(oblique_grid.shape, 0.5), oblique_grid), [0, 1], oblique_grid, 0)


def test_foreground_center_is_the_centroid_in_millimetres(oblique_grid):
    codes = np.zeros(oblique_grid.shape, np.uint8)
    codes[3, 4, 5], codes[3, 4, 9], codes[9, 9, 9] = 1, 2, 3
    volume = Volume.from_array(codes, oblique_grid, "case 5")
    expected = oblique_grid.transform_points([7, 4, 3], "world", "voxel")
    np.testing.assert_allclose(foreground_center(volume, [1, 2]), expected, atol=1e-9)
    with pytest.raises(VolumeError, match="case 5 holds none"):
        foreground_center(volume, [4])
