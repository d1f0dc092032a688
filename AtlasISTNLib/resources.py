"""Where the files that come with AtlasISTN are: trained models, sample volumes, experiments and recipes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["experiments_folder", "models_folder", "recipes_folder", "samples_folder"]

_PACKAGE = Path(__file__).resolve().parent


def models_folder() -> Path:
    """Folder of the bundled models, one bundle (a folder or a zip) each.

    It need not exist: a build may come without models.
    """
    return _resources() / "Models"


def samples_folder() -> Path:
    """Folder of the sample volumes. It need not exist: a build may come without samples."""
    return _resources() / "Samples"


def experiments_folder() -> Path:
    """Folder of the experiments, one JSON file each. It need not exist: a build may come without experiments."""
    return _resources() / "Experiments"


def recipes_folder() -> Path:
    """Folder of the recipes of trainings, one JSON file each. It need not exist: a build may come without recipes."""
    return _resources() / "Recipes"


def _resources() -> Path:
    # A wheel and Slicer's module tree carry the files inside the package. There the folder beside the package is not
    # ours (in Slicer it is that of all scripted modules together), so the inner one goes first. A checkout has only the
    # outer one.
    inside = _PACKAGE / "Resources"
    return inside if inside.is_dir() else _PACKAGE.parent / "Resources"
