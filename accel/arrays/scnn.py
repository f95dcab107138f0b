"""SCNN: a grid of PEs that multiply every non-zero weight with every non-zero input of a channel (Cartesian product).

After Parashar et al., ISCA 2017. The input map is cut into one tile per PE; output channels are taken in groups as large as
a PE's accumulators allow. Per group and input channel every PE walks through its non-zero inputs I at a time and, for each
such vector, through the channel's non-zero weights F at a time; I x F products a cycle go through a crossbar to the
accumulator banks, and a bank hit n times takes n cycles. The PEs wait for the slowest one after every channel (the weights
are broadcast); after the last channel of a group neighbours exchange the partial sums of their halos.

Cycles and counts are those of isakedo/DNNsim (July 2020), with one difference: for strides that do not divide the padding
that simulator pairs inputs with taps that do not meet at an output (its products then exceed the layer's). ``convention``
says which pairing: ``exact`` conserves work; ``dnnsim`` reproduces that simulator.

One-position products (fully connected layers) fold 256 channels into one 16 x 16 map with a 16 x 16 kernel; other products
are 1 x 1 convolutions over a near-square map. Zero handling: skip weights, skip inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ...traces.trace import LayerTrace
from ...workloads.errors import InputError
from ...workloads.layers import CONV_OPS
from ..loopnest import Blocking, Int64Array, ceil_div
from ..schedule import TileOrder, build_table
from ..strict import ArrayDescription, Size, ZeroHandling
from .operands import ConvView, conv_view, input_pattern, kept_levels, require_zero_handling
from .plan import LayerPlan, level_order
from .scnn_kernel import COUNTS, channel_counts

if TYPE_CHECKING:
    from ..design import Design

Convention = Literal["exact", "dnnsim"]
#: Side of the map that a fully connected layer's channels fold into.
FOLD = 16
#: Products of one PE and cycle: the kernel counts the hits of a bank in seven bits.
MOST_PRODUCTS = 127


class SCNNArray(ArrayDescription):
    """``pes_x`` x ``pes_y`` PEs of ``input_lanes`` x ``weight_lanes`` multipliers.

    ``accumulators``: partial sums a PE holds for one group of output channels. ``banks``: accumulator banks per PE.
    ``index_bits``: coordinate bits stored with every non-zero.
    """

    kind: Literal["scnn"]
    pes_x: Size
    pes_y: Size
    input_lanes: Annotated[int, Field(gt=0, le=32, description="I: inputs per PE and cycle")]
    weight_lanes: Annotated[int, Field(gt=0, le=32, description="F: weights per PE and cycle")]
    accumulators: Annotated[int, Field(gt=0, le=1 << 20)]
    banks: Literal[4, 8, 16, 32, 64, 128]
    index_bits: Annotated[int, Field(ge=0, le=16)]

    @model_validator(mode="after")
    def _few_products(self) -> SCNNArray:
        if self.input_lanes * self.weight_lanes > MOST_PRODUCTS:
            raise ValueError(f"input_lanes * weight_lanes must not exceed {MOST_PRODUCTS}: one bank counts that far")
        return self

    @property
    def pes(self) -> int:
        return self.pes_x * self.pes_y

    @property
    def multipliers(self) -> int:
        return self.pes * self.input_lanes * self.weight_lanes


@dataclass(frozen=True, eq=False)
class SCNNWork:
    """A layer on the PE grid.

    ``counts``: int64 (levels, blocks, channels of a group, COUNTS); blocks run through the output channels, group by group.
    ``blocks``: int64 (blocks, 3): first and last + 1 output channel, first input channel. ``halo_cycles`` and
    ``halo_sums`` (partial sums sent by an inner PE): int64 (blocks,).
    """

    counts: Int64Array
    blocks: Int64Array
    halo_cycles: Int64Array
    halo_sums: Int64Array

    def count(self, name: str) -> Int64Array:
        """One count, int64 (levels, blocks, channels)."""
        return np.asarray(self.counts[..., COUNTS.index(name)])

    def cycles(self) -> Int64Array:
        """Cycles of the layer at every level, halos included."""
        return np.asarray(self.count("cycles").sum(axis=(1, 2)) + self.halo_cycles.sum())


def scnn_work(
    view: ConvView,
    pattern: NDArray[np.bool_],
    keep: NDArray[np.uint8],
    array: SCNNArray,
    *,
    levels: int = 1,
    convention: Convention = "exact",
    most_outputs: int | None = None,
) -> SCNNWork:
    """Cycles and counts of a layer on the PE grid, for every level.

    Parameters
    ----------
    pattern : bool (channels, height, width), non-zeros of the input.
    keep : uint8 (filters, channels per group * taps); level l keeps what is > l.
    most_outputs : limit to the output channels of a group besides the accumulators.

    Raises
    ------
    InputError
        if a PE's accumulators cannot hold its share of one output map.
    """
    padded, tile = _pe_tiles(view, pattern, array)
    outputs = outputs_per_group(view, array)
    blocks = _blocks(view, min(outputs, most_outputs or outputs))
    by_channel = keep.reshape(view.filters, view.group_channels, view.taps).transpose(1, 2, 0)
    counts = channel_counts(
        padded, by_channel, blocks, levels=levels, taps=_taps(view, convention), stride=view.stride, tile=tile,
        pes=(array.pes_x, array.pes_y), multipliers=(array.input_lanes, array.weight_lanes),
        output=(view.out_height, view.out_width), banks=array.banks,
    )  # fmt: skip
    deepest, total = _halo(view, tile, convention)
    held = blocks[:, 1] - blocks[:, 0]
    return SCNNWork(counts, blocks, halo_cycles=deepest * held, halo_sums=np.full_like(held, total))


def _pe_tiles(
    view: ConvView, pattern: NDArray[np.bool_], array: SCNNArray
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The padded input pattern, filled up to whole tiles, and the tile of a PE."""
    pad = view.padding
    tile = (ceil_div(view.height + 2 * pad, array.pes_x), ceil_div(view.width + 2 * pad, array.pes_y))
    padded = np.zeros((view.channels, tile[0] * array.pes_x, tile[1] * array.pes_y), dtype=np.uint8)
    padded[:, pad : pad + view.height, pad : pad + view.width] = pattern
    return padded, tile


