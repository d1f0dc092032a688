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
import json
import os
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .compaction import pack, pack_atlas, unpack
from .configs import ModelConfig, NormalisationConfig, RefineConfig, as_dict
from .errors import DeviceError, OutputError
from .exchange import grid_as_dict, grid_from_dict
from .geometry import Grid
from .manifest import (
    ATLAS_IMAGE,
    ATLAS_LABELS,
    FILES,
    FORMAT,
    MANIFEST,
    SCHEMA,
    WEIGHTS,
    About,
    Label,
    Manifest,
    available_models,
    consistent,
    file_hash,
    manifest_from_dict,
    opened,
    read_atlas,
    read_manifest,
)
from .model import AtlasISTN, channels_last
from .volume import Volume


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
    with opened(path) as (folder, values, place), consistent(place, SafetensorError):
        bundle = _build(folder, manifest_from_dict(values))
    return replace(bundle, model=bundle.model.to(target))  # a device may run out of memory: not the model's fault


def save_bundle(bundle: Bundle, path: str | os.PathLike[str], overwrite: bool = False, compact: bool = False) -> Path:
    """Write a bundle as a folder, or as a zip when `path` ends in .zip; it appears whole or not at all.

    Args:
        bundle: the model.
        path: the folder or the zip.
        overwrite: replace a model that is there.
        compact: store weights and atlas in 8 bits, which takes about a quarter of the space (see `compaction`); what is
            loaded is then as near to the model as those tell.

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
            _write_files(bundle, Path(scratch), compact)
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


def _build(folder: Path, manifest: Manifest) -> Bundle:
    grid = manifest.grid
    tensors = [torch.from_numpy(volume.array.copy()) for volume in read_atlas(folder, grid, len(manifest.labels))]
    model = AtlasISTN(manifest.architecture, half_extent(grid), *tensors)
    model.load_state_dict(unpack(load_file(folder / WEIGHTS)))
    return Bundle(
        about=manifest.about,
        labels=manifest.labels,
        grid=grid,
        normalisation=manifest.normalisation,
        refinement=manifest.refinement,
        model=channels_last(model).eval().requires_grad_(False),
        training=manifest.training,
    )


def _write_files(bundle: Bundle, folder: Path, compact: bool) -> None:
    weights = {key: value.detach().cpu().contiguous() for key, value in bundle.model.state_dict().items()}
    image, soft = bundle.atlas_image, bundle.atlas_labels
    if compact:
        weights = pack(weights)
        image, soft = pack_atlas(image, soft)
    save_file(weights, folder / WEIGHTS)
    image.write(folder / ATLAS_IMAGE)
    soft.write(folder / ATLAS_LABELS)
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
        "hashes": {name: file_hash(folder / name) for name in FILES},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (MANIFEST, *FILES):
            archive.write(folder / name, name)


__all__ = [
    "ATLAS_IMAGE",
    "ATLAS_LABELS",
    "FILES",
    "FORMAT",
    "MANIFEST",
    "SCHEMA",
    "WEIGHTS",
    "About",
    "Bundle",
    "Label",
    "available_models",
    "find_device",
    "grid_as_dict",
    "grid_from_dict",
    "half_extent",
    "load_bundle",
    "on_device",
    "read_manifest",
    "save_bundle",
]
