# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""N:M-sparse matrix times one vector, from 4-bit values: the bytes of a weight decide, and they are 0.75.

2 of 4: 16 consecutive non-zeros of a row belong to 32 consecutive columns, which two vectors hold; a permute of two
vectors brings each non-zero its operand. Values are 4-bit codes into a table of 16 numbers (powers of two, or any others)::

    for four rows at a time:
        for 32 columns: load two vectors of x, once for all rows
            for row: lanes = 16 positions of 2 bits + twice the lane's group;  values = table[16 codes of 4 bits]
                sums += values * x[lanes]
    out = clamp(bias + scale * sum over lanes)
"""

import numpy as np
from numba import njit

from .lanes_kernel import across, fused, operands_2_of_4, table_of_16
from .machine_kernel import flush_denormals, restore, take
from .vectors_kernel import REVISION, address, filled, load

#: Rows that share the loads of x.
ROWS = 4


def _rows_2_of_4(revision):
    def run(tasks, step, x, out, weights, bias, lowest, highest):
        """Tasks of ``step`` groups of 4 rows; weights: (codes uint8 (groups, blocks, 4, 8), positions uint8
        (groups, blocks, 4, 4), table float32 (16,), scales float32 (4 * groups,)); x: float32 (32 * blocks,)."""
        _ = revision  # a part of the cache key
        state = flush_denormals()
        codes, positions, table, scales = weights
        blocks = len(x) // 32
        numbers = load(1, address(table))
        task = take(address(tasks))
        while task < tasks[1]:
            for group in range(task * step, min(len(scales) // ROWS, (task + 1) * step)):
                row = group * ROWS
                code = address(codes) + 8 * blocks * row
                place = address(positions) + 4 * blocks * row
                at = address(x)
                a = b = c = d = filled(1, np.float32(0))
                for _ in range(blocks):
                    a = fused(a, table_of_16(numbers, code), operands_2_of_4(at, place))
                    b = fused(b, table_of_16(numbers, code + 8), operands_2_of_4(at, place + 4))
                    c = fused(c, table_of_16(numbers, code + 16), operands_2_of_4(at, place + 8))
                    d = fused(d, table_of_16(numbers, code + 24), operands_2_of_4(at, place + 12))
                    code += 32
                    place += 16
                    at += 128
                out[row] = min(max(bias[row] + scales[row] * across(a), lowest), highest)
                out[row + 1] = min(max(bias[row + 1] + scales[row + 1] * across(b), lowest), highest)
                out[row + 2] = min(max(bias[row + 2] + scales[row + 2] * across(c), lowest), highest)
                out[row + 3] = min(max(bias[row + 3] + scales[row + 3] * across(d), lowest), highest)
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


rows_2_of_4 = _rows_2_of_4(REVISION)
