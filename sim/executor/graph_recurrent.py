"""LSTM, GRU and RNN with stored matrices (ONNX operator specifications, opsets 7 to 23).

The input product of all time steps is one matrix product; the recurrent one is a row product per step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...workloads.errors import InputError
from ...workloads.graph import Node
from .geometry import Convolution, Product
from .graph_products import Multiplier, PlanContext, PlannedOperator
from .operators.call import Array, Inputs, given, integer, optional, text
from .operators.elementwise import UNARY

#: Gates per operator and its default activations.
_GATES: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "LSTM": (4, ("Sigmoid", "Tanh", "Tanh")),
    "GRU": (3, ("Sigmoid", "Tanh")),
    "RNN": (1, ("Tanh",)),
}
_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {name: UNARY[name] for name in ("Sigmoid", "Tanh", "Relu")}


@dataclass(frozen=True, eq=False, kw_only=True)
class _Cell:
    """One direction: ``layers`` are the names of its input and its recurrent matrix."""

    node: Node
    layers: tuple[str, str]
    hidden: int
    reverse: bool
    functions: tuple[Callable[[Array], Array], ...]

    def step(
        self, gates: Array, state: tuple[Array, Array], multiplier: Multiplier, bias: Array | None, peep: Array | None
    ) -> tuple[Array, Array]:
        """Next (hidden, cell) state; ``gates``: the step's input product with its bias, (N, gates*hidden)."""
        if self.node.op == "GRU":
            return self._gated_step(gates, state[0], multiplier, bias), state[1]
        sums = gates + multiplier.multiply(self.layers[1], state[0], bias)
        if self.node.op == "RNN":
            return self.functions[0](sums), state[1]
        return self._long_step(sums, state[1], peep)

    def _long_step(self, sums: Array, cell: Array, peep: Array | None) -> tuple[Array, Array]:
        """Hochreiter and Schmidhuber (1997) with forget gates and peepholes (Gers et al., 2002); gates i, o, f, c."""
        i, o, f, c = np.split(sums, 4, axis=1)
        p_i, p_o, p_f = (0, 0, 0) if peep is None else np.split(peep, 3)
        gate, inner, outer = self.functions
        i = gate(i + p_i * cell)
        f = 1 - i if integer(self.node, "input_forget", 0) else gate(f + p_f * cell)
        cell = f * cell + i * inner(c)
        return gate(o + p_o * cell) * outer(cell), cell

    def _gated_step(self, gates: Array, hidden: Array, multiplier: Multiplier, bias: Array | None) -> Array:
        """Cho et al., arXiv 1406.1078; gates z, r, h. The reset acts before or after the recurrent product."""
        n, (gate, inner) = self.hidden, self.functions
        own = np.zeros(3 * n, np.float32) if bias is None else bias
        if integer(self.node, "linear_before_reset", 0):
            sums = multiplier.multiply(self.layers[1], hidden, own)
            z, r = np.split(gate(gates[:, : 2 * n] + sums[:, : 2 * n]), 2, axis=1)
            candidate = inner(gates[:, 2 * n :] + r * sums[:, 2 * n :])
        else:
            first, last = slice(0, 2 * n), slice(2 * n, 3 * n)
            sums = multiplier.multiply(self.layers[1], hidden, own[first], rows=first)
            z, r = np.split(gate(gates[:, first] + sums), 2, axis=1)
            candidate = inner(gates[:, last] + multiplier.multiply(self.layers[1], r * hidden, own[last], rows=last))
        return np.asarray((1 - z) * candidate + z * hidden)