def outputs_per_group(view: ConvView, array: SCNNArray) -> int:
    """Output channels that share a pass over the inputs: as many as fit a PE's accumulators, one for depthwise layers."""
    share = ceil_div(view.out_height, array.pes_x) * ceil_div(view.out_width, array.pes_y)
    if share > array.accumulators:
        raise InputError(
            f"an output map of {view.out_height} x {view.out_width} needs {share} accumulators in each of the "
            f"{array.pes_x} x {array.pes_y} PEs, which have {array.accumulators}; enlarge array.accumulators"
        )
    return 1 if view.depthwise else array.accumulators // share


def fold(
    view: ConvView, pattern: NDArray[np.bool_], keep: NDArray[np.uint8]
) -> tuple[ConvView, NDArray[np.bool_], NDArray[np.uint8]]:
    """View, input pattern and keep map of a product that is no convolution, as the PE grid runs it (module description)."""
    positions, groups = view.height, view.groups
    if positions > 1:
        high = math.isqrt(positions - 1) + 1
        wide = ceil_div(positions, high)
        square = np.zeros((view.channels, high * wide), dtype=np.bool_)
        square[:, :positions] = pattern.reshape(view.channels, positions)
        return replace(view, height=high, width=wide), square.reshape(-1, high, wide), keep
    area = FOLD * FOLD
    maps = ceil_div(view.group_channels, area)
    spare = maps * area - view.group_channels
    folded = replace(view, channels=maps * groups, height=FOLD, width=FOLD, taps_high=FOLD, taps_wide=FOLD)
    inputs = np.pad(pattern.reshape(groups, view.group_channels), ((0, 0), (0, spare)))
    return folded, inputs.reshape(-1, FOLD, FOLD), np.pad(keep, ((0, 0), (0, spare)))


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on the PE grid, level by level. A tile is one input channel of one group of outputs."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, SCNNArray)
    assert gemm is not None
    require_zero_handling(design, weights=(ZeroHandling.SKIP,), inputs=(ZeroHandling.SKIP,))
    view, keep = conv_view(trace.layer), kept_levels(trace)
    pattern = input_pattern(trace)
    if trace.layer.op not in CONV_OPS:
        view, pattern, keep = fold(view, pattern, keep)
    outputs = min(gemm.n, outputs_per_group(view, array), _held_outputs(trace, view, design))
    work = scnn_work(view, pattern, keep, array, levels=trace.levels, most_outputs=outputs)
    for level in levels:
        yield _plan(work, outputs, trace=trace, level=level, design=design)


