"""The options of the command line that steer a case. Nothing heavy is imported here, so that help is instant."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_steering(parser: argparse.ArgumentParser) -> None:
    """Add the options of `segment` that say what pulls the atlas besides λ*; see docs/steering.md."""
    group = parser.add_argument_group("steering, one file for each image in the same order; put them after the images")
    add = group.add_argument
    files: dict[str, Any] = {"nargs": "+", "type": Path, "default": []}
    add("--target", metavar="LABELS", help="fit the atlas to these, not to what the network predicts", **files)
    add(
        "--target-map",
        type=value_pairs,
        metavar="VALUE=LABEL,...",
        help="which of their values is which of the model's labels; others are background (default: they are the same)",
    )
    add("--ignore", metavar="MASK", help="labels do not pull where this is not 0", **files)
    add(
        "--landmarks",
        metavar="POINTS",
        help="pairs of points that are to meet, for one image: a .csv with name,atlas_x,...,image_x,... (LPS mm), or "
        "two files of points (.csv, .fcsv, .mrk.json), in the atlas and on the image",
        **files,
    )
    add("--landmark-weight", type=_number, metavar="w", help="of their mean squared distance, per mm² (default: 0.001)")
    add(
        "--label-weights",
        type=value_weights,
        metavar="LABEL=WEIGHT,...",
        help="how hard structures pull: 1 as usual, 2 twice as hard, 0 not at all",
    )
    add("--certainty", action="store_true", help="labels pull less where they are uncertain")


def value_pairs(text: str) -> dict[int, int]:
    """`VALUE=LABEL,…` of two label maps."""
    return {value: _whole(label, text) for value, label in _pairs(text)}


def value_weights(text: str) -> dict[int, float]:
    """`LABEL=WEIGHT,…` of structures."""
    return {value: _number(weight) for value, weight in _pairs(text)}


def _pairs(text: str) -> list[tuple[int, str]]:
    found: dict[int, str] = {}
    for part in text.split(","):
        left, sign, right = part.partition("=")
        value = _whole(left, text)
        if not sign or not right.strip():
            raise argparse.ArgumentTypeError(f"'{part}' is not a pair such as 3=1")
        if value in found:
            raise argparse.ArgumentTypeError(f"'{text}' says twice what {value} is")
        found[value] = right.strip()
    return list(found.items())


def _whole(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' in '{where}' is not a whole number") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from error


__all__ = ["add_steering", "value_pairs", "value_weights"]
