"""Dense products in float64 with explicit zeros: the oracle of an imported graph's sparse products.

It shares sizes with the kernels, but neither offsets, planes nor storage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ...workloads.network import Network
from .geometry import Convolution, Product
from .graph_products import Multiplier
from .operators.call import Array


def dense_product(sizes: Convolution, weights: NDArray[np.float64], inputs: Array) -> NDArray[np.float64]:
    """Inputs (n, C*H*W) times weights (rows, C/groups*R*S): (n, rows*P*Q), float64."""
    x = inputs.astype(np.float64).reshape(len(inputs), sizes.channels, sizes.height, sizes.width)
    top, left, bottom, right = sizes.pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    extent = (sizes.reach[0] + 1, sizes.reach[1] + 1)
    windows = sliding_window_view(padded, extent, axis=(2, 3))
    (step_y, step_x), (apart_y, apart_x) = sizes.strides, sizes.dilations
    windows = windows[:, :, ::step_y, ::step_x, ::apart_y, ::apart_x]
    per_group = np.split(windows, sizes.groups, axis=1)
    rows = weights.reshape(len(weights), sizes.channels // sizes.groups, *sizes.kernel)
    parts = [
        np.einsum("ncpqrs,kcrs->nkpq", group, part, optimize=True)
        for group, part in zip(per_group, np.split(rows, sizes.groups), strict=True)
    ]
    return np.concatenate(parts, axis=1).reshape(len(inputs), -1)


class ComparingMultiplier:
    """Carries out every product twice, sparse and dense, on the same inputs; passes the sparse result on.

    ``error``: largest difference so far, each product's relative to its own largest output. Comparing product by product
    keeps rounding of later operators (quantisation steps, divisions) out of the figure.
    """

    def __init__(
        self, sparse: Multiplier, network: Network, products: Mapping[str, Product], *, levels: Mapping[str, int]
    ) -> None:
        self._sparse, self._network, self._products, self._levels = sparse, network, products, levels
        self.error = 0.0

    def bias(self, layer: str) -> Array | None:
        """As the sparse multiplier's."""
        return self._sparse.bias(layer)

    def meet(self, layer: str, inputs: Callable[[], Array]) -> None:
        """Nothing to compare: the product is dense."""

    def multiply(
        self, layer: str, inputs: Array, bias: Array | None = None, *, rows: slice | None = None
    ) -> NDArray[np.floating]:
        """As the sparse multiplier's; remembers its error."""
        found = self._sparse.multiply(layer, inputs, bias, rows=rows)
        weights = self._network.weights[layer].dense(self._levels[layer]).astype(np.float64)
        weights = weights.reshape(len(weights), -1)
        sizes = self._products[layer].sizes
        if rows is not None:
            weights = weights[rows]
            sizes = sizes._replace(outputs=len(weights))
        expected = dense_product(sizes, weights, inputs)
        if bias is not None:
            expected = expected + np.repeat(bias.reshape(-1).astype(np.float64), sizes.positions)
        self.error = max(self.error, product_error(found, expected, strict=bool(np.isfinite(inputs).all())))
        return found


def product_error(found: Array, expected: Array, *, strict: bool = True) -> float:
    """Largest difference of two arrays of one shape, relative to the largest finite ``expected``.

    Infinite where one is finite and the other is not; unless ``strict``, such places do not count: a sparse product skips
    zeros that a dense one multiplies by an infinite operand.
    """
    finite = np.isfinite(expected) & np.isfinite(found)
    if strict and not (np.isfinite(expected) == np.isfinite(found)).all():
        return float("inf")
    scale = max(float(np.abs(expected[finite]).max(initial=0.0)), float(np.finfo(np.float32).tiny))
    return float(np.abs(found[finite] - expected[finite]).max(initial=0.0)) / scale
