"""Tensor core: dense, 2:4, or flexible two-of-M weights, fed by a shared memory of limited bandwidth.

A block is 64 output features (4 sub-partitions x 16 rows) by the columns whose partial sums the register file holds; the
weights of one issue step stay in the multipliers' registers while those columns pass (see :mod:`tensor_core_gemm`, which
states the accesses). A structured core chooses per tile the sparsest pattern that the actual weights obey, two non-zeros in
every M consecutive reduction indices of every row, and runs the tile dense where none does: pruned weights that are not
structured gain nothing. Plans say how many MACs run in which pattern, and every run warns of what falls back to dense.
The reduction is flattened with channels innermost (r, s, c), as the im2col of a channels-last
tensor; the last group of a row is padded with zeros.

A tile takes max(issue steps x columns, bytes read from the shared memory / its bandwidth) cycles: at 2:8 the inputs of four
times the reduction must arrive in the same time, which is why flexible patterns stop gaining unless inputs are compressed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ...traces.trace import LayerTrace, channels_last
from ...workloads.layers import CONV_OPS
from ..loopnest import Blocking, Int64Array, block_sizes
from ..schedule import TileOrder, build_table
from ..strict import ArrayDescription, Size, ZeroHandling
from .count_kernel import count_blocks, group_steps
from .operands import kept_levels, require_zero_handling
from .plan import LayerPlan, dense_share, level_order
from .tensor_core_gemm import DENSE, GROUPS, KEPT, Mode, WeightIndex, WeightPattern, pattern_of

if TYPE_CHECKING:
    from ..design import Design

_BYTE_BITS = 8


class TensorCoreArray(ArrayDescription):
    """Tensor core. ``mode``: dense, 2:4 only (``stc_2_4``) or two of 4, 6 or 8 (``flexible_2_m``).

    ``weight_index``: metadata of a kept weight. ``compressed_inputs``: the shared memory holds a bit mask and the non-zero
    inputs. ``reduction_tile``: reduction indices per tile, whole groups of every pattern of the mode.
    """

    kind: Literal["tensor_core"]
    mode: Mode
    weight_index: WeightIndex = "coordinate"
    compressed_inputs: bool = False
    partitions: Size
    rows: Size
    lanes: Size
    stationary_columns: Size
    reduction_tile: Annotated[int, Field(gt=0, le=65536)]
    smem_bytes_per_cycle: Annotated[int, Field(gt=0, le=65536)]

    @model_validator(mode="after")
    def _whole_groups(self) -> TensorCoreArray:
        if self.reduction_tile % lcm(*GROUPS[self.mode], 1):
            groups = ", ".join(map(str, GROUPS[self.mode]))
            raise ValueError(f"reduction_tile = {self.reduction_tile} must be a multiple of the groups of {groups}")
        if self.lanes % KEPT:
            raise ValueError(f"lanes = {self.lanes} does not hold whole groups of {KEPT} kept weights; it must be even")
        return self

    @property
    def block_rows(self) -> int:
        return self.partitions * self.rows


@dataclass(frozen=True, eq=False)
class _TileWork:
    """Per (group b, row block, k tile): index into ``patterns``, issued weights per row, non-zero weights."""

    patterns: Sequence[WeightPattern]
    chosen: NDArray[np.intp]
    slots: Int64Array
    nonzeros: Int64Array


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on a tensor core, level by level."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, TensorCoreArray)
    assert gemm is not None
    gates = (ZeroHandling.NONE, ZeroHandling.GATE)
    require_zero_handling(design, weights=gates if array.mode == "dense" else (ZeroHandling.SKIP,), inputs=gates)
    blocking = Blocking(n=array.block_rows, m=array.stationary_columns, k=min(array.reduction_tile, gemm.k))
    keep = flattened_keep(trace)
    fits = [_obeys(keep, trace, array, group) for group in GROUPS[array.mode]]
    nonzeros = count_blocks(keep, groups=gemm.b, levels=trace.levels, block_n=blocking.n, block_k=blocking.k)
    depth = block_sizes(gemm.k, blocking.k)
    dense = dense_share(gemm, n=blocking.n, depth=depth)
    for level in levels:
        work = _choose(array, [fit[level] for fit in fits], nonzeros[level], depth)
        share = dense if design.weight_format == "dense" else nonzeros[level]
        order = level_order(trace, blocking, share, level=level, design=design, sum_bits=array.accumulator_bits)
        yield _plan(order, work, array, trace=trace, level=level)


def flattened_keep(trace: LayerTrace) -> NDArray[np.uint8]:
    """The keep map with channels innermost, uint8 (b*n, k) in reduction order (r, s, c); all kept for two activations."""
    layer, keep = trace.layer, kept_levels(trace)
    if layer.op not in CONV_OPS or layer.R * layer.S == 1:
        return keep
    return channels_last(keep, layer.R * layer.S)


def issued_per_row(depth: Int64Array, pattern: WeightPattern) -> Int64Array:
    """Weights a row issues for ``depth`` reduction indices: ``kept`` per whole group, as many of the rest as there are."""
    return np.asarray(depth // pattern.group * pattern.kept + np.minimum(depth % pattern.group, pattern.kept))


def _obeys(keep: NDArray[np.uint8], trace: LayerTrace, array: TensorCoreArray, group: int) -> NDArray[np.bool_]:
    """Whether every group of every row holds at most two non-zeros, per (level, b, row block, k tile)."""
    gemm = trace.layer.gemm
    assert gemm is not None
    fills, _ = group_steps(
        keep, groups=gemm.b, levels=trace.levels, block_n=array.block_rows, taps=1, group=group, lanes=KEPT
    )
    starts = np.arange(0, fills.shape[-1], array.reduction_tile // group)
    return np.asarray(np.maximum.reduceat(fills, starts, axis=-1) <= 1)


def _choose(
    array: TensorCoreArray, fits: Sequence[NDArray[np.bool_]], nonzeros: Int64Array, depth: Int64Array
) -> _TileWork:
    """The sparsest pattern each tile obeys, dense where it obeys none."""
    patterns = (*(pattern_of(group, array.weight_index) for group in GROUPS[array.mode]), DENSE)
    chosen = np.argmax(np.stack((*fits, np.ones_like(nonzeros, dtype=np.bool_))), axis=0)
    slots = np.choose(chosen, [issued_per_row(depth, pattern)[None, None, :] for pattern in patterns])
    return _TileWork(patterns, chosen, slots, nonzeros)


def _plan(order: TileOrder, work: _TileWork, array: TensorCoreArray, *, trace: LayerTrace, level: int) -> LayerPlan:
    where = (order.group, order.row, order.k_tile)
    columns = order.nest.columns_used()[order.column]
    issue = -(-work.slots // array.lanes)[where] * columns
    weight_bytes, input_bytes = _smem_bytes(order, work, array, trace)
    bandwidth = -(-(weight_bytes + input_bytes) // array.smem_bytes_per_cycle)
    issued = work.slots[where] * order.nest.rows_used()[order.row] * columns
    fetched = {"weight_buffer_read_bytes": weight_bytes, "input_buffer_read_bytes": input_bytes}
    actions = _actions(order, work, array, issued=issued) | fetched
    steps = np.maximum(issue, bandwidth)
    tiles = build_table(order, steps=steps, actions=actions, output_bits=trace.activation_bits)
    return LayerPlan.of(
        order,
        tiles,
        level=level,
        multipliers=array.block_rows * array.lanes,
        patterns=_pattern_macs(order, work) if array.mode != "dense" else None,
    )


def _pattern_macs(order: TileOrder, work: _TileWork) -> dict[str, int]:
    """Dense MACs of the tiles that run in each pattern, by its name."""
    nest, chosen = order.nest, work.chosen[order.group, order.row, order.k_tile]
    depth = block_sizes(nest.gemm.k, nest.blocking.k)[order.k_tile]
    macs = nest.rows_used()[order.row] * nest.columns_used()[order.column] * depth
    return {str(pattern): int(macs[chosen == i].sum()) for i, pattern in enumerate(work.patterns)}


def _smem_bytes(
    order: TileOrder, work: _TileWork, array: TensorCoreArray, trace: LayerTrace
) -> tuple[Int64Array, Int64Array]:
    """Bytes of weights (with metadata) and inputs (compressed or not) each tile reads from the shared memory."""
    where, nest = (order.group, order.row, order.k_tile), order.nest
    word_bits = np.array([array.weight_bits * (1 + float(p.metadata_ratio)) for p in work.patterns])
    weights = work.slots[where] * nest.rows_used()[order.row]
    weight_bytes = np.ceil(weights * word_bits[work.chosen[where]] / _BYTE_BITS).astype(np.int64)
    elements = block_sizes(nest.gemm.k, nest.blocking.k)[order.k_tile] * nest.columns_used()[order.column]
    bits = float(array.activation_bits)
    if array.compressed_inputs:
        bits = min(bits, 1 + bits * trace.activations.density)  # stored plain where that is smaller
    return weight_bytes, np.ceil(elements * bits / _BYTE_BITS).astype(np.int64)


def _actions(order: TileOrder, work: _TileWork, array: TensorCoreArray, *, issued: Int64Array) -> dict[str, Int64Array]:
    """Action counts per tile: registers are filled once per tile and read per MAC; sums are read and written once per row
    and issue step, but filled once more and not read before the first (see :mod:`tensor_core_gemm`)."""
    where, nest = (order.group, order.row, order.k_tile), order.nest
    rows, columns = nest.rows_used()[order.row], nest.columns_used()[order.column]
    sums = -(-work.slots // array.lanes)[where] * rows * columns
    cleared = np.where(order.k_tile == 0, rows * columns, 0)
    stored = -(-array.activation_bits // _BYTE_BITS)
    return {
        "mac_weight_nonzero": work.nonzeros[where] * columns,
        "mac_issued": issued,
        "operand_register": issued + work.slots[where] * rows,
        "accumulator_read": sums - cleared,
        "accumulator_write": sums + cleared,
        "output_buffer_write_bytes": np.where(order.closes, rows * columns * stored, 0),
    }
