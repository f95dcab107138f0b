"""Parameter efficiency against hand-worked numbers."""

from __future__ import annotations

import math

import pytest
from nestling.analysis.efficiency import (
    hardness_normalised_efficiency,
    level_efficiencies,
    parameter_efficiency,
)
from nestling.workloads.errors import InputError


def test_levels() -> None:
    dense, middle, sparse = level_efficiencies([0.9, 0.8, 0.5], [100_000, 10_000, 1_000])
    assert (dense.pe, middle.pe, sparse.pe) == (9e-6, 8e-5, 5e-4)
    assert dense.hpe == pytest.approx(9 / 5)
    assert middle.hpe == pytest.approx(1.0)
    assert sparse.hpe == pytest.approx(1 / 3)
    assert dense.pareto_slope == pytest.approx(0.1)
    assert middle.pareto_slope == pytest.approx(0.3)
    assert sparse.pareto_slope is None
    assert [x.level for x in (dense, middle, sparse)] == [0, 1, 2]


def test_slope_is_per_decade() -> None:
    assert level_efficiencies([0.7, 0.6], [400, 100])[0].pareto_slope == pytest.approx(0.1 / math.log10(4))
    assert level_efficiencies([0.7, 0.6], [100, 100])[0].pareto_slope is None


def test_ends() -> None:
    assert parameter_efficiency(0.0, 5) == 0.0
    assert hardness_normalised_efficiency(1.0, 50) == math.inf
    assert hardness_normalised_efficiency(0.5, 1) == math.inf
    assert hardness_normalised_efficiency(0.0, 1) == 0.0
    assert level_efficiencies([], []) == ()


@pytest.mark.parametrize(
    ("accuracies", "nonzeros", "message"),
    [
        ([0.5], [1, 2], "1 accuracies for 2 levels"),
        ([0.5, 0.4], [10, 20], "level 1 retains 20 weights, more than level 0 with 10"),
        ([1.5], [10], "accuracy 1.5 is outside 0..1"),
        ([0.5], [0], "0 retained weights"),
        ([float("nan")], [3], "accuracy nan"),
    ],
)
def test_mistakes(accuracies: list[float], nonzeros: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        level_efficiencies(accuracies, nonzeros)
