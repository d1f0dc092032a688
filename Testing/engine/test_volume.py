"""Volumes: one image is one volume by every way in, and nothing half read or half written goes unnoticed."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from AtlasISTNLib.errors import GeometryError, OutputError, VolumeError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.volume import Volume, case_name, checked_image, checked_labels, write_atomically


def linear(points: np.ndarray) -> np.ndarray:
    """A field that linear interpolation reproduces exactly."""
    return points @ np.array([0.5, -1.25, 2.0])[: points.shape[-1]] + 3


@pytest.fixture
def a_volume(oblique_grid) -> Volume:
    values = np.random.default_rng(0).integers(-500, 1500, oblique_grid.shape).astype(np.int16)
    return Volume.from_array(values, oblique_grid, "scan")


def write_dicom(
    folder: Path, heights: list[float], series: str = "1.2.826.0.1.3680043.2.1125.1", start: int = 0
) -> None:
    """CT slices at some heights along an oblique normal; slice i holds i·100 + its pixels' numbers."""
    folder.mkdir(exist_ok=True)
    row, column = np.array([0.8, 0.6, 0.0]), np.array([-0.6, 0.8, 0.0])
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for i, height in enumerate(heights):
        pixels = sitk.GetImageFromArray((np.arange(30).reshape(5, 6) + 100 * i).astype(np.int16))
        pixels.SetSpacing((0.7, 0.9))
        position = np.array([10, 20, 30]) + height * np.cross(row, column)
        for key, value in {
            "0008|0060": "CT",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.9",
            "0020|000e": series,
            "0008|0018": f"{series}.{i}",
            "0020|0013": str(i + 1),
            "0020|0032": "\\".join(f"{x:.6f}" for x in position),
            "0020|0037": "\\".join(f"{x:.6f}" for x in (*row, *column)),
        }.items():
            pixels.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{start + i:02}.dcm"))
        writer.Execute(pixels)


class TestOneVolume:
    @pytest.mark.parametrize("ending", ["nii.gz", "nii", "nrrd", "mha"])
    def test_array_file_and_image_are_one(self, a_volume, tmp_path, ending):
        path = a_volume.write(tmp_path / f"scan.{ending}")
        read = Volume.read(path)
        image = Volume.from_sitk(sitk.ReadImage(str(path)), "scan")
        for other in (read, image):
            assert other.array.dtype == a_volume.array.dtype
            np.testing.assert_array_equal(other.array, a_volume.array)
            assert other.grid.same_as(a_volume.grid)
        assert read.name == "scan"
        assert [p.name for p in tmp_path.iterdir()] == [f"scan.{ending}"]

    @pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
    def test_channels_come_first_from_every_file(self, oblique_grid, tmp_path, ending):
        values = np.random.default_rng(1).normal(size=(3, *oblique_grid.shape)).astype(np.float32)
        volume = Volume.from_array(values, oblique_grid)
        read = Volume.read(volume.write(tmp_path / f"soft.{ending}"))
        np.testing.assert_array_equal(read.array, values)
        assert read.grid.same_as(oblique_grid)

    def test_png(self, tmp_path):
        values = np.random.default_rng(2).integers(0, 255, (9, 14)).astype(np.uint8)
        read = Volume.read(Volume.from_array(values, Grid.centered((9, 14), (1, 1))).write(tmp_path / "drawing.png"))
        np.testing.assert_array_equal(read.array[0], values)
        assert (read.grid.size, read.grid.spacing, read.grid.origin) == ((14, 9), (1.0, 1.0), (0.0, 0.0))

    def test_dicom_series(self, tmp_path):
        write_dicom(tmp_path / "ct", [0.0, 2.5, 5.0, 7.5])
        (tmp_path / "ct" / "notes.txt").write_text("not an image")
        read = Volume.read(tmp_path / "ct")
        expected = np.arange(30).reshape(5, 6) + 100 * np.arange(4)[:, None, None]
        np.testing.assert_array_equal(read.array[0], expected)
        grid = Grid((4, 5, 6), (0.7, 0.9, 2.5), (10, 20, 30), [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
        assert read.grid.same_as(grid)
        assert read.name == "ct"

    @pytest.mark.parametrize("kind", [">i2", ">f4", "f2", "u8", "bool", "longdouble"])
    def test_any_type_of_number_can_be_written_and_resampled(self, tmp_path, kind):
        values = np.arange(24).reshape(2, 3, 4).astype(kind)
        volume = Volume.from_array(values, Grid.centered((2, 3, 4), (1, 1, 1)))
        for other in (Volume.read(volume.write(tmp_path / "x.nrrd")), volume.resampled(volume.grid, "nearest")):
            np.testing.assert_array_equal(other.array[0], values.astype(np.float64))

    def test_arrays_cannot_be_changed(self, a_volume, tmp_path):
        for volume in (a_volume, Volume.read(a_volume.write(tmp_path / "x.nrrd")), a_volume.resampled(a_volume.grid)):
            with pytest.raises(ValueError, match="read-only"):
                volume.array[0, 0, 0, 0] = 1

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((4, 5)), "does not fit"),
            (np.zeros((0, 3, 4, 5)), "does not fit"),
            (np.zeros((3, 4, 6)), "does not fit"),
            (np.zeros((3, 4, 5), complex), "complex"),
            (np.full((3, 4, 5), "a"), "does not hold numbers"),
            (np.full((3, 4, 5), None), "does not hold numbers"),
        ],
    )
    def test_arrays_that_are_no_volume(self, array, message):
        with pytest.raises(VolumeError, match=message):
            Volume.from_array(array, Grid.centered((3, 4, 5), (1, 1, 1)), "x")

    @pytest.mark.parametrize(
        ("path", "name"),
        [("a/b.nii.gz", "b"), ("b.c.NRRD", "b.c"), ("x.seg.nrrd", "x"), ("d", "d"), ("e.txt", "e.txt")],
    )
    def test_names_of_cases(self, path, name):
        assert case_name(path) == name


