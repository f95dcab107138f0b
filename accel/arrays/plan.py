"""What an array model returns for one layer at one level, and the identities it must satisfy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...traces.trace import LayerTrace
from ..design import Design
from ..mapping import Tiling
from ..tiles import ArrayTiming, TileTable


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """One layer at one level on one array: its tiles, how they were tiled, and the work they do.

    Work per run of the product, in multiply-accumulates: ``mac_effectual`` + ``mac_gated`` + ``mac_skipped`` = dense count.
    ``pe_slots``: multiplier-cycles the array spends (issued or idle) while computing.
    """

    level: int
    tiles: TileTable
    timing: ArrayTiming
    tiling: Tiling
    compulsory_bytes: int
    mac_dense: int
    mac_skipped: int
    mac_weight_zero_issued: int
    pe_slots: int


class ArrayModel(Protocol):
    """Turns a layer trace into tile tables. Implementations are pure functions of trace and design."""

    def __call__(self, trace: LayerTrace, levels: Sequence[int], design: Design) -> Iterator[LayerPlan]: ...
