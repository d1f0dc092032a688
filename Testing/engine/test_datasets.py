"""Data sets: pairs as people keep them, and how they come onto a model grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib.configs import NormalisationConfig
from AtlasISTNLib.datasets import (
    Case,
    cases_from_csv,
    cases_from_folders,
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

    def test_image_and_labels_must_lie_on_one_grid(self):
        image = Volume.from_array(np.zeros(GRID.shape), GRID)
        moved = Grid(GRID.shape, GRID.spacing, np.add(GRID.origin, 0.5), GRID.direction)
        with pytest.raises(VolumeError, match=r"case 3.*different grids"):
            Case("case 3", image, Volume.from_array(np.zeros(GRID.shape), moved)).load()

    def test_letter_b_of_the_released_code(self, shared_data):
        folder = shared_data / "letter-b"
        if not folder.is_dir():
            pytest.skip(f"no letters at {folder}")
        cases = cases_from_csv(folder / "train.csv", folder / "train.seg.csv")
        assert len(cases) > 500
        image, labels = cases[0].load()
        assert image.grid.shape == labels.grid.shape == (128, 128)
        assert set(np.unique(labels.array)) == {0, 255}


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
