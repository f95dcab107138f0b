"""Parameter efficiency: accuracy against retained weights, level by level.

Hoefler et al. (JMLR 2021, arXiv 2102.00554) name such metrics; the definitions are ours, with a = accuracy (0..1) and
n = retained weights:

* parameter efficiency  PE = a / n                      accuracy per weight
* hardness-normalised   HPE = (a / (1 - a)) / log10(n)  odds of a correct answer per decade of weights; the last points of
  accuracy count more than the first
* Pareto slope          d a / d log10(n)                accuracy gained per tenfold of weights, between two levels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..workloads.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """One level's metrics. ``pareto_slope`` leads from the next sparser level to this one; None for the sparsest, and
    where both retain the same number of weights."""

    level: int
    nonzeros: int
    accuracy: float
    pe: float
    hpe: float
    pareto_slope: float | None


def parameter_efficiency(accuracy: float, nonzeros: int) -> float:
    """PE = accuracy / nonzeros."""
    _check(accuracy, nonzeros)
    return accuracy / nonzeros


def hardness_normalised_efficiency(accuracy: float, nonzeros: int) -> float:
    """HPE = (a / (1 - a)) / log10(nonzeros); infinite for accuracy 1 and for a single weight (log10 = 0) unless a = 0."""
    _check(accuracy, nonzeros)
    odds = math.inf if accuracy == 1.0 else accuracy / (1.0 - accuracy)
    if nonzeros == 1:
        return math.inf if odds else 0.0
    return odds / math.log10(nonzeros)


def level_efficiencies(accuracies: Sequence[float], nonzeros: Sequence[int]) -> tuple[Efficiency, ...]:
    """Metrics of every level, densest first.

    Parameters
    ----------
    accuracies : 0..1 per level. nonzeros : retained weights of the whole network per level, at least 1, not increasing.

    Raises
    ------
    InputError
        for lists of different lengths, accuracies outside 0..1, or weights that increase from level to level.
    """
    if len(accuracies) != len(nonzeros):
        raise InputError(f"{len(accuracies)} accuracies for {len(nonzeros)} levels")
    out = []
    for level, (a, n) in enumerate(zip(accuracies, nonzeros, strict=True)):
        slope = None
        if level + 1 < len(nonzeros):
            sparser = nonzeros[level + 1]
            _check(accuracies[level + 1], sparser)
            if sparser > n:
                raise InputError(f"level {level + 1} retains {sparser} weights, more than level {level} with {n}")
            if sparser < n:
                slope = (a - accuracies[level + 1]) / math.log10(n / sparser)
        out.append(
            Efficiency(
                level=level,
                nonzeros=n,
                accuracy=a,
                pe=parameter_efficiency(a, n),
                hpe=hardness_normalised_efficiency(a, n),
                pareto_slope=slope,
            )
        )
    return tuple(out)


def _check(accuracy: float, nonzeros: int) -> None:
    if not 0.0 <= accuracy <= 1.0:
        raise InputError(f"accuracy {accuracy} is outside 0..1")
    if nonzeros < 1:
        raise InputError(f"{nonzeros} retained weights; efficiency needs at least 1")
