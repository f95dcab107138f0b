"""Fully connected layers over a single vector, at every level from one level-ordered store."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ....workloads.errors import InputError
from ....workloads.nesting import NestedWeights
from . import rows_kernel
from .planes import LANES, Floats, aligned
from .team import Call, call

#: Columns that 16-bit indices reach.
_NARROW = 1 << 16
#: Tasks per thread, so that an interrupted thread delays nobody.
_SHARES = 4


class RowProduct:
    """out = clamp(bias + W x) for a vector x; each row's non-zeros sparsest level first, so that a level is a prefix.

    ``inputs`` and ``outputs``: the vectors that every call reads and writes, float32.

    Raises
    ------
    InputError
        if the weights have no values.
    """

    def __init__(self, weights: NestedWeights, *, threads: int = 1) -> None:
        if weights.values is None:
            raise InputError(f"{weights.name}: no weight values to execute")
        keep = weights.keep.reshape(weights.shape[0], -1)
        row, column = np.nonzero(keep)
        order = np.lexsort((column, -keep[row, column].astype(np.int64), row))
        row, column = row[order], column[order]
        padding = np.zeros(LANES, np.int64)  # the last row's last vector is loaded whole
        self.wide = keep.shape[1] > _NARROW
        self.columns = np.append(column, padding).astype(np.uint32 if self.wide else np.uint16)
        values = weights.values.reshape(keep.shape)[row, column]
        self.values = np.append(values, padding).astype(np.float32)
        counts = np.stack([(keep > level).sum(axis=1) for level in range(weights.levels)])
        self.starts = np.concatenate([[0], np.cumsum(counts[0])[:-1]]).astype(np.int64)
        self.ends: NDArray[np.int64] = self.starts + counts
        self.inputs: Floats = aligned(keep.shape[1])
        self.outputs: Floats = aligned(len(keep))
        self._tasks = 1 if threads == 1 else min(len(keep), _SHARES * threads)

    @property
    def nbytes(self) -> int:
        """Bytes of values, indices and row bounds."""
        return self.values.nbytes + self.columns.nbytes + self.starts.nbytes + self.ends.nbytes

    def call(self, level: int, bias: Floats, clamp: tuple[np.float32, np.float32]) -> Call:
        """The call that computes ``outputs`` from ``inputs`` at ``level``."""
        step = -(-len(self.starts) // self._tasks)
        rows = (self.values, self.columns, self.starts, self.ends[level])
        arguments = (step, self.inputs, self.outputs, rows, bias, *clamp)
        return call(rows_kernel.KERNELS[self.wide], self._tasks, *arguments)
