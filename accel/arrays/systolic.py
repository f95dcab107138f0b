"""Systolic array: weight, output or input stationary; dense, or with weights compressed N:M along the reduction.

A tile is one fold; what it costs is a convention with a name (`systolic_cycles`). Unlike SCALE-Sim, partial sums stay on
chip: the streamed dimension is cut into chunks whose accumulators fit the output buffer.

Without ``group`` zeros never save cycles; where the design gates, they keep the multiplier and the accumulator still.
With ``group: M`` (layer-wise N:M as in SCALE-Sim 3, weight stationary) every M consecutive input channels of a kernel tap
share N rows of PEs, N being what the fullest filter keeps in any group of the layer at that level; each PE picks its input
of the group by an index. Places that a filter leaves empty idle. K thus shrinks to taps * (N*floor(C/M) + min(C mod M, N)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ...traces.trace import LayerTrace
from ...workloads.layers import CONV_OPS
from ..loopnest import Blocking, Int64Array, block_sizes, ceil_div
from ..schedule import TileOrder, build_table
from ..strict import ArrayDescription, Size, ZeroHandling
from ..tiles import ArrayTiming
from .count_kernel import count_blocks, group_steps
from .operands import kept_levels, require_zero_handling
from .plan import LayerPlan, dense_share, level_order
from .systolic_cycles import double_buffered_cycles, full_fold_cycles, trimmed_fold_cycles

if TYPE_CHECKING:
    from ..design import Design


class SystolicArray(ArrayDescription):
    """Systolic array. ``dataflow``: which operand stays in the PEs. ``group``: M of N:M compressed weights."""

    kind: Literal["systolic"]
    dataflow: Literal["weight_stationary", "output_stationary", "input_stationary"]
    convention: Literal["scale_sim", "stonne", "double_buffered"] = "scale_sim"
    rows: Size
    columns: Size
    group: Annotated[int, Field(gt=1, le=256)] | None = None

    @model_validator(mode="after")
    def _convention_fits(self) -> SystolicArray:
        stays = self.dataflow != "output_stationary"
        if self.convention == "stonne" and stays:
            raise ValueError("convention 'stonne' is defined for dataflow output_stationary only")
        if self.convention == "double_buffered" and not stays:
            raise ValueError(
                "convention 'double_buffered' hides the load of a stationary operand; output_stationary loads none"
            )
        if self.group is not None and self.dataflow != "weight_stationary":
            raise ValueError("group (N:M compressed weights) needs dataflow weight_stationary")
        return self


@dataclass(frozen=True, eq=False)
class Reduction:
    """How the reduction is cut into k tiles at one level.

    ``depth``: rows of PEs (or streamed steps) each k tile takes, ``elements``: reduction indices it covers, int64 (k tiles,).
    ``nonzeros``: kept weights per (group b, row block, k tile). ``compressed``: zeros are not issued.
    """

    depth: Int64Array
    elements: Int64Array
    nonzeros: Int64Array
    compressed: bool


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on a systolic array, level by level."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, SystolicArray)
    assert gemm is not None
    free = (ZeroHandling.NONE, ZeroHandling.GATE)
    require_zero_handling(design, weights=free if array.group is None else (ZeroHandling.SKIP,), inputs=free)
    gates = design.zero_handling.weights == ZeroHandling.GATE
    for level, blocking, reduction in _reductions(trace, levels, design):
        dense = design.weight_format == "dense"
        share = dense_share(gemm, n=blocking.n, depth=reduction.elements) if dense else reduction.nonzeros
        order = level_order(trace, blocking, share, level=level, design=design, sum_bits=array.accumulator_bits)
        steps = fold_cycles(order, array, reduction.depth)
        actions = _actions(order, array, reduction, gates_weights=gates)
        tiles = build_table(order, steps=steps, actions=actions, output_bits=trace.activation_bits)
        yield LayerPlan.of(order, tiles, level=level, multipliers=array.rows * array.columns)


def _reductions(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[tuple[int, Blocking, Reduction]]:
    """Level, block sizes and cut reduction for every level asked for."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, SystolicArray)
    assert gemm is not None
    if array.group is None:
        blocking = fold_blocking(trace, design, k=array.rows)
        block_k = min(blocking.k, gemm.k)
        counts = count_blocks(
            kept_levels(trace), groups=gemm.b, levels=trace.levels, block_n=blocking.n, block_k=block_k
        )
        depth = block_sizes(gemm.k, block_k)
        for level in levels:
            yield level, blocking, Reduction(depth, depth, counts[level], compressed=False)
        return
    steps, nonzeros, sizes = _groups(trace, array)
    for level in levels:
        reduction = compressed_reduction(steps[level], nonzeros[level], sizes, rows=array.rows)
        yield level, fold_blocking(trace, design, k=int(reduction.elements.max())), reduction


def _groups(trace: LayerTrace, array: SystolicArray) -> tuple[NDArray[np.int32], NDArray[np.int32], Int64Array]:
    """Fullest filter's and all non-zeros per (level, b, row block, group of the reduction), and the groups' sizes."""
    gemm, layer = trace.layer.gemm, trace.layer
    assert gemm is not None
    assert array.group is not None
    taps = layer.R * layer.S if layer.op in CONV_OPS else 1
    steps, nonzeros = group_steps(
        kept_levels(trace),
        groups=gemm.b, levels=trace.levels, block_n=array.columns, taps=taps, group=array.group, lanes=1,
    )  # fmt: skip
    channels = gemm.k // taps
    sizes = np.minimum(array.group, channels - np.arange(0, channels, array.group, dtype=np.int64))
    return steps, nonzeros, np.tile(sizes, taps)


