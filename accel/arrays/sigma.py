"""SIGMA-like array: the non-zero weights of whole filters packed into a row of multipliers, inputs streamed past them.

SIGMA (Qin et al., HPCA 2020) as STONNE models it; `sigma_run` simulates one product result by result and is exact against
STONNE, this model uses the same mapping in closed form per iteration (`sigma_kernel.tile_costs`):

    cycles = fixed + positions * rate,  rate = max over ports of (distinct reduction indices + partial sums),
                                               or over output lines of the clusters that end there

where ``fixed`` is configuration, load of the stationary weights, way through the trees and drain.

A tile is a block of filters x output positions x reduction indices; its iterations run one after the other. Filters of one
or two weights take three multipliers (the adder tree's smallest cluster), filters without weights in a tile are not mapped.
From the second k tile on, every cluster spends one multiplier on the partial sum, which is streamed back in.
Zero weights are skipped; zero inputs are streamed and at best gated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ...traces.trace import LayerTrace
from ...workloads.errors import InputError
from ..loopnest import Blocking, Int64Array, ceil_div
from ..schedule import TileOrder, build_table
from ..strict import ArrayDescription, ZeroHandling
from .operands import kept_levels, require_zero_handling
from .plan import LayerPlan, level_order
from .sigma_kernel import COSTS, tile_costs
from .sigma_run import check_array

if TYPE_CHECKING:
    from ..design import Design

_Lanes = Annotated[int, Field(gt=0, le=1 << 16)]
#: Iterations a tile should have: more waste less at its last, partly filled one, fewer overlap better with DRAM.
_ITERATIONS_PER_TILE = 8
#: Positions a tile should stream at least: they pay for loading the stationary weights.
_POSITIONS_PER_TILE = 128


class SigmaArray(ArrayDescription):
    """SIGMA-like array. ``distribution_width``: elements that enter per cycle, each port serving an equal share of the
    multipliers; ``reduction_width``: results that leave per cycle. All three are powers of two."""

    kind: Literal["sigma"]
    multipliers: _Lanes
    distribution_width: _Lanes
    reduction_width: _Lanes

    @model_validator(mode="after")
    def _trees_fit(self) -> SigmaArray:
        try:
            check_array(multipliers=self.multipliers, ports=self.distribution_width, lines=self.reduction_width)
        except InputError as error:
            raise ValueError(str(error)) from None
        return self


@dataclass(frozen=True, eq=False)
class _Costs:
    """Costs per (group, row block, k tile) by name (`sigma_kernel.COSTS`), int64."""

    table: NDArray[np.int64]

    def __getitem__(self, name: str) -> Int64Array:
        return self.table[..., COSTS.index(name)]


def plans(trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]:
    """Tile tables of one layer on the SIGMA-like array, level by level."""
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, SigmaArray)
    assert gemm is not None
    require_zero_handling(design, weights=(ZeroHandling.SKIP,), inputs=(ZeroHandling.NONE, ZeroHandling.GATE))
    keep = kept_levels(trace).reshape(gemm.b, gemm.n, gemm.k)
    for level in levels:
        blocking = tile_blocking(trace, design, keep, level=level)
        costs = _Costs(
            tile_costs(
                keep,
                level=level,
                block_n=blocking.n,
                block_k=blocking.k,
                multipliers=array.multipliers,
                ports=array.distribution_width,
                lines=array.reduction_width,
            )
        )
        order = level_order(
            trace, blocking, costs["nonzeros"], level=level, design=design, sum_bits=array.accumulator_bits
        )
        yield _plan(order, costs, array, trace=trace, level=level)


def _plan(order: TileOrder, costs: _Costs, array: SigmaArray, *, trace: LayerTrace, level: int) -> LayerPlan:
    where, columns = (order.group, order.row, order.k_tile), order.nest.columns_used()[order.column]
    steps = costs["fixed_cycles"][where] + columns * costs["cycles_per_position"][where]
    actions = _actions(order, costs, array)
    tiles = build_table(order, steps=steps, actions=actions, output_bits=trace.activation_bits)
    return LayerPlan.of(order, tiles, level=level, multipliers=array.multipliers)


def tile_blocking(trace: LayerTrace, design: Design, keep: NDArray[np.uint8], *, level: int) -> Blocking:
    """Filters, positions and reduction indices of a tile: enough to fill the multipliers several times, as far as the
    buffers hold it twice (outputs once).

    ``keep``: uint8 (b, n, k). Reduction indices are cut only where the input buffer cannot hold enough positions otherwise.
    """
    array, gemm = design.array, trace.layer.gemm
    assert isinstance(array, SigmaArray)
    assert gemm is not None
    inputs = design.buffers.inputs.bytes // 2 * 8 // trace.activation_bits
    outputs = design.buffers.outputs.bytes * 8 // array.accumulator_bits
    k = max(1, min(gemm.k, inputs // min(gemm.m, _POSITIONS_PER_TILE)))
    nonzeros = int(trace.nonzeros[level])
    wanted = ceil_div(_ITERATIONS_PER_TILE * array.multipliers * gemm.b * gemm.n, max(1, nonzeros))
    # The fullest filter says how many surely fit; encoded weights bring their index and the biases.
    fullest = int((keep > level).sum(axis=2, dtype=np.int64).max(initial=1))
    bytes_per_weight = trace.bytes(design.weight_format, level) / max(1, nonzeros)
    held = int(design.buffers.weights.bytes / 2 / (bytes_per_weight * max(1, fullest)))
    n = max(1, min(gemm.n, wanted, held, outputs // min(gemm.m, _POSITIONS_PER_TILE)))
    return Blocking(n=n, m=max(1, min(gemm.m, inputs // k, outputs // n)), k=k)


def _actions(order: TileOrder, costs: _Costs, array: SigmaArray) -> dict[str, Int64Array]:
    """Action counts per tile. The weight buffer holds a bitmap beside the values; a finished output is written once, every
    other result as a partial sum. The reduction tree adds all products and returning sums of a cluster up to its results; the
    energy of a MAC holds the addition, its sum is written to a register and read once."""
    nest, where = order.nest, (order.group, order.row, order.k_tile)
    rows, columns = nest.rows_used()[order.row], nest.columns_used()[order.column]
    nonzeros, block = costs["nonzeros"][where], nest.blocking.k
    places = rows * np.minimum(block, nest.gemm.k - order.k_tile * block)
    sum_bytes, stored_bytes = ceil_div(array.accumulator_bits, 8), ceil_div(array.activation_bits, 8)
    finished = np.where(order.closes, rows, 0)
    partial = np.maximum(costs["results"][where] - finished, 0)
    added = np.maximum(nonzeros + costs["psums"][where] - costs["results"][where], 0)
    register_bits = 2 * (nonzeros * (array.weight_bits + array.activation_bits) + added * array.accumulator_bits)
    return {
        "mac_weight_nonzero": nonzeros * columns,
        "mac_issued": nonzeros * columns,
        "weight_buffer_read_bytes": -(-(nonzeros * array.weight_bits + places) // 8),
        "input_buffer_read_bytes": -(-(costs["words"][where] * columns * array.activation_bits) // 8),
        "output_buffer_write_bytes": columns * (finished * stored_bytes + partial * sum_bytes),
        "output_buffer_read_bytes": columns * costs["psums"][where] * sum_bytes,
        "network_bytes": -(-(costs["packets"][where] * columns * array.activation_bits) // 8),
        "register_bytes": -(-(columns * register_bits) // 8),
    }
