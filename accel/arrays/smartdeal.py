"""SmartDeal: slices of lines that pair non-zero coefficient rows with non-zero activation rows, bit-serially.

After Zhao et al., ISCA 2020 (SmartExchange). A slice computes one filter, its lines share the input channels, a line's
multipliers compute neighbouring outputs of one row. An index selector hands the lines pairs of a coefficient row that any of
the slices' filters keeps and an activation row that is not zero; a rebuild engine turns the row into weights (Ce B, by
shifts and additions), each of which is broadcast to the line's multipliers. These are serial in the terms of the activations.
Sums stay in the slice until an output is finished.

A pair takes, per weight, as many cycles as the activation with the most terms has (at least one); the pairs of a run of
outputs are dealt to the lines from the longest on, and every batch takes as long as its longest (the lines' FIFOs even out
what arrives in another order). Zero padding is a zero row. Assumed, because the sources do not settle it: an activation row
is a whole line of the input map; in grouped and depthwise layers every slice gets inputs of its own, and the slowest ends
the step; a weight is rebuilt for every run of outputs that uses it; serial engines never wait except where a line's weights
take less than a cycle per coefficient (rows of 1 x 1 kernels with zero channels). Not counted: DRAM bits that flag zero
activation rows, energy of the index selector. Layers without coefficients run on plain weights, read as they are.

Zero handling: skip weights by rows, skip inputs by rows and bit by bit, each as far as the switches say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...traces.coefficients import is_coefficient_format
from ...traces.trace import LayerTrace
from ...workloads.errors import InputError
from ...workloads.smartdeal.basis_weights import BASIS_BITS, COEFFICIENT_BITS
from ..loopnest import Blocking, Int64Array, block_sizes, ceil_div
from ..mapping import choose_tiling
from ..schedule import TileOrder, build_table
from ..strict import ZeroHandling
from ..tiles import ArrayTiming
from .bricks import WindowNest, dense_nest
from .count_kernel import count_blocks
from .operands import both_nonzero, kept_levels, require_zero_handling, tap_nonzeros
from .plan import LayerPlan, dense_share, level_order
from .smartdeal_kernel import COUNTS, RowCounts, pair_work, row_counts
from .smartdeal_operands import (
    ENGINES,
    LineView,
    SmartDealArray,
    coefficient_keep,
    issue_positions,
    line_view,
    pair_tables,
    run_widths,
    shared_lines,
)

if TYPE_CHECKING:
    from ..design import Design


@dataclass(frozen=True, eq=False)
class SmartDealWork:
    """A layer on the array: ``counts`` int64 (COUNTS, levels, groups, row blocks, column blocks, k tiles); ``stored``: rows
    per block of filters; ``runs``: runs of outputs per column block; ``per_tile``: coefficient rows of a k tile;
    ``rebuilt``: weights come out of the rebuild engines."""

    counts: Int64Array
    stored: RowCounts
    lines: LineView
    runs: Int64Array
    per_tile: int
    rebuilt: bool

    def count(self, name: str) -> Int64Array:
        """One count, int64 (levels, groups, row blocks, column blocks, k tiles)."""
        return np.asarray(self.counts[COUNTS.index(name)])

    def tile_rows(self) -> Int64Array:
        """Coefficient rows of every k tile."""
        return block_sizes(self.lines.rows, self.per_tile)

    def stored_rows(self, level: int) -> Int64Array:
        """Rows that filters keep, int64 (groups, row blocks, k tiles)."""
        starts = np.arange(0, self.lines.rows, self.per_tile)
        return np.asarray(np.add.reduceat(self.stored.filters[level], starts, axis=2, dtype=np.int64))

    def bases(self) -> Int64Array:
        """Bases that the rows of every k tile of one filter use."""
        last = np.cumsum(self.tile_rows())
        rows = self.lines.slicing.rows
        return np.asarray((last - 1) // rows - (last - self.tile_rows()) // rows + 1)


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on the SmartDeal array, level by level."""
    array = design.array
    assert isinstance(array, SmartDealArray)
    require_zero_handling(design, weights=(ZeroHandling.SKIP,), inputs=(ZeroHandling.SKIP,))
    if array.rebuild_engine != is_coefficient_format(design.weight_format):
        need = "a coefficient format (smartdeal_...)" if array.rebuild_engine else "dense"
        raise InputError(
            f"design '{design.name}': with array.rebuild_engine = {str(array.rebuild_engine).lower()} weight_format must be "
            f"{need}, found {design.weight_format}"
        )
    lines = line_view(trace)
    blocking = tile_blocking(trace, lines, design=design)
    stored = row_counts(coefficient_keep(trace, lines), levels=trace.levels, block=blocking.n)
    work = smartdeal_work(trace, lines, stored, array=array, blocking=blocking)
    nonzeros = count_blocks(
        kept_levels(trace), groups=lines.view.groups, levels=trace.levels, block_n=blocking.n, block_k=blocking.k
    )
    for level in levels:
        yield _plan(work, nonzeros[level], trace=trace, blocking=blocking, level=level, design=design)


