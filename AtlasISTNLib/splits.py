"""Splits: which cases are trained on and which are held out, decided by the seed alone."""

from __future__ import annotations

import numpy as np

from .configs import TrainConfig
from .errors import ConfigError

#: With so few cases none is spared for validation unless folds are asked for.
_FEW = 4


def split_cases(count: int, config: TrainConfig) -> tuple[list[int], list[int]]:
    """Indices of the training and of the validation cases among `count`.

    With folds, the shuffled cases are dealt out to them in turn, so that their sizes differ by one at most; every case
    is held out in just one fold. Otherwise `validation` of the cases are held out, one at least if it is above 0 and
    there are more than four.

    Raises:
        ConfigError: fewer than two cases, or fewer cases than folds.
    """
    if count < 2:
        raise ConfigError(f"training needs at least two cases, not {count}", "twenty or more are sensible")
    order = np.random.default_rng(config.seed).permutation(count).tolist()
    if config.folds:
        if count < config.folds:
            raise ConfigError(f"{count} cases cannot be dealt out to {config.folds} folds", "use fewer folds")
        held_out = order[config.fold :: config.folds]
    elif config.validation and count > _FEW:
        held_out = order[: max(1, round(count * config.validation))]
    else:
        held_out = []
    kept = set(held_out)
    return [i for i in order if i not in kept], held_out


__all__ = ["split_cases"]
