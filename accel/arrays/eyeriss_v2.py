"""Eyeriss v2: PEs that skip zero inputs and zero weights, in clusters that wait for their slowest PE.

A PE holds the compressed weights of a few output features. For every non-zero input of channel c it fetches that channel's
non-zero weights and spends a cycle per product (per ``macs_per_pe`` products with the SIMD PE of the chip), so that on one PE

    cycles = sum over c of nonzero inputs[c] * nonzero weights[c]

(Chen et al., JETCAS 2019; exact against the Sparseloop artifact's ground truth). In a cluster the output features are split
over the PEs, all receive the same inputs, and the next position starts when the slowest PE is done: with real masks the rows
of a filter bank differ, which densities alone do not show. Clusters work on different positions and meet at the tile's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...traces.trace import LayerTrace
from ...workloads.errors import InputError
from ..loopnest import Blocking, Int64Array, block_sizes, ceil_div
from ..schedule import TileOrder, build_table
from ..strict import ArrayDescription, Size, ZeroHandling
from .count_kernel import count_blocks
from .eyeriss_v2_kernel import pe_cycles
from .operands import kept_levels, require_zero_handling
from .plan import LayerPlan, level_order
from .windows import count_positions, window_pattern

if TYPE_CHECKING:
    from ..design import Design

_BYTE_BITS = 8


class EyerissV2Array(ArrayDescription):
    """Eyeriss v2 array: ``clusters`` of ``pes_per_cluster`` PEs.

    ``rows_per_pe``: output features a PE keeps partial sums of. ``macs_per_pe``: products per cycle. ``reduction_tile``:
    reduction indices whose weights a PE holds at a time. ``positions_per_cluster``: output positions per tile.
    ``barrier``: when the PEs of a cluster wait for each other.
    """

    kind: Literal["eyeriss_v2"]
    clusters: Size
    pes_per_cluster: Size
    rows_per_pe: Size
    macs_per_pe: Annotated[int, Field(gt=0, le=64)]
    reduction_tile: Annotated[int, Field(gt=0, le=65536)]
    positions_per_cluster: Size
    barrier: Literal["pixel", "tile"]

    @property
    def macs(self) -> int:
        return self.clusters * self.pes_per_cluster * self.macs_per_pe


# --- counting on plain numbers ---------------------------------------------------------------------------------------


def single_pe_cycles(input_nonzeros: Int64Array, weight_nonzeros: Int64Array) -> int:
    """Cycles of one PE: sum over channels of non-zero inputs x non-zero weights; both int64 (channels,)."""
    if input_nonzeros.shape != weight_nonzeros.shape or input_nonzeros.ndim != 1:
        raise InputError(f"{input_nonzeros.size} channels of inputs, {weight_nonzeros.size} of weights")
    return int(input_nonzeros @ weight_nonzeros)


def skipped_computes(input_nonzeros: int, *, features: int, cycles: int) -> int:
    """Products with a non-zero input and a zero weight: the PE fetches the input and skips them."""
    return features * input_nonzeros - cycles


def uniform_cycles(macs: int, *, input_density: float, weight_density: float, pes: int = 1) -> float:
    """What densities alone predict: dense MACs x both densities / PEs."""
    return macs * input_density * weight_density / pes


def cluster_cycles(inputs: NDArray[np.bool_], weights: NDArray[np.bool_], *, pes: int, per_pixel: bool) -> int:
    """Cycles of one cluster whose PEs share the output features in runs of equal length.

    ``inputs``: bool (positions, k). ``weights``: bool (features, k). ``per_pixel``: barrier after every position.
    """
    features, k = weights.shape
    rows = ceil_div(features, pes)
    counts = _per_pe(weights[None], rows_per_pe=rows, pes=pes)
    cycles, _ = pe_cycles(
        inputs[None], counts, pes=pes, depth=k, positions=max(1, len(inputs)), clusters=1, macs=1, per_pixel=per_pixel
    )
    return int(cycles.sum())


def _per_pe(weights: NDArray[np.bool_], *, rows_per_pe: int, pes: int) -> NDArray[np.int32]:
    """Non-zero weights per PE: bool (b, n, k) -> int32 (b, k, row blocks * pes)."""
    groups, n, k = weights.shape
    virtual = ceil_div(n, rows_per_pe * pes) * pes
    padded = np.pad(weights, ((0, 0), (0, virtual * rows_per_pe - n), (0, 0)))
    counts = padded.reshape(groups, virtual, rows_per_pe, k).sum(axis=2, dtype=np.int32)
    return np.ascontiguousarray(counts.transpose(0, 2, 1))


# --- plans -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Work:
    """Per (b, row block, column block, k tile): cycles and products; per (b, row block, k tile): non-zero weights; per
    (b, column block, k tile): non-zero inputs."""

    cycles: Int64Array
    products: Int64Array
    weights: Int64Array
    inputs: Int64Array


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on Eyeriss v2, level by level."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, EyerissV2Array)
    assert gemm is not None
    require_zero_handling(design, weights=(ZeroHandling.SKIP,), inputs=(ZeroHandling.SKIP,))
    blocking = Blocking(
        n=array.pes_per_cluster * array.rows_per_pe,
        m=array.clusters * array.positions_per_cluster,
        k=min(array.reduction_tile, gemm.k),
    )
    pattern = window_pattern(trace)
    in_block = count_positions(pattern, blocking.m)
    starts = np.arange(0, gemm.k, blocking.k)
    inputs = np.add.reduceat(in_block, starts, axis=1).transpose(0, 2, 1)
    by_position = np.ascontiguousarray(pattern.transpose(0, 2, 1))
    per_pe, per_block = _weight_counts(trace, array, blocking)
    for level in levels:
        cycles, products = pe_cycles(
            by_position, per_pe[level],
            pes=array.pes_per_cluster, depth=blocking.k, positions=array.positions_per_cluster,
            clusters=array.clusters, macs=array.macs_per_pe, per_pixel=array.barrier == "pixel",
        )  # fmt: skip
        order = level_order(
            trace, blocking, per_block[level], level=level, design=design, sum_bits=array.accumulator_bits
        )
        yield _plan(order, _Work(cycles, products, per_block[level], inputs), array, trace=trace, level=level)


def _weight_counts(
    trace: LayerTrace, array: EyerissV2Array, blocking: Blocking
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Non-zero weights per (level, b, k, virtual PE) and per (level, b, row block, k tile)."""
    gemm = trace.layer.gemm
    assert gemm is not None
    rows = array.rows_per_pe
    counts = count_blocks(kept_levels(trace), groups=gemm.b, levels=trace.levels, block_n=rows, block_k=1)
    virtual = ceil_div(gemm.n, blocking.n) * array.pes_per_cluster
    padded = np.pad(counts, ((0, 0), (0, 0), (0, virtual - counts.shape[2]), (0, 0)))
    blocks = padded.reshape(*padded.shape[:2], -1, array.pes_per_cluster, gemm.k).sum(axis=3)
    starts = np.arange(0, gemm.k, blocking.k)
    per_block = np.add.reduceat(blocks, starts, axis=3)
    return np.ascontiguousarray(padded.transpose(0, 1, 3, 2), dtype=np.int32), per_block