class TestReadErrors:
    def refused(self, path: Path, message: str) -> None:
        with pytest.raises(VolumeError, match=message) as error:
            Volume.read(path)
        assert path.name in error.value.message

    def test_absent_empty_and_foreign_files(self, tmp_path):
        self.refused(tmp_path / "none.nii.gz", "does not exist")
        (tmp_path / "empty.nii.gz").touch()
        self.refused(tmp_path / "empty.nii.gz", "empty file")
        for ending in ("nii.gz", "nii", "nrrd", "mha", "png", "dcm", "txt"):
            (tmp_path / f"junk.{ending}").write_bytes(b"this is no image " * 50)
            self.refused(tmp_path / f"junk.{ending}", "cannot be read")

    @pytest.mark.parametrize("ending", ["nii.gz", "nii", "nrrd", "mha", "png"])
    def test_files_that_end_too_early(self, tmp_path, ending):
        shape = (40, 40) if ending == "png" else (12, 14, 16)
        values = np.random.default_rng(3).integers(0, 255, shape).astype(np.uint8)
        whole = Volume.from_array(values, Grid.centered(shape, [1.0] * len(shape))).write(tmp_path / f"whole.{ending}")
        data = whole.read_bytes()
        for share in (0.5, 0.9):
            short = tmp_path / f"short.{ending}"
            short.write_bytes(data[: int(len(data) * share)])
            self.refused(short, "cannot be read|too early")

    @pytest.mark.parametrize("where", [0.5, 1.0], ids=["in the data", "in the checksum"])
    def test_nifti_with_a_flipped_byte(self, a_volume, tmp_path, where):
        path = a_volume.write(tmp_path / "x.nii.gz")
        data = bytearray(path.read_bytes())
        data[int((len(data) - 6) * where)] ^= 0xFF
        path.write_bytes(data)
        self.refused(path, "damaged")

    @pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gz", "plain"])
    def test_nifti_with_a_voxel_width_of_zero(self, a_volume, tmp_path, pack):
        data = bytearray(a_volume.write(tmp_path / "x.nii").read_bytes())
        data[84:88] = bytes(4)
        path = tmp_path / "zero.nii.gz" if pack is gzip.compress else tmp_path / "zero.nii"
        path.write_bytes(pack(bytes(data)))
        self.refused(path, "spacing of zero")

    def test_four_dimensions(self, tmp_path):
        film = sitk.JoinSeries([sitk.Image(4, 5, 6, sitk.sitkInt16)] * 2)
        for ending in ("nii.gz", "nrrd"):
            sitk.WriteImage(film, str(tmp_path / f"film.{ending}"))
            self.refused(tmp_path / f"film.{ending}", "4 dimensions")

    def test_complex_numbers(self, tmp_path):
        sitk.WriteImage(sitk.Image((4, 5, 6), sitk.sitkComplexFloat32), str(tmp_path / "k.nii"))
        self.refused(tmp_path / "k.nii", "complex")

    def test_folder_without_dicom_and_with_two_series(self, tmp_path):
        (tmp_path / "none").mkdir()
        self.refused(tmp_path / "none", "without DICOM")
        write_dicom(tmp_path / "two", [0.0, 1.0, 2.0])
        write_dicom(tmp_path / "two", [0.0, 1.0, 2.0], series="1.2.826.0.1.3680043.2.1125.2", start=3)
        self.refused(tmp_path / "two", "2 DICOM series")

    @pytest.mark.parametrize("heights", [[0, 2, 6, 8], [0, 2, 2, 4], [0, 2, 4, 6, 0, 2, 4, 6]])
    def test_series_with_a_missing_or_doubled_slice(self, tmp_path, heights):
        write_dicom(tmp_path / "ct", [float(h) for h in heights])
        self.refused(tmp_path / "ct", "mm apart")

    def test_impossible_geometry_names_the_file(self, tmp_path):
        (tmp_path / "flat.mha").write_text(
            "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\n"
            "TransformMatrix = 1 0.4 0 0 1 0 0 0 1\nElementDataFile = LOCAL\n" + "a" * 8
        )
        with pytest.raises(GeometryError, match=r"flat\.mha.*not orthonormal"):
            Volume.read(tmp_path / "flat.mha")


