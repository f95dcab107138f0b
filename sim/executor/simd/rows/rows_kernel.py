# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sparse matrix times one vector: bytes per non-zero decide, so indices are 16-bit where they fit.

What a level adds to the next sparser one is a stream of its own, rows in order: level l is the first streams, each read
from one end to the other::

    for row of a task's rows:
        4 vectors of sums = 0
        for stream up to the level:
            for 64, then 16 non-zeros of the row: sums += values * x[columns]
            rest: the lanes up to the end
        out = clamp(added + sum over lanes)
"""

import numpy as np
from numba import njit

from ..lanes_kernel import across, first_lanes, fused, gather
from ..machine_kernel import flush_denormals, restore, take
from ..vectors_kernel import REVISION, add_bundles, address, filled, load
from .sparse_lanes_kernel import within


def _rows(wide, revision):
    """The kernel for 16-bit column indices, or 32-bit ones where ``wide``."""
    index_bytes = 4 if wide else 2

    def run(tasks, step, x, out, rows, added, lowest, highest):
        """Tasks of ``step`` rows; rows: (values, columns, where each row of each stream starts (streams, rows + 1), number
        of streams)."""
        _ = revision  # a part of the cache key
        state = flush_denormals()
        values, columns, starts, streams = rows
        count = starts.shape[1] - 1
        source = address(x)
        task = take(address(tasks))
        while task < tasks[1]:
            for row in range(task * step, min(count, (task + 1) * step)):
                a = b = c = d = filled(1, np.float32(0))
                for stream in range(streams):
                    left = starts[stream, row + 1] - starts[stream, row]
                    value = address(values) + 4 * starts[stream, row]
                    column = address(columns) + index_bytes * starts[stream, row]
                    while left >= 64:
                        a = fused(a, load(1, value), gather(index_bytes, source, column))
                        b = fused(b, load(1, value + 64), gather(index_bytes, source, column + 16 * index_bytes))
                        c = fused(c, load(1, value + 128), gather(index_bytes, source, column + 32 * index_bytes))
                        d = fused(d, load(1, value + 192), gather(index_bytes, source, column + 48 * index_bytes))
                        value += 256
                        column += 64 * index_bytes
                        left -= 64
                    while left >= 16:
                        b = fused(b, load(1, value), gather(index_bytes, source, column))
                        value += 64
                        column += 16 * index_bytes
                        left -= 16
                    if left > 0:
                        a = first_lanes(left, fused(a, load(1, value), gather(index_bytes, source, column)), a)
                total = added[row] + across(add_bundles(add_bundles(a, b), add_bundles(c, d)))
                out[row] = within(total, lowest, highest)
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


#: Kernels by whether column indices have 32 bits.
KERNELS = {wide: _rows(wide, REVISION) for wide in (False, True)}
