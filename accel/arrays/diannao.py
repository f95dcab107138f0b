"""DianNao and DaDianNao: dense multiply-add trees.

After Chen et al., ASPLOS 2014 (DianNao: one tile) and MICRO 2014 (DaDianNao: many tiles that see the same inputs). A tile
multiplies ``inputs`` input channels with the weights of ``outputs`` filters every cycle and adds the products in trees;
tiles hold different filters. A layer takes

    windows * taps * ceil(channels / inputs) * ceil(filters / (outputs * tiles))

cycles per group, as isakedo/DNNsim counts for DaDianNao. A depthwise layer takes ``min(inputs, outputs)`` groups at a time,
one useful lane per filter. Zeros change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from ...traces.trace import LayerTrace
from ..loopnest import Blocking, Int64Array, ceil_div
from ..schedule import TileOrder, build_table
from ..strict import ArrayDescription, Size, ZeroHandling
from ..tiles import ArrayTiming
from .bricks import (
    Bricks,
    WindowNest,
    brick_layout,
    dense_nest,
    least_traffic,
    weight_reads,
    window_options,
)
from .operands import ConvView, conv_view, require_zero_handling
from .plan import LayerPlan, level_order

if TYPE_CHECKING:
    from ..design import Design


class DianNaoArray(ArrayDescription):
    """``tiles`` functional units of ``outputs`` (Tn) trees with ``inputs`` (Ti) multipliers.

    ``pipeline_stages``: multiply, add, activate.
    """

    kind: Literal["diannao"]
    tiles: Size = 1
    outputs: Annotated[int, Field(gt=0, le=1024, description="Tn: filters of a tile")]
    inputs: Annotated[int, Field(gt=0, le=1024, description="Ti: input channels of a cycle")]
    pipeline_stages: Annotated[int, Field(gt=0, le=64)] = 3

    @property
    def filters(self) -> int:
        """Filters at a time."""
        return self.tiles * self.outputs

    @property
    def multipliers(self) -> int:
        return self.filters * self.inputs


def dense_cycles(view: ConvView, array: DianNaoArray) -> int:
    """Compute cycles of a layer."""
    bricks = brick_layout(view, lanes=array.inputs, filters=array.outputs)
    return view.out_height * view.out_width * bricks.count * bricks.sets * ceil_div(view.group_filters, array.filters)


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on multiply-add trees, level by level."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, DianNaoArray)
    assert gemm is not None
    free = (ZeroHandling.NONE, ZeroHandling.GATE)
    require_zero_handling(design, weights=free, inputs=free)
    bricks = brick_layout(conv_view(trace.layer), lanes=array.inputs, filters=array.outputs)
    bricks, windows = _tiles(trace, bricks, design)
    nonzeros = bricks.nonzeros(trace, array.filters)
    dense = bricks.dense(gemm, array.filters)
    blocking = Blocking(n=array.filters, m=windows, k=int(bricks.depth().max()))
    for level in levels:
        order = level_order(
            trace, blocking, dense if design.weight_format == "dense" else nonzeros[level],
            level=level, design=design, sum_bits=array.accumulator_bits, nest_type=WindowNest,
        )  # fmt: skip
        steps = order.nest.columns_used()[order.column] * bricks.bricks()[order.k_tile]
        steps = steps * bricks.closes_set()[order.group]
        actions = _actions(order, design, bricks=bricks, nonzeros=nonzeros[level], steps=steps)
        tiles = build_table(order, steps=steps, actions=actions, output_bits=trace.activation_bits)
        timing = ArrayTiming(latency=array.pipeline_stages - 1)
        yield LayerPlan.of(order, tiles, level=level, multipliers=array.multipliers, timing=timing)


def deepest_tiles(trace: LayerTrace, bricks: Bricks, *, filters: int, windows: int, design: Design) -> Bricks:
    """The bricks in k tiles as deep as buffers allow that hold a tile of ``filters`` x ``windows`` twice."""
    gemm, buffers = trace.layer.gemm, design.buffers
    assert gemm is not None
    # Encoded weights may be larger than plain ones, and bring the biases.
    encoded = max(trace.bytes(design.weight_format, level) for level in range(trace.levels))
    weights = buffers.weights.bytes // 2 * trace.weights // max(1, encoded)
    inputs = buffers.inputs.bytes // 2 * 8 // trace.activation_bits
    depth = min(weights // min(filters, gemm.n), inputs // min(windows, gemm.m))
    return bricks.in_tiles(depth // min(bricks.lanes, bricks.channels))


def _tiles(trace: LayerTrace, bricks: Bricks, design: Design) -> tuple[Bricks, int]:
    """Bricks per k tile and windows of a tile: those that cost the least DRAM traffic at level 0."""
    array, gemm, buffers = design.array, trace.layer.gemm, design.buffers
    assert isinstance(array, DianNaoArray)
    assert gemm is not None
    inputs = buffers.inputs.bytes // 2 * 8 // trace.activation_bits
    sums = buffers.outputs.bytes * 8 // (array.accumulator_bits * min(array.filters, gemm.n))
    options = {}
    for windows in window_options(gemm.m, min(sums, inputs // min(bricks.lanes, bricks.channels))):
        tiled = deepest_tiles(trace, bricks, filters=array.filters, windows=windows, design=design)
        blocking = Blocking(n=array.filters, m=windows, k=int(tiled.depth().max()))
        stored = trace.bytes(design.weight_format, 0)
        options[windows] = (tiled, dense_nest(trace, blocking, weight_bytes=stored))
    capacity = design.capacity()
    nests = [nest for _, nest in options.values()]
    best = least_traffic(nests, capacity, output_bits=array.accumulator_bits).blocking.m
    return options[best][0], best


def _actions(
    order: TileOrder, design: Design, *, bricks: Bricks, nonzeros: Int64Array, steps: Int64Array
) -> dict[str, Int64Array]:
    """Action counts per tile. Weights are read anew for every window; partial sums of a k tile wait in the output buffer."""
    array, nest = design.array, order.nest
    assert isinstance(array, DianNaoArray)
    rows, columns = nest.rows_used()[order.row], nest.columns_used()[order.column]
    depth = bricks.depth()[order.k_tile]
    outputs, macs = rows * columns, rows * columns * depth
    spill_bytes = ceil_div(array.accumulator_bits, 8)
    finished_bytes = ceil_div(array.activation_bits, 8)
    busy_filters = -(-rows // array.outputs) * array.outputs  # a tile reads the lines of all its filters
    sums = outputs * -(-depth // array.inputs)  # an adder tree of ``inputs`` products adds to a partial sum
    return {
        "mac_weight_nonzero": nonzeros[order.group, order.row, order.k_tile] * columns,
        "mac_issued": macs,
        weight_reads(design): -(-steps * busy_filters * array.inputs * array.weight_bits // 8),
        "input_buffer_read_bytes": -(-steps * array.inputs * array.activation_bits // 8),
        "output_buffer_write_bytes": outputs * np.where(order.closes, finished_bytes, spill_bytes),
        "output_buffer_read_bytes": outputs * np.where(order.k_tile > 0, spill_bytes, 0),
        "register_bytes": -(
            -2 * (macs * (array.weight_bits + array.activation_bits) + sums * array.accumulator_bits) // 8
        ),
    }
