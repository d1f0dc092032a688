"""Volumes: arrays on grids, read from and written to what people have.

A file, a SimpleITK image and an array all give the same `Volume`. NIfTI, NRRD, MHA, PNG and DICOM go through SimpleITK,
so that the world is always LPS millimetres.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import scipy  # opens its parts when they are first used: the panel need not wait for them
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from .errors import GeometryError, OutputError, VolumeError
from .geometry import Grid, Plane
from .nifti import NIFTI_ENDINGS, check_nifti

#: Endings that are taken off a file's name to name its case, longest first.
IMAGE_ENDINGS = (
    ".nii.gz",
    ".seg.nrrd",
    ".nii",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
    ".png",
    ".tif",
    ".tiff",
    ".jpg",
    ".dcm",
)

#: Headers whose voxels lie in a second file, which cannot both appear at once.
_DETACHED = (".mhd", ".nhdr", ".hdr", ".img")
#: Beyond it the square of a value leaves the single-precision numbers.
_LARGEST = 1e18
_DICOM_POSITION = "0020|0032"
_INTERPOLATORS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}


@dataclass(frozen=True, eq=False)
class Volume:
    """An array (C, Z, Y, X), or (C, Y, X), on a `Grid`; the array is read-only.

    Args:
        array: C channels first, then the grid's shape; any real or integer type.
        grid: where the voxels lie.
        name: what people call it; shows up in messages and names of results.

    Raises:
        VolumeError: the array is not numeric, is empty, or does not fit the grid.
    """

    array: NDArray[Any]
    grid: Grid
    name: str = ""

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        label = self.name or "the array"
        if array.dtype.kind == "b":
            array = array.astype(np.uint8)
        elif array.dtype.kind in "iuf":
            # SimpleITK knows neither half and long floats nor foreign byte orders.
            plain = {2: "f4", 16: "f8"}.get(array.dtype.itemsize) if array.dtype.kind == "f" else None
            array = array.astype(plain or array.dtype.newbyteorder("="), copy=False)
        if array.dtype.kind == "c":
            raise VolumeError(f"{label} holds complex numbers", "take its magnitude or real part first")
        if array.dtype.kind not in "iuf":
            raise VolumeError(f"{label} does not hold numbers (type {array.dtype})")
        if array.shape[1:] != self.grid.shape or array.shape[0] < 1:
            raise VolumeError(f"{label} of shape {array.shape} does not fit a grid of shape (C, {self.grid.shape})")
        view = array.view()
        view.flags.writeable = False
        object.__setattr__(self, "array", view)

    @classmethod
    def from_array(cls, array: ArrayLike, grid: Grid, name: str = "") -> Volume:
        """A volume from an array of the grid's shape, or with channels before it. The array is not copied."""
        values = np.asarray(array)
        return cls(values[np.newaxis] if values.ndim == grid.ndim else values, grid, name)

    @classmethod
    def from_sitk(cls, image: sitk.Image, name: str = "") -> Volume:
        """A volume from a SimpleITK image; the voxels are copied.

        Raises:
            VolumeError: the image has more than three dimensions with more than one voxel in the last ones, is empty,
                or holds complex numbers.
            GeometryError: its spacing or direction is impossible.
        """
        label = name or "the image"
        while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
            # Scanners' exports often call a single volume a series of one.
            image = image[(slice(None),) * (image.GetDimension() - 1) + (0,)]
        d = image.GetDimension()
        if d > 3:
            raise VolumeError(
                f"{label} has {d} dimensions (size {image.GetSize()})", "extract one 3D volume of it first"
            )
        if "complex" in image.GetPixelIDTypeAsString():
            raise VolumeError(f"{label} holds complex numbers", "take its magnitude or real part first")
        if image.GetNumberOfPixels() == 0:
            raise VolumeError(f"{label} is empty (size {image.GetSize()})")
        grid = Grid(image.GetSize()[::-1], image.GetSpacing(), image.GetOrigin(), cast(Any, image.GetDirection()))
        array = sitk.GetArrayFromImage(image)
        array = np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[np.newaxis]
        return cls(np.ascontiguousarray(array), grid, name)

    @classmethod
    def read(cls, path: str | os.PathLike[str], name: str | None = None) -> Volume:
        """Read an image file (NIfTI, NRRD, MHA, PNG, a DICOM file, …) or a folder with one DICOM series.

        Args:
            path: the file or folder.
            name: the volume's name; by default the file's name without its ending.

        Raises:
            VolumeError: absent, unreadable, ambiguous, or not a 2D or 3D image of real numbers.
            GeometryError: its spacing or direction is impossible.
        """
        path = Path(path)
        label = case_name(path) if name is None else name
        if not path.exists():
            raise VolumeError(f"{path} does not exist", "check the path")
        image = _read_dicom_folder(path) if path.is_dir() else _read_file(path)
        try:
            return cls.from_sitk(image, label)
        except (VolumeError, GeometryError) as error:
            raise type(error)(f"{path}: {error.message}", error.hint) from error

    def to_sitk(self) -> sitk.Image:
        """The same as a SimpleITK image; several channels become a vector image."""
        vector = self.array.shape[0] > 1
        values = np.ascontiguousarray(np.moveaxis(self.array, 0, -1) if vector else self.array[0])
        image = sitk.GetImageFromArray(values, isVector=vector)
        image.SetSpacing(self.grid.spacing)
        image.SetOrigin(self.grid.origin)
        image.SetDirection(np.ravel(self.grid.direction).tolist())
        return image

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the volume; the file appears whole or not at all. The ending chooses the format.

        Raises:
            OutputError: the place cannot be written, or the ending is unknown or that of a format of two files.
        """
        if Path(path).suffix.lower() in _DETACHED:
            raise OutputError(f"cannot write {path}: the format keeps its voxels in another file", "use .nrrd or .mha")
        image = self.to_sitk()
        return write_atomically(path, lambda partial: sitk.WriteImage(image, str(partial), useCompression=True))

    def with_array(self, array: ArrayLike) -> Volume:
        """The same grid and name with other voxels: (C, *shape) or (*shape)."""
        return Volume.from_array(array, self.grid, self.name)

    def resampled(
        self, grid: Grid, interpolation: str = "linear", outside: float | str = 0.0, antialias: bool = False
    ) -> Volume:
        """The volume on another grid of the same world.

        Args:
            grid: the grid to fill.
            interpolation: "linear" (gives float32) or "nearest" (keeps the type).
            outside: value beyond the volume, or "minimum" for its smallest value.
            antialias: blur first where the new voxels are larger, with σ = ½ √(r² − 1) old voxels for voxels r times as
                large, so that noise and thin structures are averaged and not skipped. Only with "linear".

        Raises:
            GeometryError: the grids have different numbers of dimensions.
        """
        if grid.ndim != self.grid.ndim:
            raise GeometryError(f"{self.name or 'the volume'} is {self.grid.ndim}D, the grid {grid.ndim}D")
        if interpolation not in _INTERPOLATORS:
            raise GeometryError(f"no interpolation '{interpolation}'", f"use one of {list(_INTERPOLATORS)}")
        value = float(self.array.min()) if outside == "minimum" else float(outside)
        source = self
        if interpolation == "linear":
            sigma = _antialias_sigma(self.grid, grid) if antialias else None
            source = self.with_array(_blurred(self.array, sigma))
        image = sitk.Resample(
            source.to_sitk(), _sitk_reference(grid), sitk.Transform(), _INTERPOLATORS[interpolation], value
        )
        return replace(Volume.from_sitk(image, self.name), grid=grid)


def case_name(path: str | os.PathLike[str]) -> str:
    """The name of a case: its file's name without a known ending."""
    name = Path(path).resolve().name
    for ending in IMAGE_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def flattened(volume: Volume) -> tuple[Volume, Plane]:
    """A 3D volume of a single slice as a 2D one, and the plane that leads back.

    Raises:
        GeometryError: it is not a single slice.
    """
    plane = Plane.of(volume.grid)
    array = volume.array.reshape(-1, *plane.grid.shape)
    return Volume.from_array(array, plane.grid, volume.name), plane


