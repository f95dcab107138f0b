"""Dense and block-sparse products of packed words: bfloat16 pairs with float32 sums, int8 quads with int32 sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .....workloads.errors import InputError
from .....workloads.layers import Layer
from .....workloads.nesting import NestedWeights
from ..phases import phases_of, reads_in_place
from ..planes import LANES, PlaneLayout, aligned
from ..product import blocks_for, phase_layout
from ..team import Call, call
from . import formats_kernel, words_blocks_kernel, words_kernel
from .reduced import Epilogue

ROWS = words_blocks_kernel.ROWS
#: Vectors per tile, the fastest first.
_BEST = (4, 2, 8, 7, 1, 14, 13)
#: Packed operands of a tile, the sums of a group of rows, and what a kernel needs besides.
WordWork = tuple[NDArray[Any], ...]


class Operands(NamedTuple):
    """Where a convolution's operands lie: ``planes`` are the source's own, or phase planes that must be packed first.

    ``offsets``: elements from the buffer's start to the operand of each (channel, r, s) at output position 0.
    """

    planes: PlaneLayout
    packs: bool
    offsets: NDArray[np.int64]


def operands_of(layer: Layer, source: PlaneLayout, target: PlaneLayout) -> Operands:
    """The operands of a convolution from ``source`` to ``target``.

    Raises
    ------
    InputError
        for a layer with groups: its rows share no operands.
    """
    if layer.groups != 1:
        raise InputError(f"layer '{layer.name}' has {layer.groups} groups; products of words take 1")
    phases = phases_of(layer)
    packs = not reads_in_place(layer, source, target)
    planes = phase_layout(layer, target, phases) if packs else source
    taps = phases.taps_in(planes) if packs else phases.taps_in_place(planes)
    step = 4 * planes.stride * (len(phases.first) if packs else 1)
    return Operands(planes, packs, (np.arange(layer.C)[:, None] * step + taps).reshape(-1) // 4)


def word_vectors(target: PlaneLayout) -> int:
    """Vectors per tile, of those that may write ``target``, which share loads best between rows: measured on Zen 4."""
    return next(vectors for vectors in _BEST if vectors in target.vectors)


class BlockWeights(NamedTuple):
    """Kept blocks of 16 rows by 16 words: block row i's are ``starts[i]`` to ``ends[level, i]``, sparsest level first.

    ``columns``: uint32 (number,), block column of each; ``words``: uint32 (number, 16, 16).
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    columns: NDArray[np.uint32]
    words: NDArray[np.uint32]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self)


def block_weights(words: NDArray[np.uint32], levels_kept: NDArray[np.int64], levels: int) -> BlockWeights:
    """Blocks of ``words``, uint32 (16 * block rows, 16 * block columns), of which ``levels_kept`` levels keep each."""
    block_rows, block_columns = levels_kept.shape
    row, column = np.nonzero(levels_kept)
    order = np.lexsort((column, -levels_kept[row, column], row))
    row, column = row[order], column[order]
    cut = words.reshape(block_rows, ROWS, block_columns, ROWS)
    counts = np.stack([(levels_kept > level).sum(axis=1) for level in range(levels)])
    starts = np.concatenate([[0], np.cumsum(counts[0])[:-1]]).astype(np.int64)
    kept: NDArray[np.uint32] = aligned(row.size * ROWS * ROWS, np.uint32).reshape(row.size, ROWS, ROWS)
    kept[:] = cut[row, :, column]
    return BlockWeights(starts, starts + counts, column.astype(np.uint32), kept)


def levels_per_block(weights: NestedWeights, columns: int) -> NDArray[np.int64]:
    """Levels that keep each block of 16 rows by ``columns`` reduction indices, int64 (block rows, block columns).

    Raises
    ------
    InputError
        naming the first block that a level keeps in part.
    """
    keep = weights.keep.reshape(weights.shape[0], -1)
    rows, reduction = keep.shape
    row_cuts, column_cuts = np.arange(0, rows, ROWS), np.arange(0, reduction, columns)
    most = np.maximum.reduceat(np.maximum.reduceat(keep, row_cuts, axis=0), column_cuts, axis=1)
    least = np.minimum.reduceat(np.minimum.reduceat(keep, row_cuts, axis=0), column_cuts, axis=1)
    if (most != least).any():
        i, j = (int(n) for n in np.argwhere(most != least)[0])
        raise InputError(
            f"{weights.name}: rows from {ROWS * i}, columns from {columns * j}: "
            f"a level keeps the {ROWS}x{columns} block in part"
        )
    return most.astype(np.int64)


