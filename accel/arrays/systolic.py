"""Dense systolic array: weight, output or input stationary.

A tile is one fold. Fold cycles follow SCALE-Sim (Samajdar et al., ISPASS 2020; checked against version 3.0.0): with R
rows and C columns, T + R + C - 2 for output stationary (T = k), T + 2R + C - 2 for weight and input stationary (T = m
or n streamed past R x C stationary operands); edge folds cost as much as full ones. Unlike SCALE-Sim, partial sums
stay on chip: the streamed dimension is cut into chunks whose accumulators fit the output buffer.

Zeros never save cycles here; where the design gates, they keep the multiplier and the accumulator still.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ...traces.trace import LayerTrace
from ..loopnest import Blocking, Int64Array, Nest, ceil_div, split_bytes
from ..mapping import Capacity, choose_tiling, compulsory_bytes
from ..schedule import TileOrder, build_table, order_tiles
from ..strict import ArrayDescription, Size
from ..tiles import ArrayTiming
from .count_kernel import count_blocks
from .plan import LayerPlan

if TYPE_CHECKING:
    from ..design import Design


class SystolicArray(ArrayDescription):
    """Dense systolic array. ``dataflow``: which operand stays in the PEs."""

    kind: Literal["systolic"]
    dataflow: Literal["weight_stationary", "output_stationary", "input_stationary"]
    rows: Size
    columns: Size


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on a systolic array, level by level."""
    array = design.array
    assert isinstance(array, SystolicArray)
    gemm = trace.layer.gemm
    assert gemm is not None
    blocking = fold_blocking(trace, design)
    nonzeros = _nonzeros(trace, blocking)
    capacity = Capacity(design.buffers.weights.bytes, design.buffers.inputs.bytes, design.buffers.outputs.bytes)
    for level in levels:
        share = _dense_share(trace, blocking) if design.weight_format == "dense" else nonzeros[level]
        stored = trace.bytes(design.weight_format, level)
        nest = Nest(trace.layer, gemm, blocking, split_bytes(stored, share), trace.activation_bits)
        tiling = choose_tiling(nest, capacity, output_bits=array.accumulator_bits)
        order = order_tiles(nest, tiling)
        tiles = build_table(
            order,
            load_beats=np.zeros_like(order.row),
            steps=fold_cycles(order, array),
            drain_words=np.zeros_like(order.row),
            actions=_actions(order, array, nonzeros[level]),
            output_bits=trace.activation_bits,
        )
        weight_zero = gemm.macs - trace.macs(level) // trace.layer.repeat
        yield LayerPlan(
            level=level,
            tiles=tiles,
            timing=ArrayTiming(),
            tiling=tiling,
            compulsory_bytes=compulsory_bytes(nest),
            mac_dense=gemm.macs,
            mac_skipped=0,
            mac_weight_zero_issued=weight_zero,
            pe_slots=int(tiles.steps.sum()) * array.rows * array.columns,
        )


def fold_blocking(trace: LayerTrace, design: Design) -> Blocking:
    """Block sizes of a fold. For stationary dataflows the streamed dimension is limited by the output buffer."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, SystolicArray)
    assert gemm is not None
    accumulator_bytes = ceil_div(array.accumulator_bits, 8)
    chunk = max(1, design.buffers.outputs.bytes // (accumulator_bytes * array.columns))
    if array.dataflow == "output_stationary":
        # One fold passes the whole reduction; it is cut into tiles only so that the buffers can hold a tile twice.
        weight_depth = design.buffers.weights.bytes * 8 // (2 * array.columns * array.weight_bits)
        input_depth = design.buffers.inputs.bytes * 8 // (2 * array.rows * array.activation_bits)
        return Blocking(n=array.columns, m=array.rows, k=max(1, min(gemm.k, weight_depth, input_depth)))
    if array.dataflow == "weight_stationary":
        return Blocking(n=array.columns, m=min(gemm.m, chunk), k=array.rows)
    return Blocking(n=min(gemm.n, chunk), m=array.columns, k=array.rows)


def fold_cycles(order: TileOrder, array: SystolicArray) -> Int64Array:
    """Cycles of every fold, int64 (tiles,)."""
    fill = array.rows + array.columns - 2
    if array.dataflow == "output_stationary":
        return np.asarray(_depth(order) + np.where(order.closes, fill, 0))
    if array.dataflow == "weight_stationary":
        return np.asarray(order.nest.columns_used()[order.column] + array.rows + fill)
    return np.asarray(order.nest.rows_used()[order.row] + array.rows + fill)


def _depth(order: TileOrder) -> Int64Array:
    """Reduction steps of every tile."""
    block = order.nest.blocking.k
    return np.asarray(np.minimum(block, order.nest.gemm.k - order.k_tile * block))


def _nonzeros(trace: LayerTrace, blocking: Blocking) -> NDArray[np.int64]:
    """Non-zero weights per (level, group, row block, k tile); a dynamic second operand counts as dense."""
    gemm = trace.layer.gemm
    assert gemm is not None
    if trace.keep is None:
        return np.broadcast_to(_dense_share(trace, blocking), (trace.levels, *_dense_share(trace, blocking).shape))
    return count_blocks(
        trace.keep, groups=gemm.b, levels=trace.levels, block_n=blocking.n, block_k=min(blocking.k, gemm.k)
    )


def _dense_share(trace: LayerTrace, blocking: Blocking) -> Int64Array:
    """Weights per (group, row block, k tile), zeros included."""
    gemm = trace.layer.gemm
    assert gemm is not None
    rows = np.minimum(blocking.n, gemm.n - np.arange(0, gemm.n, blocking.n))
    depth = np.minimum(blocking.k, gemm.k - np.arange(0, gemm.k, blocking.k))
    return np.broadcast_to(np.outer(rows, depth), (gemm.b, rows.size, depth.size)).astype(np.int64)


def _actions(order: TileOrder, array: SystolicArray, nonzeros: NDArray[np.int64]) -> dict[str, Int64Array]:
    """Action counts per tile. SRAM words are SCALE-Sim's; accumulators are read back where a block spans k tiles."""
    nest = order.nest
    rows, columns = nest.rows_used()[order.row], nest.columns_used()[order.column]
    depth = _depth(order)
    outputs = rows * columns
    in_place = array.dataflow == "output_stationary"  # partial sums stay in the PEs
    spill_bytes = 0 if in_place else ceil_div(array.accumulator_bits, 8)
    stored_bytes = ceil_div(array.activation_bits, 8)
    macs = outputs * depth
    return {
        "mac_weight_nonzero": nonzeros[order.group, order.row, order.k_tile] * columns,
        "mac_issued": macs,
        "weight_buffer_read_bytes": -(-rows * depth * array.weight_bits // 8),
        "input_buffer_read_bytes": -(-columns * depth * array.activation_bits // 8),
        "output_buffer_write_bytes": outputs * np.where(order.closes, stored_bytes, spill_bytes),
        "output_buffer_read_bytes": outputs * np.where(order.k_tile > 0, spill_bytes, 0),
        "register_bytes": macs * ceil_div(2 * (array.weight_bits + array.activation_bits), 8),
    }
