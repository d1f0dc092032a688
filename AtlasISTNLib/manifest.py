"""Manifests: all of a model on disk but its networks, read without torch. See `bundle` for the files of a model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np

from .configs import ModelConfig, NormalisationConfig, RefineConfig, from_dict
from .errors import AtlasISTNError, BundleError, ConfigError
from .exchange import grid_from_dict
from .geometry import Grid
from .resources import models_folder
from .volume import Volume

FORMAT = "atlas-istn-bundle"
SCHEMA = 1
MANIFEST, WEIGHTS, ATLAS_IMAGE, ATLAS_LABELS = (
    "manifest.json",
    "weights.safetensors",
    "atlas-image.nrrd",
    "atlas-labels.nrrd",
)
FILES = (WEIGHTS, ATLAS_IMAGE, ATLAS_LABELS)
#: More than any model of this kind; a zip that unpacks to more is not one.
LARGEST_BYTES = 4 * 2**30
#: What reading values of wrong kinds out of a manifest raises.
_INCONSISTENT = (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Label:
    """One structure: its value in label maps, name, colour (RGB, 0–255) and SNOMED CT code with its meaning."""

    value: int
    name: str
    color: tuple[int, int, int] = (128, 174, 128)
    snomed_code: str = ""
    snomed_meaning: str = ""


@dataclass(frozen=True)
class About:
    """What people need to know of a model before they use it."""

    name: str
    title: str = ""
    version: str = "1"
    description: str = ""
    intended_use: str = "Research only. Not for clinical use."
    licence: str = ""
    citation: str = ""


@dataclass(frozen=True, eq=False)
class Manifest:
    """A model without its networks and atlas.

    Attributes:
        about: name, licence, intended use, …
        labels: the structures, background first.
        grid: the model grid in atlas space.
        normalisation: how images are brought to the ITN.
        refinement: the model's own defaults.
        architecture: what the networks are made of.
        training: the record of its training, plain values.
    """

    about: About
    labels: tuple[Label, ...]
    grid: Grid
    normalisation: NormalisationConfig
    refinement: RefineConfig
    architecture: ModelConfig
    training: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def names(self) -> dict[int, str]:
        """Names of the structures by their values, without the background."""
        return {label.value: label.name for label in self.labels[1:]}


def available_models() -> dict[str, Path]:
    """The bundled models by name."""
    folder = models_folder()
    if not folder.is_dir():
        return {}
    return {
        p.name.removesuffix(".zip"): p
        for p in sorted(folder.iterdir())
        if (p / MANIFEST).is_file() or p.suffix == ".zip"
    }


def find_model(path: str | os.PathLike[str]) -> Path:
    """The folder or zip of a model, from its path or from the name of a bundled one.

    Raises:
        BundleError: there is none.
    """
    place = Path(path)
    if place.exists():
        return place
    models = available_models()
    if str(path) in models:
        return models[str(path)]
    raise BundleError(
        f"there is no model '{path}'", f"give a path, or one of: {', '.join(models) or 'none is bundled'}"
    )


def load_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Everything but the networks of a model, its files checked to be whole, without torch.

    Args:
        path: the name of a bundled one, a folder, or a zip.

    Raises:
        BundleError: absent, foreign, damaged, or of a version this release does not know.
    """
    with opened(path) as (_, values, place), consistent(place):
        return manifest_from_dict(values)


def load_atlas(path: str | os.PathLike[str]) -> tuple[Volume, Volume]:
    """The atlas of a model in atlas space, without torch: the image (1 channel) and the soft labels (K channels).

    Args:
        path: the name of a bundled one, a folder, or a zip.

    Raises:
        BundleError: as for `load_manifest`.
    """
    with opened(path) as (folder, values, place), consistent(place):
        manifest = manifest_from_dict(values)
        return read_atlas(folder, manifest.grid, len(manifest.labels))


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[Path, dict[str, Any], Path]]:
    """The folder of a model (unpacked, if it is a zip), its manifest's values and its place; all files are whole.

    Raises:
        BundleError: absent, foreign, damaged, or of a version this release does not know.
    """
    place = find_model(path)
    with open_folder(place) as folder:
        values = read_manifest(folder, place)
        _check_hashes(folder, values, place)
        yield folder, values, place


@contextlib.contextmanager
def consistent(place: Path, *others: type[Exception]) -> Iterator[None]:
    """Turn what reading inconsistent values raises, and `others`, into a BundleError about the model at `place`."""
    caught: tuple[type[Exception], ...] = (AtlasISTNError, *_INCONSISTENT, *others)
    try:
        yield
    except caught as error:
        reason = error.message if isinstance(error, AtlasISTNError) else f"{type(error).__name__}: {error}"
        reason = reason.splitlines()[0]
        raise BundleError(f"the model {place} is inconsistent: {reason}", "get it again from its source") from error


