"""Allocation by budget: one option per layer, the greatest total importance within a total cost.

The multiple-choice knapsack problem (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, chapter 11; for pruning:
Humble et al., SMCP, arXiv 2211.02206). Costs come from outside, for example from simulations of each layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .sparsifier import Floats

Doubles = NDArray[np.float64]
#: Partial plans kept at a time; beyond it an exact search is refused (about 200 MB).
MAX_PLANS = 2_000_000
#: Steps that a budget is divided into unless the caller says otherwise.
RESOLUTION = 10_000


@dataclass(frozen=True, eq=False)
class Options:
    """What one layer may become: ``densities``, ``importance`` retained and ``cost``, float64, one entry per option.

    Importance and cost may be in any unit, the same for all layers (joules, seconds, bytes; squared weights, or minus
    the squared output error of ``CalibrationReport.losses``).
    """

    densities: Doubles
    importance: Doubles
    cost: Doubles

    def __post_init__(self) -> None:
        problems = []
        sizes = {array.shape for array in (self.densities, self.importance, self.cost)}
        if len(sizes) != 1 or self.densities.ndim != 1 or not self.densities.size:
            problems.append(f"options need three arrays of one length, found shapes {sorted(sizes)}")
        elif not all(np.isfinite(array).all() for array in (self.densities, self.importance, self.cost)):
            problems.append("options contain NaN or infinity")
        elif (self.cost < 0).any():
            problems.append(f"cost {self.cost.min():g} of an option is negative")
        if problems:
            raise InputError(problems)


def choose_options(options: Sequence[Options], budget: float, *, resolution: int | None = RESOLUTION) -> list[int]:
    """Index of one option per layer: the most importance with a total cost of at most ``budget`` (to 1e-12).

    Parameters
    ----------
    resolution : costs are rounded up to 1/resolution of the budget, which bounds the work; the plan always keeps the
        budget and is the best one for rounded costs. None: exact costs, for few layers or few distinct costs.

    Ties in importance go to the cheaper plan. Method: layers are added one by one; of the partial plans only those that
    no cheaper or equal one beats are kept, so the answer is exact (for the costs used).

    Raises
    ------
    InputError
        if even the cheapest options exceed the budget, or an exact search would keep too many partial plans.
    """
    if resolution is not None and resolution < 1:
        raise InputError(f"resolution = {resolution}, must be at least 1")
    cheapest = sum(float(option.cost.min()) for option in options)
    if not options or not cheapest <= budget:
        raise InputError(f"the cheapest options cost {cheapest:g} in total, the budget is {budget:g}")
    costs = [option.cost for option in options]
    limit = budget
    if resolution is not None and budget > 0:
        with np.errstate(over="ignore"):  # a cost far above the budget may become infinite: it never fits
            rounded = [np.ceil(cost / budget * resolution - 1e-9) for cost in costs]
        # Rounding up may push the cheapest plan over the edge; it is then the only one left to offer.
        if sum(float(cost.min()) for cost in rounded) > resolution:
            return [_cheapest(option) for option in options]
        costs, limit = rounded, float(resolution)
    return _merge(costs, [option.importance for option in options], limit)


def _cheapest(option: Options) -> int:
    """Most important of the cheapest options."""
    return int(np.lexsort((-option.importance, option.cost))[0])


def _merge(costs: Sequence[Doubles], importance: Sequence[Doubles], limit: float) -> list[int]:
    """Exact solution over Pareto fronts of partial plans, traced back from the best complete one."""
    # What the layers still to come cost at least: a partial plan must leave room for it.
    ahead = np.append(np.cumsum([cost.min() for cost in costs][::-1])[::-1][1:], 0.0)
    front_cost, front_gain = np.zeros(1), np.zeros(1)
    history = []
    for cost, gain, reserve in zip(costs, importance, ahead, strict=True):
        total = (front_cost[:, None] + cost).reshape(-1)
        value = (front_gain[:, None] + gain).reshape(-1)
        fits = np.flatnonzero(total + reserve <= limit * (1 + 1e-12))
        order = fits[np.lexsort((-value[fits], total[fits]))]
        best_before = np.maximum.accumulate(np.append(-np.inf, value[order]))[:-1]
        kept = order[value[order] > best_before]
        if kept.size > MAX_PLANS:
            raise InputError(f"{kept.size} partial plans; give a resolution (for example {RESOLUTION})")
        history.append((kept // cost.size, kept % cost.size))
        front_cost, front_gain = total[kept], value[kept]
    plan, at = [], front_gain.size - 1  # the front ascends in cost and in importance
    for parents, choices in reversed(history):
        plan.append(int(choices[at]))
        at = int(parents[at])
    return plan[::-1]


def budget_densities(
    options: Mapping[str, Options], budgets: Sequence[float], *, resolution: int | None = RESOLUTION
) -> dict[str, tuple[float, ...]]:
    """Densities per layer and level for budgets that do not increase, densest level first.

    The densest level is solved freely; each sparser level may only choose densities that do not exceed those of the
    level before it, so that the levels can be nested. Levels are solved in this order, not jointly.

    Raises
    ------
    InputError
        for budgets that increase, or that even the cheapest options exceed.
    """
    if not budgets or any(later > earlier for earlier, later in pairwise(budgets)):
        raise InputError(f"budgets {list(budgets)} must be given densest level first, not increasing")
    open_options = dict(options)
    levels = []
    for level, budget in enumerate(budgets):
        try:
            plan = choose_options(list(open_options.values()), budget, resolution=resolution)
        except InputError as error:
            raise InputError([f"level {level}: {problem}" for problem in error.problems]) from None
        chosen = {
            name: float(option.densities[i]) for (name, option), i in zip(open_options.items(), plan, strict=True)
        }
        levels.append(chosen)
        open_options = {name: _at_most(options[name], chosen[name]) for name in options}
    return {name: tuple(level[name] for level in levels) for name in options}


def _at_most(option: Options, density: float) -> Options:
    allowed = option.densities <= density
    return Options(option.densities[allowed], option.importance[allowed], option.cost[allowed])


def retained_energy(values: Floats, densities: Sequence[float]) -> Doubles:
    """Sum of the squares of the largest density * size weights, float64 (densities,): an importance for magnitude
    pruning that compares across layers."""
    squares = np.sort(values.astype(np.float64).reshape(-1) ** 2)[::-1]
    sums = np.concatenate(([0.0], np.cumsum(squares)))
    return np.asarray(sums[[max(1, round(density * values.size)) for density in densities]])