class TestWrite:
    def test_unknown_ending_leaves_nothing(self, a_volume, tmp_path):
        with pytest.raises(OutputError, match=r"scan\.xyz"):
            a_volume.write(tmp_path / "scan.xyz")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("ending", ["mhd", "nhdr", "hdr", "img"])
    def test_formats_of_two_files_are_refused(self, a_volume, tmp_path, ending):
        with pytest.raises(OutputError, match="another file"):
            a_volume.write(tmp_path / f"scan.{ending}")
        assert list(tmp_path.iterdir()) == []

    def test_failure_keeps_the_old_file_and_nothing_else(self, tmp_path):
        old = tmp_path / "result.txt"
        old.write_text("old")

        def fail(partial: Path) -> None:
            partial.write_text("half")
            raise OSError("no space left on device")

        with pytest.raises(OutputError, match="no space left"):
            write_atomically(old, fail)
        assert [p.name for p in tmp_path.iterdir()] == ["result.txt"]
        assert old.read_text() == "old"

    def test_folders_are_made_and_files_replaced(self, a_volume, tmp_path):
        path = tmp_path / "new" / "folder" / "x.nrrd"
        a_volume.write(path)
        other = a_volume.with_array(a_volume.array + 1)
        assert other.write(path) == path
        np.testing.assert_array_equal(Volume.read(path).array, other.array)

    def test_a_file_in_the_way_of_the_folder(self, a_volume, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match="cannot write"):
            a_volume.write(tmp_path / "file" / "x.nrrd")


