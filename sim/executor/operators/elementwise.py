"""Operators that work element by element, with NumPy's broadcasting (ONNX operator specifications, opsets 9 to 23)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np

from ....workloads.errors import InputError
from ....workloads.graph import Node
from .. import kernels
from .call import Array, Inputs, Operator, decimal, element_type, given, integer, text

_SQRT_HALF = 0.7071067811865476


def erf(x: Array) -> Array:
    """Error function; computed in the tensor's own type, half precision through float32."""
    out = np.array(x, np.float64 if x.dtype == np.float64 else np.float32, order="C")
    kernels.error_function(out)
    return out.astype(x.dtype, copy=False)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(x, np.zeros((), x.dtype)))


UNARY: Mapping[str, Callable[[Array], Array]] = {
    "Abs": np.abs, "Neg": np.negative, "Exp": np.exp, "Log": np.log, "Sqrt": np.sqrt, "Reciprocal": np.reciprocal,
    "Floor": np.floor, "Ceil": np.ceil, "Round": np.rint, "Sign": np.sign, "Not": np.logical_not, "IsNaN": np.isnan,
    "Sin": np.sin, "Cos": np.cos, "Tan": np.tan, "Asin": np.arcsin, "Acos": np.arccos, "Atan": np.arctan,
    "Sinh": np.sinh, "Cosh": np.cosh, "Tanh": np.tanh, "Asinh": np.arcsinh, "Acosh": np.arccosh, "Atanh": np.arctanh,
    "Relu": lambda x: np.maximum(x, np.zeros((), x.dtype)), "Sigmoid": _sigmoid, "Softplus": _softplus, "Erf": erf,
    "Softsign": lambda x: x / (1 + np.abs(x)), "Identity": lambda x: x, "BitwiseNot": np.invert,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1), "Mish": lambda x: x * np.tanh(_softplus(x)),
}  # fmt: skip

BINARY: Mapping[str, Callable[[Array, Array], Array]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "And": np.logical_and, "Or": np.logical_or,
    "Xor": np.logical_xor, "Equal": np.equal, "Less": np.less, "Greater": np.greater, "LessOrEqual": np.less_equal,
    "GreaterOrEqual": np.greater_equal, "BitwiseAnd": np.bitwise_and, "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor, "PRelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "Pow": lambda x, exponent: np.power(x, exponent).astype(x.dtype, copy=False),
}  # fmt: skip

VARIADIC: Mapping[str, Callable[[Array, Array], Array]] = {
    "Sum": np.add, "Max": np.maximum, "Min": np.minimum, "Mean": np.add,
}  # fmt: skip


def _unary(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    return (UNARY[node.op](given(inputs, node, 0)),)


def _binary(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    return (BINARY[node.op](given(inputs, node, 0), given(inputs, node, 1)),)


def _variadic(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    operands: Sequence[Array] = [given(inputs, node, i) for i in range(len(inputs))]
    total = reduce(VARIADIC[node.op], operands)
    return ((total / len(operands)).astype(total.dtype) if node.op == "Mean" else total,)


def _divide(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    """Integers are divided towards zero."""
    a, b = given(inputs, node, 0), given(inputs, node, 1)
    if not np.issubdtype(a.dtype, np.integer):
        return (np.divide(a, b),)
    quotient = np.floor_divide(a, b)
    return ((quotient + ((quotient < 0) & (quotient * b != a))).astype(a.dtype),)


def _modulo(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    function = np.fmod if integer(node, "fmod", 0) else np.mod
    return (function(given(inputs, node, 0), given(inputs, node, 1)),)


def _leaky(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    return (np.where(x < 0, decimal(node, "alpha", 0.01) * x, x),)


def _exponential_unit(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    """Elu, Selu (Klambauer et al., arXiv 1706.02515) and Celu."""
    x = given(inputs, node, 0)
    alpha = decimal(node, "alpha", 1.6732632423543772 if node.op == "Selu" else 1.0)
    gamma = decimal(node, "gamma", 1.0507009873554805) if node.op == "Selu" else 1.0
    inner = np.minimum(x, 0) / (alpha if node.op == "Celu" else 1.0)
    return (gamma * np.where(x > 0, x, alpha * np.expm1(inner)),)


def _hard_sigmoid(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    return (np.clip(decimal(node, "alpha", 0.2) * given(inputs, node, 0) + decimal(node, "beta", 0.5), 0, 1),)


def _thresholded(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    return (np.where(x > decimal(node, "alpha", 1.0), x, np.zeros((), x.dtype)),)


def _gelu(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    """Hendrycks and Gimpel, arXiv 1606.08415: exact, or with the hyperbolic tangent."""
    x = given(inputs, node, 0)
    if text(node, "approximate", "none") == "tanh":
        return (0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3))),)
    return (0.5 * x * (1 + erf(_SQRT_HALF * x)),)


def _clip(inputs: Inputs, node: Node, opset: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    if opset < 11:
        low: Array | float | None = decimal(node, "min", -np.inf)
        high: Array | float | None = decimal(node, "max", np.inf)
    else:
        low, high = (inputs[i] if i < len(inputs) else None for i in (1, 2))
    # Two steps: where the limits are crossed, the upper one wins.
    x = x if low is None else np.maximum(x, np.asarray(low, x.dtype))
    return (x if high is None else np.minimum(x, np.asarray(high, x.dtype)),)


def _cast(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    wanted = given(inputs, node, 1).dtype if node.op == "CastLike" else element_type(integer(node, "to", 1))
    return (x.astype(wanted, copy=False),)


def _where(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    return (np.where(given(inputs, node, 0), given(inputs, node, 1), given(inputs, node, 2)),)


def _dropout(inputs: Inputs, node: Node, opset: int) -> tuple[Array, ...]:
    """Inference: the tensor itself, and a mask that keeps everything."""
    training = inputs[2] if len(inputs) > 2 else None
    if opset >= 12 and training is not None and bool(training):
        raise InputError(f"node '{node.name}': Dropout in training mode draws random numbers; export for inference")
    x = given(inputs, node, 0)
    mask = np.ones(x.shape, np.bool_ if opset >= 10 else x.dtype)
    return (x, mask)[: len(node.outputs)]


def _is_infinite(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    positive, negative = integer(node, "detect_positive", 1), integer(node, "detect_negative", 1)
    return (np.isinf(x) & ((x > 0) & bool(positive) | (x < 0) & bool(negative)),)


TABLE: Mapping[str, Operator] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(VARIADIC, _variadic),
    "Div": _divide, "Mod": _modulo, "LeakyRelu": _leaky, "Elu": _exponential_unit, "Selu": _exponential_unit,
    "Celu": _exponential_unit, "HardSigmoid": _hard_sigmoid, "ThresholdedRelu": _thresholded, "Gelu": _gelu,
    "Clip": _clip, "Cast": _cast, "CastLike": _cast, "Where": _where, "Dropout": _dropout, "IsInf": _is_infinite,
}  # fmt: skip
