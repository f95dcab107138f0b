"""Bit-Pragmatic: DaDianNao whose input lanes are serial in the terms (set bits) of the inputs.

After Albericio et al., MICRO 2017. A tile holds ``rows`` filters; its columns each take one window, so ``columns`` windows
share the weights. A step is a brick (``lanes`` channels at one tap); it takes as many rounds as its inputs' terms need: per
round all lanes share a second-stage shift, the lowest term position left, and each takes its own lowest term if it lies
within the reach 2^L - 1 of the first-stage shifter. Columns wait for each other after every step, or run up to
``column_registers`` steps ahead. Zero inputs cost nothing beyond the one round a step takes at least; weights are dense.

``encoding`` of an input's magnitude into terms: ``binary``; ``booth_runs``, signed digits that replace a run of three and
more ones (with single zeros inside) by its ends, the "Booth-like" encoding of isakedo/DNNsim; ``booth_radix4``, the textbook
recoding into digits -2..2. Signs cost nothing.

Compute cycles equal those of isakedo/DNNsim (July 2020) on every reference row, with and without Booth and registers. A
layer with one output position sends its bricks to the columns in turn, one a cycle, as that simulator does.
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
from ..loopnest import Blocking, Int64Array, ceil_div
from ..schedule import TileOrder, build_table
from ..strict import ArrayDescription, Size, ZeroHandling
from ..tiles import ArrayTiming
from .bricks import Bricks, WindowNest, brick_layout, weight_reads
from .diannao import deepest_tiles
from .operands import ConvView, both_nonzero, conv_view, input_codes, require_zero_handling, tap_nonzeros
from .plan import LayerPlan, level_order
from .pragmatic_kernel import brick_rounds, staggered_finish, window_finish

if TYPE_CHECKING:
    from ..design import Design

Encoding = Literal["binary", "booth_runs", "booth_radix4"]
#: Widest input whose terms the array looks up.
MOST_INPUT_BITS = 16


class PragmaticArray(ArrayDescription):
    """``tiles`` x ``rows`` filters, ``columns`` windows, ``lanes`` input channels; all lanes are term-serial.

    ``first_stage_bits``: L, the bits of the first-stage shifters. ``column_registers``: steps a column may run ahead.
    """

    kind: Literal["pragmatic"]
    tiles: Size
    rows: Annotated[int, Field(gt=0, le=1024, description="filters of a tile")]
    columns: Annotated[int, Field(gt=0, le=1024, description="windows of a tile")]
    lanes: Annotated[int, Field(gt=0, le=1024, description="input channels of a step")]
    first_stage_bits: Annotated[int, Field(ge=0, le=5)]
    column_registers: Annotated[int, Field(ge=0, le=64)] = 0
    encoding: Encoding = "binary"
    pipeline_stages: Annotated[int, Field(gt=0, le=64)] = 3

    @property
    def filters(self) -> int:
        """Filters at a time."""
        return self.tiles * self.rows

    @property
    def serial_lanes(self) -> int:
        return self.filters * self.columns * self.lanes


def encode_terms(magnitudes: NDArray[np.int64], encoding: Encoding) -> Int64Array:
    """Bit j set where a magnitude has a term +-2^j, int64 of the same shape. Magnitudes below 2^MOST_INPUT_BITS."""
    largest = int(magnitudes.max(initial=0))
    if largest >> MOST_INPUT_BITS:
        raise InputError(f"Bit-Pragmatic takes inputs of at most {MOST_INPUT_BITS} bits, found {largest}")
    if encoding == "binary":
        return np.asarray(magnitudes, dtype=np.int64)
    values = np.arange(largest + 1, dtype=np.int64)
    table = _booth_runs(values) if encoding == "booth_runs" else _booth_radix4(values)
    return np.asarray(table[magnitudes])


def _booth_runs(values: Int64Array) -> Int64Array:
    """From the top: 111 opens a run at the position above it; within a run zeros are subtracted, 100 ends it."""
    terms, in_run = np.zeros_like(values), np.zeros(values.shape, dtype=np.bool_)
    for position in range(MOST_INPUT_BITS, -1, -1):
        bit, below = values >> position & 1, values << 2 >> position & 3
        opens = ~in_run & (bit == 1) & (below == 3)
        ends = in_run & (bit == 1) & (below == 0)
        single = ~in_run & (bit == 1) & (below != 3)
        terms |= np.where(opens, 2 << position, 0)
        terms |= np.where(single | ends | (in_run & (bit == 0)), 1 << position, 0)
        in_run = (in_run | opens) & ~ends
    return terms


def _booth_radix4(values: Int64Array) -> Int64Array:
    """Digit i of -2..2 is bit 2i-1 + bit 2i - 2 * bit 2i+1."""
    terms = np.zeros_like(values)
    for position in range(0, MOST_INPUT_BITS + 1, 2):
        digit = np.abs((values << 1 >> position & 1) + (values >> position & 1) - 2 * (values >> (position + 1) & 1))
        terms |= np.where(digit > 0, digit << position, 0)
    return terms


@dataclass(frozen=True, eq=False)
class PragmaticWork:
    """A layer on the array.

    ``finish``: cycle at which every (set of groups, window block, group of filters, k tile) is done. ``terms`` and
    ``nonzeros``: terms and non-zero inputs of every (set, window block, k tile), for one filter.
    """

    finish: Int64Array
    terms: Int64Array
    nonzeros: Int64Array

    @property
    def cycles(self) -> int:
        """Compute cycles of the layer."""
        return int(self.finish.max(initial=0))

    def steps(self) -> Int64Array:
        """Cycles between one finish and the next, in execution order, shape of ``finish``."""
        return np.diff(self.finish.reshape(-1), prepend=0).reshape(self.finish.shape)


def pragmatic_work(
    view: ConvView, codes: NDArray[np.int32], array: PragmaticArray, *, bricks: Bricks | None = None
) -> PragmaticWork:
    """Cycles, terms and non-zero inputs of a layer; one k tile unless ``bricks`` say otherwise.

    ``codes``: int32 (channels, height, width), signed inputs of which the magnitude counts.
    """
    bricks = bricks or whole_bricks(view, array)
    pad = view.padding
    magnitudes = np.pad(np.abs(codes.astype(np.int64)), ((0, 0), (pad, pad), (pad, pad)))
    terms = encode_terms(magnitudes, array.encoding)
    together = bricks.groups_per_set * view.group_channels  # channels whose lanes work side by side
    spare = bricks.sets * together - view.channels
    terms = np.pad(terms, ((0, spare), (0, 0), (0, 0))).reshape(bricks.sets, together, *terms.shape[1:])
    found = brick_rounds(terms, lanes=array.lanes, first_stage_bits=array.first_stage_bits)
    passes = ceil_div(view.group_filters, array.filters)
    if view.out_height * view.out_width == 1 and view.taps == 1:
        finish, work = staggered_finish(found, columns=array.columns, repeats=passes, per_tile=bricks.per_tile)
    else:
        offsets = np.indices((view.taps_high, view.taps_wide)).reshape(2, -1).T * view.dilation
        finish, work = window_finish(
            found,
            offsets=offsets.astype(np.int64),
            stride=view.stride,
            output=(view.out_height, view.out_width),
            columns=array.columns,
            registers=array.column_registers,
            repeats=passes,
            per_tile=bricks.per_tile,
        )
    return PragmaticWork(finish, terms=work[0], nonzeros=work[1])


def whole_bricks(view: ConvView, array: PragmaticArray) -> Bricks:
    """The layer's reduction as one k tile."""
    bricks = brick_layout(view, lanes=array.lanes, filters=array.rows)
    return bricks.in_tiles(bricks.count)


