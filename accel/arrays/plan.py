"""What an array model returns for one layer at one level, and the identities it must satisfy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ...traces.trace import LayerTrace
from ..mapping import Tiling
from ..strict import ArrayDescription
from ..tiles import ArrayTiming, TileTable

if TYPE_CHECKING:
    from ..design import Design


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """One layer at one level on one array: its tiles, how they were tiled, and the work they do.

    Work per run of the product, in multiply-accumulates: ``mac_computed`` + ``mac_gated`` + ``mac_skipped`` = dense count.
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


@dataclass(frozen=True)
class ArrayKind:
    """A registered array: its section of the design file, its model, and the near-PE memories it cannot do without.

    ``unpriced``: parts whose energy the model leaves out; every run of such a design says so.
    """

    description: type[ArrayDescription]
    plans: ArrayModel
    memories: tuple[str, ...] = ()
    unpriced: str = ""
