"""The layer table of an import while it grows: rows, their weights, and which row every tensor comes from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..graph import Node, operand_name
from ..layers import CONV_OPS, Layer
from ..nesting import NestedWeights
from ..network import INPUT
from .draft import Array, Draft, Shape
from .evaluation import integer_bits

#: Activations behind which half of the values are assumed zero.
RECTIFIERS = frozenset({"relu", "relu6"})


class UnknownShapeError(InputError):
    """A shape that depends on values: the operator cannot be counted, the rest of the model can."""


@dataclass(frozen=True)
class Origin:
    """Where a tensor comes from: the rows that made it (none for constants) and whether out of a ReLU.

    ``alone``: one row made it and nothing else reads it, so that an operator behind it can be fused into that row.
    """

    rows: tuple[str, ...] = ()
    rectified: bool = False
    alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Gap:
    """One node that no row stands for; see :class:`UnsupportedOperator`."""

    operator: str
    macs: int | None
    bytes: int | None
    reason: str


class LayerTable:
    """Rows in execution order. Handlers of operators add to it through the methods below.

    ``absorbed``: nodes that an earlier row does already; ``consumers``: the nodes that read each tensor.
    """

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.readers = draft.readers()
        self.layers: dict[str, Layer] = {}
        self.weights: dict[str, NestedWeights] = {}
        self.weight_bits: dict[str, int] = {}
        self.node_layers: dict[str, tuple[str, ...]] = {}
        self.operands: dict[tuple[str, int], str] = {}
        self.gaps: list[Gap] = []
        self.absorbed: set[str] = set()
        self.consumers: dict[str, list[Node]] = defaultdict(list)
        for node in draft.nodes:
            for tensor in node.inputs:
                self.consumers[tensor].append(node)
        self._origins = {name: Origin((INPUT,)) for name in draft.inputs}
        self._counted: dict[str, str] = {}
        self._names = {node.name for node in draft.nodes}

    def shape(self, node: Node, position: int) -> Shape:
        """Shape of an input. Raises InputError where it is absent or unknown."""
        name = node.inputs[position] if position < len(node.inputs) else ""
        return self._known_shape(node, name, f"input {position}")

    def output_shape(self, node: Node) -> Shape:
        """Shape of the first output."""
        return self._known_shape(node, node.outputs[0], "its result")

    def _known_shape(self, node: Node, name: str, what: str) -> Shape:
        if name in self.draft.shapes:
            return self.draft.shapes[name]
        where = f"node '{node.name}' ({node.op}): the shape of {what} ('{name}') is unknown"
        if self.draft.absent:
            raise InputError(f"{where}; the external data file, which is absent, may hold what it follows from")
        raise UnknownShapeError(where)

    def has(self, node: Node, position: int) -> bool:
        """Whether the optional input is there."""
        return position < len(node.inputs) and bool(node.inputs[position])

    def origin(self, tensor: str) -> Origin:
        origin = self._origins.get(tensor, Origin())
        return replace(origin, alone=origin.alone and self.readers[tensor] == 1)

    def sources(self, tensors: Sequence[str]) -> tuple[str, ...]:
        """Rows that made the tensors, in order; constants have none."""
        return tuple(row for tensor in tensors for row in self.origin(tensor).rows)

    def sub_name(self, name: str) -> str:
        """``name``, made different from every other row's and node's if need be."""
        while name in self._names or name in self.layers:
            name += "_"
        return name

    def add(self, layer: Layer, *, makes: Sequence[str] = (), rectified: bool = False) -> None:
        """Append a row that makes the tensors ``makes``; a reader of another shape gets a view in between."""
        if layer.op in CONV_OPS and len(layer.sources) == 1:
            layer = self._with_view(layer)
        self.layers[layer.name] = layer
        for tensor in makes:
            self._origins[tensor] = Origin((layer.name,), rectified, alone=len(makes) == 1)

    def _with_view(self, layer: Layer) -> Layer:
        """A convolution reads an image; where its source made another grid of the same elements, say so."""
        source = self.layers.get(layer.sources[0])
        if source is None or (source.K, source.P, source.Q) == (layer.C, layer.H, layer.W):
            return layer
        view = Layer(
            name=self.sub_name(f"{layer.name}.view"), op="view", sources=layer.sources,
            C=source.K, H=source.P, W=source.Q, K=layer.C, P=layer.H, Q=layer.W,
        )  # fmt: skip
        self.layers[view.name] = view
        return replace(layer, sources=(view.name,))

    def merge(self, makes: Sequence[str], rows: Sequence[str]) -> None:
        """``makes`` are what several rows made side by side."""
        self._origins.update(dict.fromkeys(makes, Origin(tuple(rows))))

    def pass_on(self, tensor: str, makes: Sequence[str]) -> None:
        """``makes`` are views of ``tensor``: nothing moves."""
        for name in makes:
            self._origins[name] = replace(self.origin(tensor), alone=self.origin(tensor).alone and len(makes) == 1)

    def fuse(self, tensor: str, change: Callable[[Layer], Layer | None], makes: str, *, readers: int = 1) -> bool:
        """Let the row that made ``tensor`` do what is behind it, if it is read ``readers`` times and ``change`` agrees."""
        origin = self._origins.get(tensor, Origin())
        alone = origin.alone and self.readers[tensor] == readers
        layer = self.layers.get(origin.rows[0]) if alone else None
        changed = change(layer) if layer is not None else None
        if changed is None:
            return False
        self.layers[changed.name] = changed
        self._origins[makes] = Origin((changed.name,), changed.activation in RECTIFIERS, alone=True)
        return True

    def tie(
        self, node: Node, layers: Sequence[Layer], matrices: Sequence[tuple[int, NDArray[np.float32] | None]]
    ) -> None:
        """Give ``layers`` of ``node`` their weights: input position and values (None where the file lacks them)."""
        self.node_layers[node.name] = tuple(layer.name for layer in layers)
        for layer, (position, values) in zip(layers, matrices, strict=True):
            self.operands.setdefault((node.name, position), layer.name)
            tensor = node.inputs[position]
            bits = self.draft.integer_bits.get(tensor)
            if bits is None and "int" in self.draft.dtypes[tensor].name:
                bits = integer_bits(self.draft.dtypes[tensor])
            if bits is not None:
                self.weight_bits[layer.name] = bits
            if values is not None:
                self.weights[layer.name] = nested(values.reshape(layer.weight_shape), layer.name)

    def counted(self, tensor: str, layer: str) -> str:
        """The layer that counted this tensor's parameters before; empty for the first."""
        first = self._counted.setdefault(tensor, layer)
        return "" if first == layer else first

    def gap(self, node: Node, *, reason: str, macs: int | None) -> None:
        """Record a node that no row stands for, and let its results come from where its inputs came from."""
        names = [name for name in (*node.inputs, *node.outputs) if name]
        shapes = [self.draft.shapes.get(name) for name in names]
        known = [math.prod(shape) for shape in shapes if shape is not None]
        operator = f"{node.domain}.{node.op}" if node.domain else node.op
        total = sum(known) if len(known) == len(shapes) else None
        self.gaps.append(Gap(operator=operator, macs=macs, bytes=total, reason=reason))
        rows = tuple(dict.fromkeys(self.sources(node.inputs)))
        for name in node.outputs:
            self._origins[name] = Origin(rows)

    def graph_node(self, node: Node) -> Node:
        """The node with its layers' names, and its weight operands called after them."""
        layers = self.node_layers.get(node.name, ())
        inputs = list(node.inputs)
        for position in range(len(inputs)):
            layer = self.operands.get((node.name, position))
            if layer is not None:
                self.draft.shapes[operand_name(layer)] = self.draft.shapes[inputs[position]]
                inputs[position] = operand_name(layer)
        return replace(node, inputs=tuple(inputs), layers=layers)


def nested(values: NDArray[np.float32], name: str) -> NestedWeights:
    """One level that keeps what is not zero; a tensor of one repeated value stays one value in memory."""
    if 0 not in values.strides:
        values = np.ascontiguousarray(values)
    return NestedWeights(values, (values != 0).view(np.uint8), 1, name=name)


def image(shape: Shape) -> tuple[int, int, int]:
    """(C, H, W) of a tensor (N, C, ...): batches count as channels, all but the last axis behind C as height."""
    if len(shape) < 2:
        return (math.prod(shape), 1, 1)
    return (shape[0] * shape[1], math.prod(shape[2:-1]), shape[-1] if len(shape) > 2 else 1)


def stored_values(draft: Draft, node: Node, position: int) -> Array | None:
    """Values of a constant operand; None where the file lacks them."""
    return draft.constants.get(node.inputs[position])
