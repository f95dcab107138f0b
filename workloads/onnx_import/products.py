"""Matrix products: with stored weights (layers) and of two activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..graph import Node
from ..layers import Gemm, Layer
from .draft import Shape, whole
from .einsum import EinsumProduct, einsum_product
from .table import LayerTable


@dataclass(frozen=True)
class Operand:
    """Input position of an operand and of its zero point (integer operators; None: the values count as they are)."""

    position: int
    zero_point: int | None = None


#: Left and right operand of each operator.
_OPERANDS: Mapping[str, tuple[Operand, Operand]] = {
    "Gemm": (Operand(0), Operand(1)),
    "MatMul": (Operand(0), Operand(1)),
    "Einsum": (Operand(0), Operand(1)),
    "MatMulInteger": (Operand(0, 2), Operand(1, 3)),
    "QLinearMatMul": (Operand(0, 2), Operand(3, 5)),
}


def float_weights(table: LayerTable, node: Node, operand: Operand) -> NDArray[np.float32] | None:
    """A stored operand as float32, its zero point subtracted; None where the file lacks the values.

    Raises
    ------
    InputError
        if the zero point is not stored or does not fit.
    """
    values = table.draft.constants.get(node.inputs[operand.position])
    if values is None:
        return None
    result = values.astype(np.float32, copy=False)
    if operand.zero_point is None or not table.has(node, operand.zero_point):
        return result
    offset = table.draft.constants.get(node.inputs[operand.zero_point])
    if offset is None:
        raise InputError(f"node '{node.name}' ({node.op}): the zero point of its weights is not stored")
    shift = offset.astype(np.float32).reshape(offset.shape if offset.size > 1 else ())
    if shift.ndim == 1 and node.op in ("QLinearConv", "ConvInteger"):
        shift = shift.reshape(-1, *[1] * (values.ndim - 1))
    elif shift.ndim == 1 and operand.position == 0:
        shift = shift[:, None]
    try:
        return np.asarray(result - shift, np.float32).reshape(values.shape)
    except ValueError:
        raise InputError(f"node '{node.name}' ({node.op}): the zero point does not fit its weights") from None


def params_note(table: LayerTable, node: Node, position: int) -> tuple[bool, str]:
    """Whether another layer counts these weights already, and the note that says so."""
    first = table.counted(node.inputs[position], node.name)
    return bool(first), f"shares the weights of {first}" if first else ""


def gemm(table: LayerTable, node: Node) -> None:
    """Gemm: rows are whatever A has, so a classifier may run over many at once."""
    a, b, made = table.shape(node, 0), table.shape(node, 1), table.output_shape(node)
    if len(a) != 2 or len(b) != 2 or len(made) != 2:
        raise InputError(f"node '{node.name}' (Gemm): operands {list(a)} and {list(b)} must be matrices")
    k = a[0] if whole(node, "transA", 0) else a[1]
    if k != (b[1] if whole(node, "transB", 0) else b[0]):
        raise InputError(f"node '{node.name}' (Gemm): operands {list(a)} and {list(b)} do not fit")
    view = Gemm(1, made[0], made[1], k)
    if 0 in (*a, *b, *made):
        table.gap(node, macs=0, reason="it makes an empty tensor")
    elif table.draft.is_constant(node.inputs[1]):
        rows = _rows(table, node, _OPERANDS["Gemm"][1], turn=not whole(node, "transB", 0))
        _static(table, node, view, 1, rows)
    elif table.draft.is_constant(node.inputs[0]):
        rows = _rows(table, node, _OPERANDS["Gemm"][0], turn=bool(whole(node, "transA", 0)))
        _static(table, node, Gemm(1, view.n, view.m, k), 0, rows)
    else:
        _dynamic(table, node, view)


def matmul(table: LayerTable, node: Node) -> None:
    """MatMul and its integer forms, with any leading axes (numpy.matmul)."""
    left, right = _OPERANDS[node.op]
    a, b = table.shape(node, left.position), table.shape(node, right.position)
    a, b = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    if min(len(a), len(b)) < 2 or a[-1] != b[-2]:
        raise InputError(f"node '{node.name}' ({node.op}): operands {list(a)} and {list(b)} do not fit")
    m, k, n = a[-2], a[-1], b[-1]
    batch = math.prod(np.broadcast_shapes(a[:-2], b[:-2]))
    if 0 in (*a, *b):
        table.gap(node, macs=0, reason="it makes an empty tensor")
    elif table.draft.is_constant(node.inputs[right.position]):
        own = math.prod(b[:-2])
        view = Gemm(own, batch // own * m, n, k)
        _static(table, node, view, right.position, _rows(table, node, right, turn=True))
    elif table.draft.is_constant(node.inputs[left.position]):
        own = math.prod(a[:-2])
        view = Gemm(own, batch // own * n, m, k)
        _static(table, node, view, left.position, _rows(table, node, left, turn=False))
    else:
        _dynamic(table, node, Gemm(batch, m, n, k))


def einsum(table: LayerTable, node: Node) -> None:
    """Einsum where it is one product of two operands, else a gap."""
    shapes = [table.draft.shapes.get(name) for name in node.inputs]
    product = einsum_product(str(node.attributes.get("equation", "")), shapes)
    if isinstance(product, EinsumProduct):
        view = product.gemm
        if table.draft.is_constant(node.inputs[1]):
            values = float_weights(table, node, Operand(1))
            _static(table, node, view, 1, None if values is None else product.rows(values, 1))
        elif table.draft.is_constant(node.inputs[0]):
            values = float_weights(table, node, Operand(0))
            turned = Gemm(view.b, view.n, view.m, view.k)
            _static(table, node, turned, 0, None if values is None else product.rows(values, 0))
        else:
            _dynamic(table, node, view)
    else:
        table.gap(node, macs=product, reason=f"equation '{node.attributes.get('equation')}' is not one matrix product")


def attention(table: LayerTable, node: Node) -> None:
    """The Attention operator (operator set 23): scores and weighted sum as two products of activations.

    Inputs (batch, heads, tokens, features), or (batch, tokens, heads*features) with the numbers of heads as attributes.
    """
    q, k, v = (_heads(node, table.shape(node, i), name) for i, name in enumerate(("q", "kv", "kv")))
    past = table.shape(node, 4)[2] if table.has(node, 4) else 0
    batch, heads, tokens, features = q
    seen, wide = k[2] + past, v[3]
    if 0 in (batch, heads, tokens, features, seen, wide):
        raise InputError(f"node '{node.name}' (Attention): operands {list(q)}, {list(k)}, {list(v)} are empty")
    scores = Layer(
        name=table.sub_name(f"{node.name}.scores"), op="matmul", C=features, K=seen, join="*",
        gemm=Gemm(batch * heads, tokens, seen, features), sources=table.sources(node.inputs[:2]),
    )  # fmt: skip
    table.add(scores)
    context = Layer(
        name=table.sub_name(f"{node.name}.context"), op="matmul", C=seen, K=wide, join="*",
        gemm=Gemm(batch * heads, tokens, wide, seen), sources=(scores.name, *table.sources(node.inputs[2:3])),
    )  # fmt: skip
    table.add(context, makes=node.outputs)


def _heads(node: Node, shape: Shape, kind: str) -> Shape:
    if len(shape) == 4:
        return shape
    heads = whole(node, f"{kind}_num_heads", 0)
    if len(shape) != 3 or heads < 1 or shape[2] % heads:
        raise InputError(f"node '{node.name}' (Attention): an operand of shape {list(shape)} needs {kind}_num_heads")
    return (shape[0], heads, shape[1], shape[2] // heads)


def _rows(table: LayerTable, node: Node, operand: Operand, *, turn: bool) -> NDArray[np.float32] | None:
    """The operand with output features as rows."""
    values = float_weights(table, node, operand)
    return np.swapaxes(values, -1, -2) if turn and values is not None and values.ndim > 1 else values


def _static(
    table: LayerTable, node: Node, view: Gemm, position: int, rows: NDArray[np.float32] | None
) -> None:  # fmt: skip
    left, right = _OPERANDS[node.op]
    activation = left.position if position == right.position else right.position
    shared, notes = params_note(table, node, position)
    layer = Layer(
        name=node.name, op="linear", C=view.k, K=view.n, gemm=view,
        sources=table.sources([node.inputs[activation]]), relu_in=table.origin(node.inputs[activation]).rectified,
        weight_params=0 if shared else view.b * view.n * view.k,
        bias_params=math.prod(table.shape(node, 2)) if node.op == "Gemm" and table.has(node, 2) else 0, notes=notes,
    )  # fmt: skip
    table.add(layer, makes=node.outputs)
    table.tie(node, [layer], [(position, rows)])


def _dynamic(table: LayerTable, node: Node, view: Gemm) -> None:
    positions = [operand.position for operand in _OPERANDS[node.op]]
    layer = Layer(
        name=node.name, op="matmul", C=view.k, K=view.n, gemm=view, join="*",
        sources=table.sources([node.inputs[i] for i in positions]),
    )  # fmt: skip
    table.add(layer, makes=node.outputs)


HANDLERS: Mapping[str, Callable[[LayerTable, Node], None]] = {
    "Gemm": gemm,
    "MatMul": matmul,
    "MatMulInteger": matmul,
    "QLinearMatMul": matmul,
    "Einsum": einsum,
    "Attention": attention,
}
