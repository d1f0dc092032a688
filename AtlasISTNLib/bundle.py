"""Bundles: a model on disk, a folder or the same folder zipped.

    manifest.json          format, schema, name, licence, citation, intended use, labels, grid, normalisation,
                           architecture, refinement defaults, training record, SHA-256 of the other files
    weights.safetensors    "itn.*" and "stn.*"
    atlas-image.nrrd       the atlas image on the model grid, in normalised values
    atlas-labels.nrrd      the soft atlas label map, one component for each label, background first

Nothing in it is executed or unpickled, and loading needs no network.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .configs import ModelConfig, NormalisationConfig, RefineConfig, as_dict, from_dict
from .errors import AtlasISTNError, BundleError, ConfigError, DeviceError, OutputError
from .geometry import Grid
from .model import AtlasISTN, channels_last
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
class Bundle:
    """A loaded model; immutable. `segment` and `refine` never change it.

    Attributes:
        about: name, licence, intended use, …
        labels: the structures, background first.
        grid: the model grid in atlas space.
        normalisation: how images are brought to the ITN.
        refinement: the model's own defaults; none of its fields is None.
        model: networks and atlas, on their device, in evaluation mode.
        training: the record of its training, plain values.
    """

    about: About
    labels: tuple[Label, ...]
    grid: Grid
    normalisation: NormalisationConfig
    refinement: RefineConfig
    model: AtlasISTN
    training: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def config(self) -> ModelConfig:
        """What the model is made of."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        return self.model.atlas_labels.device

    @property
    def names(self) -> dict[int, str]:
        """Names of the structures by their values, without the background."""
        return {label.value: label.name for label in self.labels[1:]}

    @property
    def atlas_image(self) -> Volume:
        """The atlas image in atlas space, normalised values, float32."""
        return Volume.from_array(self.model.atlas_image.cpu().numpy(), self.grid, f"{self.about.name} atlas image")

    @property
    def atlas_labels(self) -> Volume:
        """The soft atlas label map in atlas space, K channels, float32."""
        return Volume.from_array(self.model.atlas_labels.cpu().numpy(), self.grid, f"{self.about.name} atlas labels")


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


