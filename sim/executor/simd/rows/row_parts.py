"""How the non-zeros of a matrix lie in memory for products with a few vectors: by column index, or by a bit per weight."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .....workloads.errors import InputError
from .....workloads.nesting import NestedWeights
from ..planes import LANES, Floats
from . import few_kernel, mask_kernel, rows_kernel

#: Columns that 16-bit indices reach.
NARROW = 1 << 16
#: Bytes of packed operand that stay in a first-level cache of 32 KB, and that 16-bit offsets reach.
CACHED_WINDOW, WHOLE_WINDOW = 16 << 10, 1 << 16
#: Non-zeros per row and window that pay for the loop over them, its mispredicted end and the sums read and written.
LONG_SEGMENT = 64


class Pass(NamedTuple):
    """One pass over stored rows: a kernel of the common form (tasks, step, x, out, ``rows``, added, lowest, highest).

    ``units``: what tasks are made of, rows or groups of rows.
    """

    kernel: Any
    units: int
    rows: tuple[Any, ...]


class Part(Protocol):
    """The non-zeros of one or more streams; ``streams``: which, the sparsest level's being number 0."""

    streams: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of values and of what says where they stand."""
        ...

    def run(self, count: int) -> Pass:
        """The pass over the streams below ``count``."""
        ...


@dataclass(frozen=True, eq=False)
class Entries:
    """Non-zeros of a matrix of ``shape``, ordered by stream, row, column. Stream s: kept by level ``levels - 1 - s`` and
    by no sparser one."""

    shape: tuple[int, int]
    levels: int
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    stream: NDArray[np.int64]
    value: Floats

    def of(self, streams: Set[int]) -> Entries:
        """The entries of these streams."""
        chosen = np.isin(self.stream, list(streams))
        row, column, stream = self.row[chosen], self.column[chosen], self.stream[chosen]
        return Entries(self.shape, self.levels, row, column, stream, self.value[chosen])

    def mask(self) -> NDArray[np.bool_]:
        """True where an entry stands, (rows, columns)."""
        mask = np.zeros(self.shape, bool)
        mask[self.row, self.column] = True
        return mask

    def dense(self) -> Floats:
        """The entries as a matrix."""
        dense = np.zeros(self.shape, np.float32)
        dense[self.row, self.column] = self.value
        return dense


def entries_of(weights: NestedWeights) -> Entries:
    """The entries of a layer's weights, seen as (outputs, everything else).

    Raises
    ------
    InputError
        if the weights have no values.
    """
    if weights.values is None:
        raise InputError(f"{weights.name}: no weight values to execute")
    keep = weights.keep.reshape(weights.shape[0], -1)
    row, column = np.nonzero(keep)
    stream = weights.levels - keep[row, column].astype(np.int64)
    order = np.argsort(stream, kind="stable")  # rows and columns ascend already
    row, column = row[order], column[order]
    value = weights.values.reshape(keep.shape)[row, column]
    return Entries((keep.shape[0], keep.shape[1]), weights.levels, row, column, stream[order], value)


class IndexedRows:
    """Values and column indices of several streams, 6 bytes per non-zero."""

    def __init__(self, entries: Entries, streams: tuple[int, ...], *, wide: bool | None = None) -> None:
        chosen = entries.of(set(streams))
        rows, columns = entries.shape
        wide = columns > NARROW if wide is None else wide
        self.streams = streams
        self._kernel = rows_kernel.KERNELS[wide]
        self._columns = _padded(chosen.column, np.uint32 if wide else np.uint16)
        self._values = _padded(chosen.value, np.float32)
        self._starts = _starts(np.searchsorted(streams, chosen.stream), chosen.row, (len(streams), rows))

    @property
    def nbytes(self) -> int:
        """Bytes of values, indices and row bounds."""
        return self._values.nbytes + self._columns.nbytes + self._starts.nbytes

    def run(self, count: int) -> Pass:
        """The pass over the streams below ``count``."""
        used = sum(stream < count for stream in self.streams)
        return Pass(self._kernel, self._starts.shape[1] - 1, (self._values, self._columns, self._starts, used))


class FewRows:
    """All streams for 2 to 16 vectors: values and 16-bit offsets into windows of the packed operand, 6 bytes per non-zero.

    ``window_bytes``: of packed operand per window, at most 64 KB; default: :func:`likely_window`.
    """

    def __init__(self, entries: Entries, *, width: int, window_bytes: int | None = None) -> None:
        rows, columns = entries.shape
        self._rows = rows
        window_bytes = likely_window(entries, width) if window_bytes is None else window_bytes
        self.streams = tuple(range(entries.levels))
        self._kernel = few_kernel.KERNELS[width]
        window = window_bytes // (4 * width)
        windows = -(-columns // window)
        which = entries.column // window
        order = np.lexsort((entries.row, which, entries.stream))  # columns ascend already
        self._offsets = _padded(entries.column[order] % window * (4 * width), np.uint16)
        self._values = _padded(entries.value[order], np.float32)
        segment = entries.stream * windows + which
        starts = _starts(segment[order], entries.row[order], (entries.levels * windows, rows))
        self._starts = starts.reshape(entries.levels, windows, rows + 1)
        self._window_bytes = window * 4 * width

    @property
    def nbytes(self) -> int:
        """Bytes of values, offsets and bounds."""
        return self._values.nbytes + self._offsets.nbytes + self._starts.nbytes

    def run(self, count: int) -> Pass:
        """The pass over the streams below ``count``."""
        rows = (self._values, self._offsets, self._window_bytes, self._starts, count)
        return Pass(self._kernel, self._rows, rows)


class MaskedRows:
    """A bit per weight, zero or not, and the values of one stream: 4 bytes per non-zero and 1/8 byte per weight."""

    def __init__(self, entries: Entries, stream: int) -> None:
        chosen = entries.of({stream})
        rows, columns = entries.shape
        self.streams: tuple[int, ...] = (stream,)
        blocks = -(-columns // mask_kernel.COLUMNS)
        mask = np.zeros((rows, blocks * mask_kernel.COLUMNS), bool)
        mask[chosen.row, chosen.column] = True
        self._masks: NDArray[np.uint16] = np.packbits(mask, axis=1, bitorder="little").view(np.uint16)
        self._values = _padded(chosen.value, np.float32)
        self._starts: NDArray[np.int64] = _starts(np.zeros_like(chosen.row), chosen.row, (1, rows))[0]

    @property
    def nbytes(self) -> int:
        """Bytes of values, masks and row starts."""
        return self._values.nbytes + self._masks.nbytes + self._starts.nbytes

    def run(self, count: int) -> Pass:
        """The pass over the stream."""
        del count
        return Pass(mask_kernel.masked_rows, len(self._masks), (self._values, self._masks, self._starts))


def likely_window(entries: Entries, width: int) -> int:
    """Windows that share the first-level cache with the streams, unless their rows are too short to pay for a loop each."""
    rows, columns = entries.shape
    windows = -(-columns * 4 * width // CACHED_WINDOW)
    return CACHED_WINDOW if entries.value.size >= LONG_SEGMENT * windows * rows else WHOLE_WINDOW


def _starts(segment: NDArray[np.int64], row: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Where each row of each segment starts among entries in that order, and the last one's end: (segments, rows + 1)."""
    segments, rows = shape
    counts = np.bincount(segment * rows + row, minlength=segments * rows)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    place = np.arange(segments)[:, None] * rows + np.arange(rows + 1)
    return np.ascontiguousarray(bounds[place], np.int64)


def _padded(array: NDArray[np.generic], kind: type[np.generic]) -> NDArray[Any]:
    """The array as ``kind``, with zeros behind it: the last vector is loaded whole."""
    return np.append(array, np.zeros(LANES, array.dtype)).astype(kind)