class WordProduct:
    """A convolution by blocks of words on planes; its subclasses give it words and a way to call it.

    Parameters
    ----------
    words : uint32 (rows, words of the reduction), whole blocks; of the level ``dense``, or of level 0 where that is None.
    dense : run this level without skipping blocks; None: every level, skipping blocks.

    Raises
    ------
    InputError
        naming a block that a level keeps in part; for groups.
    """

    def __init__(
        self,
        fmt: int,
        layer: Layer,
        weights: NestedWeights,
        words: NDArray[np.uint32],
        *,
        dense: int | None,
        layouts: tuple[PlaneLayout, PlaneLayout],
        vectors: int,
        threads: int,
    ) -> None:
        self.fmt, self.layer, self.vectors, self.dense = fmt, layer, vectors, dense
        if dense is None:
            kept, levels = levels_per_block(weights, ROWS * words_kernel.OPERANDS[fmt]), weights.levels
        else:
            kept, levels = np.ones((words.shape[0] // ROWS, words.shape[1] // ROWS), np.int64), 1
        self.weights = block_weights(words, kept, levels)
        self.source, self.target = layouts
        self.planes, self.packs, elements = operands_of(layer, *layouts)
        count = words_kernel.OPERANDS[fmt]
        offsets = elements * formats_kernel.INPUT_BYTES[fmt]
        self._words = -(-offsets.size // count)
        spare = self._words * count - offsets.size
        self._offsets = np.append(offsets, np.repeat(offsets[-1], spare)).astype(np.uint32)
        self._last_bits = (1 << (32 * (count - spare) // count)) - 1  # the last word's operands that exist
        tiles = self.target.tiles(vectors)
        self._parts = blocks_for(tiles, len(self.weights.starts), threads)
        self.tasks = tiles * self._parts
        self._masks = self.target.masks(vectors)

    @property
    def nbytes(self) -> int:
        """Bytes of weights, columns and bounds."""
        return self.weights.nbytes

    def new_work(self) -> WordWork:
        """Scratch memory of one thread."""
        tile = LANES * self.vectors
        words = -(-self._words // ROWS) * ROWS
        return aligned(words * tile, np.uint32), aligned(ROWS * tile)

    def _call(
        self,
        kernel: Any,
        x: NDArray[Any],
        out: NDArray[Any],
        *,
        level: int,
        starts: NDArray[Any],
        epilogue: Epilogue,
        residual: NDArray[Any] | None,
        works: Sequence[WordWork],
    ) -> Call:
        """``starts``: 32-bit number that each row's sums begin with.

        Raises
        ------
        InputError
            for a level other than the dense one, if there is one.
        """
        if self.dense not in (None, level):
            raise InputError(f"layer '{self.layer.name}': these weights are level {self.dense}'s, not level {level}'s")
        w, target = self.weights, self.target
        padded = np.zeros(len(w.starts) * ROWS, starts.dtype)
        padded[: len(starts)] = starts
        shape = (self.layer.K, self._words, self._last_bits, len(w.starts), self._parts)
        streams = (w.starts, w.ends[level if self.dense is None else 0], w.columns, w.words.reshape(-1), padded)
        added = out if residual is None else residual
        planes = (x, self._offsets, out, target.lead, target.stride, self._masks, added)
        extras = [(work,) for work in works]
        return call(kernel, self.tasks, shape, streams, planes, (residual is not None, *epilogue), extras=extras)


def padded_matrix(matrix: NDArray[Any], columns: int) -> NDArray[Any]:
    """A matrix with zeros up to whole blocks of 16 rows by ``columns``."""
    rows, reduction = matrix.shape
    made = np.zeros((-(-rows // ROWS) * ROWS, -(-reduction // columns) * columns), matrix.dtype)
    made[:rows, :reduction] = matrix
    return made
