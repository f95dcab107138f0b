"""LSTM, GRU and RNN: per direction a product with the inputs of all steps and one with the state, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..errors import InputError
from ..graph import Node
from ..layers import Gemm, Layer
from .draft import whole
from .products import Operand, float_weights, params_note
from .table import LayerTable

#: Operator -> gates, the layers' operators for inputs and state, the cell's activation. A plain RNN has one tanh.
_CELLS: Mapping[str, tuple[int, str, str, str]] = {
    "LSTM": (4, "lstm_ih", "lstm_hh", "lstm"),
    "GRU": (3, "gru_ih", "gru_hh", "gru"),
    "RNN": (1, "linear", "linear", "tanh"),
}
_DIRECTIONS: Mapping[str, tuple[str, ...]] = {
    "forward": ("",),
    "reverse": ("",),
    "bidirectional": (".fwd", ".bwd"),
}


def recurrent(table: LayerTable, node: Node) -> None:
    """Layers ``NAME.ih`` and ``NAME.hh``, in two directions ``NAME.fwd.ih`` and so on.

    The product with the inputs covers all time steps at once; the one with the state is repeated for each.
    """
    gates, ih, hh, activation = _CELLS[node.op]
    x, W, R = (table.shape(node, i) for i in range(3))
    directions = _DIRECTIONS.get(str(node.attributes.get("direction", "forward")), ())
    hidden = whole(node, "hidden_size", R[-1] if R else 0)
    cells = (len(directions), gates * hidden)
    if len(x) != 3 or (*cells, x[-1]) != W or (*cells, hidden) != R:
        raise InputError(f"node '{node.name}' ({node.op}): operands {list(x)}, {list(W)}, {list(R)} do not fit")
    steps, batch = (x[1], x[0]) if whole(node, "layout", 0) else (x[0], x[1])
    rows = gates * hidden
    if not all(table.draft.is_constant(node.inputs[i]) for i in (1, 2)) or 0 in (*x, *W, *R):
        macs = len(directions) * steps * batch * rows * (x[-1] + hidden)
        table.gap(node, macs=macs, reason="its weights are computed, not stored")
        return
    shared, notes = params_note(table, node, 1)
    biased = rows if table.has(node, 3) else 0
    made = []
    for suffix in directions:
        inputs = Layer(
            name=table.sub_name(f"{node.name}{suffix}.ih"), op=ih, C=x[-1], K=rows, gemm=Gemm(1, steps * batch, rows, x[-1]),
            sources=table.sources(node.inputs[:1]), relu_in=table.origin(node.inputs[0]).rectified, activation=activation,
            weight_params=0 if shared else rows * x[-1], bias_params=biased, notes=notes,
        )  # fmt: skip
        state = Layer(
            name=table.sub_name(f"{node.name}{suffix}.hh"), op=hh, C=hidden, K=rows, repeat=steps,
            gemm=Gemm(1, batch, rows, hidden), sources=(inputs.name,), activation=activation,
            weight_params=0 if shared else rows * hidden, bias_params=biased, notes="one product per time step",
        )  # fmt: skip
        table.add(inputs)
        table.add(state)
        made += [inputs, state]
    table.merge(node.outputs, [layer.name for layer in made[1::2]])
    _tie(table, node, made)


def _tie(table: LayerTable, node: Node, layers: list[Layer]) -> None:
    operands = [(position, float_weights(table, node, Operand(position))) for position in (1, 2)]
    matrices: list[tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None]] = []
    for index in range(len(layers)):
        position, values = operands[index % 2]
        matrices.append((position, None if values is None else values[index // 2]))
    table.tie(node, layers, matrices)


HANDLERS: Mapping[str, Callable[[LayerTable, Node], None]] = dict.fromkeys(_CELLS, recurrent)
