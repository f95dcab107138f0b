"""The planner: which kernel runs each convolution, from what this machine measured, or a prior where it did not.

Measured choices are kept for later processes, see ``kept``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ....workloads.layers import CONV_OPS, Layer
from ....workloads.nesting import NestedWeights
from ....workloads.network import Network
from ..plan import make_plan
from .arrangement import layouts
from .chosen import dense_call, product_for
from .kept import kept_file, read_table, write_table
from .planes import PlaneLayout
from .prior import candidates, dense_candidates, likely_plan, whole_rows_fit
from .product import DENSE_FORMATS, Choice, Dense, Kind, LayerPlan
from .reduced.choices import (
    allowed_formats,
    in_range,
    likely_reduced,
    permitted,
    reduced_candidates,
    reduced_dense_candidates,
    reduced_kinds,
)
from .structure import structure_of
from .team import Call

if TYPE_CHECKING:
    from .chosen import AnyProduct

#: Runs of every candidate in the first round, and of the promising ones in the second; the least time counts.
REPEATS = (2, 6)
#: Candidates slower than this in the first round are given up.
PROMISING = 1.25
#: Called with (layers measured, layers in total).
Progress = Callable[[int, int], None]
#: One way to run a level of a layer, and the level.
_Way = tuple[Choice | Dense, int]


class Planner:
    """Chooses kernels. ``choose`` is a ``network.Chooser``; what was never measured gets the prior's choice.

    Parameters
    ----------
    folder : where measured times are kept; default: the user's cache folder. It need not be writable.
    allow : number formats that plans may round weights and activations to, of ``reduced.choices.FORMATS``; default: none,
        everything is computed in float32.

    Raises
    ------
    InputError
        for a format that does not exist.
    """

    def __init__(self, folder: Path | None = None, allow: Iterable[str] = ()) -> None:
        self.allow = allowed_formats(allow)
        self._file = kept_file("executor", folder)
        self._plans = read_table(self._file, _plan)

    @property
    def measured(self) -> int:
        """Layers that have a measured plan."""
        return len(self._plans)

    def choose(self, layer: Layer, weights: NestedWeights, source: PlaneLayout, target: PlaneLayout) -> LayerPlan:
        """The measured plan of a layer, or the likely one."""
        known = self._plans.get(layer_key(layer, weights, source, target, allow=self.allow))
        if known is not None and self._usable(known, layer, weights, target):
            return known
        return likely_reduced(likely_plan(layer, weights, source, target), target, in_range(weights, self.allow))

    def tune(self, network: Network, progress: Progress = lambda done, total: None) -> bool:
        """Measure every convolution of a network that has no measured plan yet, one thread, and keep the plans.

        Returns False if they could not be written (they hold for this object all the same).
        """
        found = layouts(network, make_plan(network).input_shape)
        todo = self._unmeasured(network, found)
        for done, (key, layer) in enumerate(todo.items(), start=1):
            source, target = found[layer.sources[0]], found[layer.name]
            self._plans[key] = measured_plan(layer, network.weights[layer.name], source, target, allow=self.allow)
            progress(done, len(todo))
        return not todo or write_table(self._file, self._plans, _plan)

    def knows(self, network: Network) -> bool:
        """True if every convolution of a network has a measured plan."""
        return not self._unmeasured(network, layouts(network, make_plan(network).input_shape))

    def _unmeasured(self, network: Network, found: Mapping[str, PlaneLayout]) -> dict[str, Layer]:
        """A convolution for each plan that is missing, by its key."""
        todo: dict[str, Layer] = {}
        for layer in network.layers:
            if layer.op in CONV_OPS:
                key = self._key(network, layer, found)
                known, weights = self._plans.get(key), network.weights[layer.name]
                if known is None or not self._usable(known, layer, weights, found[layer.name]):
                    todo.setdefault(key, layer)
        return todo

    def _usable(self, plan: LayerPlan, layer: Layer, weights: NestedWeights, target: PlaneLayout) -> bool:
        """True if a plan is one that could have been measured: files hold what others wrote."""
        if not permitted(plan, self.allow) or plan.sparse not in _sparse_ways(layer, weights, target, self.allow):
            return False
        dense = not plan.dense_levels or plan.dense in _dense_ways(layer, weights, target, self.allow)
        return dense and set(plan.dense_levels) <= set(range(weights.levels))

    def _key(self, network: Network, layer: Layer, found: Mapping[str, PlaneLayout]) -> str:
        weights = network.weights[layer.name]
        return layer_key(layer, weights, found[layer.sources[0]], found[layer.name], allow=self.allow)


def measured_plan(
    layer: Layer,
    weights: NestedWeights,
    source: PlaneLayout,
    target: PlaneLayout,
    *,
    allow: Iterable[str] = (),
) -> LayerPlan:
    """Run the candidates on random inputs. All levels share one store, so the least geometric mean over the levels wins;
    a level whose dense product is faster still is run densely. ``allow``: see :class:`Planner`."""
    allow, calls = in_range(weights, allow), dict[_Way, Call]()
    bias = np.zeros(layer.K, np.float32)
    found = _sparse_ways(layer, weights, target, allow)
    products: list[AnyProduct] = [product_for(layer, weights, source, target, choice=choice) for choice in found]
    x, out = products[0].planes.new(), target.new()
    x[:] = np.random.default_rng(0).standard_normal(x.size)
    for choice, product in zip(found, products, strict=True):
        works: list[Any] = [product.new_work()]
        for level in range(weights.levels):
            calls[choice, level] = product.call(x, out, level=level, bias=bias, works=works)
    for dense in _dense_ways(layer, weights, target, allow):
        calls[dense, 0] = dense_call(products[0], weights, 0, dense=dense, x=x, out=out, bias=bias)
    return _least(calls, weights.levels)


def _sparse_ways(layer: Layer, weights: NestedWeights, target: PlaneLayout, allow: Iterable[str]) -> list[Choice]:
    found = candidates(layer, target, structure_of(layer, weights), whole_rows=whole_rows_fit(weights))
    return found + reduced_candidates(reduced_kinds(layer, weights, allow), target)


def _dense_ways(layer: Layer, weights: NestedWeights, target: PlaneLayout, allow: Iterable[str]) -> list[Dense]:
    found = [Dense(vectors) for vectors in dense_candidates(layer, target)]
    return found + reduced_dense_candidates(layer, target, in_range(weights, allow))


def _least(calls: Mapping[_Way, Call], levels: int) -> LayerPlan:
    times = {key: np.inf for key in calls}
    _measure(calls, times, REPEATS[0])
    sparse, dense = _geometric_means(times, levels), _dense_times(times)
    best, fastest = min(sparse.values()), min(dense.values(), default=np.inf)
    promising: set[Choice | Dense] = {who for who, mean in sparse.items() if mean <= PROMISING * best}
    promising |= {who for who, least in dense.items() if least <= PROMISING * fastest}
    _measure({key: call for key, call in calls.items() if key[0] in promising}, times, REPEATS[1])
    sparse, dense = _geometric_means(times, levels), _dense_times(times)
    choice = min(sparse, key=lambda one: sparse[one])
    if not dense:
        return LayerPlan(choice)
    way = min(dense, key=lambda one: dense[one])
    return LayerPlan(choice, way.vectors, tuple(x for x in range(levels) if times[choice, x] > dense[way]), way.fmt)


def _measure(calls: Mapping[_Way, Call], times: dict[_Way, float], repeats: int) -> None:
    """Run all calls in turn, ``repeats`` times, and keep the least CPU time of each."""
    for _ in range(repeats):
        for key, call in calls.items():
            call.tasks[0] = 0
            start = time.thread_time()
            call.run(0)
            times[key] = min(times[key], time.thread_time() - start)


def _geometric_means(times: Mapping[_Way, float], levels: int) -> dict[Choice, float]:
    choices = dict.fromkeys(who for who, _ in times if isinstance(who, Choice))
    return {c: float(np.exp(np.mean([np.log(times[c, x]) for x in range(levels)]))) for c in choices}


def _dense_times(times: Mapping[_Way, float]) -> dict[Dense, float]:
    return {who: least for (who, _), least in times.items() if isinstance(who, Dense)}


def layer_key(
    layer: Layer,
    weights: NestedWeights,
    source: PlaneLayout,
    target: PlaneLayout,
    *,
    allow: Iterable[str] = (),
) -> str:
    """What a layer's plan depends on: its sizes, its densities (to 1 %), its masks' structure, the halos around it, and the
    reduced formats that it can have and the user allows."""
    allow = in_range(weights, allow)
    sizes = (layer.C, layer.K, layer.P, layer.Q, layer.R, layer.S, layer.stride, layer.padding, layer.dilation)
    rounded = [round(float(d), 2) for d in weights.densities]
    dense = sorted({way.fmt for way in reduced_dense_candidates(layer, target, allow)})
    formats = [*reduced_kinds(layer, weights, allow), *(f"dense {fmt}" for fmt in dense)]
    return json.dumps([*sizes, layer.groups, source.halo, target.halo, rounded, structure_of(layer, weights), formats])


def _plan(kept: Any) -> LayerPlan:
    """A plan as JSON has it; ValueError or TypeError for anything else."""
    sparse, vectors, levels, fmt = kept
    choice = Choice(*sparse)
    if choice.kind not in get_args(Kind) or fmt not in DENSE_FORMATS:
        raise ValueError(f"no such kernel: {choice.kind}, dense {fmt}")
    if not all(type(number) is int for number in (*choice[1:], vectors, *levels)):  # True and False are none
        raise ValueError("sizes are whole numbers")
    return LayerPlan(choice, vectors, tuple(levels), fmt)


def layout_of(channels: int, height: int, width: int) -> PlaneLayout:
    """Planes without halos: what a product of plain matrices stands in."""
    return PlaneLayout(channels, height, width, 0)
