"""Eyeriss: 12 x 14 PEs, row stationary, gating zero inputs, run-length coded activations in DRAM (JSSC 2017).

A pass keeps the weights of ``p * t`` filters and ``q * r`` channels in the PEs' scratchpads (p, q per PE; t, r PE sets) and
slides ``e`` output rows of an input over them. The channel loop runs inside, so that partial sums stay in the global buffer,
and every pass loads its filters anew:

    cycles of a pass = images * S * F * p * q            each PE, one MAC per cycle
                     + max(filter words / filter bus,    before the first MAC; the two buses work side by side
                           words of the first windows of all input rows / input bus)

The loads cannot hide behind the pass before: the scratchpads (224, 12 and 24 words) hold the weights and windows of one pass,
not of two. What the chip hides beyond that, between the images of a pass and in DRAM traffic, is taken as hidden.

A zero input holds the multiplier, the weight scratchpad and the partial-sum scratchpad still; cycles do not change. Inputs
lie in DRAM as pairs of a run of zeros and a value, outputs are counted uncompressed (their zeros are not in the trace).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from ...traces.trace import LayerTrace
from ...workloads.errors import InputError
from ..loopnest import Blocking, Int64Array, block_sizes, ceil_div, split_bytes
from ..schedule import TileOrder, build_table
from ..strict import ArrayDescription, Size, ZeroHandling
from .count_kernel import count_blocks
from .operands import conv_view, input_nonzero_macs, kept_levels, require_zero_handling
from .plan import LayerPlan, dense_share, level_order
from .row_stationary import ConvShape, place

if TYPE_CHECKING:
    from ..design import Design

_BYTE_BITS = 8


class EyerissArray(ArrayDescription):
    """Row-stationary array. Scratchpads and buses in words.

    ``input_spad``, ``weight_spad``, ``psum_spad``: words per PE. ``filter_bus``, ``input_bus``: words per cycle from the
    global buffer into the array. ``run_bits``: width of a zero run in DRAM (pairs packed into 64-bit words), 0 = inputs lie
    uncompressed.
    """

    kind: Literal["eyeriss"]
    rows: Size
    columns: Size
    input_spad: Size
    weight_spad: Size
    psum_spad: Size
    filter_bus: Annotated[int, Field(gt=0, le=64)]
    input_bus: Annotated[int, Field(gt=0, le=64)]
    run_bits: Annotated[int, Field(ge=0, le=16)]


@dataclass(frozen=True, kw_only=True)
class PassShape:
    """What one pass works on: p filters and q channels per PE, t and r PE sets, ``out_rows`` output rows."""

    filters_per_pe: int
    channels_per_pe: int
    filter_sets: int
    channel_sets: int
    out_rows: int
    fold_high: int

    @property
    def filters(self) -> int:
        return self.filters_per_pe * self.filter_sets

    @property
    def channels(self) -> int:
        return self.channels_per_pe * self.channel_sets


def pass_shape(
    array: EyerissArray,
    shape: ConvShape,
    *,
    weight_words: int | None = None,
    sum_words: int | None = None,
    input_words: int | None = None,
) -> PassShape:
    """The largest pass that the scratchpads hold.

    ``weight_words``, ``sum_words``: what the global buffer can
    take of a pass's filters, partial sums and inputs (None = no limit); copies of the PE set are given up first.
    """
    placed = place(shape, rows=array.rows, columns=array.columns)
    taps = _row_taps(array, shape)
    channels = max(1, min(shape.C, array.input_spad // taps))
    filters = max(1, min(shape.K, array.psum_spad, array.weight_spad // (channels * taps)))
    sets = placed.copies_high * placed.copies_wide
    filter_sets = min(sets, ceil_div(shape.K, filters))
    one = PassShape(
        filters_per_pe=filters,
        channels_per_pe=channels,
        filter_sets=filter_sets,
        channel_sets=min(sets // filter_sets, ceil_div(shape.C, channels)),
        out_rows=ceil_div(shape.E, placed.fold_wide),
        fold_high=placed.fold_high,
    )
    if weight_words is not None:
        one = _shrink_filters(one, weight_words // (shape.R * shape.S))
    if sum_words is not None:
        one = _shrink_sums(one, sum_words // shape.F)
    if input_words is not None:
        one = _shrink_inputs(one, shape, input_words)
    # As few filters per PE as the same number of passes needs: the last pass is as full as the others.
    even = ceil_div(ceil_div(shape.K, ceil_div(shape.K, one.filters)), one.filter_sets)
    return replace(one, filters_per_pe=even)


def _shrink_filters(one: PassShape, kernels: int) -> PassShape:
    """Give up channel sets, then filter sets, then filters and channels per PE until ``kernels`` kernels suffice."""
    for field in ("channel_sets", "filter_sets", "filters_per_pe", "channels_per_pe"):
        others = one.filters * one.channels // getattr(one, field)
        one = replace(one, **{field: max(1, min(getattr(one, field), kernels // max(1, others)))})
    return one


def _shrink_sums(one: PassShape, rows: int) -> PassShape:
    """Give up filter sets, then output rows, then filters per PE until ``rows`` rows of partial sums suffice."""
    for field in ("filter_sets", "out_rows", "filters_per_pe"):
        others = one.filters * one.out_rows // getattr(one, field)
        one = replace(one, **{field: max(1, min(getattr(one, field), rows // max(1, others)))})
    return one


def _shrink_inputs(one: PassShape, shape: ConvShape, words: int) -> PassShape:
    """Give up channel sets, then output rows, then channels per PE until a pass reads at most ``words`` inputs."""

    def needed(candidate: PassShape) -> int:
        read = ((candidate.out_rows - 1) * shape.stride + shape.R) * ((shape.F - 1) * shape.stride + shape.S)
        return candidate.channels * min(read, candidate.out_rows * shape.F * shape.R * shape.S)

    for field in ("channel_sets", "out_rows", "channels_per_pe"):
        while needed(one) > words and getattr(one, field) > 1:
            one = replace(one, **{field: getattr(one, field) - 1})
    return one


def compute_cycles(
    shape: ConvShape, one: PassShape, *, filters: Int64Array, channels: Int64Array, images: Int64Array
) -> Int64Array:
    """Cycles in which a pass over so many filters, channels and images multiplies; the fullest PE counts."""
    per_pe = -(-filters // one.filter_sets) * -(-channels // one.channel_sets)
    return np.asarray(images * shape.S * shape.F * one.fold_high * per_pe)


def load_cycles(
    array: EyerissArray, shape: ConvShape, *, filters: Int64Array, channels: Int64Array, rows: Int64Array
) -> Int64Array:
    """Cycles before the first MAC of a pass: its filters on one bus, the first S words of its input rows on another."""
    filter_words = filters * channels * (shape.R * shape.S)
    window_words = ((rows - 1) * shape.stride + shape.R) * shape.S * channels
    return np.asarray(np.maximum(-(-filter_words // array.filter_bus), -(-window_words // array.input_bus)))


@dataclass(frozen=True)
class ChipRun:
    """A layer on the chip: cycles in which PEs multiply, and all cycles of its passes."""

    compute: int
    total: int


def chip_run(array: EyerissArray, shape: ConvShape, one: PassShape, *, images: int) -> ChipRun:
    """Cycles of all passes of a convolution over ``shape.images`` inputs, ``images`` of them per pass, DRAM traffic hidden.

    Raises
    ------
    InputError
        if a pass does not fit the scratchpads.
    """
    taps = _row_taps(array, shape)
    held = {
        "input_spad": one.channels_per_pe * taps,
        "weight_spad": one.filters_per_pe * one.channels_per_pe * taps,
        "psum_spad": one.filters_per_pe,
    }
    for name, words in held.items():
        if words > getattr(array, name):
            raise InputError(f"a pass needs {words} words of {name} in every PE, which holds {getattr(array, name)}")
    grid = np.meshgrid(
        block_sizes(shape.K, one.filters),
        block_sizes(shape.C, one.channels),
        block_sizes(shape.E, one.out_rows),
        block_sizes(shape.images, images),
    )
    filters, channels, rows, together = (axis.reshape(-1) for axis in grid)
    compute = int(compute_cycles(shape, one, filters=filters, channels=channels, images=together).sum())
    loads = load_cycles(array, shape, filters=filters, channels=channels, rows=rows)
    return ChipRun(compute, compute + int(loads.sum()))


def _row_taps(array: EyerissArray, shape: ConvShape) -> int:
    """Taps of a kernel row a PE takes at a time: a row longer than the input scratchpad is folded."""
    return ceil_div(shape.S, ceil_div(shape.S, array.input_spad))


def run_length_bits(density: float, *, value_bits: int, run_bits: int) -> int:
    """Bits per input element in DRAM, rounded up; never more than uncompressed.

    Pairs of a run and a value are packed whole into 64-bit words. A run counts up to 2^b - 1 zeros, so that a pair covers
    (1 - (1-d)^(2^b)) / d elements on average if zeros are independent.
    """
    if run_bits == 0 or density >= 1:
        return value_bits
    covered = 1 << run_bits if density == 0 else (1 - (1 - density) ** (1 << run_bits)) / density
    pair_bits = 64 / (64 // (run_bits + value_bits))
    return max(1, min(value_bits, int(-(-pair_bits // covered))))


# --- plans -----------------------------------------------------------------------------------------------------------


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on Eyeriss, level by level; a tile is a pass."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, EyerissArray)
    assert gemm is not None
    gates = (ZeroHandling.NONE, ZeroHandling.GATE)
    require_zero_handling(design, weights=gates, inputs=gates)
    shape = conv_shape(trace)
    encoded = max(trace.bytes(design.weight_format, level) for level in range(trace.levels))
    words = design.buffers.weights.bytes // 2 * trace.weights // max(1, encoded)
    sums = design.buffers.outputs.bytes * _BYTE_BITS // array.accumulator_bits
    bits = run_length_bits(trace.activations.density, value_bits=trace.activation_bits, run_bits=array.run_bits)
    inputs = design.buffers.inputs.bytes // 2 * _BYTE_BITS // bits
    one = pass_shape(array, shape, weight_words=words, sum_words=sums, input_words=inputs)
    blocking = Blocking(n=one.filters, m=one.out_rows * shape.F, k=min(gemm.k, one.channels * shape.R * shape.S))
    nonzeros = count_blocks(
        kept_levels(trace), groups=gemm.b, levels=trace.levels, block_n=blocking.n, block_k=blocking.k
    )
    dense = dense_share(gemm, n=blocking.n, depth=block_sizes(gemm.k, blocking.k))
    for level in levels:
        order = level_order(
            trace, blocking, dense if design.weight_format == "dense" else nonzeros[level],
            level=level, design=design, sum_bits=array.accumulator_bits, input_bits=bits,
        )  # fmt: skip
        yield _plan(order, array, one, trace=trace, level=level, nonzeros=nonzeros[level])


def conv_shape(trace: LayerTrace) -> ConvShape:
    """One group of the layer as a convolution; other products are 1x1 kernels over m x 1 positions."""
    view = conv_view(trace.layer)
    return ConvShape(
        C=view.group_channels, K=view.group_filters, E=view.out_height, F=view.out_width,
        R=view.taps_high, S=view.taps_wide, stride=view.stride, images=1,
    )  # fmt: skip


def _plan(
    order: TileOrder, array: EyerissArray, one: PassShape, *, trace: LayerTrace, level: int, nonzeros: Int64Array
) -> LayerPlan:
    shape = conv_shape(trace)
    filters, depth, columns = _sizes(order)
    channels, rows = depth // (shape.R * shape.S), -(-columns // shape.F)
    steps = compute_cycles(shape, one, filters=filters, channels=channels, images=np.ones_like(filters))
    steps = steps + load_cycles(array, shape, filters=filters, channels=channels, rows=rows)
    actions = _actions(order, array, trace, nonzeros=nonzeros)
    tiles = build_table(order, steps=steps, actions=actions, output_bits=trace.activation_bits)
    return LayerPlan.of(order, tiles, level=level, multipliers=array.rows * array.columns)


def _sizes(order: TileOrder) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Filters, reduction indices and output positions of every tile."""
    nest = order.nest
    depth = block_sizes(nest.gemm.k, nest.blocking.k)[order.k_tile]
    return nest.rows_used()[order.row], depth, nest.columns_used()[order.column]