def smartdeal_work(
    trace: LayerTrace, lines: LineView, stored: RowCounts, *, array: SmartDealArray, blocking: Blocking
) -> SmartDealWork:
    """Cycles and counts of every tile, for all levels."""
    view = lines.view
    rebuilt = array.rebuild_engine and trace.coefficients is not None
    columns = lines.positions(array.dim_f) // blocking.m
    blocks = ceil_div(view.out_height * view.out_width, blocking.m)
    per_tile = blocking.k // lines.slicing.columns
    counts = pair_work(
        pair_tables(lines, array, rebuilt=rebuilt),
        stored if array.index_selector_weights else _everything(stored, view.group_filters, blocking.n),
        stored,
        rows=lines.sources(),
        columns=columns,
        widths=run_widths(view, array),
        stride=view.stride,
        lines=shared_lines(lines, array),
        together=max(1, blocking.n // view.group_filters),
        per_tile=per_tile,
        column_blocks=blocks,
    )
    runs = np.bincount(columns.reshape(-1), minlength=blocks)
    return SmartDealWork(counts, stored, lines, runs, per_tile, rebuilt)


def _everything(stored: RowCounts, filters: int, block: int) -> RowCounts:
    """What is processed without an index of the weights: every row of every filter."""
    held = np.broadcast_to(block_sizes(filters, block)[:, None], stored.filters.shape).astype(np.int32)
    return stored._replace(union=np.full_like(stored.union, stored.filters.shape[0]), filters=held)


def tile_blocking(trace: LayerTrace, lines: LineView, *, design: Design) -> Blocking:
    """Filters, output positions and reduction of a tile.

    All slices work, unless the weight buffer cannot hold (twice, at every level) the whole reduction of that many filters:
    then either the reduction is cut, and few positions at a time wait as partial sums in the output buffer, or fewer slices
    work; whichever costs the least DRAM traffic at level 0, the most slices among equals.
    """
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, SmartDealArray)
    assert gemm is not None
    filters = array.dim_m
    options = [_blocking(trace, lines, filters, design=design)]
    while options[-1].k < gemm.k and filters > 1:
        filters = ceil_div(filters, 2)
        options.append(_blocking(trace, lines, filters, design=design))
    if len(options) == 1:
        return options[0]
    nests = [dense_nest(trace, each, weight_bytes=trace.bytes(design.weight_format, 0)) for each in options]
    capacity = design.capacity()
    traffic = [choose_tiling(nest, capacity, output_bits=array.activation_bits).dram_bytes for nest in nests]
    return options[traffic.index(min(traffic))]