def pe_slots(view: ConvView, array: PragmaticArray) -> tuple[int, int]:
    """Steps of all PEs of busy tiles that have a window and a filter, and that have none (as DNNsim counts them)."""
    bricks = whole_bricks(view, array)
    windows, steps = view.out_height * view.out_width, bricks.count * bricks.sets
    filters = bricks.groups_per_set * view.group_filters
    rows = min(array.rows, array.lanes) if view.depthwise else array.rows
    scheduled = windows * bricks.count * view.filters
    held = ceil_div(windows, array.columns) * array.columns * ceil_div(filters, rows) * rows * steps
    return scheduled, held - scheduled


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on Bit-Pragmatic, level by level: levels change the DRAM traffic only."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, PragmaticArray)
    assert gemm is not None
    require_zero_handling(design, weights=(ZeroHandling.NONE,), inputs=(ZeroHandling.SKIP,))
    view, codes = conv_view(trace.layer), input_codes(trace)
    bricks = deepest_tiles(
        trace, whole_bricks(view, array), filters=array.filters, windows=array.columns, design=design
    )
    work = pragmatic_work(view, codes, array, bricks=bricks)
    weights = bricks.nonzeros(trace, array.filters)
    taps = tap_nonzeros(codes != 0, view)
    issued = int(taps.sum()) * gemm.n
    blocking = Blocking(n=array.filters, m=array.columns, k=int(bricks.depth().max()))
    for level in levels:
        share = bricks.dense(gemm, array.filters) if design.weight_format == "dense" else weights[level]
        order = level_order(
            trace, blocking, share,
            level=level, design=design, sum_bits=array.accumulator_bits, nest_type=WindowNest,
        )  # fmt: skip
        actions = _actions(order, work, bricks=bricks, weights=weights[level], design=design)
        yield LayerPlan.of(
            order,
            build_table(order, steps=_steps(order, work, bricks), actions=actions, output_bits=trace.activation_bits),
            level=level,
            multipliers=array.serial_lanes,
            timing=ArrayTiming(latency=array.pipeline_stages - 1),
            weight_zero_issued=issued - both_nonzero(trace, level, taps),
            slots_used=int(actions["terms"].sum()),
        )


