"""One layer's weights as level-ordered streams for the windowed kernel: level l is a prefix of the streams."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ....workloads.errors import InputError
from ....workloads.nesting import NestedWeights
from .planes import LANES

#: Row numbers that kernels may read beyond the last one (they ask for its memory in advance).
AHEAD = 4
#: Offsets into the scratch are 16-bit byte counts.
_OFFSETS = 1 << 16
#: Non-zeros per row and window are 16-bit counts.
_COUNTS = (1 << 16) - 1


@dataclass(frozen=True, eq=False, kw_only=True)
class LevelStreams:
    """Non-zeros of one layer, cut into row blocks, windows of the reduction axis, and levels (sparsest first).

    Stream s holds what level ``levels - 1 - s`` retains and the sparser ones do not. Within a block, window and stream the
    rows stand in one order, fewest non-zeros first (lexicographic over the streams), so that loop lengths change rarely.

    starts : int64 (blocks, levels + 2): first row, one past the last row (in listed rows), then per stream the index of
        its first non-zero.
    skips : uint32 (blocks, windows, levels): listed rows at the front that have no non-zero in streams 0..s.
    rows : uint32, per block and window its output rows in their order.
    counts : uint16 (levels, ...): non-zeros per listed row and stream.
    offsets : bytes to where a non-zero's operand begins: uint16 into the window's scratch, or uint32 from the tile's place
        in the planes where there are no windows; values : float32.
    """

    rows_total: int
    reduction: int
    window: int
    vectors: int
    blocks: int
    levels: int
    starts: NDArray[np.int64]
    skips: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    counts: NDArray[np.uint16]
    offsets: NDArray[np.uint16] | NDArray[np.uint32]
    values: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes of all streams and their indices."""
        parts = (self.starts, self.skips, self.rows, self.counts, self.offsets, self.values)
        return sum(part.nbytes for part in parts)


def windowed_streams(weights: NestedWeights, *, window: int, vectors: int, blocks: int = 1) -> LevelStreams:
    """Streams of ``weights``, seen as a matrix (rows, reduction), for the windowed kernel on 16 * ``vectors`` positions.

    ``window``: reduction indices per window; ``blocks``: groups of rows with about equal non-zeros (parallel tasks).

    Raises
    ------
    InputError
        if the weights have no values, or a window's scratch exceeds the 16-bit offsets.
    """
    if window < 1 or window * vectors * LANES * 4 > _OFFSETS:
        raise InputError(f"window = {window} with {vectors} vectors: {_OFFSETS} bytes of scratch are the most")
    columns = _matrix(weights).shape[1]
    places = (np.arange(columns) % window * (LANES * 4 * vectors)).astype(np.uint16)
    return _streams(weights, places[None], window=window, vectors=vectors, blocks=blocks)


def direct_streams(
    weights: NestedWeights, places: NDArray[np.uint32], *, vectors: int, blocks: int = 1
) -> LevelStreams:
    """Streams for the direct kernel. ``places``: uint32 (groups, reduction): bytes to each operand, per group of rows.

    Raises
    ------
    InputError
        if the weights have no values.
    """
    window = max(1, _matrix(weights).shape[1])
    return _streams(weights, places, window=window, vectors=vectors, blocks=blocks)


def _matrix(weights: NestedWeights) -> NDArray[np.float32]:
    if weights.values is None:
        raise InputError(f"{weights.name}: no weight values to execute")
    return weights.values.reshape(weights.shape[0], -1)


