"""Reductions, normalisations and soft maxima (ONNX operator specifications, opsets 9 to 23)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ....workloads.graph import Node
from .call import Array, Inputs, Operator, axes_of, decimal, given, integer, integers, optional

Axes = tuple[int, ...] | None


def _total(x: Array, axes: Axes) -> Array:
    return np.asarray(np.sum(x, axis=axes, keepdims=True, dtype=x.dtype))


def _log_sum_exp(x: Array, axes: Axes) -> Array:
    peak = np.max(x, axis=axes, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0)
    return np.asarray(np.log(np.sum(np.exp(x - peak), axis=axes, keepdims=True)) + peak)


#: Reductions that keep the reduced axes with size 1.
REDUCTIONS: Mapping[str, Callable[[Array, Axes], Array]] = {
    "ReduceSum": _total,
    "ReduceMean": lambda x, axes: np.mean(x, axis=axes, keepdims=True).astype(x.dtype),
    "ReduceMax": lambda x, axes: np.max(x, axis=axes, keepdims=True),
    "ReduceMin": lambda x, axes: np.min(x, axis=axes, keepdims=True),
    "ReduceProd": lambda x, axes: np.prod(x, axis=axes, keepdims=True, dtype=x.dtype),
    "ReduceL1": lambda x, axes: _total(np.abs(x), axes),
    "ReduceL2": lambda x, axes: np.sqrt(_total(np.square(x), axes)).astype(x.dtype),
    "ReduceSumSquare": lambda x, axes: _total(np.square(x), axes),
    "ReduceLogSum": lambda x, axes: np.log(_total(x, axes)),
    "ReduceLogSumExp": _log_sum_exp,
}


def _reduce(inputs: Inputs, node: Node, opset: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    axes = axes_of(inputs, node, attribute=opset < (13 if node.op == "ReduceSum" else 18))
    if not axes:
        if integer(node, "noop_with_empty_axes", 0):
            return (x,)
        axes = tuple(range(x.ndim))
    out = REDUCTIONS[node.op](x, axes)
    return (out if integer(node, "keepdims", 1) else np.squeeze(out, axis=axes),)


def _extreme(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    """ArgMax and ArgMin; the first of equal ones unless ``select_last_index``."""
    x, axis = given(inputs, node, 0), integer(node, "axis", 0)
    find = np.argmax if node.op == "ArgMax" else np.argmin
    if integer(node, "select_last_index", 0):
        out = x.shape[axis] - 1 - find(np.flip(x, axis=axis), axis=axis, keepdims=True)
    else:
        out = find(x, axis=axis, keepdims=True)
    out = np.asarray(out, np.int64)
    return (out if integer(node, "keepdims", 1) else np.squeeze(out, axis=axis),)


def _softmax(inputs: Inputs, node: Node, opset: int) -> tuple[Array, ...]:
    """Softmax and LogSoftmax along one axis; before opset 13 over all axes from ``axis`` on."""
    x = given(inputs, node, 0)
    axis = integer(node, "axis", -1 if opset >= 13 else 1)
    axis += x.ndim if axis < 0 else 0
    axes = (axis,) if opset >= 13 else tuple(range(axis, x.ndim))
    shifted = x - np.max(x, axis=axes, keepdims=True)
    exponents = np.exp(shifted)
    total = np.sum(exponents, axis=axes, keepdims=True)
    return (shifted - np.log(total) if node.op == "LogSoftmax" else exponents / total,)


def _standardised(x: Array, axes: Axes, epsilon: float) -> Array:
    mean = np.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    return np.asarray(centred / np.sqrt(np.mean(np.square(centred), axis=axes, keepdims=True) + epsilon))


def _per_channel(values: Array, ndim: int) -> Array:
    return values.reshape(1, -1, *(1,) * (ndim - 2))


def _batch_norm(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    """Inference form: stored mean and variance (Ioffe and Szegedy, arXiv 1502.03167)."""
    x = given(inputs, node, 0)
    scale, bias, mean, variance = (given(inputs, node, i) for i in range(1, 5))
    gain = scale / np.sqrt(variance + decimal(node, "epsilon", 1e-5))
    return (x * _per_channel(gain, x.ndim) + _per_channel(bias - mean * gain, x.ndim),)


def _instance_norm(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    scale, bias = (_per_channel(given(inputs, node, i), x.ndim) for i in (1, 2))
    out = _standardised(x, tuple(range(2, x.ndim)), decimal(node, "epsilon", 1e-5))
    return (out * scale + bias,)


def _layer_norm(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    """Mean and reciprocal deviation are the second and third output (Ba et al., arXiv 1607.06450)."""
    x, bias = given(inputs, node, 0), optional(inputs, 2)
    axis = integer(node, "axis", -1)
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = np.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    variance = np.mean(np.square(centred), axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(variance + decimal(node, "epsilon", 1e-5))
    out = centred * inverse * given(inputs, node, 1)
    return (out if bias is None else out + bias, mean, inverse)[: len(node.outputs)]


def _rms_norm(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    """Zhang and Sennrich, arXiv 1910.07467."""
    x = given(inputs, node, 0)
    axes = tuple(range(integer(node, "axis", -1) % x.ndim, x.ndim))
    mean_square = np.mean(np.square(x), axis=axes, keepdims=True)
    return (x / np.sqrt(mean_square + decimal(node, "epsilon", 1e-5)) * given(inputs, node, 1),)


def _group_norm(inputs: Inputs, node: Node, opset: int) -> tuple[Array, ...]:
    """Wu and He, arXiv 1803.08494; scale and bias per group before opset 21, per channel from then on."""
    x, groups = given(inputs, node, 0), integer(node, "num_groups", 1)
    split = x.reshape(len(x), groups, -1)
    out = _standardised(split, (2,), decimal(node, "epsilon", 1e-5)).reshape(x.shape)
    scale, bias = given(inputs, node, 1), given(inputs, node, 2)
    if opset < 21:
        scale, bias = (np.repeat(part, x.shape[1] // groups) for part in (scale, bias))
    return (out * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim),)


def _local_response(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    """Across neighbouring channels (Krizhevsky et al., NIPS 2012, section 3.3)."""
    x, size = given(inputs, node, 0), integer(node, "size", 1)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = np.square(x)
    total = squares.copy()
    for shift in range(1, max(before, after) + 1):
        if shift <= before:
            total[:, shift:] += squares[:, :-shift]
        if shift <= after:
            total[:, :-shift] += squares[:, shift:]
    base = decimal(node, "bias", 1.0) + decimal(node, "alpha", 1e-4) / size * total
    return (x * base ** -decimal(node, "beta", 0.75),)


def _mean_variance(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    return (_standardised(given(inputs, node, 0), integers(node, "axes") or (0, 2, 3), 1e-9),)


TABLE: Mapping[str, Operator] = {
    **dict.fromkeys(REDUCTIONS, _reduce),
    "ArgMax": _extreme, "ArgMin": _extreme, "Softmax": _softmax, "LogSoftmax": _softmax,
    "BatchNormalization": _batch_norm, "InstanceNormalization": _instance_norm, "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm, "GroupNormalization": _group_norm, "LRN": _local_response,
    "MeanVarianceNormalization": _mean_variance,
}  # fmt: skip