def find_device(device: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        DeviceError: it is not on this machine.
    """
    mps = torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"no device '{device}'", "use auto, cpu, cuda or mps") from error
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(mps)}.get(chosen.type, 0)
    if (chosen.index or 0) >= count:
        raise DeviceError(f"the device '{device}' is not on this machine", "use --device cpu or auto")
    return chosen


def load_bundle(path: str | os.PathLike[str], device: str = "auto") -> Bundle:
    """Load a model: the name of a bundled one, a folder, or a zip.

    Raises:
        BundleError: absent, foreign, damaged, or of a version this release does not know.
        DeviceError: the device is not on this machine.
    """
    target = find_device(device)
    place = _find(path)
    with _folder_of(place) as folder:
        manifest = read_manifest(folder, place)
        _check_hashes(folder, manifest, place)
        try:
            return _build(folder, manifest, target)
        except (AtlasISTNError, SafetensorError, *_INCONSISTENT) as error:
            reason = error.message if isinstance(error, AtlasISTNError) else f"{type(error).__name__}: {error}"
            reason = reason.splitlines()[0]
            raise BundleError(f"the model {place} is inconsistent: {reason}", "get it again from its source") from error


def read_manifest(folder: Path, place: Path | None = None) -> dict[str, Any]:
    """The manifest of an unpacked bundle, its format and schema checked.

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


def save_bundle(bundle: Bundle, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write a bundle as a folder, or as a zip when `path` ends in .zip; it appears whole or not at all.

    Raises:
        OutputError: `path` exists and `overwrite` is not set, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists", "choose another name, or add --overwrite (overwrite=True)")
    if path.is_dir() and not (path / MANIFEST).is_file():
        raise OutputError(f"{path} is a folder that is not a model", "choose another name")
    partial = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".bundle-") as scratch:
            _write_files(bundle, Path(scratch))
            if path.suffix == ".zip":
                _zip(Path(scratch), partial)
            else:
                # File by file: the scratch folder is closed to other users, the bundle need not be.
                partial.mkdir()
                for name in (MANIFEST, *FILES):
                    shutil.copyfile(Path(scratch, name), partial / name)
        if path.is_dir():
            # A folder cannot be replaced in one step: the old one steps aside until the new one is in its place.
            aside = path.with_name(f".{uuid.uuid4().hex[:8]}.old.{path.name}")
            os.replace(path, aside)
            try:
                os.replace(partial, path)
            except OSError:
                os.replace(aside, path)
                raise
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(partial, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OutputError(f"cannot write {path}: {error}", "choose another folder or make room there") from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    return path


def on_device(bundle: Bundle, device: str) -> Bundle:
    """The same bundle with a copy of its model on another device.

    Raises:
        DeviceError: the device is not on this machine.
    """
    target = find_device(device)
    old = bundle.model
    model = AtlasISTN(old.config, old.half_extent, old.atlas_image.clone(), old.atlas_labels.clone())
    model.load_state_dict(old.state_dict())
    return replace(bundle, model=channels_last(model).to(target).eval().requires_grad_(False))


def half_extent(grid: Grid) -> tuple[float, ...]:
    """mm from a grid's centre to its outermost voxel centres, x, y, z."""
    return tuple((n - 1) / 2 * s for n, s in zip(grid.size, grid.spacing, strict=True))


def _find(path: str | os.PathLike[str]) -> Path:
    place = Path(path)
    if place.exists():
        return place
    models = available_models()
    if str(path) in models:
        return models[str(path)]
    raise BundleError(
        f"there is no model '{path}'", f"give a path, or one of: {', '.join(models) or 'none is bundled'}"
    )


@contextlib.contextmanager
def _folder_of(place: Path) -> Iterator[Path]:
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


def _check_hashes(folder: Path, manifest: Mapping[str, Any], place: Path) -> None:
    hashes = manifest.get("hashes")
    if not isinstance(hashes, dict):
        raise BundleError(f"the manifest of {place} has no hashes", "get the model again from its source")
    for name in FILES:
        if not (folder / name).is_file():
            raise BundleError(f"the model {place} lacks {name}", "get it again from its source")
        if hashes.get(name) != _sha256(folder / name):
            raise BundleError(f"{name} of the model {place} is damaged or was changed", "get it again from its source")


def _build(folder: Path, manifest: Mapping[str, Any], device: torch.device) -> Bundle:
    config = from_dict(ModelConfig, manifest["architecture"])
    grid = grid_from_dict(manifest["grid"])
    labels = tuple(Label(**{**entry, "color": tuple(entry["color"])}) for entry in manifest["labels"])
    if grid.shape != config.shape or len(labels) != config.labels:
        raise ConfigError("grid, labels and architecture disagree")
    atlas = [Volume.read(folder / name) for name in (ATLAS_IMAGE, ATLAS_LABELS)]
    if not all(volume.grid.same_as(grid) for volume in atlas):
        raise ConfigError("the atlas does not lie on the model grid")
    tensors = [torch.from_numpy(volume.array.copy()) for volume in atlas]
    model = AtlasISTN(config, half_extent(grid), *tensors)
    model.load_state_dict(load_file(folder / WEIGHTS))
    about = manifest["about"]
    return Bundle(
        about=About(**about),
        labels=labels,
        grid=grid,
        normalisation=from_dict(NormalisationConfig, manifest["normalisation"]),
        refinement=from_dict(RefineConfig, manifest["refinement"]),
        model=channels_last(model).to(device).eval().requires_grad_(False),
        training=MappingProxyType(dict(manifest.get("training", {}))),
    )


def _write_files(bundle: Bundle, folder: Path) -> None:
    weights = {key: value.detach().cpu().contiguous() for key, value in bundle.model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    bundle.atlas_image.write(folder / ATLAS_IMAGE)
    bundle.atlas_labels.write(folder / ATLAS_LABELS)
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "about": asdict(bundle.about),
        "labels": [{**asdict(label), "color": list(label.color)} for label in bundle.labels],
        "grid": grid_as_dict(bundle.grid),
        "normalisation": as_dict(bundle.normalisation),
        "architecture": as_dict(bundle.config),
        "refinement": as_dict(bundle.refinement),
        "training": dict(bundle.training),
        "hashes": {name: _sha256(folder / name) for name in FILES},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def grid_as_dict(grid: Grid) -> dict[str, Sequence[Any]]:
    """A grid as plain values for JSON."""
    return {
        "shape": list(grid.shape),
        "spacing": list(grid.spacing),
        "origin": list(grid.origin),
        "direction": [list(row) for row in grid.direction],
    }


def grid_from_dict(values: Mapping[str, Any]) -> Grid:
    """A grid from plain values; see `grid_as_dict`."""
    return Grid(tuple(values["shape"]), values["spacing"], values["origin"], values["direction"])


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256_plain(file)
        )


def _sha256_plain(file: Any) -> str:
    """For Python 3.10, whose hashlib has no file_digest."""
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (MANIFEST, *FILES):
            archive.write(folder / name, name)
