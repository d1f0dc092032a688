"""Outputs: the folder of files that a segmented case becomes. It appears whole or not at all."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from .bundle import Bundle
from .correspondence import ATLAS_FROM_IMAGE, IMAGE_FROM_ATLAS
from .errors import ConfigError, OutputError
from .progress import Progress, Report, silent
from .report import summary, write_picture
from .result import Result
from .volume import Volume, write_atomically

#: Endings of the images that are written.
FORMATS = ("nii.gz", "nrrd")
#: Files of a case: images by their stems, and the others by their names.
IMAGES = ("labels", "prediction", "one-pass", "atlas-image")
TRANSFORMS = {IMAGE_FROM_ATLAS: "image-from-atlas.h5", ATLAS_FROM_IMAGE: "atlas-from-image.h5"}
REPORT, PICTURE = "report.json", "report.png"
_OURS = frozenset(
    {f"{stem}.{ending}" for stem in IMAGES for ending in FORMATS} | {*TRANSFORMS.values(), REPORT, PICTURE}
)
_PREFIX = ".atlas-istn-"  # of hidden folders beside a case
_HINT = "choose another folder or make room there"

_log = logging.getLogger(__name__)


def check_output(folder: str | os.PathLike[str], overwrite: bool) -> None:
    """See, before any heavy work, that a case can be written to a folder.

    Args:
        folder: where the case is to go; it need not exist, and neither need its parents.
        overwrite: whether a case that is there already may be replaced.

    Raises:
        OutputError: there is a file in its place, it holds something without `overwrite`, it holds files that no case
            has, or nothing can be written beside it.
    """
    path = _real(folder)
    _check_content(path, Path(folder), overwrite)
    place = path.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"{place} is not a folder", "choose another folder")
    try:
        # Permissions do not tell on every system; a folder that was made does.
        os.rmdir(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    except OSError as error:
        raise OutputError(f"cannot write to {place}: {_reason(error)}", _HINT) from error


def write_result(
    bundle: Bundle,
    result: Result,
    folder: str | os.PathLike[str],
    *,
    format: str = "nii.gz",
    overwrite: bool = False,
    reference: Volume | None = None,
    picture: bool = True,
    source: str = "",
    report: Report = silent,
) -> Path:
    """Write a case: label maps, the atlas image, both transforms, the picture and, last of all, the report.

    Everything goes to a hidden folder beside `folder`, which takes its place when it is whole; a case that was there is
    kept until then. If anything fails, all is as it was before.

    Args:
        bundle: the model that made the result.
        result: from `segment` or `refine`.
        folder: where the case goes; absent parents are made.
        format: of the images, one of `FORMATS`.
        overwrite: replace a case that is there.
        reference: true labels on the image's grid, for the report.
        picture: whether to draw report.png.
        source: where the image came from, for the report.
        report: told after every file, stage "write".

    Returns:
        `folder`.

    Raises:
        OutputError: see `check_output`, or writing failed.
        ConfigError: an unknown format.
        GeometryError, VolumeError: the reference does not fit the image.
    """
    if format not in FORMATS:
        raise ConfigError(f"no image format '{format}'", f"use one of {', '.join(FORMATS)}")
    check_output(folder, overwrite)
    asked, path = Path(folder), _real(folder)
    try:
        with _scratch_beside(path) as scratch:
            figures = summary(bundle, result, reference, source)
            files = _files(result, format)
            if picture:
                files[PICTURE] = lambda p: write_picture(bundle, result, p, reference, figures)
            text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            files[REPORT] = lambda p: write_atomically(p, lambda q: q.write_text(text, encoding="utf-8"))
            for count, (name, write) in enumerate(files.items(), 1):
                with _named(scratch, asked):
                    write(scratch / name)
                report(Progress("write", count, len(files), message=name))
            _move_in(scratch, path, asked, overwrite)
    except OSError as error:
        raise OutputError(f"cannot write {asked}: {_reason(error)}", _HINT) from error
    return asked


def _files(result: Result, ending: str) -> dict[str, Callable[[Path], object]]:
    """What writes each image and transform, by file name."""
    volumes = {
        "labels": lambda: result.labels,
        "prediction": lambda: result.prediction,
        "one-pass": lambda: result.one_pass_labels,
        "atlas-image": lambda: result.atlas_image,
    }
    files: dict[str, Callable[[Path], object]] = {}
    for stem in IMAGES:
        files[f"{stem}.{ending}"] = lambda p, volume=volumes[stem]: volume().write(p)  # type: ignore[misc]
    for which, name in TRANSFORMS.items():
        files[name] = lambda p, which=which: result.correspondence.write(which, p)  # type: ignore[misc]
    return files


def _real(folder: str | os.PathLike[str]) -> Path:
    """The folder itself behind links and "..", so that it and what lies beside it are on one disk."""
    return Path(folder).resolve()


def _check_content(path: Path, asked: Path, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise OutputError(f"{asked} is a file", "choose another folder")
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise OutputError(f"cannot read the folder {asked}: {_reason(error)}", "choose another folder") from error
    if names and not overwrite:
        raise OutputError(
            f"{asked} exists and is not empty", "choose another folder or add --overwrite (overwrite=True)"
        )
    foreign = [name for name in names if name not in _OURS or (path / name).is_dir()]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise OutputError(
            f"{asked} holds other files than a case's ({', '.join(foreign[:3])}{more})", "choose another folder"
        )


@contextlib.contextmanager
def _scratch_beside(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`. What is left of it is removed at the end, and so are parents made in vain."""
    missing = [place for place in path.parents if not place.exists()]
    scratch = _hidden_beside(path)
    try:
        scratch.mkdir(parents=True)
        yield scratch
    finally:
        if scratch.exists():
            shutil.rmtree(scratch, ignore_errors=True)
        if not path.exists():
            with contextlib.suppress(OSError):  # not made, or in use by somebody else by now
                for place in missing:
                    place.rmdir()


@contextlib.contextmanager
def _named(scratch: Path, asked: Path) -> Iterator[None]:
    """Errors speak of the folder that people asked for, not of the hidden one."""
    try:
        yield
    except OutputError as error:
        raise OutputError(error.message.replace(str(scratch), str(asked)), error.hint) from error


def _hidden_beside(path: Path) -> Path:
    return path.with_name(f"{_PREFIX}{uuid.uuid4().hex[:12]}")


def _move_in(new: Path, path: Path, asked: Path, overwrite: bool) -> None:
    """Put a finished folder in its place; what was there stays if that fails."""
    if not os.path.lexists(path):
        os.rename(new, path)
        return
    old = _hidden_beside(path)
    os.rename(path, old)
    try:
        # Somebody may have put something there since it was checked first.
        _check_content(old, asked, overwrite)
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    try:
        for entry in list(old.iterdir()):
            entry.unlink()
        old.rmdir()
    except OSError as error:
        _log.warning("the new result is in %s, but the old one could not be removed from %s: %s", asked, old, error)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


__all__ = ["FORMATS", "IMAGES", "PICTURE", "REPORT", "TRANSFORMS", "check_output", "write_result"]
