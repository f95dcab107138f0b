"""The loop nest every array model shares: blocks of output features x blocks of output positions x reduction tiles.

A *row block* holds ``blocking.n`` output features, a *column block* ``blocking.m`` output positions, a *k tile*
``blocking.k`` steps of the reduction. Row and column blocks are gathered into supertiles that the on-chip buffers hold:

    for each group b, for each supertile (weights outer or inputs outer):
        for each row block, for each column block, for each k tile: one tile

Partial sums never leave the chip.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..workloads.layers import CONV_OPS, Gemm, Layer

Int64Array = NDArray[np.int64]


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def block_sizes(total: int, block: int) -> Int64Array:
    """Sizes of consecutive blocks that cover ``total``; the last one may be smaller."""
    sizes = np.full(ceil_div(total, block), block, dtype=np.int64)
    sizes[-1] = total - block * (sizes.size - 1)
    return sizes


def split_bytes(total: int, share: Int64Array) -> Int64Array:
    """Split ``total`` in proportion to ``share`` (any shape) into integers whose sum is exactly ``total``.

    Cumulative rounding down: part i = floor(total * S_i / S) - floor(total * S_(i-1) / S), S_i = running sum of the shares.
    All-zero shares split evenly.
    """
    flat = share.reshape(-1)
    if flat.size == 0:
        return flat.copy()
    running = np.cumsum(flat if flat.any() else np.ones_like(flat))
    whole = int(running[-1])
    if total * whole < 1 << 62:
        edges = running * total // whole
    else:  # Python's integers where 64 bits would overflow
        edges = np.array([int(r) * total // whole for r in running], dtype=np.int64)
    return np.diff(edges, prepend=np.int64(0)).reshape(share.shape)


@dataclass(frozen=True)
class Blocking:
    """Block sizes an array model asks for: output features n, output positions m, reduction steps k per tile."""

    n: int
    m: int
    k: int


@dataclass(frozen=True, eq=False)
class Nest:
    """A layer's loop nest on an array at one level.

    ``tile_weight_bytes``: int64 (b, row blocks, k tiles), encoded DRAM bytes of the weights each tile needs.
    """

    layer: Layer
    gemm: Gemm
    blocking: Blocking
    tile_weight_bytes: Int64Array
    activation_bits: int

    @property
    def row_blocks(self) -> int:
        return ceil_div(self.gemm.n, self.blocking.n)

    @property
    def column_blocks(self) -> int:
        return ceil_div(self.gemm.m, self.blocking.m)

    @property
    def k_tiles(self) -> int:
        return int(self.tile_weight_bytes.shape[2])

    def rows_used(self) -> Int64Array:
        """Output features in each row block."""
        return block_sizes(self.gemm.n, self.blocking.n)

    def columns_used(self) -> Int64Array:
        """Output positions in each column block."""
        return block_sizes(self.gemm.m, self.blocking.m)

    @cached_property
    def footprint(self) -> tuple[Int64Array, Int64Array]:
        """Byte range [start, stop) of one group's input that each column block reads, shape (column blocks,) each.

        Convolutions read whole input rows, all channels of the group: rows p*stride - padding up to
        p*stride - padding + dilation*(R-1), clipped to the image. Other products read m rows of k elements.
        """
        first = np.arange(self.column_blocks, dtype=np.int64) * self.blocking.m
        last = np.minimum(first + self.blocking.m, self.gemm.m) - 1
        layer = self.layer
        if layer.op in CONV_OPS:
            reach = layer.dilation * (layer.R - 1) + 1
            top = np.clip(first // layer.Q * layer.stride - layer.padding, 0, layer.H)
            bottom = np.clip(last // layer.Q * layer.stride - layer.padding + reach, 0, layer.H)
            line_bits = layer.W * (layer.C // layer.groups) * self.activation_bits
        else:
            top, bottom, line_bits = first, last + 1, self.gemm.k * self.activation_bits
        return -(-top * line_bits // 8), -(-np.maximum(bottom, top) * line_bits // 8)

    @cached_property
    def _already_held(self) -> Int64Array:
        """First byte that no earlier column block has read."""
        return np.concatenate(([0], np.maximum.accumulate(self.footprint[1])[:-1]))

    def input_bytes(self, columns: int) -> Int64Array:
        """Bytes each column block fetches when runs of ``columns`` blocks share the buffer: rows that the blocks before
        it in the run already brought are not fetched again. Shape (column blocks,)."""
        start, stop = self.footprint
        fetch_from = np.maximum(start, self._already_held)
        fetch_from[::columns] = start[::columns]  # the first block of a run finds an empty buffer
        return np.asarray(np.maximum(stop - fetch_from, 0), dtype=np.int64)
