# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""N:M-sparse matrix times one vector: positions of 2 or 4 bits instead of columns, values of 4 bits or 32.

N of M: 16 consecutive non-zeros of a row belong to 16 * M / N consecutive columns, which 2, 4 or 8 vectors hold; permutes
of these bring each non-zero its operand. Values are float32, or 4-bit codes into a table of 16 numbers (powers of two, or
any others): then 2 of 4 takes 0.75 bytes per weight. A level adds one such matrix::

    for four rows at a time:
        for 16 * M / N columns: load their vectors of x, once for all rows
            for row: lanes = 16 positions + the lane's group;  values = table[16 codes] or the 16 values
                sums += values * x[lanes]
    out = clamp(added + scale * sum over lanes)
"""

import numpy as np
from numba import njit

from ..lanes_kernel import across, fused
from ..machine_kernel import flush_denormals, restore, take
from ..vectors_kernel import REVISION, address, filled, load
from .sparse_lanes_kernel import numbers_at, operands_of, within

#: Rows that share the loads of x.
ROWS = 4
#: (weights kept, of how many) with a kernel of its own.
PATTERNS = ((2, 4), (1, 4), (4, 8), (2, 8), (1, 8))


def place_bytes(group):
    """Bytes of 16 positions in groups of ``group`` columns."""
    return 4 if group == 4 else 8


def _pattern(kept, group, coded, revision):
    vectors = group // kept
    wide = 8 if coded else 64
    narrow = place_bytes(group)

    def run(tasks, step, x, out, weights, added, lowest, highest):
        """Tasks of ``step`` groups of 4 rows; weights: (codes uint8 (groups, blocks, 4, 8) or values float32 (groups,
        blocks, 4, 16), positions uint8 (groups, blocks, 4, 4 or 8), table float32 (16,), scales float32 (4 * groups,));
        x: float32 (16 * vectors * blocks,) or more."""
        _ = revision  # a part of the cache key
        state = flush_denormals()
        values, positions, table, scales = weights
        blocks = len(positions) // (narrow * len(scales))
        book = load(1, address(table))
        task = take(address(tasks))
        while task < tasks[1]:
            for four in range(task * step, min(len(scales) // ROWS, (task + 1) * step)):
                row = four * ROWS
                value = address(values) + wide * blocks * row
                place = address(positions) + narrow * blocks * row
                at = address(x)
                a = b = c = d = filled(1, np.float32(0))
                for _ in range(blocks):
                    a = fused(a, numbers_at(wide, book, value), operands_of(vectors, group, at, place))
                    b = fused(b, numbers_at(wide, book, value + wide), operands_of(vectors, group, at, place + narrow))
                    c = fused(
                        c,
                        numbers_at(wide, book, value + 2 * wide),
                        operands_of(vectors, group, at, place + 2 * narrow),
                    )
                    d = fused(
                        d,
                        numbers_at(wide, book, value + 3 * wide),
                        operands_of(vectors, group, at, place + 3 * narrow),
                    )
                    value += 4 * wide
                    place += 4 * narrow
                    at += 64 * vectors
                out[row] = within(added[row] + scales[row] * across(a), lowest, highest)
                out[row + 1] = within(added[row + 1] + scales[row + 1] * across(b), lowest, highest)
                out[row + 2] = within(added[row + 2] + scales[row + 2] * across(c), lowest, highest)
                out[row + 3] = within(added[row + 3] + scales[row + 3] * across(d), lowest, highest)
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


#: Kernels by (kept, group, whether values are codes).
KERNELS = {(n, m, coded): _pattern(n, m, coded, REVISION) for n, m in PATTERNS for coded in (False, True)}
