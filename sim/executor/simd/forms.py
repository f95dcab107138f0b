"""What the kernels of a sparse product differ in: their streams, their scratch memory, and the arguments they take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ....workloads.layers import Layer
from ....workloads.nesting import NestedWeights
from . import blocks_kernel, channel_groups_kernel, direct_blocks_kernel, direct_kernel, windowed_kernel
from .planes import LANES
from .streams import LevelStreams, direct_streams, windowed_streams
from .structure import block_streams, channel_order, channel_streams, row_counts

if TYPE_CHECKING:
    from .product import Choice


class Scratch(NamedTuple):
    """Memory of one thread: vectors of operands and of sums, in tiles, and int64 places of streams."""

    operands: int
    sums: int
    pointers: int


class Form(Protocol):
    """One way to run a product; see :class:`Plain`."""

    def kernel_for(self, levels: int) -> Any:
        """The kernel that runs the first ``levels`` streams."""

    def streams(self, weights: NestedWeights, blocks: int) -> LevelStreams:
        """The weights as the kernel reads them, their rows in ``blocks`` groups of equal work."""

    def scratch(self, streams: LevelStreams) -> Scratch:
        """What one thread needs."""

    def sizes(self, streams: LevelStreams) -> tuple[int, ...]:
        """The first entries of the kernel's shape, up to the levels stored."""

    def arrays(self, streams: LevelStreams) -> tuple[NDArray[Any], ...]:
        """The streams as the kernel takes them."""

    def order(self) -> NDArray[np.int64]:
        """Indices of (channel, r, s) in the order of the kernel's reduction axis."""


class Plain:
    """Single rows: in windows, straight from the planes (direct), or from a copy of the whole tile (packed).

    ``reduction``: bytes to the operand of each (channel, r, s).
    """

    def __init__(self, choice: Choice, layer: Layer, reduction: NDArray[np.uint32]) -> None:
        self.choice, self.layer, self.reduction = choice, layer, reduction
        self.windows = choice.kind == "windowed"

    def kernel_for(self, levels: int) -> Any:
        module = windowed_kernel if self.windows else direct_kernel
        return module.KERNELS[self.choice.vectors, levels > module.IN_REGISTERS]

    def streams(self, weights: NestedWeights, blocks: int) -> LevelStreams:
        vectors = self.choice.vectors
        if self.windows:
            return windowed_streams(weights, window=self.choice.window, vectors=vectors, blocks=blocks)
        places = self.reduction
        if self.choice.kind == "packed":
            places = np.arange(places.size, dtype=np.uint32) * np.uint32(4 * LANES * vectors)
        return direct_streams(weights, places.reshape(self.layer.groups, -1), vectors=vectors, blocks=blocks)

    def scratch(self, streams: LevelStreams) -> Scratch:
        operands = {"windowed": self.choice.window, "direct": 1, "packed": self.reduction.size}[self.choice.kind]
        return Scratch(operands, streams.rows_total if self.windows else 1, streams.levels)

    def sizes(self, streams: LevelStreams) -> tuple[int, ...]:
        middle = self.choice.window if self.windows else self.choice.kind == "packed"
        return streams.rows_total, self.reduction.size, middle, streams.blocks, streams.levels

    def arrays(self, streams: LevelStreams) -> tuple[NDArray[Any], ...]:
        s = streams
        return s.starts.reshape(-1), s.skips.reshape(-1), s.rows, s.counts.reshape(-1), s.offsets, s.values

    def order(self) -> NDArray[np.int64]:
        return np.arange(self.reduction.size)


class Blocks(Plain):
    """Groups of ``choice.group`` rows that keep the same weights, in windows, or from the planes if ``window`` is 0."""

    def __init__(self, choice: Choice, layer: Layer, reduction: NDArray[np.uint32]) -> None:
        self.choice, self.layer, self.reduction = choice, layer, reduction

    def kernel_for(self, levels: int) -> Any:
        del levels
        kernels = blocks_kernel.KERNELS if self.choice.window else direct_blocks_kernel.KERNELS
        return kernels[self.choice.group, self.choice.vectors]

    def streams(self, weights: NestedWeights, blocks: int) -> LevelStreams:
        _, vectors, window, group = self.choice
        places = self.reduction.reshape(self.layer.groups, -1)
        return block_streams(weights, group, window=window, places=places, vectors=vectors, blocks=blocks)

    def scratch(self, streams: LevelStreams) -> Scratch:
        groups = streams.rows_total if self.choice.window else 1
        return Scratch(max(1, self.choice.window), groups * self.choice.group, 2 * streams.levels)

    def sizes(self, streams: LevelStreams) -> tuple[int, ...]:
        window = self.choice.window
        return self.layer.K, streams.rows_total, self.reduction.size, window, streams.blocks, streams.levels


class Channels(Plain):
    """N:M: every row keeps equally many of each group of ``choice.group`` input channels."""

    def __init__(self, choice: Choice, layer: Layer, reduction: NDArray[np.uint32]) -> None:
        self.choice, self.layer, self.reduction = choice, layer, reduction

    def kernel_for(self, levels: int) -> Any:
        return channel_groups_kernel.KERNELS[self.choice.vectors, min(levels, channel_groups_kernel.LEVELS[-1])]

    def streams(self, weights: NestedWeights, blocks: int) -> LevelStreams:
        _, vectors, window, group = self.choice
        return channel_streams(self.layer, weights, group, window=window, vectors=vectors, blocks=blocks)

    def scratch(self, streams: LevelStreams) -> Scratch:
        pointers = channel_groups_kernel.POINTERS // 8 * streams.levels
        return Scratch(self.choice.window, streams.rows_total, pointers)

    def sizes(self, streams: LevelStreams) -> tuple[int, ...]:
        return streams.rows_total, self.reduction.size, self.choice.window, streams.blocks, streams.levels

    def arrays(self, streams: LevelStreams) -> tuple[NDArray[Any], ...]:
        return streams.starts.reshape(-1), row_counts(streams).reshape(-1), streams.offsets, streams.values

    def order(self) -> NDArray[np.int64]:
        return channel_order(self.layer, self.choice.group)


def form_of(choice: Choice, layer: Layer, reduction: NDArray[np.uint32]) -> Form:
    """The form that runs ``choice``."""
    forms: dict[str, type[Plain]] = {"blocks": Blocks, "channels": Channels}
    return forms.get(choice.kind, Plain)(choice, layer, reduction)
