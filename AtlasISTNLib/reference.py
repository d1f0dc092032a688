"""Import of models that the authors' released training wrote (github.com/biomedia-mira/atlas-istn).

Such a folder holds `itn.pt` and `stn.pt` (state dicts), `atlas_image_final.nii.gz`, `atlas_labelmap_final.nii.gz` and
`config.json`. The imported model keeps the released conventions (`ModelConfig.convention` "reference") and gives the
same numbers. Its tensors are only renamed; outputs in array order z, y, x are turned to x, y, z.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # the name of what torch raises on a foreign file; nothing is unpickled here
from typing import Any

import torch
from torch import Tensor

from .bundle import About, Bundle, Label, half_extent
from .configs import ModelConfig, NormalisationConfig, RefineConfig
from .errors import AtlasISTNError, BundleError
from .geometry import Grid
from .model import AtlasISTN
from .volume import Volume

_ITN_NAMES = {
    "conv11": "enter1", "conv12": "enter2", "down1": "down1", "conv21": "level2", "down2": "down2", "conv31": "level3",
    "down3": "down3", "conv41": "level4", "conv32": "merge3", "conv22": "merge2", "conv13": "merge1", "conv14": "leave",
}  # fmt: skip
_STN_NAMES = {
    "down1": "down1", "conv21": "level2a", "conv22": "level2b", "down2": "down2", "conv31": "level3", "down3": "down3",
    "conv41": "level4", "conv32": "merge3", "conv23": "merge2a", "conv24": "merge2b", "conv25": "velocity",
    "fc": "affine_hidden", "translation": "translation", "rotation": "rotation", "scaling": "scaling",
}  # fmt: skip
#: Heads whose outputs are vector components, z, y, x in the released code.
_VECTOR_HEADS = ("velocity", "translation", "scaling")
#: The released scripts bring the atlas onto the image with T = φ∘θ in 2D, with T⁻¹ in 3D.
_DIRECTION = {2: "atlas_from_image", 3: "image_from_atlas"}
_CITATION = (
    "Sinclair et al., Atlas-ISTN: Joint segmentation, registration and atlas construction with image-and-spatial "
    "transformer networks, Medical Image Analysis 78 (2022) 102383, doi:10.1016/j.media.2022.102383"
)


def import_reference(folder: str | os.PathLike[str], name: str | None = None) -> Bundle:
    """A bundle from a model folder of the released training.

    Raises:
        BundleError: a file is absent, unreadable, or does not fit the others.
    """
    folder = Path(folder)
    try:
        return _imported(folder, name)
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError, AtlasISTNError) as error:
        if isinstance(error, BundleError):
            raise
        reason = error.message if isinstance(error, AtlasISTNError) else f"{type(error).__name__}: {error}"
        raise BundleError(f"{folder} is inconsistent: {reason}", "copy the folder again") from error


def _imported(folder: Path, name: str | None) -> Bundle:
    settings = _settings(folder)
    image, labels = (_read_atlas(folder, part) for part in ("atlas_image_final", "atlas_labelmap_final"))
    shape = tuple(reversed(settings["size"]))
    k = labels.array.shape[0]
    if labels.grid.shape != shape or image.grid.shape != shape:
        raise BundleError(f"{folder}: the atlas has size {labels.grid.size}, config.json says {settings['size']}")
    if k != settings["num_classes"]:
        raise BundleError(f"{folder}: the atlas has {k} labels, config.json says {settings['num_classes']}")
    itn, stn = (_state_dict(folder / file) for file in ("itn.pt", "stn.pt"))
    config = ModelConfig(
        labels=k,
        shape=shape,
        itn_channels=tuple(itn[f"{layer}.weight"].shape[0] for layer in ("conv11", "conv21", "conv31", "conv41")),
        stn_channels=tuple(stn[f"{layer}.weight"].shape[0] for layer in ("conv21", "conv41", "conv24")),
        convention="reference",
        direction=_DIRECTION[len(shape)],
        affine="fc.weight" in stn,
        nonrigid="conv25.weight" in stn,
    )
    # The released code drops origin and direction, so the atlas lies at the world's centre along the axes.
    grid = Grid.centered(shape, settings["spacing"])
    model = AtlasISTN(config, half_extent(grid), *(torch.from_numpy(v.array.copy()) for v in (image, labels)))
    state = {**_renamed(itn, _ITN_NAMES, "itn", folder), **_renamed(stn, _STN_NAMES, "stn", folder)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BundleError(
            f"{folder}: the weights do not fit the architecture", str(error).splitlines()[-1].strip()
        ) from error
    return Bundle(
        about=About(name=name or folder.name, title=f"Imported model {folder.name}", citation=_CITATION),
        labels=(
            Label(0, "background", (0, 0, 0)),
            *(Label(i, f"label {i}", _COLORS[i % len(_COLORS)]) for i in range(1, k)),
        ),
        grid=grid,
        normalisation=_normalisation(settings, folder),
        refinement=RefineConfig(int(settings.get("refine", 50)), float(settings["lambda"]), 1.0, 0.0, None, "network"),
        model=model.eval().requires_grad_(False),
        training={"imported_from": "released training code", "settings": settings},
    )


_COLORS = ((230, 25, 75), (60, 180, 75), (67, 99, 216), (245, 130, 49), (145, 30, 180), (70, 240, 240), (240, 50, 230))


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{folder} has no config.json", "give a model folder of the released training") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{folder / 'config.json'} is not JSON", "copy the folder again") from error
    if not isinstance(settings, dict):
        raise BundleError(f"{folder / 'config.json'} does not hold settings by name")
    missing = [key for key in ("size", "spacing", "num_classes", "lambda", "normalizer") if key not in settings]
    if missing:
        raise BundleError(f"{folder / 'config.json'} lacks {', '.join(missing)}")
    return settings


def _normalisation(settings: Mapping[str, Any], folder: Path) -> NormalisationConfig:
    # The released code normalises the whole image first and pads with 0 when it resamples, without smoothing.
    if settings["normalizer"] == "zero_mean_unit_var":
        return NormalisationConfig("z-score", outside="mean", antialias=False)
    if settings["normalizer"] == "none":
        return NormalisationConfig("none", outside=0.0, antialias=False)
    raise BundleError(
        f"{folder}: the normaliser '{settings['normalizer']}' is not supported",
        "zero_mean_unit_var and none can be imported",
    )


def _read_atlas(folder: Path, part: str) -> Volume:
    for ending in (".nii.gz", ".nii"):
        if (folder / f"{part}{ending}").is_file():
            return Volume.read(folder / f"{part}{ending}")
    raise BundleError(f"{folder} has no {part}.nii.gz", "give a model folder of the released training")


def _state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise BundleError(f"{path} does not exist", "give a model folder of the released training")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, UnpicklingError) as error:
        raise BundleError(f"{path} cannot be read as weights", "only plain state dicts are imported") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BundleError(f"{path} is not a state dict", "only plain state dicts are imported")
    return state


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str], prefix: str, folder: Path) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        if key == "grid":  # the released STN stores its identity grid
            continue
        layer, _, kind = key.partition(".")
        if layer not in names:
            raise BundleError(
                f"{folder / prefix}.pt holds an unknown layer '{key}'", "is it of another STN than the full one?"
            )
        renamed[f"{prefix}.{names[layer]}.{kind}"] = value.flip(0) if names[layer] in _VECTOR_HEADS else value
    return renamed