def _plan(order: TileOrder, work: _Work, array: EyerissV2Array, *, trace: LayerTrace, level: int) -> LayerPlan:
    where = (order.group, order.row, order.column, order.k_tile)
    actions = _actions(order, work, array, products=work.products[where])
    tiles = build_table(order, steps=work.cycles[where], actions=actions, output_bits=trace.activation_bits)
    return LayerPlan.of(order, tiles, level=level, multipliers=array.macs)


def _actions(order: TileOrder, work: _Work, array: EyerissV2Array, *, products: Int64Array) -> dict[str, Int64Array]:
    """Action counts per tile.

    Compressed weights (a word and its index) are written to every cluster's PEs once per tile; every non-zero input reaches
    each PE of its cluster; each product reads a weight with its index and a partial sum, and writes the sum.
    """
    nest = order.nest
    rows, columns = nest.rows_used()[order.row], nest.columns_used()[order.column]
    depth = block_sizes(nest.gemm.k, nest.blocking.k)[order.k_tile]
    weights = work.weights[order.group, order.row, order.k_tile]
    inputs = work.inputs[order.group, order.column, order.k_tile]
    busy_pes = -(-rows // array.rows_per_pe)
    busy_clusters = -(-columns // array.positions_per_cluster)
    stored = -(-array.activation_bits // _BYTE_BITS)
    sums = rows * columns
    return {
        "mac_weight_nonzero": weights * columns,
        "mac_issued": products,
        "weight_buffer_read_bytes": -(-(weights * array.weight_bits + rows * depth) // _BYTE_BITS),
        "input_buffer_read_bytes": -(-(inputs * array.activation_bits + columns * depth) // _BYTE_BITS),
        "output_buffer_read_bytes": np.where(order.k_tile > 0, sums * ceil_div(array.accumulator_bits, _BYTE_BITS), 0),
        "output_buffer_write_bytes": np.where(
            order.closes, sums * stored, sums * ceil_div(array.accumulator_bits, _BYTE_BITS)
        ),
        "weight_spad_write": weights * busy_clusters,
        "weight_spad_read": products,
        "input_spad_write": inputs * busy_pes,
        "input_spad_read": inputs * busy_pes,
        "psum_spad_read": products,
        "psum_spad_write": products,
    }