def plan_recurrent(node: Node, context: PlanContext) -> PlannedOperator:
    """Plan one recurrent node.

    Raises
    ------
    InputError
        for activations other than sigmoid, tanh and relu, clipping, or matrices that do not fit.
    """
    steps, batch, features = _time_first(node, context.shape(node, 0))
    cells = _cells(node, context)
    products = {}
    for cell in cells:
        rows = _GATES[node.op][0] * cell.hidden
        sizes = (
            (Convolution(cell.layers[0], features, 1, steps * batch, rows), 1),
            (
                Convolution(cell.layers[1], cell.hidden, 1, 1, rows),
                steps * batch,
            ),
        )
        for convolution, runs in sizes:
            needed = (rows, convolution.channels)
            if context.rows[convolution.name] != needed:
                raise InputError(
                    f"node '{node.name}' ({node.op}): layer '{convolution.name}' has weights of "
                    f"{context.rows[convolution.name]} rows and columns, needed are {needed}"
                )
            products[convolution.name] = Product(convolution, runs)

    def compute(inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
        return _run(node, cells, inputs, multiplier)

    return PlannedOperator(node=node, products=products, compute=compute)


def _time_first(node: Node, shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise InputError(f"node '{node.name}' ({node.op}): its input has {len(shape)} axes, must have 3")
    first, second, features = shape
    return (second, first, features) if integer(node, "layout", 0) else (first, second, features)


def _cells(node: Node, context: PlanContext) -> list[_Cell]:
    direction = text(node, "direction", "forward")
    reverses = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}.get(direction)
    gates, defaults = _GATES[node.op]
    if reverses is None or len(node.layers) != 2 * len(reverses):
        raise InputError(
            f"node '{node.name}' ({node.op}): direction '{direction}' with {len(node.layers)} layers; needed are two per "
            "direction, and forward, reverse or bidirectional"
        )
    names = node.attributes.get("activations") or defaults * len(reverses)
    names = tuple(str(name) for name in names) if isinstance(names, tuple) else ()
    known = {name.lower(): function for name, function in _ACTIVATIONS.items()}
    unknown = [name for name in names if name.lower() not in known]
    if unknown or len(names) != len(defaults) * len(reverses) or "clip" in node.attributes:
        raise InputError(
            f"node '{node.name}' ({node.op}): activations {names}{' with clipping' * ('clip' in node.attributes)} are not "
            f"supported; supported are {len(defaults)} per direction of {', '.join(_ACTIVATIONS)}, without clipping"
        )
    functions = [known[name.lower()] for name in names]
    hidden = integer(node, "hidden_size", context.rows[node.layers[0]][0] // gates)
    return [
        _Cell(
            node=node,
            layers=(node.layers[2 * i], node.layers[2 * i + 1]),
            hidden=hidden,
            reverse=reverse,
            functions=tuple(functions[i * len(defaults) : (i + 1) * len(defaults)]),
        )
        for i, reverse in enumerate(reverses)
    ]


def _run(node: Node, cells: Sequence[_Cell], inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    batch_first = bool(integer(node, "layout", 0))
    x = np.swapaxes(x, 0, 1) if batch_first else x
    lengths = optional(inputs, 4)
    sequence = np.full(x.shape[1], len(x)) if lengths is None else np.asarray(lengths, np.int64)
    outputs, hidden_states, cell_states = [], [], []
    for number, cell in enumerate(cells):
        y, (hidden, state) = _run_direction(cell, number, inputs, multiplier, (x, sequence))
        outputs.append(y)
        hidden_states.append(hidden)
        cell_states.append(state)
    y, last, cells_out = np.stack(outputs, axis=1), np.stack(hidden_states), np.stack(cell_states)
    if batch_first:
        y, last, cells_out = y.transpose(2, 0, 1, 3), np.swapaxes(last, 0, 1), np.swapaxes(cells_out, 0, 1)
    return (y, last, cells_out)[: len(node.outputs)]


def _run_direction(
    cell: _Cell, number: int, inputs: Inputs, multiplier: Multiplier, data: tuple[Array, Array]
) -> tuple[Array, tuple[Array, Array]]:
    """One direction over ``data`` = ((T, N, features), lengths (N,)): all hidden states, and the last states."""
    x, lengths = data
    steps, batch, _ = x.shape
    order = _reading_order(steps, lengths, reverse=cell.reverse)
    columns = np.arange(batch)
    read = x[order, columns]
    input_bias, recurrent_bias = _biases(cell, number, optional(inputs, 3), multiplier)
    flat = read.reshape(steps * batch, -1).T.reshape(1, -1)
    gates = multiplier.multiply(cell.layers[0], flat, input_bias)
    gates = np.ascontiguousarray(gates.reshape(-1, steps * batch).T).reshape(steps, batch, -1)
    hidden, state = (_initial(cell, inputs, number, place, shape=(batch, cell.hidden)) for place in (5, 6))
    peep = optional(inputs, 7)
    out = np.zeros((steps, batch, cell.hidden), x.dtype)
    for t in range(steps):
        new, new_state = cell.step(
            gates[t], (hidden, state), multiplier, recurrent_bias, None if peep is None else peep[number]
        )
        running = (t < lengths)[:, None]
        hidden = np.where(running, new, hidden).astype(x.dtype, copy=False)
        state = np.where(running, new_state, state).astype(x.dtype, copy=False)
        out[t] = np.where(running, hidden, 0)
    # Results stand at the position that was read; past a sequence's end both orders agree.
    placed = np.zeros_like(out)
    placed[order, columns] = out
    return placed, (hidden, state)


def _reading_order(steps: int, lengths: Array, *, reverse: bool) -> Array:
    """Time step that is read at each turn, (T, N): each sequence backwards within its own length if ``reverse``."""
    turns = np.arange(steps)[:, None]
    if not reverse:
        return np.broadcast_to(turns, (steps, lengths.size))
    return np.where(turns < lengths, lengths - 1 - turns, turns)


def _biases(
    cell: _Cell, number: int, stored: Array | None, multiplier: Multiplier
) -> tuple[Array | None, Array | None]:
    """Input and recurrent bias: the network's own ones, else the halves of the node's operand."""
    own = [multiplier.bias(layer) for layer in cell.layers]
    halves = [None, None] if stored is None else np.split(stored[number], 2)
    first, second = (half if mine is None else mine for mine, half in zip(own, halves, strict=True))
    return first, second


def _initial(cell: _Cell, inputs: Inputs, number: int, place: int, *, shape: tuple[int, int]) -> Array:
    """Initial hidden (operand 5) or cell state (operand 6, LSTM only); zeros where absent."""
    found = optional(inputs, place) if place == 5 or cell.node.op == "LSTM" else None
    if found is None:
        return np.zeros(shape, np.float32)
    if integer(cell.node, "layout", 0):
        found = np.swapaxes(found, 0, 1)
    return np.asarray(found[number])