def flat(volume: Volume) -> Volume:
    """A 3D volume of a single slice as the 2D image that it is: seen in 3D, all of it would be surface."""
    return flattened(volume)[0] if volume.grid.ndim == 3 and volume.grid.shape.count(1) == 1 else volume


def checked_image(volume: Volume, ndim: int) -> Volume:
    """The volume, when a model of `ndim` dimensions can segment it.

    Raises:
        VolumeError: several channels, not finite, constant, or of the wrong dimension or thickness.
    """
    name = volume.name or "the image"
    array, shape = volume.array, volume.grid.shape
    if array.shape[0] != 1:
        raise VolumeError(
            f"{name} has {array.shape[0]} values per voxel", "convert it to one grey value per voxel first"
        )
    thick = sum(n > 1 for n in shape)
    if ndim == 3 and (len(shape) < 3 or thick < 3):
        kind = "2D" if len(shape) == 2 else "a single slice" if thick == 2 else "a line of voxels"
        raise VolumeError(
            f"{name} is {kind} (size {volume.grid.size}) but the model is 3D", "use a 3D image or a model for 2D images"
        )
    if ndim == 2 and thick != 2:
        raise VolumeError(
            f"{name} has size {volume.grid.size} but the model is 2D", "use a single slice or a model for 3D images"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise VolumeError(f"{name} holds {count} values that are NaN or infinite", "replace them first")
    if np.abs([float(array.min()), float(array.max())]).max() > _LARGEST:
        raise VolumeError(f"{name} holds values from {array.min():g} to {array.max():g}", "correct or clip them first")
    if array.min() == array.max():
        raise VolumeError(f"{name} has the same value {array.min():g} everywhere", "check that it is the right image")
    return volume


def checked_labels(volume: Volume) -> NDArray[np.int64]:
    """The values of a label map as whole numbers, (Z, Y, X) or (Y, X).

    Raises:
        VolumeError: several channels, or values that are not whole numbers.
    """
    name = volume.name or "the label map"
    if volume.array.shape[0] != 1:
        raise VolumeError(f"{name} has {volume.array.shape[0]} channels", "give a label map with one number per voxel")
    values = volume.array[0]
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise VolumeError(f"{name} holds values that are not whole numbers", "give a label map, not an image")
    return values.astype(np.int64)


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Call `write` with a temporary name beside `path` and move the file over `path` once it is whole.

    Raises:
        OutputError: nothing could be written there; nothing is left behind.
    """
    path = Path(path)
    # The temporary name keeps the ending, which chooses the format, and never collides with another run's.
    partial = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise OutputError(f"cannot write {path}: {reason}", "choose another folder or make room there") from error
    finally:
        # Where the folder itself is impossible, removing the file in it fails as making it did.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def _read_file(path: Path) -> sitk.Image:
    if path.stat().st_size == 0:
        raise VolumeError(f"{path} is an empty file", "copy it again from its source")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_header(path, reader)
        return reader.Execute()
    except RuntimeError as error:
        raise VolumeError(f"{path} cannot be read as an image", "is it damaged, or another kind of file?") from error


def _check_header(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuse before the voxels are read what would be refused after it."""
    d = reader.GetDimension()
    if any(n > 1 for n in reader.GetSize()[3:]):
        raise VolumeError(f"{path} has {d} dimensions (size {reader.GetSize()})", "extract one 3D volume of it first")
    if path.name.lower().endswith(NIFTI_ENDINGS):
        check_nifti(path, min(d, 3))


def _read_dicom_folder(path: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(path))
    if not series:
        images = sorted(p.name for p in path.iterdir() if p.name.lower().endswith(IMAGE_ENDINGS))
        hint = f"give the image files in it, such as {path / images[0]}" if images else "give an image file"
        raise VolumeError(f"{path} is a folder without DICOM images", f"{hint}, or a folder with one series")
    if len(series) > 1:
        raise VolumeError(f"{path} holds {len(series)} DICOM series", "give a folder with one series")
    files = reader.GetGDCMSeriesFileNames(str(path), series[0])
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise VolumeError(
            f"{path}: the DICOM series cannot be read", "are slices missing or of different sizes?"
        ) from error
    _check_slices(path, reader, len(files))
    return image


def _check_slices(path: Path, reader: sitk.ImageSeriesReader, count: int) -> None:
    """Refuse uneven slices, which ITK spreads evenly: where one is missing, all others would lie in wrong places."""
    if not all(reader.HasMetaDataKey(i, _DICOM_POSITION) for i in range(count)):
        return
    positions = [[float(x) for x in reader.GetMetaData(i, _DICOM_POSITION).split("\\")] for i in range(count)]
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if len(gaps) > 1 and np.abs(gaps - np.median(gaps)).max() > 0.1 * np.median(gaps):
        raise VolumeError(
            f"{path}: the slices of the DICOM series lie {gaps.min():.3g} to {gaps.max():.3g} mm apart",
            "slices are missing or doubled; give the whole series, one volume of it",
        )


def _sitk_reference(grid: Grid) -> sitk.Image:
    """An image that only says the grid; one bit per voxel would do, a byte is the smallest there is."""
    image = sitk.Image(grid.size, sitk.sitkUInt8)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(np.ravel(grid.direction).tolist())
    return image


def _antialias_sigma(source: Grid, target: Grid) -> list[float]:
    """σ of the blur along the source's array axes, in source voxels."""
    turn = np.array(target.direction).T @ np.array(source.direction)
    width = np.sqrt(((np.array(target.spacing)[:, np.newaxis] * turn) ** 2).sum(axis=0))
    ratio = width / np.array(source.spacing)
    sigma = 0.5 * np.sqrt(np.maximum(ratio**2 - 1, 0))
    return [float(s) for s in sigma[::-1]]


def _blurred(array: NDArray[Any], sigma: list[float] | None) -> NDArray[np.float32]:
    values = array.astype(np.float32)
    if sigma is None or max(sigma) < 0.1:
        return values
    return np.stack([scipy.ndimage.gaussian_filter(channel, sigma, mode="nearest") for channel in values])