class TestResampled:
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_linear_fields_stay_exact_on_oblique_grids(self, ndim, oblique_grid, oblique_flat_grid):
        source = oblique_grid if ndim == 3 else oblique_flat_grid
        values = linear(source.points())
        target = Grid.centered([9, 7, 8][:ndim], [0.7, 0.9, 0.4][:ndim], source.center)
        seen = Volume.from_array(values, source).resampled(target)
        assert seen.grid == target
        assert seen.array.dtype == np.float32
        np.testing.assert_allclose(seen.array[0], linear(target.points()), atol=2e-4)

    def test_beyond_the_volume(self, a_volume):
        far = Grid.centered((2, 2, 2), (1, 1, 1), (500, 500, 500))
        assert np.unique(a_volume.resampled(far, outside=-7).array) == [-7]
        assert np.unique(a_volume.resampled(far, outside="minimum").array) == [a_volume.array.min()]

    def test_nearest_keeps_values_and_type(self, a_volume, oblique_grid):
        fine = oblique_grid.with_spacing([0.5] * 3)
        seen = a_volume.resampled(fine, "nearest", outside=-500)
        assert seen.array.dtype == np.int16
        assert set(np.unique(seen.array)) <= set(np.unique(a_volume.array))
        np.testing.assert_array_equal(a_volume.resampled(oblique_grid, "nearest").array, a_volume.array)

    def test_every_channel_is_resampled(self, oblique_grid):
        values = linear(oblique_grid.points())
        both = Volume.from_array(np.stack([values, -values]), oblique_grid)
        target = Grid.centered((5, 5, 5), (1, 1, 1), oblique_grid.center)
        seen = both.resampled(target).array
        np.testing.assert_allclose(seen[1], -seen[0], atol=1e-4)
        np.testing.assert_allclose(seen[0], linear(target.points()), atol=2e-4)

    def test_antialias_averages_and_does_not_skip(self):
        fine = Grid.centered((48, 48, 48), (1, 1, 1))
        noise = Volume.from_array(100 + np.random.default_rng(4).normal(0, 30, fine.shape), fine)
        coarse = Grid.centered((8, 8, 8), (5, 5, 5))
        skipped, averaged = (noise.resampled(coarse, antialias=on).array for on in (False, True))
        assert averaged.mean() == pytest.approx(100, abs=1)
        assert averaged.std() < 0.25 * skipped.std()
        # A linear field has its own mean everywhere: blurring does not move anything.
        inner = Grid.centered((4, 4, 4), (5, 5, 5), (0.5, -0.5, 1.0))
        seen = Volume.from_array(linear(fine.points()), fine).resampled(inner, antialias=True)
        np.testing.assert_allclose(seen.array[0], linear(inner.points()), atol=0.02)

    def test_antialias_blurs_only_along_the_larger_voxels(self):
        line = np.zeros((21, 21, 21))
        line[10, 10, :] = 1  # along x
        fine = Grid.centered(line.shape, (1, 1, 1))
        wide_in_x = Grid.centered((21, 21, 5), (4, 1, 1))
        seen = Volume.from_array(line, fine).resampled(wide_in_x, antialias=True).array[0]
        np.testing.assert_allclose(seen[10, 10], 1, atol=1e-5)
        # The same voxels on axes in another order: x of the target runs along z of the world.
        turned = Grid.centered((5, 21, 21), (1, 1, 4), (0, 0, 0), np.eye(3)[:, [2, 1, 0]])
        seen = Volume.from_array(line, fine).resampled(turned, antialias=True).array[0]
        assert seen[2, 10, 10] == pytest.approx(1, abs=1e-5)

    def test_antialias_does_nothing_to_smaller_voxels(self, a_volume):
        fine = a_volume.grid.with_spacing([0.6] * 3)
        np.testing.assert_array_equal(
            a_volume.resampled(fine, antialias=True).array, a_volume.resampled(fine, antialias=False).array
        )

    def test_dimensions_and_interpolations_must_fit(self, a_volume, oblique_flat_grid):
        with pytest.raises(GeometryError, match="3D, the grid 2D"):
            a_volume.resampled(oblique_flat_grid)
        with pytest.raises(GeometryError, match="cubic"):
            a_volume.resampled(a_volume.grid, "cubic")


class TestChecks:
    def volume(self, shape, change=None):
        values = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
        if change is not None:
            values.flat[0] = change
        return Volume.from_array(values, Grid.centered(shape, [1.0] * len(shape)), "case 7")

    @pytest.mark.parametrize(("shape", "ndim"), [((3, 4, 5), 3), ((1, 4, 5), 2), ((4, 1, 5), 2), ((4, 5), 2)])
    def test_usable_images_pass(self, shape, ndim):
        volume = self.volume(shape)
        assert checked_image(volume, ndim) is volume

    @pytest.mark.parametrize(
        ("shape", "ndim", "change", "message"),
        [
            ((1, 4, 5), 3, None, "a single slice"),
            ((4, 5), 3, None, "is 2D"),
            ((1, 1, 5), 3, None, "a line"),
            ((3, 4, 5), 2, None, "the model is 2D"),
            ((1, 1, 5), 2, None, "the model is 2D"),
            ((3, 4, 5), 3, np.nan, "1 values that are NaN"),
            ((3, 4, 5), 3, -np.inf, "1 values that are NaN"),
            ((3, 4, 5), 3, 1e300, "1e\\+300"),
        ],
    )
    def test_unusable_images_are_named(self, shape, ndim, change, message):
        with pytest.raises(VolumeError, match=f"case 7.*{message}"):
            checked_image(self.volume(shape, change), ndim)

    def test_channels_and_constant_images(self):
        grid = Grid.centered((3, 4, 5), (1, 1, 1))
        with pytest.raises(VolumeError, match="3 values per voxel"):
            checked_image(Volume.from_array(np.zeros((3, 3, 4, 5)), grid), 3)
        with pytest.raises(VolumeError, match="same value 4 everywhere"):
            checked_image(Volume.from_array(np.full((3, 4, 5), 4), grid), 3)

    def test_labels_are_whole_numbers(self):
        assert checked_labels(self.volume((4, 5))).dtype == np.int64
        for value in (0.5, np.nan, np.inf):
            with pytest.raises(VolumeError, match="not whole numbers"):
                checked_labels(self.volume((4, 5), value))
        with pytest.raises(VolumeError, match="2 channels"):
            checked_labels(Volume.from_array(np.zeros((2, 4, 5)), Grid.centered((4, 5), (1, 1))))
