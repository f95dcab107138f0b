"""One convolution on planes: its streams, where its operands lie, and the kernel that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ....workloads.errors import InputError
from ....workloads.layers import Layer
from ....workloads.nesting import NestedWeights
from . import packing_kernel
from .forms import form_of
from .phases import Phases, phases_of, reads_in_place
from .planes import LANES, Floats, PlaneLayout, aligned
from .streams import LevelStreams
from .team import Call, call

Kind = Literal["windowed", "direct", "packed", "blocks", "channels", "coded", "half", "bfloat16"]
#: Kinds that round values and operands -> the format; all others compute in float32.
ROUNDING: Mapping[Kind, str] = {"half": "float16", "bfloat16": "bfloat16"}
#: Formats of dense levels.
DENSE_FORMATS = ("float32", "bfloat16")
Work = tuple[Floats, Floats, NDArray[np.int64]]
#: Scratch of one window: it shares the first-level cache (32 or 48 KB) with the streams that pass through.
WINDOW_BYTES = 28 << 10
#: What one more group of rows per tile costs, as a part of a call: each copies the tile's operands anew (1 to 10 %).
_GROUP_COST = 0.06
#: Operands that kernels may ask for in advance beyond the last one.
AHEAD = 8


class Choice(NamedTuple):
    """How a product is run: the kernel, vectors per tile, and reduction indices per window (0: no windows).

    ``group``: rows that share positions (blocks), or consecutive input channels of an N:M group (channels). The products
    of ``reduced`` (coded, half, bfloat16) choose their windows themselves.
    """

    kind: Kind
    vectors: int
    window: int = 0
    group: int = 0

    @property
    def label(self) -> str:
        """Kernel, vectors and window in a few characters."""
        group = f" {self.group}x" if self.group else " "
        return f"{self.kind}{group}{self.vectors}" + (f"/{self.window}" if self.window else "")


class Dense(NamedTuple):
    """How a level is run without skipping zeros: vectors per tile, and one of :data:`DENSE_FORMATS`."""

    vectors: int
    fmt: str = "float32"


class LayerPlan(NamedTuple):
    """How one layer is run at every level: all sparse levels by one kernel, since they share one store.

    ``dense_levels``: levels whose zeros are too few to skip; each has a dense copy of its weights, in tiles of
    ``dense_vectors`` and in ``dense_format``.
    """

    sparse: Choice
    dense_vectors: int = 0
    dense_levels: tuple[int, ...] = ()
    dense_format: str = "float32"

    @property
    def dense(self) -> Dense:
        """How the dense levels are run."""
        return Dense(self.dense_vectors, self.dense_format)

    def format(self, level: int) -> str:
        """What values and operands are rounded to before they are multiplied: "float32" is exact."""
        return self.dense_format if level in self.dense_levels else ROUNDING.get(self.sparse.kind, "float32")


class Placed(Protocol):
    """A product of any kind, as far as it says where a layer's operands lie: see :class:`Product`."""

    layer: Layer
    target: PlaneLayout
    reduction: NDArray[np.uint32]
    operands: NDArray[np.uint32]


def windowed(vectors: int, window_bytes: int = WINDOW_BYTES) -> Choice:
    """Windows of about ``window_bytes`` of scratch."""
    return Choice("windowed", vectors, max(1, window_bytes // (4 * LANES * vectors)))


class Product:
    """A convolution from planes to planes at every level, from one set of streams.

    Several threads may run one product together: they share ``tasks``, and each has its own ``work``.

    Raises
    ------
    InputError
        if the masks lack the structure that ``choice`` relies on (blocks, channels), or windows meet grouped channels.
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
        if choice.window and choice.kind not in ("direct", "packed") and layer.groups > 1:
            raise InputError(f"{layer.name}: '{choice.label}' reads all channels, but there are {layer.groups} groups")
        self.layer, self.source, self.target, self.choice = layer, source, target, choice
        self.phases = phases_of(layer)
        self.packs = not reads_in_place(layer, source, target)
        self.planes = phase_layout(layer, target, self.phases) if self.packs else source
        self.reduction = self._reduction()
        self.operands = np.append(self.reduction, np.zeros(AHEAD, np.uint32))
        tiles = target.tiles(choice.vectors)
        self._blocks = blocks_for(tiles, layer.K, threads)
        self._form = form_of(choice, layer, self.reduction)
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
        return self._form.streams(weights, self._blocks)

    def new_work(self) -> Work:
        """Scratch memory of one thread."""
        tile = LANES * self.choice.vectors
        operands, sums, pointers = self._form.scratch(self.streams)
        return aligned(operands * tile), aligned(sums * tile), np.zeros(pointers, np.int64)

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
        form, streams, target = self._form, self.streams, self.target
        levels = streams.levels - level
        shape = (*form.sizes(streams), levels, residual is not None, *clamp)
        places = np.append(self.reduction[form.order()], self.operands[self.reduction.size :])
        added = out if residual is None else residual
        planes = (x, places, out, target.lead, target.stride, self._masks, added)
        extras = [(work,) for work in works]
        return call(form.kernel_for(levels), self.tasks, shape, (*form.arrays(streams), bias), planes, extras=extras)


def phase_layout(layer: Layer, target: PlaneLayout, phases: Phases) -> PlaneLayout:
    """Planes of the phases on the grid of the output."""
    return PlaneLayout(layer.C * len(phases.first), layer.P, layer.Q, target.halo)


def blocks_for(tiles: int, rows: int, threads: int) -> int:
    """Groups of rows per tile, such that threads that share the tasks finish at about the same time."""
    spans = {b: -(-tiles * b // threads) / b * (1 + _GROUP_COST * (b - 1)) for b in range(1, 4 * threads + 1)}
    return 1 if threads == 1 else min(rows, min(spans, key=lambda b: spans[b]))
