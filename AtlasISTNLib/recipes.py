"""Recipes: all choices of a training but its data, in one JSON file.

    {"title": …, "description": …, "licence": …, "citation": …,      of the models that are made with it
     "table": {…},                                                   see `label_table`
     "grid": {"shape": [z, y, x], "spacing": [x, y, z], "place_on_labels": true},
     "training": {…}, "model": {…}, "synthesis": {…}}                fields of TrainConfig, ModelConfig, SynthesisConfig

Whatever is left out has its usual default; options of the command line go before the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .configs import ModelConfig, TrainConfig, from_dict
from .errors import ConfigError
from .label_table import LabelTable, table_from_section
from .resources import recipes_folder
from .strict_json import Section, read_json
from .synthesis_config import SynthesisConfig

ABOUT = ("title", "description", "licence", "citation")


@dataclass(frozen=True)
class Recipe:
    """What a recipe says; None or empty where it says nothing.

    Attributes:
        table: of the labels.
        about: texts by the names in `ABOUT`.
        shape, spacing, place_on_labels: of the model grid.
        training, model: fields of TrainConfig and ModelConfig that differ from the defaults.
        synthesis: how images are made; None for a training on images.
    """

    table: LabelTable | None
    about: Mapping[str, str]
    shape: tuple[int, ...] | None
    spacing: tuple[float, ...] | None
    place_on_labels: bool | None
    training: Mapping[str, Any]
    model: Mapping[str, Any]
    synthesis: SynthesisConfig | None


def available_recipes() -> dict[str, Path]:
    """The recipes that come along, by name."""
    folder = recipes_folder()
    return {path.stem: path for path in sorted(folder.glob("*.json"))} if folder.is_dir() else {}


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe.

    Raises:
        ConfigError: there is none.
    """
    found = available_recipes()
    if name_or_path in found:
        return found[name_or_path]
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    known = ", ".join(found) or "none comes along"
    raise ConfigError(f"there is no recipe '{name_or_path}'", f"give a JSON file, or one of: {known}")


def read_recipe(name_or_path: str) -> Recipe:
    """A recipe from its name or file.

    Raises:
        ConfigError: it is not there, or says something that makes no sense.
    """
    path = find_recipe(name_or_path)
    top = Section(read_json(path), path.name)
    table = None
    if "table" in top:
        section = top.section("table")
        table = table_from_section(section)
        section.close()
    grid = top.section("grid", {})
    training, model = top.take("training", dict, {}), top.take("model", dict, {})
    from_dict(TrainConfig, training)
    from_dict(ModelConfig, {"labels": 2, "shape": (8, 8), **model})
    if {"labels", "shape"} & set(model):
        top.fail("model", "gives labels or shape, which follow from the table and the grid")
    synthesis = top.take("synthesis", dict, None)
    recipe = Recipe(
        table,
        {key: top.take(key, str) for key in ABOUT if key in top},
        grid.items("shape", int, None),
        grid.items("spacing", float, None),
        grid.take("place_on_labels", bool, None),
        training,
        model,
        None if synthesis is None else from_dict(SynthesisConfig, synthesis),
    )
    grid.close()
    top.close()
    return recipe


__all__ = ["ABOUT", "Recipe", "available_recipes", "find_recipe", "read_recipe"]
