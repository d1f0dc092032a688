"""Paired significance tests of scores, and Holm's correction for making many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan

import numpy as np

from .errors import ConfigError

#: A comparison is called significant below this adjusted p.
ALPHA = 0.05


@dataclass(frozen=True)
class Paired:
    """A Wilcoxon signed-rank test of two methods on the same cases.

    Attributes:
        n: pairs compared.
        zeros: pairs that do not differ.
        median_difference: of first − second over the pairs; nan without pairs.
        p: two-sided; 1 where no pair differs, nan without pairs.
    """

    n: int
    zeros: int
    median_difference: float
    p: float


def wilcoxon(first: Mapping[str, float], second: Mapping[str, float]) -> Paired:
    """Two-sided Wilcoxon signed-rank test on the cases in which both have a finite value.

    Pairs that do not differ take part in the ranking and are then left out (Pratt 1959): leaving them out at once, as
    Wilcoxon did, overstates a difference that only few cases show. p is exact for up to 50 pairs without ties or zeros,
    else from the normal approximation.

    Args:
        first, second: values by case.
    """
    from scipy import stats  # takes a second, which listing an experiment need not

    cases = [case for case in first if isfinite(first[case]) and isfinite(second.get(case, nan))]
    # Values that went through a text file and back may differ in the last bit though they were one number.
    differences = np.array([first[case] - second[case] for case in cases]).round(12)
    if not len(cases):
        return Paired(0, 0, nan, nan)
    zeros = int(np.count_nonzero(differences == 0))
    middle = float(np.median(differences))
    if zeros == len(cases):
        return Paired(len(cases), zeros, middle, 1.0)
    found = stats.wilcoxon(differences, zero_method="pratt", alternative="two-sided")
    return Paired(len(cases), zeros, middle, float(found.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted by Holm's step-down method (1979), which bounds the chance of any false claim in the family.

    Args:
        p_values: of one family of tests; nan for a test that could not be made, which does not count.

    Returns:
        the adjusted values in the same order: the k-th smallest of m times (m − k + 1), never decreasing, at most 1.

    Raises:
        ConfigError: a p lies outside [0, 1].
    """
    if any(p < 0 or p > 1 for p in p_values):
        raise ConfigError(f"p-values lie between 0 and 1, not {[p for p in p_values if p < 0 or p > 1]}")
    order = sorted((i for i, p in enumerate(p_values) if isfinite(p)), key=lambda i: p_values[i])
    adjusted = [nan] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


__all__ = ["ALPHA", "Paired", "holm", "wilcoxon"]
