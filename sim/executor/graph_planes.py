"""The layers of an imported convolutional graph, where they say all that it computes: single images then run on planes.

Every node must be one that a layer stands for exactly (a convolution with equal strides and paddings, a pooling, a sum, a
fully connected layer, an activation behind one of them) or one that moves nothing. Anything else is named, and the graph
runs operator by operator.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ...workloads.graph import Graph, Node
from ...workloads.layers import CONV_OPS, Layer
from ...workloads.nesting import NestedWeights
from ...workloads.network import INPUT, Network
from .operators.call import decimal, integer
from .operators.window import windows_of
from .plan import make_plan

_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
#: Operators behind which the same elements stand in the same order.
_SAME_ORDER = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout"})


class NotPlainError(Exception):
    """Why a graph is more than its layers."""


@dataclass
class _Form:
    """What the walk over the nodes has found so far. ``made``: tensor -> layer that stands for it."""

    network: Network
    graph: Graph
    made: dict[str, str] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    biases: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    scales: dict[str, NestedWeights] = field(default_factory=dict)
    readers: Counter[str] = field(default_factory=Counter)
    absorbed: set[str] = field(default_factory=set)
    flat: set[str] = field(default_factory=set)

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.graph.shapes.get(tensor, self.graph.inputs.get(tensor, ((),))[0])

    def grid(self, tensor: str) -> tuple[int, int, int]:
        """(channels, height, width) of a tensor of one image."""
        shape = self.shape(tensor)
        if len(shape) not in (2, 4) or shape[0] != 1:
            raise NotPlainError(f"a tensor of shape {tuple(shape)}")
        return (shape[1], 1, 1) if len(shape) == 2 else (shape[1], shape[2], shape[3])

    def source(self, tensor: str, *, row: bool = False) -> str:
        """The layer that a tensor is; ``row``: the reader takes its elements in their order."""
        if tensor not in self.made or (tensor in self.flat and not row):
            raise NotPlainError("a constant or reshaped operand")
        return self.made[tensor]

    def name(self, tensor: str) -> str:
        """A layer's name for what only a tensor names: nodes and tensors may share names."""
        taken = {INPUT, *self.layers, *(layer.name for layer in self.network.layers)}
        while tensor in taken:
            tensor += "'"
        return tensor

    def add(self, node: Node, layer: Layer) -> None:
        self.layers[layer.name] = layer
        self.made[node.outputs[0]] = layer.name

    def activate(self, tensor: str, activation: str, makes: str, *, readers: int = 1) -> None:
        """Let the layer that made ``tensor``, which nothing else reads, apply an activation."""
        layer = self.layers.get(self.made.get(tensor, ""))
        if layer is None or layer.activation != "none" or self.readers[tensor] != readers or tensor in self.flat:
            raise NotPlainError(f"'{activation}' of a tensor that others read")
        self.layers[layer.name] = replace(layer, activation=activation)
        self.made[makes] = layer.name


