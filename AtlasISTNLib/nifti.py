"""A look at NIfTI files before ITK reads them, for what it reads without a word.

ITK takes a voxel width of zero for 1 mm, zeros for what a damaged file lacks, and zeros for NaN and infinity.
The layout is that of https://nifti.nimh.nih.gov/nifti-1; ITK does not read version 2.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from .errors import VolumeError

NIFTI_ENDINGS = (".nii", ".nii.gz")

_AGAIN = "copy it again from its source"
_BLOCK = 1 << 22
#: Codes of the types that have NaN, and the real type that they are made of.
_FLOATS = {16: "f4", 32: "f4", 64: "f8", 1792: "f8"}


@dataclass(frozen=True)
class _Header:
    order: str
    sizes: tuple[int, ...]
    widths: tuple[float, ...]
    datatype: int
    bits: int
    offset: int

    @property
    def data_bytes(self) -> int:
        return math.prod(max(1, n) for n in self.sizes) * self.bits // 8

    @classmethod
    def of(cls, head: bytes) -> _Header | None:
        """From the first 348 bytes; None for the Analyze files that some call NIfTI, and for what is neither."""
        for order in "<>":
            if struct.unpack_from(f"{order}i", head)[0] == 348 and head[344:347] == b"n+1":
                axes, *sizes = struct.unpack_from(f"{order}8h", head, 40)
                datatype, bits = struct.unpack_from(f"{order}2h", head, 70)
                widths = struct.unpack_from(f"{order}8f", head, 76)[1:]
                offset = struct.unpack_from(f"{order}f", head, 108)[0]
                if 0 < axes <= 7 and math.isfinite(offset):
                    return cls(order, tuple(sizes[:axes]), widths[:axes], datatype, bits, int(offset))
        return None


def check_nifti(path: Path, d: int) -> None:
    """Refuse a file that ITK would read wrongly without a word.

    Args:
        path: of a single NIfTI file, zipped or not.
        d: axes that matter.

    Raises:
        VolumeError: it ends too early or is damaged, has a voxel width of zero, or holds NaN or infinite values.
    """
    with contextlib.ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(open(path, "rb"))
        if stream.read(2) == b"\x1f\x8b":
            stream = cast(IO[bytes], stack.enter_context(gzip.open(path, "rb")))
        stream.seek(0)
        try:
            head = stream.read(348)
            if len(head) < 348:
                raise VolumeError(f"{path} ends too early, in its header", _AGAIN)
            header = _Header.of(head)
            if header is None:
                return
            if not all(math.isfinite(width) and width != 0 for width in header.widths[:d]):
                raise VolumeError(
                    f"{path} has a voxel spacing of {_worst(header.widths[:d])} in its header", "correct the header"
                )
            stream.seek(header.offset)
            bad = _bad_values(stream, header, path)
        except (EOFError, OSError, zlib.error) as error:
            raise VolumeError(f"{path} is damaged or ends too early", _AGAIN) from error
    if bad:
        raise VolumeError(f"{path} holds {bad} values that are NaN or infinite", "replace them first")


def _bad_values(stream: IO[bytes], header: _Header, path: Path) -> int:
    """Read all data; the number of values that are not finite."""
    kind = _FLOATS.get(header.datatype)
    bad, length = 0, 0
    for block in _blocks(stream, header.data_bytes):
        length += len(block)
        if kind is not None:
            whole = len(block) - len(block) % int(kind[1])  # only a file that ends too early has a part of a value
            bad += int((~np.isfinite(np.frombuffer(block[:whole], f"{header.order}{kind}"))).sum())
    if length < header.data_bytes:
        raise VolumeError(f"{path} ends too early, after {length} of {header.data_bytes} bytes of voxels", _AGAIN)
    # A zipped file says in its last bytes whether it is whole.
    stream.read(1)
    return bad


def _blocks(stream: IO[bytes], count: int) -> Iterator[bytes]:
    while count > 0:
        block = stream.read(min(_BLOCK, count))
        if not block:
            return
        count -= len(block)
        yield block


def _worst(widths: tuple[float, ...]) -> str:
    return "zero" if 0 in widths else f"{next(w for w in widths if not math.isfinite(w))}"
