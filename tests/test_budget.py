"""Cost tables from simulation: a plan that is simulated again costs what the table said."""

from __future__ import annotations

import numpy as np
import pytest
from nestling.accel.design import load_design
from nestling.analysis.budget import COSTS, simulated_options
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv, linear
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import INPUT, Network
from nestling.workloads.sparsify import budget_densities, sparsify

LAYERS = (
    conv("a", INPUT, C=16, H=8, K=32, R=3, padding=1),
    conv("b", "a", C=32, H=8, K=16, R=1),
    linear("c", "b", features_in=1024, features_out=10),
)
GRID = [1.0, 0.6, 0.3, 0.1]


@pytest.fixture(scope="module")
def network() -> Network:
    rng = np.random.default_rng(0)
    weights = {
        x.name: NestedWeights(
            values=rng.standard_normal(x.weight_shape).astype(np.float32),
            keep=np.ones(x.weight_shape, np.uint8),
            levels=1,
        )
        for x in LAYERS
    }
    return Network("n", LAYERS, weights=weights)


@pytest.mark.parametrize("cost", COSTS)
def test_a_plan_simulated_again_keeps_its_budget(network: Network, cost: str) -> None:
    design = load_design("scnn")
    options = simulated_options(sparsify(network, "magnitude", densities=GRID), design, cost=cost)
    assert set(options) == {"a", "b", "c"}
    dense = sum(option.cost[0] for option in options.values())
    floor = sum(option.cost[-1] for option in options.values())
    budgets = [floor + share * (dense - floor) for share in (0.7, 0.3)]
    plan = budget_densities(options, budgets)
    found = sparsify(network, "magnitude", allocation=plan)
    for level, budget in zip(simulate(lower(found), design).levels, budgets, strict=True):
        total = level.energy_j if cost == "energy" else level.latency_s
        table = sum(
            option.cost[list(option.densities).index(plan[name][level.level])] for name, option in options.items()
        )
        assert total == pytest.approx(table, rel=1e-12)
        assert total <= budget


def test_importance_is_the_retained_energy(network: Network) -> None:
    options = simulated_options(sparsify(network, "magnitude", densities=GRID), load_design("scnn"))
    squares = np.sort(network.weights["b"].values.astype(float).reshape(-1) ** 2)[::-1]
    np.testing.assert_allclose(options["b"].importance, [squares[: round(d * 512)].sum() for d in GRID])
    assert (np.diff(options["a"].cost) <= 0).all()


def test_mistakes(network: Network) -> None:
    with pytest.raises(InputError, match="unknown cost 'area'"):
        simulated_options(network, load_design("scnn"), cost="area")
    with pytest.raises(InputError, match="no weight values"):
        simulated_options(Network("n", LAYERS), load_design("scnn"))