def _at_set(per_set: Int64Array, order: TileOrder, bricks: Bricks) -> Int64Array:
    """A value per (set, window block, k tile) for every tile: the last group of a set carries it, the others none."""
    found = per_set[order.group // bricks.groups_per_set, order.column, order.k_tile]
    return np.asarray(np.where(bricks.closes_set()[order.group], found, 0))


def _steps(order: TileOrder, work: PragmaticWork, bricks: Bricks) -> Int64Array:
    """Cycles of every tile: what it adds to the finish in the array's own order (windows, then filters)."""
    steps = work.steps()[order.group // bricks.groups_per_set, order.column, order.row, order.k_tile]
    return np.asarray(np.where(bricks.closes_set()[order.group], steps, 0))


def _actions(
    order: TileOrder, work: PragmaticWork, *, bricks: Bricks, weights: Int64Array, design: Design
) -> dict[str, Int64Array]:
    """Action counts per tile. A step reads the weights of all its filters once, for all windows. In every cycle each PE with
    a filter and a window shifts its adder tree's sum and accumulates it (an upper bound: a column that waits does not)."""
    array, nest = design.array, order.nest
    assert isinstance(array, PragmaticArray)
    rows, columns = nest.rows_used()[order.row], nest.columns_used()[order.column]
    steps = bricks.bricks()[order.k_tile] * bricks.closes_set()[order.group]
    outputs = rows * columns
    spill_bytes, finished_bytes = ceil_div(array.accumulator_bits, 8), ceil_div(array.activation_bits, 8)
    busy_filters = -(-rows // array.rows) * array.rows
    terms = _at_set(work.terms, order, bricks) * rows
    filters = rows * (order.group % bricks.groups_per_set + 1)  # where a set closes: of all its groups
    sums = _steps(order, work, bricks) * filters * columns
    return {
        "mac_weight_nonzero": weights[order.group, order.row, order.k_tile] * columns,
        "mac_issued": _at_set(work.nonzeros, order, bricks) * rows,
        "terms": terms,
        "accumulations": sums,
        weight_reads(design): -(-steps * busy_filters * array.lanes * array.weight_bits // 8),
        "input_buffer_read_bytes": -(-steps * columns * array.lanes * array.activation_bits // 8),
        "output_buffer_write_bytes": outputs * np.where(order.closes, finished_bytes, spill_bytes),
        "output_buffer_read_bytes": outputs * np.where(order.k_tile > 0, spill_bytes, 0),
        "register_bytes": -(-2 * (terms * array.weight_bits + sums * array.accumulator_bits) // 8),
    }
