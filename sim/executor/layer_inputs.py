"""Calibration of post-training methods: the Hessian of every layer's inputs, from real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...workloads.layers import CONV_OPS, Layer
from ...workloads.network import Network
from ...workloads.sparsify.hessian import Hessian
from . import reference
from .geometry import Convolution
from .graph_executor import GraphExecutor
from .graph_inputs import GraphInputs

#: Images taken through the network at once.
_BATCH = 16


def input_hessians(
    network: Network,
    images: NDArray[np.float32],
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Hessian]:
    """Per weighted layer H = 2 sum x x^T over the inputs that ``images``, float32 (N, C, H, W), cause at the densest level.

    A convolution gives one vector (C/groups, R, S) per image and output position, a fully connected layer one per row.
    Runs the dense float64 reference: exact, and slow beyond a few hundred images.
    """
    weighted = [layer for layer in network.layers if layer.has_weights and layer.gemm is not None]
    found = {x.name: Hessian(x.gemm.k, x.gemm.b) for x in weighted if x.gemm is not None}
    for first in range(0, len(images), _BATCH):
        tensors = reference.tensors(network, images[first : first + _BATCH], 0)
        for layer in weighted:
            found[layer.name].add(input_vectors(layer, tensors[layer.sources[0]]))
        if progress is not None:
            progress("calibrate", min(first + _BATCH, len(images)), len(images))
    return found


def graph_hessians(executor: GraphExecutor, inputs: GraphInputs) -> dict[str, Hessian]:
    """The same of an imported graph: one vector per inference and output position (or time step) of every product with
    stored weights."""
    found: dict[str, Hessian] = {}

    def see(layer: str, sizes: Convolution, x: NDArray[np.generic]) -> None:
        if layer in executor.plan.products:
            vectors = window_vectors(sizes, x)
            found.setdefault(layer, Hessian(vectors.shape[2], vectors.shape[1])).add(vectors)

    executor.visit(inputs, 0, see)
    return found


def window_vectors(sizes: Convolution, x: NDArray[np.generic]) -> NDArray[np.float64]:
    """Vectors (samples, groups, k), k in the order (c, r, s), of the windows of (n, C*H*W) operands."""
    top, left, bottom, right = sizes.pads
    images = x.reshape(-1, sizes.channels, sizes.height, sizes.width).astype(np.float64)
    padded = np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)))
    (step_y, step_x), (high, wide) = sizes.strides, sizes.out_size
    out = np.empty((len(images), high, wide, sizes.channels, *sizes.kernel))
    for r in range(sizes.kernel[0]):
        for s in range(sizes.kernel[1]):
            y, x0 = r * sizes.dilations[0], s * sizes.dilations[1]
            seen = padded[:, :, y : y + step_y * (high - 1) + 1 : step_y, x0 : x0 + step_x * (wide - 1) + 1 : step_x]
            out[..., r, s] = seen.transpose(0, 2, 3, 1)
    return out.reshape(len(images) * high * wide, sizes.groups, -1)


def input_vectors(layer: Layer, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vectors (samples, groups, k) that a layer multiplies by its weights; x (N, C, H, W) or (N, rows, features)."""
    gemm = layer.gemm
    assert gemm is not None
    if layer.op not in CONV_OPS:
        return x.reshape(-1, gemm.b, gemm.k)
    seen = reference.windows(x, layer, fill=0.0)  # (N, C, P, Q, R, S)
    shape: Sequence[int] = (len(x), layer.groups, layer.C // layer.groups, layer.P, layer.Q, layer.R, layer.S)
    return seen.reshape(shape).transpose(0, 3, 4, 1, 2, 5, 6).reshape(-1, layer.groups, gemm.k)
