# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sparse matrix times one vector, dense rows: a bit per weight and the values without their zeros.

A level adds one such matrix: its own bits and its own values, row after row::

    for row of a task's rows:
        4 vectors of sums = 0
        for 64 columns: four times: sums += (values spread to the mask's 16 lanes) * 16 elements of x, where the mask is 1
        out = clamp(added + sum over lanes)
"""

import numpy as np
from numba import njit

from ..lanes_kernel import across
from ..machine_kernel import flush_denormals, restore, take
from ..vectors_kernel import REVISION, add_bundles, address, filled, load, read_u16
from .sparse_lanes_kernel import expanded, fused_where, popcount, within

#: Columns per step.
COLUMNS = 64


def _masked(revision):
    def run(tasks, step, x, out, rows, added, lowest, highest):
        """Tasks of ``step`` rows; rows: (values, masks uint16 (rows, 4 * blocks), start of each row's values); x: zeros
        up to a multiple of 64 columns."""
        _ = revision  # a part of the cache key
        state = flush_denormals()
        values, masks, starts = rows
        blocks = masks.shape[1] // 4
        task = take(address(tasks))
        while task < tasks[1]:
            for row in range(task * step, min(len(masks), (task + 1) * step)):
                value = address(values) + 4 * starts[row]
                mask = address(masks) + 8 * blocks * row
                at = address(x)
                a = b = c = d = filled(1, np.float32(0))
                for _ in range(blocks):
                    lanes = read_u16(mask, 0)
                    a = fused_where(lanes, a, expanded(value, lanes), load(1, at))
                    value += 4 * popcount(lanes)
                    lanes = read_u16(mask, 2)
                    b = fused_where(lanes, b, expanded(value, lanes), load(1, at + 64))
                    value += 4 * popcount(lanes)
                    lanes = read_u16(mask, 4)
                    c = fused_where(lanes, c, expanded(value, lanes), load(1, at + 128))
                    value += 4 * popcount(lanes)
                    lanes = read_u16(mask, 6)
                    d = fused_where(lanes, d, expanded(value, lanes), load(1, at + 192))
                    value += 4 * popcount(lanes)
                    mask += 8
                    at += 256
                total = added[row] + across(add_bundles(add_bundles(a, b), add_bundles(c, d)))
                out[row] = within(total, lowest, highest)
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


masked_rows = _masked(REVISION)
