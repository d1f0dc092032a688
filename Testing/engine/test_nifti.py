"""What ITK would read wrongly from a NIfTI file is refused before it does; whole files of every layout pass."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib import nifti
from AtlasISTNLib.errors import VolumeError
from AtlasISTNLib.nifti import check_nifti
from AtlasISTNLib.volume import Volume

SHAPE = (5, 6, 7)
CODES = {"i2": 4, "f4": 16, "f8": 64}


def a_file(
    path: Path,
    array: np.ndarray,
    kind: str = "f4",
    order: str = "<",
    widths: tuple[float, ...] = (1.0, 2.0, 3.0, 0.0),
) -> Path:
    """A NIfTI file of one volume, written byte by byte."""
    sizes = (4, *array.shape[::-1], 1, 1, 1, 1)
    bits = array.dtype.itemsize * 8
    head = bytearray(352)
    struct.pack_into(f"{order}i", head, 0, 348)
    struct.pack_into(f"{order}8h", head, 40, *sizes)
    struct.pack_into(f"{order}2h", head, 70, CODES[kind], bits)
    struct.pack_into(f"{order}5f", head, 76, 1.0, *widths)
    struct.pack_into(f"{order}f", head, 108, 352.0)
    head[344:348] = b"n+1\0"
    data = bytes(head) + array.astype(order + kind).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def values() -> np.ndarray:
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.float32)


layouts = pytest.mark.parametrize(("name", "order"), [("a.nii", "<"), ("a.nii", ">"), ("a.nii.gz", "<")])


@layouts
def test_whole_files_pass(tmp_path, values, name, order):
    path = a_file(tmp_path / name, values, order=order)
    check_nifti(path, 3)  # the width of 0 along time says nothing
    assert np.array_equal(Volume.read(path).array[0], values)


@layouts
def test_nan_in_the_last_voxel(tmp_path, values, name, order, monkeypatch):
    monkeypatch.setattr(nifti, "_BLOCK", 64)  # many blocks
    values[-1, -1, -1] = np.nan
    values[0, 0, 1] = -np.inf
    with pytest.raises(VolumeError, match="2 values that are NaN"):
        check_nifti(a_file(tmp_path / name, values, order=order), 3)


@layouts
@pytest.mark.parametrize("width", [0.0, np.nan])
def test_impossible_widths(tmp_path, values, name, order, width):
    path = a_file(tmp_path / name, values, order=order, widths=(1.0, width, 1.0, 1.0))
    with pytest.raises(VolumeError, match=r"spacing of (zero|nan)"):
        check_nifti(path, 3)


@layouts
@pytest.mark.parametrize("kept", [1, 300, 600, -1])
def test_files_that_end_too_early(tmp_path, values, name, order, kept):
    path = a_file(tmp_path / name, np.random.default_rng(0).normal(size=SHAPE), "f8", order)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(VolumeError, match="too early"):
        check_nifti(path, 3)


def test_a_zipped_file_whose_check_sum_is_wrong(tmp_path, values):
    path = a_file(tmp_path / "a.nii.gz", values)
    data = bytearray(path.read_bytes())
    data[-8] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(VolumeError, match="damaged"):
        check_nifti(path, 3)


def test_whole_numbers_are_not_looked_at_for_nan(tmp_path):
    check_nifti(a_file(tmp_path / "a.nii", np.full(SHAPE, -1, np.int16), "i2"), 3)


def test_what_is_no_nifti_is_left_to_itk(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"words " * 200)
    check_nifti(tmp_path / "a.nii", 3)
