# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Pooling over windows of one or two strides, straight from the planes: nothing is copied, padding is never read.

Channels are the tasks; layouts are tuples of integers as in ``packing_kernel``::

    for channel, for row of the output, for 16 of its cells:
        for tap of the window: combine every cell (or every second one) of an input row; lanes in the padding are neutral
        store the lanes that are in the row
"""

import numpy as np
from numba import njit

from .edges_kernel import cells_between, every_second_between, larger, store_first
from .machine_kernel import flush_denormals, restore, take_channel
from .vectors_kernel import REVISION, add_bundles, address, filled, load, load_every_second, store, times


def pooler(step, revision):
    """The kernel for windows that lie ``step`` cells apart: run(tasks, x, source, out, target, window, factor).

    ``window``: (rows R, columns S, padding, dilation); ``factor``: 0 for the maximum, else what sums are multiplied by.
    """

    def run(tasks, x, source, out, target, window, factor):
        _ = revision  # a part of the cache key
        state = flush_denormals()
        _, height, width, pitch, lead, stride = source
        _, rows, columns, to_pitch, to_lead, to_stride = target
        R, S, padding, dilation = window
        neutral = np.float32(-np.inf) if factor == 0 else np.float32(0)
        c = take_channel(tasks, -1)
        while c < tasks[1]:
            for u in range(rows):
                to = address(out) + 4 * (c * to_stride + to_lead + u * to_pitch)
                for start in range(0, columns, 16):
                    v = max(0, min(start, columns - 16))  # the last vector of a row ends with it
                    total = filled(1, neutral)
                    for r in range(R):
                        y = u * step + r * dilation - padding
                        if y < 0 or y >= height:
                            continue
                        line = address(x) + 4 * (c * stride + lead + y * pitch)
                        for s in range(S):
                            column = v * step + s * dilation - padding
                            at = line + 4 * column
                            first, last = -(column // step), -((column - width) // step)
                            if first <= 0 and last >= 16:
                                cells = load(1, at) if step == 1 else load_every_second(at)
                            elif step == 1:
                                cells = cells_between(at, first, last, neutral)
                            else:
                                cells = every_second_between(at, first, last, neutral)
                            total = larger(total, cells) if factor == 0 else add_bundles(total, cells)
                    if factor != 0:
                        total = times(total, factor)
                    if v + 16 <= columns:
                        store(to + 4 * v, total)
                    else:
                        store_first(to + 4 * v, columns - v, total)
            c = take_channel(tasks, c)
        restore(state)

    return njit(nogil=True, cache=True)(run)


#: By stride.
KERNELS = {step: pooler(step, REVISION) for step in (1, 2)}