def _streams(
    weights: NestedWeights,
    places: NDArray[np.uint16] | NDArray[np.uint32],
    *,
    window: int,
    vectors: int,
    blocks: int,
) -> LevelStreams:
    keep = weights.keep.reshape(weights.keep.shape[0], -1)
    windows = max(1, -(-keep.shape[1] // window))
    stream = np.where(keep == 0, weights.levels, weights.levels - keep.astype(np.int64))
    counts = _counts(stream, windows=windows, window=window, levels=weights.levels)
    cuts = _balanced(counts.sum(axis=(0, 2)), blocks)
    order = np.concatenate([_row_order(counts, a, b) for a, b in pairwise(cuts)], axis=1)
    return _lay_out(stream, _matrix(weights), counts, order, cuts, places=places, window=window, vectors=vectors)


def _counts(stream: NDArray[np.int64], *, windows: int, window: int, levels: int) -> NDArray[np.int64]:
    """Non-zeros (levels, rows, windows)."""
    M = len(stream)
    row, column = np.nonzero(stream < levels)
    flat = (stream[row, column] * M + row) * windows + column // window
    return np.bincount(flat, minlength=levels * M * windows).reshape(levels, M, windows).astype(np.int64)


def _balanced(nonzeros: NDArray[np.int64], blocks: int) -> list[int]:
    """Row bounds of at most ``blocks`` groups with about equal non-zeros, none empty."""
    total = np.cumsum(nonzeros + 1)  # a row costs a little even without non-zeros
    inner = [int(np.searchsorted(total, total[-1] * b / blocks)) for b in range(1, blocks)]
    return sorted({0, len(nonzeros), *inner})


def _row_order(counts: NDArray[np.int64], first: int, last: int) -> NDArray[np.int64]:
    """Per window the rows first..last-1, ordered lexicographically by their counts, sparsest stream first."""
    part = counts[::-1, first:last]  # lexsort: the last key is the primary one
    return np.stack([first + np.lexsort(part[:, :, w]) for w in range(counts.shape[2])])


def _lay_out(
    stream: NDArray[np.int64],
    values: NDArray[np.float32],
    counts: NDArray[np.int64],
    order: NDArray[np.int64],
    cuts: list[int],
    *,
    places: NDArray[np.uint16] | NDArray[np.uint32],
    window: int,
    vectors: int,
) -> LevelStreams:
    """Put rows, counts and non-zeros where the kernel walks over them: block, window, row, column."""
    levels, M, windows = counts.shape
    blocks = len(cuts) - 1
    bounds = list(pairwise(cuts))
    rows = np.concatenate([order[:, a:b].reshape(-1) for a, b in bounds])
    which = np.concatenate([np.repeat(np.arange(windows), b - a) for a, b in bounds])
    listed = counts[:, rows, which]
    if listed.max(initial=0) > _COUNTS:
        raise InputError(f"a row has {int(listed.max())} non-zeros in one window, {_COUNTS} are the most")
    place = np.empty((M, windows), np.int64)  # position of (row, window) in the walk
    place[rows, which] = np.arange(rows.size)
    row, column = np.nonzero(stream < levels)
    of = stream[row, column]
    walk = np.argsort(of * place.size + place[row, column // window], kind="stable")  # columns ascend already
    row, column, of = row[walk], column[walk], of[walk]
    offsets = places[row * len(places) // M, column]
    starts, skips = _bounds(counts, listed, order, cuts)
    return LevelStreams(
        rows_total=M,
        reduction=stream.shape[1],
        window=window,
        vectors=vectors,
        blocks=blocks,
        levels=levels,
        starts=starts,
        skips=skips,
        rows=np.append(rows, np.zeros(AHEAD, np.int64)).astype(np.uint32),
        counts=listed.astype(np.uint16),
        offsets=np.append(offsets, places.dtype.type(0)),
        values=np.append(values[row, column], 0).astype(np.float32),
    )


def _bounds(
    counts: NDArray[np.int64], listed: NDArray[np.int64], order: NDArray[np.int64], cuts: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """``starts`` and ``skips`` of :class:`LevelStreams`."""
    levels, _, windows = counts.shape
    blocks = len(cuts) - 1
    per_stream = np.concatenate([[0], np.cumsum(listed.sum(axis=1))])
    starts = np.zeros((blocks, levels + 2), np.int64)
    skips = np.zeros((blocks, windows, levels), np.uint32)
    for b, (first, last) in enumerate(pairwise(cuts)):
        starts[b, :2] = first, last
        starts[b, 2:] = per_stream[:-1] + listed[:, : first * windows].sum(axis=1)
        cumulative = counts[:, order[:, first:last], np.arange(windows)[:, None]].cumsum(axis=0)
        skips[b] = (cumulative == 0).sum(axis=2).T
    return starts, skips