def _plan(work: SCNNWork, outputs: int, *, trace: LayerTrace, level: int, design: Design) -> LayerPlan:
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, SCNNArray)
    assert gemm is not None
    grid = (gemm.b, ceil_div(gemm.n, outputs), work.counts.shape[2])
    tiles = {name: work.count(name)[level].reshape(grid) for name in COUNTS}
    steps = tiles["cycles"].copy()
    steps[:, :, -1] += work.halo_cycles.reshape(grid[:2])
    # Every input is fetched once per pass, whatever the kernel: one operand per position, hence k = 1.
    blocking = Blocking(n=outputs, m=gemm.m, k=1)
    order = level_order(trace, blocking, tiles["weights"], level=level, design=design, sum_bits=array.activation_bits)
    where = (order.group, order.row, order.k_tile)
    actions = _actions(order, {name: count[where] for name, count in tiles.items()}, work, array)
    table = build_table(order, steps=steps[where], actions=actions, output_bits=trace.activation_bits)
    return LayerPlan.of(order, table, level=level, multipliers=array.multipliers)


def _actions(order: TileOrder, count: dict[str, Int64Array], work: SCNNWork, array: SCNNArray) -> dict[str, Int64Array]:
    """Action counts per tile. Weights are broadcast from their buffer into the PEs' FIFOs, once per vector of inputs."""
    nest = order.nest
    rows, columns = nest.rows_used()[order.row], nest.columns_used()[order.column]
    weight_bits, input_bits = array.weight_bits + array.index_bits, array.activation_bits + array.index_bits
    fifo_bytes = _bytes(count["weight_fetches"] * array.weight_lanes, weight_bits)
    halo = work.halo_sums[0] * array.pes * rows * order.closes
    sums_bytes = _bytes(count["products"] + halo, array.accumulator_bits)
    return {
        "mac_weight_nonzero": count["weights"] * columns,
        "mac_issued": count["products"],
        "weight_buffer_read_bytes": _bytes(count["broadcast_words"], weight_bits),
        "weight_fifos_write_bytes": fifo_bytes,
        "weight_fifos_read_bytes": fifo_bytes,
        "input_rams_read_bytes": _bytes(count["input_fetches"] * array.input_lanes, input_bits),
        "accumulators_read_bytes": sums_bytes,
        "accumulators_write_bytes": sums_bytes,
        "output_buffer_write_bytes": _bytes(rows * columns * order.closes, array.activation_bits),
        "register_bytes": _bytes(count["products"], 2 * (array.weight_bits + array.activation_bits)),
    }


def _bytes(words: Int64Array, bits: int) -> Int64Array:
    return np.asarray(-(-words * bits // 8))


def _blocks(view: ConvView, outputs: int) -> Int64Array:
    """Groups of output channels: first, last + 1, first input channel."""
    first = np.arange(0, view.group_filters, outputs)
    last = np.minimum(first + outputs, view.group_filters)
    group = np.arange(view.groups)[:, None]
    columns = (
        first + group * view.group_filters,
        last + group * view.group_filters,
        first * 0 + group * view.group_channels,
    )
    return np.stack([column.reshape(-1) for column in columns], axis=1).astype(np.int64)


def _taps(view: ConvView, convention: Convention) -> Int64Array:
    """Of every tap (r, s): its phase, its quotients by the stride and the remainders of input - tap; int64 (taps, 5).

    Inputs x and taps r of one phase meet at output (x - r) / stride.
    """
    stride, shift = view.stride, view.padding if convention == "dnnsim" else 0
    r, s = (part.reshape(-1) * view.dilation for part in np.indices((view.taps_high, view.taps_wide), dtype=np.int64))
    phase_x, phase_y = (r + shift) % stride, (s + shift) % stride
    return np.stack(
        [phase_x * stride + phase_y, r // stride, s // stride, phase_x - r % stride, phase_y - s % stride], axis=1
    )


def _halo(view: ConvView, tile: tuple[int, int], convention: Convention) -> tuple[int, int]:
    """Partial sums of the largest of a PE's eight halo regions, and of all; per output channel."""
    sides = []
    axes = ((view.taps_high, tile[0], view.out_height), (view.taps_wide, tile[1], view.out_width))
    for taps, inputs, outputs in axes:
        reach = (view.dilation * (taps - 1) - view.padding, inputs, view.padding)
        # DNNsim lets regions extend beyond the output map; it matters where a kernel is as large as the map.
        sides.append(reach if convention == "dnnsim" else tuple(min(side, outputs) for side in reach))
    areas = [a * b for i, a in enumerate(sides[0]) for j, b in enumerate(sides[1]) if (i, j) != (1, 1)]
    return max(0, *areas), sum(areas)


def _held_outputs(trace: LayerTrace, view: ConvView, design: Design) -> int:
    """Output channels whose weights for one input channel fit the weight buffer twice, at any level."""
    capacity, held = design.buffers.weights.bytes, view.filters
    for level in range(trace.levels):
        stored, nonzeros = trace.bytes(design.weight_format, level), int(trace.nonzeros[level])
        if 2 * stored > capacity:
            held = min(held, capacity * nonzeros // (2 * view.taps * stored))
    return max(1, held)