def _blocking(trace: LayerTrace, lines: LineView, filters: int, *, design: Design) -> Blocking:
    """The deepest reduction that the weight buffer holds for ``filters``, and the positions that the others hold for it."""
    array, gemm, buffers = design.array, trace.layer.gemm, design.buffers
    assert isinstance(array, SmartDealArray)
    assert gemm is not None
    used, rows = min(filters, gemm.n), lines.rows
    for level in range(trace.levels):
        size = trace.bytes(design.weight_format, level)
        coefficients = trace.coefficients if array.rebuild_engine else None
        kept = 0 if coefficients is None else coefficients.rows(level)
        kept = kept or gemm.b * gemm.n * lines.rows  # what the bytes are spread over
        if 2 * size > buffers.weights.bytes:
            rows = min(rows, buffers.weights.bytes * kept // (2 * used * size))
    depth = max(1, rows) * lines.slicing.columns
    sum_bits = array.activation_bits if depth >= gemm.k else array.accumulator_bits
    inputs = buffers.inputs.bytes // 2 * 8 // (array.activation_bits * min(depth, gemm.k))
    most = max(1, min(gemm.m, buffers.outputs.bytes * 8 // (sum_bits * used), inputs))
    whole = lines.view.out_width if most >= lines.view.out_width and not lines.transposed else array.dim_f
    return Blocking(n=filters, m=most // whole * whole or most, k=depth)


def _plan(
    work: SmartDealWork, nonzeros: Int64Array, *, trace: LayerTrace, blocking: Blocking, level: int, design: Design
) -> LayerPlan:
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, SmartDealArray)
    assert gemm is not None
    depth = np.minimum(block_sizes(gemm.k, blocking.k), gemm.k)
    share = work.stored_rows(level) if work.rebuilt else dense_share(gemm, n=blocking.n, depth=depth)
    order = level_order(
        trace, blocking, share, level=level, design=design, nest_type=WindowNest,
        sum_bits=array.activation_bits if depth.size == 1 else array.accumulator_bits,
    )  # fmt: skip
    where = (order.group, order.row, order.column, order.k_tile)
    counts = {name: work.count(name)[level][where] for name in COUNTS}
    steps = counts["cycles"].copy()
    if work.rebuilt and steps.any():  # the first basis; later ones are filled into the engine that is not at work
        steps[0] += work.lines.slicing.columns**2
    actions = _actions(order, counts, work, array=array)
    actions["mac_weight_nonzero"] = nonzeros[order.group, order.row, order.k_tile] * actions.pop("positions")
    taps = tap_nonzeros(work.lines.codes != 0, work.lines.view)
    reached = taps if array.bit_serial else issue_positions(work.lines, array)
    nonzero_weights = both_nonzero(trace, level, reached)
    return LayerPlan.of(
        order,
        build_table(order, steps=steps, actions=actions, output_bits=trace.activation_bits),
        level=level,
        multipliers=array.multipliers,
        timing=ArrayTiming(latency=array.pipeline_stages - 1),
        weight_zero_issued=int(counts["issued"].sum()) - nonzero_weights,
        input_zero_issued=nonzero_weights - both_nonzero(trace, level, taps),
        slots_used=int(counts["terms"].sum()),
    )


def _actions(
    order: TileOrder, counts: dict[str, Int64Array], work: SmartDealWork, *, array: SmartDealArray
) -> dict[str, Int64Array]:
    """Action counts per tile. Weights are read for every run of outputs, activations once for all slices and taps."""
    filters, positions = order.nest.rows_used()[order.row], order.nest.columns_used()[order.column]
    runs, outputs = work.runs[order.column], filters * positions
    spill_bytes, finished_bytes = ceil_div(array.accumulator_bits, 8), ceil_div(array.activation_bits, 8)
    multiplied = "terms" if array.bit_serial else "products"
    additions = counts["terms"] if array.bit_serial else counts["issued"]
    operand_bits = counts["issued"] * (array.weight_bits + array.activation_bits)
    return {
        "positions": positions,
        "mac_issued": counts["issued"],
        multiplied: additions,
        "rebuild_shifts": counts["coefficients"] * work.rebuilt,
        "rebuild_additions": counts["coefficients"] * work.lines.slicing.columns * work.rebuilt,
        "tree_additions": counts["tree_adds"] * filters,
        "weight_buffer_read_bytes": _weight_reads(order, counts["rows_read"], work, array=array, runs=runs),
        "input_buffer_read_bytes": -(-counts["fetched"] * array.activation_bits // 8),
        "output_buffer_write_bytes": outputs * np.where(order.closes, finished_bytes, spill_bytes),
        "output_buffer_read_bytes": outputs * np.where(order.k_tile > 0, spill_bytes, 0),
        "register_bytes": -(-2 * (operand_bits + additions * array.accumulator_bits) // 8),
    }


def _weight_reads(
    order: TileOrder, rows_read: Int64Array, work: SmartDealWork, *, array: SmartDealArray, runs: Int64Array
) -> Int64Array:
    """Bytes read from the weight buffer: rows, their index, and bases, which stay in the engines if they hold them all."""
    filters, columns = order.nest.rows_used()[order.row], work.lines.slicing.columns
    bits = rows_read * columns * (COEFFICIENT_BITS if work.rebuilt else array.weight_bits)
    if array.index_selector_weights:
        bits = bits + runs * filters * work.tile_rows()[order.k_tile]
    if work.rebuilt:
        bases = work.bases()[order.k_tile]
        loads = np.where(bases > ENGINES, runs, np.minimum(runs, 1)) * bases
        bits = bits + filters * loads * columns**2 * BASIS_BITS
    return np.asarray(-(-bits // 8))
