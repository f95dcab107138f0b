"""What an array model returns for one layer at one level, how it is put together, and the identities it must satisfy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...traces.trace import LayerTrace
from ...workloads.layers import Gemm
from ..loopnest import Blocking, Int64Array, Nest, block_sizes, split_bytes
from ..mapping import Tiling, choose_tiling, compulsory_bytes
from ..schedule import TileOrder, order_tiles
from ..strict import ArrayDescription
from ..tiles import ArrayTiming, TileTable

if TYPE_CHECKING:
    from ..design import Design


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerPlan:
    """One layer at one level on one array: its tiles, how they were tiled, and the work they do.

    Work per run of the product, in multiply-accumulates: issued + ``mac_skipped`` = ``mac_dense``; of the issued ones
    ``mac_weight_zero_issued`` have a zero weight; ``mac_input_zero_issued`` have a zero input only, on arrays that skip zero
    inputs in part. ``multipliers``: units that may each start something in every cycle;
    ``slots_used``: how often they do, which is the issued MACs except on bit-serial lanes, where it is their terms.
    ``patterns``: where the array takes structured weights, dense MACs by the pattern they run in.
    """

    level: int
    tiles: TileTable
    timing: ArrayTiming
    tiling: Tiling
    compulsory_bytes: int
    mac_dense: int
    mac_skipped: int
    mac_weight_zero_issued: int
    multipliers: int
    slots_used: int
    mac_input_zero_issued: int = 0
    patterns: Mapping[str, int] = field(default_factory=dict)

    @property
    def pe_slots(self) -> int:
        """Multiplier-cycles the array spends (used or idle) while computing."""
        return int(self.tiles.steps.sum()) * self.timing.step_interval * self.multipliers

    @property
    def pe_idle(self) -> int:
        """Multiplier-cycles in which a unit starts nothing although the array computes."""
        return self.pe_slots - self.slots_used

    @classmethod
    def of(
        cls,
        order: TileOrder,
        tiles: TileTable,
        *,
        level: int,
        multipliers: int,
        timing: ArrayTiming | None = None,
        weight_zero_issued: int | None = None,
        input_zero_issued: int = 0,
        slots_used: int | None = None,
        patterns: Mapping[str, int] | None = None,
    ) -> LayerPlan:
        """The plan of ``tiles``; what is not given follows from their ``mac_issued`` and ``mac_weight_nonzero``.

        ``weight_zero_issued`` must be given where an array skips zero inputs and still issues zero weights.
        """
        issued, nonzero = (int(tiles.actions[name].sum()) for name in ("mac_issued", "mac_weight_nonzero"))
        return cls(
            level=level,
            tiles=tiles,
            timing=timing or ArrayTiming(),
            tiling=order.tiling,
            compulsory_bytes=compulsory_bytes(order.nest),
            mac_dense=order.nest.gemm.macs,
            mac_skipped=order.nest.gemm.macs - issued,
            mac_weight_zero_issued=max(0, issued - nonzero) if weight_zero_issued is None else weight_zero_issued,
            mac_input_zero_issued=input_zero_issued,
            multipliers=multipliers,
            slots_used=issued if slots_used is None else slots_used,
            patterns=patterns or {},
        )


def level_order(
    trace: LayerTrace,
    blocking: Blocking,
    share: Int64Array,
    *,
    level: int,
    design: Design,
    sum_bits: int,
    input_bits: int | None = None,
    nest_type: type[Nest] = Nest,
) -> TileOrder:
    """A layer's tiles at one level in the order its best tiling runs them.

    ``share``: int64 (b, row blocks, k tiles), by which the encoded weight bytes are split. ``sum_bits``: width of a partial
    sum that waits in the output buffer; ``input_bits``: of an input in DRAM, if not the trace's.

    Raises
    ------
    InputError
        if the buffers hold no tile.
    """
    gemm = trace.layer.gemm
    assert gemm is not None
    stored = split_bytes(trace.bytes(design.weight_format, level), share)
    nest = nest_type(trace.layer, gemm, blocking, stored, input_bits or trace.activation_bits)
    return order_tiles(nest, choose_tiling(nest, design.capacity(), output_bits=sum_bits))


def dense_share(gemm: Gemm, *, n: int, depth: Int64Array) -> Int64Array:
    """Weights, zeros included, of every tile: int64 (b, row blocks, k tiles).

    ``n``: output features of a row block; ``depth``: reduction indices of each k tile.
    """
    plane = np.outer(block_sizes(gemm.n, n), depth)
    return np.broadcast_to(plane, (gemm.b, *plane.shape)).astype(np.int64)


class ArrayModel(Protocol):
    """Turns a layer trace into tile tables. Implementations are pure functions of trace and design."""

    def __call__(self, trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]: ...


@dataclass(frozen=True)
class ArrayKind:
    """A registered array: its section of the design file, its model, and the near-PE memories it cannot do without."""

    description: type[ArrayDescription]
    plans: ArrayModel
    memories: tuple[str, ...] = ()
