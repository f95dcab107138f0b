"""Activations that exporters write out in small operators: x·sigmoid(x), and GELU by the error function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ..graph import Node
from .movement import activated, fuse_activation, move
from .table import LayerTable

#: Exporters store constants in single precision.
_TOLERANCE = 1e-5


def _sigmoid(table: LayerTable, node: Node) -> None:
    """SiLU is x·sigmoid(x); anything else is a sigmoid."""
    x, product = node.inputs[0], _only_reader(table, node.outputs[0], "Mul")
    if (
        product is not None
        and set(product.inputs) == {x, node.outputs[0]}
        and fuse_activation(table, x, "silu", product.outputs[0], readers=2)
    ):
        table.absorbed.add(product.name)
    else:
        activated(table, node)


def _scaled(table: LayerTable, node: Node) -> None:
    """GELU is x·(erf(x/√2) + 1)/2 (Hendrycks and Gimpel, arXiv:1606.08415); the first node scales x."""
    rest = _gelu_rest(table, node)
    if rest and fuse_activation(table, node.inputs[0], "gelu", rest[-1].outputs[0], readers=2):
        table.absorbed.update(each.name for each in rest)
    else:
        move(table, node, "elementwise")


def _gelu_rest(table: LayerTable, node: Node) -> list[Node]:
    """The four nodes behind ``node`` that make it a GELU; empty if they do not."""
    expected = math.sqrt(2) if node.op == "Div" else 1 / math.sqrt(2)
    if not _is_number(table, node, 1, expected):
        return []
    found: list[Node] = [node]
    for op in ("Erf", "Add", "Mul", "Mul"):
        following = _only_reader(table, found[-1].outputs[0], op)
        if following is None:
            return []
        found.append(following)
    _, _, plus, by_x, half = found
    numbers = _has_number(table, plus, 1.0) and _has_number(table, half, 0.5)
    return found[1:] if numbers and node.inputs[0] in by_x.inputs else []


def _only_reader(table: LayerTable, tensor: str, op: str) -> Node | None:
    readers = table.consumers[tensor]
    return readers[0] if table.readers[tensor] == 1 and len(readers) == 1 and readers[0].op == op else None


def _has_number(table: LayerTable, node: Node, number: float) -> bool:
    return any(_is_number(table, node, position, number) for position in range(len(node.inputs)))


def _is_number(table: LayerTable, node: Node, position: int, number: float) -> bool:
    value = table.draft.constants.get(node.inputs[position]) if position < len(node.inputs) else None
    return value is not None and value.size == 1 and abs(float(value.reshape(-1)[0]) - number) < _TOLERANCE


HANDLERS: Mapping[str, Callable[[LayerTable, Node], None]] = {"Sigmoid": _sigmoid, "Div": _scaled, "Mul": _scaled}
