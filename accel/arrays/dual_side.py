"""Dual-side sparse tensor core: an outer product of the non-zeros of both operands (DSTC, Wang et al., ISCA 2021).

For every reduction index the non-zero weights of a tile's features and the non-zero inputs of its positions, both found by
bit masks, are gathered to the front and multiplied crosswise on a grid of Qn x Qm multipliers:

    cycles of a tile = sum over k of ceil(nonzero weights / Qn) * ceil(nonzero inputs / Qm).

What is left over in the last grid position of each index is idle: cycles fall more slowly than the product of densities. A
block of partitions works on neighbouring tiles and waits for the slowest before the next k tile. Operands come from a shared
memory of limited bandwidth, a mask bit per element and the non-zeros. The position skipping of the chip is not published in
detail: a model of the trend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, exp, lgamma, log
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ...traces.trace import LayerTrace
from ...workloads.errors import InputError
from ..loopnest import Blocking, Int64Array, block_sizes, ceil_div
from ..schedule import TileOrder, build_table
from ..strict import ArrayDescription, Size, ZeroHandling
from .count_kernel import count_blocks
from .operands import kept_levels, require_zero_handling
from .plan import LayerPlan, level_order
from .windows import count_positions, window_pattern

if TYPE_CHECKING:
    from ..design import Design

_BYTE_BITS = 8


class DualSideArray(ArrayDescription):
    """Dual-side sparse core: ``partitions_high`` x ``partitions_wide`` outer-product units.

    Each unit works on a tile of ``tile_rows`` features x ``tile_columns`` positions with ``quantum_rows`` x
    ``quantum_columns`` multipliers. ``reduction_tile``: reduction indices between two barriers.
    """

    kind: Literal["dual_side"]
    partitions_high: Size
    partitions_wide: Size
    tile_rows: Size
    tile_columns: Size
    quantum_rows: Size
    quantum_columns: Size
    reduction_tile: Annotated[int, Field(gt=0, le=65536)]
    smem_bytes_per_cycle: Annotated[int, Field(gt=0, le=65536)]

    @model_validator(mode="after")
    def _quanta_divide(self) -> DualSideArray:
        for tile, quantum in (("tile_rows", "quantum_rows"), ("tile_columns", "quantum_columns")):
            if getattr(self, tile) % getattr(self, quantum):
                found = f"{quantum} = {getattr(self, quantum)}"
                raise ValueError(f"{found} does not divide {tile} = {getattr(self, tile)}")
        return self

    @property
    def macs(self) -> int:
        return self.partitions_high * self.partitions_wide * self.quantum_rows * self.quantum_columns


# --- counting on actual operands -------------------------------------------------------------------------------------


def outer_product_cycles(
    weights: Int64Array, inputs: Int64Array, *, quantum_rows: int, quantum_columns: int
) -> Int64Array:
    """Cycles of every tile: sum over k of ceil(weights / Qn) * ceil(inputs / Qm).

    ``weights``: int64 (..., row tiles, k) non-zeros of each row tile at each reduction index; ``inputs``: int64 (..., k,
    column tiles). Result (..., row tiles, column tiles).
    """
    return _contract(-(-weights // quantum_rows), -(-inputs // quantum_columns))


def _contract(left: Int64Array, right: Int64Array) -> Int64Array:
    """Exact matrix product of small counts: float64 holds every sum below 2^53."""
    return np.rint(left.astype(np.float64) @ right.astype(np.float64)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _BlockWork:
    """Per (b, row block, column block, k tile): cycles of the slowest partition, cycles of all, effectual MACs."""

    cycles: Int64Array
    unit_cycles: Int64Array
    effectual: Int64Array


def _block_work(weights: Int64Array, inputs: Int64Array, array: DualSideArray) -> _BlockWork:
    """``weights`` (b, row tiles, k), ``inputs`` (b, k, column tiles)."""
    left = _by_k_tile(weights, array.reduction_tile, axis=2).transpose(0, 2, 1, 3)
    right = _by_k_tile(inputs, array.reduction_tile, axis=1)
    units = outer_product_cycles(left, right, quantum_rows=array.quantum_rows, quantum_columns=array.quantum_columns)
    parts = (array.partitions_high, array.partitions_wide)
    return _BlockWork(
        cycles=_over_partitions(units, parts).max(axis=(3, 5)).transpose(0, 2, 3, 1),
        unit_cycles=_over_partitions(units, parts).sum(axis=(3, 5)).transpose(0, 2, 3, 1),
        effectual=_over_partitions(_contract(left, right), parts).sum(axis=(3, 5)).transpose(0, 2, 3, 1),
    )


def _by_k_tile(counts: Int64Array, depth: int, *, axis: int) -> Int64Array:
    """Split the reduction axis into (k tiles, depth), the last tile filled with zeros."""
    size = counts.shape[axis]
    tiles = ceil_div(size, depth)
    widths = [(0, tiles * depth - size if i == axis else 0) for i in range(counts.ndim)]
    shape = (*counts.shape[:axis], tiles, depth, *counts.shape[axis + 1 :])
    return np.pad(counts, widths).reshape(shape)


def _over_partitions(tiles: Int64Array, parts: tuple[int, int]) -> Int64Array:
    """(b, k tiles, row tiles, column tiles) -> (b, k tiles, row blocks, high, column blocks, wide)."""
    high, wide = parts
    rows, columns = ceil_div(tiles.shape[2], high), ceil_div(tiles.shape[3], wide)
    padding = ((0, 0), (0, 0), (0, rows * high - tiles.shape[2]), (0, columns * wide - tiles.shape[3]))
    return np.pad(tiles, padding).reshape(*tiles.shape[:2], rows, high, columns, wide)


# --- the same from densities alone -----------------------------------------------------------------------------------


def expected_quanta(size: int, density: float, *, quantum: int) -> float:
    """Expected ceil(non-zeros / quantum) of ``size`` independent elements, each non-zero with ``density``."""
    if not 0 <= density <= 1 or size < 0 or quantum < 1:
        raise InputError(f"no tile of {size} elements at density {density:g} in steps of {quantum}")
    if density in (0.0, 1.0):
        return float(ceil(size * density / quantum))
    return sum(_binomial(size, n, density) * ceil(n / quantum) for n in range(size + 1))


def _binomial(size: int, count: int, density: float) -> float:
    ways = lgamma(size + 1) - lgamma(count + 1) - lgamma(size - count + 1)
    return exp(ways + count * log(density) + (size - count) * log(1 - density))


def expected_latency(
    weight_density: float, input_density: float, *, tile: tuple[int, int], quantum: tuple[int, int]
) -> float:
    """Cycles of a tile at uniform densities as a share of the dense tile's."""
    found = 1.0
    for size, density, step in zip(tile, (weight_density, input_density), quantum, strict=True):
        found *= expected_quanta(size, density, quantum=step) / ceil_div(size, step)
    return found


