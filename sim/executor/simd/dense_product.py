"""One level of a convolution run densely, for levels whose zeros are too few to skip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....workloads.nesting import NestedWeights
from . import dense_kernel
from .planes import LANES, Floats, aligned
from .product import Placed, Work, blocks_for, windowed
from .team import Call, call


class DenseProduct:
    """The same product as ``product`` at ``level``, without skipping zeros. Only layers without groups.

    Holds the level's weights once more, float32 (groups of rows, reduction, rows of a group).
    """

    def __init__(self, product: Placed, weights: NestedWeights, level: int, *, vectors: int, threads: int = 1) -> None:
        self.product, self.vectors = product, vectors
        self.window = windowed(vectors).window
        group = dense_kernel.GROUPS[vectors]
        rows = product.layer.K
        matrix = np.zeros((-(-rows // group) * group, product.reduction.size), np.float32)
        matrix[:rows] = weights.dense(level).reshape(rows, -1)
        grouped = matrix.reshape(-1, group, product.reduction.size).transpose(0, 2, 1)
        self.weights = np.ascontiguousarray(grouped)
        tiles = product.target.tiles(vectors)
        self._blocks = blocks_for(tiles, len(self.weights), threads)
        self._tasks = tiles * self._blocks
        self._masks = product.target.masks(vectors)

    def new_work(self) -> Work:
        """Scratch memory of one thread."""
        tile = LANES * self.vectors
        sums = self.weights.shape[0] * self.weights.shape[2]
        return aligned(self.window * tile), aligned(sums * tile), np.zeros(0, np.int64)

    def call(
        self,
        x: Floats,
        out: Floats,
        *,
        bias: Floats,
        clamp: tuple[np.float32, np.float32] = (np.float32(-np.inf), np.float32(np.inf)),
        residual: Floats | None = None,
        works: Sequence[Work],
    ) -> Call:
        """The call that computes out = clamp(bias + W x + residual), halos zero; ``works``: one per thread."""
        product, target = self.product, self.product.target
        rows, reduction = product.layer.K, product.reduction.size
        shape = (rows, reduction, self.window, self._blocks, residual is not None, *clamp)
        added = out if residual is None else residual
        planes = (x, product.operands, out, target.lead, target.stride, self._masks, added)
        extras = [(work[:2],) for work in works]
        kernel = dense_kernel.KERNELS[self.vectors]
        return call(kernel, self._tasks, shape, self.weights.reshape(-1), bias, planes, extras=extras)
