"""Dense NumPy execution of a network in float64: the executor's independent oracle.

Nothing here is shared with the kernels, the store or the planner: weights come as dense arrays with explicit zeros,
convolutions as products with sliding windows. Slow and simple; meant for a few images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ...workloads.errors import unknown_name
from ...workloads.layers import CONV_OPS, Layer
from ...workloads.network import INPUT, Network

Array = NDArray[np.float64]


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _gelu(x: Array) -> Array:
    erf = np.array([math.erf(value) for value in (x / math.sqrt(2.0)).ravel()]).reshape(x.shape)
    return 0.5 * x * (1.0 + erf)


#: Definitions as in the PyTorch documentation; gelu is the exact one (Hendrycks and Gimpel, arXiv 1606.08415).
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "silu": lambda x: x * _sigmoid(x),
    "gelu": _gelu,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
}


def forward(network: Network, images: NDArray[np.float32], level: int | Sequence[int]) -> Array:
    """Outputs of the last layer, float64 of shape (N, elements).

    Parameters
    ----------
    images : float32, (N, C, H, W).
    level : one level, or one per weighted layer in execution order.
    """
    return tensors(network, images, level)[network.layers[-1].name].reshape(len(images), -1)


def tensors(network: Network, images: NDArray[np.float32], level: int | Sequence[int]) -> dict[str, Array]:
    """Every tensor of the network by name, the input's included; float64, (N, C, H, W) or (N, rows, features).

    Raises
    ------
    InputError
        for an activation or operator that it does not know.
    """
    weighted = [layer.name for layer in network.layers if layer.has_weights]
    levels = dict(zip(weighted, [level] * len(weighted) if isinstance(level, int | np.integer) else level, strict=True))
    known = {INPUT: images.astype(np.float64)}
    for layer in network.layers:
        if layer.activation not in ACTIVATIONS:
            raise unknown_name(f"activation of layer '{layer.name}'", layer.activation, ACTIVATIONS)
        sources = [known[source] for source in layer.sources]
        if layer.has_weights:
            result = _product(network, layer, sources[0], levels[layer.name])
        else:
            result = _combination(layer, sources)
        known[layer.name] = ACTIVATIONS[layer.activation](result)
    return known


def _product(network: Network, layer: Layer, x: Array, level: int) -> Array:
    weights = network.weights[layer.name].dense(level).astype(np.float64)
    bias = network.biases[layer.name][level].astype(np.float64) if layer.name in network.biases else None
    if layer.op in CONV_OPS:
        out = convolve(x, weights, layer)
        return out if bias is None else out + bias[:, None, None]
    if layer.op != "linear" or layer.gemm is None:
        raise unknown_name(f"operator of layer '{layer.name}'", layer.op, ["conv", "dwconv", "linear"])
    rows = x.reshape(len(x), layer.gemm.m, layer.gemm.k) @ weights.T
    rows = rows if bias is None else rows + bias
    return rows.reshape(len(x), -1, 1, 1) if layer.gemm.m == 1 else rows


def convolve(x: Array, weights: Array, layer: Layer) -> Array:
    """Grouped convolution: x (N, C, H, W), weights (K, C/groups, R, S) -> (N, K, P, Q), float64."""
    seen = windows(x, layer, fill=0.0)
    groups = zip(np.split(seen, layer.groups, axis=1), np.split(weights, layer.groups), strict=True)
    return np.concatenate([np.einsum("ncpqrs,kcrs->nkpq", a, w, optimize=True) for a, w in groups], axis=1)


def windows(x: Array, layer: Layer, *, fill: float) -> Array:
    """All (R, S) windows of the padded input: (N, C, P, Q, R, S). Windows may overhang at the far end."""
    extent_y, extent_x = (layer.R - 1) * layer.dilation + 1, (layer.S - 1) * layer.dilation + 1
    far_y = max(0, (layer.P - 1) * layer.stride + extent_y - layer.padding - layer.H)
    far_x = max(0, (layer.Q - 1) * layer.stride + extent_x - layer.padding - layer.W)
    pads = ((0, 0), (0, 0), (layer.padding, far_y), (layer.padding, far_x))
    view = sliding_window_view(np.pad(x, pads, constant_values=fill), (extent_y, extent_x), axis=(2, 3))
    view = view[:, :, :: layer.stride, :: layer.stride, :: layer.dilation, :: layer.dilation]
    return np.asarray(view[:, :, : layer.P, : layer.Q])


def _combination(layer: Layer, sources: list[Array]) -> Array:
    if layer.op == "maxpool":
        return np.asarray(windows(sources[0], layer, fill=-np.inf).max(axis=(4, 5)))
    if layer.op == "avgpool":
        return np.asarray(windows(sources[0], layer, fill=0.0).mean(axis=(4, 5)))
    if layer.op == "concat":
        return np.concatenate(sources, axis=1)
    if layer.op not in {"add", "mul"}:
        allowed = ["add", "avgpool", "concat", "maxpool", "mul"]
        raise unknown_name(f"operator of layer '{layer.name}'", layer.op, allowed)
    result = sources[0]
    for other in sources[1:]:
        result = result + other if layer.op == "add" else result * other
    return result
