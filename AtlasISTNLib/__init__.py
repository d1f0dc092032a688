"""AtlasISTN: segmentation that is always plausible, by warping an atlas onto a network's prediction.

    from AtlasISTNLib import RefineConfig, Volume, load_bundle, refine, segment

    bundle = load_bundle("phantom-heart")
    result = segment(bundle, Volume.read("heart.nrrd"))
    result = refine(bundle, result, RefineConfig(iterations=100, strength=800))
    result.labels.write("labels.nrrd")

Names are imported when they are first used, so that geometry and volumes work without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .bundle import About, Bundle, Label, available_models, load_bundle, save_bundle
    from .configs import ModelConfig, NormalisationConfig, PlacementConfig, RefineConfig, TrainConfig
    from .correspondence import Correspondence
    from .datasets import Case, cases_from_csv, cases_from_folders
    from .disagreements import Disagreement, disagreement
    from .errors import (
        AtlasISTNError,
        BundleError,
        Cancelled,
        ConfigError,
        DeviceError,
        DivergenceError,
        GeometryError,
        OutputError,
        VolumeError,
        WorkerError,
    )
    from .geometry import Grid
    from .metrics import Scores, evaluate
    from .progress import Progress
    from .reference import import_reference
    from .result import Result
    from .segmentation import refine, segment
    from .steering import Landmarks, Steering
    from .training import train
    from .volume import Volume

_ROOMS = {
    "bundle": ("About", "Bundle", "Label", "available_models", "load_bundle", "save_bundle"),
    "configs": ("ModelConfig", "NormalisationConfig", "PlacementConfig", "RefineConfig", "TrainConfig"),
    "correspondence": ("Correspondence",),
    "dataset_checks": ("DataCheck", "check_cases"),
    "disagreements": ("Disagreement", "disagreement"),
    "datasets": ("Case", "DataSet", "cases_from_csv", "cases_from_folders", "find_cases"),
    "errors": (
        "AtlasISTNError",
        "BundleError",
        "Cancelled",
        "ConfigError",
        "DeviceError",
        "DivergenceError",
        "GeometryError",
        "OutputError",
        "VolumeError",
        "WorkerError",
    ),
    "geometry": ("Grid",),
    "metrics": ("Scores", "evaluate"),
    "progress": ("Progress",),
    "reference": ("import_reference",),
    "result": ("Result",),
    "segmentation": ("refine", "segment"),
    "steering": ("Landmarks", "Steering"),
    "training": ("Trained", "run_training", "train"),
    "volume": ("Volume",),
}
_WHERE = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [*sorted(_WHERE), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
