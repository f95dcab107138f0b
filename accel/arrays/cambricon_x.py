"""Cambricon-X: PEs that skip zero weights by step indices and read dense inputs.

After Zhang et al., MICRO 2016: 16 PEs of 16 multipliers, one filter per PE; an indexing module picks for every PE the inputs
of its next non-zero weights. Per window a PE takes ceil(non-zeros of its filter / multipliers) cycles, and the PEs of a
group of filters wait for the slowest one.

What its abstract does not settle is assumed: a filter's non-zeros are one sequence however the reduction is cut into tiles
(a PE wastes multipliers at the end of a filter only); an indexing module reaches every input of a tile; filters of different
groups of a depthwise or grouped layer may share the PEs, since each PE picks its own inputs; every window reads its inputs
once for all PEs. Zero handling: skip weights; inputs are dense.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...traces.trace import LayerTrace
from ..loopnest import Blocking, Int64Array, ceil_div
from ..schedule import TileOrder, build_table
from ..strict import ArrayDescription, Size, ZeroHandling
from ..tiles import ArrayTiming
from .bricks import WindowNest, dense_nest, least_traffic, window_options
from .cambricon_x_kernel import filter_progress
from .operands import kept_levels, require_zero_handling
from .plan import LayerPlan, level_order

if TYPE_CHECKING:
    from ..design import Design


class CambriconXArray(ArrayDescription):
    """``pes`` processing elements of ``multipliers``; ``index_bits``: the step stored with every non-zero weight.

    ``pipeline_stages``: from the indexing module to the end of the adder tree.
    """

    kind: Literal["cambricon_x"]
    pes: Size
    multipliers: Annotated[int, Field(gt=0, le=1024)]
    index_bits: Annotated[int, Field(ge=0, le=16)]
    pipeline_stages: Annotated[int, Field(gt=0, le=64)] = 3


@dataclass(frozen=True, eq=False)
class _Work:
    """Cycles per window and non-zeros, per (level, group, row block, k tile)."""

    steps: Int64Array
    nonzeros: Int64Array


def window_cycles(
    keep: NDArray[np.uint8], *, groups: int, levels: int, block_k: int, array: CambriconXArray
) -> tuple[Int64Array, Int64Array]:
    """Cycles of one window and non-zero weights of every tile, int64 (levels, groups, row blocks, k tiles) each.

    Over the k tiles of a block of filters the cycles add up to max over filters of ceil(non-zeros / multipliers). Where a
    group has fewer filters than there are PEs, as many groups as fit share them: the last of them carries the cycles.
    ``keep``: uint8 (groups * filters, reduction); level l keeps what is > l.
    """
    done, nonzeros = filter_progress(
        keep, groups=groups, levels=levels, block_n=array.pes, block_k=block_k, lanes=array.multipliers
    )
    together = max(1, array.pes // (keep.shape[0] // groups))
    if together > 1:
        starts = np.arange(0, groups, together)
        slowest = np.maximum.reduceat(done, starts, axis=1)
        done = np.zeros_like(done)
        done[:, np.minimum(starts + together, groups) - 1] = slowest
    return np.diff(done, axis=-1, prepend=0), nonzeros


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on Cambricon-X, level by level."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, CambriconXArray)
    assert gemm is not None
    require_zero_handling(design, weights=(ZeroHandling.SKIP,), inputs=(ZeroHandling.NONE, ZeroHandling.GATE))
    keep = kept_levels(trace)
    blocking = tile_blocking(trace, design)
    cycles, nonzeros = window_cycles(keep, groups=gemm.b, levels=trace.levels, block_k=blocking.k, array=array)
    for level in levels:
        order = level_order(
            trace, blocking, nonzeros[level],
            level=level, design=design, sum_bits=array.accumulator_bits, nest_type=WindowNest,
        )  # fmt: skip
        yield _plan(order, _Work(cycles[level], nonzeros[level]), array, trace=trace, level=level)


def tile_blocking(trace: LayerTrace, design: Design) -> Blocking:
    """Filters of all PEs, and the windows and depth of a tile that cost the least DRAM traffic at level 0.

    Buffers hold a tile twice. All levels are cut alike; an encoded tile is bounded by what it would need if it were dense.
    """
    array, gemm, buffers = design.array, trace.layer.gemm, design.buffers
    assert isinstance(array, CambriconXArray)
    assert gemm is not None
    used = min(array.pes, gemm.n)
    depth = gemm.k
    for level in range(trace.levels):
        stored, nonzeros = trace.bytes(design.weight_format, level), int(trace.nonzeros[level])
        if 2 * stored > buffers.weights.bytes:
            depth = min(depth, buffers.weights.bytes * nonzeros // (2 * used * stored))
    inputs = buffers.inputs.bytes // 2 * 8 // trace.activation_bits
    sums = buffers.outputs.bytes * 8 // (array.accumulator_bits * used)
    options = [
        Blocking(n=array.pes, m=windows, k=max(1, min(depth, inputs // windows)))
        for windows in window_options(gemm.m, min(sums, inputs))
    ]
    capacity = design.capacity()
    stored = trace.bytes(design.weight_format, 0)
    nests = [dense_nest(trace, blocking, weight_bytes=stored) for blocking in options]
    return least_traffic(nests, capacity, output_bits=array.accumulator_bits).blocking


def _plan(order: TileOrder, work: _Work, array: CambriconXArray, *, trace: LayerTrace, level: int) -> LayerPlan:
    where = (order.group, order.row, order.k_tile)
    steps = work.steps[where] * order.nest.columns_used()[order.column]
    actions = _actions(order, array, nonzeros=work.nonzeros[where])
    tiles = build_table(order, steps=steps, actions=actions, output_bits=trace.activation_bits)
    timing = ArrayTiming(latency=array.pipeline_stages - 1)
    return LayerPlan.of(order, tiles, level=level, multipliers=array.pes * array.multipliers, timing=timing)


def _actions(order: TileOrder, array: CambriconXArray, *, nonzeros: Int64Array) -> dict[str, Int64Array]:
    """Action counts per tile. Inputs of a window are read once for all PEs, weights and steps once per window."""
    nest = order.nest
    rows, columns = nest.rows_used()[order.row], nest.columns_used()[order.column]
    depth = np.minimum(nest.blocking.k, nest.gemm.k - order.k_tile * nest.blocking.k)
    products, outputs = nonzeros * columns, rows * columns
    sums = -(-products // array.multipliers)  # at least: each PE's adder tree adds once per step to a partial sum
    spill_bytes, finished_bytes = ceil_div(array.accumulator_bits, 8), ceil_div(array.activation_bits, 8)
    return {
        "mac_weight_nonzero": products,
        "mac_issued": products,
        "weight_buffer_read_bytes": -(-products * (array.weight_bits + array.index_bits) // 8),
        "input_buffer_read_bytes": -(-columns * depth * array.activation_bits // 8),
        "output_buffer_write_bytes": outputs * np.where(order.closes, finished_bytes, spill_bytes),
        "output_buffer_read_bytes": outputs * np.where(order.k_tile > 0, spill_bytes, 0),
        "register_bytes": -(
            -2 * (products * (array.weight_bits + array.activation_bits) + sums * array.accumulator_bits) // 8
        ),
    }
