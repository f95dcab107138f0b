"""Sparsify a whole network: divide the density among the layers, run the method on each, put the network together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError, unknown_name
from ..nesting import NestedWeights
from ..network import Network
from .allocation import ALLOCATIONS, GLOBAL, Densities, global_densities
from .calibration import Calibration, hessian_for
from .methods import find_method
from .sparsifier import Floats, LayerResult, Sparsifier, SparsifyWarning, check_levels

#: A rule's name, or density per level of every layer that is not left dense.
Allocation = str | Mapping[str, Sequence[float]]


@dataclass(frozen=True, eq=False)
class Sparsified:
    """A sparsified network and what each layer's method had to say.

    ``network`` shares one set of values among its levels. ``layers``: layer name -> result of the method; layers left
    dense have no entry.
    """

    network: Network
    layers: Mapping[str, LayerResult]

    @property
    def extra_values(self) -> int:
        """Values stored beyond the densest level's, because levels have their own (0 if all share one set)."""
        return sum(result.extra_values for result in self.layers.values())

    def level_network(self, level: int) -> Network:
        """One level as a network of its own, with the level's own values where the method gave it any."""
        weights = {}
        for name, nested in self.network.weights.items():
            values = self.layers[name].dense(level) if name in self.layers else nested.dense(level)
            weights[name] = NestedWeights(values=values, keep=nested.mask(level).astype(np.uint8), levels=1, name=name)
        biases = {name: bias[level : level + 1].copy() for name, bias in self.network.biases.items()}
        source = f"{self.network.source}; level {level} alone"
        return replace(self.network, weights=weights, biases=biases, source=source)


def sparsify(
    network: Network,
    method: str | Sparsifier,
    *,
    densities: Sequence[float] | None = None,
    patterns: Sequence[str] | None = None,
    allocation: Allocation = "uniform",
    calibration: Calibration | None = None,
    dense: Collection[str] = (),
) -> Network:
    """``network`` with nested levels, made from its densest level's weights and biases. Nothing is random.

    Parameters
    ----------
    method : key of METHODS, or a method object with parameters of your own.
    densities : retained fraction of the weights per level, densest first, 0 < d <= 1; of the layers not left dense.
    patterns : instead of densities, "N:M" per level with one M, for example ("4:8", "2:8", "1:8"), for ``nm`` and
        ``obc_nm``; ("9:9", "4:9") for ``pattern``.
    allocation : "uniform", "er", "erk", "global" (one threshold for all layers), or densities for each layer (for
        example from ``budget_densities``), then without ``densities``.
    calibration : for ``obc*``: layer name -> inputs (samples, k), or a Hessian.
    dense : names of layers to leave dense.

    Warns SparsifyWarning where a rule changes what was asked for (a level that would be empty, an output layer under
    ``filter``, a rank-deficient calibration). Raises InputError for unknown names, densities out of order or range, a
    network without values, missing calibration, or a method whose levels have values of their own.
    """
    done = sparsify_with_report(
        network,
        method,
        densities=densities,
        patterns=patterns,
        allocation=allocation,
        calibration=calibration,
        dense=dense,
    )
    if any(result.level_values for result in done.layers.values()):
        raise InputError("levels with values of their own do not fit one nested network; use sparsify_with_report")
    return done.network


