"""LSTM, GRU and plain recurrences: per layer and direction one product over all steps and one per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from .nodes import operation, shape
from .products import product
from .walk import Value, Walk

#: Operators of a cell's two products; plain recurrences are linear layers.
_CELLS = {
    "lstm": ("lstm_ih", "lstm_hh"),
    "gru": ("gru_ih", "gru_hh"),
    "rnn_tanh": ("linear", "linear"),
    "rnn_relu": ("linear", "linear"),
}


def recurrent(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """All layers and directions of a recurrent module; None for packed sequences, whose steps differ per input."""
    if "batch_sizes" in args:
        return None
    x, depth, directions = args["input"], int(args["num_layers"]), 2 if args["bidirectional"] else 1
    parameters = [walk.constants[p] for p in args["params"]]
    base = walk.name_of(args["params"][0], node.name).rpartition(".")[0] or node.name
    each = len(parameters) // (depth * directions)
    value, first = walk.values[x], len(walk.layers)
    for index in range(depth):
        found = []
        for direction in range(directions):
            start = (index * directions + direction) * each
            name = f"{base}.l{index}" + ("_reverse" if direction else "")
            found.append(_direction(walk, node, value, args, name=name, parameters=parameters[start : start + each]))
        value = found[0]
        if directions == 2:
            value = walk.add(node, "concat", name=f"{base}.l{index}_both", inputs=found, join="|")
    walk.watched[node] = (walk.layers[first], x)
    return value._replace(owner=None)


def _direction(
    walk: Walk,
    node: Node,
    x: Value,
    args: dict[str, Any],
    *,
    name: str,
    parameters: Sequence[list[torch.Tensor]],
) -> Value:
    """Input product, recurrent product, gates of plain cells, and the projection of the state where there is one."""
    cell, biased = operation(node), bool(args["has_biases"])
    sizes = shape(args["input"])
    batch = 1 if len(sizes) == 2 else sizes[0 if args["batch_first"] else 1]
    steps = math.prod(sizes[:-1]) // batch
    biases = parameters[2:4] if biased else (None, None)
    input_op, state_op = _CELLS[cell]
    shown = {"activation": cell} if input_op != "linear" else {}
    (n, k), hidden = parameters[0][0].shape, parameters[1][0].shape[1]
    value = product(
        walk, node, x, name=f"{name}.ih", gemm=(1, batch * steps, n, k), weight=parameters[0], bias=biases[0],
        op=input_op, **shown,
    )  # fmt: skip
    value = product(
        walk, node, value, name=f"{name}.hh", gemm=(1, batch, n, hidden), weight=parameters[1], bias=biases[1],
        op=state_op, repeat=steps, **shown,
    )  # fmt: skip
    if input_op == "linear":
        value = walk.add(node, "elementwise", name=f"{name}.gates", inputs=[value], notes=cell)
    if len(parameters) > (4 if biased else 2):
        n, k = parameters[-1][0].shape
        value = product(
            walk, node, value, name=f"{name}.hr", gemm=(1, batch, n, k), weight=parameters[-1], repeat=steps
        )
    return value
