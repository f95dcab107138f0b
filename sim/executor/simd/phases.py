"""Strided window operators on planes: the input split into phases, and how far a window reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....workloads.layers import CONV_OPS, Layer
from .planes import PlaneLayout


class Reach(NamedTuple):
    """Cells a window operator reads beyond its output grid, in cells of that grid."""

    above: int
    below: int
    left: int
    right: int

    @property
    def halo(self) -> int:
        """Cells between rows that hold what lies right of one and left of the next; likewise rows between planes."""
        return max(self.above + self.below, self.left + self.right)


@dataclass(frozen=True, eq=False)
class Phases:
    """A strided window operator reads planes of one phase each: input cells of equal remainder by the stride.

    ``first``: int64 (n, 2), input row and column of cell (0, 0) of each phase; ``taps``: per kernel position (r, s), in
    order, its phase and its shift in cells.
    """

    first: NDArray[np.int64]
    taps: tuple[tuple[int, int, int], ...]
    reach: Reach

    def taps_in(self, planes: PlaneLayout) -> NDArray[np.int64]:
        """Bytes from the buffer's start to each tap of channel 0 at output position 0, in phase planes."""
        return np.array([planes.offset(*tap) for tap in self.taps])

    def taps_in_place(self, planes: PlaneLayout) -> NDArray[np.int64]:
        """The same, where the input planes serve as they are (:func:`reads_in_place`)."""
        return np.array([planes.offset(0, row, column) for _, row, column in self.taps])


def phases_of(layer: Layer) -> Phases:
    """Phases of a convolution or pooling layer; one for stride 1."""
    order: dict[tuple[int, int], int] = {}
    taps = []
    for r in range(layer.R):
        for s in range(layer.S):
            row, row_phase = divmod(r * layer.dilation - layer.padding, layer.stride)
            column, column_phase = divmod(s * layer.dilation - layer.padding, layer.stride)
            phase = order.setdefault((row_phase, column_phase), len(order))
            taps.append((phase, row, column))
    rows, columns = [t[1] for t in taps], [t[2] for t in taps]
    reach = Reach(max(0, -min(rows)), max(0, *rows), max(0, -min(columns)), max(0, *columns))
    return Phases(np.array(list(order), np.int64).reshape(-1, 2), tuple(taps), reach)


def pools_whole_maps(layer: Layer) -> bool:
    """True for pooling whose one window is the whole map: it needs no phases."""
    window = (layer.R, layer.S, layer.padding, layer.P, layer.Q)
    return layer.op not in CONV_OPS and window == (layer.H, layer.W, 0, 1, 1)


def reads_in_place(layer: Layer, source: PlaneLayout, target: PlaneLayout) -> bool:
    """True if the input planes serve as they are: stride 1, the same grid, and enough halo."""
    ahead = max(layer.R, layer.S) * layer.dilation - layer.dilation - layer.padding
    same = layer.stride == 1 and source.pitch == target.pitch and source.width == target.width
    return same and source.height == target.height and source.halo >= max(layer.padding, ahead)