def sparsify_with_report(
    network: Network,
    method: str | Sparsifier,
    *,
    densities: Sequence[float] | None = None,
    patterns: Sequence[str] | None = None,
    allocation: Allocation = "uniform",
    calibration: Calibration | None = None,
    dense: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Sparsified:
    """As ``sparsify``, with each layer's report, and with the levels' own values where the method makes them.

    ``progress`` is called with each layer's name before it is worked on.
    """
    method = find_method(method) if isinstance(method, str) else method
    if not network.has_values:
        raise InputError(f"network '{network.name}' has no weight values to sparsify")
    if patterns is not None:
        if densities is not None:
            raise InputError("give densities or patterns, not both")
        method, densities = method.with_patterns(patterns)
    spared = _spared(network, method, dense)
    values = {name: weights.dense(0) for name, weights in network.weights.items() if name not in spared}
    if not values:
        raise InputError(f"network '{network.name}': every layer is left dense, there is nothing to sparsify")
    per_layer = _allocate(values, method, densities, allocation)
    results = {}
    for name, array in values.items():
        if progress is not None:
            progress(name)
        hessian = hessian_for(calibration or {}, name, groups=_groups(network, name)) if method.calibrated else None
        results[name] = method.sparsify_layer(array, per_layer[name], hessian=hessian, name=name)
    rule = allocation if isinstance(allocation, str) else "given per layer"
    return Sparsified(_assemble(network, results, f"{method!r}, allocation {rule}"), results)


def _assemble(network: Network, results: Mapping[str, LayerResult], how: str) -> Network:
    """The network with the layers' results; other layers dense at every level, biases of the densest level repeated."""
    levels = next(iter(results.values())).weights.levels
    weights = {
        name: results[name].weights if name in results else _dense_layer(nested.dense(0), levels, name=name)
        for name, nested in network.weights.items()
    }
    biases = {name: np.repeat(bias[:1], levels, axis=0) for name, bias in network.biases.items()}
    return replace(network, weights=weights, biases=biases, source=f"{network.source}; sparsified: {how}")


def _groups(network: Network, name: str) -> int:
    gemm = next(layer.gemm for layer in network.layers if layer.name == name)
    return 1 if gemm is None else gemm.b


def _dense_layer(values: Floats, levels: int, *, name: str) -> NestedWeights:
    keep = np.full(values.shape, levels, np.uint8)
    return NestedWeights(values=values, keep=keep, levels=levels, name=name)


def _spared(network: Network, method: Sparsifier, dense: Collection[str]) -> set[str]:
    """Layers left dense: the named ones, and the last ones if the method removes whole outputs."""
    for name in dense:
        if name not in network.weights:
            raise unknown_name("layer with weights", name, network.weights)
    spared = set(dense)
    if method.removes_outputs:
        read = {source for layer in network.layers for source in layer.sources}
        outputs = sorted(name for name in network.weights if name not in read and name not in spared)
        if outputs:
            warnings.warn(
                f"{', '.join(outputs)}: left dense, its outputs are the network's", SparsifyWarning, stacklevel=3
            )
        spared.update(outputs)
    return spared


def _allocate(
    values: Mapping[str, Floats], method: Sparsifier, densities: Sequence[float] | None, allocation: Allocation
) -> Densities:
    """Density per layer and level, checked for nesting."""
    if not isinstance(allocation, str):
        if densities is not None:
            raise InputError(
                "the allocation gives every layer's densities; densities or patterns beside it say it twice"
            )
        return _given(values, allocation)
    if densities is None:
        raise InputError("no densities given; an example is densities=(0.5, 0.25, 0.1)")
    check_levels(densities)
    if allocation == GLOBAL:
        return global_densities(values, method, densities)
    if allocation not in ALLOCATIONS:
        raise unknown_name("allocation", allocation, [*ALLOCATIONS, GLOBAL])
    return ALLOCATIONS[allocation]({name: array.shape for name, array in values.items()}, densities)


def _given(values: Mapping[str, Floats], allocation: Mapping[str, Sequence[float]]) -> Densities:
    for name in allocation:
        if name not in values:
            raise unknown_name("layer of the allocation", name, values)
    missing = [name for name in values if name not in allocation]
    if missing:
        raise InputError(f"the allocation has no densities for {', '.join(missing)}; name them, or leave them dense")
    lengths = {name: len(levels) for name, levels in allocation.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the allocation has different numbers of levels: {lengths}")
    for levels in allocation.values():
        check_levels(levels)
    return {name: tuple(allocation[name]) for name in values}
