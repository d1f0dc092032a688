"""Exports: the files that a result becomes. All of them appear or none does, and nothing is replaced unasked."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from AtlasISTNLib.errors import OutputError

from . import export_files, nodes
from .measures import Table

#: File formats of surfaces and of transforms.
SURFACE_FORMATS = ("stl", "obj", "vtk")
TRANSFORM_FORMATS = ("h5", "nrrd")
_PREFIX = ".atlas-istn-"
#: Names that Windows keeps for devices, and signs that it allows in no name.
_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{d}{n}" for d in ("COM", "LPT") for n in range(1, 10))})
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]+')
_LONGEST = 80


@dataclass(frozen=True)
class Choices:
    """What to export.

    Attributes:
        segmentation: the segmentation as .seg.nrrd.
        labelmap: the label map as NIfTI.
        surfaces: "stl", "obj" or "vtk"; empty for none.
        transforms: "h5" or "nrrd"; empty for none.
        table: the table to write as comma-separated values; None for none.
        report: the picture report.png, which the engine draws.
    """

    segmentation: bool = True
    labelmap: bool = False
    surfaces: str = ""
    transforms: str = ""
    table: Table | None = None
    report: bool = False


@dataclass(frozen=True)
class Item:
    """One file.

    Attributes:
        path: where it goes.
        what: for people.
        write: writes it to a path; None where the engine does, see `Plan.report`.
        note: what people should know of it; may be empty.
    """

    path: Path
    what: str
    write: Callable[[Path], object] | None
    note: str = ""

    @property
    def exists(self) -> bool:
        """Whether something is there already."""
        return os.path.lexists(self.path)


@dataclass(frozen=True)
class Plan:
    """What an export would write.

    Attributes:
        folder: where to.
        items: the files, in order.
        skipped: what was asked for but is not there, in words.
    """

    folder: Path
    items: tuple[Item, ...]
    skipped: tuple[str, ...] = ()

    @property
    def existing(self) -> tuple[Path, ...]:
        """Files that are there already: people have to be asked before they are replaced."""
        return tuple(item.path for item in self.items if item.exists)

    @property
    def report(self) -> Path | None:
        """Where the engine is to write the picture; None where it is not wanted."""
        return next((item.path for item in self.items if item.write is None), None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know, every sentence once."""
        return tuple(dict.fromkeys([item.note for item in self.items if item.note] + list(self.skipped)))


def plan(result: Any, folder: str | os.PathLike[str], choices: Choices) -> Plan:
    """What an export of a result would write; nothing is written.

    Args:
        result: a `results.Nodes`.
        folder: where to; it need not exist.
        choices: what to export.

    Raises:
        OutputError: the folder is a file, the input has left the scene, or a format is unknown.
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise OutputError(_("{folder} is a file").format(folder=place), _("choose another folder"))
    if choices.surfaces not in ("", *SURFACE_FORMATS) or choices.transforms not in ("", *TRANSFORM_FORMATS):
        raise OutputError(f"no formats '{choices.surfaces}', '{choices.transforms}'")
    input_node = result.segmentation.GetNodeReference(nodes.INPUT) if nodes.in_scene(result.segmentation) else None
    if input_node is None:
        raise OutputError(_("The volume that was segmented is no longer in the scene"), _("segment it again"))
    names = _Names(place, safe_name(input_node.GetName(), "image"))
    items, skipped = [], []
    for found, why in _wanted(result, input_node, choices, names):
        items += found
        skipped += [why] if why else []
    return Plan(place, tuple(items), tuple(skipped))


def write(
    planned: Plan, on_progress: Callable[[int, int, str], object] | None = None, overwrite: bool = False
) -> list[Path]:
    """Write what was planned, save what the engine writes.

    All files are made in a hidden folder first and moved when the last one is whole. If anything fails, the folder is
    as it was.

    Args:
        planned: from `plan`.
        on_progress: told after every file: how many are made, of how many, and the name of the last one.
        overwrite: replace files that are there already.

    Returns:
        where the files are.

    Raises:
        OutputError: there is a file already without `overwrite`, or something could not be written.
    """
    items = [item for item in planned.items if item.write is not None]
    try:
        with _scratch(planned.folder) as scratch:
            _check(items, overwrite)
            made = []
            for count, item in enumerate(items, 1):
                partial = scratch / item.path.name
                try:
                    assert item.write is not None
                    item.write(partial)
                except OutputError as error:
                    raise OutputError(error.message.replace(str(scratch), str(planned.folder)), error.hint) from error
                if not partial.is_file():
                    raise OutputError(_("{name} could not be written").format(name=item.path.name), _hint())
                made.append((partial, item.path))
                if on_progress is not None:
                    on_progress(count, len(items), item.path.name)
            _check(items, overwrite)  # somebody may have put something there meanwhile
            _move(made, planned.folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            _("{folder} cannot be written to: {reason}").format(folder=planned.folder, reason=reason), _hint()
        ) from error
    return [item.path for item in items]


def safe_name(name: str, otherwise: str) -> str:
    """A name as part of a file's name on every system; `otherwise` where nothing is left of it."""
    text = _FORBIDDEN.sub("-", unicodedata.normalize("NFC", name))
    text = re.sub(r"\s+", " ", text).strip(" .-")[:_LONGEST].strip(" .-")
    if not text:
        return otherwise
    return f"{text}-" if text.split(".")[0].upper() in _DEVICES else text