def manifest_from_dict(values: Mapping[str, Any]) -> Manifest:
    """A manifest from its plain values; call it within `consistent`, for what wrong ones raise."""
    config = from_dict(ModelConfig, values["architecture"])
    grid = grid_from_dict(values["grid"])
    labels = tuple(Label(**{**entry, "color": tuple(entry["color"])}) for entry in values["labels"])
    if grid.shape != config.shape or len(labels) != config.labels:
        raise ConfigError("grid, labels and architecture disagree")
    about = values["about"]
    return Manifest(
        about=About(**about),
        labels=labels,
        grid=grid,
        normalisation=from_dict(NormalisationConfig, values["normalisation"]),
        refinement=from_dict(RefineConfig, values["refinement"]),
        architecture=config,
        training=MappingProxyType(dict(values.get("training", {}))),
    )


def read_atlas(folder: Path, grid: Grid, labels: int) -> tuple[Volume, Volume]:
    """Atlas image and soft labels from an unpacked model.

    Raises:
        ConfigError: they do not lie on the model grid, or have other numbers of channels than 1 and `labels`.
    """
    image, soft = (Volume.read(folder / name) for name in (ATLAS_IMAGE, ATLAS_LABELS))
    if not all(volume.grid.same_as(grid) for volume in (image, soft)):
        raise ConfigError("the atlas does not lie on the model grid")
    if image.array.shape[0] != 1 or soft.array.shape[0] != labels:
        raise ConfigError(f"the atlas has {image.array.shape[0]} and {soft.array.shape[0]} channels")
    if soft.array.dtype == np.uint8:  # of a compact model
        soft = soft.with_array(soft.array.astype(np.float32) / 255)
    return image, soft


def read_manifest(folder: Path, place: Path | None = None) -> dict[str, Any]:
    """The values of an unpacked model's manifest, its format and schema checked.

    Raises:
        BundleError: absent, foreign, or of a version this release does not know.
    """
    place = place or folder
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{place} is not a model: it has no {MANIFEST}", "give a bundle's folder or zip") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"the manifest of {place} is damaged", "get the model again from its source") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{place} is not an Atlas-ISTN model", "give a bundle that AtlasISTN wrote")
    schema = manifest.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise BundleError(f"the manifest of {place} states no schema version", "get the model again from its source")
    if schema > SCHEMA:
        raise BundleError(
            f"{place} was written in schema {schema}; this release knows up to {SCHEMA}", "update AtlasISTN to use it"
        )
    return manifest


@contextlib.contextmanager
def open_folder(place: Path) -> Iterator[Path]:
    """The folder of a model's files: `place` itself, or a temporary one that a zip is unpacked into.

    Raises:
        BundleError: it is neither, would write outside its folder, unpacks to too much, or is damaged.
    """
    if place.is_dir():
        yield place
        return
    if not zipfile.is_zipfile(place):
        raise BundleError(f"{place} is neither a folder nor a zip", "give a bundle's folder or zip")
    with tempfile.TemporaryDirectory(prefix="atlas-istn-") as scratch, zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            inside = PurePosixPath(member.filename.replace("\\", "/"))
            if inside.is_absolute() or ".." in inside.parts or ":" in member.filename:
                raise BundleError(
                    f"{place} would write outside its folder ('{member.filename}')", "do not use this file"
                )
        if sum(member.file_size for member in archive.infolist()) > LARGEST_BYTES:
            raise BundleError(f"{place} unpacks to more than {LARGEST_BYTES >> 30} GiB", "this is not a model")
        wanted = {PurePosixPath(m.filename).name: m for m in archive.infolist() if not m.is_dir()}
        try:
            for name in (MANIFEST, *FILES):
                if name in wanted:
                    with archive.open(wanted[name]) as source, open(Path(scratch, name), "wb") as target:
                        shutil.copyfileobj(source, target)
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise BundleError(f"{place} is damaged: {error}", "get the model again from its source") from error
        yield Path(scratch)


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _hash_plain(file)


def _hash_plain(file: Any) -> str:
    """For Python 3.10, whose hashlib has no file_digest."""
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def _check_hashes(folder: Path, manifest: Mapping[str, Any], place: Path) -> None:
    hashes = manifest.get("hashes")
    if not isinstance(hashes, dict):
        raise BundleError(f"the manifest of {place} has no hashes", "get the model again from its source")
    for name in FILES:
        if not (folder / name).is_file():
            raise BundleError(f"the model {place} lacks {name}", "get it again from its source")
        if hashes.get(name) != file_hash(folder / name):
            raise BundleError(f"{name} of the model {place} is damaged or was changed", "get it again from its source")


__all__ = [
    "ATLAS_IMAGE",
    "ATLAS_LABELS",
    "FILES",
    "FORMAT",
    "MANIFEST",
    "SCHEMA",
    "WEIGHTS",
    "About",
    "Label",
    "Manifest",
    "available_models",
    "file_hash",
    "find_model",
    "load_atlas",
    "load_manifest",
    "open_folder",
    "read_manifest",
]
