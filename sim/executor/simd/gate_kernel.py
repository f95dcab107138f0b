# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sigmoid-like activations over planes, in place: silu, gelu, sigmoid, tanh."""

from numba import njit

from .curves_kernel import gelu, sigmoid, silu, tanh
from .edges_kernel import store_first
from .machine_kernel import flush_denormals, restore, take
from .vectors_kernel import REVISION, address, load

#: Codes of the activations.
SILU, GELU, SIGMOID, TANH = range(4)


def _gater(revision):
    def gate(tasks, x, source, kind):
        """Apply one activation: for channel, for row, for 16 elements; the halo stays zero."""
        _ = revision  # a part of the cache key
        state = flush_denormals()
        _, height, width, pitch, lead, stride = source
        c = take(address(tasks))
        while c < tasks[1]:
            for row in range(height):
                line = address(x) + 4 * (c * stride + lead + row * pitch)
                for column in range(0, width, 16):
                    at = line + 4 * column
                    value = load(1, at)
                    if kind == SILU:
                        value = silu(value)
                    elif kind == GELU:
                        value = gelu(value)
                    elif kind == SIGMOID:
                        value = sigmoid(value)
                    else:
                        value = tanh(value)
                    store_first(at, width - column, value)
            c = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(gate)


gate = _gater(REVISION)
