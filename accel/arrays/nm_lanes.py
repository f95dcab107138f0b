"""N:M sparse array with lanes: skips zero weights inside groups of M input channels.

The array is the Amaranth RTL of DESIGN.md ("Time"): R x C PEs, L lanes each, operands broadcast or systolic, two
operand banks filled over a bus. A k tile is a run of ``groups_per_tile`` groups; a group of M consecutive input
channels (at one kernel tap) issues S steps. S is one register per layer in the RTL (``step_control: layer``); with
``step_control: group`` each group carries its own count, ceil(non-zeros of its fullest row / L), in a header that is
loaded with it.

Per tile: load beats = sum over groups of (S * weight beats + activation beats) + header beats, issue steps = sum of S.
A group with S = 0 (possible only under group control) is neither loaded nor issued.
The last group of a channel run shorter than M is padded with zeros; that waste shows in the utilisation.
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
from .count_kernel import group_steps
from .operands import kept_levels, require_zero_handling
from .plan import LayerPlan, dense_share, level_order

if TYPE_CHECKING:
    from ..design import Design


class NMLanesArray(ArrayDescription):
    """N:M sparse array: rows x columns PEs of ``lanes`` multipliers, each fed from M inputs by an index.

    ``step_control``: who decides how many steps a group of M takes: one register for the whole layer (as the RTL), or a
    count sent with each group (an extension: a group costs what its fullest row needs). ``drain_width``: outputs per cycle.
    """

    kind: Literal["nm_lanes"]
    rows: Size
    columns: Size
    lanes: Annotated[int, Field(gt=0, le=256)]
    group: Annotated[int, Field(gt=0, le=256, description="M: consecutive inputs that share the lanes")]
    groups_per_tile: Annotated[int, Field(gt=0, le=65536)]
    bus_bits: Annotated[int, Field(gt=0, le=65536)]
    operand_feed: Literal["broadcast", "systolic"]
    step_interval: Annotated[int, Field(gt=0, le=64)]
    drain_width: Annotated[int, Field(gt=0, le=65536)] = 1
    step_control: Literal["layer", "group"]

    @model_validator(mode="after")
    def _lanes_divide(self) -> NMLanesArray:
        if self.lanes > self.group:
            raise ValueError(f"lanes = {self.lanes} exceeds group = {self.group}: the extra lanes could never be used")
        return self


@dataclass(frozen=True)
class LaneGeometry:
    """Widths that follow from the array's parameters, as in the RTL."""

    weight_line_bits: int
    activation_line_bits: int
    weight_beats: int
    activation_beats: int
    latency: int


def lane_geometry(array: NMLanesArray) -> LaneGeometry:
    """Line widths (bits), bus beats per line and pipeline latency (cycles) of the RTL array.

    weight line = R*L*(weight bits + max(1, ceil(log2 M))); activation line = C*M*activation bits;
    latency = 2, plus R + C - 2 for systolic operand feed.
    """
    index_bits = max(1, (array.group - 1).bit_length())
    weight_line = array.rows * array.lanes * (array.weight_bits + index_bits)
    activation_line = array.columns * array.group * array.activation_bits
    skew = array.rows + array.columns - 2 if array.operand_feed == "systolic" else 0
    return LaneGeometry(
        weight_line_bits=weight_line,
        activation_line_bits=activation_line,
        weight_beats=ceil_div(weight_line, array.bus_bits),
        activation_beats=ceil_div(activation_line, array.bus_bits),
        latency=2 + skew,
    )


@dataclass(frozen=True, eq=False)
class _TileWork:
    """Per (group, row block, k tile): issue steps, groups loaded, header beats, non-zero weights."""

    steps: Int64Array
    groups: Int64Array
    header_beats: int
    nonzeros: Int64Array


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on the N:M array, level by level."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, NMLanesArray)
    assert gemm is not None
    require_zero_handling(design, weights=(ZeroHandling.SKIP,), inputs=(ZeroHandling.NONE, ZeroHandling.GATE))
    steps, nonzeros = _steps(trace, array)
    groups = steps.shape[-1]
    blocking = Blocking(n=array.rows, m=array.columns, k=ceil_div(gemm.k * array.groups_per_tile, groups))
    for level in levels:
        work = _gather(steps[level], nonzeros[level], array)
        share = _places(trace, array) if design.weight_format == "dense" else work.nonzeros
        order = level_order(trace, blocking, share, level=level, design=design, sum_bits=array.activation_bits)
        yield _plan(order, work, array, level=level)