def plane_form(network: Network) -> Network:
    """The same network by its layers alone, without a graph; a soft maximum at its end is left to :func:`ends_softly`.

    Raises
    ------
    NotPlainError
        naming the first node that no layer stands for.
    """
    graph = network.graph
    assert graph is not None
    form = _Form(network, graph)
    form.readers.update(name for node in graph.nodes for name in node.inputs)
    form.readers.update(graph.outputs)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise NotPlainError(f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs")
    ((_, dtype),) = graph.inputs.values()
    if dtype != np.float32:
        raise NotPlainError(f"it computes in {np.dtype(dtype).name}")
    form.grid(next(iter(graph.inputs)))
    form.made[next(iter(graph.inputs))] = INPUT
    nodes, output = graph.nodes, graph.outputs[0]
    if ends_softly(graph):
        nodes, output = nodes[:-1], nodes[-1].inputs[0]
    for node in nodes:
        if node.name not in form.absorbed:
            _take(form, node)
    layers = tuple(form.layers.values())
    if not layers or form.made.get(output) != layers[-1].name:
        raise NotPlainError("the output is not the last layer's")
    weights = {**network.weights, **form.scales}
    try:
        plain = replace(network, layers=layers, graph=None, weights=weights, biases=form.biases)
        make_plan(plain)  # windows that overhang have no size formula
    except InputError as problem:
        raise NotPlainError(str(problem).splitlines()[0]) from problem
    return plain


def ends_softly(graph: Graph) -> bool:
    """True if the last node is a soft maximum over one row of features."""
    last = graph.nodes[-1]
    if last.op != "Softmax" or last.outputs[0] != graph.outputs[0]:
        return False
    shape = graph.shapes.get(last.inputs[0], ())
    # Until operator set 12 the axis splits the tensor in two; for one row both meanings are the same.
    return len(shape) == 2 and shape[0] == 1 and integer(last, "axis", 1 if graph.opset < 13 else -1) in (1, -1)


def _take(form: _Form, node: Node) -> None:
    handler = _HANDLERS.get(node.op)
    try:
        if handler is None or node.domain not in ("", "ai.onnx"):
            raise NotPlainError("no kernel on planes")
        handler(form, node)
    except (NotPlainError, InputError) as problem:
        raise NotPlainError(f"{node.op} '{node.name}': {problem}") from problem


def _convolution(form: _Form, node: Node) -> None:
    layer = _weighted(form, node)
    if layer.op not in CONV_OPS:
        raise NotPlainError("strides or paddings differ by axis or side")
    (channels, *size), (outputs, *out) = form.grid(node.inputs[0]), form.grid(node.outputs[0])
    stride, padding, dilation = _even(node, size, (layer.R, layer.S))
    found = (layer.C, layer.H, layer.W, layer.K, layer.P, layer.Q, layer.stride, layer.padding, layer.dilation)
    if found != (channels, *size, outputs, *out, stride, padding, dilation):
        raise NotPlainError("strides or paddings differ by axis or side")
    _bias(form, node, layer.name, 1.0)
    form.add(node, replace(layer, sources=(form.source(node.inputs[0]),), activation="none"))


def _fully_connected(form: _Form, node: Node) -> None:
    layer = _weighted(form, node)
    gemm = layer.gemm
    plain = decimal(node, "alpha", 1.0) == 1.0 and not integer(node, "transA", 0)
    if gemm is None or layer.op != "linear" or (gemm.b, gemm.m) != (1, 1) or not plain:
        raise NotPlainError("not one row of features times weights")
    if form.graph.shapes.get(node.inputs[0]) != (1, gemm.k):
        raise NotPlainError("its operand is not one row of features")
    _bias(form, node, layer.name, decimal(node, "beta", 1.0))
    form.add(node, replace(layer, sources=(form.source(node.inputs[0], row=True),), activation="none"))


def _weighted(form: _Form, node: Node) -> Layer:
    if len(node.layers) != 1 or node.inputs[0] not in form.made:
        raise NotPlainError("its weights are not stored")
    return next(layer for layer in form.network.layers if layer.name == node.layers[0])


def _bias(form: _Form, node: Node, name: str, scale: float) -> None:
    if name in form.network.biases:
        form.biases[name] = form.network.biases[name]
    elif len(node.inputs) > 2 and node.inputs[2]:
        values = form.graph.constants.get(node.inputs[2])
        if values is None or values.dtype != np.float32:
            raise NotPlainError("its bias is not a float32 constant")
        outputs = form.grid(node.outputs[0])[0]
        row = np.multiply(values.reshape(-1), scale, dtype=np.float32)
        form.biases[name] = np.tile(np.broadcast_to(row, outputs), (form.network.levels, 1))


def _even(node: Node, size: list[int], kernel: tuple[int, int]) -> tuple[int, int, int]:
    """(stride, padding, dilation) that hold on both axes; what lies behind the last window does not matter."""
    windows = windows_of(node, size, kernel)
    pairs = (windows.strides, windows.before, windows.dilations)
    if any(len(set(pair)) > 1 for pair in pairs):
        raise NotPlainError("strides or paddings differ by axis or side")
    return pairs[0][0], pairs[1][0], pairs[2][0]


def _pool(form: _Form, node: Node) -> None:
    channels, *size = form.grid(node.inputs[0])
    out = form.grid(node.outputs[0])[1:]
    average = node.op in ("AveragePool", "GlobalAveragePool")
    kernel, places = (size[0], size[1]), (1, 0, 1)
    if not node.op.startswith("Global"):
        shape = node.attributes.get("kernel_shape")
        assert isinstance(shape, tuple)
        kernel = (int(shape[0]), int(shape[1]))
        places = _even(node, size, kernel)
        overhang = places[1] or integer(node, "ceil_mode", 0)
        if average and overhang and not (integer(node, "count_include_pad", 0) and not integer(node, "ceil_mode", 0)):
            raise NotPlainError("padding does not count in its means")
    if len(node.outputs) > 1:
        raise NotPlainError("it returns indices")
    layer = Layer(
        name=form.name(node.outputs[0]), op="avgpool" if average else "maxpool", sources=(form.source(node.inputs[0]),),
        C=channels, H=size[0], W=size[1], K=channels, P=out[0], Q=out[1], R=kernel[0], S=kernel[1],
        stride=places[0], padding=places[1], dilation=places[2],
    )  # fmt: skip
    form.add(node, layer)


def _join(form: _Form, node: Node) -> None:
    """A sum of equal shapes, a product by a factor per channel, or channels behind channels."""
    shapes = [form.grid(name) for name in node.inputs]
    channels, *size = max(shapes, key=math.prod)
    op = "add" if node.op == "Sum" else node.op.lower()
    if op == "add" and len(set(shapes)) > 1:
        raise NotPlainError(f"operands of shapes {shapes}")
    if op == "mul" and not {(channels, 1, 1)} <= set(shapes) <= {(channels, 1, 1), (channels, *size)}:
        raise NotPlainError("not one factor per channel")
    if len({len(form.shape(name)) for name in node.inputs}) > 1:
        raise NotPlainError("its operands differ in rank")  # broadcasting would align channels with columns
    if op == "concat":
        if integer(node, "axis", 1) % len(form.graph.shapes[node.inputs[0]]) != 1:
            raise NotPlainError("not along the channels")
        channels = sum(shape[0] for shape in shapes)
    sources, (high, wide) = tuple(form.source(name) for name in node.inputs), size
    layer = Layer(
        name=form.name(node.outputs[0]), op=op, sources=sources, C=channels, H=high, W=wide, K=channels, P=high, Q=wide
    )  # fmt: skip
    form.add(node, layer)


def _normalisation(form: _Form, node: Node) -> None:
    """A scale and a shift per channel that no product in front could take in: a product of every channel with itself."""
    found = [form.graph.constants.get(name) for name in node.inputs[1:5]]
    if len(node.outputs) > 1 or any(x is None or x.dtype != np.float32 for x in found):
        raise NotPlainError("its statistics are no float32 constants")
    scale, shift, mean, variance = (np.asarray(x, np.float64) for x in found)
    factor = scale / np.sqrt(variance + decimal(node, "epsilon", 1e-5))
    channels, height, width = form.grid(node.inputs[0])
    name, levels = form.name(node.outputs[0]), form.network.levels
    shape = (channels, 1, 1, 1)
    every = np.full(shape, levels, np.uint8)
    form.scales[name] = NestedWeights(values=factor.astype(np.float32).reshape(shape), keep=every, levels=levels)
    form.biases[name] = np.tile((shift - mean * factor).astype(np.float32), (levels, 1))
    form.add(
        node,
        Layer(
            name=name, op="dwconv", sources=(form.source(node.inputs[0]),), C=channels, H=height, W=width, K=channels,
            P=height, Q=width, groups=channels,
        ),
    )  # fmt: skip


def _activation(form: _Form, node: Node) -> None:
    """An activation, or the gate of x * sigmoid(x)."""
    x, gate = node.inputs[0], node.outputs[0]
    product = next((n for n in form.graph.nodes if n.op == "Mul" and set(n.inputs) == {x, gate}), None)
    if node.op == "Sigmoid" and product is not None and form.readers[gate] == 1:
        form.activate(x, "silu", product.outputs[0], readers=2)
        form.absorbed.add(product.name)
    else:
        form.activate(x, _ACTIVATIONS[node.op], gate)


def _clip(form: _Form, node: Node) -> None:
    """Clip to 0..6 or 0..infinity, limits as attributes or (since operator set 11) operands."""
    limits: list[object] = [node.attributes.get("min"), node.attributes.get("max")]
    for index, name in enumerate(node.inputs[1:3]):
        if name:
            value = form.graph.constants.get(name)
            if value is None:
                raise NotPlainError("limits that are computed")
            limits[index] = float(value.reshape(())[()])
    known: Mapping[tuple[object, ...], str] = {(0.0, 6.0): "relu6", (0.0, None): "relu"}
    if tuple(limits) not in known:
        raise NotPlainError(f"limits {limits}")
    form.activate(node.inputs[0], known[tuple(limits)], node.outputs[0])


def _same_order(form: _Form, node: Node) -> None:
    tensor, makes = node.inputs[0], node.outputs[0]
    grid = form.grid(tensor)
    before = form.source(tensor, row=True)
    if form.grid(makes) != grid:
        if form.grid(makes) != (math.prod(grid), 1, 1):
            raise NotPlainError("it splits or joins axes")
        form.flat.add(makes)
    elif tensor in form.flat:
        form.flat.add(makes)
    form.made[makes] = before
    form.readers[makes] += form.readers[tensor] - 1


def _mean(form: _Form, node: Node) -> None:
    """A mean over height and width is a pooling of the whole map."""
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] in form.graph.constants:
        axes = tuple(int(axis) for axis in form.graph.constants[node.inputs[1]].reshape(-1))
    if not isinstance(axes, tuple) or {int(axis) % 4 for axis in axes} != {2, 3}:
        raise NotPlainError("not a mean over height and width")
    _pool(form, replace(node, op="GlobalAveragePool"))


_HANDLERS: Mapping[str, Callable[[_Form, Node], None]] = {
    "Conv": _convolution,
    "Gemm": _fully_connected,
    "MatMul": _fully_connected,
    "BatchNormalization": _normalisation,
    "Clip": _clip,
    "ReduceMean": _mean,
    **dict.fromkeys(_ACTIVATIONS, _activation),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"), _pool),
    **dict.fromkeys(("Add", "Sum", "Mul", "Concat"), _join),
    **dict.fromkeys(_SAME_ORDER, _same_order),
}
