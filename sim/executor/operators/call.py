"""How an operator is called, and how it reads its attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....workloads.errors import InputError
from ....workloads.graph import Node

#: A tensor; its element type is known at run time only.
Array = NDArray[Any]
#: Operands of a call; None where an optional one is absent.
Inputs = Sequence[Array | None]
#: (operands, node, opset) -> one array per output.
Operator = Callable[[Inputs, Node, int], tuple[Array, ...]]

#: ONNX ``TensorProto.DataType`` numbers of the element types that NumPy has, too.
_ELEMENT_TYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip


def given(inputs: Inputs, node: Node, index: int) -> Array:
    """A required operand.

    Raises
    ------
    InputError
        if the node does not have it.
    """
    found = inputs[index] if index < len(inputs) else None
    if found is None:
        raise InputError(f"node '{node.name}' ({node.op}) lacks its operand {index}")
    return found


def optional(inputs: Inputs, index: int) -> Array | None:
    """An operand that may be absent."""
    return inputs[index] if index < len(inputs) else None


def integer(node: Node, name: str, default: int) -> int:
    """An integer attribute."""
    return int(_scalar(node, name, default))


def decimal(node: Node, name: str, default: float) -> float:
    """A floating-point attribute."""
    return float(_scalar(node, name, default))


def text(node: Node, name: str, default: str) -> str:
    """A string attribute."""
    return str(node.attributes.get(name, default))


def integers(node: Node, name: str) -> tuple[int, ...] | None:
    """A list of integers; None where the node has none."""
    found = node.attributes.get(name)
    if found is None:
        return None
    if isinstance(found, str) or not np.issubdtype(np.asarray(found).dtype, np.number):
        raise InputError(f"node '{node.name}' ({node.op}): attribute '{name}' is {found!r}, must be integers")
    return tuple(int(value) for value in np.asarray(found).reshape(-1).tolist())


def axes_of(inputs: Inputs, node: Node, *, attribute: bool) -> tuple[int, ...] | None:
    """Axes from attribute ``axes``, or from operand 1 where the opset moved them there."""
    if attribute:
        return integers(node, "axes")
    operand = optional(inputs, 1)
    return None if operand is None else tuple(int(axis) for axis in operand.reshape(-1))


def element_type(number: int) -> np.dtype[np.generic]:
    """NumPy's type for an ONNX element type.

    Raises
    ------
    InputError
        for types that NumPy lacks (bfloat16, 8-bit floats, strings).
    """
    if number not in _ELEMENT_TYPES:
        raise InputError(f"element type {number} of ONNX is not supported; supported are {sorted(_ELEMENT_TYPES)}")
    return np.dtype(_ELEMENT_TYPES[number])


def _scalar(node: Node, name: str, default: float) -> float:
    found = node.attributes.get(name, default)
    if not isinstance(found, int | float):
        raise InputError(f"node '{node.name}' ({node.op}): attribute '{name}' is {found!r}, must be a number")
    return found