def _actions(
    order: TileOrder, array: EyerissArray, trace: LayerTrace, *, nonzeros: Int64Array
) -> dict[str, Int64Array]:
    """Action counts per pass. Array words are deliveries to PEs: each filter row to the PEs of its output rows, each input
    row to the PEs of its kernel rows, sums along a column of R PEs. A zero input suppresses the accesses behind it."""
    shape = conv_shape(trace)
    filters, depth, columns = _sizes(order)
    channels, rows = depth // (shape.R * shape.S), -(-columns // shape.F)
    wide = (shape.F - 1) * shape.stride + shape.S
    input_words = channels * ((rows - 1) * shape.stride + shape.R) * wide
    macs, sums = filters * depth * columns, filters * columns
    alive = split_bytes(input_nonzero_macs(trace, None), macs)
    spilled, stored = (ceil_div(bits, _BYTE_BITS) for bits in (array.accumulator_bits, array.activation_bits))
    return {
        "mac_weight_nonzero": nonzeros[order.group, order.row, order.k_tile] * columns,
        "mac_issued": macs,
        "weight_buffer_read_bytes": -(-filters * depth * array.weight_bits // _BYTE_BITS),
        "input_buffer_read_bytes": -(-input_words * array.activation_bits // _BYTE_BITS),
        "output_buffer_read_bytes": np.where(order.k_tile > 0, sums * spilled, 0),
        "output_buffer_write_bytes": sums * np.where(order.closes, stored, spilled),
        "array_word": filters * depth * rows + channels * shape.R * rows * wide + sums * shape.R,
        "input_spad_read": macs,
        "weight_spad_read": alive,
        "weight_spad_write": filters * depth * rows,
        "psum_spad_read": alive,
        "psum_spad_write": alive,
    }
