# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sigmoid-like activations over planes, in place: silu, gelu, sigmoid, tanh."""

import math

from numba import njit

from .machine_kernel import take
from .vectors_kernel import REVISION, address

#: Codes of the activations.
SILU, GELU, SIGMOID, TANH = range(4)


def _gater(revision):
    def gate(tasks, x, source, kind):
        """Apply one activation: for channel, for row, for element; the halo stays zero."""
        _ = revision  # a part of the cache key
        _, height, width, pitch, lead, stride = source
        c = take(address(tasks))
        while c < tasks[1]:
            for r in range(height):
                at = c * stride + lead + r * pitch
                for i in range(at, at + width):
                    value = x[i]
                    if kind == GELU:
                        x[i] = 0.5 * value * (1.0 + math.erf(value * 0.7071067811865476))
                    elif kind == TANH:
                        x[i] = math.tanh(value)
                    else:
                        z = math.exp(-abs(value))  # of a negative number only: no overflow
                        part = 1.0 / (1.0 + z) if value >= 0 else z / (1.0 + z)
                        x[i] = value * part if kind == SILU else part
            c = take(address(tasks))

    return njit(nogil=True, cache=True)(gate)


gate = _gater(REVISION)