def compressed_reduction(
    fullest: NDArray[np.int32], nonzeros: NDArray[np.int32], sizes: Int64Array, *, rows: int
) -> Reduction:
    """N:M compressed reduction of one level folded onto ``rows`` rows of PEs.

    ``fullest``/``nonzeros``: kept weights of the fullest filter and of all, per (b, row block, group); ``sizes``: elements of
    each group. A group cut by a fold boundary counts where it starts. A level without weights still takes one fold.
    """
    kept = np.minimum(sizes, int(fullest.max(initial=0)))
    start = np.cumsum(kept) - kept
    total = max(1, int(kept.sum()))
    tile = np.minimum(start, total - 1) // rows
    folds = ceil_div(total, rows)
    elements = np.bincount(tile, weights=sizes, minlength=folds).astype(np.int64)
    before = np.concatenate((np.zeros((*nonzeros.shape[:2], 1), np.int64), nonzeros.cumsum(axis=2)), axis=2)
    counts = np.diff(before[:, :, np.searchsorted(tile, np.arange(folds + 1))], axis=2)
    depth = np.minimum(rows, total - np.arange(0, total, rows, dtype=np.int64))
    return Reduction(depth, elements, counts, compressed=True)


def fold_blocking(trace: LayerTrace, design: Design, *, k: int) -> Blocking:
    """Block sizes of a fold. What a fold streams is limited by the buffers, which all must hold a tile of it.

    ``k``: reduction indices on the rows of a fold where weights or inputs stay.
    """
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, SystolicArray)
    assert gemm is not None
    accumulator_bytes = ceil_div(array.accumulator_bits, 8)
    # Beside the sums of the running block, finished blocks wait in the output buffer for DRAM.
    waiting_bytes = ArrayTiming().output_slots * ceil_div(array.activation_bits, 8)
    outputs = design.buffers.outputs.bytes // ((accumulator_bytes + waiting_bytes) * array.columns)
    # Buffers hold a tile twice. Encoded weights may be larger than plain ones, and bring the biases.
    encoded = max(trace.bytes(design.weight_format, level) for level in range(trace.levels))
    weights = design.buffers.weights.bytes // 2 * trace.weights // max(1, encoded)
    inputs = design.buffers.inputs.bytes // 2 * 8 // trace.activation_bits
    if array.dataflow == "output_stationary":
        # One fold passes the whole reduction; it is cut into tiles only so that they fit the buffers.
        depth = min(gemm.k, weights // array.columns, inputs // array.rows)
        return Blocking(n=array.columns, m=array.rows, k=max(1, depth))
    if array.dataflow == "weight_stationary":
        return Blocking(n=array.columns, m=max(1, min(gemm.m, outputs, inputs // k)), k=k)
    return Blocking(n=max(1, min(gemm.n, outputs, weights // k)), m=array.columns, k=k)


def fold_cycles(order: TileOrder, array: SystolicArray, depth: Int64Array) -> Int64Array:
    """Cycles of every fold, int64 (tiles,). ``depth``: rows or streamed steps of every k tile."""
    rows, columns = order.nest.rows_used()[order.row], order.nest.columns_used()[order.column]
    if array.dataflow == "output_stationary":
        # Fill and drain happen once per output block, at the tile that closes it.
        steps, nothing = depth[order.k_tile], np.zeros_like(order.row)
        if array.convention == "stonne":
            ends = trimmed_fold_cycles(nothing, rows_used=columns, columns_used=rows)
        else:
            ends = full_fold_cycles(nothing, rows=array.rows, columns=array.columns, preload=False)
        return np.asarray(steps + np.where(order.closes, ends, 0))
    streamed = columns if array.dataflow == "weight_stationary" else rows
    if array.convention == "double_buffered":
        return double_buffered_cycles(streamed, rows=array.rows, columns=array.columns)
    return full_fold_cycles(streamed, rows=array.rows, columns=array.columns, preload=True)


def _actions(
    order: TileOrder, array: SystolicArray, reduction: Reduction, *, gates_weights: bool
) -> dict[str, Int64Array]:
    """Action counts per tile. SRAM words are SCALE-Sim's; accumulators are read back where a block spans k tiles."""
    nest = order.nest
    rows, columns = nest.rows_used()[order.row], nest.columns_used()[order.column]
    depth, elements = reduction.depth[order.k_tile], reduction.elements[order.k_tile]
    outputs = rows * columns
    in_place = array.dataflow == "output_stationary"  # partial sums stay in the PEs
    spill_bytes = 0 if in_place else ceil_div(array.accumulator_bits, 8)
    stored_bytes = ceil_div(array.activation_bits, 8)
    kept = reduction.nonzeros[order.group, order.row, order.k_tile] * columns
    index_bits = 0 if array.group is None else (array.group - 1).bit_length()
    # Every issued product latches two operands; a product that is not gated adds to a partial sum (each written and read).
    operand_bits, sum_bits = 2 * (array.weight_bits + array.activation_bits), 2 * array.accumulator_bits
    added = kept if gates_weights else outputs * depth
    return {
        "mac_weight_nonzero": kept,
        "mac_issued": kept if reduction.compressed else outputs * depth,
        "weight_buffer_read_bytes": -(-rows * depth * (array.weight_bits + index_bits) // 8),
        "input_buffer_read_bytes": -(-columns * elements * array.activation_bits // 8),
        "output_buffer_write_bytes": outputs * np.where(order.closes, stored_bytes, spill_bytes),
        "output_buffer_read_bytes": outputs * np.where(order.k_tile > 0, spill_bytes, 0),
        "register_bytes": -(-(outputs * depth * operand_bits + added * sum_bits) // 8),
    }
