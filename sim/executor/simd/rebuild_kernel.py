# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Weights made from power-of-two coefficients and a small basis, per call: the mirror of an accelerator's rebuild engine."""

import numpy as np
from numba import njit

from .lanes_kernel import fused, powers, scatter
from .machine_kernel import take
from .vectors_kernel import REVISION, address, filled, load_aligned, store_aligned


def _rebuilder(revision):
    def rebuild(tasks, step, groups, bases, columns, lowest, values, scratch):
        """Write W = Ce B into a product's streams; a task is ``step`` groups of 16 coefficient rows of one matrix::

            for group of the task:
                for column i: scratch[i] = 16 coefficients, from their codes
                for column j: scatter(sum over i of scratch[i] * B[i, j])

        groups: (codes int8 (groups, columns, 16), matrix uint32 (groups,), targets uint32 (groups, columns, 16), number);
        bases: float32, (matrices, columns, columns); scratch: float32, 16 * columns, of this thread.
        """
        _ = revision  # a part of the cache key
        codes, matrices, targets, count = groups
        task = take(address(tasks))
        while task < tasks[1]:
            for group in range(task * step, min(count, (task + 1) * step)):
                basis = np.int64(matrices[group]) * columns * columns
                for i in range(columns):
                    coefficients = powers(address(codes) + 16 * (group * columns + i), lowest)
                    store_aligned(address(scratch) + 64 * i, coefficients)
                for j in range(columns):
                    total = filled(1, np.float32(0))
                    for i in range(columns):
                        factor = filled(1, bases[basis + i * columns + j])
                        total = fused(total, load_aligned(1, address(scratch) + 64 * i), factor)
                    scatter(address(values), address(targets) + 64 * (group * columns + j), total)
            task = take(address(tasks))

    return njit(nogil=True, cache=True)(rebuild)


rebuild = _rebuilder(REVISION)