def expected_gemm_cycles(
    shape: tuple[int, int, int], densities: tuple[float, float], *, accumulators: int, array: DualSideArray
) -> int:
    """Cycles of a GEMM (rows, reduction, columns) at uniform densities of weights and inputs.

    The best tile of at most ``accumulators`` sums is taken.

    Two operands of at least 80 % density run dense: the case study switches compression off there. The mask of a dense
    operand is not read.
    """
    rows, reduction, columns = shape
    weight_density, input_density = densities
    if weight_density >= DENSE_FROM and input_density >= DENSE_FROM:
        input_density = 1.0
    best = None
    for high in range(array.quantum_rows, accumulators + 1, array.quantum_rows):
        for wide in range(array.quantum_columns, accumulators // high + 1, array.quantum_columns):
            blocks = (ceil_div(rows, high * array.partitions_high), ceil_div(columns, wide * array.partitions_wide))
            compute = float(blocks[0] * blocks[1] * reduction)
            compute *= expected_quanta(high, weight_density, quantum=array.quantum_rows)
            compute *= expected_quanta(wide, input_density, quantum=array.quantum_columns)
            traffic = rows * reduction * _stored(weight_density) * blocks[1]
            traffic += reduction * columns * _stored(input_density) * blocks[0]
            cycles = ceil(max(compute, traffic / array.smem_bytes_per_cycle))
            best = cycles if best is None else min(best, cycles)
    if best is None:
        raise InputError(
            f"a tile of {array.quantum_rows} x {array.quantum_columns} exceeds {accumulators} accumulators"
        )
    return best


#: Density from which an operand pair is kept uncompressed (Sparseloop case study).
DENSE_FROM = 0.8


def _stored(density: float) -> float:
    """Bytes per 8-bit element: the non-zeros and a mask bit."""
    return 1.0 if density == 1.0 else density + 1 / _BYTE_BITS


# --- plans -----------------------------------------------------------------------------------------------------------


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on the dual-side core, level by level."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, DualSideArray)
    assert gemm is not None
    require_zero_handling(design, weights=(ZeroHandling.SKIP,), inputs=(ZeroHandling.SKIP,))
    blocking = Blocking(
        n=array.tile_rows * array.partitions_high,
        m=array.tile_columns * array.partitions_wide,
        k=min(array.reduction_tile, gemm.k),
    )
    inputs = count_positions(window_pattern(trace), array.tile_columns)
    weights = _weight_counts(trace, array)
    for level in levels:
        work = _block_work(weights[level], inputs, array)
        per_tile = _sum_blocks(weights[level], array)
        order = level_order(trace, blocking, per_tile, level=level, design=design, sum_bits=array.accumulator_bits)
        yield _plan(order, work, array, trace=trace, level=level, counts=(per_tile, _input_tiles(inputs, array)))


def _weight_counts(trace: LayerTrace, array: DualSideArray) -> NDArray[np.int64]:
    """Non-zero weights of every row tile at every reduction index, (levels, b, row tiles, k)."""
    gemm = trace.layer.gemm
    assert gemm is not None
    return count_blocks(kept_levels(trace), groups=gemm.b, levels=trace.levels, block_n=array.tile_rows, block_k=1)


def _sum_blocks(weights: Int64Array, array: DualSideArray) -> Int64Array:
    """Non-zero weights per (b, row block, k tile)."""
    rows = np.arange(0, weights.shape[1], array.partitions_high)
    depth = np.arange(0, weights.shape[2], array.reduction_tile)
    return np.asarray(np.add.reduceat(np.add.reduceat(weights, rows, axis=1), depth, axis=2))


def _input_tiles(inputs: Int64Array, array: DualSideArray) -> Int64Array:
    """Non-zero inputs per (b, column block, k tile)."""
    columns = np.arange(0, inputs.shape[2], array.partitions_wide)
    depth = np.arange(0, inputs.shape[1], array.reduction_tile)
    return np.add.reduceat(np.add.reduceat(inputs, columns, axis=2), depth, axis=1).transpose(0, 2, 1)


def _plan(
    order: TileOrder,
    work: _BlockWork,
    array: DualSideArray,
    *,
    trace: LayerTrace,
    level: int,
    counts: tuple[Int64Array, Int64Array],
) -> LayerPlan:
    """``counts``: non-zero weights per (b, row block, k tile) and non-zero inputs per (b, column block, k tile)."""
    actions = _actions(order, work, array, counts=counts)
    fetched = actions["weight_buffer_read_bytes"] + actions["input_buffer_read_bytes"]
    cycles = work.cycles[order.group, order.row, order.column, order.k_tile]
    steps = np.maximum(cycles, -(-fetched // array.smem_bytes_per_cycle))
    tiles = build_table(order, steps=steps, actions=actions, output_bits=trace.activation_bits)
    return LayerPlan.of(order, tiles, level=level, multipliers=array.macs)


def _actions(
    order: TileOrder, work: _BlockWork, array: DualSideArray, *, counts: tuple[Int64Array, Int64Array]
) -> dict[str, Int64Array]:
    """Action counts per tile: compressed operands (a mask bit per element) come once, sums scatter one by one."""
    nest, where = order.nest, (order.group, order.row, order.column, order.k_tile)
    rows, columns = nest.rows_used()[order.row], nest.columns_used()[order.column]
    depth = block_sizes(nest.gemm.k, nest.blocking.k)[order.k_tile]
    weights = counts[0][order.group, order.row, order.k_tile]
    inputs = counts[1][order.group, order.column, order.k_tile]
    stored = -(-array.activation_bits // _BYTE_BITS)
    return {
        "mac_weight_nonzero": weights * columns,
        "mac_issued": work.effectual[where],
        "weight_buffer_read_bytes": -(-(weights * array.weight_bits + rows * depth) // _BYTE_BITS),
        "input_buffer_read_bytes": -(-(inputs * array.activation_bits + columns * depth) // _BYTE_BITS),
        "operand_register": work.unit_cycles[where] * (array.quantum_rows + array.quantum_columns),
        "accumulator_read": work.effectual[where],
        "accumulator_write": work.effectual[where],
        "output_buffer_write_bytes": np.where(order.closes, rows * columns * stored, 0),
    }
