# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""What this machine can do at most, in one thread: multiply-adds with operands in the first-level cache, reads, writes."""

import numpy as np
from numba import njit

from ..vectors_kernel import REVISION, add_from, address, filled, multiply_add_aligned, opaque, store

#: Vectors per step: enough sums in flight to hide the latency.
VECTORS = 8
#: Bytes of operands that the multiply-adds read again and again.
OPERAND_BYTES = 8192


def _multiplier(revision):
    def multiply(repeats, x, out):
        """``repeats`` times through 8 KB of ``x``: 16 steps of 8 vectors each, a multiply-add per element."""
        _ = revision  # a part of the cache key
        total = filled(VECTORS, np.float32(0))
        for _ in range(repeats):
            for step in range(OPERAND_BYTES // (64 * VECTORS)):
                at = opaque(address(x) + 64 * VECTORS * step)
                total = multiply_add_aligned(total, np.float32(0.5), at)
        store(address(out), total)

    return njit(nogil=True, cache=True)(multiply)


def _reader(revision):
    def read(repeats, x, out):
        """``repeats`` times: add up ``x``, whose size is a multiple of 128, from its beginning to its end."""
        _ = revision  # a part of the cache key
        total = filled(VECTORS, np.float32(0))
        for _ in range(repeats):
            for first in range(0, len(x), 16 * VECTORS):
                total = add_from(total, opaque(address(x) + 4 * first))
        store(address(out), total)

    return njit(nogil=True, cache=True)(read)


def _writer(revision):
    def write(repeats, x, out):
        """``repeats`` times: overwrite ``x``, whose size is a multiple of 128, from its beginning; ``out`` is not used."""
        _ = revision  # a part of the cache key
        value = filled(VECTORS, np.float32(1))
        for _ in range(repeats):
            for first in range(0, len(x), 16 * VECTORS):
                store(opaque(address(x) + 4 * first), value)

    return njit(nogil=True, cache=True)(write)


multiply = _multiplier(REVISION)
read = _reader(REVISION)
write = _writer(REVISION)
