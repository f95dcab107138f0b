"""Between real numbers and 8-, 16- and 32-bit codes (ONNX operator specifications, opsets 10 to 23)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ....workloads.graph import Node
from .call import Array, Inputs, Operator, given, integer, optional
from .matrix import exact_integer_product


def saturated(values: Array, dtype: np.dtype[Any]) -> Array:
    """Rounded half to even and clipped to the range of an integer type."""
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def requantised(sums: Array, zero: Array | None, *, scale: Array) -> Array:
    """Integer sums as codes of the output: ``round(sums * scale) + zero point``, saturated; the type is the zero point's."""
    zero = np.zeros((), np.uint8) if zero is None else zero
    return saturated(np.rint(sums.astype(np.float32) * scale.astype(np.float32)) + zero.astype(np.float32), zero.dtype)


def _along_axis(part: Array, x: Array, node: Node) -> Array:
    """A scale or zero point per element of ``axis``, shaped to broadcast against ``x``."""
    if part.size == 1:
        return part.reshape(())
    if part.ndim != 1:
        return part
    shape = [1] * x.ndim
    shape[integer(node, "axis", 1)] = part.size
    return part.reshape(shape)


def supports(node: Node) -> bool:
    """True unless scales hold for blocks of elements (opset 21) or the output type is stated, which the fallback knows."""
    return not integer(node, "block_size", 0) and not integer(node, "output_dtype", 0)


def _quantize(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x, scale, zero = given(inputs, node, 0), given(inputs, node, 1), optional(inputs, 2)
    zero = np.zeros((), np.uint8) if zero is None else zero
    codes = np.rint(x / _along_axis(scale, x, node)) + _along_axis(zero, x, node).astype(np.float32)
    return (saturated(codes, zero.dtype),)


def _dequantize(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x, scale, zero = given(inputs, node, 0), given(inputs, node, 1), optional(inputs, 2)
    # 32-bit codes are centred as integers: float32 holds 24 bits.
    values = x.astype(np.int64) if zero is None else x.astype(np.int64) - _along_axis(zero, x, node).astype(np.int64)
    return (values.astype(scale.dtype) * _along_axis(scale, x, node),)


def _dynamic_quantize(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    """Scale and zero point from the range of the tensor, zero included (unsigned 8 bits)."""
    x = given(inputs, node, 0)
    low, high = min(np.float32(0), np.float32(x.min())), max(np.float32(0), np.float32(x.max()))
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = saturated(np.asarray(np.float32(-low) / scale), np.dtype(np.uint8))
    codes = saturated(np.rint(x / scale) + zero.astype(np.float32), np.dtype(np.uint8))
    return codes, np.asarray(scale), zero


def _linear_matmul(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale = (given(inputs, node, i) for i in range(7))
    sums = exact_integer_product(a, b, (a_zero, b_zero))
    if a_scale.ndim == 1 and a_scale.size > 1:
        a_scale = a_scale[:, None]
    return (requantised(sums, optional(inputs, 7), scale=a_scale * b_scale / y_scale),)


TABLE: Mapping[str, Operator] = {
    "QuantizeLinear": _quantize, "DequantizeLinear": _dequantize, "DynamicQuantizeLinear": _dynamic_quantize,
    "QLinearMatMul": _linear_matmul,
}  # fmt: skip
