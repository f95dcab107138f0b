"""Sparse matrix times 1 to 16 vectors, at every level from one store: fully connected layers of small batches."""

from __future__ import annotations

from copy import copy

import numpy as np

from .....workloads.errors import InputError
from .....workloads.nesting import NestedWeights
from ..planes import Floats, aligned
from ..team import Call, call
from .few_kernel import WIDTHS
from .nm_rows import PatternRows
from .row_formats import Formats, RowChooser, likely_formats
from .row_parts import Entries, FewRows, IndexedRows, MaskedRows, Part, entries_of

#: Vectors that one product takes at most.
MOST_VECTORS = max(WIDTHS)
#: Tasks per thread, so that an interrupted thread delays nobody.
_SHARES = 4
#: Columns and rows are padded to multiples of what the widest kernels take at once.
_COLUMNS, _ROWS = 128, 4


class RowProduct:
    """out = clamp(bias + W x) for one vector x or up to 16; pruned weights meet no operand, be it NaN or infinite.

    A level's weights are those of the next sparser one and some more: a *stream*. Each stream stands in the format that
    suits its density (see ``row_formats``), and a level runs over the first streams, one kernel pass per part.

    ``inputs``, ``outputs``: what every call reads and writes, float32 (columns,) and (rows,) for one vector,
    else (columns, vectors) and (rows, vectors).

    Parameters
    ----------
    vectors : 1 to 16.
    formats : one per stream, sparsest first; default: what ``choose`` says. Several vectors always use column indices.

    Raises
    ------
    InputError
        if the weights have no values, ``vectors`` is out of range, or a stream has no such format.
    """

    def __init__(
        self,
        weights: NestedWeights,
        *,
        vectors: int = 1,
        threads: int = 1,
        formats: Formats | None = None,
        choose: RowChooser = likely_formats,
    ) -> None:
        if not 1 <= vectors <= MOST_VECTORS:
            raise InputError(f"{weights.name}: {vectors} vectors; allowed are 1 to {MOST_VECTORS}")
        entries = entries_of(weights)
        self.weights, self.shape = weights, entries.shape
        if formats is None:
            formats = choose(entries) if vectors == 1 else likely_formats(entries, vectors=vectors)
        self.formats = formats
        if len(self.formats) != weights.levels or (vectors > 1 and set(self.formats) != {"index"}):
            raise InputError(f"{weights.name}: formats {self.formats} for {weights.levels} levels, {vectors} vectors")
        self._vectors, self._threads = vectors, threads
        self._width = 1 if vectors == 1 else next(w for w in WIDTHS if w >= vectors)
        self.parts = _parts(entries, self.formats) if vectors == 1 else [FewRows(entries, width=self._width)]
        self._allocate()

    def _allocate(self) -> None:
        (rows, columns), width, vectors = self.shape, self._width, self._vectors
        self._x: Floats = aligned(-(-columns // _COLUMNS) * _COLUMNS * width)
        self._out: Floats = aligned(-(-rows // _ROWS) * _ROWS * width)
        self.inputs: Floats = self._x[: columns * width].reshape(columns, width)[:, :vectors]
        self.outputs: Floats = self._out[: rows * width].reshape(rows, width)[:, :vectors]
        if vectors == 1:
            self.inputs, self.outputs = self.inputs[:, 0], self.outputs[:, 0]

    def twin(self) -> RowProduct:
        """The same product with inputs and outputs of its own; streams are shared."""
        other = copy(self)
        other._allocate()
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of all streams."""
        return sum(part.nbytes for part in self.parts)

    def calls(self, level: int, bias: Floats, clamp: tuple[np.float32, np.float32]) -> list[Call]:
        """The calls, in order, that compute ``outputs`` from ``inputs`` at ``level``; each pass adds to the one before."""
        self.weights.check_level(level)
        count = self.weights.levels - level
        parts = [part for part in self.parts if min(part.streams) < count]
        added = np.zeros(-(-len(bias) // _ROWS) * _ROWS, np.float32)
        added[: len(bias)] = bias
        free = (np.float32(-np.inf), np.float32(np.inf))
        found = []
        for part in parts:
            kernel, units, rows = part.run(count)
            tasks = 1 if self._threads == 1 else min(units, _SHARES * self._threads)
            limits = clamp if part is parts[-1] else free
            found.append(call(kernel, tasks, -(-units // tasks), self._x, self._out, rows, added, *limits))
            added = self._out
        return found


def _parts(entries: Entries, formats: Formats) -> list[Part]:
    """All indexed streams in one part, a level being a prefix of its rows; every other stream in a part of its own."""
    streams = range(entries.levels)
    indexed = tuple(stream for stream in streams if formats[stream] == "index")
    parts: list[Part] = [IndexedRows(entries, indexed)] if indexed else []
    for stream in streams:
        if formats[stream] == "mask":
            parts.append(MaskedRows(entries, stream))
        elif formats[stream] == "pattern":
            parts.append(PatternRows(entries, stream))
    return parts
