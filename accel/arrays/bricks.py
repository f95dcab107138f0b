"""Bricks: runs of a reduction that an array with input lanes takes in one step, and what shares them.

A brick holds up to ``lanes`` consecutive input channels at one kernel tap; bricks run through the channels of a tap, then
through the taps. A depthwise layer shares no channel between its filters: up to ``lanes`` of its groups form one set whose
bricks are issued together, one useful lane per filter (as the tiles of DaDianNao do in isakedo/DNNsim).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...traces.trace import LayerTrace
from ...workloads.errors import InputError
from ...workloads.layers import Gemm
from ..loopnest import Blocking, Int64Array, Nest, ceil_div, split_bytes
from ..mapping import Capacity, choose_tiling
from .count_kernel import group_steps
from .operands import ConvView, kept_levels
from .plan import dense_share

if TYPE_CHECKING:
    from ..design import Design

#: Most windows of one tile of the table: they share its weights, compute cycles do not depend on it.
MOST_WINDOWS = 256


@dataclass(frozen=True, eq=False)
class WindowNest(Nest):
    """A nest of small column blocks: a block alone in the buffer brings its windows one by one where that is less than
    whole input rows."""

    def input_bytes(self, columns: int) -> Int64Array:
        whole_rows = super().input_bytes(columns)
        if columns > 1 or self.column_blocks == 1:
            return whole_rows
        windows = -(-self.columns_used() * self.gemm.k * self.activation_bits // 8)
        return np.minimum(whole_rows, windows)


@dataclass(frozen=True)
class Bricks:
    """The reduction of one group as bricks. ``per_tile``: bricks of a k tile. ``groups_per_set``: groups issued together."""

    channels: int
    taps: int
    lanes: int
    groups: int
    groups_per_set: int = 1
    per_tile: int = 1

    @property
    def per_tap(self) -> int:
        return ceil_div(self.channels, self.lanes)

    @property
    def count(self) -> int:
        return self.taps * self.per_tap

    @property
    def sets(self) -> int:
        return ceil_div(self.groups, self.groups_per_set)

    @property
    def starts(self) -> Int64Array:
        """First brick of every k tile."""
        return np.arange(0, self.count, self.per_tile)

    def depth(self) -> Int64Array:
        """Reduction elements of every k tile, int64 (k tiles,)."""
        sizes = np.full(self.per_tap, self.lanes, dtype=np.int64)
        sizes[-1] = self.channels - self.lanes * (self.per_tap - 1)
        return np.asarray(np.add.reduceat(np.tile(sizes, self.taps), self.starts))

    def bricks(self) -> Int64Array:
        """Bricks of every k tile, int64 (k tiles,)."""
        return np.diff(self.starts, append=self.count)

    def closes_set(self) -> NDArray[np.bool_]:
        """True for the last group of every set: it carries the steps of the set, when all operands are there."""
        group = np.arange(self.groups)
        return np.asarray((group % self.groups_per_set == self.groups_per_set - 1) | (group == self.groups - 1))

    def in_tiles(self, per_tile: int) -> Bricks:
        """The same bricks in k tiles of ``per_tile``."""
        return replace(self, per_tile=max(1, min(per_tile, self.count)))

    def nonzeros(self, trace: LayerTrace, block_n: int) -> Int64Array:
        """Non-zero weights per (level, group, row block, k tile); a dynamic second operand counts as dense."""
        gemm = trace.layer.gemm
        assert gemm is not None
        _, per_brick = group_steps(
            kept_levels(trace),
            groups=gemm.b,
            levels=trace.levels,
            block_n=block_n,
            taps=self.taps,
            group=self.lanes,
            lanes=self.lanes,
        )
        return np.asarray(np.add.reduceat(per_brick, self.starts, axis=-1, dtype=np.int64))

    def dense(self, gemm: Gemm, block_n: int) -> Int64Array:
        """Weights per (group, row block, k tile), zeros included."""
        return dense_share(gemm, n=block_n, depth=self.depth())


def brick_layout(view: ConvView, *, lanes: int, filters: int) -> Bricks:
    """The bricks of a layer on ``lanes`` input lanes and ``filters`` filters that share them.

    A set of depthwise groups has at most one group per lane, and no more filters than share the lanes.
    """
    together = max(1, min(lanes, filters // view.group_filters)) if view.depthwise else 1
    return Bricks(
        channels=view.group_channels,
        taps=view.taps,
        lanes=lanes,
        groups=view.groups,
        groups_per_set=together,
    )


def window_options(windows: int, most: int) -> list[int]:
    """Windows per tile worth trying: powers of two below the most that fit, and those."""
    limit = max(1, min(windows, most, MOST_WINDOWS))
    return [*(1 << i for i in range(limit.bit_length()) if 1 << i < limit), limit]


def dense_nest(trace: LayerTrace, blocking: Blocking, *, weight_bytes: int) -> WindowNest:
    """A nest whose weight bytes are spread evenly: good enough to compare the traffic of blockings."""
    gemm = trace.layer.gemm
    assert gemm is not None
    shape = (gemm.b, ceil_div(gemm.n, blocking.n), ceil_div(gemm.k, blocking.k))
    share = np.ones(shape, dtype=np.int64)
    return WindowNest(trace.layer, gemm, blocking, split_bytes(weight_bytes, share), trace.activation_bits)


def least_traffic(nests: Sequence[WindowNest], capacity: Capacity, *, output_bits: int) -> WindowNest:
    """The nest with the least DRAM traffic, among equals the fewest tiles; InputError if none fits the buffers."""
    found: list[tuple[int, int, int]] = []
    problem: InputError | None = None
    for i, nest in enumerate(nests):
        try:
            traffic = choose_tiling(nest, capacity, output_bits=output_bits).dram_bytes
            found.append((traffic, nest.tile_weight_bytes.size * nest.column_blocks, i))
        except InputError as error:
            problem = error
    if problem is not None and not found:
        raise problem
    return nests[min(found)[-1]]


def weight_reads(design: Design) -> str:
    """The action that counts weight bytes read: from ``memories.weight_banks`` near the lanes where the design has them."""
    return "weight_banks_read_bytes" if "weight_banks" in design.memories else "weight_buffer_read_bytes"
