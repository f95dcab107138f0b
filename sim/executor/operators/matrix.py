"""Products of two activations, dense (ONNX operator specifications, opsets 9 to 23)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....workloads.graph import Node
from .call import Array, Inputs, Operator, decimal, given, integer, optional, text
from .window import windows_of


def _matmul(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    return (np.matmul(given(inputs, node, 0), given(inputs, node, 1)),)


def _gemm(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    a, b, c = given(inputs, node, 0), given(inputs, node, 1), optional(inputs, 2)
    a = a.T if integer(node, "transA", 0) else a
    b = b.T if integer(node, "transB", 0) else b
    out = np.matmul(a, b) * decimal(node, "alpha", 1.0)
    return (out if c is None else out + decimal(node, "beta", 1.0) * c,)


def _einsum(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    operands = [given(inputs, node, i) for i in range(len(inputs))]
    equation = text(node, "equation", "").replace(" ", "")
    return (np.asarray(np.einsum(equation, *operands, optimize="greedy")),)


def _conv(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    """A convolution whose weights are computed by the graph itself."""
    x, weights, bias = given(inputs, node, 0), given(inputs, node, 1), optional(inputs, 2)
    groups = integer(node, "group", 1)
    windows = windows_of(node, x.shape[2:], weights.shape[2:])
    taps = np.stack(windows.views(x, 0.0), axis=2)
    columns = taps.reshape(len(x), groups, -1, int(np.prod(windows.out)))
    rows = weights.reshape(groups, len(weights) // groups, -1)
    out = (rows @ columns).reshape(len(x), len(weights), *windows.out)
    return (out if bias is None else out + bias.reshape(-1, *(1,) * (x.ndim - 2)),)


def exact_integer_product(a: Array, b: Array, zeros: tuple[Array | None, Array | None]) -> Array:
    """(a - zero point) @ (b - zero point) of 8-bit codes, exact in float64 (sums stay below 2**53)."""
    left, right = centred(a, zeros[0], rows=True), centred(b, zeros[1])
    return np.asarray(left @ right)


def centred(codes: Array, zero: Array | None, *, rows: bool = False) -> Array:
    """Codes less their zero point as float64; one zero point per row of the matrices if ``rows``."""
    if zero is None:
        return codes.astype(np.float64)
    offset = zero[..., None] if rows and zero.ndim == 1 and zero.size > 1 else zero
    return codes.astype(np.float64) - offset.astype(np.float64)


def _matmul_integer(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    zeros = (optional(inputs, 2), optional(inputs, 3))
    return (exact_integer_product(given(inputs, node, 0), given(inputs, node, 1), zeros).astype(np.int32),)


TABLE: Mapping[str, Operator] = {
    "MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum, "Conv": _conv, "MatMulInteger": _matmul_integer,
}  # fmt: skip
