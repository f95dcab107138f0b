# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sparse matrix times one vector: bytes per non-zero decide, so indices are 16-bit where they fit.

A row's non-zeros stand sparsest level first: level l is a prefix of every row::

    for row of a task's rows:
        4 vectors of sums = 0
        for 64, then 16 non-zeros of the row up to the level's end: sums += values * x[columns]
        rest: the lanes up to the end
        out = clamp(bias + sum over lanes)
"""

import numpy as np
from numba import njit

from .lanes_kernel import across, first_lanes, fused, gather_u16, gather_u32
from .machine_kernel import flush_denormals, restore, take
from .vectors_kernel import REVISION, add_bundles, address, filled, load


def _rows(wide, revision):
    """The kernel for 16-bit column indices, or 32-bit ones where ``wide``."""
    index_bytes = 4 if wide else 2
    gather = gather_u32 if wide else gather_u16

    def run(tasks, step, x, out, rows, bias, lowest, highest):
        """Tasks of ``step`` rows; rows: (values, columns, start of each row, end of each row at the level)."""
        _ = revision  # a part of the cache key
        state = flush_denormals()
        values, columns, starts, ends = rows
        source = address(x)
        task = take(address(tasks))
        while task < tasks[1]:
            for row in range(task * step, min(len(starts), (task + 1) * step)):
                left = ends[row] - starts[row]
                value = address(values) + 4 * starts[row]
                column = address(columns) + index_bytes * starts[row]
                a = b = c = d = filled(1, np.float32(0))
                while left >= 64:
                    a = fused(a, load(1, value), gather(source, column))
                    b = fused(b, load(1, value + 64), gather(source, column + 16 * index_bytes))
                    c = fused(c, load(1, value + 128), gather(source, column + 32 * index_bytes))
                    d = fused(d, load(1, value + 192), gather(source, column + 48 * index_bytes))
                    value += 256
                    column += 64 * index_bytes
                    left -= 64
                while left > 0:
                    a = first_lanes(left, fused(a, load(1, value), gather(source, column)), a)
                    value += 64
                    column += 16 * index_bytes
                    left -= 16
                total = bias[row] + across(add_bundles(add_bundles(a, b), add_bundles(c, d)))
                if total < lowest:
                    total = lowest
                if total > highest:
                    total = highest
                out[row] = total
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


#: Kernels by whether column indices have 32 bits.
KERNELS = {wide: _rows(wide, REVISION) for wide in (False, True)}
