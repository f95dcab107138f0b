"""A network: a directed acyclic graph of layers, with or without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, unknown_name
from .graph import Graph
from .layers import CONV_OPS, Layer
from .nesting import NestedWeights

#: Name that layers use for the network's own input.
INPUT = "input"


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in execution order, the nested weights of the prunable ones, and biases.

    ``weights`` maps layer name -> NestedWeights of shape ``layer.weight_shape``; it is empty for a shape-only network.
    ``biases`` maps layer name -> float32 array of shape (levels, K): each level may have its own biases
    (their cost, levels*K values, is counted in the storage of the trace).
    ``graph`` is what an imported network computes, operator by operator; None where the layers say it all.
    ``notes``: assumptions made and what the layers leave out; every report shows them.

    Raises
    ------
    InputError
        listing every problem: duplicate names, unknown sources, shapes that disagree along an edge, weights of the wrong
        shape, or layers with different numbers of levels.
    """

    name: str
    layers: tuple[Layer, ...]
    weights: Mapping[str, NestedWeights] = field(default_factory=dict)
    biases: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    source: str = ""
    graph: Graph | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = self._graph_problems() + self._weight_problems()
        if problems:
            raise InputError([f"network '{self.name}': {p}" for p in problems])

    def _graph_problems(self) -> list[str]:
        if not self.layers:
            return ["it has no layers"]
        seen: dict[str, Layer] = {}
        problems = []
        for layer in self.layers:
            if layer.name in seen or layer.name == INPUT:
                problems.append(f"layer name '{layer.name}' is used twice")
            for source in layer.sources:
                if source != INPUT and source not in seen:
                    problems.append(f"layer '{layer.name}' reads '{source}', which no earlier layer produces")
            problems += _edge_problems(layer, seen)
            seen[layer.name] = layer
        return problems

    def _weight_problems(self) -> list[str]:
        by_name = {layer.name: layer for layer in self.layers}
        problems = []
        for name, weights in self.weights.items():
            if name not in by_name:
                problems.append(str(unknown_name("layer with weights", name, by_name)))
            elif weights.shape != by_name[name].weight_shape:
                problems.append(
                    f"weights of '{name}' have shape {weights.shape}, the layer needs {by_name[name].weight_shape}"
                )
        if len({w.levels for w in self.weights.values()}) > 1:
            problems.append("layers have different numbers of levels")
        if self.weights:
            missing = [x.name for x in self.layers if x.has_weights and x.name not in self.weights]
            problems += [f"layer '{name}' has no weights" for name in missing]
        return problems + self._bias_problems(by_name)

    def _bias_problems(self, by_name: Mapping[str, Layer]) -> list[str]:
        problems = []
        for name, bias in self.biases.items():
            if name not in by_name:
                problems.append(str(unknown_name("layer with a bias", name, by_name)))
            elif bias.shape != (expected := (self.levels, by_name[name].K)):
                problems.append(f"bias of '{name}' has shape {bias.shape}, must be {expected}")
            elif not np.isfinite(bias).all():
                problems.append(f"bias of '{name}' contains NaN or infinity")
        return problems

    @property
    def levels(self) -> int:
        """Number of sparsity levels; 1 for a shape-only (dense) network."""
        return next(iter(self.weights.values())).levels if self.weights else 1

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @property
    def has_values(self) -> bool:
        """True if the network can be executed: every prunable layer has weight values."""
        return bool(self.weights) and all(w.values is not None for w in self.weights.values())

    @property
    def densities(self) -> NDArray[np.float64]:
        """Fraction of the prunable weights that each level retains, shape (levels,)."""
        if not self.weights:
            return np.ones(1)
        nonzeros = sum((w.nonzeros for w in self.weights.values()), np.zeros(self.levels, np.int64))
        return np.asarray(nonzeros / max(1, sum(w.keep.size for w in self.weights.values())))


def _edge_problems(layer: Layer, producers: Mapping[str, Layer]) -> list[str]:
    """Shapes along the edges into a convolution or an elementwise sum."""
    known = [producers[s] for s in layer.sources if s in producers]
    if layer.op in CONV_OPS and len(known) == 1 and _keeps_grid(known[0]):
        found, needed = (known[0].K, known[0].P, known[0].Q), (layer.C, layer.H, layer.W)
        if found != needed:
            return [f"layer '{layer.name}' reads {needed} (C,H,W), but '{known[0].name}' produces {found}"]
    if layer.op == "add" and len(known) == len(layer.sources) > 1:
        shapes = {p.name: (p.K, p.P, p.Q) for p in known if p.gemm is None or p.op in CONV_OPS}
        if len(set(shapes.values())) > 1:
            return [f"layer '{layer.name}' adds tensors of different shapes: {shapes}"]
    return []


def _keeps_grid(layer: Layer) -> bool:
    """True if the layer's output is an image that the next one reads as it is (a maximum over a whole axis, as in
    PointNet++, is followed by a regrouping that the table does not spell out)."""
    return layer.op in CONV_OPS | {"add"} or (layer.op == "maxpool" and layer.R < layer.H)