def _plan(order: TileOrder, work: _TileWork, array: NMLanesArray, *, level: int) -> LayerPlan:
    geometry = lane_geometry(array)
    where = (order.group, order.row, order.k_tile)
    beats = work.steps * geometry.weight_beats + work.groups * geometry.activation_beats + work.header_beats
    tiles = build_table(
        order,
        load_beats=beats[where],
        steps=work.steps[where],
        drain_words=np.full_like(order.row, ceil_div(array.rows * array.columns, array.drain_width)),
        actions=_actions(order, work, array),
        output_bits=array.activation_bits,
    )
    timing = ArrayTiming(step_interval=array.step_interval, latency=geometry.latency)
    multipliers = array.rows * array.columns * array.lanes
    return LayerPlan.of(order, tiles, level=level, multipliers=multipliers, timing=timing)


def _steps(trace: LayerTrace, array: NMLanesArray) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Steps and non-zeros per (level, group b, row block, group of the reduction)."""
    gemm = trace.layer.gemm
    assert gemm is not None
    steps, nonzeros = group_steps(
        kept_levels(trace),
        groups=gemm.b,
        levels=trace.levels,
        block_n=array.rows,
        taps=_taps(trace),
        group=array.group,
        lanes=array.lanes,
    )
    if array.step_control == "layer":
        fullest = steps.max(axis=(1, 2, 3), initial=1)
        steps = np.broadcast_to(fullest[:, None, None, None], steps.shape)
    return steps, nonzeros


def _places(trace: LayerTrace, array: NMLanesArray) -> Int64Array:
    """Weights per (group b, row block, k tile), zeros included: how dense storage spreads over the tiles."""
    gemm, taps = trace.layer.gemm, _taps(trace)
    assert gemm is not None
    sizes = np.tile(block_sizes(gemm.k // taps, array.group), taps)
    by_tile = np.add.reduceat(sizes, np.arange(0, sizes.size, array.groups_per_tile))
    return dense_share(gemm, n=array.rows, depth=by_tile)


def _taps(trace: LayerTrace) -> int:
    """Kernel positions; groups never span two of them."""
    return trace.layer.R * trace.layer.S if trace.layer.op in CONV_OPS else 1


def _gather(steps: NDArray[np.int32], nonzeros: NDArray[np.int32], array: NMLanesArray) -> _TileWork:
    """Sum groups into k tiles of ``groups_per_tile``."""
    starts = np.arange(0, steps.shape[-1], array.groups_per_tile)
    by_group = array.step_control == "group"
    loaded = (steps > 0) if by_group else np.ones_like(steps, dtype=bool)
    count_bits = ceil_div(array.group, array.lanes).bit_length()
    header_bits = count_bits * min(array.groups_per_tile, steps.shape[-1])
    return _TileWork(
        steps=np.add.reduceat(steps, starts, axis=-1, dtype=np.int64),
        groups=np.add.reduceat(loaded, starts, axis=-1, dtype=np.int64),
        header_beats=ceil_div(header_bits, array.bus_bits) if by_group else 0,
        nonzeros=np.add.reduceat(nonzeros, starts, axis=-1, dtype=np.int64),
    )


def _actions(order: TileOrder, work: _TileWork, array: NMLanesArray) -> dict[str, Int64Array]:
    """Action counts per tile. A bank line is written once per load and read once per step."""
    geometry = lane_geometry(array)
    where = (order.group, order.row, order.k_tile)
    nest = order.nest
    rows, columns = nest.rows_used()[order.row], nest.columns_used()[order.column]
    steps, groups = work.steps[where], work.groups[where]
    weight_bytes = -(-(steps * geometry.weight_line_bits) // 8)
    activation_bytes = -(-(groups * geometry.activation_line_bits) // 8)
    step_read_bits = geometry.weight_line_bits + geometry.activation_line_bits
    finished_bytes = rows * columns * ceil_div(array.activation_bits, 8)
    # Operands of every product, and one addition into a partial sum per step and PE in use (each written and read).
    products, sums = work.nonzeros[where] * columns, steps * rows * columns
    register_bits = 2 * (products * (array.weight_bits + array.activation_bits) + sums * array.accumulator_bits)
    return {
        "mac_weight_nonzero": products,
        "mac_issued": products,
        "weight_buffer_read_bytes": weight_bytes,
        "input_buffer_read_bytes": activation_bytes,
        "banks_write_bytes": weight_bytes + activation_bytes,
        "banks_read_bytes": -(-(steps * step_read_bits) // 8),
        "output_buffer_write_bytes": np.where(order.closes, finished_bytes, 0),
        "register_bytes": -(-register_bits // 8),
    }
