"""What each layer costs at each density on a design: the table that budget allocation chooses from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from ..accel.design import Design
from ..sim.results import LayerResult
from ..sim.simulate import simulate
from ..traces.lowering import lower
from ..workloads.errors import InputError, unknown_name
from ..workloads.network import Network
from ..workloads.sparsify import Options

#: Name -> what a layer's simulation costs at a clock: joules, or seconds.
COSTS: dict[str, Callable[[LayerResult, float], float]] = {
    "energy": lambda layer, clock_hz: sum(layer.energy_j.values()),
    "latency": lambda layer, clock_hz: layer.cycles / clock_hz,
}


def simulated_options(
    network: Network, design: Design, *, cost: Literal["energy", "latency"] = "energy", point: str | None = None
) -> dict[str, Options]:
    """Options of every weighted layer, one per level of ``network``: density, importance, simulated joules or seconds.

    Sparsify the network first, with one level for each density to offer. Importance is the sum of the squares of the
    retained weights. Layers are simulated one by one and do not overlap, so the costs of a plan add up exactly; layers
    without weights cost the same in every plan and are left out. Inputs are assumed as in ``lower``.

    Raises
    ------
    InputError
        for an unknown cost, a network without weight values, or as ``simulate``.
    """
    if cost not in COSTS:
        raise unknown_name("cost", cost, COSTS)
    if not network.has_values:
        raise InputError(f"network '{network.name}' has no weight values")
    array = design.array
    trace = lower(network, weight_bits=array.weight_bits, activation_bits=array.activation_bits)
    result = simulate(trace, design, point=point)
    costs: dict[str, list[float]] = {name: [] for name in network.weights}
    for level in result.levels:
        for layer in level.layers:
            if layer.layer in costs:
                costs[layer.layer].append(COSTS[cost](layer, level.clock_hz))
    return {
        name: Options(
            densities=weights.densities,
            importance=np.array([(weights.dense(i).astype(np.float64) ** 2).sum() for i in range(weights.levels)]),
            cost=np.array(costs[name]),
        )
        for name, weights in network.weights.items()
    }
