"""Operators of imported graphs that are not products with stored weights: name -> function on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ....workloads.graph import Node
from . import elementwise, layout, matrix, quantised, reduction, resize, window
from .call import Operator
from .fallback import reference_operator

#: Operators of the ONNX default domain with a vectorised form.
OPERATORS: Mapping[str, Operator] = {
    **elementwise.TABLE,
    **layout.TABLE,
    **matrix.TABLE,
    **quantised.TABLE,
    **reduction.TABLE,
    **resize.TABLE,
    **window.TABLE,
}
#: Where a table's form does not cover every attribute.
_CONDITIONS: Mapping[str, Callable[[Node], bool]] = {
    "Resize": resize.supports,
    "Upsample": resize.supports,
    "QuantizeLinear": quantised.supports,
    "DequantizeLinear": quantised.supports,
    "MaxPool": lambda node: len(node.outputs) == 1,
    "BatchNormalization": lambda node: len(node.outputs) == 1,
}


def operator_for(node: Node, opset: int) -> Operator | None:
    """What computes ``node``: the vectorised form, else the ``onnx`` package's; None where neither exists."""
    known = OPERATORS.get(node.op) if node.domain in {"", "ai.onnx"} else None
    condition = _CONDITIONS.get(node.op)
    if known is not None and (condition is None or condition(node)):
        return known
    return reference_operator(node, opset)