def _hint() -> str:
    return _("choose another folder or make room there")


class _Names:
    """Paths in a folder, no two of which are one file on systems that do not tell A from a."""

    def __init__(self, folder: Path, stem: str) -> None:
        self._folder, self._stem, self._taken = folder, stem, set[str]()

    def path(self, part: str, ending: str, apart: str = "") -> Path:
        """The path "<stem>-<part>.<ending>"; with `apart` in it where that is taken."""
        name = f"{self._stem}-{part}.{ending}"
        if name.casefold() in self._taken:
            name = f"{self._stem}-{part}-{apart}.{ending}"
        self._taken.add(name.casefold())
        return self._folder / name


def _wanted(result: Any, input_node: Any, choices: Choices, names: _Names) -> Iterator[tuple[list[Item], str]]:
    """Items by choice, and why one is not there."""
    segmentation = result.segmentation
    world = export_files.is_linear(input_node)
    local_note = "" if world else _("Files of voxels are in the scan's own coordinates: its transform is not linear.")
    if choices.segmentation:
        path = names.path("segmentation", "seg.nrrd")
        write_it = export_files.segmentation_writer(segmentation, input_node)
        yield [Item(path, _("segmentation"), write_it, local_note)], ""
    if choices.labelmap:
        path = names.path("labels", "nii.gz")
        notes = [note for note in (local_note, _added_note(segmentation)) if note]
        write_it = export_files.labelmap_writer(segmentation, input_node)
        yield [Item(path, _("label map"), write_it, " ".join(notes))], ""
    if choices.surfaces:
        yield _surfaces(result, choices.surfaces, names)
    if choices.transforms:
        yield _transforms(result, choices.transforms, names)
    if choices.table is not None:
        text = choices.table.to_csv()
        yield [Item(names.path("measures", "csv"), _("table"), lambda p: p.write_text(text, encoding="utf-8"))], ""
    if choices.report:
        yield [Item(names.path("report", "png"), _("picture of the result"), None)], ""


def _added_note(segmentation: Any) -> str:
    """Which values the segments have that are not the model's."""
    added = {
        segmentation.GetSegmentation().GetSegment(i).GetName(): value
        for i, value in export_files.label_values(segmentation).items()
        if not export_files.is_models(i)
    }
    if not added:
        return ""
    named = ", ".join(f"{name} = {value}" for name, value in added.items())
    return _("Values of your own segments in the label map: {named}.").format(named=named)


def _surfaces(result: Any, ending: str, names: _Names) -> tuple[list[Item], str]:
    present = {value: node for value, node in result.surfaces.items() if nodes.in_scene(node)}
    items = []
    for value, node in present.items():
        title = export_files.structure_name(result.segmentation, value) or node.GetName()
        path = names.path(safe_name(title, "surface"), ending, str(value))
        items.append(Item(path, _("surface of {name}").format(name=title), export_files.surface_writer(node)))
    return items, "" if items else _("There are no surfaces to export.")


def _transforms(result: Any, ending: str, names: _Names) -> tuple[list[Item], str]:
    # Each is written from the other's node, which is where Slicer keeps it.
    opposite = {"image-from-atlas": result.atlas_from_image, "atlas-from-image": result.image_from_atlas}
    if not all(nodes.in_scene(node) for node in opposite.values()):
        return [], _("There are no transforms to export.")
    note = _(
        "An .h5 file takes points where its name says in ITK and SimpleITK. Slicer reads it as a resampling transform:"
        " there, put the atlas under atlas-from-image. In .nrrd files the direction is marked, and Slicer follows it."
    )
    items = []
    for name, node in opposite.items():
        write_it = export_files.transform_writer(node)
        items.append(Item(names.path(name, ending), name, write_it, note if ending == "h5" else ""))
    return items, ""


def _check(items: list[Item], overwrite: bool) -> None:
    for item in items:
        if item.exists and (not overwrite or item.path.is_dir()):
            raise OutputError(_("{path} is there already").format(path=item.path), _("choose another folder"))


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A hidden folder in `folder`, gone at the end, and so are folders that were made in vain."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        for place in missing:
            with contextlib.suppress(OSError):  # holds something, as it should
                place.rmdir()


def _move(made: list[tuple[Path, Path]], folder: Path) -> None:
    """Put finished files in their places; if one cannot be, all that was there is there again."""
    # Not in the scratch folder, which is removed whatever happens.
    before = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    moved: list[tuple[Path, Path | None]] = []
    try:
        for partial, path in made:
            kept = before / path.name if os.path.lexists(path) else None
            if kept is not None:
                os.rename(path, kept)
            moved.append((path, kept))
            os.rename(partial, path)
    except BaseException:
        for path, kept in reversed(moved):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            if kept is not None:
                os.rename(kept, path)
        before.rmdir()
        raise
    shutil.rmtree(before, ignore_errors=True)
