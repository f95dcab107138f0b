"""One convolution on planes: its streams, where its operands lie, and the kernel that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....workloads.layers import Layer
from ....workloads.nesting import NestedWeights
from . import direct_kernel, packing_kernel, windowed_kernel
from .phases import Phases, phases_of, reads_in_place
from .planes import LANES, Floats, PlaneLayout, aligned
from .streams import LevelStreams, direct_streams, windowed_streams
from .team import Call, call

Kind = Literal["windowed", "direct", "packed"]
Work = tuple[Floats, Floats, NDArray[np.int64]]
#: Scratch of one window: it shares the first-level cache (32 or 48 KB) with the streams that pass through.
WINDOW_BYTES = 28 << 10
#: Operands that kernels may ask for in advance beyond the last one.
AHEAD = 8


class Choice(NamedTuple):
    """How a product is run: the kernel, vectors per tile, and reduction indices per window (windowed only)."""

    kind: Kind
    vectors: int
    window: int = 0


class LayerPlan(NamedTuple):
    """How one layer is run at every level: all sparse levels by one kernel, since they share one store.

    ``dense_levels``: levels whose zeros are too few to skip; each has a dense copy of its weights, in tiles of
    ``dense_vectors``.
    """

    sparse: Choice
    dense_vectors: int = 0
    dense_levels: tuple[int, ...] = ()


def windowed(vectors: int, window_bytes: int = WINDOW_BYTES) -> Choice:
    """Windows of about ``window_bytes`` of scratch."""
    return Choice("windowed", vectors, max(1, window_bytes // (4 * LANES * vectors)))


class Product:
    """A convolution from planes to planes at every level, from one set of streams.

    Several threads may run one product together: they share ``tasks``, and each has its own ``work``.
    """

    def __init__(
        self,
        layer: Layer,
        weights: NestedWeights,
        source: PlaneLayout,
        target: PlaneLayout,
        *,
        choice: Choice,
        threads: int = 1,
    ) -> None:
        self.layer, self.source, self.target, self.choice = layer, source, target, choice
        self.phases = phases_of(layer)
        self.packs = not reads_in_place(layer, source, target)
        self.planes = phase_layout(layer, target, self.phases) if self.packs else source
        self.reduction = self._reduction()
        self.operands = np.append(self.reduction, np.zeros(AHEAD, np.uint32))
        tiles = target.tiles(choice.vectors)
        self._blocks = blocks_for(tiles, layer.K, threads)
        self.streams = self.streams_of(weights)
        self.tasks = tiles * self.streams.blocks
        self._masks = target.masks(choice.vectors)

    def _reduction(self) -> NDArray[np.uint32]:
        """Bytes from the buffer's start to the operand of each (channel, r, s) at output position 0, uint32 (C*R*S,)."""
        taps = self.phases.taps_in(self.planes) if self.packs else self.phases.taps_in_place(self.planes)
        step = 4 * self.planes.stride * (len(self.phases.first) if self.packs else 1)
        return (np.arange(self.layer.C)[:, None] * step + taps).reshape(-1).astype(np.uint32)

    def streams_of(self, weights: NestedWeights) -> LevelStreams:
        """Streams for this kernel; their order depends on which weights each level keeps, not on values."""
        blocks = self._blocks
        kind, vectors, window = self.choice
        if kind == "windowed":
            return windowed_streams(weights, window=window, vectors=vectors, blocks=blocks)
        places = self.reduction
        if kind == "packed":
            places = np.arange(places.size, dtype=np.uint32) * np.uint32(4 * LANES * vectors)
        return direct_streams(weights, places.reshape(self.layer.groups, -1), vectors=vectors, blocks=blocks)

    def new_work(self) -> Work:
        """Scratch memory of one thread."""
        kind, vectors, window = self.choice
        tile = LANES * vectors
        scratch = {"windowed": window, "direct": 1, "packed": self.reduction.size}[kind]
        sums = self.streams.rows_total if kind == "windowed" else 1
        return aligned(scratch * tile), aligned(sums * tile), np.zeros(2 * self.streams.levels, np.int64)

    def packing(self, x: Floats, out: Floats) -> Call:
        """The call that fills the phase planes ``out`` from the input planes ``x``; needed if ``packs``."""
        layer = self.layer
        grid = (self.planes.channels, layer.P, layer.Q, *self.planes.dimensions[3:])
        phases = (self.phases.first, layer.stride, tuple(self.phases.reach), np.float32(0))
        return call(packing_kernel.pack_phases, layer.C, x, self.source.dimensions, out, grid, *phases)

    def call(
        self,
        x: Floats,
        out: Floats,
        *,
        level: int,
        bias: Floats,
        clamp: tuple[np.float32, np.float32] = (np.float32(-np.inf), np.float32(np.inf)),
        residual: Floats | None = None,
        works: Sequence[Work],
    ) -> Call:
        """The call that computes out = clamp(bias + W x + residual) at ``level``, halos zero; ``works``: one per thread."""
        s, target = self.streams, self.target
        middle = self.choice.window if self.choice.kind == "windowed" else self.choice.kind == "packed"
        shape = (
            s.rows_total, self.reduction.size, middle, s.blocks, s.levels, s.levels - level, residual is not None, *clamp,
        )  # fmt: skip
        streams = (s.starts.reshape(-1), s.skips.reshape(-1), s.rows, s.counts.reshape(-1), s.offsets, s.values, bias)
        added = out if residual is None else residual
        planes = (x, self.operands, out, target.lead, target.stride, self._masks, added)
        kernels = windowed_kernel.KERNELS if self.choice.kind == "windowed" else direct_kernel.KERNELS
        extras = [(work,) for work in works]
        return call(kernels[self.choice.vectors], self.tasks, shape, streams, planes, extras=extras)


def phase_layout(layer: Layer, target: PlaneLayout, phases: Phases) -> PlaneLayout:
    """Planes of the phases on the grid of the output."""
    return PlaneLayout(layer.C * len(phases.first), layer.P, layer.Q, target.halo)


def blocks_for(tiles: int, rows: int, threads: int) -> int:
    """Groups of rows: several tasks per thread, so that an interrupted thread delays nobody; one for a single thread."""
    return 1 if threads == 1 else min(rows, -(-4 * threads // tiles))
