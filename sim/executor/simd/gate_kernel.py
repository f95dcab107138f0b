# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sigmoid-like activations over planes, in place: silu, gelu, sigmoid, tanh."""

from numba import njit

from .curves_kernel import gelu, sigmoid, silu, tanh
from .machine_kernel import flush_denormals, restore, take_channel
from .vectors_kernel import REVISION, address, keep_lanes, load, store

#: Codes of the activations.
SILU, GELU, SIGMOID, TANH = range(4)


def _gater(revision):
    def gate(tasks, x, source, masks, kind):
        """Apply one activation: for channel, for vector of its plane; the halo stays zero."""
        _ = revision  # a part of the cache key
        state = flush_denormals()
        lead, stride = source[4:]
        c = take_channel(tasks, -1)
        while c < tasks[1]:
            for tile in range(len(masks)):
                at = address(x) + 4 * (c * stride + lead) + 64 * tile
                value = load(1, at)
                if kind == SILU:
                    value = silu(value)
                elif kind == GELU:
                    value = gelu(value)
                elif kind == SIGMOID:
                    value = sigmoid(value)
                else:
                    value = tanh(value)
                store(at, keep_lanes(value, address(masks) + 2 * tile))
            c = take_channel(tasks, c)
        restore(state)

    return njit(nogil=True, cache=True)(gate)


gate = _gater(REVISION)
